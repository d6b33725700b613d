//! Readers that wait for an index, in rounds: all that came before a round is asked for share its
//! answer, and nobody else does (rule R1).

use std::collections::BTreeMap;

use synod_paxos::{Now, ReadId, Slot};
use tokio::sync::oneshot;

/// Gap before a failed round is asked for again.
const READ_AGAIN_NS: u64 = 10_000_000;

/// Readers under way.
#[derive(Default)]
pub(super) struct Reads {
    pub(super) last: u64,
    pub(super) rounds: BTreeMap<ReadId, Vec<oneshot::Sender<Slot>>>,
    pub(super) again: Vec<oneshot::Sender<Slot>>,
    /// Not before this, in `mono_ns`.
    pub(super) again_ns: u64,
}

// === impl Reads ===

impl Reads {
    pub(super) fn may_ask(&self, now: Now) -> bool {
        self.again.is_empty() || now.mono_ns >= self.again_ns
    }

    /// Begins a round for these readers and those whose last one failed; `None` when nobody waits.
    pub(super) fn ask(&mut self, new: Vec<oneshot::Sender<Slot>>) -> Option<ReadId> {
        let mut readers = std::mem::take(&mut self.again);
        readers.extend(new);
        readers.retain(|it| !it.is_closed());
        if readers.is_empty() {
            return None;
        }
        self.last += 1;
        let id = ReadId(self.last);
        self.rounds.insert(id, readers);
        Some(id)
    }

    pub(super) fn ready(&mut self, id: ReadId, index: Slot) {
        for reader in self.rounds.remove(&id).unwrap_or_default() {
            // It may have given up.
            let _ = reader.send(index);
        }
    }

    /// Never answered from this round: they ask again in a new one (rule R1).
    pub(super) fn failed(&mut self, id: ReadId, now: Now) {
        self.again
            .extend(self.rounds.remove(&id).unwrap_or_default());
        self.again_ns = now.mono_ns + READ_AGAIN_NS;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_whose_round_failed_gets_the_answer_of_a_later_round_only() {
        let mut reads = Reads::default();
        let (sender, mut reader) = oneshot::channel();
        let first = reads.ask(vec![sender]).expect("somebody waits");
        let now = Now {
            mono_ns: 1_000,
            wall_ns: 0,
        };
        reads.failed(first, now);
        reads.ready(first, Slot(3));
        assert!(reader.try_recv().is_err());
        assert!(!reads.may_ask(now));
        let second = reads.ask(vec![]).expect("still waits");
        assert_ne!(first, second);
        reads.ready(second, Slot(5));
        assert_eq!(reader.try_recv(), Ok(Slot(5)));
        assert_eq!(reads.ask(vec![]), None);
    }
}
