//! Pictures and their steps; then whole rolls against a group that moves on, with the rules checked
//! at every step.

use super::*;

mod witnesses;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + seconds).expect("in range")
}

fn desired() -> Desired {
    Desired {
        formed: true,
        rollout: true,
        revision: 0,
        rolls: false,
        along: None,
        elsewhere: Elsewhere::default(),
    }
}

/// A member that is well and outdated; `notes-local-0` leads.
fn member(ordinal: usize) -> Seen {
    Seen {
        name: format!("notes-local-{ordinal}"),
        role: MemberRole::Voter,
        pod: Some(SeenPod {
            name: format!("notes-local-{ordinal}"),
            uid: format!("uid-{ordinal}"),
            leaving: false,
            updated: false,
            newest: false,
            revision: 0,
            ran: true,
            ready: true,
            since: Some(at(-100)),
            made: Some(at(-1_000)),
            backing_off: None,
        }),
        heard: Some(Heard {
            ready: true,
            serving: true,
            leader: "notes-local-0".to_owned(),
            app_silent: false,
            replace_pod: false,
            due: 0,
            newest: 0,
            along: false,
            may: None,
        }),
    }
}

fn members(count: usize) -> Vec<Seen> {
    (0..count).map(member).collect()
}

fn pod(seen: &mut Seen) -> &mut SeenPod {
    seen.pod.as_mut().expect("there")
}

/// Its pod runs the template as it is now.
fn renew(seen: &mut Seen) {
    pod(seen).updated = true;
    pod(seen).newest = true;
}

fn heard(seen: &mut Seen) -> &mut Heard {
    seen.heard.as_mut().expect("heard")
}

fn taken(ordinal: usize, why: &'static str, care: Care) -> Step {
    Step::Delete {
        pod: format!("notes-local-{ordinal}"),
        uid: format!("uid-{ordinal}"),
        why,
        care,
    }
}

/// One of a group with some to spare that is well is evicted, one that is broken and votes deleted.
fn delete(ordinal: usize, why: &'static str) -> Step {
    let care = match why {
        ROLL => Care::Budget,
        BROKEN => Care::Votes,
        _ => Care::None,
    };
    taken(ordinal, why, care)
}

const ROLL: &str = "it is to run another template";
const BROKEN: &str = "it does not work";
const STUCK: &str = "kubelet waits long before it starts it again";

#[test]
fn nothing_is_done_when_every_pod_is_as_it_should_be() {
    let mut seen = members(3);
    for it in &mut seen {
        renew(it);
    }
    assert_eq!(next(&desired(), &seen, at(0)), Step::Done);
    heard(&mut seen[1]).serving = false;
    assert_eq!(next(&desired(), &seen, at(0)), Step::Done);
}

#[test]
fn the_highest_number_is_first_and_the_leader_last_after_it_has_handed_over() {
    let mut seen = members(3);
    assert_eq!(next(&desired(), &seen, at(0)), delete(2, ROLL));
    renew(&mut seen[2]);
    assert_eq!(next(&desired(), &seen, at(0)), delete(1, ROLL));
    renew(&mut seen[1]);
    let step = next(&desired(), &seen, at(0));
    assert!(matches!(&step, Step::Transfer { from, .. } if from == "notes-local-0"));
    for it in &mut seen {
        heard(it).leader = "notes-local-2".to_owned();
    }
    assert_eq!(next(&desired(), &seen, at(0)), delete(0, ROLL));
}

#[test]
fn leadership_goes_to_a_member_that_need_not_be_replaced_again() {
    let mut seen = members(3);
    seen[2].heard = member(2).heard;
    renew(&mut seen[1]);
    renew(&mut seen[2]);
    heard(&mut seen[2]).leader = "notes-local-0".to_owned();
    let step = next(&desired(), &seen, at(0));
    let expected = |to: &str| Step::Transfer {
        from: "notes-local-0".to_owned(),
        to: to.to_owned(),
    };
    assert!(step == expected("notes-local-1") || step == expected("notes-local-2"));
}

#[test]
fn a_member_that_is_away_late_or_unheard_is_waited_for() {
    let waits = |change: &dyn Fn(&mut Seen), words: &str| {
        let mut seen = members(3);
        renew(&mut seen[2]);
        change(&mut seen[2]);
        match next(&desired(), &seen, at(0)) {
            Step::Wait(why) => assert!(why.contains(words), "{why}"),
            step => panic!("{words}: {step:?}"),
        }
    };
    waits(&|it| it.pod = None, "is being replaced");
    waits(&|it| pod(it).leaving = true, "is being replaced");
    waits(&|it| pod(it).ready = false, "not ready");
    waits(&|it| it.heard = None, "does not answer");
    waits(&|it| heard(it).serving = false, "not caught up");
    waits(&|it| heard(it).ready = false, "not caught up");
    waits(&|it| heard(it).leader.clear(), "follows no leader");
}

#[test]
fn without_the_hubs_word_only_pods_that_never_ran_are_replaced() {
    let mut seen = members(3);
    let not_now = Desired {
        rollout: false,
        ..desired()
    };
    assert!(matches!(next(&not_now, &seen, at(0)), Step::Wait(_)));
    pod(&mut seen[1]).ran = false;
    pod(&mut seen[1]).ready = false;
    seen[1].heard = None;
    assert_eq!(next(&not_now, &seen, at(0)), delete(1, "it never ran"));
}

#[test]
fn before_the_group_is_formed_pods_are_replaced_without_waiting_for_each_other() {
    let mut seen = members(3);
    for it in &mut seen {
        heard(it).leader.clear();
        heard(it).ready = false;
    }
    pod(&mut seen[0]).leaving = true;
    let unformed = Desired {
        formed: false,
        ..desired()
    };
    let why = "the group is not formed yet";
    assert_eq!(next(&unformed, &seen, at(0)), delete(1, why));
}

#[test]
fn pods_not_ready_for_less_than_five_seconds_give_no_reason_to_do_anything() {
    let mut seen = members(3);
    for it in &mut seen {
        pod(it).ready = false;
        pod(it).since = Some(at(-4));
    }
    assert!(matches!(next(&desired(), &seen, at(0)), Step::Wait(_)));
    assert_eq!(next(&desired(), &seen, at(1)), delete(0, BROKEN));
}

#[test]
fn broken_pods_of_an_old_template_are_replaced_first_while_a_majority_votes() {
    let mut seen = members(3);
    pod(&mut seen[1]).ready = false;
    heard(&mut seen[1]).serving = false;
    let broken = delete(1, BROKEN);
    assert_eq!(next(&desired(), &seen, at(0)), broken);
    // Another does not vote: this one is needed, though its copy is broken.
    heard(&mut seen[2]).ready = false;
    assert!(matches!(next(&desired(), &seen, at(0)), Step::Wait(_)));
    // It does not vote itself: nothing is lost with it.
    seen[1].heard = None;
    assert_eq!(next(&desired(), &seen, at(0)), taken(1, BROKEN, Care::None));
}

#[test]
fn a_broken_new_template_stops_the_roll_at_the_first_pod() {
    let mut seen = members(3);
    renew(&mut seen[2]);
    pod(&mut seen[2]).ready = false;
    pod(&mut seen[2]).since = Some(at(-1_000));
    assert_eq!(
        next(&desired(), &seen, at(0)),
        Step::Wait("notes-local-2 is not ready".to_owned())
    );
}

#[test]
fn a_newer_sidecar_is_for_pods_that_do_not_work_or_never_did() {
    let mut seen = members(3);
    for it in &mut seen {
        pod(it).updated = true;
    }
    assert_eq!(next(&desired(), &seen, at(0)), Step::Done);
    pod(&mut seen[1]).ready = false;
    pod(&mut seen[1]).since = Some(at(-4));
    assert_eq!(next(&desired(), &seen, at(0)), Step::Done);
    assert_eq!(next(&desired(), &seen, at(1)), delete(1, BROKEN));
    let unformed = Desired {
        formed: false,
        ..desired()
    };
    let step = next(&unformed, &members(3), at(0));
    assert_eq!(step, delete(0, "the group is not formed yet"));
}

#[test]
fn observers_are_replaced_before_voters() {
    let mut seen = members(4);
    seen[1].role = MemberRole::Observer;
    assert_eq!(next(&desired(), &seen, at(0)), delete(1, ROLL));
}

#[test]
fn a_group_of_one_is_replaced_although_it_stops_for_a_moment() {
    let seen = members(1);
    assert_eq!(
        next(&desired(), &seen, at(0)),
        taken(0, ROLL, Care::Votes),
        "no budget would ever let it go"
    );
}

/// Its sidecar votes and no more, as with an image that does not exist.
#[test]
fn the_app_of_a_group_of_one_or_two_is_mended_though_its_sidecar_votes() {
    for count in [1, 2] {
        let mut seen = members(count);
        let last = &mut seen[count - 1];
        pod(last).ready = false;
        heard(last).serving = false;
        let expected = delete(count - 1, BROKEN);
        assert_eq!(next(&desired(), &seen, at(0)), expected);
    }
    let mut seen = members(3);
    pod(&mut seen[0]).ready = false;
    seen[1].heard = None;
    assert!(
        matches!(next(&desired(), &seen, at(0)), Step::Wait(_)),
        "two of three are all that decide"
    );
}

/// As with a port that is not the app's: sidecars are ready, and no copy will ever be caught up.
#[test]
fn members_whose_apps_listen_to_nobody_get_the_new_template_one_by_one() {
    let mut seen = members(3);
    for it in &mut seen {
        heard(it).serving = false;
    }
    assert!(
        matches!(next(&desired(), &seen, at(0)), Step::Wait(_)),
        "they may be catching up"
    );
    for it in &mut seen {
        heard(it).app_silent = true;
    }
    assert_eq!(next(&desired(), &seen, at(0)), delete(0, BROKEN));
    seen[0].pod = None;
    assert!(matches!(next(&desired(), &seen, at(0)), Step::Wait(_)));
}

#[test]
fn a_group_of_two_moves_its_leader_before_each_pod() {
    let mut seen = members(2);
    assert_eq!(next(&desired(), &seen, at(0)), taken(1, ROLL, Care::Votes));
    renew(&mut seen[1]);
    assert!(matches!(
        next(&desired(), &seen, at(0)),
        Step::Transfer { .. }
    ));
}

#[test]
fn the_only_member_of_a_cluster_hands_over_to_another_cluster_first() {
    let seen = members(1);
    let desired = Desired {
        elsewhere: Elsewhere::hoped(2),
        ..desired()
    };
    let step = Step::Transfer {
        from: "notes-local-0".to_owned(),
        to: String::new(),
    };
    assert_eq!(next(&desired, &seen, at(0)), step);
}

/// Four voters, two of them here: three decide, and one elsewhere is away.
#[test]
fn what_members_elsewhere_say_counts_and_not_how_many_there_are() {
    let mut seen = members(2);
    heard(&mut seen[0]).leader = "notes-eu-0".to_owned();
    heard(&mut seen[1]).leader = "notes-eu-0".to_owned();
    let with = |voting: usize, unwell: &[&str]| Desired {
        elsewhere: Elsewhere {
            voters: 2,
            voting,
            answering: voting,
            unwell: unwell.iter().map(|&it| it.to_owned()).collect(),
        },
        ..desired()
    };
    assert_eq!(next(&with(2, &[]), &seen, at(0)), delete(1, ROLL));
    let step = next(&with(2, &["notes-eu-0"]), &seen, at(0));
    assert!(
        matches!(&step, Step::Wait(why) if why.contains("notes-eu-0")),
        "{step:?}"
    );
    // A broken one that votes is needed while another is away.
    pod(&mut seen[1]).ready = false;
    assert_eq!(
        next(&with(2, &["notes-eu-0"]), &seen, at(0)),
        delete(1, BROKEN)
    );
    let step = next(&with(1, &["notes-eu-0"]), &seen, at(0));
    assert!(matches!(step, Step::Wait(_)), "{step:?}");
}

#[test]
fn what_takes_a_vote_away_or_moves_the_leader_needs_the_groups_token() {
    assert!(delete(1, ROLL).needs_token());
    assert!(delete(1, BROKEN).needs_token());
    assert!(!taken(1, "it never ran", Care::None).needs_token());
    assert!(!Step::Wait(String::new()).needs_token() && !Step::Done.needs_token());
    let transfer = Step::Transfer {
        from: "notes-local-0".to_owned(),
        to: String::new(),
    };
    assert!(transfer.needs_token());
}

#[test]
fn a_member_stuck_in_kubelets_back_off_gets_a_new_pod_at_most_every_five_minutes() {
    let mut seen = members(3);
    for it in &mut seen {
        renew(it);
    }
    pod(&mut seen[1]).ready = false;
    heard(&mut seen[1]).serving = false;
    pod(&mut seen[1]).backing_off = Some(at(0));
    let next = |seen: &[Seen], second| next(&desired(), seen, at(second));
    assert_eq!(next(&seen, 19), Step::Done, "kubelet will start it soon");
    let step = taken(1, STUCK, Care::Votes);
    assert_eq!(next(&seen, 20), step);
    // Its successor is stuck as well.
    pod(&mut seen[1]).made = Some(at(25));
    assert_eq!(next(&seen, 324), Step::Done, "not again so soon");
    assert_eq!(next(&seen, 325), step);
    // The others are not well: this is not its own trouble.
    heard(&mut seen[2]).serving = false;
    assert_eq!(next(&seen, 325), Step::Done);
}

/// Takes the step in a picture of the group and lets it settle or not, as `random` says.
fn play(seen: &mut [Seen], step: &Step, random: &mut impl FnMut() -> u32) {
    match step {
        Step::Delete { pod: name, .. } => {
            let it = seen.iter_mut().find(|it| it.name == *name).expect("there");
            pod(it).leaving = true;
            it.heard = None;
        }
        Step::Transfer { to, .. } => {
            let to = to.clone();
            for it in seen.iter_mut().filter_map(|it| it.heard.as_mut()) {
                it.leader.clone_from(&to);
            }
        }
        Step::Done | Step::Wait(_) => {}
    }
    let leader = seen
        .iter()
        .filter_map(|it| it.heard.as_ref())
        .map(|it| it.leader.clone())
        .find(|it| !it.is_empty())
        .unwrap_or_default();
    // Each pod may move on by one phase: gone, made, started, heard, caught up.
    for it in seen {
        if random().is_multiple_of(2) {
            continue;
        }
        match (&mut it.pod, &mut it.heard) {
            (Some(there), _) if there.leaving => it.pod = None,
            (None, _) => {
                it.pod = Some(SeenPod {
                    name: it.name.clone(),
                    uid: "new".to_owned(),
                    leaving: false,
                    updated: true,
                    newest: true,
                    revision: 0,
                    ran: false,
                    ready: false,
                    since: Some(at(0)),
                    made: Some(at(0)),
                    backing_off: None,
                });
            }
            (Some(there), None) if !there.ran => there.ran = true,
            (Some(_), None) => {
                it.heard = Some(Heard {
                    ready: false,
                    serving: false,
                    leader: leader.clone(),
                    app_silent: false,
                    replace_pod: false,
                    due: 0,
                    newest: 0,
                    along: false,
                    may: None,
                });
            }
            (Some(there), Some(heard)) if !heard.ready => {
                heard.ready = true;
                there.ready = true;
            }
            (_, Some(heard)) => heard.serving = true,
        }
    }
}

const BACK: &str = "its volume is put back to a snapshot";

/// All are up to date; the app of these has ended upon its volume.
fn rolled_back(count: usize, which: &[usize]) -> Vec<Seen> {
    let mut seen = members(count);
    for (at, it) in seen.iter_mut().enumerate() {
        renew(it);
        if which.contains(&at) {
            heard(it).replace_pod = true;
            heard(it).serving = false;
        }
    }
    seen
}

#[test]
fn a_volume_is_put_back_in_a_new_pod_if_kubelet_would_start_the_app_upon_it() {
    let mut seen = rolled_back(3, &[1]);
    let expected = taken(1, BACK, Care::Votes);
    assert_eq!(next(&desired(), &seen, at(0)), expected);
    let not_formed = Desired {
        formed: false,
        ..desired()
    };
    assert_eq!(next(&not_formed, &seen, at(0)), Step::Done);
    heard(&mut seen[1]).replace_pod = false;
    assert_eq!(next(&desired(), &seen, at(0)), Step::Done, "it is at work");
}

#[test]
fn volumes_are_put_back_one_after_another_however_many_copies_need_it() {
    let mut seen = rolled_back(3, &[0, 1, 2]);
    assert_eq!(next(&desired(), &seen, at(0)), taken(0, BACK, Care::Votes));
    pod(&mut seen[0]).leaving = true;
    seen[0].heard = None;
    assert!(matches!(next(&desired(), &seen, at(0)), Step::Wait(_)));
    // Its successor is there, and does not vote yet.
    seen[0] = member(0);
    renew(&mut seen[0]);
    heard(&mut seen[0]).ready = false;
    heard(&mut seen[0]).serving = false;
    match next(&desired(), &seen, at(0)) {
        Step::Wait(why) => assert!(why.contains("majority"), "{why}"),
        step => panic!("{step:?}"),
    }
    // It votes: its copy may take as long as it needs.
    heard(&mut seen[0]).ready = true;
    assert_eq!(next(&desired(), &seen, at(0)), taken(1, BACK, Care::Votes));
}

#[test]
fn a_volume_that_is_to_be_put_back_waits_for_no_roll() {
    let mut seen = rolled_back(3, &[1]);
    pod(&mut seen[0]).updated = false;
    pod(&mut seen[0]).newest = false;
    let expected = taken(1, BACK, Care::Votes);
    assert_eq!(next(&desired(), &seen, at(0)), expected);
    let not_now = Desired {
        rollout: false,
        ..desired()
    };
    assert_eq!(next(&not_now, &seen, at(0)), expected);
    assert!(expected.needs_token(), "where members are elsewhere");
}

#[test]
fn every_roll_ends_with_new_pods_and_never_takes_a_majority_away() {
    for seed in 1..=500_u32 {
        let mut state = seed.wrapping_mul(2_654_435_761);
        let mut random = move || {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state
        };
        let count = [3, 5, 7][seed as usize % 3];
        let mut seen = members(count);
        let mut steps = 0;
        loop {
            let step = next(&desired(), &seen, at(0));
            let new = |it: &Seen| it.pod.as_ref().is_some_and(|it| it.updated);
            if step == Step::Done && seen.iter().all(new) {
                break;
            }
            if let Step::Delete { pod, .. } = &step {
                let leader = seen[0].heard.as_ref().map(|it| it.leader.clone());
                assert_ne!(leader.as_ref(), Some(pod), "seed {seed}: never the leader");
            }
            play(&mut seen, &step, &mut random);
            let voting = seen.iter().filter(|it| it.votes()).count();
            assert!(voting > count / 2, "seed {seed}: {voting} of {count}");
            steps += 1;
            assert!(steps < 10_000, "seed {seed}: it never ends");
        }
    }
}

const REVISE: &str = "it is to run another revision of the app";

/// All copies have come to the end of their revision, and the next one is due; the first member leads.
fn switched(count: usize) -> (Desired, Vec<Seen>) {
    let mut seen = members(count);
    for it in &mut seen {
        heard(it).due = 1;
        heard(it).newest = 1;
        heard(it).serving = false;
        pod(it).newest = true;
    }
    let desired = Desired {
        revision: 1,
        ..desired()
    };
    (desired, seen)
}

/// Its pod is another one, whose app has only just been started.
fn switch(seen: &mut Seen) {
    renew(seen);
    pod(seen).revision = 1;
}

#[test]
fn copies_that_stand_at_the_end_of_their_revision_go_while_a_majority_votes_the_leader_last() {
    let (desired, mut seen) = switched(3);
    let votes = |ordinal| taken(ordinal, REVISE, Care::Votes);
    assert_eq!(next(&desired, &seen, at(0)), votes(1));
    let before = seen[1].clone();
    seen[1].pod = None;
    seen[1].heard = None;
    assert!(
        matches!(next(&desired, &seen, at(0)), Step::Wait(_)),
        "it is away"
    );
    seen[1] = before;
    switch(&mut seen[1]);
    heard(&mut seen[1]).ready = false;
    assert!(
        matches!(next(&desired, &seen, at(0)), Step::Wait(_)),
        "it does not vote yet"
    );
    // Its vote is enough: nobody is served before copies are there.
    heard(&mut seen[1]).ready = true;
    assert_eq!(next(&desired, &seen, at(0)), votes(2));
    switch(&mut seen[2]);
    heard(&mut seen[2]).serving = true;
    let expected = Step::Transfer {
        from: "notes-local-0".to_owned(),
        to: "notes-local-2".to_owned(),
    };
    assert_eq!(next(&desired, &seen, at(0)), expected, "to one that serves");
    for it in &mut seen {
        heard(it).leader = "notes-local-2".to_owned();
    }
    assert_eq!(next(&desired, &seen, at(0)), votes(0));
}

#[test]
fn a_pod_stays_until_the_revision_that_pods_are_made_of_is_due_there() {
    let (desired, mut seen) = switched(3);
    for it in &mut seen {
        renew(it);
        heard(it).serving = true;
        heard(it).due = 0;
    }
    assert_eq!(
        next(&desired, &seen, at(0)),
        Step::Done,
        "it has not come to its end"
    );
    // One that is new, and has no state to begin with yet.
    switch(&mut seen[2]);
    heard(&mut seen[2]).serving = false;
    assert_eq!(next(&desired, &seen, at(0)), Step::Done);
    let older = Desired {
        revision: 0,
        ..desired
    };
    pod(&mut seen[2]).updated = false;
    let step = next(&older, &seen, at(0));
    assert_eq!(
        step,
        taken(2, REVISE, Care::Votes),
        "it must come through that one first"
    );
}

#[test]
fn the_leader_of_several_clusters_goes_when_the_hub_says_that_it_is_the_turn_of_its_own() {
    let (mut desired, mut seen) = switched(2);
    desired.elsewhere = Elsewhere::hoped(3);
    desired.rollout = false;
    let step = next(&desired, &seen, at(0));
    assert_eq!(
        step,
        taken(1, REVISE, Care::Votes),
        "followers need not wait for that"
    );
    switch(&mut seen[1]);
    heard(&mut seen[1]).serving = true;
    assert!(matches!(next(&desired, &seen, at(0)), Step::Wait(_)));
    assert!(
        seen[0].is_to_be_revised(1),
        "nothing is kept for it meanwhile"
    );
    desired.rollout = true;
    assert!(matches!(
        next(&desired, &seen, at(0)),
        Step::Transfer { .. }
    ));
    desired.elsewhere.voting = 1;
    assert!(
        matches!(next(&desired, &seen, at(0)), Step::Wait(_)),
        "votes are away"
    );
}

const ALONG: &str = "it is to run along with another revision of the app";

/// Revision 1 runs along silently, what it begins with is everywhere, and the second member is next; the
/// first leads.
fn rolling(count: usize) -> (Desired, Vec<Seen>) {
    let mut seen = members(count);
    for it in &mut seen {
        renew(it);
        heard(it).newest = 1;
        heard(it).may = Some(1);
    }
    let desired = Desired {
        revision: 1,
        rolls: true,
        along: Some("notes-local-1".to_owned()),
        ..desired()
    };
    (desired, seen)
}

/// Its copy is of the silent revision, and has caught up.
fn run_silently(seen: &mut Seen) {
    pod(seen).revision = 1;
    heard(seen).due = 1;
    heard(seen).serving = false;
    heard(seen).along = true;
}

#[test]
fn one_copy_gives_way_to_one_that_runs_along_while_all_are_well_and_another_answers() {
    let (desired, seen) = rolling(3);
    let goes = taken(1, ALONG, Care::Budget);
    assert_eq!(next(&desired, &seen, at(0)), goes);
    // Without a vote it answers all the same, and how others are must be known.
    for (count, care) in [(4, Care::Budget), (3, Care::Votes)] {
        let (desired, mut seen) = rolling(count);
        seen[1].role = MemberRole::Observer;
        let step = next(&desired, &seen, at(0));
        assert_eq!(step, taken(1, ALONG, care));
        assert!(step.needs_token());
    }
    // One that runs along already is as well as one that answers.
    let mut two = seen.clone();
    run_silently(&mut two[2]);
    assert_eq!(next(&desired, &two, at(0)), goes);
    let waits = |change: &dyn Fn(&mut Desired, &mut Vec<Seen>)| {
        let (mut desired, mut seen) = rolling(3);
        change(&mut desired, &mut seen);
        match next(&desired, &seen, at(0)) {
            Step::Wait(why) => why,
            step => panic!("{step:?}"),
        }
    };
    let why = waits(&|_, seen| {
        run_silently(&mut seen[0]);
        run_silently(&mut seen[2]);
    });
    assert!(why.contains("no other copy"), "{why}");
    let why = waits(&|_, seen| heard(&mut seen[1]).may = None);
    assert!(why.contains("has not got the state"), "{why}");
    let why = waits(&|_, seen| heard(&mut seen[2]).serving = false);
    assert!(why.contains("notes-local-2 is not caught up"), "{why}");
    let why = waits(&|_, seen| seen[2].pod = None);
    assert!(why.contains("is being replaced"), "{why}");
    let why = waits(&|desired, _| {
        desired.elsewhere = Elsewhere::hoped(2);
        desired.elsewhere.unwell = vec!["notes-eu-0".to_owned()];
    });
    assert!(why.contains("notes-eu-0"), "{why}");
    let why = waits(&|desired, _| {
        desired.elsewhere = Elsewhere::hoped(2);
        desired.elsewhere.voting = 0;
    });
    assert!(why.contains("majority"), "{why}");
}

#[test]
fn only_whose_turn_it_is_goes_while_pods_are_made_of_the_silent_revision() {
    let (desired, mut seen) = rolling(3);
    pod(&mut seen[1]).revision = 1;
    pod(&mut seen[0]).updated = false;
    pod(&mut seen[2]).newest = false;
    pod(&mut seen[2]).ready = false;
    assert_eq!(next(&desired, &seen, at(0)), Step::Done);
    heard(&mut seen[2]).replace_pod = true;
    assert_eq!(next(&desired, &seen, at(0)), Step::Done);
}

#[test]
fn the_leader_hands_over_before_its_copy_gives_way() {
    let (mut desired, mut seen) = rolling(2);
    desired.along = Some("notes-local-0".to_owned());
    let expected = Step::Transfer {
        from: "notes-local-0".to_owned(),
        to: "notes-local-1".to_owned(),
    };
    assert_eq!(next(&desired, &seen, at(0)), expected);
    for it in &mut seen {
        heard(it).leader = "notes-local-1".to_owned();
    }
    let goes = taken(0, ALONG, Care::Votes);
    assert_eq!(next(&desired, &seen, at(0)), goes);
    // The only one here, and the only one that answers anywhere.
    seen.truncate(1);
    heard(&mut seen[0]).leader = "notes-eu-0".to_owned();
    desired.elsewhere = Elsewhere::hoped(2);
    let goes = taken(0, ALONG, Care::Budget);
    assert_eq!(next(&desired, &seen, at(0)), goes);
    desired.elsewhere.answering = 0;
    assert!(matches!(next(&desired, &seen, at(0)), Step::Wait(_)));
}

#[test]
fn the_last_copy_that_answers_stays_however_outdated_its_pod_is() {
    let (mut desired, mut seen) = rolling(3);
    desired.revision = 0;
    desired.along = None;
    run_silently(&mut seen[1]);
    run_silently(&mut seen[2]);
    pod(&mut seen[0]).updated = false;
    match next(&desired, &seen, at(0)) {
        Step::Wait(why) => assert!(why.contains("no other copy"), "{why}"),
        step => panic!("{step:?}"),
    }
    pod(&mut seen[0]).updated = true;
    pod(&mut seen[2]).updated = false;
    assert_eq!(next(&desired, &seen, at(0)), delete(2, ROLL));
}

#[test]
fn what_is_taken_back_goes_once_its_member_knows_and_not_while_that_knows_nothing_yet() {
    let (mut desired, mut seen) = rolling(3);
    desired.revision = 0;
    desired.along = None;
    run_silently(&mut seen[1]);
    heard(&mut seen[1]).along = false;
    assert_eq!(next(&desired, &seen, at(0)), Step::Done, "it catches up");
    heard(&mut seen[1]).due = 0;
    heard(&mut seen[1]).newest = 0;
    assert_eq!(next(&desired, &seen, at(0)), Step::Done, "it has started");
    heard(&mut seen[1]).newest = 1;
    assert_eq!(next(&desired, &seen, at(0)), taken(1, REVISE, Care::Votes));
}
