//! Reading the whole log at a start (rules W2, W3): what counts, what is torn, what is faulty.
//!
//! In: the segments. Out: the log's state, and what is to be written before any of it counts:
//! copies of headers that were damaged, the last batch once more, and zeros over a torn one. Writes
//! nothing itself.
//!
//! A batch of which another batch is known to follow was synced, so whatever is wrong with it is
//! damage. Only the last batch may be torn; it is cut, as a whole, if each of its records that is
//! not there lies in what was never written ([`crate::format`], last paragraph).

use std::io;

use synod_mutant::{Mutant, planted};
use synod_paxos::{Genesis, Identity};

use crate::codec::{self, Content, ENTRY_FIXED_BYTES};
use crate::disk::Disk;
use crate::error::OpenError;
use crate::format::{
    HEADER_BYTES, Hash, Kind, MIN_RECORD_BYTES, RECORD_MARK, Read, RecordHeader, SECTOR_BYTES,
    ends_like_a_header, hash, is_unwritten, is_unwritten_header, is_zero, mask,
};
use crate::genesis;
use crate::opening::{Opening, Start};
use crate::page::SegmentPage;
use crate::segment::{Segment, copy_at};
use crate::state::{LogState, Position};
use crate::whole::{read_all, read_page};

/// The log as found.
#[derive(Debug)]
pub(crate) struct Recovery {
    pub(crate) identity: Identity,
    pub(crate) state: LogState,
    pub(crate) genesis: Option<Genesis>,
    pub(crate) segments: Vec<Segment>,
    /// Number of the last batch.
    pub(crate) batch: u64,
    /// Hash of the last header.
    pub(crate) predecessor: Hash,
    /// To be written and synced before any of this counts.
    pub(crate) writes: Vec<Write>,
}

/// Bytes to be written to a segment.
#[derive(Debug)]
pub(crate) struct Write {
    /// Index in [`Recovery::segments`].
    pub(crate) segment: usize,
    pub(crate) offset: u64,
    pub(crate) bytes: Vec<u8>,
}

/// A record found.
#[derive(Debug)]
struct Item {
    header: RecordHeader,
    /// Index in its segment.
    index: u32,
    /// Its body is good, or it has none.
    readable: bool,
    /// Both of its headers can be read.
    both_headers: bool,
    /// Both headers, the body and the mark are good.
    whole: bool,
    /// Part of it was never written.
    unwritten: bool,
}

/// The batch that is being read.
#[derive(Debug)]
struct Batch {
    number: u64,
    count: u32,
    items: Vec<Item>,
    /// Hash of the header before its first record.
    predecessor: Hash,
}

/// What is known of a segment while it is read.
struct Scan<'a> {
    disk: &'a dyn Disk,
    /// Index in [`Recovery::segments`].
    segment: usize,
    buffer: &'a [u8],
    is_last: bool,
}

/// Hash before the first record of a log.
pub(crate) fn first_predecessor(identity: &Identity) -> Hash {
    hash(&identity.incarnation.0.to_le_bytes())
}

/// Reads the segments, given with their numbers in order, from the one that the log begins with.
/// `identity` is what the state copies say, if any can be read; otherwise the segments' own pages
/// are believed.
pub(crate) fn recover(
    disk: &dyn Disk,
    numbers: &[u64],
    start: Option<&Start>,
    identity: Option<&Identity>,
    name: &str,
) -> Result<Recovery, OpenError> {
    assert!(!numbers.is_empty(), "there is a log");
    let mut recovery: Option<Recovery> = None;
    let first = start.map_or(1, |start| start.segment);
    for (index, number) in numbers.iter().enumerate() {
        let expected = first + index as u64;
        if *number != expected {
            return Err(OpenError::lost(format!("segment {expected} is missing")));
        }
        let file = disk
            .open(&Segment::name(*number))
            .map_err(OpenError::io("opening a log segment"))?;
        let size = file
            .size()
            .map_err(OpenError::io("reading a log segment"))?;
        let (page, damaged_ends) = read_page(file.as_ref(), size, *number)?;
        if page.identity.name != name {
            return Err(OpenError::OtherMember {
                found: page.identity.name,
                expected: name.to_owned(),
            });
        }
        let recovery = recovery.get_or_insert_with(|| {
            let identity = identity.unwrap_or(&page.identity).clone();
            start.map_or_else(
                || Recovery::new(identity.clone()),
                |start| Recovery::behind(start, &page, identity.clone()),
            )
        });
        // Before any room is made for what it holds.
        let bytes = recovery.check_page(&page, *number, size)?;
        let buffer = read_all(file.as_ref(), bytes as usize);
        for offset in damaged_ends {
            recovery.writes.push(Write {
                segment: index,
                offset,
                bytes: page.encode().to_vec(),
            });
        }
        let incarnation = page.identity.incarnation;
        let opening = recovery.opening();
        let segment = Segment::empty(file, incarnation, *number, bytes, opening);
        recovery.segments.push(segment);
        recovery.scan(&Scan {
            disk,
            segment: index,
            buffer: &buffer,
            is_last: index + 1 == numbers.len(),
        })?;
    }
    let recovery = recovery.expect("there was at least one segment");
    if let Some(slot) = recovery.state.first_missing() {
        return Err(OpenError::lost(format!("slot {slot} is in no segment")));
    }
    Ok(recovery)
}

// === impl Recovery ===

impl Recovery {
    fn new(identity: Identity) -> Self {
        Self {
            predecessor: first_predecessor(&identity),
            identity,
            state: LogState::default(),
            genesis: None,
            segments: Vec::new(),
            batch: 0,
            writes: Vec::new(),
        }
    }

    /// A log that begins with a later segment than the first.
    fn behind(start: &Start, page: &SegmentPage, identity: Identity) -> Self {
        Self {
            state: LogState::of(&start.opening),
            genesis: Some(start.genesis.clone()),
            batch: page.first_batch.saturating_sub(1),
            predecessor: page.predecessor,
            ..Self::new(identity)
        }
    }

    /// The state so far.
    fn opening(&self) -> Opening {
        Opening {
            outline: self.state.outline.clone(),
            base: self.state.base.clone(),
            joining: self.state.joining.clone(),
        }
    }

    /// The segment continues the log that was read so far, and is of the size that is returned.
    fn check_page(&self, page: &SegmentPage, number: u64, size: u64) -> Result<u32, OpenError> {
        let ok = page.sequence == number
            && page.bytes == size
            && page.identity == self.identity
            && page.first_batch == self.batch + 1
            && page.predecessor == self.predecessor;
        match u32::try_from(size) {
            Ok(size) if ok => Ok(size),
            _ => Err(OpenError::lost(format!(
                "segment {number} does not continue the log"
            ))),
        }
    }

    fn scan(&mut self, scan: &Scan<'_>) -> Result<(), OpenError> {
        let mut batch: Option<Batch> = None;
        let mut at = Segment::START;
        let mut index = 0;
        let mut predecessor = self.predecessor;
        while let Some((header, whole)) = self.header_at(scan, at, index)? {
            if header.predecessor != predecessor {
                return Err(self.lost(at, "a record does not follow the one before it"));
            }
            let continues = batch.as_ref().is_some_and(|batch| {
                batch.number == header.batch
                    && batch.count == header.count
                    && batch.items.len() as u64 == u64::from(header.index)
            });
            if !continues {
                let complete = batch.as_ref().is_none_or(Batch::is_complete);
                if let Some(batch) = batch.take() {
                    // Another batch follows: this one was synced.
                    self.settle(scan, batch, false)?;
                }
                if !complete || header.index != 0 || header.batch != self.batch + 1 {
                    return Err(self.lost(at, "records are missing before a record"));
                }
            }
            let item = read_item(scan.buffer, header, index, whole);
            predecessor = hash(&header.encode(self.segments[scan.segment].salt));
            at += u32::try_from(header.record_bytes()).expect("it fits, header_at has checked");
            index += 1;
            batch
                .get_or_insert_with(|| Batch {
                    number: header.batch,
                    count: header.count,
                    items: Vec::new(),
                    predecessor: header.predecessor,
                })
                .items
                .push(item);
        }
        self.end(scan, batch, at, index)
    }

    /// The header of the record at `at`, from either place; whether both have it. `None` where
    /// neither can be read.
    fn header_at(
        &self,
        scan: &Scan<'_>,
        at: u32,
        index: u32,
    ) -> Result<Option<(RecordHeader, bool)>, OpenError> {
        let segment = &self.segments[scan.segment];
        let Some(copy_at) = copy_at(segment.bytes, index) else {
            return Ok(None);
        };
        let fits = |header: &RecordHeader| {
            header.offset == at && u64::from(at) + header.record_bytes() <= u64::from(copy_at)
        };
        let read = |from: u32| {
            let bytes = &scan.buffer[from as usize..];
            match RecordHeader::decode(&bytes[..HEADER_BYTES.min(bytes.len())], segment.salt) {
                Read::Valid(header) if fits(&header) => Some(header),
                _ => None,
            }
        };
        match (read(at), read(copy_at)) {
            (Some(record), Some(copy)) if record == copy => Ok(Some((record, true))),
            (Some(_), Some(_)) => Err(self.lost(at, "two copies of a header differ")),
            (Some(header), None) | (None, Some(header)) => Ok(Some((header, false))),
            (None, None) => Ok(None),
        }
    }

    /// Behind the last record whose header can be read.
    fn end(
        &mut self,
        scan: &Scan<'_>,
        batch: Option<Batch>,
        at: u32,
        index: u32,
    ) -> Result<(), OpenError> {
        let complete = batch.as_ref().is_none_or(Batch::is_complete);
        let free_end = self.free_end(scan.segment, index);
        let free = scan.buffer.get(at as usize..free_end).unwrap_or_default();
        if !scan.is_last {
            // The next segment says whether all is there; what was never written may be damaged.
            if !complete {
                return Err(self.lost(at, "records are missing at the end of a segment"));
            }
            if let Some(batch) = batch {
                self.settle(scan, batch, false)?;
            }
            self.close(scan, at, index);
            return Ok(());
        }
        if complete && is_zero(free) {
            return self.end_cleanly(scan, batch, at, index);
        }
        // Something is there, or missing, that no header tells of: it must be a torn batch.
        let number = self.batch_after(batch.as_ref(), complete);
        if self.is_followed(scan, free, at, number) {
            return Err(self.lost(at, "a record and the copy of its header are damaged"));
        }
        let copy_at = free_end.saturating_sub(HEADER_BYTES);
        let torn = if free.len() < MIN_RECORD_BYTES {
            complete
        } else {
            is_unwritten_header(&free[..HEADER_BYTES], at as usize)
                && is_unwritten_header(&scan.buffer[copy_at..free_end], copy_at)
        };
        let rest = batch.as_ref().filter(|_| !complete);
        if !torn || rest.is_some_and(|batch| !batch.lost_only_unwritten()) {
            return Err(self.lost(at, "the header of a record and its copy are damaged"));
        }
        match batch {
            Some(batch) if complete => {
                self.settle(scan, batch, true)?;
                self.cut(scan, at, index);
            }
            Some(batch) => self.drop_batch(scan, batch),
            None => self.cut(scan, at, index),
        }
        Ok(())
    }

    /// All is there but perhaps bodies, and nothing is behind it.
    fn end_cleanly(
        &mut self,
        scan: &Scan<'_>,
        batch: Option<Batch>,
        at: u32,
        index: u32,
    ) -> Result<(), OpenError> {
        let Some(batch) = batch else {
            self.close(scan, at, index);
            return Ok(());
        };
        let torn = batch.items.iter().any(|item| !item.readable) && batch.lost_only_unwritten();
        if torn {
            self.drop_batch(scan, batch);
            return Ok(());
        }
        self.settle(scan, batch, true)?;
        self.close(scan, at, index);
        Ok(())
    }

    /// The batch that what cannot be read belongs to.
    fn batch_after(&self, batch: Option<&Batch>, complete: bool) -> u64 {
        match batch {
            Some(batch) if complete => batch.number + 1,
            Some(batch) => batch.number,
            None => self.batch + 1,
        }
    }

    /// A record of a batch after `number` is somewhere in the free space.
    fn is_followed(&self, scan: &Scan<'_>, free: &[u8], at: u32, number: u64) -> bool {
        let salt = self.segments[scan.segment].salt;
        assert_eq!(at % 8, 0, "records are aligned");
        (0..free.len().saturating_sub(HEADER_BYTES - 1))
            .step_by(8)
            .any(|from| {
                let bytes = &free[from..from + HEADER_BYTES];
                ends_like_a_header(bytes)
                    && matches!(RecordHeader::decode(bytes, salt),
                        Read::Valid(header) if header.batch > number)
            })
    }

    /// Takes a batch that counts. `rewrite`: it is the last one (rule W3).
    fn settle(&mut self, scan: &Scan<'_>, batch: Batch, rewrite: bool) -> Result<(), OpenError> {
        let sequence = self.segments[scan.segment].sequence;
        for item in &batch.items {
            let header = &item.header;
            let rewrite = rewrite && !planted(Mutant::LastBatchIsTrusted);
            if item.readable && (rewrite || !item.whole) {
                self.write_again(scan, item);
            }
            if header.kind == Kind::Genesis {
                self.take_genesis(scan, item)?;
            }
            let content = if header.kind.is_twofold() {
                Some(self.take_content(scan, item)?)
            } else {
                None
            };
            if !item.readable {
                let (slot, ballot) = (header.slot.0, header.ballot);
                tracing::warn!(slot, %ballot, kind = ?header.kind, "a record in the log is damaged");
                if !item.both_headers {
                    self.write_headers(scan, item);
                }
            }
            let position = Position {
                segment: sequence,
                offset: header.offset,
            };
            self.state
                .apply(header, position, item.readable, content)
                .map_err(|what| self.lost(header.offset, &what))?;
        }
        self.batch = batch.number;
        let last = batch.items.last().expect("a batch has records");
        self.predecessor = hash(&last.header.encode(self.segments[scan.segment].salt));
        Ok(())
    }

    fn take_genesis(&mut self, scan: &Scan<'_>, item: &Item) -> Result<(), OpenError> {
        let header = &item.header;
        let body = if item.readable {
            Some(body_of(scan.buffer, header))
        } else {
            tracing::warn!("the genesis in the log is damaged, its second copy is used");
            let body = genesis::read(scan.disk, &header.hash);
            body.filter(|body| body.len() as u64 == u64::from(header.length))
        };
        let Some(body) = body else {
            return Err(self.lost(header.offset, "both copies of the genesis are damaged"));
        };
        self.genesis = codec::genesis(&body);
        if self.genesis.is_none() {
            return Err(self.lost(header.offset, "the genesis makes no sense"));
        }
        if !item.readable {
            self.write_body(scan, header, body);
        }
        Ok(())
    }

    /// What a record carries twice: a base or a configuration.
    fn take_content(&mut self, scan: &Scan<'_>, item: &Item) -> Result<Content, OpenError> {
        let header = &item.header;
        let Some(content) = Content::of(header, &body_of(scan.buffer, header)) else {
            let what = "both copies of a base or configuration are damaged";
            return Err(self.lost(header.offset, what));
        };
        if !item.readable {
            let body = content.body();
            if hash(&body) != header.hash {
                let what = "a base or configuration is not what its header says";
                return Err(self.lost(header.offset, what));
            }
            self.write_body(scan, header, body);
        }
        Ok(content)
    }

    /// Puts a body in the place of a damaged one.
    fn write_body(&mut self, scan: &Scan<'_>, header: &RecordHeader, mut body: Vec<u8>) {
        body.resize(header.padded_bytes(), 0);
        mask(&mut body, &header.hash);
        body.extend_from_slice(&RECORD_MARK);
        self.writes.push(Write {
            segment: scan.segment,
            offset: u64::from(header.offset) + HEADER_BYTES as u64,
            bytes: body,
        });
    }

    /// The record and the second copy of its header.
    fn write_again(&mut self, scan: &Scan<'_>, item: &Item) {
        self.write_headers(scan, item);
        let body_at = item.header.offset as usize + HEADER_BYTES;
        let body = &scan.buffer[body_at..body_at + item.header.padded_bytes()];
        self.writes.push(Write {
            segment: scan.segment,
            offset: body_at as u64,
            bytes: [body, &RECORD_MARK].concat(),
        });
    }

    /// The header of a record, in both places.
    fn write_headers(&mut self, scan: &Scan<'_>, item: &Item) {
        let segment = &self.segments[scan.segment];
        let bytes = item.header.encode(segment.salt).to_vec();
        for offset in [item.header.offset, segment.copy_at(item.index)] {
            self.writes.push(Write {
                segment: scan.segment,
                offset: u64::from(offset),
                bytes: bytes.clone(),
            });
        }
    }

    /// Forgets a torn batch.
    fn drop_batch(&mut self, scan: &Scan<'_>, batch: Batch) {
        let first = batch.items.first().expect("a batch has records");
        tracing::info!(
            batch = batch.number,
            "the last batch of the log was not written whole: it is cut"
        );
        assert_eq!(
            self.predecessor, batch.predecessor,
            "nothing of it was taken"
        );
        self.cut(scan, first.header.offset, first.index);
    }

    /// Ends the log at `at`, with zeros behind it.
    fn cut(&mut self, scan: &Scan<'_>, at: u32, index: u32) {
        let free_end = self.free_end(scan.segment, index);
        let mut from = at as usize;
        while from < free_end {
            let to = (from / SECTOR_BYTES + 1) * SECTOR_BYTES;
            let to = to.min(free_end);
            if !is_zero(&scan.buffer[from..to]) {
                self.writes.push(Write {
                    segment: scan.segment,
                    offset: from as u64,
                    bytes: vec![0; to - from],
                });
            }
            from = to;
        }
        self.close(scan, at, index);
    }

    fn close(&mut self, scan: &Scan<'_>, at: u32, index: u32) {
        let segment = &mut self.segments[scan.segment];
        segment.end = at;
        segment.count = index;
    }

    /// Where the space between records and copies ends when there are `count` records.
    fn free_end(&self, segment: usize, count: u32) -> usize {
        let bytes = self.segments[segment].bytes as usize;
        bytes - SECTOR_BYTES - count as usize * HEADER_BYTES
    }

    fn lost(&self, at: u32, what: &str) -> OpenError {
        let segment = self.segments.last().map_or(0, |segment| segment.sequence);
        OpenError::lost(format!("segment {segment} at {at}: {what}"))
    }
}

// === impl Batch ===

impl Batch {
    fn is_complete(&self) -> bool {
        self.items.len() as u64 == u64::from(self.count)
    }

    /// Whatever is lost of it was never written.
    fn lost_only_unwritten(&self) -> bool {
        let mut lost = self.items.iter().filter(|item| !item.readable);
        lost.all(|item| item.unwritten || planted(Mutant::RotIsCut))
    }
}

fn read_item(buffer: &[u8], header: RecordHeader, index: u32, both_headers: bool) -> Item {
    let start = header.offset as usize;
    let record = &buffer[start..start + header.record_bytes() as usize];
    let body = &record[HEADER_BYTES..HEADER_BYTES + header.padded_bytes()];
    let mark = &record[HEADER_BYTES + header.padded_bytes()..];
    let readable = crc32c::crc32c(body) == header.body_crc
        && (!header.kind.is_entry() || header.length as usize >= ENTRY_FIXED_BYTES);
    Item {
        header,
        index,
        readable,
        both_headers,
        whole: readable && both_headers && mark == RECORD_MARK,
        unwritten: is_unwritten(record, start),
    }
}

/// The body of a readable record.
fn body_of(buffer: &[u8], header: &RecordHeader) -> Vec<u8> {
    let start = header.offset as usize + HEADER_BYTES;
    let mut body = buffer[start..start + header.padded_bytes()].to_vec();
    mask(&mut body, &header.hash);
    body.truncate(header.length as usize);
    body
}

/// Writes and syncs what recovery asks for.
pub(crate) fn write(recovery: &Recovery) -> io::Result<()> {
    let mut touched: Vec<usize> = Vec::new();
    for write in &recovery.writes {
        let file = &recovery.segments[write.segment].file;
        file.write_all_at(&write.bytes, write.offset)?;
        if touched.last() != Some(&write.segment) {
            touched.push(write.segment);
        }
    }
    touched.dedup();
    for segment in touched {
        recovery.segments[segment].file.sync_data()?;
    }
    Ok(())
}
