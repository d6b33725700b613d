use std::collections::BTreeMap;

use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("in range")
}

#[test]
fn the_token_is_held_from_the_wish_until_all_is_well_again() {
    for (wanted, held, well, expected) in [
        (false, false, true, Wish::Nothing),
        // A member that is away by itself is nobody's doing.
        (false, false, false, Wish::Nothing),
        (true, false, true, Wish::Hold),
        (true, true, false, Wish::Hold),
        // The node is back, the member is not yet.
        (false, true, false, Wish::Hold),
        (false, true, true, Wish::Release),
    ] {
        let case = (wanted, held, well);
        assert_eq!(wish(wanted, held, well), expected, "{case:?}");
    }
}

#[test]
fn what_was_granted_outlives_its_leader_and_nothing_else() {
    let fact = Fact {
        open: true,
        until: at(100),
    };
    let quiet = || Said::Nothing("it leads so lately".to_owned());
    assert_eq!(kept(Some(fact), Said::Ours(at(150)), at(90)), Ok(at(150)));
    assert_eq!(kept(Some(fact), quiet(), at(99)), Ok(at(100)));
    kept(Some(fact), quiet(), at(100)).expect_err("it has ended");
    kept(None, quiet(), at(90)).expect_err("it never was");
    let other = Said::Theirs("eu".to_owned());
    kept(Some(fact), other, at(90)).expect_err("another has it");
}

#[test]
fn the_token_is_not_given_back_before_the_budget_is_closed() {
    let fact = |open| Fact {
        open,
        until: at(100),
    };
    assert_eq!(closing(Some(fact(true))), Some(fact(false)));
    assert_eq!(closing(Some(fact(false))), None);
    assert_eq!(closing(None), None);
}

#[test]
fn an_open_budget_is_noted_with_its_end() {
    let mut facts = BTreeMap::new();
    assert_eq!(Fact::read(&facts), None);
    for open in [true, false] {
        let fact = Fact {
            open,
            until: at(1_700_000_000),
        };
        fact.write(&mut facts);
        assert_eq!(Fact::read(&facts), Some(fact), "{facts:?}");
        assert!(fact.holds(at(1_699_999_999)) && !fact.holds(fact.until));
    }
    for odd in ["open", "open until then", "ajar until 2026-01-01T00:00:00Z"] {
        facts.insert("disruption".to_owned(), odd.to_owned());
        assert_eq!(Fact::read(&facts), None, "{odd}");
    }
    Fact::forget(&mut facts);
    assert!(facts.is_empty());
}

#[test]
fn a_budget_is_open_no_longer_than_the_token_lasts() {
    let mut group: synod_api::ReplicaGroup =
        serde_yaml::from_str(include_str!("../build/testdata/group.yaml")).expect("a group");
    let fact = Fact {
        open: true,
        until: at(100),
    };
    let mut status = synod_api::ReplicaGroupStatus::default();
    fact.write(&mut status.facts);
    group.status = Some(status);
    let valid = crate::group::validate::validate(&group, "us-east").expect("valid");
    assert!(is_open(&valid, at(99)));
    assert!(!is_open(&valid, at(100)), "nobody renewed it");
}

fn said() -> StatusResponse {
    StatusResponse {
        ready: true,
        serving: true,
        leader: "notes-us-0".to_owned(),
        role: "Voter".to_owned(),
        ..StatusResponse::default()
    }
}

fn peer(name: &str, role: MemberRole) -> GroupPeer {
    GroupPeer {
        name: name.to_owned(),
        address: "10.0.0.1:7443".to_owned(),
        role,
    }
}

#[test]
fn only_voters_elsewhere_that_follow_a_leader_count_and_observers_must_be_well_too() {
    let (voter, observer) = (
        peer("v", MemberRole::Voter),
        peer("o", MemberRole::Observer),
    );
    let witness = peer("w", MemberRole::Witness);
    let good = count(&[
        (&voter, Some(said())),
        (&observer, Some(said())),
        (
            &witness,
            Some(StatusResponse {
                serving: false,
                role: "Witness".to_owned(),
                ..said()
            }),
        ),
    ]);
    assert_eq!(
        (good.voters, good.voting),
        (2, 2),
        "an observer has no vote"
    );
    assert_eq!(good.unwell, Vec::<String>::new());
    assert_eq!(good.answering, 2, "a witness has no copy");
    // A copy that runs along silently is well, and answers nobody.
    let mut along = said();
    along.serving = false;
    along.revision_unfinished = true;
    along.revision_newest = 1;
    along.revision_running = Some(1);
    let found = count(&[(&voter, Some(along.clone()))]);
    assert_eq!(
        (found.voting, found.answering, found.unwell.len()),
        (1, 0, 0)
    );
    along.commit += 5_000;
    assert_eq!(count(&[(&voter, Some(along))]).unwell, ["v"], "far behind");
    let silent = count(&[(&voter, None), (&observer, None)]);
    assert_eq!((silent.voters, silent.voting), (1, 0));
    assert_eq!(silent.unwell, ["v", "o"]);
    for (votes, broken) in [
        (0, (|it| it.ready = false) as fn(&mut StatusResponse)),
        (0, |it| it.leader.clear()),
        // Its log counts, its copy does not.
        (1, |it| it.serving = false),
    ] {
        let mut said = said();
        broken(&mut said);
        let found = count(&[(&voter, Some(said))]);
        assert_eq!((found.voting, found.unwell.len()), (votes, 1));
    }
}

#[test]
fn a_node_is_emptied_when_it_is_cordoned_or_about_to_be_removed() {
    let node = |text: &str| serde_yaml::from_str::<NodeSpec>(text).expect("a node");
    assert!(is_emptied(&node("{unschedulable: true}")));
    let taint = "{taints: [{key: karpenter.sh/disrupted, effect: NoSchedule}]}";
    assert!(is_emptied(&node(taint)));
    assert!(!is_emptied(&node(
        "{taints: [{key: dedicated, effect: NoSchedule}]}"
    )));
}

#[test]
fn whoever_empties_a_node_is_told_why_a_member_stays() {
    assert_eq!(blocked("n1", &Ok(Elsewhere::default())), None);
    let unwell = Elsewhere {
        unwell: vec!["notes-eu-0".to_owned()],
        ..Elsewhere::default()
    };
    let words = blocked("n1", &Ok(unwell)).expect("blocked");
    assert!(
        words.contains("n1") && words.contains("notes-eu-0"),
        "{words}"
    );
}

#[test]
fn nobody_is_let_go_while_one_copy_answers_and_others_run_along() {
    let mut group: ReplicaGroup =
        serde_yaml::from_str(include_str!("../build/testdata/group.yaml")).expect("a group");
    let observed = |serving| Observed {
        name: "notes-us-east-0".to_owned(),
        role: MemberRole::Voter,
        pod: None,
        updated: true,
        newest: true,
        heard: Some(Ok(StatusResponse {
            serving,
            ..StatusResponse::default()
        })),
        snapshot: None,
        endpoint: String::new(),
    };
    let (one, none) = ([observed(true)], [observed(false)]);
    let elsewhere = |answering| Elsewhere {
        answering,
        ..Elsewhere::default()
    };
    assert!(!is_last(&group, &one, &elsewhere(0)), "nobody runs along");
    group.spec.along = Some(synod_api::Along {
        revision: group.spec.revision + 1,
        member: String::new(),
    });
    let mut next = synod_api::GroupRevision {
        number: group.spec.revision,
        template: group.spec.template.clone(),
        app: group.spec.app.clone(),
    };
    next.number += 1;
    group.spec.revisions.push(next);
    assert!(is_last(&group, &one, &elsewhere(0)));
    assert!(is_last(&group, &none, &elsewhere(1)));
    assert!(!is_last(&group, &one, &elsewhere(1)));
    assert!(!is_last(&group, &none, &elsewhere(2)));
}
