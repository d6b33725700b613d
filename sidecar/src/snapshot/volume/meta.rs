//! What belongs to a file besides its content: mode, owner, modification time, attributes.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::buffer::spare_capacity;
use rustix::fs::{AtFlags, Gid, Mode, Stat, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags};
use rustix::io::{Errno, Result};

/// Only these are the app's own; others belong to the machine.
const USER: &[u8] = b"user.";
/// Tries before a list that grows again and again is given up.
const TRIES: usize = 16;

/// All of it but attributes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Meta {
    /// With set-user-id, set-group-id and sticky bits.
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Seconds since the Unix epoch, and nanoseconds.
    pub(super) mtime: (i64, u32),
}

/// Names and values, by name.
pub(super) type Attributes = Vec<(CString, Vec<u8>)>;

// === impl Meta ===

impl Meta {
    pub(super) fn of(stat: &Stat) -> Self {
        Self {
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            mtime: (
                stat.st_mtime,
                // Below 10^9.
                u32::try_from(stat.st_mtime_nsec).unwrap_or(0),
            ),
        }
    }

    /// Of an open file or folder. Owner first, which takes bits of the mode away; time last.
    pub(super) fn apply(&self, fd: BorrowedFd<'_>, attributes: &Attributes) -> Result<()> {
        let now = rustix::fs::fstat(fd)?;
        let (uid, gid) = self.change_of_owner(&now);
        if uid.is_some() || gid.is_some() {
            rustix::fs::fchown(fd, uid, gid)?;
        }
        for (name, value) in attributes {
            rustix::fs::fsetxattr(fd, name, value, XattrFlags::empty())?;
        }
        rustix::fs::fchmod(fd, Mode::from_raw_mode(self.mode))?;
        rustix::fs::futimens(fd, &self.times())
    }

    /// Of a symbolic link, whose mode means nothing.
    pub(super) fn apply_to_link(&self, folder: BorrowedFd<'_>, name: &CStr) -> Result<()> {
        let now = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let (uid, gid) = self.change_of_owner(&now);
        if uid.is_some() || gid.is_some() {
            rustix::fs::chownat(folder, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
        }
        rustix::fs::utimensat(folder, name, &self.times(), AtFlags::SYMLINK_NOFOLLOW)
    }

    /// Nothing, where nothing must change: that needs no right.
    fn change_of_owner(&self, now: &Stat) -> (Option<Uid>, Option<Gid>) {
        (
            (now.st_uid != self.uid).then(|| Uid::from_raw_unchecked(self.uid)),
            (now.st_gid != self.gid).then(|| Gid::from_raw_unchecked(self.gid)),
        )
    }

    fn times(&self) -> Timestamps {
        Timestamps {
            last_access: Timespec {
                tv_sec: 0,
                tv_nsec: UTIME_OMIT,
            },
            last_modification: Timespec {
                tv_sec: self.mtime.0,
                tv_nsec: self.mtime.1.into(),
            },
        }
    }
}

/// The attributes of an open file or folder that are the app's own.
pub(super) fn attributes(fd: impl AsFd) -> Result<Attributes> {
    let fd = fd.as_fd();
    let list = match grow(|buffer| rustix::fs::flistxattr(fd, spare_capacity(buffer))) {
        Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        list => list?,
    };
    let mut all = Vec::new();
    for name in list
        .split(|byte| *byte == 0)
        .filter(|it| it.starts_with(USER))
    {
        let name = CString::new(name).map_err(|_| Errno::INVAL)?;
        let value = grow(|buffer| rustix::fs::fgetxattr(fd, &*name, spare_capacity(buffer)))?;
        all.push((name, value));
    }
    all.sort();
    Ok(all)
}

/// Asks with more and more room.
fn grow(mut ask: impl FnMut(&mut Vec<u8>) -> Result<usize>) -> Result<Vec<u8>> {
    let mut buffer = Vec::with_capacity(256);
    for _ in 0..TRIES {
        match ask(&mut buffer) {
            Err(Errno::RANGE) => buffer.reserve(buffer.capacity() * 2),
            done => return done.map(|_| buffer),
        }
    }
    Err(Errno::RANGE)
}
