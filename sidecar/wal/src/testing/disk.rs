//! [`MemDisk`]: what is written lies in a cache until it is synced; a crash keeps of it what the
//! test chooses, sector by sector. Names behave like those of a journaling file system: a crash
//! keeps the first of the unsynced changes, as many as the test chooses.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::disk::{Disk, DiskFile, DiskLock, LockError};
use crate::format::SECTOR_BYTES;

/// In place of what could not be read.
const GONE: u8 = 0xDD;

/// A disk in memory. Clones are the same disk.
#[derive(Clone, Debug, Default)]
pub struct MemDisk(Arc<Mutex<State>>);

/// What becomes of one sector that was written and not synced when the machine stops. Disks write a
/// sector of 512 bytes whole or not at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Survival {
    /// It is as it was when it was last synced.
    Lost,
    /// It is as written.
    Kept,
}

#[derive(Debug, Default)]
struct State {
    /// Names as programs see them.
    names: BTreeMap<String, usize>,
    /// Names as a crash would leave them.
    synced_names: BTreeMap<String, usize>,
    changes: Vec<Change>,
    files: Vec<Content>,
    aside: Vec<BTreeMap<String, usize>>,
    /// Files and locks of an earlier life are of no use.
    life: u64,
    locked: bool,
    capacity: Option<u64>,
    /// Syncs until one fails.
    syncs_to_failure: Option<u64>,
    /// Syncs and writes until the machine stops.
    steps_to_crash: Option<u64>,
    stopped: bool,
    syncs: u64,
    writes: u64,
}

#[derive(Clone, Debug)]
enum Change {
    Link(String, usize),
    Rename(String, String),
    Remove(String),
}

#[derive(Debug, Default)]
struct Content {
    cached: Vec<u8>,
    synced: Vec<u8>,
    /// Sectors in which the two differ.
    dirty: BTreeSet<usize>,
    /// Sectors that cannot be read.
    unreadable: BTreeSet<usize>,
}

#[derive(Debug)]
struct MemFile {
    disk: MemDisk,
    file: usize,
    life: u64,
}

#[derive(Debug)]
struct MemLock {
    disk: MemDisk,
    life: u64,
}

// === impl MemDisk ===

impl MemDisk {
    /// An empty disk without limits.
    pub fn new() -> Self {
        Self::default()
    }

    /// The process ends and a new one starts: files of the old one are closed, nothing is lost.
    pub fn restart(&self) {
        let mut state = self.state();
        state.life += 1;
        state.locked = false;
        state.stopped = false;
        state.steps_to_crash = None;
        state.syncs_to_failure = None;
    }

    /// The machine stops and starts again. `choose` says what becomes of each sector written and
    /// not synced; `keep_changes` how many of the unsynced changes of names last, of that many.
    pub fn crash(
        &self,
        mut choose: impl FnMut() -> Survival,
        keep_changes: impl FnOnce(usize) -> usize,
    ) {
        self.restart();
        let mut state = self.state();
        for content in &mut state.files {
            content.crash(&mut choose);
        }
        let changes = std::mem::take(&mut state.changes);
        let kept = keep_changes(changes.len()).min(changes.len());
        let mut names = state.synced_names.clone();
        for change in &changes[..kept] {
            change.apply(&mut names);
        }
        state.synced_names.clone_from(&names);
        state.names = names;
    }

    /// The machine stops before the step (write, sync, change of a name) after the next `steps`:
    /// that and all later ones fail until [`MemDisk::crash`].
    pub fn stop_after(&self, steps: u64) {
        self.state().steps_to_crash = Some(steps);
    }

    /// It has stopped, see [`MemDisk::stop_after`].
    pub fn is_stopped(&self) -> bool {
        self.state().stopped
    }

    /// The sync after the next `syncs` fails. What it should have synced reads back well and is
    /// lost at a crash, as in Linux.
    pub fn fail_sync_after(&self, syncs: u64) {
        self.state().syncs_to_failure = Some(syncs);
    }

    /// All files together may not be larger than this.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state().capacity = bytes;
    }

    /// Names of all files, in order.
    pub fn names(&self) -> Vec<String> {
        self.state().names.keys().cloned().collect()
    }

    /// How many directories were set aside.
    pub fn set_aside_count(&self) -> usize {
        self.state().aside.len()
    }

    /// A file's content, as a program would read it.
    pub fn content(&self, name: &str) -> Option<Vec<u8>> {
        let state = self.state();
        let file = *state.names.get(name)?;
        Some(state.files[file].cached.clone())
    }

    /// Damages a file on disk: `change` may do anything with its bytes.
    pub fn damage(&self, name: &str, change: impl FnOnce(&mut [u8])) {
        let mut state = self.state();
        let Some(file) = state.names.get(name).copied() else {
            return;
        };
        let content = &mut state.files[file];
        change(&mut content.cached);
        content.synced.clone_from(&content.cached);
        content.dirty.clear();
    }

    /// The sector at `offset` can no longer be read, until it is written; what it held is gone.
    pub fn make_unreadable(&self, name: &str, offset: usize) {
        let mut state = self.state();
        if let Some(file) = state.names.get(name).copied() {
            state.files[file].unreadable.insert(offset / SECTOR_BYTES);
        }
    }

    /// Puts a file there, durably.
    pub fn put(&self, name: &str, content: Vec<u8>) {
        let mut state = self.state();
        let file = state.files.len();
        state.files.push(Content {
            synced: content.clone(),
            cached: content,
            ..Content::default()
        });
        state.names.insert(name.to_owned(), file);
        state.synced_names.insert(name.to_owned(), file);
    }

    /// Another disk with the same synced and cached content, unlocked.
    pub fn copy(&self) -> Self {
        let copy = Self::new();
        let state = self.state();
        for (name, file) in &state.names {
            copy.put(name, state.files[*file].cached.clone());
        }
        copy
    }

    /// Calls of `sync_data` that went well, and of `write_all_at`, so far.
    pub fn counts(&self) -> (u64, u64) {
        let state = self.state();
        (state.syncs, state.writes)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn file(&self, file: usize, life: u64) -> Arc<dyn DiskFile> {
        Arc::new(MemFile {
            disk: self.clone(),
            file,
            life,
        })
    }
}

impl Disk for MemDisk {
    fn lock(&self) -> Result<Box<dyn DiskLock>, LockError> {
        let mut state = self.state();
        if state.locked {
            return Err(LockError::Held { pid: None });
        }
        state.locked = true;
        Ok(Box::new(MemLock {
            disk: self.clone(),
            life: state.life,
        }))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.names())
    }

    fn create(&self, name: &str, bytes: u64) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.state();
        state.step()?;
        if state.names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        if state
            .capacity
            .is_some_and(|most| state.used() + bytes > most)
        {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let zeros = vec![0; usize::try_from(bytes).map_err(io::Error::other)?];
        let file = state.files.len();
        state.files.push(Content {
            cached: zeros.clone(),
            synced: zeros,
            ..Content::default()
        });
        state.change(Change::Link(name.to_owned(), file));
        Ok(self.file(file, state.life))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let state = self.state();
        let file = state
            .names
            .get(name)
            .copied()
            .ok_or(io::ErrorKind::NotFound)?;
        Ok(self.file(file, state.life))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state();
        state.step()?;
        if !state.names.contains_key(from) {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.change(Change::Rename(from.to_owned(), to.to_owned()));
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.state();
        state.step()?;
        state.change(Change::Remove(name.to_owned()));
        Ok(())
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut state = self.state();
        state.step()?;
        state.changes.clear();
        state.synced_names = state.names.clone();
        Ok(())
    }

    fn set_aside(&self) -> io::Result<String> {
        let mut state = self.state();
        state.step()?;
        let names = std::mem::take(&mut state.names);
        state.synced_names.clear();
        state.changes.clear();
        state.aside.push(names);
        Ok(format!("log.set-aside-{}", state.aside.len()))
    }
}

// === impl State ===

impl State {
    fn step(&mut self) -> io::Result<()> {
        match &mut self.steps_to_crash {
            Some(0) => {
                self.stopped = true;
                Err(io::Error::other("the machine has stopped"))
            }
            Some(steps) => {
                *steps -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn used(&self) -> u64 {
        let files = self
            .names
            .values()
            .map(|file| self.files[*file].cached.len());
        files.sum::<usize>() as u64
    }

    fn change(&mut self, change: Change) {
        change.apply(&mut self.names);
        self.changes.push(change);
    }

    fn open_file(&mut self, file: &MemFile) -> io::Result<&mut Content> {
        if file.life != self.life {
            return Err(io::Error::other("opened in an earlier life"));
        }
        Ok(&mut self.files[file.file])
    }
}

// === impl Change ===

impl Change {
    fn apply(&self, names: &mut BTreeMap<String, usize>) {
        match self {
            Self::Link(name, file) => {
                names.insert(name.clone(), *file);
            }
            Self::Rename(from, to) => {
                if let Some(file) = names.remove(from) {
                    names.insert(to.clone(), file);
                }
            }
            Self::Remove(name) => {
                names.remove(name);
            }
        }
    }
}

// === impl Content ===

impl Content {
    fn sector(&self, sector: usize) -> std::ops::Range<usize> {
        let start = sector * SECTOR_BYTES;
        start..(start + SECTOR_BYTES).min(self.cached.len())
    }

    fn crash(&mut self, choose: &mut impl FnMut() -> Survival) {
        for sector in std::mem::take(&mut self.dirty) {
            let range = self.sector(sector);
            if choose() == Survival::Kept {
                self.synced[range.clone()].copy_from_slice(&self.cached[range]);
            }
        }
        self.cached.clone_from(&self.synced);
    }

    fn sync(&mut self) {
        for sector in std::mem::take(&mut self.dirty) {
            let range = self.sector(sector);
            self.synced[range.clone()].copy_from_slice(&self.cached[range]);
        }
    }
}

// === impl MemFile ===

impl MemFile {
    fn range(
        &self,
        content: &Content,
        length: usize,
        offset: u64,
    ) -> io::Result<std::ops::Range<usize>> {
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        let end = start
            .checked_add(length)
            .filter(|end| *end <= content.cached.len());
        let end = end.ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("file {} ends before {offset} + {length}", self.file),
            )
        })?;
        Ok(start..end)
    }
}

impl DiskFile for MemFile {
    fn size(&self) -> io::Result<u64> {
        let mut state = self.disk.state();
        Ok(state.open_file(self)?.cached.len() as u64)
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        let content = state.open_file(self)?;
        let range = self.range(content, buffer.len(), offset)?;
        let sectors = range.start / SECTOR_BYTES..range.end.div_ceil(SECTOR_BYTES);
        if content.unreadable.range(sectors).next().is_some() {
            return Err(io::Error::other("a sector cannot be read"));
        }
        buffer.copy_from_slice(&content.cached[range]);
        Ok(())
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        if state.stopped {
            return state.step();
        }
        // Some of the write during which the machine stops may reach the disk.
        let step = state.step();
        state.writes += 1;
        let content = state.open_file(self)?;
        let range = self.range(content, bytes.len(), offset)?;
        for sector in range.start / SECTOR_BYTES..range.end.div_ceil(SECTOR_BYTES) {
            content.dirty.insert(sector);
            if content.unreadable.remove(&sector) {
                let lost = content.sector(sector);
                content.cached[lost].fill(GONE);
            }
        }
        content.cached[range].copy_from_slice(bytes);
        step
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.disk.state();
        state.step()?;
        let fails = match &mut state.syncs_to_failure {
            Some(0) => true,
            Some(syncs) => {
                *syncs -= 1;
                false
            }
            None => false,
        };
        if fails {
            // The pages count as clean from now on though they never reached the disk.
            state.syncs_to_failure = None;
            state.open_file(self)?.dirty.clear();
            return Err(io::Error::other("the sync failed"));
        }
        state.open_file(self)?.sync();
        state.syncs += 1;
        Ok(())
    }
}

// === impl MemLock ===

impl DiskLock for MemLock {}

impl Drop for MemLock {
    fn drop(&mut self) {
        let mut state = self.disk.state();
        if state.life == self.life {
            state.locked = false;
        }
    }
}
