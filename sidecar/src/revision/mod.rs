//! Has it agreed on that a revision of the app has taken over (rule V1), while this member leads: from
//! then on it is not taken back any more, and states that it has made are saved.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use prost::Message as _;
use synod_paxos::{CommandKind, MemberId, Role};
use synod_proto::v1::control_client::ControlClient;
use synod_proto::v1::{RevisionDone, StatusRequest, StatusResponse};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use crate::apply::ApplyHandle;
use crate::ingress::PeerChannels;
use crate::node::{NodeHandle, NodeStatus};

const LOOK: Duration = Duration::from_millis(500);
/// Longest wait for another member's word.
const PATIENCE: Duration = Duration::from_secs(1);
/// For so long more than half of the copies wait for the others: nothing is saved meanwhile, and the log
/// grows.
const REST: Duration = Duration::from_secs(60);

/// See the module's documentation.
pub(crate) struct TakingOver {
    node: NodeHandle,
    apply: ApplyHandle,
    peers: Arc<dyn PeerChannels>,
}

/// What is known of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Copy {
    /// It answers, with the revision in force.
    Over,
    /// Not yet.
    Behind,
    /// Its member does not answer.
    Away,
}

// === impl TakingOver ===

impl TakingOver {
    pub(crate) fn new(node: NodeHandle, apply: ApplyHandle, peers: Arc<dyn PeerChannels>) -> Self {
        Self { node, apply, peers }
    }

    /// Runs until it is dropped.
    pub(crate) async fn run(self) {
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // Since when more than half of the copies run this revision.
        let mut most: Option<(u64, Instant)> = None;
        loop {
            look.tick().await;
            let status = self.node.status().borrow().clone();
            let known = self.apply.status().borrow().revision;
            let number = known.in_force;
            most.take_if(|(of, _)| *of != number);
            if status.leader != Some(status.member) || !known.is_unfinished {
                most = None;
                continue;
            }
            let copies = self.ask(&status, number).await;
            if !are_most(&copies) {
                most = None;
                continue;
            }
            let (_, since) = *most.get_or_insert_with(|| (number, Instant::now()));
            if is_done(&copies, since.elapsed()) {
                let payload = Bytes::from(RevisionDone { number }.encode_to_vec());
                match self.node.propose(CommandKind::REVISION_DONE, payload) {
                    Ok(_) => tracing::info!(revision = number, "the app's revision has taken over"),
                    Err(error) => tracing::debug!(%error, "not proposed"),
                }
            }
        }
    }

    async fn ask(&self, status: &NodeStatus, number: u64) -> Vec<Copy> {
        let members = status.configuration.iter().flat_map(|it| &it.members);
        let members = members.filter(|it| it.role != Role::Witness);
        join_all(members.map(|it| self.ask_one(status, it.id, number))).await
    }

    async fn ask_one(&self, status: &NodeStatus, member: MemberId, number: u64) -> Copy {
        if member == status.member {
            let own = self.apply.status().borrow().clone();
            return copy(own.revision.running, own.serving, number);
        }
        let Some(channel) = self.peers.channel(member) else {
            return Copy::Away;
        };
        let mut control = ControlClient::new(channel);
        let asked = timeout(PATIENCE, control.status(StatusRequest {})).await;
        match asked.map(|it| it.map(tonic::Response::into_inner)) {
            Ok(Ok(StatusResponse {
                revision_running,
                serving,
                ..
            })) => copy(revision_running, serving, number),
            _ => Copy::Away,
        }
    }
}

fn copy(running: Option<u64>, serving: bool, number: u64) -> Copy {
    if running == Some(number) && serving {
        Copy::Over
    } else {
        Copy::Behind
    }
}

fn are_most(copies: &[Copy]) -> bool {
    copies.iter().filter(|it| **it == Copy::Over).count() > copies.len() / 2
}

/// All that can be asked, or more than half for a while. `most`: for how long these have run it.
fn is_done(copies: &[Copy], most: Duration) -> bool {
    are_most(copies) && (!copies.contains(&Copy::Behind) || most >= REST)
}

#[cfg(test)]
mod tests {
    use super::Copy::{Away, Behind, Over};
    use super::*;

    #[test]
    fn a_revision_is_done_when_all_copies_run_it_or_most_of_them_for_a_while() {
        let short = Duration::ZERO;
        for (copies, at_once, later) in [
            (&[Over, Over, Over][..], true, true),
            (&[Over], true, true),
            (&[Over, Over, Away], true, true),
            (&[Over, Over, Behind], false, true),
            (&[Over, Away, Away], false, false),
            (&[Over, Behind, Behind], false, false),
            (&[Over, Behind], false, false),
            (&[Behind], false, false),
            (&[], false, false),
        ] {
            assert_eq!(is_done(copies, short), at_once, "{copies:?}");
            assert_eq!(is_done(copies, REST), later, "{copies:?}");
        }
    }

    #[test]
    fn a_copy_is_over_when_it_answers_with_that_revision() {
        assert_eq!(copy(Some(2), true, 2), Over);
        assert_eq!(copy(Some(2), false, 2), Behind);
        assert_eq!(copy(Some(1), true, 2), Behind);
        assert_eq!(copy(None, true, 2), Behind);
    }
}
