//! The old content out, the new content in, and a note that tells while that goes on.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use synod_failpoint::{Point, check, hit};
use synod_paxos::Slot;

use super::error::VolumeError;
use super::{Volume, make_folder, remove_tree, sync_folder};

/// In the work folder: the new content, the old one, and the note.
pub(super) const NEW: &str = "new";
pub(super) const OLD: &str = "old";
const MARKER: &str = "restoring";

/// What the note says, if there is one. One that cannot be read is one all the same.
pub(super) fn marker(work: &Path) -> Result<Option<Slot>, VolumeError> {
    let path = work.join(MARKER);
    match fs::read_to_string(&path) {
        Ok(text) => Ok(Some(Slot(text.trim().parse().unwrap_or(0)))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => Ok(Some(Slot::ZERO)),
        Err(error) => Err(VolumeError::io("reading", path)(error)),
    }
}

pub(super) fn swap(volume: &Volume, slot: Slot) -> Result<(), VolumeError> {
    swap_by_steps(volume, slot, &mut || Ok(()))
}

/// Asks `step` before each change that a crash could come after.
pub(super) fn swap_by_steps(
    volume: &Volume,
    slot: Slot,
    step: &mut dyn FnMut() -> Result<(), VolumeError>,
) -> Result<(), VolumeError> {
    let (mount, work) = (&volume.mount, &volume.work);
    let (new, old, marker) = (work.join(NEW), work.join(OLD), work.join(MARKER));
    step()?;
    make_folder(&old)?;
    sync_volume(work)?;
    step()?;
    let written = check(Point::VolumeRoomMade)
        .and_then(|()| {
            fs::OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&marker)
        })
        .and_then(|mut it| {
            writeln!(it, "{}", slot.0)?;
            it.sync_all()
        });
    written.map_err(VolumeError::io("writing", &marker))?;
    sync_folder(work)?;
    // A work folder that is new itself.
    sync_folder(work.parent().unwrap_or(mount))?;
    hit(Point::VolumeNoted);
    for (from, to, left) in [(mount, &old, &*volume.reserved), (&new, mount, &[])] {
        for name in names(from)? {
            if !left.contains(&name) {
                step()?;
                rename(&from.join(&name), &to.join(&name))?;
                let moved = check(Point::VolumeEntryMoved);
                moved.map_err(VolumeError::io("moving", to))?;
            }
        }
    }
    step()?;
    sync_volume(mount)?;
    step()?;
    check(Point::VolumeSynced)
        .and_then(|()| fs::remove_file(&marker))
        .map_err(VolumeError::io("removing", &marker))?;
    check(Point::VolumeNoteRemoved).map_err(VolumeError::io("syncing", work))?;
    sync_folder(work)?;
    hit(Point::VolumeDone);
    step()?;
    remove_tree(&old)
}

fn names(folder: &Path) -> Result<Vec<OsString>, VolumeError> {
    let mut names = Vec::new();
    let failed = |error| VolumeError::io("reading", folder)(error);
    for entry in fs::read_dir(folder).map_err(failed)? {
        names.push(entry.map_err(failed)?.file_name());
    }
    names.sort();
    Ok(names)
}

/// Also of folders that their owner may not write: `..` in them changes.
fn rename(from: &Path, to: &Path) -> Result<(), VolumeError> {
    let failed = |error| VolumeError::io("moving", from)(error);
    match fs::rename(from, to) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
        done => return done.map_err(failed),
    }
    let mode = fs::symlink_metadata(from).map_err(failed)?.permissions();
    fs::set_permissions(from, fs::Permissions::from_mode(0o700)).map_err(failed)?;
    fs::rename(from, to).map_err(failed)?;
    fs::set_permissions(to, mode).map_err(failed)
}

/// Everything on its file system.
fn sync_volume(path: &Path) -> Result<(), VolumeError> {
    let folder = File::open(path).map_err(VolumeError::io("opening", path))?;
    rustix::fs::syncfs(&folder).map_err(VolumeError::errno("syncing", path))
}
