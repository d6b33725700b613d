//! Tables of what is seen, and what is planned.

use std::sync::Arc;

use synod_api::{Condition, GroupMemberStatus, MemberState, ReplicaGroup, ReplicaGroupStatus};

use super::super::genesis::GenesisFile;
use super::super::validate::tests::{judge, open, spec};
use super::super::view::Access;
use super::*;

const UID: &str = "uid-1";
const PLACED: &str =
    "placement: [{cluster: us, voters: 1}, {cluster: eu, voters: 1}, {cluster: ap, voters: 1}]";

pub(in super::super) fn three() -> Vec<View> {
    vec![open("us", "us-1"), open("eu", "eu-1"), open("ap", "ap-1")]
}

pub(in super::super) fn valid(formed: Formed) -> Valid {
    judge(&spec(PLACED), formed, &three()).expect("good")
}

/// Formed from the members of `PLACED`.
pub(in super::super) fn formed() -> Formed {
    let mut file = GenesisFile::of_members("notes", &valid(Formed::No).roster.members);
    file.protocol = 1;
    for it in &mut file.members {
        it.incarnation = format!("{:032x}", it.id);
    }
    Formed::Genesis(file.text())
}

pub(in super::super) fn member(name: &str, life: u32) -> GroupMemberStatus {
    GroupMemberStatus {
        name: name.to_owned(),
        incarnation: format!("{life:032x}"),
        endpoint: format!("{name}.example:7443"),
        state: MemberState::CaughtUp,
        role: None,
        leader: String::new(),
        epoch: 0,
        ready: false,
        policy_version: 0,
        protocol: [1, 1],
        protocol_in_force: 1,
        log_mebibytes: 0,
        snapshot: None,
        updated: true,
        revision: 0,
        running: None,
        made_of: None,
        may: None,
        problem: String::new(),
    }
}

/// What a plan is once every cluster's operator has taken it up; each member reports itself.
pub(in super::super) fn taken_up(plan: &Plan, mut views: Vec<View>) -> Vec<View> {
    for (cluster, spec) in &plan.groups {
        let view = views
            .iter_mut()
            .find(|it| it.cluster == *cluster)
            .expect("a cluster of the table");
        let mut group = ReplicaGroup::new("notes", spec.clone());
        group.metadata.generation = Some(1);
        let members = spec.members.iter().map(|it| member(&it.name, it.id));
        group.status = Some(ReplicaGroupStatus {
            observed_generation: Some(1),
            members: members.collect(),
            ..ReplicaGroupStatus::default()
        });
        view.group = Some(Arc::new(group));
    }
    views
}

pub(in super::super) fn change(
    views: &mut [View],
    at: usize,
    edit: impl FnOnce(&mut ReplicaGroup),
) {
    edit(Arc::make_mut(views[at].group.as_mut().expect("a group")));
}

fn status(group: &mut ReplicaGroup) -> &mut ReplicaGroupStatus {
    group.status.as_mut().expect("a status")
}

fn first(formed: Formed) -> (Valid, Vec<View>) {
    let valid = valid(formed);
    let views = taken_up(
        &plan(&valid, &three(), &Issued::default(), "synod.local"),
        three(),
    );
    (valid, views)
}

#[test]
fn each_cluster_gets_its_own_members_and_what_all_have_in_common() {
    let valid = valid(Formed::No);
    let issued = Issued {
        roots: "roots".to_owned(),
        chains: [("eu".to_owned(), "chain".to_owned())].into(),
        ..Issued::default()
    };
    let plan = plan(&valid, &three(), &issued, "synod.local");
    let groups: Vec<_> = plan
        .groups
        .iter()
        .map(|(cluster, it)| {
            (
                cluster.as_str(),
                it.region.as_str(),
                it.members[0].id,
                it.members[0].name.as_str(),
                it.issuer.chain.as_str(),
            )
        })
        .collect();
    assert_eq!(
        groups,
        [
            ("us", "us-1", 1, "notes-us-0", ""),
            ("eu", "eu-1", 2, "notes-eu-0", "chain"),
            ("ap", "ap-1", 3, "notes-ap-0", ""),
        ]
    );
    for (_, it) in &plan.groups {
        assert_eq!((it.owner.as_str(), it.app.port), (UID, 8080));
        assert_eq!((it.genesis.as_ref(), it.rollout), (None, true));
        assert_eq!(it.issuer.roots, "roots");
    }
}

#[test]
fn the_record_is_written_when_every_operator_and_every_member_has_reported() {
    let (valid, views) = first(Formed::No);
    let written = record(&valid, &views).expect("all have reported");
    assert_eq!(written.key, genesis::GENESIS_KEY);
    let file = GenesisFile::parse(&written.text).expect("a genesis");
    assert_eq!(file.members.len(), 3);
    assert_eq!(file.members[2].incarnation, format!("{:032x}", 3));

    for edit in [
        |it: &mut ReplicaGroup| it.metadata.generation = Some(2),
        |it: &mut ReplicaGroup| it.status = None,
        |it: &mut ReplicaGroup| status(it).members.clear(),
        |it: &mut ReplicaGroup| status(it).members[0].incarnation.clear(),
        |it: &mut ReplicaGroup| status(it).members[0].epoch = 3,
        |it: &mut ReplicaGroup| {
            status(it).conditions.push(Condition {
                kind: "Stalled".to_owned(),
                status: "True".to_owned(),
                reason: "BypassPossible".to_owned(),
                message: "Service other".to_owned(),
                last_transition_time: None,
                observed_generation: None,
            });
        },
    ] {
        let mut views = views.clone();
        change(&mut views, 1, edit);
        record(&valid, &views).expect_err("not yet");
    }
    let mut silent = views.clone();
    silent[1].access = Access::Starting;
    record(&valid, &silent).expect_err("what it said may not be so any more");
    let (valid, views) = first(formed());
    assert_eq!(record(&valid, &views), Err(Wait::Nothing));
}

#[test]
fn what_keeps_a_service_from_being_formed_is_told_by_its_reason() {
    let (valid, mut views) = first(Formed::No);
    change(&mut views, 2, |it| status(it).members[0].epoch = 3);
    let Err(Wait::Stall(stall)) = record(&valid, &views) else {
        panic!("it is of another group");
    };
    assert_eq!(stall.reason.name, "GenesisLost");
    assert!(stall.message.contains("notes-ap-0"));
}

#[test]
fn members_with_a_record_and_no_genesis_get_none() {
    let text = GenesisFile::of_members("notes", &valid(Formed::No).roster.members).text();
    let valid = valid(Formed::Earlier(text));
    let plan = plan(&valid, &three(), &Issued::default(), "synod.local");
    assert!(plan.groups.iter().all(|(_, it)| it.genesis.is_none()));
    assert_eq!(record(&valid, &three()), Err(Wait::Nothing));
}

#[test]
fn the_genesis_is_handed_on_word_for_word_and_whatever_the_manifest_says_later() {
    let Formed::Genesis(text) = formed() else {
        panic!("a genesis");
    };
    let changed = spec("placement: [{cluster: us, voters: 3}]");
    let valid = judge(&changed, formed(), &three()).expect("good");
    let plan = plan(&valid, &three(), &Issued::default(), "synod.local");
    assert_eq!(plan.groups.len(), 3);
    assert!(
        plan.groups
            .iter()
            .all(|(_, it)| it.genesis.as_ref() == Some(&text) && it.members.len() == 1)
    );
    assert!(plan.surplus.is_empty());
}

#[test]
fn before_genesis_a_cluster_that_is_wanted_no_more_is_given_up() {
    let (_, views) = first(Formed::No);
    let changed = spec("placement: [{cluster: us, voters: 1}]");
    let valid = judge(&changed, Formed::No, &views).expect("good");
    let plan = plan(&valid, &views, &Issued::default(), "synod.local");
    assert_eq!(plan.surplus, ["eu", "ap"]);
}

#[test]
fn the_peer_table_is_of_what_is_reported_and_else_of_what_was_known() {
    let (valid, mut views) = first(formed());
    let one = plan(&valid, &views, &Issued::default(), "synod.local");
    let names: Vec<_> = one.groups[0].1.peers.iter().map(|it| &it.name).collect();
    assert_eq!(names, ["notes-us-0", "notes-eu-0", "notes-ap-0"]);
    // They take it up; then one moves, and another is not heard of any more.
    views = taken_up(&one, views);
    change(&mut views, 0, |it| {
        status(it).members[0].endpoint = "10.1.2.3:7443".to_owned();
    });
    change(&mut views, 2, |it| status(it).members[0].endpoint.clear());
    let two = plan(&valid, &views, &Issued::default(), "synod.local");
    let addresses: Vec<_> = two.groups[1]
        .1
        .peers
        .iter()
        .map(|it| it.address.as_str())
        .collect();
    assert_eq!(
        addresses,
        [
            "10.1.2.3:7443",
            "notes-eu-0.example:7443",
            "notes-ap-0.example:7443"
        ]
    );
    assert_eq!(two.groups[0].1.peers, two.groups[2].1.peers);
}

#[test]
fn after_genesis_one_cluster_at_a_time_replaces_pods() {
    let (valid, mut views) = first(formed());
    let holders = |views: &[View]| -> Vec<String> {
        plan(&valid, views, &Issued::default(), "synod.local")
            .groups
            .into_iter()
            .filter(|(_, it)| it.rollout)
            .map(|(cluster, _)| cluster)
            .collect()
    };
    for at in 0..3 {
        change(&mut views, at, |it| {
            it.spec.rollout = false;
            let one = &mut status(it).members[0];
            one.updated = false;
            one.ready = true;
            one.leader = "notes-us-0".to_owned();
        });
    }
    assert_eq!(holders(&views), ["eu"], "not where the leader is");
    views[2].group = None;
    views[2].access = Access::Starting;
    assert!(
        holders(&views).is_empty(),
        "one that was not looked at yet may hold it"
    );
}

#[test]
fn one_cluster_under_two_names_is_noticed_by_the_group_that_both_show() {
    let (_, mut views) = first(Formed::No);
    for (at, uid) in ["a", "b", "c"].into_iter().enumerate() {
        change(&mut views, at, |it| it.metadata.uid = Some(uid.to_owned()));
    }
    judge(&spec(PLACED), Formed::No, &views).expect("three clusters");
    change(&mut views, 2, |it| it.metadata.uid = Some("a".to_owned()));
    let stall = judge(&spec(PLACED), Formed::No, &views).expect_err("two");
    assert_eq!(stall.reason.name, "UnknownCluster");
    assert!(stall.message.contains("us and ap"), "{}", stall.message);
}

#[test]
fn a_service_whose_manifest_is_not_carried_out_keeps_its_groups_and_has_upkeep() {
    let (valid, mut views) = first(formed());
    let before = plan(&valid, &views, &Issued::default(), "synod.local");
    views = taken_up(&before, views);
    // A pod came back elsewhere, and a cluster's certificate was renewed.
    change(&mut views, 2, |it| {
        status(it).members[0].endpoint = "10.9.9.9:7443".to_owned();
    });
    let issued = Issued {
        roots: "roots".to_owned(),
        chains: [("eu".to_owned(), "new chain".to_owned())].into(),
        ..Issued::default()
    };
    for paused in [None, Some(false), Some(true)] {
        let plan = upkeep(&valid.roster, &views, &issued, paused);
        assert_eq!(plan.groups.len(), 3);
        assert!(plan.surplus.is_empty());
        for (cluster, spec) in &plan.groups {
            assert_eq!(spec.peers[2].address, "10.9.9.9:7443", "{cluster}");
            assert_eq!(spec.issuer.roots, "roots");
            assert_eq!(spec.paused, paused == Some(true));
            let mut rest = spec.clone();
            let old = view::find(&views, cluster).and_then(|it| it.own(UID));
            let old = &old.expect("a group").spec;
            rest.peers.clone_from(&old.peers);
            rest.issuer.clone_from(&old.issuer);
            rest.paused = old.paused;
            assert_eq!(rest, *old);
        }
        assert_eq!(plan.groups[1].1.issuer.chain, "new chain");
    }
    // What the manifest asked for before is not done any more.
    change(&mut views, 1, |it| {
        it.spec.change = Some(synod_api::MembersChange::default());
    });
    let plan = upkeep(&valid.roster, &views, &issued, None);
    assert!(plan.groups.iter().all(|(_, it)| it.change.is_none()));
    // One that is not there cannot be made from nothing.
    views[0].group = None;
    assert_eq!(upkeep(&valid.roster, &views, &issued, None).groups.len(), 2);
}

#[test]
fn nobody_replaces_pods_while_another_clusters_member_is_away() {
    let (valid, mut views) = first(formed());
    for at in 0..3 {
        change(&mut views, at, |it| {
            it.spec.rollout = false;
            let one = &mut status(it).members[0];
            one.updated = at != 1;
            one.ready = true;
            one.leader = "notes-us-0".to_owned();
        });
    }
    let holder = |views: &[View]| -> Option<String> {
        let plan = plan(&valid, views, &Issued::default(), "synod.local");
        let mut holders = plan.groups.into_iter().filter(|(_, it)| it.rollout);
        holders.next().map(|(cluster, _)| cluster)
    };
    assert_eq!(holder(&views).as_deref(), Some("eu"));
    assert_eq!(holds_up(&valid.roster, &views), [""; 0]);
    let mut ill = views.clone();
    change(&mut ill, 2, |it| status(it).members[0].ready = false);
    assert_eq!(holder(&ill), None);
    assert_eq!(holds_up(&valid.roster, &ill), ["ap"]);
    let mut new = views.clone();
    change(&mut new, 2, |it| {
        status(it).members[0].state = MemberState::CatchingUp;
    });
    assert_eq!(holder(&new), None, "its copy is on the way");
    change(&mut new, 2, |it| status(it).members[0].updated = false);
    assert_eq!(
        holder(&new).as_deref(),
        Some("eu"),
        "that may be what helps"
    );
    let mut silent = views.clone();
    silent[2].access = Access::Unreachable {
        since: k8s_openapi::jiff::Timestamp::UNIX_EPOCH,
        problem: "no answer".to_owned(),
    };
    assert_eq!(holder(&silent), None, "what it said last may not be so");
}

#[test]
fn a_paused_service_that_was_not_formed_keeps_its_groups_as_they_are() {
    let (_, views) = first(Formed::No);
    let plan = paused(UID, &views);
    for (cluster, spec) in &plan.groups {
        let mut before = view::find(&views, cluster)
            .and_then(|it| it.own(UID))
            .expect("a group")
            .spec
            .clone();
        before.paused = true;
        assert_eq!(*spec, before);
    }
    assert_eq!(plan.groups.len(), 3);
}

#[test]
fn the_leader_is_the_one_that_most_follow() {
    assert_eq!(leader(&["a", "b", "b", ""]).as_deref(), Some("b"));
    assert_eq!(leader(&["a", "b"]).as_deref(), Some("a"));
    assert_eq!(leader(&["", ""]), None);
}

#[test]
fn the_protocol_is_raised_once_every_member_speaks_more_and_none_is_to_be_restarted() {
    let (valid, mut views) = first(formed());
    let wanted = |views: &[View]| {
        let plan = plan(&valid, views, &Issued::default(), "synod.local");
        let all: Vec<_> = plan.groups.iter().map(|(_, it)| it.protocol).collect();
        assert!(all.iter().all(|it| *it == all[0]));
        all[0]
    };
    for at in 0..3 {
        change(&mut views, at, |it| {
            let one = &mut status(it).members[0];
            (one.epoch, one.ready, one.protocol) = (1, true, [1, 2]);
        });
    }
    assert_eq!(wanted(&views), 2);
    let edits: [fn(&mut ReplicaGroup); 7] = [
        |it| status(it).members[0].protocol = [1, 1],
        |it| status(it).members[0].updated = false,
        |it| status(it).members[0].ready = false,
        |it| status(it).members[0].state = MemberState::Unreachable,
        |it| status(it).members[0].protocol_in_force = 2,
        |it| it.metadata.generation = Some(2),
        |it| status(it).members.clear(),
    ];
    for edit in edits {
        let mut views = views.clone();
        change(&mut views, 2, edit);
        assert_eq!(wanted(&views), 0);
    }
    let mut silent = views.clone();
    silent[1].access = Access::Unreachable {
        since: "2026-01-01T00:00:00Z".parse().expect("a time"),
        problem: "x".to_owned(),
    };
    assert_eq!(wanted(&silent), 0);
    // What it is told is no other work: it goes on being told until that is in force.
    for at in 0..3 {
        change(&mut views, at, |it| {
            it.spec.protocol = 2;
            it.metadata.generation = Some(2);
        });
    }
    assert_eq!(wanted(&views), 2);
}
