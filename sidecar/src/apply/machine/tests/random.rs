//! Random lives: whatever happens, and in whatever order, no app is sent a slot unless its state is
//! exactly that of all slots before it, and all members decide alike.

use std::collections::BTreeMap;

use super::*;
use crate::apply::dice::Dice;

/// The slots that a state contains, in the order of execution.
type State = Vec<u64>;

/// An app and its volume.
struct Apps {
    kind: StateType,
    listens: Option<Instance>,
    started: u64,
    /// Of the process that listens.
    state: State,
    /// How much of it was on the volume when it started.
    found: usize,
    volume: State,
}

impl Apps {
    fn new(kind: StateType) -> Self {
        Self {
            kind,
            listens: None,
            started: 0,
            state: State::new(),
            found: 0,
            volume: State::new(),
        }
    }

    /// The process ends, and with it what it has not written.
    fn end(&mut self, dice: &mut Dice) {
        if self.listens.take().is_some() {
            let lost = match self.kind {
                // It says what it has, or nobody believes it.
                StateType::Volume(UncleanCrash::AppliedHeader | UncleanCrash::Rollback) => {
                    dice.below(4)
                }
                _ => 0,
            };
            self.volume = std::mem::take(&mut self.state);
            let left = self.volume.len().saturating_sub(lost as usize);
            self.volume.truncate(left.max(self.found));
        }
    }

    fn start(&mut self, dice: &mut Dice) {
        self.end(dice);
        self.started += 1;
        self.listens = Some(instance(self.started));
        self.state = match self.kind {
            StateType::Ephemeral => State::new(),
            StateType::Volume(_) => self.volume.clone(),
        };
        self.found = self.state.len();
    }

    fn execute(&mut self, slot: Slot) {
        if self.state.last() != Some(&slot.0) {
            self.state.push(slot.0);
        }
    }
}

pub(super) fn random_command(dice: &mut Dice, bench: &mut Bench, sequence: &mut u64) {
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

/// A life of one member.
struct Life {
    dice: Dice,
    apps: Apps,
    bench: Bench,
    /// All that is to be executed, by an own fold over the log.
    chosen: State,
    /// Slots that are skipped, and where that is chosen.
    skips: Vec<(u64, u64)>,
    /// The newest snapshot is void.
    wants_snapshot: bool,
    expected_fold: Fold,
    snapshots: BTreeMap<u64, State>,
    flight: Option<Execute>,
    paused: Option<Slot>,
    jobs: Vec<Action>,
    answered: BTreeMap<Slot, CommandId>,
    sequence: u64,
    counts: Counts,
}

/// What has happened, so that a run in which nothing did is seen.
#[derive(Debug, Default)]
struct Counts {
    starts: u64,
    restored: u64,
    volumes: u64,
    asked: u64,
    taken: u64,
    jumps: u64,
    skips: u64,
    voids: u64,
}

impl Life {
    fn new(seed: u64, kind: StateType) -> Self {
        let begun = Found::Record(Record::default());
        let mut bench = Bench::begin_from(kind, None, begun, Vec::new());
        bench.machine.handle_app(None);
        Self {
            dice: Dice(seed),
            apps: Apps::new(kind),
            bench,
            chosen: State::new(),
            skips: Vec::new(),
            wants_snapshot: false,
            expected_fold: Fold::new(configuration(), 1, Policy::default()),
            snapshots: BTreeMap::from([(0, State::new())]),
            flight: None,
            paused: None,
            jobs: Vec::new(),
            answered: BTreeMap::new(),
            sequence: 0,
            counts: Counts::default(),
        }
    }

    /// What a state at this slot has executed, where the log is known up to `known`.
    fn up_to(&self, slot: Slot, known: Slot) -> State {
        let skips = self.skips.iter().filter(|(_, at)| *at <= known.0);
        let skipped: Vec<u64> = skips.map(|(skipped, _)| *skipped).collect();
        let chosen = self.chosen.iter().copied();
        let chosen = chosen.take_while(|it| *it <= slot.0);
        chosen.filter(|it| !skipped.contains(it)).collect()
    }

    /// One of the last slots turns out to be poisonous.
    fn skip(&mut self) {
        let last = self.bench.log.len() as u64;
        let slot = last.saturating_sub(self.dice.below(20)).max(1);
        if last == 0 || self.skips.iter().any(|(skipped, _)| *skipped == slot) {
            return;
        }
        let at = self.bench.choose_skip(slot);
        self.skips.push((slot, at.0));
        self.expected_fold.admit(self.bench.log.last().unwrap());
        self.counts.skips += 1;
    }

    fn choose(&mut self) {
        random_command(&mut self.dice, &mut self.bench, &mut self.sequence);
        let entry = self.bench.log.last().unwrap();
        if matches!(
            self.expected_fold.admit(entry),
            crate::apply::fold::Admission::Execute(_)
        ) {
            self.chosen.push(entry.slot.0);
        }
    }

    fn turn(&mut self, event: u64) {
        let machine = &mut self.bench.machine;
        match event {
            0 if self.apps.listens.is_none() => self.apps.start(&mut self.dice),
            0 | 1 if self.dice.below(4) == 0 => self.apps.end(&mut self.dice),
            2 if self.dice.below(3) == 0 => self.apps.start(&mut self.dice),
            3 => self.restart(),
            4 => {
                if let Some(execute) = self.flight.take() {
                    if self.dice.below(2) == 0 && self.apps.listens == machine.instance() {
                        self.apps.execute(execute.slot);
                    }
                    machine.handle_unknown(execute.run);
                }
            }
            5 => {
                if let Some(execute) = self.flight.take() {
                    machine.handle_not_sent(execute.run);
                }
            }
            6 | 7 => {
                if let Some(execute) = self.flight.take() {
                    if self.apps.listens == machine.instance() {
                        self.apps.execute(execute.slot);
                        machine.handle_response(execute.run);
                    } else {
                        machine.handle_not_sent(execute.run);
                    }
                }
            }
            8 => {
                if machine.condemned() == self.apps.listens || self.apps.listens.is_none() {
                    // A supervisor that puts the volume back gives it the time.
                    if self.apps.listens.is_none() && machine.rollback().is_none() {
                        self.apps.start(&mut self.dice);
                    } else {
                        self.apps.end(&mut self.dice);
                    }
                }
                self.bench.machine.handle_app(self.apps.listens);
            }
            9 => {
                if let Some(slot) = self.paused.take() {
                    machine.handle_pause_over(slot);
                }
            }
            10 | 11 if !self.jobs.is_empty() => {
                let at = self.dice.below(self.jobs.len() as u64) as usize;
                let job = self.jobs.remove(at);
                self.finish(job);
            }
            12 => {
                let _ = machine.handle_take_snapshot();
            }
            13 if self.dice.below(8) == 0 => self.install(),
            14 if self.dice.below(6) == 0 => self.skip(),
            _ => self.choose(),
        }
    }

    /// Our process dies and comes back.
    fn restart(&mut self) {
        let ledger = match self.dice.below(8) {
            0 => {
                // The whole machine went down.
                self.apps.end(&mut self.dice);
                Found::OtherBoot(self.bench.ledger.kept())
            }
            _ => Found::Record(self.bench.ledger),
        };
        self.bench = self.bench.restarted_with(ledger, self.apps.listens);
        self.flight = None;
        self.paused = None;
        self.jobs.clear();
        self.answered.clear();
    }

    /// Others have gone on without this member, and it is given a snapshot.
    fn install(&mut self) {
        for _ in 0..self.dice.below(30) {
            self.choose();
        }
        let slot = self.bench.log.len() as u64;
        let state = self.up_to(Slot(slot), Slot(slot));
        self.wants_snapshot = false;
        self.snapshots.insert(slot, state);
        self.counts.jumps += u64::from(Slot(slot) > self.bench.machine.fold().admitted());
        self.bench.snapshot(slot);
    }

    fn finish(&mut self, job: Action) {
        let begun = self.dice.below(4) > 0;
        let well = begun && self.dice.below(4) > 0;
        let listens = self.apps.listens;
        // Looked at before anything is reported.
        self.bench.machine.handle_app(listens);
        let machine = &mut self.bench.machine;
        match job {
            Action::Restore {
                job,
                slot,
                instance,
            } => {
                if listens != Some(instance) {
                    return machine.handle_restore_failed(job, false);
                }
                if begun {
                    let state = &self.snapshots[&slot.0];
                    let part = if well { state.len() } else { state.len() / 2 };
                    self.apps.state = state[..part].to_vec();
                }
                if well {
                    self.counts.restored += 1;
                    machine.handle_restored(job);
                } else {
                    machine.handle_restore_failed(job, begun);
                }
            }
            Action::ReplaceApp { job, slot } => {
                if !machine.wants(job) {
                    return;
                }
                if listens.is_some() {
                    return self.jobs.push(Action::ReplaceApp { job, slot });
                }
                let state = &self.snapshots[&slot.0];
                let part = if well { state.len() } else { state.len() / 2 };
                self.apps.volume = state[..part].to_vec();
                if well {
                    self.counts.volumes += 1;
                    machine.handle_volume_restored(job);
                } else {
                    machine.handle_volume_not_restored(job);
                }
            }
            Action::AskApplied { job, instance } => {
                if listens == Some(instance) {
                    self.counts.asked += 1;
                    let slot = self.apps.state.last().copied().unwrap_or(0);
                    machine.handle_app_applied(job, begun.then_some(Slot(slot)));
                }
            }
            Action::TakeSnapshot {
                job,
                slot,
                instance,
                tables,
            } => {
                let state = self.apps.state.clone();
                if machine.handle_snapshot_taken(job) && well {
                    assert_eq!(listens, Some(instance));
                    assert_eq!(state, self.up_to(slot, slot), "the state of slot {slot}");
                    assert_eq!(tables.save(), self.bench.fold_at(slot.0).save());
                    self.snapshots.insert(slot.0, state);
                    self.counts.taken += 1;
                    self.bench.snapshot(slot.0);
                }
            }
            other => panic!("{other:?}"),
        }
    }

    /// Carries out what the machine says.
    fn carry_out(&mut self) {
        for action in self.bench.step() {
            match action {
                Action::Execute(execute) => self.send(execute),
                Action::Pause { slot, .. } => self.paused = Some(slot),
                Action::VoidSnapshot { .. } => {
                    self.counts.voids += 1;
                    self.wants_snapshot = true;
                }
                Action::Answer(answer) if answer.outcome == Outcome::Executed => {
                    let before = self.answered.insert(answer.slot, answer.id);
                    assert_eq!(before, None, "slot {} is answered once", answer.slot);
                    assert!(self.chosen.contains(&answer.slot.0));
                }
                Action::Restore { .. }
                | Action::ReplaceApp { .. }
                | Action::AskApplied { .. }
                | Action::TakeSnapshot { .. } => self.jobs.push(action),
                _ => {}
            }
        }
        let run = self.bench.machine.run();
        self.flight.take_if(|execute| run != Some(execute.run));
        let machine = &self.bench.machine;
        assert!(machine.applied() <= machine.fold().admitted().max(self.bench.ledger.applied));
        assert!(!machine.serving() || machine.applied() >= machine.answered());
    }

    fn send(&mut self, execute: Execute) {
        // Looked at before the first byte.
        if self.apps.listens != self.bench.machine.instance() {
            self.bench.machine.handle_not_sent(execute.run);
            self.bench.machine.handle_app(self.apps.listens);
            return;
        }
        let known = self.bench.machine.fold().admitted();
        let mut before = self.up_to(execute.slot.prev(), known);
        let again = StateType::Volume(UncleanCrash::AtLeastOnce);
        if self.apps.kind == again && self.apps.state.last() == Some(&execute.slot.0) {
            before.push(execute.slot.0);
        }
        let kind = self.apps.kind;
        assert_eq!(
            self.apps.state, before,
            "{kind:?} before slot {}",
            execute.slot
        );
        self.flight = Some(execute);
    }

    fn live(&mut self) {
        for turn in 0..6_000 {
            // In the end all is well.
            let calm = turn >= 400;
            let all = self.bench.machine.applied().0 == self.bench.log.len() as u64;
            if calm && all && self.bench.machine.serving() {
                break;
            }
            let event = match turn / 50 % 2 {
                _ if calm => 6 + self.dice.below(6),
                0 => self.dice.below(18),
                _ => 6 + self.dice.below(9),
            };
            if calm && (event == 10 || event == 11) && self.jobs.is_empty() {
                continue;
            }
            if calm && self.wants_snapshot {
                self.install();
            }
            self.turn(event);
            self.carry_out();
        }
        self.counts.starts = self.apps.started;
    }
}

#[test]
fn no_app_is_sent_anything_but_the_next_slot_of_its_state() {
    for kind in [
        StateType::Ephemeral,
        StateType::Volume(UncleanCrash::Rollback),
        StateType::Volume(UncleanCrash::AppliedHeader),
        StateType::Volume(UncleanCrash::AtLeastOnce),
    ] {
        let mut all = Counts::default();
        for seed in 1..=200 {
            let mut life = Life::new(seed * 0x9E37_79B9, kind);
            life.live();
            let machine = &life.bench.machine;
            let last = Slot(life.bench.log.len() as u64);
            assert_eq!(machine.applied(), last, "{kind:?}, seed {seed}: in the end");
            let state = life.up_to(last, last);
            assert_eq!(life.apps.state, state, "{kind:?}, seed {seed}");
            // A member to which nothing ever happened decides alike.
            let mut calm = Bench::new();
            calm.log.clone_from(&life.bench.log);
            calm.run();
            assert_eq!(calm.machine.fold(), machine.fold(), "{kind:?}, seed {seed}");
            assert_eq!(calm.machine.fold().save(), machine.fold().save());
            all.starts += life.counts.starts;
            all.restored += life.counts.restored;
            all.volumes += life.counts.volumes;
            all.asked += life.counts.asked;
            all.taken += life.counts.taken;
            all.jumps += life.counts.jumps;
            all.skips += life.counts.skips;
            all.voids += life.counts.voids;
        }
        let volume = kind != StateType::Ephemeral;
        let asks = kind == StateType::Volume(UncleanCrash::AppliedHeader);
        assert!(all.starts > 700, "{kind:?}: {all:?}");
        assert!(all.taken > 50 && all.jumps > 50, "{kind:?}: {all:?}");
        assert!(all.skips > 500 && all.voids > 10, "{kind:?}: {all:?}");
        assert_eq!(all.restored > 100, !volume, "{kind:?}: {all:?}");
        assert_eq!(all.volumes > 100, volume, "{kind:?}: {all:?}");
        assert_eq!(all.asked > 100, asks, "{kind:?}: {all:?}");
    }
}
