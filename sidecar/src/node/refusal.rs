//! Refusals of a hello as they travel: a status with words for people, and a code for the peer.

use synod_paxos::{HelloRefusal, Incarnation, MemberId};
use tonic::{Code, Status};

/// Where the code is found.
const KEY: &str = "synod-refusal";

/// What a listener answers.
pub(super) fn to_status(refusal: &HelloRefusal) -> Status {
    let code = match refusal {
        HelloRefusal::OtherGroup { .. } => "other-group",
        HelloRefusal::Protocol { .. } => "protocol",
        HelloRefusal::UnknownMember { .. } => "unknown-member",
        HelloRefusal::OtherIncarnation { .. } => "other-incarnation",
        HelloRefusal::Forgetful { .. } => "forgetful",
    };
    let mut status = Status::failed_precondition(refusal.to_string());
    let value = code.parse().expect("codes are plain words");
    status.metadata_mut().insert(KEY, value);
    status
}

/// What a dialler makes of it, where the agreement must know; `me` is what was refused.
pub(super) fn from_status(
    status: &Status,
    me: MemberId,
    incarnation: Incarnation,
) -> Option<HelloRefusal> {
    match status.metadata().get(KEY)?.to_str().ok()? {
        "unknown-member" => Some(HelloRefusal::UnknownMember { member: me }),
        "other-incarnation" => Some(HelloRefusal::OtherIncarnation {
            member: me,
            theirs: incarnation,
        }),
        "forgetful" => Some(HelloRefusal::Forgetful { member: me }),
        _ => None,
    }
}

/// The peer will go on refusing until somebody changes something.
pub(super) fn is_refusal(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::FailedPrecondition
            | Code::PermissionDenied
            | Code::InvalidArgument
            | Code::Unauthenticated
    )
}
