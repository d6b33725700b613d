//! What was chosen, on its way to apply. The node puts in what is at hand; apply takes out from any
//! slot on, as often as it wants (a rebuilt copy begins again at the start), and what is not at
//! hand any more is read from the log.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use synod_paxos::{Entry, Slot};
use synod_wal::ReadError;
use tokio::sync::watch;

/// Entries kept at hand, in bytes.
const KEPT_BYTES: u64 = 32 << 20;
/// How much is taken out at a time, in bytes.
const TAKE_BYTES: u64 = 4 << 20;
/// How often a damaged entry is looked at again: a peer may have repaired it.
const REPAIR_POLL: Duration = Duration::from_millis(100);

/// Reads entries `from..=through` of the log, about as many bytes as given, at least one entry.
pub type ReadLog = Arc<dyn Fn(Slot, Slot, u64) -> Result<Vec<Entry>, ReadError> + Send + Sync>;

/// The chosen entries can be had no more.
#[derive(Debug, thiserror::Error)]
pub enum FeedError {
    /// The node has ended.
    #[error("the agreement has ended")]
    Ended,
    /// The log cannot be read.
    #[error("the agreed log cannot be read from slot {slot}: {error}")]
    Log {
        /// Where.
        slot: Slot,
        /// What the log said.
        error: ReadError,
    },
}

/// The end that apply takes from. Cheap to clone.
#[derive(Clone)]
pub struct Feed {
    shared: Arc<Shared>,
    chosen: watch::Receiver<Slot>,
}

/// The end that the node puts into.
#[derive(Debug)]
pub struct FeedSender {
    shared: Arc<Shared>,
    chosen: watch::Sender<Slot>,
}

struct Shared {
    kept: Mutex<Kept>,
    read: ReadLog,
}

/// Contiguous entries that end at the last chosen slot.
#[derive(Default)]
struct Kept {
    entries: VecDeque<Entry>,
    bytes: u64,
}

/// Both ends; `read` reads the log.
pub fn feed(read: ReadLog) -> (FeedSender, Feed) {
    let (sender, receiver) = watch::channel(Slot::ZERO);
    let shared = Arc::new(Shared {
        kept: Mutex::default(),
        read,
    });
    let feed = Feed {
        shared: shared.clone(),
        chosen: receiver,
    };
    let sender = FeedSender {
        shared,
        chosen: sender,
    };
    (sender, feed)
}

// === impl FeedSender ===

impl FeedSender {
    /// Everything up to `through` is chosen; `entries` are the last of it, as far as they are at
    /// hand.
    pub(super) fn push(&self, through: Slot, entries: Vec<Entry>) {
        let before = *self.chosen.borrow();
        assert!(through >= before, "what is chosen stays chosen");
        self.shared
            .kept
            .lock()
            .expect("no holder panics")
            .add(through, entries);
        self.chosen.send_replace(through);
    }
}

// === impl Feed ===

impl Feed {
    /// Chosen entries right behind `after`, in order, at least one: waits until there is one.
    pub async fn next(&self, after: Slot) -> Result<Vec<Entry>, FeedError> {
        let mut chosen = self.chosen.clone();
        let through = *chosen
            .wait_for(|it| *it > after)
            .await
            .map_err(|_| FeedError::Ended)?;
        let first = after.next();
        if let Some(entries) = self
            .shared
            .kept
            .lock()
            .expect("no holder panics")
            .take(first)
        {
            return Ok(entries);
        }
        self.read(first, through).await
    }

    /// The last slot known to be chosen, and its changes.
    pub fn chosen(&self) -> watch::Receiver<Slot> {
        self.chosen.clone()
    }

    async fn read(&self, first: Slot, through: Slot) -> Result<Vec<Entry>, FeedError> {
        let mut complained = false;
        loop {
            let read = self.shared.read.clone();
            let result = tokio::task::spawn_blocking(move || read(first, through, TAKE_BYTES))
                .await
                .map_err(|_| FeedError::Ended)?;
            match result {
                Ok(entries) => {
                    let starts = entries.first().is_some_and(|it| it.slot == first);
                    assert!(starts, "the log reads from the slot that was asked for");
                    return Ok(entries);
                }
                Err(ReadError::Faulty(header)) => {
                    if !complained {
                        tracing::warn!(slot = %header.slot, "a damaged entry waits for a copy from a peer");
                        complained = true;
                    }
                    if self.chosen.has_changed().is_err() {
                        return Err(FeedError::Ended);
                    }
                    tokio::time::sleep(REPAIR_POLL).await;
                }
                Err(error) => return Err(FeedError::Log { slot: first, error }),
            }
        }
    }
}

impl fmt::Debug for Feed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Feed")
            .field("chosen", &*self.chosen.borrow())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Shared")
    }
}

// === impl Kept ===

impl Kept {
    fn add(&mut self, through: Slot, entries: Vec<Entry>) {
        let next = entries.first().map_or(through.next(), |it| it.slot);
        let joins = self.entries.back().is_some_and(|it| it.slot.next() == next);
        if !joins {
            self.entries.clear();
            self.bytes = 0;
        }
        for entry in entries {
            let last = self.entries.back().map(|it| it.slot.next());
            assert!(last.is_none_or(|it| it == entry.slot), "in slot order");
            self.bytes += entry.weight();
            self.entries.push_back(entry);
        }
        let last = self.entries.back().map(|it| it.slot);
        if last.is_some_and(|it| it != through) {
            // What is kept must end at the last chosen slot.
            self.entries.clear();
            self.bytes = 0;
        }
        while self.bytes > KEPT_BYTES && self.entries.len() > 1 {
            let oldest = self.entries.pop_front().expect("longer than one");
            self.bytes -= oldest.weight();
        }
    }

    fn take(&self, first: Slot) -> Option<Vec<Entry>> {
        let begin = self.entries.front()?.slot;
        let at = usize::try_from(first.0.checked_sub(begin.0)?).ok()?;
        let mut bytes = 0;
        let taken: Vec<_> = self
            .entries
            .range(at.min(self.entries.len())..)
            .take_while(|it| {
                let fits = bytes == 0 || bytes + it.weight() <= TAKE_BYTES;
                bytes += it.weight();
                fits
            })
            .cloned()
            .collect();
        (!taken.is_empty()).then_some(taken)
    }
}

#[cfg(test)]
mod tests {
    use synod_paxos::{AgreedTime, Ballot, Command};

    use super::*;

    fn entry(slot: u64) -> Entry {
        Entry {
            slot: Slot(slot),
            ballot: Ballot::default(),
            time: AgreedTime(slot),
            seed: 0,
            command: Command::default(),
        }
    }

    fn entries(slots: std::ops::RangeInclusive<u64>) -> Vec<Entry> {
        slots.map(entry).collect()
    }

    /// A log that holds everything and says `reads` times where it was read.
    fn log(reads: Arc<Mutex<Vec<u64>>>) -> ReadLog {
        Arc::new(move |from, through, _| {
            reads.lock().expect("reads").push(from.0);
            Ok(entries(from.0..=through.0))
        })
    }

    async fn slots(feed: &Feed, after: u64) -> Vec<u64> {
        let entries = feed.next(Slot(after)).await.expect("entries");
        entries.into_iter().map(|it| it.slot.0).collect()
    }

    #[tokio::test]
    async fn what_is_at_hand_is_not_read_from_the_log_and_what_is_not_is() {
        let reads = Arc::<Mutex<Vec<u64>>>::default();
        let (sender, feed) = feed(log(reads.clone()));
        sender.push(Slot(5), entries(4..=5));
        assert_eq!(slots(&feed, 0).await, [1, 2, 3, 4, 5]);
        assert_eq!(slots(&feed, 3).await, [4, 5]);
        sender.push(Slot(6), entries(6..=6));
        assert_eq!(slots(&feed, 4).await, [5, 6]);
        assert_eq!(*reads.lock().expect("reads"), [1]);
        // A commit that jumps leaves a hole that only the log fills.
        sender.push(Slot(9), entries(9..=9));
        assert_eq!(slots(&feed, 6).await, [7, 8, 9]);
        assert_eq!(slots(&feed, 8).await, [9]);
        sender.push(Slot(10), vec![]);
        assert_eq!(slots(&feed, 9).await, [10]);
        assert_eq!(*reads.lock().expect("reads"), [1, 7, 10]);
    }

    #[tokio::test]
    async fn a_taker_waits_for_what_is_chosen_later_and_learns_of_the_end() {
        let (sender, feed) = feed(log(Arc::default()));
        let waiting = tokio::spawn({
            let feed = feed.clone();
            async move { slots(&feed, 0).await }
        });
        sender.push(Slot(1), entries(1..=1));
        assert_eq!(waiting.await.expect("taken"), [1]);
        drop(sender);
        assert!(matches!(feed.next(Slot(1)).await, Err(FeedError::Ended)));
    }

    #[test]
    fn what_is_kept_is_bounded_and_ends_at_the_last_chosen_slot() {
        let mut kept = Kept::default();
        let mut large = entry(1);
        for slot in 1..=20 {
            large.slot = Slot(slot);
            large.command.payload = vec![0; 4 << 20].into();
            kept.add(Slot(slot), vec![large.clone()]);
        }
        assert!(kept.bytes <= KEPT_BYTES, "{}", kept.bytes);
        assert_eq!(kept.take(Slot(20)).expect("kept").len(), 1);
        assert!(kept.take(Slot(1)).is_none() && kept.take(Slot(21)).is_none());
    }
}
