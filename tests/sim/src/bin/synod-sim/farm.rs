//! Many seeds, on as many threads as there are processors.

use std::cell::Cell;
use std::num::NonZero;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use synod_sim::{Options, Report, run};

thread_local! {
    /// The seed under way here, for the panic hook.
    static SEED: Cell<u64> = const { Cell::new(0) };
}

/// Which seeds, and how.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) first: u64,
    pub(crate) count: u64,
    /// No seed begins after so long.
    pub(crate) budget: Option<Duration>,
    pub(crate) jobs: NonZero<usize>,
    /// Each seed runs a second time, and has to be the same.
    pub(crate) twice: bool,
    pub(crate) options: Options,
}

/// What became of a seed.
pub(crate) enum Outcome {
    Ran(Box<Report>),
    /// An assertion of the code under test broke, which the panic hook has told.
    Panicked,
    /// The second run was another one.
    Differs(u64),
}

/// Runs them, and tells each as it ends, in any order.
pub(crate) fn run_all(plan: &Plan, began: Instant, mut tell: impl FnMut(Outcome)) {
    let next = AtomicU64::new(0);
    let (sender, outcomes) = channel();
    thread::scope(|scope| {
        for _ in 0..plan.jobs.get() {
            let sender = sender.clone();
            let next = &next;
            scope.spawn(move || work(plan, began, next, &sender));
        }
        drop(sender);
        for outcome in outcomes {
            tell(outcome);
        }
    });
}

fn work(plan: &Plan, began: Instant, next: &AtomicU64, outcomes: &Sender<Outcome>) {
    loop {
        let spent = began.elapsed();
        let index = next.fetch_add(1, Ordering::Relaxed);
        if index >= plan.count || plan.budget.is_some_and(|it| index > 0 && spent >= it) {
            return;
        }
        let seed = plan.first.saturating_add(index);
        if outcomes.send(try_one(plan, seed)).is_err() {
            return;
        }
    }
}

fn try_one(plan: &Plan, seed: u64) -> Outcome {
    SEED.set(seed);
    let once = || catch_unwind(AssertUnwindSafe(|| run(seed, &plan.options)));
    let Ok(report) = once() else {
        return Outcome::Panicked;
    };
    if plan.twice && !once().is_ok_and(|it| it.trace_hash == report.trace_hash) {
        return Outcome::Differs(seed);
    }
    Outcome::Ran(Box::new(report))
}

/// A broken assertion in the code under test: say how to see it again.
pub(crate) fn name_the_seed_of_a_panic() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        before(panic);
        let seed = SEED.get();
        eprintln!("seed {seed} broke an assertion");
        eprintln!("replay: cargo run --release -p synod-sim -- --seed {seed} --verbose");
    }));
}
