//! Which state the app has, as the comparison of the copies sees it, and what comes of it when it
//! turns out to differ from the others'.

use synod_paxos::Slot;

use super::life::Files;
use super::{Action, App, Machine};
use crate::apply::divergence::OnDivergence;
use crate::apply::ledger::Kept;

/// A state that grows slot by slot, also when it passes from one instance of the app to the next on
/// a volume. Another begins when the copy is made anew: from nothing, or from a snapshot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lineage {
    /// Counts those that began in this machine's life; 0: it is of an earlier one.
    pub number: u64,
    /// The slot of its state when it began, or when this machine took it over.
    pub from: Slot,
    /// It began here, or the ledger says whether it was found to differ.
    pub is_known: bool,
    /// The revision of the app that has it.
    pub revision: u64,
}

// === events ===

impl Machine {
    /// The state of this lineage differs from other copies' from this slot on: at once, or once more
    /// with another measure. Of the rest nothing is known yet, so nobody vouches for it any more; that
    /// must be in the ledger before it is told that this was heard. `None`: it was not this one that
    /// differed. False: that state is gone.
    pub fn handle_astray(&mut self, lineage: u64, found: Option<(Slot, OnDivergence)>) -> bool {
        if lineage != self.lineage.number {
            return false;
        }
        let before = (self.astray, self.stands);
        let slot = found.map(|(slot, _)| slot.min(self.astray.unwrap_or(slot)));
        let measure = found.map(|(_, measure)| measure);
        self.astray = slot;
        self.base_astray = slot.filter(|slot| self.base >= *slot);
        self.stands = measure == Some(OnDivergence::Halt);
        self.ledger_dirty |= before != (self.astray, self.stands);
        if let (Some(slot), Some(OnDivergence::Quarantine)) = (slot, measure) {
            self.quarantine(slot, before.0 != self.astray);
        }
        self.advance();
        true
    }

    /// Makes the copy anew, from a state of before this slot or one that others vouch for.
    fn quarantine(&mut self, slot: Slot, is_news: bool) {
        if is_news || self.base >= slot && !self.base_void {
            self.base_void |= self.base >= slot;
            self.actions.push_back(Action::VoidSince { slot });
        }
        match self.app {
            App::Running(instance) => self.throw_away(instance),
            App::Asking { instance, .. } => self.roll_back(instance),
            App::Restoring {
                instance, slot: to, ..
            } if to >= slot => self.condemn(instance),
            _ if self.has_volume() && self.files == Files::AsLeft => self.want_files(),
            _ => {}
        }
    }
}

// === getters ===

impl Machine {
    /// Which state the app has, or had last.
    pub fn lineage(&self) -> Lineage {
        self.lineage
    }

    /// From where on that was found to differ.
    pub fn astray(&self) -> Option<Slot> {
        self.astray
    }
}

impl Machine {
    /// The ledger says so of the state that an earlier life has left.
    pub(super) fn know_lineage(&mut self, kept: Kept) {
        self.lineage.is_known = true;
        self.lineage.revision = kept.revision;
        self.astray = kept.astray;
        self.stands = kept.stands;
    }

    /// The state was made anew and is that of this slot. If it is of a base that may contain what differs, so
    /// may it.
    pub(super) fn begin_lineage(&mut self, slot: Slot) {
        self.lineage = Lineage {
            number: self.lineage.number + 1,
            from: slot,
            is_known: true,
            revision: self.revisions.app(),
        };
        self.astray = self.base_astray.filter(|astray| slot >= *astray);
        self.stands = false;
    }

    /// The app has the state of this slot, whatever that comes from. What another revision of it makes of
    /// that is compared with its own only.
    pub(super) fn carry_lineage(&mut self, slot: Slot) {
        let is_of_another = self.lineage.revision != self.revisions.app();
        // What has executed nothing has begun here: no ledger of an earlier life is needed to know that.
        let is_begun = if self.lineage.is_known {
            is_of_another
        } else {
            slot == Slot::ZERO
        };
        if is_begun {
            return self.begin_lineage(slot);
        }
        self.lineage.revision = self.revisions.app();
        if self.lineage.number == 0 {
            self.lineage.from = slot;
        }
    }
}
