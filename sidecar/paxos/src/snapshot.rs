//! Snapshots in place of the start of a log: forgetting what one stands for, beginning anew behind
//! one, and finding out that one is needed. Making, fetching and keeping them is the shell's matter.

use crate::base::Base;
use crate::error::SnapshotRefused;
use crate::journal::Effect;
use crate::message::{Lane, Message};
use crate::output::Output;
use crate::paxos::Paxos;
use crate::record::Record;
use crate::types::{AgreedTime, Ballot, MemberId, Now, Slot};

/// Protocol version from which on a log may begin behind a snapshot.
const PROTOCOL: u32 = 2;

/// A base that is on its way to the disk; apply hears of it when it is there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Installing {
    slot: Slot,
    /// The log in memory was cut for it: what is synced meanwhile is of the log before.
    pub(crate) cut: bool,
}

impl Paxos {
    /// A snapshot of this base is in this member's own store and was read back: everything up to its
    /// slot is forgotten. Does nothing when that much is forgotten already. The caller answers for it
    /// that neither its app nor a snapshot that it may go back to needs the entries.
    pub fn handle_snapshot(&mut self, now: Now, base: Base) -> Result<(), SnapshotRefused> {
        self.check_base(now, &base)?;
        if base.slot <= self.base.slot {
            return Ok(());
        }
        let (slot, delivered) = (base.slot, self.delivered);
        if slot > delivered {
            return Err(SnapshotRefused::Beyond { slot, delivered });
        }
        self.compact(base, Effect::Nothing);
        Ok(())
    }

    /// The snapshot that was asked for ([`Output::NeedSnapshot`]), or a later one, is in this
    /// member's own store and was checked: the log goes on behind it. If that is news to the log,
    /// [`Output::Installed`] follows. Called at a start too, before [`Self::handle_applied`], when
    /// the own store has a snapshot behind [`Self::last`].
    ///
    /// If the log holds that very entry, only the commit rises (rule L4), and what is before it goes.
    /// Otherwise all of the log goes. Nothing that was chosen is lost with it. Let the log hold at
    /// `slot` an entry of another ballot than the chosen one, and one at `t` behind it. A ballot's
    /// votes are for a whole log: had `t` been chosen, so would have been the entry before it at
    /// `slot`, and there are not two. If the log ends before `slot`, what it holds is chosen or was
    /// replaced.
    ///
    /// That `accepted` stays makes no wrong promise either. Say it is `a`, and the leader of `a` had
    /// another entry at `slot`. Then the chosen one was chosen in a ballot above `a` (what is chosen
    /// below `a` is in its log), whose phase-1 quorum had promised not to vote in `a` any more, and
    /// this member was not one of it, or `accepted = a` were not enough for a vote. So no quorum in
    /// `a` comes about with this member's vote, and each phase-1 quorum has one that tells of a
    /// greater `accepted`.
    pub fn handle_installed(&mut self, now: Now, base: Base) -> Result<(), SnapshotRefused> {
        self.check_base(now, &base)?;
        let slot = base.slot;
        if self.log.ballot_at(slot) == Some(base.ballot) {
            self.raise_commit(slot);
        }
        if slot <= self.delivered || slot <= self.base.slot {
            return Ok(());
        }
        let cut = slot > self.log.commit();
        if cut {
            self.install(base);
        } else {
            self.compact(base, Effect::Based(slot));
        }
        self.installing = Some(Installing { slot, cut });
        self.persist_now();
        Ok(())
    }

    /// What a snapshot of this slot is to say of the log. `time` is the stamp of the entry there,
    /// which apply has. `None` when the slot is not known to be chosen here, or was forgotten.
    pub fn base_at(&self, slot: Slot, time: AgreedTime) -> Option<Base> {
        if slot > self.log.commit() {
            return None;
        }
        Some(Base {
            slot,
            ballot: self.log.ballot_at(slot)?,
            time,
            protocol: self.protocol_at(slot),
            configuration: self.membership.at(&self.base, slot).clone(),
            former: self.membership.former_at(&self.base, slot),
        })
    }

    /// What this member's log begins behind.
    pub fn base(&self) -> &Base {
        &self.base
    }

    /// A snapshot of this slot or a later one is needed: see [`Output::NeedSnapshot`].
    pub fn needs_snapshot(&self) -> Option<Slot> {
        self.wanted.filter(|slot| self.lacks(*slot))
    }

    fn check_base(&mut self, now: Now, base: &Base) -> Result<(), SnapshotRefused> {
        if !self.enter(now) {
            return Err(SnapshotRefused::Ended);
        }
        let in_force = self.protocol().max(base.protocol);
        if in_force < PROTOCOL {
            return Err(SnapshotRefused::Protocol { in_force });
        }
        let slot = base.slot;
        let held = self.log.ballot_at(slot);
        let configuration = self.membership.at(&self.base, slot);
        let same_members = base.configuration == *configuration
            && base.former == self.membership.former_at(&self.base, slot);
        let later_epoch = base.configuration.epoch > configuration.epoch;
        let other = held.is_some_and(|held| {
            // A raise of the protocol, or a stop-sign, may be in an entry that cannot be read here.
            let known = self.protocol_at(slot);
            let unread = self.faulty.first().is_some_and(|first| first <= slot);
            let agrees = (base.protocol == known || (base.protocol > known && unread))
                && (same_members || (later_epoch && unread));
            slot <= self.log.commit() && !(held == base.ballot && agrees)
        });
        let known = slot < self.log.first() || same_members || later_epoch;
        if other || !known || base.configuration.check().is_err() {
            return Err(SnapshotRefused::OtherHistory { slot });
        }
        Ok(())
    }

    /// The log begins behind a base that is part of it.
    fn compact(&mut self, base: Base, effect: Effect) {
        self.log.compact(base.slot);
        self.faulty.forget(base.slot);
        self.acceptor.forget(base.slot);
        self.journal.record(Record::Compact(base.clone()), effect);
        self.begin_behind(base);
        self.persist_now();
    }

    /// The log begins anew behind a base that it does not hold.
    fn install(&mut self, base: Base) {
        self.resign();
        self.log.replace(base.slot, base.ballot, base.time);
        self.faulty.forget(Slot(u64::MAX));
        self.acceptor.begin_anew(base.slot);
        self.entrance.lose_sight();
        self.clock.stamped(self.now.mono_ns, self.log.time());
        let effect = Effect::Based(base.slot);
        self.journal.record(Record::Install(base.clone()), effect);
        self.begin_behind(base);
    }

    fn begin_behind(&mut self, base: Base) {
        let before = self.protocol();
        let epoch = self.epoch();
        self.upgrades = self.upgrades.split_off(&base.slot.next());
        self.membership.forget(base.slot);
        self.base = base;
        self.note_protocol(before, self.base.slot);
        if self.epoch() > epoch {
            self.enter_by_base();
        }
    }

    /// The base up to `slot` is synced.
    pub(crate) fn based(&mut self, slot: Slot) {
        let Some(installing) = self.installing.take_if(|it| it.slot == slot) else {
            // A later one is under way.
            return;
        };
        self.acceptor.synced_last = self.acceptor.synced_last.max(slot);
        self.delivered = self.delivered.max(slot);
        let base = self.base.clone();
        assert_eq!(
            base.slot, slot,
            "the log begins where it was installed last"
        );
        let configuration = base.configuration.clone();
        self.outputs.push_back(Output::Installed { base });
        if configuration.epoch > self.membership.told {
            self.tell_configuration(slot, configuration);
        }
        if installing.cut {
            self.promise_held_back();
            self.ask_again();
        }
    }

    /// Entries up to `slot` are needed, and are in no log that was asked.
    fn want(&mut self, slot: Slot) {
        if self.needs_snapshot() < Some(slot) && self.removed().is_none() {
            self.wanted = Some(slot);
            self.outputs
                .push_back(Output::NeedSnapshot { at_least: slot });
        }
    }

    fn lacks(&self, slot: Slot) -> bool {
        self.log.commit() < slot || self.faulty.first().is_some_and(|first| first <= slot)
    }

    /// A peer's log begins behind this entry, so it is chosen: with it all that is before it (rule
    /// L4). Says whether nothing up to it is missing here.
    pub(crate) fn learn_base(&mut self, slot: Slot, ballot: Ballot) -> bool {
        if self.log.ballot_at(slot) == Some(ballot) {
            self.raise_commit(slot);
        }
        if self.lacks(slot) {
            self.want(slot);
        }
        self.log.commit() >= slot
    }

    /// A peer does not have what this member asked it for, or needs.
    pub(crate) fn handle_compacted(&mut self, from: MemberId, slot: Slot, ballot: Ballot) {
        if slot == Slot::ZERO {
            self.counters.impossible_messages += 1;
            return;
        }
        if self.learn_base(slot, ballot) && from == self.acceptor.promised.node {
            self.ask_again();
        }
    }

    /// Tells the leader where this log is now: it sends what is behind that.
    fn ask_again(&mut self) {
        let ballot = self.acceptor.promised;
        if ballot == self.acceptor.accepted {
            self.vote(true);
        } else if ballot.is_elected() && ballot.node != self.me {
            let through = Slot::ZERO;
            self.send(ballot.node, Lane::Log, Message::Staged { ballot, through });
        }
    }

    /// Tells a peer that it needs a snapshot.
    pub(crate) fn tell_compacted(&mut self, to: MemberId) {
        let (slot, ballot) = (self.base.slot, self.base.ballot);
        if slot > Slot::ZERO {
            self.send(to, Lane::Log, Message::Compacted { slot, ballot });
        }
    }
}
