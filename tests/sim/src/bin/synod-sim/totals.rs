//! Sums over all seeds, and what is told of them.

use std::fmt::Write as _;
use std::time::Duration;

use synod_sim::{Coverage, Report, Sight, Tally};

/// So many seeds see everything that there is to see but for what is rare: a run of so many fails if they do
/// not.
const MANY: u64 = 300;
/// And so many see that, too.
const VERY_MANY: u64 = 3_000;

/// Sums over all seeds.
#[derive(Debug, Default)]
pub(crate) struct Totals {
    pub(crate) seeds: u64,
    simulated_ns: u64,
    events: u64,
    operations: u64,
    chosen: u64,
    faults: Tally,
    coverage: Coverage,
    pub(crate) violations: u64,
    /// One line for each seed that failed.
    pub(crate) failures: Vec<String>,
}

// === impl Totals ===

impl Totals {
    pub(crate) fn add(&mut self, report: &Report) {
        self.seeds += 1;
        self.simulated_ns += report.simulated_ns;
        self.events += report.events;
        self.operations += report.operations;
        self.chosen += report.chosen;
        self.faults.add(&report.faults);
        self.coverage.add(&report.coverage);
    }

    pub(crate) fn fail(&mut self, line: String) {
        self.violations += 1;
        self.failures.push(line);
    }

    /// What so many seeds have to see, and these did not.
    pub(crate) fn blind(&self) -> Vec<Sight> {
        let expected = |it: &Sight| self.seeds >= if it.is_rare() { VERY_MANY } else { MANY };
        self.coverage.missing().filter(expected).collect()
    }

    /// What was seen, and what never was.
    pub(crate) fn sights(&self) -> String {
        let seen: Vec<String> = self
            .coverage
            .all()
            .map(|(sight, count)| format!("{sight:?}={count}"))
            .collect();
        let mut text = format!("sim: seen: {}", seen.join(" "));
        let missing: Vec<String> = self
            .coverage
            .missing()
            .map(|it| format!("{it:?}"))
            .collect();
        if !missing.is_empty() {
            let _ = write!(
                text,
                "\nsim: NEVER SEEN, so nothing is proved about it: {}",
                missing.join(" ")
            );
        }
        text
    }

    /// The last line. `worked`: the time of all processors that was spent; `times`: each seed ran so often.
    pub(crate) fn line(&self, worked: Duration, times: u64) -> String {
        let simulated = self.simulated_ns as f64 / 1e9;
        format!(
            "sim: seeds={} simulated_days={:.3} speed={:.0}x operations={} violations={}",
            self.seeds,
            simulated / 86_400.0,
            simulated * times as f64 / worked.as_secs_f64().max(1e-9),
            self.operations,
            self.violations
        )
    }

    /// For a person who was not there, as Markdown.
    pub(crate) fn report(&self, head: &str, last: &str) -> String {
        let mut text = format!(
            "# Simulated groups\n\n{head}\n\n    {last}\n\n{} events, {} slots chosen.\n",
            self.events, self.chosen
        );
        text.push_str("\n## Faults that took place\n\n| what | times |\n|---|---:|\n");
        for (name, count) in self.faults.all() {
            let _ = writeln!(text, "| {} | {count} |", name.replace('_', " "));
        }
        text.push_str("\n## What was seen\n\n| what | times |\n|---|---:|\n");
        for (sight, count) in self.coverage.all() {
            let _ = writeln!(text, "| {sight:?} | {count} |");
        }
        for sight in self.coverage.missing() {
            let _ = writeln!(text, "| {sight:?} | **never** |");
        }
        text.push_str("\n## Violations\n\n");
        if self.failures.is_empty() {
            text.push_str("None.\n");
        }
        for failure in &self.failures {
            let _ = writeln!(text, "- {failure}");
        }
        text
    }
}
