//! What can go wrong with a volume, and what to do about it.

use std::io;
use std::path::{Path, PathBuf};

use synod_paxos::Slot;

/// A volume was not saved or not restored.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// The file system said no.
    #[error("{doing} {path}: {error}{}", hint(error))]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// What the file system said.
        error: io::Error,
    },
    /// Something that is no state.
    #[error("{path} is a device, which cannot be saved; move it out of the volume")]
    Device {
        /// Where.
        path: PathBuf,
    },
    /// Another mount below the volume's.
    #[error("{path} is on another file system than the volume; unmount it or move it elsewhere")]
    OtherFileSystem {
        /// Where.
        path: PathBuf,
    },
    /// Folders in folders without end.
    #[error("{path} is more than {most} folders deep; the volume cannot be saved")]
    TooDeep {
        /// Where.
        path: PathBuf,
        /// The limit.
        most: usize,
    },
    /// Written while it was read.
    #[error(
        "{path} changed while it was saved: the app works on behind its responses; give it a \
         settle endpoint"
    )]
    Changed {
        /// Where.
        path: PathBuf,
    },
    /// Less room than needed.
    #[error(
        "no room on {mount}: the snapshot needs {needed} bytes and {needed_files} files beside the \
         old content, {free} bytes are free; make the volume larger. Nothing was changed"
    )]
    NoRoom {
        /// The volume.
        mount: PathBuf,
        /// Bytes that the restored content takes.
        needed: u64,
        /// Files, folders and links in it.
        needed_files: u64,
        /// Bytes that are free.
        free: u64,
    },
    /// Content cannot be moved between the two.
    #[error(
        "the work folder {work} must be on the same mount as the volume {mount}, beside its \
         content or directly in it"
    )]
    WorkElsewhere {
        /// The volume.
        mount: PathBuf,
        /// The work folder.
        work: PathBuf,
    },
    /// The content is part old, part new.
    #[error(
        "{mount} holds half of the state of slot {}: a restore was interrupted; restore it again",
        .slot.0
    )]
    Interrupted {
        /// The volume.
        mount: PathBuf,
        /// The slot whose state was being put there.
        slot: Slot,
    },
    /// The state is no volume of ours.
    #[error("the snapshot holds no volume that this program has saved: {0}")]
    NotOurs(&'static str),
    /// The snapshot cannot be read; nothing was changed.
    #[error("reading the volume from its snapshot: {0}; it must come from another member")]
    Snapshot(#[source] io::Error),
    /// The snapshot cannot be written.
    #[error("writing the volume into a snapshot: {0}")]
    Draft(#[source] io::Error),
}

// === impl VolumeError ===

impl VolumeError {
    pub(super) fn io(
        doing: &'static str,
        path: impl AsRef<Path>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.as_ref().to_owned();
        move |error| Self::Io { doing, path, error }
    }

    pub(super) fn errno(
        doing: &'static str,
        path: impl AsRef<Path>,
    ) -> impl FnOnce(rustix::io::Errno) -> Self {
        let io = Self::io(doing, path);
        move |error| io(error.into())
    }
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "; the sidecar must run as the user of the app",
        io::ErrorKind::StorageFull => "; make the volume larger",
        _ => "",
    }
}
