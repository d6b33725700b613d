//! What the leader has found, as people and programs are told it: names only, never content.

use serde::{Deserialize, Serialize};

use synod_paxos::{MemberId, Slot};
use synod_proto::v1::DivergedCopies;

use crate::apply::divergence::{Comparers, Disagreement, Mark};

/// Entries of each list that are told, at most.
const TOLD: usize = 32;

/// Empty on all members but the leader.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Copies that differ and were not made anew yet.
    pub diverged: Vec<Diverged>,
    /// What differs on all copies.
    pub not_deterministic: Vec<Noise>,
    /// How a revision that runs along silently compares with the one that answers.
    pub along: Along,
}

/// How a revision of the app that runs along silently compares with the one that answers (rule V1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Along {
    /// Up to here both were compared, as far as they can be.
    pub compared: Slot,
    /// Where a request went otherwise first.
    pub disagreement: Option<Disagreement>,
    /// Requests that went alike, with another response.
    pub differences: u64,
}

/// Copies that answered a request differently.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Diverged {
    /// The first slot at which they do.
    pub slot: u64,
    /// Name of the request's route; empty: none matched.
    pub route: String,
    /// Names of the members whose copies differ from a majority; without one, of all that have answered.
    pub members: Vec<String>,
    /// The first part of the response that differs, in words.
    pub part: String,
    /// What is done about it: `Observe`, `Alert`, `Quarantine` or `Halt`; without a majority, `Tie`: a
    /// person decides which copies are made anew.
    pub measure: String,
}

/// A part of the responses of a route that differs on all copies: it is not compared any more.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Noise {
    /// Name of the route; empty: none matched.
    pub route: String,
    /// Which part, in words.
    pub part: String,
}

// === impl Found ===

impl Found {
    /// All that is known about the copies that answer, and how another revision compares with them.
    pub(super) fn of(comparers: &Comparers, name: impl Fn(MemberId) -> String) -> Self {
        let comparer = comparers.answering();
        let mut found = Self {
            along: Along {
                compared: comparers.compared(),
                disagreement: comparers.disagreement(),
                differences: comparers.differences(),
            },
            ..Self::default()
        };
        for (member, mark) in comparer.marks() {
            found.add(name(member), mark);
        }
        let noise = comparer.noise().iter().take(TOLD);
        found.not_deterministic = noise
            .map(|noise| Noise {
                route: noise.route.clone(),
                part: noise.part.to_string(),
            })
            .collect();
        found
    }

    fn add(&mut self, member: String, mark: &Mark) {
        let measure = match mark.tie {
            Some(_) => "Tie".to_owned(),
            None => format!("{:?}", mark.measure),
        };
        let mut told = self.diverged.iter_mut();
        let same = told.find(|it| it.slot == mark.slot.0 && it.measure == measure);
        if let Some(same) = same {
            same.members.push(member);
        } else if self.diverged.len() < TOLD {
            self.diverged.push(Diverged {
                slot: mark.slot.0,
                route: mark.route.clone(),
                members: vec![member],
                part: mark.part.to_string(),
                measure,
            });
        }
    }
}

impl From<Diverged> for DivergedCopies {
    fn from(it: Diverged) -> Self {
        Self {
            slot: it.slot,
            route: it.route,
            members: it.members,
            part: it.part,
            measure: it.measure,
        }
    }
}
