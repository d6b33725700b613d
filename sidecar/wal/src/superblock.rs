//! `promised`, `accepted` and `boot`, kept besides the log in two files (rule W1), each one page
//! long with magic `SYNODSTA`: incarnation (16 bytes), boot (8), promised and accepted (epoch 8,
//! round 8, node 4 each), name (length 2, bytes); at 344 how many segments were
//! begun behind the first (8), which earlier programs left at 0. Nothing else tells that the last is missing.
//!
//! Only one of the two is written at a time, so a crash damages at most one. What counts is the
//! caller's matter: see [`Superblock::merge`].

use std::io;
use std::sync::Arc;

use synod_failpoint::{Point, check, hit};
use synod_paxos::{Ballot, Boot, Epoch, Identity, Incarnation, MemberId};

use crate::disk::{Disk, DiskFile};
use crate::error::OpenError;
use crate::format::{PAGE_BYTES, Put, SECTOR_BYTES, VERSION, hash_at, is_zero, u32_at, u64_at};
use crate::page::{FIELDS_AT, Page, PageError, name_at, put_name, seal, unseal};

const MAGIC: [u8; 8] = *b"SYNODSTA";
const NAMES: [&str; 2] = ["state-a", "state-b"];
/// Behind the longest name.
const LATER_SEGMENTS_AT: usize = 344;

/// What one copy says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Superblock {
    pub(crate) identity: Identity,
    pub(crate) boot: Boot,
    pub(crate) promised: Ballot,
    pub(crate) accepted: Ballot,
    /// Version of the format that the log needs.
    pub(crate) format: u32,
    /// So many segments were begun behind the first, and perhaps one more.
    pub(crate) later_segments: u64,
}

/// The two files.
#[derive(Debug)]
pub(crate) struct Superblocks {
    /// In the order in which they are to be written: a bad one first.
    files: [Arc<dyn DiskFile>; 2],
}

/// What a start finds.
#[derive(Debug)]
pub(crate) struct Found {
    /// The copies that can be read, none, one or two.
    pub(crate) copies: Vec<Superblock>,
    /// At least one file was ever written.
    pub(crate) any: bool,
}

// === impl Superblock ===

impl Superblock {
    /// The greater of each: two copies differ only when a start or a write was cut short.
    pub(crate) fn merge(copies: &[Self]) -> Option<Self> {
        copies.iter().cloned().reduce(|a, b| Self {
            identity: a.identity,
            boot: a.boot.max(b.boot),
            promised: a.promised.max(b.promised),
            accepted: a.accepted.max(b.accepted),
            format: a.format.max(b.format),
            later_segments: a.later_segments.max(b.later_segments),
        })
    }

    fn encode(&self) -> Page {
        let mut page = [0; SECTOR_BYTES];
        let mut put = Put {
            bytes: &mut page,
            at: FIELDS_AT,
        };
        put.bytes(&self.identity.incarnation.0.to_le_bytes());
        put.bytes(&self.boot.0.to_le_bytes());
        for ballot in [self.promised, self.accepted] {
            put.bytes(&ballot.epoch.0.to_le_bytes());
            put.bytes(&ballot.round.to_le_bytes());
            put.bytes(&ballot.node.0.to_le_bytes());
        }
        put_name(&mut put, &self.identity.name);
        put.at = LATER_SEGMENTS_AT;
        put.bytes(&self.later_segments.to_le_bytes());
        seal(&mut page, MAGIC, self.format);
        page
    }

    fn decode(page: &Page) -> Result<Self, PageError> {
        let format = unseal(page, MAGIC)?;
        let ballot_at = |at| Ballot {
            epoch: Epoch(u64_at(page, at)),
            round: u64_at(page, at + 8),
            node: MemberId(u32_at(page, at + 16)),
        };
        Ok(Self {
            identity: Identity {
                incarnation: Incarnation(u128::from_le_bytes(hash_at(page, 16))),
                name: name_at(page, 80)?,
            },
            boot: Boot(u64_at(page, 32)),
            promised: ballot_at(40),
            accepted: ballot_at(60),
            format,
            later_segments: u64_at(page, LATER_SEGMENTS_AT),
        })
    }
}

// === impl Superblocks ===

impl Superblocks {
    /// Reads the copies that are there and can be read.
    pub(crate) fn find(disk: &dyn Disk, names: &[String]) -> Result<Found, OpenError> {
        let mut found = Found {
            copies: Vec::new(),
            any: false,
        };
        for name in NAMES {
            if !names.iter().any(|found| found == name) {
                continue;
            }
            let file = disk
                .open(name)
                .map_err(OpenError::io("opening the log's state"))?;
            let copy = read(file.as_ref());
            found.any |= copy.is_some();
            let Some(copy) = copy else { continue };
            match copy {
                Ok(copy) => found.copies.push(copy),
                Err(PageError::Version(version)) => {
                    return Err(OpenError::UnknownVersion {
                        found: version,
                        known: VERSION,
                    });
                }
                Err(PageError::Bad) => {
                    tracing::warn!(file = name, "a copy of the log's state is damaged");
                }
            }
        }
        Ok(found)
    }

    /// Opens both files, making those that are missing.
    pub(crate) fn open(disk: &dyn Disk, names: &[String]) -> io::Result<Self> {
        let mut files = Vec::with_capacity(NAMES.len());
        for name in NAMES {
            if names.iter().any(|found| found == name) {
                let file = disk.open(name)?;
                if file.size()? >= SECTOR_BYTES as u64 {
                    files.push(file);
                    continue;
                }
                // Cut short: it holds nothing, and has no room for it.
                disk.remove(name)?;
            }
            files.push(disk.create(name, PAGE_BYTES)?);
        }
        disk.sync_dir()?;
        let [a, b] = [files.remove(0), files.remove(0)];
        let b_is_good = matches!(read(b.as_ref()), Some(Ok(_)));
        let files = if b_is_good { [a, b] } else { [b, a] };
        Ok(Self { files })
    }

    /// Writes and syncs one, then the other.
    pub(crate) fn write(&self, value: &Superblock) -> io::Result<()> {
        assert!(value.accepted <= value.promised, "invariant I2");
        let page = value.encode();
        for (file, before) in self
            .files
            .iter()
            .zip([Point::WalBeforeState, Point::WalStateHalf])
        {
            check(before)?;
            file.write_all_at(&page, 0)?;
            file.sync_data()?;
        }
        hit(Point::WalAfterState);
        Ok(())
    }
}

/// `None`: made, but never written.
fn read(file: &dyn DiskFile) -> Option<Result<Superblock, PageError>> {
    let mut page = [0; SECTOR_BYTES];
    // A sector that cannot be read is as lost as one that reads wrong.
    if file.read_exact_at(&mut page, 0).is_err() {
        return Some(Err(PageError::Bad));
    }
    (!is_zero(&page)).then(|| Superblock::decode(&page))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_reads_back_as_written_and_each_changed_byte_is_noticed() {
        let ballot = |round| Ballot {
            epoch: Epoch(1),
            round,
            node: MemberId(2),
        };
        let value = Superblock {
            identity: Identity {
                name: "n".repeat(255),
                incarnation: Incarnation(1 << 100),
            },
            boot: Boot(3),
            promised: ballot(9),
            accepted: ballot(8),
            format: VERSION,
            later_segments: 7,
        };
        assert_eq!(Superblock::decode(&value.encode()), Ok(value.clone()));
        for at in 0..SECTOR_BYTES {
            let mut page = value.encode();
            page[at] ^= 1;
            assert_eq!(Superblock::decode(&page), Err(PageError::Bad), "byte {at}");
        }
    }
}
