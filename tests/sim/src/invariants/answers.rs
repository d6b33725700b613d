//! I14: the answer a client got is the response of its own command at its own slot; and the
//! index-witnessed linearizability of the whole history.
//!
//! Every answer carries a slot, so a history is linearizable when real-time order agrees with slot
//! order and each value is the model's at its slot: Herlihy, Wing, *Linearizability* (1990); with
//! the slot as witness no search is needed. Real-time order is kept as one number: the highest
//! slot that any client has seen, noted when an operation begins. The bug class "one request
//! answered with another's response" (Redis-Raft).

use synod_paxos::Slot;

use super::Violation;
use super::applied::Applied;
use super::once::Once;
use crate::app::Register;

/// The state of each register after each slot that changed it, and what clients have seen.
#[derive(Debug)]
pub(crate) struct Answers {
    registers: Vec<Vec<(Slot, Register)>>,
    seen: Slot,
    writes: u64,
    reads: u64,
    /// What was perhaps executed and answered is undone, as a person or the policy wanted: what the
    /// clients see from then on is no one history.
    undone: bool,
}

// === impl Answers ===

impl Answers {
    pub(crate) fn new(registers: u64) -> Self {
        Self {
            registers: vec![Vec::new(); registers as usize],
            seen: Slot::ZERO,
            writes: 0,
            reads: 0,
            undone: false,
        }
    }

    /// A copy executed a slot that changes this register: reads may show it.
    pub(crate) fn changed(&mut self, slot: Slot, register: u64, to: Register) {
        let history = &mut self.registers[register as usize];
        let at = history.partition_point(|(it, _)| *it < slot);
        if history.get(at).is_none_or(|(it, _)| *it != slot) {
            history.insert(at, (slot, to));
        }
    }

    /// Nobody executes the slot any more: what it did to this register is not seen again. `unsure`: a copy
    /// may have executed it.
    pub(crate) fn skipped(&mut self, slot: Slot, unsure: bool) {
        self.undone |= unsure;
        for history in &mut self.registers {
            if history.iter().any(|(it, _)| *it == slot) {
                history.retain(|(it, _)| *it < slot);
            }
        }
    }

    /// What was perhaps executed is undone since.
    pub(crate) fn is_undone(&self) -> bool {
        self.undone
    }

    /// An operation begins now: what it must not be older than.
    pub(crate) fn floor(&self) -> Slot {
        self.seen
    }

    /// A client got the answer to its write.
    pub(crate) fn wrote(
        &mut self,
        op: u64,
        floor: Slot,
        slot: Slot,
        result: Register,
        applied: &Applied,
        once: &Once,
    ) -> Result<(), Violation> {
        self.writes += 1;
        if self.undone {
            return Ok(());
        }
        // One that runs along silently may have known of other skips.
        let mut effects = applied.effects(slot);
        if !effects.any(|it| it.work.op == op && it.result == result) {
            let effects: Vec<_> = applied.effects(slot).collect();
            return Err(Violation::new(
                "I14",
                format!(
                    "operation {op} was answered {result:?} at slot {slot}, which did {effects:?}"
                ),
            ));
        }
        if once.slot_of(op) != Some(slot) {
            return Err(Violation::new(
                "I14",
                format!("operation {op} was answered at slot {slot}, not where it took effect"),
            ));
        }
        if slot <= floor {
            return Err(Violation::new(
                "linearizability",
                format!("write {op} is at slot {slot}, and {floor} had been seen before it began"),
            ));
        }
        self.seen = self.seen.max(slot);
        Ok(())
    }

    /// A client got the answer to its read; `reflects` is the slot whose state it shows.
    pub(crate) fn read(
        &mut self,
        register: u64,
        floor: Slot,
        reflects: Slot,
        value: Register,
    ) -> Result<(), Violation> {
        self.reads += 1;
        if self.undone {
            return Ok(());
        }
        let history = &self.registers[register as usize];
        let upto = history.partition_point(|(slot, _)| *slot <= reflects);
        let expected = upto
            .checked_sub(1)
            .map_or(Register::default(), |i| history[i].1);
        if value != expected {
            return Err(Violation::new(
                "linearizability",
                format!(
                    "a read of register {register} at slot {reflects} saw {value:?}, not {expected:?}"
                ),
            ));
        }
        // Slots in between may have changed nothing here (no-ops, other registers): what counts is
        // whether a change that somebody had seen is missing.
        if let Some((missed, _)) = history.get(upto).filter(|(slot, _)| *slot <= floor) {
            return Err(Violation::new(
                "linearizability",
                format!(
                    "a read of register {register} shows slot {reflects}, and not slot {missed}; \
                     slot {floor} had been seen before it began"
                ),
            ));
        }
        self.seen = self.seen.max(reflects);
        Ok(())
    }

    /// Operations answered and checked.
    pub(crate) fn operations(&self) -> u64 {
        self.writes + self.reads
    }
}
