//! Walks through the chunks of a snapshot file, from a disk or from a peer, and believes nothing.

use std::io::{self, Read};

use super::format::{
    BadFileHeader, CHUNK_HEADER_BYTES, ChunkHeader, END_BODY_BYTES, END_BYTES, END_HASHED_BYTES,
    Encoding, End, FILE_HEADER_BYTES, Kind, MAX_TABLES_BYTES, check_file_header,
};
use super::head::{Head, HeadError};

/// Why a snapshot cannot be read any further.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The bytes are not those that were written.
    #[error("the snapshot is damaged at byte {at}: {what}")]
    Damaged {
        /// Where the part begins that is damaged.
        at: u64,
        /// What is wrong there.
        what: &'static str,
    },
    /// The file was made by a later version of this software.
    #[error("the snapshot has format version {found}, this program knows 1; use a newer program")]
    UnknownVersion {
        /// Version of the file.
        found: u32,
    },
    /// What was read from said no.
    #[error("reading the snapshot: {0}")]
    Io(#[from] io::Error),
}

/// A place in a file, and all that the chunks before it have said.
///
/// A chunk that cannot be read changes nothing, so a walk can go on with another source of the
/// same bytes: that is how a transfer is resumed.
#[derive(Debug)]
pub(super) struct Walk {
    at: u64,
    head: Option<Head>,
    tables_bytes: u64,
    state_bytes: u64,
    /// Over the state, by [`Walk::decode`].
    state: blake3::Hasher,
    /// Over the file, unless somebody else reads it all again.
    file: Option<blake3::Hasher>,
    end: Option<End>,
    zstd: Decoder,
    /// Room for the next body: new room costs more than what is done with it.
    spare: Vec<u8>,
}

/// A chunk whose checksum is right.
#[derive(Debug)]
pub(super) struct Chunk {
    header: ChunkHeader,
    body: Vec<u8>,
}

struct Decoder(zstd::bulk::Decompressor<'static>);

// === impl Chunk ===

impl Chunk {
    pub(super) fn kind(&self) -> Kind {
        self.header.kind
    }

    /// As stored.
    pub(super) fn into_body(self) -> Vec<u8> {
        self.body
    }
}

// === impl Walk ===

impl Walk {
    /// At the front of a file.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            at: 0,
            head: None,
            tables_bytes: 0,
            state_bytes: 0,
            state: blake3::Hasher::new(),
            file: Some(blake3::Hasher::new()),
            end: None,
            zstd: Decoder(zstd::bulk::Decompressor::new()?),
            spare: Vec::new(),
        })
    }

    /// The same without the hash over the file: for bytes that are read again later.
    pub(super) fn without_hash() -> io::Result<Self> {
        let walk = Self::new()?;
        Ok(Self { file: None, ..walk })
    }

    /// Bytes of the file that are known to be good.
    pub(super) fn at(&self) -> u64 {
        self.at
    }

    /// Known behind the first chunk.
    pub(super) fn head(&self) -> Option<&Head> {
        self.head.as_ref()
    }

    /// Known behind the last chunk: everything that is hashed is as it was written.
    pub(super) fn end(&self) -> Option<End> {
        self.end
    }

    /// Reads the next chunk; `None` behind the last one. The bytes must be those at
    /// [`Walk::at`].
    pub(super) fn next(&mut self, from: &mut impl Read) -> Result<Option<Chunk>, ReadError> {
        if self.end.is_some() {
            return Ok(None);
        }
        if self.at == 0 {
            self.pass_file_header(from)?;
        }
        let mut raw = [0; CHUNK_HEADER_BYTES];
        self.fill(from, &mut raw)?;
        let damaged = |what| ReadError::Damaged { at: self.at, what };
        let header = ChunkHeader::decode(&raw).ok_or(damaged("it is no chunk"))?;
        let mut body = std::mem::take(&mut self.spare);
        body.resize(header.length as usize, 0);
        self.fill(from, &mut body)?;
        if !ChunkHeader::fits(&raw, &body) {
            return Err(damaged("a checksum is wrong"));
        }
        self.take(&raw, header, &body)?;
        Ok(Some(Chunk { header, body }))
    }

    /// Takes room back that is not needed any more.
    pub(super) fn recycle(&mut self, spare: Vec<u8>) {
        self.spare = spare;
    }

    /// The bytes that a chunk stands for; of the state, each chunk must be decoded once, in order,
    /// before the next is read, or none at all.
    pub(super) fn decode(&mut self, chunk: Chunk) -> Result<Vec<u8>, ReadError> {
        let Chunk { header, body } = chunk;
        let decoded = match header.encoding {
            Encoding::Plain => body,
            // The length is bounded, whatever the frame says.
            Encoding::Zstd => self
                .zstd
                .0
                .decompress(&body, header.decoded as usize)
                .ok()
                .filter(|it| it.len() == header.decoded as usize)
                .ok_or(ReadError::Damaged {
                    at: header.offset,
                    what: "it cannot be decompressed",
                })?,
        };
        if header.kind == Kind::State {
            self.state.update(&decoded);
        }
        Ok(decoded)
    }

    /// Whether the state that was decoded is the one that was written.
    pub(super) fn check_state(&self) -> Result<End, ReadError> {
        let end = self.end.ok_or(ReadError::Damaged {
            at: self.at,
            what: "it has no end",
        })?;
        if *self.state.finalize().as_bytes() == end.state_digest.0 {
            return Ok(end);
        }
        Err(ReadError::Damaged {
            at: self.at,
            what: "its state has another digest",
        })
    }

    /// Nothing follows the end.
    pub(super) fn check_end(&self, from: &mut impl Read) -> Result<(), ReadError> {
        if from.read(&mut [0])? == 0 {
            return Ok(());
        }
        Err(ReadError::Damaged {
            at: self.at,
            what: "something follows its end",
        })
    }

    fn hash(&mut self, bytes: &[u8]) {
        if let Some(file) = &mut self.file {
            file.update(bytes);
        }
    }

    fn pass_file_header(&mut self, from: &mut impl Read) -> Result<(), ReadError> {
        let mut raw = [0; FILE_HEADER_BYTES];
        self.fill(from, &mut raw)?;
        check_file_header(&raw).map_err(|error| match error {
            BadFileHeader::UnknownVersion(found) => ReadError::UnknownVersion { found },
            BadFileHeader::Damaged => ReadError::Damaged {
                at: 0,
                what: "it does not begin like a snapshot",
            },
        })?;
        self.hash(&raw);
        self.at = FILE_HEADER_BYTES as u64;
        Ok(())
    }

    fn fill(&self, from: &mut impl Read, buffer: &mut [u8]) -> Result<(), ReadError> {
        from.read_exact(buffer).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => ReadError::Damaged {
                at: self.at,
                what: "it ends too early",
            },
            _ => ReadError::Io(error),
        })
    }

    /// The chunk is where it belongs and says nothing that cannot be.
    fn take(
        &mut self,
        raw: &[u8; CHUNK_HEADER_BYTES],
        header: ChunkHeader,
        body: &[u8],
    ) -> Result<(), ReadError> {
        let at = self.at;
        let damaged = |what| ReadError::Damaged { at, what };
        if header.offset != at {
            return Err(damaged("a part of another place is there"));
        }
        let decoded = u64::from(header.decoded);
        match header.kind {
            Kind::Head if self.head.is_none() => {
                let head = Head::decode(body).map_err(|HeadError(_)| damaged("a bad head"))?;
                self.head = Some(head);
            }
            Kind::Tables if self.head.is_some() && self.state_bytes == 0 => {
                if self.tables_bytes + decoded > MAX_TABLES_BYTES {
                    return Err(damaged("its tables are too large"));
                }
                self.tables_bytes += decoded;
            }
            Kind::State if self.head.is_some() => self.state_bytes += decoded,
            Kind::End if self.head.is_some() => return self.take_end(header, body),
            _ => return Err(damaged("its parts are not in order")),
        }
        self.hash(raw);
        self.hash(body);
        self.at += (CHUNK_HEADER_BYTES + body.len()) as u64;
        Ok(())
    }

    fn take_end(&mut self, header: ChunkHeader, body: &[u8]) -> Result<(), ReadError> {
        let damaged = |what| ReadError::Damaged {
            at: header.offset,
            what,
        };
        let body: &[u8; END_BODY_BYTES] = body.try_into().map_err(|_| damaged("a bad end"))?;
        let end = End::decode(body);
        let hash = self.file.as_ref().map(|it| {
            let mut hasher = it.clone();
            hasher.update(&body[..END_HASHED_BYTES]);
            hasher.finalize()
        });
        if hash.is_some_and(|it| *it.as_bytes() != end.id.0) {
            return Err(damaged("the hash over the file is wrong"));
        }
        let file_bytes = header.offset + END_BYTES as u64;
        if (end.tables_bytes, end.state_bytes, end.file_bytes)
            != (self.tables_bytes, self.state_bytes, file_bytes)
        {
            return Err(damaged("its end tells other sizes"));
        }
        self.at = file_bytes;
        self.end = Some(end);
        Ok(())
    }
}

impl std::fmt::Debug for Decoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Decoder")
    }
}
