//! Complete responses: read to their end at the app's speed, small ones into memory, large ones
//! into a file.

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tempfile::NamedTempFile;

use crate::apply::StoredBody;

/// Bodies up to this size stay in memory, in bytes.
pub(super) const MEMORY_BYTES: usize = 64 << 10;

/// A body as it comes.
#[derive(Debug)]
pub(super) struct Spool<'a> {
    folder: &'a Path,
    memory: Memory,
    file: Option<NamedTempFile>,
    len: u64,
    /// The first error of the file; what comes after it is thrown away.
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
            failed: None,
        }
    }

    pub(super) fn push(&mut self, bytes: Bytes) {
        self.len += bytes.len() as u64;
        if self.failed.is_some() {
            return;
        }
        if self.file.is_none() && self.len > MEMORY_BYTES as u64 {
            self.failed = self.open().err();
        }
        if let Some(file) = &mut self.file {
            self.failed = file.write_all(&bytes).err();
            return;
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
