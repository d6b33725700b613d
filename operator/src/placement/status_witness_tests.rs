//! What is said of services with witnesses.

use synod_api::MemberRole;

use super::super::super::genesis::GenesisFile;
use super::super::super::validate::tests::{judge, spec};
use super::*;

/// All is well: a copy in two regions, and a witness in the third.
fn well_witnessed() -> (Valid, Vec<View>) {
    let yaml = "placement: [{cluster: us, voters: 1}, {cluster: eu, voters: 1}, {cluster: ap, witnesses: 1}]";
    let of = |formed| judge(&spec(yaml), formed, &three()).expect("good");
    let mut file = GenesisFile::of_members("notes", &of(Formed::No).roster.members);
    file.protocol = 1;
    for it in &mut file.members {
        it.incarnation = format!("{:032x}", it.id);
    }
    let valid = of(Formed::Genesis(file.text()));
    let plan = plan::plan(&valid, &three(), &Issued::default(), "synod.local");
    let mut views = taken_up(&plan, three());
    for at in 0..3 {
        edit(&mut views, at, |one| {
            one.epoch = 1;
            one.ready = true;
            one.leader = "notes-us-0".to_owned();
        });
    }
    (valid, views)
}

#[test]
fn a_witness_is_told_as_such_and_counts_as_a_vote_and_not_as_a_copy() {
    let (valid, views) = well_witnessed();
    let told = say(&report(Some(&valid), &views));
    assert_eq!(words(&told)[..2], ["True AsDesired", "True QuorumCommits"]);
    assert_eq!((told.replicas, told.ready_replicas), (2, 2));
    let tolerates = told.tolerates.expect("told");
    assert_eq!((tolerates.members, tolerates.regions), (1, 1));
    let roles: Vec<_> = told.members.iter().map(|it| (&*it.name, it.role)).collect();
    assert_eq!(roles[2], ("notes-ap-100", MemberRole::Witness));
    assert_eq!(roles[0], ("notes-us-0", MemberRole::Voter));
}

#[test]
fn without_a_copy_nobody_is_served_whoever_votes() {
    let (valid, mut views) = well_witnessed();
    edit(&mut views, 2, |it| it.ready = false);
    let told = say(&report(Some(&valid), &views));
    assert_eq!(word(&told, "Available"), "True QuorumCommits");
    assert_eq!(told.tolerates.map(|it| it.members), Some(0));
    edit(&mut views, 2, |it| it.ready = true);
    edit(&mut views, 0, |it| it.ready = false);
    let told = say(&report(Some(&valid), &views));
    assert_eq!(word(&told, "Available"), "True QuorumCommits");
    edit(&mut views, 1, |it| it.state = MemberState::Rebuilding);
    let told = say(&report(Some(&valid), &views));
    assert_eq!(word(&told, "Available"), "False NoCopy");
    assert_eq!(word(&told, "Ready"), "False NoCopy");
    views[0].access = Access::Unreachable {
        since: at(900),
        problem: "no answer".to_owned(),
    };
    let told = say(&report(Some(&valid), &views));
    assert_eq!(word(&told, "Available"), "Unknown ClusterUnreachable");
}
