//! Revisions of the app in one cluster (rule V1). Comes in: which revisions there are, as the hub wrote
//! them, and what members say. Goes out: of which one pods are made now, and what the leader is asked
//! for. Every part of it may be done again: the leader refuses a revision that does not follow the one in
//! force, and what a pod is of stands in the pod.

use std::net::SocketAddr;

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use synod_api::{GroupRevision, ReplicaGroup, ReplicaGroupSpec, Revise, RevisionState};
use synod_proto::v1::{ReviseRequest, StatusResponse};

use super::disruptions;
use super::members::Asker;
use super::observe::Observed;
use super::reconcile::Work;
use super::status::Report;
use crate::conditions::shorten;

/// In the facts of a group: the revision before the one in force that a member must come through first.
pub(super) const OLDER_FACT: &str = "olderRevision";
/// In the facts of a group: the revision that a member must come through first and that is not kept.
pub(super) const GONE_FACT: &str = "goneRevision";
/// A new pod gets the state that its app begins with from another member, if any has it, in less.
const PATIENCE: SignedDuration = SignedDuration::from_secs(120);
/// Longest reason why there is no other revision, in bytes.
const WORDS: usize = 1_000;

/// The group with the revision in it that pods are made of now: the one in force as soon as any member
/// here knows of it, whether or not the hub does; or an earlier one that a member must come through.
pub(super) fn effective(group: &ReplicaGroup) -> ReplicaGroup {
    let spec = &group.spec;
    let status = group.status.as_ref();
    let older = status.and_then(|it| it.facts.get(OLDER_FACT)?.parse().ok());
    let members = status.into_iter().flat_map(|it| &it.members);
    let newest = members.map(|it| it.revision).filter(|it| knows(spec, *it));
    let newest = newest.max().unwrap_or_default().max(spec.revision);
    let number = older.filter(|it| knows(spec, *it)).unwrap_or(newest);
    with(group, number).unwrap_or_else(|| group.clone())
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
            let (in_force, unfinished) = (said.revision, said.revision_unfinished);
            RevisionState {
                leader,
                in_force,
                unfinished,
                problem: String::new(),
            }
        });
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
        let request = ReviseRequest {
            expected_revision: revise.from,
            epoch: revise.epoch,
            takes_back: revise.takes_back,
            ..ReviseRequest::default()
        };
        let could = disruptions::could(self.valid, report, asker).await;
        let problem = match could {
            Ok(()) => {
                self.ask_for_it(&leader, place, request, report, asker)
                    .await
            }
            Err(why) => shorten(format!("no pod could be replaced for it now: {why}"), WORDS),
        };
        if let Some(state) = &mut report.revision {
            state.problem = problem;
            if let Some(number) = report.revised {
                (state.in_force, state.unfinished) = (number, true);
            }
        }
    }

    /// Goes out: why it is not done; empty: it is.
    async fn ask_for_it(
        &self,
        leader: &str,
        place: SocketAddr,
        request: ReviseRequest,
        report: &mut Report,
        asker: &Asker,
    ) -> String {
        match asker.revise(leader, place, request).await {
            Ok(number) => {
                tracing::info!(
                    service = self.valid.name,
                    revision = number,
                    "another revision of the app is in force"
                );
                report.revised = Some(number);
                report.soon = true;
                String::new()
            }
            Err(error) => shorten(format!("the leader has not begun it: {error}"), WORDS),
        }
    }
}

/// What the hub asks for, if nothing has come between: the next one is made of something that is known
/// here, and the one in force is the one that it is to follow.
fn due<'a>(spec: &'a ReplicaGroupSpec, said: &StatusResponse) -> Option<&'a Revise> {
    let revise = spec.revise.as_ref()?;
    let follows = said.revision == revise.from && knows(spec, revise.from + 1);
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
