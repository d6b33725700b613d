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
    let mut summary = Summary::default();
    let mut seen = HashMap::new();
    for op in history.operations() {
        if matches!(op.outcome, Outcome::Ok(_)) {
            match lowest(op) {
                None => violations.push(Violation::NoSlot(Box::new(op.clone()))),
                Some(slot) => {
                    seen.insert(op.id, slot);
                    summary.last_slot = summary.last_slot.max(slot);
                    summary.reads += usize::from(op.action.is_read());
                    summary.writes += usize::from(!op.action.is_read());
                }
            }
        } else if op.outcome == Outcome::Unknown && !op.action.is_read() {
            summary.unknown += 1;
        }
    }
    if !violations.is_empty() {
        return Err(violations);
    }

    one_slot_one_write(history, &mut violations);
    let floors = real_time_order(history, &seen, &mut violations);
    let ceilings = ceilings(history);
    for (key, operations) in history.by_key() {
        match sweep::run(&operations, &floors, &ceilings) {
            // What a read was seen to have read binds all that began after it.
            Ok(later) => seen.extend(later),
            Err(sweep::Stuck::At(operation)) => violations.push(Violation::WrongAnswer {
                key: key.to_owned(),
                operation: Box::new(operation.clone()),
            }),
            Err(sweep::Stuck::Undecided) => violations.push(Violation::Undecided(key.to_owned())),
        }
    }
    if violations.is_empty() {
        real_time_order(history, &seen, &mut violations);
    }
    if violations.is_empty() {
        Ok(summary)
    } else {
        Err(violations)
    }
}

fn lowest(op: &Operation) -> Option<u64> {
    match op.witness {
        Some(Witness::At(slot)) => Some(slot),
        Some(Witness::AtLeast(slot)) if op.action.is_read() => Some(slot),
        Some(Witness::AtLeast(_)) | None => None,
    }
}

fn answered(history: &History) -> impl Iterator<Item = &Operation> {
    let operations = history.operations().iter();
    operations.filter(|op| matches!(op.outcome, Outcome::Ok(_)))
}

fn one_slot_one_write(history: &History, violations: &mut Vec<Violation>) {
    let mut owners: HashMap<u64, &Operation> = HashMap::new();
    for op in answered(history).filter(|op| !op.action.is_read()) {
        let slot = lowest(op).expect("every answer was seen to have a slot");
        if let Some(owner) = owners.insert(slot, op) {
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
        let slot = seen.get(&op.id).copied();
        if side == 1 {
            let slot = slot.expect("every answer has a slot");
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
        let says = lowest(op).filter(|_| matches!(op.outcome, Outcome::Ok(_)));
        let breaks =
            says.is_some_and(|says| says < floor || (says == floor && !op.action.is_read()));
        if breaks {
            violations.push(Violation::RealTimeOrder {
                earlier: Box::new(earlier.clone()),
                seen: floor,
                later: Box::new(op.clone()),
            });
        }
    }
    floors
}

/// For each read that may have seen a later slot than it says: the highest it can have seen, the one
/// before any write that began after the read was over.
fn ceilings(history: &History) -> HashMap<u64, u64> {
    let mut writes = BTreeMap::new();
    for op in answered(history).filter(|op| !op.action.is_read()) {
        let slot = lowest(op).expect("every answer has a slot");
        writes.insert((op.invoke_ns, op.id), slot);
    }
    let mut least = u64::MAX;
    for slot in writes.values_mut().rev() {
        least = least.min(*slot);
        *slot = least;
    }
    let reads = answered(history).filter(|op| op.action.is_read());
    reads
        .map(|op| {
            let ceiling = if let Some(Witness::At(slot)) = op.witness {
                slot
            } else {
                let later = writes.range((op.complete_ns + 1, 0)..).next();
                later.map_or(u64::MAX, |(_, slot)| slot.saturating_sub(1))
            };
            (op.id, ceiling)
        })
        .collect()
}
