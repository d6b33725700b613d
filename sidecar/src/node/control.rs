//! The `Control` service: what operators, command lines and other members ask of a member. Whoever
//! comes through the door of the peer port with a certificate of this service may call it.

mod members;
mod revise;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use synod_paxos::{
    CommandKind, Epoch, GroupId, Incarnation, Member, MemberId, NotTaken, Slot, UpgradeRefused,
};
use synod_proto::v1::acquire_stop_request::Claim as WireClaim;
use synod_proto::v1::control_client::ControlClient;
use synod_proto::v1::control_server::{self, ControlServer};
use synod_proto::v1::propose_policy_response::Result as Outcome;
use synod_proto::v1::{
    AcquireDisruptionRequest, AcquireDisruptionResponse, AcquireStopRequest, AcquireStopResponse,
    Bypass, ChangeMembersRequest, ChangeMembersResponse, KeptSnapshot, KeptSnapshotsRequest,
    KeptSnapshotsResponse, MembersRequest, MembersResponse, Policy, PrepareShutdownRequest,
    PrepareShutdownResponse, ProposePolicyRequest, ProposePolicyResponse, RaiseProtocolRequest,
    RaiseProtocolResponse, ReleaseDisruptionRequest, ReleaseDisruptionResponse, ReviseRequest,
    ReviseResponse, SkipRequest, SkipResponse, StatusRequest, StatusResponse, TakeSnapshotRequest,
    TakeSnapshotResponse, TransferLeadershipRequest, TransferLeadershipResponse,
};
use tokio::sync::watch;
use tokio::time::timeout;
use tonic::{Request, Response, Status};

use super::channels::Channels;
use super::disruption::{Answer, Disruptions};
use super::handle::{Decided, NodeHandle, NodeStatus, ProposeError};
use super::stops::Stops;
use super::wire::{self, PROTOCOL};
use crate::admin::status::Disagreement;
use crate::app::Outsider;
use crate::apply::stop::Claim;
use crate::apply::{self, ApplyHandle};
use crate::config::{Log, limits};
use crate::identity::{Caller, Who};
use crate::ingress::PeerChannels;
use crate::keeper::{self, TakeError};
use crate::poison::{Board, SkippedRequest};
use crate::snapshot::{Snapshot, Standing};

/// Longest wait for an answer; a caller's own deadline may be shorter.
const PATIENCE: Duration = Duration::from_secs(30);
/// Longest wait for another member's limits.
const LIMITS: Duration = Duration::from_secs(2);
/// Longest wait for another leader.
const TRANSFER: Duration = Duration::from_secs(10);
/// The same when this one is about to be ended: its pod's time runs.
const HAND_OVER: Duration = Duration::from_secs(5);

/// From this protocol on policies say what is done about copies that differ, and about requests that fail.
const MORE_SINCE: u32 = 2;

/// Longest wait for a leader to be seen again by a member that follows none.
const OUT_OF_SIGHT: Duration = Duration::from_secs(1);

/// What does not change while the process lives.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Name of the service.
    pub service: String,
    /// This member's name.
    pub member: String,
    /// The life of its log.
    pub incarnation: Incarnation,
    /// Number of this start.
    pub boot: u64,
    /// Limits of its log.
    pub log: Log,
    /// The genesis that its log had when this process started, as its file would say it; empty: none.
    pub genesis: String,
}

/// The service.
#[derive(Clone, Debug)]
pub struct Control {
    facts: Arc<Facts>,
    node: NodeHandle,
    apply: ApplyHandle,
    stops: Stops,
    disruptions: Disruptions,
    others: Arc<Channels>,
    outsiders: watch::Receiver<Option<Outsider>>,
    snapshots: keeper::Handle,
    board: Board,
}

// === impl Control ===

impl Control {
    /// The gRPC service.
    #[expect(
        clippy::too_many_arguments,
        reason = "the parts of a member that can be asked for"
    )]
    pub fn service(
        facts: Arc<Facts>,
        node: NodeHandle,
        apply: ApplyHandle,
        stops: Stops,
        others: Arc<Channels>,
        outsiders: watch::Receiver<Option<Outsider>>,
        snapshots: keeper::Handle,
        board: Board,
    ) -> ControlServer<Self> {
        ControlServer::new(Self {
            facts,
            disruptions: Disruptions::new(node.clone()),
            node,
            apply,
            stops,
            others,
            outsiders,
            snapshots,
            board,
        })
    }

    async fn propose(&self, policy: &Policy) -> Result<ProposePolicyResponse, Status> {
        let payload = Bytes::from(policy.encode_to_vec());
        let (slot, is_done) = self.decide(CommandKind::POLICY, payload).await?;
        let result = if is_done {
            Outcome::Done
        } else {
            Outcome::Conflict
        };
        Ok(ProposePolicyResponse {
            result: result.into(),
            slot: slot.0,
            version: self.apply.policy().borrow().version,
        })
    }

    /// Has a command of the group's own agreed on: its slot, and whether it took effect; else another
    /// was in force than it was made from.
    async fn decide(&self, kind: CommandKind, payload: Bytes) -> Result<(Slot, bool), Status> {
        let proposed = self.node.propose(kind, payload);
        let proposed = proposed.map_err(|error| match error {
            ProposeError::Overloaded => Status::resource_exhausted(error.to_string()),
            ProposeError::ShuttingDown | ProposeError::NoGroup => {
                Status::unavailable(error.to_string())
            }
        })?;
        match proposed.decided.await {
            Ok(Decided::Chosen(_)) => {}
            Ok(Decided::Withdrawn(reason)) => return Err(withdrawn(reason)),
            Err(_) => return Err(Status::unknown("this member ended before it was agreed on")),
        }
        let answer = self.apply.answer(proposed.id).await;
        match answer.outcome {
            apply::Outcome::Done => Ok((answer.slot, true)),
            apply::Outcome::Conflict => Ok((answer.slot, false)),
            apply::Outcome::Elsewhere => Err(Status::unknown(
                "this member was too far behind to see what became of it",
            )),
            other => Err(Status::internal(format!("{kind:?} cannot be {other:?}"))),
        }
    }

    /// A member of an earlier version would not know all that a policy says (rule P8).
    async fn check_protocol(&self, policy: &Policy) -> Result<(), Status> {
        let newer = [
            ("divergence", policy.divergence.is_some()),
            ("poison", policy.poison.is_some()),
        ];
        let Some((what, _)) = newer.into_iter().find(|(_, is_said)| *is_said) else {
            return Ok(());
        };
        let description = self.node.describe().await.ok_or_else(no_group)?;
        if description.status.protocol >= MORE_SINCE {
            return Ok(());
        }
        Err(Status::failed_precondition(format!(
            "{what} needs protocol {MORE_SINCE}, and the group speaks {}: run all its members on this \
             version first",
            description.status.protocol
        )))
    }

    /// Whether what a policy allows fits the logs of the other members, the leader's among them:
    /// what is agreed on must be held by all (rule P3). A member that cannot be asked is left out, or
    /// no policy could be changed while one is down.
    async fn check_others(&self, policy: &Policy) -> Result<(), Status> {
        let status = self.node.status().borrow().clone();
        let members = status.configuration.as_deref().map(|it| &it.members[..]);
        let others = members.unwrap_or_default().iter();
        let asking = others.filter_map(|member| {
            let mut control = ControlClient::new(self.others.channel(member.id)?);
            let asked = async move { control.status(StatusRequest {}).await };
            Some(async { (&member.name, timeout(LIMITS, asked).await) })
        });
        for (name, answer) in futures::future::join_all(asking).await {
            let Ok(Ok(answer)) = answer else {
                tracing::warn!(peer = %name, "cannot be asked whether the policy fits its log");
                continue;
            };
            let most = answer.into_inner().max_body_bytes;
            if most != 0 && policy.max_body_bytes > most {
                return Err(Status::failed_precondition(format!(
                    "maxBodySize {} does not fit: {name} takes at most {most}; make its \
                     log.segmentBytes larger first",
                    policy.max_body_bytes
                )));
            }
        }
        Ok(())
    }

    /// The member of that name; `None` for an empty one.
    fn find(status: &NodeStatus, name: &str) -> Result<Option<Member>, Status> {
        if name.is_empty() {
            return Ok(None);
        }
        let configuration = status.configuration.as_ref().ok_or_else(no_group)?;
        let found = configuration.members.iter().find(|it| it.name == name);
        let none = || Status::not_found(format!("{name:?} is not a member of this group"));
        found.cloned().map(Some).ok_or_else(none)
    }
}

#[tonic::async_trait]
impl control_server::Control for Control {
    async fn status(
        &self,
        request: Request<StatusRequest>,
    ) -> Result<Response<StatusResponse>, Status> {
        Caller::of(&request)?;
        let node = self.node.status().borrow().clone();
        let apply = self.apply.status().borrow().clone();
        let policy = self.apply.policy().borrow().clone();
        let trouble = self.board.found().borrow().clone();
        let diverged = self.apply.found().borrow().diverged.clone();
        let members = node
            .configuration
            .as_deref()
            .map(|it| it.members.as_slice());
        let find = |id| members.unwrap_or_default().iter().find(|it| it.id == id);
        Ok(Response::new(StatusResponse {
            service: self.facts.service.clone(),
            member: self.facts.member.clone(),
            id: node.member.0,
            incarnation: self.facts.incarnation.to_string(),
            boot: self.facts.boot,
            group: node.group.map(group_hex).unwrap_or_default(),
            epoch: node.epoch.0,
            role: find(node.member)
                .map(|it| format!("{:?}", it.role))
                .unwrap_or_default(),
            leader: node
                .leader
                .and_then(find)
                .map(|it| it.name.clone())
                .unwrap_or_default(),
            last: node.last.0,
            commit: node.commit.0,
            applied: apply.applied.0,
            policy_version: policy.version,
            policy_digest: policy_digest(&policy),
            ready: node.is_ready(),
            serving: apply.serving,
            protocol_min: *PROTOCOL.start(),
            protocol_max: *PROTOCOL.end(),
            max_body_bytes: limits::largest_body(&self.facts.log),
            bypass: self.outsiders.borrow().map(|it| Bypass {
                address: it.address.to_string(),
                age_ms: it.age_ms(),
            }),
            app_silent_ms: self.apply.app_silent_ms(),
            protocol: node.protocol,
            base: node.base.0,
            rollback: apply.rollback.map(|it| it.0),
            replace_pod: apply.rollback.is_some() && self.snapshots.is_started(),
            log_bytes: node.log_bytes,
            revision: apply.revision.in_force,
            revision_barrier: apply.revision.barrier.0,
            revision_unfinished: apply.revision.is_unfinished,
            revision_running: apply.revision.running,
            revision_due: apply.revision.due,
            revision_newest: apply.revision.newest,
            revision_disagreement: apply
                .disagreement
                .map(|it| Disagreement::of(&it, apply.revision.in_force).into()),
            revision_may: apply.revision.may,
            genesis: self.facts.genesis.clone(),
            undecided: trouble.undecided.map(Into::into),
            skipped: trouble.skipped.into_iter().map(Into::into).collect(),
            diverged: diverged.into_iter().map(Into::into).collect(),
        }))
    }

    async fn propose_policy(
        &self,
        request: Request<ProposePolicyRequest>,
    ) -> Result<Response<ProposePolicyResponse>, Status> {
        let caller = Caller::of(&request)?.clone();
        let request = request.into_inner();
        let missing = || Status::invalid_argument("policy is missing");
        let mut policy = request.policy.ok_or_else(missing)?;
        limits::check_policy(&policy, &self.facts.log)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let epoch = self.node.status().borrow().epoch.0;
        if request.epoch != 0 && request.epoch != epoch {
            let words = format!("the group is in epoch {epoch}, not {}", request.epoch);
            return Err(Status::failed_precondition(words));
        }
        // A copy that lags may know an older version; one that knows a newer one decides it.
        let version = self.apply.policy().borrow().version;
        if version > request.expected_version {
            return Ok(Response::new(ProposePolicyResponse {
                result: Outcome::Conflict.into(),
                slot: 0,
                version,
            }));
        }
        self.check_protocol(&policy).await?;
        self.check_others(&policy).await?;
        policy.version = request.expected_version + 1;
        policy.classes_version = 0;
        tracing::info!(peer = ?caller.who, version = policy.version, "a policy is proposed");
        let late = |_| Status::deadline_exceeded("not agreed on in time; it may be, later");
        let response = timeout(PATIENCE, self.propose(&policy))
            .await
            .map_err(late)??;
        Ok(Response::new(response))
    }

    async fn transfer_leadership(
        &self,
        request: Request<TransferLeadershipRequest>,
    ) -> Result<Response<TransferLeadershipResponse>, Status> {
        let caller = Caller::of(&request)?.clone();
        let mut watch = self.node.status();
        let status = watch.borrow_and_update().clone();
        let to = Self::find(&status, &request.into_inner().to)?;
        if status.group.is_none() {
            return Err(no_group());
        }
        check_leads(&status)?;
        let response = TransferLeadershipResponse {
            leader: self.facts.member.clone(),
        };
        if to.as_ref().is_some_and(|it| it.id == status.member) {
            return Ok(Response::new(response));
        }
        tracing::info!(peer = ?caller.who, "leadership is handed over on request");
        self.node.transfer(to.map(|it| it.id));
        let moved = watch.wait_for(|it| it.leader != Some(it.member));
        match timeout(TRANSFER, moved).await {
            Ok(Ok(_)) => Ok(Response::new(response)),
            Ok(Err(_)) => Err(ending()),
            Err(_) => Err(Status::deadline_exceeded(
                "no other voter could take over in time",
            )),
        }
    }

    async fn acquire_stop(
        &self,
        request: Request<AcquireStopRequest>,
    ) -> Result<Response<AcquireStopResponse>, Status> {
        let name = Caller::member(&request, "only members stop their apps")?;
        let status = self.node.status().borrow().clone();
        let member = Self::find(&status, name)?.ok_or_else(no_group)?;
        let request = request.into_inner();
        let claim = match request.claim() {
            WireClaim::Nothing => Claim::Nothing,
            WireClaim::Wants => Claim::Wants(request.wish),
            WireClaim::Holds => Claim::Holds(request.wish),
            WireClaim::Unspecified => return Err(Status::invalid_argument("claim is missing")),
        };
        let term = wire::read_term(request.term)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let granted_ms = self.stops.hear(member.id, term, claim).await?;
        Ok(Response::new(AcquireStopResponse { granted_ms }))
    }

    async fn prepare_shutdown(
        &self,
        request: Request<PrepareShutdownRequest>,
    ) -> Result<Response<PrepareShutdownResponse>, Status> {
        only_operators(&request)?;
        let mut watch = self.node.status();
        let status = watch.borrow().clone();
        let successor = Self::find(&status, &request.into_inner().successor)?;
        let leads = status.group.is_some() && status.leader == Some(status.member);
        if leads && !status.is_sole_voter() {
            tracing::info!("leadership is handed over: this member is about to be ended");
            let handed_over = async {
                self.node.hand_over(successor.map(|it| it.id)).await;
                let another = |it: &NodeStatus| it.leader.is_some_and(|it| it != status.member);
                watch.wait_for(another).await.map(drop)
            };
            match timeout(HAND_OVER, handed_over).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err(ending()),
                Err(_) => {
                    return Err(Status::deadline_exceeded(
                        "no other voter could take over in time",
                    ));
                }
            }
        }
        // A leader that is new, or whose connection is made anew, is lost sight of for a moment.
        let in_sight = |it: &NodeStatus| it.group.is_none() || it.leader.is_some();
        let seen = timeout(OUT_OF_SIGHT, watch.wait_for(in_sight)).await;
        let seen = seen.ok().and_then(Result::ok).map(|it| it.clone());
        let status = seen.unwrap_or_else(|| watch.borrow().clone());
        let leader = status.leader.and_then(|it| status.find(it));
        let leader = leader.map(|it| it.name.clone()).unwrap_or_default();
        Ok(Response::new(PrepareShutdownResponse { leader }))
    }

    async fn acquire_disruption(
        &self,
        request: Request<AcquireDisruptionRequest>,
    ) -> Result<Response<AcquireDisruptionResponse>, Status> {
        only_operators(&request)?;
        let AcquireDisruptionRequest {
            epoch,
            ttl_ms,
            holder,
        } = request.into_inner();
        let answer = self.disruptions.acquire(epoch, &holder, ttl_ms).await?;
        let (granted_ms, holder, wait_ms) = match answer {
            Answer::Granted(granted_ms) => (granted_ms, holder, 0),
            Answer::Held { by, for_ms } => (0, by, for_ms),
            Answer::Quiet { for_ms } => (0, String::new(), for_ms),
        };
        Ok(Response::new(AcquireDisruptionResponse {
            granted_ms,
            holder,
            wait_ms,
        }))
    }

    async fn release_disruption(
        &self,
        request: Request<ReleaseDisruptionRequest>,
    ) -> Result<Response<ReleaseDisruptionResponse>, Status> {
        only_operators(&request)?;
        let held = self.disruptions.release(&request.into_inner().holder)?;
        Ok(Response::new(ReleaseDisruptionResponse { held }))
    }

    async fn take_snapshot(
        &self,
        request: Request<TakeSnapshotRequest>,
    ) -> Result<Response<TakeSnapshotResponse>, Status> {
        only_operators(&request)?;
        let taken = self.snapshots.take().await.map_err(|error| {
            let words = error.to_string();
            match error {
                TakeError::NoMethod | TakeError::Witness => Status::failed_precondition(words),
                TakeError::Busy | TakeError::NotTaken(_) => Status::unavailable(words),
                TakeError::Store(_) | TakeError::Gone(_) => Status::internal(words),
            }
        })?;
        Ok(Response::new(TakeSnapshotResponse {
            snapshot: Some(kept(&taken)),
        }))
    }

    async fn kept_snapshots(
        &self,
        request: Request<KeptSnapshotsRequest>,
    ) -> Result<Response<KeptSnapshotsResponse>, Status> {
        Caller::of(&request)?;
        let snapshots = self.snapshots.list();
        Ok(Response::new(KeptSnapshotsResponse {
            snapshots: snapshots.iter().map(kept).collect(),
        }))
    }

    async fn skip(&self, request: Request<SkipRequest>) -> Result<Response<SkipResponse>, Status> {
        only_operators(&request)?;
        let slot = request.into_inner().slot;
        let status = self.node.status().borrow().clone();
        if status.group.is_none() {
            return Err(no_group());
        }
        check_leads(&status)?;
        let mut found = self.board.found();
        tracing::warn!(slot, "a person wants a request skipped");
        if !self.board.skip(Slot(slot)).await {
            return Err(Status::failed_precondition(format!(
                "no copy fails at slot {slot}: only the request that no copy gets past can be skipped; see \
                 `waiting_on` in the status"
            )));
        }
        let is_it = |it: &&SkippedRequest| it.slot == slot;
        let skipped = found.wait_for(|it| it.skipped.iter().any(|it| is_it(&it)));
        let late = |_| Status::deadline_exceeded("not skipped in time; it may be, later");
        let skipped = timeout(PATIENCE, skipped).await.map_err(late)?;
        let skipped = skipped.map_err(|_| ending())?;
        let skipped = skipped.skipped.iter().find(is_it).cloned();
        let skipped = skipped.ok_or_else(|| Status::internal("it was skipped a moment ago"))?;
        Ok(Response::new(SkipResponse {
            method: skipped.method,
            path: skipped.path,
            may_have_been_acknowledged: skipped.may_have_been_acknowledged,
        }))
    }

    async fn revise(
        &self,
        request: Request<ReviseRequest>,
    ) -> Result<Response<ReviseResponse>, Status> {
        only_operators(&request)?;
        let late = |_| Status::deadline_exceeded("not agreed on in time; it may be, later");
        let revised = timeout(PATIENCE, revise::revise(self, request.into_inner()));
        Ok(Response::new(revised.await.map_err(late)??))
    }

    async fn raise_protocol(
        &self,
        request: Request<RaiseProtocolRequest>,
    ) -> Result<Response<RaiseProtocolResponse>, Status> {
        only_operators(&request)?;
        let version = request.into_inner().version;
        let mut status = self.node.status();
        let in_force = status.borrow_and_update().protocol;
        if in_force >= version {
            return Ok(Response::new(RaiseProtocolResponse { version: in_force }));
        }
        match self.node.upgrade(version).await {
            Some(Ok(())) => {}
            Some(Err(UpgradeRefused::Unsupported { members })) => {
                let node = status.borrow();
                let name = |it: &MemberId| node.find(*it).map(|it| it.name.clone());
                let names: Vec<String> = members.iter().filter_map(name).collect();
                return Err(Status::failed_precondition(format!(
                    "not heard to speak protocol {version}: {}; upgrade the program of those that do \
                     not, and start those that are down",
                    names.join(", ")
                )));
            }
            Some(Err(error)) => return Err(Status::failed_precondition(error.to_string())),
            None => return Err(ending()),
        }
        tracing::info!(protocol = version, "a higher protocol is proposed");
        let raised = timeout(PATIENCE, status.wait_for(|it| it.protocol >= version)).await;
        match raised {
            Ok(Ok(status)) => Ok(Response::new(RaiseProtocolResponse {
                version: status.protocol,
            })),
            Ok(Err(_)) => Err(ending()),
            Err(_) => Err(Status::deadline_exceeded(
                "not agreed on in time; it may be, later",
            )),
        }
    }

    async fn members(
        &self,
        request: Request<MembersRequest>,
    ) -> Result<Response<MembersResponse>, Status> {
        Caller::of(&request)?;
        let membership = self.node.membership().await.ok_or_else(no_group)?;
        let status = self.node.status().borrow().clone();
        let response = members::to_response(&membership, &status, &self.facts.service);
        Ok(Response::new(response))
    }

    async fn change_members(
        &self,
        request: Request<ChangeMembersRequest>,
    ) -> Result<Response<ChangeMembersResponse>, Status> {
        only_operators(&request)?;
        let request = request.into_inner();
        let changes = members::read(&request)?;
        let mut status = self.node.status();
        if status.borrow_and_update().group.is_none() {
            return Err(no_group());
        }
        let expected = Epoch(request.epoch);
        let asked = match self.node.change_members(expected, changes).await {
            Some(Ok(configuration)) => configuration,
            Some(Err(error)) => return Err(members::refused(&error, &status.borrow())),
            None => return Err(ending()),
        };
        tracing::info!(epoch = %asked.epoch, "other members are proposed");
        let entered = status.wait_for(|it| it.epoch >= asked.epoch);
        match timeout(PATIENCE, entered).await {
            Ok(Ok(status)) => match status.configuration.as_deref() {
                Some(chosen) if members::is_same(&asked, chosen) => {
                    let epoch = asked.epoch.0;
                    Ok(Response::new(ChangeMembersResponse { epoch }))
                }
                _ => Err(Status::aborted(
                    "another change was agreed on meanwhile: ask for the members and decide anew",
                )),
            },
            Ok(Err(_)) => Err(Status::unknown(
                "this member is ending; the change may be agreed on: ask for the members",
            )),
            Err(_) => Err(Status::deadline_exceeded(
                "not agreed on in time; it may be, later: ask for the members",
            )),
        }
    }
}

fn kept(snapshot: &Snapshot) -> KeptSnapshot {
    KeptSnapshot {
        slot: snapshot.head.slot.0,
        time_ns: snapshot.head.time.0,
        bytes: snapshot.bytes,
        state_bytes: snapshot.state_bytes,
        standing: match snapshot.standing {
            Standing::Uncompared => "Uncompared",
            Standing::Verified => "Verified",
            Standing::Unverified => "Unverified",
        }
        .to_owned(),
        state_digest: snapshot.state_digest.to_string(),
    }
}

/// Of what a policy says, whichever version it is in force as.
fn policy_digest(policy: &Policy) -> String {
    let content = Policy {
        version: 0,
        classes_version: 0,
        ..policy.clone()
    };
    blake3::hash(&content.encode_to_vec()).to_hex().to_string()
}

fn only_operators<T>(request: &Request<T>) -> Result<(), Status> {
    match Caller::of(request)?.who {
        Who::Operator => Ok(()),
        Who::Member(_) => Err(Status::permission_denied("only operators may ask for that")),
    }
}

fn ending() -> Status {
    Status::unavailable("this member is ending")
}

fn check_leads(status: &NodeStatus) -> Result<(), Status> {
    if status.leader == Some(status.member) {
        return Ok(());
    }
    let leader = status
        .leader
        .map_or_else(|| "nobody".to_owned(), |it| format!("member {it}"));
    Err(Status::failed_precondition(format!(
        "this member does not lead, {leader} does: ask there"
    )))
}

fn no_group() -> Status {
    Status::unavailable(ProposeError::NoGroup.to_string())
}

fn withdrawn(reason: NotTaken) -> Status {
    Status::resource_exhausted(match reason {
        NotTaken::Overloaded => "too much waits for agreement: try again",
        NotTaken::DiskFull => "the log's disk is full",
        NotTaken::TooLarge => "the policy is too large",
        NotTaken::Unreadable => "the only log of the group is damaged and takes no more",
    })
}

/// The whole id in hex.
pub(crate) fn group_hex(group: GroupId) -> String {
    format!("{:032x}", u128::from_be_bytes(group.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policys_digest_is_the_one_that_operators_compute() {
        let policy = Policy {
            version: 7,
            classes_version: 3,
            max_body_bytes: 16 << 20,
            service: "notes".to_owned(),
            ..Policy::default()
        };
        assert_eq!(
            policy_digest(&policy),
            "4f24d7a4f561e9cf23931ae5f9f55844ee29ef839c926045135524fe5529bf07"
        );
    }
}
