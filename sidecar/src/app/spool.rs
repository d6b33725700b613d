//! Complete responses: read to their end at the app's speed, small ones into memory, large ones
//! into a file, those beyond all bounds nowhere.

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tempfile::NamedTempFile;

use crate::apply::StoredBody;

/// Bodies up to this size stay in memory, in bytes.
pub(super) const MEMORY_BYTES: usize = 64 << 10;

/// Bodies up to this size are kept at all, in bytes: as much as apply keeps on disk of all
/// responses. The log is on the same volume, and a response may have no end.
const DISK_BYTES: u64 = 1 << 30;

/// A body as it comes.
#[derive(Debug)]
pub(super) struct Spool<'a> {
    folder: &'a Path,
    memory: Memory,
    file: Option<NamedTempFile>,
    len: u64,
    limit: u64,
    /// Why it cannot be kept: the file is gone, and what comes is thrown away.
    failed: Option<io::Error>,
}

#[derive(Debug)]
enum Memory {
    Empty,
    /// Mostly all there is: not copied.
    One(Bytes),
    Many(BytesMut),
}

impl<'a> Spool<'a> {
    pub(super) fn new(folder: &'a Path) -> Self {
        Self {
            folder,
            memory: Memory::Empty,
            file: None,
            len: 0,
            limit: DISK_BYTES,
            failed: None,
        }
    }

    /// Takes the next part. Never fails: what cannot be kept is still read to its end.
    pub(super) fn push(&mut self, bytes: Bytes) {
        if self.failed.is_some() {
            return;
        }
        self.len += bytes.len() as u64;
        if let Err(error) = self.keep(bytes) {
            // At once, and not only at the end of the body, which may be far away.
            self.file = None;
            self.memory = Memory::Empty;
            self.failed = Some(error);
        }
    }

    fn keep(&mut self, bytes: Bytes) -> io::Result<()> {
        if self.len > self.limit {
            let what = format!("it is longer than {} bytes", self.limit);
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, what));
        }
        if self.file.is_none() && self.len > MEMORY_BYTES as u64 {
            self.open()?;
        }
        if let Some(file) = &mut self.file {
            return file.write_all(&bytes);
        }
        self.memory = match std::mem::replace(&mut self.memory, Memory::Empty) {
            Memory::Empty => Memory::One(bytes),
            Memory::One(first) => {
                let mut many = BytesMut::with_capacity(first.len() + bytes.len());
                many.extend_from_slice(&first);
                many.extend_from_slice(&bytes);
                Memory::Many(many)
            }
            Memory::Many(mut many) => {
                many.extend_from_slice(&bytes);
                Memory::Many(many)
            }
        };
        Ok(())
    }

    /// All of it, unless it could not be kept.
    pub(super) fn finish(self) -> io::Result<StoredBody> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        Ok(match (self.file, self.memory) {
            (Some(file), _) => StoredBody::File {
                path: Arc::new(file.into_temp_path()),
                len: self.len,
            },
            (None, Memory::Empty) => StoredBody::Memory(Bytes::new()),
            // Copied, since it may be a small part of a large read buffer.
            (None, Memory::One(bytes)) => StoredBody::Memory(Bytes::copy_from_slice(&bytes)),
            (None, Memory::Many(bytes)) => StoredBody::Memory(bytes.freeze()),
        })
    }

    fn open(&mut self) -> io::Result<()> {
        let mut file = NamedTempFile::new_in(self.folder)?;
        match std::mem::replace(&mut self.memory, Memory::Empty) {
            Memory::Empty => {}
            Memory::One(bytes) => file.write_all(&bytes)?,
            Memory::Many(bytes) => file.write_all(&bytes)?,
        }
        self.file = Some(file);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spooled(folder: &Path, chunks: &[usize]) -> (StoredBody, Vec<u8>) {
        let mut spool = Spool::new(folder);
        let mut whole = Vec::new();
        for (number, &len) in chunks.iter().enumerate() {
            let chunk = vec![u8::try_from(number % 251).unwrap(); len];
            whole.extend_from_slice(&chunk);
            spool.push(Bytes::from(chunk));
        }
        (spool.finish().unwrap(), whole)
    }

    #[test]
    fn small_bodies_stay_in_memory() {
        let folder = tempfile::tempdir().unwrap();
        for chunks in [&[][..], &[10], &[10, 20, 30], &[MEMORY_BYTES - 1, 1]] {
            let (body, whole) = spooled(folder.path(), chunks);
            let StoredBody::Memory(bytes) = body else {
                panic!("{chunks:?} is in a file");
            };
            assert_eq!(bytes, whole);
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn large_bodies_are_files_that_live_as_long_as_they_are_needed() {
        let folder = tempfile::tempdir().unwrap();
        for chunks in [
            &[MEMORY_BYTES + 1][..],
            &[MEMORY_BYTES, 1],
            &[1, MEMORY_BYTES, 1 << 20],
        ] {
            let (body, whole) = spooled(folder.path(), chunks);
            let StoredBody::File { path, len } = &body else {
                panic!("{chunks:?} is in memory");
            };
            assert_eq!(*len, whole.len() as u64);
            assert_eq!(std::fs::read(&**path).unwrap(), whole);
            drop(body);
            assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        }
    }

    #[test]
    fn a_body_beyond_the_limit_takes_no_room_while_the_rest_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let files = || std::fs::read_dir(folder.path()).unwrap().count();
        let chunk = Bytes::from(vec![0; MEMORY_BYTES]);
        let mut spool = Spool {
            limit: 3 * MEMORY_BYTES as u64,
            ..Spool::new(folder.path())
        };
        for _ in 0..3 {
            spool.push(chunk.clone());
        }
        assert_eq!(files(), 1);
        for _ in 0..10 {
            spool.push(chunk.clone());
            assert_eq!(files(), 0);
        }
        let error = spool.finish().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
    }

    #[test]
    fn a_body_that_cannot_be_kept_is_still_read() {
        let folder = tempfile::tempdir().unwrap();
        let gone = folder.path().join("gone");
        let mut spool = Spool::new(&gone);
        for _ in 0..10 {
            spool.push(Bytes::from(vec![0; MEMORY_BYTES]));
        }
        assert!(spool.finish().is_err());
    }
}
