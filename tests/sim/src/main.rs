//! `synod-sim`: runs seeds of the simulator and says what they found.

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use synod_sim::{Coverage, Options, Plant, Report, Sight, run};

/// Whole groups under virtual time, one seed each.
#[derive(Debug, Parser)]
#[command(name = "synod-sim")]
struct Arguments {
    /// Runs this seed only, with a readable trace when it fails.
    #[arg(long)]
    seed: Option<u64>,
    /// Runs this many seeds, beginning with `--first-seed`.
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// The first of `--seeds`.
    #[arg(long, default_value_t = 1)]
    first_seed: u64,
    /// Ends after the seed under way when this much real time has passed.
    #[arg(long)]
    seconds_budget: Option<u64>,
    /// Ends a run after this many events; such a run checks safety only.
    #[arg(long)]
    steps: Option<u64>,
    /// Prints every event of the run to standard error.
    #[arg(long)]
    verbose: bool,
}

/// So many seeds see everything that there is to see but for what is rare: a run of so many fails if they do
/// not.
const MANY: u64 = 300;
/// And so many see that, too.
const VERY_MANY: u64 = 3_000;

/// The seed under way, for the panic hook.
static SEED: AtomicU64 = AtomicU64::new(0);

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    name_the_seed_of_a_panic();
    let (first, count) = match arguments.seed {
        Some(seed) => (seed, 1),
        None => (arguments.first_seed, arguments.seeds),
    };
    #[allow(
        clippy::disallowed_methods,
        reason = "measures the simulator, decides nothing in it"
    )]
    let began = Instant::now();
    let mut totals = Totals::default();
    for seed in first..first.saturating_add(count) {
        let options = Options {
            steps: arguments.steps,
            text: false,
            echo: arguments.verbose,
            plant: Plant::None,
        };
        SEED.store(seed, Ordering::Relaxed);
        let report = run(seed, &options);
        totals.add(&report);
        if report.violation.is_some() {
            explain(&arguments, seed, &options);
        }
        let spent = began.elapsed();
        if arguments
            .seconds_budget
            .is_some_and(|b| spent >= Duration::from_secs(b))
        {
            break;
        }
    }
    let spent = began.elapsed().as_secs_f64();
    println!(
        "sim: seeds={} simulated_days={:.3} speed={:.0}x operations={} handovers={} compactions={} \
         installs={} violations={}",
        totals.seeds,
        totals.simulated_ns as f64 / 86_400e9,
        totals.simulated_ns as f64 / 1e9 / spent.max(1e-9),
        totals.operations,
        totals.handovers,
        totals.compactions,
        totals.installs,
        totals.violations
    );
    let seen: Vec<String> = totals
        .coverage
        .all()
        .map(|(sight, count)| format!("{sight:?}={count}"))
        .collect();
    println!("sim: seen: {}", seen.join(" "));
    let missing: Vec<String> = totals
        .coverage
        .missing()
        .map(|it| format!("{it:?}"))
        .collect();
    if !missing.is_empty() {
        println!(
            "sim: NEVER SEEN, so nothing is proved about it: {}",
            missing.join(" ")
        );
    }
    let expected = |it: &Sight| {
        let seeds = if it.is_rare() { VERY_MANY } else { MANY };
        totals.seeds >= seeds && arguments.steps.is_none()
    };
    if totals.coverage.missing().any(|it| expected(&it)) {
        println!("sim: a run of so many seeds has to see that: it fails");
        return ExitCode::FAILURE;
    }
    if totals.violations == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// A broken assertion in the code under test ends the program: say how to see it again.
fn name_the_seed_of_a_panic() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        before(panic);
        let seed = SEED.load(Ordering::Relaxed);
        eprintln!("seed {seed} broke an assertion");
        eprintln!("replay: cargo run --release -p synod-sim -- --seed {seed} --verbose");
    }));
}

/// Runs the seed once more with its text on, and prints the end of it.
fn explain(arguments: &Arguments, seed: u64, options: &Options) {
    let report = run(
        seed,
        &Options {
            text: true,
            ..*options
        },
    );
    for line in &report.tail {
        eprintln!("{line}");
    }
    let Some(violation) = &report.violation else {
        eprintln!(
            "seed {seed} failed, and not when it was run again: the simulator is not deterministic"
        );
        return;
    };
    eprintln!("seed {seed}, after {} events: {violation}", report.events);
    eprintln!("parameters: {}", report.parameters);
    let steps = arguments
        .steps
        .map(|s| format!(" --steps {s}"))
        .unwrap_or_default();
    eprintln!("replay: cargo run --release -p synod-sim -- --seed {seed}{steps}");
}

/// Sums over all seeds.
#[derive(Debug, Default)]
struct Totals {
    seeds: u64,
    simulated_ns: u64,
    operations: u64,
    handovers: u64,
    compactions: u64,
    installs: u64,
    coverage: Coverage,
    violations: u64,
}

// === impl Totals ===

impl Totals {
    fn add(&mut self, report: &Report) {
        self.seeds += 1;
        self.simulated_ns += report.simulated_ns;
        self.operations += report.operations;
        self.handovers += report.handovers;
        self.compactions += report.compactions;
        self.installs += report.installs;
        self.coverage.add(&report.coverage);
        self.violations += u64::from(report.violation.is_some());
    }
}
