//! On which member a revision of the app that runs along silently is started next (rule V1). Comes in: what
//! the clusters report. Goes out: one member, or what is waited for. Pure.
//!
//! It has pods before it is in force, one member after another, which are named here: only here it is known
//! how the copies of all clusters are. Whether that one can go now its own operator decides, by what it sees
//! then.

use synod_api::{GroupMemberStatus, MemberRole, MemberState, RevisionState};

use super::members::Member;
use super::revisions::{Course, Input};
use super::tally::Tally;
use super::view::{self, View};
use crate::conditions;

/// What is wanted runs along silently: on which member it is started next. One at a time, the leader last,
/// and never on the last copy that answers. Half of the copies are enough for it to take over, by the
/// leader's own rule, and the others follow then.
pub(super) fn along(
    mut course: Course,
    input: &Input<'_>,
    state: &RevisionState,
    silent: u64,
) -> Course {
    let Input { roster, views, .. } = *input;
    course.silent = Some(silent);
    if !state.disagreement.is_empty() {
        let in_force = state.in_force;
        course.disagreement = Some(format!(
            "revision {silent} of the app does not take over from {in_force}: {}; put the template back",
            state.disagreement
        ));
        return course;
    }
    let tally = Tally::new(roster, views);
    let next = turn(&tally, state, silent, views, &roster.uid);
    let caught_up = tally.names(|it| it.running == Some(silent) && is_caught_up(it));
    let mut words = format!("revision {silent} of the app runs along silently");
    for (what, names) in [
        ("caught up: ", caught_up),
        (
            "next, or starting: ",
            next.iter().map(|it| it.member.name.as_str()).collect(),
        ),
    ] {
        if !names.is_empty() {
            words = format!("{words}; {what}{}", names.join(", "));
        }
    }
    course.next = next.map(|it| (it.cluster.clone(), it.member.name.clone()));
    course.under_way = Some((&conditions::REVISION_RUNS_ALONG, words));
    course
}

/// Whose pod is to be of the silent revision next, or is about to be.
fn turn<'a>(
    tally: &Tally<'a>,
    state: &RevisionState,
    silent: u64,
    views: &[View],
    uid: &str,
) -> Option<&'a Member> {
    let all = tally.all.iter();
    let copies = all.filter(|(it, _)| it.member.role != MemberRole::Witness);
    let copies: Vec<_> = copies.copied().collect();
    let heard = || copies.iter().filter_map(|(it, said)| Some((*it, (*said)?)));
    let told = |it: &Member| {
        let group = view::find(views, &it.cluster).and_then(|view| view.own(uid));
        let along = group.and_then(|it| it.spec.along.as_ref());
        along.is_some_and(|along| along.revision == silent && along.member == it.member.name)
    };
    let runs_along = |it: &GroupMemberStatus| it.made_of == Some(silent);
    // Its pod is away, or starts.
    let under_way = |(it, said): &(&Member, &GroupMemberStatus)| {
        let starts = runs_along(said) && !(said.running == Some(silent) && is_caught_up(said));
        starts || (told(it) && said.made_of.is_none())
    };
    if let Some((it, _)) = heard().find(under_way) {
        return Some(it);
    }
    if 2 * heard().filter(|(_, it)| runs_along(it)).count() >= copies.len() {
        return None;
    }
    let answers = |it: &GroupMemberStatus| {
        is_caught_up(it) && it.running.is_some_and(|running| running != silent)
    };
    if heard().filter(|(_, it)| answers(it)).count() < 2 {
        return None;
    }
    // Where another is not well, its own operator sees to that first.
    let is_calm = |cluster: &str| {
        let mut there = copies.iter().filter(|(it, _)| it.cluster == cluster);
        there.all(|(_, said)| said.is_some_and(is_caught_up))
    };
    let able = heard()
        .filter(|(it, said)| answers(said) && said.may == Some(silent) && is_calm(&it.cluster));
    let best = able.min_by_key(|(it, _)| {
        let name = it.member.name.as_str();
        (name == state.leader, !told(it), name)
    });
    best.map(|(it, _)| it)
}

pub(super) fn is_caught_up(it: &GroupMemberStatus) -> bool {
    it.state == MemberState::CaughtUp && it.ready
}

#[cfg(test)]
#[path = "along_tests.rs"]
mod tests;
