//! Steps of groups with witnesses.

use super::*;

/// Two copies and a witness, all well and outdated; the first copy leads.
fn witnessed() -> Vec<Seen> {
    let mut witness = member(100);
    witness.role = MemberRole::Witness;
    pod(&mut witness).name = "notes-local-witness-100".to_owned();
    heard(&mut witness).serving = false;
    vec![member(0), member(1), witness]
}

fn follow(seen: &mut [Seen], leader: &str) {
    for it in seen {
        leader.clone_into(&mut heard(it).leader);
    }
}

#[test]
fn a_witness_is_replaced_by_the_name_of_its_pod_and_its_vote_lets_copies_be_replaced() {
    let mut seen = witnessed();
    let Step::Delete {
        pod: name, care, ..
    } = next(&desired(), &seen, at(0))
    else {
        panic!("the witness is first");
    };
    assert_eq!((&*name, care), ("notes-local-witness-100", Care::Budget));
    renew(&mut seen[2]);
    assert_eq!(next(&desired(), &seen, at(0)), delete(1, ROLL));
    // Its vote is what the others go on with.
    heard(&mut seen[2]).leader.clear();
    assert!(matches!(next(&desired(), &seen, at(0)), Step::Wait(_)));
}

#[test]
fn a_copy_that_leads_hands_over_to_a_copy_and_never_to_a_witness() {
    let to = |seen: &[Seen], desired: &Desired| match next(desired, seen, at(0)) {
        Step::Transfer { to, .. } => to,
        step => panic!("{step:?}"),
    };
    let mut seen = witnessed();
    renew(&mut seen[1]);
    renew(&mut seen[2]);
    assert_eq!(to(&seen, &desired()), "notes-local-1");
    // The witness leads, since no copy could: it gives way to one, whichever pod is to be another.
    let mut seen = witnessed();
    renew(&mut seen[0]);
    renew(&mut seen[1]);
    follow(&mut seen, "notes-local-100");
    let found = to(&seen, &desired());
    assert!(
        found == "notes-local-0" || found == "notes-local-1",
        "{found}"
    );
    // Another revision of the app is to start on the leader.
    let mut seen = witnessed();
    let mut desired = desired();
    desired.revision = 1;
    for it in &mut seen {
        renew(it);
    }
    pod(&mut seen[1]).revision = 1;
    heard(&mut seen[0]).due = 1;
    assert_eq!(to(&seen, &desired), "notes-local-1");
}

#[test]
fn another_revision_of_the_app_does_not_replace_a_witness() {
    let mut seen = witnessed();
    for it in &mut seen {
        renew(it);
    }
    let mut desired = desired();
    desired.revision = 1;
    // It knows from the log which revision is due, as all do.
    heard(&mut seen[2]).due = 1;
    heard(&mut seen[2]).newest = 1;
    assert_eq!(next(&desired, &seen, at(0)), Step::Done);
    heard(&mut seen[1]).due = 1;
    heard(&mut seen[1]).newest = 1;
    let step = next(&desired, &seen, at(0));
    assert!(
        matches!(&step, Step::Delete { pod, .. } if pod == "notes-local-1"),
        "{step:?}"
    );
}
