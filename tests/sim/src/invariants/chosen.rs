//! I4: a chosen slot never changes; and no member believes more to be chosen than is.
//!
//! The checker counts votes itself: a slot is chosen once a phase-2 quorum of the voters of an epoch
//! has, in one ballot of that epoch, a *synced* log that reaches it. Source: Lamport, *Paxos Made Simple* (2001), section
//! 2.1 (what chosen means) and P2a; Howard, Malkhi, Spiegelman, *Flexible Paxos* (2016) for the
//! size of the quorum.

use std::collections::BTreeMap;

use synod_paxos::{Ballot, Base, Configuration, Entry, Epoch, Slot};

use super::Violation;
use super::epochs::{self, Epochs};
use crate::disk::Disk;
use crate::network::index_of;

/// Ballots whose votes are remembered; older ones cannot choose anything any more in practice.
const BALLOTS: usize = 256;

/// What is chosen, by the checker's own count.
#[derive(Debug)]
pub(crate) struct Chosen {
    pub(crate) epochs: Epochs,
    votes: BTreeMap<Ballot, Vec<Slot>>,
    /// All slots up to here are chosen.
    through: Slot,
    /// The chosen entries, slot 1 at index 0; at most `through`.
    values: Vec<Entry>,
    /// Per member: its log was compared with `values` up to here since it was last cut.
    compared: Vec<Slot>,
}

// === impl Chosen ===

impl Chosen {
    pub(crate) fn new(machines: usize, genesis: &Configuration) -> Self {
        Self {
            epochs: Epochs::new(genesis, machines),
            votes: BTreeMap::new(),
            through: Slot::ZERO,
            values: Vec::new(),
            compared: vec![Slot::ZERO; machines],
        }
    }

    /// A member's disk has finished a sync.
    pub(crate) fn synced(&mut self, member: usize, disk: &Disk) -> Result<(), Violation> {
        let state = disk.synced();
        let machines = self.compared.len();
        let Some((voters, quorum)) = self.epochs.quorum(state.accepted.epoch) else {
            let text = format!(
                "member {} votes in {}, an epoch that nobody chose",
                member + 1,
                state.accepted
            );
            return Err(Violation::new("M1", text));
        };
        let votes = self
            .votes
            .entry(state.accepted)
            .or_insert_with(|| vec![Slot::ZERO; machines]);
        votes[member] = votes[member].max(state.last);
        let voters = voters.into_iter();
        let mut sorted: Vec<Slot> = voters.map(|it| votes[index_of(it)]).collect();
        sorted.sort_unstable_by(|a, b| b.cmp(a));
        let point = sorted[quorum - 1];
        self.through = self.through.max(point);
        if self.votes.len() > BALLOTS {
            self.votes.pop_first();
        }
        // The log that was voted for is still the one on the disk: no later adoption cut it.
        if disk.written().accepted == state.accepted {
            self.compare(member, point, disk)?;
        }
        Ok(())
    }

    /// The member's log up to `through` is what was chosen.
    fn compare(&mut self, member: usize, through: Slot, disk: &Disk) -> Result<(), Violation> {
        for slot in self.compared[member].0 + 1..=through.0 {
            let slot = Slot(slot);
            let Some(entry) = disk.entry(slot) else { break };
            match self.values.get(slot.0 as usize - 1) {
                None if slot.0 as usize == self.values.len() + 1 => self.push(entry)?,
                None => break,
                Some(first) if same_value(first, entry) => {}
                Some(first) => {
                    return Err(Violation::new(
                        "I4",
                        format!(
                            "slot {slot} was chosen as {} (ballot {}), and member {} has {} (ballot {})",
                            first.command.id,
                            first.ballot,
                            member + 1,
                            entry.command.id,
                            entry.ballot
                        ),
                    ));
                }
            }
            self.compared[member] = slot;
        }
        Ok(())
    }

    fn push(&mut self, entry: &Entry) -> Result<(), Violation> {
        if let Some(before) = self.values.last() {
            epochs::follows(before, entry)?;
        }
        self.epochs.chosen(entry)?;
        self.values.push(entry.clone());
        Ok(())
    }

    /// A base takes the place of the member's log, or of its start: it is what was chosen (I4, I6
    /// across snapshots).
    pub(crate) fn based(&mut self, member: usize, base: &Base) -> Result<(), Violation> {
        let chosen = self.value(base.slot);
        if chosen.is_none_or(|it| (it.ballot, it.time) != (base.ballot, base.time)) {
            let text = format!(
                "member {} begins behind {base:?}, chosen is {chosen:?}",
                member + 1
            );
            return Err(Violation::new("I4", text));
        }
        self.begins(member, base.slot);
        self.epochs.acts(member, &base.configuration)
    }

    /// The member's log has nothing up to `base` to be compared.
    pub(crate) fn begins(&mut self, member: usize, base: Slot) {
        self.compared[member] = self.compared[member].max(base);
    }

    /// The chosen entry at `slot`, as far as it was seen.
    pub(crate) fn value(&self, slot: Slot) -> Option<&Entry> {
        self.values
            .get(usize::try_from(slot.0).ok()?.checked_sub(1)?)
    }

    /// The member's log was cut behind `keep`, or it came back from a crash with this much.
    pub(crate) fn cut(&mut self, member: usize, keep: Slot) {
        self.compared[member] = self.compared[member].min(keep);
    }

    /// A member says, to itself or to others, that all up to `commit` is chosen.
    pub(crate) fn claimed(&self, member: usize, commit: Slot, how: &str) -> Result<(), Violation> {
        if commit > self.through {
            return Err(Violation::new(
                "I4",
                format!(
                    "member {} {how} commit {commit}, and only {} is chosen by a quorum",
                    member + 1,
                    self.through
                ),
            ));
        }
        Ok(())
    }

    /// A member's commit reached `commit`: its own log must hold what was chosen.
    pub(crate) fn committed(
        &mut self,
        member: usize,
        commit: Slot,
        disk: &Disk,
    ) -> Result<(), Violation> {
        self.claimed(member, commit, "has")?;
        self.compare(member, commit, disk)
    }

    /// The epoch of the last entry that was seen chosen.
    pub(crate) fn reached(&self) -> Option<Epoch> {
        self.values.last().map(|it| it.ballot.epoch)
    }

    /// A member hands this entry to its apply.
    pub(crate) fn handed(&self, member: usize, entry: &Entry) -> Result<(), Violation> {
        self.told(member, entry, "applies")
    }

    /// A member takes this entry for chosen, or gives it to others as such.
    pub(crate) fn told(&self, member: usize, entry: &Entry, how: &str) -> Result<(), Violation> {
        match self.values.get(entry.slot.0 as usize - 1) {
            Some(chosen) if same_value(chosen, entry) => Ok(()),
            Some(chosen) => Err(Violation::new(
                "I4",
                format!(
                    "member {} {how} {} at slot {}, where {} was chosen",
                    member + 1,
                    entry.command.id,
                    entry.slot,
                    chosen.command.id
                ),
            )),
            None => Err(Violation::new(
                "I4",
                format!(
                    "member {} {how} slot {}, which is not chosen",
                    member + 1,
                    entry.slot
                ),
            )),
        }
    }

    pub(crate) fn through(&self) -> Slot {
        self.through
    }
}

/// The ballot of an entry is that of its first proposal, so equal values are equal in it too.
fn same_value(a: &Entry, b: &Entry) -> bool {
    a == b
}
