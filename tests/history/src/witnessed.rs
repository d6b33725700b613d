//! The check by the slots that the answers carry, in O(n log n) while outcomes are known: real-time
//! order must agree with slot order, no slot belongs to two writes, and every answer says what the
//! model says at its slot.
//!
//! A write of unknown outcome has no slot. It may stand at any slot later than all that was seen
//! before its invocation, or nowhere; its places are tried only where the
//! answers cannot be explained without it.

mod sweep;

use std::collections::{BTreeMap, HashMap};

use crate::{History, Malformed, Operation, Outcome, Witness};

/// What a check that found nothing wrong has looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Acknowledged writes.
    pub writes: usize,
    /// Answered reads.
    pub reads: usize,
    /// Writes of unknown outcome.
    pub unknown: usize,
    /// Highest slot seen.
    pub last_slot: u64,
}

/// What contradicts the slots.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// It is not a history.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// An answer without a slot.
    #[error("no slot was said for {0}")]
    NoSlot(Box<Operation>),
    /// Two acknowledged writes at one slot.
    #[error("one slot for two writes: {0} and {1}")]
    SlotUsedTwice(Box<Operation>, Box<Operation>),
    /// The later one must have the higher slot (a read: at least as high).
    #[error("{earlier} ended, having seen slot {seen}, before {later} began")]
    RealTimeOrder {
        /// It was over first.
        earlier: Box<Operation>,
        /// What it is known to have seen.
        seen: u64,
        /// It began then, with a lower slot.
        later: Box<Operation>,
    },
    /// The answer differs from the model's at its slot.
    #[error("not what key {key} held at that slot: {operation}")]
    WrongAnswer {
        /// Where.
        key: String,
        /// The first answer, in slot order, that the longest explanation does not reach.
        operation: Box<Operation>,
    },
    /// Too many writes of unknown outcome on one key: nothing is known, the run is invalid.
    #[error("key {0}: no decision; too many writes of unknown outcome")]
    Undecided(String),
}

/// Checks the whole of `history`.
pub fn check(history: &History) -> Result<Summary, Vec<Violation>> {
    history.validate().map_err(|error| vec![error.into()])?;
    let mut violations = Vec::new();
    let summary = summarise(history, &mut violations);
    if !violations.is_empty() {
        return Err(violations);
    }
    one_slot_one_write(history, &mut violations);

    // What a read turns out to have seen binds all that began after it, which may in turn raise
    // what those have seen: repeated until nothing rises any more.
    let keys = history.by_key();
    let ceilings = ceilings(history);
    let mut seen: HashMap<u64, u64> = answered(history).map(|op| (op.id, slots(op).0)).collect();
    let mut floors = HashMap::new();
    loop {
        let raised = real_time_order(history, &seen, &mut violations);
        if raised == floors || !violations.is_empty() {
            break;
        }
        for (key, operations) in &keys {
            let rises = |op: &&Operation| raised.get(&op.id) != floors.get(&op.id);
            if !operations.iter().any(rises) {
                continue;
            }
            match sweep::run(operations, &raised, &ceilings) {
                Ok(found) => seen.extend(found),
                Err(sweep::Stuck::At(operation)) => violations.push(Violation::WrongAnswer {
                    key: (*key).to_owned(),
                    operation: Box::new(operation.clone()),
                }),
                Err(sweep::Stuck::Undecided) => {
                    violations.push(Violation::Undecided((*key).to_owned()));
                }
            }
        }
        floors = raised;
    }
    if violations.is_empty() {
        Ok(summary)
    } else {
        Err(violations)
    }
}

fn summarise(history: &History, violations: &mut Vec<Violation>) -> Summary {
    let mut summary = Summary::default();
    for op in history.operations() {
        match op.outcome {
            Outcome::Ok(_) => match op.witness {
                None => violations.push(Violation::NoSlot(Box::new(op.clone()))),
                Some(Witness::Within(..)) if !op.action.is_read() => {
                    violations.push(Violation::NoSlot(Box::new(op.clone())));
                }
                Some(_) => {
                    summary.last_slot = summary.last_slot.max(slots(op).1);
                    summary.reads += usize::from(op.action.is_read());
                    summary.writes += usize::from(!op.action.is_read());
                }
            },
            Outcome::Unknown => summary.unknown += usize::from(!op.action.is_read()),
            Outcome::Failed => {}
        }
    }
    summary
}

/// Lowest and highest slot that an answer says it has seen.
fn slots(op: &Operation) -> (u64, u64) {
    match op.witness.expect("every answer was seen to have a slot") {
        Witness::At(slot) => (slot, slot),
        Witness::Within(low, high) => (low, high),
    }
}

fn answered(history: &History) -> impl Iterator<Item = &Operation> {
    let operations = history.operations().iter();
    operations.filter(|op| matches!(op.outcome, Outcome::Ok(_)))
}

fn one_slot_one_write(history: &History, violations: &mut Vec<Violation>) {
    let mut owners: HashMap<u64, &Operation> = HashMap::new();
    for op in answered(history).filter(|op| !op.action.is_read()) {
        if let Some(owner) = owners.insert(slots(op).0, op) {
            violations.push(Violation::SlotUsedTwice(
                Box::new(owner.clone()),
                Box::new(op.clone()),
            ));
        }
    }
}

/// Walks through time and holds each invocation against the highest slot seen by what was over
/// before. Returns that slot for each operation, those of unknown outcome included.
fn real_time_order(
    history: &History,
    seen: &HashMap<u64, u64>,
    violations: &mut Vec<Violation>,
) -> HashMap<u64, u64> {
    let mut events = Vec::new();
    for op in history.operations() {
        if op.outcome == Outcome::Failed {
            continue;
        }
        events.push((op.invoke_ns, 0, op));
        if matches!(op.outcome, Outcome::Ok(_)) {
            events.push((op.complete_ns, 1, op));
        }
    }
    events.sort_by_key(|&(time, side, op)| (time, side, op.id));

    let mut floors = HashMap::new();
    let mut highest: Option<(u64, &Operation)> = None;
    for (_, side, op) in events {
        if side == 1 {
            let slot = seen[&op.id];
            if highest.is_none_or(|(most, _)| slot > most) {
                highest = Some((slot, op));
            }
            continue;
        }
        let Some((floor, earlier)) = highest else {
            floors.insert(op.id, 0);
            continue;
        };
        floors.insert(op.id, floor);
        if op.outcome == Outcome::Unknown {
            continue;
        }
        let says = slots(op).1;
        if says < floor || (says == floor && !op.action.is_read()) {
            violations.push(Violation::RealTimeOrder {
                earlier: Box::new(earlier.clone()),
                seen: floor,
                later: Box::new(op.clone()),
            });
        }
    }
    floors
}

/// The highest slot that each read can have seen: what it says, and less than any write's that
/// began after the read was over.
fn ceilings(history: &History) -> HashMap<u64, u64> {
    let mut writes = BTreeMap::new();
    for op in answered(history).filter(|op| !op.action.is_read()) {
        writes.insert((op.invoke_ns, op.id), slots(op).0);
    }
    let mut least = u64::MAX;
    for slot in writes.values_mut().rev() {
        least = least.min(*slot);
        *slot = least;
    }
    let reads = answered(history).filter(|op| op.action.is_read());
    reads
        .map(|op| {
            let later = writes.range((op.complete_ns + 1, 0)..).next();
            let before = later.map_or(u64::MAX, |(_, slot)| slot.saturating_sub(1));
            (op.id, slots(op).1.min(before))
        })
        .collect()
}
