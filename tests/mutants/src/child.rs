//! The process that runs checks, with whatever is planted in it.

use std::io::Write as _;
use std::panic::PanicHookInfo;
use std::path::Path;
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use synod_scenarios::{Script, find};
use synod_sim::Options;

use crate::said::Said;

/// What to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// The scripts behind this one, or all.
    Scripts(Option<String>),
    /// These seeds of the simulator, up to the first that breaks something.
    Seeds(Vec<u64>),
}

/// Runs it, and says on the standard output what comes of it. An assertion of the code ends the process.
pub fn carry_out(part: &Part, scripts: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let events = Arc::new(AtomicU64::new(0));
    let seen = events.clone();
    std::panic::set_hook(Box::new(move |panic| {
        let _ = tell(&Said::Panicked(
            seen.load(Ordering::Relaxed),
            message(panic),
        ));
        process::exit(1);
    }));
    match part {
        Part::Scripts(after) => run_scripts(scripts, after.as_deref()),
        Part::Seeds(seeds) => run_seeds(seeds, events),
    }
}

fn tell(said: &Said) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{said}")?;
    out.flush()
}

fn message(panic: &PanicHookInfo<'_>) -> String {
    let text = panic.payload_as_str().unwrap_or("no message");
    match panic.location() {
        Some(at) => format!("{text} ({}:{})", at.file(), at.line()),
        None => text.to_owned(),
    }
}

fn run_scripts(folder: &Path, after: Option<&str>) -> Result<(), Box<dyn std::error::Error>> {
    let mut scripts = find(folder)?;
    scripts.retain(|(name, _)| after.is_none_or(|after| name.as_str() > after));
    for (name, path) in scripts {
        let text = std::fs::read_to_string(path)?;
        let script = Script::parse(&text).map_err(|wrong| format!("{name}: {wrong}"))?;
        tell(&Said::Script(name))?;
        let ran = synod_scenarios::run(&script);
        let said = match ran.failed.first() {
            Some(claim) => Said::Claim(claim.clone()),
            None if ran.now.to_string() != text => Said::Differs,
            None => Said::Clean(0),
        };
        tell(&said)?;
    }
    Ok(())
}

fn run_seeds(seeds: &[u64], progress: Arc<AtomicU64>) -> Result<(), Box<dyn std::error::Error>> {
    let options = Options {
        progress: Some(progress),
        ..Options::default()
    };
    for seed in seeds {
        tell(&Said::Seed(*seed))?;
        let report = synod_sim::run(*seed, &options);
        if let Some(violation) = report.violation {
            tell(&Said::Broke(report.events, violation.invariant.to_owned()))?;
            break;
        }
        tell(&Said::Clean(report.events))?;
    }
    Ok(())
}
