//! Apply as a whole: a log in memory, an app in this process or behind HTTP, and the handle.

use std::num::NonZeroU64;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use prost::Message;
use synod_paxos::{
    AgreedTime, Ballot, Boot, Command, CommandId, CommandKind, Configuration, Entry, Epoch,
    Incarnation, Member, MemberId, Quorums, Role, Slot,
};
use synod_proto::v1::{Idempotency, Policy, Request};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use super::handle::KeyOutcome;
use super::*;
use crate::app::{App, ExecuteError, Executed, Instance, NotSent, Order};

mod asked;
mod restarts;
mod snapshots;

/// An app in this process.
#[derive(Clone, Default)]
struct TestApp {
    shared: Arc<AppState>,
}

#[derive(Default)]
struct AppState {
    /// 0: nothing listens.
    listens: AtomicU64,
    /// What each instance has executed.
    executed: Mutex<Vec<(u64, u64)>>,
    next: Mutex<Next>,
    go_on: Notify,
    reads: Mutex<Option<Instance>>,
    doubt: Notify,
    under_way: AtomicU64,
    partly_gone: AtomicBool,
}

/// Counts the requests that the app has.
struct UnderWay(Arc<TestApp>);

impl UnderWay {
    fn begin(app: &Arc<TestApp>) -> Self {
        app.shared.under_way.fetch_add(1, Ordering::SeqCst);
        Self(app.clone())
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.shared.under_way.fetch_sub(1, Ordering::SeqCst);
    }
}

/// What comes of the next request.
#[derive(Clone, Copy, Default, PartialEq)]
enum Next {
    #[default]
    Answer,
    BreakOff,
    Hang,
}

impl TestApp {
    fn listen(&self, instance: u64) {
        self.shared.listens.store(instance, Ordering::SeqCst);
    }

    fn on_next(&self, next: Next) {
        *self.shared.next.lock().unwrap() = next;
    }

    fn executed(&self) -> Vec<(u64, u64)> {
        self.shared.executed.lock().unwrap().clone()
    }
}

impl App for TestApp {
    fn look(&self) -> io::Result<Option<Instance>> {
        let number = self.shared.listens.load(Ordering::SeqCst);
        Ok(NonZeroU64::new(number).map(Instance))
    }

    async fn execute(self: Arc<Self>, order: Order) -> Result<Executed, ExecuteError> {
        if self.look().unwrap() != Some(order.instance) {
            return Err(NotSent::OtherInstance.into());
        }
        let next = std::mem::take(&mut *self.shared.next.lock().unwrap());
        if next == Next::BreakOff {
            return Err(ExecuteError::Unknown("as the test wants".into()));
        }
        let _under_way = UnderWay::begin(&self);
        if next == Next::Hang {
            self.shared.go_on.notified().await;
        }
        let done = (order.instance.0.get(), order.slot.0);
        self.shared.executed.lock().unwrap().push(done);
        Ok(Executed {
            response: Some(StoredResponse {
                status: http::StatusCode::OK,
                headers: http::HeaderMap::new(),
                body: StoredBody::Memory(Bytes::from(format!("{}", order.slot))),
                trailers: http::HeaderMap::new(),
            }),
        })
    }

    fn partly_gone(&self) -> bool {
        self.shared.partly_gone.swap(false, Ordering::SeqCst)
    }

    fn set_reads(&self, instance: Option<Instance>) {
        *self.shared.reads.lock().unwrap() = instance;
    }

    async fn doubted(&self) {
        self.shared.doubt.notified().await;
    }
}

/// An app whose first request lets the node choose more, and which never keeps apply waiting.
struct Chooser {
    app: TestApp,
    feed: Arc<FeedSender>,
    later: Mutex<Vec<Entry>>,
}

impl App for Chooser {
    fn look(&self) -> io::Result<Option<Instance>> {
        self.app.look()
    }

    async fn execute(self: Arc<Self>, order: Order) -> Result<Executed, ExecuteError> {
        let later = std::mem::take(&mut *self.later.lock().unwrap());
        if let Some(last) = later.last() {
            self.feed.chosen(last.slot, later.clone());
        }
        Arc::new(self.app.clone()).execute(order).await
    }

    fn set_reads(&self, instance: Option<Instance>) {
        self.app.set_reads(instance);
    }

    async fn doubted(&self) {
        self.app.doubted().await;
    }
}

/// A log in memory.
#[derive(Clone, Default)]
struct Log {
    entries: Arc<Mutex<Vec<Entry>>>,
    faults: Arc<AtomicU64>,
    /// Nothing up to here is left.
    compacted: Arc<AtomicU64>,
}

impl EntrySource for Log {
    fn read(&self, from: Slot, through: Slot, _: u64) -> io::Result<Vec<Entry>> {
        if self.faults.load(Ordering::SeqCst) > 0 {
            self.faults.fetch_sub(1, Ordering::SeqCst);
            return Err(io::ErrorKind::WouldBlock.into());
        }
        if from.0 <= self.compacted.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let entries = self.entries.lock().unwrap();
        Ok(entries[from.0 as usize - 1..through.0 as usize]
            .iter()
            .take(100)
            .cloned()
            .collect())
    }
}

impl Log {
    fn append(&self, kind: CommandKind, sequence: u64, payload: Vec<u8>) -> Entry {
        let mut entries = self.entries.lock().unwrap();
        let slot = Slot(entries.len() as u64 + 1);
        entries.push(Entry {
            slot,
            ballot: Ballot::default(),
            time: AgreedTime(slot.0),
            seed: 0,
            command: Command {
                kind,
                id: id(sequence),
                floor: 1,
                payload: payload.into(),
            },
        });
        entries[entries.len() - 1].clone()
    }

    fn compact(&self, through: Slot) {
        self.compacted.store(through.0, Ordering::SeqCst);
    }

    fn last(&self) -> Slot {
        Slot(self.entries.lock().unwrap().len() as u64)
    }
}

fn id(sequence: u64) -> CommandId {
    CommandId {
        member: MemberId(1),
        boot: Boot(1),
        sequence,
    }
}

fn beginning() -> Beginning {
    Beginning {
        protocol: 2,
        configuration: Configuration {
            epoch: Epoch(1),
            members: vec![Member {
                id: MemberId(1),
                name: "notes-0".into(),
                incarnation: Incarnation(1),
                role: Role::Voter,
                region: String::new(),
            }],
            quorums: Quorums::Majority,
            first_leader: MemberId(0),
        },
        policy: Policy {
            apply_timeout_ms: 5_000,
            ..Policy::default()
        },
    }
}

/// One process of a member.
struct Process {
    handle: ApplyHandle,
    task: JoinHandle<Result<(), ApplyError>>,
    feed: Option<FeedSender>,
    elsewhere: watch::Sender<Slot>,
    log: Log,
}

impl Process {
    fn start<A: App>(data: &Path, log: &Log, app: A) -> Self {
        Self::start_with(data, log, app, (StateType::Ephemeral, NoSnapshots))
    }

    fn start_with<A: App, S: States>(
        data: &Path,
        log: &Log,
        app: A,
        (state, states): (StateType, S),
    ) -> Self {
        let (sender, feed) = feed();
        let (elsewhere, elsewhere_receiver) = watch::channel(Slot::ZERO);
        let (handle, task) = start(Parts {
            data: data.to_path_buf(),
            incarnation: Incarnation(1),
            is_first: false,
            feed,
            log: Arc::new(log.clone()),
            elsewhere: elsewhere_receiver,
            proof: Box::pin(std::future::ready(log.last())),
            app: Arc::new(app),
            witness: false,
            state,
            revision: Arc::new(|| Ok(0)),
            changes_in_place: true,
            states: Arc::new(states),
        })
        .unwrap();
        Self {
            handle,
            task,
            feed: Some(sender),
            elsewhere,
            log: log.clone(),
        }
    }

    /// In a group, with all of the log chosen.
    fn begun<A: App>(data: &Path, log: &Log, app: A) -> Self {
        let process = Self::start(data, log, app);
        process.feed().begin(beginning());
        process.feed().chosen(log.last(), Vec::new());
        process
    }

    fn feed(&self) -> &FeedSender {
        self.feed.as_ref().expect("the node lives")
    }

    fn choose(&self, sequence: u64, request: &Request) -> Slot {
        let payload = request.encode_to_vec();
        let entry = self.log.append(CommandKind::REQUEST, sequence, payload);
        let slot = entry.slot;
        self.feed().chosen(slot, vec![entry]);
        slot
    }

    async fn answered(&self, sequence: u64) -> Answer {
        soon(self.handle.answer(id(sequence))).await
    }

    async fn status(&self, wanted: impl FnMut(&ApplyStatus) -> bool) -> ApplyStatus {
        let mut status = self.handle.status();
        soon(status.wait_for(wanted)).await.unwrap().clone()
    }

    /// SIGKILL.
    async fn kill(self) {
        self.task.abort();
        let _ = self.task.await;
    }

    /// The node ends, then apply does.
    async fn shut_down(mut self) {
        self.feed = None;
        soon(self.task).await.unwrap().unwrap();
    }
}

async fn soon<F: Future>(work: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(20), work)
        .await
        .expect("it happens soon")
}

fn request() -> Request {
    Request {
        policy_version: 1,
        expires_ns: u64::MAX,
        method: "POST".into(),
        target: "/notes".into(),
        ..Request::default()
    }
}

fn keyed(key: &'static str) -> Request {
    Request {
        idempotency: Some(Idempotency {
            key: Bytes::from_static(key.as_bytes()),
            principal: Bytes::from_static(b"ann"),
            request_digest: Bytes::from_static(b"x"),
        }),
        ..request()
    }
}

fn body(answer: &Answer) -> String {
    match &answer.response.as_ref().expect("it was kept").body {
        StoredBody::Memory(bytes) => String::from_utf8(bytes.to_vec()).unwrap(),
        StoredBody::File { .. } => panic!("it is small"),
    }
}

#[tokio::test]
async fn entries_admitted_before_their_news_is_read_are_fetched_from_the_log() {
    let data = tempfile::tempdir().unwrap();
    let (log, app) = (Log::default(), TestApp::default());
    let payload = request().encode_to_vec();
    let entries: Vec<Entry> = (1..=2_000)
        .map(|sequence| log.append(CommandKind::REQUEST, sequence, payload.clone()))
        .collect();
    let (sender, feed) = feed();
    let sender = Arc::new(sender);
    let (_elsewhere, elsewhere) = watch::channel(Slot::ZERO);
    let (handle, task) = start(Parts {
        data: data.path().to_path_buf(),
        incarnation: Incarnation(1),
        is_first: false,
        feed,
        log: Arc::new(log.clone()),
        elsewhere,
        proof: Box::pin(std::future::ready(Slot::ZERO)),
        app: Arc::new(Chooser {
            app: app.clone(),
            feed: sender.clone(),
            later: Mutex::new(entries[1..].to_vec()),
        }),
        witness: false,
        state: StateType::Ephemeral,
        revision: Arc::new(|| Ok(0)),
        changes_in_place: true,
        states: Arc::new(NoSnapshots),
    })
    .unwrap();
    app.listen(7);
    sender.begin(beginning());
    sender.chosen(Slot(1), entries[..1].to_vec());
    soon(handle.wait_applied(Slot(2_000))).await;
    let wanted: Vec<(u64, u64)> = (1..=2_000).map(|slot| (7, slot)).collect();
    assert_eq!(app.executed(), wanted);
    task.abort();
}

#[tokio::test]
async fn a_chosen_request_is_executed_and_answered() {
    let data = tempfile::tempdir().unwrap();
    let (log, app) = (Log::default(), TestApp::default());
    let process = Process::start(data.path(), &log, app.clone());
    app.listen(7);
    process.feed().begin(beginning());
    process.status(|status| status.serving).await;
    let slot = process.choose(1, &request());
    let answer = process.answered(1).await;
    assert_eq!((answer.slot, answer.outcome), (slot, Outcome::Executed));
    assert_eq!(body(&answer), "1");
    soon(process.handle.wait_applied(slot)).await;
    let status = process.status(|status| status.applied == slot).await;
    assert_eq!((status.sent, status.admitted), (slot, slot));
    assert_eq!(status.time, AgreedTime(1));
    assert_eq!(status.app_starts, 1);
    assert_eq!(process.handle.policy().borrow().version, 1);
    assert_eq!(process.handle.waiting_on(), None);
    assert_eq!(app.executed(), [(7, 1)]);
    process.shut_down().await;
}

#[tokio::test]
async fn what_the_feed_does_not_hold_is_read_from_the_log_and_awaited_while_it_is_damaged() {
    let data = tempfile::tempdir().unwrap();
    let (log, app) = (Log::default(), TestApp::default());
    for sequence in 1..=1_000 {
        log.append(CommandKind::REQUEST, sequence, request().encode_to_vec());
    }
    log.faults.store(2, Ordering::SeqCst);
    let process = Process::begun(data.path(), &log, app.clone());
    app.listen(7);
    process.choose(1_001, &request());
    soon(process.handle.wait_applied(Slot(1_001))).await;
    let expected: Vec<_> = (1..=1_001).map(|slot| (7, slot)).collect();
    assert_eq!(app.executed(), expected);
    process.shut_down().await;
}

#[tokio::test]
async fn before_there_is_a_group_the_app_is_only_watched() {
    let data = tempfile::tempdir().unwrap();
    let (log, app) = (Log::default(), TestApp::default());
    let process = Process::start(data.path(), &log, app.clone());
    app.listen(7);
    process.handle.app_started();
    tokio::task::yield_now().await;
    assert_eq!(*process.handle.status().borrow(), ApplyStatus::default());
    process.feed().begin(beginning());
    process.status(|status| status.serving).await;
    process.shut_down().await;
}

#[tokio::test(start_paused = true)]
async fn an_app_that_ran_before_us_is_stopped_unless_it_is_proven_new() {
    let data = tempfile::tempdir().unwrap();
    let (log, app) = (Log::default(), TestApp::default());
    app.listen(7);
    let process = Process::begun(data.path(), &log, app.clone());
    process.choose(1, &request());
    process.status(|status| status.condemned.is_some()).await;
    assert_eq!(process.handle.waiting_on().unwrap().on, "app");
    assert!(!process.handle.status().borrow().app_absent);
    app.listen(0);
    process.status(|status| status.condemned.is_none()).await;
    process.status(|status| status.app_absent).await;
    app.listen(8);
    process.status(|status| status.serving).await;
    assert_eq!(process.handle.app_silent_ms(), 0);
    assert_eq!(app.executed(), [(8, 1)]);
    process.shut_down().await;

    let data = tempfile::tempdir().unwrap();
    let (log, app) = (Log::default(), TestApp::default());
    app.listen(7);
    let process = Process::start(data.path(), &log, app.clone());
    process.handle.app_started();
    tokio::time::sleep(Duration::from_millis(1)).await;
    process.feed().begin(beginning());
    process.status(|status| status.serving).await;
    process.shut_down().await;
}

#[tokio::test]
async fn reads_are_open_only_to_the_instance_that_serves() {
    let data = tempfile::tempdir().unwrap();
    let (log, app) = (Log::default(), TestApp::default());
    let process = Process::begun(data.path(), &log, app.clone());
    assert_eq!(*app.shared.reads.lock().unwrap(), None);
    app.listen(7);
    process.status(|status| status.serving).await;
    let seven = NonZeroU64::new(7).map(Instance);
    assert_eq!(*app.shared.reads.lock().unwrap(), seven);
    app.on_next(Next::BreakOff);
    process.choose(1, &request());
    process.status(|status| !status.serving).await;
    assert_eq!(*app.shared.reads.lock().unwrap(), None);
    process.shut_down().await;
}

#[tokio::test]
async fn an_app_of_which_a_part_has_gone_is_stopped_whatever_signal_comes() {
    let data = tempfile::tempdir().unwrap();
    let (log, app) = (Log::default(), TestApp::default());
    let process = Process::begun(data.path(), &log, app.clone());
    app.listen(7);
    process.choose(1, &request());
    process.answered(1).await;
    app.shared.partly_gone.store(true, Ordering::SeqCst);
    app.listen(8);
    process.handle.app_started();
    process.status(|status| status.condemned.is_some()).await;
    assert_eq!(app.executed(), [(7, 1)]);
    process.shut_down().await;
}

#[tokio::test(start_paused = true)]
async fn a_read_that_meets_another_process_has_the_app_looked_at() {
    let data = tempfile::tempdir().unwrap();
    let (log, app) = (Log::default(), TestApp::default());
    let process = Process::begun(data.path(), &log, app.clone());
    app.listen(7);
    process.status(|status| status.serving).await;
    app.listen(8);
    app.shared.doubt.notify_one();
    let asked = tokio::time::Instant::now();
    process.status(|status| status.app_starts == 2).await;
    assert_eq!(asked.elapsed(), Duration::ZERO, "at once");
    process.shut_down().await;
}

#[tokio::test]
async fn a_key_tells_its_outcome_to_its_principal_only() {
    let data = tempfile::tempdir().unwrap();
    let (log, app) = (Log::default(), TestApp::default());
    let process = Process::begun(data.path(), &log, app.clone());
    app.listen(7);
    app.on_next(Next::Hang);
    process.choose(1, &keyed("k"));
    process.status(|status| status.sent == Slot(1)).await;
    let key_outcome =
        |principal: &'static str| process.handle.key_outcome(principal.into(), "k".into());
    assert!(
        matches!(soon(key_outcome("bob")).await, KeyOutcome::PrincipalChanged),
        "known as soon as it is decided"
    );
    let mut waiting = Box::pin(key_outcome("ann"));
    assert!((&mut waiting).now_or_never().is_none());
    app.shared.go_on.notify_one();
    let KeyOutcome::Known(answer) = soon(waiting).await else {
        panic!("it was executed");
    };
    assert_eq!(body(&answer), "1");
    let unknown = process.handle.key_outcome("ann".into(), "j".into());
    assert!(matches!(soon(unknown).await, KeyOutcome::Unknown));
    process.choose(2, &keyed("k"));
    let repeat = process.answered(2).await;
    assert_eq!((repeat.slot, repeat.outcome), (Slot(1), Outcome::Replayed));
    assert_eq!(body(&repeat), "1", "the response that the first client got");
    process.shut_down().await;
}

#[tokio::test]
async fn a_command_chosen_twice_has_the_answer_of_its_first_though_that_takes_longer() {
    let data = tempfile::tempdir().unwrap();
    let (log, app) = (Log::default(), TestApp::default());
    let process = Process::begun(data.path(), &log, app.clone());
    app.listen(7);
    app.on_next(Next::Hang);
    let mut answer = Box::pin(process.answered(1));
    assert!((&mut answer).now_or_never().is_none());
    process.choose(1, &request());
    let twice = process.choose(1, &request());
    process.status(|status| status.admitted == twice).await;
    app.shared.go_on.notify_one();
    let answer = answer.await;
    assert_eq!((answer.slot, answer.outcome), (Slot(1), Outcome::Executed));
    process.shut_down().await;
}

#[tokio::test]
async fn a_policy_is_in_force_before_its_answer_is_told() {
    let data = tempfile::tempdir().unwrap();
    let (log, app) = (Log::default(), TestApp::default());
    let process = Process::begun(data.path(), &log, app.clone());
    let policy = Policy {
        version: 2,
        max_body_bytes: 5,
        ..Policy::default()
    };
    let entry = log.append(CommandKind::POLICY, 1, policy.encode_to_vec());
    process.feed().chosen(entry.slot, vec![entry]);
    let answer = process.answered(1).await;
    assert_eq!(answer.outcome, Outcome::Done);
    assert_eq!(process.handle.policy().borrow().max_body_bytes, 5);
    process.shut_down().await;
}

#[tokio::test(start_paused = true)]
async fn an_app_that_hangs_is_a_stall_then_slow_and_rebuilt_once_others_have_done_the_slot() {
    let data = tempfile::tempdir().unwrap();
    let (log, app) = (Log::default(), TestApp::default());
    let process = Process::begun(data.path(), &log, app.clone());
    app.listen(7);
    process.status(|status| status.serving).await;
    app.on_next(Next::Hang);
    process.choose(1, &request());
    let status = process.status(|status| status.app_stalled).await;
    assert!(status.serving, "nobody answers better yet");
    process.elsewhere.send_replace(Slot(1));
    let status = process.status(|status| !status.serving).await;
    assert!(status.condemned.is_none(), "it may still answer");
    let waited = tokio::time::Instant::now();
    process.status(|status| status.condemned.is_some()).await;
    assert!(
        waited.elapsed() > Duration::from_secs(3),
        "applyTimeout is 5 s"
    );
    assert_eq!(app.shared.under_way.load(Ordering::SeqCst), 0, "cut off");
    app.listen(8);
    process.status(|status| status.serving).await;
    assert_eq!(app.executed(), [(8, 1)]);
    process.shut_down().await;
}

#[tokio::test]
async fn a_file_left_by_an_earlier_process_is_removed_from_the_spool() {
    let data = tempfile::tempdir().unwrap();
    let spool = handle::spool_dir(data.path());
    std::fs::create_dir(&spool).unwrap();
    std::fs::write(spool.join("left"), "x").unwrap();
    let process = Process::start(data.path(), &Log::default(), TestApp::default());
    assert_eq!(std::fs::read_dir(&spool).unwrap().count(), 0);
    process.shut_down().await;
}
