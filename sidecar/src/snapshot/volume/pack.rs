//! A tree as a tar: the same tree, the same bytes.
//!
//! A POSIX tar (pax) that begins with a global header, whose comment tells what is in it. Entries
//! are sorted by the bytes of their names, folder by folder, each folder before its content. Each
//! entry has an extended header with `mtime`, in nanoseconds, `SCHILY.xattr.<name>`, and where the
//! plain fields are too short `path` and `linkpath`, as the bytes that they are. Further names of a
//! file are hard links to the first one.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags};
use tar::{Builder, EntryType, Header};

use super::error::VolumeError;
use super::meta::{self, Attributes, Meta};
use super::tree::{FOLDER, Kind, Node, Root, Totals, Visitor};

/// Begins the comment in the global header.
const COMMENT: &str = "synod volume 1";
/// Names up to this length need no extended header.
const PLAIN_BYTES: usize = 100;
/// Stands in the plain field where a name is in the extended header.
const LONG: &[u8] = b"long-name";
pub(super) const XATTR: &str = "SCHILY.xattr.";

pub(super) struct Packer<'a, W: Write> {
    root: &'a Root,
    tar: Builder<W>,
}

/// What the global header says.
pub(super) fn comment(totals: Totals) -> String {
    format!("{COMMENT} {} {}", totals.entries, totals.disk_bytes)
}

/// What it says, read back.
pub(super) fn parse_comment(comment: &str) -> Option<Totals> {
    let mut numbers = comment.strip_prefix(COMMENT)?.split_ascii_whitespace();
    let totals = Totals {
        entries: numbers.next()?.parse().ok()?,
        disk_bytes: numbers.next()?.parse().ok()?,
        ..Totals::default()
    };
    numbers.next().is_none().then_some(totals)
}

// === impl Packer ===

impl<'a, W: Write> Packer<'a, W> {
    pub(super) fn new(root: &'a Root, to: W, totals: Totals) -> Result<Self, VolumeError> {
        let mut tar = Builder::new(to);
        let record = record("comment", comment(totals).as_bytes());
        let mut header = Header::new_ustar();
        header.set_entry_type(EntryType::XGlobalHeader);
        set(&mut header.as_old_mut().name, b"pax_global_header");
        header.set_size(record.len() as u64);
        header.set_cksum();
        tar.append(&header, &*record).map_err(VolumeError::Draft)?;
        Ok(Self { root, tar })
    }

    pub(super) fn finish(self) -> Result<(), VolumeError> {
        self.tar
            .into_inner()
            .map(|_| ())
            .map_err(VolumeError::Draft)
    }

    fn head(
        &mut self,
        node: &Node<'_>,
        kind: EntryType,
        attributes: &Attributes,
        target: &[u8],
    ) -> Result<Header, VolumeError> {
        let meta = Meta::of(&node.stat);
        let mut extended = Vec::new();
        let mut header = Header::new_ustar();
        let fields = header.as_old_mut();
        for (key, field, value) in [
            ("path", &mut fields.name, node.path),
            ("linkpath", &mut fields.linkname, target),
        ] {
            if value.len() <= PLAIN_BYTES {
                set(field, value);
            } else {
                set(field, LONG);
                extended.extend(record(key, value));
            }
        }
        let (seconds, nanos) = meta.mtime;
        let mtime = format_mtime(seconds, nanos);
        extended.extend(record("mtime", mtime.as_bytes()));
        for (name, value) in attributes {
            let key = [XATTR.as_bytes(), name.to_bytes()].concat();
            extended.extend(record_of(&key, value));
        }
        header.set_entry_type(kind);
        header.set_mode(meta.mode);
        header.set_uid(meta.uid.into());
        header.set_gid(meta.gid.into());
        header.set_mtime(u64::try_from(seconds).unwrap_or(0));
        header.set_size(0);
        let mut before = Header::new_ustar();
        before.set_entry_type(EntryType::XHeader);
        set(&mut before.as_old_mut().name, b"pax_header");
        before.set_size(extended.len() as u64);
        before.set_cksum();
        self.tar
            .append(&before, &*extended)
            .map_err(VolumeError::Draft)?;
        Ok(header)
    }

    fn empty(&mut self, mut header: Header) -> Result<(), VolumeError> {
        header.set_cksum();
        self.tar
            .append(&header, io::empty())
            .map_err(VolumeError::Draft)
    }

    fn file(&mut self, node: &Node<'_>) -> Result<(), VolumeError> {
        let full = self.root.full(node.path);
        let file = open_file(node).map_err(VolumeError::errno("opening", &full))?;
        let attributes = meta::attributes(&file).map_err(VolumeError::errno("reading", &full))?;
        let mut header = self.head(node, EntryType::Regular, &attributes, b"")?;
        let size = u64::try_from(node.stat.st_size).unwrap_or(0);
        header.set_size(size);
        header.set_cksum();
        let mut content = Content {
            file: File::from(file),
            left: size,
            failed: None,
        };
        let appended = self.tar.append(&header, &mut content);
        match (content.failed, appended) {
            (Some(error), _) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(VolumeError::Changed { path: full });
            }
            (Some(error), _) => return Err(VolumeError::io("reading", &full)(error)),
            (None, appended) => appended.map_err(VolumeError::Draft)?,
        }
        let now =
            rustix::fs::fstat(&content.file).map_err(VolumeError::errno("looking at", &full))?;
        if is_same(&now, &node.stat) {
            return Ok(());
        }
        Err(VolumeError::Changed { path: full })
    }
}

impl<W: Write> Visitor for Packer<'_, W> {
    fn enter(&mut self, node: &Node<'_>) -> Result<(), VolumeError> {
        let full = || self.root.full(node.path);
        match node.kind {
            Kind::File => self.file(node),
            Kind::Folder => {
                let folder = rustix::fs::openat(node.folder, node.name, FOLDER, Mode::empty())
                    .map_err(VolumeError::errno("opening", full()))?;
                let attributes =
                    meta::attributes(&folder).map_err(VolumeError::errno("reading", full()))?;
                let header = self.head(node, EntryType::Directory, &attributes, b"")?;
                self.empty(header)
            }
            Kind::HardLink(first) => {
                let header = self.head(node, EntryType::Link, &Vec::new(), first)?;
                self.empty(header)
            }
            Kind::SymbolicLink => {
                let target = rustix::fs::readlinkat(node.folder, node.name, Vec::new())
                    .map_err(VolumeError::errno("reading", full()))?;
                let none = Vec::new();
                let header = self.head(node, EntryType::Symlink, &none, target.to_bytes())?;
                self.empty(header)
            }
        }
    }
}

/// Opens what was a regular file a moment ago: no link is followed, no pipe waited for.
pub(super) fn open_file(node: &Node<'_>) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::openat(node.folder, node.name, flags, Mode::empty())?;
    let stat = rustix::fs::fstat(&file)?;
    if (stat.st_dev, stat.st_ino) == (node.stat.st_dev, node.stat.st_ino) {
        return Ok(file);
    }
    Err(rustix::io::Errno::STALE)
}

/// Nobody has written to it between the two looks.
pub(super) fn is_same(one: &rustix::fs::Stat, two: &rustix::fs::Stat) -> bool {
    let times =
        |it: &rustix::fs::Stat| (it.st_mtime, it.st_mtime_nsec, it.st_ctime, it.st_ctime_nsec);
    one.st_size == two.st_size && times(one) == times(two)
}

/// As many bytes of a file as it had, and why not.
struct Content {
    file: File,
    left: u64,
    failed: Option<io::Error>,
}

impl Read for Content {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            return Ok(0);
        }
        let most = usize::try_from(self.left)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        let error = match self.file.read(&mut buffer[..most]) {
            Ok(0) => io::ErrorKind::UnexpectedEof.into(),
            Ok(count) => {
                self.left -= count as u64;
                return Ok(count);
            }
            Err(error) => error,
        };
        let kind = error.kind();
        self.failed = Some(error);
        Err(kind.into())
    }
}

/// Seconds with nanoseconds, of which the fraction is always added (also before the epoch).
fn format_mtime(seconds: i64, nanos: u32) -> String {
    if seconds < 0 && nanos > 0 {
        // -1.25 s is 2 s before the epoch and 0.75 s on.
        return format!("-{}.{:09}", -(seconds + 1), 1_000_000_000 - nanos);
    }
    format!("{seconds}.{nanos:09}")
}

/// What [`format_mtime`] has made.
pub(super) fn parse_mtime(text: &str) -> Option<(i64, u32)> {
    let (whole, fraction) = text.split_once('.')?;
    if fraction.len() != 9 || !fraction.bytes().all(|it| it.is_ascii_digit()) {
        return None;
    }
    let nanos: u32 = fraction.parse().ok()?;
    let seconds: i64 = whole.parse().ok()?;
    if whole.starts_with('-') && nanos > 0 {
        return Some((seconds.checked_sub(1)?, 1_000_000_000 - nanos));
    }
    Some((seconds, nanos))
}

fn set(field: &mut [u8; 100], value: &[u8]) {
    field[..value.len()].copy_from_slice(value);
}

fn record(key: &str, value: &[u8]) -> Vec<u8> {
    record_of(key.as_bytes(), value)
}

/// A record of an extended header: its own length, a space, key, `=`, value, a line feed.
fn record_of(key: &[u8], value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    let mut record = format!("{length} ").into_bytes();
    record.extend_from_slice(key);
    record.push(b'=');
    record.extend_from_slice(value);
    record.push(b'\n');
    assert_eq!(record.len(), length, "the length counts itself");
    record
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_reads_back_also_before_the_epoch() {
        for (time, text) in [
            ((0, 0), "0.000000000"),
            ((1, 5), "1.000000005"),
            ((-1, 0), "-1.000000000"),
            ((-2, 750_000_000), "-1.250000000"),
            ((-1, 999_999_999), "-0.000000001"),
        ] {
            assert_eq!(format_mtime(time.0, time.1), text);
            assert_eq!(parse_mtime(text), Some(time), "{text}");
        }
        for text in ["", "1", "1.5", "x.000000000", "1.00000000x", "1.+00000000"] {
            assert_eq!(parse_mtime(text), None, "{text}");
        }
    }

    #[test]
    fn the_length_of_a_record_counts_itself() {
        for length in [1, 5, 90, 91, 92, 93, 94, 95, 96, 980, 990, 9_990] {
            let value = vec![b'x'; length];
            let record = record("path", &value);
            let said: usize = std::str::from_utf8(&record)
                .unwrap()
                .split(' ')
                .next()
                .unwrap()
                .parse()
                .unwrap();
            assert_eq!(said, record.len());
        }
    }
}
