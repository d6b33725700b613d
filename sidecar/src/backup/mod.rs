//! Backups: a snapshot and the log behind it, in a folder that no running group touches.
//!
//! In: a connection to a member. Out: a folder.
//!
//! | name | what |
//! |---|---|
//! | `snapshots/` | one snapshot, as members keep theirs ([`crate::snapshot`]) |
//! | `entries` | the agreed entries behind it, in slot order ([`entries`]) |
//! | `backup.json` | what it is of ([`Manifest`]); written last, so without it there is no backup |
//!
//! Everything is read back before `backup.json` is written, and [`check`] reads it again at any time.
//! Files are of mode 0600: they hold what clients sent (rule W6).

mod create;
mod entries;
mod service;

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use synod_paxos::Slot;

pub use create::{Extent, Progress, Reach, create, reach};
pub use entries::{EntriesError, Reader, Summary};
pub use service::service;

use crate::identity::ConnectError;
use crate::snapshot::transfer::FetchError;
use crate::snapshot::{StateReader, Store, StoreError};

/// Version of `backup.json`, and of all that it stands for.
const FORMAT: u32 = 1;
const MANIFEST: &str = "backup.json";
const SNAPSHOTS: &str = "snapshots";
const ENTRIES: &str = "entries";

/// `backup.json`.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Manifest {
    /// Version of the folder's format.
    pub format: u32,
    /// Name of the service.
    pub service: String,
    /// The group: 32 hex digits.
    pub group: String,
    /// Slot of the snapshot: a restore begins behind it.
    pub snapshot_slot: u64,
    /// Names the snapshot's bytes: 64 hex digits.
    pub snapshot: String,
    /// Whether the snapshot's slots were compared with those of other copies.
    pub verified: bool,
    /// The last slot that can be restored.
    pub through: u64,
    /// It is of a member without a majority; `None`: all of it was chosen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub survivor: Option<Survivor>,
    /// Agreed time of that slot, in nanoseconds since the Unix epoch.
    pub through_time_ns: u64,
    /// BLAKE3 of the file `entries`: 64 hex digits.
    pub entries: String,
    /// Size of everything, in bytes.
    pub bytes: u64,
}

/// Of a member that was left without a majority.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Survivor {
    /// What is behind this slot was stored there, and may or may not have been chosen.
    pub chosen: u64,
    /// The ballot that its log was adopted in: epoch, round and member. Of several members that are left,
    /// the one with the greatest ballot, and of those with the same the one that reaches further, has all
    /// that was chosen in any of their logs.
    pub ballot: (u64, u64, u32),
}

/// No backup was made, or it is of no use.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The folder is there already.
    #[error("{0} is there already: give another name")]
    Exists(PathBuf),
    /// There is no backup there.
    #[error("{0} is no backup: it has no file backup.json")]
    NoBackup(PathBuf),
    /// It was made by a later version.
    #[error("the backup {path} has format {found}, this version knows 1: use a newer program")]
    Newer {
        /// Which.
        path: PathBuf,
        /// What it says.
        found: u32,
    },
    /// The member has no snapshot that may be used.
    #[error(
        "the member has no snapshot that may be used yet: take one, and wait until its slots were \
         compared"
    )]
    NoSnapshot,
    /// Something was changed or lost since.
    #[error("the backup {path} is damaged: {what}; use another one")]
    Damaged {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// No connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The snapshot did not come.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// The snapshot could not be kept.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The entries could not be kept.
    #[error(transparent)]
    Entries(#[from] EntriesError),
    /// The member has newer snapshots, and has cut its log behind them.
    #[error("the member cuts its log faster than it can be copied: {0}; try another member")]
    Moved(String),
    /// Meanwhile the group has gone on.
    #[error(
        "the group has a leader again: a majority is there, and nothing has to be guessed; make an \
         ordinary backup"
    )]
    GoesOn,
    /// The entries did not come.
    #[error("the member does not give its log: {0}")]
    Refused(String),
    /// The file system said no.
    #[error("{doing} {path}: {error}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// With what.
        path: PathBuf,
        /// What the file system said.
        error: io::Error,
    },
}

// === impl Manifest ===

impl Manifest {
    /// Of the backup in a folder.
    pub fn read(folder: &Path) -> Result<Self, BackupError> {
        #[derive(Deserialize)]
        struct Format {
            format: u32,
        }
        let path = folder.join(MANIFEST);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(BackupError::NoBackup(folder.to_owned()));
            }
            Err(error) => return Err(io_error("reading", &path)(error)),
        };
        let damaged = |error: serde_json::Error| BackupError::Damaged {
            path: folder.to_owned(),
            what: error.to_string(),
        };
        let Format { format } = serde_json::from_slice(&text).map_err(damaged)?;
        if format != FORMAT {
            return Err(BackupError::Newer {
                path: folder.to_owned(),
                found: format,
            });
        }
        serde_json::from_slice(&text).map_err(damaged)
    }

    /// Its last file: all of it or nothing, on disk when this returns.
    fn write(&self, folder: &Path) -> Result<(), BackupError> {
        let path = folder.join(MANIFEST);
        let text = serde_json::to_vec_pretty(self).expect("a manifest of strings is JSON");
        let written = tempfile::NamedTempFile::new_in(folder).and_then(|mut file| {
            file.write_all(&text)?;
            file.as_file().sync_all()?;
            file.persist(&path).map_err(|error| error.error)?;
            sync_folder(folder)
        });
        written.map_err(io_error("writing", &path))
    }
}

/// One of a folder of backups.
#[derive(Debug)]
pub struct Found {
    /// Where.
    pub path: PathBuf,
    /// What it is of, or why it is of no use.
    pub manifest: Result<Manifest, BackupError>,
}

/// The backups below a folder, by name.
pub fn list(folder: &Path) -> Result<Vec<Found>, BackupError> {
    let failed = |error| io_error("reading", folder)(error);
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        match Manifest::read(&path) {
            // A file, or a folder of something else.
            Err(BackupError::NoBackup(_) | BackupError::Io { .. }) => {}
            manifest => found.push(Found { path, manifest }),
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

/// Reads all of a backup. Blocks.
pub fn check(folder: &Path) -> Result<Manifest, BackupError> {
    let manifest = Manifest::read(folder)?;
    let damaged = |what: String| BackupError::Damaged {
        path: folder.to_owned(),
        what,
    };
    let (mut reader, _) = open(folder)?;
    let slot = reader.snapshot().head.slot;
    io::copy(&mut reader, &mut io::sink()).map_err(|error| damaged(error.to_string()))?;
    let summary = entries::check(&folder.join(ENTRIES), slot.next())
        .map_err(|error| damaged(error.to_string()))?;
    if summary.hash.to_hex().as_str() != manifest.entries {
        return Err(damaged(
            "its entries are not those that were saved".to_owned(),
        ));
    }
    if summary.through.unwrap_or(slot) != Slot(manifest.through) {
        return Err(damaged("entries are missing at its end".to_owned()));
    }
    Ok(manifest)
}

/// For reading all of a backup: its state, and the entries behind that. Blocks.
pub fn open(folder: &Path) -> Result<(StateReader, Reader), BackupError> {
    let manifest = Manifest::read(folder)?;
    // What is damaged in it shows when it is read.
    let store = Store::source(&folder.join(SNAPSHOTS))?;
    let all = store.list();
    let snapshot = all.iter().find(|it| it.id.to_string() == manifest.snapshot);
    let snapshot = snapshot.ok_or_else(|| BackupError::Damaged {
        path: folder.to_owned(),
        what: "its snapshot is gone".to_owned(),
    })?;
    let from = snapshot.head.slot.next();
    let entries = Reader::open(&folder.join(ENTRIES), from)?;
    Ok((store.read(snapshot.id)?, entries))
}

fn open_store(folder: &Path) -> Result<Store, BackupError> {
    let (store, _) = Store::open(&folder.join(SNAPSHOTS), 0)?;
    Ok(store)
}

fn io_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> BackupError {
    move |error| BackupError::Io {
        doing,
        path: path.to_owned(),
        error,
    }
}

fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}
