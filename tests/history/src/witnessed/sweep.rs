//! One key, slot by slot: known writes are applied where they say they are, reads are explained as
//! early as they can be, and where that fails, writes of unknown outcome are tried in between.

use std::collections::{HashMap, HashSet};

use crate::model::{Shown, State};
use crate::{Operation, Outcome};

/// How many steps may be taken for one key before the sweep gives up.
const LIMIT_STEPS: usize = 4_000_000;

/// Why a key has no explanation.
pub(super) enum Stuck<'a> {
    /// The furthest answer reached.
    At(&'a Operation),
    /// The limit was reached.
    Undecided,
}

/// A known write, or a read from its lowest slot on.
#[derive(Clone, Copy)]
struct Event {
    slot: u64,
    operation: usize,
}

/// A state of the search.
#[derive(Clone)]
struct Node {
    /// Events before this one are done.
    event: usize,
    /// The slot that `state` is at.
    slot: u64,
    state: State,
    /// Writes of unknown outcome that took effect, as indices into `unknown`.
    used: Vec<usize>,
    /// Reads that have begun to be possible and are not explained yet.
    pending: Vec<usize>,
    /// Where each read was explained, if no outcome is unknown: (operation, slot).
    explained_at: Vec<(usize, u64)>,
}

/// A place on the way where writes of unknown outcome may have taken effect: those from `next` on were
/// not tried yet.
struct Choice {
    node: Node,
    next: usize,
}

/// What is compared to know whether a node was seen before: `explained_at` follows from the way there.
type Identity = (usize, u64, State, Vec<usize>, Vec<usize>);

struct Sweep<'a> {
    operations: &'a [&'a Operation],
    events: Vec<Event>,
    unknown: Vec<usize>,
    shown: Shown,
    floors: &'a HashMap<u64, u64>,
    ceilings: &'a HashMap<u64, u64>,
}

/// Explains one key's `operations`. Returns, by id, the lowest slot that each read can have read;
/// nothing on a key with writes of unknown outcome, whose slots are this sweep's guess.
pub(super) fn run<'a>(
    operations: &'a [&'a Operation],
    floors: &'a HashMap<u64, u64>,
    ceilings: &'a HashMap<u64, u64>,
) -> Result<Vec<(u64, u64)>, Stuck<'a>> {
    let mut events = Vec::new();
    let mut unknown = Vec::new();
    for (operation, op) in operations.iter().enumerate() {
        if op.outcome == Outcome::Unknown {
            unknown.push(operation);
        } else {
            let low = super::slots(op).0;
            let read = op.action.is_read();
            let slot = if read { low.max(floors[&op.id]) } else { low };
            events.push(Event { slot, operation });
        }
    }
    // A read at a slot sees the write at that slot.
    events.sort_by_key(|event| {
        let op = operations[event.operation];
        (event.slot, op.action.is_read(), op.invoke_ns)
    });
    let shown = Shown::by(operations);
    unknown.sort_by_key(|&write| {
        let op = operations[write];
        (shown.class(op.action), op.invoke_ns)
    });
    let sweep = Sweep {
        operations,
        events,
        unknown,
        shown,
        floors,
        ceilings,
    };
    sweep.search()
}

// === impl Node ===

impl Node {
    fn identity(&self) -> Identity {
        let (used, pending) = (self.used.clone(), self.pending.clone());
        (self.event, self.slot, self.state, used, pending)
    }
}

// === impl Sweep ===

impl<'a> Sweep<'a> {
    fn search(&self) -> Result<Vec<(u64, u64)>, Stuck<'a>> {
        let mut node = Node {
            event: 0,
            slot: 0,
            state: State::default(),
            used: Vec::new(),
            pending: Vec::new(),
            explained_at: Vec::new(),
        };
        let mut choices = Vec::new();
        let mut seen = HashSet::new();
        let mut furthest: Option<(usize, &Operation)> = None;
        let mut steps = 0;
        loop {
            // As far as it goes without a write of unknown outcome.
            while self.unknown.is_empty() || seen.insert(node.identity()) {
                steps += 1;
                if !self.unknown.is_empty() {
                    let node = node.clone();
                    choices.push(Choice { node, next: 0 });
                }
                let reached = node.event;
                match self.step(&mut node) {
                    Ok(true) => {
                        let ids = node.explained_at.iter();
                        return Ok(ids
                            .map(|&(op, slot)| (self.operations[op].id, slot))
                            .collect());
                    }
                    Ok(false) => {}
                    Err(operation) => {
                        let op = self.operations[operation];
                        if furthest.is_none_or(|(most, _)| reached > most) {
                            furthest = Some((reached, op));
                        }
                        break;
                    }
                }
            }
            // The last resort: one of these took effect, as near to the failure as can be.
            node = loop {
                steps += 1;
                if steps > LIMIT_STEPS {
                    return Err(Stuck::Undecided);
                }
                let Some(choice) = choices.last_mut() else {
                    let (_, operation) = furthest.expect("nothing is tried before a failure");
                    return Err(Stuck::At(operation));
                };
                if choice.next == self.unknown.len() {
                    choices.pop();
                    continue;
                }
                choice.next += 1;
                if let Some(next) = self.insert(&choice.node, choice.next - 1) {
                    break next;
                }
            };
        }
    }

    /// Takes the next event. `Ok(true)`: all is explained. `Err`: this answer cannot be.
    fn step(&self, node: &mut Node) -> Result<bool, usize> {
        let Some(event) = self.events.get(node.event).copied() else {
            return node.pending.first().map_or(Ok(true), |&read| Err(read));
        };
        self.expire(node, event.slot)?;
        let op = self.operations[event.operation];
        node.slot = event.slot;
        node.event += 1;
        if op.action.is_read() {
            node.pending.push(event.operation);
        } else {
            node.state = node.state.after(op.action);
            let observed = op.observed().expect("known writes were answered");
            if !node.state.explains(observed) {
                return Err(event.operation);
            }
        }
        self.explain(node);
        self.passed(node).map_or(Ok(false), Err)
    }

    /// A read that saw fewer writes than there are by now.
    fn passed(&self, node: &Node) -> Option<usize> {
        let mut pending = node.pending.iter();
        let passed = pending.find(|read| {
            let observed = self.operations[**read].observed();
            let version = observed.and_then(|it| it.version);
            version.is_some_and(|version| version < node.state.version())
        });
        passed.copied()
    }

    /// Reads that cannot have seen `slot` must have been explained before it.
    fn expire(&self, node: &Node, slot: u64) -> Result<(), usize> {
        let late = |&&read: &&usize| self.ceilings[&self.operations[read].id] < slot;
        node.pending
            .iter()
            .find(late)
            .map_or(Ok(()), |&read| Err(read))
    }

    /// Explains what can be. To explain a read as early as possible never hurts the others.
    fn explain(&self, node: &mut Node) {
        let Node {
            pending,
            explained_at,
            state,
            slot,
            ..
        } = node;
        let is_sure = self.unknown.is_empty();
        pending.retain(|&read| {
            let observed = self.operations[read].observed();
            let fits = state.explains(observed.expect("reads kept were answered"));
            if fits && is_sure {
                explained_at.push((read, *slot));
            }
            !fits
        });
    }

    /// The node after the `which`-th write of unknown outcome took effect next, if it can have.
    fn insert(&self, node: &Node, which: usize) -> Option<Node> {
        if node.used.contains(&which) {
            return None;
        }
        let op = self.operations[self.unknown[which]];
        let class = |which: usize| {
            let op = self.operations[self.unknown[which]];
            self.shown.class(op.action)
        };
        let is_first = which == 0 || class(which - 1) != class(which);
        let is_next = is_first || node.used.contains(&(which - 1));
        if !is_next || !self.shown.allows(node.state, op.action) {
            return None;
        }
        let slot = node.slot.max(self.floors[&op.id]) + 1;
        if let Some(next) = self.events.get(node.event) {
            let before_read = self.operations[next.operation].action.is_read();
            if slot > next.slot || (slot == next.slot && !before_read) {
                return None;
            }
        }
        self.expire(node, slot).ok()?;
        let over = |&read: &usize| self.operations[read].complete_ns < op.invoke_ns;
        if node.pending.iter().any(over) {
            return None;
        }
        let mut next = node.clone();
        next.slot = slot;
        next.state = node.state.after(op.action);
        next.used.push(which);
        next.used.sort_unstable();
        self.explain(&mut next);
        self.passed(&next).is_none().then_some(next)
    }
}
