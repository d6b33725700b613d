//! Tables that are saved and loaded, copies that begin behind a snapshot, and snapshots as a barrier.

use super::random::random_command;
use super::*;
use crate::apply::TablesError;
use crate::apply::dice::Dice;
use synod_proto::v1::{IdempotencyPolicy, Tables, tables};

/// Six requests executed by instance 1, with a noop at slot 4, and a snapshot at slot 3.
fn with_snapshot() -> Bench {
    let mut bench = Bench::new();
    for sequence in 1..=6 {
        bench.choose(sequence, &request());
        if sequence == 3 {
            bench.choose_noop();
        }
    }
    assert_eq!(bench.run().0, [1, 2, 3, 5, 6, 7]);
    bench.snapshot(3);
    assert_eq!(bench.step(), []);
    bench
}

fn restore(actions: &[Action]) -> (Job, u64, Instance) {
    let mut found = actions.iter().filter_map(|action| match action {
        Action::Restore {
            job,
            slot,
            instance,
        } => Some((*job, slot.0, *instance)),
        _ => None,
    });
    let restore = found.next().expect("a state is put back");
    assert_eq!(found.next(), None);
    restore
}

// === tables ===

#[test]
fn the_tables_of_one_slot_are_the_same_bytes_on_all_members() {
    for seed in 1..=20_u64 {
        let mut dice = Dice(seed * 0x9E37_79B9);
        let (mut bench, mut sequence) = (Bench::new(), 0);
        for _ in 0..300 {
            random_command(&mut dice, &mut bench, &mut sequence);
            let entry = bench.log.last_mut().unwrap();
            // Several entrances and starts, which are all forgotten in their time.
            entry.command.id.member = MemberId(1 + (entry.slot.0 % 4) as u32);
            entry.command.id.boot = Boot(1 + entry.slot.0 / 100);
            entry.command.floor = entry.command.id.sequence.saturating_sub(dice.below(9));
        }
        let policy = Policy {
            version: 2,
            idempotency: Some(IdempotencyPolicy {
                keep_for_ms: 1,
                max_bytes: 600,
                ..IdempotencyPolicy::default()
            }),
            ..Policy::default()
        };
        bench.choose_policy(1_000, &policy);
        for _ in 0..100 {
            random_command(&mut dice, &mut bench, &mut sequence);
        }
        let mut fold = Fold::new(configuration(), 1, Policy::default());
        // Another member, that begins anew from a snapshot again and again.
        let mut other = fold.clone();
        for entry in &bench.log {
            fold.admit(entry);
            other.admit(entry);
            let saved = fold.save();
            assert_eq!(saved, other.save(), "seed {seed} at slot {}", entry.slot);
            if dice.below(10) == 0 {
                other = Fold::load(&saved).unwrap();
            }
            assert_eq!(fold, other);
        }
        bench.run();
        assert_eq!(bench.machine.fold().save(), fold.save());
    }
}

/// Tables with something in each field.
fn rich() -> Fold {
    let mut bench = Bench::new();
    bench.choose(1, &keyed("k", "ann", "a"));
    bench.choose(3, &keyed("j", "bob", "b"));
    bench.choose_policy(
        2,
        &Policy {
            version: 2,
            service: "notes".into(),
            ..Policy::default()
        },
    );
    let mut fold = bench.fold_at(3);
    fold.skipped = [Slot(2)].into();
    fold
}

#[test]
fn tables_of_format_1_are_read_for_ever() {
    let golden = include_str!("testdata/tables-1.hex");
    let bytes = golden.trim().as_bytes().chunks(2).map(|digits| {
        let digits = std::str::from_utf8(digits).unwrap();
        u8::from_str_radix(digits, 16).unwrap()
    });
    assert_eq!(Fold::load(&bytes.collect()), Ok(rich()));
}

#[test]
fn a_raise_of_the_protocol_is_part_of_the_tables_and_nobodys_command() {
    let mut bench = Bench::new();
    for (version, protocol) in [(2_u32, 2), (1, 2), (3, 3)] {
        bench.append(
            CommandKind::UPGRADE,
            CommandId::default(),
            version.to_le_bytes().to_vec(),
        );
        bench.step();
        assert_eq!(bench.machine.fold().protocol(), protocol);
    }
    let fold = bench.machine.fold();
    assert_eq!(Fold::load(&fold.save()).unwrap().protocol(), 3);
}

#[test]
fn a_change_of_the_members_is_part_of_the_tables_with_those_who_left() {
    let mut bench = Bench::new();
    let mut smaller = configuration();
    let left = smaller.members.remove(0);
    let mut payload = 1_u32.to_le_bytes().to_vec();
    smaller.put(&mut payload);
    bench.append(CommandKind::RECONFIGURE, CommandId::default(), payload);
    // Of an entrance that is a member no more: nobody executes it.
    bench.choose(1, &request());
    assert_eq!(bench.run().0, [] as [u64; 0]);
    let fold = bench.machine.fold();
    assert_eq!(
        (fold.configuration(), fold.former()),
        (&smaller, &[left][..])
    );
    assert_eq!(Fold::load(&fold.save()).as_ref(), Ok(fold));
}

/// What is changed, and what is said about it.
type Damage = (fn(&mut Tables), &'static str);

#[test]
fn tables_that_are_damaged_or_too_new_are_refused_by_name() {
    let saved = rich().save();
    assert_eq!(Fold::load(&saved), Ok(rich()));
    let changed = |change: fn(&mut Tables)| {
        let mut tables = Tables::decode(saved.clone()).unwrap();
        change(&mut tables);
        Fold::load(&tables.encode_to_vec().into()).unwrap_err()
    };
    let newer = changed(|it| it.format = 2);
    assert_eq!(newer, TablesError::Newer { found: 2 });
    assert!(newer.to_string().contains("upgrade this member"));
    let cases: [Damage; 9] = [
        (|it| it.format = 0, "their checksum is wrong"),
        (|it| it.policy = None, "they have no policy"),
        (|it| it.configuration = None, "they have no configuration"),
        (
            |it| it.configuration.as_mut().unwrap().members[0].role = 9,
            "a member has no role",
        ),
        (
            |it| it.configuration.as_mut().unwrap().phase1 = 3,
            "its quorums do not fit the number of its voters",
        ),
        (
            |it| it.entrances[0].taken.push(0),
            "an entrance has a command below its floor",
        ),
        (
            |it| it.entrances[0].taken.reverse(),
            "their checksum is wrong",
        ),
        (
            |it| it.keys.reverse(),
            "its idempotency keys are not in the order of their slots",
        ),
        (
            |it| {
                let again = tables::Key {
                    slot: 3,
                    ..it.keys[1].clone()
                };
                it.keys.push(again);
            },
            "it has one idempotency key twice",
        ),
    ];
    for (change, what) in cases {
        assert_eq!(changed(change), TablesError::Damaged(what));
    }
    for length in 0..saved.len() {
        assert!(Fold::load(&saved.slice(..length)).is_err());
    }
    for at in 0..saved.len() {
        let mut bytes = saved.to_vec();
        bytes[at] ^= 0x55;
        assert!(Fold::load(&bytes.into()).is_err(), "byte {at}");
    }
}

/// Also those whose checksum is right: of a later version, or of a member that lies.
#[test]
fn tables_changed_by_chance_are_refused_or_are_what_they_say() {
    let saved = rich().save();
    let admitted = rich().admitted();
    let show = |it: &Vec<u8>| synod_fuzz::write_bytes(it);
    synod_fuzz::fuzz(
        30_000,
        &synod_fuzz::messages(vec![saved.to_vec()]),
        show,
        |bytes| {
            if let Ok(fold) = Fold::load(&bytes.clone().into())
                && fold != rich()
            {
                return Err(format!("the checksum is no matter: {fold:?}"));
            }
            let Ok(mut tables) = Tables::decode(&bytes[..]) else {
                return Ok(());
            };
            tables.checksum = Bytes::new();
            let hash = blake3::hash(&tables.encode_to_vec());
            tables.checksum = Bytes::copy_from_slice(&hash.as_bytes()[..16]);
            let bytes = Bytes::from(tables.encode_to_vec());
            let Ok(mut fold) = Fold::load(&bytes) else {
                return Ok(());
            };
            if fold.save() != bytes {
                return Err(format!("it is saved otherwise: {fold:?}"));
            }
            // The log goes on behind it.
            let mut bench = Bench::new();
            for sequence in 1..=admitted.0 + 1 {
                bench.choose(sequence, &keyed("k", "ann", "a"));
            }
            let mut next = bench.log.pop().expect("it was just chosen");
            next.slot = fold.admitted().next();
            fold.admit(&next);
            fold.save();
            Ok(())
        },
    );
}

// === a base ===

#[test]
fn an_app_that_starts_is_given_the_snapshot_and_executes_what_came_after() {
    let mut bench = with_snapshot();
    bench.machine.handle_app(Some(instance(2)));
    let actions = bench.step();
    let (job, slot, to) = restore(&actions);
    assert_eq!((slot, to), (3, instance(2)));
    assert!(bench.ledger.unknown, "should this process die now");
    assert!(bench.machine.rebuilding() && !bench.machine.serving());
    assert_eq!(bench.machine.blocked(), Some(Blocked::Restore(Slot(3))));
    assert_eq!(bench.machine.applied(), Slot(0));
    bench.choose(7, &request());
    assert_eq!(bench.run().0, [] as [u64; 0], "not before it has the state");
    bench.machine.handle_restored(job);
    assert_eq!(bench.machine.applied(), Slot(4), "over the noop");
    assert!(!bench.machine.serving(), "it does not know the last yet");
    assert_eq!(bench.run(), (vec![5, 6, 7, 8], vec![executed(7, 8)]));
    assert!(bench.machine.serving());
    assert!(!bench.ledger.unknown);
}

#[test]
fn a_process_that_begins_behind_a_snapshot_goes_on_with_the_same_app() {
    let bench = with_snapshot();
    let mut next = bench.restarted(Some(instance(1)));
    assert_eq!(next.machine.fold().admitted(), Slot(3));
    let (slots, answers) = next.run();
    assert_eq!(slots, [] as [u64; 0]);
    let jump = Action::Jump {
        slot: Slot(3),
        taken: Arc::new(bench.fold_at(3).ids().clone()),
    };
    let known = [executed(4, 5), executed(5, 6), executed(6, 7)];
    assert_eq!(answers[0], jump);
    assert_eq!(answers[1..], known);
    assert!(next.machine.serving());
    next.choose(7, &request());
    assert_eq!(next.run().0, [8]);
    assert_eq!(next.machine.fold(), &next.fold_at(8));
}

#[test]
fn an_app_whose_state_is_older_than_the_log_is_stopped_and_given_the_snapshot() {
    let mut bench = with_snapshot();
    bench.ledger.applied = Slot(2);
    let mut next = bench.restarted(Some(instance(1)));
    assert!(next.run().1.contains(&Action::StopApp(instance(1))));
    next.machine.handle_app(Some(instance(2)));
    let (job, slot, _) = restore(&next.step());
    assert_eq!(slot, 3);
    next.machine.handle_restored(job);
    assert_eq!(next.run().0, [5, 6, 7]);
}

#[test]
fn a_process_that_dies_while_the_app_is_given_a_state_does_not_trust_it() {
    let mut bench = with_snapshot();
    bench.machine.handle_app(Some(instance(2)));
    restore(&bench.step());
    let mut next = bench.restarted(Some(instance(2)));
    assert!(next.run().1.contains(&Action::StopApp(instance(2))));
}

#[test]
fn a_state_that_came_to_another_instance_is_not_taken_for_this_one() {
    let mut bench = with_snapshot();
    bench.machine.handle_app(Some(instance(2)));
    let (first, ..) = restore(&bench.step());
    bench.machine.handle_app(Some(instance(3)));
    assert!(!bench.machine.wants(first));
    let (second, _, to) = restore(&bench.step());
    assert_eq!(to, instance(3));
    bench.machine.handle_restored(first);
    bench.machine.handle_restore_failed(first, true);
    assert_eq!(bench.machine.instance(), None);
    bench.machine.handle_restored(second);
    assert_eq!(bench.machine.instance(), Some(instance(3)));
    assert_eq!(bench.run().0, [5, 6, 7]);
}

#[test]
fn a_restore_that_did_not_begin_is_tried_again_on_the_same_app() {
    let mut bench = with_snapshot();
    bench.machine.handle_app(Some(instance(2)));
    let mut pauses = Vec::new();
    for _ in 0..3 {
        let (job, ..) = restore(&bench.step());
        bench.machine.handle_restore_failed(job, false);
        for action in bench.step() {
            if let Action::Pause { slot, pause_ms } = action {
                assert_eq!(slot, Slot(3));
                pauses.push(pause_ms);
            }
        }
        bench.machine.handle_pause_over(Slot(3));
    }
    assert_eq!(pauses, [10, 20, 40]);
    let (job, _, to) = restore(&bench.step());
    assert_eq!(to, instance(2));
    bench.machine.handle_restored(job);
    assert_eq!(bench.run().0, [5, 6, 7]);
}

#[test]
fn a_restore_that_broke_off_is_tried_on_a_new_app_with_growing_gaps() {
    let mut bench = with_snapshot();
    let mut pauses = Vec::new();
    for number in 2..=6 {
        bench.machine.handle_app(Some(instance(number)));
        let mut actions = bench.step();
        if let Some(Action::Pause { slot, pause_ms }) = actions.last() {
            pauses.push(*pause_ms);
            bench.machine.handle_pause_over(*slot);
            actions = bench.step();
        }
        let (job, _, to) = restore(&actions);
        assert_eq!(to, instance(number));
        bench.machine.handle_restore_failed(job, true);
        let actions = bench.step();
        assert_eq!(actions.last(), Some(&Action::StopApp(instance(number))));
        bench.machine.handle_restored(job);
        assert_eq!(bench.machine.condemned(), Some(instance(number)));
    }
    assert_eq!(pauses, [1_000, 2_000, 4_000]);
}

#[test]
fn a_newer_snapshot_does_not_disturb_a_replay_that_is_under_way() {
    let mut bench = with_snapshot();
    bench.machine.handle_app(Some(instance(2)));
    let (job, ..) = restore(&bench.step());
    bench.snapshot(6);
    assert_eq!(bench.machine.not_needed(), Slot(3));
    bench.machine.handle_restored(job);
    let first = bench.sent();
    assert_eq!(first.slot, Slot(5));
    bench.machine.handle_response(first.run);
    assert_eq!(bench.run().0, [6, 7]);
    assert_eq!(bench.machine.not_needed(), Slot(6));
    bench.machine.handle_app(Some(instance(3)));
    let (job, slot, _) = restore(&bench.step());
    assert_eq!(slot, 6);
    bench.machine.handle_restored(job);
    assert_eq!(bench.run().0, [7]);
}

#[test]
fn an_older_snapshot_than_the_one_at_hand_changes_nothing() {
    let mut bench = with_snapshot();
    bench.machine.handle_snapshot_available(bench.fold_at(2));
    assert_eq!(bench.step(), []);
    assert_eq!(bench.machine.not_needed(), Slot(3));
}

// === a snapshot that is lost, or void ===

/// The app starts anew, and executes these behind the state that it is given.
fn made_anew(bench: &mut Bench, number: u64, from: u64) -> Vec<u64> {
    bench.machine.handle_app(Some(instance(number)));
    let (job, slot, _) = restore(&bench.step());
    assert_eq!(slot, from);
    bench.machine.handle_restored(job);
    bench.run().0
}

#[test]
fn where_the_newest_snapshot_is_lost_a_copy_begins_with_the_one_before() {
    let mut bench = with_snapshot();
    bench.snapshot(6);
    assert_eq!(
        (bench.run().0, bench.machine.not_needed()),
        (vec![], Slot(6))
    );
    bench.machine.handle_base_lost(Slot(3));
    assert_eq!(bench.machine.void(), None, "that is not the base");
    bench.machine.handle_base_lost(Slot(6));
    assert_eq!(bench.machine.void(), Some(Slot(3)));
    bench.machine.handle_app(Some(instance(2)));
    let waits = bench.step();
    assert!(!waits.iter().any(|it| matches!(it, Action::Restore { .. })));
    let older = bench.fold_at(2);
    assert!(!bench.machine.handle_snapshot_available(older), "forgotten");
    bench.snapshot(3);
    let (job, slot, _) = restore(&bench.step());
    assert_eq!((slot, bench.machine.void()), (3, None));
    bench.machine.handle_restored(job);
    // Two that were decided before, behind the one that is lost, are executed once more.
    assert_eq!(bench.run().0, [5, 6, 7]);
    assert!(bench.machine.serving());
    // And that is the only one now.
    bench.machine.handle_base_lost(Slot(3));
    assert_eq!(bench.machine.void(), Some(Slot(3)));
    bench.snapshot(7);
    assert_eq!(made_anew(&mut bench, 3, 7), [0; 0]);
}

#[test]
fn a_restore_under_way_from_what_is_lost_ends_and_begins_with_another() {
    let mut bench = with_snapshot();
    bench.snapshot(6);
    bench.machine.handle_app(Some(instance(2)));
    let (job, ..) = restore(&bench.step());
    bench.machine.handle_base_lost(Slot(6));
    assert_eq!(
        bench.machine.condemned(),
        Some(instance(2)),
        "some of it may be in the app"
    );
    bench.snapshot(3);
    assert_eq!(bench.machine.condemned(), Some(instance(2)));
    bench.machine.handle_restore_failed(job, true);
    assert_eq!(made_anew(&mut bench, 3, 3), [5, 6, 7]);
}

#[test]
fn where_all_of_the_log_is_there_a_copy_can_begin_with_nothing() {
    let mut bench = with_snapshot();
    bench.machine.handle_app(Some(instance(2)));
    let (job, ..) = restore(&bench.step());
    bench.machine.handle_restore_failed(job, false);
    bench.machine.handle_base_lost(Slot(3));
    assert_eq!(bench.machine.void(), Some(Slot(0)));
    assert!(bench.machine.handle_snapshot_available(bench.fold_at(0)));
    assert_eq!(bench.run().0, [1, 2, 3, 5, 6, 7], "in the app that waits");
    bench.machine.handle_app(Some(instance(3)));
    assert_eq!(bench.run().0, [1, 2, 3, 5, 6, 7]);
}

#[test]
fn a_volume_is_put_back_to_the_one_before_where_the_newest_is_lost() {
    let state = StateType::Volume(UncleanCrash::Rollback);
    let log = with_snapshot().log;
    let mut bench = Bench::begin_from(state, None, Found::Record(Record::default()), log);
    bench.machine.handle_app(Some(instance(1)));
    bench.run();
    bench.snapshot(3);
    bench.snapshot(6);
    bench.step();
    bench.machine.handle_base_lost(Slot(6));
    bench.machine.handle_app(None);
    let replaces = |actions: &[Action]| {
        actions.iter().find_map(|action| match action {
            Action::ReplaceApp { slot, .. } => Some(slot.0),
            _ => None,
        })
    };
    assert_eq!(replaces(&bench.step()), None);
    bench.snapshot(3);
    assert_eq!(replaces(&bench.step()), Some(3));
}

#[test]
fn nobody_goes_back_behind_the_beginning_of_another_revision_or_a_promise() {
    let mut bench = with_snapshot();
    bench.choose_revision(7, 1, false);
    bench.step();
    bench.snapshot(8);
    bench.machine.handle_base_lost(Slot(8));
    assert_eq!(bench.machine.void(), Some(Slot(8)));

    let mut bench = with_snapshot();
    bench.machine.handle_proven(Slot(7));
    bench.choose(7, &request());
    let in_flight = bench.sent();
    let ask = Ask {
        slot: in_flight.slot,
        ballot: Ballot::default(),
        number: 1,
    };
    assert_eq!(bench.machine.handle_ask(ask), Some(Standing::Failed));
    // Another copy could execute it.
    bench.snapshot(8);
    bench.step();
    bench.machine.handle_base_lost(Slot(8));
    assert_eq!(bench.machine.void(), Some(Slot(8)));
}

#[test]
fn what_was_skipped_meanwhile_is_not_executed_by_a_copy_that_goes_back() {
    let mut bench = with_snapshot();
    bench.snapshot(7);
    bench.step();
    bench.choose_skip(6);
    let void = Action::VoidSnapshot { slot: Slot(7) };
    assert!(bench.step().contains(&void));
    assert_eq!(bench.machine.void(), Some(Slot(3)));
    bench.snapshot(3);
    bench.machine.handle_app(None);
    assert_eq!(made_anew(&mut bench, 2, 3), [5, 7]);
}

// === a member that was too far behind ===

#[test]
fn a_member_that_is_given_a_snapshot_goes_on_behind_it() {
    let mut bench = Bench::new();
    bench.choose(1, &request());
    bench.run();
    bench.choose(2, &keyed("k", "ann", "a"));
    let in_flight = bench.sent();
    bench.choose(3, &keyed("k", "ann", "a"));
    bench.step();
    // All of what follows was chosen without this member.
    let seen = bench.log.clone();
    for sequence in 4..=9 {
        bench.choose(sequence, &request());
    }
    let fold = bench.fold_at(7);
    let mut late = bench.log.clone();
    bench.log = seen;
    bench.machine.handle_snapshot_available(fold.clone());
    bench.log = std::mem::take(&mut late);
    assert_eq!(bench.machine.fold(), &fold);
    assert_eq!(bench.machine.condemned(), Some(instance(1)));
    assert_eq!(bench.machine.run(), None);
    let actions = bench.step();
    let jump = Action::Jump {
        slot: Slot(7),
        taken: Arc::new(fold.ids().clone()),
    };
    let jumped = actions.iter().position(|it| *it == jump).unwrap();
    let replayed = told(3, 2, Outcome::Replayed);
    assert!(actions[jumped..].contains(&replayed), "it was executed");
    assert!(actions.contains(&Action::StopApp(instance(1))));
    bench.machine.handle_response(in_flight.run);
    assert!(!bench.machine.serving());
    assert_eq!(bench.machine.answered(), Slot(7));
    bench.machine.handle_app(Some(instance(2)));
    let (job, slot, _) = restore(&bench.step());
    assert_eq!(slot, 7);
    bench.machine.handle_restored(job);
    assert_eq!(bench.machine.sent(), Slot(7), "its state shows all of that");
    assert_eq!(
        bench.run(),
        (vec![8, 9], vec![executed(8, 8), executed(9, 9)]),
        "nothing is said about what a snapshot stands for"
    );
    assert!(bench.machine.serving());
    bench.choose(10, &keyed("k", "ann", "a"));
    bench.choose(5, &request());
    let (slots, answers) = bench.run();
    assert_eq!(slots, [] as [u64; 0]);
    assert!(answers.contains(&told(10, 2, Outcome::Replayed)));
    assert!(answers.contains(&told(5, 11, Outcome::Duplicate)));
}

#[test]
fn a_snapshot_that_comes_before_the_first_look_at_the_app_counts() {
    let log = with_snapshot().log;
    let mut bench = Bench::begin(Found::Record(Record::default()), log);
    bench.snapshot(6);
    bench.machine.handle_app(Some(instance(1)));
    let (job, slot, _) = restore(&bench.step());
    assert_eq!(slot, 6);
    bench.machine.handle_restored(job);
    assert_eq!(bench.run().0, [7]);
}

#[test]
fn what_reads_have_seen_of_a_snapshot_was_sent_for_ever() {
    let mut bench = with_snapshot();
    let mut next = bench.restarted_with(Found::OtherBoot(Kept::default()), Some(instance(2)));
    let (job, ..) = restore(&next.step());
    next.machine.handle_restored(job);
    next.machine.handle_app(None);
    next.machine.handle_app(Some(instance(3)));
    assert_eq!(next.machine.applied(), Slot(0));
    assert_eq!(next.machine.sent(), Slot(4));
    bench.machine.handle_app(Some(instance(2)));
    assert_eq!(bench.machine.sent(), Slot(7));
}

#[test]
fn a_snapshot_behind_what_this_version_does_not_know_lets_it_go_on() {
    let mut bench = Bench::new();
    bench.append(CommandKind(999), id(1), Vec::new());
    bench.choose(2, &request());
    bench.run();
    assert_eq!(bench.machine.blocked(), Some(Blocked::Unknown(Slot(1))));
    let mut fold = bench.fold_at(0);
    fold.admitted = Slot(1);
    bench.machine.handle_snapshot_available(fold);
    // It has executed nothing yet, so it need not be started anew.
    let (job, slot, app) = restore(&bench.step());
    assert_eq!((slot, app), (1, instance(1)));
    bench.machine.handle_restored(job);
    assert_eq!(bench.run().0, [2]);
}

#[test]
fn memory_does_not_grow_with_a_log_that_snapshots_stand_for() {
    let mut bench = Bench::new();
    for round in 1..=20_u64 {
        for sequence in 1..=100 {
            bench.choose(round * 1_000 + sequence, &request());
        }
        bench.run();
        bench.snapshot(bench.log.len() as u64);
        let mut decisions = bench.machine.decisions.clone();
        let applied = bench.machine.applied();
        assert_eq!(bench.machine.not_needed(), applied);
        assert_eq!(
            decisions.base(),
            Slot(applied.0 - 100),
            "the snapshot before"
        );
        decisions.forget(Slot(applied.0 + 64));
        assert_eq!(decisions, Decisions::new(Slot(applied.0 + 64)));
    }
}

// === a barrier ===

fn take(actions: &[Action]) -> Option<(Job, u64, Fold)> {
    actions.iter().find_map(|action| match action {
        Action::TakeSnapshot {
            job,
            slot,
            instance: of,
            tables,
        } => {
            assert_eq!(*of, instance(1));
            Some((*job, slot.0, Fold::load(&tables.save()).unwrap()))
        }
        _ => None,
    })
}

#[test]
fn a_snapshot_has_the_tables_of_its_slot_though_much_more_is_chosen() {
    let mut bench = Bench::new();
    for sequence in 1..=3 {
        bench.choose(
            sequence,
            &keyed(["", "a", "b", "c"][sequence as usize], "ann", "x"),
        );
    }
    let first = bench.sent();
    let job = bench.machine.handle_take_snapshot().unwrap();
    bench.choose(4, &keyed("d", "ann", "x"));
    bench.choose_policy(
        5,
        &Policy {
            version: 2,
            ..Policy::default()
        },
    );
    assert_eq!(bench.step(), []);
    assert_eq!(bench.machine.next_to_admit(), None, "the tables wait");
    bench.machine.handle_response(first.run);
    let (slots, actions) = bench.run();
    assert_eq!(slots, [2, 3]);
    let (taken, slot, fold) = take(&actions).expect("it has come to its slot");
    assert_eq!((taken, slot), (job, 3));
    assert_eq!(fold, bench.fold_at(3));
    assert_eq!(bench.machine.fold().admitted(), Slot(5), "these go on");
    assert!(bench.machine.serving(), "reads go on");
    assert_eq!(bench.machine.taking_snapshot(), Some(Slot(3)));
    assert_eq!(bench.machine.applied(), Slot(3));
    assert!(bench.machine.handle_snapshot_taken(job));
    assert_eq!(bench.run().0, [4]);
    assert!(!bench.machine.handle_snapshot_taken(job), "once");
}

#[test]
fn a_snapshot_of_an_idle_copy_is_taken_at_once() {
    let mut bench = Bench::new();
    bench.choose(1, &request());
    bench.run();
    let job = bench.machine.handle_take_snapshot().unwrap();
    let (taken, slot, _) = take(&bench.step()).unwrap();
    assert_eq!((taken, slot), (job, 1));
    assert_eq!(bench.machine.handle_take_snapshot(), None, "one at a time");
    bench.machine.handle_snapshot_taken(job);
    bench.snapshot(1);
    assert_eq!(bench.machine.handle_take_snapshot(), None, "nothing is new");
}

#[test]
fn a_snapshot_that_takes_too_long_to_begin_lets_the_tables_go_on() {
    let mut bench = Bench::new();
    bench.choose(1, &request());
    let execute = bench.sent();
    let job = bench.machine.handle_take_snapshot().unwrap();
    bench.choose(2, &request());
    bench.step();
    assert_eq!(bench.machine.fold().admitted(), Slot(1));
    assert!(!bench.machine.handle_snapshot_taken(job), "there is none");
    bench.step();
    assert_eq!(bench.machine.fold().admitted(), Slot(2));
    bench.machine.handle_response(execute.run);
    let (slots, actions) = bench.run();
    assert_eq!((slots, take(&actions)), (vec![2], None));
}

/// What may happen to the copy between a wish for a snapshot and its end.
const ENDS: [fn(&mut Bench); 4] = [
    |bench| bench.machine.handle_app(None),
    |bench| bench.machine.handle_app(Some(instance(2))),
    |bench| bench.machine.handle_app_partly_gone(instance(1)),
    |bench| {
        bench.choose_noop();
        let fold = bench.fold_at(bench.log.len() as u64);
        bench.machine.handle_snapshot_available(fold);
    },
];

#[test]
fn a_snapshot_of_an_app_that_went_meanwhile_is_thrown_away() {
    for (number, end) in ENDS.iter().enumerate() {
        for taking in [false, true] {
            let mut bench = Bench::new();
            bench.choose(1, &request());
            let execute = bench.sent();
            if taking {
                bench.machine.handle_response(execute.run);
                bench.run();
            }
            let job = bench.machine.handle_take_snapshot().unwrap();
            assert_eq!(take(&bench.step()).is_some(), taking);
            end(&mut bench);
            let drop = Action::DropSnapshot { job };
            assert!(bench.step().contains(&drop), "end {number}, {taking}");
            assert!(!bench.machine.handle_snapshot_taken(job));
            assert_eq!(take(&bench.step()), None);
            assert!(bench.machine.next_to_admit().is_some());
        }
    }
}

#[test]
fn no_snapshot_is_taken_of_a_copy_that_does_not_serve() {
    let refused = |bench: &mut Bench, why: &str| {
        assert_eq!(bench.machine.handle_take_snapshot(), None, "{why}");
    };
    let mut bench = Bench::new();
    bench.choose(1, &request());
    let execute = bench.sent();
    bench.machine.handle_not_sent(execute.run);
    refused(&mut bench, "what is in flight was not sent");
    bench.machine.handle_pause_over(Slot(1));
    let execute = bench.sent();
    bench.machine.handle_unknown(execute.run);
    refused(&mut bench, "the state is not known");
    bench.machine.handle_app(None);
    refused(&mut bench, "there is no app");
    bench.machine.handle_app(Some(instance(2)));
    refused(&mut bench, "it is being rebuilt");
    let execute = bench.sent();
    assert_eq!(execute.attempt, 2);
    refused(&mut bench, "a second attempt");
    bench.machine.handle_response(execute.run);
    bench.step();
    bench.machine.handle_shutdown();
    refused(&mut bench, "this process is to end");
    let mut bench = Bench::begin(Found::Missing, bench.log);
    bench.machine.handle_app(Some(instance(2)));
    bench.step();
    refused(&mut bench, "the app is not proven to be new");
}
