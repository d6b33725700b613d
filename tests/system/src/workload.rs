//! Mixed reads and writes through all members, at a rate of their own (a slow system gets no fewer
//! requests), recorded as a history.
//!
//! A write mostly carries an `Idempotency-Key` and is then tried again, through other members, until
//! its outcome is known; without one it is tried again only when it is known not to have happened.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use synod_history::{Action, History, Observed, Operation, Outcome, Witness};
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::app;
use crate::client::{Answer, Client, Failed, request};

/// One try of an operation is given up after this time.
const TRY_LIMIT: Duration = Duration::from_secs(12);
/// All tries of an operation together.
const OPERATION_LIMIT: Duration = Duration::from_secs(40);
/// Operations under way at one time: more would say more about this machine's connections than about the
/// group. What is due beyond is left out.
const MOST_RUNNING: u64 = 2_000;
/// Between the first two tries; twice as long with each more.
const PAUSE: Duration = Duration::from_millis(20);
/// And never longer.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// No member.
const NOBODY: usize = usize::MAX;

/// What to do.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Operations a second.
    pub rate: u32,
    /// Registers, counters and lists together.
    pub keys: u64,
    /// Of all operations.
    pub read_percent: u32,
    /// Of all writes.
    pub keyed_percent: u32,
    /// Of the choices of operations.
    pub seed: u64,
    /// Answers come from members, with slots and outcomes; else from a bare app.
    pub replicated: bool,
    /// So many members are made anew that stored responses may be lost with all who had them.
    pub may_lose_responses: bool,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            rate: 420,
            keys: 600,
            read_percent: 50,
            keyed_percent: 70,
            seed: 1,
            replicated: true,
            may_lose_responses: false,
        }
    }
}

/// One try, for knowing when which member served.
#[derive(Clone, Copy, Debug)]
pub struct Try {
    /// Through which member, from 1.
    pub member: u32,
    /// When it began, in nanoseconds of the history's clock.
    pub begun_ns: u64,
    /// When it ended.
    pub ended_ns: u64,
    /// It changed something.
    pub write: bool,
    /// It was answered by the app, not by an error.
    pub served: bool,
}

/// All that was seen.
#[derive(Debug, Default)]
pub struct Recorded {
    /// Every operation.
    pub history: History,
    /// Every try.
    pub tries: Vec<Try>,
    /// Operations that were due while too many were under way.
    pub left_out: u64,
    /// Answers that no client should get, and how often.
    pub unexpected: BTreeMap<String, u64>,
}

/// A running workload.
#[derive(Debug)]
pub struct Workload {
    shared: Arc<Shared>,
    generator: tokio::task::JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    plan: Plan,
    clock: Instant,
    members: Vec<Client>,
    ids: AtomicU64,
    stop: AtomicBool,
    running: AtomicU64,
    /// The member that gets nothing now, from 0; [`NOBODY`] if all do.
    spared: AtomicUsize,
    recorded: Mutex<Recorded>,
}

/// What one try has shown.
enum Shown {
    Served(Answer),
    NotDone,
    Unknown,
}

// === impl Workload ===

impl Workload {
    /// Begins to send to `members`.
    pub fn start(members: &[SocketAddr], plan: Plan) -> Self {
        let shared = Arc::new(Shared {
            plan,
            clock: Instant::now(),
            members: members.iter().copied().map(Client::new).collect(),
            ids: AtomicU64::new(1),
            stop: AtomicBool::new(false),
            running: AtomicU64::new(0),
            spared: AtomicUsize::new(NOBODY),
            recorded: Mutex::default(),
        });
        let generator = tokio::spawn(generate(Arc::clone(&shared)));
        Self { shared, generator }
    }

    /// Nanoseconds of the history's clock.
    pub fn now_ns(&self) -> u64 {
        self.shared.now_ns()
    }

    /// From now on nothing is sent to this member, from 1, as no Service sends to a pod that is not ready.
    pub fn spare(&self, member: Option<u32>) {
        let spared = member.map_or(NOBODY, |it| it as usize - 1);
        self.shared.spared.store(spared, Ordering::Release);
    }

    /// Operations known to have taken effect so far.
    pub fn completed(&self) -> usize {
        self.shared.recorded().history.completed()
    }

    /// Begins no more operations, waits for those that run, reads every key once through each
    /// member, and returns what was seen.
    pub async fn finish(self) -> anyhow::Result<Recorded> {
        let all: Vec<u32> = (1..).take(self.shared.members.len()).collect();
        self.finish_through(&all).await
    }

    /// The same where only these members, from 1, are there at the end.
    pub async fn finish_through(self, members: &[u32]) -> anyhow::Result<Recorded> {
        self.shared.stop.store(true, Ordering::Release);
        self.generator.await?;
        let shared = self.shared;
        let ended = crate::process::eventually(OPERATION_LIMIT * 2, PAUSE, async || {
            shared.running.load(Ordering::Acquire) == 0
        });
        anyhow::ensure!(ended.await, "operations still run long after their limit");
        for member in members.iter().map(|it| *it as usize - 1) {
            for number in 0..shared.plan.keys {
                let (key, _) = key_and_kind(number);
                operate(Arc::clone(&shared), member, key, Action::Get, false).await;
            }
        }
        Ok(std::mem::take(&mut *shared.recorded()))
    }
}

// === impl Shared ===

impl Shared {
    fn now_ns(&self) -> u64 {
        self.clock.elapsed().as_nanos() as u64
    }

    /// This member, or the next if it is spared.
    fn unless_spared(&self, member: usize) -> usize {
        let spared = self.spared.load(Ordering::Acquire);
        let next = usize::from(member == spared);
        (member + next) % self.members.len()
    }

    fn recorded(&self) -> std::sync::MutexGuard<'_, Recorded> {
        self.recorded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn generate(shared: Arc<Shared>) {
    let mut random = StdRng::seed_from_u64(shared.plan.seed);
    let mut ticks = interval(Duration::from_secs(1) / shared.plan.rate);
    // What was due while this task had to wait is sent late, not left out.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    while !shared.stop.load(Ordering::Acquire) {
        ticks.tick().await;
        if shared.running.load(Ordering::Acquire) >= MOST_RUNNING {
            shared.recorded().left_out += 1;
            continue;
        }
        let member = shared.unless_spared(random.random_range(0..shared.members.len()));
        let (key, kind) = key_and_kind(random.random_range(0..shared.plan.keys));
        let read = random.random_range(0..100) < shared.plan.read_percent;
        let keyed = random.random_range(0..100) < shared.plan.keyed_percent;
        let amount = random.random_range(1..10);
        let action = match kind {
            _ if read => Action::Get,
            0 => Action::Put(0),
            1 => Action::Add(amount),
            _ => Action::Append(0),
        };
        shared.running.fetch_add(1, Ordering::AcqRel);
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            operate(Arc::clone(&shared), member, key, action, keyed).await;
            shared.running.fetch_sub(1, Ordering::AcqRel);
        });
    }
}

fn key_and_kind(number: u64) -> (String, u64) {
    let kind = number % 3;
    let letter = ["r", "c", "l"][kind as usize];
    (format!("{letter}/{number}"), kind)
}

/// Does one operation and records it. `Put` and `Append` get the operation's id as their value, so
/// that no two are alike.
async fn operate(shared: Arc<Shared>, first: usize, key: String, action: Action, keyed: bool) {
    let id = shared.ids.fetch_add(1, Ordering::AcqRel);
    let action = match action {
        Action::Put(_) => Action::Put(id),
        Action::Append(_) => Action::Append(id),
        other => other,
    };
    let invoke_ns = shared.now_ns();
    let end = Instant::now() + OPERATION_LIMIT;
    let mut member = first;
    let mut outcome = Outcome::Failed;
    let mut witness = None;
    let mut pause = PAUSE;
    loop {
        match attempt(&shared, member, &key, action, keyed.then_some(id)).await {
            Shown::Served(answer) => {
                (outcome, witness) = read_answer(&shared, &answer, action);
                break;
            }
            Shown::Unknown if !action.is_read() => {
                outcome = Outcome::Unknown;
                if !keyed {
                    break;
                }
            }
            // Not done this time; an earlier try with the same key may have been.
            Shown::NotDone | Shown::Unknown => {}
        }
        if Instant::now() >= end {
            break;
        }
        sleep(pause).await;
        pause = LONGEST_PAUSE.min(pause * 2);
        member = shared.unless_spared((member + 1) % shared.members.len());
    }
    let complete_ns = shared.now_ns();
    shared.recorded().history.push(Operation {
        id,
        member: member as u32 + 1,
        key,
        action,
        invoke_ns,
        complete_ns,
        outcome,
        witness,
    });
}

async fn attempt(
    shared: &Shared,
    member: usize,
    key: &str,
    action: Action,
    idempotency_key: Option<u64>,
) -> Shown {
    let (method, body) = match action {
        Action::Get => ("GET", String::new()),
        Action::Put(number) => ("PUT", number.to_string()),
        Action::Add(number) | Action::Append(number) => ("POST", number.to_string()),
    };
    let mut request = request(method, &format!("/{key}"), body);
    if let Some(id) = idempotency_key.filter(|_| !action.is_read()) {
        let value = format!("\"operation-{}-{id}\"", shared.plan.seed);
        let value = value.try_into().expect("digits are a header value");
        request.headers_mut().insert("idempotency-key", value);
    }
    let begun_ns = shared.now_ns();
    let result = shared.members[member].send(request, TRY_LIMIT).await;
    let shown = judge(shared, result, action);
    shared.recorded().tries.push(Try {
        member: member as u32 + 1,
        begun_ns,
        ended_ns: shared.now_ns(),
        write: !action.is_read(),
        served: matches!(shown, Shown::Served(_)),
    });
    shown
}

fn judge(shared: &Shared, result: Result<Answer, Failed>, action: Action) -> Shown {
    let answer = match result {
        Ok(answer) => answer,
        Err(Failed::NotSent(_)) => return Shown::NotDone,
        Err(Failed::Lost(_)) => return Shown::Unknown,
    };
    let by_app = answer.status.is_success() || (action.is_read() && answer.status == 404);
    let outcome = answer.outcome().map(str::to_owned);
    let shown = match (by_app, outcome.as_deref()) {
        (true, None) if action.is_read() || !shared.plan.replicated => {
            return Shown::Served(answer);
        }
        (true, Some("executed" | "replayed")) => return Shown::Served(answer),
        (false, Some("not-ordered")) if answer.status == 503 => return Shown::NotDone,
        (false, Some("unknown")) if answer.status == 504 => return Shown::Unknown,
        (false, None) if action.is_read() && matches!(answer.status.as_u16(), 502..=504) => {
            return Shown::NotDone;
        }
        // Known to have happened, with an answer that is lost: nothing to compare.
        (false, Some("executed-response-gone"))
            if answer.status == 410 && shared.plan.may_lose_responses =>
        {
            return Shown::Unknown;
        }
        _ => Shown::Unknown,
    };
    let what = format!(
        "{} with Synod-Outcome {outcome:?} to {action:?}: {}",
        answer.status,
        answer.text().chars().take(200).collect::<String>()
    );
    let what = what.replace(|c: char| c.is_ascii_digit(), "0");
    *shared.recorded().unexpected.entry(what).or_default() += 1;
    shown
}

fn read_answer(shared: &Shared, answer: &Answer, action: Action) -> (Outcome, Option<Witness>) {
    let cell = serde_json::from_slice(&answer.body).map_err(anyhow::Error::from);
    let observed = match cell.and_then(|cell| app::parse_cell(&cell)) {
        Ok(observed) => observed,
        Err(error) => {
            let what = format!("a body that the app does not send: {error}");
            *shared.recorded().unexpected.entry(what).or_default() += 1;
            Observed::default()
        }
    };
    let witness = answer.slot().map(|slot| {
        if action.is_read() {
            Witness::Within(0, slot)
        } else {
            Witness::At(slot)
        }
    });
    (Outcome::Ok(observed), witness)
}

/// Latencies of what was served, in microseconds.
pub fn latencies(tries: &[Try], writes: bool) -> Histogram<u64> {
    let bounds = Histogram::new_with_bounds(1, 600_000_000, 3);
    let mut histogram = bounds.expect("these bounds and three digits are allowed");
    for one in tries.iter().filter(|one| one.served && one.write == writes) {
        histogram.saturating_record((one.ended_ns - one.begun_ns) / 1_000);
    }
    histogram
}
