//! What is reported of a service. Comes in: what was planned, seen and failed. Goes out: its status.
//! Pure.

use std::fmt::Write as _;

use k8s_openapi::jiff::Timestamp;
use synod_api::{
    Condition, MemberState, ReplicatedServiceStatus, SnapshotAnswer, SnapshotStatus, SnapshotType,
    Standing,
};

use super::available::available;
use super::findings;
use super::genesis::NotYet;
use super::members;
use super::plan;
use super::roster::{Formed, Roster};
use super::tally::Tally;
use super::validate::{Stall, Valid};
use super::view::{self, Access, View};
use crate::conditions::{
    self, AS_DESIRED, AVAILABLE, CERTIFICATES_VALID, Conditions, DEGRADED, DIVERGED, Kind,
    LOG_UNBOUNDED, PROGRESSING, READY, RECONCILING, Reason, STALLED, Status,
};

/// In the facts of a group: which claims are not as the manifest asks.
const CLAIMS_FACT: &str = "claims";
/// In the facts of a group: why the leader there has not changed the members.
const CHANGE_FACT: &str = "change";

/// One look at a service.
pub(crate) struct Report<'a> {
    /// Who the members are, if that is known: of a service that was formed it is, whatever is wrong
    /// with its manifest.
    pub(crate) roster: Option<&'a Roster>,
    /// The service, if it can be worked on.
    pub(crate) valid: Option<&'a Valid>,
    /// Why it cannot, or why it goes on no further.
    pub(crate) stall: Option<Stall>,
    /// Why it is not formed yet.
    pub(crate) waits: Option<NotYet>,
    /// What failed and is tried again, by cluster.
    pub(crate) failures: Vec<String>,
    /// What came of a snapshot that was asked for.
    pub(crate) snapshot: Option<SnapshotAnswer>,
    /// The template's source is gone, and the one that runs is kept.
    pub(crate) degraded: Option<Matter>,
    /// The clusters.
    pub(crate) views: &'a [View],
    /// UID of the service.
    pub(crate) uid: &'a str,
    /// Namespace of the service.
    pub(crate) namespace: &'a str,
    /// Generation of its spec.
    pub(crate) generation: Option<i64>,
    /// `spec.paused`.
    pub(crate) paused: bool,
}

/// Something to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Matter {
    /// In one word.
    pub(crate) reason: &'static Reason,
    /// In many.
    pub(crate) message: String,
}

/// The status as it should be, where `before` is what the object has.
pub(crate) fn status(
    report: &Report<'_>,
    before: &ReplicatedServiceStatus,
    now: Timestamp,
) -> ReplicatedServiceStatus {
    let mut list = Conditions::new(&before.conditions, report.generation, now);
    let mut status = before.clone();
    status.observed_generation = report.generation;
    status.clusters = view::clusters(report.views);
    if let Some(answer) = &report.snapshot {
        status.snapshot_request = Some(answer.clone());
    }
    let Some(roster) = report.roster else {
        let stall = report.stall.as_ref().expect("what is not valid is stalled");
        refused(&mut list, stall, before);
        status.conditions = list.finish();
        return status;
    };
    let members = Tally::new(roster, report.views);
    members.fill(&mut status, roster);
    status.skipped = findings::skipped(&before.skipped, report.views, report.uid, now);
    if let Some(valid) = report.valid {
        status.endpoint = Some(format!(
            "{}.{}.svc:{}",
            valid.spec.service.name.as_deref().unwrap_or(&roster.name),
            report.namespace,
            valid.spec.service.port
        ));
    }
    let saved = is_saved(report);
    if saved == Some(false) {
        status.snapshot = None;
    }
    judge(&mut list, report, roster, &members, &status, now);
    diverged(&mut list, report, &before.conditions);
    log_unbounded(&mut list, saved, &members);
    status.conditions = list.finish();
    status
}

/// What cannot be worked on, where nobody knows who the members are: none were made, or the record of
/// them cannot be read.
fn refused(list: &mut Conditions<'_>, stall: &Stall, before: &ReplicatedServiceStatus) {
    let Stall { reason, message } = stall;
    list.set(&READY, Status::False, fits(reason, &READY), message);
    list.set(&STALLED, Status::True, fits(reason, &STALLED), message);
    list.set(
        &PROGRESSING,
        Status::False,
        &AS_DESIRED,
        "nothing is done before the manifest is changed",
    );
    let available = if before.epoch.is_some() {
        Status::Unknown
    } else {
        Status::False
    };
    list.set(&AVAILABLE, available, fits(reason, &AVAILABLE), message);
}

fn judge(
    list: &mut Conditions<'_>,
    report: &Report<'_>,
    roster: &Roster,
    members: &Tally<'_>,
    status: &ReplicatedServiceStatus,
    now: Timestamp,
) {
    let available = available(report, roster, members);
    let stall = report.stall.clone().or_else(|| stalled_there(report));
    let progress = progress(report, roster, members);
    let degraded = degraded(report, roster, members)
        .or_else(|| unverified(status.snapshot.as_ref()))
        .or_else(|| skipped(status, now));
    let formed = roster.formed != Formed::No;
    let change = not_done(report).or_else(|| revisions_disagree(report));

    list.set(
        &AVAILABLE,
        available.0,
        available.1.reason,
        available.1.message.clone(),
    );
    if let Some(Stall { reason, message }) = &stall {
        list.set(&STALLED, Status::True, fits(reason, &STALLED), message);
    }
    match (&progress, &change) {
        _ if report.paused => list.set(
            &PROGRESSING,
            Status::False,
            &conditions::PAUSED,
            "spec.paused is set: nothing is changed",
        ),
        (_, Some(it)) => list.set(&PROGRESSING, Status::False, it.reason, &it.message),
        (Some(it), None) if stall.is_none() => {
            list.set(&PROGRESSING, Status::True, it.reason, &it.message);
            list.set(&RECONCILING, Status::True, it.reason, &it.message);
        }
        _ => list.set(&PROGRESSING, Status::False, &AS_DESIRED, ""),
    }
    match &degraded {
        Some(it) => list.set(&DEGRADED, Status::True, it.reason, &it.message),
        None => list.set(&DEGRADED, Status::False, &AS_DESIRED, ""),
    }
    let bad = stall
        .map(|it| Matter {
            reason: it.reason,
            message: it.message,
        })
        .or_else(|| (formed && available.0 != Status::True).then_some(available.1))
        .or(change)
        // What only makes the service weaker keeps nobody waiting.
        .or(degraded.filter(|it| it.reason.on.iter().any(|on| on.name == READY.name)))
        .or(progress);
    match bad {
        Some(it) => list.set(&READY, Status::False, fits(it.reason, &READY), it.message),
        None => list.set(
            &READY,
            Status::True,
            &AS_DESIRED,
            format!("{} members are caught up", members.all.len()),
        ),
    }
    passed_on(list, report);
}

/// Whether snapshots are made: as the manifest says, else as it said before; `None`: nobody knows.
fn is_saved(report: &Report<'_>) -> Option<bool> {
    let of = |kind: SnapshotType| kind != SnapshotType::None;
    let told = || {
        let mut groups = report.views.iter().filter_map(|it| it.own(report.uid));
        groups.next().map(|it| of(it.spec.state.snapshot.kind))
    };
    let valid = report.valid.map(|it| of(it.spec.state.snapshot.kind));
    valid.or_else(told)
}

fn log_unbounded(list: &mut Conditions<'_>, saved: Option<bool>, members: &Tally<'_>) {
    match saved {
        Some(true) => list.set(&LOG_UNBOUNDED, Status::False, &AS_DESIRED, ""),
        Some(false) => {
            let sizes = members.all.iter().filter_map(|(_, it)| *it);
            let most = sizes.map(|it| it.log_mebibytes).max().unwrap_or(0);
            let message = format!(
                "the app's state cannot be saved (spec.state.snapshot), so all requests are kept and \
                 replayed: the log has up to {most} MiB"
            );
            list.set(
                &LOG_UNBOUNDED,
                Status::True,
                &conditions::NO_SNAPSHOT,
                message,
            );
        }
        None => {}
    }
}

fn unverified(snapshot: Option<&SnapshotStatus>) -> Option<Matter> {
    let snapshot = snapshot.filter(|it| it.standing == Standing::Unverified)?;
    Some(matter(
        &conditions::UNVERIFIED_SNAPSHOT,
        format!(
            "copies were not compared on the newest snapshot, of slot {}",
            snapshot.slot
        ),
    ))
}

fn skipped(status: &ReplicatedServiceStatus, now: Timestamp) -> Option<Matter> {
    let latest = findings::lately(&status.skipped, now)?;
    let words = findings::words_of_skip(latest);
    Some(matter(&conditions::REQUEST_SKIPPED, words))
}

/// Whether copies answer alike, as a leader says; without one as it was.
fn diverged(list: &mut Conditions<'_>, report: &Report<'_>, before: &[Condition]) {
    match findings::diverged(report.views, report.uid) {
        Some(found) if found.is_empty() => list.set(&DIVERGED, Status::False, &AS_DESIRED, ""),
        Some(found) => {
            let reason = if found.iter().any(|it| it.is_tie()) {
                &conditions::COPIES_DISAGREE
            } else {
                &conditions::COPY_DIFFERS
            };
            let words = conditions::shorten(findings::words_of_diverged(&found), 4_000);
            list.set(&DIVERGED, Status::True, reason, words);
        }
        None => {
            if let Some(before) = conditions::find(before, &DIVERGED) {
                list.keep(before);
            }
        }
    }
}

/// What the manifest asks for and this version leaves as it is.
fn not_done(report: &Report<'_>) -> Option<Matter> {
    let several = report.views.len() > 1;
    report.views.iter().find_map(|view| {
        let facts = &view.own(report.uid)?.status.as_ref()?.facts;
        let mut words = facts.get(CLAIMS_FACT)?.clone();
        if several {
            words = format!("cluster {}: {words}", view.cluster);
        }
        Some(matter(&conditions::CLAIM_CHANGE_UNSUPPORTED, words))
    })
}

/// A reason that has no place on a condition counts as an error of the operator.
fn fits(reason: &'static Reason, kind: &'static Kind) -> &'static Reason {
    conditions::named(reason.name, kind)
}

pub(super) fn matter(reason: &'static Reason, message: impl Into<String>) -> Matter {
    Matter {
        reason,
        message: message.into(),
    }
}

/// A request that no copy gets past: clients get 503 until it is decided what becomes of it.
pub(super) fn undecided(report: &Report<'_>) -> Option<Matter> {
    let found = findings::undecided(report.views, report.uid)?;
    let words = findings::words_of_undecided(found);
    Some(matter(&conditions::POISON_UNDECIDED, words))
}

pub(super) fn not_formed(report: &Report<'_>, roster: &Roster) -> Matter {
    match &report.waits {
        Some(NotYet::Waiting(who)) => {
            let pieces = who
                .iter()
                .map(|(name, words)| (name.as_str(), words.as_str()));
            matter(&conditions::WAITING_FOR_MEMBERS, conditions::told(pieces))
        }
        Some(NotYet::Impossible(why)) => matter(&conditions::WAITING_FOR_MEMBERS, why),
        _ if roster.formed == Formed::No => {
            matter(&conditions::WAITING_FOR_MEMBERS, "no member has reported")
        }
        _ => matter(
            &conditions::FORMING,
            "the first configuration is being handed to the members",
        ),
    }
}

/// What a cluster's operator goes on with no further.
fn stalled_there(report: &Report<'_>) -> Option<Stall> {
    group_conditions(report, &STALLED, Status::True.as_str())
        .next()
        .map(|(reason, message)| Stall { reason, message })
}

/// Conditions of this kind and status in the groups.
fn group_conditions<'a>(
    report: &'a Report<'_>,
    kind: &'static Kind,
    status: &'a str,
) -> impl Iterator<Item = (&'static Reason, String)> + 'a {
    let several = report.views.len() > 1;
    report.views.iter().filter_map(move |view| {
        let conditions = &view.own(report.uid)?.status.as_ref()?.conditions;
        let found = conditions::find(conditions, kind).filter(|it| it.status == status)?;
        let reason = conditions::named(&found.reason, kind);
        let mut message = found.message.clone();
        if reason.name != found.reason {
            message = format!("{}: {message}", found.reason);
        }
        if several {
            message = format!("cluster {}: {message}", view.cluster);
        }
        Some((reason, message))
    })
}

/// What is under way.
fn progress(report: &Report<'_>, roster: &Roster, members: &Tally<'_>) -> Option<Matter> {
    if let Some(failure) = report.failures.first() {
        return Some(matter(&conditions::OPERATOR_ERROR, failure));
    }
    if roster.formed == Formed::No || members.epoch().is_none() {
        return Some(not_formed(report, roster));
    }
    if let Some(it) = members_change(report).or_else(|| another_revision(report)) {
        return Some(it);
    }
    for view in report.views.iter().filter(|it| it.is_open()) {
        if !view.is_settled(report.uid) {
            let message = format!(
                "the operator of cluster {} has not taken up the last change",
                view.cluster
            );
            return Some(matter(&conditions::WAITING_FOR_CLUSTER, message));
        }
    }
    let old = members.names(|status| !status.updated);
    if !old.is_empty() {
        let mut message = format!("still to be restarted: {}", old.join(", "));
        let sick = plan::holds_up(roster, report.views);
        if !sick.is_empty() {
            write!(
                message,
                "; not before all members are well in {}",
                sick.join(", ")
            )
            .expect("a string takes everything");
        }
        return Some(matter(&conditions::ROLLING_OUT, message));
    }
    let late = members.names(|it| {
        !it.ready || it.state == MemberState::CatchingUp || it.state == MemberState::Rebuilding
    });
    if !late.is_empty() {
        let message = format!("not caught up yet: {}", late.join(", "));
        return Some(matter(&conditions::WAITING_FOR_MEMBERS, message));
    }
    let bad = group_conditions(report, &READY, Status::False.as_str()).next();
    bad.map(|(reason, message)| matter(fits(reason, &PROGRESSING), message))
}

/// The step by which the members become those that they should be, and why it is not taken yet.
fn members_change(report: &Report<'_>) -> Option<Matter> {
    let (reason, words) = report.valid?.course.under_way.as_ref()?;
    let mut groups = report.views.iter().filter_map(|it| it.own(report.uid));
    let refused = groups.find_map(|it| it.status.as_ref()?.facts.get(CHANGE_FACT));
    let words = refused.map_or_else(|| words.clone(), |why| format!("{words}; {why}"));
    Some(matter(reason, words))
}

/// The step by which another revision of the app takes over.
fn another_revision(report: &Report<'_>) -> Option<Matter> {
    let (reason, words) = report.valid?.revisions.under_way.as_ref()?;
    Some(matter(reason, words))
}

/// The next one runs along silently, and does not do what the one in force does: it stays at that.
fn revisions_disagree(report: &Report<'_>) -> Option<Matter> {
    let words = report.valid?.revisions.disagreement.as_ref()?;
    Some(matter(&conditions::REVISIONS_DISAGREE, words))
}

/// What is less than it should be.
fn degraded(report: &Report<'_>, roster: &Roster, members: &Tally<'_>) -> Option<Matter> {
    let of = members::clusters(&roster.members);
    for view in report
        .views
        .iter()
        .filter(|it| of.contains(&it.cluster.as_str()))
    {
        let cluster = &view.cluster;
        match &view.access {
            Access::Open | Access::Starting => {}
            Access::Unreachable { since, problem } => {
                return Some(matter(
                    &conditions::CLUSTER_UNREACHABLE,
                    format!(
                        "cluster {cluster} does not answer since {}: {problem}",
                        second(*since)
                    ),
                ));
            }
            Access::Refused(problem) => {
                return Some(matter(
                    &conditions::UNKNOWN_CLUSTER,
                    format!("cluster {cluster}: {problem}"),
                ));
            }
            Access::Unknown => {
                return Some(matter(
                    &conditions::UNKNOWN_CLUSTER,
                    format!("cluster {cluster} is not registered any more, and members are there"),
                ));
            }
        }
    }
    if let Some(it) = undecided(report).or_else(|| lost(roster, members)) {
        return Some(it);
    }
    if let Some(it) = &report.degraded {
        return Some(it.clone());
    }
    if let Some(it) = ending(report) {
        return Some(it);
    }
    let quarantined = findings::quarantined(report.views, report.uid);
    if !quarantined.is_empty() {
        return Some(matter(
            &conditions::MEMBER_QUARANTINED,
            quarantined.join(", "),
        ));
    }
    if let Some((reason, message)) =
        group_conditions(report, &DEGRADED, Status::True.as_str()).next()
    {
        return Some(matter(reason, message));
    }
    if members.epoch().is_some() {
        let silent = members.silent();
        if !silent.is_empty() {
            return Some(matter(&conditions::MEMBER_UNREACHABLE, silent.join(", ")));
        }
    }
    None
}

/// A certificate that was not renewed in time: members go on, and not for ever.
fn ending(report: &Report<'_>) -> Option<Matter> {
    group_conditions(report, &CERTIFICATES_VALID, Status::False.as_str())
        .find(|(reason, _)| *reason == &conditions::CERTIFICATE_ENDS)
        .map(|(reason, message)| matter(reason, message))
}

/// Members whose log is not the one that they are in the group with (rule M4).
fn lost(roster: &Roster, members: &Tally<'_>) -> Option<Matter> {
    let lost = members.names(|it| {
        let mut all = roster.members.iter().map(|it| &it.member);
        let known = all.find(|member| member.name == it.name);
        let known = known.filter(|it| !it.incarnation.is_empty());
        known.is_some_and(|member| {
            !it.incarnation.is_empty() && it.incarnation != member.incarnation
        })
    });
    (!lost.is_empty()).then(|| {
        matter(
            &conditions::MEMBER_LOST,
            format!(
                "{}: the volume with its log is another one; the others go on without it",
                lost.join(", ")
            ),
        )
    })
}

/// Conditions about particular matters, as the clusters report them: the worst of each.
fn passed_on(list: &mut Conditions<'_>, report: &Report<'_>) {
    for kind in [&CERTIFICATES_VALID, &conditions::TRAFFIC_INTERCEPTED] {
        let good = kind.good.as_str();
        let all = report.views.iter().filter_map(|view| {
            let status = view.own(report.uid)?.status.as_ref()?;
            Some((view, conditions::find(&status.conditions, kind)?))
        });
        let worst = all.min_by_key(|(_, it)| it.status == good);
        if let Some((view, it)) = worst {
            let message = if it.status == good || report.views.len() == 1 {
                it.message.clone()
            } else {
                format!("cluster {}: {}", view.cluster, it.message)
            };
            list.copy(it, message);
        }
    }
}

/// Whether a cluster is concerned of which this status does not tell.
pub(crate) fn is_news(before: &ReplicatedServiceStatus, views: &[View]) -> bool {
    let known = |it: &View| before.clusters.iter().any(|old| old.name == it.cluster);
    !views.iter().all(known)
}

/// The same status, but for the clusters.
pub(crate) fn with_clusters(
    before: &ReplicatedServiceStatus,
    views: &[View],
) -> ReplicatedServiceStatus {
    ReplicatedServiceStatus {
        clusters: view::clusters(views),
        ..before.clone()
    }
}

fn second(it: Timestamp) -> Timestamp {
    Timestamp::from_second(it.as_second()).unwrap_or(it)
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
