//! Figures of several rounds as one table: medians, and ratios to the candidate that anchors.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::load::Figures;

/// All that was measured, by table, row and candidate.
#[derive(Default)]
pub(crate) struct Report {
    tables: Vec<Table>,
}

/// One question, such as "ordered writes".
struct Table {
    title: String,
    /// The candidate that ratios are taken to.
    anchor: String,
    candidates: Vec<String>,
    /// By connections, then candidate: one per round.
    rows: BTreeMap<usize, BTreeMap<String, Vec<Figures>>>,
}

// === impl Report ===

impl Report {
    /// Adds what one round measured.
    pub(crate) fn add(
        &mut self,
        title: &str,
        anchor: &str,
        candidate: &str,
        connections: usize,
        figures: Figures,
    ) {
        let index = self
            .tables
            .iter()
            .position(|table| table.title == title)
            .unwrap_or_else(|| {
                self.tables.push(Table {
                    title: title.to_owned(),
                    anchor: anchor.to_owned(),
                    candidates: Vec::new(),
                    rows: BTreeMap::new(),
                });
                self.tables.len() - 1
            });
        let table = &mut self.tables[index];
        if !table.candidates.iter().any(|known| known == candidate) {
            table.candidates.push(candidate.to_owned());
        }
        table
            .rows
            .entry(connections)
            .or_default()
            .entry(candidate.to_owned())
            .or_default()
            .push(figures);
    }

    /// The tables in Markdown.
    pub(crate) fn markdown(&self) -> String {
        let mut text = String::new();
        for table in &self.tables {
            table.write(&mut text).expect("a string takes any text");
        }
        text
    }
}

// === impl Table ===

impl Table {
    fn write(&self, text: &mut String) -> std::fmt::Result {
        writeln!(text, "### {}\n", self.title)?;
        writeln!(
            text,
            "| connections | candidate | requests/s | p50 | p99 | rate / {anchor} | p50 / {anchor} |",
            anchor = self.anchor
        )?;
        writeln!(text, "|--:|---|--:|--:|--:|--:|--:|")?;
        for (connections, row) in &self.rows {
            let anchor = row.get(&self.anchor).map(|rounds| median(rounds));
            for candidate in &self.candidates {
                let Some(rounds) = row.get(candidate) else {
                    continue;
                };
                let figures = median(rounds);
                let (rate, latency) = anchor.as_ref().map_or_else(
                    || (String::from("-"), String::from("-")),
                    |anchor| {
                        (
                            format!("{:.2}", figures.rate / anchor.rate),
                            format!("{:.2}", figures.p50_us as f64 / anchor.p50_us as f64),
                        )
                    },
                );
                writeln!(
                    text,
                    "| {connections} | {candidate} | {:.0} | {} us | {} us | {rate} | {latency} |",
                    figures.rate, figures.p50_us, figures.p99_us
                )?;
            }
        }
        writeln!(text)
    }
}

/// The median of each figure by itself, over the rounds.
fn median(rounds: &[Figures]) -> Figures {
    let middle = rounds.len() / 2;
    let mut rates: Vec<f64> = rounds.iter().map(|figures| figures.rate).collect();
    rates.sort_by(f64::total_cmp);
    let pick = |of: fn(&Figures) -> u64| {
        let mut values: Vec<u64> = rounds.iter().map(of).collect();
        values.sort_unstable();
        values[middle]
    };
    Figures {
        rate: rates[middle],
        p50_us: pick(|figures| figures.p50_us),
        p99_us: pick(|figures| figures.p99_us),
    }
}
