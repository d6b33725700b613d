//! What the writer and the readers of a log share: its state, and its segments as far as they are
//! synced. The writer changes it after each sync; records on disk never change, so a reader needs
//! the lock only to find out where to read.

use std::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::segment::Segment;
use crate::state::LogState;

/// Behind an `Arc` in the log and in each reader.
#[derive(Debug)]
pub(crate) struct Shared(RwLock<Inner>);

/// Always of one piece: segments and state belong to the same sync.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) state: LogState,
    /// Numbered without gaps; never empty.
    pub(crate) segments: Vec<Segment>,
}

// === impl Shared ===

impl Shared {
    pub(crate) fn new(state: LogState, segments: Vec<Segment>) -> Self {
        assert!(!segments.is_empty(), "a log has a segment");
        Self(RwLock::new(Inner { state, segments }))
    }

    pub(crate) fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.0.read().expect("the log's writer panicked")
    }

    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.0.write().expect("a user of the log panicked")
    }
}

// === impl Inner ===

impl Inner {
    pub(crate) fn segment(&self, sequence: u64) -> Option<&Segment> {
        self.segments_from(sequence).first()
    }

    /// This segment and all behind it; none if it is gone.
    pub(crate) fn segments_from(&self, sequence: u64) -> &[Segment] {
        let first = self.segments.first().map_or(0, |first| first.sequence);
        let index = sequence.checked_sub(first).map(usize::try_from);
        let Some(Ok(index)) = index else { return &[] };
        self.segments.get(index..).unwrap_or_default()
    }

    pub(crate) fn current(&mut self) -> &mut Segment {
        self.segments.last_mut().expect("a log has a segment")
    }
}
