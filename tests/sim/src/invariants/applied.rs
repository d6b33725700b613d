//! I6: the applied prefixes of all members are equal, by hash; and rule K2: a state that contains a
//! slot which is known to be skipped is not used any more.
//!
//! What executing a slot comes to depends on what was executed before, so on the skips that were known:
//! effects are compared between copies that knew of the same ones.
//!
//! Source: Schneider, *Implementing Fault-Tolerant Services Using the State Machine Approach*
//! (1990), section 2: the same requests in the same order.

use std::collections::{BTreeMap, BTreeSet};

use synod_paxos::Slot;
use synod_sidecar::apply::Fold;

use super::Violation;
use crate::app::{Register, State, Work, mix};
use crate::snapshots::Snapshot;

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
    /// By the skips that were known, as a hash, and by slot.
    effects: BTreeMap<(u64, Slot), Effect>,
    /// The last that was executed first.
    highest: BTreeMap<u64, Slot>,
    /// Executed by somebody, whatever skips were known.
    slots: BTreeSet<Slot>,
    /// Of those effects: only a copy that has gone astray there has executed the slot so far.
    astray: BTreeSet<(u64, Slot)>,
}

// === impl Applied ===

impl Applied {
    /// A member's app has executed a slot, knowing of these skips. True when it was the first to do so.
    pub(crate) fn executed(
        &mut self,
        member: usize,
        skipped: &BTreeSet<Slot>,
        slot: Slot,
        effect: Effect,
    ) -> Result<bool, Violation> {
        let skips = hash_of(skipped, slot);
        let highest = self.highest.entry(skips).or_default();
        let key = (skips, slot);
        if self.astray.remove(&key) {
            self.effects.insert(key, effect);
            return Ok(false);
        }
        match self.effects.get(&key) {
            None if slot < *highest => Err(Violation::new(
                "I6",
                format!(
                    "member {} executed slot {slot}, which a copy that is at {highest} did not execute",
                    member + 1,
                ),
            )),
            None => {
                self.effects.insert(key, effect);
                *highest = slot;
                Ok(self.slots.insert(slot))
            }
            Some(first) if *first == effect => Ok(false),
            Some(first) => Err(Violation::new(
                "I6",
                format!(
                    "member {} executed slot {slot} as {effect:?}, another copy as {first:?}",
                    member + 1
                ),
            )),
        }
    }

    /// The same, of an app that has gone astray there: what it did says nothing about that of the others.
    pub(crate) fn executed_astray(
        &mut self,
        member: usize,
        skipped: &BTreeSet<Slot>,
        slot: Slot,
        effect: Effect,
    ) -> Result<bool, Violation> {
        let key = (hash_of(skipped, slot), slot);
        if self.effects.contains_key(&key) {
            return Ok(false);
        }
        let is_first = self.executed(member, skipped, slot, effect)?;
        self.astray.insert(key);
        Ok(is_first)
    }

    /// A member's snapshot of this slot holds what executing all before it comes to.
    pub(crate) fn is_state_of(
        &self,
        member: usize,
        tables: &Fold,
        slot: Slot,
        state: &State,
    ) -> Result<(), Violation> {
        has_none_of(member, tables.skipped(), state)?;
        let skips = hash_of(tables.skipped(), slot);
        let mut before = self.effects.range((skips, Slot::ZERO)..=(skips, slot));
        let last = before.next_back();
        let expected = last.map(|((_, at), effect)| (*at, effect.digest));
        let found = (state.reflects(), state.digest());
        if expected.is_none_or(|it| it == found) && tables.admitted() == slot {
            return Ok(());
        }
        let text = format!(
            "member {} takes a snapshot of slot {slot} with tables of {} that ends with {found:?}, and \
             not {expected:?}",
            member + 1,
            tables.admitted()
        );
        Err(Violation::new("N1", text))
    }

    /// What executing this slot did, on copies that knew of some skips or others.
    pub(crate) fn effects(&self, slot: Slot) -> impl Iterator<Item = &Effect> {
        let skips = self.highest.keys();
        skips.filter_map(move |skips| self.effects.get(&(*skips, slot)))
    }
}

/// No state in use contains a slot that its copy knows to be skipped.
pub(crate) fn has_none_of(
    member: usize,
    skipped: &BTreeSet<Slot>,
    state: &State,
) -> Result<(), Violation> {
    let mut slots = state.poisonous().iter();
    match slots.find(|slot| skipped.contains(slot)) {
        None => Ok(()),
        Some(slot) => {
            let text = format!(
                "member {} goes on from a state that contains slot {slot}, which it knows to be skipped",
                member + 1
            );
            Err(Violation::new("K2", text))
        }
    }
}

/// A copy that has gone astray is no source of a state (rule N2).
pub(crate) fn is_right(member: usize, snapshot: &Snapshot) -> Result<(), Violation> {
    if !snapshot.state.is_odd() {
        return Ok(());
    }
    let text = format!(
        "member {} has a snapshot of slot {} that may be used, of a copy that has gone astray",
        member + 1,
        snapshot.base.slot
    );
    Err(Violation::new("N2", text))
}

/// Of those before this slot.
fn hash_of(skipped: &BTreeSet<Slot>, slot: Slot) -> u64 {
    let known = skipped.range(..slot);
    known.fold(0, |hash, it| mix(hash ^ 1, it.0))
}
