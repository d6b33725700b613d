//! The ledger: what this member's app was sent, in one small file that survives the death of our
//! process. It is not synced, so it says nothing of that after the machine itself went down; it carries
//! the machine's boot id, by which that is seen. What it says of the app's state as such ([`Kept`]) is in
//! both cells and synced before anything else is done.
//!
//! Two cells are written in turn; the one with the higher sequence counts. A write of one cell is
//! not cut in half by the death of the process, so a cell with bytes that do not decode is damage.
//! It may have been the newest, and the one before may not know of a slot that was sent: then
//! nothing is known. One cell, little endian: magic (4), version (2), flags (2), sequence (8), machine boot (16), incarnation
//! (16), instance (8), applied (8), numbers of slots in flight and of slots done above `applied`
//! (1 + 1), unused (6), up to 7 x in flight (slot 8, attempt 4), up to 11 x done (8), unused (4),
//! checksum (8). A serial apply has at most one slot in flight and none done above `applied`; with
//! flag 4 the history is in that place: admitted, answered, sent and forgotten (8 each). Behind that the
//! first slot that differs (8), with flag 8, and the revision of the app (8).

use std::fs::{File, OpenOptions};
use std::io;
use std::num::NonZeroU64;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use synod_failpoint::{Point, check};
use synod_paxos::{Incarnation, Slot};

use crate::app::Instance;

/// Under the data folder.
const FILE: &str = "ledger";
const CELL: usize = 256;
/// Distance of the two cells: never in one sector.
const STRIDE: u64 = 4_096;
const MAGIC: [u8; 4] = *b"SYNL";
const VERSION: u16 = 1;
const CHECKSUM_AT: usize = CELL - 8;
const IN_FLIGHT_AT: usize = 72;
const FLAG_UNKNOWN: u16 = 1;
const FLAG_ROLLBACK: u16 = 2;
/// The history is where slots done would be.
const FLAG_HISTORY: u16 = 4;
/// The first slot that differs is behind the history.
const FLAG_ASTRAY: u16 = 8;
const FLAG_STANDS: u16 = 16;
const KNOWN_FLAGS: u16 = FLAG_UNKNOWN | FLAG_ROLLBACK | FLAG_HISTORY | FLAG_ASTRAY | FLAG_STANDS;
const DONE_AT: usize = 156;
const ASTRAY_AT: usize = DONE_AT + 32;
const REVISION_AT: usize = ASTRAY_AT + 8;
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// What is known about the app's state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// The instance that was, or may have been, sent anything; `None`: nothing was sent to any.
    pub instance: Option<Instance>,
    /// It has executed all slots up to here, if it still is that instance.
    pub applied: Slot,
    /// Sent, perhaps in part, and no complete response came.
    pub in_flight: Option<InFlight>,
    /// The state of that instance is not known for another reason.
    pub unknown: bool,
    /// The app's volume must be put back to a snapshot before anything is known again.
    pub rollback: bool,
    /// The state of that instance was found to differ from other copies' from this slot on, as of
    /// which nobody vouches for it.
    pub astray: Option<Slot>,
    /// Therefore nothing is executed upon it any more.
    pub stands: bool,
    /// The revision of the app that has, or had, this state (rule V1).
    pub revision: u64,
    /// What was done by whatever instance; `None` in a record of an earlier version.
    pub history: Option<History>,
}

/// What a member remembers beyond its app's present state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct History {
    /// The log was known up to here, with all that it says about slots before (rule K2).
    pub admitted: Slot,
    /// All up to here was executed once, and may have been answered.
    pub answered: Slot,
    /// The highest slot that was ever sent.
    pub sent: Slot,
    /// Beyond that, slots up to here may have been sent by lives that nothing is known of.
    pub forgotten: Slot,
}

impl Default for History {
    /// Of a member that knows nothing of its earlier lives.
    fn default() -> Self {
        Self {
            admitted: Slot::ZERO,
            answered: Slot::ZERO,
            sent: Slot::ZERO,
            forgotten: Slot(u64::MAX),
        }
    }
}

/// A slot that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InFlight {
    /// Which.
    pub slot: Slot,
    /// For the how-manieth time, from 1.
    pub attempt: u32,
}

/// What a start finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// No ledger, and this is the first life of this log: nothing was ever sent.
    New,
    /// No ledger of this log, or a damaged one: nothing is known.
    Missing,
    /// The machine has started since it was written: nothing that runs now was sent anything.
    OtherBoot(Kept),
    /// It is exact.
    Record(Record),
}

/// What is known even after the machine went down: of the state that the app had, or of one before it that
/// was still on the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// [`Record::astray`].
    pub astray: Option<Slot>,
    /// [`Record::stands`].
    pub stands: bool,
    /// [`Record::revision`].
    pub revision: u64,
}

/// Why the ledger cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The file.
    #[error("cannot {what} the ledger {path}: {error}; check the volume and its permissions")]
    File {
        /// What was being done.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// The machine's boot id.
    #[error("cannot read this machine's boot id from {BOOT_ID}: {0}; members need Linux's /proc")]
    BootId(String),
}

/// The open file.
#[derive(Debug)]
pub struct Ledger {
    file: File,
    path: PathBuf,
    machine: [u8; 16],
    incarnation: Incarnation,
    sequence: u64,
    /// This is in both cells, on the disk.
    kept: Option<Kept>,
}

impl Record {
    /// Of this, what is known even after the machine went down.
    pub fn kept(&self) -> Kept {
        Kept {
            astray: self.astray,
            stands: self.stands,
            revision: self.revision,
        }
    }
}

impl Ledger {
    /// Opens or makes the ledger in the data folder and says what it knows.
    pub fn open(data: &Path, incarnation: Incarnation) -> Result<(Self, Found), LedgerError> {
        let text = std::fs::read_to_string(BOOT_ID)
            .map_err(|error| LedgerError::BootId(error.to_string()))?;
        let machine = uuid::Uuid::parse_str(text.trim())
            .map_err(|error| LedgerError::BootId(error.to_string()))?;
        Self::open_on(data, incarnation, machine.into_bytes())
    }

    fn open_on(
        data: &Path,
        incarnation: Incarnation,
        machine: [u8; 16],
    ) -> Result<(Self, Found), LedgerError> {
        let path = data.join(FILE);
        let failed = |what| {
            let path = path.clone();
            move |error| LedgerError::File { what, path, error }
        };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(failed("open"))?;
        let mut newest: Option<Cell> = None;
        let mut damaged = false;
        for at in [0, STRIDE] {
            let bytes = read_cell(&file, at).map_err(failed("read"))?;
            match Cell::decode(&bytes) {
                Some(cell) => {
                    if newest
                        .as_ref()
                        .is_none_or(|newest| cell.sequence > newest.sequence)
                    {
                        newest = Some(cell);
                    }
                }
                None => damaged |= bytes != [0; CELL],
            }
        }
        if damaged {
            tracing::warn!(path = %path.display(), "the ledger is damaged: it says nothing");
        }
        // The next write goes where the damage is, if one cell is whole.
        let sequence = newest.as_ref().map_or(0, |cell| cell.sequence);
        let found = match newest {
            _ if damaged => Found::Missing,
            Some(cell) if cell.incarnation != incarnation => Found::Missing,
            Some(cell) if cell.machine != machine => Found::OtherBoot(cell.record.kept()),
            Some(cell) => Found::Record(cell.record),
            None => Found::Missing,
        };
        let ledger = Self {
            file,
            path,
            machine,
            incarnation,
            sequence,
            // A process may have ended before both were on the disk.
            kept: None,
        };
        Ok((ledger, found))
    }

    /// From which slot on the copy was found to differ from others and was not made anew since, as the last
    /// record says, also after a start of the machine.
    pub fn noted_astray(data: &Path, incarnation: Incarnation) -> io::Result<Option<Slot>> {
        let file = match File::open(data.join(FILE)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut newest: Option<Cell> = None;
        for at in [0, STRIDE] {
            let cell = Cell::decode(&read_cell(&file, at)?);
            let cell = cell.filter(|it| it.incarnation == incarnation);
            newest = newest.into_iter().chain(cell).max_by_key(|it| it.sequence);
        }
        Ok(newest.and_then(|it| it.record.astray))
    }

    /// From here on, the record survives the death of this process, and [`Record::kept`] that of the machine.
    pub fn write(&mut self, record: &Record) -> Result<(), LedgerError> {
        self.write_cell(record)?;
        let kept = Some(record.kept());
        if self.kept != kept {
            self.write_cell(record)?;
            self.file.sync_all().map_err(|error| LedgerError::File {
                what: "sync",
                path: self.path.clone(),
                error,
            })?;
            self.kept = kept;
        }
        Ok(())
    }

    fn write_cell(&mut self, record: &Record) -> Result<(), LedgerError> {
        self.sequence += 1;
        let cell = Cell {
            sequence: self.sequence,
            machine: self.machine,
            incarnation: self.incarnation,
            record: *record,
        };
        let bytes = cell.encode();
        assert_eq!(
            Cell::decode(&bytes).as_ref(),
            Some(&cell),
            "what is written can be read"
        );
        let at = (self.sequence % 2) * STRIDE;
        check(Point::ApplyBeforeLedger)
            .and_then(|()| self.file.write_all_at(&bytes, at))
            .map_err(|error| LedgerError::File {
                what: "write",
                path: self.path.clone(),
                error,
            })
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Cell {
    sequence: u64,
    machine: [u8; 16],
    incarnation: Incarnation,
    record: Record,
}

impl Cell {
    fn encode(&self) -> [u8; CELL] {
        let mut bytes = [0; CELL];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        let record = &self.record;
        put(0, &MAGIC);
        put(4, &VERSION.to_le_bytes());
        let flags = [
            (record.unknown, FLAG_UNKNOWN),
            (record.rollback, FLAG_ROLLBACK),
            (record.history.is_some(), FLAG_HISTORY),
            (record.astray.is_some(), FLAG_ASTRAY),
            (record.stands, FLAG_STANDS),
        ];
        let flags = flags.iter().filter(|(set, _)| *set);
        let flags = flags.fold(0, |all, (_, flag)| all | flag);
        put(6, &flags.to_le_bytes());
        put(8, &self.sequence.to_le_bytes());
        put(16, &self.machine);
        put(32, &self.incarnation.0.to_le_bytes());
        let instance = record.instance.map_or(0, |instance| instance.0.get());
        put(48, &instance.to_le_bytes());
        put(56, &record.applied.0.to_le_bytes());
        if let Some(in_flight) = record.in_flight {
            put(64, &[1]);
            put(IN_FLIGHT_AT, &in_flight.slot.0.to_le_bytes());
            put(IN_FLIGHT_AT + 8, &in_flight.attempt.to_le_bytes());
        }
        if let Some(history) = record.history {
            put(DONE_AT, &history.admitted.0.to_le_bytes());
            put(DONE_AT + 8, &history.answered.0.to_le_bytes());
            put(DONE_AT + 16, &history.sent.0.to_le_bytes());
            put(DONE_AT + 24, &history.forgotten.0.to_le_bytes());
        }
        if let Some(astray) = record.astray {
            put(ASTRAY_AT, &astray.0.to_le_bytes());
        }
        put(REVISION_AT, &record.revision.to_le_bytes());
        let sum = checksum(&bytes);
        bytes[CHECKSUM_AT..].copy_from_slice(&sum);
        bytes
    }

    fn decode(bytes: &[u8; CELL]) -> Option<Self> {
        let u64_at = |at: usize| u64::from_le_bytes(array(bytes, at));
        let whole = array::<4>(bytes, 0) == MAGIC
            && u16::from_le_bytes(array(bytes, 4)) == VERSION
            && array::<8>(bytes, CHECKSUM_AT) == checksum(bytes);
        if !whole {
            return None;
        }
        let (in_flight, done) = (bytes[64], bytes[65]);
        let first = InFlight {
            slot: Slot(u64_at(IN_FLIGHT_AT)),
            attempt: u32::from_le_bytes(array(bytes, IN_FLIGHT_AT + 8)),
        };
        let flags = u16::from_le_bytes(array(bytes, 6));
        Some(Self {
            sequence: u64_at(8),
            machine: array(bytes, 16),
            incarnation: Incarnation(u128::from_le_bytes(array(bytes, 32))),
            record: Record {
                instance: NonZeroU64::new(u64_at(48)).map(Instance),
                applied: Slot(u64_at(56)),
                in_flight: (in_flight > 0).then_some(first),
                // What a serial apply never wrote is no state that it could go on from.
                unknown: flags & FLAG_UNKNOWN != 0
                    || flags & !KNOWN_FLAGS != 0
                    || in_flight > 1
                    || done > 0,
                rollback: flags & FLAG_ROLLBACK != 0,
                stands: flags & FLAG_STANDS != 0,
                astray: (flags & FLAG_ASTRAY != 0).then(|| Slot(u64_at(ASTRAY_AT))),
                revision: u64_at(REVISION_AT),
                history: (flags & FLAG_HISTORY != 0).then(|| History {
                    admitted: Slot(u64_at(DONE_AT)),
                    answered: Slot(u64_at(DONE_AT + 8)),
                    sent: Slot(u64_at(DONE_AT + 16)),
                    forgotten: Slot(u64_at(DONE_AT + 24)),
                }),
            },
        })
    }
}

/// The bytes of one cell; zeros where nothing was ever written.
fn read_cell(file: &File, at: u64) -> io::Result<[u8; CELL]> {
    let mut bytes = [0; CELL];
    let mut filled = 0;
    while filled < CELL {
        match file.read_at(&mut bytes[filled..], at + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(bytes)
}

fn array<const N: usize>(bytes: &[u8; CELL], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

fn checksum(bytes: &[u8; CELL]) -> [u8; 8] {
    let mut sum = [0; 8];
    sum.copy_from_slice(&blake3::hash(&bytes[..CHECKSUM_AT]).as_bytes()[..8]);
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFE: Incarnation = Incarnation(7);

    fn instance(number: u64) -> Option<Instance> {
        NonZeroU64::new(number).map(Instance)
    }

    fn record(applied: u64, in_flight: Option<(u64, u32)>) -> Record {
        Record {
            instance: instance(99),
            applied: Slot(applied),
            in_flight: in_flight.map(|(slot, attempt)| InFlight {
                slot: Slot(slot),
                attempt,
            }),
            unknown: false,
            rollback: false,
            astray: None,
            stands: false,
            revision: 0,
            history: Some(History {
                admitted: Slot(applied + 3),
                answered: Slot(applied + 2),
                sent: Slot(applied + 1),
                forgotten: Slot(applied + 4),
            }),
        }
    }

    fn open(data: &Path, machine: u8) -> (Ledger, Found) {
        Ledger::open_on(data, LIFE, [machine; 16]).unwrap()
    }

    #[test]
    fn the_last_record_written_is_found_by_the_next_process() {
        let data = tempfile::tempdir().unwrap();
        let (mut ledger, found) = open(data.path(), 1);
        assert_eq!(found, Found::Missing);
        for written in [
            record(1, None),
            record(1, Some((2, 1))),
            record(2, Some((3, 4))),
            Record::default(),
            Record {
                unknown: true,
                ..record(3, None)
            },
            Record {
                rollback: true,
                ..record(4, None)
            },
            Record {
                astray: Some(Slot(3)),
                stands: true,
                revision: 3,
                ..record(5, None)
            },
            Record {
                revision: u64::MAX - 1,
                ..record(6, None)
            },
        ] {
            ledger.write(&written).unwrap();
            assert_eq!(open(data.path(), 1).1, Found::Record(written));
        }
    }

    #[test]
    fn a_record_of_before_the_machine_started_says_nothing() {
        let data = tempfile::tempdir().unwrap();
        open(data.path(), 1).0.write(&record(5, None)).unwrap();
        let (mut ledger, found) = open(data.path(), 2);
        assert_eq!(found, Found::OtherBoot(Kept::default()));
        ledger.write(&record(6, None)).unwrap();
        assert_eq!(open(data.path(), 2).1, Found::Record(record(6, None)));
    }

    #[test]
    fn what_a_state_is_worth_is_known_whichever_cell_the_machine_has_lost() {
        let data = tempfile::tempdir().unwrap();
        let path = data.path().join("ledger");
        let (mut ledger, _) = open(data.path(), 1);
        let mut written = record(5, None);
        for (astray, stands, revision) in [
            (Some(Slot(3)), false, 0),
            (Some(Slot(3)), true, 0),
            (None, false, 0),
            (None, false, 4),
        ] {
            ledger.write(&written).unwrap();
            written = Record {
                astray,
                stands,
                revision,
                ..written
            };
            ledger.write(&written).unwrap();
            let whole = std::fs::read(&path).unwrap();
            for at in [0, STRIDE as usize] {
                let mut bytes = whole.clone();
                bytes[at..at + CELL].fill(0);
                std::fs::write(&path, &bytes).unwrap();
                assert_eq!(open(data.path(), 2).1, Found::OtherBoot(written.kept()));
            }
            std::fs::write(&path, &whole).unwrap();
        }
    }

    #[test]
    fn a_record_of_another_life_of_the_log_says_nothing() {
        let data = tempfile::tempdir().unwrap();
        open(data.path(), 1).0.write(&record(5, None)).unwrap();
        let (_, found) = Ledger::open_on(data.path(), Incarnation(8), [1; 16]).unwrap();
        assert_eq!(found, Found::Missing);
    }

    #[test]
    fn with_any_byte_of_either_record_flipped_nothing_is_known() {
        let data = tempfile::tempdir().unwrap();
        let (mut ledger, _) = open(data.path(), 1);
        ledger.write(&record(1, None)).unwrap();
        ledger.write(&record(1, Some((2, 1)))).unwrap();
        let path = data.path().join("ledger");
        let good = std::fs::read(&path).unwrap();
        for at in (0..CELL).flat_map(|at| [at, at + STRIDE as usize]) {
            let mut bytes = good.clone();
            bytes[at] ^= 0x40;
            std::fs::write(&path, &bytes).unwrap();
            assert_eq!(open(data.path(), 1).1, Found::Missing, "byte {at}");
        }
        std::fs::write(&path, &good[..good.len() - 1]).unwrap();
        assert_eq!(open(data.path(), 1).1, Found::Missing, "cut off");
    }

    #[test]
    fn a_record_written_after_damage_is_found() {
        let data = tempfile::tempdir().unwrap();
        let (mut ledger, _) = open(data.path(), 1);
        ledger.write(&record(1, None)).unwrap();
        ledger.write(&record(2, None)).unwrap();
        let path = data.path().join("ledger");
        let good = std::fs::read(&path).unwrap();
        for at in [100, 100 + STRIDE as usize] {
            let mut bytes = good.clone();
            bytes[at] ^= 0x40;
            std::fs::write(&path, &bytes).unwrap();
            let (mut ledger, found) = open(data.path(), 1);
            assert_eq!(found, Found::Missing);
            ledger.write(&record(3, None)).unwrap();
            assert_eq!(open(data.path(), 1).1, Found::Record(record(3, None)));
        }
    }

    #[test]
    fn nothing_readable_is_a_missing_ledger() {
        let data = tempfile::tempdir().unwrap();
        std::fs::write(data.path().join("ledger"), vec![0xff; 9_000]).unwrap();
        assert_eq!(open(data.path(), 1).1, Found::Missing);
    }

    #[test]
    fn that_a_copy_differs_is_known_before_anything_is_begun_also_after_a_start_of_the_machine() {
        let data = tempfile::tempdir().unwrap();
        let noted = |life| Ledger::noted_astray(data.path(), life).unwrap();
        assert_eq!(noted(LIFE), None, "there is no ledger");
        let (mut ledger, _) = Ledger::open_on(data.path(), LIFE, [1; 16]).unwrap();
        assert_eq!(noted(LIFE), None);
        for astray in [Some(Slot(7)), None, Some(Slot(9)), Some(Slot(9))] {
            let record = Record {
                astray,
                ..Record::default()
            };
            ledger.write(&record).unwrap();
            assert_eq!(noted(LIFE), astray);
            assert_eq!(noted(Incarnation(8)), None, "another member's");
        }
    }

    #[test]
    fn this_machine_has_a_boot_id() {
        let data = tempfile::tempdir().unwrap();
        assert!(Ledger::open(data.path(), LIFE).is_ok());
    }
}
