//! What is reported of a group. Comes in: what was seen and done. Goes out: its status. Pure.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use synod_api::{
    GroupMemberStatus, MemberRole, MemberState, Membership, ReplicaGroup, ReplicaGroupStatus,
    RevisionState, SnapshotAnswer, SnapshotStatus, SnapshotType, Standing, is_witness,
};
use synod_proto::v1::KeptSnapshot;

use super::certificates::Problem;
use super::findings::findings;
use super::names;
use super::observe::Observed;
use super::plan::Step;
use super::pods::PodView;
use super::revise::{GONE_FACT, runs_along};
use super::validate::Stall;
use crate::conditions::{self, Conditions, Kind, Reason, Status, shorten};

/// Volumes are bound and Secrets mounted within a few seconds, with complaints in between.
const PATIENCE: SignedDuration = SignedDuration::from_secs(10);

/// Sizes of logs are told in steps, in MiB: they change all the time.
const LOG_STEP: u64 = 64;

/// Beginnings that are told: more than one are one too many.
const BEGUN: usize = 4;

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
    /// Incarnations with which members are in the group.
    pub(crate) formed: BTreeMap<String, String>,
    /// What is done about pods.
    pub(crate) step: Option<Step>,
    /// What makes the sidecar's work weaker.
    pub(crate) weak: Vec<String>,
    /// Why a member that somebody wants to move must stay for now.
    pub(crate) blocked: Option<String>,
    /// There is more to do than the conditions tell.
    pub(crate) soon: bool,
    /// The protocol version that is in force from now on, if it was raised.
    pub(crate) raised: Option<u32>,
    /// Who is in the group, if it is led from here.
    pub(crate) membership: Option<Membership>,
    /// The epoch of the members, if they were changed.
    pub(crate) changed: Option<u64>,
    /// How far the app's revisions are, if the group is led from here.
    pub(crate) revision: Option<RevisionState>,
    /// What has become of the app's revisions, if something was asked for: an event's reason and words.
    pub(crate) revised: Option<(&'static str, String)>,
    /// What came of a snapshot that was asked for.
    pub(crate) snapshot: Option<SnapshotAnswer>,
    /// Further facts.
    pub(crate) facts: BTreeMap<String, String>,
}

/// The status as it should be.
pub(crate) fn status(group: &ReplicaGroup, report: &Report, now: Timestamp) -> ReplicaGroupStatus {
    let before = group.status.clone().unwrap_or_default();
    let saved = group.spec.state.snapshot.kind != SnapshotType::None;
    let members: Vec<_> = if report.members.is_empty() {
        before.members.clone()
    } else {
        report
            .members
            .iter()
            .map(|it| member(it, &before, saved))
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
        // It is forgotten once the hub has taken note, and asks for no more.
        snapshot: report
            .snapshot
            .clone()
            .or(before.snapshot)
            .filter(|_| group.spec.snapshot.is_some()),
        begun: begun(group, report),
        membership: report.membership.clone(),
        revision: report.revision.clone(),
        // What nobody could be asked about is as it was.
        findings: if report.members.is_empty() {
            before.findings
        } else {
            findings(&report.members)
        },
        facts: report.facts.clone(),
    }
}

/// What members have in their logs, while nobody has told that there is a group.
fn begun(group: &ReplicaGroup, report: &Report) -> Vec<String> {
    if group.spec.genesis.is_some() || group.spec.founding.is_none() {
        return Vec::new();
    }
    let said = report.members.iter().filter_map(Observed::said);
    let texts = said.map(|it| &it.genesis).filter(|it| !it.is_empty());
    let texts: BTreeSet<_> = texts.cloned().collect();
    texts.into_iter().take(BEGUN).collect()
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

/// `saved`: there are snapshots.
fn member(observed: &Observed, before: &ReplicaGroupStatus, saved: bool) -> GroupMemberStatus {
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
    let standing = observed.pod.as_ref().filter(|it| !it.leaving);
    let standing = standing.filter(|_| !is_witness(&observed.name));
    let made_of = standing.map(|it| it.app_revision);
    let newest = observed.snapshot.as_ref().map(snapshot);
    let newest = newest.or_else(|| before?.snapshot.clone());
    let newest = newest.filter(|_| saved);
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
            protocol_in_force: before.map_or(0, |it| it.protocol_in_force),
            log_mebibytes: before.map_or(0, |it| it.log_mebibytes),
            snapshot: newest,
            updated: observed.updated,
            revision: before.map_or(0, |it| it.revision),
            running: None,
            made_of,
            may: None,
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
        state: if said.rollback.is_some() {
            MemberState::Rebuilding
        } else if is_caught_up(observed) {
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
        protocol_in_force: said.protocol,
        log_mebibytes: (said.log_bytes >> 20).next_multiple_of(LOG_STEP),
        snapshot: newest,
        updated: observed.updated,
        revision: said.revision,
        running: said.revision_running,
        made_of,
        may: said.revision_may,
        problem: problem.unwrap_or_default(),
    }
}

fn snapshot(it: &KeptSnapshot) -> SnapshotStatus {
    let second = i64::try_from(it.time_ns / 1_000_000_000).unwrap_or(i64::MAX);
    let time = Timestamp::from_second(second).unwrap_or(Timestamp::UNIX_EPOCH);
    SnapshotStatus {
        slot: it.slot,
        time: time.to_string(),
        bytes: it.bytes,
        standing: match it.standing.as_str() {
            "Verified" => Standing::Verified,
            "Unverified" => Standing::Unverified,
            // A word of another version gives no right to use it.
            _ => Standing::Uncompared,
        },
    }
}

/// Its copy answers clients, or could but for its revision, which runs along silently; a witness has none,
/// so its log is what counts.
fn is_caught_up(observed: &Observed) -> bool {
    observed.said().is_some_and(|it| {
        let is_witness = observed.role == MemberRole::Witness;
        it.ready && (it.serving || runs_along(it) || is_witness)
    })
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
                "{lost}: the log is another one than that with which it is in the group"
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
    let without_app = names_of(members, Observed::is_silent);
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
    if let Some(number) = report.facts.get(GONE_FACT) {
        return Some(Matter {
            reason: &conditions::REVISION_GONE,
            message: format!(
                "a member must first execute what revision {number} of the app is to execute, and \
                 nobody knows any more what that is"
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
    let step = match &report.step {
        Some(Step::Wait(why)) => Some(format!("waiting: {why}")),
        Some(Step::Delete { pod, why, .. }) => Some(format!("replacing {pod}: {why}")),
        Some(Step::Transfer { from, .. }) => Some(format!("{from} hands leadership over")),
        Some(Step::Done) | None => None,
    };
    let back = conditions::told(
        rollbacks(&report.members)
            .iter()
            .map(|(a, b)| (*a, b.as_str())),
    );
    if !back.is_empty() {
        let step = step.map_or_else(String::new, |it| format!("; {it}"));
        return matter(&conditions::ROLLING_BACK, format!("{back}{step}"));
    }
    if let Some(step) = step {
        return matter(&conditions::ROLLING_OUT, step);
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

/// Members whose volume is put back, and to what.
fn rollbacks(members: &[Observed]) -> Vec<(&str, String)> {
    let back = members.iter().filter_map(|it| {
        let to = match it.said()?.rollback? {
            0 => "the app's volume is emptied, and the log executed upon it".to_owned(),
            slot => format!("the app's volume is put back to the snapshot of slot {slot}"),
        };
        Some((it.name.as_str(), to))
    });
    back.collect()
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
