//! From a valid service and what is known of the clusters to the work for each. Pure.

use std::collections::BTreeMap;

use synod_api::{GroupIssuer, GroupMemberStatus, GroupPeer, MemberState, ReplicaGroupSpec};

use super::authority::{Asks, Issued};
use super::founding;
use super::genesis::{self, NotYet};
use super::members::{self, workload};
use super::rollout::{self, Candidate};
use super::roster::{Formed, Roster};
use super::snapshots::Asked;
use super::validate::{Stall, Valid};
use super::view::{self, View};
use crate::conditions;

/// What is to be done.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// The group of each cluster, as it should be.
    pub(crate) groups: Vec<(String, ReplicaGroupSpec)>,
    /// Clusters whose group should not be there: nobody there is needed.
    pub(crate) surplus: Vec<String>,
}

// === impl Plan ===

impl Plan {
    /// Lets a member make a snapshot.
    pub(crate) fn ask(&mut self, asked: Asked) {
        let mut groups = self.groups.iter_mut();
        if let Some((_, group)) = groups.find(|(cluster, _)| *cluster == asked.cluster) {
            group.snapshot = Some(asked.request);
        }
    }
}

/// What is to be written down before anything else, once and for all.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// Key in the record.
    pub(crate) key: &'static str,
    /// The text.
    pub(crate) text: String,
}

/// What each cluster has and wants of the authority.
pub(crate) fn asks(roster: &Roster, views: &[View]) -> Vec<Asks> {
    members::clusters(&roster.members)
        .into_iter()
        .map(|cluster| {
            let group = view::find(views, cluster).and_then(|it| it.own(&roster.uid));
            let settled = view::find(views, cluster).is_some_and(|it| it.is_settled(&roster.uid));
            let issuer = group.map(|it| it.spec.issuer.clone()).unwrap_or_default();
            Asks {
                cluster: cluster.to_owned(),
                workload: workload(&roster.name, cluster),
                request: group
                    .and_then(|it| it.status.as_ref())
                    .map(|it| it.issuer_request.clone())
                    .unwrap_or_default(),
                chain: issuer.chain,
                roots: if settled { issuer.roots } else { String::new() },
            }
        })
        .collect()
}

/// The record that is due: the genesis, once every member has reported.
pub(crate) fn record(valid: &Valid, views: &[View]) -> Result<Record, Wait> {
    let roster = &valid.roster;
    if roster.formed != Formed::No {
        return Err(Wait::Nothing);
    }
    if let Some(stall) = blocked(roster, views) {
        return Err(Wait::Stall(stall));
    }
    let mut unsettled = Vec::new();
    for cluster in members::clusters(&roster.members) {
        // What a cluster said before it fell silent may not be so any more.
        match view::find(views, cluster).filter(|it| it.is_open()) {
            None => unsettled.push((
                format!("cluster {cluster}"),
                "it does not answer".to_owned(),
            )),
            Some(it) if !it.is_settled(&roster.uid) => unsettled.push((
                format!("cluster {cluster}"),
                "its operator has not taken up its part".to_owned(),
            )),
            Some(_) => {}
        }
    }
    if !unsettled.is_empty() {
        return Err(Wait::Members(NotYet::Waiting(unsettled)));
    }
    if let Some(record) = founding::record(valid, views) {
        return record;
    }
    let reported = view::reported(views, &roster.uid);
    let policy = genesis::policy_hex(&roster.name, &valid.spec);
    match genesis::build(&roster.name, &roster.members, &reported, policy) {
        Ok(file) => Ok(Record {
            key: genesis::GENESIS_KEY,
            text: file.text(),
        }),
        Err(NotYet::Formed(who)) => Err(Wait::Stall(Stall {
            reason: &conditions::GENESIS_LOST,
            message: format!(
                "{} say that they are a group already, but there is no record of it: put the \
                 ConfigMap {} back from a backup. If their volumes are of an earlier service: create \
                 this one again with `bootstrap: {{type: Existing}}`, or, if nobody needs them, delete \
                 their claims too",
                who.join(", "),
                genesis::record_name(&roster.name)
            ),
        })),
        Err(not_yet) => Err(Wait::Members(not_yet)),
    }
}

/// Why no record is written now.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    /// There is one.
    Nothing,
    /// Members are missing.
    Members(NotYet),
    /// Somebody must change something first.
    Stall(Stall),
}

/// What a cluster's operator refuses to go on with also keeps the service from being formed: a
/// Service that goes round the members, for one.
fn blocked(roster: &Roster, views: &[View]) -> Option<Stall> {
    views.iter().find_map(|it| {
        let status = it.own(&roster.uid)?.status.as_ref()?;
        let stalled = conditions::find(&status.conditions, &conditions::STALLED)
            .filter(|it| it.status == "True")?;
        Some(Stall {
            reason: conditions::named(&stalled.reason, &conditions::STALLED),
            message: format!("cluster {}: {}", it.cluster, stalled.message),
        })
    })
}

/// The work for every cluster.
pub(crate) fn plan(valid: &Valid, views: &[View], issued: &Issued, trust_domain: &str) -> Plan {
    let (roster, spec, course) = (&valid.roster, &valid.spec, &valid.course);
    let clusters = members::clusters(&roster.members);
    let peers = peers(roster, views);
    let granted = grant(roster, views);
    let protocol = protocol(roster, views);
    let current = valid.current();
    let others = valid.revisions.others();
    let mut plan = Plan::default();
    for cluster in &clusters {
        let members = roster.members.iter();
        let mut own: Vec<_> = members.filter(|it| it.cluster == *cluster).collect();
        own.sort_by_key(|it| members::ordinal(&it.member.name));
        let group = ReplicaGroupSpec {
            owner: roster.uid.clone(),
            cluster: (*cluster).to_owned(),
            region: own.first().map(|it| it.region.clone()).unwrap_or_default(),
            trust_domain: trust_domain.to_owned(),
            members: own.iter().map(|it| it.member.clone()).collect(),
            template: current.template.clone(),
            app: current.app.clone(),
            revision: current.number,
            revisions: others.clone(),
            log: spec.log.clone(),
            state: spec.state.clone(),
            volume_claim_retention_policy: spec.volume_claim_retention_policy,
            service: spec.service.clone(),
            sidecar: spec.sidecar.clone(),
            network: spec.network,
            leader: spec.leader.clone(),
            update: spec.update,
            overrides: valid.overrides.get(*cluster).cloned().unwrap_or_default(),
            policy: genesis::policy_hex(&roster.name, spec),
            peers: peers.clone(),
            genesis: match &roster.formed {
                Formed::Genesis(text) => Some(text.clone()),
                Formed::No | Formed::Earlier(_) => None,
            },
            founding: founding::founding(spec, &roster.formed, cluster),
            issuer: issuer(issued, cluster),
            rollout: granted.get(cluster).copied().unwrap_or(false),
            paused: false,
            snapshot: None,
            protocol,
            epoch: roster.epoch,
            change: course.change_in(cluster),
            revise: valid.revisions.revise_in(cluster),
            along: valid.revisions.along_in(cluster),
            join: course.join_in(cluster),
        };
        plan.groups.push(((*cluster).to_owned(), group));
    }
    plan.surplus = views
        .iter()
        .filter(|it| it.own(&roster.uid).is_some() && !clusters.contains(&it.cluster.as_str()))
        .map(|it| it.cluster.clone())
        .collect();
    plan
}

/// Of a service that nothing new is done for, since its manifest is refused or says so: its groups
/// stay as they are, but for what members cannot do without for long. They learn where the others
/// are, have certificates, and finish what was begun only while that is safe. `paused`: what groups
/// are told about that; `None`: what they were told before.
pub(crate) fn upkeep(
    roster: &Roster,
    views: &[View],
    issued: &Issued,
    paused: Option<bool>,
) -> Plan {
    let peers = peers(roster, views);
    let granted = grant(roster, views);
    let groups = members::clusters(&roster.members)
        .into_iter()
        .filter_map(|cluster| {
            let mut spec = view::find(views, cluster)?.own(&roster.uid)?.spec.clone();
            spec.peers.clone_from(&peers);
            spec.issuer = issuer(issued, cluster);
            spec.rollout = granted.get(cluster).copied().unwrap_or(false);
            spec.paused = paused.unwrap_or(spec.paused);
            spec.change = None;
            spec.revise = None;
            if let Some(along) = &mut spec.along {
                along.member.clear();
            }
            Some((cluster.to_owned(), spec))
        });
    Plan {
        groups: groups.collect(),
        surplus: Vec::new(),
    }
}

/// Of a service that was not formed and is paused: its groups stay as they are, and are told to do
/// nothing.
pub(crate) fn paused(uid: &str, views: &[View]) -> Plan {
    let groups = views
        .iter()
        .filter_map(|it| {
            let mut spec = it.own(uid)?.spec.clone();
            spec.paused = true;
            Some((it.cluster.clone(), spec))
        })
        .collect();
    Plan {
        groups,
        surplus: Vec::new(),
    }
}

/// The protocol version that the group is raised to: the highest that every member speaks, once all
/// of them are heard and none is to be restarted any more. There is no way back. 0: it stays as it is.
fn protocol(roster: &Roster, views: &[View]) -> u32 {
    let current = view::current(views, &roster.uid);
    let members = roster.members.iter();
    let heard: Option<Vec<_>> = members
        .map(|it| current.get(it.member.name.as_str()).copied())
        .collect();
    let Some(heard) = heard.filter(|_| roster.formed != Formed::No) else {
        return 0;
    };
    let done = |it: &&GroupMemberStatus| {
        it.updated && it.ready && it.epoch > 0 && it.state != MemberState::Unreachable
    };
    let spoken = heard.iter().map(|it| it.protocol[1]).min().unwrap_or(0);
    let in_force = heard.iter().map(|it| it.protocol_in_force).max();
    // A cluster that is told so has other work, which it has to take up, because of that.
    let settled = |cluster: &&str| {
        let view = view::find(views, cluster);
        view.is_some_and(|it| {
            let told = it
                .own(&roster.uid)
                .is_some_and(|it| it.spec.protocol == spoken);
            it.is_settled(&roster.uid) || told
        })
    };
    let behind = in_force.is_some_and(|it| it > 0 && it < spoken);
    let settled = members::clusters(&roster.members).iter().all(settled);
    if behind && settled && heard.iter().all(done) {
        spoken
    } else {
        0
    }
}

fn issuer(issued: &Issued, cluster: &str) -> GroupIssuer {
    GroupIssuer {
        roots: issued.roots.clone(),
        chain: issued.chains.get(cluster).cloned().unwrap_or_default(),
    }
}

/// One table for all clusters: what members report, and where nobody reports, what was known last.
fn peers(roster: &Roster, views: &[View]) -> Vec<GroupPeer> {
    let mut known: BTreeMap<&str, &str> = BTreeMap::new();
    for view in views {
        let Some(group) = view.own(&roster.uid) else {
            continue;
        };
        for it in &group.spec.peers {
            known.insert(&it.name, &it.address);
        }
    }
    for (name, status) in view::reported(views, &roster.uid) {
        if !status.endpoint.is_empty() {
            known.insert(name, &status.endpoint);
        }
    }
    roster
        .members
        .iter()
        .filter_map(|it| {
            let address = known.get(it.member.name.as_str())?;
            Some(GroupPeer {
                name: it.member.name.clone(),
                address: (*address).to_owned(),
                role: it.member.role,
            })
        })
        .collect()
}

fn grant<'a>(roster: &'a Roster, views: &[View]) -> BTreeMap<&'a str, bool> {
    let candidates = candidates(roster, views);
    let granted = rollout::grant(&candidates, roster.formed != Formed::No);
    members::clusters(&roster.members)
        .into_iter()
        .map(|it| (it, granted.get(it).copied().unwrap_or(false)))
        .collect()
}

/// Clusters that keep others from replacing pods.
pub(crate) fn holds_up(roster: &Roster, views: &[View]) -> Vec<String> {
    let candidates = candidates(roster, views);
    let names = rollout::waits_for(&candidates).into_iter();
    names.map(str::to_owned).collect()
}

fn candidates(roster: &Roster, views: &[View]) -> Vec<Candidate> {
    let current = view::current(views, &roster.uid);
    let reported = view::reported(views, &roster.uid);
    let followed: Vec<_> = current.values().map(|it| it.leader.as_str()).collect();
    let leader = leader(&followed);
    members::clusters(&roster.members)
        .into_iter()
        .map(|cluster| {
            let view = view::find(views, cluster);
            let own = roster.members.iter().filter(|it| it.cluster == cluster);
            let names: Vec<&str> = own.map(|it| it.member.name.as_str()).collect();
            // Only of clusters that answer: what others said may not be so any more.
            let states = || names.iter().filter_map(|it| current.get(it));
            Candidate {
                cluster: cluster.to_owned(),
                holds: view
                    .and_then(|it| it.own(&roster.uid))
                    .is_some_and(|it| it.spec.rollout),
                // One that answers and has no group holds nothing and has nothing to see; of one that
                // does not answer and was never seen, nobody knows.
                settled: view.is_some_and(|it| {
                    it.is_settled(&roster.uid) || (it.group.is_none() && it.is_open())
                }),
                needs: names
                    .iter()
                    .filter_map(|it| reported.get(it))
                    .any(|it| !it.updated),
                healthy: states().count() == names.len() && states().all(|it| is_healthy(it)),
                leads: leader
                    .as_ref()
                    .is_some_and(|it| names.contains(&it.as_str())),
            }
        })
        .collect()
}

/// Its vote counts. A copy that has not caught up holds up others when it is new; when it is still
/// to be replaced, that may be what helps it.
fn is_healthy(status: &GroupMemberStatus) -> bool {
    status.ready && (status.state == MemberState::CaughtUp || !status.updated)
}

/// The leader that most members follow.
pub(crate) fn leader(followed: &[&str]) -> Option<String> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for it in followed.iter().filter(|it| !it.is_empty()) {
        *counts.entry(it).or_default() += 1;
    }
    // Of two with as many followers, always the same one.
    let most = counts
        .into_iter()
        .max_by_key(|(name, count)| (*count, std::cmp::Reverse(*name)));
    most.map(|(name, _)| name.to_owned())
}

#[cfg(test)]
#[path = "plan_tests.rs"]
pub(super) mod tests;

#[cfg(test)]
#[path = "configurations_tests.rs"]
mod configurations;
