//! Revisions of the app in one cluster (rule V1). Comes in: which revisions there are, as the hub wrote
//! them, and what members say. Goes out: of which one pods are made now, and what the leader is asked
//! for. Every part of it may be done again: the leader refuses a revision that does not follow the newest,
//! and what a pod is of stands in the pod.
//!
//! While one runs along silently pods are made of the one in force, except for the one member whose turn
//! it is, and only as long as all others here are well: whoever comes back by itself comes back as it was.

use std::collections::BTreeSet;

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use synod_api::{
    GroupRevision, MemberRole, MemberState, ReplicaGroup, ReplicaGroupSpec, Revise, RevisionState,
    UpdateStrategy,
};
use synod_proto::v1::{ReviseRequest, ReviseResponse, RevisionStrategy, StatusResponse};

use super::disruptions;
use super::members::Asker;
use super::observe::Observed;
use super::pods::PodView;
use super::reconcile::Work;
use super::status::Report;
use crate::conditions::shorten;

/// In the facts of a group: the revision before the one in force that a member must come through first.
pub(super) const OLDER_FACT: &str = "olderRevision";
/// In the facts of a group: the revision that a member must come through first and that is not kept.
pub(super) const GONE_FACT: &str = "goneRevision";
/// A new pod gets the state that its app begins with from another member, if any has it, in less.
const PATIENCE: SignedDuration = SignedDuration::from_secs(120);
/// An event.
const BEGUN: &str = "RevisionBegun";
/// Longest reason why there is no other revision, in bytes.
const WORDS: usize = 1_000;
/// A copy that is not further behind has caught up.
const NEAR_SLOTS: u64 = 1_024;

/// The group with the revision in it that pods are made of now: the one in force as soon as any member
/// here knows of it, whether or not the hub does; an earlier one that a member must come through; or the
/// one that runs along silently, for the member whose turn it is.
pub(super) fn effective(group: &ReplicaGroup) -> ReplicaGroup {
    let spec = &group.spec;
    let status = group.status.as_ref();
    let older = status.and_then(|it| it.facts.get(OLDER_FACT)?.parse().ok());
    let members = status.into_iter().flat_map(|it| &it.members);
    let newest = members.map(|it| it.revision).filter(|it| knows(spec, *it));
    let newest = newest.max().unwrap_or_default().max(spec.revision);
    let along = along(group).and_then(|_| silent_of(group));
    let number = older.filter(|it| knows(spec, *it)).or(along);
    with(group, number.unwrap_or(newest)).unwrap_or_else(|| group.clone())
}

/// The revision that runs along silently, as the hub says, unless a member here knows that it is over.
pub(super) fn silent_of(group: &ReplicaGroup) -> Option<u64> {
    let number = group.spec.along.as_ref()?.revision;
    let mut members = group.status.iter().flat_map(|it| &it.members);
    let is_over = members.any(|it| it.revision >= number);
    (!is_over && knows(&group.spec, number)).then_some(number)
}

/// The member for which pods are made of that one now, if it has none of it yet.
pub(super) fn along(group: &ReplicaGroup) -> Option<&str> {
    let number = silent_of(group)?;
    let name = group.spec.along.as_ref()?.member.as_str();
    let members = || group.status.iter().flat_map(|it| &it.members);
    let well = |state| state == MemberState::CaughtUp;
    let own = members().find(|it| it.name == name)?;
    let is_next = own.made_of != Some(number) && (own.made_of.is_none() || well(own.state));
    let mut others = members().filter(|it| it.name != name);
    (is_next && others.all(|it| well(it.state))).then_some(name)
}

/// How many copies here answer clients, as they said last.
pub(super) fn answering(group: &ReplicaGroup) -> usize {
    let members = group.status.iter().flat_map(|it| &it.members);
    let answers = members.filter(|it| {
        it.state == MemberState::CaughtUp
            && it.running.is_some_and(|running| running == it.revision)
    });
    answers.count()
}

/// The newest revision that has ever begun, as far as a member knows.
pub(super) fn newest(said: &StatusResponse) -> u64 {
    said.revision_newest.max(said.revision)
}

/// The one that runs along silently, as far as a member knows.
fn silent(said: &StatusResponse) -> Option<u64> {
    let newest = newest(said);
    (said.revision_unfinished && newest > said.revision).then_some(newest)
}

/// Its copy is of that one, and has caught up.
pub(super) fn runs_along(said: &StatusResponse) -> bool {
    let is_near = said.applied.saturating_add(NEAR_SLOTS) >= said.commit;
    is_near && silent(said).is_some_and(|it| said.revision_running == Some(it))
}

/// Which revision is due there; `None`: it has only just started, and knows nothing yet of what its pod is
/// made of.
pub(super) fn due_there(said: &StatusResponse, pod: &PodView) -> Option<u64> {
    (newest(said) >= pod.app_revision).then_some(said.revision_due)
}

/// The group as if that revision were in force; `None`: nobody knows what it is.
pub(super) fn with(group: &ReplicaGroup, number: u64) -> Option<ReplicaGroup> {
    let mut group = group.clone();
    let spec = &mut group.spec;
    if number == spec.revision {
        return Some(group);
    }
    let at = spec.revisions.iter().position(|it| it.number == number)?;
    let mut taken = spec.revisions.remove(at);
    // That it may be reached there does not depend on what answers.
    let ports = spec.app.passthrough_ports.clone();
    taken.app.passthrough_ports = ports;
    let GroupRevision {
        number,
        template,
        app,
    } = taken;
    spec.revisions.push(GroupRevision {
        number: std::mem::replace(&mut spec.revision, number),
        template: std::mem::replace(&mut spec.template, template),
        app: std::mem::replace(&mut spec.app, app),
    });
    Some(group)
}

fn knows(spec: &ReplicaGroupSpec, number: u64) -> bool {
    number == spec.revision || spec.revisions.iter().any(|it| it.number == number)
}

// === impl Work ===

impl Work<'_> {
    /// How far the revisions are, if the group is led from here.
    pub(super) fn revisions(&self, report: &mut Report) {
        report.revision = self.leader_here(report).map(|(leader, _, said)| {
            let disagreement = said.revision_disagreement.as_ref();
            let words = disagreement.map(|it| {
                let (slot, method, path) = (it.slot, &it.method, &it.path);
                shorten(format!("slot {slot}, {method} {path}: {}", it.text), WORDS)
            });
            RevisionState {
                leader,
                in_force: said.revision,
                newest: Some(newest(&said)),
                unfinished: said.revision_unfinished,
                disagreement: words.unwrap_or_default(),
                problem: String::new(),
            }
        });
        // What is waited for is told by members alone.
        let mut said = report.members.iter().filter_map(Observed::said);
        report.soon |= said.any(|it| silent(it).is_some());
        let spec = &self.valid.group.spec;
        let before = report.facts.get(OLDER_FACT).and_then(|it| it.parse().ok());
        let older = older(&report.members, before, Timestamp::now());
        for (fact, number) in [
            (OLDER_FACT, older.filter(|it| knows(spec, *it))),
            (GONE_FACT, older.filter(|it| !knows(spec, *it))),
        ] {
            match number {
                Some(number) => report.facts.insert(fact.to_owned(), number.to_string()),
                None => report.facts.remove(fact),
            };
        }
    }

    /// Has the leader, if it is here, agree on the revision that the hub asks for.
    pub(super) async fn revise(&self, report: &mut Report, asker: &Asker) {
        let spec = &self.valid.group.spec;
        let Some((leader, place, said)) = self.leader_here(report) else {
            return;
        };
        let Some(revise) = due(spec, &said) else {
            return;
        };
        let request = request(spec, revise);
        // Nobody waits for the first pod when one runs along, or when nothing is to begin.
        let rolls = spec.update.strategy == UpdateStrategy::Rolling && copies(spec) > 1;
        let could = if (rolls && !revise.takes_back) || silent(&said).is_some() {
            Ok(())
        } else {
            disruptions::could(self.valid, report, asker).await
        };
        let revised = match could {
            Ok(()) => asker
                .revise(&leader, place, request)
                .await
                .map_err(|error| format!("the leader has not done it: {error}")),
            Err(why) => Err(format!("no pod could be replaced for it now: {why}")),
        };
        match revised {
            Ok(answer) => {
                report.revised = report.revision.as_mut().map(|state| {
                    let (reason, words) = revised_to(state, revise, &answer);
                    tracing::info!(service = self.valid.name, "{words}");
                    (reason, words)
                });
                report.soon = true;
            }
            Err(why) => {
                if let Some(state) = &mut report.revision {
                    state.problem = shorten(why, WORDS);
                }
            }
        }
    }
}

fn request(spec: &ReplicaGroupSpec, revise: &Revise) -> ReviseRequest {
    let mut request = ReviseRequest {
        expected_revision: revise.from,
        epoch: revise.epoch,
        takes_back: revise.takes_back,
        ..ReviseRequest::default()
    };
    request.set_strategy(match spec.update.strategy {
        UpdateStrategy::Rolling => RevisionStrategy::Rolling,
        UpdateStrategy::Switch => RevisionStrategy::Switch,
    });
    request
}

/// Copies of the whole group, as far as the hub has told: a single one is always switched.
fn copies(spec: &ReplicaGroupSpec) -> usize {
    let here = spec.members.iter().map(|it| (&it.name, it.role));
    let elsewhere = spec.peers.iter().map(|it| (&it.name, it.role));
    let all: BTreeSet<_> = here
        .chain(elsewhere)
        .filter(|(_, role)| *role != MemberRole::Witness)
        .map(|(name, _)| name)
        .collect();
    all.len()
}

/// How far they are once the leader has done what it was asked for. Goes out: an event of that, its reason
/// and its words.
fn revised_to(
    state: &mut RevisionState,
    revise: &Revise,
    answer: &ReviseResponse,
) -> (&'static str, String) {
    let next = revise.from + 1;
    if let Some(silent) = state.silent() {
        state.unfinished = false;
        let in_force = state.in_force;
        let words =
            format!("revision {silent} of the app is taken back: {in_force} goes on to answer");
        return ("RevisionTakenBack", words);
    }
    state.newest = Some(next);
    state.unfinished = true;
    if answer.strategy() == RevisionStrategy::Rolling {
        let words = format!("revision {next} of the app runs along silently from now on");
        return (BEGUN, words);
    }
    state.in_force = next;
    let words = format!("revision {next} of the app executes what is agreed on from now on");
    (BEGUN, words)
}

/// What the hub asks for, if nothing has come between: the newest is the one that it is to follow, and the
/// next one is made of something that is known here. Of one that ran along silently nothing takes the place.
fn due<'a>(spec: &'a ReplicaGroupSpec, said: &StatusResponse) -> Option<&'a Revise> {
    let revise = spec.revise.as_ref()?;
    let is_void = revise.takes_back && silent(said).is_some();
    let follows = newest(said) == revise.from && (is_void || knows(spec, revise.from + 1));
    let fits = said.epoch == revise.epoch && said.revision_unfinished == revise.takes_back;
    (follows && fits && spec.change.is_none()).then_some(revise)
}

/// The revision before that of its pod that a member must come through: nobody has given it the state
/// that the later one begins with, though there was time for that. `before`: as it was found before; it
/// stays so until the pod that goes for that has its successor.
fn older(members: &[Observed], before: Option<u64>, now: Timestamp) -> Option<u64> {
    let late = members.iter().filter_map(|it| {
        let (pod, said) = (it.pod.as_ref()?, it.said()?);
        let old = pod
            .made
            .is_some_and(|at| now.duration_since(at) >= PATIENCE);
        let behind = said.revision_due < pod.app_revision && !said.serving;
        (behind && old && said.ready).then_some(said.revision_due)
    });
    let mut pods = members.iter().map(|it| it.pod.as_ref());
    let away = pods.any(|it| it.is_none_or(|it| it.leaving));
    late.min().or(before.filter(|_| away))
}

#[cfg(test)]
#[path = "revise_tests.rs"]
mod tests;
