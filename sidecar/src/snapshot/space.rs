//! Room on a volume.

use std::io;
use std::path::Path;

/// Bytes that may still be written below `folder`, by us.
pub(super) fn free(folder: &Path) -> io::Result<u64> {
    let volume = rustix::fs::statvfs(folder)?;
    Ok(volume.f_bavail.saturating_mul(volume.f_frsize))
}
