//! From agreed requests to what this member's app does: a pure machine that takes every decision,
//! and an executor that carries it out.
//!
//! In come the chosen entries, in slot order, and what is seen of the app; out go requests to the
//! app, answers to whoever waits for them, and how far the copy is. Snapshots are taken and put back
//! when the machine says so, by whoever keeps them ([`States`]). What each slot was answered goes, as
//! a hash, to the leader's comparison of the copies ([`divergence`]).

mod answers;
mod asked;
mod decisions;
#[cfg(test)]
mod dice;
mod digesting;
pub mod digests;
pub mod divergence;
#[expect(clippy::disallowed_methods, reason = "a shell: reads clocks")]
mod executor;
mod feed;
mod fold;
pub mod handle;
mod ids;
#[expect(clippy::disallowed_methods, reason = "a shell: reads clocks")]
mod jobs;
mod kept;
mod keys;
mod ledger;
mod machine;
mod prelude;
mod promises;
#[expect(clippy::disallowed_methods, reason = "a shell: reads clocks")]
mod published;
#[doc(hidden)]
pub mod sim;
mod states;
pub mod stop;
mod tables;
#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a shell: reads clocks")]
mod tests;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use futures::future::BoxFuture;
use prometheus_client::metrics::histogram::Histogram;
use synod_paxos::{Incarnation, Slot};
use synod_proto::v1::Policy;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

pub use asked::{Doubts, Skipped, Skips};
pub use digesting::{Verified, Word};
pub(crate) use executor::apply_timeout;
pub use feed::{Beginning, EntrySource, Feed, FeedSender, feed};
pub use fold::Fold;
pub use handle::{
    Answer, ApplyHandle, ApplyStatus, Availability, NotTaken, Outcome, StoredBody, StoredResponse,
};
pub use ids::Ids;
pub use keys::KeyLookup;
pub use ledger::{Found, History, InFlight, Kept, Ledger, LedgerError, Record};
pub use machine::{
    Action, Answer as MachineAnswer, Ask, Blocked, Execute, Job, Lineage, Machine, Progress,
    RevisionStatus, Run, Setup, Standing, StateType, UncleanCrash,
};
pub use promises::PromisesError;
pub use states::{NoSnapshots, RestoreError, StateError, States, Take};
pub use tables::TablesError;

use crate::app::App;

/// Calls of other parts that wait, at most.
const CALLS: usize = 64;

/// From 0.1 ms to 26 s, each bound twice the last, and the default `applyTimeout`.
const DURATION_BOUNDS: [f64; 19] = [
    0.000_1, 0.000_2, 0.000_4, 0.000_8, 0.001_6, 0.003_2, 0.006_4, 0.012_8, 0.025_6, 0.051_2,
    0.102_4, 0.204_8, 0.409_6, 0.819_2, 1.638_4, 3.276_8, 6.553_6, 13.107_2, 30.0,
];

/// What apply is made of.
pub struct Parts<A, S> {
    /// The data folder; holds the ledger and the spool.
    pub data: PathBuf,
    /// The life of this member's log.
    pub incarnation: Incarnation,
    /// That life has just begun: no earlier start of this member has executed anything.
    pub is_first: bool,
    /// The genesis, until which the app is only watched, and what is chosen. Apply ends when the
    /// other end is dropped.
    pub feed: Feed,
    /// The log, for all that the feed does not hold any more.
    pub log: Arc<dyn EntrySource>,
    /// The highest slot that another member has applied.
    pub elsewhere: watch::Receiver<Slot>,
    /// Comes to a slot at or above all that was chosen before it was first polled (rule R1): nothing is
    /// executed before the log is known up to there, since it may skip slots (rule K2).
    pub proof: BoxFuture<'static, Slot>,
    /// The app.
    pub app: Arc<A>,
    /// There never is an app: this member is a witness.
    pub witness: bool,
    /// Where the app keeps its state.
    pub state: StateType,
    /// Of which revision an app is that is about to start or has just started; an error: nobody can tell
    /// now.
    pub revision: Arc<dyn Fn() -> io::Result<u64> + Send + Sync>,
    /// That may be another one the next time that an app starts here ([`Setup::changes_in_place`]).
    pub changes_in_place: bool,
    /// The snapshots of this member.
    pub states: Arc<S>,
}

/// Why apply cannot start or has ended; the process ends then.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The ledger.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// What was promised to leaders.
    #[error(transparent)]
    Promises(#[from] PromisesError),
    /// The log.
    #[error("cannot read agreed entries back from the log: {0}; check the volume")]
    Log(#[source] io::Error),
    /// The snapshot that apply begins from.
    #[error(transparent)]
    Tables(#[from] TablesError),
    /// The folder for spooled bodies.
    #[error("cannot empty the folder {path}: {error}; check the volume and its permissions")]
    Spool {
        /// Where.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
}

/// Starts apply; call it as early as there is a log, so that no start of the app is missed. Must be
/// called within a runtime. The task ends well only after the feed has.
pub fn start<A: App, S: States>(
    parts: Parts<A, S>,
) -> Result<(ApplyHandle, JoinHandle<Result<(), ApplyError>>), ApplyError> {
    empty_spool(&handle::spool_dir(&parts.data))?;
    let (ledger, found) = Ledger::open(&parts.data, parts.incarnation)?;
    let found = match found {
        Found::Missing if parts.is_first => Found::New,
        found => found,
    };
    let promises = promises::Promises::open(&parts.data, parts.incarnation)?;
    let answers = Arc::new(answers::Answers::default());
    let signals = Arc::new(handle::Signals::default());
    let (status, status_receiver) = watch::channel(ApplyStatus::default());
    let (policy, policy_receiver) = watch::channel(Arc::new(Policy::default()));
    let (waiting, waiting_receiver) = watch::channel(None);
    let (skipped, skipped_receiver) = watch::channel(Skips::default());
    let durations = Histogram::new(DURATION_BOUNDS);
    let compared = Arc::new(digesting::Compared::new(rand::random()));
    let (calls, calls_receiver) = mpsc::channel(CALLS);
    let handle = ApplyHandle {
        answers: answers.clone(),
        signals: signals.clone(),
        calls,
        status: status_receiver,
        policy: policy_receiver,
        waiting: waiting_receiver,
        durations: durations.clone(),
        compared: compared.clone(),
        skipped: skipped_receiver,
    };
    if let Found::Record(Record {
        instance: Some(instance),
        ..
    }) = found
    {
        parts.app.recognise(instance);
    }
    let seen = prelude::Prelude::begin(&*parts.app);
    let task = tokio::spawn(executor::run(
        parts.app,
        (ledger, found),
        promises,
        parts.proof,
        seen,
        executor::Inputs {
            incarnation: parts.incarnation,
            feed: parts.feed,
            log: parts.log,
            elsewhere: parts.elsewhere,
            signals,
            calls: calls_receiver,
            witness: parts.witness,
            state: parts.state,
            revision: parts.revision,
            changes_in_place: parts.changes_in_place,
            states: parts.states,
        },
        published::Published {
            answers,
            status,
            policy,
            waiting,
            durations,
            digesting: digesting::Digesting::start(compared),
            skipped,
        },
    ));
    Ok((handle, task))
}

fn empty_spool(path: &std::path::Path) -> Result<(), ApplyError> {
    let failed = |error| ApplyError::Spool {
        path: path.to_path_buf(),
        error,
    };
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let mut builder = std::fs::DirBuilder::new();
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path).map_err(failed)
}
