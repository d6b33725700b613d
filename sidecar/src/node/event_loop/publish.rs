//! What the node says about itself to whoever watches.
//!
//! In: the agreement's state after a turn of the loop. Out: a [`NodeStatus`] when there is news.

use synod_paxos::{MemberId, Now, Reading};

use super::EventLoop;
use crate::node::handle::NodeStatus;

/// A member whose heartbeats are older than this does not count as serving.
const SERVING_NS: u64 = 1_000_000_000;
/// Agreed time is published anew when it is off by this much.
const CLOCK_NS: u64 = 10_000_000;

impl EventLoop {
    /// Tells whoever watches, when there is something to tell.
    pub(super) fn publish(&mut self, now: Now) {
        let commit = self.paxos.commit();
        self.log_counts = self.log_counts || self.is_close();
        let serving = self
            .others
            .iter()
            .filter(|(_, it)| it.serving && now.mono_ns.saturating_sub(it.heard_ns) < SERVING_NS);
        let status = NodeStatus {
            group: Some(self.paxos.genesis().group),
            member: self.paxos.member(),
            epoch: self.paxos.epoch(),
            removed: self.paxos.removed(),
            leader: self.paxos.leader(),
            led_since_ns: self.leadership.since_ns(),
            promised: self.paxos.promised(),
            accepted: self.paxos.accepted(),
            last: self.paxos.last(),
            commit,
            log_counts: self.log_counts && self.paxos.removed().is_none(),
            clock: self.clock(now),
            skewed: self.paxos.skewed().to_vec(),
            serving: serving.map(|(id, _)| *id).collect(),
            configuration: Some(self.configuration.clone()),
            protocol: self.paxos.protocol(),
            base: self.paxos.base().slot,
            installed: self.installed,
            needs_snapshot: self.paxos.needs_snapshot(),
            log_bytes: self.writer.bytes(),
            log_used_bytes: self.writer.used_bytes(),
        };
        self.tell_skewed(&status.skewed);
        self.seat.status.send_if_modified(|old| {
            let changed = *old != status;
            if changed {
                *old = status;
            }
            changed
        });
    }

    /// Agreed time as it was published, unless it is another by now: it is a little with each look at
    /// the voters' clocks, and whoever waits for news is not woken for that.
    fn clock(&self, now: Now) -> Option<Reading> {
        let new = self.paxos.agreed_clock()?;
        let old = self.seat.status.borrow().clock;
        let is_same = |old: &Reading| {
            let (old, new) = (old.at(now.mono_ns), new.at(now.mono_ns));
            old.0.abs_diff(new.0) < CLOCK_NS
        };
        Some(old.filter(is_same).unwrap_or(new))
    }

    fn tell_skewed(&self, skewed: &[MemberId]) {
        if *skewed == self.seat.status.borrow().skewed {
            return;
        }
        let names: Vec<_> = skewed.iter().map(|it| self.name(*it)).collect();
        if names.is_empty() {
            tracing::info!("the voters' clocks are within a second of each other again");
        } else {
            tracing::warn!(
                members = ?names,
                "wall clocks are off by more than a second: keep them in step (NTP)"
            );
        }
    }

    /// This log ends near where the group's does.
    fn is_close(&self) -> bool {
        self.paxos.is_near() && self.paxos.status().healthy
    }
}
