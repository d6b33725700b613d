//! A second copy of the genesis, in the file `genesis`: a sector with magic `SYNODGEN`, hash of the
//! body (16 bytes) and its length (4), then the body. It can be had from nobody who could not also
//! give a wrong one, so one bad byte must not cost it.

use std::io;

use crate::disk::Disk;
use crate::format::{Hash, Put, SECTOR_BYTES, hash, hash_at, u32_at};
use crate::page::{FIELDS_AT, Page, seal, unseal};

const NAME: &str = "genesis";
const MAGIC: [u8; 8] = *b"SYNODGEN";

/// Writes the copy, durably.
pub(crate) fn write(disk: &dyn Disk, body: &[u8]) -> io::Result<()> {
    let mut content = vec![0; SECTOR_BYTES];
    let mut page: Page = [0; SECTOR_BYTES];
    let mut put = Put {
        bytes: &mut page,
        at: FIELDS_AT,
    };
    put.bytes(&hash(body));
    put.bytes(&(body.len() as u32).to_le_bytes());
    seal(&mut page, MAGIC);
    content.copy_from_slice(&page);
    content.extend_from_slice(body);
    if disk.list()?.iter().any(|name| name == NAME) {
        // Left by a start that did not come to write the record.
        disk.remove(NAME)?;
    }
    let file = disk.create(NAME, content.len() as u64)?;
    file.write_all_at(&content, 0)?;
    file.sync_data()?;
    disk.sync_dir()
}

/// The body with this hash, if the copy is there and good.
pub(crate) fn read(disk: &dyn Disk, expected: &Hash) -> Option<Vec<u8>> {
    let file = disk.open(NAME).ok()?;
    let mut page: Page = [0; SECTOR_BYTES];
    file.read_exact_at(&mut page, 0).ok()?;
    unseal(&page, MAGIC).ok()?;
    let length = u32_at(&page, 32);
    if hash_at(&page, 16) != *expected || u64::from(length) > file.size().ok()? {
        return None;
    }
    let mut body = vec![0; length as usize];
    file.read_exact_at(&mut body, SECTOR_BYTES as u64).ok()?;
    (hash(&body) == *expected).then_some(body)
}
