//! The front of a snapshot on its way from another member: its head and its tables.

use bytes::Bytes;

use super::error::FetchError;
use crate::snapshot::format::{CHUNK_HEADER_BYTES, ChunkHeader, FILE_HEADER_BYTES, Kind};
use crate::snapshot::head::Head;
use crate::snapshot::walk::{ReadError, Walk};

/// What has come of it.
#[derive(Debug)]
pub(super) struct Front {
    head: Head,
    walk: Box<Walk>,
    /// Come and not walked through: less than a chunk.
    rest: Vec<u8>,
    tables: Vec<u8>,
}

// === impl Front ===

impl Front {
    /// Of the snapshot with this head; nothing yet.
    pub(super) fn new(head: Head) -> Result<Self, ReadError> {
        Ok(Self {
            head,
            walk: Box::new(Walk::new()?),
            rest: Vec::new(),
            tables: Vec::new(),
        })
    }

    /// Bytes that have come.
    pub(super) fn at(&self) -> u64 {
        self.walk.at() + self.rest.len() as u64
    }

    /// Takes what comes next; true once the tables are whole. What cannot be read is no good there.
    pub(super) fn take(&mut self, piece: &[u8]) -> Result<bool, FetchError> {
        self.rest.extend_from_slice(piece);
        while let Some(length) = self.next_length()? {
            if self.rest.len() < length {
                break;
            }
            let next = self.walk.next(&mut &self.rest[..length]);
            let Some(chunk) = next.map_err(FetchError::DamagedThere)? else {
                break;
            };
            self.rest.drain(..length);
            match chunk.kind() {
                Kind::Head if self.walk.head() == Some(&self.head) => {}
                Kind::Head => {
                    return Err(FetchError::NotAsAsked("another snapshot than it offers"));
                }
                Kind::Tables => {
                    let part = self.walk.decode(chunk).map_err(FetchError::DamagedThere)?;
                    self.tables.extend_from_slice(&part);
                }
                Kind::State | Kind::End => return Ok(true),
            }
        }
        Ok(false)
    }

    /// They are whole.
    pub(super) fn into_tables(self) -> Bytes {
        self.tables.into()
    }

    /// Of the next chunk, with what stands before it, in bytes; `None`: not known yet.
    fn next_length(&self) -> Result<Option<usize>, FetchError> {
        let before = if self.walk.at() == 0 {
            FILE_HEADER_BYTES
        } else {
            0
        };
        let Some(raw) = self.rest.get(before..before + CHUNK_HEADER_BYTES) else {
            return Ok(None);
        };
        let raw = raw.try_into().expect("of that length");
        let header =
            ChunkHeader::decode(raw).ok_or(FetchError::DamagedThere(ReadError::Damaged {
                at: self.walk.at(),
                what: "it is no chunk",
            }))?;
        Ok(Some(before + CHUNK_HEADER_BYTES + header.length as usize))
    }
}
