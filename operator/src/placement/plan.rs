//! From a valid service and what is known of the clusters to the work for each. Pure.

use std::collections::BTreeMap;

use synod_api::{BootstrapType, GroupIssuer, GroupMember, GroupPeer, ReplicaGroupSpec};

use super::authority::{Asks, Issued};
use super::genesis::{self, GenesisFile, NotYet};
use super::members::{self, workload};
use super::rollout::{self, Candidate};
use super::validate::{Formed, Stall, Valid};
use super::view::{self, View};
use crate::conditions;

/// What is to be done.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// The group of each cluster, as it should be.
    pub(crate) groups: Vec<(String, ReplicaGroupSpec)>,
    /// Clusters whose group should not be there. Only before the service is formed.
    pub(crate) surplus: Vec<String>,
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
pub(crate) fn asks(valid: &Valid, views: &[View]) -> Vec<Asks> {
    members::clusters(&valid.members)
        .into_iter()
        .map(|cluster| {
            let group = view::find(views, cluster).and_then(|it| it.own(&valid.uid));
            let settled = view::find(views, cluster).is_some_and(|it| it.is_settled(&valid.uid));
            let issuer = group.map(|it| it.spec.issuer.clone()).unwrap_or_default();
            Asks {
                cluster: cluster.to_owned(),
                workload: workload(&valid.name, cluster),
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

/// The record that is due: the genesis, once every member has reported; or who the members are, of a
/// service that goes on with the data of an earlier one.
pub(crate) fn record(valid: &Valid, views: &[View]) -> Result<Record, Wait> {
    if valid.formed != Formed::No {
        return Err(Wait::Nothing);
    }
    if valid.spec.bootstrap.kind == BootstrapType::Existing {
        let text = GenesisFile::of_members(&valid.name, &valid.members).text();
        return Ok(Record {
            key: genesis::MEMBERS_KEY,
            text,
        });
    }
    if let Some(stall) = blocked(valid, views) {
        return Err(Wait::Stall(stall));
    }
    let mut unsettled = Vec::new();
    for cluster in members::clusters(&valid.members) {
        // What a cluster said before it fell silent may not be so any more.
        match view::find(views, cluster).filter(|it| it.is_open()) {
            None => unsettled.push((
                format!("cluster {cluster}"),
                "it does not answer".to_owned(),
            )),
            Some(it) if !it.is_settled(&valid.uid) => unsettled.push((
                format!("cluster {cluster}"),
                "its operator has not taken up its part".to_owned(),
            )),
            Some(_) => {}
        }
    }
    if !unsettled.is_empty() {
        return Err(Wait::Members(NotYet::Waiting(unsettled)));
    }
    let reported = view::reported(views, &valid.uid);
    let policy = genesis::policy_hex(&valid.name, &valid.spec);
    match genesis::build(&valid.name, &valid.members, &reported, policy) {
        Ok(file) => Ok(Record {
            key: genesis::GENESIS_KEY,
            text: file.text(),
        }),
        Err(NotYet::Formed(who)) => Err(Wait::Stall(Stall {
            reason: &conditions::GENESIS_LOST,
            message: format!(
                "{} say that they are a group already, but there is no record of it: their volumes \
                 are of an earlier service. Set spec.bootstrap.type to Existing to go on with \
                 their data, or delete their claims",
                who.join(", ")
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
fn blocked(valid: &Valid, views: &[View]) -> Option<Stall> {
    views.iter().find_map(|it| {
        let status = it.own(&valid.uid)?.status.as_ref()?;
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
    let clusters = members::clusters(&valid.members);
    let peers = peers(valid, views);
    let granted = grant(valid, views);
    let mut plan = Plan::default();
    for cluster in &clusters {
        let own: Vec<_> = valid
            .members
            .iter()
            .filter(|it| it.cluster == *cluster)
            .collect();
        let issuer = GroupIssuer {
            roots: issued.roots.clone(),
            chain: issued.chains.get(*cluster).cloned().unwrap_or_default(),
        };
        let spec = &valid.spec;
        let group = ReplicaGroupSpec {
            owner: valid.uid.clone(),
            cluster: (*cluster).to_owned(),
            region: own.first().map(|it| it.region.clone()).unwrap_or_default(),
            trust_domain: trust_domain.to_owned(),
            members: own
                .iter()
                .map(|it| it.member.clone())
                .collect::<Vec<GroupMember>>(),
            template: spec.template.clone().unwrap_or_default(),
            app: valid.app.clone(),
            log: spec.log.clone(),
            state: spec.state.clone(),
            volume_claim_retention_policy: spec.volume_claim_retention_policy,
            service: spec.service.clone(),
            sidecar: spec.sidecar.clone(),
            network: spec.network,
            leader: spec.leader.clone(),
            update: spec.update,
            overrides: valid.overrides.get(*cluster).cloned().unwrap_or_default(),
            policy: genesis::policy_hex(&valid.name, spec),
            peers: peers.clone(),
            genesis: match &valid.formed {
                Formed::Genesis(text) => Some(text.clone()),
                Formed::No | Formed::Earlier(_) => None,
            },
            issuer,
            rollout: granted.get(cluster).copied().unwrap_or(false),
            paused: false,
        };
        plan.groups.push(((*cluster).to_owned(), group));
    }
    if valid.formed == Formed::No {
        plan.surplus = views
            .iter()
            .filter(|it| it.own(&valid.uid).is_some() && !clusters.contains(&it.cluster.as_str()))
            .map(|it| it.cluster.clone())
            .collect();
    }
    plan
}

/// While the service is paused: the groups stay as they are, and are told to do nothing.
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

/// One table for all clusters: what members report, and where nobody reports, what was known last.
fn peers(valid: &Valid, views: &[View]) -> Vec<GroupPeer> {
    let mut known: BTreeMap<&str, &str> = BTreeMap::new();
    for view in views {
        let Some(group) = view.own(&valid.uid) else {
            continue;
        };
        for it in &group.spec.peers {
            known.insert(&it.name, &it.address);
        }
    }
    for (name, status) in view::reported(views, &valid.uid) {
        if !status.endpoint.is_empty() {
            known.insert(name, &status.endpoint);
        }
    }
    valid
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

fn grant<'a>(valid: &'a Valid, views: &[View]) -> BTreeMap<&'a str, bool> {
    let reported = view::reported(views, &valid.uid);
    let current = view::current(views, &valid.uid);
    let leader = leader(
        &current
            .values()
            .map(|it| it.leader.as_str())
            .collect::<Vec<_>>(),
    );
    let candidates: Vec<Candidate> = members::clusters(&valid.members)
        .into_iter()
        .map(|cluster| {
            let view = view::find(views, cluster);
            let own = valid.members.iter().filter(|it| it.cluster == cluster);
            let names: Vec<&str> = own.map(|it| it.member.name.as_str()).collect();
            let states = || names.iter().filter_map(|it| reported.get(it));
            Candidate {
                cluster: cluster.to_owned(),
                holds: view
                    .and_then(|it| it.own(&valid.uid))
                    .is_some_and(|it| it.spec.rollout),
                // One that answers and has no group holds nothing and has nothing to see; of one that
                // does not answer and was never seen, nobody knows.
                settled: view.is_some_and(|it| {
                    it.is_settled(&valid.uid) || (it.group.is_none() && it.is_open())
                }),
                needs: states().any(|it| !it.updated),
                healthy: states().count() == names.len() && states().all(|it| it.ready),
                leads: leader
                    .as_ref()
                    .is_some_and(|it| names.contains(&it.as_str())),
            }
        })
        .collect();
    let granted = rollout::grant(&candidates, valid.formed != Formed::No);
    members::clusters(&valid.members)
        .into_iter()
        .map(|it| (it, granted.get(it).copied().unwrap_or(false)))
        .collect()
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
