//! What the agreement waits for, and since when: told from how its status changes over time.

use std::time::Duration;

use synod_paxos::{Slot, WaitingOn};
use tokio::time::Instant;

use super::status::Waiting;
use crate::node::{Description, NodeStatus};

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
    pub(super) fn look(&mut self, now: Instant, node: &NodeStatus, details: Option<&Description>) {
        let on = self.reason(node, details);
        self.commit = node.commit;
        self.waits = on.map(|(on, slot)| match self.waits {
            Some((same, same_slot, since)) if (same, same_slot) == (on, slot) => (on, slot, since),
            _ => (on, slot, now),
        });
    }

    /// What was waited for at the last look and, by the status as it is at `now`, still is.
    pub(super) fn waiting(
        &self,
        now: Instant,
        node: &NodeStatus,
        details: Option<&Description>,
    ) -> Option<Waiting> {
        let (on, slot, since) = self.waits?;
        let still = self.reason(node, details) == Some((on, slot));
        still.then(|| Waiting {
            on: on.to_owned(),
            slot: slot.0,
            age_ms: u64::try_from((now - since).as_millis()).unwrap_or(u64::MAX),
        })
    }

    fn reason(
        &self,
        node: &NodeStatus,
        details: Option<&Description>,
    ) -> Option<(&'static str, Slot)> {
        if node.group.is_none() {
            return Some(("genesis", Slot::ZERO));
        }
        let next = node.commit.next();
        match details.and_then(|it| it.status.waiting_on) {
            Some(WaitingOn::Sync) => return Some(("sync", next)),
            Some(WaitingOn::Window) => return Some(("window", next)),
            Some(WaitingOn::Snapshot) => return Some(("snapshot", next)),
            // Somebody has the entry, and is not there.
            Some(WaitingOn::Repair { slot }) => return Some(("quorum", slot)),
            // What a full disk does not take is refused: nothing waits. Quorums are seen below, by
            // what is newer.
            Some(WaitingOn::Disk | WaitingOn::Quorum) | None => {}
        }
        let stands = node.last > node.commit && node.commit == self.commit;
        (node.leader.is_none() || stands).then_some(("quorum", next))
    }
}

#[cfg(test)]
mod tests {
    use synod_paxos::{GroupId, MemberId};

    use super::*;

    fn on(observer: &Observer, now: Instant, node: &NodeStatus) -> Option<(String, u64, u64)> {
        observer
            .waiting(now, node, None)
            .map(|waiting| (waiting.on, waiting.slot, waiting.age_ms))
    }

    #[test]
    fn what_stands_still_is_named_with_its_slot_and_age() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut observer = Observer::default();
        let mut node = NodeStatus::default();
        observer.look(at(0), &node, None);
        assert_eq!(on(&observer, at(5), &node), Some(("genesis".into(), 0, 5)));

        node.group = Some(GroupId([1; 16]));
        observer.look(at(10), &node, None);
        observer.look(at(20), &node, None);
        assert_eq!(on(&observer, at(30), &node), Some(("quorum".into(), 1, 20)));

        node.leader = Some(MemberId(1));
        (node.last, node.commit) = (Slot(9), Slot(8));
        observer.look(at(40), &node, None);
        assert_eq!(on(&observer, at(40), &node), None, "everything moves");
        observer.look(at(50), &node, None);
        assert_eq!(on(&observer, at(60), &node), Some(("quorum".into(), 9, 10)));
        node.last = Slot(8);
        observer.look(at(70), &node, None);
        assert_eq!(on(&observer, at(70), &node), None);
    }

    #[test]
    fn what_is_over_since_the_last_look_is_not_waited_for() {
        let now = Instant::now();
        let mut observer = Observer::default();
        let mut node = NodeStatus::default();
        observer.look(now, &node, None);
        node.group = Some(GroupId([1; 16]));
        node.leader = Some(MemberId(1));
        assert_eq!(on(&observer, now, &node), None);
    }

    #[test]
    fn what_the_agreement_itself_waits_for_comes_before_what_can_be_seen_from_outside() {
        let now = Instant::now();
        let mut observer = Observer::default();
        let node = NodeStatus {
            group: Some(GroupId([1; 16])),
            ..NodeStatus::default()
        };
        let mut details = Description::default();
        for (inside, told) in [
            (WaitingOn::Sync, ("sync", 1)),
            (WaitingOn::Window, ("window", 1)),
            (WaitingOn::Repair { slot: Slot(7) }, ("quorum", 7)),
            (WaitingOn::Quorum, ("quorum", 1)),
        ] {
            details.status.waiting_on = Some(inside);
            observer.look(now, &node, Some(&details));
            let waiting = observer.waiting(now, &node, Some(&details));
            let waiting = waiting.expect("waits");
            assert_eq!((waiting.on.as_str(), waiting.slot), told);
        }
    }
}
