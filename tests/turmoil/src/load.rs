//! Steady writes beside what a scenario does, and what must be true of them.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use http::Method;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::client;
use crate::group::Group;

/// Between a client's answer and its next line.
const GAP: Duration = Duration::from_millis(10);
/// Before it asks another member.
const AGAIN: Duration = Duration::from_millis(50);

/// Clients, each of which adds lines, one after the other.
pub(crate) struct Load {
    clients: JoinSet<()>,
    tally: Rc<Tally>,
    prefix: &'static str,
}

/// What clients have seen.
#[derive(Default)]
pub(crate) struct Tally {
    stopped: Cell<bool>,
    /// Lines, and whether they were acknowledged.
    lines: RefCell<BTreeMap<String, bool>>,
    /// From the first attempt to the acknowledgement.
    took: RefCell<Vec<Duration>>,
    /// Attempts that were not acknowledged, and why.
    failures: RefCell<Vec<String>>,
}

/// What clients send.
#[derive(Clone, Copy)]
pub(crate) struct Kind {
    /// Distinguishes its lines from others'.
    pub(crate) prefix: &'static str,
    pub(crate) clients: usize,
    /// Bytes behind each line.
    pub(crate) pad: usize,
}

impl Kind {
    pub(crate) fn small(prefix: &'static str, clients: usize) -> Self {
        Self {
            prefix,
            clients,
            pad: 100,
        }
    }
}

impl Load {
    /// Each client goes on with the address after the last as soon as one does not acknowledge its
    /// line; it repeats that under the same key.
    pub(crate) fn start(addresses: &[String], kind: Kind) -> Self {
        let tally = Rc::new(Tally::default());
        let mut clients = JoinSet::new();
        for number in 0..kind.clients {
            let (addresses, tally) = (addresses.to_vec(), tally.clone());
            clients.spawn_local(async move {
                let mut at = number;
                for line in 0.. {
                    if tally.stopped.get() {
                        return;
                    }
                    let id = format!("{}-{number}-{line}", kind.prefix);
                    tally.add(&id, kind.pad, &addresses, &mut at).await;
                    sleep(GAP).await;
                }
            });
        }
        Self {
            clients,
            tally,
            prefix: kind.prefix,
        }
    }

    /// What was seen up to now.
    pub(crate) fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Begins to measure anew.
    pub(crate) fn forget_times(&self) {
        self.tally.took.borrow_mut().clear();
        self.tally.failures.borrow_mut().clear();
    }

    /// Waits for so many more acknowledgements.
    pub(crate) async fn more(&self, count: usize, within: Duration) {
        let begun = Instant::now();
        let enough = self.tally.took.borrow().len() + count;
        while self.tally.took.borrow().len() < enough {
            assert!(
                begun.elapsed() < within,
                "{}: fewer than {count} lines were acknowledged within {within:?}; {:?}",
                self.prefix,
                self.tally.failures.borrow(),
            );
            sleep(GAP).await;
        }
    }

    /// Ends it, when all that was begun is acknowledged.
    pub(crate) async fn stop(&mut self) {
        self.tally.stopped.set(true);
        while let Some(ended) = self.clients.join_next().await {
            ended.expect("a client does not fail");
        }
    }

    /// Ends it, and compares with what the copies hold. There must be no other load.
    pub(crate) async fn finish(mut self, group: &Group) -> Rc<Tally> {
        self.stop().await;
        let copies = group.settled().await;
        for (line, acknowledged) in &*self.tally.lines.borrow() {
            let times = copies.iter().filter(|it| *it == line).count();
            assert!(times <= 1, "{line} was executed {times} times");
            assert!(
                !acknowledged || times == 1,
                "{line} was acknowledged, and is lost"
            );
        }
        self.tally
    }
}

impl Tally {
    async fn add(&self, id: &str, pad: usize, addresses: &[String], at: &mut usize) {
        self.lines.borrow_mut().insert(id.to_owned(), false);
        let begun = Instant::now();
        loop {
            let body = format!("{id} {}", ".".repeat(pad));
            let mut request = client::request(Method::POST, "/lines", body);
            let key = format!("\"{id}\"").parse().expect("ascii");
            request.headers_mut().insert("idempotency-key", key);
            let address = &addresses[*at % addresses.len()];
            let failure = match client::send(address, request).await {
                Ok(answer) if answer.status.is_success() => break,
                Ok(answer) => format!("{address}: {} {}", answer.status, answer.outcome),
                Err(error) => format!("{address}: {error}"),
            };
            self.failures.borrow_mut().push(failure);
            *at += 1;
            sleep(AGAIN).await;
        }
        self.lines.borrow_mut().insert(id.to_owned(), true);
        self.took.borrow_mut().push(begun.elapsed());
    }

    /// Lines that were acknowledged since the times were forgotten last.
    pub(crate) fn acknowledged(&self) -> usize {
        self.took.borrow().len()
    }

    /// Attempts that were not.
    pub(crate) fn failures(&self) -> Vec<String> {
        self.failures.borrow().clone()
    }

    /// The slowest of them.
    pub(crate) fn slowest(&self) -> Duration {
        self.took.borrow().iter().max().copied().unwrap_or_default()
    }

    /// So many of a hundred took no longer.
    pub(crate) fn percentile(&self, percent: usize) -> Duration {
        let mut took = self.took.borrow().clone();
        took.sort();
        let at = took.len() * percent / 100;
        took.get(at).copied().unwrap_or_default()
    }
}
