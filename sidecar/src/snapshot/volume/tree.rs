//! Walks through a tree of files by handles, in one order, and follows no link.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ffi::{CStr, CString, OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat};

use super::error::VolumeError;
use crate::snapshot::space;

/// Folders in folders: each holds one handle open while what is in it is visited.
const MAX_DEPTH: usize = 200;

/// How a folder is opened, always.
pub(super) const FOLDER: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// What is in a volume.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Files, folders and links.
    pub entries: u64,
    /// What they take on most file systems, in bytes.
    pub disk_bytes: u64,
    /// What a tar of them takes, about, in bytes.
    pub tar_bytes: u64,
    /// Sockets and pipes, which are left out.
    pub left_out: u64,
}

/// The folder where a tree begins.
#[derive(Debug)]
pub(super) struct Root {
    pub(super) path: PathBuf,
    pub(super) fd: OwnedFd,
    device: u64,
}

/// One entry of a folder.
pub(super) struct Node<'a> {
    /// The folder that it is in.
    pub(super) folder: BorrowedFd<'a>,
    pub(super) name: &'a CStr,
    /// From the root, without a slash in front.
    pub(super) path: &'a [u8],
    pub(super) stat: Stat,
    pub(super) kind: Kind<'a>,
}

/// What an entry is.
pub(super) enum Kind<'a> {
    Folder,
    File,
    /// Another name of a file that was visited before, at this path.
    HardLink(&'a [u8]),
    SymbolicLink,
}

/// What is done with each entry.
pub(super) trait Visitor {
    /// A folder comes before what is in it.
    fn enter(&mut self, node: &Node<'_>) -> Result<(), VolumeError>;

    /// After all that is in this folder.
    fn leave(&mut self, _node: &Node<'_>) -> Result<(), VolumeError> {
        Ok(())
    }
}

struct Walk<'a, V> {
    root: &'a Root,
    visitor: &'a mut V,
    path: Vec<u8>,
    depth: usize,
    /// Files with several names, by inode: the first path.
    linked: BTreeMap<u64, Vec<u8>>,
    left_out: u64,
}

// === impl Root ===

impl Root {
    pub(super) fn open(path: &Path) -> Result<Self, VolumeError> {
        let failed = |error| VolumeError::errno("opening", path)(error);
        // The mount point itself may be named by a link: it was configured, not found.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(CWD, path, flags, Mode::empty()).map_err(failed)?;
        let stat = rustix::fs::fstat(&fd).map_err(failed)?;
        Ok(Self {
            path: path.to_owned(),
            fd,
            device: stat.st_dev,
        })
    }

    /// The path of an entry, for people.
    pub(super) fn full(&self, path: &[u8]) -> PathBuf {
        self.path.join(OsStr::from_bytes(path))
    }

    /// Visits everything but what is called `reserved` in the root; tells how much was left out.
    pub(super) fn visit(
        &self,
        reserved: &[OsString],
        visitor: &mut impl Visitor,
    ) -> Result<u64, VolumeError> {
        let mut walk = Walk {
            root: self,
            visitor,
            path: Vec::new(),
            depth: 0,
            linked: BTreeMap::new(),
            left_out: 0,
        };
        walk.folder(self.fd.as_fd(), reserved)?;
        Ok(walk.left_out)
    }

    /// The folder that the entry at this path is in, and its name there. The path never leads out.
    pub(super) fn parent_of(&self, path: &[u8]) -> Result<(OwnedFd, CString), VolumeError> {
        let failed = |error| VolumeError::errno("opening", self.full(path))(error);
        let mut folder = self
            .fd
            .try_clone()
            .map_err(VolumeError::io("opening", &self.path))?;
        let mut parts: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
        if parts.iter().any(|it| !is_name(it)) {
            return Err(VolumeError::NotOurs("a bad path"));
        }
        let name = parts.pop().unwrap_or_default();
        for part in parts {
            folder = rustix::fs::openat(&folder, part, FOLDER, Mode::empty()).map_err(failed)?;
        }
        let name = CString::new(name).map_err(|_| VolumeError::NotOurs("a name with a zero"))?;
        Ok((folder, name))
    }
}

// === impl Walk ===

impl<V: Visitor> Walk<'_, V> {
    fn folder(&mut self, folder: BorrowedFd<'_>, reserved: &[OsString]) -> Result<(), VolumeError> {
        let names = sorted(folder).map_err(VolumeError::errno("reading", self.full()))?;
        let before = self.path.len();
        for name in names {
            if reserved.iter().any(|it| it.as_bytes() == name.to_bytes()) {
                continue;
            }
            if before > 0 {
                self.path.push(b'/');
            }
            self.path.extend_from_slice(name.to_bytes());
            self.entry(folder, &name)?;
            self.path.truncate(before);
        }
        Ok(())
    }

    fn entry(&mut self, folder: BorrowedFd<'_>, name: &CStr) -> Result<(), VolumeError> {
        let full = self.full();
        let stat = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(VolumeError::errno("looking at", &full))?;
        if stat.st_dev != self.root.device {
            return Err(VolumeError::OtherFileSystem { path: full });
        }
        let path = self.path.clone();
        let mut node = Node {
            folder,
            name,
            path: &path,
            stat,
            kind: Kind::Folder,
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                if self.depth == MAX_DEPTH {
                    return Err(VolumeError::TooDeep {
                        path: full,
                        most: MAX_DEPTH,
                    });
                }
                self.visitor.enter(&node)?;
                let inner = rustix::fs::openat(folder, name, FOLDER, Mode::empty())
                    .map_err(VolumeError::errno("opening", &full))?;
                self.depth += 1;
                self.folder(inner.as_fd(), &[])?;
                self.depth -= 1;
                return self.visitor.leave(&node);
            }
            FileType::Symlink => node.kind = Kind::SymbolicLink,
            FileType::RegularFile => {
                node.kind = Kind::File;
                if stat.st_nlink > 1 {
                    match self.linked.entry(stat.st_ino) {
                        Entry::Occupied(first) => {
                            node.kind = Kind::HardLink(first.into_mut());
                            return self.visitor.enter(&node);
                        }
                        Entry::Vacant(none) => {
                            none.insert(path.clone());
                        }
                    }
                }
            }
            FileType::Socket | FileType::Fifo => {
                self.left_out += 1;
                return Ok(());
            }
            _ => return Err(VolumeError::Device { path: full }),
        }
        self.visitor.enter(&node)
    }

    fn full(&self) -> PathBuf {
        self.root.full(&self.path)
    }
}

/// It names something in a folder.
pub(super) fn is_name(name: &[u8]) -> bool {
    !matches!(name, b"" | b"." | b"..")
}

/// The names in a folder, by their bytes.
fn sorted(folder: BorrowedFd<'_>) -> rustix::io::Result<Vec<CString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            names.push(name.to_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// Counts.
#[derive(Debug, Default)]
pub(super) struct Count(pub(super) Totals);

impl Visitor for Count {
    fn enter(&mut self, node: &Node<'_>) -> Result<(), VolumeError> {
        let content = match node.kind {
            Kind::File => u64::try_from(node.stat.st_size).unwrap_or(0),
            _ => 0,
        };
        self.0.entries += 1;
        // Folders and links take a block at most.
        let disk = space::on_disk(content.max(1));
        self.0.disk_bytes = self.0.disk_bytes.saturating_add(disk);
        // The header, the extended header with its content, and the file padded.
        let extended = (node.path.len() as u64 + 128).next_multiple_of(512);
        // A file's size is a signed number, so this is no more than fits.
        let entry = 1024 + extended + content.next_multiple_of(512);
        self.0.tar_bytes = self.0.tar_bytes.saturating_add(entry);
        Ok(())
    }
}

/// So that what is in folders can be removed by their owner.
pub(super) fn make_writable(root: &Root) -> Result<(), VolumeError> {
    struct Opener<'a>(&'a Root);
    impl Visitor for Opener<'_> {
        fn enter(&mut self, node: &Node<'_>) -> Result<(), VolumeError> {
            if !matches!(node.kind, Kind::Folder) {
                return Ok(());
            }
            rustix::fs::chmodat(node.folder, node.name, Mode::RWXU, AtFlags::empty())
                .map_err(VolumeError::errno("opening", self.0.full(node.path)))
        }
    }
    root.visit(&[], &mut Opener(root)).map(|_| ())
}
