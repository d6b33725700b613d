//! For each mutant a seed of the simulator that is known to find it, so that not all are tried each time: the
//! file `hints.txt`, which `--write` writes.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use synod_mutant::Mutant;

const HEAD: &str = "\
# A seed of the simulator that finds each mutant; -: none of those that were tried does.
# Written by `tests/run mutants -- --write`.
";

/// What is known of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hint {
    /// This seed finds it.
    Seed(u64),
    /// None that was tried does.
    None,
}

/// What is known of all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hints(BTreeMap<&'static str, Hint>);

// === impl Hints ===

impl Hints {
    /// Reads the file. A line that says nothing about a mutant there is, is passed over: it is written anew.
    pub fn parse(text: &str) -> Self {
        let lines = text.lines().filter_map(|line| {
            let (name, seed) = line.split_once(' ')?;
            let mutant = Mutant::named(name)?;
            let hint = match seed {
                "-" => Hint::None,
                seed => Hint::Seed(seed.parse().ok()?),
            };
            Some((mutant.name(), hint))
        });
        Self(lines.collect())
    }

    /// What is known of this one.
    pub fn of(&self, mutant: Mutant) -> Option<Hint> {
        self.0.get(mutant.name()).copied()
    }

    /// It was found out.
    pub fn note(&mut self, mutant: Mutant, hint: Hint) {
        self.0.insert(mutant.name(), hint);
    }

    /// All seeds, each once.
    pub fn seeds(&self) -> Vec<u64> {
        let mut seeds: Vec<u64> = self
            .0
            .values()
            .filter_map(|hint| match hint {
                Hint::Seed(seed) => Some(*seed),
                Hint::None => None,
            })
            .collect();
        seeds.sort_unstable();
        seeds.dedup();
        seeds
    }

    /// The file, in the order of the table.
    pub fn text(&self) -> String {
        let mut text = HEAD.to_owned();
        for mutant in Mutant::ALL {
            let name = mutant.name();
            let _ = match self.0.get(name) {
                Some(Hint::Seed(seed)) => writeln!(text, "{name} {seed}"),
                Some(Hint::None) => writeln!(text, "{name} -"),
                None => Ok(()),
            };
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read() {
        let mut hints = Hints::default();
        hints.note(Mutant::ALL[2], Hint::Seed(5));
        hints.note(Mutant::ALL[0], Hint::None);
        hints.note(Mutant::ALL[1], Hint::Seed(5));
        assert_eq!(Hints::parse(&hints.text()), hints);
        assert_eq!(hints.seeds(), [5]);
        let more = format!(
            "{}gone-by-now 7\n{} x\n",
            hints.text(),
            Mutant::ALL[3].name()
        );
        assert_eq!(Hints::parse(&more), hints);
    }

    #[test]
    fn the_file_is_as_it_is_written_and_tells_of_every_mutant() {
        let text = include_str!("../hints.txt");
        let hints = Hints::parse(text);
        assert_eq!(hints.text(), text);
        let unknown = Mutant::ALL.iter().filter(|it| hints.of(**it).is_none());
        let unknown: Vec<&str> = unknown.map(|it| it.name()).collect();
        assert!(
            unknown.is_empty(),
            "tests/run mutants -- --write: {unknown:?}"
        );
    }
}
