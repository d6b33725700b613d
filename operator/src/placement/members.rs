//! Members by name, number and place: those that a manifest asks for, and those of the first
//! configuration. Pure.

use std::collections::BTreeMap;

use synod_api::{
    FIRST_WITNESS, GroupMember, MemberRole, Placement, ReplicatedServiceSpec, is_witness,
};

use super::genesis::{GenesisFile, GenesisMember};

/// One member and where it is.
#[allow(clippy::struct_field_names)]
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    /// Its cluster.
    pub(crate) cluster: String,
    /// The region of that, as it was when the member came into the group.
    pub(crate) region: String,
    /// Name, number and role.
    pub(crate) member: GroupMember,
}

/// Name of the workload of one cluster; its pods, and so the members there, are called after it.
pub(crate) fn workload(service: &str, cluster: &str) -> String {
    format!("{service}-{cluster}")
}

/// Name of a member, and of its pod.
pub(crate) fn name(service: &str, cluster: &str, ordinal: usize) -> String {
    format!("{}-{ordinal}", workload(service, cluster))
}

/// The placement that a manifest means: `replicas` is one in the operator's own cluster.
pub(crate) fn placement(spec: &ReplicatedServiceSpec, local: &str) -> Vec<Placement> {
    match &spec.placement {
        Some(placement) => placement.clone(),
        None => vec![Placement {
            cluster: local.to_owned(),
            voters: spec
                .replicas
                .unwrap_or(ReplicatedServiceSpec::DEFAULT_REPLICAS),
            ..Placement::default()
        }],
    }
}

/// The members of a placement, numbered from 1 in its order, then by role, then by ordinal. Pods of
/// witnesses are numbered by themselves.
pub(crate) fn desired(
    service: &str,
    placement: &[Placement],
    regions: &BTreeMap<String, String>,
) -> Vec<Member> {
    let mut all = Vec::new();
    for it in placement {
        let roles = [
            (0, it.voters, MemberRole::Voter),
            (it.voters, it.observers, MemberRole::Observer),
            (FIRST_WITNESS, it.witnesses, MemberRole::Witness),
        ];
        let roles = roles
            .into_iter()
            .flat_map(|(first, count, role)| (first..first + count).map(move |it| (it, role)));
        for (ordinal, role) in roles {
            all.push(Member {
                cluster: it.cluster.clone(),
                region: regions.get(&it.cluster).cloned().unwrap_or_default(),
                member: GroupMember {
                    name: name(service, &it.cluster, ordinal as usize),
                    id: all.len() as u32 + 1,
                    role,
                    incarnation: String::new(),
                    discard: String::new(),
                },
            });
        }
    }
    all
}

/// The members of a recorded genesis; `None` when one of them cannot be of this service.
pub(crate) fn recorded(service: &str, genesis: &GenesisFile) -> Option<Vec<Member>> {
    let member = |it: &GenesisMember| {
        Some(Member {
            cluster: cluster_of(service, &it.name)?.to_owned(),
            region: it.region.clone(),
            member: GroupMember {
                name: it.name.clone(),
                id: it.id,
                role: it.role,
                incarnation: it.incarnation.clone(),
                discard: String::new(),
            },
        })
    };
    genesis.members.iter().map(member).collect()
}

/// Its number in its cluster.
pub(crate) fn ordinal(member: &str) -> Option<usize> {
    member.rsplit_once('-')?.1.parse().ok()
}

/// Members whose pods are numbered together, and from which number on.
pub(crate) fn row(member: &str) -> usize {
    if is_witness(member) {
        FIRST_WITNESS as usize
    } else {
        0
    }
}

/// `<service>-<cluster>-<ordinal>`: the cluster may hold dashes itself, the others are known.
pub(crate) fn cluster_of<'a>(service: &str, member: &'a str) -> Option<&'a str> {
    let rest = member.strip_prefix(service)?.strip_prefix('-')?;
    let (cluster, ordinal) = rest.rsplit_once('-')?;
    let good = !cluster.is_empty() && !ordinal.is_empty();
    (good && ordinal.bytes().all(|it| it.is_ascii_digit())).then_some(cluster)
}

/// Clusters in the order of their first member.
pub(crate) fn clusters(members: &[Member]) -> Vec<&str> {
    let mut all: Vec<&str> = Vec::new();
    for it in members {
        if !all.contains(&it.cluster.as_str()) {
            all.push(&it.cluster);
        }
    }
    all
}

/// Whether both are the same members in the same roles; numbers and regions stay as recorded.
pub(crate) fn same(one: &[Member], other: &[Member]) -> bool {
    let key = |list: &[Member]| {
        let mut keys: Vec<_> = list
            .iter()
            .map(|it| (it.member.name.clone(), format!("{:?}", it.member.role)))
            .collect();
        keys.sort();
        keys
    };
    key(one) == key(other)
}

/// Whether it votes.
pub(crate) fn votes(role: MemberRole) -> bool {
    matches!(role, MemberRole::Voter | MemberRole::Witness)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(cluster: &str, voters: u32, observers: u32) -> Placement {
        Placement {
            cluster: cluster.to_owned(),
            voters,
            observers,
            ..Placement::default()
        }
    }

    #[test]
    fn members_are_numbered_in_the_order_of_placement_role_and_ordinal() {
        let regions = BTreeMap::from([("us".to_owned(), "us-1".to_owned())]);
        let all = desired(
            "notes",
            &[place("us", 2, 1), place("eu-west", 1, 0)],
            &regions,
        );
        let found: Vec<_> = all
            .iter()
            .map(|it| (it.member.id, it.member.name.as_str(), it.member.role))
            .collect();
        assert_eq!(
            found,
            [
                (1, "notes-us-0", MemberRole::Voter),
                (2, "notes-us-1", MemberRole::Voter),
                (3, "notes-us-2", MemberRole::Observer),
                (4, "notes-eu-west-0", MemberRole::Voter),
            ]
        );
        assert_eq!(
            (all[0].region.as_str(), all[3].region.as_str()),
            ("us-1", "")
        );
        assert_eq!(clusters(&all), ["us", "eu-west"]);
    }

    #[test]
    fn without_a_placement_the_members_are_in_the_operators_own_cluster() {
        let mut spec = ReplicatedServiceSpec::default();
        assert_eq!(placement(&spec, "here"), [place("here", 3, 0)]);
        spec.replicas = Some(5);
        assert_eq!(placement(&spec, "here"), [place("here", 5, 0)]);
    }

    #[test]
    fn a_members_name_tells_its_cluster() {
        for (name, cluster) in [
            ("notes-us-0", Some("us")),
            ("notes-eu-west-12", Some("eu-west")),
            ("notes-eu-1-0", Some("eu-1")),
            ("notes-0", None),
            ("notes--0", None),
            ("other-us-0", None),
            ("notes-us-x", None),
            ("notes-us-", None),
        ] {
            assert_eq!(cluster_of("notes", name), cluster, "{name}");
        }
    }

    #[test]
    fn the_same_members_in_another_order_are_the_same() {
        let regions = BTreeMap::new();
        let one = desired("n", &[place("a", 1, 0), place("b", 1, 0)], &regions);
        let two = desired("n", &[place("b", 1, 0), place("a", 1, 0)], &regions);
        assert!(same(&one, &two));
        let three = desired("n", &[place("a", 1, 1), place("b", 1, 0)], &regions);
        assert!(!same(&one, &three));
    }
}
