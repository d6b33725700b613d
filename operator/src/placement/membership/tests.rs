//! From one picture of the clusters to the next, whoever ends on the way.

use super::super::plan::tests::change;
use super::super::view::Access;
use super::*;
use world::{FIRST, World};

mod world;

const FIVE: &str =
    "placement: [{cluster: us, voters: 2}, {cluster: eu, voters: 2}, {cluster: ap, voters: 1}]";
const MOVED: &str =
    "placement: [{cluster: us, voters: 1}, {cluster: eu, voters: 1}, {cluster: sa, voters: 1}]";

#[test]
fn a_group_is_scaled_up_and_down_whoever_ends_on_the_way() {
    for seed in 0..12 {
        let mut world = World::new();
        world.yaml = FIVE.to_owned();
        world.settle(seed);
        let five = [
            "notes-ap-0",
            "notes-eu-0",
            "notes-eu-1",
            "notes-us-0",
            "notes-us-1",
        ];
        assert_eq!(world.voters(), five);
        world.yaml = FIRST.to_owned();
        world.settle(seed + 100);
        assert_eq!(world.voters(), ["notes-ap-0", "notes-eu-0", "notes-us-0"]);
        assert_eq!(world.disks.len(), 3, "their disks are gone");
    }
}

#[test]
fn a_region_is_left_for_another_and_taken_again_also_with_claims_that_stayed() {
    for seed in 0..12 {
        let mut world = World::new();
        world.retains = true;
        world.yaml = MOVED.to_owned();
        world.settle(seed);
        assert_eq!(world.voters(), ["notes-eu-0", "notes-sa-0", "notes-us-0"]);
        assert!(world.views[2].group.is_none(), "nothing is left there");
        assert!(world.disks.contains_key("notes-ap-0"), "but its claim");
        world.yaml = FIRST.to_owned();
        world.settle(seed + 100);
        assert_eq!(world.voters(), ["notes-ap-0", "notes-eu-0", "notes-us-0"]);
        let life = format!("{:032x}", 3);
        assert_ne!(world.disks["notes-ap-0"].life, life, "its log began anew");
    }
}

#[test]
fn a_member_that_lost_its_claim_is_replaced_also_the_one_that_led() {
    for seed in 0..12 {
        for (name, next) in [("notes-eu-0", "notes-us-0"), ("notes-us-0", "notes-eu-0")] {
            let mut world = World::new();
            world.disks.remove(name);
            world.group.leader = next.to_owned();
            world.settle(seed);
            assert_eq!(world.voters().len(), 3);
            let ids: Vec<_> = world.group.members.iter().map(|it| it.id).collect();
            assert!(ids.contains(&4), "{ids:?}");
        }
    }
}

#[test]
fn a_cluster_that_does_not_answer_is_left_alone_until_somebody_gives_it_up() {
    let mut world = World::new();
    world.views[2].access = Access::Unreachable {
        since: k8s_openapi::jiff::Timestamp::UNIX_EPOCH,
        problem: "no answer".to_owned(),
    };
    world.rounds(10, usize::MAX);
    assert_eq!(world.group.epoch, 1, "{:#?}", world.told);
    // The manifest names it no more: it goes once another has come.
    world.yaml = MOVED.to_owned();
    world.rounds(30, usize::MAX);
    assert_eq!(world.voters(), ["notes-eu-0", "notes-sa-0", "notes-us-0"]);
    assert!(world.disks["notes-ap-0"].runs, "nobody could tell it");
    world.views[2].access = Access::Open;
    world.settle(usize::MAX);
    assert!(world.views[2].group.is_none());
}

#[test]
fn nothing_changes_before_all_use_the_protocol_for_it_and_that_is_told() {
    let mut world = World::new();
    world.protocol = 1;
    world.rounds(3, usize::MAX);
    world.yaml = FIVE.to_owned();
    world.rounds(10, usize::MAX);
    assert_eq!((world.group.epoch, world.disks.len()), (1, 3));
    let (reason, _) = world.course().1.under_way.expect("told");
    assert_eq!(reason.name, "WaitingForProtocol");
}

const WITNESSED: &str =
    "placement: [{cluster: us, voters: 1}, {cluster: eu, voters: 1}, {cluster: ap, witnesses: 1}]";
const FIVE_WITNESSED: &str = "placement: [{cluster: us, voters: 2}, {cluster: eu, voters: 1, witnesses: 1}, {cluster: ap, witnesses: 1}]";

#[test]
fn witnesses_come_and_go_beside_copies_whoever_ends_on_the_way() {
    for seed in 0..12 {
        let mut world = World::new();
        world.yaml = WITNESSED.to_owned();
        world.settle(seed);
        assert_eq!(world.voters(), ["notes-ap-100", "notes-eu-0", "notes-us-0"]);
        world.yaml = FIVE_WITNESSED.to_owned();
        world.settle(seed + 100);
        let five = [
            "notes-ap-100",
            "notes-eu-0",
            "notes-eu-100",
            "notes-us-0",
            "notes-us-1",
        ];
        assert_eq!(world.voters(), five);
        let witness = |it: &ConfiguredMember| it.role == synod_api::MemberRole::Witness;
        assert_eq!(
            world.group.members.iter().filter(|it| witness(it)).count(),
            2
        );
        world.yaml = FIRST.to_owned();
        world.settle(seed + 200);
        assert_eq!(world.voters(), ["notes-ap-0", "notes-eu-0", "notes-us-0"]);
        assert_eq!(world.disks.len(), 3, "their disks are gone");
    }
}

#[test]
fn a_witness_that_lost_its_log_is_replaced_and_a_region_is_left_with_its_witness() {
    for seed in 0..12 {
        let mut world = World::new();
        world.yaml = WITNESSED.to_owned();
        world.settle(seed);
        let life = world.disks["notes-ap-100"].life.clone();
        world.disks.remove("notes-ap-100");
        world.settle(seed + 100);
        assert_ne!(world.disks["notes-ap-100"].life, life);
        let own = world.group.members.iter();
        let own: Vec<_> = own.filter(|it| it.name == "notes-ap-100").collect();
        assert_eq!(own.len(), 1);
        assert_eq!(own[0].role, synod_api::MemberRole::Witness);
        world.yaml = WITNESSED.replace("ap", "sa");
        world.settle(seed + 200);
        assert_eq!(world.voters(), ["notes-eu-0", "notes-sa-100", "notes-us-0"]);
        assert!(world.views[2].group.is_none(), "nothing is left there");
    }
}

#[test]
fn each_step_is_told_by_its_reason() {
    let mut world = World::new();
    let mut reasons: Vec<&str> = Vec::new();
    let mut look = |world: &mut World, rounds: usize| {
        for _ in 0..rounds {
            world.rounds(1, usize::MAX);
            if let Some((reason, words)) = world.course().1.under_way {
                assert!(!words.is_empty());
                if reasons.last() != Some(&reason.name) {
                    reasons.push(reason.name);
                }
            }
        }
    };
    world.yaml = MOVED.to_owned();
    look(&mut world, 30);
    world.disks.remove("notes-eu-0");
    look(&mut world, 30);
    let expected = [
        "MemberJoining",
        "MemberCatchingUp",
        "MemberLeaving",
        "MemberReplacing",
    ];
    for word in expected {
        assert!(reasons.contains(&word), "{word}: {reasons:?}");
    }
}

#[test]
fn members_with_gaps_below_them_keep_the_pods_in_between() {
    let mut world = World::new();
    world.yaml = "placement: [{cluster: us, voters: 3}]".to_owned();
    world.yaml.push_str("\nacknowledgedRisks: [RegionMajority]");
    world.settle(usize::MAX);
    // The one in the middle is down, so it is the first to leave; its pod stays while there is one above.
    world.yaml = "placement: [{cluster: us, voters: 1}]".to_owned();
    world.disks.get_mut("notes-us-1").expect("there").runs = true;
    let at = world
        .group
        .members
        .iter()
        .position(|it| it.name == "notes-us-1");
    let gone = world.group.members.remove(at.expect("in it"));
    world.group.former.push(gone.incarnation);
    world.group.epoch += 1;
    world.report(0, true);
    let (roster, _, _) = world.course();
    let names: Vec<_> = roster
        .members
        .iter()
        .map(|it| it.member.name.as_str())
        .collect();
    assert_eq!(names.len(), 3, "{names:?}");
    world.settle(usize::MAX);
    assert_eq!(world.voters(), ["notes-us-0"]);
}

#[test]
fn how_to_get_in_is_told_where_a_member_of_the_group_has_an_empty_log_and_nowhere_else() {
    let mut world = World::new();
    let told = |world: &World| {
        let groups = world.course().2.groups.into_iter();
        let told = groups.filter(|(_, it)| it.join.is_some());
        told.map(|(cluster, _)| cluster).collect::<Vec<_>>()
    };
    // One that is down has its log.
    world.disks.get_mut("notes-ap-0").expect("there").runs = false;
    world.group.members[2].heard = false;
    world.report(2, false);
    world.report(0, true);
    assert_eq!(told(&world), [""; 0]);
    world.disks.remove("notes-ap-0");
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..30 {
        world.rounds(1, usize::MAX);
        seen.extend(told(&world));
    }
    assert_eq!(Vec::from_iter(seen), ["ap"]);
    assert_eq!(told(&world), [""; 0], "it is in");
}

#[test]
fn where_members_wait_for_their_leave_nothing_else_changes() {
    let mut world = World::new();
    world.yaml = FIRST.replace(
        "{cluster: ap, voters: 1}",
        "{cluster: ap, voters: 1, overrides: {imageRegistry: 'a:1'}}",
    );
    world.rounds(3, usize::MAX);
    world.yaml = MOVED.to_owned();
    let plan = world.course().2;
    let (_, left) = plan
        .groups
        .iter()
        .find(|it| it.0 == "ap")
        .expect("still there");
    assert_eq!(left.overrides.image_registry, "a:1");
}

#[test]
fn an_epoch_that_has_just_begun_is_no_news_while_the_members_are_those_that_are_wanted() {
    let mut world = World::new();
    world.group.settled = false;
    world.report(0, true);
    assert_eq!(world.course().1, Course::default());
    world.yaml = FIVE.to_owned();
    let (reason, _) = world.course().1.under_way.expect("it waits");
    assert_eq!(reason.name, "WaitingForQuorum");
}

#[test]
fn one_that_knows_of_a_later_epoch_than_the_leader_that_was_asked_stays() {
    let mut world = World::new();
    world.yaml = FIVE.to_owned();
    world.settle(usize::MAX);
    world.yaml = FIRST.to_owned();
    world.group.members.retain(|it| it.name != "notes-us-1");
    world.report(0, true);
    let stays = |world: &World| world.course().0.has("notes-us-1");
    assert!(!stays(&world), "it has left");
    let later = world.group.epoch + 1;
    change(&mut world.views, 0, |it| {
        let members = &mut it.status.as_mut().expect("a status").members;
        let own = members.iter_mut().find(|it| it.name == "notes-us-1");
        own.expect("there").epoch = later;
    });
    assert!(stays(&world), "it may be in the group again");
}

#[test]
fn of_several_that_say_who_the_members_are_the_one_that_they_follow_is_believed() {
    let mut world = World::new();
    // Its operator has ended, so it goes on saying that it leads.
    change(&mut world.views, 0, |it| {
        let status = it.status.as_mut().expect("a status");
        status.membership.as_mut().expect("it led").epoch = 9;
        status.members[0].leader.clear();
    });
    world.group.leader = "notes-eu-0".to_owned();
    for at in [1, 2] {
        world.report(at, at == 1);
    }
    let found = roster::report(&world.views, "uid-1").expect("one leads");
    assert_eq!((found.leader.as_str(), found.epoch), ("notes-eu-0", 1));
    for at in [1, 2] {
        change(&mut world.views, at, |it| {
            it.status.as_mut().expect("a status").members[0]
                .leader
                .clear();
        });
    }
    assert_eq!(roster::report(&world.views, "uid-1"), None);
}

#[test]
fn while_nobody_leads_the_members_are_those_that_the_clusters_were_told_last() {
    let mut world = World::new();
    world.yaml = FIVE.to_owned();
    world.settle(usize::MAX);
    for at in 0..3 {
        change(&mut world.views, at, |it| {
            let status = it.status.as_mut().expect("a status");
            status.membership = None;
        });
    }
    // The hub has begun anew, and this cluster does not answer.
    world.views[0].group = None;
    world.views[0].access = Access::Starting;
    let (roster, course, plan) = world.course();
    assert_eq!(course, Course::default());
    let mut voters: Vec<_> = roster
        .members
        .iter()
        .filter(|it| members::votes(it.member.role))
        .map(|it| (it.member.name.as_str(), it.cluster.as_str()))
        .collect();
    voters.sort_unstable();
    let five = [
        ("notes-ap-0", "ap"),
        ("notes-eu-0", "eu"),
        ("notes-eu-1", "eu"),
        ("notes-us-0", "us"),
        ("notes-us-1", "us"),
    ];
    assert_eq!(voters, five);
    assert!(
        plan.groups
            .iter()
            .all(|(_, it)| it.epoch == roster.epoch && it.peers.len() == 5)
    );
}

#[test]
fn nobody_leaves_while_it_is_not_decided_what_becomes_of_a_request() {
    let mut world = World::new();
    world.yaml = FIVE.to_owned();
    world.settle(usize::MAX);
    world.undecided = true;
    world.report(0, true);
    world.yaml = FIRST.to_owned();
    let epoch = world.group.epoch;
    world.rounds(10, usize::MAX);
    assert_eq!(world.group.epoch, epoch, "{:#?}", world.told);
    let (reason, words) = world.course().1.under_way.expect("it waits");
    assert_eq!(reason.name, "MemberLeaving");
    assert!(words.contains("request"), "{words}");
    world.undecided = false;
    world.settle(usize::MAX);
    assert_eq!(world.voters().len(), 3);
}
