//! The real [`Disk`]: a directory of a local file system. Linux only, like all members.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FallocateFlags, FlockOperation};
use rustix::io::Errno;

use crate::disk::{Disk, DiskFile, DiskLock, LockError};

/// Files and lock hold passwords, cookies and bodies: for the owner alone (rule W6).
const FILE_MODE: u32 = 0o600;
const DIRECTORY_MODE: u32 = 0o700;
/// Zeros are written and synced in pieces, so that a running log does not wait behind all of them.
const ZEROS_BYTES: u64 = 4 << 20;

/// A directory of the local file system; its lock file and logs set aside lie beside it.
#[derive(Clone, Debug)]
pub struct FileDisk {
    directory: PathBuf,
    /// The directory's own name, in which the names of its neighbours begin.
    name: String,
}

#[derive(Debug)]
struct RealFile(File);

#[derive(Debug)]
struct RealLock {
    /// The kernel gives the lock back when this is closed, also when the process is killed.
    _file: File,
}

// === impl FileDisk ===

impl FileDisk {
    /// A log in `directory`, which need not exist yet; its parent is made too when missing.
    pub fn new(directory: impl Into<PathBuf>) -> io::Result<Self> {
        let directory = directory.into();
        let name = directory
            .file_name()
            .and_then(|name| name.to_str())
            .ok_or_else(|| {
                io::Error::new(
                    io::ErrorKind::InvalidInput,
                    "the log's directory must have a name in UTF-8",
                )
            })?
            .to_owned();
        Ok(Self { directory, name })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn parent(&self) -> &Path {
        match self.directory.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        }
    }
}

impl Disk for FileDisk {
    fn lock(&self) -> Result<Box<dyn DiskLock>, LockError> {
        make_directory(self.parent())?;
        // Beside the directory, not in it: setting the log aside must not carry the lock away.
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(FILE_MODE)
            .open(self.parent().join(format!("{}.lock", self.name)))?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                let mut text = String::new();
                // Only to help people: whatever is there may be empty or stale.
                let _ = file.take(32).read_to_string(&mut text);
                return Err(LockError::Held {
                    pid: text.trim().parse().ok(),
                });
            }
            Err(error) => return Err(io::Error::from(error).into()),
        }
        file.set_len(0)?;
        writeln!(file, "{}", std::process::id())?;
        make_directory(&self.directory)?;
        sync_directory(self.parent())?;
        Ok(Box::new(RealLock { _file: file }))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            // A name that is not UTF-8 is none of ours.
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn create(&self, name: &str, bytes: u64) -> io::Result<Arc<dyn DiskFile>> {
        let path = self.path(name);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(FILE_MODE)
            .open(&path)?;
        match fill_with_zeros(&file, bytes) {
            Ok(()) => Ok(Arc::new(RealFile(file))),
            Err(error) => {
                // The first error is the one to report.
                let _ = fs::remove_file(&path);
                Err(error)
            }
        }
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(self.path(name))?;
        Ok(Arc::new(RealFile(file)))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path(from), self.path(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path(name))
    }

    fn sync_dir(&self) -> io::Result<()> {
        sync_directory(&self.directory)
    }

    fn set_aside(&self) -> io::Result<String> {
        let mut number = 1_u32;
        let (name, path) = loop {
            let name = format!("{}.set-aside-{number}", self.name);
            let path = self.parent().join(&name);
            if !path.try_exists()? {
                break (name, path);
            }
            number += 1;
        };
        fs::rename(&self.directory, path)?;
        make_directory(&self.directory)?;
        sync_directory(self.parent())?;
        Ok(name)
    }
}

/// Takes the space first, which fails at once when there is not enough, then writes real zeros:
/// blocks that are only reserved would cost a journal commit at the first sync of each.
fn fill_with_zeros(file: &File, bytes: u64) -> io::Result<()> {
    match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, bytes) {
        Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => {}
        Err(error) => return Err(error.into()),
    }
    let zeros = vec![0; ZEROS_BYTES.min(bytes) as usize];
    let mut at = 0;
    while at < bytes {
        let piece = (bytes - at).min(ZEROS_BYTES);
        file.write_all_at(&zeros[..piece as usize], at)?;
        file.sync_data()?;
        at += piece;
    }
    file.sync_all()
}

fn make_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(DIRECTORY_MODE)
        .create(path)
}

fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

// === impl RealFile ===

impl DiskFile for RealFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_exact_at(buffer, offset)
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}

// === impl RealLock ===

impl DiskLock for RealLock {}
