//! What a group must be before anything is made of it. Pure.

use synod_api::{FIRST_WITNESS, GroupMember, MemberRole, NetworkMode, ReplicaGroup, is_witness};

use super::names;
use crate::conditions::{self, Reason};
use crate::inject;

/// Nothing is done until somebody changes something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stall {
    /// What kind of matter it is.
    pub(crate) reason: &'static Reason,
    /// Why, and what to do.
    pub(crate) message: String,
}

/// A group that can be worked on, with what follows from it.
#[derive(Clone, Debug)]
pub(crate) struct Valid<'a> {
    pub(crate) group: &'a ReplicaGroup,
    /// Its name, which is the service's.
    pub(crate) name: &'a str,
    pub(crate) namespace: &'a str,
    pub(crate) uid: &'a str,
    /// Name of the StatefulSet. Members are called after it.
    pub(crate) workload: String,
    /// Name of the StatefulSet of those that are witnesses.
    pub(crate) witnesses: String,
    /// The members are pods of a user's own StatefulSet.
    pub(crate) labelled: bool,
}

impl Stall {
    pub(crate) fn new(reason: &'static Reason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
        }
    }
}

/// Checks a group for the operator of `cluster`.
pub(crate) fn validate<'a>(group: &'a ReplicaGroup, cluster: &str) -> Result<Valid<'a>, Stall> {
    let metadata = &group.metadata;
    let (Some(name), Some(namespace), Some(uid)) =
        (&metadata.name, &metadata.namespace, &metadata.uid)
    else {
        return Err(Stall::new(
            &conditions::INVALID_SPEC,
            "it was not read from an API server",
        ));
    };
    let spec = &group.spec;
    if spec.cluster != cluster {
        return Err(Stall::new(
            &conditions::UNKNOWN_CLUSTER,
            format!(
                "this is the work for the cluster {:?}, but the operator here was started with \
                 --cluster={cluster}: register each cluster under the name that its operator has",
                spec.cluster
            ),
        ));
    }
    let workload = names::workload(name, &spec.cluster);
    check_members(group, &workload)?;
    let labelled = match inject::asked(&spec.template.0) {
        None => false,
        Some(asked) if asked == name => true,
        Some(asked) => {
            return Err(Stall::new(
                &conditions::INVALID_SPEC,
                format!(
                    "the pod template has the label {}={asked}, which names another service: take \
                     it out, or let it be {name}",
                    inject::names::INJECT_LABEL
                ),
            ));
        }
    };
    if !matches!(
        spec.network.mode,
        NetworkMode::Flat | NetworkMode::PerPodService
    ) {
        return Err(Stall::new(
            &conditions::UNSUPPORTED,
            format!(
                "network.mode {:?} is not supported by this version: use Flat where pods of all \
                 clusters reach each other, else PerPodService",
                spec.network.mode
            ),
        ));
    }
    if spec.service.name.as_ref().is_some_and(|it| {
        let reserved = [names::headless(name)];
        reserved.contains(it) || it.starts_with(&format!("{name}-m-"))
    }) {
        return Err(Stall::new(
            &conditions::NAME_CONFLICT,
            "spec.service.name is the name of a Service that members use: choose another",
        ));
    }
    Ok(Valid {
        group,
        name,
        namespace,
        uid,
        witnesses: names::witnesses(&workload),
        workload,
        labelled,
    })
}

/// A StatefulSet numbers its pods without gaps: that of the witnesses from [`FIRST_WITNESS`], the other from 0.
fn check_members(group: &ReplicaGroup, workload: &str) -> Result<(), Stall> {
    let members = &group.spec.members;
    let witnesses = members.iter().filter(|it| is_witness(&it.name)).count();
    let copies = 0..members.len() - witnesses;
    let first = FIRST_WITNESS as usize;
    let mut missing: Vec<_> = copies
        .chain(first..first + witnesses)
        .map(|ordinal| format!("{workload}-{ordinal}"))
        .collect();
    missing.retain(|name| members.iter().all(|it| it.name != *name));
    if missing.is_empty() {
        return Ok(());
    }
    Err(Stall::new(
        &conditions::INVALID_SPEC,
        format!(
            "{} members must be called {workload}-0 and so on without gaps, and {witnesses} witnesses \
             {workload}-{FIRST_WITNESS} and so on; missing: {}",
            members.len() - witnesses,
            missing.join(", ")
        ),
    ))
}

// === impl Valid ===

impl Valid<'_> {
    /// The number of a member's pod.
    pub(crate) fn ordinal(&self, member: &str) -> Option<u32> {
        let rest = member.strip_prefix(&self.workload)?.strip_prefix('-')?;
        rest.parse().ok()
    }

    /// How many pods there should be.
    pub(crate) fn replicas(&self) -> u32 {
        u32::try_from(self.group.spec.members.len()).expect("bounded by the schema")
    }

    /// How many of them are witnesses'.
    pub(crate) fn witness_pods(&self) -> u32 {
        let members = self.group.spec.members.iter();
        let witnesses = members.filter(|it| is_witness(&it.name));
        u32::try_from(witnesses.count()).expect("bounded by the schema")
    }

    /// How many of them run the app.
    pub(crate) fn copies(&self) -> u32 {
        self.replicas() - self.witness_pods()
    }

    /// Name of a member's pod, where the operator makes it. A witness's StatefulSet cannot be called as the
    /// other, so its pod is not called like the member.
    pub(crate) fn pod_of(&self, member: &str) -> String {
        let number = self.ordinal(member).filter(|_| is_witness(member));
        number.map_or_else(
            || member.to_owned(),
            |number| format!("{}-{number}", self.witnesses),
        )
    }

    /// The witness that a pod of this name is.
    pub(crate) fn witness_of(&self, pod: &str) -> Option<String> {
        let number = pod.strip_prefix(&self.witnesses)?.strip_prefix('-')?;
        let member = format!("{}-{}", self.workload, number.parse::<u32>().ok()?);
        is_witness(&member).then_some(member)
    }

    /// Whether all members of the service are in this cluster, as far as is known here.
    pub(crate) fn alone(&self) -> bool {
        let spec = &self.group.spec;
        let here = |name: &String| spec.members.iter().any(|it| it.name == *name);
        spec.peers.iter().all(|peer| here(&peer.name))
    }

    /// Voters in this cluster.
    pub(crate) fn voters(&self) -> usize {
        let members = self.group.spec.members.iter();
        members.filter(|it| it.role != MemberRole::Observer).count()
    }

    /// The same once the leader has done what it is asked to change.
    pub(crate) fn voters_after_change(&self) -> usize {
        let spec = &self.group.spec;
        let votes = |it: &&GroupMember| {
            let change = spec.change.as_ref();
            let leaves = change.is_some_and(|change| change.leave.contains(&it.id));
            let mut roles = change.into_iter().flat_map(|it| &it.roles);
            let role = roles
                .find(|role| role.id == it.id)
                .map_or(it.role, |it| it.role);
            !leaves && role != MemberRole::Observer
        };
        spec.members.iter().filter(votes).count()
    }
}
