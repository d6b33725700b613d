//! Has processes run the checks, one mutant in each, and listens to what they say.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use synod_mutant::Mutant;

use crate::child::Part;
use crate::found::{Check, Found};
use crate::hints::Hint;
use crate::said::Said;

/// How to look for a mutant.
#[derive(Clone, Debug)]
pub struct Plan {
    /// This program.
    pub program: PathBuf,
    /// Where the scripts are.
    pub scripts: PathBuf,
    /// Seeds from 1 on that are tried, at most.
    pub seeds: u64,
    /// A process that says nothing for so long has come to no end.
    pub patience: Duration,
    /// No more seeds are tried for one mutant after so long.
    pub limit: Duration,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// It has run what it was to run.
    Done,
    /// By itself, before that.
    Died,
    /// It said nothing for too long.
    Endless,
    /// There was no more time.
    Late,
}

/// Runs all scripts with the mutant planted, and seeds until one finds it: that of the hint first.
pub fn look_for(mutant: Mutant, hint: Option<Hint>, plan: &Plan) -> std::io::Result<Found> {
    let mut found = Found::nothing(mutant);
    plan.run_scripts(&mut found)?;
    let hinted = match hint {
        Some(Hint::Seed(seed)) => Some(seed),
        Some(Hint::None) if found.is_killed() => return Ok(found),
        _ => None,
    };
    if let Some(seed) = hinted {
        plan.run_seeds(&mut found, vec![seed], None)?;
    }
    if found.seed.is_none() {
        let others = (1..=plan.seeds).filter(|seed| Some(*seed) != hinted);
        let until = Instant::now() + plan.limit;
        plan.run_seeds(&mut found, others.collect(), Some(until))?;
    }
    Ok(found)
}

/// Runs all scripts and these seeds with nothing planted. Says what breaks nevertheless.
pub fn is_clean(seeds: &[u64], plan: &Plan) -> std::io::Result<Result<(), String>> {
    let mut found = Vec::new();
    for part in [Part::Scripts(None), Part::Seeds(seeds.to_vec())] {
        let mut at = "the first check".to_owned();
        let end = plan.run(None, &part, None, |said| match said {
            Said::Script(name) => at = name,
            Said::Seed(seed) => at = format!("seed {seed}"),
            said => found.extend(Check::of(&at, &said)),
        })?;
        if end != End::Done && found.is_empty() {
            return Ok(Err(format!("{at} does not come to its end")));
        }
    }
    Ok(found.first().map_or(Ok(()), |check| {
        Err(format!("{} breaks {}", check.at, check.what))
    }))
}

// === impl Plan ===

impl Plan {
    fn run_scripts(&self, found: &mut Found) -> std::io::Result<()> {
        let mut at: Option<String> = None;
        loop {
            let part = Part::Scripts(at.clone());
            let mut said_of_it = true;
            let end = self.run(Some(found.mutant), &part, None, |said| {
                if let Said::Script(name) = said {
                    (at, said_of_it) = (Some(name), false);
                } else if let Some(name) = &at {
                    said_of_it = true;
                    found.scripts.extend(Check::of(name, &said));
                }
            })?;
            let Some(name) = &at else { return Ok(()) };
            match end {
                End::Done | End::Late => return Ok(()),
                End::Endless => found.endless = Some(name.clone()),
                End::Died if !said_of_it => found.scripts.extend(died(name)),
                End::Died => {}
            }
        }
    }

    fn run_seeds(
        &self,
        found: &mut Found,
        seeds: Vec<u64>,
        until: Option<Instant>,
    ) -> std::io::Result<()> {
        let mut at = String::new();
        let end = self.run(
            Some(found.mutant),
            &Part::Seeds(seeds),
            until,
            |said| match said {
                Said::Seed(seed) => at = seed.to_string(),
                Said::Clean(_) => found.clean_seeds += 1,
                said => found.seed = Check::of(&at, &said),
            },
        )?;
        match end {
            End::Endless => found.endless = Some(format!("seed {at}")),
            End::Died if found.seed.is_none() => found.seed = died(&at),
            End::Done | End::Died | End::Late => {}
        }
        Ok(())
    }

    /// Runs a process to its end, or until it is ended.
    fn run(
        &self,
        mutant: Option<Mutant>,
        part: &Part,
        until: Option<Instant>,
        mut hear: impl FnMut(Said),
    ) -> std::io::Result<End> {
        let mut command = Command::new(&self.program);
        match part {
            Part::Scripts(after) => {
                command.arg("--run-scripts");
                command.arg("--scripts").arg(&self.scripts);
                command.args(after.iter().flat_map(|it| ["--after", it]));
            }
            Part::Seeds(seeds) => {
                let seeds: Vec<String> = seeds.iter().map(ToString::to_string).collect();
                command.arg("--run-seeds").arg(seeds.join(","));
            }
        }
        command.args(mutant.iter().flat_map(|it| ["--plant", it.name()]));
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let lines = lines_of(&mut child);
        loop {
            let now = Instant::now();
            let is_late = until.is_some_and(|it| now >= it);
            let left = until.map_or(self.patience, |it| it.saturating_duration_since(now));
            match lines.recv_timeout(left.min(self.patience)) {
                Ok(line) => {
                    if let Ok(said) = line.parse() {
                        hear(said);
                    }
                    if !is_late {
                        continue;
                    }
                    end(&mut child)?;
                    return Ok(End::Late);
                }
                Err(RecvTimeoutError::Timeout) => {
                    end(&mut child)?;
                    let is_late = left < self.patience;
                    return Ok(if is_late { End::Late } else { End::Endless });
                }
                Err(RecvTimeoutError::Disconnected) => {
                    let done = child.wait()?.success();
                    return Ok(if done { End::Done } else { End::Died });
                }
            }
        }
    }
}

fn lines_of(child: &mut Child) -> Receiver<String> {
    let (sender, lines) = channel();
    let out = child.stdout.take();
    thread::spawn(move || {
        let lines = out.into_iter().flat_map(|out| BufReader::new(out).lines());
        for line in lines.map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    lines
}

fn end(child: &mut Child) -> std::io::Result<()> {
    child.kill()?;
    child.wait().map(drop)
}

/// The process ended in the middle of it without a word.
fn died(at: &str) -> Option<Check> {
    Check::of(at, &Said::Panicked(0, "the process died".to_owned()))
}
