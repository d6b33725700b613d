//! `synod-sim`: runs seeds of the simulator and says what they found.

mod farm;
mod totals;

use std::num::NonZero;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::thread;
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use synod_sim::{Options, Plant, Report, Trouble, run, shrink};

use self::farm::{Outcome, Plan};
use self::totals::Totals;

/// A run that takes longer says now and then how far it is.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// Whole groups under virtual time, one seed each.
///
/// The last line sums up: `speed` is virtual time over the time that a processor worked on it.
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
    /// Ends after the seeds under way when this much real time has passed.
    #[arg(long)]
    seconds_budget: Option<u64>,
    /// Seeds under way at once; as many as there are processors if it is not said.
    #[arg(long)]
    jobs: Option<NonZero<usize>>,
    /// Runs each seed twice: both runs must be the same, event by event.
    #[arg(long)]
    twice: bool,
    /// Ends a run after this many events; such a run checks safety only.
    #[arg(long)]
    steps: Option<u64>,
    /// Lets only these of the faults strike that have a time of their own, by their numbers.
    #[arg(long, value_delimiter = ',', num_args = 0..)]
    only: Option<Vec<u64>>,
    /// Leaves out what else goes wrong.
    #[arg(long, value_delimiter = ',')]
    without: Vec<Trouble>,
    /// Looks so long for a shorter list of faults that breaks the same invariant, for each seed that fails.
    #[arg(long, default_value_t = 60)]
    shrink_seconds: u64,
    /// Writes a report in Markdown there.
    #[arg(long)]
    report: Option<PathBuf>,
    /// Prints every event of the run to standard error.
    #[arg(long)]
    verbose: bool,
}

// === impl Arguments ===

impl Arguments {
    fn options(&self) -> Options {
        Options {
            steps: self.steps,
            text: false,
            echo: self.verbose,
            plant: Plant::None,
            only: self.only.clone().map(|it| it.into_iter().collect()),
            without: self.without.clone(),
            progress: None,
        }
    }

    fn plan(&self) -> Plan {
        let (first, count) = match self.seed {
            Some(seed) => (seed, 1),
            None => (self.first_seed, self.seeds),
        };
        let processors = thread::available_parallelism().unwrap_or(NonZero::<usize>::MIN);
        Plan {
            first,
            count,
            budget: self.seconds_budget.map(Duration::from_secs),
            jobs: self.jobs.unwrap_or(processors),
            twice: self.twice,
            options: self.options(),
        }
    }
}

#[allow(
    clippy::disallowed_methods,
    reason = "measures the simulator, decides nothing in it"
)]
fn main() -> ExitCode {
    let arguments = Arguments::parse();
    farm::name_the_seed_of_a_panic();
    let plan = arguments.plan();
    let began = Instant::now();
    let mut totals = Totals::default();
    let mut told = began;
    farm::run_all(&plan, began, |outcome| {
        match outcome {
            Outcome::Ran(report) => {
                totals.add(&report);
                if report.violation.is_some() {
                    totals.fail(explain(&report, &plan.options, arguments.shrink_seconds));
                }
            }
            Outcome::Panicked => totals.fail("an assertion broke: see the output".to_owned()),
            Outcome::Differs(seed) => {
                let line = format!(
                    "seed {seed} was not the same when it was run again: the simulator is not \
                     deterministic"
                );
                eprintln!("{line}");
                totals.fail(line);
            }
        }
        if told.elapsed() >= TELL_EVERY {
            told = Instant::now();
            let minutes = began.elapsed().as_secs() / 60;
            eprintln!(
                "{minutes} min: {} seeds, {} violations",
                totals.seeds, totals.violations
            );
        }
    });
    let spent = began.elapsed();
    let worked = spent * u32::try_from(plan.jobs.get()).unwrap_or(u32::MAX);
    let last = totals.line(worked, 1 + u64::from(plan.twice));
    println!("{}", totals.sights());
    let blind = totals.blind();
    let is_blind = !blind.is_empty() && arguments.steps.is_none();
    if is_blind {
        println!("sim: a run of so many seeds has to see that: it fails: {blind:?}");
    }
    if let Some(path) = &arguments.report {
        let head = format!(
            "Commit {}; seeds from {}; {} threads for {} s.",
            commit(),
            plan.first,
            plan.jobs,
            spent.as_secs()
        );
        if let Err(error) = std::fs::write(path, totals.report(&head, &last)) {
            eprintln!(
                "the report cannot be written to {}: {error}",
                path.display()
            );
            return ExitCode::FAILURE;
        }
    }
    println!("{last}");
    if totals.violations == 0 && !is_blind {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Looks for fewer faults that fail in the same way, and prints the end of that run, and how to see it again.
#[allow(
    clippy::disallowed_methods,
    reason = "limits the search, decides nothing in a run"
)]
fn explain(found: &Report, options: &Options, seconds: u64) -> String {
    let seed = found.seed;
    let until = Instant::now() + Duration::from_secs(seconds);
    let shrunk = shrink(found, options, || Instant::now() < until);
    let text = Options {
        text: true,
        ..shrunk.options.clone()
    };
    let report = run(seed, &text);
    for line in &report.tail {
        eprintln!("{line}");
    }
    let Some(violation) = &report.violation else {
        let line = format!(
            "seed {seed} failed, and not when it was run again: the simulator is not deterministic"
        );
        eprintln!("{line}");
        return line;
    };
    eprintln!(
        "seed {seed}, commit {}, after {} events: {violation}",
        commit(),
        report.events
    );
    eprintln!("parameters: {}", report.parameters);
    eprintln!(
        "faults that struck: {}; of these are needed, after {} runs without others: {}",
        found.strikes.len(),
        shrunk.runs,
        report.strikes.len()
    );
    for strike in &report.strikes {
        let at = strike.at_ns as f64 / 1e9;
        eprintln!("  {at:>14.6} {} (number {})", strike.what, strike.number);
    }
    let replay = format!(
        "cargo run --release -p synod-sim --bin synod-sim -- --seed {seed}{}",
        flags(&shrunk.options)
    );
    eprintln!("replay: {replay}");
    eprintln!("the shortest prefix: {replay} --steps {}", report.events);
    format!("seed {seed}: {violation}; `{replay}`")
}

/// What says on the command line that a run is to be like this.
fn flags(options: &Options) -> String {
    let mut flags = String::new();
    if let Some(only) = &options.only {
        let numbers: Vec<String> = only.iter().map(ToString::to_string).collect();
        flags.push_str(" --only ");
        flags.push_str(&numbers.join(","));
    }
    let names = options
        .without
        .iter()
        .filter_map(ValueEnum::to_possible_value);
    let names: Vec<String> = names.map(|it| it.get_name().to_owned()).collect();
    if !names.is_empty() {
        flags.push_str(" --without ");
        flags.push_str(&names.join(","));
    }
    flags
}

/// Of the tree that this is run in.
fn commit() -> String {
    let said = Command::new("git")
        .args(["describe", "--always", "--dirty"])
        .output();
    let said = said.ok().filter(|it| it.status.success());
    let text = said.map(|it| String::from_utf8_lossy(&it.stdout).trim().to_owned());
    text.unwrap_or_else(|| "unknown".to_owned())
}
