//! Runs scenarios against the real thing: `synod-system [NAME..]`.

use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::Instant;

use clap::Parser;
use synod_system::links;
use synod_system::report::Report;
use synod_system::scenario::{self, Scenario, Settings};
use tokio::signal::unix::{SignalKind, signal};

#[derive(Parser)]
#[command(about = "Real processes, real programs, real faults")]
struct Arguments {
    /// Run scenarios whose name contains one of these; all when none is given
    names: Vec<String>,
    /// Only list the names
    #[arg(long)]
    list: bool,
    /// Length of the run with single faults, in seconds
    #[arg(long, default_value_t = 120)]
    fault_seconds: u64,
    /// How often all members are killed at once
    #[arg(long, default_value_t = 5)]
    kill_all_times: u32,
    /// How often a member is killed at a named step
    #[arg(long = "runs", value_name = "N", default_value_t = 40)]
    kill_runs: u32,
    /// The longest that this goes on, in seconds
    #[arg(long = "seconds", value_name = "N", default_value_t = 3_600)]
    kill_seconds: u64,
    /// Only at steps whose name contains one of these
    #[arg(long = "point", value_name = "NAME")]
    kill_points: Vec<String>,
    /// Keys that are retried through other members
    #[arg(long, default_value_t = 10_000)]
    idempotent_keys: u64,
    /// Operations a second under faults
    #[arg(long, default_value_t = 420)]
    rate: u32,
    /// Size of the state that a group begins with, in bytes
    #[arg(long, default_value_t = 64 << 20)]
    import_bytes: u64,
    /// Of all random choices; random when not given
    #[arg(long)]
    seed: Option<u64>,
    /// The source tree
    #[arg(long, default_value = ".")]
    tree: PathBuf,
    /// Where downloaded programs are
    #[arg(long, env = "SYNOD_TEST_CACHE")]
    cache: Option<PathBuf>,
    /// `synod` as an earlier commit had it
    #[arg(long, env = "SYNOD_OLDER_BIN")]
    older: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let named = |scenario: &&Scenario| {
        let names = &arguments.names;
        names.is_empty()
            || names
                .iter()
                .any(|name| scenario.name.contains(name.as_str()))
    };
    let chosen: Vec<&Scenario> = scenario::ALL.iter().filter(named).collect();
    if arguments.list {
        for scenario in chosen {
            println!("{}", scenario.name);
        }
        return ExitCode::SUCCESS;
    }
    if chosen.is_empty() {
        eprintln!(
            "no scenario is named like {:?}; see --list",
            arguments.names
        );
        return ExitCode::from(64);
    }
    let settings = settings(&arguments);
    println!("seed {}", settings.seed);

    let (mut passed, mut failed) = (0, 0);
    for scenario in &chosen {
        match run(scenario, &settings) {
            Ended::Passed => passed += 1,
            Ended::Failed => failed += 1,
            Ended::Interrupted => return ExitCode::from(130),
        }
    }
    println!("scenarios: {passed} passed, {failed} failed");
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn settings(arguments: &Arguments) -> Settings {
    let tree = &arguments.tree;
    Settings {
        fault_seconds: arguments.fault_seconds,
        kill_all_times: arguments.kill_all_times,
        kill_runs: arguments.kill_runs,
        kill_seconds: arguments.kill_seconds,
        kill_points: arguments.kill_points.clone(),
        idempotent_keys: arguments.idempotent_keys,
        import_bytes: arguments.import_bytes,
        rate: arguments.rate,
        seed: arguments
            .seed
            .unwrap_or_else(|| rand::random_range(0..1_000_000)),
        out: tree.join("target/system"),
        apps: absolute(&tree.join("tests/apps")),
        readme: tree.join("README.md"),
        cache: arguments
            .cache
            .clone()
            .unwrap_or_else(|| tree.join("target/system/cache")),
        older: arguments.older.as_deref().map(absolute),
    }
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

enum Ended {
    Passed,
    Failed,
    Interrupted,
}

/// Runs one scenario in a thread of its own, which may move to another network.
fn run(scenario: &Scenario, settings: &Settings) -> Ended {
    println!("{} ...", scenario.name);
    let begun = Instant::now();
    let mut report = Report::default();
    let result = thread::scope(|scope| {
        let running = scope.spawn(|| {
            if scenario.own_network
                && let Err(error) = links::leave_network()
            {
                return Some(Err(error));
            }
            play(scenario, settings, &mut report)
        });
        running.join().unwrap_or_else(|panic| resume_unwind(panic))
    });
    match result {
        None => return Ended::Interrupted,
        Some(Err(error)) => report.fail(format!("{error:#}")),
        Some(Ok(())) => {}
    }
    print!("{}", report.text());
    for problem in report.problems() {
        println!("    FAILED: {problem}");
    }
    let seconds = begun.elapsed().as_secs_f64();
    if report.problems().is_empty() {
        println!("ok   {} ({seconds:.1} s)", scenario.name);
        Ended::Passed
    } else {
        println!("FAIL {} ({seconds:.1} s)", scenario.name);
        Ended::Failed
    }
}

/// Plays it on a runtime of its own, so that nothing of it outlives it; `None`: it was interrupted.
fn play(
    scenario: &Scenario,
    settings: &Settings,
    report: &mut Report,
) -> Option<anyhow::Result<()>> {
    let runtime = tokio::runtime::Runtime::new().expect("threads can be started");
    // What a scenario has started ends when it is dropped, so it must be when we are told to end.
    let result = runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).expect("signals can be heard");
        tokio::select! {
            result = (scenario.run)(settings, report) => Some(result),
            _ = tokio::signal::ctrl_c() => None,
            _ = terminate.recv() => None,
        }
    });
    runtime.shutdown_background();
    result
}
