//! Protocol versions (rule P8): the group agrees on the one in force, and it only rises. What is new
//! in a version is used once its raise is known to be chosen; whoever speaks it understands it before.

use synod_mutant::{Mutant, planted};

use crate::error::UpgradeRefused;
use crate::journal::Effect;
use crate::output::Output;
use crate::paxos::{Office, Paxos};
use crate::record::Record;
use crate::types::{Command, CommandKind, Entry, MemberId, Now, Slot};

impl Command {
    /// The command that raises the protocol to `version`: four bytes, little-endian.
    pub(crate) fn upgrade(version: u32) -> Self {
        Self {
            kind: CommandKind::UPGRADE,
            payload: version.to_le_bytes().to_vec().into(),
            ..Self::default()
        }
    }

    /// The protocol version that this command raises the group's to, if it does.
    pub fn upgrades_to(&self) -> Option<u32> {
        if self.kind != CommandKind::UPGRADE {
            return None;
        }
        self.payload[..].try_into().ok().map(u32::from_le_bytes)
    }
}

impl Paxos {
    /// The protocol version in force, as far as is known here.
    pub fn protocol(&self) -> u32 {
        let raised = self.upgrades.values().copied().max();
        raised.unwrap_or(0).max(self.base.protocol)
    }

    /// The one in force behind `slot`.
    pub(crate) fn protocol_at(&self, slot: Slot) -> u32 {
        let raised = self.upgrades.range(..=slot).map(|(_, version)| *version);
        raised.max().unwrap_or(0).max(self.base.protocol)
    }

    /// If this member leads, and all members have said that they speak it: proposes to raise the
    /// protocol. [`Output::ProtocolChanged`] tells when it is so, here as on each member.
    pub fn upgrade(&mut self, now: Now, version: u32) -> Result<(), UpgradeRefused> {
        if !self.enter(now) {
            return Err(UpgradeRefused::Ended);
        }
        if !matches!(self.office, Office::Leader(_)) {
            let leader = self.leader();
            return Err(UpgradeRefused::NotLeader { leader });
        }
        let in_force = self.protocol();
        if version <= in_force {
            return Err(UpgradeRefused::NotAbove { in_force });
        }
        let max = self.settings.protocol_max;
        if version > max {
            return Err(UpgradeRefused::Unknown { max });
        }
        let silent = self
            .peers
            .iter()
            .filter(|(_, peer)| peer.protocol_max < version || peer.barred);
        let members: Vec<MemberId> = silent.map(|(member, _)| *member).collect();
        if !members.is_empty() && !planted(Mutant::UpgradeBeforeAllCan) {
            return Err(UpgradeRefused::Unsupported { members });
        }
        let mut waiting = self.log.after(self.log.commit());
        let under_way = waiting.any(|entry| entry.command.kind == CommandKind::UPGRADE);
        drop(waiting);
        if under_way || !self.may_propose() || !self.has_room() {
            return Err(UpgradeRefused::Busy);
        }
        self.append_command(Command::upgrade(version));
        Ok(())
    }

    /// The entry is chosen: what the agreement itself takes from it.
    pub(crate) fn note_chosen(&mut self, entry: &Entry) {
        if let Some(version) = entry.command.upgrades_to() {
            self.raise_protocol(entry.slot, version);
        }
        self.note_decided(entry);
    }

    /// The chosen entry at `slot` raises the protocol. One that is not above the others before it has
    /// no effect, on any member.
    pub(crate) fn raise_protocol(&mut self, slot: Slot, version: u32) {
        if slot <= self.base.slot || version <= self.protocol_at(slot) {
            return;
        }
        let before = self.protocol();
        self.upgrades.insert(slot, version);
        self.journal
            .record(Record::Protocol { slot, version }, Effect::Nothing);
        self.note_protocol(before, slot);
    }

    /// Tells the shell if the protocol was raised; ends this member if it does not speak it.
    pub(crate) fn note_protocol(&mut self, before: u32, slot: Slot) {
        let protocol = self.protocol();
        if protocol > self.settings.protocol_max {
            self.end(Output::Outdated { slot, protocol });
        } else if protocol > before {
            self.outputs
                .push_back(Output::ProtocolChanged { slot, protocol });
        }
    }
}
