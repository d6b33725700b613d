//! A2: every app is sent the same bytes with the same time and random bits, which are those of the log; and
//! X3: nothing that was admitted too late.
//!
//! Source: Schneider, *Implementing Fault-Tolerant Services Using the State Machine Approach* (1990),
//! section 2: nothing but the requests, the same ones on every copy, makes what a state machine puts out.

use prost::Message as _;
use synod_proto::v1::Request;
use synod_sidecar::apply::Execute;

use super::Violation;
use super::chosen::Chosen;

/// A member sends this to its app.
pub(crate) fn sends(member: usize, execute: &Execute, chosen: &Chosen) -> Result<(), Violation> {
    let is_chosen = chosen.value(execute.slot).is_some_and(|entry| {
        let request = Request::decode(entry.command.payload.clone());
        (execute.time, execute.seed) == (entry.time, entry.seed)
            && request.is_ok_and(|it| it == *execute.request)
    });
    let is_late = execute.time.0 > execute.request.expires_ns;
    if is_chosen && !is_late {
        return Ok(());
    }
    if is_late {
        let text = format!(
            "member {} sends its app what is at slot {}, and had expired there",
            member + 1,
            execute.slot
        );
        return Err(Violation::new("X3", text));
    }
    let text = format!(
        "member {} sends its app something else at slot {} than was chosen",
        member + 1,
        execute.slot
    );
    Err(Violation::new("A2", text))
}
