//! How old this member's state can be at most, without synchronised clocks (rule R7).
//!
//! In: answered read indexes, each with the moment at which it was asked for. Out: the latest
//! moment that the state is known to be no older than. Calls nothing.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use synod_paxos::Slot;

use crate::node::clock;

/// A moment on this machine's own clock, which goes on while the machine sleeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Moment(Duration);

/// What is known from answered read indexes.
#[derive(Debug, Default)]
pub(super) struct Probes {
    known: Mutex<Known>,
    turns: AtomicUsize,
}

#[derive(Debug, Default)]
struct Known {
    /// The last one answered.
    latest: Option<(Moment, Slot)>,
    /// The last one whose index was applied when somebody looked.
    reached: Option<(Moment, Slot)>,
}

// === impl Moment ===

impl Moment {
    pub(super) fn now() -> Self {
        Self(Duration::from_nanos(clock::now().mono_ns))
    }

    /// Time that has gone by since `earlier`.
    pub(super) fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

// === impl Probes ===

impl Probes {
    /// A read index asked for at `asked` was answered with `index`.
    pub(super) fn answered(&self, asked: Moment, index: Slot) {
        let mut known = self
            .known
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if known.latest.is_none_or(|(latest, _)| latest < asked) {
            known.latest = Some((asked, index));
        }
    }

    /// The moment that a state with `applied` is known to be no older than.
    pub(super) fn no_older_than(&self, applied: Slot) -> Option<Moment> {
        let mut known = self
            .known
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some((asked, index)) = known.latest
            && index <= applied
        {
            known.reached = Some((asked, index));
        }
        // An app that was started anew has applied less than before.
        let (asked, index) = known.reached?;
        (index <= applied).then_some(asked)
    }

    /// Counts up, so that others are asked in turn.
    pub(super) fn turn(&self) -> usize {
        self.turns.fetch_add(1, Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment(Duration::from_secs(seconds))
    }

    #[test]
    fn a_state_is_no_older_than_the_last_probe_whose_index_it_has_applied() {
        let probes = Probes::default();
        assert_eq!(probes.no_older_than(Slot(100)), None);
        probes.answered(at(10), Slot(5));
        assert_eq!(probes.no_older_than(Slot(4)), None);
        assert_eq!(probes.no_older_than(Slot(5)), Some(at(10)));
        probes.answered(at(20), Slot(9));
        assert_eq!(probes.no_older_than(Slot(8)), Some(at(10)));
        probes.answered(at(15), Slot(6));
        assert_eq!(
            probes.no_older_than(Slot(8)),
            Some(at(10)),
            "an older answer that came late"
        );
        assert_eq!(probes.no_older_than(Slot(9)), Some(at(20)));
        assert_eq!(
            probes.no_older_than(Slot(8)),
            None,
            "the app was started anew"
        );
        assert_eq!(probes.no_older_than(Slot(9)), Some(at(20)));
    }

    #[test]
    fn the_clock_of_probes_never_goes_back() {
        let first = Moment::now();
        assert!(Moment::now() >= first);
    }
}
