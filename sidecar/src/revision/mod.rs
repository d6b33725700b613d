//! Has it agreed on that a revision of the app has taken over (rule V1), while this member leads: from
//! then on it is not taken back any more, and states that it has made are saved.
//!
//! One that runs along silently takes over when it has caught up on half of the copies, or on one if none
//! can answer any more, and when all that was chosen by then was compared and nothing went otherwise with
//! it. If something did, that is agreed on instead, and a person decides.

mod along;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use prost::Message as _;
use synod_paxos::{CommandKind, MemberId, Role, Slot};
use synod_proto::v1::control_client::ControlClient;
use synod_proto::v1::{Request, RevisionDisagrees, RevisionDone, StatusRequest, StatusResponse};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use self::along::{Ready, Sided};
use crate::apply::divergence::Disagreement;
use crate::apply::{ApplyHandle, EntrySource};
use crate::ingress::PeerChannels;
use crate::node::{NodeHandle, NodeStatus};
use crate::poison::tellable;

/// For the simulator, which decides by the same.
#[doc(hidden)]
pub mod sim {
    pub use super::along::{Ready, Sided};
    pub use super::{Copy, Said, are_most, copy, is_done};
}

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
    log: Arc<dyn EntrySource>,
}

/// What a member says of its copy.
#[derive(Clone, Copy, Debug)]
pub struct Said {
    /// The revision of its app; `None`: none runs.
    pub running: Option<u64>,
    /// It answers clients.
    pub serving: bool,
    /// It has executed all up to here.
    pub applied: Slot,
}

/// What is known of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Copy {
    /// It answers, with the revision in force.
    Over,
    /// Not yet.
    Behind,
    /// Its member does not answer.
    Away,
}

// === impl TakingOver ===

impl TakingOver {
    pub(crate) fn new(
        node: NodeHandle,
        apply: ApplyHandle,
        peers: Arc<dyn PeerChannels>,
        log: Arc<dyn EntrySource>,
    ) -> Self {
        Self {
            node,
            apply,
            peers,
            log,
        }
    }

    /// Runs until it is dropped.
    pub(crate) async fn run(self) {
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // Since when more than half of the copies run this revision.
        let mut most: Option<(u64, Instant)> = None;
        let mut ready = Ready::default();
        let begun = Instant::now();
        loop {
            look.tick().await;
            let status = self.node.status().borrow().clone();
            let known = self.apply.status().borrow().revision;
            let number = known.in_force;
            most.take_if(|(of, _)| *of != number);
            if status.leader != Some(status.member) || !known.is_unfinished {
                most = None;
                ready = Ready::default();
                continue;
            }
            if let Some((silent, _)) = known.silent {
                self.look_along(&status, silent, (&mut ready, begun.elapsed()))
                    .await;
                continue;
            }
            let said = self.ask(&status).await;
            let copies = said.iter().map(|it| copy(it.as_ref(), number));
            let copies: Vec<Copy> = copies.collect();
            if !are_most(&copies) {
                most = None;
                continue;
            }
            let (_, since) = *most.get_or_insert_with(|| (number, Instant::now()));
            if is_done(&copies, since.elapsed()) {
                self.propose_done(number);
            }
        }
    }

    /// One look at a revision that runs along silently.
    async fn look_along(
        &self,
        status: &NodeStatus,
        number: u64,
        (ready, now): (&mut Ready, Duration),
    ) {
        if self.apply.status().borrow().disagreement.is_some() {
            *ready = Ready::default();
            return;
        }
        let found = self.apply.found().borrow().along;
        if let Some(disagreement) = found.disagreement {
            return self.propose_disagreement(number, disagreement).await;
        }
        let reached = status.commit;
        let said = self.ask(status).await;
        let copies = said
            .iter()
            .map(|it| Sided::of(it.as_ref(), number, reached));
        let copies: Vec<Sided> = copies.collect();
        if ready.look(number, &copies, reached, found.compared, now) {
            self.propose_done(number);
        }
    }

    fn propose_done(&self, number: u64) {
        let done = RevisionDone {
            number,
            in_spite: false,
        };
        let payload = Bytes::from(done.encode_to_vec());
        match self.node.propose(CommandKind::REVISION_DONE, payload) {
            Ok(_) => tracing::info!(revision = number, "the app's revision is to take over"),
            Err(error) => tracing::debug!(%error, "not proposed"),
        }
    }

    async fn propose_disagreement(&self, number: u64, found: Disagreement) {
        let (method, path) = self.describe(found.slot).await;
        let Disagreement {
            slot,
            answered,
            silent,
        } = found;
        tracing::error!(
            %slot, method, path, answered, silent, revision = number,
            "a request goes otherwise with the next revision of the app: it does not take over"
        );
        let disagrees = RevisionDisagrees {
            number,
            slot: slot.0,
            method,
            path,
            answered: answered.into(),
            silent: silent.into(),
        };
        let payload = Bytes::from(disagrees.encode_to_vec());
        if let Err(error) = self.node.propose(CommandKind::REVISION_DISAGREES, payload) {
            tracing::debug!(%error, "not proposed");
        }
    }

    /// Method and path of the request at a slot, as far as the log has it.
    async fn describe(&self, slot: Slot) -> (String, String) {
        let log = self.log.clone();
        let read = spawn_blocking(move || log.read(slot, slot, 1)).await;
        let entries = read.ok().and_then(Result::ok).unwrap_or_default();
        let payload = entries.into_iter().next().map(|it| it.command.payload);
        let request = payload.and_then(|it| Request::decode(it).ok());
        request.map(|it| tellable(&it)).unwrap_or_default()
    }

    /// All copies; `None`: its member does not answer.
    async fn ask(&self, status: &NodeStatus) -> Vec<Option<Said>> {
        let members = status.configuration.iter().flat_map(|it| &it.members);
        let members = members.filter(|it| it.role != Role::Witness);
        join_all(members.map(|it| self.ask_one(status, it.id))).await
    }

    async fn ask_one(&self, status: &NodeStatus, member: MemberId) -> Option<Said> {
        if member == status.member {
            let own = self.apply.status().borrow().clone();
            return Some(Said {
                running: own.revision.running,
                serving: own.serving,
                applied: own.applied,
            });
        }
        let mut control = ControlClient::new(self.peers.channel(member)?);
        let asked = timeout(PATIENCE, control.status(StatusRequest {})).await;
        let StatusResponse {
            revision_running,
            serving,
            applied,
            ..
        } = asked.ok()?.ok()?.into_inner();
        Some(Said {
            running: revision_running,
            serving,
            applied: Slot(applied),
        })
    }
}

/// Of what its member has said; `number` is the revision in force.
pub fn copy(said: Option<&Said>, number: u64) -> Copy {
    match said {
        None => Copy::Away,
        Some(it) if it.running == Some(number) && it.serving => Copy::Over,
        Some(_) => Copy::Behind,
    }
}

/// More than half of the copies answer with it.
pub fn are_most(copies: &[Copy]) -> bool {
    copies.iter().filter(|it| **it == Copy::Over).count() > copies.len() / 2
}

/// All that can be asked, or more than half for a while. `most`: for how long these have run it.
pub fn is_done(copies: &[Copy], most: Duration) -> bool {
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
        let said = |running, serving| Said {
            running,
            serving,
            applied: Slot::ZERO,
        };
        assert_eq!(copy(Some(&said(Some(2), true)), 2), Over);
        assert_eq!(copy(Some(&said(Some(2), false)), 2), Behind);
        assert_eq!(copy(Some(&said(Some(1), true)), 2), Behind);
        assert_eq!(copy(Some(&said(None, true)), 2), Behind);
        assert_eq!(copy(None, 2), Away);
    }
}
