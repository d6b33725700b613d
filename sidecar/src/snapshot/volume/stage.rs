//! A copy of the volume that is made in moments, where its file system can share blocks.

use std::ffi::OsString;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use super::error::VolumeError;
use super::meta::{self, Meta};
use super::pack::{Packer, is_same, open_file};
use super::tree::{Count, FOLDER, Kind, Node, Root, Totals, Visitor};
use super::{Volume, make_folder};

/// Of the copy, in the work folder.
pub(super) const STAGE: &str = "stage";

/// Makes the second file hold what the first holds.
pub(super) type CloneFile = fn(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<(), Errno>;

/// A volume that is ready to be packed. Its copy, if there is one, goes when this is dropped.
#[derive(Debug)]
pub struct Staged {
    volume: Volume,
    root: Root,
    reserved: Vec<OsString>,
    totals: Totals,
    frozen: bool,
}

pub(super) fn stage(volume: &Volume) -> Result<Staged, VolumeError> {
    let root = volume.root()?;
    let mut count = Count::default();
    count.0.left_out = root.visit(&volume.reserved, &mut count)?;
    let mut staged = Staged {
        volume: volume.clone(),
        root,
        reserved: volume.reserved.clone(),
        totals: count.0,
        frozen: false,
    };
    if volume.read_only {
        return Ok(staged);
    }
    if can_share(volume)? {
        staged.freeze(share)?;
    } else {
        volume.clean()?;
    }
    Ok(staged)
}

fn share(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<(), Errno> {
    rustix::fs::ioctl_ficlone(to, from)
}

fn can_share(volume: &Volume) -> Result<bool, VolumeError> {
    volume.make_work()?;
    let file = || {
        let made = tempfile::tempfile_in(&volume.work);
        made.map_err(VolumeError::io("making a file in", &volume.work))
    };
    let (mut from, to) = (file()?, file()?);
    from.write_all(&[1; 4096])
        .map_err(VolumeError::io("writing in", &volume.work))?;
    Ok(share(from.as_fd(), to.as_fd()).is_ok())
}

// === impl Staged ===

impl Staged {
    /// What is in it.
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// The app may go on: what it writes now is not seen here.
    pub fn frozen(&self) -> bool {
        self.frozen
    }

    /// Writes it all as a tar, into a [`super::super::Draft`] mostly.
    pub fn pack(self, to: impl Write) -> Result<(), VolumeError> {
        let mut packer = Packer::new(&self.root, to, self.totals)?;
        self.root.visit(&self.reserved, &mut packer)?;
        packer.finish()
    }

    pub(super) fn freeze(&mut self, clone: CloneFile) -> Result<(), VolumeError> {
        self.volume.make_work()?;
        let path = self.volume.work.join(STAGE);
        make_folder(&path)?;
        let copy = Root::open(&path)?;
        let folders = vec![
            copy.fd
                .try_clone()
                .map_err(VolumeError::io("opening", &path))?,
        ];
        let mut copier = Copier {
            from: &self.root,
            to: &copy,
            folders,
            clone,
        };
        self.root.visit(&self.reserved, &mut copier)?;
        self.root = copy;
        self.reserved.clear();
        self.frozen = true;
        Ok(())
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if self.frozen
            && let Err(error) = self.volume.clean()
        {
            // The next one removes it.
            tracing::debug!(%error, "the copy of the volume stays for now");
        }
    }
}

/// Makes the same tree elsewhere.
struct Copier<'a> {
    from: &'a Root,
    to: &'a Root,
    /// The copies of the folders that are being visited.
    folders: Vec<OwnedFd>,
    clone: CloneFile,
}

// === impl Copier ===

impl Copier<'_> {
    fn here(&self) -> BorrowedFd<'_> {
        let here = self.folders.last().expect("the root is never left");
        here.as_fd()
    }

    fn file(&self, node: &Node<'_>) -> Result<(), VolumeError> {
        let full = self.from.full(node.path);
        let failed = |error| VolumeError::errno("copying", &full)(error);
        let from = open_file(node).map_err(failed)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let to = rustix::fs::openat(self.here(), node.name, flags, Mode::RUSR | Mode::WUSR)
            .map_err(failed)?;
        if node.stat.st_size > 0 {
            (self.clone)(from.as_fd(), to.as_fd()).map_err(failed)?;
        }
        let attributes = meta::attributes(&from).map_err(failed)?;
        Meta::of(&node.stat)
            .apply(to.as_fd(), &attributes)
            .map_err(failed)?;
        if is_same(&rustix::fs::fstat(&from).map_err(failed)?, &node.stat) {
            return Ok(());
        }
        Err(VolumeError::Changed { path: full })
    }

    fn copy(&mut self, node: &Node<'_>) -> Result<(), VolumeError> {
        let full = self.from.full(node.path);
        let failed = |error| VolumeError::errno("copying", &full)(error);
        match node.kind {
            Kind::File => self.file(node)?,
            Kind::Folder => {
                rustix::fs::mkdirat(self.here(), node.name, Mode::RWXU).map_err(failed)?;
                let folder = rustix::fs::openat(self.here(), node.name, FOLDER, Mode::empty())
                    .map_err(failed)?;
                self.folders.push(folder);
            }
            Kind::HardLink(first) => {
                let (folder, name) = self.to.parent_of(first)?;
                let (here, flags) = (self.here(), AtFlags::empty());
                rustix::fs::linkat(&folder, &name, here, node.name, flags).map_err(failed)?;
            }
            Kind::SymbolicLink => {
                let target =
                    rustix::fs::readlinkat(node.folder, node.name, Vec::new()).map_err(failed)?;
                rustix::fs::symlinkat(&target, self.here(), node.name).map_err(failed)?;
                Meta::of(&node.stat)
                    .apply_to_link(self.here(), node.name)
                    .map_err(failed)?;
            }
        }
        Ok(())
    }
}

impl Visitor for Copier<'_> {
    fn enter(&mut self, node: &Node<'_>) -> Result<(), VolumeError> {
        self.copy(node)
    }

    fn leave(&mut self, node: &Node<'_>) -> Result<(), VolumeError> {
        let full = self.from.full(node.path);
        let failed = |error| VolumeError::errno("copying", &full)(error);
        let copy = self.folders.pop().expect("it was entered");
        let from =
            rustix::fs::openat(node.folder, node.name, FOLDER, Mode::empty()).map_err(failed)?;
        let attributes = meta::attributes(&from).map_err(failed)?;
        Meta::of(&node.stat)
            .apply(copy.as_fd(), &attributes)
            .map_err(failed)
    }
}
