//! What the agreement waits for, and since when: told from how its status changes over time.

use std::time::Duration;

use synod_paxos::Slot;
use tokio::time::Instant;

use super::status::Waiting;
use crate::node::NodeStatus;

/// How often the status is looked at.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Remembers what was seen at the last look.
#[derive(Debug, Default)]
pub(super) struct Observer {
    commit: Slot,
    waits: Option<(&'static str, Slot, Instant)>,
}

// === impl Observer ===

impl Observer {
    /// Looks at the status as it is at `now`.
    pub(super) fn look(&mut self, now: Instant, node: &NodeStatus) {
        let on = self.reason(node);
        self.commit = node.commit;
        self.waits = on.map(|(on, slot)| match self.waits {
            Some((same, same_slot, since)) if (same, same_slot) == (on, slot) => (on, slot, since),
            _ => (on, slot, now),
        });
    }

    /// What is waited for, with its age at `now`.
    pub(super) fn waiting(&self, now: Instant) -> Option<Waiting> {
        self.waits.map(|(on, slot, since)| Waiting {
            on: on.to_owned(),
            slot: slot.0,
            age_ms: u64::try_from((now - since).as_millis()).unwrap_or(u64::MAX),
        })
    }

    fn reason(&self, node: &NodeStatus) -> Option<(&'static str, Slot)> {
        let stands = node.last > node.commit && node.commit == self.commit;
        if node.group.is_none() {
            Some(("genesis", Slot::ZERO))
        } else if node.leader.is_none() || stands {
            Some(("quorum", node.commit.next()))
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use synod_paxos::{GroupId, MemberId};

    use super::*;

    fn on(observer: &Observer, now: Instant) -> Option<(String, u64, u64)> {
        observer
            .waiting(now)
            .map(|waiting| (waiting.on, waiting.slot, waiting.age_ms))
    }

    #[test]
    fn what_stands_still_is_named_with_its_slot_and_age() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut observer = Observer::default();
        let mut node = NodeStatus::default();
        observer.look(at(0), &node);
        assert_eq!(on(&observer, at(5)), Some(("genesis".into(), 0, 5)));

        node.group = Some(GroupId([1; 16]));
        observer.look(at(10), &node);
        observer.look(at(20), &node);
        assert_eq!(on(&observer, at(30)), Some(("quorum".into(), 1, 20)));

        node.leader = Some(MemberId(1));
        (node.last, node.commit) = (Slot(9), Slot(8));
        observer.look(at(40), &node);
        assert_eq!(on(&observer, at(40)), None, "everything moves");
        observer.look(at(50), &node);
        assert_eq!(on(&observer, at(60)), Some(("quorum".into(), 9, 10)));
        node.last = Slot(8);
        observer.look(at(70), &node);
        assert_eq!(on(&observer, at(70)), None);
    }
}
