//! Records on their way to the disk.

use synod_paxos::{Base, Boot, Configuration, Entry, Record, Slot};

use crate::codec::{self, Content};
use crate::format::{
    HEADER_BYTES, Hash, Kind, RECORD_MARK, RecordHeader, Salt, hash, mask, record_bytes,
};

/// A record that was taken and not yet written.
#[derive(Debug)]
pub(crate) struct Draft {
    /// All but place, batch and checksums, which are known when it is written.
    pub(crate) header: RecordHeader,
    body: Body,
}

#[derive(Debug)]
enum Body {
    None,
    Entry(Entry),
    Bytes(Vec<u8>),
    Twofold(Box<Content>, Vec<u8>),
}

/// A batch as it goes to the disk.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) headers: Vec<RecordHeader>,
    /// All records.
    pub(crate) records: Vec<u8>,
    /// The second copies of their headers, the last record's first.
    pub(crate) copies: Vec<u8>,
    /// Hash of the last header.
    pub(crate) predecessor: Hash,
}

/// Where a batch goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) salt: Salt,
    /// Offset in the segment.
    pub(crate) offset: u32,
    /// Number of the batch.
    pub(crate) batch: u64,
    /// Hash of the header before it.
    pub(crate) predecessor: Hash,
}

// === impl Draft ===

impl Draft {
    pub(crate) fn boot(boot: Boot) -> Self {
        let mut header = RecordHeader::new(Kind::Boot);
        header.slot.0 = boot.0;
        Self {
            header,
            body: Body::None,
        }
    }

    pub(crate) fn new(record: &Record) -> Self {
        match record {
            Record::Genesis(genesis) => {
                let body = codec::genesis_body(genesis);
                let mut header = RecordHeader::new(Kind::Genesis);
                header.hash = hash(&body);
                header.length = body.len().try_into().unwrap_or(u32::MAX);
                Self {
                    header,
                    body: Body::Bytes(body),
                }
            }
            Record::Promise(ballot) => Self {
                header: RecordHeader {
                    ballot: *ballot,
                    ..RecordHeader::new(Kind::Promise)
                },
                body: Body::None,
            },
            Record::Append(entry) => Self::entry(Kind::Append, entry),
            Record::Stage { ballot, entry } => {
                let mut draft = Self::entry(Kind::Stage, entry);
                draft.header.under = *ballot;
                draft
            }
            Record::Adopt { ballot, from, last } => Self {
                header: RecordHeader {
                    ballot: *ballot,
                    slot: *from,
                    last: *last,
                    ..RecordHeader::new(Kind::Adopt)
                },
                body: Body::None,
            },
            Record::Commit(slot) => Self {
                header: RecordHeader {
                    slot: *slot,
                    ..RecordHeader::new(Kind::Commit)
                },
                body: Body::None,
            },
            Record::Repair(entry) => Self::entry(Kind::Repair, entry),
            Record::Compact(base) => Self::base(Kind::Compact, base),
            Record::Install(base) => Self::base(Kind::Install, base),
            Record::Protocol { slot, version } => Self {
                header: RecordHeader {
                    slot: *slot,
                    last: Slot(u64::from(*version)),
                    ..RecordHeader::new(Kind::Protocol)
                },
                body: Body::None,
            },
            Record::Join(configuration) => Self::configuration(Kind::Join, configuration),
            Record::Learn(entry) => Self::entry(Kind::Learn, entry),
            Record::Enter {
                slot,
                configuration,
            } => {
                let mut draft = Self::configuration(Kind::Enter, configuration);
                draft.header.slot = *slot;
                draft.header.ballot = configuration.first_ballot();
                draft
            }
        }
    }

    fn base(kind: Kind, base: &Base) -> Self {
        let mut draft = Self::twofold(kind, Content::Base(base.clone()));
        (draft.header.slot, draft.header.ballot) = (base.slot, base.ballot);
        draft
    }

    fn configuration(kind: Kind, configuration: &Configuration) -> Self {
        Self::twofold(kind, Content::Configuration(configuration.clone()))
    }

    fn twofold(kind: Kind, content: Content) -> Self {
        let body = content.body();
        Self {
            header: RecordHeader {
                hash: hash(&body),
                length: body.len().try_into().unwrap_or(u32::MAX),
                ..RecordHeader::new(kind)
            },
            body: Body::Twofold(Box::new(content), body),
        }
    }

    /// What it carries twice.
    pub(crate) fn content(&self) -> Option<&Content> {
        match &self.body {
            Body::Twofold(content, _) => Some(content),
            _ => None,
        }
    }

    /// Lowest version of the format that has it.
    pub(crate) fn version(&self) -> u32 {
        let content = self.content().map_or(0, Content::version);
        self.header.kind.version().max(content)
    }

    fn entry(kind: Kind, entry: &Entry) -> Self {
        let length = codec::ENTRY_FIXED_BYTES + entry.command.payload.len();
        Self {
            header: RecordHeader {
                slot: entry.slot,
                ballot: entry.ballot,
                hash: entry.hash().0,
                length: length.try_into().unwrap_or(u32::MAX),
                ..RecordHeader::new(kind)
            },
            body: Body::Entry(entry.clone()),
        }
    }

    /// The body of a genesis.
    pub(crate) fn genesis_body(&self) -> Option<&[u8]> {
        match &self.body {
            Body::Bytes(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// Bytes that it takes up in a segment.
    pub(crate) fn bytes(&self) -> u64 {
        record_bytes(self.header.length) + HEADER_BYTES as u64
    }
}

// === impl Batch ===

impl Batch {
    /// Lays out the records of one batch. `self` only lends its memory.
    pub(crate) fn encode(mut self, drafts: Vec<Draft>, place: Place) -> Self {
        self.headers.clear();
        self.records.clear();
        self.copies.clear();
        self.predecessor = place.predecessor;
        let count = u32::try_from(drafts.len()).expect("a batch fits into a segment");
        let mut copies = Vec::with_capacity(drafts.len());
        for (index, draft) in drafts.into_iter().enumerate() {
            let start = self.records.len();
            self.records.resize(start + HEADER_BYTES, 0);
            match &draft.body {
                Body::None => {}
                Body::Entry(entry) => codec::put_entry(&mut self.records, entry),
                Body::Bytes(bytes) | Body::Twofold(_, bytes) => {
                    self.records.extend_from_slice(bytes);
                }
            }
            let body_at = start + HEADER_BYTES;
            assert_eq!(
                self.records.len() - body_at,
                draft.header.length as usize,
                "the body is as long as its header says"
            );
            let end = self.records.len().next_multiple_of(8);
            self.records.resize(end, 0);
            let body = &mut self.records[body_at..];
            mask(body, &draft.header.hash);
            let header = RecordHeader {
                body_crc: crc32c::crc32c(body),
                offset: place.offset + u32::try_from(start).expect("it fits into a segment"),
                batch: place.batch,
                index: index as u32,
                count,
                predecessor: self.predecessor,
                ..draft.header
            };
            let bytes = header.encode(place.salt);
            self.records[start..body_at].copy_from_slice(&bytes);
            self.records.extend_from_slice(&RECORD_MARK);
            self.predecessor = hash(&bytes);
            self.headers.push(header);
            copies.push(bytes);
        }
        for copy in copies.iter().rev() {
            self.copies.extend_from_slice(copy);
        }
        self
    }
}
