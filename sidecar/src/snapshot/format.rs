//! The bytes of a snapshot file, format version 1. All numbers are little-endian and of fixed width.
//!
//! ```text
//! | file header | head | tables.. | state.. | end |
//! 0            16                                 size
//! ```
//!
//! The file header is the magic (8 bytes), the version (4) and a CRC-32C over both (4). All that
//! follows is chunks: one head (`synod.v1.SnapshotHead`), any number of tables (what the apply
//! machine remembers, opaque here), any number of pieces of the app's state, one end. Each stands
//! for at most 1 MiB, compressed by itself, so that a damaged place spoils nothing else and a
//! transfer goes on behind the last whole chunk.
//!
//! # A chunk
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 4 | CRC-32C over the rest of the header and the body as stored |
//! | 4 | 2 | kind: 1 head, 2 tables, 3 state, 4 end |
//! | 6 | 2 | encoding: 0 as it is, 1 one zstd frame |
//! | 8 | 4 | length of the body as stored |
//! | 12 | 4 | length of the body once decoded |
//! | 16 | 8 | offset of this chunk in its file |
//! | 24 | | body |
//!
//! # The end
//!
//! | offset in its body | size | field |
//! |---|---|---|
//! | 0 | 8 | length of the tables, decoded |
//! | 8 | 8 | length of the state, decoded |
//! | 16 | 32 | BLAKE3 over the state, decoded |
//! | 48 | 8 | size of the file |
//! | 56 | 32 | the snapshot's id: BLAKE3 over all bytes before this chunk and the fields above |
//!
//! Head and end are never compressed. Neither says whether the snapshot is verified, since that
//! changes: see [`super::store`].

use super::head::{SnapshotId, StateDigest};

/// Version of everything described here.
pub(super) const VERSION: u32 = 1;
pub(super) const MAGIC: [u8; 8] = *b"\xA5synod\x0As";
pub(super) const FILE_HEADER_BYTES: usize = 16;
pub(super) const CHUNK_HEADER_BYTES: usize = 24;
/// What a chunk stands for at most, decoded, in bytes.
pub(super) const CHUNK_BYTES: usize = 1 << 20;
/// Tables that a snapshot takes at most, in bytes: they are read into memory.
pub(super) const MAX_TABLES_BYTES: u64 = 256 << 20;
pub(super) const END_BODY_BYTES: usize = 88;
/// The last chunk of each file, with its header.
pub(super) const END_BYTES: usize = CHUNK_HEADER_BYTES + END_BODY_BYTES;
/// Of the end's body, what its own hash covers.
pub(super) const END_HASHED_BYTES: usize = 56;

/// What a chunk holds. The numbers are on disk, and in the order of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u16)]
pub(super) enum Kind {
    Head = 1,
    Tables = 2,
    State = 3,
    End = 4,
}

/// How a body is stored. The numbers are on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub(super) enum Encoding {
    Plain = 0,
    Zstd = 1,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ChunkHeader {
    pub(super) kind: Kind,
    pub(super) encoding: Encoding,
    /// As stored.
    pub(super) length: u32,
    pub(super) decoded: u32,
    pub(super) offset: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct End {
    pub(super) tables_bytes: u64,
    pub(super) state_bytes: u64,
    pub(super) state_digest: StateDigest,
    pub(super) file_bytes: u64,
    pub(super) id: SnapshotId,
}

/// Why a file header is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BadFileHeader {
    Damaged,
    UnknownVersion(u32),
}

pub(super) fn file_header() -> [u8; FILE_HEADER_BYTES] {
    let mut out = [0; FILE_HEADER_BYTES];
    out[..8].copy_from_slice(&MAGIC);
    out[8..12].copy_from_slice(&VERSION.to_le_bytes());
    let crc = crc32c::crc32c(&out[..12]);
    out[12..].copy_from_slice(&crc.to_le_bytes());
    out
}

pub(super) fn check_file_header(bytes: &[u8; FILE_HEADER_BYTES]) -> Result<(), BadFileHeader> {
    if bytes[..8] != MAGIC || crc32c::crc32c(&bytes[..12]) != u32_at(bytes, 12) {
        return Err(BadFileHeader::Damaged);
    }
    match u32_at(bytes, 8) {
        VERSION => Ok(()),
        found => Err(BadFileHeader::UnknownVersion(found)),
    }
}

// === impl ChunkHeader ===

impl ChunkHeader {
    pub(super) fn encode(&self, body: &[u8]) -> [u8; CHUNK_HEADER_BYTES] {
        assert_eq!(self.length as usize, body.len(), "the body it is for");
        let mut out = [0; CHUNK_HEADER_BYTES];
        out[4..6].copy_from_slice(&(self.kind as u16).to_le_bytes());
        out[6..8].copy_from_slice(&(self.encoding as u16).to_le_bytes());
        out[8..12].copy_from_slice(&self.length.to_le_bytes());
        out[12..16].copy_from_slice(&self.decoded.to_le_bytes());
        out[16..].copy_from_slice(&self.offset.to_le_bytes());
        let crc = crc32c::crc32c_append(crc32c::crc32c(&out[4..]), body);
        out[..4].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// What a header says, and whether it can be true; [`ChunkHeader::fits`] tells whether it is.
    pub(super) fn decode(bytes: &[u8; CHUNK_HEADER_BYTES]) -> Option<Self> {
        let header = Self {
            kind: match u16_at(bytes, 4) {
                1 => Kind::Head,
                2 => Kind::Tables,
                3 => Kind::State,
                4 => Kind::End,
                _ => return None,
            },
            encoding: match u16_at(bytes, 6) {
                0 => Encoding::Plain,
                1 => Encoding::Zstd,
                _ => return None,
            },
            length: u32_at(bytes, 8),
            decoded: u32_at(bytes, 12),
            offset: u64_at(bytes, 16),
        };
        let whole = header.decoded as usize <= CHUNK_BYTES && header.decoded > 0;
        let sane = match (header.kind, header.encoding) {
            (_, Encoding::Plain) => header.length == header.decoded,
            (Kind::Head | Kind::End, Encoding::Zstd) => false,
            (Kind::Tables | Kind::State, Encoding::Zstd) => header.length < header.decoded,
        };
        let end = header.kind != Kind::End || header.length as usize == END_BODY_BYTES;
        (whole && sane && end).then_some(header)
    }

    /// The checksum in `bytes` is that of this header and this body.
    pub(super) fn fits(bytes: &[u8; CHUNK_HEADER_BYTES], body: &[u8]) -> bool {
        crc32c::crc32c_append(crc32c::crc32c(&bytes[4..]), body) == u32_at(bytes, 0)
    }
}

// === impl End ===

impl End {
    /// Without the id, which covers this.
    pub(super) fn encode_hashed(&self) -> [u8; END_HASHED_BYTES] {
        let mut out = [0; END_HASHED_BYTES];
        out[..8].copy_from_slice(&self.tables_bytes.to_le_bytes());
        out[8..16].copy_from_slice(&self.state_bytes.to_le_bytes());
        out[16..48].copy_from_slice(&self.state_digest.0);
        out[48..].copy_from_slice(&self.file_bytes.to_le_bytes());
        out
    }

    pub(super) fn encode(&self) -> [u8; END_BODY_BYTES] {
        let mut out = [0; END_BODY_BYTES];
        out[..END_HASHED_BYTES].copy_from_slice(&self.encode_hashed());
        out[END_HASHED_BYTES..].copy_from_slice(&self.id.0);
        out
    }

    pub(super) fn decode(body: &[u8; END_BODY_BYTES]) -> Self {
        let mut state_digest = [0; 32];
        state_digest.copy_from_slice(&body[16..48]);
        let mut id = [0; 32];
        id.copy_from_slice(&body[END_HASHED_BYTES..]);
        Self {
            tables_bytes: u64_at(body, 0),
            state_bytes: u64_at(body, 8),
            state_digest: StateDigest(state_digest),
            file_bytes: u64_at(body, 48),
            id: SnapshotId(id),
        }
    }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut out = [0; 4];
    out.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(out)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut out = [0; 8];
    out.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_changed_bit_of_a_chunk_is_noticed() {
        let body = b"some state";
        let header = ChunkHeader {
            kind: Kind::State,
            encoding: Encoding::Plain,
            length: 10,
            decoded: 10,
            offset: 77,
        };
        let good = header.encode(body);
        assert!(ChunkHeader::fits(&good, body));
        assert_eq!(ChunkHeader::decode(&good), Some(header));
        for bit in 0..good.len() * 8 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(!ChunkHeader::fits(&bad, body), "bit {bit} of the header");
        }
        for bit in 0..body.len() * 8 {
            let mut bad = *body;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(!ChunkHeader::fits(&good, &bad), "bit {bit} of the body");
        }
    }

    #[test]
    fn a_file_of_a_later_version_is_told_from_a_damaged_one() {
        let good = file_header();
        assert_eq!(check_file_header(&good), Ok(()));
        let mut damaged = good;
        damaged[8] = 2;
        assert_eq!(check_file_header(&damaged), Err(BadFileHeader::Damaged));
        let crc = crc32c::crc32c(&damaged[..12]);
        damaged[12..].copy_from_slice(&crc.to_le_bytes());
        let later = Err(BadFileHeader::UnknownVersion(2));
        assert_eq!(check_file_header(&damaged), later);
    }
}
