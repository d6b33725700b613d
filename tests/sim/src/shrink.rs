//! What of a run is needed for its violation: faults are taken away as long as the same invariant breaks.
//!
//! In: a seed that fails. Out: a run with fewer faults that fails in the same way, which is easier to
//! read. After delta debugging (Zeller and Hildebrandt, TSE 2002, section 3), without its complements.

use std::collections::BTreeSet;

use clap::ValueEnum;

use crate::{Options, Report, Trouble, run};

/// See the module.
#[derive(Clone, Debug)]
pub struct Shrunk {
    /// What is left: its `strikes` are all needed, as far as there was time to try.
    pub report: Report,
    /// How to run it again.
    pub options: Options,
    /// Runs that were tried.
    pub runs: u64,
}

/// Takes away what the violation of `found` does not need, until `may` says that there is no more time; it
/// is asked before each run.
///
/// # Panics
/// If `found` has no violation.
pub fn shrink(found: &Report, options: &Options, may: impl FnMut() -> bool) -> Shrunk {
    let invariant = found.violation.as_ref().expect("it failed").invariant;
    let mut shrinking = Shrinking {
        invariant,
        may,
        best: Shrunk {
            report: found.clone(),
            options: options.clone(),
            runs: 0,
        },
    };
    for trouble in Trouble::value_variants() {
        let mut options = shrinking.best.options.clone();
        options.without.push(*trouble);
        shrinking.attempt(options);
    }
    let struck = shrinking.best.report.strikes.iter();
    let mut needed: Vec<u64> = struck.map(|it| it.number).collect();
    let mut chunk = needed.len();
    while chunk > 0 {
        let mut at = 0;
        while at < needed.len() {
            let end = (at + chunk).min(needed.len());
            let fewer = [&needed[..at], &needed[end..]].concat();
            let options = Options {
                only: Some(fewer.iter().copied().collect::<BTreeSet<_>>()),
                ..shrinking.best.options.clone()
            };
            if shrinking.attempt(options) {
                needed = fewer;
            } else {
                at = end;
            }
        }
        chunk /= 2;
    }
    shrinking.best
}

struct Shrinking<F> {
    invariant: &'static str,
    may: F,
    best: Shrunk,
}

impl<F: FnMut() -> bool> Shrinking<F> {
    /// Whether it fails in the same way; then it is the best.
    fn attempt(&mut self, options: Options) -> bool {
        if !(self.may)() {
            return false;
        }
        self.best.runs += 1;
        let report = run(self.best.report.seed, &options);
        let violation = report.violation.as_ref();
        let same = violation.is_some_and(|it| it.invariant == self.invariant);
        if same {
            self.best.report = report;
            self.best.options = options;
        }
        same
    }
}
