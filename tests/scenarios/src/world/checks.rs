//! What must never be, looked at whatever a script says: it fails then, and its output cannot be
//! written anew.

use std::collections::BTreeMap;

use prost::Message as _;
use synod_paxos::{Ballot, Entry, EntryHash, Record, Slot};
use synod_proto::v1::Request;
use synod_sidecar::apply::Execute;

/// What was seen in the whole group.
#[derive(Debug, Default)]
pub(super) struct Checks {
    values: BTreeMap<(Ballot, Slot), EntryHash>,
    chosen: BTreeMap<Slot, Entry>,
    commits: BTreeMap<u32, Slot>,
    /// The state of an app behind each slot.
    states: BTreeMap<Slot, String>,
    found: Vec<String>,
}

// === impl Checks ===

impl Checks {
    pub(super) fn take(&mut self) -> Vec<String> {
        std::mem::take(&mut self.found)
    }

    pub(super) fn found(&mut self, what: String) {
        self.found.push(what);
    }

    /// I3: one value per ballot and slot.
    pub(super) fn written(&mut self, member: u32, record: &Record) {
        let (Record::Append(entry) | Record::Stage { entry, .. } | Record::Learn(entry)) = record
        else {
            return;
        };
        let (slot, ballot, hash) = (entry.slot, entry.ballot, entry.hash());
        if *self.values.entry((ballot, slot)).or_insert(hash) != hash {
            self.found(format!(
                "{member} writes a second value for slot {slot} in ballot {ballot}"
            ));
        }
    }

    /// I4: a slot that was chosen never changes.
    pub(super) fn chosen(&mut self, member: u32, entry: &Entry) {
        let slot = entry.slot;
        let known = self.chosen.entry(slot).or_insert_with(|| entry.clone());
        if known != entry {
            self.found(format!("slot {slot} is chosen otherwise on {member}"));
        }
    }

    /// I5: commit never goes down while a process lives.
    pub(super) fn commit(&mut self, member: u32, commit: Slot) {
        let before = self.commits.insert(member, commit).unwrap_or_default();
        if commit < before {
            self.found(format!("commit of {member} goes from {before} to {commit}"));
        }
    }

    pub(super) fn started(&mut self, member: u32) {
        self.commits.remove(&member);
    }

    /// I6: copies have equal states behind equal slots.
    pub(super) fn executed(&mut self, member: u32, slot: Slot, state: String) {
        let known = self.states.entry(slot).or_insert_with(|| state.clone());
        if *known != state {
            let known = known.clone();
            self.found(format!(
                "the app of {member} is in state `{state}` behind slot {slot}, another in `{known}`"
            ));
        }
    }

    /// A2: every app is sent the same, time and random bits included: what was chosen.
    pub(super) fn sends(&mut self, member: u32, execute: &Execute) {
        let slot = execute.slot;
        let is_chosen = self.chosen.get(&slot).is_some_and(|entry| {
            let request = Request::decode(entry.command.payload.clone());
            (execute.time, execute.seed) == (entry.time, entry.seed)
                && request.is_ok_and(|it| it == *execute.request)
        });
        if !is_chosen {
            self.found(format!(
                "{member} sends its app something else at slot {slot} than was chosen"
            ));
        }
    }

    /// All that is known to be chosen.
    pub(super) fn history(&self) -> &BTreeMap<Slot, Entry> {
        &self.chosen
    }
}
