//! What a scenario found out, for people and for later.

use std::fmt::Write as _;

use serde::Serialize;

/// Measured times, in milliseconds.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Distribution {
    sorted_ms: Vec<f64>,
}

impl Distribution {
    /// Of these.
    pub fn new(mut milliseconds: Vec<f64>) -> Self {
        milliseconds.sort_by(f64::total_cmp);
        Self {
            sorted_ms: milliseconds,
        }
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.sorted_ms.len()
    }

    /// There are none.
    pub fn is_empty(&self) -> bool {
        self.sorted_ms.is_empty()
    }

    /// The value below or at which that share of them is.
    pub fn quantile(&self, share: f64) -> f64 {
        let last = self.len().saturating_sub(1);
        let place = (share * last as f64).ceil() as usize;
        self.sorted_ms.get(place.min(last)).copied().unwrap_or(0.0)
    }

    /// The largest.
    pub fn max(&self) -> f64 {
        self.quantile(1.0)
    }
}

impl std::fmt::Display for Distribution {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (p50, p90, max) = (self.quantile(0.5), self.quantile(0.9), self.max());
        write!(
            f,
            "p50 {p50:.0} ms, p90 {p90:.0} ms, max {max:.0} ms (n = {})",
            self.len()
        )
    }
}

/// Lines that a scenario prints, whether it passes or not.
#[derive(Clone, Debug, Default)]
pub struct Report {
    text: String,
    problems: Vec<String>,
}

impl Report {
    /// A fact.
    pub fn say(&mut self, line: impl std::fmt::Display) {
        for line in line.to_string().lines() {
            let _ = writeln!(self.text, "    {line}");
        }
    }

    /// What makes the scenario fail; it goes on, to find more.
    pub fn fail(&mut self, problem: impl std::fmt::Display) {
        self.problems.push(problem.to_string());
    }

    /// Fails unless `condition` holds.
    pub fn expect(&mut self, condition: bool, problem: impl std::fmt::Display) {
        if !condition {
            self.fail(problem);
        }
    }

    /// All facts.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// All problems.
    pub fn problems(&self) -> &[String] {
        &self.problems
    }
}
