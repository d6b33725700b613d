//! I7: nothing that depends on an unsynced record leaves the member; a leader's own new entries
//! are the one exception.
//!
//! Source: Lamport, *Paxos Made Simple* (2001), section 2.5: stable storage before the answer; the
//! bug classes "ack before sync" (etcd 14370) and "answer before commit" (Redpanda 3036).

use synod_paxos::{Ballot, Hello, Message, Paxos, Slot, Standing};

use super::Violation;
use crate::disk::Summary;

/// This message leaves a member whose disk is synced up to `disk`.
pub(crate) fn leaves(member: usize, message: &Message, disk: Summary) -> Result<(), Violation> {
    let fine = match message {
        // What it says of its log is not a vote: it only tells which entries need not be sent.
        Message::Prepare { ballot, .. } => disk.promised >= *ballot,
        Message::Promise {
            ballot,
            accepted,
            last,
            ..
        } => disk.promised >= *ballot && holds(disk, *accepted, *last),
        // A vote that a later adoption has overtaken tells nothing false.
        Message::Accepted { ballot, slot } => holds(disk, *ballot, *slot),
        Message::Heartbeat(beat) => disk.promised >= beat.ballot,
        _ => true,
    };
    if fine {
        return Ok(());
    }
    Err(Violation::new(
        "I7",
        format!(
            "member {} sends {message:?} with only {disk:?} synced",
            member + 1
        ),
    ))
}

/// A proposer's own promise counts in its quorum only once it is synced: with a ballot that a crash
/// makes it forget it would propose again, and otherwise.
pub(crate) fn leads(member: usize, paxos: &Paxos, disk: Summary) -> Result<(), Violation> {
    if paxos.standing() != Standing::Leader || disk.promised >= paxos.promised() {
        return Ok(());
    }
    Err(Violation::new(
        "I7",
        format!(
            "member {} leads in {} with only {disk:?} synced",
            member + 1,
            paxos.promised()
        ),
    ))
}

/// What the first message of a connection says is synced.
pub(crate) fn hello(member: usize, hello: &Hello, disk: Summary) -> Result<(), Violation> {
    let kept = disk.kept.max((disk.accepted, disk.last));
    if disk.promised >= hello.promised && kept >= (hello.accepted, hello.last) {
        return Ok(());
    }
    Err(Violation::new(
        "I7",
        format!(
            "member {} says {hello:?} with only {disk:?} synced",
            member + 1
        ),
    ))
}

fn holds(disk: Summary, accepted: Ballot, last: Slot) -> bool {
    (disk.accepted, disk.last) >= (accepted, last)
}
