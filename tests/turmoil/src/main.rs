//! The sidecar itself, from TLS and HTTP/2 between members to HTTP with clients and app, in a simulated
//! network: three members, their apps and clients on hosts of their own in one thread, under virtual time.
//!
//! A seed fixes how long each packet takes and what a scenario draws. Not fixed are what the operating
//! system draws for TLS and for the pauses between attempts, in which order one task finds two things
//! ready, and when a log's thread is done: it writes real files, in real time, while every step of the
//! simulation waits a moment for it. Reads of files from other threads take no virtual time at all. So a
//! seed mostly, and not always, shows the same again; bounds are wide enough for that.

mod app;
mod authority;
mod client;
mod group;
mod load;
mod log;
mod relay;
mod scenario;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use clap::Parser;

use crate::scenario::{ALL, Scenario};

/// In real time, of one run.
const LIMIT: Duration = Duration::from_secs(300);

/// The sidecar in a simulated network.
#[derive(Debug, Parser)]
#[command(name = "turmoil", bin_name = "tests/run turmoil --")]
struct Arguments {
    /// Only scenarios whose name begins so.
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Only this seed.
    #[arg(long)]
    seed: Option<u64>,
    /// How many seeds, from 1.
    #[arg(long, default_value_t = 2)]
    seeds: u64,
    /// Names of the scenarios.
    #[arg(long)]
    list: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let is_meant = |it: &&Scenario| {
        let names = &arguments.names;
        names.is_empty() || names.iter().any(|name| it.name.starts_with(name.as_str()))
    };
    let scenarios: Vec<_> = ALL.iter().filter(is_meant).collect();
    if arguments.list {
        for scenario in scenarios {
            println!("{}", scenario.name);
        }
        return ExitCode::SUCCESS;
    }
    let seeds = arguments.seed.map_or(1..=arguments.seeds, |it| it..=it);
    let (mut passed, mut failed) = (0, 0);
    for scenario in scenarios {
        for seed in seeds.clone() {
            if tell(scenario, seed) {
                passed += 1;
            } else {
                failed += 1;
            }
        }
    }
    println!("turmoil: {passed} passed, {failed} failed");
    ExitCode::from(u8::from(failed > 0 || passed == 0))
}

/// Runs one, and says what came of it.
fn tell(&Scenario { name, run }: &Scenario, seed: u64) -> bool {
    let begun = Instant::now();
    let (ended, has_ended) = mpsc::channel::<()>();
    std::thread::spawn(move || {
        // A task that blocks its thread stops the simulation, and nothing in it could say so.
        if has_ended.recv_timeout(LIMIT) == Err(RecvTimeoutError::Timeout) {
            eprintln!("{name}, seed {seed}: it stands still");
            std::process::abort();
        }
    });
    let result = catch_unwind(AssertUnwindSafe(|| run(seed)));
    drop(ended);
    let seconds = begun.elapsed().as_secs_f64();
    let error = match result {
        Ok(Ok(said)) => {
            println!("ok   {name}, seed {seed} ({seconds:.1} s): {said}");
            return true;
        }
        Ok(Err(error)) => error.to_string(),
        // Its words are on stderr.
        Err(_) => "a panic".to_owned(),
    };
    println!(
        "FAIL {name}, seed {seed} ({seconds:.1} s): {error}; again: tests/run turmoil -- {name} --seed {seed}"
    );
    false
}
