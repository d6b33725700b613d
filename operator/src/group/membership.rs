//! The members of the group, by the cluster whose member leads: who they are is asked and reported,
//! and the change that the hub plans is handed to the leader. And, in any cluster, the disks that an
//! earlier life of a member has left are taken from it. Every part of it may be done again: the leader
//! refuses a change of another epoch, and disks go only while they hold the life that is meant.

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::api::{DeleteParams, Preconditions};
use kube::{Api, Client};
use synod_api::{ConfiguredMember, MemberRole, MembersChange, Membership, is_witness};
use synod_proto::v1::{
    ChangeMembersRequest, GroupMember, MemberChange, MemberRole as WireRole, MembersResponse,
    NewMember, NewRole, member_change,
};

use super::adopt;
use super::apply::words;
use super::dereference::state_volume;
use super::members::Asker;
use super::observe::Observed;
use super::pods::PodView;
use super::reconcile::Work;
use super::status::Report;
use crate::conditions::shorten;
use crate::inject::names;

/// In the facts of a group: why the leader has not changed the members.
pub(super) const CHANGE_FACT: &str = "change";
/// Longest reason for that, in bytes.
const WORDS: usize = 1_000;
/// So many lives of logs that are in the group no more are reported, the latest.
const FORMER: usize = 256;

// === impl Work ===

impl Work<'_> {
    /// Who is in the group, if it is led from here.
    pub(super) async fn membership(&self, report: &mut Report, asker: &Asker) {
        report.membership = None;
        let Some((leader, place, _)) = self.leader_here(report) else {
            return;
        };
        match asker.members(&leader, place).await {
            Ok(said) if said.leads => report.membership = Some(membership(&leader, said)),
            // It has just ceased to lead.
            Ok(_) => {}
            // A sidecar of before members changed does not know the question.
            Err(error) => tracing::debug!(member = leader, %error, "the members are not known"),
        }
    }

    /// Hands the hub's change to the leader, if it is here and nothing has come between.
    pub(super) async fn change(&self, report: &mut Report, asker: &Asker) {
        report.facts.remove(CHANGE_FACT);
        let spec = &self.valid.group.spec;
        let Some(change) = due(spec.change.as_ref(), report.membership.as_ref()) else {
            return;
        };
        let Some((leader, place, _)) = self.leader_here(report) else {
            return;
        };
        match asker.change_members(&leader, place, request(change)).await {
            Ok(epoch) => {
                tracing::info!(service = self.valid.name, epoch, "the members are others");
                report.changed = Some(epoch);
                report.soon = true;
                self.membership(report, asker).await;
            }
            Err(error) => {
                let words = format!("the leader has not done it yet: {error}");
                report
                    .facts
                    .insert(CHANGE_FACT.to_owned(), shorten(words, WORDS));
            }
        }
    }

    /// Takes the disks of earlier lives from members that are to begin with empty ones: a new log does
    /// not begin beside files of the app either.
    pub(super) async fn discard(&self, report: &mut Report) {
        let meant: Vec<_> = self.discarded(report);
        for (member, pod) in meant {
            let claims = self.claims_of(&member, &pod);
            tracing::info!(
                service = self.valid.name,
                member,
                ?claims,
                "what an earlier life has left is thrown away"
            );
            let client = &self.process.client;
            if let Err(error) = take_disks(client, self.valid.namespace, &claims, &pod).await {
                let words = words(&error);
                report.failure = Some(format!("cannot give {member} empty disks: {words}"));
            }
        }
    }

    /// Members whose process says now that it has the life that is to be thrown away.
    fn discarded(&self, report: &Report) -> Vec<(String, PodView)> {
        let members = &self.valid.group.spec.members;
        let meant = |it: &Observed| {
            let said = it.said()?;
            let mut members = members.iter();
            let member = members.find(|member| member.name == it.name)?;
            let hit = !member.discard.is_empty() && member.discard == said.incarnation;
            let pod = it.pod.clone().filter(|pod| hit && !pod.leaving)?;
            Some((it.name.clone(), pod))
        };
        report.members.iter().filter_map(meant).collect()
    }

    /// A StatefulSet calls the claims of its own template after its pods. A witness has one for its log only.
    fn claims_of(&self, member: &str, pod: &PodView) -> Vec<String> {
        let witness = is_witness(member);
        let own = witness || self.live.set().is_some_and(adopt::has_log_claim);
        let log = names::log_claim(if own { &pod.name } else { member });
        let state = state_volume(self.valid).filter(|_| !witness);
        let state = state.map(|it| format!("{it}-{member}"));
        std::iter::once(log).chain(state).collect()
    }
}

/// First the claims, which stay for as long as the pod is there, so that no new pod gets them. Those that
/// were there while the pod was are its own, whatever comes under their names later.
async fn take_disks(
    client: &Client,
    namespace: &str,
    names: &[String],
    pod: &PodView,
) -> kube::Result<()> {
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), namespace);
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let mut own = Vec::new();
    for name in names {
        let uid = claims.get_opt(name).await?.and_then(|it| it.metadata.uid);
        own.extend(uid.map(|uid| (name, uid)));
    }
    let now = pods.get_opt(&pod.name).await?;
    if now.and_then(|it| it.metadata.uid).as_ref() != Some(&pod.uid) {
        return Ok(());
    }
    for (name, uid) in own {
        gone(claims.delete(name, &only(uid)).await.map(drop))?;
    }
    let uid = pod.uid.clone();
    gone(pods.delete(&pod.name, &only(uid)).await.map(drop))
}

fn only(uid: String) -> DeleteParams {
    DeleteParams {
        preconditions: Some(Preconditions {
            uid: Some(uid),
            resource_version: None,
        }),
        ..DeleteParams::default()
    }
}

/// It is another one by now, or none.
fn gone(result: kube::Result<()>) -> kube::Result<()> {
    match result {
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
        result => result,
    }
}

/// The change, if it was made from the members as they are.
fn due<'a>(
    change: Option<&'a MembersChange>,
    membership: Option<&Membership>,
) -> Option<&'a MembersChange> {
    let now = membership.filter(|it| it.settled)?;
    change.filter(|it| it.epoch == now.epoch)
}

/// As the leader is asked for it.
fn request(change: &MembersChange) -> ChangeMembersRequest {
    let part = |change| MemberChange {
        change: Some(change),
    };
    let leave = change.leave.iter();
    let leave = leave.map(|id| part(member_change::Change::Remove(*id)));
    let join = change.join.iter().map(|it| {
        part(member_change::Change::Add(NewMember {
            name: it.name.clone(),
            incarnation: it.incarnation.clone(),
            role: wire(it.role).into(),
            region: it.region.clone(),
        }))
    });
    let roles = change.roles.iter().map(|it| {
        part(member_change::Change::Role(NewRole {
            id: it.id,
            role: wire(it.role).into(),
        }))
    });
    ChangeMembersRequest {
        epoch: change.epoch,
        changes: leave.chain(join).chain(roles).collect(),
    }
}

fn wire(role: MemberRole) -> WireRole {
    match role {
        MemberRole::Voter => WireRole::Voter,
        MemberRole::Observer => WireRole::Observer,
        MemberRole::Witness => WireRole::Witness,
    }
}

/// What a leader says, as the hub is told of it.
fn membership(leader: &str, said: MembersResponse) -> Membership {
    let all_heard = said.members.iter().all(|it| it.heard);
    let mut former = said.former;
    former.sort_by_key(|it| std::cmp::Reverse(it.id));
    former.truncate(FORMER);
    Membership {
        epoch: said.epoch,
        settled: said.settled,
        leader: leader.to_owned(),
        members: said.members.into_iter().filter_map(configured).collect(),
        former: former.into_iter().map(|it| it.incarnation).collect(),
        join: if all_heard { String::new() } else { said.join },
    }
}

/// `None`: it does what this version does not know.
fn configured(it: GroupMember) -> Option<ConfiguredMember> {
    let role = match it.role() {
        WireRole::Voter => MemberRole::Voter,
        WireRole::Observer => MemberRole::Observer,
        WireRole::Witness => MemberRole::Witness,
        WireRole::Unspecified => return None,
    };
    Some(ConfiguredMember {
        role,
        id: it.id,
        name: it.name,
        incarnation: it.incarnation,
        region: it.region,
        heard: it.heard,
        caught_up: it.caught_up,
    })
}

#[cfg(test)]
mod tests;
