//! Of which revision pods are made, and what the leader is asked for.

use synod_api::{GroupMemberStatus, ReplicaGroupStatus};

use super::super::pods::PodView;
use super::*;

fn group() -> ReplicaGroup {
    let mut group: ReplicaGroup =
        serde_yaml::from_str(include_str!("build/testdata/group.yaml")).expect("a group");
    let spec = &mut group.spec;
    spec.revision = 1;
    for number in [0, 2] {
        let mut it = GroupRevision {
            number,
            template: spec.template.clone(),
            app: spec.app.clone(),
        };
        it.template.0["spec"]["containers"][0]["image"] = format!("notes:{number}").into();
        it.app.port = 8000 + u16::try_from(number).expect("small");
        it.app.passthrough_ports = Vec::new();
        spec.revisions.push(it);
    }
    group.status = Some(ReplicaGroupStatus::default());
    group
}

fn says(group: &mut ReplicaGroup, revision: u64) {
    let status = group.status.as_mut().expect("there");
    status.members.push(GroupMemberStatus {
        name: "notes-us-east-0".to_owned(),
        incarnation: String::new(),
        endpoint: String::new(),
        state: MemberState::CaughtUp,
        role: None,
        leader: String::new(),
        epoch: 1,
        ready: true,
        policy_version: 0,
        protocol: [2, 2],
        protocol_in_force: 2,
        log_mebibytes: 0,
        snapshot: None,
        updated: true,
        revision,
        running: None,
        made_of: None,
        may: None,
        problem: String::new(),
    });
}

#[test]
fn pods_are_made_of_the_revision_in_force_as_soon_as_a_member_knows_of_it() {
    let mut group = group();
    let made = |group: &ReplicaGroup| {
        let spec = effective(group).spec;
        let mut numbers: Vec<_> = spec.revisions.iter().map(|it| it.number).collect();
        numbers.sort_unstable();
        (spec.revision, spec.app.port, numbers)
    };
    let before = made(&group);
    assert_eq!((before.0, before.2), (1, vec![0, 2]));
    says(&mut group, 2);
    assert_eq!(made(&group), (2, 8002, vec![0, 1]));
    let spec = effective(&group).spec;
    assert_eq!(spec.app.passthrough_ports, group.spec.app.passthrough_ports);
    assert_eq!(
        spec.template.pointer("/spec/containers").expect("there")[0]["image"],
        "notes:2"
    );
    // What is not known cannot be made.
    says(&mut group, 3);
    assert_eq!(made(&group).0, 2);
    let facts = &mut group.status.as_mut().expect("there").facts;
    facts.insert(OLDER_FACT.to_owned(), "0".to_owned());
    assert_eq!(made(&group), (0, 8000, vec![1, 2]));
    let facts = &mut group.status.as_mut().expect("there").facts;
    facts.insert(OLDER_FACT.to_owned(), "7".to_owned());
    assert_eq!(made(&group).0, 2, "nobody knows that one");
}

#[test]
fn another_revision_is_another_template_and_has_a_configuration_of_its_own() {
    let mut group = group();
    group.metadata.uid = Some("uid".to_owned());
    let valid = super::super::validate::validate(&group, "us-east").expect("valid");
    let map = super::super::build::config_map(&valid).value;
    let data = &map["data"];
    let text = |key: &str| data[key].as_str().unwrap_or_default().to_owned();
    for (number, port) in [(0, "8000"), (1, "8080"), (2, "8002")] {
        let file = crate::inject::names::config_file(number);
        assert!(text(&file).contains(&format!("127.0.0.1:{port}")), "{file}");
        let names_it = text(&file).contains(&format!("revision: {number}\n"));
        assert_eq!(names_it, number > 0, "{file}");
        assert_eq!(crate::inject::names::revision_of(&file), Some(number));
    }
}

#[test]
fn the_leader_is_asked_for_the_revision_after_the_one_in_force_if_it_is_known_what_that_is() {
    let mut spec = group().spec;
    let said = StatusResponse {
        epoch: 7,
        revision: 1,
        ..StatusResponse::default()
    };
    assert_eq!(due(&spec, &said), None);
    spec.revise = Some(Revise {
        from: 1,
        epoch: 7,
        takes_back: false,
    });
    assert!(due(&spec, &said).is_some());
    for other in [
        StatusResponse {
            epoch: 8,
            ..said.clone()
        },
        StatusResponse {
            revision: 2,
            ..said.clone()
        },
        StatusResponse {
            revision_unfinished: true,
            ..said.clone()
        },
    ] {
        assert_eq!(due(&spec, &other), None);
    }
    let change = spec.clone();
    spec.change = Some(synod_api::MembersChange::default());
    assert_eq!(
        due(&spec, &said),
        None,
        "members and revisions never change at once"
    );
    spec = change;
    spec.revisions.retain(|it| it.number != 2);
    assert_eq!(due(&spec, &said), None, "nobody could make its pods");
}

/// Revision 2 runs along silently, and this member is next.
fn rolling(member: &str) -> ReplicaGroup {
    let mut group = group();
    for name in ["notes-us-east-0", "notes-us-east-1", "notes-us-east-2"] {
        says(&mut group, 1);
        let own = members(&mut group).last_mut().expect("there");
        own.name = name.to_owned();
        own.running = Some(1);
        own.made_of = Some(1);
    }
    group.spec.along = Some(synod_api::Along {
        revision: 2,
        member: member.to_owned(),
    });
    group
}

fn members(group: &mut ReplicaGroup) -> &mut Vec<GroupMemberStatus> {
    &mut group.status.as_mut().expect("there").members
}

#[test]
fn pods_are_made_of_the_silent_revision_for_the_one_whose_turn_it_is_and_for_no_longer() {
    let made = |group: &ReplicaGroup| effective(group).spec.revision;
    assert_eq!(made(&rolling("")), 1);
    assert_eq!(made(&rolling("notes-eu-0")), 1, "it is elsewhere");
    let mut group = rolling("notes-us-east-1");
    assert_eq!(made(&group), 2);
    assert_eq!(along(&effective(&group)), Some("notes-us-east-1"));
    // Its pod is away, and then there.
    members(&mut group)[1].made_of = None;
    members(&mut group)[1].state = MemberState::Unreachable;
    assert_eq!(made(&group), 2);
    members(&mut group)[1].made_of = Some(2);
    assert_eq!(made(&group), 1, "whoever else comes back is of the old one");
    assert_eq!(silent_of(&group), Some(2));
    members(&mut group)[1].state = MemberState::CaughtUp;
    assert_eq!((made(&group), along(&group)), (1, None), "it runs along");
    let spoils: [fn(&mut ReplicaGroup); 5] = [
        // Another's pod is to be replaced as it was.
        |it| members(it)[0].state = MemberState::Rebuilding,
        |it| members(it)[1].state = MemberState::Rebuilding,
        |it| it.spec.revisions.retain(|it| it.number != 2),
        |it| it.spec.along = None,
        |it| {
            let status = it.status.as_mut().expect("there");
            let older = (OLDER_FACT.to_owned(), "0".to_owned());
            status.facts.extend([older]);
        },
    ];
    for spoil in spoils {
        let mut group = rolling("notes-us-east-1");
        spoil(&mut group);
        assert_ne!(made(&group), 2);
    }
    // It is in force.
    let mut group = rolling("notes-us-east-1");
    members(&mut group)[0].revision = 2;
    assert_eq!((made(&group), along(&group)), (2, None));
    assert_eq!(silent_of(&group), None);
}

#[test]
fn a_budget_is_closed_while_only_one_copy_answers_and_others_run_along() {
    let mut group = rolling("");
    group.spec.peers.clear();
    let open = |group: &ReplicaGroup| {
        let valid = super::super::validate::validate(group, "us-east").expect("valid");
        super::super::roll::disruptions(&valid, Timestamp::now())
    };
    let members_of_spec = &mut group.spec.members;
    for id in 1..=3 {
        let mut it = members_of_spec[0].clone();
        it.name = format!("notes-us-east-{}", id - 1);
        it.id = id;
        members_of_spec.push(it);
    }
    let there = members_of_spec.len() - 3;
    members_of_spec.drain(..there);
    assert_eq!(answering(&group), 3);
    assert_eq!(open(&group), 1);
    for at in 1..3 {
        members(&mut group)[at].running = Some(2);
    }
    assert_eq!(answering(&group), 1);
    assert_eq!(open(&group), 0);
    group.spec.along = None;
    assert_eq!(open(&group), 1);
}

/// As a member says that revision 2 runs along.
fn says_silent() -> StatusResponse {
    StatusResponse {
        epoch: 7,
        ready: true,
        revision: 1,
        revision_newest: 2,
        revision_unfinished: true,
        revision_running: Some(2),
        revision_due: 2,
        applied: 4_000,
        commit: 5_000,
        ..StatusResponse::default()
    }
}

#[test]
fn a_silent_copy_is_well_when_it_has_caught_up() {
    assert!(runs_along(&says_silent()));
    let spoils: [fn(&mut StatusResponse); 4] = [
        |it| it.applied = 3_900,
        |it| it.revision_running = Some(1),
        |it| it.revision_running = None,
        |it| it.revision_unfinished = false,
    ];
    for spoil in spoils {
        let mut said = says_silent();
        spoil(&mut said);
        assert!(!runs_along(&said));
    }
    // What is due is not known to one that knows nothing of what its pod is made of.
    let pod = PodView {
        app_revision: 2,
        ..PodView::default()
    };
    assert_eq!(due_there(&says_silent(), &pod), Some(2));
    let mut said = says_silent();
    said.revision_newest = 1;
    assert_eq!(due_there(&said, &pod), None);
}

#[test]
fn what_runs_along_is_taken_back_though_nothing_takes_its_place() {
    let mut spec = group().spec;
    spec.revise = Some(Revise {
        from: 2,
        epoch: 7,
        takes_back: true,
    });
    let said = says_silent();
    assert!(due(&spec, &said).is_some());
    let mut over = said.clone();
    (over.revision, over.revision_unfinished) = (2, false);
    assert_eq!(due(&spec, &over), None, "it has taken over meanwhile");
    let mut switched = said;
    switched.revision = 2;
    assert_eq!(due(&spec, &switched), None, "the next is not known");
}

#[test]
fn what_the_leader_has_done_is_known_before_it_says_so_itself() {
    let state = |in_force, newest, unfinished| RevisionState {
        leader: "notes-us-east-0".to_owned(),
        in_force,
        newest: Some(newest),
        unfinished,
        disagreement: String::new(),
        problem: String::new(),
    };
    let answer = |strategy: RevisionStrategy| ReviseResponse {
        strategy: strategy.into(),
        ..ReviseResponse::default()
    };
    let revise = |from, takes_back| Revise {
        from,
        epoch: 7,
        takes_back,
    };
    for (before, asked, strategy, after, (reason, word)) in [
        (
            state(1, 1, false),
            revise(1, false),
            RevisionStrategy::Rolling,
            state(1, 2, true),
            ("RevisionBegun", "runs along silently"),
        ),
        (
            state(1, 1, false),
            revise(1, false),
            RevisionStrategy::Switch,
            state(2, 2, true),
            ("RevisionBegun", "executes what is agreed on"),
        ),
        (
            state(1, 2, true),
            revise(2, true),
            RevisionStrategy::Switch,
            state(1, 2, false),
            ("RevisionTakenBack", "revision 2 of the app is taken back"),
        ),
        (
            state(2, 2, true),
            revise(2, true),
            RevisionStrategy::Switch,
            state(3, 3, true),
            ("RevisionBegun", "revision 3"),
        ),
    ] {
        let mut found = before;
        let (event, words) = revised_to(&mut found, &asked, &answer(strategy));
        assert_eq!((found, event), (after, reason), "{words}");
        assert!(words.contains(word), "{words}");
    }
}

#[test]
fn the_leader_is_asked_in_the_way_that_the_manifest_names_and_for_what_follows_the_newest() {
    let mut spec = group().spec;
    let mut revise = Revise {
        from: 3,
        epoch: 7,
        takes_back: false,
    };
    for (named, asked) in [
        (UpdateStrategy::Rolling, RevisionStrategy::Rolling),
        (UpdateStrategy::Switch, RevisionStrategy::Switch),
    ] {
        spec.update.strategy = named;
        let found = request(&spec, &revise);
        assert_eq!(found.strategy(), asked);
        let told = (found.expected_revision, found.epoch, found.takes_back);
        assert_eq!(told, (3, 7, false));
        assert!(!found.finishes, "nobody is overruled");
    }
    revise.takes_back = true;
    assert!(request(&spec, &revise).takes_back);
}

#[test]
fn a_single_copy_is_switched_whatever_is_asked_for() {
    let mut spec = group().spec;
    let named = |name: &str, role| synod_api::GroupPeer {
        name: name.to_owned(),
        address: "10.0.0.1:7117".to_owned(),
        role,
    };
    spec.members.truncate(1);
    let own = spec.members[0].name.clone();
    spec.peers = vec![
        named(&own, MemberRole::Voter),
        named("notes-eu-0", MemberRole::Witness),
        named("notes-ap-0", MemberRole::Witness),
    ];
    assert_eq!(copies(&spec), 1, "witnesses have none");
    spec.peers[1].role = MemberRole::Observer;
    assert_eq!(copies(&spec), 2);
}

fn observed(pod_revision: u64, due: u64, age: i64, now: Timestamp) -> Observed {
    Observed {
        name: "notes-us-east-0".to_owned(),
        role: MemberRole::Voter,
        pod: Some(PodView {
            app_revision: pod_revision,
            made: Some(now - SignedDuration::from_secs(age)),
            ..PodView::default()
        }),
        updated: true,
        newest: true,
        heard: Some(Ok(StatusResponse {
            ready: true,
            revision: 2,
            revision_due: due,
            ..StatusResponse::default()
        })),
        snapshot: None,
        endpoint: String::new(),
    }
}

#[test]
fn an_earlier_revision_is_made_for_whom_nobody_gives_the_state_of_a_later_one() {
    let now = Timestamp::from_second(1_700_000_000).expect("in range");
    let found = |pod, due, age| older(&[observed(pod, due, age, now)], None, now);
    assert_eq!(found(2, 2, 500), None);
    assert_eq!(found(1, 2, 500), None, "it is to be replaced by the next");
    assert_eq!(found(2, 1, 30), None, "it may be given the state yet");
    assert_eq!(found(2, 1, 500), Some(1));
    // Until its pod has a successor.
    let mut gone = observed(2, 1, 500, now);
    gone.heard = None;
    gone.pod.as_mut().expect("there").leaving = true;
    assert_eq!(older(&[gone.clone()], Some(1), now), Some(1));
    gone.pod = None;
    assert_eq!(older(&[gone], Some(1), now), Some(1));
    assert_eq!(older(&[observed(1, 1, 5, now)], Some(1), now), None);
}
