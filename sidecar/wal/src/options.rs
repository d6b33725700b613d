//! Limits of a log, checked before anything is touched.

use crate::error::OpenError;
use crate::format::{MAX_SEGMENT_BYTES, MIN_SEGMENT_BYTES, PAGE_BYTES};

/// Sizes of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Size of one segment in bytes: a multiple of 4 KiB, at most 1 GiB. Segments that exist keep
    /// their size. No record may be larger; a quarter of it is a good limit.
    pub segment_bytes: u64,
    /// Size that all segments together may reach, in bytes, the one in reserve counted; twice that while
    /// another log is staged beside this one, which its member can do nothing with before it is whole.
    pub max_bytes: u64,
    /// Part of the last segment, in bytes, that is kept for promises and the like when no further
    /// segment can be made (rule W4).
    pub reserve_bytes: u64,
}

// === impl Options ===

impl Default for Options {
    fn default() -> Self {
        Self::new(64 << 20, 8 << 30)
    }
}

impl Options {
    /// The usual reserve: a quarter of a segment.
    pub fn new(segment_bytes: u64, max_bytes: u64) -> Self {
        Self {
            segment_bytes,
            max_bytes,
            reserve_bytes: segment_bytes / 4,
        }
    }

    pub(crate) fn check(&self) -> Result<(), OpenError> {
        let bad = |option, must| Err(OpenError::BadOption { option, must });
        if !(MIN_SEGMENT_BYTES..=MAX_SEGMENT_BYTES).contains(&self.segment_bytes)
            || !self.segment_bytes.is_multiple_of(PAGE_BYTES)
        {
            let must = format!(
                "must be a multiple of {PAGE_BYTES} from {MIN_SEGMENT_BYTES} to {MAX_SEGMENT_BYTES} bytes"
            );
            return bad("segment_bytes", must);
        }
        if self.max_bytes < 2 * self.segment_bytes {
            let must = format!(
                "must be at least two segments, {} bytes",
                2 * self.segment_bytes
            );
            return bad("max_bytes", must);
        }
        if self.reserve_bytes > self.segment_bytes / 2 {
            let must = format!("must be at most {} bytes", self.segment_bytes / 2);
            return bad("reserve_bytes", must);
        }
        Ok(())
    }
}
