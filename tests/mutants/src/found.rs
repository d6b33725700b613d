//! What was found about a mutant, and how it is told.

use std::fmt;

use synod_mutant::Mutant;

use crate::said::Said;

/// A check that found it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// A script or a seed.
    pub at: String,
    /// What broke there.
    pub what: What,
    /// Events of the simulator up to then; 0 for scripts.
    pub events: u64,
}

/// What broke.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// What a script claims.
    Claim,
    /// What a script says that happens.
    Output,
    /// An invariant of the simulator.
    Invariant(String),
    /// What the production code asserts.
    Assertion(String),
}

/// What is known about one mutant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Which.
    pub mutant: Mutant,
    /// By which scripts.
    pub scripts: Vec<Check>,
    /// By which seed.
    pub seed: Option<Check>,
    /// Seeds that ran to their end and found nothing.
    pub clean_seeds: u64,
    /// This script or seed came to no end.
    pub endless: Option<String>,
}

// === impl Check ===

impl Check {
    /// What was said about a script or a seed, if something broke there.
    pub fn of(at: &str, said: &Said) -> Option<Self> {
        let (what, events) = match said {
            Said::Claim(_) => (What::Claim, 0),
            Said::Differs => (What::Output, 0),
            Said::Broke(events, invariant) => (What::Invariant(invariant.clone()), *events),
            Said::Panicked(events, text) => (What::Assertion(text.clone()), *events),
            Said::Script(_) | Said::Seed(_) | Said::Clean(_) => return None,
        };
        let at = at.to_owned();
        Some(Self { at, what, events })
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Claim => f.write_str("a claim"),
            Self::Output => f.write_str("its output"),
            Self::Invariant(name) => f.write_str(name),
            Self::Assertion(text) => write!(f, "the assertion \"{text}\""),
        }
    }
}

// === impl Found ===

impl Found {
    /// Nothing yet.
    pub fn nothing(mutant: Mutant) -> Self {
        Self {
            mutant,
            scripts: Vec::new(),
            seed: None,
            clean_seeds: 0,
            endless: None,
        }
    }

    /// Some check has found it. (One that never ends breaks no check.)
    pub fn is_killed(&self) -> bool {
        !self.scripts.is_empty() || self.seed.is_some()
    }

    /// The script that says most: one whose claim does not hold before one that only differs.
    fn first_script(&self) -> Option<&Check> {
        let claims = self.scripts.iter().find(|it| it.what != What::Output);
        claims.or(self.scripts.first())
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = if self.is_killed() { "killed" } else { "ALIVE " };
        let (rule, name) = (self.mutant.rule(), self.mutant.name());
        write!(f, "{state} {rule:<6} {name}: ")?;
        match &self.seed {
            Some(Check { at, what, events }) => {
                write!(f, "seed {at} by {what} after {events} events")?;
            }
            None if self.clean_seeds == 0 => f.write_str("no seed")?,
            None => write!(f, "no seed of {}", self.clean_seeds)?,
        }
        match self.first_script() {
            Some(Check { at, what, .. }) => {
                let count = self.scripts.len();
                let plural = if count == 1 { "" } else { "s" };
                write!(f, "; {count} script{plural}, such as {at} by {what}")?;
            }
            None => write!(f, "; no script")?,
        }
        if let Some(endless) = &self.endless {
            write!(f, "; {endless} comes to no end")?;
        }
        Ok(())
    }
}

/// The last line of all.
pub fn last_line(all: &[Found]) -> String {
    let killed = all.iter().filter(|it| it.is_killed()).count();
    format!("mutants: killed={killed}/{}", all.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(scripts: &[Said], seed: Option<Said>) -> Found {
        let scripts = scripts.iter();
        Found {
            scripts: scripts.filter_map(|it| Check::of("a/b", it)).collect(),
            seed: seed.and_then(|it| Check::of("7", &it)),
            clean_seeds: 3,
            ..Found::nothing(Mutant::ALL[0])
        }
    }

    #[test]
    fn one_check_is_enough_and_an_end_that_never_comes_is_none() {
        assert!(!found(&[], None).is_killed());
        assert!(!found(&[Said::Clean(0)], Some(Said::Clean(9))).is_killed());
        assert!(found(&[Said::Differs], None).is_killed());
        assert!(found(&[], Some(Said::Broke(9, "I4".to_owned()))).is_killed());
        assert!(found(&[], Some(Said::Panicked(9, "no".to_owned()))).is_killed());
        let endless = Found {
            endless: Some("seed 5".to_owned()),
            ..found(&[], None)
        };
        assert!(!endless.is_killed());
        assert!(endless.to_string().starts_with("ALIVE "));
        assert!(endless.to_string().ends_with("seed 5 comes to no end"));
    }

    #[test]
    fn a_line_names_both_and_the_claim_before_the_output() {
        let claim = Said::Claim("line 3".to_owned());
        let both = found(
            &[Said::Differs, claim],
            Some(Said::Broke(9, "I4".to_owned())),
        );
        let line = both.to_string();
        assert!(
            line.ends_with(": seed 7 by I4 after 9 events; 2 scripts, such as a/b by a claim"),
            "{line}"
        );
        let line = found(&[Said::Differs], None).to_string();
        assert!(
            line.ends_with(": no seed of 3; 1 script, such as a/b by its output"),
            "{line}"
        );
    }

    #[test]
    fn the_last_line_counts() {
        let all = [found(&[Said::Differs], None), found(&[], None)];
        assert_eq!(last_line(&all), "mutants: killed=1/2");
        assert_eq!(last_line(&[]), "mutants: killed=0/0");
    }
}
