//! Room on a volume.

use std::io;
use std::path::Path;

/// What most file systems count in.
const BLOCK_BYTES: u64 = 4096;

/// Bytes that may still be written below `folder`, by us.
pub(super) fn free(folder: &Path) -> io::Result<u64> {
    let volume = rustix::fs::statvfs(folder)?;
    Ok(volume.f_bavail.saturating_mul(volume.f_frsize))
}

/// Files that may still be made below `folder`; `None`: as many as there is room for.
pub(super) fn free_inodes(folder: &Path) -> io::Result<Option<u64>> {
    let volume = rustix::fs::statvfs(folder)?;
    Ok((volume.f_files > 0).then_some(volume.f_favail))
}

/// Bytes that a file of this size takes on most file systems.
pub(super) fn on_disk(bytes: u64) -> u64 {
    bytes.div_ceil(BLOCK_BYTES).saturating_mul(BLOCK_BYTES)
}
