//! Whose turn it is to make a snapshot: the leader asks all members, and tells one.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use synod_paxos::{Epoch, MemberId, Role, Slot};
use synod_proto::v1::snapshot_turns_client::SnapshotTurnsClient;
use synod_proto::v1::snapshot_turns_server::{SnapshotTurns, SnapshotTurnsServer};
use synod_proto::v1::{
    SnapshotReport, SnapshotReportRequest, TakeSnapshotTurnRequest, TakeSnapshotTurnResponse,
};
use tokio::time::{Instant, timeout};
use tonic::{Request, Response, Status};

use super::{GetError, Handle, SILENCE, copy_of};
use crate::identity::{Caller, same_group};
use crate::ingress::PeerChannels;
use crate::node::{Channels, NodeStatus};
use crate::snapshot::Snapshot;
use crate::snapshot::policy::{Due, Report, Turn, held, next_turn};
use crate::snapshot::transfer::Fetcher;

/// Longest wait for another member's report.
const PATIENCE: Duration = Duration::from_secs(1);
/// What a leader has found out for others is asked for again after this time.
const FRESH: Duration = Duration::from_secs(5);

/// Answers the leader.
pub struct Turns {
    handle: Handle,
    channels: Arc<Channels>,
}

/// What a leader has found out about the snapshots of the copies: from this epoch's, up to where enough have
/// them (rule W5), and when.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    epoch: Epoch,
    slot: Slot,
    at: Instant,
}

/// If this member leads: asks the others how far they are, and tells whose turn it is, if somebody may have
/// one. A member that cannot be asked is left out: it has no turn, and holds nobody up.
pub(super) async fn give(handle: &Handle, channels: &Channels, due: Due, may_save: bool) {
    let node = handle.node.status().borrow().clone();
    let (Some(group), true) = (node.group, node.leader == Some(node.member)) else {
        return;
    };
    let at = Instant::now();
    let request = SnapshotReportRequest {
        group: Bytes::copy_from_slice(&group.0),
    };
    let members = node.configuration.iter().flat_map(|it| &it.members);
    let others = members.filter(|it| it.id != node.member);
    let asking = others.filter_map(|it| {
        let (member, witness) = (it.id, it.role == Role::Witness);
        let mut client = SnapshotTurnsClient::new(channels.channel(member)?);
        let request = request.clone();
        Some(async move {
            let asked = timeout(PATIENCE, client.report(request)).await;
            Some(from_proto(member, witness, asked.ok()?.ok()?.into_inner()))
        })
    });
    let mut reports: Vec<Report> = join_all(asking).await.into_iter().flatten().collect();
    // A witness has nothing to save, and leads only until a copy does.
    reports.extend((!handle.witness).then(|| handle.report()));
    handle.note_held(node.configuration.as_deref().map(|configuration| Held {
        epoch: configuration.epoch,
        slot: held(configuration, |member| {
            let found = reports.iter().find(|it| it.member == member);
            found.map(|it| it.newest_usable).unwrap_or_default()
        }),
        at,
    }));
    let Some(turn) = next_turn(&reports, due).filter(|_| may_save) else {
        return;
    };
    match turn {
        Turn::Make(member) if member == node.member => drop(begin(handle, channels, None)),
        Turn::Copy { to, from } if to == node.member => drop(begin(handle, channels, Some(from))),
        Turn::Make(member) => tell(channels, &request.group, member, None).await,
        Turn::Copy { to, from } => tell(channels, &request.group, to, Some(from)).await,
    }
}

async fn tell(channels: &Channels, group: &Bytes, member: MemberId, from: Option<MemberId>) {
    let Some(channel) = channels.channel(member) else {
        return;
    };
    let request = TakeSnapshotTurnRequest {
        group: group.clone(),
        copy_from: from.map(|it| it.0).unwrap_or_default(),
    };
    let mut client = SnapshotTurnsClient::new(channel);
    let told = timeout(PATIENCE, client.take_turn(request)).await;
    if let Ok(Err(status)) = told {
        tracing::debug!(peer = %member, error = status.message(), "a turn was not taken");
    }
}

/// Begins this member's turn, which goes on by itself.
fn begin(handle: &Handle, channels: &Channels, from: Option<MemberId>) -> Result<(), GetError> {
    if handle.witness {
        return Err(GetError::Witness);
    }
    let handle = handle.clone();
    let Some(from) = from else {
        tokio::spawn(async move {
            if let Err(error) = handle.take().await {
                tracing::warn!(%error, "this member's turn to make a snapshot: none was made");
            }
        });
        return Ok(());
    };
    let one = handle.turn().ok_or(GetError::Busy)?;
    let connector = channels.connector(from).ok_or(GetError::NoSource)?;
    let group = handle.group().ok_or(GetError::NoSource)?;
    tokio::spawn(async move {
        let _one = one;
        let fetcher = Fetcher::new(handle.store.clone(), group, SILENCE);
        let copied = async {
            let offers = fetcher.list(&connector).await?;
            let newest: Option<&Snapshot> = offers.last();
            let newest = newest.ok_or(GetError::NoSource)?;
            copy_of(&fetcher, &connector, from, newest).await
        };
        if let Err(error) = copied.await {
            tracing::warn!(peer = %from, %error, "another member's snapshot was not copied");
        }
    });
    Ok(())
}

fn from_proto(member: MemberId, witness: bool, it: SnapshotReport) -> Report {
    Report {
        member,
        witness,
        leads: false,
        healthy: it.healthy,
        applied: Slot(it.applied),
        newest: Slot(it.newest),
        newest_usable: Slot(it.newest_usable),
        log_bytes: it.log_bytes,
        busy: it.busy,
        lacks: Slot(it.lacks),
    }
}

// === impl Handle ===

impl Handle {
    fn note_held(&self, held: Option<Held>) {
        *self.held.lock().unwrap_or_else(PoisonError::into_inner) = held;
    }

    /// What was found out just now, if this member leads.
    fn held_while_leading(&self) -> Option<Held> {
        let held = *self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let node = self.node.status().borrow().clone();
        let leads = node.leader == Some(node.member);
        held.filter(|it| leads && it.epoch == node.epoch && it.at.elapsed() < FRESH)
    }
}

// === impl Turns ===

impl Turns {
    /// For the port of the peers: members only.
    pub fn service(handle: Handle, channels: Arc<Channels>) -> SnapshotTurnsServer<Self> {
        SnapshotTurnsServer::new(Self { handle, channels })
    }

    /// The caller is a member of this group: its name.
    fn check<T>(&self, request: &Request<T>, group: &[u8]) -> Result<(String, NodeStatus), Status> {
        let name = Caller::member(request, "only members take turns")?.to_owned();
        let node = self.handle.node.status().borrow().clone();
        same_group(node.group, group)?;
        Ok((name, node))
    }
}

#[tonic::async_trait]
impl SnapshotTurns for Turns {
    async fn report(
        &self,
        request: Request<SnapshotReportRequest>,
    ) -> Result<Response<SnapshotReport>, Status> {
        self.check(&request, &request.get_ref().group)?;
        let it = self.handle.report();
        let held = self.handle.held_while_leading();
        Ok(Response::new(SnapshotReport {
            healthy: it.healthy,
            applied: it.applied.0,
            newest: it.newest.0,
            newest_usable: it.newest_usable.0,
            log_bytes: it.log_bytes,
            busy: it.busy,
            lacks: it.lacks.0,
            held: held.map(|it| it.slot.0).unwrap_or_default(),
            held_epoch: held.map(|it| it.epoch.0).unwrap_or_default(),
        }))
    }

    async fn take_turn(
        &self,
        request: Request<TakeSnapshotTurnRequest>,
    ) -> Result<Response<TakeSnapshotTurnResponse>, Status> {
        let (name, node) = self.check(&request, &request.get_ref().group)?;
        let leader = node.leader.and_then(|it| node.find(it));
        if leader.is_none_or(|it| it.name != name) {
            return Err(Status::failed_precondition(format!(
                "{name} does not lead, as far as is known here"
            )));
        }
        let from = request.into_inner().copy_from;
        let from = (from != 0).then_some(MemberId(from));
        let begun = begin(&self.handle, &self.channels, from);
        begun.map_err(|error| Status::unavailable(error.to_string()))?;
        Ok(Response::new(TakeSnapshotTurnResponse {}))
    }
}
