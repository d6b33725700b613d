//! A small file whose content is whole or does not count: a sector with a magic, the hash of the
//! content (16 bytes) and its length (4), then the content.

use std::io;

use synod_failpoint::{Point, check};

use crate::disk::Disk;
use crate::format::{Hash, Put, SECTOR_BYTES, hash, hash_at, u32_at};
use crate::page::{FIELDS_AT, Page, seal, unseal};

/// Writes the file anew, durably. `version` is that of the format it belongs to.
pub(crate) fn write(
    disk: &dyn Disk,
    name: &str,
    (magic, version): ([u8; 8], u32),
    content: &[u8],
) -> io::Result<()> {
    let mut bytes = vec![0; SECTOR_BYTES];
    let mut page: Page = [0; SECTOR_BYTES];
    let mut put = Put {
        bytes: &mut page,
        at: FIELDS_AT,
    };
    put.bytes(&hash(content));
    put.bytes(&(content.len() as u32).to_le_bytes());
    seal(&mut page, magic, version);
    bytes.copy_from_slice(&page);
    bytes.extend_from_slice(content);
    if disk.list()?.iter().any(|found| found == name) {
        disk.remove(name)?;
        check(Point::WalFileRemoved)?;
    }
    let file = disk.create(name, bytes.len() as u64)?;
    file.write_all_at(&bytes, 0)?;
    file.sync_data()?;
    check(Point::WalFileWritten)?;
    disk.sync_dir()
}

/// The content and its hash, if the file is there and good.
pub(crate) fn read(disk: &dyn Disk, name: &str, magic: [u8; 8]) -> Option<(Vec<u8>, Hash)> {
    let file = disk.open(name).ok()?;
    let mut page: Page = [0; SECTOR_BYTES];
    file.read_exact_at(&mut page, 0).ok()?;
    unseal(&page, magic).ok()?;
    let length = u32_at(&page, 32);
    if u64::from(length) > file.size().ok()? {
        return None;
    }
    let mut content = vec![0; length as usize];
    file.read_exact_at(&mut content, SECTOR_BYTES as u64).ok()?;
    let found = hash(&content);
    (hash_at(&page, 16) == found).then_some((content, found))
}
