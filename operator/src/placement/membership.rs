//! From the members that a service has to those that its manifest asks for: one step at a time, as
//! `synod_api::members` plans it. Comes in: who the members are, who is wanted, what the clusters
//! report. Goes out: who runs now, what the leader is asked for, and what is waited for. Pure, and
//! nothing is remembered: an operator that ends between two steps is followed by one that sees the same.

use std::collections::{BTreeMap, BTreeSet};

use synod_api::members::{Change, Group, Member as Known, Process, Situation, Step, Until, Wanted};
use synod_api::members::{Plan, plan};
use synod_api::{
    ConfiguredMember, GroupMemberStatus, JoiningMember, MemberState, MembersChange, Membership,
    RoleChange,
};

use super::findings;
use super::members::{self, Member};
use super::roster::{self, Roster, outside};
use super::view::{self, View};
use crate::conditions::{self, Reason};

/// Version of the members' protocol from which on members change.
const PROTOCOL: u32 = 2;

/// What is done about the members.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Course {
    /// What the leader is asked for, and the cluster that it is in.
    pub(crate) change: Option<(String, MembersChange)>,
    /// How members with an empty log get in, and the clusters where there are such.
    pub(crate) join: Option<(String, BTreeSet<String>)>,
    /// What is under way: in one word, and in many.
    pub(crate) under_way: Option<(&'static Reason, String)>,
}

/// The next step towards `wanted`. Changes `roster` to those that run now: whoever is wanted or still
/// in the group, and nobody whom nobody needs any more.
pub(crate) fn course(roster: &mut Roster, wanted: &[Member], views: &[View]) -> Course {
    let differs = !members::same(&roster.members, wanted);
    let Some(report) = roster::report(views, &roster.uid) else {
        let why = "no leader tells who the members are now";
        return Course::waits(differs, &conditions::WAITING_FOR_QUORUM, why);
    };
    let heard = view::current(views, &roster.uid);
    let in_force = heard.values().map(|it| it.protocol_in_force).max();
    if in_force.is_none_or(|it| it < PROTOCOL) {
        let why = "members change from version 2 of their protocol on, which is used once all of them \
                   run a sidecar that speaks it";
        return Course::waits(differs, &conditions::WAITING_FOR_PROTOCOL, why);
    }
    let group = known(report);
    let there = there(roster, report, &heard, views);
    let wishes: Vec<_> = wanted.iter().map(wish).collect();
    let plan = plan(Situation {
        wanted: &wishes,
        group: &group,
        there: &there,
        held: findings::undecided(views, &roster.uid).is_some(),
        given_up: &BTreeSet::new(),
    });
    run(roster, wanted, &plan, report, &heard);
    for it in &mut roster.members {
        if let Some(Some(process)) = there.get(&it.member.name)
            && plan.empty.contains(&it.member.name)
        {
            it.member.discard.clone_from(&process.incarnation);
        }
    }
    Course {
        change: change(&plan.step).and_then(|change| {
            let cluster = members::cluster_of(&roster.name, &report.leader)?;
            Some((cluster.to_owned(), change))
        }),
        join: join(&roster.name, report, &heard),
        under_way: under_way(&plan.step, differs).map(|reason| (reason, plan.step.to_string())),
    }
}

fn known(report: &Membership) -> Group {
    let members = report.members.iter().map(|it| Known {
        id: it.id,
        name: it.name.clone(),
        incarnation: it.incarnation.clone(),
        role: it.role,
        heard: it.heard,
        caught_up: it.caught_up,
    });
    Group {
        epoch: report.epoch,
        settled: report.settled,
        leader: report.leader.clone(),
        members: members.collect(),
        former: report.former.clone(),
    }
}

fn wish(member: &Member) -> Wanted {
    Wanted {
        name: member.member.name.clone(),
        role: member.member.role,
        region: member.region.clone(),
    }
}

/// What every cluster was told to run, with what it says now. One that is to join says nothing before
/// all others know where to find it.
fn there(
    roster: &Roster,
    report: &Membership,
    heard: &BTreeMap<&str, &GroupMemberStatus>,
    views: &[View],
) -> BTreeMap<String, Option<Process>> {
    let own = || views.iter().filter_map(|it| it.own(&roster.uid));
    let is_known = |name: &str| {
        let open = views.iter().filter(|it| it.is_open());
        let mut tables = open.filter_map(|it| Some(&it.own(&roster.uid)?.spec.peers));
        tables.all(|table| table.iter().any(|it| it.name == name))
    };
    let names = own().flat_map(|it| &it.spec.members).map(|it| &it.name);
    let says = |name: &String| {
        let in_it = report.members.iter().any(|it| it.name == *name);
        let status = heard.get(name.as_str())?;
        let silent = status.state == MemberState::Unreachable || status.incarnation.is_empty();
        (!silent && (in_it || is_known(name))).then(|| Process {
            incarnation: status.incarnation.clone(),
            empty: status.epoch == 0,
        })
    };
    names.map(|name| (name.clone(), says(name))).collect()
}

/// Who runs: pods are numbered without gaps, so one that could go stays while one above it must.
fn run(
    roster: &mut Roster,
    wanted: &[Member],
    plan: &Plan,
    report: &Membership,
    heard: &BTreeMap<&str, &GroupMemberStatus>,
) {
    for it in wanted
        .iter()
        .filter(|it| !roster.has(&it.member.name))
        .collect::<Vec<_>>()
    {
        roster
            .members
            .push(outside(&it.cluster, &it.region, &it.member.name));
    }
    // One that knows of a later epoch than the leader that was asked may be in the group again.
    let goes = |name: &str| {
        let later = heard.get(name).is_some_and(|it| it.epoch > report.epoch);
        !later && plan.take_away.iter().any(|it| it == name)
    };
    let mut top: BTreeMap<(String, usize), usize> = BTreeMap::new();
    let row = |it: &Member| (it.cluster.clone(), members::row(&it.member.name));
    for it in roster.members.iter().filter(|it| !goes(&it.member.name)) {
        let ordinal = members::ordinal(&it.member.name).unwrap_or(0);
        let top = top.entry(row(it)).or_default();
        *top = ordinal.max(*top);
    }
    roster.members.retain(|it| {
        let top = top.get(&row(it));
        members::ordinal(&it.member.name).is_some_and(|it| top.is_some_and(|top| it <= *top))
    });
    for ((cluster, first), top) in top {
        let region = roster.members.iter().find(|it| it.cluster == cluster);
        let region = region.map(|it| it.region.clone()).unwrap_or_default();
        for ordinal in first..top {
            let name = members::name(&roster.name, &cluster, ordinal);
            if !roster.has(&name) {
                roster.members.push(outside(&cluster, &region, &name));
            }
        }
    }
}

/// A step as the leader's operator is told of it.
fn change(step: &Step) -> Option<MembersChange> {
    let Step::Change { epoch, changes } = step else {
        return None;
    };
    let mut change = MembersChange {
        epoch: *epoch,
        ..MembersChange::default()
    };
    for it in changes {
        match it {
            Change::Join {
                name,
                incarnation,
                region,
                role,
            } => change.join.push(JoiningMember {
                name: name.clone(),
                incarnation: incarnation.clone(),
                region: region.clone(),
                role: *role,
            }),
            Change::Leave { id, .. } => change.leave.push(*id),
            Change::Become { id, role, .. } => {
                change.roles.push(RoleChange {
                    id: *id,
                    role: *role,
                });
            }
        }
    }
    Some(change)
}

/// Members that are in the group and have nothing in their logs yet.
fn join(
    service: &str,
    report: &Membership,
    heard: &BTreeMap<&str, &GroupMemberStatus>,
) -> Option<(String, BTreeSet<String>)> {
    let waits = |it: &&ConfiguredMember| {
        let status = heard.get(it.name.as_str());
        status.is_some_and(|status| status.epoch == 0 && status.incarnation == it.incarnation)
    };
    let clusters: BTreeSet<_> = report
        .members
        .iter()
        .filter(waits)
        .filter_map(|it| members::cluster_of(service, &it.name))
        .map(str::to_owned)
        .collect();
    let due = !clusters.is_empty() && !report.join.is_empty();
    due.then(|| (report.join.clone(), clusters))
}

/// `differs`: the members are not those that are wanted.
fn under_way(step: &Step, differs: bool) -> Option<&'static Reason> {
    let reason = match step {
        Step::Nothing => return None,
        // An epoch that began by itself changes nothing about what is wanted.
        Step::Wait {
            until: Until::Settled,
            ..
        } if !differs => return None,
        Step::Change { changes, .. } => {
            let mut all = changes.iter();
            let joins = changes.iter().any(|it| matches!(it, Change::Join { .. }));
            let leaves = all.any(|it| matches!(it, Change::Leave { .. }));
            match (joins, leaves) {
                (true, true) => &conditions::MEMBER_REPLACING,
                (true, false) => &conditions::MEMBER_JOINING,
                (false, _) if leaves || gives_up(changes) => &conditions::MEMBER_LEAVING,
                (false, _) => &conditions::MEMBER_CATCHING_UP,
            }
        }
        Step::Wait { until, .. } => match until {
            Until::Started | Until::Heard => &conditions::MEMBER_JOINING,
            Until::CaughtUp => &conditions::MEMBER_CATCHING_UP,
            Until::Emptied | Until::OwnDisk => &conditions::MEMBER_REPLACING,
            Until::Settled | Until::Quorum => &conditions::WAITING_FOR_QUORUM,
            Until::Poison => &conditions::MEMBER_LEAVING,
        },
    };
    Some(reason)
}

fn gives_up(changes: &[Change]) -> bool {
    let mut all = changes.iter();
    all.any(|it| matches!(it, Change::Become { role, .. } if !members::votes(*role)))
}

// === impl Course ===

impl Course {
    /// What a leader in this cluster is asked for.
    pub(crate) fn change_in(&self, cluster: &str) -> Option<MembersChange> {
        let (_, change) = self.change.as_ref().filter(|(it, _)| it == cluster)?;
        Some(change.clone())
    }

    /// How members of this cluster get in, if one of them may need it.
    pub(crate) fn join_in(&self, cluster: &str) -> Option<String> {
        let (text, _) = self.join.as_ref().filter(|(_, it)| it.contains(cluster))?;
        Some(text.clone())
    }

    /// Nothing can be planned now.
    fn waits(differs: bool, reason: &'static Reason, why: &str) -> Self {
        let words = format!("the members are to be others: {why}");
        Self {
            under_way: differs.then_some((reason, words)),
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests;
