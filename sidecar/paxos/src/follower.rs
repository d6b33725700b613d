//! What a leader knows about one follower's log, and how far it may send ahead (rule P3).

use std::collections::VecDeque;

use crate::output::Ticket;
use crate::types::Slot;

/// How a follower is being brought up to date.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// It has not promised this ballot yet.
    Unpromised,
    /// It promised; the leader's log is sent to it as a whole (rule L1b).
    Syncing {
        /// It keeps its log up to here.
        after: Slot,
        /// The leader's last slot when this began.
        last: Slot,
        /// Next part.
        part: u32,
        /// The last part was sent.
        done: bool,
    },
    /// It has adopted this ballot; new entries are sent as they come.
    Streaming,
}

/// One follower, within one ballot.
#[derive(Debug)]
pub(crate) struct Follower {
    pub(crate) progress: Progress,
    /// It has synced the log of this ballot up to here, by its own word.
    pub(crate) acknowledged: Slot,
    /// Less than that, as it said last: an answer that came late, or it has lost what it had.
    pub(crate) said: Option<Slot>,
    /// Next slot to send.
    pub(crate) next: Slot,
    /// Messages sent and not acknowledged: last slot and bytes of each.
    in_flight: VecDeque<(Slot, u64)>,
    pub(crate) in_flight_bytes: u64,
    /// Commit as last told.
    pub(crate) sent_commit: Slot,
    pub(crate) loading: Option<Ticket>,
    /// When it last got further, or fell behind.
    pub(crate) moved_at_ns: u64,
    /// When the sending of the whole log began: parts that were on their way then are nothing to
    /// begin anew for.
    pub(crate) began_at_ns: u64,
    /// Doubles with each time that it was sent to again in vain.
    pub(crate) patience: u32,
    /// It was told that the entries it needs next are gone.
    pub(crate) told_compacted: bool,
    /// A gap from here on was already seen to.
    pub(crate) rewound_to: Option<Slot>,
}

impl Follower {
    pub(crate) fn new(now_ns: u64) -> Self {
        Self {
            progress: Progress::Unpromised,
            acknowledged: Slot::ZERO,
            said: None,
            next: Slot::ZERO,
            in_flight: VecDeque::new(),
            in_flight_bytes: 0,
            sent_commit: Slot::ZERO,
            loading: None,
            moved_at_ns: now_ns,
            began_at_ns: now_ns,
            patience: 0,
            told_compacted: false,
            rewound_to: None,
        }
    }

    /// Begins to send the whole log behind `after`.
    pub(crate) fn sync(&mut self, after: Slot, last: Slot, now_ns: u64) {
        self.progress = Progress::Syncing {
            after,
            last,
            part: 0,
            done: false,
        };
        self.moved_at_ns = now_ns;
        self.began_at_ns = now_ns;
        self.rewind(after);
    }

    /// Begins anew to send what is behind `after`; if that is gone from a log that begins at `first`,
    /// it has to promise again, behind a snapshot.
    pub(crate) fn sync_again(&mut self, after: Slot, last: Slot, first: Slot, now_ns: u64) {
        self.sync(after, last, now_ns);
        if after < first.prev() {
            self.progress = Progress::Unpromised;
            self.moved_at_ns = 0;
        }
    }

    /// A message that ends at `last` was sent.
    pub(crate) fn sent(&mut self, last: Slot, bytes: u64) {
        // What is sent once more takes no more room: only its last copy has to arrive.
        if self.in_flight.back().is_none_or(|(end, _)| *end < last) {
            self.in_flight.push_back((last, bytes));
            self.in_flight_bytes += bytes;
        }
        self.next = last.next();
    }

    /// Everything up to `slot` has arrived.
    pub(crate) fn arrived(&mut self, slot: Slot, now_ns: u64) {
        while let Some((last, bytes)) = self.in_flight.front()
            && *last <= slot
        {
            self.in_flight_bytes -= bytes;
            self.in_flight.pop_front();
        }
        self.next = self.next.max(slot.next());
        self.said = None;
        self.moved_at_ns = now_ns;
        self.patience = 0;
        self.told_compacted = false;
        self.rewound_to = None;
    }

    /// Sends again from behind `slot`.
    pub(crate) fn rewind(&mut self, slot: Slot) {
        self.in_flight.clear();
        self.in_flight_bytes = 0;
        self.loading = None;
        self.next = slot.next();
    }

    /// It has adopted this ballot.
    pub(crate) fn is_streaming(&self) -> bool {
        self.progress == Progress::Streaming
    }

    /// Nothing is on its way to it.
    pub(crate) fn is_idle(&self) -> bool {
        self.in_flight.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_opens_as_messages_arrive() {
        let mut follower = Follower::new(0);
        follower.rewind(Slot(0));
        follower.sent(Slot(3), 300);
        follower.sent(Slot(5), 200);
        assert_eq!(follower.in_flight_bytes, 500);
        follower.sent(Slot(5), 90);
        assert_eq!(follower.in_flight_bytes, 500, "sent once more");
        follower.arrived(Slot(4), 1);
        assert_eq!(follower.in_flight_bytes, 200);
        follower.arrived(Slot(5), 2);
        assert!(follower.is_idle());
        assert_eq!(follower.next, Slot(6));
    }
}
