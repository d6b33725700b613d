//! What is reported of a group. Comes in: what was seen and done. Goes out: its status. Pure.

use std::collections::BTreeMap;

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use synod_api::{GroupMemberStatus, MemberRole, MemberState, ReplicaGroup, ReplicaGroupStatus};

use super::certificates::Problem;
use super::names;
use super::observe::{Observed, is_silent};
use super::plan::Step;
use super::pods::PodView;
use super::validate::Stall;
use crate::conditions::{self, Conditions, Kind, Reason, Status};

/// Volumes are bound and Secrets mounted within a few seconds, with complaints in between.
const PATIENCE: SignedDuration = SignedDuration::from_secs(10);

/// For so long is told who went past a sidecar, in milliseconds.
const LATELY_MS: u64 = 600_000;

/// What one look at a group has shown.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// Nothing more happens before somebody changes something.
    pub(crate) stall: Option<Stall>,
    /// A step failed and is tried again.
    pub(crate) failure: Option<String>,
    /// The request for the hub; empty: as it was.
    pub(crate) issuer_request: String,
    /// Why certificates are not as they should be.
    pub(crate) certificates: Option<Problem>,
    /// The members; empty when nothing was looked at.
    pub(crate) members: Vec<Observed>,
    /// Incarnations of the group as it was formed.
    pub(crate) formed: BTreeMap<String, String>,
    /// What is done about pods.
    pub(crate) step: Option<Step>,
    /// What makes the sidecar's work weaker.
    pub(crate) weak: Vec<String>,
    /// Why a member that somebody wants to move must stay for now.
    pub(crate) blocked: Option<String>,
    /// There is more to do than the conditions tell.
    pub(crate) soon: bool,
    /// Further facts.
    pub(crate) facts: BTreeMap<String, String>,
}

/// The status as it should be.
pub(crate) fn status(group: &ReplicaGroup, report: &Report, now: Timestamp) -> ReplicaGroupStatus {
    let before = group.status.clone().unwrap_or_default();
    let members: Vec<_> = if report.members.is_empty() {
        before.members.clone()
    } else {
        report
            .members
            .iter()
            .map(|it| member(it, &before))
            .collect()
    };
    let updated = members.iter().filter(|it| it.updated).count();
    let selector = group
        .metadata
        .name
        .as_deref()
        .map(|name| names::selector(name, &group.spec.cluster))
        .map(|it| it.map(|(key, value)| format!("{key}={value}")).join(","));
    ReplicaGroupStatus {
        observed_generation: group.metadata.generation,
        conditions: conditions(group, &before, report, now),
        members,
        issuer_request: if report.issuer_request.is_empty() {
            before.issuer_request
        } else {
            report.issuer_request.clone()
        },
        updated: u32::try_from(updated).expect("bounded by the schema"),
        selector: selector.unwrap_or_default(),
        facts: report.facts.clone(),
    }
}

/// The status when nothing could be looked at: that is told, and all else stays as it was.
pub(crate) fn unread(group: &ReplicaGroup, words: &str, now: Timestamp) -> ReplicaGroupStatus {
    let mut status = group.status.clone().unwrap_or_default();
    let mut list = Conditions::new(&status.conditions, group.metadata.generation, now);
    for condition in &status.conditions {
        list.keep(condition);
    }
    let reason = &conditions::OPERATOR_ERROR;
    list.set(&conditions::DEGRADED, Status::True, reason, words);
    list.set(&conditions::READY, Status::False, reason, words);
    status.conditions = list.finish();
    status
}

fn member(observed: &Observed, before: &ReplicaGroupStatus) -> GroupMemberStatus {
    let before = before.members.iter().find(|it| it.name == observed.name);
    let keep = |now: &str, then: fn(&GroupMemberStatus) -> &String| {
        if now.is_empty() {
            before.map(then).cloned().unwrap_or_default()
        } else {
            now.to_owned()
        }
    };
    let pod_ready = observed.pod.as_ref().is_some_and(|it| it.ready);
    let problem = observed.pod.as_ref().map(|it| it.problem.clone());
    let Some(said) = observed.said() else {
        return GroupMemberStatus {
            name: observed.name.clone(),
            // A member that is not heard now is still the one that it was.
            incarnation: keep("", |it| &it.incarnation),
            endpoint: keep(&observed.endpoint, |it| &it.endpoint),
            state: MemberState::Unreachable,
            role: before.and_then(|it| it.role),
            leader: String::new(),
            epoch: before.map_or(0, |it| it.epoch),
            ready: false,
            policy_version: before.map_or(0, |it| it.policy_version),
            protocol: before.map_or([0, 0], |it| it.protocol),
            updated: observed.updated,
            problem: problem.unwrap_or_default(),
        };
    };
    let role = match said.role.as_str() {
        "Voter" => Some(MemberRole::Voter),
        "Observer" => Some(MemberRole::Observer),
        "Witness" => Some(MemberRole::Witness),
        _ => None,
    };
    GroupMemberStatus {
        name: observed.name.clone(),
        incarnation: said.incarnation.clone(),
        endpoint: keep(&observed.endpoint, |it| &it.endpoint),
        state: if is_caught_up(observed) {
            MemberState::CaughtUp
        } else {
            MemberState::CatchingUp
        },
        role,
        leader: said.leader.clone(),
        epoch: said.epoch,
        ready: pod_ready && said.ready,
        policy_version: said.policy_version,
        protocol: [said.protocol_min, said.protocol_max],
        updated: observed.updated,
        problem: problem.unwrap_or_default(),
    }
}

/// Its copy answers clients; a witness has none, so its log is what counts.
fn is_caught_up(observed: &Observed) -> bool {
    observed
        .said()
        .is_some_and(|it| it.ready && (it.serving || observed.role == MemberRole::Witness))
}

/// One thing that is not as it should be.
struct Matter {
    reason: &'static Reason,
    message: String,
}

fn conditions(
    group: &ReplicaGroup,
    before: &ReplicaGroupStatus,
    report: &Report,
    now: Timestamp,
) -> Vec<synod_api::Condition> {
    let mut list = Conditions::new(&before.conditions, group.metadata.generation, now);
    certificates(&mut list, report);
    traffic(&mut list, before, report);
    let bad = bad(group, before, report, now);
    match &bad {
        Some(it) => list.set(&conditions::DEGRADED, Status::True, it.reason, &it.message),
        None => list.set(
            &conditions::DEGRADED,
            Status::False,
            &conditions::AS_DESIRED,
            "",
        ),
    }
    if let Some(stall) = &report.stall {
        let on = |kind: &Kind| stall.reason.on.iter().any(|it| it.name == kind.name);
        if on(&conditions::STALLED) {
            list.set(
                &conditions::STALLED,
                Status::True,
                stall.reason,
                &stall.message,
            );
        }
    }
    let under_way = under_way(group, report);
    let progress = |list: &mut Conditions<'_>, it: &Matter| {
        list.set(
            &conditions::PROGRESSING,
            Status::True,
            it.reason,
            &it.message,
        );
        list.set(
            &conditions::RECONCILING,
            Status::True,
            it.reason,
            &it.message,
        );
    };
    match &under_way {
        _ if group.spec.paused => list.set(
            &conditions::PROGRESSING,
            Status::False,
            &conditions::PAUSED,
            "spec.paused is set",
        ),
        Some(it) if report.stall.is_none() => progress(&mut list, it),
        _ => list.set(
            &conditions::PROGRESSING,
            Status::False,
            &conditions::AS_DESIRED,
            "",
        ),
    }
    let stall = report.stall.as_ref().map(|it| Matter {
        reason: it.reason,
        message: it.message.clone(),
    });
    // What only makes the service weaker keeps nobody waiting.
    let bad = bad.filter(|it| it.reason.on.iter().any(|on| on.name == "Ready"));
    match stall.or(bad).or(under_way) {
        Some(it) => list.set(&conditions::READY, Status::False, it.reason, it.message),
        None => list.set(
            &conditions::READY,
            Status::True,
            &conditions::AS_DESIRED,
            "",
        ),
    }
    list.finish()
}

fn certificates(list: &mut Conditions<'_>, report: &Report) {
    let kind = &conditions::CERTIFICATES_VALID;
    let waiting = &conditions::WAITING_FOR_CERTIFICATES;
    match &report.certificates {
        None => list.set(kind, Status::True, &conditions::AS_DESIRED, ""),
        Some(Problem::Waiting) => list.set(
            kind,
            Status::False,
            waiting,
            "the hub has not certified this cluster's request yet",
        ),
        Some(Problem::Unusable(words)) => list.set(
            kind,
            Status::False,
            waiting,
            format!("what the hub sent cannot be used: {words}"),
        ),
        Some(Problem::Ending(words)) => {
            list.set(kind, Status::False, &conditions::CERTIFICATE_ENDS, words);
        }
    }
}

/// Who reached the app past its sidecar lately. Kept as it was while not all members are heard.
fn traffic(list: &mut Conditions<'_>, before: &ReplicaGroupStatus, report: &Report) {
    let kind = &conditions::TRAFFIC_INTERCEPTED;
    let seen: Vec<_> = report.members.iter().filter_map(bypass).collect();
    let all_heard = report.members.iter().all(|it| it.said().is_some());
    if !seen.is_empty() {
        let message = shorten(seen.join(", "), 4_000);
        list.set(kind, Status::False, &conditions::BYPASS_SEEN, message);
    } else if all_heard && !report.members.is_empty() {
        list.set(kind, Status::True, &conditions::AS_DESIRED, "");
    } else if let Some(before) = conditions::find(&before.conditions, kind) {
        list.keep(before);
    }
}

fn bypass(observed: &Observed) -> Option<String> {
    let bypass = observed.said()?.bypass.as_ref()?;
    let lately = bypass.age_ms < LATELY_MS;
    lately.then(|| format!("{} was connected to {}", bypass.address, observed.name))
}

/// What is worse than it should be, the worst first.
fn bad(
    group: &ReplicaGroup,
    before: &ReplicaGroupStatus,
    report: &Report,
    now: Timestamp,
) -> Option<Matter> {
    let members = &report.members;
    let lost = names_of(members, |it| it.is_lost(&report.formed));
    if !lost.is_empty() {
        return Some(Matter {
            reason: &conditions::MEMBER_LOST,
            message: format!(
                "{lost}: the log is another than the one that the group was formed with"
            ),
        });
    }
    let old = |pod: &&PodView| {
        pod.made
            .is_none_or(|made| now.duration_since(made) >= PATIENCE)
    };
    let problems = members.iter().filter_map(|it| {
        let pod = it.pod.as_ref().filter(old)?;
        (!pod.problem.is_empty()).then_some((pod.name.as_str(), pod.problem.as_str()))
    });
    let words = conditions::told(problems);
    if !words.is_empty() {
        return Some(Matter {
            reason: &conditions::POD_NOT_STARTING,
            message: shorten(format!("pod {words}"), 4_000),
        });
    }
    if let Some(words) = &report.failure {
        return Some(Matter {
            reason: &conditions::OPERATOR_ERROR,
            message: words.clone(),
        });
    }
    // A pod that is being replaced or started is no news, nor is one answer that was missed; one
    // that has long been ready and stays silent is.
    let silent = members
        .iter()
        .filter(|it| {
            let long = |pod: &PodView| {
                let since = pod.since.map(|since| now.duration_since(since));
                pod.ready && !pod.leaving && since.is_none_or(|it| it >= PATIENCE)
            };
            let then = before.members.iter().find(|then| then.name == it.name);
            it.pod.as_ref().is_some_and(long)
                && then.is_some_and(|it| it.state == MemberState::Unreachable)
        })
        .find_map(Observed::silence);
    if let Some(error) = silent {
        return Some(Matter {
            reason: &conditions::MEMBER_UNREACHABLE,
            message: error.to_string(),
        });
    }
    let without_app = names_of(members, |it| it.said().is_some_and(is_silent));
    if !without_app.is_empty() {
        return Some(Matter {
            reason: &conditions::APP_NOT_ANSWERING,
            message: format!(
                "{without_app}: the app does not answer on port {}: look at its log, and whether \
                 that is where it listens",
                group.spec.app.port
            ),
        });
    }
    if let Some(words) = &report.blocked {
        return Some(Matter {
            reason: &conditions::DISRUPTION_BLOCKED,
            message: words.clone(),
        });
    }
    if !report.weak.is_empty() {
        return Some(Matter {
            reason: &conditions::START_SIGNAL_WEAK,
            message: report.weak.join("; "),
        });
    }
    None
}

/// What is still to come.
fn under_way(group: &ReplicaGroup, report: &Report) -> Option<Matter> {
    let matter = |reason, message: String| Some(Matter { reason, message });
    if report.members.is_empty() && !group.spec.members.is_empty() {
        if report.certificates.is_some() {
            let words = "members start when their certificates are there";
            return matter(&conditions::WAITING_FOR_CERTIFICATES, words.to_owned());
        }
        let words = "members are being made";
        return matter(&conditions::WAITING_FOR_MEMBERS, words.to_owned());
    }
    let unheard = names_of(&report.members, |it| it.said().is_none());
    if group.spec.genesis.is_none() {
        return if unheard.is_empty() {
            matter(
                &conditions::FORMING,
                "all members here have reported".to_owned(),
            )
        } else {
            matter(
                &conditions::WAITING_FOR_MEMBERS,
                format!("not heard yet: {unheard}"),
            )
        };
    }
    match &report.step {
        Some(Step::Wait(why)) => {
            return matter(&conditions::ROLLING_OUT, format!("waiting: {why}"));
        }
        Some(Step::Delete { pod, why, .. }) => {
            return matter(&conditions::ROLLING_OUT, format!("replacing {pod}: {why}"));
        }
        Some(Step::Transfer { from, .. }) => {
            return matter(
                &conditions::ROLLING_OUT,
                format!("{from} hands leadership over"),
            );
        }
        Some(Step::Done) | None => {}
    }
    let late = names_of(&report.members, |it| {
        !is_caught_up(it) || !it.pod.as_ref().is_some_and(|pod| pod.ready)
    });
    if !late.is_empty() {
        return matter(
            &conditions::WAITING_FOR_MEMBERS,
            format!("not ready or not caught up: {late}"),
        );
    }
    None
}

/// At most so many bytes of a text.
pub(crate) fn shorten(mut text: String, bytes: usize) -> String {
    while text.len() > bytes {
        text.pop();
    }
    text
}

fn names_of(members: &[Observed], is: impl Fn(&Observed) -> bool) -> String {
    let names: Vec<_> = members
        .iter()
        .filter(|it| is(it))
        .map(|it| it.name.as_str())
        .collect();
    names.join(", ")
}

#[cfg(test)]
mod tests;
