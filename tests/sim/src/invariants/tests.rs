//! Each check is shown what it must not let pass. (The planted faults in `tests/seeds.rs` do the
//! same from end to end for I4, I6, I7, I15 and linearizability.)

use synod_paxos::{
    AgreedTime, Ballot, Base, Boot, Command, CommandId, CommandKind, Configuration, Entry, Epoch,
    Genesis, GroupId, Identity, Incarnation, Member, MemberId, Message, Quorums, Record, Role,
    Settings, Slot, Status,
};

use synod_sidecar::apply::StateType;

use super::applied::has_none_of;
use super::*;
use crate::app::{App, Manners, On, Poison, Work};
use crate::disk::Summary;

mod members;

fn ballot(epoch: u64, round: u64) -> Ballot {
    Ballot {
        epoch: Epoch(epoch),
        round,
        node: MemberId(1),
    }
}

fn entry(slot: u64, ballot: Ballot, sequence: u64) -> Entry {
    Entry {
        slot: Slot(slot),
        ballot,
        time: AgreedTime(slot),
        seed: 0,
        command: Command {
            kind: CommandKind::REQUEST,
            id: CommandId {
                member: MemberId(1),
                boot: Boot(1),
                sequence,
            },
            ..Command::default()
        },
    }
}

fn member(number: u32, role: Role) -> Member {
    Member {
        id: MemberId(number),
        name: format!("member-{number}"),
        incarnation: Incarnation(u128::from(number)),
        role,
        region: String::new(),
    }
}

fn configuration(epoch: u64, members: &[(u32, Role)]) -> Configuration {
    Configuration {
        epoch: Epoch(epoch),
        members: members
            .iter()
            .map(|(it, role)| member(*it, *role))
            .collect(),
        quorums: Quorums::Majority,
        first_leader: MemberId(0),
    }
}

fn of_voters(epoch: u64, voters: u32) -> Configuration {
    let voters: Vec<_> = (1..=voters).map(|it| (it, Role::Voter)).collect();
    configuration(epoch, &voters)
}

fn stop_sign(slot: u64, next: &Configuration) -> Entry {
    let mut entry = entry(slot, ballot(next.epoch.0 - 1, 1), slot);
    let mut payload = 1_u32.to_le_bytes().to_vec();
    next.put(&mut payload);
    entry.command.kind = CommandKind::RECONFIGURE;
    entry.command.payload = payload.into();
    assert!(entry.reconfigures_to().is_some(), "it is one");
    entry
}

fn work(op: u64) -> Work {
    let poison = Poison::None;
    Work {
        op,
        register: 0,
        poison,
    }
}

fn broken(result: Result<(), Violation>) -> &'static str {
    result.expect_err("this must be seen").invariant
}

#[test]
fn a_promise_that_decreases_is_seen_in_a_life_and_across_lives() {
    let mut promised = Promised::new(1);
    promised.step(0, ballot(1, 2), ballot(1, 0)).unwrap();
    assert_eq!(broken(promised.step(0, ballot(1, 1), ballot(1, 0))), "I1");
    let disk = |round| Summary {
        promised: ballot(1, round),
        ..Summary::default()
    };
    promised.disk(0, disk(2)).unwrap();
    assert_eq!(broken(promised.disk(0, disk(1))), "I1");
}

#[test]
fn an_accepted_ballot_above_the_promise_is_seen() {
    let mut promised = Promised::new(1);
    assert_eq!(broken(promised.step(0, ballot(1, 1), ballot(1, 2))), "I2");
}

#[test]
fn two_values_in_one_ballot_and_slot_are_seen() {
    let mut one = OneValue::default();
    one.written(0, &entry(1, ballot(1, 1), 1)).unwrap();
    one.written(1, &entry(1, ballot(1, 1), 1)).unwrap();
    one.written(1, &entry(1, ballot(1, 2), 2)).unwrap();
    assert_eq!(broken(one.written(2, &entry(1, ballot(1, 1), 2))), "I3");
}

#[test]
fn a_commit_without_a_quorum_is_seen() {
    let chosen = Chosen::new(3, &of_voters(1, 3));
    assert_eq!(broken(chosen.claimed(0, Slot(1), "has")), "I4");
}

#[test]
fn a_log_that_begins_behind_something_that_was_not_chosen_is_seen() {
    let genesis = Genesis {
        group: GroupId([1; 16]),
        configuration: of_voters(1, 3),
        policy: bytes::Bytes::new(),
        protocol: 2,
        initial_state: bytes::Bytes::new(),
    };
    let mut chosen = Chosen::new(3, &of_voters(1, 3));
    for member in 0..2 {
        let identity = Identity {
            name: format!("member-{member}"),
            incarnation: Incarnation(member as u128),
        };
        let mut disk = Disk::new(identity, genesis.clone(), false);
        let (ballot, from, last) = (ballot(1, 1), Slot(1), Slot(0));
        let adopt = Record::Adopt { ballot, from, last };
        for record in [
            Record::Promise(ballot),
            adopt,
            Record::Append(entry(1, ballot, 1)),
        ] {
            disk.write(&record).unwrap();
        }
        disk.synced_up_to(3);
        chosen.synced(member, &disk).unwrap();
    }
    let base = |slot, round| Base {
        slot: Slot(slot),
        ballot: ballot(1, round),
        time: AgreedTime(1),
        ..Base::of_genesis(&genesis)
    };
    chosen.based(2, &base(1, 1)).unwrap();
    assert_eq!(broken(chosen.based(2, &base(1, 2))), "I4");
    assert_eq!(broken(chosen.based(2, &base(2, 1))), "I4");
    let late = Base {
        time: AgreedTime(2),
        ..base(1, 1)
    };
    assert_eq!(broken(chosen.based(2, &late)), "I4");
}

#[test]
fn a_commit_that_goes_back_or_beyond_the_log_is_seen() {
    let mut commit = Commit::new(1);
    commit.step(0, Slot(3), Slot(2), Slot(1)).unwrap();
    assert!(
        commit
            .step(0, Slot(3), Slot(1), Slot(1))
            .is_err_and(|v| v.invariant == "I5")
    );
    assert!(
        commit
            .step(0, Slot(3), Slot(4), Slot(1))
            .is_err_and(|v| v.invariant == "I5")
    );
    assert!(
        commit
            .step(0, Slot(3), Slot(2), Slot(3))
            .is_err_and(|v| v.invariant == "I6")
    );
}

#[test]
fn copies_that_differ_are_seen_by_result_by_history_and_by_what_they_left_out() {
    let mut applied = Applied::default();
    let none = BTreeSet::new();
    let effect = |op, digest| Effect {
        work: work(op),
        result: Register::default().append(op),
        digest,
    };
    assert!(applied.executed(0, &none, Slot(2), effect(7, 1)).unwrap());
    assert!(!applied.executed(1, &none, Slot(2), effect(7, 1)).unwrap());
    assert!(applied.executed(1, &none, Slot(2), effect(8, 1)).is_err());
    assert!(applied.executed(1, &none, Slot(2), effect(7, 2)).is_err());
    assert!(applied.executed(1, &none, Slot(1), effect(6, 1)).is_err());
    // Who knows of a skip goes on from another state than who does not.
    let one = BTreeSet::from([Slot(2)]);
    applied.executed(0, &none, Slot(3), effect(8, 2)).unwrap();
    applied.executed(1, &one, Slot(3), effect(8, 3)).unwrap();
    assert!(applied.executed(2, &one, Slot(3), effect(8, 2)).is_err());
}

#[test]
fn a_skip_of_what_was_executed_or_what_is_executed_in_spite_of_it_is_seen() {
    let (none, effect) = (BTreeSet::new(), effect_of(8, 3));
    let mut checks = two_writes();
    checks.shows([Slot(2)]);
    assert_eq!(broken(checks.skipped(Slot(2), false, 8).map(drop)), "K1");
    assert!(checks.skipped(Slot(3), false, 9).unwrap());
    assert!(!checks.skipped(Slot(3), false, 9).unwrap());
    assert_eq!(broken(checks.skipped(Slot(3), true, 9).map(drop)), "I6");
    assert_eq!(broken(checks.executed(0, &none, Slot(3), effect)), "K1");
    // What a person gave up may have been executed.
    assert!(checks.skipped(Slot(2), true, 8).unwrap());
}

#[test]
fn a_state_that_contains_what_is_skipped_is_seen() {
    let mut app = App::new(StateType::Ephemeral, 1);
    app.start(0, Manners::default());
    let poison = Poison::Kills(On::All);
    app.execute(Slot(2), Work { poison, ..work(7) });
    let known = BTreeSet::from([Slot(2)]);
    has_none_of(0, &BTreeSet::new(), app.state()).unwrap();
    assert_eq!(broken(has_none_of(0, &known, app.state())), "K2");
}

#[test]
fn votes_and_promises_that_are_not_synced_are_seen() {
    let disk = Summary {
        promised: ballot(1, 2),
        accepted: ballot(1, 1),
        last: Slot(5),
        commit: Slot(0),
        ..Summary::default()
    };
    let vote = |round, slot| Message::Accepted {
        ballot: ballot(1, round),
        slot: Slot(slot),
    };
    unsynced::leaves(0, &vote(1, 5), disk).unwrap();
    assert_eq!(broken(unsynced::leaves(0, &vote(1, 6), disk)), "I7");
    assert_eq!(broken(unsynced::leaves(0, &vote(2, 5), disk)), "I7");
    let prepare = |round| Message::Prepare {
        ballot: ballot(1, round),
        accepted: ballot(1, 1),
        last: Slot(5),
        commit: Slot(0),
        handed_over: false,
    };
    unsynced::leaves(0, &prepare(2), disk).unwrap();
    assert_eq!(broken(unsynced::leaves(0, &prepare(3), disk)), "I7");
}

#[test]
fn a_read_index_below_what_was_answered_before_is_seen() {
    read_index::given(0, Slot(4), Slot(4)).unwrap();
    assert_eq!(broken(read_index::given(0, Slot(3), Slot(4))), "I9");
}

#[test]
fn a_vote_past_a_slot_that_cannot_be_read_is_seen() {
    let vote = Message::Accepted {
        ballot: ballot(1, 1),
        slot: Slot(5),
    };
    votes::leaves(0, &vote, Some(Slot(6))).unwrap();
    assert_eq!(broken(votes::leaves(0, &vote, Some(Slot(5)))), "I10");
}

#[test]
fn a_slot_behind_the_stop_sign_of_its_epoch_and_time_that_goes_back_are_seen() {
    let mut stop = entry(1, ballot(1, 1), 1);
    stop.command.kind = CommandKind::RECONFIGURE;
    epochs::follows(&stop, &entry(2, ballot(2, 0), 2)).unwrap();
    assert_eq!(
        broken(epochs::follows(&stop, &entry(2, ballot(1, 1), 2))),
        "I11"
    );
    let plain = entry(1, ballot(1, 1), 1);
    assert_eq!(
        broken(epochs::follows(&plain, &entry(2, ballot(2, 0), 2))),
        "I11"
    );
    let mut early = entry(2, ballot(1, 1), 2);
    early.time = AgreedTime(0);
    assert_eq!(broken(epochs::follows(&plain, &early)), "P5");
}

#[test]
fn a_stamp_that_no_right_clock_reads_is_seen() {
    let right = time::Right {
        latest_ns: 1_000_000_000,
        drift_ns: 1_000,
    };
    let mut entry = entry(1, ballot(1, 1), 1);
    entry.time = AgreedTime(1_000_900_000);
    time::stamped(0, &entry, right).unwrap();
    entry.time = AgreedTime(1_002_000_000);
    assert_eq!(broken(time::stamped(0, &entry, right)), "P5");
}

#[test]
fn a_queue_beyond_its_limit_is_seen() {
    let settings = Settings::default();
    let mut status = Status::default();
    limits::check(0, &status, &settings, 0).unwrap();
    status.pending_commands = u64::from(settings.max_pending_commands) + 1;
    assert_eq!(broken(limits::check(0, &status, &settings, 0)), "I12");
}

#[test]
fn more_in_one_go_than_a_queue_holds_is_seen() {
    limits::check_burst(0, 100, 100).unwrap();
    assert_eq!(broken(limits::check_burst(0, 101, 100)), "I12");
}

#[test]
fn an_operation_that_takes_effect_twice_is_seen() {
    let mut once = Once::default();
    once.executed(Slot(1), 7).unwrap();
    assert_eq!(broken(once.executed(Slot(2), 7)), "I13");
}

/// Two writes to one register, at slots 1 and 2.
fn two_writes() -> Checks {
    let mut checks = Checks::new(1, &of_voters(1, 1), 1);
    let none = BTreeSet::new();
    let first = effect_of(7, 1);
    checks.executed(0, &none, Slot(1), first).unwrap();
    let second = Effect {
        result: first.result.append(8),
        ..effect_of(8, 2)
    };
    checks.executed(0, &none, Slot(2), second).unwrap();
    checks
}

fn effect_of(op: u64, digest: u64) -> Effect {
    Effect {
        work: work(op),
        result: Register::default().append(op),
        digest,
    }
}

#[test]
fn an_answer_with_another_commands_response_or_slot_is_seen() {
    let Checks {
        mut answers,
        applied,
        once,
        ..
    } = two_writes();
    let first = Register::default().append(7);
    let floor = Slot::ZERO;
    answers
        .wrote(7, floor, Slot(1), first, &applied, &once)
        .unwrap();
    let wrong = answers.wrote(8, floor, Slot(1), first, &applied, &once);
    assert_eq!(broken(wrong), "I14");
    let wrong = answers.wrote(8, floor, Slot(2), first, &applied, &once);
    assert_eq!(broken(wrong), "I14");
    let late = answers.wrote(7, Slot(2), Slot(1), first, &applied, &once);
    assert_eq!(broken(late), "linearizability");
}

#[test]
fn a_read_of_an_older_state_or_of_a_value_that_never_was_is_seen() {
    let mut answers = two_writes().answers;
    let first = Register::default().append(7);
    answers.read(0, Slot(1), Slot(1), first).unwrap();
    assert_eq!(
        broken(answers.read(0, Slot(2), Slot(1), first)),
        "linearizability"
    );
    assert_eq!(
        broken(answers.read(0, Slot(0), Slot(2), first)),
        "linearizability"
    );
}

#[test]
fn an_answer_at_a_slot_that_is_not_chosen_is_seen() {
    assert_eq!(
        broken(undone::answered(
            7,
            Slot(1),
            &Chosen::new(3, &of_voters(1, 3))
        )),
        "I15"
    );
}
