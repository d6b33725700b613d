//! Whether clients are served. Comes in: the members as they are. Goes out: the condition, with its reason.
//! Pure.

use synod_api::{GroupMemberStatus, MemberState};

use super::roster::{Formed, Roster};
use super::status::{Matter, Report, matter, not_formed, undecided};
use super::tally::Tally;
use crate::conditions::{self, Status};

/// Whether clients are served, as far as it can be seen from here.
pub(super) fn available(
    report: &Report<'_>,
    roster: &Roster,
    members: &Tally<'_>,
) -> (Status, Matter) {
    let running = members.epoch().is_some();
    if roster.formed == Formed::No || (!running && members.hidden().is_empty()) {
        let why = not_formed(report, roster);
        return (Status::False, why);
    }
    let (alive, all) = members.votes();
    let quorum = all / 2 + 1;
    if alive < quorum {
        let hidden = members.hidden();
        let gone = members.gone();
        if alive + hidden.len() as u32 >= quorum {
            let message = format!(
                "{alive} of {all} votes are seen; {} may be well, but their clusters do not answer the hub",
                hidden.join(", ")
            );
            return (
                Status::Unknown,
                matter(&conditions::CLUSTER_UNREACHABLE, message),
            );
        }
        let message = format!(
            "{alive} of {all} votes are there, {quorum} are needed; missing: {}",
            gone.join(", ")
        );
        return (Status::False, matter(&conditions::NO_QUORUM, message));
    }
    if let Some(it) = without_copies(members) {
        return it;
    }
    if let Some(it) = undecided(report) {
        return (Status::False, it);
    }
    match &members.leader {
        Some(leader) => (
            Status::True,
            matter(
                &conditions::QUORUM_COMMITS,
                format!("{leader} leads, {alive} of {all} votes are there"),
            ),
        ),
        None => (
            Status::False,
            matter(
                &conditions::NO_LEADER,
                "the members that answer follow no common leader",
            ),
        ),
    }
}

/// With witnesses a quorum may be there and agree on requests, and no copy that executes them.
fn without_copies(members: &Tally<'_>) -> Option<(Status, Matter)> {
    let copies = || members.copies();
    let serves = |it: &GroupMemberStatus| it.state == MemberState::CaughtUp;
    let some = copies().any(|(_, it)| Tally::is_alive(it) && it.is_some_and(serves));
    if some || copies().count() == members.all.len() {
        return None;
    }
    let names: Vec<_> = copies().map(|(it, _)| it.member.name.as_str()).collect();
    let names = names.join(", ");
    if copies().any(|(_, it)| it.is_none()) {
        let message = format!(
            "no member that runs the app is seen and caught up; of {names} some may be well, but their \
             clusters do not answer the hub"
        );
        let reason = &conditions::CLUSTER_UNREACHABLE;
        return Some((Status::Unknown, matter(reason, message)));
    }
    let message = format!(
        "a quorum is there, and no member that runs the app is caught up: {names}; witnesses run none"
    );
    Some((Status::False, matter(&conditions::NO_COPY, message)))
}
