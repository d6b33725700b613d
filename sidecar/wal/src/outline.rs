//! What records mean, in a few numbers: the rules of [`synod_paxos::record`], used both before a
//! record is taken (on what is written and not yet synced) and when it is replayed.

use std::collections::BTreeMap;

use synod_paxos::{Ballot, Boot, Epoch, MemberId, Slot};

use crate::format::{Kind, RecordHeader};

/// In epoch 1 everybody starts with this promise (rule M5).
pub(crate) const GENESIS_BALLOT: Ballot = Ballot {
    epoch: Epoch(1),
    round: 0,
    node: MemberId(0),
};

/// The state of a log without its entries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outline {
    pub(crate) boot: Boot,
    pub(crate) has_genesis: bool,
    pub(crate) promised: Ballot,
    pub(crate) accepted: Ballot,
    pub(crate) last: Slot,
    pub(crate) commit: Slot,
    /// The log begins behind this slot.
    pub(crate) base: Slot,
    /// The greatest `(accepted, last)` before a base took the place of the log.
    pub(crate) kept: (Ballot, Slot),
    /// Raises of the protocol behind the base.
    pub(crate) upgrades: BTreeMap<Slot, u32>,
    pub(crate) staged: Option<Staged>,
}

/// The part of an adoption that is there, without gaps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Staged {
    pub(crate) ballot: Ballot,
    pub(crate) first: Slot,
    pub(crate) last: Slot,
}

/// What a record does to the entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// None.
    Nothing,
    /// What is staged is thrown away.
    DropStaged,
    /// One more entry.
    Append,
    /// One more staged entry.
    Stage,
    /// The first staged entry; what was staged before is thrown away.
    StageAnew,
    /// The entries from `header.slot` on give way to the staged ones through `header.last`.
    Adopt,
    /// Another copy of an entry.
    Repair,
    /// The entries through `header.slot` are not needed any more.
    Compact,
    /// No entry is needed any more, and nothing that is staged.
    Install,
    /// One more entry, in place of all from its slot on; what is staged is thrown away.
    Learn,
    /// The entries behind `header.slot` are cut, and what is staged is thrown away.
    Enter,
}

// === impl Outline ===

impl Outline {
    /// Takes one record, or says why it cannot follow the earlier ones.
    pub(crate) fn advance(&mut self, header: &RecordHeader) -> Result<Effect, String> {
        if header.kind != Kind::Boot && (header.kind == Kind::Genesis) == self.has_genesis {
            return Err("genesis is not the first record, or there are two".to_owned());
        }
        match header.kind {
            Kind::Boot => self.boot(header),
            Kind::Genesis => {
                self.has_genesis = true;
                self.promised = GENESIS_BALLOT;
                self.accepted = GENESIS_BALLOT;
                Ok(Effect::Nothing)
            }
            Kind::Promise => self.promise(header),
            Kind::Append => self.append(header),
            Kind::Stage => self.stage(header),
            Kind::Adopt => self.adopt(header),
            Kind::Commit => {
                if header.slot > self.last {
                    return Err(format!("commit {} beyond last {}", header.slot, self.last));
                }
                self.commit = self.commit.max(header.slot);
                Ok(Effect::Nothing)
            }
            // Cut since it was asked for, or below the log: changes nothing.
            Kind::Repair if header.slot > self.last || header.slot <= self.base => {
                Ok(Effect::Nothing)
            }
            Kind::Repair => Ok(Effect::Repair),
            Kind::Compact => self.compact(header),
            Kind::Install => self.install(header),
            Kind::Protocol => self.protocol(header),
            Kind::Join if self.last > Slot::ZERO => {
                Err(format!("joined with a log up to slot {}", self.last))
            }
            Kind::Join => Ok(Effect::Nothing),
            Kind::Learn => self.learn(header),
            Kind::Enter => self.enter(header),
        }
    }

    fn learn(&mut self, header: &RecordHeader) -> Result<Effect, String> {
        let slot = header.slot;
        if slot <= self.commit || slot > self.last.next() {
            return Err(format!(
                "slot {slot} learnt over a log with commit {} and last {}",
                self.commit, self.last
            ));
        }
        self.kept = self.kept.max((self.accepted, self.last));
        (self.last, self.commit) = (slot, slot);
        self.staged = None;
        Ok(Effect::Learn)
    }

    fn enter(&mut self, header: &RecordHeader) -> Result<Effect, String> {
        let (slot, ballot) = (header.slot, header.ballot);
        if slot < self.commit || slot > self.last {
            return Err(format!(
                "an epoch ends at slot {slot} of a log with commit {} and last {}",
                self.commit, self.last
            ));
        }
        if ballot <= self.promised || ballot.round != 0 {
            return Err(format!(
                "an epoch entered in {ballot} while {} is promised",
                self.promised
            ));
        }
        (self.last, self.commit) = (slot, slot);
        (self.promised, self.accepted) = (ballot, ballot);
        self.staged = None;
        Ok(Effect::Enter)
    }

    fn compact(&mut self, header: &RecordHeader) -> Result<Effect, String> {
        let slot = header.slot;
        if slot <= self.base || slot > self.last {
            return Err(format!(
                "a log from behind {} to {} begins behind {slot}",
                self.base, self.last
            ));
        }
        self.begin_behind(slot);
        Ok(Effect::Compact)
    }

    fn install(&mut self, header: &RecordHeader) -> Result<Effect, String> {
        let slot = header.slot;
        if slot <= self.commit {
            return Err(format!("commit {} replaced by base {slot}", self.commit));
        }
        self.kept = self.kept.max((self.accepted, self.last));
        self.last = slot;
        self.staged = None;
        self.begin_behind(slot);
        Ok(Effect::Install)
    }

    fn begin_behind(&mut self, slot: Slot) {
        self.base = slot;
        self.commit = self.commit.max(slot);
        self.upgrades = self.upgrades.split_off(&slot.next());
    }

    fn protocol(&mut self, header: &RecordHeader) -> Result<Effect, String> {
        if header.slot > self.last {
            return Err(format!(
                "a protocol from slot {} beyond last {}",
                header.slot, self.last
            ));
        }
        let version = u32::try_from(header.last.0).map_err(|_| "no such protocol".to_owned())?;
        if header.slot > self.base {
            self.upgrades.insert(header.slot, version);
        }
        Ok(Effect::Nothing)
    }

    /// A start knows nothing of what an earlier life had staged.
    fn boot(&mut self, header: &RecordHeader) -> Result<Effect, String> {
        let boot = Boot(header.slot.0);
        if boot <= self.boot {
            return Err(format!("start {boot} after start {}", self.boot));
        }
        self.boot = boot;
        self.staged = None;
        Ok(Effect::DropStaged)
    }

    fn promise(&mut self, header: &RecordHeader) -> Result<Effect, String> {
        if header.ballot < self.promised {
            return Err(format!("promise {} after {}", header.ballot, self.promised));
        }
        self.promised = header.ballot;
        if self
            .staged
            .is_some_and(|staged| staged.ballot < self.promised)
        {
            self.staged = None;
            return Ok(Effect::DropStaged);
        }
        Ok(Effect::Nothing)
    }

    fn append(&mut self, header: &RecordHeader) -> Result<Effect, String> {
        if header.slot != self.last.next() {
            return Err(format!("slot {} after slot {}", header.slot, self.last));
        }
        if header.ballot != self.accepted {
            return Err(format!(
                "slot {} in ballot {} while {} is accepted",
                header.slot, header.ballot, self.accepted
            ));
        }
        self.last = header.slot;
        Ok(Effect::Append)
    }

    fn stage(&mut self, header: &RecordHeader) -> Result<Effect, String> {
        if header.slot == Slot::ZERO || header.under > self.promised {
            return Err(format!(
                "slot {} staged in ballot {} while {} is promised",
                header.slot, header.under, self.promised
            ));
        }
        if let Some(staged) = &mut self.staged
            && staged.ballot == header.under
        {
            if header.slot == staged.last.next() {
                staged.last = header.slot;
                return Ok(Effect::Stage);
            }
            if (staged.first..=staged.last).contains(&header.slot) {
                // One value per ballot and slot (invariant I3): it is there already.
                return Ok(Effect::Nothing);
            }
        }
        self.staged = Some(Staged {
            ballot: header.under,
            first: header.slot,
            last: header.slot,
        });
        Ok(Effect::StageAnew)
    }

    fn adopt(&mut self, header: &RecordHeader) -> Result<Effect, String> {
        let (ballot, from, last) = (header.ballot, header.slot, header.last);
        if from <= self.commit || from > self.last.next() || last.next() < from {
            return Err(format!(
                "adoption of {from}..={last} over a log with commit {} and last {}",
                self.commit, self.last
            ));
        }
        if ballot <= self.accepted || ballot > self.promised {
            return Err(format!(
                "adoption in {ballot} with {} accepted and {} promised",
                self.accepted, self.promised
            ));
        }
        let complete = last < from
            || self.staged.is_some_and(|staged| {
                staged.ballot == ballot && staged.first <= from && staged.last >= last
            });
        if !complete {
            return Err(format!("adoption of {from}..={last} without its entries"));
        }
        self.accepted = ballot;
        self.last = last;
        self.staged = None;
        Ok(Effect::Adopt)
    }
}
