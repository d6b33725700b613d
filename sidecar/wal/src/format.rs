//! The bytes on disk, format version 3. All numbers are little-endian and of fixed width.
//!
//! # Files
//!
//! | name | what |
//! |---|---|
//! | `segment-<16 hex digits>` | part of the log, numbered from 1 without gaps |
//! | `spare-<16 hex digits>` | zeros, to become the next segment |
//! | `state-a`, `state-b` | two copies of `promised`, `accepted` and `boot` ([`crate::superblock`]) |
//! | `genesis` | a second copy of the genesis ([`crate::genesis`]) |
//! | `start-a`, `start-b` | where the log begins, once segments were removed ([`crate::opening`]) |
//!
//! Version 2 is version 1 with these last two files and the kinds of records `Compact`, `Install` and
//! `Protocol`; version 3 has the kinds from `Join` on, and bases of later epochs than the first. A log
//! is of the lowest version that has all of it; before the first record of a later one is written, the
//! copies of the state say so, and a program that does not know it says so too, and takes nothing for
//! damage. That the copies of the state count segments needs no version: 0 says nothing, and a program that
//! does not count leaves 0.
//!
//! # A segment
//!
//! ```text
//! | page | record 0 | record 1 | ..  ->      zeros      <- .. | header 1 | header 0 | page |
//! 0      512                                                                   size-512    size
//! ```
//!
//! A segment is written with zeros before use and never used twice. Records grow up from the start;
//! a second copy of each record's header grows down from the end, so that a damaged spot leaves at
//! least one of them, and one sync covers both. Since a header says slot, ballot and hash, a
//! damaged entry is always known by its header; that is the separate ring of headers of
//! *Protocol-Aware Recovery* (FAST'18), kept for the whole log and not for its end alone. The page
//! (magic, version, checksum, whose segment this is) is there twice as well.
//!
//! # A record
//!
//! A header of 128 bytes, the body padded with zeros to a multiple of 8, and a mark of 8 bytes.
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 4 | CRC-32C over the rest of the header, begun with the segment's salt |
//! | 4 | 4 | CRC-32C over the body and its padding, as written |
//! | 8 | 4 | length of the body |
//! | 12 | 4 | offset of this record in its segment |
//! | 16 | 8 | number of the batch: what one sync covers |
//! | 24 | 4 | index of the record in its batch |
//! | 28 | 4 | records in the batch |
//! | 32 | 8 | slot: of the entry; the first cut by an adoption; the commit; a base's; a stop-sign's; the number of the start |
//! | 40 | 8 | last slot of an adopted log; a protocol version |
//! | 48 | 8 + 8 | ballot: epoch, round |
//! | 64 | 8 + 8 | ballot of an adoption under way (stage): epoch, round |
//! | 80 | 4 | ballot: node |
//! | 84 | 4 | ballot of an adoption under way: node |
//! | 88 | 16 | hash of the entry ([`synod_paxos::Entry::hash`]); of the body for a genesis, base or configuration |
//! | 104 | 16 | hash of the predecessor's header |
//! | 120 | 2 | kind |
//! | 122 | 2 | zero |
//! | 124 | 4 | mark |
//!
//! # What was not written can be told
//!
//! A crash leaves sectors of the last batch unwritten, so they still hold zeros; a fault may also
//! leave anything else. To tell them apart, no sector of a record may be zero once written: bodies
//! are stored XORed with the first 8 bytes of their hash, everything is aligned to 8 bytes, and
//! header and record end in marks without a zero byte. So a part of a sector that is zero, or an
//! end that lacks its mark, proves that the write did not happen (to 1 in 2^64).

use synod_paxos::{Ballot, Epoch, Incarnation, MemberId, Slot};

/// Version of everything described here.
pub(crate) const VERSION: u32 = 3;
/// The version without changes of the configuration.
pub(crate) const VERSION_2: u32 = 2;
/// The version without bases and protocols.
pub(crate) const VERSION_1: u32 = 1;
/// Segments are made of whole pages of the operating system.
pub(crate) const PAGE_BYTES: u64 = 4096;
/// Smallest segment.
pub(crate) const MIN_SEGMENT_BYTES: u64 = 2 * PAGE_BYTES;
/// Largest segment: offsets fit in 32 bits with room to spare.
pub(crate) const MAX_SEGMENT_BYTES: u64 = 1 << 30;
/// What a disk writes whole or not at all.
pub(crate) const SECTOR_BYTES: usize = 512;
/// Size of a record's header, in both places.
pub(crate) const HEADER_BYTES: usize = 128;
/// Size of the mark behind a body.
pub(crate) const MARK_BYTES: usize = 8;
/// Size on disk of the smallest record, with the second copy of its header.
pub(crate) const MIN_RECORD_BYTES: usize = 2 * HEADER_BYTES + MARK_BYTES;
/// Where a header has the hash of its predecessor, which is never zero.
const PREDECESSOR_AT: usize = 104;
/// Behind each header. No byte is zero.
const HEADER_MARK: [u8; 4] = *b"\xA5syn";
/// Behind each record. No byte is zero.
pub(crate) const RECORD_MARK: [u8; MARK_BYTES] = *b"\xA5synod\x0A\x5A";

/// Sixteen bytes of BLAKE3.
pub(crate) type Hash = [u8; 16];

/// What a record is. The numbers are on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub(crate) enum Kind {
    Boot = 1,
    Genesis = 2,
    Promise = 3,
    Append = 4,
    Stage = 5,
    Adopt = 6,
    Commit = 7,
    Repair = 8,
    Compact = 9,
    Install = 10,
    Protocol = 11,
    Join = 12,
    Learn = 13,
    Enter = 14,
}

/// The header of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RecordHeader {
    pub(crate) kind: Kind,
    pub(crate) slot: Slot,
    pub(crate) last: Slot,
    pub(crate) ballot: Ballot,
    pub(crate) under: Ballot,
    pub(crate) hash: Hash,
    /// Length of the body without padding.
    pub(crate) length: u32,
    pub(crate) body_crc: u32,
    pub(crate) offset: u32,
    pub(crate) batch: u64,
    pub(crate) index: u32,
    pub(crate) count: u32,
    pub(crate) predecessor: Hash,
}

/// What the place of a header holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Read {
    Valid(RecordHeader),
    /// Nothing was ever written there.
    Zero,
    Bad,
}

/// Begins the checksums of one segment, so that no record is taken for one of another log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Salt(u32);

// === impl Kind ===

impl Kind {
    fn from_number(number: u16) -> Option<Self> {
        Some(match number {
            1 => Self::Boot,
            2 => Self::Genesis,
            3 => Self::Promise,
            4 => Self::Append,
            5 => Self::Stage,
            6 => Self::Adopt,
            7 => Self::Commit,
            8 => Self::Repair,
            9 => Self::Compact,
            10 => Self::Install,
            11 => Self::Protocol,
            12 => Self::Join,
            13 => Self::Learn,
            14 => Self::Enter,
            _ => return None,
        })
    }

    /// Lowest version of the format that has it.
    pub(crate) fn version(self) -> u32 {
        match self {
            Self::Join | Self::Learn | Self::Enter => VERSION,
            Self::Compact | Self::Install | Self::Protocol => VERSION_2,
            _ => VERSION_1,
        }
    }

    /// It carries a base.
    pub(crate) fn is_base(self) -> bool {
        matches!(self, Self::Compact | Self::Install)
    }

    /// It carries something that is in its body twice.
    pub(crate) fn is_twofold(self) -> bool {
        self.is_base() || matches!(self, Self::Join | Self::Enter)
    }

    /// It carries an entry, which is large and can be asked for again.
    pub(crate) fn is_entry(self) -> bool {
        matches!(
            self,
            Self::Append | Self::Stage | Self::Repair | Self::Learn
        )
    }
}

// === impl Salt ===

impl Salt {
    pub(crate) fn new(incarnation: Incarnation, sequence: u64) -> Self {
        let crc = crc32c::crc32c(&incarnation.0.to_le_bytes());
        Self(crc32c::crc32c_append(crc, &sequence.to_le_bytes()))
    }
}

// === impl RecordHeader ===

impl RecordHeader {
    /// A record of this kind, with nothing else known yet.
    pub(crate) fn new(kind: Kind) -> Self {
        Self {
            kind,
            slot: Slot::ZERO,
            last: Slot::ZERO,
            ballot: Ballot::default(),
            under: Ballot::default(),
            hash: [0; 16],
            length: 0,
            body_crc: 0,
            offset: 0,
            batch: 0,
            index: 0,
            count: 0,
            predecessor: [0; 16],
        }
    }

    pub(crate) fn encode(&self, salt: Salt) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        let mut put = Put {
            bytes: &mut out,
            at: 4,
        };
        put.bytes(&self.body_crc.to_le_bytes());
        put.bytes(&self.length.to_le_bytes());
        put.bytes(&self.offset.to_le_bytes());
        put.bytes(&self.batch.to_le_bytes());
        put.bytes(&self.index.to_le_bytes());
        put.bytes(&self.count.to_le_bytes());
        put.bytes(&self.slot.0.to_le_bytes());
        put.bytes(&self.last.0.to_le_bytes());
        put.bytes(&self.ballot.epoch.0.to_le_bytes());
        put.bytes(&self.ballot.round.to_le_bytes());
        put.bytes(&self.under.epoch.0.to_le_bytes());
        put.bytes(&self.under.round.to_le_bytes());
        put.bytes(&self.ballot.node.0.to_le_bytes());
        put.bytes(&self.under.node.0.to_le_bytes());
        put.bytes(&self.hash);
        put.bytes(&self.predecessor);
        put.bytes(&(self.kind as u16).to_le_bytes());
        put.bytes(&[0; 2]);
        put.bytes(&HEADER_MARK);
        assert_eq!(put.at, HEADER_BYTES, "the header is as long as documented");
        let crc = crc32c::crc32c_append(salt.0, &out[4..]);
        out[..4].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads the header of the record at `offset` from either of its places.
    pub(crate) fn decode(bytes: &[u8], salt: Salt) -> Read {
        let Some(bytes) = bytes.first_chunk::<HEADER_BYTES>() else {
            return Read::Bad;
        };
        if is_zero(bytes) {
            return Read::Zero;
        }
        let crc = crc32c::crc32c_append(salt.0, &bytes[4..]);
        if crc.to_le_bytes() != bytes[..4] || bytes[124..] != HEADER_MARK {
            return Read::Bad;
        }
        let Some(kind) = Kind::from_number(u16_at(bytes, 120)) else {
            return Read::Bad;
        };
        Read::Valid(Self {
            kind,
            body_crc: u32_at(bytes, 4),
            length: u32_at(bytes, 8),
            offset: u32_at(bytes, 12),
            batch: u64_at(bytes, 16),
            index: u32_at(bytes, 24),
            count: u32_at(bytes, 28),
            slot: Slot(u64_at(bytes, 32)),
            last: Slot(u64_at(bytes, 40)),
            ballot: Ballot {
                epoch: Epoch(u64_at(bytes, 48)),
                round: u64_at(bytes, 56),
                node: MemberId(u32_at(bytes, 80)),
            },
            under: Ballot {
                epoch: Epoch(u64_at(bytes, 64)),
                round: u64_at(bytes, 72),
                node: MemberId(u32_at(bytes, 84)),
            },
            hash: hash_at(bytes, 88),
            predecessor: hash_at(bytes, PREDECESSOR_AT),
        })
    }

    /// Bytes of the whole record in its place, without the second copy of its header.
    pub(crate) fn record_bytes(&self) -> u64 {
        record_bytes(self.length)
    }

    /// Bytes of the body with its padding.
    pub(crate) fn padded_bytes(&self) -> usize {
        padded(self.length) as usize
    }

    /// The entry's header, for peers.
    pub(crate) fn entry_header(&self) -> synod_paxos::Header {
        synod_paxos::Header {
            slot: self.slot,
            ballot: self.ballot,
            hash: synod_paxos::EntryHash(self.hash),
        }
    }
}

fn padded(length: u32) -> u64 {
    u64::from(length).next_multiple_of(8)
}

/// Bytes of a record with a body of `length` bytes, without the second copy of its header.
pub(crate) fn record_bytes(length: u32) -> u64 {
    HEADER_BYTES as u64 + padded(length) + MARK_BYTES as u64
}

/// Hides or shows a padded body: see the module's last paragraph.
pub(crate) fn mask(padded: &mut [u8], hash: &Hash) {
    assert_eq!(padded.len() % 8, 0, "bodies are padded");
    let mut key = [0; 8];
    key.copy_from_slice(&hash[..8]);
    let key = u64::from_le_bytes(key);
    for word in padded.chunks_exact_mut(8) {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(word);
        word.copy_from_slice(&(u64::from_le_bytes(bytes) ^ key).to_le_bytes());
    }
}

/// Some of these bytes of a record, which begin at `offset` in their file, were never written.
pub(crate) fn is_unwritten(bytes: &[u8], offset: usize) -> bool {
    let Some(last) = bytes.last() else {
        return false;
    };
    if *last == 0 {
        return true;
    }
    let first = (SECTOR_BYTES - offset % SECTOR_BYTES).min(bytes.len());
    let (first, rest) = bytes.split_at(first);
    is_zero(first) || rest.chunks(SECTOR_BYTES).any(is_zero)
}

/// Nothing, or not all, of a header was written to this place, which begins at `offset` in its file.
/// A flipped bit where nothing was ever written does not count.
pub(crate) fn is_unwritten_header(bytes: &[u8], offset: usize) -> bool {
    assert_eq!(bytes.len(), HEADER_BYTES, "the place of a header");
    is_unwritten(bytes, offset) || is_zero(&bytes[PREDECESSOR_AT..PREDECESSOR_AT + 16])
}

/// A quick look before a checksum is worth its time.
pub(crate) fn ends_like_a_header(bytes: &[u8]) -> bool {
    bytes.ends_with(&HEADER_MARK)
}

pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    let mut words = bytes.chunks_exact(16);
    words.all(|word| word == [0; 16]) && words.remainder().iter().all(|byte| *byte == 0)
}

/// Hash that chains records.
pub(crate) fn hash(bytes: &[u8]) -> Hash {
    let mut out = [0; 16];
    out.copy_from_slice(&blake3::hash(bytes).as_bytes()[..16]);
    out
}

/// Writes fields one behind the other.
pub(crate) struct Put<'a> {
    pub(crate) bytes: &'a mut [u8],
    pub(crate) at: usize,
}

impl Put<'_> {
    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.bytes[self.at..self.at + bytes.len()].copy_from_slice(bytes);
        self.at += bytes.len();
    }
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut out = [0; 4];
    out.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(out)
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut out = [0; 8];
    out.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(out)
}

pub(crate) fn hash_at(bytes: &[u8], at: usize) -> Hash {
    let mut out = [0; 16];
    out.copy_from_slice(&bytes[at..at + 16]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> RecordHeader {
        RecordHeader {
            slot: Slot(1),
            last: Slot(2),
            ballot: Ballot {
                epoch: Epoch(3),
                round: 4,
                node: MemberId(5),
            },
            under: Ballot {
                epoch: Epoch(6),
                round: 7,
                node: MemberId(8),
            },
            hash: [9; 16],
            length: 10,
            body_crc: 11,
            offset: 12,
            batch: 13,
            index: 14,
            count: 15,
            predecessor: [16; 16],
            ..RecordHeader::new(Kind::Stage)
        }
    }

    #[test]
    fn a_header_reads_back_as_written() {
        let salt = Salt::new(Incarnation(7), 1);
        let bytes = sample().encode(salt);
        assert_eq!(RecordHeader::decode(&bytes, salt), Read::Valid(sample()));
    }

    #[test]
    fn a_header_of_another_segment_is_bad() {
        let bytes = sample().encode(Salt::new(Incarnation(7), 1));
        let other = Salt::new(Incarnation(7), 2);
        assert_eq!(RecordHeader::decode(&bytes, other), Read::Bad);
    }

    #[test]
    fn each_changed_bit_of_a_header_is_noticed() {
        let salt = Salt::new(Incarnation(7), 1);
        for bit in 0..HEADER_BYTES * 8 {
            let mut bytes = sample().encode(salt);
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(RecordHeader::decode(&bytes, salt), Read::Bad, "bit {bit}");
        }
    }

    #[test]
    fn masking_twice_gives_the_body_back_and_leaves_no_zero_word() {
        let mut body = vec![0; 1024];
        mask(&mut body, &[0x5A; 16]);
        assert!(!is_unwritten(&body, 512), "zeros are hidden");
        mask(&mut body, &[0x5A; 16]);
        assert!(is_zero(&body));
    }
}
