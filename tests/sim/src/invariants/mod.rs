//! What must hold at each step, over the whole group: one invariant per file, each with its source.
//!
//! In: what members write, sync, send, apply and answer, as the world sees it. Out: the first
//! violation. Each check is incremental, so that a step stays cheap however long the run. I8 (at
//! most one visible lease) has nothing to look at before leases exist.

pub(crate) mod answers;
pub(crate) mod applied;
pub(crate) mod chosen;
pub(crate) mod commit;
pub(crate) mod epochs;
pub(crate) mod kept;
pub(crate) mod limits;
pub(crate) mod once;
pub(crate) mod one_value;
pub(crate) mod promised;
pub(crate) mod read_index;
pub(crate) mod requests;
pub(crate) mod revisions;
pub(crate) mod sent;
#[cfg(test)]
mod tests;
pub(crate) mod time;
pub(crate) mod undone;
pub(crate) mod unsynced;
pub(crate) mod votes;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use synod_paxos::{Configuration, Message, Record, Slot};

use self::answers::Answers;
use self::applied::{Applied, Effect};
use self::chosen::Chosen;
use self::commit::Commit;
use self::once::Once;
use self::one_value::OneValue;
use self::promised::Promised;
use self::revisions::Revisions;
use crate::app::Register;
use crate::calendar::Life;
use crate::disk::Disk;

/// A broken invariant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which one, as the design numbers them.
    pub invariant: &'static str,
    /// What was seen.
    pub text: String,
    /// Virtual time at which it was seen, in nanoseconds.
    pub at_ns: u64,
}

/// All of them, with what they remember.
#[derive(Debug)]
pub(crate) struct Checks {
    pub(crate) promised: Promised,
    pub(crate) one_value: OneValue,
    pub(crate) chosen: Chosen,
    pub(crate) commit: Commit,
    pub(crate) applied: Applied,
    pub(crate) once: Once,
    pub(crate) answers: Answers,
    pub(crate) revisions: Revisions,
    /// Slots whose effects clients have seen, or may have.
    shown: BTreeSet<Slot>,
    /// Slots that nobody executes, and whether somebody may have been told otherwise.
    skips: BTreeMap<Slot, bool>,
    /// What they hold.
    skipped_ops: BTreeSet<u64>,
}

// === impl Violation ===

impl Violation {
    pub(crate) fn new(invariant: &'static str, text: String) -> Self {
        Self {
            invariant,
            text,
            at_ns: 0,
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = self.at_ns as f64 / 1e9;
        write!(f, "{} broken at {at:.6} s: {}", self.invariant, self.text)
    }
}

// === impl Checks ===

impl Checks {
    /// For so many machines, of a group that begins with this configuration.
    pub(crate) fn new(machines: usize, genesis: &Configuration, registers: u64) -> Self {
        Self {
            promised: Promised::new(machines),
            one_value: OneValue::default(),
            chosen: Chosen::new(machines, genesis),
            commit: Commit::new(machines),
            applied: Applied::default(),
            once: Once::default(),
            answers: Answers::new(registers),
            revisions: Revisions::new(),
            shown: BTreeSet::new(),
            skips: BTreeMap::new(),
            skipped_ops: BTreeSet::new(),
        }
    }

    /// A member writes a record upon what its disk holds.
    pub(crate) fn written(
        &mut self,
        member: usize,
        life: Life,
        record: &Record,
        disk: &Disk,
    ) -> Result<(), Violation> {
        match record {
            Record::Append(entry) => {
                let last = disk.entry(entry.slot.prev());
                self.chosen.epochs.appends(member, life, last, entry)?;
                self.one_value.written(member, entry)
            }
            Record::Stage { entry, .. } => self.one_value.written(member, entry),
            Record::Learn(entry) => {
                self.chosen.told(member, entry, "learns")?;
                self.chosen.cut(member, entry.slot.prev());
                self.one_value.written(member, entry)
            }
            Record::Enter {
                slot,
                configuration,
            } => {
                self.chosen.committed(member, *slot, disk)?;
                self.chosen.epochs.enters(member, life, configuration)
            }
            Record::Adopt { from, .. } => {
                self.chosen.cut(member, from.prev());
                Ok(())
            }
            Record::Compact(base) | Record::Install(base) => self.chosen.based(member, base),
            _ => Ok(()),
        }
    }

    /// A member's disk finished a sync.
    pub(crate) fn synced(&mut self, member: usize, disk: &Disk) -> Result<(), Violation> {
        self.promised.disk(member, disk.synced())?;
        self.chosen.synced(member, disk)
    }

    /// A member starts with what its disk kept.
    pub(crate) fn restarted(&mut self, member: usize, disk: &Disk) -> Result<(), Violation> {
        self.chosen.cut(member, disk.written().commit);
        self.chosen.begins(member, disk.base_slot());
        self.synced(member, disk)?;
        self.promised.restart(member);
        self.commit.restart(member);
        Ok(())
    }

    /// A message leaves a member.
    pub(crate) fn leaves(
        &self,
        member: usize,
        message: &Message,
        disk: &Disk,
        commit: Slot,
    ) -> Result<(), Violation> {
        unsynced::leaves(member, message, disk.synced())?;
        votes::leaves(member, message, disk.first_faulty_above(commit))?;
        self.chosen.epochs.leaves(member, message)?;
        let said = match message {
            Message::Promise { commit, .. }
            | Message::Prepare { commit, .. }
            | Message::Accept { commit, .. }
            | Message::AcceptSync { commit, .. } => *commit,
            Message::Heartbeat(heartbeat) => heartbeat.commit,
            Message::Learn { entries } => {
                let mut entries = entries.iter();
                return entries.try_for_each(|it| self.chosen.told(member, it, "teaches"));
            }
            _ => return Ok(()),
        };
        self.chosen.claimed(member, said, "announces")
    }

    /// A member's app executed a request, which that member takes note of; it knows of these skips.
    pub(crate) fn executed(
        &mut self,
        member: usize,
        skipped: &BTreeSet<Slot>,
        slot: Slot,
        effect: Effect,
    ) -> Result<(), Violation> {
        self.may_execute(member, slot)?;
        let Effect { work, result, .. } = effect;
        if self.applied.executed(member, skipped, slot, effect)? {
            self.once.executed(slot, work.op)?;
        }
        self.answers.changed(slot, work.register, result);
        Ok(())
    }

    /// The same, of an app that has gone astray and executes the request in its own way.
    pub(crate) fn executed_astray(
        &mut self,
        member: usize,
        skipped: &BTreeSet<Slot>,
        slot: Slot,
        effect: Effect,
    ) -> Result<(), Violation> {
        self.may_execute(member, slot)?;
        if self
            .applied
            .executed_astray(member, skipped, slot, effect)?
        {
            self.once.executed(slot, effect.work.op)?;
        }
        Ok(())
    }

    fn may_execute(&self, member: usize, slot: Slot) -> Result<(), Violation> {
        if self.skips.get(&slot) != Some(&false) {
            return Ok(());
        }
        let text = format!(
            "member {} executes slot {slot}, which all have promised not to execute",
            member + 1
        );
        Err(Violation::new("K1", text))
    }

    /// A client was answered, or may be, out of a state that contains these slots.
    pub(crate) fn shows(&mut self, slots: impl IntoIterator<Item = Slot>) {
        self.shown.extend(slots);
    }

    /// Some copy has executed the slot.
    pub(crate) fn was_executed(&self, slot: Slot) -> bool {
        self.applied.effects(slot).next().is_some()
    }

    /// A client was told what a copy that has gone astray has made of its write; of a read: slot 0.
    pub(crate) fn wrote_astray(&self, op: u64, slot: Slot) -> Result<(), Violation> {
        if slot == Slot::ZERO {
            return Ok(());
        }
        undone::answered(op, slot, &self.chosen)
    }

    /// Nobody executes this slot from now on, which holds `op`. True when that is news.
    pub(crate) fn skipped(&mut self, slot: Slot, unsure: bool, op: u64) -> Result<bool, Violation> {
        if let Some(before) = self.skips.get(&slot) {
            if *before == unsure {
                return Ok(false);
            }
            let text = format!("members disagree about the skip of slot {slot}");
            return Err(Violation::new("I6", text));
        }
        if self.shown.contains(&slot) && !unsure {
            let text = format!("slot {slot} was executed, perhaps answered, and is skipped");
            return Err(Violation::new("K1", text));
        }
        self.skips.insert(slot, unsure);
        self.skipped_ops.insert(op);
        self.answers.skipped(slot, unsure);
        Ok(true)
    }

    /// A client was told that its write is at `slot`.
    pub(crate) fn wrote(
        &mut self,
        op: u64,
        floor: Slot,
        slot: Slot,
        result: Register,
    ) -> Result<(), Violation> {
        undone::answered(op, slot, &self.chosen)?;
        if self.skips.get(&slot) == Some(&false) {
            let text = format!("operation {op} is answered at slot {slot}, which is skipped");
            return Err(Violation::new("K1", text));
        }
        self.answers
            .wrote(op, floor, slot, result, &self.applied, &self.once)
    }

    /// A client was told that its write, or the first that the one at `slot` repeats, was skipped.
    pub(crate) fn told_skipped(&self, op: u64, slot: Slot) -> Result<(), Violation> {
        undone::answered(op, slot, &self.chosen)?;
        if self.skipped_ops.contains(&op) {
            return Ok(());
        }
        let text = format!("operation {op} was said to be skipped at slot {slot}, and is not");
        Err(Violation::new("K2", text))
    }

    /// A client was told that its write is at `slot`, and that the response is gone.
    pub(crate) fn gone(&self, op: u64, slot: Slot) -> Result<(), Violation> {
        undone::answered(op, slot, &self.chosen)?;
        if self.once.slot_of(op) == Some(slot) || self.skips.contains_key(&slot) {
            return Ok(());
        }
        let text = format!("operation {op} was said to be at slot {slot}, where it is not");
        Err(Violation::new("I14", text))
    }
}
