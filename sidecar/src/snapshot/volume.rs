//! Method `volume`: a copy of the app's volume, and back.
//!
//! In: the folder where the app's volume is mounted. Out: a tar of it ([`pack`]), or the volume as
//! a tar says it was. Regular files, folders, symbolic and hard links come back with content, mode,
//! owner, modification time and `user.` attributes, whatever their names; the mount point itself
//! belongs to the platform and stays as it is. Sockets and pipes hold nothing and are left out;
//! devices and other file systems below the mount are refused. No symbolic link is ever followed.
//!
//! Where the file system can share blocks between files (btrfs, XFS), [`Volume::stage`] makes a
//! copy in moments, and the app may go on while that is packed. Elsewhere the app waits until
//! everything is packed: [`Staged::frozen`] tells.
//!
//! A restore unpacks everything beside the old content, syncs it, notes that it changes the
//! volume, and then changes it, entry by entry. If the machine stops in between,
//! [`Volume::interrupted`] says so: the volume is then nobody's state, and the restore must be done
//! again. Until that note is made, nothing of the old content is touched.
//!
//! What is needed meanwhile is in the *work folder*, which must be on the same mount as the
//! volume's content, and is best outside of what the app sees. If it is inside, it is neither
//! packed nor changed, and gone when it is not needed.

mod error;
mod meta;
mod pack;
mod stage;
mod swap;
#[cfg(test)]
mod tests;
mod tree;
mod unpack;

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use synod_failpoint::{Point, hit};
use synod_paxos::Slot;

pub use error::VolumeError;
pub use stage::Staged;
pub use tree::Totals;

use super::reader::StateReader;
use super::space;
use tree::Root;

/// At the root of ext file systems; never part of the state.
const LOST_AND_FOUND: &str = "lost+found";

/// The app's volume. Methods block.
#[derive(Clone, Debug)]
pub struct Volume {
    mount: PathBuf,
    work: PathBuf,
    /// Names in the root of the mount that are not the app's.
    reserved: Vec<OsString>,
    /// Nothing is written, neither to the mount nor to the work folder.
    read_only: bool,
}

// === impl Volume ===

impl Volume {
    /// The volume mounted at `mount`, with the work folder `work`, which need not exist. Removes
    /// what an earlier process has left in the latter.
    pub fn open(mount: &Path, work: &Path) -> Result<Self, VolumeError> {
        let device = |path: &Path| {
            let metadata = fs::metadata(path).map_err(VolumeError::io("looking at", path))?;
            Ok::<u64, VolumeError>(metadata.dev())
        };
        let parent = work.parent().unwrap_or(Path::new("/"));
        if device(mount)? != device(parent)? {
            return Err(VolumeError::WorkElsewhere {
                mount: mount.to_owned(),
                work: work.to_owned(),
            });
        }
        let mut reserved = vec![LOST_AND_FOUND.into()];
        if parent == mount {
            reserved.extend(work.file_name().map(ToOwned::to_owned));
        } else if work.starts_with(mount) {
            return Err(VolumeError::WorkElsewhere {
                mount: mount.to_owned(),
                work: work.to_owned(),
            });
        }
        let volume = Self {
            mount: mount.to_owned(),
            work: work.to_owned(),
            reserved,
            read_only: false,
        };
        volume.clean()?;
        Ok(volume)
    }

    /// One that is only read, and may be on a mount that cannot be written to: it is packed as it is,
    /// and nobody may write to it until that is done.
    pub fn source(mount: &Path) -> Self {
        Self {
            mount: mount.to_owned(),
            work: PathBuf::new(),
            reserved: vec![LOST_AND_FOUND.into()],
            read_only: true,
        }
    }

    /// Where it is mounted.
    pub fn mount(&self) -> &Path {
        &self.mount
    }

    /// The slot whose state was being put here when the machine or the process stopped; the content
    /// is then part old, part new, and no app must see it before a restore has succeeded.
    pub fn interrupted(&self) -> Result<Option<Slot>, VolumeError> {
        if self.read_only {
            return Ok(None);
        }
        swap::marker(&self.work)
    }

    /// Looks at everything, and copies it where that takes no time. The app must not write until
    /// this returns, or, unless the result is [`Staged::frozen`], until that is packed.
    pub fn stage(&self) -> Result<Staged, VolumeError> {
        if let Some(slot) = self.interrupted()? {
            return Err(VolumeError::Interrupted {
                mount: self.mount.clone(),
                slot,
            });
        }
        stage::stage(self)
    }

    /// Makes the volume what the snapshot says. The app must not run. An error leaves it as it was,
    /// or [`Volume::interrupted`].
    pub fn restore(&self, reader: StateReader) -> Result<(), VolumeError> {
        let slot = reader.snapshot().head.slot;
        self.clean()?;
        self.make_work()?;
        let new = self.work.join(swap::NEW);
        make_folder(&new)?;
        let unpacked = unpack::unpack(reader, &new, |totals| self.check_room(totals));
        if let Err(error) = unpacked {
            // It failed already; what cannot be removed is removed the next time.
            let _ = self.clean();
            return Err(error);
        }
        hit(Point::VolumeUnpacked);
        swap::swap(self, slot)?;
        self.clean()
    }

    /// Makes it empty, as it was before the first request. The app must not run. An error leaves it
    /// as it was, or [`Volume::interrupted`].
    pub fn clear(&self) -> Result<(), VolumeError> {
        self.clean()?;
        self.make_work()?;
        make_folder(&self.work.join(swap::NEW))?;
        swap::swap(self, Slot::ZERO)?;
        self.clean()
    }

    /// Holds nothing of an app's.
    pub fn is_empty(&self) -> Result<bool, VolumeError> {
        let failed = |error| VolumeError::io("reading", &self.mount)(error);
        for entry in fs::read_dir(&self.mount).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            if !self.reserved.contains(&name) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn check_room(&self, totals: Totals) -> Result<(), VolumeError> {
        let failed = VolumeError::io("asking for room on", &self.mount);
        let free = space::free(&self.mount).map_err(failed)?;
        let failed = VolumeError::io("asking for room on", &self.mount);
        let inodes = space::free_inodes(&self.mount).map_err(failed)?;
        if totals.disk_bytes <= free && inodes.is_none_or(|inodes| totals.entries <= inodes) {
            return Ok(());
        }
        Err(VolumeError::NoRoom {
            mount: self.mount.clone(),
            needed: totals.disk_bytes,
            needed_files: totals.entries,
            free,
        })
    }

    fn root(&self) -> Result<Root, VolumeError> {
        Root::open(&self.mount)
    }

    fn make_work(&self) -> Result<(), VolumeError> {
        if self.work.is_dir() {
            return Ok(());
        }
        make_folder(&self.work)
    }

    /// Only a marker may stay in the work folder, and nothing if there is none.
    fn clean(&self) -> Result<(), VolumeError> {
        for name in [stage::STAGE, swap::NEW, swap::OLD] {
            remove_tree(&self.work.join(name))?;
        }
        if swap::marker(&self.work)?.is_none() {
            match fs::remove_dir(&self.work) {
                Err(error)
                    if !matches!(
                        error.kind(),
                        io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty
                    ) =>
                {
                    return Err(VolumeError::io("removing", &self.work)(error));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn make_folder(path: &Path) -> Result<(), VolumeError> {
    let made = fs::DirBuilder::new().mode(0o700).create(path);
    made.map_err(VolumeError::io("making", path))
}

/// Removes it with all that is in it, also where its owner may not write.
fn remove_tree(path: &Path) -> Result<(), VolumeError> {
    match fs::remove_dir_all(path) {
        Ok(()) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) if error.kind() != io::ErrorKind::PermissionDenied => {
            return Err(VolumeError::io("removing", path)(error));
        }
        Err(_) => {}
    }
    tree::make_writable(&Root::open(path)?)?;
    fs::remove_dir_all(path).map_err(VolumeError::io("removing", path))
}

fn sync_folder(path: &Path) -> Result<(), VolumeError> {
    File::open(path)
        .and_then(|it| it.sync_all())
        .map_err(VolumeError::io("syncing", path))
}
