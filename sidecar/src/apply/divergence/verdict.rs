//! What the comparison says, and by what it judges.

use std::collections::BTreeSet;

use synod_paxos::{MemberId, Slot};

use crate::apply::digests::Part;

/// What is to be done about the odd one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnDivergence {
    /// It is told; a trial.
    Observe,
    /// A person is called.
    Alert,
    /// It is taken out and made anew.
    #[default]
    Quarantine,
    /// The service stops.
    Halt,
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A majority agrees, and this copy does not. Told once, until it is made anew, and once more if
    /// another measure is taken later.
    OddOneOut {
        /// The first slot at which it differs.
        slot: Slot,
        /// Name of the request's route.
        route: String,
        /// Whose copy it is.
        member: MemberId,
        /// The first part of the response that differs.
        part: Part,
        /// What is to be done.
        measure: OnDivergence,
    },
    /// The copies differ and no majority agrees: nobody is taken out, a person decides which of them
    /// is made anew. Told once, until those that are left agree.
    NoMajority {
        /// Whose copies have answered.
        members: BTreeSet<MemberId>,
        /// The slot.
        slot: Slot,
        /// Name of the request's route.
        route: String,
        /// The first part of the response that differs between any two.
        part: Part,
        /// No two copies agree.
        all_differ: bool,
    },
    /// This part differs on all copies: it is noise from now on, for this route. Told once.
    NotDeterministic {
        /// Where it was seen.
        slot: Slot,
        /// Name of the request's route.
        route: String,
        /// What differs.
        part: Part,
    },
}

/// What was found about a copy: nobody vouches for it from this slot on, until it is made anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The first slot at which it differs.
    pub slot: Slot,
    /// Name of the request's route.
    pub route: String,
    /// The first part of the response that differs.
    pub part: Part,
    /// What is done about it.
    pub measure: OnDivergence,
    /// No majority agreed: it may be others that went astray. Copies of the same number have answered
    /// alike.
    pub tie: Option<u32>,
}

/// By which the copies are judged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// What is done about the odd one.
    pub on_divergence: OnDivergence,
    /// Names of fields, in lower case, that may differ.
    pub ignored: BTreeSet<String>,
}

// === impl Mark ===

impl Mark {
    /// All that the ledger still knows.
    pub(in crate::apply) fn of_an_earlier_life(slot: Slot) -> Self {
        Self {
            slot,
            route: String::new(),
            part: Part::Unknown,
            measure: OnDivergence::Observe,
            tie: None,
        }
    }

    /// A majority differs from this copy, for all that is known.
    pub(super) fn is_odd(&self) -> bool {
        self.tie.is_none() && self.part != Part::Unknown
    }
}
