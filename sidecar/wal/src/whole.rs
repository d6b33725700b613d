//! Whole segments read into memory at a start, whatever the disk says.

use crate::disk::DiskFile;
use crate::error::OpenError;
use crate::format::{SECTOR_BYTES, VERSION};
use crate::page::{Page, PageError, SegmentPage};

/// What cannot be read is taken for bytes that were written, not for zeros that were not.
const UNREADABLE: u8 = 0xEE;
/// Unreadable spots are found in pieces of this size.
const PIECE_BYTES: usize = SECTOR_BYTES;

/// Reads a file; what cannot be read is filled with [`UNREADABLE`].
pub(crate) fn read_all(file: &dyn DiskFile, bytes: usize) -> Vec<u8> {
    let mut buffer = vec![0; bytes];
    if file.read_exact_at(&mut buffer, 0).is_ok() {
        return buffer;
    }
    for (index, piece) in buffer.chunks_mut(PIECE_BYTES).enumerate() {
        let offset = index * PIECE_BYTES;
        if let Err(error) = file.read_exact_at(piece, offset as u64) {
            tracing::warn!(offset, %error, "part of a log segment cannot be read");
            piece.fill(UNREADABLE);
        }
    }
    buffer
}

/// The page of a segment of `size` bytes, and the ends at which it is damaged.
pub(crate) fn read_page(
    file: &dyn DiskFile,
    size: u64,
    number: u64,
) -> Result<(SegmentPage, Vec<u64>), OpenError> {
    let Some(back_at) = size.checked_sub(SECTOR_BYTES as u64) else {
        return Err(OpenError::lost(format!("segment {number} is cut short")));
    };
    let read = |at| {
        let mut page: Page = [0; SECTOR_BYTES];
        if file.read_exact_at(&mut page, at).is_err() {
            return Ok(None);
        }
        match SegmentPage::decode(&page) {
            Ok(page) => Ok(Some(page)),
            Err(PageError::Bad) => Ok(None),
            Err(PageError::Version(found)) => Err(OpenError::UnknownVersion {
                found,
                known: VERSION,
            }),
        }
    };
    match (read(0)?, read(back_at)?) {
        (Some(front), Some(back)) if front == back => Ok((front, Vec::new())),
        (Some(front), None) => Ok((front, vec![back_at])),
        (None, Some(back)) => Ok((back, vec![0])),
        _ => Err(OpenError::lost(format!(
            "segment {number} has no good page"
        ))),
    }
}
