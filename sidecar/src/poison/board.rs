//! What a member knows about requests that fail on every copy, for whoever asks: its ingress, its
//! `/status`, its metrics, people who want one skipped.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use synod_paxos::Slot;
use synod_proto::v1::{self as proto, Request};
use tokio::sync::{mpsc, oneshot, watch};

use crate::admin::status::Waiting;

/// What a leader has said holds for so long.
const FRESH: Duration = Duration::from_secs(3);
/// Words of people that wait, at most.
const WORDS: usize = 16;
/// Requests that are told, at most: the last ones.
const TOLD: usize = 32;

/// What is told to people and programs: no header, no body, no query.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// The request that no copy gets past, as the leader has found; `None` on other members.
    pub undecided: Option<UndecidedRequest>,
    /// What was skipped, as far as it was learnt since this process started; the last ones.
    pub skipped: Vec<SkippedRequest>,
}

/// A request that no copy gets past.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct UndecidedRequest {
    /// Its slot.
    pub slot: u64,
    /// Its method.
    pub method: String,
    /// Its path, without a query.
    pub path: String,
    /// What the decision waits for, in words, members by name.
    pub waits_for: Vec<String>,
}

/// A request that nobody executes.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct SkippedRequest {
    /// Its slot.
    pub slot: u64,
    /// Its method; empty: the log does not have it any more.
    pub method: String,
    /// Its path, without a query.
    pub path: String,
    /// A client may have been told that it was executed.
    pub may_have_been_acknowledged: bool,
}

/// A person's word that a slot is to be skipped.
pub(super) struct Word {
    pub(super) slot: Slot,
    /// Whether it is taken: false if nothing waits for that slot.
    pub(super) taken: oneshot::Sender<bool>,
}

/// A cheap handle.
#[derive(Clone, Debug)]
pub struct Board {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    stuck: Mutex<Option<Stuck>>,
    found: watch::Sender<Found>,
    words: mpsc::Sender<Word>,
}

#[derive(Clone, Copy, Debug)]
struct Stuck {
    slot: Slot,
    since: Instant,
    said: Instant,
}

// === impl Board ===

impl Board {
    /// A new one, and where people's words come out.
    pub(super) fn new() -> (Self, mpsc::Receiver<Word>) {
        let (words, taken) = mpsc::channel(WORDS);
        let inner = Inner {
            stuck: Mutex::default(),
            found: watch::channel(Found::default()).0,
            words,
        };
        let inner = Arc::new(inner);
        (Self { inner }, taken)
    }

    /// Most copies stand at this slot: nothing more is taken for the time being.
    pub fn stuck(&self) -> Option<Slot> {
        Some(self.stuck_now()?.slot)
    }

    /// The same, as what this member waits for.
    pub fn waiting_on(&self) -> Option<Waiting> {
        let stuck = self.stuck_now()?;
        Some(Waiting {
            on: "poison".to_owned(),
            slot: stuck.slot.0,
            age_ms: u64::try_from(stuck.since.elapsed().as_millis()).unwrap_or(u64::MAX),
        })
    }

    fn stuck_now(&self) -> Option<Stuck> {
        self.lock().filter(|it| it.said.elapsed() < FRESH)
    }

    /// The leader says where most copies stand, if they do.
    pub(super) fn note_stuck(&self, slot: Option<Slot>) {
        let now = Instant::now();
        let mut stuck = self.lock();
        *stuck = slot.map(|slot| Stuck {
            slot,
            since: stuck
                .filter(|it| it.slot == slot)
                .map_or(now, |it| it.since),
            said: now,
        });
    }

    fn lock(&self) -> MutexGuard<'_, Option<Stuck>> {
        self.inner.stuck.lock().expect("no holder panics")
    }

    /// What is told, and its changes.
    pub fn found(&self) -> watch::Receiver<Found> {
        self.inner.found.subscribe()
    }

    pub(super) fn publish(&self, undecided: Option<UndecidedRequest>) {
        self.inner.found.send_if_modified(|found| {
            let changed = found.undecided != undecided;
            found.undecided = undecided;
            changed
        });
    }

    pub(super) fn note_skipped(&self, skipped: SkippedRequest) {
        self.inner.found.send_modify(|found| {
            if found.skipped.len() >= TOLD {
                found.skipped.remove(0);
            }
            found.skipped.push(skipped);
        });
    }

    /// A person wants this slot skipped, whatever is known about it. False: this member does not lead, or
    /// nothing waits for that slot.
    pub async fn skip(&self, slot: Slot) -> bool {
        let (taken, answer) = oneshot::channel();
        let word = Word { slot, taken };
        self.inner.words.send(word).await.is_ok() && answer.await.unwrap_or(false)
    }
}

impl From<UndecidedRequest> for proto::UndecidedRequest {
    fn from(it: UndecidedRequest) -> Self {
        Self {
            slot: it.slot,
            method: it.method,
            path: it.path,
            waits_for: it.waits_for,
        }
    }
}

impl From<SkippedRequest> for proto::SkippedRequest {
    fn from(it: SkippedRequest) -> Self {
        Self {
            slot: it.slot,
            method: it.method,
            path: it.path,
            may_have_been_acknowledged: it.may_have_been_acknowledged,
        }
    }
}

/// Method and path as they may be told.
pub(crate) fn tellable(request: &Request) -> (String, String) {
    let path = request.target.split('?').next().unwrap_or_default();
    (request.method.clone(), path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_query_is_told() {
        let request = Request {
            method: "PUT".into(),
            target: "/notes/1?token=secret".into(),
            ..Request::default()
        };
        let expected = ("PUT".to_owned(), "/notes/1".to_owned());
        assert_eq!(tellable(&request), expected);
    }

    #[test]
    fn where_most_copies_stand_is_told_until_it_is_over() {
        let (board, _words) = Board::new();
        assert_eq!(board.stuck(), None);
        board.note_stuck(Some(Slot(5)));
        assert_eq!(board.stuck(), Some(Slot(5)));
        let waiting = board.waiting_on().expect("waits");
        assert_eq!((waiting.on.as_str(), waiting.slot), ("poison", 5));
        board.note_stuck(None);
        assert_eq!(board.stuck(), None);
    }

    #[test]
    fn the_last_skips_are_told() {
        let (board, _words) = Board::new();
        for slot in 1..=TOLD as u64 + 3 {
            board.note_skipped(SkippedRequest {
                slot,
                method: "POST".into(),
                path: "/".into(),
                may_have_been_acknowledged: false,
            });
        }
        let found = board.found().borrow().clone();
        assert_eq!(found.skipped.len(), TOLD);
        assert_eq!(found.skipped[0].slot, 4);
    }
}
