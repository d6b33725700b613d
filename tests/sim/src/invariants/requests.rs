//! M2, M3, M4: which requests for a change may be taken, as far as can be told without knowing how the
//! core finds out; and what is refused has no effect.
//!
//! Source: Ongaro's note on single-server changes (raft-dev, 2015): changes by leaders that overlook
//! each other, which compare-and-set and one change at a time rule out.

use synod_paxos::{Configuration, Epoch, MemberId, ReconfigureRefused, Role, Slot};

use super::Violation;
use super::epochs::{Epochs, new_voters, quorums, voters};

/// What whoever was asked looked like before.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) leads: bool,
    pub(crate) last: Slot,
    /// Its log ends with the stop-sign of its epoch.
    pub(crate) ends_epoch: bool,
    pub(crate) configuration: Configuration,
    /// Those whose machines are gone, which it does not hear.
    pub(crate) lost: Vec<MemberId>,
}

/// The request was taken. `reached`: the epoch of the last entry that is chosen.
pub(crate) fn taken(
    member: usize,
    seen: &Seen,
    expected: Epoch,
    next: &Configuration,
    epochs: &Epochs,
    reached: Option<Epoch>,
) -> Result<(), Violation> {
    let current = &seen.configuration;
    let role_in = |configuration: &Configuration, it: MemberId| {
        let member = configuration.member(it);
        member.map(|it| it.role)
    };
    let is_new_witness = |it: &MemberId| {
        role_in(next, *it) == Some(Role::Witness) && role_in(current, *it).is_none()
    };
    let may_vote =
        |it: &MemberId| role_in(current, *it) == Some(Role::Observer) || is_new_witness(it);
    let turned = |it: &synod_paxos::Member| {
        let before = role_in(current, it.id);
        before.is_some_and(|before| (before == Role::Witness) != (it.role == Role::Witness))
    };
    let new = new_voters(current, next);
    let is_first = current.epoch == Epoch(1);
    let same = |it: &synod_paxos::Member| {
        let old = current.member(it.id);
        old.is_some_and(|old| old.incarnation == it.incarnation)
    };
    let again = |it: &&synod_paxos::Member| !same(it) && epochs.used(it);
    let mut there = voters(next);
    there.retain(|it| !seen.lost.contains(it) && !is_new_witness(it));
    let (phase1, phase2) = quorums(next);
    let few = there.len() < phase1.max(phase2);
    let wrong = [
        (few, "M2", "too few of its voters are there"),
        (!seen.leads, "M2", "it does not lead"),
        (
            expected != current.epoch,
            "M3",
            "it was computed from another epoch",
        ),
        (
            next.epoch != current.epoch.next(),
            "M3",
            "its epoch is not the next",
        ),
        (seen.ends_epoch, "M2", "another is under way"),
        (
            !is_first && reached < Some(current.epoch),
            "M2",
            "the last is not over",
        ),
        (new.len() > 1, "M2", "two get a vote at once"),
        (
            !new.iter().all(may_vote),
            "M2",
            "who gets a vote was no observer",
        ),
        (
            next.members.iter().any(turned),
            "M2",
            "a copy becomes a witness, or a witness a copy",
        ),
        (
            next.members.iter().any(|it| again(&it)),
            "M4",
            "a member is used again",
        ),
        (next.check().is_err(), "M2", "it is no configuration"),
    ];
    match wrong.into_iter().find(|(wrong, ..)| *wrong) {
        None => Ok(()),
        Some((_, rule, why)) => {
            let text = format!(
                "member {} takes a change of {current:?}, asked for in epoch {expected}, to {next:?}, \
                 though {why}",
                member + 1
            );
            Err(Violation::new(rule, text))
        }
    }
}

/// The request was refused, and its log ends at `last` now.
pub(crate) fn refused(
    member: usize,
    seen: &Seen,
    last: Slot,
    refusal: &ReconfigureRefused,
) -> Result<(), Violation> {
    if last == seen.last {
        return Ok(());
    }
    let text = format!(
        "member {} refuses a change ({refusal}) and its log ends at {last}, not {}",
        member + 1,
        seen.last
    );
    Err(Violation::new("M3", text))
}
