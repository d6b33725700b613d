//! The rules of a leader's judge, one by one, and random lives of whole groups in the end.

mod random;

use synod_paxos::Epoch;

use super::*;
use crate::apply::Progress;

const LEADER: MemberId = MemberId(1);

fn ballot(round: u64) -> Ballot {
    Ballot {
        epoch: Epoch(1),
        round,
        node: LEADER,
    }
}

fn rules() -> Rules {
    Rules {
        skip: SkipWhen::AllFailed,
        apply_timeout_ms: 1_000,
        has_snapshots: false,
    }
}

/// A judge of three copies with what they say.
struct Bench {
    judge: Judge,
    now_ms: u64,
    said: BTreeMap<u32, Doubts>,
}

impl Bench {
    fn new(rules: Rules) -> Self {
        let copies = (1..=3).map(MemberId).collect();
        let calm = Doubts {
            applied: Slot(4),
            executed: Slot(4),
            admitted: Slot(9),
            ..Doubts::default()
        };
        Self {
            judge: Judge::new(ballot(7), copies, rules),
            now_ms: 1_000,
            said: (1..=3).map(|number| (number, calm.clone())).collect(),
        }
    }

    /// The copy has failed so often at slot 5.
    fn fails(&mut self, number: u32, times: u32) {
        let doubts = self.said.get_mut(&number).expect("one of three");
        doubts.progress.failed = Some((Slot(5), times));
    }

    fn executes(&mut self, number: u32) {
        let doubts = self.said.get_mut(&number).expect("one of three");
        doubts.progress = Progress::default();
        (doubts.applied, doubts.executed) = (Slot(5), Slot(5));
    }

    /// All that can be asked say what they know, and so much later the judge is asked.
    fn poll(&mut self, after_ms: u64) -> Vec<Step> {
        self.now_ms += after_ms;
        for (number, doubts) in &self.said {
            let member = MemberId(*number);
            self.judge
                .handle_doubts(self.now_ms, member, doubts.clone());
        }
        self.judge.poll(self.now_ms)
    }

    fn answer(&mut self, number: u32, ask: Ask, standing: Standing) {
        self.judge
            .handle_standing(MemberId(number), ask, Some(standing));
        if standing != Standing::Applied
            && let Some(doubts) = self.said.get_mut(&number)
        {
            doubts.promises = vec![ask];
        }
    }

    fn waits(&self) -> Vec<Wait> {
        self.judge.undecided().expect("it is").waits
    }
}

fn ask(number: u64) -> Ask {
    Ask {
        slot: Slot(5),
        ballot: ballot(7),
        number,
    }
}

fn asked(steps: &[Step]) -> Vec<(u32, Ask)> {
    let asks = steps.iter().filter_map(|step| match step {
        Step::Ask { to, ask } => Some((to.0, *ask)),
        _ => None,
    });
    asks.collect()
}

fn skip(unsure: bool) -> Step {
    let slot = Slot(5);
    Step::Skip { slot, unsure }
}

fn restore(to: u32, from: u32) -> Step {
    Step::Restore {
        slot: Slot(5),
        from: MemberId(from),
        to: MemberId(to),
    }
}

// === what is undecided ===

#[test]
fn k1_a_slot_that_failed_once_is_nobodys_matter_and_one_that_failed_twice_is_asked_about() {
    let mut bench = Bench::new(rules());
    bench.fails(2, 1);
    assert_eq!(bench.poll(100), []);
    assert_eq!(bench.judge.undecided(), None);
    bench.fails(2, 2);
    let steps = bench.poll(100);
    assert_eq!(asked(&steps), [(1, ask(1)), (2, ask(1)), (3, ask(1))]);
    assert_eq!(bench.waits(), [Wait::Answers]);
    assert!(!bench.judge.undecided().unwrap().most);
}

#[test]
fn k1_a_slot_is_undecided_when_nobody_who_could_execute_it_has_for_three_times_apply_timeout() {
    let hangs = |bench: &mut Bench, number: u32, slow| {
        let doubts = bench.said.get_mut(&number).unwrap();
        doubts.progress.next = Some(Slot(5));
        doubts.progress.slow = slow;
    };
    let mut bench = Bench::new(rules());
    hangs(&mut bench, 1, true);
    hangs(&mut bench, 2, false);
    bench.fails(3, 1);
    assert_eq!(bench.poll(100), []);
    assert_eq!(bench.poll(20_000), [], "one may still do it");
    hangs(&mut bench, 2, true);
    assert_eq!(bench.poll(100), []);
    assert_eq!(bench.poll(2_900), []);
    assert_eq!(asked(&bench.poll(200)).len(), 3);
    assert!(bench.judge.undecided().unwrap().most);

    let mut bench = Bench::new(rules());
    hangs(&mut bench, 1, true);
    bench.executes(2);
    bench.poll(100);
    assert_eq!(bench.poll(20_000), [], "one has done it");
}

// === what comes of it ===

#[test]
fn k1_what_all_have_promised_and_none_has_executed_is_skipped() {
    let mut bench = Bench::new(rules());
    bench.fails(1, 2);
    bench.poll(0);
    bench.answer(1, ask(1), Standing::Failed);
    bench.answer(2, ask(1), Standing::Held);
    let steps = bench.poll(100);
    assert_eq!(asked(&steps), [(3, ask(1))]);
    assert_eq!(steps.len(), 1, "{steps:?}");
    bench.answer(3, ask(1), Standing::Held);
    assert_eq!(bench.poll(100), [skip(false)]);
    assert_eq!(bench.poll(100), [skip(false)], "until it is proposed");
    bench.judge.handle_proposed(Slot(5));
    assert_eq!(bench.poll(100), []);
    assert!(bench.judge.undecided().is_some());
    for doubts in bench.said.values_mut() {
        doubts.skipped.insert(Slot(5));
    }
    assert_eq!(bench.poll(100), []);
    assert_eq!(bench.judge.undecided(), None);
}

#[test]
fn k1_who_does_not_know_or_cannot_be_asked_is_waited_for_by_name() {
    let mut bench = Bench::new(rules());
    bench.fails(1, 2);
    bench.said.remove(&3);
    assert_eq!(bench.poll(0), []);
    assert_eq!(bench.poll(1_900), [], "it may be about to say something");
    bench.poll(100);
    bench.answer(1, ask(1), Standing::Failed);
    bench.answer(2, ask(1), Standing::Unknown);
    assert_eq!(asked(&bench.poll(60_000)), [(3, ask(1))]);
    let waits = [Wait::Unreachable(MemberId(3)), Wait::Forgotten(MemberId(2))];
    assert_eq!(bench.waits(), waits);
    bench.judge.handle_settled();
    assert_eq!(asked(&bench.poll(60_000)).len(), 1, "nobody is freed");
}

#[test]
fn k1_what_one_has_executed_is_not_skipped_and_the_others_try_again() {
    let mut bench = Bench::new(rules());
    bench.fails(1, 2);
    bench.poll(0);
    bench.answer(1, ask(1), Standing::Failed);
    bench.answer(2, ask(1), Standing::Held);
    bench.answer(3, ask(1), Standing::Applied);
    bench.executes(3);
    let steps = bench.poll(100);
    assert_eq!(steps, [], "an earlier leader's skip may still be chosen");
    bench.judge.handle_settled();
    let freed: Vec<_> = (1..=3).map(MemberId).collect();
    let freed = freed.into_iter().map(|to| Step::Free { to, ask: ask(1) });
    assert_eq!(bench.poll(100), freed.collect::<Vec<_>>());
    // Who has not heard that is told again; and nobody is asked about what one has executed.
    let again = [1, 2].map(|to| Step::Free {
        to: MemberId(to),
        ask: ask(1),
    });
    assert_eq!(bench.poll(100), again);
    bench.said.values_mut().for_each(|it| it.promises.clear());
    assert_eq!(bench.poll(100), []);
}

#[test]
fn k1_where_there_are_snapshots_the_others_get_the_state_of_who_has_executed_it() {
    let mut bench = Bench::new(Rules {
        has_snapshots: true,
        ..rules()
    });
    bench.judge.handle_settled();
    bench.fails(1, 2);
    bench.poll(0);
    bench.answer(1, ask(1), Standing::Failed);
    bench.answer(2, ask(1), Standing::Held);
    bench.answer(3, ask(1), Standing::Applied);
    bench.executes(3);
    let both = [restore(1, 3), restore(2, 3)];
    assert_eq!(bench.poll(100), both);
    // Its state is lost: it is waited for, and the promises with it.
    bench.said.get_mut(&3).unwrap().applied = Slot(2);
    assert_eq!(bench.poll(100), []);
    assert_eq!(bench.waits(), [Wait::StateOf(MemberId(3))]);
    bench.executes(3);
    bench.executes(1);
    bench.said.get_mut(&1).unwrap().promises.clear();
    assert_eq!(bench.poll(100), [restore(2, 3)], "not the leader's");
    bench.executes(2);
    bench.said.get_mut(&2).unwrap().promises.clear();
    assert_eq!(bench.poll(100), []);
    assert_eq!(bench.judge.undecided(), None);
}

#[test]
fn k1_what_was_known_to_be_executed_stays_so_though_its_member_forgets_it() {
    let mut bench = Bench::new(rules());
    bench.executes(3);
    bench.poll(0);
    let forgetful = Doubts {
        executed: Slot(1),
        applied: Slot(1),
        ..Doubts::default()
    };
    bench.said.insert(3, forgetful);
    bench.fails(1, 2);
    assert_eq!(bench.poll(100), [], "nobody is asked");
    assert_eq!(bench.waits(), [Wait::StateOf(MemberId(3))]);
    bench.said.remove(&3);
    assert_eq!(bench.poll(100), []);
    assert_eq!(bench.waits(), [Wait::StateOf(MemberId(3))]);
}

#[test]
fn who_fails_again_and_again_at_what_another_has_executed_is_helped_past_it() {
    let mut bench = Bench::new(Rules {
        has_snapshots: true,
        ..rules()
    });
    bench.executes(1);
    bench.executes(2);
    bench.fails(3, 2);
    assert_eq!(bench.poll(100), []);
    bench.fails(3, 3);
    assert_eq!(bench.poll(100), [restore(3, 2)]);
    assert_eq!(bench.judge.undecided(), None);
}

// === promises to other asks ===

#[test]
fn k1_what_was_promised_to_an_earlier_leader_is_asked_about_anew() {
    let mut bench = Bench::new(rules());
    let other = Ask {
        ballot: ballot(6),
        ..ask(3)
    };
    bench.said.get_mut(&2).unwrap().promises = vec![other];
    let steps = bench.poll(100);
    assert_eq!(asked(&steps).len(), 3);
    bench.answer(1, other, Standing::Held);
    bench.answer(2, other, Standing::Held);
    bench.answer(3, other, Standing::Held);
    assert_eq!(asked(&bench.poll(100)).len(), 3, "that is no answer");
    for number in 1..=3 {
        bench.answer(number, ask(1), Standing::Held);
    }
    assert_eq!(bench.poll(100), [skip(false)]);
}

#[test]
fn k1_promises_to_an_ask_that_was_freed_do_not_count_for_the_next() {
    let mut bench = Bench::new(rules());
    bench.judge.handle_settled();
    bench.fails(1, 2);
    bench.poll(0);
    bench.answer(1, ask(1), Standing::Failed);
    bench.answer(2, ask(1), Standing::Held);
    bench.judge.handle_rules(Rules {
        skip: SkipWhen::Never,
        ..rules()
    });
    let steps = bench.poll(100);
    assert!(steps.contains(&Step::Free {
        to: MemberId(1),
        ask: ask(1)
    }));
    bench.judge.handle_rules(rules());
    let steps = bench.poll(100);
    assert_eq!(asked(&steps), [(1, ask(2)), (2, ask(2)), (3, ask(2))]);
    bench.answer(3, ask(1), Standing::Held);
    bench.answer(3, ask(2), Standing::Held);
    let steps = bench.poll(100);
    assert_eq!(asked(&steps), [(1, ask(2)), (2, ask(2))]);
    let to = MemberId(3);
    assert!(!steps.contains(&Step::Free { to, ask: ask(2) }));
}

// === policies, and a person's word ===

#[test]
fn k1_with_never_nobody_is_asked_before_a_person_says_so() {
    let mut bench = Bench::new(Rules {
        skip: SkipWhen::Never,
        ..rules()
    });
    bench.fails(1, 2);
    bench.fails(2, 2);
    assert_eq!(bench.poll(100), []);
    assert_eq!(bench.waits(), [Wait::Person]);
    assert!(bench.judge.undecided().unwrap().most);
    assert!(!bench.judge.handle_word(bench.now_ms, Slot(4)));
    assert!(!bench.judge.handle_word(bench.now_ms, Slot(6)));
    assert!(bench.judge.handle_word(bench.now_ms, Slot(5)));
    assert_eq!(asked(&bench.poll(100)).len(), 3);
    for number in 1..=3 {
        bench.answer(number, ask(1), Standing::Held);
    }
    assert_eq!(bench.poll(100), [skip(false)]);
}

#[test]
fn k1_a_persons_word_goes_past_who_executed_it_and_who_cannot_be_asked_and_says_so() {
    for standing in [Some(Standing::Applied), Some(Standing::Unknown), None] {
        let mut bench = Bench::new(rules());
        bench.fails(1, 2);
        bench.said.remove(&3);
        bench.poll(0);
        bench.poll(2_000);
        bench.answer(1, ask(1), Standing::Failed);
        bench.answer(2, ask(1), Standing::Held);
        if let Some(standing) = standing {
            bench.answer(3, ask(1), standing);
        }
        assert!(bench.judge.handle_word(bench.now_ms, Slot(5)));
        let steps = bench.poll(100);
        assert_eq!(steps.contains(&skip(true)), standing.is_some());
        assert!(bench.poll(3_000).contains(&skip(true)));
        assert_eq!(bench.waits(), [Wait::Answers]);
    }
}

#[test]
fn k1_where_the_policy_says_so_who_is_lost_is_not_waited_for_but_who_executed_it_is() {
    let reachable = Rules {
        skip: SkipWhen::ReachableFailed,
        ..rules()
    };
    let mut bench = Bench::new(reachable);
    bench.fails(1, 2);
    bench.poll(0);
    bench.said.remove(&3);
    bench.answer(1, ask(1), Standing::Failed);
    bench.answer(2, ask(1), Standing::Unknown);
    assert_eq!(asked(&bench.poll(9_000)).len(), 1);
    let steps = bench.poll(1_000);
    assert!(steps.contains(&skip(true)), "{steps:?}");
    bench.answer(3, ask(1), Standing::Applied);
    assert!(!bench.poll(9_000).contains(&skip(true)));

    let mut bench = Bench::new(reachable);
    bench.fails(1, 2);
    bench.poll(0);
    bench.answer(1, ask(1), Standing::Failed);
    bench.answer(2, ask(1), Standing::Held);
    let steps = bench.poll(60_000);
    assert!(!steps.contains(&skip(true)), "it is there, if slow");
    // Nobody knows anything.
    let mut bench = Bench::new(reachable);
    bench.fails(1, 2);
    bench.poll(0);
    for number in 1..=3 {
        bench.answer(number, ask(1), Standing::Unknown);
    }
    assert_eq!(bench.poll(60_000), []);
}

#[test]
fn whoever_was_removed_since_may_have_executed_what_nobody_else_has() {
    let judge = Bench::new(rules()).judge;
    assert!(!judge.is_unsure(false, ballot(3)));
    assert!(judge.is_unsure(true, ballot(3)));
    let epoch = Epoch(0);
    let earlier = Ballot { epoch, ..ballot(9) };
    assert!(judge.is_unsure(false, earlier), "in an earlier epoch");
}

#[test]
fn k1_what_another_has_executed_does_not_hold_up_the_decision_about_a_later_slot() {
    let has_snapshots = true;
    let mut bench = Bench::new(Rules {
        has_snapshots,
        ..rules()
    });
    bench.judge.handle_settled();
    bench.fails(3, 2);
    bench.poll(0);
    bench.executes(1);
    bench.executes(2);
    bench.answer(1, ask(1), Standing::Applied);
    bench.answer(2, ask(1), Standing::Applied);
    bench.answer(3, ask(1), Standing::Failed);
    assert_eq!(bench.poll(100), [restore(3, 2)]);
    // Nobody who could give a state comes to where one could be taken.
    for number in [1, 2] {
        let doubts = bench.said.get_mut(&number).unwrap();
        doubts.progress.failed = Some((Slot(6), 2));
    }
    let later = Ask {
        slot: Slot(6),
        ..ask(2)
    };
    let steps = bench.poll(100);
    let to = MemberId(3);
    assert!(steps.contains(&Step::Free { to, ask: ask(1) }), "{steps:?}");
    assert_eq!(asked(&steps), [(1, later), (2, later), (3, later)]);
}

/// Seed 20261773 of the simulator: the one copy that had executed a slot had promised another leader not to
/// execute a later one, and had failed at nothing since its app was started again.
#[test]
fn k1_nor_does_it_where_only_an_earlier_leader_has_asked_about_the_later_one() {
    let has_snapshots = true;
    let mut bench = Bench::new(Rules {
        has_snapshots,
        ..rules()
    });
    bench.judge.handle_settled();
    let earlier = |slot| Ask {
        slot: Slot(slot),
        ballot: ballot(6),
        number: 1,
    };
    bench.executes(1);
    bench.said.get_mut(&1).unwrap().promises = vec![earlier(6)];
    bench.said.get_mut(&2).unwrap().promises = vec![earlier(5)];
    assert_eq!(asked(&bench.poll(0)).len(), 3);
    bench.answer(1, ask(1), Standing::Applied);
    bench.answer(2, ask(1), Standing::Unknown);
    bench.answer(3, ask(1), Standing::Unknown);
    let later = Ask {
        slot: Slot(6),
        ..ask(2)
    };
    let steps = bench.poll(100);
    for to in [2, 3].map(MemberId) {
        assert!(steps.contains(&Step::Free { to, ask: ask(1) }), "{steps:?}");
    }
    assert_eq!(asked(&steps), [(1, later), (2, later), (3, later)]);
}
