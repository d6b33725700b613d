//! The shell around the token for stopping apps ([`apply::stop`](crate::apply::stop)): asks the
//! leader for it while this member's app must be stopped, and answers the others while this member
//! leads. What is granted is granted by a leader that a quorum confirmed after it was asked.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use synod_paxos::{Ballot, MemberId, Role};
use synod_proto::v1::AcquireStopRequest;
use synod_proto::v1::acquire_stop_request::Claim as WireClaim;
use synod_proto::v1::control_client::ControlClient;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tonic::Status;

use super::clock;
use super::handle::{NodeHandle, NodeStatus};
use super::wire;
use crate::app::Instance;
use crate::apply::ApplyStatus;
use crate::apply::stop::{Claim, Desk, TTL_MS, Wish};
use crate::ingress::PeerChannels;

/// How often the copy is looked at. What is published changes with every slot: waiting for changes
/// would cost more.
const LOOK: Duration = Duration::from_millis(50);
/// Longest wait for the leader's answer, and for the quorum that confirms it.
const PATIENCE: Duration = Duration::from_secs(2);

/// Both sides of one member. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Stops {
    node: NodeHandle,
    desk: Arc<Mutex<Desk>>,
    wish: Arc<Mutex<Wish>>,
}

// === impl Stops ===

impl Stops {
    /// Of a member that has not joined its group yet.
    pub fn new(node: NodeHandle) -> Self {
        Self {
            node,
            desk: Arc::default(),
            wish: Arc::new(Mutex::new(Wish::new(rand::random()))),
        }
    }

    /// The group lets this member have this instance of its app stopped, now.
    pub fn allows(&self, instance: Instance) -> bool {
        self.wish().allows(now_ms(), instance)
    }

    /// Asks for the token whenever the copy needs it. Runs until it is dropped.
    pub async fn run(self, copy: watch::Receiver<ApplyStatus>, peers: Arc<dyn PeerChannels>) {
        let status = self.node.status();
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut waits = false;
        loop {
            look.tick().await;
            let leader = leader(&status.borrow());
            let copy = copy.borrow().clone();
            let now_ms = now_ms();
            let term = leader.map(|(_, term)| term);
            let due = {
                let mut wish = self.wish();
                wish.observe(now_ms, &copy, term);
                wish.due(now_ms)
            };
            let (Some((term, claim)), Some((leader, _))) = (due, leader) else {
                continue;
            };
            let asked = timeout(PATIENCE, self.tell(&*peers, leader, term, claim));
            let granted_ms = match asked.await {
                Ok(Ok(granted_ms)) => Some(granted_ms),
                Ok(Err(error)) => {
                    tracing::debug!(%leader, %error, "no answer about the token for stopping apps");
                    None
                }
                Err(_) => None,
            };
            let answered_ms = self::now_ms();
            let asked = (term, claim);
            self.wish()
                .handle_answer(answered_ms, now_ms, asked, granted_ms);
            let still_waits = matches!(claim, Claim::Wants(_)) && granted_ms.unwrap_or(0) == 0;
            if still_waits && !waits {
                tracing::info!("the app is stopped when no other copy is being rebuilt");
            }
            waits = still_waits;
        }
    }

    /// What the leader says: for how long the token is held from now on.
    async fn tell(
        &self,
        peers: &dyn PeerChannels,
        leader: MemberId,
        term: Ballot,
        claim: Claim,
    ) -> Result<u64, Status> {
        if self.node.status().borrow().member == leader {
            return self.hear(leader, term, claim).await;
        }
        let no_channel = || Status::unavailable("there is no connection to the leader");
        let channel = peers.channel(leader).ok_or_else(no_channel)?;
        let (claim, wish) = match claim {
            Claim::Nothing => (WireClaim::Nothing, 0),
            Claim::Wants(wish) => (WireClaim::Wants, wish),
            Claim::Holds(wish) => (WireClaim::Holds, wish),
        };
        let request = AcquireStopRequest {
            term: Some(wire::term(term)),
            claim: claim.into(),
            wish,
        };
        let answer = ControlClient::new(channel).acquire_stop(request).await?;
        // A leader of a later version might lend it for longer than this one's margins are made for.
        Ok(answer.into_inner().granted_ms.min(TTL_MS))
    }

    /// The leader's answer to a member of its group.
    pub(super) async fn hear(
        &self,
        member: MemberId,
        term: Ballot,
        claim: Claim,
    ) -> Result<u64, Status> {
        let status = self.node.status().borrow().clone();
        let configuration = status.configuration.as_deref();
        let Some(configuration) = configuration.filter(|_| leads(&status, term)) else {
            return Err(no_leader());
        };
        let copies = configuration.members.iter();
        let copies = copies.filter(|it| it.role != Role::Witness).map(|it| it.id);
        let granted = {
            let mut desk = self.desk();
            desk.lead(now_ms(), term, copies);
            desk.hear(now_ms(), member, claim)
        };
        if !granted {
            return Ok(0);
        }
        // Only who still leads may say so: an earlier leader does not know what the next one lent.
        confirm(&self.node, term).await?;
        Ok(TTL_MS)
    }

    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().expect("no holder panics")
    }

    fn wish(&self) -> MutexGuard<'_, Wish> {
        self.wish.lock().expect("no holder panics")
    }
}

/// Returns when a quorum has confirmed, after this was called, that this member leads in the ballot
/// `term` (rule R1).
pub(super) async fn confirm(node: &NodeHandle, term: Ballot) -> Result<(), Status> {
    let confirmed = timeout(PATIENCE, node.read_index()).await;
    confirmed.map_err(|_| Status::unavailable("no quorum confirms this leader"))?;
    let still = leads(&node.status().borrow(), term);
    still.then_some(()).ok_or_else(no_leader)
}

/// This member leads in the ballot `term`.
pub(super) fn leads(status: &NodeStatus, term: Ballot) -> bool {
    leader(status) == Some((status.member, term))
}

fn no_leader() -> Status {
    Status::failed_precondition("this member does not lead in that ballot")
}

/// Whom this member follows, and in which ballot.
pub(crate) fn leader(status: &NodeStatus) -> Option<(MemberId, Ballot)> {
    Some((status.leader?, status.promised))
}

fn now_ms() -> u64 {
    clock::now().mono_ns / 1_000_000
}
