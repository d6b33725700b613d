//! What has come of a snapshot so far. Blocks.

use std::fs::{self, File};
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender};

use bytes::Bytes;
use synod_failpoint::{Point, check, hit};
use tempfile::{NamedTempFile, TempPath};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::error::FetchError;
use crate::snapshot::SYNC_BYTES;
use crate::snapshot::format::END_BYTES;
use crate::snapshot::names::{self, Name};
use crate::snapshot::read_back::ReadBack;
use crate::snapshot::store::{Snapshot, Store, StoreError};
use crate::snapshot::walk::{ReadError, Walk};

/// A file that ends behind its last whole chunk.
#[derive(Debug)]
pub(super) struct Partial {
    store: Store,
    offer: Snapshot,
    path: PathBuf,
    file: File,
    walk: Box<Walk>,
    /// Nobody else touches the file.
    _one: OwnedSemaphorePermit,
}

/// Pieces as they come: each is written down before it is looked at.
struct Arriving<'a> {
    store: &'a Store,
    file: &'a mut File,
    pieces: mpsc::Receiver<Bytes>,
    now: Bytes,
    /// There are no more.
    ended: bool,
    failed: Option<StoreError>,
}

// === impl Partial ===

impl Partial {
    /// Finds what is there of this snapshot already, and removes what is there of others.
    pub(super) fn open(
        store: &Store,
        offer: &Snapshot,
        one: OwnedSemaphorePermit,
    ) -> Result<Self, FetchError> {
        let failed = |error| store.failed("looking for what has come of a snapshot", error);
        let name = names::part_of(offer.head.slot, offer.id);
        for entry in fs::read_dir(store.folder()).map_err(failed)? {
            let found = entry.map_err(failed)?.file_name();
            let ours = found.to_str().and_then(names::parse);
            if ours == Some(Name::Part) && *found != *name {
                names::remove_if_there(&store.folder().join(found)).map_err(failed)?;
            }
        }
        let path = store.folder().join(name);
        let mut file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(failed)?;
        let mut walk = Box::new(Walk::without_hash().map_err(failed)?);
        let mut from = BufReader::new(&mut file);
        // Up to where it is not as it should be, which is its end mostly.
        while let Ok(Some(chunk)) = walk.next(&mut from) {
            walk.recycle(chunk.into_body());
        }
        let whole = if walk.end().is_some() { 0 } else { walk.at() };
        if whole == 0 {
            walk = Box::new(Walk::without_hash().map_err(failed)?);
        }
        file.set_len(whole).map_err(failed)?;
        file.seek(SeekFrom::Start(whole)).map_err(failed)?;
        store.check_room(offer.bytes.saturating_sub(whole))?;
        Ok(Self {
            store: store.clone(),
            offer: offer.clone(),
            path,
            file,
            walk,
            _one: one,
        })
    }

    /// Bytes that need not come again.
    pub(super) fn offset(&self) -> u64 {
        self.walk.at()
    }

    /// Takes the rest, and makes it a snapshot of the store. What came stays if it may be of use.
    ///
    /// The hash over the file is that of what is read back, which goes on while more comes. The
    /// state is not compared with its digest: the hash is over that, too, and its maker has done it.
    pub(super) fn receive(mut self, pieces: mpsc::Receiver<Bytes>) -> Result<Snapshot, FetchError> {
        let mut back = self.store.read_back(&self.path, false)?;
        let (wrote, written) = std::sync::mpsc::channel();
        let (taken, followed) = std::thread::scope(|scope| {
            let (back, written) = (&mut back, written);
            let following = scope.spawn(move || follow(back, &written));
            let taken = self.take(pieces, &wrote);
            drop(wrote);
            (taken, following.join())
        });
        taken?;
        let followed = followed.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let (Some(head), Some(end)) = (self.walk.head().cloned(), self.walk.end()) else {
            return self.refuse("no whole snapshot");
        };
        if head != self.offer.head || end.id != self.offer.id {
            return self.refuse("another snapshot than it offers");
        }
        hit(Point::FetchComplete);
        // From here on it is either a snapshot or gone: it would be as bad the next time.
        let path = TempPath::try_from_path(&self.path);
        let path = path.map_err(|error| self.store.failed("naming a snapshot", error))?;
        let file = NamedTempFile::from_parts(self.file, path);
        followed.map_err(|error| self.store.not_as_written(error))?;
        Ok(self
            .store
            .seal(file, &head, end, back, self.offer.standing)?)
    }

    /// Writes everything down, chunk by chunk, and tells how far it is.
    fn take(
        &mut self,
        pieces: mpsc::Receiver<Bytes>,
        wrote: &Sender<u64>,
    ) -> Result<(), FetchError> {
        let mut arriving = Arriving {
            store: &self.store,
            file: &mut self.file,
            pieces,
            now: Bytes::new(),
            ended: false,
            failed: None,
        };
        let walked = loop {
            match self.walk.next(&mut arriving) {
                // Whoever follows ends only when there is nothing to follow.
                Ok(Some(chunk)) => {
                    self.walk.recycle(chunk.into_body());
                    wrote.send(self.walk.at()).unwrap_or_default();
                }
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        let more = walked.is_ok() && arriving.read(&mut [0]).is_ok_and(|count| count > 0);
        let ended = arriving.ended;
        if let Some(error) = arriving.failed {
            return Err(error.into());
        }
        match walked {
            Ok(()) if more => self.refuse("more than the snapshot has").map(|_| ()),
            Ok(()) => Ok(()),
            Err(ReadError::Damaged { .. }) if ended => Err(FetchError::BrokenOff {
                received: self.walk.at(),
                total: self.offer.bytes,
                why: "that member ended it".to_owned(),
            }),
            Err(error) => {
                // Of a bad end nobody knows whether it is the end that is wrong.
                if self.walk.at() + END_BYTES as u64 >= self.offer.bytes {
                    self.forget()?;
                }
                Err(FetchError::DamagedThere(error))
            }
        }
    }

    /// What has come is of no use.
    fn forget(&self) -> Result<(), StoreError> {
        let removed = names::remove_if_there(&self.path);
        removed.map_err(|error| self.store.failed("removing a bad snapshot", error))
    }

    fn refuse(&self, sent: &'static str) -> Result<Snapshot, FetchError> {
        self.forget()?;
        Err(FetchError::NotAsAsked(sent))
    }
}

/// Reads back what was written, a piece at a time, until there is no more.
fn follow(back: &mut ReadBack, written: &Receiver<u64>) -> Result<(), ReadError> {
    let mut done = 0;
    while let Ok(at) = written.recv() {
        // The newest only.
        let at = written.try_iter().last().unwrap_or(at);
        if at >= done + SYNC_BYTES {
            back.follow(at)?;
            done = at;
        }
    }
    Ok(())
}

impl Read for Arriving<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.now.is_empty() {
            let Some(piece) = self.pieces.blocking_recv() else {
                self.ended = true;
                return Ok(0);
            };
            let written = self.store.check_room(piece.len() as u64).and_then(|()| {
                let written = self.file.write_all(&piece);
                let written = written.and_then(|()| check(Point::FetchPieceWritten));
                written.map_err(|error| self.store.failed("writing a snapshot", error))
            });
            if let Err(error) = written {
                self.failed = Some(error);
                return Err(io::Error::other("it could not be written down"));
            }
            self.now = piece;
        }
        let count = self.now.len().min(buffer.len());
        buffer[..count].copy_from_slice(&self.now.split_to(count));
        Ok(count)
    }
}
