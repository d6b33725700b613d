//! Bodies as they come: small ones into memory, large ones into a file, those beyond all bounds
//! nowhere.
//!
//! In: pieces of a request that a client sends, or of a response that the app sends. Out: a
//! [`StoredBody`]. Files are written on threads that may block.

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tempfile::NamedTempFile;

use crate::apply::StoredBody;

/// Bodies up to this size stay in memory, in bytes.
pub(crate) const MEMORY_BYTES: usize = 64 << 10;

/// Responses up to this size are kept at all, in bytes: as much as apply keeps on disk of all
/// responses. The log is on the same volume, and a response may have no end.
const DISK_BYTES: u64 = 1 << 30;

/// A body as it comes.
#[derive(Debug)]
pub(crate) struct Spool {
    folder: Arc<Path>,
    memory: Memory,
    /// What may stay in memory, in bytes.
    memory_bytes: u64,
    file: Option<NamedTempFile>,
    len: u64,
}

/// The body of a response as it comes. What cannot be kept is still read to its end.
#[derive(Debug)]
pub(super) struct ResponseSpool {
    kept: io::Result<Spool>,
    limit: u64,
}

#[derive(Debug, Default)]
enum Memory {
    #[default]
    Empty,
    /// Mostly all there is.
    One(Bytes),
    Many(BytesMut),
}

// === impl Spool ===

impl Spool {
    /// Nothing yet. The folder must exist when a body leaves memory.
    pub(crate) fn new(folder: Arc<Path>) -> Self {
        Self {
            folder,
            memory: Memory::Empty,
            memory_bytes: MEMORY_BYTES as u64,
            file: None,
            len: 0,
        }
    }

    /// Bytes so far.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// From the next piece on, everything is in a file, whatever its size.
    pub(crate) fn leave_memory(&mut self) {
        self.memory_bytes = 0;
    }

    /// Takes the next piece. After an error nothing is left.
    pub(crate) async fn push(&mut self, bytes: Bytes) -> io::Result<()> {
        self.len += bytes.len() as u64;
        if self.file.is_none() && self.len <= self.memory_bytes {
            self.memory.push(bytes);
            return Ok(());
        }
        let held = std::mem::take(&mut self.memory).into_bytes();
        let (file, folder) = (self.file.take(), self.folder.clone());
        let write = move || {
            // Of mode 0600: it holds what a client sent.
            let mut file = file.map_or_else(|| NamedTempFile::new_in(folder), Ok)?;
            file.write_all(&held)?;
            file.write_all(&bytes)?;
            Ok(file)
        };
        let written = tokio::task::spawn_blocking(write).await;
        self.file = Some(written.unwrap_or_else(|error| Err(io::Error::other(error)))?);
        Ok(())
    }

    /// All of it.
    pub(crate) fn finish(mut self) -> StoredBody {
        let memory = std::mem::take(&mut self.memory);
        match (self.file.take(), memory) {
            (Some(file), _) => StoredBody::File {
                path: Arc::new(file.into_temp_path()),
                len: self.len,
            },
            // Copied, since it may be a small part of a large read buffer.
            (None, Memory::One(bytes)) => StoredBody::Memory(Bytes::copy_from_slice(&bytes)),
            (None, memory) => StoredBody::Memory(memory.into_bytes()),
        }
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        if let Some(file) = self.file.take() {
            drop_elsewhere(file);
        }
    }
}

/// A whole body in memory.
pub(crate) async fn load(body: &StoredBody) -> io::Result<Bytes> {
    let (path, len) = match body {
        StoredBody::Memory(bytes) => return Ok(bytes.clone()),
        StoredBody::File { path, len } => (path.clone(), *len),
    };
    let read = tokio::task::spawn_blocking(move || std::fs::read(&*path)).await;
    let bytes = read.unwrap_or_else(|error| Err(io::Error::other(error)))?;
    if bytes.len() as u64 != len {
        let what = format!("it has {} bytes instead of {len}", bytes.len());
        return Err(io::Error::new(io::ErrorKind::InvalidData, what));
    }
    Ok(bytes.into())
}

/// Drops what may take a while, such as a file that is removed then, on a thread that may block.
pub(crate) fn drop_elsewhere<T: Send + 'static>(it: T) {
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        runtime.spawn_blocking(move || drop(it));
    }
}

// === impl ResponseSpool ===

impl ResponseSpool {
    pub(super) fn new(folder: Arc<Path>) -> Self {
        Self {
            kept: Ok(Spool::new(folder)),
            limit: DISK_BYTES,
        }
    }

    /// Takes the next piece. Never fails; what cannot be kept is gone at once, and not only at the
    /// end of the body, which may be far away.
    pub(super) async fn push(&mut self, bytes: Bytes) {
        let Ok(spool) = &mut self.kept else {
            return;
        };
        let kept = if spool.len() + bytes.len() as u64 > self.limit {
            let what = format!("it is longer than {} bytes", self.limit);
            Err(io::Error::new(io::ErrorKind::FileTooLarge, what))
        } else {
            spool.push(bytes).await
        };
        if let Err(error) = kept {
            self.kept = Err(error);
        }
    }

    /// All of it, unless it could not be kept.
    pub(super) fn finish(self) -> io::Result<StoredBody> {
        self.kept.map(Spool::finish)
    }
}

// === impl Memory ===

impl Memory {
    fn push(&mut self, bytes: Bytes) {
        *self = match std::mem::take(self) {
            Self::Empty => Self::One(bytes),
            Self::One(first) => {
                let mut many = BytesMut::with_capacity(first.len() + bytes.len());
                many.extend_from_slice(&first);
                many.extend_from_slice(&bytes);
                Self::Many(many)
            }
            Self::Many(mut many) => {
                many.extend_from_slice(&bytes);
                Self::Many(many)
            }
        };
    }

    fn into_bytes(self) -> Bytes {
        match self {
            Self::Empty => Bytes::new(),
            Self::One(bytes) => bytes,
            Self::Many(bytes) => bytes.freeze(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn files(folder: &Path) -> usize {
        std::fs::read_dir(folder).unwrap().count()
    }

    async fn spooled(mut spool: Spool, chunks: &[usize]) -> (StoredBody, Vec<u8>) {
        let mut whole = Vec::new();
        for (number, &len) in chunks.iter().enumerate() {
            let chunk = vec![u8::try_from(number % 251).unwrap(); len];
            whole.extend_from_slice(&chunk);
            spool.push(Bytes::from(chunk)).await.unwrap();
        }
        assert_eq!(spool.len(), whole.len() as u64);
        (spool.finish(), whole)
    }

    #[tokio::test]
    async fn small_bodies_stay_in_memory() {
        let folder = tempfile::tempdir().unwrap();
        for chunks in [&[][..], &[10], &[10, 20, 30], &[MEMORY_BYTES - 1, 1]] {
            let (body, whole) = spooled(Spool::new(folder.path().into()), chunks).await;
            let StoredBody::Memory(bytes) = body else {
                panic!("{chunks:?} is in a file");
            };
            assert_eq!(bytes, whole);
        }
        assert_eq!(files(folder.path()), 0);
    }

    #[tokio::test]
    async fn large_bodies_are_files_of_ours_alone_that_live_as_long_as_they_are_needed() {
        let folder = tempfile::tempdir().unwrap();
        for chunks in [
            &[MEMORY_BYTES + 1][..],
            &[MEMORY_BYTES, 1],
            &[1, MEMORY_BYTES, 1 << 20],
        ] {
            let (body, whole) = spooled(Spool::new(folder.path().into()), chunks).await;
            let StoredBody::File { path, len } = &body else {
                panic!("{chunks:?} is in memory");
            };
            assert_eq!(*len, whole.len() as u64);
            assert_eq!(load(&body).await.unwrap(), whole);
            let mode = std::fs::metadata(&**path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
            drop(body);
            assert_eq!(files(folder.path()), 0);
        }
    }

    #[tokio::test]
    async fn a_body_that_must_leave_memory_takes_what_it_has_there_along() {
        let folder = tempfile::tempdir().unwrap();
        let mut spool = Spool::new(folder.path().into());
        spool.push(Bytes::from_static(b"ab")).await.unwrap();
        spool.leave_memory();
        spool.push(Bytes::from_static(b"cd")).await.unwrap();
        let StoredBody::File { path, len: 4 } = spool.finish() else {
            panic!("it is in memory");
        };
        assert_eq!(std::fs::read(&*path).unwrap(), b"abcd");
    }

    #[tokio::test]
    async fn a_file_that_has_changed_is_not_taken_for_the_body() {
        let folder = tempfile::tempdir().unwrap();
        let chunks = [MEMORY_BYTES + 1];
        let (body, _) = spooled(Spool::new(folder.path().into()), &chunks).await;
        let StoredBody::File { path, .. } = &body else {
            panic!("it is in memory");
        };
        std::fs::write(&**path, "short").unwrap();
        assert!(load(&body).await.is_err());
    }

    #[tokio::test]
    async fn a_response_beyond_the_limit_takes_no_room_while_the_rest_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let chunk = Bytes::from(vec![0; MEMORY_BYTES]);
        let mut spool = ResponseSpool {
            limit: 3 * MEMORY_BYTES as u64,
            ..ResponseSpool::new(folder.path().into())
        };
        for _ in 0..3 {
            spool.push(chunk.clone()).await;
        }
        assert_eq!(files(folder.path()), 1);
        spool.push(chunk.clone()).await;
        while files(folder.path()) > 0 {
            tokio::task::yield_now().await;
        }
        spool.push(chunk).await;
        assert_eq!(files(folder.path()), 0);
        let error = spool.finish().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
    }

    #[tokio::test]
    async fn a_response_that_cannot_be_kept_is_still_read() {
        let folder = tempfile::tempdir().unwrap();
        let mut spool = ResponseSpool::new(folder.path().join("gone").into());
        for _ in 0..10 {
            spool.push(Bytes::from(vec![0; MEMORY_BYTES])).await;
        }
        assert!(spool.finish().is_err());
    }
}
