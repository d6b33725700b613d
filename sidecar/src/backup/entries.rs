//! The file `entries`: agreed entries in slot order.
//!
//! ```text
//! "SYNODBK1"
//! then for each entry:  length  u32, little-endian
//!                       crc32c  u32, little-endian, over the bytes that follow
//!                       bytes   synod.v1.Entry
//! ```

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use prost::Message;
use synod_paxos::{AgreedTime, Entry, Slot};
use synod_proto::v1;

use crate::node::wire;

const MAGIC: &[u8; 8] = b"SYNODBK1";
/// More than any entry has, in bytes: what says more is damaged.
const MAX_ENTRY_BYTES: u32 = 1 << 30;

/// Why entries could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum EntriesError {
    /// The file system said no.
    #[error("the file of entries: {0}")]
    Io(#[from] io::Error),
    /// It does not hold what it should.
    #[error("the file of entries is damaged at slot {slot}: {what}")]
    Damaged {
        /// The slot that was expected there.
        slot: Slot,
        /// What is wrong.
        what: &'static str,
    },
}

/// What is in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// The last slot; `None`: there is no entry.
    pub through: Option<Slot>,
    /// Agreed time of that.
    pub time: AgreedTime,
    /// Over the whole file.
    pub hash: blake3::Hash,
    /// Size of the file.
    pub bytes: u64,
}

/// Writes a file.
pub(super) struct Writer {
    file: BufWriter<File>,
    hash: blake3::Hasher,
    next: Slot,
    last: Option<(Slot, AgreedTime)>,
    bytes: u64,
}

/// Reads a file.
pub struct Reader {
    file: BufReader<File>,
    hash: blake3::Hasher,
    next: Slot,
    last: Option<(Slot, AgreedTime)>,
    bytes: u64,
}

// === impl Writer ===

impl Writer {
    /// A new file, of mode 0600, whose first entry is that of slot `from`.
    pub(super) fn create(path: &Path, from: Slot) -> Result<Self, EntriesError> {
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)?;
        let mut writer = Self {
            file: BufWriter::new(file),
            hash: blake3::Hasher::new(),
            next: from,
            last: None,
            bytes: 0,
        };
        writer.put(MAGIC)?;
        Ok(writer)
    }

    /// The slot of the entry that is wanted next.
    pub(super) fn next(&self) -> Slot {
        self.next
    }

    pub(super) fn push(&mut self, entry: v1::Entry) -> Result<(), EntriesError> {
        let slot = self.next;
        let damaged = |what| EntriesError::Damaged { slot, what };
        let bytes = entry.encode_to_vec();
        let time = AgreedTime(entry.time_ns);
        let entry = wire::read_entry(entry).map_err(|_| damaged("it is no entry"))?;
        if entry.slot != slot {
            return Err(damaged("another slot comes next"));
        }
        let length = u32::try_from(bytes.len()).ok();
        let length = length.filter(|it| *it <= MAX_ENTRY_BYTES);
        let length = length.ok_or_else(|| damaged("it is too large"))?;
        self.put(&length.to_le_bytes())?;
        self.put(&crc32c::crc32c(&bytes).to_le_bytes())?;
        self.put(&bytes)?;
        self.last = Some((slot, time));
        self.next = slot.next();
        Ok(())
    }

    /// All of it is on disk when this returns.
    pub(super) fn finish(self) -> Result<Summary, EntriesError> {
        let file = self
            .file
            .into_inner()
            .map_err(io::IntoInnerError::into_error)?;
        file.sync_all()?;
        Ok(summary(self.last, &self.hash, self.bytes))
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), EntriesError> {
        self.file.write_all(bytes)?;
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
        Ok(())
    }
}

fn summary(last: Option<(Slot, AgreedTime)>, hash: &blake3::Hasher, bytes: u64) -> Summary {
    Summary {
        through: last.map(|(slot, _)| slot),
        time: last.map_or(AgreedTime(0), |(_, time)| time),
        hash: hash.finalize(),
        bytes,
    }
}

// === impl Reader ===

impl Reader {
    /// Of a file whose first entry is that of slot `from`.
    pub fn open(path: &Path, from: Slot) -> Result<Self, EntriesError> {
        let mut reader = Self {
            file: BufReader::new(File::open(path)?),
            hash: blake3::Hasher::new(),
            next: from,
            last: None,
            bytes: 0,
        };
        let mut magic = [0; 8];
        reader.fill(&mut magic)?;
        if magic != *MAGIC {
            return Err(reader.damaged("it does not begin as it should"));
        }
        Ok(reader)
    }

    /// The next entry; `None` behind the last.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, EntriesError> {
        let mut length = [0; 4];
        match self.file.read(&mut length[..1])? {
            0 => return Ok(None),
            _ => self.take(&length[..1]),
        }
        self.fill(&mut length[1..])?;
        let length = u32::from_le_bytes(length);
        if length > MAX_ENTRY_BYTES {
            return Err(self.damaged("an entry is too large"));
        }
        let mut crc = [0; 4];
        self.fill(&mut crc)?;
        let mut bytes = Vec::new();
        let read = (&mut self.file)
            .take(length.into())
            .read_to_end(&mut bytes)?;
        if read != length as usize {
            return Err(self.damaged("it ends in the middle of an entry"));
        }
        self.take(&bytes);
        if crc32c::crc32c(&bytes) != u32::from_le_bytes(crc) {
            return Err(self.damaged("a checksum is wrong"));
        }
        let entry = v1::Entry::decode(&bytes[..]).ok();
        let entry = entry.and_then(|it| wire::read_entry(it).ok());
        let entry = entry.filter(|it| it.slot == self.next);
        let entry = entry.ok_or_else(|| self.damaged("another entry comes next"))?;
        self.last = Some((entry.slot, entry.time));
        self.next = self.next.next();
        Ok(Some(entry))
    }

    /// What was read so far.
    pub fn summary(&self) -> Summary {
        summary(self.last, &self.hash, self.bytes)
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), EntriesError> {
        self.file.read_exact(bytes).map_err(|error| {
            if error.kind() == io::ErrorKind::UnexpectedEof {
                self.damaged("it ends in the middle of an entry")
            } else {
                EntriesError::Io(error)
            }
        })?;
        self.take(bytes);
        Ok(())
    }

    fn take(&mut self, bytes: &[u8]) {
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
    }

    fn damaged(&self, what: &'static str) -> EntriesError {
        let slot = self.next;
        EntriesError::Damaged { slot, what }
    }
}

/// Reads all of a file whose first entry is that of slot `from`.
pub(super) fn check(path: &Path, from: Slot) -> Result<Summary, EntriesError> {
    let mut reader = Reader::open(path, from)?;
    while reader.next_entry()?.is_some() {}
    Ok(reader.summary())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(slot: u64, size: usize) -> v1::Entry {
        v1::Entry {
            slot,
            ballot: Some(v1::Ballot {
                epoch: 1,
                round: 2,
                node: 3,
            }),
            time_ns: slot * 10,
            seed: vec![7; 16].into(),
            command: Some(v1::Command {
                kind: 1,
                id: Some(v1::CommandId {
                    member: 3,
                    boot: 1,
                    sequence: slot,
                }),
                payload: vec![b'x'; size].into(),
                ..v1::Command::default()
            }),
        }
    }

    fn written(path: &Path, slots: std::ops::RangeInclusive<u64>) -> Summary {
        let mut writer = Writer::create(path, Slot(*slots.start())).unwrap();
        for slot in slots {
            assert_eq!(writer.next(), Slot(slot));
            writer.push(entry(slot, slot as usize * 100)).unwrap();
        }
        writer.finish().unwrap()
    }

    #[test]
    fn what_was_written_is_read_in_slot_order() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("entries");
        let summary = written(&path, 8..=20);
        assert_eq!(
            (summary.through, summary.time),
            (Some(Slot(20)), AgreedTime(200))
        );
        assert_eq!(check(&path, Slot(8)).unwrap(), summary);
        let mut reader = Reader::open(&path, Slot(8)).unwrap();
        for slot in 8..=20 {
            let read = reader.next_entry().unwrap().unwrap();
            assert_eq!(read.slot, Slot(slot));
            assert_eq!(read.command.payload.len(), slot as usize * 100);
        }
        assert!(reader.next_entry().unwrap().is_none());
    }

    #[test]
    fn a_gap_is_not_written() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = Writer::create(&folder.path().join("entries"), Slot(3)).unwrap();
        assert!(writer.push(entry(4, 1)).is_err());
    }

    #[test]
    fn no_damage_goes_unnoticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("entries");
        let good = written(&path, 1..=3);
        let bytes = std::fs::read(&path).unwrap();
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 0x10;
            std::fs::write(&path, &bad).unwrap();
            let found = check(&path, Slot(1));
            assert!(found.is_err() || found.unwrap() != good, "byte {at}");
            std::fs::write(&path, &bytes[..at]).unwrap();
            let found = check(&path, Slot(1));
            assert!(found.is_err() || found.unwrap() != good, "cut at {at}");
        }
        std::fs::write(&path, &bytes).unwrap();
        assert!(check(&path, Slot(2)).is_err(), "another first slot");
    }
}
