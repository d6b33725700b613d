//! `Revise`: another revision of the app takes over (rule V1).

use bytes::Bytes;
use prost::Message as _;
use synod_paxos::{CommandKind, MemberId, Role};
use synod_proto::v1::{ReviseRequest, ReviseResponse, Revision, RevisionDone, RevisionStrategy};
use tonic::Status;

use super::{Control, no_group};
use crate::apply::RevisionStatus;
use crate::node::NodeStatus;

/// From this protocol on members know what such an entry means.
const SINCE: u32 = 2;
/// And what one says that runs along.
const ROLLING_SINCE: u32 = 3;

pub(super) async fn revise(
    control: &Control,
    request: ReviseRequest,
) -> Result<ReviseResponse, Status> {
    let strategy = RevisionStrategy::try_from(request.strategy)
        .map_err(|_| Status::invalid_argument("strategy is none that this version knows"))?;
    let description = control.node.describe().await.ok_or_else(no_group)?;
    let protocol = description.status.protocol;
    check_protocol(protocol, SINCE, "revisions of the app")?;
    if !control.snapshots.has_method() {
        return refused(
            "the next revision begins with the state that the last has come to, and the service has no \
             method to save it: give it one (state.snapshot.type)"
                .to_owned(),
        );
    }
    let node = control.node.status().borrow().clone();
    let epoch = node.epoch.0;
    if request.epoch != 0 && request.epoch != epoch {
        return refused(format!(
            "the group is in epoch {epoch}, not {}",
            request.epoch
        ));
    }
    let known = control.apply.status().borrow().revision;
    // A copy that lags may know an older one; one that knows a newer one decides it.
    if known.newest > request.expected_revision {
        return Err(conflict(control));
    }
    let is_known = known.newest == request.expected_revision;
    if request.finishes {
        if request.takes_back || !is_known {
            return Err(conflict(control));
        }
        return finish(control, &known).await;
    }
    if is_known && known.is_unfinished != request.takes_back {
        return refused(words(&known));
    }
    let rolls = !request.takes_back
        && strategy == RevisionStrategy::Rolling
        && copies(&node).nth(1).is_some();
    if rolls {
        check_protocol(protocol, ROLLING_SINCE, "revisions that run along")?;
    }
    let revision = Revision {
        number: request.expected_revision + 1,
        takes_back: request.takes_back,
        strategy: if rolls {
            RevisionStrategy::Rolling.into()
        } else {
            RevisionStrategy::Switch.into()
        },
        saver: if rolls { saver(control, &node).0 } else { 0 },
    };
    tracing::info!(
        revision = revision.number,
        takes_back = revision.takes_back,
        rolls,
        "another revision of the app is proposed"
    );
    let payload = Bytes::from(revision.encode_to_vec());
    let (slot, is_done) = control.decide(CommandKind::REVISION, payload).await?;
    if !is_done {
        return Err(conflict(control));
    }
    let mut status = control.apply.status();
    let admitted = status.wait_for(|it| it.admitted >= slot).await;
    let known = admitted.map_err(|_| super::ending())?.revision;
    let number = if known.newest < revision.number {
        // Nothing has taken the place of what was taken back.
        known.in_force
    } else {
        revision.number
    };
    Ok(ReviseResponse {
        revision: number,
        barrier: if revision.takes_back {
            known.barrier.0
        } else {
            slot.0
        },
        strategy: revision.strategy,
    })
}

/// A person's word: what runs along takes over.
async fn finish(control: &Control, known: &RevisionStatus) -> Result<ReviseResponse, Status> {
    let Some((number, barrier)) = known.silent else {
        return refused("no revision of the app runs along: nothing is to be finished".to_owned());
    };
    tracing::warn!(revision = number, "a person lets it take over");
    let done = RevisionDone {
        number,
        in_spite: true,
    };
    let payload = Bytes::from(done.encode_to_vec());
    let proposed = control.node.propose(CommandKind::REVISION_DONE, payload);
    proposed.map_err(|error| Status::unavailable(error.to_string()))?;
    let mut status = control.apply.status();
    let over = status.wait_for(|it| it.revision.silent.is_none_or(|it| it.0 != number));
    let known = over.await.map_err(|_| super::ending())?.revision;
    if known.in_force < number {
        return Err(conflict(control));
    }
    Ok(ReviseResponse {
        revision: number,
        barrier: barrier.0,
        strategy: RevisionStrategy::Rolling.into(),
    })
}

fn check_protocol(protocol: u32, since: u32, what: &str) -> Result<(), Status> {
    if protocol >= since {
        return Ok(());
    }
    refused(format!(
        "{what} need protocol {since}, and the group speaks {protocol}: run all its members on this \
         version first"
    ))
}

fn copies(node: &NodeStatus) -> impl Iterator<Item = MemberId> + '_ {
    let members = node.configuration.iter().flat_map(|it| &it.members);
    members
        .filter(|it| it.role != Role::Witness)
        .map(|it| it.id)
}

/// Whose copy saves the state of the barrier: a follower's that serves, if there is one (rule N1).
fn saver(control: &Control, node: &NodeStatus) -> MemberId {
    let serves = |it: &MemberId| {
        if *it == node.member {
            control.apply.status().borrow().serving
        } else {
            node.serving.contains(it)
        }
    };
    let best =
        copies(node).max_by_key(|it| (serves(it), node.leader != Some(*it), u32::MAX - it.0));
    best.unwrap_or(node.member)
}

fn refused<T>(words: String) -> Result<T, Status> {
    Err(Status::failed_precondition(words))
}

fn conflict(control: &Control) -> Status {
    let known = control.apply.status().borrow().revision;
    Status::aborted(format!(
        "revision {} is the newest{}: look at it and decide anew",
        known.newest,
        if known.is_unfinished {
            ", and has not taken over yet"
        } else {
            ""
        }
    ))
}

fn words(known: &RevisionStatus) -> String {
    let newest = known.newest;
    if known.is_unfinished {
        format!("not all copies run revision {newest} yet: wait for that, or take it back")
    } else if known.in_force == newest {
        format!(
            "revision {newest} has taken over: it cannot be taken back, only followed by another"
        )
    } else {
        format!("revision {newest} was taken back already")
    }
}
