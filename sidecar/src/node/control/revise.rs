//! `Revise`: another revision of the app takes over (rule V1).

use bytes::Bytes;
use prost::Message as _;
use synod_paxos::CommandKind;
use synod_proto::v1::{ReviseRequest, ReviseResponse, Revision};
use tonic::Status;

use super::{Control, no_group};

/// From this protocol on members know what such an entry means.
const SINCE: u32 = 2;

pub(super) async fn revise(
    control: &Control,
    request: ReviseRequest,
) -> Result<ReviseResponse, Status> {
    let description = control.node.describe().await.ok_or_else(no_group)?;
    let refused = |words: String| Err(Status::failed_precondition(words));
    let protocol = description.status.protocol;
    if protocol < SINCE {
        return refused(format!(
            "revisions of the app need protocol {SINCE}, and the group speaks {protocol}: run all its \
             members on this version first"
        ));
    }
    if !control.snapshots.has_method() {
        return refused(
            "the next revision begins with the state that the last has come to, and the service has no \
             method to save it: give it one (state.snapshot.type)"
                .to_owned(),
        );
    }
    let epoch = control.node.status().borrow().epoch.0;
    if request.epoch != 0 && request.epoch != epoch {
        return refused(format!(
            "the group is in epoch {epoch}, not {}",
            request.epoch
        ));
    }
    let known = control.apply.status().borrow().revision;
    // A copy that lags may know an older one; one that knows a newer one decides it.
    if known.in_force > request.expected_revision {
        return Err(conflict(control));
    }
    if known.in_force == request.expected_revision && known.is_unfinished != request.takes_back {
        return refused(words(known.in_force, known.is_unfinished));
    }
    let revision = Revision {
        number: request.expected_revision + 1,
        takes_back: request.takes_back,
    };
    tracing::info!(
        revision = revision.number,
        takes_back = revision.takes_back,
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
    Ok(ReviseResponse {
        revision: revision.number,
        barrier: if revision.takes_back {
            known.barrier.0
        } else {
            slot.0
        },
    })
}

fn conflict(control: &Control) -> Status {
    let known = control.apply.status().borrow().revision;
    Status::aborted(format!(
        "revision {} is in force{}: look at it and decide anew",
        known.in_force,
        if known.is_unfinished {
            ", and not all copies run it yet"
        } else {
            ""
        }
    ))
}

fn words(in_force: u64, is_unfinished: bool) -> String {
    if is_unfinished {
        format!("not all copies run revision {in_force} yet: wait for that, or take it back")
    } else {
        format!(
            "revision {in_force} has taken over: it cannot be taken back, only followed by another"
        )
    }
}
