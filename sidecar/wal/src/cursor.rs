//! Walks the records of a log from a position on, reading ahead in large pieces.

use std::io;

use crate::format::{HEADER_BYTES, Read, RecordHeader, mask};
use crate::segment::Segment;
use crate::state::Position;

/// Reads the records of some segments, in order.
pub(crate) struct Cursor {
    /// What is left to read, the current one first.
    segments: std::vec::IntoIter<Segment>,
    current: Segment,
    /// Offset of the next record.
    at: u32,
    buffer: Vec<u8>,
    /// Offset of the buffer in the current segment.
    buffer_at: u32,
    read_ahead: u32,
}

/// Reading a record's header failed.
#[derive(Debug)]
pub(crate) enum CursorError {
    /// Both of its places are damaged: there is no way on from here.
    Lost,
    Io(io::Error),
}

// === impl Cursor ===

impl Cursor {
    /// `segments`: from the one of `start` on.
    pub(crate) fn new(segments: Vec<Segment>, start: Position, read_ahead: u32) -> Option<Self> {
        let mut segments = segments.into_iter();
        let current = segments.next()?;
        assert_eq!(current.sequence, start.segment, "begins where it is told");
        Some(Self {
            segments,
            current,
            at: start.offset,
            buffer: Vec::new(),
            buffer_at: 0,
            read_ahead,
        })
    }

    /// The header of the next record, `None` at the end of the log. Goes on behind that record.
    pub(crate) fn next(&mut self) -> Result<Option<RecordHeader>, CursorError> {
        while self.at >= self.current.end {
            let Some(next) = self.segments.next() else {
                return Ok(None);
            };
            self.current = next;
            self.at = Segment::START;
            self.buffer.clear();
        }
        let at = self.at;
        let salt = self.current.salt;
        let in_place = match self.bytes(at, HEADER_BYTES) {
            Ok(bytes) => RecordHeader::decode(bytes, salt),
            Err(_) => Read::Bad,
        };
        let header = match in_place {
            Read::Valid(header) if header.offset == at => header,
            _ => self
                .current
                .find_copy(at)
                .map_err(CursorError::Io)?
                .ok_or(CursorError::Lost)?,
        };
        let end = u64::from(at) + header.record_bytes();
        if end > u64::from(self.current.end) {
            return Err(CursorError::Lost);
        }
        self.at = end as u32;
        Ok(Some(header))
    }

    /// The body of the record whose header came last, `None` when it is damaged.
    pub(crate) fn body(&mut self, header: &RecordHeader) -> Option<Vec<u8>> {
        let padded = header.padded_bytes();
        let bytes = self
            .bytes(header.offset + HEADER_BYTES as u32, padded)
            .ok()?;
        if crc32c::crc32c(bytes) != header.body_crc {
            return None;
        }
        let mut body = bytes.to_vec();
        mask(&mut body, &header.hash);
        body.truncate(header.length as usize);
        Some(body)
    }

    fn bytes(&mut self, at: u32, length: usize) -> io::Result<&[u8]> {
        let held = self.buffer_at as usize + self.buffer.len();
        if at < self.buffer_at || at as usize + length > held {
            self.fill(at, length)?;
        }
        let from = (at - self.buffer_at) as usize;
        Ok(&self.buffer[from..from + length])
    }

    fn fill(&mut self, at: u32, length: usize) -> io::Result<()> {
        let rest = self.current.end.saturating_sub(at) as usize;
        if length > rest {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let ahead = length.max(self.read_ahead as usize).min(rest);
        self.buffer_at = at;
        self.buffer.resize(ahead, 0);
        let file = &self.current.file;
        if file.read_exact_at(&mut self.buffer, u64::from(at)).is_ok() {
            return Ok(());
        }
        // The damage may be in what was only read ahead.
        self.buffer.truncate(length);
        let result = file.read_exact_at(&mut self.buffer, u64::from(at));
        if result.is_err() {
            self.buffer.clear();
        }
        result
    }
}
