//! A sector that says what a file is: magic, version, checksum, then fields. The first 16 bytes mean
//! the same in every version of the format, so that a version unknown here can be named.

use std::fmt;

use synod_paxos::{Identity, Incarnation};

use crate::format::{Hash, Put, SECTOR_BYTES, VERSION, VERSION_1, hash_at, u16_at, u32_at, u64_at};

/// Longest name of a member, in bytes.
pub(crate) const MAX_NAME_BYTES: usize = 255;

/// One sector.
pub(crate) type Page = [u8; SECTOR_BYTES];

/// Where the fields begin.
pub(crate) const FIELDS_AT: usize = 16;

/// Why a page does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PageError {
    /// It is well, but of this version.
    Version(u32),
    Bad,
}

/// The page of a segment, at both of its ends.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct SegmentPage {
    /// Number of the segment, from 1.
    pub(crate) sequence: u64,
    /// Size of the segment.
    pub(crate) bytes: u64,
    /// Whose log it is.
    pub(crate) identity: Identity,
    /// Number of its first batch.
    pub(crate) first_batch: u64,
    /// Hash of the header before its first record.
    pub(crate) predecessor: Hash,
}

const SEGMENT_MAGIC: [u8; 8] = *b"SYNODLOG";

/// Writes magic, version and checksum over a page whose fields are there.
pub(crate) fn seal(page: &mut Page, magic: [u8; 8], version: u32) {
    page[..8].copy_from_slice(&magic);
    page[8..12].copy_from_slice(&version.to_le_bytes());
    let crc = checksum(page);
    page[12..16].copy_from_slice(&crc.to_le_bytes());
}

/// Checks magic, version and checksum. Returns the version.
pub(crate) fn unseal(page: &Page, magic: [u8; 8]) -> Result<u32, PageError> {
    if page[..8] != magic || u32_at(page, 12) != checksum(page) {
        return Err(PageError::Bad);
    }
    match u32_at(page, 8) {
        known @ VERSION_1..=VERSION => Ok(known),
        other => Err(PageError::Version(other)),
    }
}

fn checksum(page: &Page) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&page[..12]), &page[16..])
}

/// Writes a name with its length.
pub(crate) fn put_name(put: &mut Put<'_>, name: &str) {
    assert!(name.len() <= MAX_NAME_BYTES, "names are checked at open");
    put.bytes(&(name.len() as u16).to_le_bytes());
    put.bytes(name.as_bytes());
}

/// Reads a name with its length.
pub(crate) fn name_at(page: &Page, at: usize) -> Result<String, PageError> {
    let length = usize::from(u16_at(page, at));
    if length > MAX_NAME_BYTES {
        return Err(PageError::Bad);
    }
    let bytes = &page[at + 2..at + 2 + length];
    String::from_utf8(bytes.to_vec()).map_err(|_| PageError::Bad)
}

// === impl SegmentPage ===

impl SegmentPage {
    pub(crate) fn encode(&self) -> Page {
        let mut page = [0; SECTOR_BYTES];
        let mut put = Put {
            bytes: &mut page,
            at: FIELDS_AT,
        };
        put.bytes(&self.sequence.to_le_bytes());
        put.bytes(&self.bytes.to_le_bytes());
        put.bytes(&self.identity.incarnation.0.to_le_bytes());
        put.bytes(&self.first_batch.to_le_bytes());
        put.bytes(&self.predecessor);
        put_name(&mut put, &self.identity.name);
        // The layout of a segment is as in version 1.
        seal(&mut page, SEGMENT_MAGIC, VERSION_1);
        page
    }

    pub(crate) fn decode(page: &Page) -> Result<Self, PageError> {
        unseal(page, SEGMENT_MAGIC)?;
        Ok(Self {
            sequence: u64_at(page, 16),
            bytes: u64_at(page, 24),
            identity: Identity {
                incarnation: Incarnation(u128::from_le_bytes(hash_at(page, 32))),
                name: name_at(page, 72)?,
            },
            first_batch: u64_at(page, 48),
            predecessor: hash_at(page, 56),
        })
    }
}

impl fmt::Debug for SegmentPage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "segment {} of {:?}", self.sequence, self.identity)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> SegmentPage {
        SegmentPage {
            sequence: 1,
            bytes: 8192,
            identity: Identity {
                name: "notes-0".to_owned(),
                incarnation: Incarnation(5),
            },
            first_batch: 9,
            predecessor: [3; 16],
        }
    }

    #[test]
    fn a_page_reads_back_as_written() {
        assert_eq!(SegmentPage::decode(&sample().encode()), Ok(sample()));
    }

    #[test]
    fn each_changed_byte_of_a_page_is_noticed() {
        for at in 0..SECTOR_BYTES {
            let mut page = sample().encode();
            page[at] ^= 0x40;
            assert_eq!(SegmentPage::decode(&page), Err(PageError::Bad), "byte {at}");
        }
    }

    #[test]
    fn another_version_is_named() {
        let mut page = sample().encode();
        page[8] = 77;
        let crc = checksum(&page);
        page[12..16].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(SegmentPage::decode(&page), Err(PageError::Version(77)));
    }
}
