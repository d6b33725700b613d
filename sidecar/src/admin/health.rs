//! Whether this member, and the app beside it, are as they should be: pure answers to probes.

use crate::app::Instance;
use crate::apply::ApplyStatus;
use crate::node::NodeStatus;

/// The probes of the app's container that come to us instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AppProbe {
    Live,
    Ready,
    Started,
}

impl AppProbe {
    /// By the last part of `/app-health/{container}/{probe}`.
    pub(super) fn of(path: &str) -> Option<Self> {
        let (container, probe) = path.strip_prefix("/app-health/")?.split_once('/')?;
        match probe {
            _ if container.is_empty() => None,
            "livez" => Some(Self::Live),
            "readyz" => Some(Self::Ready),
            "startupz" => Some(Self::Started),
            _ => None,
        }
    }
}

/// Ready: the entrance takes requests and the log counts. A copy that is rebuilt does not matter
/// here: such a member hands its requests to others. The error says what is missing.
pub(super) fn ready(node: &NodeStatus, leaving: bool) -> Result<(), &'static str> {
    if leaving {
        Err("this member is leaving")
    } else if node.group.is_none() {
        Err("the group has not been formed yet")
    } else if !node.is_ready() {
        Err("the log of this member has not caught up with its group yet")
    } else {
        Ok(())
    }
}

/// What the probes of the app's container are told.
pub(super) fn app(
    probe: AppProbe,
    node: &NodeStatus,
    apply: &ApplyStatus,
    leaving: bool,
    may_stop: impl Fn(Instance) -> bool,
) -> Result<(), &'static str> {
    match probe {
        AppProbe::Live if apply.condemned.is_some_and(may_stop) => {
            Err("the app must be started anew: its state is not known any more")
        }
        AppProbe::Ready => ready(node, leaving),
        AppProbe::Started if apply.app_starts == 0 => Err("the app has not been seen yet"),
        AppProbe::Live | AppProbe::Started => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use synod_paxos::{
        Configuration, Epoch, GroupId, Incarnation, Member, MemberId, Quorums, Role, Slot,
    };

    use super::*;

    #[test]
    fn a_member_is_ready_once_its_group_is_there_and_its_log_counts_until_it_leaves() {
        let mut node = NodeStatus::default();
        assert!(ready(&node, false).is_err());
        node.group = Some(GroupId([1; 16]));
        assert!(ready(&node, false).is_err());
        node.log_counts = true;
        assert!(ready(&node, false).is_ok());
        assert!(ready(&node, true).is_err());
    }

    #[test]
    fn w5_a_witness_that_waits_for_a_snapshot_votes_for_nothing_and_is_not_ready() {
        for (role, is_ready) in [(Role::Voter, true), (Role::Witness, false)] {
            let member = Member {
                id: MemberId(1),
                name: "notes-1".to_owned(),
                incarnation: Incarnation(1),
                role,
                region: String::new(),
            };
            let configuration = Configuration {
                epoch: Epoch(1),
                members: vec![member],
                quorums: Quorums::Majority,
                first_leader: MemberId(0),
            };
            let mut node = NodeStatus {
                group: Some(GroupId([1; 16])),
                member: MemberId(1),
                log_counts: true,
                configuration: Some(configuration.into()),
                ..NodeStatus::default()
            };
            assert!(ready(&node, false).is_ok());
            node.needs_snapshot = Some(Slot(7));
            assert_eq!(ready(&node, false).is_ok(), is_ready, "{role:?}");
        }
    }

    #[test]
    fn the_app_is_alive_until_it_has_to_be_started_anew_and_the_group_allows_it() {
        let node = NodeStatus::default();
        let mut apply = ApplyStatus::default();
        let seven = Instance(std::num::NonZeroU64::new(7).expect("not zero"));
        let ask = |probe, apply: &ApplyStatus| {
            app(probe, &node, apply, false, |instance| instance == seven).is_ok()
        };
        assert!(ask(AppProbe::Live, &apply));
        assert!(!ask(AppProbe::Started, &apply));
        apply.app_starts = 1;
        assert!(ask(AppProbe::Started, &apply));
        apply.condemned = Some(seven);
        assert!(!ask(AppProbe::Live, &apply));
        assert!(app(AppProbe::Live, &node, &apply, false, |_| false).is_ok());
    }

    #[test]
    fn probes_are_told_apart_by_their_path() {
        assert_eq!(
            AppProbe::of("/app-health/notes/livez"),
            Some(AppProbe::Live)
        );
        assert_eq!(
            AppProbe::of("/app-health/notes/readyz"),
            Some(AppProbe::Ready)
        );
        assert_eq!(
            AppProbe::of("/app-health/notes/startupz"),
            Some(AppProbe::Started)
        );
        for other in [
            "/app-health/notes",
            "/app-health//livez",
            "/app-health/notes/x",
            "/livez",
        ] {
            assert_eq!(AppProbe::of(other), None, "{other}");
        }
    }
}
