//! Mutants: bugs of the protocol, one line each, planted in the production code on purpose. The simulator
//! and the scenario scripts have to find every one of them: a check that sees nothing then proves nothing.
//! [`planted`] stands where each would be; without the feature `enabled` it is `false`, at compile time,
//! and so it is in every program that is shipped.
//!
//! Why not mutate the source by a program: of such mutants most are no bugs, or are no program; and nobody
//! says which rule each breaks. Here each rule that guards safety has at least one.

mod mutants;
#[cfg(feature = "enabled")]
mod selected;

pub use mutants::Mutant;
#[cfg(feature = "enabled")]
pub use selected::{planted, select};

/// Whether this bug is in the code.
#[cfg(not(feature = "enabled"))]
#[inline]
pub const fn planted(_: Mutant) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// The rules that guard safety, as far as they are decided by what the simulator and the scripts run.
    /// How old a read may be (R7) is decided by the entrance; leases, fences, early learning and quorum
    /// reads (R2 to R5) are not there yet.
    const RULES: &str = "P1 P1a P1b P4 P6 P7 P8 L1 L1a L1b L2 L3 L4 R1 R1a R6 M1 M4 M5 M6 W1 W2 W3 \
                         A1 A2 A4 X1 X2 X3 K1 K2 N2 V1 ledger";

    #[test]
    fn each_rule_that_guards_safety_has_a_mutant() {
        let broken: BTreeSet<&str> = Mutant::ALL.iter().map(|it| it.rule()).collect();
        let rules: Vec<&str> = RULES.split_whitespace().collect();
        let whole: Vec<&&str> = rules.iter().filter(|it| !broken.contains(**it)).collect();
        assert_eq!(whole, Vec::<&&str>::new(), "no mutant breaks these");
    }

    #[test]
    fn names_are_told_apart_and_lead_back() {
        let names: BTreeSet<&str> = Mutant::ALL.iter().map(|it| it.name()).collect();
        assert_eq!(names.len(), Mutant::ALL.len());
        for mutant in Mutant::ALL {
            assert_eq!(Mutant::named(mutant.name()), Some(*mutant));
            let letters = mutant.name().bytes();
            let may = |it: u8| it.is_ascii_lowercase() || it.is_ascii_digit() || it == b'-';
            assert!(letters.clone().all(may), "{}", mutant.name());
            assert!(mutant.breaks().len() > 10, "{}", mutant.name());
        }
        assert_eq!(Mutant::named("none"), None);
    }

    #[test]
    fn nothing_is_planted_unless_it_is_selected() {
        assert!(!Mutant::ALL.iter().any(|it| planted(*it)));
    }
}
