//! So many bytes, shared among those that need some.
//!
//! In: who wants how many. Out: shares, given back when they are dropped. Calls nothing.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Shows how many bytes of a budget are taken.
pub(super) type TakenBytes = Gauge<u64, AtomicU64>;

/// A number of bytes, counted in units.
#[derive(Clone, Debug)]
pub(super) struct Budget {
    units: Arc<Semaphore>,
    unit_bytes: u64,
    taken: TakenBytes,
}

/// A part of a budget.
#[derive(Debug)]
pub(super) struct Share {
    permit: OwnedSemaphorePermit,
    unit_bytes: u64,
    taken: TakenBytes,
}

// === impl Budget ===

impl Budget {
    pub(super) fn new(bytes: u64, unit_bytes: u64, taken: TakenBytes) -> Self {
        let units = usize::try_from(bytes / unit_bytes).unwrap_or(Semaphore::MAX_PERMITS);
        Self {
            units: Arc::new(Semaphore::new(units.min(Semaphore::MAX_PERMITS))),
            unit_bytes,
            taken,
        }
    }

    /// Waits in line for a share: nobody who came later gets one before. For ever, where there is
    /// not as much at all.
    pub(super) async fn take(&self, bytes: u64) -> Share {
        let units = self.units_of(bytes);
        let permit = self.units.clone().acquire_many_owned(units).await;
        self.share(permit.expect("a budget is never closed"))
    }

    /// Does not wait.
    pub(super) fn try_take(&self, bytes: u64) -> Option<Share> {
        let units = self.units_of(bytes);
        let permit = self.units.clone().try_acquire_many_owned(units).ok()?;
        Some(self.share(permit))
    }

    /// Makes a share of this budget as large as `bytes`, if that can be had at once: somebody who
    /// holds some must not wait for more of it.
    pub(super) fn try_grow(&self, share: &mut Share, bytes: u64) -> bool {
        let more = bytes.saturating_sub(share.bytes());
        if more == 0 {
            return true;
        }
        let units = self.units_of(more);
        let Ok(permit) = self.units.clone().try_acquire_many_owned(units) else {
            return false;
        };
        self.taken
            .inc_by(permit.num_permits() as u64 * self.unit_bytes);
        share.permit.merge(permit);
        true
    }

    fn share(&self, permit: OwnedSemaphorePermit) -> Share {
        let share = Share {
            permit,
            unit_bytes: self.unit_bytes,
            taken: self.taken.clone(),
        };
        self.taken.inc_by(share.bytes());
        share
    }

    fn units_of(&self, bytes: u64) -> u32 {
        u32::try_from(bytes.div_ceil(self.unit_bytes)).unwrap_or(u32::MAX)
    }
}

// === impl Share ===

impl Share {
    /// As many as were asked for, or a few more.
    pub(super) fn bytes(&self) -> u64 {
        self.permit.num_permits() as u64 * self.unit_bytes
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.taken.dec_by(self.bytes());
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn shares_are_whole_units_and_come_back_when_they_are_dropped() {
        let taken = TakenBytes::default();
        let budget = Budget::new(10_000, 1_000, taken.clone());
        let mut share = budget.try_take(1_001).unwrap();
        assert_eq!((share.bytes(), taken.get()), (2_000, 2_000));
        assert!(budget.try_grow(&mut share, 2_000));
        assert!(budget.try_grow(&mut share, 9_000));
        assert_eq!((share.bytes(), taken.get()), (9_000, 9_000));
        assert!(budget.try_take(1_001).is_none());
        assert!(!budget.try_grow(&mut share, 10_001));
        assert_eq!((share.bytes(), taken.get()), (9_000, 9_000));
        drop(share);
        assert_eq!(taken.get(), 0);
        assert!(budget.try_take(10_000).is_some());
    }

    #[test]
    fn whoever_waits_is_served_before_those_that_come_later() {
        let budget = Budget::new(10, 1, TakenBytes::default());
        let first = budget.try_take(6).unwrap();
        let mut large = std::pin::pin!(budget.take(8));
        assert!(large.as_mut().now_or_never().is_none());
        assert!(budget.try_take(1).is_none(), "it would push in");
        drop(first);
        assert_eq!(large.now_or_never().unwrap().bytes(), 8);
    }
}
