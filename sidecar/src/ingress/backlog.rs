//! How long what was agreed on has been waiting for the copies, and what others have done for this one.
//!
//! In: how far the log is chosen, and how far any copy is, with each request; or how far any copy is, and
//! how far this one. Out: since when the next slot waits. While that is longer than a request may wait at
//! all, nothing more is taken: who asks now would have given up before the copies come to it, and would ask
//! again, so that they never catch up. While this copy alone is late, others answer its clients.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use synod_paxos::Slot;
use tokio::time::Instant;

/// Slots are noted so often.
const EVERY: Duration = Duration::from_millis(50);
/// Notes at most. What comes when there are so many is not noted; the oldest tell the age.
const NOTES: usize = 1_024;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    /// What was chosen by when: both increase.
    notes: Mutex<VecDeque<(Slot, Instant)>>,
}

// === impl Backlog ===

impl Backlog {
    /// The first slot that no copy has executed has been chosen for at least so long, as far as it was
    /// seen here; zero: there is none.
    pub(super) fn age(&self, chosen: Slot, executed: Slot) -> Duration {
        let now = Instant::now();
        let mut notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        let done = notes.partition_point(|(slot, _)| *slot <= executed);
        notes.drain(..done);
        let is_new = notes.back().is_none_or(|(slot, at)| {
            *slot < chosen && now.saturating_duration_since(*at) >= EVERY && notes.len() < NOTES
        });
        if is_new && chosen > executed {
            notes.push_back((chosen, now));
        }
        let oldest = notes.front().map(|(_, at)| *at);
        oldest.map_or(Duration::ZERO, |at| now.saturating_duration_since(at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_age_is_that_of_the_first_slot_that_waits() {
        let seconds = Duration::from_secs;
        let backlog = Backlog::default();
        assert_eq!(backlog.age(Slot(3), Slot(3)), Duration::ZERO);
        tokio::time::advance(seconds(5)).await;
        assert_eq!(backlog.age(Slot(4), Slot(3)), Duration::ZERO);
        tokio::time::advance(seconds(2)).await;
        assert_eq!(backlog.age(Slot(9), Slot(3)), seconds(2));
        tokio::time::advance(seconds(3)).await;
        assert_eq!(backlog.age(Slot(9), Slot(3)), seconds(5));
        // Some of what came later is left.
        assert_eq!(backlog.age(Slot(9), Slot(4)), seconds(3));
        assert_eq!(backlog.age(Slot(9), Slot(9)), Duration::ZERO);
        tokio::time::advance(seconds(9)).await;
        assert_eq!(backlog.age(Slot(12), Slot(9)), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn its_memory_is_bounded_and_the_oldest_is_remembered() {
        let backlog = Backlog::default();
        for slot in 1..5_000 {
            backlog.age(Slot(slot), Slot(0));
            tokio::time::advance(EVERY).await;
        }
        assert_eq!(backlog.age(Slot(5_000), Slot(0)), EVERY * 4_999);
        assert_eq!(backlog.notes.lock().expect("no holder panics").len(), NOTES);
    }
}
