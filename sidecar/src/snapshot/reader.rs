//! The state and the tables of a snapshot, read back.

use std::fs::File;
use std::io::{self, BufReader, Read};

use bytes::Bytes;

use super::format::{CHUNK_BYTES, Kind};
use super::store::Snapshot;
use super::walk::{Chunk, ReadError, Walk};

/// Reads the app's state. Its last piece comes only when the whole file has proved to be good, so
/// whoever has got all of it has got the right one. Blocks.
#[derive(Debug)]
pub struct StateReader {
    snapshot: Snapshot,
    file: BufReader<File>,
    walk: Box<Walk>,
    tables: Vec<u8>,
    /// Read already, while what comes before it is handed out.
    ahead: Option<Chunk>,
    ready: Vec<u8>,
    taken: usize,
}

// === impl StateReader ===

impl StateReader {
    pub(super) fn new(snapshot: Snapshot, file: File) -> Result<Self, ReadError> {
        let mut reader = Self {
            snapshot,
            file: BufReader::with_capacity(CHUNK_BYTES, file),
            walk: Box::new(Walk::new()?),
            tables: Vec::new(),
            ahead: None,
            ready: Vec::new(),
            taken: 0,
        };
        loop {
            reader.look_ahead()?;
            match reader.ahead.take() {
                Some(chunk) if chunk.kind() == Kind::Head => {}
                Some(chunk) if chunk.kind() == Kind::Tables => {
                    let part = reader.walk.decode(chunk)?;
                    reader.tables.extend_from_slice(&part);
                }
                first => {
                    reader.ahead = first;
                    break;
                }
            }
        }
        Ok(reader)
    }

    /// Which snapshot this is.
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// What the apply machine remembered at that slot; of the state behind it nothing was read yet.
    pub fn tables(&self) -> Bytes {
        Bytes::copy_from_slice(&self.tables)
    }

    /// The next piece becomes ready; `false`: there is none.
    fn turn(&mut self) -> Result<bool, ReadError> {
        let Some(chunk) = self.ahead.take() else {
            return Ok(false);
        };
        let decoded = self.walk.decode(chunk)?;
        self.look_ahead()?;
        self.ready = decoded;
        self.taken = 0;
        Ok(true)
    }

    /// Behind the last piece: the end of the file, which tells whether all was right.
    fn look_ahead(&mut self) -> Result<(), ReadError> {
        self.ahead = self.walk.next(&mut self.file)?;
        if self.walk.end().is_some() {
            self.ahead = None;
            let end = self.walk.check_state()?;
            if end.id != self.snapshot.id {
                return Err(ReadError::Damaged {
                    at: self.walk.at(),
                    what: "it is another snapshot than the one that was there",
                });
            }
        }
        Ok(())
    }
}

impl Read for StateReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.taken == self.ready.len() && !self.turn().map_err(into_io)? {
            return Ok(0);
        }
        let rest = &self.ready[self.taken..];
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        self.taken += count;
        Ok(count)
    }
}

fn into_io(error: ReadError) -> io::Error {
    match error {
        ReadError::Io(error) => error,
        error => io::Error::new(io::ErrorKind::InvalidData, error),
    }
}
