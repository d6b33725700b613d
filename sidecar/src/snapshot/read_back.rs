//! What was written, read back from the disk and compared.

use std::fs::File;

use rustix::fs::Advice;

use super::format::{End, Kind};
use super::head::Head;
use super::walk::{ReadError, Walk};

/// A file on the way from its front to its end. It can follow another one that still writes.
#[derive(Debug)]
pub(super) struct ReadBack {
    file: File,
    walk: Walk,
    /// The state is compared with its digest, too, and not only the file with its hash.
    decode: bool,
}

// === impl ReadBack ===

impl ReadBack {
    /// Of a file that is open at its front.
    pub(super) fn new(file: File, decode: bool) -> Result<Self, ReadError> {
        Ok(Self {
            file,
            walk: Walk::new()?,
            decode,
        })
    }

    /// Syncs what was written, and reads it up to there, which must be the end of a chunk.
    pub(super) fn follow(&mut self, written: u64) -> Result<(), ReadError> {
        self.file.sync_data()?;
        drop_cache(&self.file);
        while self.walk.at() < written && self.step()? {}
        Ok(())
    }

    /// Reads about so many bytes more, from the disk; false: there are no more, and [`ReadBack::finish`] says
    /// whether all is right.
    pub(super) fn advance(&mut self, bytes: u64) -> Result<bool, ReadError> {
        drop_cache(&self.file);
        let until = self.walk.at().saturating_add(bytes);
        while self.walk.at() < until {
            if !self.step()? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Reads the rest of a file that is synced. What this returns has been compared with all that
    /// the file says of itself.
    pub(super) fn finish(mut self) -> Result<(Head, End), ReadError> {
        drop_cache(&self.file);
        while self.step()? {}
        self.walk.check_end(&mut self.file)?;
        if self.decode {
            self.walk.check_state()?;
        }
        let missing = ReadError::Damaged {
            at: self.walk.at(),
            what: "it has no head or no end",
        };
        match (self.walk.head(), self.walk.end()) {
            (Some(head), Some(end)) => Ok((head.clone(), end)),
            _ => Err(missing),
        }
    }

    fn step(&mut self) -> Result<bool, ReadError> {
        let Some(chunk) = self.walk.next(&mut self.file)? else {
            return Ok(false);
        };
        let done = if self.decode && chunk.kind() == Kind::State {
            self.walk.decode(chunk)?
        } else {
            chunk.into_body()
        };
        self.walk.recycle(done);
        Ok(true)
    }
}

/// So that what is read next comes from the disk. A hint: without it, memory answers.
fn drop_cache(file: &File) {
    if let Err(error) = rustix::fs::fadvise(file, 0, None, Advice::DontNeed) {
        tracing::debug!(%error, "a snapshot is read back from memory");
    }
}
