//! Random lives: whatever happens, and in whatever order, no process of the app executes a slot
//! twice, out of order or after an unknown end, and all members decide alike.

use std::collections::BTreeMap;

use super::*;

/// xorshift64*: enough to choose events.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % limit
    }
}

/// An app: what each of its processes has executed.
#[derive(Default)]
struct Apps {
    listens: Option<Instance>,
    started: u64,
    executed: BTreeMap<u64, Vec<u64>>,
}

impl Apps {
    fn start(&mut self) {
        self.started += 1;
        self.listens = Some(instance(self.started));
        self.executed.insert(self.started, Vec::new());
    }

    /// The process that listens executes the slot.
    fn execute(&mut self, slot: Slot) {
        if let Some(listens) = self.listens {
            self.executed
                .get_mut(&listens.0.get())
                .expect("it was started")
                .push(slot.0);
        }
    }
}

fn random_command(dice: &mut Dice, bench: &mut Bench, sequence: &mut u64) {
    match dice.below(10) {
        0 => {
            bench.choose_noop();
        }
        1 if *sequence > 0 => {
            // Sent again.
            let again = 1 + dice.below(*sequence);
            bench.choose(again, &request());
        }
        2..=4 => {
            *sequence += 1;
            let key = ["a", "b", "c"][dice.below(3) as usize];
            bench.choose(*sequence, &keyed(key, "ann", "x"));
        }
        _ => {
            *sequence += 1;
            bench.choose(*sequence, &request());
        }
    }
}

/// One life of a member; returns its log and fold, and how often each instance was started.
fn live(seed: u64) -> (Bench, u64) {
    let mut dice = Dice(seed);
    let mut apps = Apps::default();
    let mut bench = Bench::begin(Found::Record(Record::default()), Vec::new());
    bench.machine.handle_app(None);
    let (mut sequence, mut flight, mut paused) = (0, None::<Execute>, None);
    let mut answered = BTreeMap::new();
    for turn in 0..4_000 {
        // In the end all is well.
        if turn >= 400 && bench.machine.applied().0 == bench.log.len() as u64 {
            break;
        }
        let event = if turn < 400 {
            dice.below(16)
        } else {
            6 + dice.below(4)
        };
        match event {
            0 if apps.listens.is_none() => apps.start(),
            0 | 1 if dice.below(4) == 0 => apps.listens = None,
            2 if dice.below(3) == 0 => apps.start(),
            3 => {
                // Our process dies.
                bench = bench.restarted(apps.listens);
                (flight, paused) = (None, None);
                answered.clear();
            }
            4 => {
                if let Some(execute) = flight.take() {
                    if dice.below(2) == 0 && apps.listens == bench.machine.instance() {
                        apps.execute(execute.slot);
                    }
                    bench.machine.handle_unknown(execute.run);
                }
            }
            5 => {
                if let Some(execute) = flight.take() {
                    bench.machine.handle_not_sent(execute.run);
                }
            }
            6 | 7 => {
                if let Some(execute) = flight.take() {
                    if apps.listens == bench.machine.instance() {
                        apps.execute(execute.slot);
                        bench.machine.handle_response(execute.run);
                    } else {
                        bench.machine.handle_not_sent(execute.run);
                    }
                }
            }
            8 => {
                if bench.machine.condemned() == apps.listens || apps.listens.is_none() {
                    apps.start();
                }
                bench.machine.handle_app(apps.listens);
            }
            9 => {
                if let Some(slot) = paused.take() {
                    bench.machine.handle_pause_over(slot);
                }
            }
            _ => random_command(&mut dice, &mut bench, &mut sequence),
        }
        for action in bench.step() {
            match action {
                Action::Execute(execute) => {
                    // Looked at before the first byte.
                    if apps.listens == bench.machine.instance() {
                        flight = Some(execute);
                    } else {
                        bench.machine.handle_not_sent(execute.run);
                        bench.machine.handle_app(apps.listens);
                    }
                }
                Action::Pause { slot, .. } => paused = Some(slot),
                Action::Answer(answer) if answer.outcome == Outcome::Executed => {
                    let before = answered.insert(answer.slot, answer.id);
                    assert_eq!(before, None, "slot {} is answered once", answer.slot);
                }
                _ => {}
            }
        }
        flight.take_if(|execute| bench.machine.run() != Some(execute.run));
        assert!(
            bench.machine.applied() <= bench.machine.fold().admitted().max(bench.ledger.applied)
        );
    }
    for (number, executed) in &apps.executed {
        let mut expected = (1..=bench.log.len() as u64).filter(|&slot| {
            slot <= bench.machine.fold().admitted().0
                && bench.machine.decisions.executes(Slot(slot))
        });
        for slot in executed {
            assert_eq!(
                Some(*slot),
                expected.next(),
                "instance {number}: {executed:?}"
            );
        }
    }
    (bench, apps.started)
}

#[test]
fn no_process_of_the_app_executes_anything_but_the_agreed_order() {
    let mut starts = 0;
    for seed in 1..=300 {
        let (bench, started) = live(seed * 0x9E37_79B9);
        starts += started;
        assert_eq!(
            bench.machine.applied().0,
            bench.log.len() as u64,
            "seed {seed}: it gets there in the end"
        );
        // A member to which nothing ever happened decides alike.
        let mut calm = Bench::new();
        calm.log = bench.log;
        calm.run();
        assert_eq!(calm.machine.fold(), bench.machine.fold(), "seed {seed}");
        assert_eq!(
            calm.machine.decisions, bench.machine.decisions,
            "seed {seed}"
        );
    }
    assert!(starts > 1_000, "apps were started: {starts}");
}
