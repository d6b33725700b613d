//! What a seed draws about the service: where its app keeps its state, at which steps processes die, and
//! requests that are poison.

use synod_sidecar::apply::{StateType, UncleanCrash};

use crate::app::{On, Poison};
use crate::dice::Dice;

/// When a request that fails on every copy is skipped (`poison.skip`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Skipping {
    Never,
    AllFailed,
    ReachableFailed,
}

/// The app, and what goes wrong around it.
#[derive(Clone, Debug)]
pub(crate) struct Service {
    pub(crate) state: StateType,
    /// Chance, per action of the apply machine, that the sidecar dies before it is done.
    pub(crate) dies_before_action: f64,
    /// Chance, per request, that the app dies at some step of the exchange.
    pub(crate) app_dies: f64,
    /// Chance that a job fails that puts a state back, takes one or asks for it.
    pub(crate) job_fails: f64,
    /// Chance that the sidecar dies while such a job is under way.
    pub(crate) dies_in_job: f64,
    /// Longest time that such a job takes, in nanoseconds.
    pub(crate) job_ns: u64,
    /// Chance, each look of the keeper, that the newest snapshot turns out to be damaged, if others have as
    /// good ones.
    pub(crate) snapshots_rot: f64,
    /// Chance, per death of the sidecar, that the ledger is damaged.
    pub(crate) ledger_damaged: f64,
    /// Chance that an app starts though it should not yet.
    pub(crate) starts_early: f64,
    /// How often the keeper of snapshots looks round, in nanoseconds.
    pub(crate) look_ns: u64,
    /// Chance, each time, that a person wants a snapshot at once.
    pub(crate) wanted_now: f64,
    /// Requests that are poison: so many at most, and the mean time between two, in nanoseconds.
    pub(crate) poisons: u32,
    pub(crate) poison_every_ns: u64,
    pub(crate) skipping: Skipping,
    /// Chance, each time that a leader judges, that a person gives up a request that stands.
    pub(crate) word: f64,
}

// === impl Service ===

impl Service {
    pub(crate) fn draw(dice: &mut Dice, safety_ns: u64, harsh: bool) -> Self {
        let kinds = [
            StateType::Ephemeral,
            StateType::Volume(UncleanCrash::Rollback),
            StateType::Volume(UncleanCrash::AppliedHeader),
            StateType::Volume(UncleanCrash::AtLeastOnce),
        ];
        let state = kinds[dice.pick(kinds.len())];
        let mut rate = |on: f64, low: u64, high: u64| {
            let on = dice.chance(on) && harsh;
            let rate = dice.log_range(low, high) as f64 / 1e6;
            if on { rate } else { 0.0 }
        };
        let dies_before_action = rate(0.4, 10, 500);
        let app_dies = rate(0.5, 30, 1_000);
        let job_fails = rate(0.5, 10_000, 300_000);
        let ledger_damaged = rate(0.3, 10_000, 300_000);
        let starts_early = rate(0.5, 10_000, 500_000);
        let wanted_now = rate(0.7, 10_000, 200_000);
        let word = rate(0.2, 1_000, 50_000);
        let poisons = [0, 1, 2, 4][dice.pick(4)];
        let long = safety_ns > 100_000_000_000;
        let job_ns = dice.log_range(1_000_000, 2_000_000_000);
        let skipping = [
            Skipping::AllFailed,
            Skipping::AllFailed,
            Skipping::AllFailed,
            Skipping::ReachableFailed,
            Skipping::Never,
        ][dice.pick(5)];
        let mut rate = |on: f64, low: u64, high: u64| {
            let on = dice.chance(on) && harsh;
            let rate = dice.log_range(low, high) as f64 / 1e6;
            if on { rate } else { 0.0 }
        };
        let dies_in_job = rate(0.3, 3_000, 100_000);
        let snapshots_rot = rate(0.3, 100, 3_000);
        Self {
            state,
            dies_before_action,
            app_dies,
            job_fails,
            dies_in_job,
            job_ns,
            snapshots_rot,
            ledger_damaged,
            starts_early,
            look_ns: if long { 1_000_000_000 } else { 300_000_000 },
            wanted_now,
            poisons: if harsh { poisons } else { 0 },
            poison_every_ns: safety_ns / 5,
            skipping,
            word,
        }
    }
}

/// A kind of poison, on a group of so many machines.
pub(crate) fn draw_poison(dice: &mut Dice, machines: usize) -> Poison {
    let one = dice.pick(machines);
    let all = [On::All, On::All, On::One(one), On::Some, On::AllBut(one)];
    let on = all[dice.pick(all.len())];
    if dice.chance(0.7) {
        Poison::Kills(on)
    } else {
        Poison::Hangs(on)
    }
}
