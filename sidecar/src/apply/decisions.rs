//! Which slots the app executes: noted at admission, so that a replay need not decide again.

use std::collections::VecDeque;

use synod_paxos::Slot;

const BITS: u64 = 64;

/// One bit for each admitted slot above a base, behind which everything is forgotten.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Decisions {
    /// Nothing is asked about slots up to here any more.
    base: Slot,
    /// Number of the first word: it stands for the slots from `first * 64` on.
    first: u64,
    words: VecDeque<u64>,
}

impl Decisions {
    /// Nothing is decided above `base`, and nothing below is asked.
    pub(super) fn new(base: Slot) -> Self {
        Self {
            base,
            first: base.next().0 / BITS,
            words: VecDeque::new(),
        }
    }

    /// Notes that the app executes this slot.
    pub(super) fn note(&mut self, slot: Slot) {
        let at = self.word(slot);
        if at >= self.words.len() {
            self.words.resize(at + 1, 0);
        }
        self.words[at] |= 1 << (slot.0 % BITS);
    }

    /// The app does not execute this slot after all.
    pub(super) fn clear(&mut self, slot: Slot) {
        let at = self.word(slot);
        if let Some(word) = self.words.get_mut(at) {
            *word &= !(1 << (slot.0 % BITS));
        }
    }

    /// Forgets all up to here.
    pub(super) fn forget(&mut self, through: Slot) {
        if through <= self.base {
            return;
        }
        let first = through.next().0 / BITS;
        let gone = usize::try_from(first - self.first).expect("a log in this address space");
        self.words.drain(..gone.min(self.words.len()));
        self.base = through;
        self.first = first;
        if let Some(word) = self.words.front_mut() {
            *word &= u64::MAX << (through.next().0 % BITS);
        }
    }

    /// All up to here is forgotten.
    pub(super) fn base(&self) -> Slot {
        self.base
    }

    /// The first slot from `from` on that the app executes.
    pub(super) fn next_from(&self, from: Slot) -> Option<Slot> {
        let mut mask = u64::MAX << (from.0 % BITS);
        for at in self.word(from)..self.words.len() {
            let word = self.words[at] & mask;
            if word != 0 {
                let first = (self.first + at as u64) * BITS;
                return Some(Slot(first + u64::from(word.trailing_zeros())));
            }
            mask = u64::MAX;
        }
        None
    }

    /// Whether the app executes this slot.
    pub(super) fn executes(&self, slot: Slot) -> bool {
        let word = self.words.get(self.word(slot));
        word.is_some_and(|word| word & (1 << (slot.0 % BITS)) != 0)
    }

    fn word(&self, slot: Slot) -> usize {
        assert!(slot > self.base, "what is forgotten is not asked about");
        usize::try_from(slot.0 / BITS - self.first).expect("a log in this address space")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_noted_is_found_from_any_base_on() {
        let noted: Vec<u64> = (1..2_000)
            .filter(|slot| slot % 7 == 0 || slot % 64 < 2)
            .collect();
        for base in [0, 1, 62, 63, 64, 65, 127, 128, 700, 1_990] {
            let mut fresh = Decisions::new(Slot(base));
            let mut trimmed = Decisions::default();
            for &slot in &noted {
                trimmed.note(Slot(slot));
                if slot > base {
                    fresh.note(Slot(slot));
                }
            }
            trimmed.forget(Slot(base));
            assert_eq!(trimmed, fresh);
            let mut from = Slot(base + 1);
            let mut found = Vec::new();
            while let Some(slot) = trimmed.next_from(from) {
                assert!(trimmed.executes(slot));
                found.push(slot.0);
                from = slot.next();
            }
            let wanted: Vec<u64> = noted.iter().copied().filter(|slot| *slot > base).collect();
            assert_eq!(found, wanted, "from {base} on");
            let bits = (base + 1..2_000).filter(|slot| trimmed.executes(Slot(*slot)));
            assert_eq!(bits.collect::<Vec<_>>(), wanted);
        }
    }

    #[test]
    fn memory_is_that_of_the_slots_above_the_base() {
        let mut decisions = Decisions::default();
        for slot in 1..=1_000_000 {
            decisions.note(Slot(slot));
            if slot % 1_000 == 0 {
                decisions.forget(Slot(slot - 100));
            }
        }
        assert!(decisions.words.len() < 20);
        decisions.forget(Slot(2_000_000));
        assert_eq!(decisions, Decisions::new(Slot(2_000_000)));
    }
}
