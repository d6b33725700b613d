//! The black-box check: is there an order of the operations, within their times, that explains all
//! answers? Trusts no slot.
//!
//! The search of Wing and Gong ("Testing and verifying concurrent objects", 1993) with Lowe's memory
//! of configurations already seen ("Testing for linearizability", 2017), as in Knossos and
//! Porcupine. Linearizability is local (Herlihy and Wing 1990, theorem 1), so each key is searched
//! by itself. An operation of unknown outcome has no end: it may be put anywhere after its
//! invocation, or left out.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashSet};
use std::mem::size_of_val;

use crate::model::{Shown, State};
use crate::{History, Malformed, Operation};

/// How much may be remembered of one key, in bytes, before the check gives up, saying so.
const LIMIT_PER_KEY: usize = 1 << 30;

/// What a check that found nothing wrong has looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Keys.
    pub keys: usize,
    /// Operations with a known answer.
    pub answered: usize,
    /// Writes of unknown outcome.
    pub unknown: usize,
    /// Configurations looked at, a measure of the effort.
    pub configurations: usize,
    /// Most operations on one key.
    pub longest: usize,
}

/// Why a history does not pass.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// It is not a history.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// There is no explanation.
    #[error(
        "key {key} is not linearizable: {explained} of its {total} answers can be explained, but \
         none of these next:\n  {}", list(.stuck)
    )]
    NotLinearizable {
        /// Where.
        key: String,
        /// Length of the longest explanation found.
        explained: usize,
        /// Number of answers on this key.
        total: usize,
        /// What could not be explained after it, at that point.
        stuck: Vec<Operation>,
    },
    /// The search was given up: nothing is known, and the run counts as invalid.
    #[error("key {key}: no decision after {configurations} configurations; spread over more keys")]
    Undecided {
        /// Where.
        key: String,
        /// Configurations looked at.
        configurations: usize,
    },
}

/// Checks every key of `history`.
pub fn check(history: &History) -> Result<Summary, Failure> {
    history.validate()?;
    let mut summary = Summary::default();
    for (key, operations) in history.by_key() {
        let mut search = Search::new(&operations);
        search.run(key)?;
        summary.keys += 1;
        summary.answered += search.answered.len();
        summary.unknown += search.unknown.len();
        summary.configurations += search.configurations;
        summary.longest = summary.longest.max(operations.len());
    }
    Ok(summary)
}

fn list(operations: &[Operation]) -> String {
    let lines: Vec<_> = operations.iter().map(ToString::to_string).collect();
    lines.join("\n  ")
}

/// One key's operations. Calls and returns of those that were answered are in order of time, as a doubly
/// linked list from which operations are lifted once they are explained; writes of unknown outcome
/// stand aside, and one is put in only where no answer fits.
struct Search<'a> {
    answered: Vec<&'a Operation>,
    unknown: Vec<&'a Operation>,
    shown: Shown,
    events: Vec<Event>,
    /// Where the call and the return of each that was answered stand.
    at: Vec<[usize; 2]>,
    /// Versions that the answers which are not explained yet tell, with their number: none is reached
    /// any more by a state beyond it.
    versions: BTreeMap<u64, usize>,
    explained: Explained,
    configurations: usize,
}

#[derive(Clone, Copy)]
struct Event {
    operation: usize,
    is_call: bool,
    previous: usize,
    next: usize,
}

/// Which operations took effect, as bits.
struct Explained {
    answered: Vec<u64>,
    unknown: Vec<u64>,
    /// Words of `answered` before this one are full.
    full: usize,
}

/// What was put in, so far.
#[derive(Clone, Copy)]
enum Step {
    Answered(usize),
    Unknown(usize),
}

/// Where the search looks for the next step.
#[derive(Clone, Copy)]
enum Look {
    /// From this event on, to the first return.
    At(usize),
    /// Among the writes of unknown outcome, from this one on.
    Unknown(usize),
}

/// The list's two ends: sentinels, never lifted.
const HEAD: usize = 0;
const TAIL: usize = 1;

// === impl Search ===

impl<'a> Search<'a> {
    fn new(operations: &[&'a Operation]) -> Self {
        let (answered, mut unknown): (Vec<&Operation>, Vec<&Operation>) =
            operations.iter().partition(|op| op.observed().is_some());
        // A read of unknown outcome explains nothing.
        unknown.retain(|op| !op.action.is_read());
        let shown = Shown::by(&answered);
        unknown.sort_by_key(|op| (shown.class(op.action), op.invoke_ns));

        let mut order = Vec::with_capacity(2 * answered.len());
        for (index, op) in answered.iter().enumerate() {
            // A call at the very moment of a return counts as concurrent: calls come first.
            order.push((op.invoke_ns, 0, index));
            order.push((op.complete_ns, 1, index));
        }
        order.sort_unstable();
        let sentinel = Event {
            operation: usize::MAX,
            is_call: false,
            previous: HEAD,
            next: TAIL,
        };
        let mut events = vec![sentinel; 2];
        let mut at = vec![[HEAD; 2]; answered.len()];
        let mut last = HEAD;
        for (_, side, operation) in order {
            let here = events.len();
            at[operation][side] = here;
            events.push(Event {
                operation,
                is_call: side == 0,
                previous: last,
                next: TAIL,
            });
            events[last].next = here;
            last = here;
        }
        events[TAIL].previous = last;
        let mut versions = BTreeMap::new();
        for version in answered.iter().filter_map(|op| version(op)) {
            *versions.entry(version).or_default() += 1;
        }
        let explained = Explained {
            answered: vec![0; answered.len().div_ceil(64)],
            unknown: vec![0; unknown.len().div_ceil(64)],
            full: 0,
        };
        Self {
            answered,
            unknown,
            shown,
            events,
            at,
            versions,
            explained,
            configurations: 0,
        }
    }

    fn run(&mut self, key: &str) -> Result<(), Failure> {
        let mut state = State::default();
        let mut seen = HashSet::new();
        let mut bytes = 0;
        let mut path: Vec<(Step, State)> = Vec::new();
        let mut best: Option<(usize, Vec<Operation>)> = None;
        let mut done = 0;
        let mut look = Look::At(self.events[HEAD].next);

        while done < self.answered.len() {
            if let Some((step, next)) = self.next_step(look, state) {
                look = self.after(step);
                self.put(step);
                let identity = (self.explained.identity(), next);
                bytes += size_of_val(&identity) + size_of_val::<[u64]>(&identity.0);
                if !seen.insert(identity) {
                    self.take(step);
                    continue;
                }
                self.configurations += 1;
                if bytes > LIMIT_PER_KEY {
                    return Err(Failure::Undecided {
                        key: key.to_owned(),
                        configurations: self.configurations,
                    });
                }
                done += usize::from(matches!(step, Step::Answered(_)));
                path.push((step, state));
                state = next;
                look = Look::At(self.events[HEAD].next);
                continue;
            }
            // The first answer that is left had to be explained before its return, and nothing helps.
            if best.as_ref().is_none_or(|(most, _)| done > *most) {
                best = Some((done, self.candidates()));
            }
            let Some((step, before)) = path.pop() else {
                let (explained, stuck) = best.expect("set above");
                return Err(Failure::NotLinearizable {
                    key: key.to_owned(),
                    explained,
                    total: self.answered.len(),
                    stuck,
                });
            };
            state = before;
            done -= usize::from(matches!(step, Step::Answered(_)));
            self.take(step);
            look = self.after(step);
        }
        Ok(())
    }

    /// The first, from there on, that can take effect in this state, and the state after it.
    fn next_step(&self, look: Look, state: State) -> Option<(Step, State)> {
        let mut unknown = 0;
        match look {
            Look::At(mut at) => {
                while self.events[at].is_call {
                    let Event {
                        operation, next, ..
                    } = self.events[at];
                    let op = self.answered[operation];
                    let after = state.after(op.action);
                    if op.observed().is_none_or(|it| after.explains(it)) {
                        return Some((Step::Answered(operation), after));
                    }
                    at = next;
                }
            }
            Look::Unknown(first) => unknown = first,
        }
        let furthest = self.versions.keys().next();
        let end_ns = self.first_return_ns();
        (unknown..self.unknown.len()).find_map(|index| {
            let op = self.unknown[index];
            let after = state.after(op.action);
            let is_left = !self.explained.has_unknown(index) && self.is_next(index);
            let fits = furthest.is_none_or(|version| after.version() <= *version)
                && self.shown.allows(state, op.action);
            (is_left && fits && op.invoke_ns <= end_ns).then_some((Step::Unknown(index), after))
        })
    }

    /// Those that explain the same and began earlier are put in.
    fn is_next(&self, index: usize) -> bool {
        let class = |index: usize| self.shown.class(self.unknown[index].action);
        index == 0 || class(index - 1) != class(index) || self.explained.has_unknown(index - 1)
    }

    /// Where to go on when this step has led nowhere.
    fn after(&self, step: Step) -> Look {
        match step {
            Step::Answered(operation) => {
                let [call, _] = self.at[operation];
                Look::At(self.events[call].next)
            }
            Step::Unknown(index) => Look::Unknown(index + 1),
        }
    }

    /// When the first of the answers that are left was there.
    fn first_return_ns(&self) -> u64 {
        let mut at = self.events[HEAD].next;
        while self.events[at].is_call {
            at = self.events[at].next;
        }
        assert_ne!(at, TAIL, "an unexplained answer has a return in the list");
        self.answered[self.events[at].operation].complete_ns
    }

    /// What was tried in vain before the first return.
    fn candidates(&self) -> Vec<Operation> {
        let mut found = Vec::new();
        let mut at = self.events[HEAD].next;
        while self.events[at].is_call {
            found.push(self.answered[self.events[at].operation].clone());
            at = self.events[at].next;
        }
        found
    }

    fn put(&mut self, step: Step) {
        self.explained.flip(step);
        if let Step::Answered(operation) = step {
            let [call, ret] = self.at[operation];
            self.unlink(call);
            self.unlink(ret);
            if let Some(version) = version(self.answered[operation])
                && let Entry::Occupied(mut left) = self.versions.entry(version)
            {
                *left.get_mut() -= 1;
                if *left.get() == 0 {
                    left.remove();
                }
            }
        }
    }

    /// The exact reverse of [`Self::put`], in reverse order (Knuth's dancing links).
    fn take(&mut self, step: Step) {
        self.explained.flip(step);
        if let Step::Answered(operation) = step {
            let [call, ret] = self.at[operation];
            self.relink(ret);
            self.relink(call);
            if let Some(version) = version(self.answered[operation]) {
                *self.versions.entry(version).or_default() += 1;
            }
        }
    }

    fn unlink(&mut self, at: usize) {
        let Event { previous, next, .. } = self.events[at];
        self.events[previous].next = next;
        self.events[next].previous = previous;
    }

    fn relink(&mut self, at: usize) {
        let Event { previous, next, .. } = self.events[at];
        self.events[previous].next = at;
        self.events[next].previous = at;
    }
}

fn version(op: &Operation) -> Option<u64> {
    op.observed().and_then(|observed| observed.version)
}

// === impl Explained ===

impl Explained {
    fn flip(&mut self, step: Step) {
        match step {
            Step::Answered(index) => {
                self.answered[index / 64] ^= 1 << (index % 64);
                self.full = self.full.min(index / 64);
                while self.answered.get(self.full) == Some(&u64::MAX) {
                    self.full += 1;
                }
            }
            Step::Unknown(index) => self.unknown[index / 64] ^= 1 << (index % 64),
        }
    }

    fn has_unknown(&self, index: usize) -> bool {
        self.unknown[index / 64] & (1 << (index % 64)) != 0
    }

    /// Differs where the sets differ. Short, where what was answered earlier is explained earlier.
    fn identity(&self) -> Box<[u64]> {
        let rest = &self.answered[self.full..];
        let end = rest.iter().rposition(|word| *word != 0);
        let rest = &rest[..end.map_or(0, |last| last + 1)];
        let full = [self.full as u64];
        [&full, self.unknown.as_slice(), rest].concat().into()
    }
}
