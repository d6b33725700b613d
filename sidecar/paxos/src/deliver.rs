//! What is handed to apply, and what is said in order with it.

use synod_mutant::{Mutant, planted};

use crate::configuration::Configuration;
use crate::output::Output;
use crate::paxos::Paxos;
use crate::types::Slot;

impl Paxos {
    /// Hands to apply what is chosen and synced here (rule L4).
    pub(crate) fn deliver(&mut self) {
        if self.installing.is_some() {
            return;
        }
        let readable = self.faulty.first().map_or(Slot(u64::MAX), Slot::prev);
        let synced = if planted(Mutant::UnsyncedSlotsApply) {
            self.log.last()
        } else {
            self.acceptor.synced_last
        };
        let through = self.log.commit().min(synced).min(readable);
        // Each stop-sign ends a piece, and is handed over once the next epoch is entered durably.
        while let Some((slot, configuration)) = self.membership.untold()
            && slot <= through
        {
            let (epoch, configuration) = (configuration.epoch, configuration.clone());
            if epoch > self.acceptor.synced_accepted.epoch {
                self.hand_over(slot.prev());
                return;
            }
            self.hand_over(slot);
            self.tell_configuration(slot, configuration);
        }
        self.hand_over(through);
    }

    fn hand_over(&mut self, through: Slot) {
        if through <= self.delivered {
            return;
        }
        let mut entries = Vec::new();
        for entry in self.log.after(self.delivered) {
            if entry.slot > through {
                break;
            }
            entries.push(entry.clone());
        }
        self.delivered = through;
        self.outputs.push_back(Output::Chosen { through, entries });
    }

    pub(crate) fn tell_configuration(&mut self, slot: Slot, configuration: Configuration) {
        let epoch = configuration.epoch;
        self.membership.told = epoch;
        self.outputs.push_back(Output::ConfigurationChanged {
            slot,
            epoch,
            configuration,
        });
    }
}
