//! The log on disk: segments, checksums, recovery.
