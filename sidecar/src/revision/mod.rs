//! Has it agreed on that a revision of the app has taken over (rule V1), while this member leads: from
//! then on it is not taken back any more, and states that it has made are saved.
//!
//! One that has answered from its barrier on has taken over when all copies that can be asked answer with it.
//! A copy may fail there for ever at what another one has executed, and needs a state of that one, which is
//! not saved before: after a while those that answer are enough.
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
    pub use super::{Copy, Said, answers, copy, is_done};
}

const LOOK: Duration = Duration::from_millis(500);
/// Longest wait for another member's word.
const PATIENCE: Duration = Duration::from_secs(1);
/// For so long those copies that answer with it wait for the others: nothing is saved meanwhile, the log
/// grows, and a copy that needs the state of one that answers does not get it.
const REST: Duration = Duration::from_secs(60);
/// The same where they are fewer than half: more is taken for a revision that may be taken back.
const LONG_REST: Duration = Duration::from_secs(300);

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
        // Since when this revision answers.
        let mut answering: Option<(u64, Instant)> = None;
        let mut ready = Ready::default();
        let begun = Instant::now();
        loop {
            look.tick().await;
            let status = self.node.status().borrow().clone();
            let known = self.apply.status().borrow().revision;
            let number = known.in_force;
            answering.take_if(|(of, _)| *of != number);
            if status.leader != Some(status.member) || !known.is_unfinished {
                answering = None;
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
            if !answers(&copies) {
                answering = None;
                continue;
            }
            let (_, since) = *answering.get_or_insert_with(|| (number, Instant::now()));
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

/// A copy answers with it.
pub fn answers(copies: &[Copy]) -> bool {
    copies.contains(&Copy::Over)
}

/// All that can be asked, which are more than half; or, since none of an earlier revision can answer any more,
/// whichever there are after a while. `answering`: for how long there have been some.
pub fn is_done(copies: &[Copy], answering: Duration) -> bool {
    let over = copies.iter().filter(|it| **it == Copy::Over).count();
    let all = 2 * over > copies.len() && !copies.contains(&Copy::Behind);
    let half = 2 * over >= copies.len();
    all || (over > 0 && answering >= if half { REST } else { LONG_REST })
}

#[cfg(test)]
mod tests {
    use super::Copy::{Away, Behind, Over};
    use super::*;

    #[test]
    fn a_revision_is_done_when_all_copies_run_it_or_some_have_for_a_while() {
        // At once, after a while, after long.
        for (copies, at) in [
            (&[Over, Over, Over][..], [true, true, true]),
            (&[Over], [true, true, true]),
            (&[Over, Over, Away], [true, true, true]),
            (&[Over, Over, Behind], [false, true, true]),
            (&[Over, Behind], [false, true, true]),
            (&[Over, Away], [false, true, true]),
            (&[Over, Away, Away], [false, false, true]),
            (&[Over, Behind, Behind], [false, false, true]),
            (&[Behind], [false, false, false]),
            (&[], [false, false, false]),
        ] {
            let found = [Duration::ZERO, REST, LONG_REST].map(|it| is_done(copies, it));
            assert_eq!(found, at, "{copies:?}");
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
