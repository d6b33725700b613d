//! The black-box check: is there an order of the operations, within their times, that explains all
//! answers? Trusts no slot.
//!
//! The search of Wing and Gong ("Testing and verifying concurrent objects", 1993) with Lowe's memory
//! of configurations already seen ("Testing for linearizability", 2017), as in Knossos and
//! Porcupine. Linearizability is local (Herlihy and Wing 1990, theorem 1), so each key is searched
//! by itself. An operation of unknown outcome has no end: it may be put anywhere after its
//! invocation, or left out.

use std::collections::HashSet;

use crate::model::State;
use crate::{History, Malformed, Operation};

/// How many configurations may be looked at for one key before the check gives up, saying so.
const LIMIT_PER_KEY: usize = 4_000_000;

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
        summary.answered += search.answers;
        summary.unknown += operations.len() - search.answers;
        summary.configurations += search.configurations;
        summary.longest = summary.longest.max(operations.len());
    }
    Ok(summary)
}

fn list(operations: &[Operation]) -> String {
    let lines: Vec<_> = operations.iter().map(ToString::to_string).collect();
    lines.join("\n  ")
}

/// Calls and returns of one key in order of time, as a doubly linked list from which operations are
/// lifted once they are explained.
struct Search<'a> {
    operations: &'a [&'a Operation],
    events: Vec<Event>,
    /// Where operation i's call and return stand.
    call: Vec<usize>,
    ret: Vec<Option<usize>>,
    answers: usize,
    configurations: usize,
}

#[derive(Clone, Copy)]
struct Event {
    operation: usize,
    is_call: bool,
    previous: usize,
    next: usize,
}

/// The list's two ends: sentinels, never lifted.
const HEAD: usize = 0;
const TAIL: usize = 1;

impl<'a> Search<'a> {
    fn new(operations: &'a [&'a Operation]) -> Self {
        let mut order = Vec::with_capacity(2 * operations.len());
        for (index, op) in operations.iter().enumerate() {
            // A call at the very moment of a return counts as concurrent: calls come first.
            order.push((op.invoke_ns, 0, index));
            if op.observed().is_some() {
                order.push((op.complete_ns, 1, index));
            }
        }
        order.sort_unstable();

        let sentinel = Event {
            operation: usize::MAX,
            is_call: false,
            previous: HEAD,
            next: TAIL,
        };
        let mut events = vec![sentinel; 2];
        let mut call = vec![0; operations.len()];
        let mut ret = vec![None; operations.len()];
        let mut last = HEAD;
        for (_, side, operation) in order {
            let at = events.len();
            if side == 0 {
                call[operation] = at;
            } else {
                ret[operation] = Some(at);
            }
            events.push(Event {
                operation,
                is_call: side == 0,
                previous: last,
                next: TAIL,
            });
            events[last].next = at;
            last = at;
        }
        events[TAIL].previous = last;
        let answers = ret.iter().flatten().count();
        Self {
            operations,
            events,
            call,
            ret,
            answers,
            configurations: 0,
        }
    }

    fn run(&mut self, key: &str) -> Result<(), Failure> {
        let mut state = State::default();
        let mut explained = vec![0_u64; self.operations.len().div_ceil(64)];
        let mut seen = HashSet::new();
        let mut path: Vec<(usize, State)> = Vec::new();
        let mut answers_left = self.answers;
        let mut best: Option<(usize, Vec<Operation>)> = None;
        let mut at = self.events[HEAD].next;

        while answers_left > 0 {
            // With answers left, a return stands before the tail and stops the walk.
            assert_ne!(at, TAIL, "an unexplained answer has a return in the list");
            let event = self.events[at];
            if event.is_call {
                let operation = event.operation;
                let op = self.operations[operation];
                let next = state.after(op.action);
                let fits = op.observed().is_none_or(|observed| next.explains(observed));
                if fits {
                    explained[operation / 64] |= 1 << (operation % 64);
                    if seen.insert((explained.clone(), next)) {
                        self.configurations += 1;
                        if self.configurations > LIMIT_PER_KEY {
                            return Err(Failure::Undecided {
                                key: key.to_owned(),
                                configurations: self.configurations,
                            });
                        }
                        path.push((operation, state));
                        state = next;
                        self.lift(operation);
                        answers_left -= usize::from(op.observed().is_some());
                        at = self.events[HEAD].next;
                        continue;
                    }
                    explained[operation / 64] &= !(1 << (operation % 64));
                }
                at = event.next;
                continue;
            }

            // This answer had to be explained before its return, and nothing before it helps.
            let done = self.answers - answers_left;
            if best.as_ref().is_none_or(|(most, _)| done > *most) {
                best = Some((done, self.candidates(at)));
            }
            let Some((operation, before)) = path.pop() else {
                let (explained, stuck) = best.expect("set above");
                return Err(Failure::NotLinearizable {
                    key: key.to_owned(),
                    explained,
                    total: self.answers,
                    stuck,
                });
            };
            state = before;
            explained[operation / 64] &= !(1 << (operation % 64));
            answers_left += usize::from(self.operations[operation].observed().is_some());
            self.unlift(operation);
            at = self.events[self.call[operation]].next;
        }
        Ok(())
    }

    /// What was tried in vain before the return at `end`.
    fn candidates(&self, end: usize) -> Vec<Operation> {
        let mut found = Vec::new();
        let mut at = self.events[HEAD].next;
        while at != end {
            found.push(self.operations[self.events[at].operation].clone());
            at = self.events[at].next;
        }
        found
    }

    fn lift(&mut self, operation: usize) {
        self.unlink(self.call[operation]);
        if let Some(at) = self.ret[operation] {
            self.unlink(at);
        }
    }

    /// The exact reverse of [`Self::lift`], in reverse order (Knuth's dancing links).
    fn unlift(&mut self, operation: usize) {
        if let Some(at) = self.ret[operation] {
            self.relink(at);
        }
        self.relink(self.call[operation]);
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
