//! Refusals of a hello as they travel: a status with words for people, and a code for the peer.

use synod_paxos::{Epoch, Hello, HelloRefusal, Incarnation, MemberId};
use tonic::{Code, Status};

/// Where the code is found.
const KEY: &str = "synod-refusal";

/// In front of the epoch that a member is not in any more.
const REMOVED: &str = "removed-";

/// Of a hello that was for another member.
const ANOTHER: &str = "another-member";

/// What a listener answers to whom has dialled another member.
pub(super) fn another(ours: &Hello) -> Status {
    refused(who(ours), ANOTHER)
}

/// The answer is [`another`]'s.
pub(super) fn is_another(status: &Status) -> bool {
    status.metadata().get(KEY).is_some_and(|it| it == ANOTHER)
}

/// Who says hello, in words.
pub(super) fn who(hello: &Hello) -> String {
    format!("member {}, {:?}", hello.member, hello.name)
}

/// What a listener answers.
pub(super) fn to_status(refusal: &HelloRefusal) -> Status {
    let removed;
    let code = match refusal {
        HelloRefusal::OtherGroup { .. } => "other-group",
        HelloRefusal::Protocol { .. } => "protocol",
        HelloRefusal::UnknownMember { .. } => "unknown-member",
        HelloRefusal::OtherIncarnation { .. } => "other-incarnation",
        HelloRefusal::Removed { epoch, .. } => {
            removed = format!("{REMOVED}{epoch}");
            &removed
        }
        HelloRefusal::Forgetful { .. } => "forgetful",
    };
    refused(refusal.to_string(), code)
}

fn refused(words: String, code: &str) -> Status {
    let mut status = Status::failed_precondition(words);
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
        other => {
            let epoch = other.strip_prefix(REMOVED)?.parse().ok()?;
            Some(HelloRefusal::Removed {
                member: me,
                epoch: Epoch(epoch),
            })
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_arrives_as_it_was_meant() {
        let (member, theirs) = (MemberId(3), Incarnation(7));
        for refusal in [
            HelloRefusal::UnknownMember { member },
            HelloRefusal::OtherIncarnation { member, theirs },
            HelloRefusal::Forgetful { member },
            HelloRefusal::Removed {
                member,
                epoch: Epoch(u64::MAX),
            },
        ] {
            let status = to_status(&refusal);
            assert_eq!(from_status(&status, member, theirs), Some(refusal));
        }
    }
}
