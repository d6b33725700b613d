//! `synod-mutants`: plants one bug after the other in the production code, and says which check found it.

use std::collections::BTreeMap;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use clap::Parser;
use synod_mutant::Mutant;
use synod_mutants::{Found, Hint, Hints, Part, Plan, carry_out, is_clean, last_line, look_for};

/// Seeds that have to be clean with nothing planted, besides those that find something.
const BASELINE: u64 = 4;

/// A process that says nothing for so long goes in circles, also on a machine that has much else to do.
const PATIENCE: Duration = Duration::from_secs(300);

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Plants bugs of the protocol one by one, and says which script and which invariant finds each.
#[derive(Debug, Parser)]
#[command(name = "synod-mutants")]
struct Arguments {
    /// Only these, by name.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Says which there are, and what each breaks.
    #[arg(long)]
    list: bool,
    /// Looks for the first seed that finds each, whatever was known, and writes it down.
    #[arg(long)]
    write: bool,
    /// Tries seeds from 1 to this one where the one that is known does not find it.
    #[arg(long, default_value_t = 40)]
    seeds: u64,
    /// And no more of them after so many seconds for each.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Processes at once; as many as there are processors if it is not said.
    #[arg(long)]
    jobs: Option<NonZero<usize>>,
    /// Where the scripts are.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../scenarios/scripts"))]
    scripts: PathBuf,
    /// Of a process that runs checks: the mutant.
    #[arg(long, hide = true)]
    plant: Option<String>,
    #[arg(long, hide = true)]
    run_scripts: bool,
    #[arg(long, hide = true)]
    after: Option<String>,
    #[arg(long, hide = true, value_delimiter = ',')]
    run_seeds: Option<Vec<u64>>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match arguments.part() {
        Some(part) => arguments.be_child(&part),
        None if arguments.list => {
            list();
            Ok(true)
        }
        None => arguments.find_all(),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("synod-mutants: {error}");
            ExitCode::FAILURE
        }
    }
}

fn list() {
    for mutant in Mutant::ALL {
        let (rule, name) = (mutant.rule(), mutant.name());
        println!("{rule:<6} {name:<30} {}", mutant.breaks());
    }
}

fn named(name: &str) -> Result<Mutant, Failure> {
    let found = Mutant::named(name);
    found.ok_or_else(|| format!("no mutant is called {name}: see --list").into())
}

// === impl Arguments ===

impl Arguments {
    fn part(&self) -> Option<Part> {
        let scripts = self.run_scripts.then(|| Part::Scripts(self.after.clone()));
        scripts.or_else(|| Some(Part::Seeds(self.run_seeds.clone()?)))
    }

    fn be_child(&self, part: &Part) -> Result<bool, Failure> {
        let mutant = self.plant.as_deref().map(named).transpose()?;
        synod_mutant::select(mutant);
        let rule = mutant.map_or("", Mutant::rule);
        carry_out(part, &self.scripts, rule).map_err(|error| error.to_string())?;
        Ok(true)
    }

    fn find_all(&self) -> Result<bool, Failure> {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("hints.txt");
        let mut hints = Hints::parse(&std::fs::read_to_string(&file)?);
        let plan = Plan {
            program: std::env::current_exe()?,
            scripts: self.scripts.clone(),
            seeds: self.seeds,
            patience: PATIENCE,
            limit: Duration::from_secs(self.seconds),
        };
        let mut mutants = Mutant::ALL.to_vec();
        if !self.only.is_empty() {
            mutants = self
                .only
                .iter()
                .map(|it| named(it))
                .collect::<Result<_, _>>()?;
        }
        let mut seeds: Vec<u64> = (1..=BASELINE).chain(hints.seeds()).collect();
        seeds.sort_unstable();
        seeds.dedup();
        let chunks: Vec<&[u64]> = seeds.chunks(BASELINE as usize).collect();
        let mut is_sound = true;
        self.each(
            &chunks,
            |seeds| is_clean(seeds, &plan),
            |came| {
                if let Err(what) = came {
                    println!("with nothing planted, {what}");
                    is_sound = false;
                }
            },
        )?;
        if !is_sound {
            return Ok(false);
        }
        println!(
            "with nothing planted, all scripts and {} seeds are clean",
            seeds.len()
        );
        let known = |mutant| hints.of(mutant).filter(|_| !self.write);
        let mut all: Vec<Found> = Vec::new();
        self.each(
            &mutants,
            |mutant| look_for(*mutant, known(*mutant), &plan),
            |found| {
                println!("{found}");
                all.push(found);
            },
        )?;
        if self.write {
            for found in &all {
                let seed = found.seed.as_ref().and_then(|it| it.at.parse().ok());
                hints.note(found.mutant, seed.map_or(Hint::None, Hint::Seed));
            }
            std::fs::write(&file, hints.text())?;
        }
        println!("{}", last_line(&all));
        Ok(!all.is_empty() && all.iter().all(Found::is_killed))
    }

    /// Does something with each, several at once, and tells what came of it in their order.
    fn each<T: Sync, R: Send>(
        &self,
        all: &[T],
        work: impl Fn(&T) -> std::io::Result<R> + Sync,
        mut tell: impl FnMut(R),
    ) -> Result<(), Failure> {
        let processors = thread::available_parallelism().unwrap_or(NonZero::<usize>::MIN);
        let jobs = self.jobs.unwrap_or(processors).get().min(all.len());
        let next = AtomicUsize::new(0);
        let (sender, done) = channel();
        thread::scope(|scope| {
            for _ in 0..jobs {
                let (sender, next, work) = (sender.clone(), &next, &work);
                scope.spawn(move || {
                    loop {
                        let at = next.fetch_add(1, Ordering::Relaxed);
                        let Some(one) = all.get(at) else { return };
                        if sender.send((at, work(one))).is_err() {
                            return;
                        }
                    }
                });
            }
            drop(sender);
            let mut early = BTreeMap::new();
            let mut told = 0;
            for (at, came) in done {
                early.insert(at, came?);
                while let Some(came) = early.remove(&told) {
                    tell(came);
                    told += 1;
                }
            }
            Ok(())
        })
    }
}
