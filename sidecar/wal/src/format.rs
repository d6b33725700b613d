//! The bytes on disk.

pub(crate) const PAGE_BYTES: u64 = 4096;
pub(crate) const MIN_SEGMENT_BYTES: u64 = 2 * PAGE_BYTES;
pub(crate) const MAX_SEGMENT_BYTES: u64 = 1 << 30;
