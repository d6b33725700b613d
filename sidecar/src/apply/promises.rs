//! What this member has promised about slots that a leader asks about (rule K1), on disk: a small file,
//! synced before anybody is told, as votes are. A promise that was lost would be broken.
//!
//! The whole file is written anew at each change, under another name first. Little endian: magic (4),
//! version (2), zero (2), incarnation (16), number of promises (4), zero (4), for each: slot (8), epoch,
//! round, node (8, 8, 4) and number (8) of the ask, zero (4); checksum (8).

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use synod_failpoint::{Point, check};
use synod_paxos::{Ballot, Epoch, Incarnation, MemberId, Slot};

use super::machine::Ask;

const MAGIC: [u8; 4] = *b"SYNP";
const VERSION: u16 = 1;
const HEAD: usize = 32;
const PROMISE: usize = 40;
const CHECKSUM: usize = 8;

/// Why promises cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum PromisesError {
    /// The file.
    #[error("cannot {what} the promises {path}: {error}; check the volume and its permissions")]
    File {
        /// What was being done.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// Nobody knows what was promised.
    #[error(
        "the promises {0} are damaged: this member does not know which requests it must not execute; \
         replace it by a member with an empty disk"
    )]
    Damaged(PathBuf),
}

/// The file. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Promises {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    incarnation: Incarnation,
    /// Number of the set of promises that is on disk.
    saved: Mutex<u64>,
}

// === impl Promises ===

impl Promises {
    /// What the file in the data folder holds, in slot order. That of another life of the log holds
    /// nothing: that was another member.
    pub(super) fn open(
        data: &Path,
        incarnation: Incarnation,
    ) -> Result<(Self, Vec<Ask>), PromisesError> {
        let path = data.join("promises");
        let found = match std::fs::read(&path) {
            Ok(bytes) => match decode(&bytes) {
                Some((of, asks)) if of == incarnation => asks,
                Some(_) => Vec::new(),
                None => return Err(PromisesError::Damaged(path)),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => {
                let what = "read";
                return Err(PromisesError::File { what, path, error });
            }
        };
        let inner = Inner {
            path,
            incarnation,
            saved: Mutex::default(),
        };
        let inner = Arc::new(inner);
        Ok((Self { inner }, found))
    }

    /// All of these are on disk when it returns, or what was promised later. `number` counts the sets:
    /// one that is overtaken is not written. Blocks.
    pub(super) fn save(&self, number: u64, asks: &[Ask]) -> Result<(), PromisesError> {
        let inner = &self.inner;
        let mut saved = inner.saved.lock().unwrap_or_else(PoisonError::into_inner);
        if *saved >= number {
            return Ok(());
        }
        let written = write(&inner.path, &encode(inner.incarnation, asks));
        written.map_err(|error| PromisesError::File {
            what: "write",
            path: inner.path.clone(),
            error,
        })?;
        *saved = number;
        Ok(())
    }
}

/// In place of what was there, all or nothing.
fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().expect("a file in the data folder");
    let other = path.with_extension("new");
    let mut options = File::options();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = options.open(&other)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    check(Point::PromiseWritten)?;
    std::fs::rename(&other, path)?;
    check(Point::PromiseRenamed)?;
    File::open(folder)?.sync_all()
}

fn encode(incarnation: Incarnation, asks: &[Ask]) -> Vec<u8> {
    let count = u32::try_from(asks.len()).expect("few slots are asked about");
    let mut bytes = Vec::with_capacity(HEAD + asks.len() * PROMISE + CHECKSUM);
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&[0; 2]);
    bytes.extend_from_slice(&incarnation.0.to_le_bytes());
    bytes.extend_from_slice(&count.to_le_bytes());
    bytes.extend_from_slice(&[0; 4]);
    for ask in asks {
        let Ask {
            slot,
            ballot,
            number,
        } = ask;
        for value in [slot.0, ballot.epoch.0, ballot.round] {
            bytes.extend_from_slice(&value.to_le_bytes());
        }
        bytes.extend_from_slice(&ballot.node.0.to_le_bytes());
        bytes.extend_from_slice(&number.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
    }
    let sum = checksum(&bytes);
    bytes.extend_from_slice(&sum);
    bytes
}

fn decode(bytes: &[u8]) -> Option<(Incarnation, Vec<Ask>)> {
    let (content, sum) = bytes.split_at_checked(bytes.len().checked_sub(CHECKSUM)?)?;
    let (head, promises) = content.split_at_checked(HEAD)?;
    let count = u32::from_le_bytes(array(head, 24));
    let whole = sum == checksum(content)
        && array::<4>(head, 0) == MAGIC
        && u16::from_le_bytes(array(head, 4)) == VERSION
        && promises.len() == count as usize * PROMISE;
    if !whole {
        return None;
    }
    let asks = promises.chunks_exact(PROMISE).map(|it| {
        let number = |at| u64::from_le_bytes(array(it, at));
        Ask {
            slot: Slot(number(0)),
            ballot: Ballot {
                epoch: Epoch(number(8)),
                round: number(16),
                node: MemberId(u32::from_le_bytes(array(it, 24))),
            },
            number: number(28),
        }
    });
    let incarnation = Incarnation(u128::from_le_bytes(array(head, 8)));
    Some((incarnation, asks.collect()))
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

fn checksum(bytes: &[u8]) -> [u8; CHECKSUM] {
    array(blake3::hash(bytes).as_bytes(), 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFE: Incarnation = Incarnation(7 << 90);

    fn asks() -> Vec<Ask> {
        let ask = |slot, number| Ask {
            slot: Slot(slot),
            ballot: Ballot {
                epoch: Epoch(3),
                round: 1 << 40,
                node: MemberId(9),
            },
            number,
        };
        vec![ask(5, 1), ask(1 << 50, 1 << 33)]
    }

    #[test]
    fn what_was_saved_last_is_found_by_the_next_process_and_by_no_other_member() {
        let data = tempfile::tempdir().unwrap();
        let (promises, found) = Promises::open(data.path(), LIFE).unwrap();
        assert_eq!(found, []);
        for (number, saved) in (1..).zip([&asks()[..], &asks()[..1], &[]]) {
            promises.save(number, saved).unwrap();
            let (_, found) = Promises::open(data.path(), LIFE).unwrap();
            assert_eq!(found, saved);
        }
        promises.save(4, &asks()).unwrap();
        let (_, found) = Promises::open(data.path(), Incarnation(1)).unwrap();
        assert_eq!(found, []);
    }

    #[test]
    fn a_set_that_is_overtaken_does_not_undo_a_later_one() {
        let data = tempfile::tempdir().unwrap();
        let (promises, _) = Promises::open(data.path(), LIFE).unwrap();
        promises.save(2, &asks()).unwrap();
        promises.save(1, &[]).unwrap();
        assert_eq!(Promises::open(data.path(), LIFE).unwrap().1, asks());
    }

    #[test]
    fn a_file_that_does_not_say_what_was_promised_ends_the_start() {
        let data = tempfile::tempdir().unwrap();
        let (promises, _) = Promises::open(data.path(), LIFE).unwrap();
        promises.save(1, &asks()).unwrap();
        let path = data.path().join("promises");
        let good = std::fs::read(&path).unwrap();
        let mut bad: Vec<Vec<u8>> = (0..good.len()).map(|at| good[..at].to_vec()).collect();
        for at in 0..good.len() {
            let mut bytes = good.clone();
            bytes[at] ^= 0x10;
            bad.push(bytes);
        }
        for bytes in bad {
            std::fs::write(&path, &bytes).unwrap();
            let opened = Promises::open(data.path(), LIFE);
            assert!(matches!(opened, Err(PromisesError::Damaged(_))));
        }
        std::fs::write(&path, &good).unwrap();
        assert_eq!(Promises::open(data.path(), LIFE).unwrap().1, asks());
    }

    #[test]
    fn a_write_that_was_cut_short_leaves_what_was_there() {
        let data = tempfile::tempdir().unwrap();
        let (promises, _) = Promises::open(data.path(), LIFE).unwrap();
        promises.save(1, &asks()).unwrap();
        std::fs::write(data.path().join("promises.new"), b"SYN").unwrap();
        let (promises, found) = Promises::open(data.path(), LIFE).unwrap();
        assert_eq!(found, asks());
        promises.save(1, &asks()[..1]).unwrap();
        assert_eq!(Promises::open(data.path(), LIFE).unwrap().1, asks()[..1]);
    }
}
