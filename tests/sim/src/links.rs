//! Whom a member is connected with, and what its shell does when its place in the group changes.

use synod_paxos::{Configuration, Entry, Epoch, Role, Slot};

use crate::coverage::Sight;
use crate::invariants::Violation;
use crate::network::{LANES, id_of, index_of};
use crate::world::World;

/// An app is started so long after its member has got a role that needs one, in nanoseconds.
const APP_START_NS: u64 = 1_000_000;

impl World {
    /// Connects a member with whom it wants to be connected now, and nobody else.
    pub(crate) fn keep_in_touch(&mut self, member: usize) -> Result<(), Violation> {
        let Some(process) = &mut self.hosts[member].process else {
            return Ok(());
        };
        let version = Some(process.paxos.contacts_version());
        if process.contacts_version == version {
            return Ok(());
        }
        process.contacts_version = version;
        let contacts = process.paxos.contacts();
        let contacts: Vec<usize> = contacts.iter().map(|it| index_of(it.id)).collect();
        let before = std::mem::replace(&mut process.contacts, contacts.clone());
        let epoch = process.paxos.epoch();
        if process.paxos.old_epoch_retired() {
            let chosen = &self.checks.chosen;
            chosen.epochs.retires(member, epoch, chosen.reached())?;
        }
        for other in before.into_iter().filter(|it| !contacts.contains(it)) {
            for lane in LANES {
                let stream = self.network.stream(member, other, lane);
                self.network.break_stream(stream);
            }
        }
        for other in contacts {
            for lane in LANES {
                let stream = self.network.stream(member, other, lane);
                if !self.network.is_connected(stream) {
                    self.plan_connect(stream);
                }
            }
        }
        self.take_role(member);
        Ok(())
    }

    /// A witness has no app, all others have one.
    fn take_role(&mut self, member: usize) {
        let host = &mut self.hosts[member];
        let Some(process) = &host.process else {
            return;
        };
        let place = process.paxos.roster().member(id_of(member));
        let witness = place.is_some_and(|it| it.role == Role::Witness);
        if std::mem::replace(&mut host.witness, witness) == witness {
            return;
        }
        if witness {
            self.end_app(member, false);
        } else {
            self.plan_app(member, APP_START_NS);
        }
    }

    pub(crate) fn configuration_changed(
        &mut self,
        member: usize,
        slot: Slot,
        configuration: &Configuration,
    ) -> Result<(), Violation> {
        self.checks.chosen.epochs.acts(member, configuration)?;
        self.checks
            .chosen
            .claimed(member, slot, "changes members at")?;
        let host = &mut self.hosts[member];
        let process = host.process.as_mut().expect("it was polled");
        let epoch = configuration.epoch;
        if epoch <= process.told_epoch || host.disk.synced().promised.epoch < epoch {
            let text = format!(
                "member {} is told of epoch {epoch} after {}, with {:?} synced",
                member + 1,
                process.told_epoch,
                host.disk.synced()
            );
            return Err(Violation::new("I7", text));
        }
        process.told_epoch = epoch;
        Ok(())
    }

    pub(crate) fn removed(&mut self, member: usize, epoch: Epoch) -> Result<(), Violation> {
        let process = self.hosts[member].process.as_mut().expect("it was polled");
        let (own, chosen) = (process.paxos.epoch(), &self.checks.chosen);
        let reached = chosen.reached();
        chosen.epochs.removed(member, own, epoch, reached)?;
        if std::mem::replace(&mut process.told_removed, true) {
            let text = format!("member {} is told twice that it is removed", member + 1);
            return Err(Violation::new("M6", text));
        }
        self.coverage.saw(Sight::ToldRemoved);
        Ok(())
    }

    /// An epoch's first leader begins without phase 1, and another than it had proposed the epoch.
    pub(crate) fn note_first_leader(&mut self, member: usize, entry: &Entry) {
        let ballot = entry.ballot;
        if ballot.round > 0 || ballot.node != id_of(member) || ballot.epoch == self.led_first {
            return;
        }
        self.led_first = ballot.epoch;
        let change = self.checks.chosen.epochs.change(Epoch(ballot.epoch.0 - 1));
        if change.is_some_and(|(_, _, proposed)| proposed.node != ballot.node) {
            self.coverage.saw(Sight::FirstLeaders);
        }
    }
}
