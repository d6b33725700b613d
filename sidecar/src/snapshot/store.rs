//! The snapshots that a member keeps, one file each, in a folder of their own.
//!
//! | name | what |
//! |---|---|
//! | `<slot as 16 hex digits>.snapshot` | a snapshot; never changes ([`super::format`]) |
//! | `<slot>.mark` | what is known of its slots: [`Standing`], and the id of the file it is for |
//! | `<slot>.<id>.part` | what has come of one that another member sends ([`super::transfer`]) |
//! | `<slot>.<..>.new` | one that is being written; removed at the next start |
//! | `<slot>.damaged`, `<slot>.damaged-2`, .. | one that was damaged; nothing here reads it again |
//!
//! A file has its name only when it was synced, read back and compared. Files are of mode 0600 and
//! the folder of mode 0700, since they hold what clients sent (rule W6). Names of other forms are
//! nobody's business. Methods block, unless they say otherwise.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use synod_failpoint::{Point, check, hit};
use synod_paxos::Slot;
use tempfile::NamedTempFile;

use super::draft::Draft;
use super::findings::{Finding, survey};
use super::format::{CHUNK_BYTES, CHUNK_HEADER_BYTES, End};
use super::head::{Head, Method, SnapshotId, StateDigest};
use super::names;
use super::read_back::ReadBack;
use super::reader::StateReader;
use super::retention;
use super::space;
use super::walk::ReadError;
use super::{blocking, in_background};

/// Read at once while all of them are read slowly, in bytes.
const SCRUB_BYTES: u64 = 4 << 20;

/// A snapshot of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// What it is of.
    pub head: Head,
    /// Names its bytes.
    pub id: SnapshotId,
    /// Size of its file.
    pub bytes: u64,
    /// Size of the app's state, not compressed.
    pub state_bytes: u64,
    /// BLAKE3 over that state.
    pub state_digest: StateDigest,
    /// What is known of its slots.
    pub standing: Standing,
}

/// Whether the slots of a snapshot were compared with those of other copies (rule N2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Not yet: of no use to anybody.
    Uncompared,
    /// The digests of a majority agreed, or no second one can be had any more.
    Verified,
    /// They could not be had in time; taken only where no verified one reaches the log.
    Unverified,
}

/// A store did not do what it was asked. What it held before, it still holds.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Less room than needed.
    #[error(
        "no room for a snapshot in {folder}: {needed} bytes are needed besides {reserve} that stay \
         free for the log, {free} are free; make the volume larger or remove files from it"
    )]
    NoRoom {
        /// Where.
        folder: PathBuf,
        /// Bytes that were to be written.
        needed: u64,
        /// Bytes that snapshots leave to others.
        reserve: u64,
        /// Bytes that are free.
        free: u64,
    },
    /// The tables are larger than any that could be read back.
    #[error("the tables of the snapshot have {bytes} bytes; lower the bounds on idempotency keys")]
    TablesTooLarge {
        /// Their size.
        bytes: u64,
    },
    /// The head is larger than a chunk.
    #[error("the head of the snapshot has {bytes} bytes, the configuration in it is too large")]
    HeadTooLarge {
        /// Its size.
        bytes: u64,
    },
    /// What was written is not what is read.
    #[error("a snapshot in {folder} did not read back as written: {error}; check the disk")]
    NotAsWritten {
        /// Where.
        folder: PathBuf,
        /// What is wrong with it.
        error: ReadError,
    },
    /// A snapshot cannot be read.
    #[error("the snapshot of slot {} in {folder}: {error}", .slot.0)]
    Unreadable {
        /// Where.
        folder: PathBuf,
        /// Which.
        slot: Slot,
        /// What is wrong with it.
        error: ReadError,
    },
    /// It was never there, or is not any more.
    #[error("there is no snapshot {id} in {folder} any more")]
    NotThere {
        /// Where.
        folder: PathBuf,
        /// Which.
        id: SnapshotId,
    },
    /// The file system said no.
    #[error("{doing} in {folder}: {error}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// Where.
        folder: PathBuf,
        /// What the file system said.
        error: io::Error,
    },
}

/// A cheap handle on the snapshots in one folder. One process, one store per folder.
#[derive(Clone, Debug)]
pub struct Store {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    folder: PathBuf,
    /// Bytes.
    reserve: AtomicU64,
    known: Mutex<BTreeMap<Slot, Snapshot>>,
}

// === impl Snapshot, Standing ===

impl Snapshot {
    /// It stands for a state of the app, and not for tables alone, as a witness keeps them.
    pub fn has_state(&self) -> bool {
        self.head.method != Method::None
    }
}

impl Standing {
    /// It may be offered, and the log may be cut behind it.
    pub fn usable(self) -> bool {
        self != Self::Uncompared
    }
}

// === impl Store ===

impl Store {
    /// Opens the store in `folder`, which is made if it is not there. Snapshots leave `reserve`
    /// bytes of their volume free. Half-written files are removed and damaged ones set aside; the
    /// findings tell. Each file is looked at, not read: [`Store::scrub`] does that.
    pub fn open(folder: &Path, reserve: u64) -> Result<(Self, Vec<Finding>), StoreError> {
        let failed = |doing| {
            move |error| StoreError::Io {
                doing,
                folder: folder.to_owned(),
                error,
            }
        };
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .and_then(|()| fs::set_permissions(folder, fs::Permissions::from_mode(0o700)))
            .map_err(failed("making the folder for snapshots"))?;
        let (known, findings) =
            survey(folder, true).map_err(failed("looking through snapshots"))?;
        sync_folder(folder).map_err(failed("syncing the folder of snapshots"))?;
        let shared = Shared {
            folder: folder.to_owned(),
            reserve: AtomicU64::new(reserve),
            known: Mutex::new(known),
        };
        let shared = Arc::new(shared);
        Ok((Self { shared }, findings))
    }

    /// One that is only read, and may be on a mount that cannot be written to.
    pub fn source(folder: &Path) -> Result<Self, StoreError> {
        let failed = |error| StoreError::Io {
            doing: "looking through snapshots",
            folder: folder.to_owned(),
            error,
        };
        let (known, _) = survey(folder, false).map_err(failed)?;
        let shared = Shared {
            folder: folder.to_owned(),
            reserve: AtomicU64::new(0),
            known: Mutex::new(known),
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// All snapshots, oldest first.
    pub fn list(&self) -> Vec<Snapshot> {
        self.known().values().cloned().collect()
    }

    /// The newest one, whatever its standing.
    pub fn newest(&self) -> Option<Snapshot> {
        self.known().values().next_back().cloned()
    }

    /// The newest one that may be offered and relied on.
    pub fn newest_usable(&self) -> Option<Snapshot> {
        let known = self.known();
        let mut from_newest = known.values().rev();
        from_newest.find(|it| it.standing.usable()).cloned()
    }

    /// The one with this id.
    pub fn get(&self, id: SnapshotId) -> Result<Snapshot, StoreError> {
        let known = self.known();
        let found = known.values().find(|it| it.id == id).cloned();
        found.ok_or_else(|| self.not_there(id))
    }

    /// Begins a snapshot whose state will have about `state_bytes`, 0 if nobody knows; `tables` are
    /// what the apply machine remembers at its slot.
    pub fn begin(&self, head: Head, tables: &[u8], state_bytes: u64) -> Result<Draft, StoreError> {
        let content = state_bytes.saturating_add(tables.len() as u64);
        let chunks = content.div_ceil(CHUNK_BYTES as u64) + 3;
        self.check_room(content.saturating_add(chunks * CHUNK_HEADER_BYTES as u64))?;
        let file = self.new_file(head.slot)?;
        check(Point::SnapshotFileMade).map_err(|error| self.failed("writing a snapshot", error))?;
        Draft::begin(self.clone(), file, head, tables)
    }

    /// Reads it.
    pub fn read(&self, id: SnapshotId) -> Result<StateReader, StoreError> {
        let (snapshot, file) = self.open_file(id)?;
        let slot = snapshot.head.slot;
        StateReader::new(snapshot, file).map_err(|error| self.unreadable(slot, error))
    }

    /// Notes for ever that its slots were compared, and agree.
    pub fn mark_verified(&self, id: SnapshotId) -> Result<(), StoreError> {
        self.mark(id, Standing::Verified)
    }

    /// Notes for ever that it is to be used though its slots could not be compared.
    pub fn mark_unverified(&self, id: SnapshotId) -> Result<(), StoreError> {
        self.mark(id, Standing::Unverified)
    }

    /// Removes a snapshot that is void, such as one of a copy that had diverged.
    pub fn discard(&self, id: SnapshotId) -> Result<(), StoreError> {
        let mut known = self.known();
        let found = known.values().find(|it| it.id == id);
        let slot = found.ok_or_else(|| self.not_there(id))?.head.slot;
        self.remove(&mut known, slot)
    }

    /// Keeps the two newest usable snapshots, and of those that are newer and wait for their comparison
    /// the first and the last; removes the others, oldest first, and tells which. The log may be cut
    /// behind the older of the usable ones.
    pub fn retain(&self) -> Result<Vec<Slot>, StoreError> {
        let mut known = self.known();
        let standings: Vec<_> = known
            .iter()
            .map(|(slot, it)| (*slot, it.standing))
            .collect();
        let superfluous = retention::superfluous(&standings);
        for slot in &superfluous {
            self.remove(&mut known, *slot)?;
        }
        Ok(superfluous)
    }

    /// The copy that they are of differs from others from this slot on: removes those from there on that
    /// wait for their comparison, and sets those aside that were used without one, for people to look at.
    pub fn void_since(&self, slot: Slot) -> Result<Vec<Finding>, StoreError> {
        let mut findings = Vec::new();
        let mut known = self.known();
        let since: Vec<_> = known
            .range(slot..)
            .map(|(at, it)| (*at, it.standing))
            .collect();
        for (at, standing) in since {
            match standing {
                Standing::Verified => {}
                Standing::Uncompared => self.remove(&mut known, at)?,
                Standing::Unverified => {
                    let why = format!("its copy differs from others from slot {slot} on");
                    findings.push(self.set_aside(&mut known, at, why)?);
                }
            }
        }
        Ok(findings)
    }

    /// Reads all of them, so many bytes a second at most, and sets those aside that are damaged.
    pub async fn scrub(&self, bytes_per_second: u64) -> Result<Vec<Finding>, StoreError> {
        let mut findings = Vec::new();
        for snapshot in self.list() {
            findings.extend(self.scrub_one(&snapshot, bytes_per_second).await?);
        }
        Ok(findings)
    }

    async fn scrub_one(
        &self,
        snapshot: &Snapshot,
        bytes_per_second: u64,
    ) -> Result<Option<Finding>, StoreError> {
        let Ok((_, file)) = self.open_file(snapshot.id) else {
            // Removed meanwhile.
            return Ok(None);
        };
        let mut back = ReadBack::new(file, true);
        let pause = Duration::from_secs_f64(SCRUB_BYTES as f64 / bytes_per_second as f64);
        // Piece by piece, so that the runtime can end in between.
        let read = loop {
            let piece = in_background(move || {
                let mut back = back?;
                let more = back.advance(SCRUB_BYTES)?;
                Ok::<_, ReadError>((back, more))
            });
            match piece.await {
                Ok((read, true)) => back = Ok(read),
                Ok((read, false)) => break read.finish(),
                Err(error) => break Err(error),
            }
            tokio::time::sleep(pause).await;
        };
        let (store, snapshot) = (self.clone(), snapshot.clone());
        blocking(move || store.judge(&snapshot, read)).await
    }

    /// Reads this one at once, and sets it aside if it is damaged.
    pub fn check(&self, id: SnapshotId) -> Result<Option<Finding>, StoreError> {
        let Ok((snapshot, file)) = self.open_file(id) else {
            return Ok(None);
        };
        let read = ReadBack::new(file, true).and_then(ReadBack::finish);
        self.judge(&snapshot, read)
    }

    /// By what was read of it.
    fn judge(
        &self,
        snapshot: &Snapshot,
        read: Result<(Head, End), ReadError>,
    ) -> Result<Option<Finding>, StoreError> {
        let (slot, id) = (snapshot.head.slot, snapshot.id);
        let why = match read {
            Ok((head, end)) if head == snapshot.head && end.id == id => return Ok(None),
            Ok(_) => "it is another snapshot than the one that was there".to_owned(),
            Err(error) if is_damage(&error) => error.to_string(),
            Err(error) => return Err(self.unreadable(slot, error)),
        };
        let mut known = self.known();
        if known.get(&slot).is_none_or(|it| it.id != id) {
            return Ok(None);
        }
        self.set_aside(&mut known, slot, why).map(Some)
    }

    fn set_aside(
        &self,
        known: &mut BTreeMap<Slot, Snapshot>,
        slot: Slot,
        why: String,
    ) -> Result<Finding, StoreError> {
        let aside = names::set_aside(&self.shared.folder, slot)
            .and_then(|aside| self.sync().map(|()| aside))
            .map_err(|error| self.failed("setting a snapshot aside", error))?;
        known.remove(&slot);
        Ok(Finding::Damaged { slot, why, aside })
    }

    /// Its file, open at its front: it can be read to its end, whatever becomes of its name.
    pub(super) fn open_file(&self, id: SnapshotId) -> Result<(Snapshot, File), StoreError> {
        let known = self.known();
        let found = known.values().find(|it| it.id == id).cloned();
        let snapshot = found.ok_or_else(|| self.not_there(id))?;
        let file = File::open(self.path(snapshot.head.slot))
            .map_err(|error| self.failed("opening a snapshot", error))?;
        Ok((snapshot, file))
    }

    /// Syncs a file, reads the rest of it back, and gives it its name if it is right. Nobody ever sees
    /// it without its standing.
    pub(super) fn seal(
        &self,
        file: NamedTempFile,
        head: &Head,
        end: End,
        back: ReadBack,
        standing: Standing,
    ) -> Result<Snapshot, StoreError> {
        let synced = check(Point::SnapshotBeforeSync).and_then(|()| file.as_file().sync_all());
        synced.map_err(|error| self.failed("syncing a snapshot", error))?;
        hit(Point::SnapshotSynced);
        let read = back.finish().map_err(|error| self.not_as_written(error))?;
        hit(Point::SnapshotReadBack);
        if read.0 != *head || read.1 != end {
            return Err(self.not_as_written(ReadError::Damaged {
                at: 0,
                what: "it says something else",
            }));
        }
        let snapshot = Snapshot {
            head: read.0,
            id: end.id,
            bytes: end.file_bytes,
            state_bytes: end.state_bytes,
            state_digest: end.state_digest,
            standing,
        };
        let slot = snapshot.head.slot;
        let mut known = self.known();
        if standing != Standing::Uncompared {
            self.write_mark(slot, snapshot.id, standing)?;
        }
        file.persist(self.path(slot))
            .map_err(|error| error.error)
            .and_then(|_| {
                check(Point::SnapshotRenamed)?;
                self.sync()
            })
            .map_err(|error| self.failed("giving a snapshot its name", error))?;
        hit(Point::SnapshotStored);
        known.insert(slot, snapshot.clone());
        Ok(snapshot)
    }

    /// Reads this file back.
    pub(super) fn read_back(&self, path: &Path, decode: bool) -> Result<ReadBack, StoreError> {
        let failed = |error| self.failed("reading a snapshot back", error);
        let file = File::open(path).map_err(failed)?;
        ReadBack::new(file, decode).map_err(|error| self.not_as_written(error))
    }

    /// A file without a lasting name, of mode 0600; removed when it is dropped.
    pub(super) fn new_file(&self, slot: Slot) -> Result<NamedTempFile, StoreError> {
        tempfile::Builder::new()
            .prefix(&names::new_prefix(slot))
            .suffix(names::NEW)
            .tempfile_in(&self.shared.folder)
            .map_err(|error| self.failed("making a file for a snapshot", error))
    }

    pub(super) fn check_room(&self, needed: u64) -> Result<(), StoreError> {
        let folder = &self.shared.folder;
        let reserve = self.shared.reserve.load(Ordering::Relaxed);
        let free = space::free(folder).map_err(|error| self.failed("asking for room", error))?;
        if needed.saturating_add(reserve) <= free {
            return Ok(());
        }
        Err(StoreError::NoRoom {
            folder: folder.clone(),
            needed,
            reserve,
            free,
        })
    }

    /// As if others had filled the volume.
    #[cfg(test)]
    pub(super) fn set_reserve(&self, bytes: u64) {
        self.shared.reserve.store(bytes, Ordering::Relaxed);
    }

    pub(super) fn folder(&self) -> &Path {
        &self.shared.folder
    }

    pub(super) fn failed(&self, doing: &'static str, error: io::Error) -> StoreError {
        StoreError::Io {
            doing,
            folder: self.shared.folder.clone(),
            error,
        }
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        sync_folder(&self.shared.folder)
    }

    fn mark(&self, id: SnapshotId, standing: Standing) -> Result<(), StoreError> {
        let mut known = self.known();
        let found = known.values_mut().find(|it| it.id == id);
        let snapshot = found.ok_or_else(|| self.not_there(id))?;
        self.write_mark(snapshot.head.slot, id, standing)?;
        snapshot.standing = standing;
        Ok(())
    }

    fn write_mark(&self, slot: Slot, id: SnapshotId, standing: Standing) -> Result<(), StoreError> {
        let file = self.new_file(slot)?;
        check(Point::SnapshotBeforeMark)
            .and_then(|()| fs::write(file.path(), names::mark(standing, id)))
            .and_then(|()| file.as_file().sync_all())
            .and_then(|()| {
                let path = self.shared.folder.join(names::mark_of(slot));
                file.persist(path).map_err(|error| error.error)
            })
            .and_then(|_| {
                check(Point::SnapshotMarkRenamed)?;
                self.sync()
            })
            .map_err(|error| self.failed("marking a snapshot", error))?;
        hit(Point::SnapshotMarked);
        Ok(())
    }

    /// The snapshot first: a mark without one says nothing.
    fn remove(&self, known: &mut BTreeMap<Slot, Snapshot>, slot: Slot) -> Result<(), StoreError> {
        let mark = self.shared.folder.join(names::mark_of(slot));
        fs::remove_file(self.path(slot))
            .and_then(|()| {
                check(Point::SnapshotRemoved)?;
                names::remove_if_there(&mark)
            })
            .and_then(|()| self.sync())
            .map_err(|error| self.failed("removing a snapshot", error))?;
        known.remove(&slot);
        Ok(())
    }

    fn path(&self, slot: Slot) -> PathBuf {
        self.shared.folder.join(names::snapshot_of(slot))
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<Slot, Snapshot>> {
        let known = self.shared.known.lock();
        known.unwrap_or_else(PoisonError::into_inner)
    }

    fn unreadable(&self, slot: Slot, error: ReadError) -> StoreError {
        StoreError::Unreadable {
            folder: self.shared.folder.clone(),
            slot,
            error,
        }
    }

    pub(super) fn not_as_written(&self, error: ReadError) -> StoreError {
        StoreError::NotAsWritten {
            folder: self.shared.folder.clone(),
            error,
        }
    }

    fn not_there(&self, id: SnapshotId) -> StoreError {
        StoreError::NotThere {
            folder: self.shared.folder.clone(),
            id,
        }
    }
}

/// The bytes are wrong, or the disk says that it lost them: reading again does not help.
pub(super) fn is_damage(error: &ReadError) -> bool {
    match error {
        ReadError::Damaged { .. } => true,
        ReadError::UnknownVersion { .. } => false,
        ReadError::Io(error) => error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()),
    }
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}
