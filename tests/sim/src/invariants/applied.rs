//! I6: the applied prefixes of all members are equal, by hash.
//!
//! Source: Schneider, *Implementing Fault-Tolerant Services Using the State Machine Approach*
//! (1990), section 2: the same requests in the same order.

use synod_paxos::Slot;

use super::Violation;
use crate::app::{Register, Work};

/// What executing one slot did, on the first member that did it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Effect {
    pub(crate) work: Work,
    pub(crate) result: Register,
    /// Hash over everything that copy had executed, this slot included.
    pub(crate) digest: u64,
}

/// The effects of all slots.
#[derive(Debug, Default)]
pub(crate) struct Applied {
    effects: Vec<Option<Effect>>,
    highest: Slot,
}

// === impl Applied ===

impl Applied {
    /// A member's app has executed a slot. True when it was the first to do so.
    pub(crate) fn executed(
        &mut self,
        member: usize,
        slot: Slot,
        effect: Effect,
    ) -> Result<bool, Violation> {
        let at = slot.0 as usize;
        if self.effects.len() <= at {
            self.effects.resize(at + 1, None);
        }
        match self.effects[at] {
            None if slot < self.highest => Err(Violation::new(
                "I6",
                format!(
                    "member {} executed slot {slot}, which a copy that is at {} did not execute",
                    member + 1,
                    self.highest
                ),
            )),
            None => {
                self.effects[at] = Some(effect);
                self.highest = slot;
                Ok(true)
            }
            Some(first) if first == effect => Ok(false),
            Some(first) => Err(Violation::new(
                "I6",
                format!(
                    "member {} executed slot {slot} as {effect:?}, another copy as {first:?}",
                    member + 1
                ),
            )),
        }
    }

    pub(crate) fn effect(&self, slot: Slot) -> Option<&Effect> {
        self.effects.get(slot.0 as usize)?.as_ref()
    }
}
