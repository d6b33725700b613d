//! The whole table of what may happen to a request, an app, a process and a machine, and what is done
//! then, for each type of state.

use super::*;

const EPHEMERAL: StateType = StateType::Ephemeral;
const ROLLBACK: StateType = StateType::Volume(UncleanCrash::Rollback);
const APPLIED_HEADER: StateType = StateType::Volume(UncleanCrash::AppliedHeader);
const AT_LEAST_ONCE: StateType = StateType::Volume(UncleanCrash::AtLeastOnce);
const VOLUMES: [StateType; 3] = [ROLLBACK, APPLIED_HEADER, AT_LEAST_ONCE];
const ALL: [StateType; 4] = [EPHEMERAL, ROLLBACK, APPLIED_HEADER, AT_LEAST_ONCE];

/// Slots 1 to 3 are executed by instance 1, there is a snapshot at slot 2, slot 4 is in flight, and
/// slot 5 is chosen.
struct Case {
    bench: Bench,
    run: Run,
    job: Option<Job>,
}

impl Case {
    fn new(state: StateType) -> Self {
        let begun = Found::Record(Record::default());
        let mut bench = Bench::begin_from(state, None, begun, Vec::new());
        bench.machine.handle_app(Some(instance(1)));
        for sequence in 1..=3 {
            bench.choose(sequence, &request());
        }
        assert_eq!(bench.run().0, [1, 2, 3]);
        bench.snapshot(2);
        for sequence in 4..=5 {
            bench.choose(sequence, &request());
        }
        let run = bench.sent().run;
        Self {
            bench,
            run,
            job: None,
        }
    }

    /// The same with nothing in flight: slots 4 and 5 are executed, too.
    fn idle(state: StateType) -> Self {
        let mut case = Self::new(state);
        case.respond();
        assert_eq!(case.bench.run().0, [5]);
        case
    }

    fn machine(&mut self) -> &mut Machine {
        &mut self.bench.machine
    }

    fn respond(&mut self) {
        let run = self.run;
        self.machine().handle_response(run);
    }

    /// What is done now, in words.
    fn does(&mut self) -> String {
        let mut words = Vec::new();
        for action in self.bench.step() {
            words.push(match action {
                Action::Execute(execute) => {
                    self.run = execute.run;
                    format!("send {} ({})", execute.slot, execute.attempt)
                }
                Action::StopApp(it) => format!("stop {it}"),
                Action::Restore {
                    job,
                    slot,
                    instance,
                } => {
                    self.job = Some(job);
                    format!("restore {slot} to {instance}")
                }
                Action::ReplaceApp { job, slot } => {
                    self.job = Some(job);
                    format!("put {slot} back")
                }
                Action::AskApplied { job, instance } => {
                    self.job = Some(job);
                    format!("ask {instance}")
                }
                Action::Pause { slot, pause_ms } => format!("pause {slot} {pause_ms}"),
                Action::Answer(it) => format!("answer {} {:?}", it.slot, it.outcome),
                Action::Ledger(_) | Action::Jump { .. } => continue,
                other => panic!("{other:?}"),
            });
        }
        words.join(", ")
    }

    /// All that is executed from now on.
    fn executes(&mut self) -> Vec<u64> {
        self.bench.run().0
    }

    /// What is done when the app goes, and when it comes up again.
    fn restart_app(&mut self, number: u64) -> (String, String) {
        self.machine().handle_app(None);
        let gone = self.does();
        self.machine().handle_app(Some(instance(number)));
        (gone, self.does())
    }

    /// Our process dies and comes back, and finds this ledger and this app.
    fn restart_us(&mut self, ledger: Found, listens: Option<u64>) -> String {
        self.bench = self.bench.restarted_with(ledger, listens.map(instance));
        self.does()
    }

    fn ledger(&self) -> Found {
        Found::Record(self.bench.ledger)
    }

    fn put_back(&mut self) {
        let job = self.job.expect("something is to be put back");
        self.machine().handle_volume_restored(job);
        assert_eq!(self.does(), "");
    }

    /// The volume is put back, the app comes up, and executes all behind the snapshot.
    fn is_rolled_back(&mut self, number: u64) {
        self.put_back();
        self.machine().handle_app(Some(instance(number)));
        assert!(self.does().starts_with("send 3 "));
        self.respond();
        assert_eq!(self.executes(), [4, 5]);
        assert!(self.machine().serving());
    }

    fn says(&mut self, applied: u64) -> String {
        let job = self.job.expect("it was asked");
        self.machine().handle_app_applied(job, Some(Slot(applied)));
        self.does()
    }
}

#[test]
fn response_complete_the_next_is_sent() {
    for state in ALL {
        let mut case = Case::new(state);
        case.respond();
        assert_eq!(case.does(), "send 5 (1), answer 4 Executed");
    }
}

#[test]
fn connection_refused_before_a_byte_was_sent_the_app_is_awaited() {
    for state in ALL {
        let mut case = Case::new(state);
        let run = case.run;
        case.machine().handle_not_sent(run);
        assert_eq!(case.does(), "pause 4 10");
        case.machine().handle_pause_over(Slot(4));
        assert_eq!(case.does(), "send 4 (1)");
    }
}

#[test]
fn connection_lost_after_a_byte_was_sent_the_app_is_stopped_and_rebuilt() {
    for state in ALL {
        let mut case = Case::new(state);
        let run = case.run;
        case.machine().handle_unknown(run);
        let expected = match state {
            ROLLBACK => "stop 1, put 2 back",
            _ => "stop 1",
        };
        assert_eq!(case.does(), expected, "{state:?}");
        case.machine().handle_app(None);
        assert_eq!(case.does(), "", "{state:?}");
        is_rebuilt(case, state);
    }
}

/// The app is gone with slot 4 in flight, and comes up as instance 2.
fn is_rebuilt(mut case: Case, state: StateType) {
    if state == ROLLBACK {
        return case.is_rolled_back(2);
    }
    case.machine().handle_app(Some(instance(2)));
    match state {
        EPHEMERAL => {
            assert_eq!(case.does(), "restore 2 to 2");
            let job = case.job.unwrap();
            case.machine().handle_restored(job);
            assert_eq!(case.executes(), [3, 4, 5]);
        }
        APPLIED_HEADER => {
            assert_eq!(case.does(), "ask 2");
            assert_eq!(case.says(3), "send 4 (2)");
        }
        _ => assert_eq!(case.does(), "send 4 (2)", "what was in flight"),
    }
}

#[test]
fn apply_timeout_passed_it_is_slow_until_another_member_has_done_it() {
    for state in ALL {
        let mut case = Case::new(state);
        let run = case.run;
        case.machine().handle_slow(run);
        case.machine().handle_applied_elsewhere(Slot(3));
        assert_eq!(case.does(), "");
        case.machine().handle_applied_elsewhere(Slot(4));
        assert!(case.does().starts_with("stop 1"));
    }
}

#[test]
fn our_process_dies_and_returns_with_nothing_in_flight_it_goes_on() {
    for state in ALL {
        let mut case = Case::idle(state);
        let did = case.restart_us(case.ledger(), Some(1));
        let told = "answer 3 Executed, answer 4 Executed, answer 5 Executed";
        assert_eq!(did, told, "nothing is executed again");
        assert!(case.machine().serving());
    }
}

#[test]
fn our_process_dies_with_a_slot_in_flight_the_app_is_stopped_and_rebuilt() {
    for state in ALL {
        let mut case = Case::new(state);
        let did = case.restart_us(case.ledger(), Some(1));
        let expected = match state {
            ROLLBACK => "put 2 back, stop 1",
            _ => "stop 1",
        };
        assert_eq!(did, expected, "{state:?}");
        case.machine().handle_app(None);
        assert_eq!(case.does(), "");
        is_rebuilt(case, state);
    }
}

#[test]
fn our_process_and_the_app_die_with_a_slot_in_flight_it_is_rebuilt() {
    for state in ALL {
        let mut case = Case::new(state);
        let did = case.restart_us(case.ledger(), None);
        let expected = if state == ROLLBACK { "put 2 back" } else { "" };
        assert_eq!(did, expected, "{state:?}");
        is_rebuilt(case, state);
    }
}

#[test]
fn app_process_restarted_ephemeral_the_latest_snapshot_is_restored() {
    let mut case = Case::idle(EPHEMERAL);
    let (gone, up) = case.restart_app(2);
    assert_eq!((&*gone, &*up), ("", "restore 2 to 2"));
    let job = case.job.unwrap();
    case.machine().handle_restored(job);
    assert_eq!(case.executes(), [3, 4, 5]);
    assert!(case.machine().serving());
}

#[test]
fn app_process_restarted_volume_nothing_in_flight_it_goes_on_only_with_applied_header() {
    for state in VOLUMES {
        let mut case = Case::idle(state);
        case.machine().handle_app(None);
        if state == APPLIED_HEADER {
            assert_eq!(case.does(), "");
            case.machine().handle_app(Some(instance(2)));
            assert_eq!(case.does(), "ask 2");
            assert_eq!(case.says(4), "send 5 (1)", "what it had not written yet");
            case.respond();
            assert_eq!(case.does(), "", "nobody is answered twice");
            assert!(case.machine().serving());
        } else {
            assert_eq!(case.does(), "put 2 back", "{state:?}");
            case.is_rolled_back(2);
        }
    }
}

#[test]
fn app_process_restarted_behind_our_back_the_new_one_is_not_trusted() {
    for state in VOLUMES {
        for (us, name) in [(false, "seen"), (true, "by our next process")] {
            let mut case = Case::idle(state);
            let did = if us {
                case.restart_us(case.ledger(), Some(2))
            } else {
                case.machine().handle_app(Some(instance(2)));
                case.does()
            };
            if state == APPLIED_HEADER {
                assert_eq!(did, "ask 2", "{name}");
                assert_eq!(case.says(5), "", "{name}");
                assert!(case.machine().serving(), "{name}");
            } else {
                assert!(did.ends_with("put 2 back, stop 2"), "{name}: {did}");
                assert_eq!(case.machine().condemned(), Some(instance(2)), "{name}");
            }
        }
    }
}

#[test]
fn machine_died_whatever_runs_is_new_and_volume_and_ledger_may_disagree() {
    for state in ALL {
        let mut case = Case::new(state);
        let did = case.restart_us(Found::OtherBoot(Kept::default()), Some(1));
        let expected = match state {
            EPHEMERAL => "restore 2 to 1",
            APPLIED_HEADER => "ask 1",
            // Also what was in flight is not known any more.
            _ => "put 2 back, put 2 back, stop 1",
        };
        assert_eq!(did, expected, "{state:?}");
        let mut case = Case::new(state);
        let did = case.restart_us(Found::OtherBoot(Kept::default()), None);
        match state {
            ROLLBACK | AT_LEAST_ONCE => {
                assert_eq!(did, "put 2 back");
                case.is_rolled_back(2);
            }
            _ => assert_eq!(did, ""),
        }
    }
}

#[test]
fn nothing_known_of_earlier_lives_an_app_that_runs_is_stopped_first() {
    for state in ALL {
        let mut case = Case::idle(state);
        let did = case.restart_us(Found::Missing, Some(1));
        let expected = match state {
            ROLLBACK | AT_LEAST_ONCE => "put 2 back, stop 1",
            _ => "stop 1",
        };
        assert_eq!(did, expected, "{state:?}");
        case.machine().handle_app(None);
        case.does();
        match state {
            ROLLBACK | AT_LEAST_ONCE => case.is_rolled_back(2),
            _ => {
                case.machine().handle_app(Some(instance(2)));
                let expected = match state {
                    EPHEMERAL => "restore 2 to 2",
                    _ => "ask 2",
                };
                assert_eq!(case.does(), expected);
            }
        }
    }
}

// === the volume ===

#[test]
fn a_volume_is_put_back_only_while_no_app_runs() {
    let mut case = Case::idle(ROLLBACK);
    case.machine().handle_app(None);
    assert_eq!(case.does(), "put 2 back");
    let first = case.job.unwrap();
    // The app comes up while its files are being changed.
    case.machine().handle_app(Some(instance(2)));
    assert_eq!(case.does(), "put 2 back, stop 2");
    assert!(!case.machine().wants(first));
    let second = case.job.unwrap();
    case.machine().handle_volume_restored(second);
    case.machine().handle_app(None);
    case.machine().handle_volume_restored(first);
    assert_eq!(case.does(), "");
    assert_eq!(
        case.machine().rollback(),
        Some(Slot(2)),
        "none of it counts"
    );
    case.is_rolled_back(3);
}

#[test]
fn a_volume_that_was_put_back_is_known_to_our_next_process() {
    for state in VOLUMES {
        let mut case = Case::idle(ROLLBACK);
        case.bench.state = state;
        case.machine().handle_app(None);
        case.does();
        let mut half = Case {
            bench: case.bench.restarted(None),
            ..case
        };
        assert_eq!(half.does(), "put 2 back", "it was not yet");
        half.put_back();
        let mut whole = Case {
            bench: half.bench.restarted(Some(instance(2))),
            ..half
        };
        assert_eq!(whole.does(), "send 3 (1)", "{state:?}");
        let mut lost = Case {
            bench: whole
                .bench
                .restarted_with(Found::OtherBoot(Kept::default()), None),
            ..whole
        };
        let expected = match state {
            APPLIED_HEADER => "",
            _ => "put 2 back",
        };
        assert_eq!(lost.does(), expected, "and not to another machine's");
    }
}

#[test]
fn a_volume_that_is_half_put_back_says_nothing() {
    let ledgers = |case: &Case| {
        [
            case.ledger(),
            Found::Missing,
            Found::OtherBoot(Kept::default()),
        ]
    };
    for state in VOLUMES {
        for number in 0..3 {
            let mut case = Case::idle(state);
            let ledger = ledgers(&case)[number];
            case.bench.machine = Machine::new(Setup {
                incarnation: Incarnation(1),
                fold: case.bench.fold_at(2),
                state,
                ledger,
                half_restored: true,
                promises: Vec::new(),
                gated: false,
                changes_in_place: true,
            });
            case.machine().handle_app(None);
            assert_eq!(case.does(), "put 2 back", "{state:?}");
            case.is_rolled_back(2);
        }
    }
}

#[test]
fn a_volume_that_could_not_be_put_back_is_tried_again_with_growing_gaps() {
    let mut case = Case::idle(ROLLBACK);
    case.machine().handle_app(None);
    assert_eq!(case.does(), "put 2 back");
    for pause in ["pause 2 1000", "pause 2 2000", "pause 2 4000"] {
        let job = case.job.unwrap();
        case.machine().handle_volume_not_restored(job);
        assert_eq!(case.does(), pause);
        case.machine().handle_pause_over(Slot(2));
        assert_eq!(case.does(), "put 2 back");
    }
    case.is_rolled_back(2);
}

#[test]
fn a_newer_snapshot_is_what_the_volume_is_put_back_to() {
    let mut case = Case::idle(ROLLBACK);
    case.machine().handle_app(None);
    assert_eq!(case.does(), "put 2 back");
    case.bench.snapshot(4);
    assert_eq!(case.does(), "put 4 back");
    case.put_back();
    case.bench.snapshot(5);
    assert_eq!(case.does(), "put 5 back");
    case.put_back();
    case.machine().handle_app(Some(instance(2)));
    assert_eq!(case.does(), "");
    assert!(case.machine().serving());
}

#[test]
fn a_snapshot_that_this_member_was_given_is_put_back_whatever_the_app_has() {
    for state in VOLUMES {
        let mut case = Case::new(state);
        let mut ahead = Case::new(state).bench;
        for sequence in 6..=8 {
            ahead.choose(sequence, &request());
        }
        let fold = ahead.fold_at(7);
        case.bench.base = Some(fold.clone());
        case.machine().handle_snapshot_available(fold);
        case.bench.log = ahead.log;
        assert_eq!(case.does(), "put 7 back, stop 1", "{state:?}");
        case.machine().handle_app(None);
        let did = case.restart_us(case.ledger(), None);
        assert_eq!(did, "put 7 back", "our next process knows it");
        case.put_back();
        case.machine().handle_app(Some(instance(2)));
        assert_eq!(case.does(), "send 8 (1)");
    }
}

#[test]
fn what_was_in_flight_counts_its_attempts_over_the_deaths_of_our_process() {
    let mut case = Case::new(AT_LEAST_ONCE);
    let run = case.run;
    case.machine().handle_unknown(run);
    assert_eq!(case.does(), "stop 1");
    assert_eq!(case.restart_us(case.ledger(), Some(1)), "stop 1");
    assert_eq!(case.restart_us(case.ledger(), None), "");
    case.machine().handle_app(Some(instance(2)));
    assert_eq!(case.does(), "send 4 (2)");
    case.respond();
    assert_eq!(case.does(), "send 5 (1), answer 4 Executed");
}

#[test]
fn an_app_found_twice_in_doubt_is_not_sent_what_was_in_flight_before() {
    let mut case = Case::new(AT_LEAST_ONCE);
    let run = case.run;
    case.machine().handle_unknown(run);
    case.machine().handle_app(Some(instance(2)));
    assert_eq!(case.does(), "send 4 (2), stop 1");
    case.respond();
    assert_eq!(case.does(), "send 5 (1), answer 4 Executed");
    case.respond();
    assert_eq!(case.does(), "answer 5 Executed");
    case.machine().handle_app(Some(instance(3)));
    assert_eq!(case.does(), "put 2 back, stop 3", "nothing was in flight");
}

// === what the app says ===

/// One whose app has restarted and is asked.
fn asked() -> Case {
    let mut case = Case::new(APPLIED_HEADER);
    let run = case.run;
    case.machine().handle_unknown(run);
    case.machine().handle_app(Some(instance(2)));
    assert_eq!(case.does(), "stop 1, ask 2");
    case
}

#[test]
fn what_the_app_says_is_where_it_goes_on() {
    let mut case = asked();
    assert!(case.machine().rebuilding());
    assert_eq!(case.says(3), "send 4 (2)");
    let mut case = asked();
    assert_eq!(case.says(2), "send 3 (1)", "it had not written all");
    let mut case = asked();
    let did = case.says(4);
    assert_eq!(
        did, "send 5 (1), answer 4 Executed",
        "whose response is elsewhere, if anywhere"
    );
}

#[test]
fn what_the_app_says_from_before_the_snapshot_is_of_no_use() {
    for said in [Some(Slot(1)), None] {
        let mut case = asked();
        let job = case.job.unwrap();
        case.machine().handle_app_applied(job, said);
        assert_eq!(case.does(), "put 2 back, stop 2");
        case.machine().handle_app(Some(instance(3)));
        let did = case.does();
        assert_eq!(did, "put 2 back, stop 3", "it is not asked again");
        case.machine().handle_app(None);
        let did = case.restart_us(case.ledger(), None);
        assert_eq!(did, "put 2 back", "nor by our next process");
        case.is_rolled_back(4);
    }
}

#[test]
fn what_the_app_says_beyond_the_log_counts_once_the_log_has_come_there() {
    let mut case = asked();
    assert_eq!(case.says(7), "pause 7 30000");
    assert!(!case.machine().serving());
    for sequence in 6..=8 {
        case.bench.choose(sequence, &request());
    }
    let did = case.does();
    assert!(did.contains("send 8 (1)"), "{did}");
    assert_eq!(case.machine().applied(), Slot(7));
    assert_eq!(case.machine().answered(), Slot(7));

    let mut case = asked();
    assert_eq!(case.says(7), "pause 7 30000");
    case.machine().handle_pause_over(Slot(7));
    assert_eq!(case.does(), "put 2 back, stop 2", "it never does");
}

#[test]
fn what_an_earlier_instance_says_is_nothing() {
    let mut case = asked();
    let first = case.job.unwrap();
    case.machine().handle_app(Some(instance(3)));
    assert_eq!(case.does(), "ask 3");
    case.machine().handle_app_applied(first, Some(Slot(5)));
    assert_eq!(case.does(), "");
    assert_eq!(case.says(3), "send 4 (2)");
}
