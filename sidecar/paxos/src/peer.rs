//! What this member knows about one other.

use crate::clock::Look;
use crate::configuration::{Member, Role};
use crate::message::Heartbeat;
use crate::types::{Ballot, Boot, Epoch, Incarnation, Slot};

/// Another member, as seen from here.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) incarnation: Incarnation,
    pub(crate) role: Role,
    /// The latest epoch that it has said to be in.
    pub(crate) epoch: Epoch,
    /// When its last heartbeat came.
    pub(crate) heard_at: Option<u64>,
    /// A connection to it was reset since: it may be gone (rule E4).
    pub(crate) suspect: bool,
    /// Its last heartbeat.
    pub(crate) beat: Heartbeat,
    pub(crate) trip: RoundTrip,
    /// The last good look at its wall clock.
    pub(crate) clock: Option<Look>,
    pub(crate) remembered: Remembered,
    /// Highest protocol version that it has said to speak; 0 before its first hello.
    pub(crate) protocol_max: u32,
    /// It was found to be forgetful: nothing of it counts.
    pub(crate) barred: bool,
}

/// What a peer acknowledged, ever, as far as this start knows (rule M4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Remembered {
    pub(crate) boot: Boot,
    pub(crate) life: u64,
    pub(crate) promised: Ballot,
    pub(crate) accepted: Ballot,
    pub(crate) last: Slot,
}

/// Smoothed round trip and its mean deviation, as in Jacobson's congestion avoidance (1988).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RoundTrip {
    pub(crate) ns: u64,
    pub(crate) jitter_ns: u64,
    pub(crate) samples: u64,
}

impl Peer {
    pub(crate) fn new(member: &Member) -> Self {
        Self {
            incarnation: member.incarnation,
            role: member.role,
            epoch: Epoch(0),
            heard_at: None,
            suspect: false,
            beat: Heartbeat::default(),
            trip: RoundTrip::default(),
            clock: None,
            remembered: Remembered::default(),
            protocol_max: 0,
            barred: false,
        }
    }

    /// A heartbeat came within `timeout_ns`; half of it when a connection was reset since.
    pub(crate) fn is_heard(&self, now_ns: u64, timeout_ns: u64) -> bool {
        self.silent_at(timeout_ns).is_some_and(|end| now_ns < end)
    }

    /// When it will count as silent if nothing more comes.
    pub(crate) fn silent_at(&self, timeout_ns: u64) -> Option<u64> {
        let timeout_ns = if self.suspect {
            timeout_ns / 2
        } else {
            timeout_ns
        };
        self.heard_at.map(|at| at.saturating_add(timeout_ns))
    }
}

impl Remembered {
    /// The peer acknowledged a promise.
    pub(crate) fn note_promise(&mut self, ballot: Ballot) {
        self.promised = self.promised.max(ballot);
    }

    /// The peer acknowledged a log.
    pub(crate) fn note_log(&mut self, accepted: Ballot, last: Slot) {
        self.note_promise(accepted);
        if (accepted, last) > (self.accepted, self.last) {
            (self.accepted, self.last) = (accepted, last);
        }
    }
}

impl RoundTrip {
    pub(crate) fn sample(&mut self, ns: u64) {
        if self.samples == 0 {
            self.ns = ns;
            self.jitter_ns = ns / 2;
        } else {
            let deviation = self.ns.abs_diff(ns);
            self.jitter_ns = self.jitter_ns - self.jitter_ns / 4 + deviation / 4;
            self.ns = self.ns - self.ns / 8 + ns / 8;
        }
        self.samples += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_round_trip_has_hardly_any_jitter() {
        let mut trip = RoundTrip::default();
        for _ in 0..50 {
            trip.sample(80_000_000);
        }
        assert!(trip.ns.abs_diff(80_000_000) < 100);
        assert!(trip.jitter_ns < 1_000_000);
    }

    #[test]
    fn a_higher_accepted_counts_more_than_a_longer_log() {
        let mut remembered = Remembered::default();
        let ballot = |round| Ballot {
            round,
            ..Ballot::default()
        };
        remembered.note_log(ballot(1), Slot(9));
        remembered.note_log(ballot(2), Slot(3));
        remembered.note_log(ballot(1), Slot(20));
        assert_eq!((remembered.accepted, remembered.last), (ballot(2), Slot(3)));
    }
}
