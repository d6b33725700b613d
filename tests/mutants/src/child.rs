//! The process that runs checks, with whatever is planted in it.

use std::any::Any;
use std::io::Write as _;
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
/// `rule`: scripts for this one come first.
#[allow(
    clippy::disallowed_methods,
    reason = "what broke an assertion is not to be cleaned up"
)]
pub fn carry_out(
    part: &Part,
    scripts: &Path,
    rule: &str,
) -> Result<(), Box<dyn std::error::Error>> {
    let events = Arc::new(AtomicU64::new(0));
    let seen = events.clone();
    std::panic::set_hook(Box::new(move |panic| {
        let events = seen.load(Ordering::Relaxed);
        let text = asserted(text_of(panic.payload())).to_owned();
        let _ = tell(&Said::Panicked(events, text));
        process::exit(1);
    }));
    match part {
        Part::Scripts(after) => run_scripts(scripts, rule, after.as_deref()),
        Part::Seeds(seeds) => run_seeds(seeds, events),
    }
}

fn tell(said: &Said) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{said}")?;
    out.flush()
}

fn text_of(payload: &(dyn Any + Send)) -> &str {
    let formatted = payload.downcast_ref::<String>().map(String::as_str);
    let text = formatted.or_else(|| payload.downcast_ref::<&str>().copied());
    text.unwrap_or("no message")
}

/// What an assertion is about, without what it has compared.
fn asserted(text: &str) -> &str {
    let first = text.lines().next().unwrap_or_default();
    first
        .strip_prefix("assertion `left == right` failed: ")
        .unwrap_or(first)
}

/// It says that it is for this rule.
fn is_for(script: &Script, rule: &str) -> bool {
    let mut lines = script.about.iter();
    lines.any(|it| {
        it.split(|it: char| !it.is_alphanumeric())
            .any(|it| it == rule)
    })
}

fn run_scripts(
    folder: &Path,
    rule: &str,
    after: Option<&str>,
) -> Result<(), Box<dyn std::error::Error>> {
    let mut scripts = Vec::new();
    for (name, path) in find(folder)? {
        let text = std::fs::read_to_string(path)?;
        let script = Script::parse(&text).map_err(|wrong| format!("{name}: {wrong}"))?;
        scripts.push((name, text, script));
    }
    if scripts.is_empty() {
        return Err("there are no scripts".into());
    }
    scripts.sort_by_key(|(_, _, script)| !is_for(script, rule));
    let passed = after.and_then(|after| scripts.iter().position(|(name, ..)| name == after));
    for (name, text, script) in scripts.drain(passed.map_or(0, |it| it + 1)..) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_an_assertion_is_told_what_it_is_about() {
        let compared = "assertion `left == right` failed: adopted once\n  left: 1\n right: 2";
        assert_eq!(asserted(compared), "adopted once");
        assert_eq!(asserted("I5: commit fell"), "I5: commit fell");
    }

    #[test]
    fn a_script_is_for_the_rules_that_it_names() {
        let text = "# A title.\n# What it guards (rules P1a, X1).\n\ngroup 1 2 3\n";
        let script = Script::parse(text).expect("it is one");
        assert!(is_for(&script, "P1a") && is_for(&script, "X1"));
        assert!(!is_for(&script, "P1"));
    }
}
