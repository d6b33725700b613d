//! What is reported of a service. Comes in: what was planned, seen and failed. Goes out: its status.
//! Pure.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::jiff::Timestamp;
use synod_api::{
    ClusterStatus, GroupMemberStatus, LeaderStatus, MemberRole, MemberState, MemberStatus,
    ProtocolStatus, ReplicatedServiceStatus, SnapshotType, Summary, Tolerates,
};

use super::genesis::{GenesisFile, NotYet};
use super::members::{self, Member};
use super::plan;
use super::validate::{Formed, Stall, Valid};
use super::view::{self, Access, View};
use crate::conditions::{
    self, AS_DESIRED, AVAILABLE, Conditions, DEGRADED, Kind, LOG_UNBOUNDED, PROGRESSING, READY,
    RECONCILING, Reason, STALLED, Status,
};

/// One look at a service.
pub(crate) struct Report<'a> {
    /// The service, if it can be worked on.
    pub(crate) valid: Option<&'a Valid>,
    /// Why it cannot, or why it goes on no further.
    pub(crate) stall: Option<Stall>,
    /// Why it is not formed yet.
    pub(crate) waits: Option<NotYet>,
    /// What failed and is tried again, by cluster.
    pub(crate) failures: Vec<String>,
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

/// The members as they are, with what is expected of them.
struct Members<'a> {
    all: Vec<(&'a Member, Option<&'a GroupMemberStatus>)>,
    leader: Option<String>,
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
    status.clusters = clusters(report.views);
    let Some(valid) = report.valid else {
        // What runs goes on; what is known of it is not refreshed, as nobody knows what it should be.
        let stall = report.stall.as_ref().expect("what is not valid is stalled");
        refused(&mut list, stall, before);
        status.conditions = list.finish();
        return status;
    };
    let members = Members::new(valid, report);
    members.fill(&mut status, valid);
    status.endpoint = Some(format!(
        "{}.{}.svc:{}",
        valid.spec.service.name.as_deref().unwrap_or(&valid.name),
        report.namespace,
        valid.spec.service.port
    ));
    judge(&mut list, report, valid, &members);
    status.conditions = list.finish();
    status
}

/// What cannot be worked on. Whether clients are served goes on being what it was.
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
    match conditions::find(&before.conditions, &AVAILABLE) {
        Some(it) if before.epoch.is_some() => list.copy(it, it.message.clone()),
        _ => list.set(&AVAILABLE, Status::False, fits(reason, &AVAILABLE), message),
    }
}

fn judge(list: &mut Conditions<'_>, report: &Report<'_>, valid: &Valid, members: &Members<'_>) {
    let available = available(report, valid, members);
    let stall = report.stall.clone().or_else(|| stalled_there(report));
    let progress = progress(report, valid, members);
    let degraded = degraded(report, valid, members);
    let formed = valid.formed != Formed::No;

    list.set(
        &AVAILABLE,
        available.0,
        available.1.reason,
        available.1.message.clone(),
    );
    if let Some(Stall { reason, message }) = &stall {
        list.set(&STALLED, Status::True, fits(reason, &STALLED), message);
    }
    match (&progress, &valid.change) {
        _ if report.paused => list.set(
            &PROGRESSING,
            Status::False,
            &conditions::PAUSED,
            "spec.paused is set: nothing is changed",
        ),
        (_, Some(change)) => list.set(
            &PROGRESSING,
            Status::False,
            &conditions::MEMBERSHIP_CHANGE_UNSUPPORTED,
            change,
        ),
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
        .or_else(|| {
            valid.change.as_ref().map(|it| Matter {
                reason: &conditions::MEMBERSHIP_CHANGE_UNSUPPORTED,
                message: it.clone(),
            })
        })
        .or(degraded)
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
    if valid.spec.state.snapshot.kind == SnapshotType::None {
        list.set(
            &LOG_UNBOUNDED,
            Status::True,
            &conditions::NO_SNAPSHOT,
            "spec.state.snapshot.type is None: all requests are kept and replayed",
        );
    }
}

/// A reason that has no place on a condition counts as an error of the operator.
fn fits(reason: &'static Reason, kind: &'static Kind) -> &'static Reason {
    conditions::named(reason.name, kind)
}

fn matter(reason: &'static Reason, message: impl Into<String>) -> Matter {
    Matter {
        reason,
        message: message.into(),
    }
}

/// Whether clients are served, as far as it can be seen from here.
fn available(report: &Report<'_>, valid: &Valid, members: &Members<'_>) -> (Status, Matter) {
    let running = members.epoch().is_some();
    if valid.formed == Formed::No || (!running && members.hidden().is_empty()) {
        let why = not_formed(report, valid);
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

fn not_formed(report: &Report<'_>, valid: &Valid) -> Matter {
    match &report.waits {
        Some(NotYet::Waiting(who)) => {
            let pieces = who
                .iter()
                .map(|(name, words)| (name.as_str(), words.as_str()));
            matter(&conditions::WAITING_FOR_MEMBERS, conditions::told(pieces))
        }
        Some(NotYet::Impossible(why)) => matter(&conditions::WAITING_FOR_MEMBERS, why),
        _ if valid.formed == Formed::No => {
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
fn progress(report: &Report<'_>, valid: &Valid, members: &Members<'_>) -> Option<Matter> {
    if let Some(failure) = report.failures.first() {
        return Some(matter(&conditions::OPERATOR_ERROR, failure));
    }
    if valid.formed == Formed::No || members.epoch().is_none() {
        return Some(not_formed(report, valid));
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
        let message = format!("still to be restarted: {}", old.join(", "));
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

/// What is less than it should be.
fn degraded(report: &Report<'_>, valid: &Valid, members: &Members<'_>) -> Option<Matter> {
    let of = members::clusters(&valid.members);
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
    if let Some(it) = lost(valid, members) {
        return Some(it);
    }
    if let Some(it) = &report.degraded {
        return Some(it.clone());
    }
    let quarantined = members.names(|it| it.state == MemberState::Quarantined);
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
        let silent = members.names(|it| it.state == MemberState::Unreachable);
        if !silent.is_empty() {
            return Some(matter(&conditions::MEMBER_UNREACHABLE, silent.join(", ")));
        }
    }
    None
}

/// Members whose log is not the one that they were formed with (rule M4): told, never acted upon.
fn lost(valid: &Valid, members: &Members<'_>) -> Option<Matter> {
    let Formed::Genesis(text) = &valid.formed else {
        return None;
    };
    let genesis = GenesisFile::parse(text).ok()?;
    let first: BTreeMap<&str, &str> = genesis
        .members
        .iter()
        .map(|it| (it.name.as_str(), it.incarnation.as_str()))
        .collect();
    let lost = members.names(|it| {
        !it.incarnation.is_empty()
            && first
                .get(it.name.as_str())
                .is_some_and(|was| *was != it.incarnation)
    });
    (!lost.is_empty()).then(|| {
        matter(
            &conditions::MEMBER_LOST,
            format!(
                "{}: the volume with its log is not the one it began with; the others go on without it",
                lost.join(", ")
            ),
        )
    })
}

/// Conditions about particular matters, as the clusters report them: the worst of each.
fn passed_on(list: &mut Conditions<'_>, report: &Report<'_>) {
    for kind in [
        &conditions::CERTIFICATES_VALID,
        &conditions::TRAFFIC_INTERCEPTED,
        &conditions::LOG_UNBOUNDED,
        &conditions::DIVERGED,
        &conditions::CLOCK_SKEWED,
    ] {
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

fn clusters(views: &[View]) -> Vec<ClusterStatus> {
    views
        .iter()
        .map(|it| ClusterStatus {
            name: it.cluster.clone(),
            region: it.region.clone(),
            reachable: it.is_open(),
        })
        .collect()
}

fn second(it: Timestamp) -> Timestamp {
    Timestamp::from_second(it.as_second()).unwrap_or(it)
}

// === impl Members ===

impl<'a> Members<'a> {
    fn new(valid: &'a Valid, report: &Report<'a>) -> Self {
        let current = view::current(report.views, report.uid);
        let followed: Vec<&str> = current.values().map(|it| it.leader.as_str()).collect();
        let leader = plan::leader(&followed)
            .filter(|name| valid.members.iter().any(|it| it.member.name == *name));
        let all = valid
            .members
            .iter()
            .map(|it| (it, current.get(it.member.name.as_str()).copied()))
            .collect();
        Self { all, leader }
    }

    /// The latest configuration that anybody acts in.
    fn epoch(&self) -> Option<u64> {
        let epochs = self.all.iter().filter_map(|(_, it)| it.map(|it| it.epoch));
        epochs.max().filter(|it| *it > 0)
    }

    /// Names of members that say of themselves what is asked.
    fn names(&self, test: impl Fn(&GroupMemberStatus) -> bool) -> Vec<&'a str> {
        self.all
            .iter()
            .filter(|(_, it)| it.is_some_and(&test))
            .map(|(it, _)| it.member.name.as_str())
            .collect()
    }

    fn is_alive(status: Option<&GroupMemberStatus>) -> bool {
        status.is_some_and(|it| it.ready && it.epoch > 0 && it.state != MemberState::Unreachable)
    }

    /// Votes that are there, of all.
    fn votes(&self) -> (u32, u32) {
        let voters = || {
            self.all
                .iter()
                .filter(|(it, _)| members::votes(it.member.role))
        };
        let alive = voters().filter(|(_, it)| Self::is_alive(*it)).count();
        (alive as u32, voters().count() as u32)
    }

    /// Voters that nobody here hears of.
    fn hidden(&self) -> Vec<&'a str> {
        self.all
            .iter()
            .filter(|(it, status)| members::votes(it.member.role) && status.is_none())
            .map(|(it, _)| it.member.name.as_str())
            .collect()
    }

    /// Voters that are not there.
    fn gone(&self) -> Vec<&'a str> {
        self.all
            .iter()
            .filter(|(it, status)| members::votes(it.member.role) && !Self::is_alive(*status))
            .map(|(it, _)| it.member.name.as_str())
            .collect()
    }

    /// How many more may be lost, whichever they are.
    fn tolerates(&self) -> Tolerates {
        let (alive, all) = self.votes();
        let quorum = all / 2 + 1;
        let mut regions: BTreeMap<&str, u32> = BTreeMap::new();
        for (it, status) in &self.all {
            if members::votes(it.member.role) && Self::is_alive(*status) {
                *regions.entry(&it.region).or_default() += 1;
            }
        }
        let mut sizes: Vec<u32> = regions.into_values().collect();
        sizes.sort_unstable_by(|a, b| b.cmp(a));
        let mut left = alive;
        let mut lost = 0;
        for size in sizes {
            left = left.saturating_sub(size);
            if left < quorum {
                break;
            }
            lost += 1;
        }
        Tolerates {
            members: alive.saturating_sub(quorum),
            regions: lost,
        }
    }

    fn fill(&self, status: &mut ReplicatedServiceStatus, valid: &Valid) {
        let voters =
            |it: &&(&Member, Option<&GroupMemberStatus>)| it.0.member.role == MemberRole::Voter;
        status.epoch = self.epoch().or(status.epoch);
        status.leader = self.leader.as_ref().and_then(|name| {
            let (it, _) = self.all.iter().find(|(it, _)| it.member.name == *name)?;
            Some(LeaderStatus {
                member: name.clone(),
                cluster: it.cluster.clone(),
                region: it.region.clone(),
            })
        });
        status.replicas = self.all.iter().filter(voters).count() as u32;
        status.ready_replicas = self
            .all
            .iter()
            .filter(voters)
            .filter(|(_, it)| Self::is_alive(*it))
            .count() as u32;
        status.selector = format!("synod.dev/service={}", valid.name);
        status.members = self
            .all
            .iter()
            .map(|(it, status)| member(it, *status))
            .collect();
        status.tolerates = self.epoch().map(|_| self.tolerates());
        status.protocol = protocol(valid, &self.all);
        let ready = self
            .all
            .iter()
            .filter(|(_, it)| Self::is_alive(*it))
            .count();
        let regions: BTreeSet<&str> = self.all.iter().map(|(it, _)| it.region.as_str()).collect();
        status.summary = Some(Summary {
            members: format!("{ready}/{}", self.all.len()),
            tolerates: status.tolerates.map_or_else(String::new, |it| {
                if regions.len() > 1 && it.regions > 0 {
                    count(it.regions, "region")
                } else {
                    count(it.members, "member")
                }
            }),
        });
    }
}

fn count(number: u32, word: &str) -> String {
    match number {
        0 => "none".to_owned(),
        1 => format!("1 {word}"),
        _ => format!("{number} {word}s"),
    }
}

fn member(it: &Member, status: Option<&GroupMemberStatus>) -> MemberStatus {
    MemberStatus {
        name: it.member.name.clone(),
        cluster: it.cluster.clone(),
        region: it.region.clone(),
        role: status.and_then(|it| it.role).unwrap_or(it.member.role),
        state: status.map_or(MemberState::Unreachable, |it| it.state),
        incarnation: status.map_or_else(String::new, |it| it.incarnation.clone()),
        revision: 0,
    }
}

fn protocol(
    valid: &Valid,
    all: &[(&Member, Option<&GroupMemberStatus>)],
) -> Option<ProtocolStatus> {
    let Formed::Genesis(text) = &valid.formed else {
        return None;
    };
    let current = GenesisFile::parse(text).ok()?.protocol;
    let heard = all.iter().filter_map(|(_, it)| it.map(|it| it.protocol[1]));
    let supported = heard.filter(|it| *it > 0).min().unwrap_or(current);
    Some(ProtocolStatus { current, supported })
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
