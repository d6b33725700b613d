//! Whom a service begins with, what it is told, and what is recorded of that.

use synod_api::GroupMemberStatus;

use super::super::authority::Issued;
use super::super::plan::tests::{change, taken_up, three};
use super::super::plan::{self, plan};
use super::super::validate::tests::{judge, spec};
use super::*;

const PLACED: &str =
    "placement: [{cluster: us, voters: 1}, {cluster: eu, voters: 1}, {cluster: ap, voters: 1}]";
const STATE: &str = "state: {type: Volume, volume: {mountPath: /data}, snapshot: {type: Volume}}";

fn yaml(bootstrap: &str) -> String {
    format!("{PLACED}\n{STATE}\nbootstrap: {bootstrap}")
}

fn claim() -> String {
    yaml("{type: Claim, claim: {cluster: eu, name: data}}")
}

fn valid(yaml: &str) -> Valid {
    judge(&spec(yaml), Formed::No, &three()).expect("good")
}

/// Every cluster's operator has taken up what it was told.
fn begun(yaml: &str) -> (Valid, Vec<View>) {
    let valid = valid(yaml);
    let plan = plan(&valid, &three(), &Issued::default(), "synod.local");
    (valid, taken_up(&plan, three()))
}

fn genesis(names: &[&str], state: &str) -> String {
    let all = names.iter().zip(1..).map(|(name, id)| {
        format!(
            r#"{{"id": {id}, "name": "{name}", "incarnation": "{id:032x}", "role": "Voter", "region": "r"}}"#
        )
    });
    let members = all.collect::<Vec<_>>().join(", ");
    format!(
        r#"{{"service": "notes", "protocol": 2, "members": [{members}], "policy": "0801", "initialState": "{state}"}}"#
    )
}

fn say(views: &mut [View], at: usize, text: &str, edit: impl FnOnce(&mut GroupMemberStatus)) {
    change(views, at, |it| {
        let status = it.status.as_mut().expect("a status");
        status.begun = vec![text.to_owned()];
        edit(&mut status.members[0]);
    });
}

#[test]
fn with_a_claim_one_member_begins_where_the_claim_is_and_only_it_is_told_of_it() {
    let (valid, _) = begun(&claim());
    let names: Vec<_> = valid
        .roster
        .members
        .iter()
        .map(|it| &it.member.name)
        .collect();
    assert_eq!(names, ["notes-eu-0"]);
    let plan = plan(&valid, &three(), &Issued::default(), "synod.local");
    assert_eq!(plan.groups.len(), 1);
    let founding = plan.groups[0].1.founding.as_ref().expect("told");
    assert_eq!(
        (founding.kind, founding.claim.as_str()),
        (BootstrapType::Claim, "data")
    );
    let backup = valid_of_backup().1;
    assert_eq!(
        (backup.claim.as_str(), backup.path.as_str(), backup.before),
        ("backups", "notes-1", Some(42))
    );
    assert_eq!(super::founding(&spec(PLACED), &Formed::No, "us"), None);
}

fn valid_of_backup() -> (Valid, GroupFounding) {
    let text = yaml(
        "{type: Snapshot, snapshot: {cluster: us, claim: backups, path: notes-1, before: 42}}",
    );
    let valid = valid(&text);
    let founding = super::founding(&valid.spec, &Formed::No, "us").expect("told");
    (valid, founding)
}

#[test]
fn a_cluster_without_a_voter_is_refused_and_the_others_are_named() {
    for (bootstrap, path) in [
        (
            "{type: Claim, claim: {cluster: xx, name: data}}",
            "spec.bootstrap.claim.cluster",
        ),
        (
            "{type: Snapshot, snapshot: {cluster: xx, claim: data, path: a}}",
            "spec.bootstrap.snapshot.cluster",
        ),
    ] {
        let stall = judge(&spec(&yaml(bootstrap)), Formed::No, &three()).expect_err("refused");
        assert_eq!(stall.reason.name, "InvalidSpec");
        for word in [path, "xx", "us, eu, ap"] {
            assert!(stall.message.contains(word), "{}", stall.message);
        }
    }
}

#[test]
fn a_witness_makes_no_first_state() {
    let placed = PLACED.replace("ap, voters: 1", "ap, voters: 0, witnesses: 1");
    let at = |cluster: &str| {
        let bootstrap = format!("{{type: Claim, claim: {{cluster: {cluster}, name: data}}}}");
        let text = format!("{placed}\n{STATE}\nbootstrap: {bootstrap}");
        judge(&spec(&text), Formed::No, &three())
    };
    let roster = at("eu").expect("good").roster;
    assert_eq!(roster.members[0].member.name, "notes-eu-0");
    let stall = at("ap").expect_err("it runs no app there");
    assert!(stall.message.contains("us, eu"), "{}", stall.message);
}

#[test]
fn what_the_first_member_has_in_its_log_is_recorded_word_for_word() {
    let (valid, mut views) = begun(&claim());
    let Err(Wait::Members(NotYet::Waiting(who))) = plan::record(&valid, &views) else {
        panic!("it waits");
    };
    assert_eq!(
        who,
        [(
            "notes-eu-0".to_owned(),
            "it makes the first state".to_owned()
        )]
    );
    change(&mut views, 1, |it| {
        let status = it.status.as_mut().expect("a status");
        status.members[0].problem = "there is nothing in /var/lib/synod-source".to_owned();
    });
    let Err(Wait::Members(NotYet::Waiting(who))) = plan::record(&valid, &views) else {
        panic!("it waits");
    };
    assert!(who[0].1.contains("nothing in"), "{who:?}");
    let text = genesis(&["notes-eu-0"], &"ab".repeat(32));
    say(&mut views, 1, &text, |it| it.epoch = 1);
    let record = plan::record(&valid, &views).expect("begun");
    assert_eq!((record.key, &record.text), (genesis::GENESIS_KEY, &text));
    // From then on it is the one member, the claim is nobody's business any more, and the others join.
    let formed = Formed::Genesis(text);
    assert_eq!(super::founding(&valid.spec, &formed, "eu"), None);
    let valid = judge(&spec(&claim()), formed, &views).expect("good");
    let names: Vec<_> = valid
        .roster
        .members
        .iter()
        .map(|it| &it.member.name)
        .collect();
    assert_eq!(names, ["notes-eu-0"], "no leader has told of the group yet");
    let (reason, _) = valid.course.under_way.expect("others are wanted");
    assert_eq!(reason.name, "WaitingForQuorum");
}

#[test]
fn a_group_that_began_otherwise_is_not_taken_for_the_one_that_was_meant() {
    for text in [
        genesis(&["notes-eu-0"], ""),
        genesis(&["notes-us-0", "notes-eu-0"], &"ab".repeat(32)),
        genesis(&["notes-xx-0"], &"ab".repeat(32)),
        genesis(&["notes-eu-0"], "ab").replace("\"notes\"", "\"other\""),
        "{".to_owned(),
    ] {
        let (valid, mut views) = begun(&claim());
        say(&mut views, 1, &text, |it| it.epoch = 1);
        let Err(Wait::Stall(stall)) = plan::record(&valid, &views) else {
            panic!("{text}");
        };
        assert_eq!(
            stall.reason.name, "BootstrapImpossible",
            "{}",
            stall.message
        );
    }
}

#[test]
fn with_retained_claims_the_group_goes_on_as_the_one_that_it_was() {
    let (valid, mut views) = begun(&yaml("{type: Existing}"));
    assert_eq!(valid.roster.members.len(), 3);
    for cluster in ["us", "eu", "ap"] {
        for formed in [Formed::No, Formed::Genesis(String::new())] {
            let told = super::founding(&valid.spec, &formed, cluster).expect("always");
            assert_eq!(told.kind, BootstrapType::Existing);
        }
    }
    // All logs are empty: the claims are gone.
    let Err(Wait::Stall(stall)) = plan::record(&valid, &views) else {
        panic!("nothing to begin with");
    };
    assert!(stall.message.contains("use Empty"), "{}", stall.message);
    // One of three has lost its own; the record is the group's.
    let text = genesis(&["notes-us-0", "notes-eu-0", "notes-ap-0"], "");
    for at in 0..2 {
        say(&mut views, at, &text, |it| it.epoch = 4);
    }
    let record = plan::record(&valid, &views).expect("goes on");
    assert_eq!(record.text, text);
    // Claims of two groups.
    say(&mut views, 1, &genesis(&["notes-us-0"], "ab"), |it| {
        it.epoch = 4;
    });
    let Err(Wait::Stall(stall)) = plan::record(&valid, &views) else {
        panic!("two groups");
    };
    assert!(
        stall.message.contains("different groups"),
        "{}",
        stall.message
    );
}
