//! A snapshot that is being written.

use std::io::{self, Write};

use synod_failpoint::{Point, check};
use tempfile::NamedTempFile;

use super::format::{
    CHUNK_BYTES, CHUNK_HEADER_BYTES, ChunkHeader, END_BYTES, Encoding, End, FILE_HEADER_BYTES,
    Kind, MAX_TABLES_BYTES, file_header,
};
use super::head::{Head, SnapshotId, StateDigest};
use super::store::{Snapshot, Standing, Store, StoreError};
use super::{SYNC_BYTES, in_background};

/// How hard zstd tries: while a snapshot is written, the app may be standing still.
const LEVEL: i32 = 1;

/// A snapshot that takes the app's state piece by piece; nothing of it is left when it is dropped.
/// Its methods block.
pub struct Draft {
    store: Store,
    file: NamedTempFile,
    head: Head,
    /// State that does not fill a chunk yet.
    held: Vec<u8>,
    at: u64,
    synced: u64,
    tables_bytes: u64,
    state_bytes: u64,
    state: blake3::Hasher,
    hash: blake3::Hasher,
    zstd: zstd::bulk::Compressor<'static>,
}

// === impl Draft ===

impl Draft {
    pub(super) fn begin(
        store: Store,
        file: NamedTempFile,
        head: Head,
        tables: &[u8],
    ) -> Result<Self, StoreError> {
        if tables.len() as u64 > MAX_TABLES_BYTES {
            return Err(StoreError::TablesTooLarge {
                bytes: tables.len() as u64,
            });
        }
        let zstd = zstd::bulk::Compressor::new(LEVEL)
            .map_err(|error| store.failed("setting compression up", error))?;
        let mut draft = Self {
            store,
            file,
            head,
            held: Vec::with_capacity(CHUNK_BYTES),
            at: 0,
            synced: 0,
            tables_bytes: tables.len() as u64,
            state_bytes: 0,
            state: blake3::Hasher::new(),
            hash: blake3::Hasher::new(),
            zstd,
        };
        let header = file_header();
        draft.append(&header)?;
        draft.hash.update(&header);
        assert_eq!(draft.at, FILE_HEADER_BYTES as u64, "as documented");
        let head = draft.head.encode();
        if head.len() > CHUNK_BYTES {
            return Err(StoreError::HeadTooLarge {
                bytes: head.len() as u64,
            });
        }
        draft.put(Kind::Head, &head)?;
        for part in tables.chunks(CHUNK_BYTES) {
            draft.put(Kind::Tables, part)?;
        }
        Ok(draft)
    }

    /// Bytes of the state so far.
    pub fn state_bytes(&self) -> u64 {
        self.state_bytes + self.held.len() as u64
    }

    /// Takes the next piece of the state.
    pub fn push(&mut self, mut bytes: &[u8]) -> Result<(), StoreError> {
        while !bytes.is_empty() {
            let room = CHUNK_BYTES - self.held.len();
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.held.extend_from_slice(now);
            bytes = later;
            if self.held.len() == CHUNK_BYTES {
                self.put_held()?;
            }
        }
        Ok(())
    }

    /// Makes it a snapshot of the store: synced, read back and compared, under its name. An error
    /// leaves the store as it was.
    pub fn commit(mut self) -> Result<Snapshot, StoreError> {
        self.put_held()?;
        let mut end = End {
            tables_bytes: self.tables_bytes,
            state_bytes: self.state_bytes,
            state_digest: StateDigest(*self.state.finalize().as_bytes()),
            file_bytes: self.at + END_BYTES as u64,
            id: SnapshotId([0; 32]),
        };
        let hash = self.hash.update(&end.encode_hashed()).finalize();
        end.id = SnapshotId(*hash.as_bytes());
        self.put(Kind::End, &end.encode())?;
        assert_eq!(self.at, end.file_bytes, "the size that the end tells");
        let back = self.store.read_back(self.file.path(), true)?;
        self.store
            .seal(self.file, &self.head, end, back, Standing::Uncompared)
    }

    /// As [`Draft::commit`], in the background; done even if nobody waits for it.
    pub async fn finish(self) -> Result<Snapshot, StoreError> {
        in_background(move || self.commit()).await
    }

    fn put_held(&mut self) -> Result<(), StoreError> {
        if self.held.is_empty() {
            return Ok(());
        }
        let held = std::mem::take(&mut self.held);
        self.state.update(&held);
        self.state_bytes += held.len() as u64;
        self.put(Kind::State, &held)?;
        check(Point::SnapshotChunkWritten)
            .map_err(|error| self.store.failed("writing a snapshot", error))?;
        self.held = held;
        self.held.clear();
        Ok(())
    }

    fn put(&mut self, kind: Kind, decoded: &[u8]) -> Result<(), StoreError> {
        let compressed = match kind {
            Kind::Head | Kind::End => None,
            // What does not get smaller is stored as it is.
            Kind::Tables | Kind::State => self
                .zstd
                .compress(decoded)
                .ok()
                .filter(|it| it.len() < decoded.len()),
        };
        let (encoding, body) = match &compressed {
            Some(body) => (Encoding::Zstd, body.as_slice()),
            None => (Encoding::Plain, decoded),
        };
        let length = |bytes: &[u8]| u32::try_from(bytes.len()).expect("a chunk is small");
        let header = ChunkHeader {
            kind,
            encoding,
            length: length(body),
            decoded: length(decoded),
            offset: self.at,
        };
        let header = header.encode(body);
        self.store
            .check_room((CHUNK_HEADER_BYTES + body.len()) as u64)?;
        self.append(&header)?;
        self.append(body)?;
        self.hash.update(&header);
        self.hash.update(body);
        Ok(())
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        let written = self.file.write_all(bytes);
        written.map_err(|error| self.store.failed("writing a snapshot", error))?;
        self.at += bytes.len() as u64;
        if self.at >= self.synced + SYNC_BYTES {
            let synced = self.file.as_file().sync_data();
            synced.map_err(|error| self.store.failed("syncing a snapshot", error))?;
            self.synced = self.at;
        }
        Ok(())
    }
}

impl Write for Draft {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.push(bytes).map_err(io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl std::fmt::Debug for Draft {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Draft")
            .field("slot", &self.head.slot)
            .field("state_bytes", &self.state_bytes())
            .finish_non_exhaustive()
    }
}
