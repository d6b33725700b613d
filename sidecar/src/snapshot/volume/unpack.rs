//! A tree out of its tar, which is believed in nothing.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags};
use tar::{Archive, Entry, EntryType};

use super::error::VolumeError;
use super::meta::{Attributes, Meta};
use super::pack::{XATTR, parse_comment, parse_mtime};
use super::tree::{FOLDER, Root, Totals, is_name};
use crate::snapshot::reader::StateReader;

/// Largest extended header: names, and attributes that a file system takes, with room to spare.
const EXTENDED_BYTES: u64 = 16 << 20;
const COPY_BYTES: usize = 256 << 10;

/// Key and value of an extended header.
type Record<'a> = (&'a [u8], &'a [u8]);

/// What an extended header said about the entry behind it.
#[derive(Debug, Default)]
struct Extended {
    path: Option<Vec<u8>>,
    linkpath: Option<Vec<u8>>,
    mtime: Option<(i64, u32)>,
    attributes: Attributes,
}

/// A folder whose content is still coming: what belongs to it is set when that has come.
#[derive(Debug)]
struct Open {
    path: Vec<u8>,
    fd: OwnedFd,
    meta: Meta,
    attributes: Attributes,
}

struct Unpacker {
    root: Root,
    open: Vec<Open>,
    entries: u64,
    buffer: Vec<u8>,
}

/// Makes everything in the empty folder `into`. What is in it counts only after this has returned:
/// by then all of the snapshot has proved to be good. `check` is asked before anything is made.
pub(super) fn unpack(
    reader: StateReader,
    into: &Path,
    check: impl FnOnce(Totals) -> Result<(), VolumeError>,
) -> Result<(), VolumeError> {
    let mut archive = Archive::new(reader);
    let mut unpacker = Unpacker {
        root: Root::open(into)?,
        open: Vec::new(),
        entries: 0,
        buffer: vec![0; COPY_BYTES],
    };
    let mut entries = archive.entries().map_err(VolumeError::Snapshot)?.raw(true);
    let first = entries.next().transpose().map_err(VolumeError::Snapshot)?;
    let totals = first.map_or(Ok(None), totals)?;
    let totals = totals.ok_or(VolumeError::NotOurs("it does not say what is in it"))?;
    check(totals)?;
    let mut extended = None;
    for entry in entries {
        let entry = entry.map_err(VolumeError::Snapshot)?;
        if entry.header().entry_type() == EntryType::XHeader {
            extended = Some(read_extended(entry)?);
        } else {
            let extended = extended.take();
            let extended = extended.ok_or(VolumeError::NotOurs("an entry tells no time"))?;
            unpacker.entry(entry, extended)?;
        }
    }
    while let Some(open) = unpacker.open.pop() {
        unpacker.close(&open)?;
    }
    // To the very end, where a damaged snapshot shows itself.
    io::copy(&mut archive.into_inner(), &mut io::sink()).map_err(VolumeError::Snapshot)?;
    if unpacker.entries != totals.entries {
        return Err(VolumeError::NotOurs(
            "it has more or fewer entries than it says",
        ));
    }
    Ok(())
}

fn totals(entry: Entry<'_, StateReader>) -> Result<Option<Totals>, VolumeError> {
    if entry.header().entry_type() != EntryType::XGlobalHeader {
        return Ok(None);
    }
    let mut found = None;
    for (key, value) in records(&read_all(entry)?)? {
        if key == b"comment" {
            found = std::str::from_utf8(value).ok().and_then(parse_comment);
        }
    }
    Ok(found)
}

fn read_extended(entry: Entry<'_, StateReader>) -> Result<Extended, VolumeError> {
    let mut extended = Extended::default();
    for (key, value) in records(&read_all(entry)?)? {
        match key {
            b"path" => extended.path = Some(value.to_vec()),
            b"linkpath" => extended.linkpath = Some(value.to_vec()),
            b"mtime" => {
                extended.mtime = std::str::from_utf8(value).ok().and_then(parse_mtime);
            }
            key => {
                let name = key
                    .strip_prefix(XATTR.as_bytes())
                    .ok_or(VolumeError::NotOurs("an unknown field"))?;
                let name = CString::new(name).map_err(|_| VolumeError::NotOurs("a bad name"))?;
                extended.attributes.push((name, value.to_vec()));
            }
        }
    }
    Ok(extended)
}

fn read_all(mut entry: Entry<'_, StateReader>) -> Result<Vec<u8>, VolumeError> {
    if entry.size() > EXTENDED_BYTES {
        return Err(VolumeError::NotOurs("an extended header is too large"));
    }
    let mut bytes = Vec::new();
    entry
        .read_to_end(&mut bytes)
        .map_err(VolumeError::Snapshot)?;
    Ok(bytes)
}

/// The records of an extended header. (The library's own reader takes a line feed in a value for
/// the end of it.)
fn records(mut bytes: &[u8]) -> Result<Vec<Record<'_>>, VolumeError> {
    let bad = || VolumeError::NotOurs("a bad extended header");
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let space = bytes.iter().position(|it| *it == b' ').ok_or_else(bad)?;
        let length: usize = std::str::from_utf8(&bytes[..space])
            .ok()
            .and_then(|it| it.parse().ok())
            .ok_or_else(bad)?;
        let (record, rest) = bytes.split_at_checked(length).ok_or_else(bad)?;
        let record = record.get(space + 1..).ok_or_else(bad)?;
        let record = record.strip_suffix(b"\n").ok_or_else(bad)?;
        let equals = record.iter().position(|it| *it == b'=').ok_or_else(bad)?;
        all.push((&record[..equals], &record[equals + 1..]));
        bytes = rest;
    }
    Ok(all)
}

// === impl Unpacker ===

impl Unpacker {
    fn entry(
        &mut self,
        mut entry: Entry<'_, StateReader>,
        extended: Extended,
    ) -> Result<(), VolumeError> {
        self.entries += 1;
        let header = entry.header();
        let number = |value: io::Result<u64>| {
            let value = value.ok().and_then(|it| u32::try_from(it).ok());
            value.ok_or(VolumeError::NotOurs("a bad number"))
        };
        let meta = Meta {
            mode: header.mode().map_err(VolumeError::Snapshot)? & 0o7777,
            uid: number(header.uid())?,
            gid: number(header.gid())?,
            mtime: extended.mtime.ok_or(VolumeError::NotOurs("a bad time"))?,
        };
        let kind = header.entry_type();
        let plain = |field: &[u8]| field.iter().copied().take_while(|it| *it != 0).collect();
        let fields = header.as_old();
        let path: Vec<u8> = extended.path.unwrap_or_else(|| plain(&fields.name));
        let target: Vec<u8> = extended.linkpath.unwrap_or_else(|| plain(&fields.linkname));
        let cut = path.iter().rposition(|it| *it == b'/');
        let name = &path[cut.map_or(0, |it| it + 1)..];
        if !is_name(name) {
            return Err(VolumeError::NotOurs("a bad name"));
        }
        self.go_to(&path[..cut.unwrap_or(0)])?;
        let full = self.root.full(&path);
        let failed = |error| VolumeError::errno("making", &full)(error);
        let here = self.here();
        match kind {
            EntryType::Directory => {
                rustix::fs::mkdirat(here, name, Mode::RWXU).map_err(failed)?;
                let fd = rustix::fs::openat(here, name, FOLDER, Mode::empty()).map_err(failed)?;
                self.open.push(Open {
                    path,
                    fd,
                    meta,
                    attributes: extended.attributes,
                });
            }
            EntryType::Regular => {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
                let file = rustix::fs::openat(here, name, flags, Mode::RUSR | Mode::WUSR)
                    .map_err(failed)?;
                let mut file = File::from(file);
                loop {
                    let count = entry
                        .read(&mut self.buffer)
                        .map_err(VolumeError::Snapshot)?;
                    if count == 0 {
                        break;
                    }
                    file.write_all(&self.buffer[..count])
                        .map_err(VolumeError::io("writing", &full))?;
                }
                meta.apply(file.as_fd(), &extended.attributes)
                    .map_err(failed)?;
            }
            EntryType::Symlink => {
                rustix::fs::symlinkat(&*target, here, name).map_err(failed)?;
                let name = CString::new(name).map_err(|_| VolumeError::NotOurs("a bad name"))?;
                meta.apply_to_link(here, &name).map_err(failed)?;
            }
            EntryType::Link => {
                let (folder, first) = self.root.parent_of(&target)?;
                rustix::fs::linkat(&folder, &first, here, name, AtFlags::empty())
                    .map_err(failed)?;
            }
            _ => return Err(VolumeError::NotOurs("an entry of an unknown kind")),
        }
        Ok(())
    }

    /// Closes folders until the one with this path is open.
    fn go_to(&mut self, folder: &[u8]) -> Result<(), VolumeError> {
        while let Some(open) = self.open.pop_if(|it| it.path != folder) {
            self.close(&open)?;
        }
        if self.open.is_empty() && !folder.is_empty() {
            return Err(VolumeError::NotOurs("an entry comes before its folder"));
        }
        Ok(())
    }

    fn close(&self, open: &Open) -> Result<(), VolumeError> {
        let full = self.root.full(&open.path);
        open.meta
            .apply(open.fd.as_fd(), &open.attributes)
            .map_err(VolumeError::errno("making", full))
    }

    fn here(&self) -> BorrowedFd<'_> {
        self.open
            .last()
            .map_or(self.root.fd.as_fd(), |it| it.fd.as_fd())
    }
}
