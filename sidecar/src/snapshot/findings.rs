//! What is found in the folder of a store when it is opened.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use synod_paxos::Slot;

use super::format::{CHUNK_HEADER_BYTES, ChunkHeader, END_BODY_BYTES, END_BYTES, End, Kind};
use super::names::{self, Name};
use super::store::{Snapshot, Standing, is_damage};
use super::walk::{ReadError, Walk};

/// Something that people should know about the folder of a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// A file of a snapshot that was never finished; it was removed.
    HalfWritten {
        /// Its name.
        name: String,
    },
    /// A snapshot is damaged, or its copy has turned out to be wrong, and it now has another name.
    Damaged {
        /// Its slot.
        slot: Slot,
        /// What is wrong with it.
        why: String,
        /// Its new name.
        aside: String,
    },
    /// A snapshot that was set aside earlier is still there and takes room.
    SetAside {
        /// Its name.
        name: String,
    },
    /// A later version of this software made it; it was left alone and is not used.
    NewerVersion {
        /// Its name.
        name: String,
    },
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::HalfWritten { name } => {
                write!(f, "{name} was never finished and has been removed")
            }
            Self::Damaged { slot, why, aside } => write!(
                f,
                "the snapshot of slot {} cannot be used ({why}) and is now called {aside}; \
                 check the disk, then remove it",
                slot.0
            ),
            Self::SetAside { name } => {
                write!(
                    f,
                    "{name} was damaged earlier; remove it when it was looked at"
                )
            }
            Self::NewerVersion { name } => {
                write!(f, "{name} was made by a newer program and is not used")
            }
        }
    }
}

/// Looks at all files, and tells about them. `mends`: what can be is put in order; otherwise nothing is
/// changed, and what is not whole is passed over.
pub(super) fn survey(
    folder: &Path,
    mends: bool,
) -> io::Result<(BTreeMap<Slot, Snapshot>, Vec<Finding>)> {
    let mut known = BTreeMap::new();
    let mut findings = Vec::new();
    let mut marks = Vec::new();
    for name in sorted_names(folder)? {
        match names::parse(&name) {
            Some(Name::New) if !mends => {}
            Some(Name::New) => {
                fs::remove_file(folder.join(&name))?;
                findings.push(Finding::HalfWritten { name });
            }
            Some(Name::Damaged(_)) => findings.push(Finding::SetAside { name }),
            Some(Name::Mark(slot)) => marks.push(slot),
            Some(Name::Snapshot(slot)) => match look(&folder.join(&name), slot) {
                Ok(snapshot) => {
                    known.insert(slot, snapshot);
                }
                Err(ReadError::UnknownVersion { .. }) => {
                    findings.push(Finding::NewerVersion { name });
                }
                Err(error) if is_damage(&error) && !mends => {}
                Err(error) if is_damage(&error) => {
                    let (why, aside) = (error.to_string(), names::set_aside(folder, slot)?);
                    findings.push(Finding::Damaged { slot, why, aside });
                }
                Err(ReadError::Io(error)) => return Err(error),
                Err(error) => return Err(io::Error::other(error)),
            },
            Some(Name::Part) | None => {}
        }
    }
    for slot in marks {
        let path = folder.join(names::mark_of(slot));
        match known.get_mut(&slot) {
            Some(snapshot) => snapshot.standing = names::read_mark(&fs::read(path)?, snapshot.id),
            None if !mends => {}
            None => fs::remove_file(path)?,
        }
    }
    Ok((known, findings))
}

/// In an order of its own; names that are not UTF-8 are not ours.
fn sorted_names(folder: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)? {
        names.extend(entry?.file_name().into_string());
    }
    names.sort();
    Ok(names)
}

/// Both ends of a file, which tell whether all of it is there.
fn look(path: &Path, slot: Slot) -> Result<Snapshot, ReadError> {
    let mut file = File::open(path)?;
    let bytes = file.metadata()?.len();
    let damaged = |at, what| ReadError::Damaged { at, what };
    let mut walk = Walk::new()?;
    walk.next(&mut file)?;
    let head = walk.head().cloned().ok_or(damaged(0, "it has no head"))?;
    if head.slot != slot {
        return Err(damaged(0, "it is of another slot than its name says"));
    }
    let end_at = bytes.saturating_sub(END_BYTES as u64);
    file.seek(SeekFrom::Start(end_at))?;
    let mut raw = [0; CHUNK_HEADER_BYTES];
    let mut body = [0; END_BODY_BYTES];
    file.read_exact(&mut raw)?;
    file.read_exact(&mut body)?;
    let header = ChunkHeader::decode(&raw)
        .filter(|it| it.kind == Kind::End && it.offset == end_at && ChunkHeader::fits(&raw, &body));
    let end = End::decode(&body);
    if header.is_none() || end.file_bytes != bytes {
        return Err(damaged(end_at, "its end is missing"));
    }
    Ok(Snapshot {
        head,
        id: end.id,
        bytes,
        state_bytes: end.state_bytes,
        state_digest: end.state_digest,
        standing: Standing::Uncompared,
    })
}
