//! How chosen entries come from the node to apply: fresh ones from memory, all others from the
//! log. The node never waits: what does not fit is read from the log later.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use synod_paxos::{Configuration, Entry, Slot};
use synod_proto::v1::Policy;
use tokio::sync::Notify;

use super::fold::Fold;

/// Fresh entries held, at most, in bytes.
const FRESH_BYTES: u64 = 16 << 20;

/// The log, readable from any thread.
pub trait EntrySource: Send + Sync + 'static {
    /// Entries `from..=through` in slot order, about `max_bytes` of them, at least one. Asked only
    /// for slots that were announced as chosen and synced here. May block on the disk. Errors that
    /// pass: `WouldBlock`, an entry is being repaired; `NotFound`, a snapshot has taken its place.
    fn read(&self, from: Slot, through: Slot, max_bytes: u64) -> io::Result<Vec<Entry>>;
}

/// What the group begins with.
#[derive(Clone, Debug)]
pub struct Beginning {
    /// The membership of epoch 1.
    pub configuration: Configuration,
    /// The protocol version that it began with.
    pub protocol: u32,
    /// Policy 1.
    pub policy: Policy,
}

impl Beginning {
    /// The tables before the first slot.
    pub(super) fn fold(&self) -> Fold {
        let configuration = self.configuration.clone();
        Fold::new(configuration, self.protocol, self.policy.clone())
    }
}

/// The node's end. Apply ends when it is dropped.
#[derive(Debug)]
pub struct FeedSender {
    shared: Arc<Shared>,
}

/// Apply's end.
#[derive(Debug)]
pub struct Feed {
    shared: Arc<Shared>,
}

/// What has come since apply last looked.
#[derive(Debug, Default)]
pub(super) struct News {
    /// Once: the genesis.
    pub(super) beginning: Option<Beginning>,
    /// Slots up to here are chosen and synced here.
    pub(super) commit: Slot,
    /// The node is gone.
    pub(super) closed: bool,
}

/// Where the next entry is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fresh {
    /// Here, with those after it.
    Entries(VecDeque<Entry>),
    /// In the log, as are all up to this slot.
    InLogThrough(Slot),
    /// Not chosen yet.
    NotChosen,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    news: News,
    /// In slot order, without gaps.
    fresh: VecDeque<Entry>,
    bytes: u64,
}

/// A new pair.
pub fn feed() -> (FeedSender, Feed) {
    let shared = Arc::new(Shared::default());
    let sender = FeedSender {
        shared: shared.clone(),
    };
    (sender, Feed { shared })
}

// === impl FeedSender ===

impl FeedSender {
    /// The group exists: called once per process, when the genesis is found or learnt.
    pub fn begin(&self, beginning: Beginning) {
        self.shared
            .with(|state| state.news.beginning = Some(beginning));
        self.shared.changed.notify_one();
    }

    /// All slots up to `through` are chosen and synced here; `entries` are the last of them, in
    /// order, ending at `through`, as far as they are at hand.
    pub fn chosen(&self, through: Slot, entries: Vec<Entry>) {
        self.shared.with(|state| {
            state.news.commit = state.news.commit.max(through);
            for entry in entries {
                let next = state
                    .fresh
                    .back()
                    .is_none_or(|last| last.slot.next() == entry.slot);
                if !next || state.bytes + entry.weight() > FRESH_BYTES {
                    // Those held are the older ones, which are needed first.
                    break;
                }
                state.bytes += entry.weight();
                state.fresh.push_back(entry);
            }
        });
        self.shared.changed.notify_one();
    }
}

impl Drop for FeedSender {
    fn drop(&mut self) {
        self.shared.with(|state| state.news.closed = true);
        self.shared.changed.notify_one();
    }
}

// === impl Feed ===

impl Feed {
    /// Waits until something has come.
    pub(super) async fn changed(&self) {
        self.shared.changed.notified().await;
    }

    /// What has come. The genesis is given once.
    pub(super) fn news(&self) -> News {
        self.shared.with(|state| News {
            beginning: state.news.beginning.take(),
            commit: state.news.commit,
            closed: state.news.closed,
        })
    }

    /// Takes fresh entries from `next` on, as far as they are at hand, `max` at most; what is older
    /// is thrown away.
    pub(super) fn take(&self, next: Slot, max: usize) -> Fresh {
        self.shared.with(|state| {
            while state.fresh.front().is_some_and(|first| first.slot < next) {
                state.pop();
            }
            match state.fresh.front() {
                Some(first) if first.slot == next => {
                    let count = max.min(state.fresh.len());
                    Fresh::Entries((0..count).map_while(|_| state.pop()).collect())
                }
                Some(first) => Fresh::InLogThrough(first.slot.prev()),
                None if next <= state.news.commit => Fresh::InLogThrough(state.news.commit),
                None => Fresh::NotChosen,
            }
        })
    }
}

impl State {
    fn pop(&mut self) -> Option<Entry> {
        let entry = self.fresh.pop_front()?;
        self.bytes -= entry.weight();
        Some(entry)
    }
}

impl Shared {
    fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use synod_paxos::{AgreedTime, Ballot, Command};

    fn entries(slots: std::ops::RangeInclusive<u64>) -> Vec<Entry> {
        slots
            .map(|slot| Entry {
                slot: Slot(slot),
                ballot: Ballot::default(),
                time: AgreedTime(0),
                seed: 0,
                command: Command::default(),
            })
            .collect()
    }

    fn slots(fresh: Fresh) -> Vec<u64> {
        match fresh {
            Fresh::Entries(entries) => entries.iter().map(|entry| entry.slot.0).collect(),
            other => panic!("expected entries, not {other:?}"),
        }
    }

    #[test]
    fn fresh_entries_come_in_order_and_once() {
        let (sender, feed) = feed();
        sender.chosen(Slot(2), entries(1..=2));
        sender.chosen(Slot(3), entries(3..=3));
        assert_eq!(slots(feed.take(Slot(1), 2)), [1, 2]);
        assert_eq!(slots(feed.take(Slot(3), 2)), [3]);
        assert_eq!(feed.take(Slot(4), 2), Fresh::NotChosen);
    }

    #[test]
    fn what_is_not_at_hand_is_in_the_log() {
        let (sender, feed) = feed();
        sender.chosen(Slot(5), entries(4..=5));
        assert_eq!(feed.take(Slot(1), 10), Fresh::InLogThrough(Slot(3)));
        assert_eq!(
            slots(feed.take(Slot(5), 10)),
            [5],
            "older ones are thrown away"
        );
        sender.chosen(Slot(9), vec![]);
        assert_eq!(feed.take(Slot(6), 10), Fresh::InLogThrough(Slot(9)));
    }

    #[test]
    fn a_gap_between_fresh_entries_is_read_from_the_log() {
        let (sender, feed) = feed();
        sender.chosen(Slot(1), entries(1..=1));
        sender.chosen(Slot(9), entries(9..=9));
        assert_eq!(slots(feed.take(Slot(1), 10)), [1]);
        assert_eq!(feed.take(Slot(2), 10), Fresh::InLogThrough(Slot(9)));
    }

    #[test]
    fn memory_is_bounded_and_keeps_the_oldest() {
        let (sender, feed) = feed();
        let most = FRESH_BYTES / Entry::OVERHEAD_BYTES;
        for slot in 1..=most + 100 {
            sender.chosen(Slot(slot), entries(slot..=slot));
        }
        assert_eq!(slots(feed.take(Slot(1), usize::MAX)).len() as u64, most);
        assert_eq!(
            feed.take(Slot(most + 1), 1),
            Fresh::InLogThrough(Slot(most + 100))
        );
    }

    #[tokio::test]
    async fn the_end_of_the_node_is_news() {
        let (sender, feed) = feed();
        assert!(!feed.news().closed);
        drop(sender);
        feed.changed().await;
        assert!(feed.news().closed);
    }
}
