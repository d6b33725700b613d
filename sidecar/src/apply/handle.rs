//! What the rest of the sidecar may ask of apply.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use prometheus_client::metrics::histogram::Histogram;
use synod_paxos::{AgreedTime, CommandId, MemberId, Slot};
use synod_proto::v1::{Policy, RevisionDisagrees};
use tokio::sync::{Notify, mpsc, oneshot, watch};

use super::answers::{Answers, Which};
use super::asked::{Answered, Doubts, Skips};
use super::digesting::{Compared, Verified, Word};
use super::digests::Batch;
use super::divergence::Mark;
use super::fold::Fold;
use super::keys::KeyLookup;
use super::machine::{Ask, RevisionStatus, Standing};
use super::promises::PromisesError;
use crate::admin::status::Waiting;
use crate::app::Instance;
use crate::copies::Found;

/// A cheap handle on this member's apply.
#[derive(Clone, Debug)]
pub struct ApplyHandle {
    pub(super) answers: Arc<Answers>,
    pub(super) signals: Arc<Signals>,
    pub(super) calls: mpsc::Sender<Call>,
    pub(super) status: watch::Receiver<ApplyStatus>,
    pub(super) policy: watch::Receiver<Arc<Policy>>,
    pub(super) waiting: watch::Receiver<Option<WaitingOn>>,
    pub(super) durations: Histogram,
    pub(super) compared: Arc<Compared>,
    pub(super) skipped: watch::Receiver<Skips>,
}

/// Signals for the executor.
#[derive(Debug, Default)]
pub(super) struct Signals {
    /// The start signal.
    pub(super) app_started: Notify,
}

/// What only the executor can do.
#[derive(Debug)]
pub(super) enum Call {
    /// A look at the tables.
    Lookup {
        principal: Bytes,
        key: Bytes,
        reply: oneshot::Sender<KeyLookup>,
    },
    TakeSnapshot(oneshot::Sender<Result<Slot, NotTaken>>),
    /// `None`: the beginning of the log.
    SnapshotAvailable {
        fold: Option<Box<Fold>>,
        reply: oneshot::Sender<Availability>,
    },
    /// The snapshot at this slot cannot be read any more.
    BaseLost(Slot),
    /// All that was decided so far.
    Tables(oneshot::Sender<Box<Fold>>),
    /// What was found about the state of this number; `None`: nothing any more.
    Astray(u64, Option<Mark>, oneshot::Sender<()>),
    Doubts(oneshot::Sender<Doubts>),
    Ask(Ask, Answered),
    /// The ask has come to an end.
    Free(Ask, oneshot::Sender<()>),
}

/// What became of a snapshot that apply was told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Availability {
    /// A copy that must be made anew begins there.
    Taken,
    /// Or there, since what apply has is newer; or apply has ended, and the next one decides.
    Older,
    /// It has executed what nobody should have (rule K2): it is of no use to anybody.
    Void,
}

/// Why there is no snapshot.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotTaken {
    /// One is on its way, nothing was executed since the last, or the copy does not serve.
    #[error("a snapshot cannot be taken now: try again later, or on another member")]
    NotNow,
    /// The app went, or its state is not known any more.
    #[error("the app was started anew before its snapshot was complete")]
    Void,
    /// The service must go on.
    #[error("the snapshot took too long: the service would have stood still")]
    TooLong,
    /// It could not be made.
    #[error("the snapshot could not be taken: {0}")]
    Failed(String),
    /// Apply has ended.
    #[error("this member is about to end")]
    Ended,
}

/// What apply waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WaitingOn {
    /// Word for `waiting_on`: `app`, or `upgrade` when the log holds what this version does not
    /// know.
    pub on: &'static str,
    /// The slot that is next.
    pub slot: Slot,
    /// Since when.
    pub since: Instant,
}

/// What became of a command here, once its slot is done.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Its slot; for a repeat, the slot of the first.
    pub slot: Slot,
    /// What was done.
    pub outcome: Outcome,
    /// For a repeat by key: whose copy answered the client of the first. Its response is the one
    /// that the repeat should get (rule X2); responses of other copies may differ in their headers.
    pub first_answerer: Option<MemberId>,
    /// The app's response, for `Executed` and `Replayed`.
    pub response: Option<Arc<StoredResponse>>,
}

/// What was done with a command: a decision that every copy takes alike (rule X1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The app executed it.
    Executed,
    /// A repeat by Idempotency-Key: the first one's response.
    Replayed,
    /// Not executed, and will not be: too late in agreed time.
    Expired,
    /// Not executed, and will not be: classified by an older policy; classify it again.
    Reclassify,
    /// Not executed: the key was used for another request (422).
    KeyReused,
    /// Not executed: the key was used by another principal (422).
    PrincipalChanged,
    /// A repeat whose stored response is gone everywhere (410).
    ResponseGone,
    /// Skipped as poisonous; never executed again.
    Skipped,
    /// Not executed: a repeat by internal id. Nobody is told: the answer is that of its first.
    Duplicate,
    /// A command that is not a request took effect (a policy, for one).
    Done,
    /// A policy whose base version was no longer in force.
    Conflict,
    /// Its slot is one that a snapshot stands for here: this member does not know what became of it,
    /// others may. It was not passed over.
    Elsewhere,
}

/// A complete response of the app.
#[derive(Clone, Debug)]
pub struct StoredResponse {
    /// Status code.
    pub status: http::StatusCode,
    /// End-to-end headers as the app sent them.
    pub headers: http::HeaderMap,
    /// The body.
    pub body: StoredBody,
    /// Trailers, mostly empty.
    pub trailers: http::HeaderMap,
}

/// Where a stored body is: small ones in memory, large ones (over 64 KiB) in a file that lives as
/// long as this value.
#[derive(Clone, Debug)]
pub enum StoredBody {
    /// All of it.
    Memory(Bytes),
    /// A file of `len` bytes.
    File {
        path: Arc<tempfile::TempPath>,
        len: u64,
    },
}

/// How far this member's copy is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ApplyStatus {
    /// The app's state is that of this slot: all up to here are done. Begins anew when the app does.
    pub applied: Slot,
    /// All slots up to here are decided: policy and keys are those of this slot.
    pub admitted: Slot,
    /// Agreed time of that slot: what expires earlier and was not admitted never will be.
    pub time: AgreedTime,
    /// Highest slot sent to the app (rule R6). Never goes down.
    pub sent: Slot,
    /// The copy can answer clients: its app runs and it is not replaying what was known to be
    /// chosen when it (re)started.
    pub serving: bool,
    /// The state of its copy is being saved: until that is done nothing is executed.
    pub saving: bool,
    /// It is replaying after a start.
    pub rebuilding: bool,
    /// It executes what others executed long ago, or waits for an app that does not answer.
    pub app_stalled: bool,
    /// There is no app to execute anything: it does not run, or answers to nobody.
    pub app_absent: bool,
    /// This instance of the app must be stopped: its state is not known. It is, once the group
    /// allows it ([`super::stop`]).
    pub condemned: Option<Instance>,
    /// The state was found to differ from other copies' from this slot on, and was not made anew yet.
    pub astray: Option<Slot>,
    /// Starts of the app that were seen.
    pub app_starts: u64,
    /// A copy that must be made anew begins with the snapshot at this slot; 0: with the start of the log.
    pub base: Slot,
    /// It cannot: a snapshot of this slot or a later one is wanted, older than that one though it may be.
    pub void: Option<Slot>,
    /// Entries up to here are not read from the log any more: a snapshot of this member stands for
    /// them.
    pub not_needed: Slot,
    /// A state is being put back, which takes its time.
    pub restoring: bool,
    /// The app's volume must be put back to the snapshot at this slot before it counts: the pod is to
    /// be replaced, as soon as its app may be stopped.
    pub rollback: Option<Slot>,
    /// The app may be started: none runs, and its volume, if it has one, is as it should be.
    pub may_start: bool,
    /// Which revision of the app runs here and in the group.
    pub revision: RevisionStatus,
    /// Where the one that runs along silently answers otherwise than the one that answers clients, as the
    /// group has agreed on.
    pub disagreement: Option<RevisionDisagrees>,
}

/// What the tables know about an Idempotency-Key, for the outcome endpoint.
#[derive(Clone, Debug)]
pub enum KeyOutcome {
    /// Never seen, or forgotten.
    Unknown,
    /// What became of its request: executed, with what is left of the response, or skipped.
    Known(Answer),
    /// Used by another principal.
    PrincipalChanged,
}

// === impl Answer ===

impl Answer {
    /// Of a command up to this slot, which a snapshot stands for.
    pub(super) fn elsewhere(slot: Slot) -> Self {
        Self {
            slot,
            outcome: Outcome::Elsewhere,
            first_answerer: None,
            response: None,
        }
    }
}

// === impl ApplyHandle ===

impl ApplyHandle {
    /// The answer to a command, once it is done here. Immediate when it is among the responses kept
    /// (the last 4,096). Waits for ever for a command that never comes: the caller limits the time.
    pub async fn answer(&self, id: CommandId) -> Answer {
        self.answers.wait(id).await
    }

    /// Returns once `applied >= slot`.
    pub async fn wait_applied(&self, slot: Slot) {
        self.answers.wait_until(Which::Applied, slot).await;
    }

    /// Looks up a key in the tables as decided now. Of a request that is not executed here yet, waits
    /// for the end: the caller limits the time.
    pub async fn key_outcome(&self, principal: Bytes, key: Bytes) -> KeyOutcome {
        let slot = match self.lookup(&principal, &key).await {
            KeyLookup::Used(slot) => {
                self.answers.wait_until(Which::Answered, slot).await;
                slot
            }
            found => return known(found, None),
        };
        // Meanwhile it may have been skipped.
        let response = self.answers.keyed(slot);
        known(self.lookup(&principal, &key).await, response)
    }

    async fn lookup(&self, principal: &Bytes, key: &Bytes) -> KeyLookup {
        let (reply, lookup) = oneshot::channel();
        let call = Call::Lookup {
            principal: principal.clone(),
            key: key.clone(),
            reply,
        };
        if self.calls.send(call).await.is_err() {
            return std::future::pending().await;
        }
        match lookup.await {
            Ok(found) => found,
            Err(_) => std::future::pending().await,
        }
    }

    /// Takes a snapshot by [`States::take`](super::States::take) at the next slot where that can be
    /// done: its slot. Reads go on meanwhile; nothing is executed while it is being taken.
    pub async fn take_snapshot(&self) -> Result<Slot, NotTaken> {
        let (reply, taken) = oneshot::channel();
        let call = Call::TakeSnapshot(reply);
        self.calls.send(call).await.map_err(|_| NotTaken::Ended)?;
        taken.await.unwrap_or(Err(NotTaken::Ended))
    }

    /// All that was decided here so far, of the slot [`Fold::admitted`]. `None`: apply has ended.
    pub async fn tables(&self) -> Option<Box<Fold>> {
        let (reply, tables) = oneshot::channel();
        self.calls.send(Call::Tables(reply)).await.ok()?;
        tables.await.ok()
    }

    /// Another snapshot can be used from now on: one of this member that was verified, or one that it
    /// was given and that the agreement has installed. `None`: the log is whole, and a copy can begin with
    /// nothing. Returns when apply builds on it, or does not.
    pub async fn snapshot_available(&self, fold: Option<Fold>) -> Availability {
        let (reply, done) = oneshot::channel();
        let fold = fold.map(Box::new);
        let call = Call::SnapshotAvailable { fold, reply };
        if self.calls.send(call).await.is_err() {
            return Availability::Older;
        }
        done.await.unwrap_or(Availability::Older)
    }

    /// The snapshot at this slot cannot be read any more: if a copy that must be made anew would begin
    /// there, it waits for another ([`ApplyStatus::void`]).
    pub async fn base_lost(&self, slot: Slot) {
        // If apply has ended, the next one does not find it.
        let _ = self.calls.send(Call::BaseLost(slot)).await;
    }

    /// The policy in force, and its changes.
    pub fn policy(&self) -> watch::Receiver<Arc<Policy>> {
        self.policy.clone()
    }

    /// The latest status, and its changes.
    pub fn status(&self) -> watch::Receiver<ApplyStatus> {
        self.status.clone()
    }

    /// How long the app takes for ordered requests, from before the first byte to the end of the
    /// response, in seconds.
    pub fn durations(&self) -> Histogram {
        self.durations.clone()
    }

    /// What the leader that compares the copies says to this one, and the digests that it wants, `max`
    /// at most. What it says is noted before this returns. `None`: apply has ended.
    pub async fn compare(&self, word: &Word, max: usize) -> Option<Batch> {
        if let Some((lineage, mark)) = self.compared.to_note(word) {
            let (reply, noted) = oneshot::channel();
            let call = Call::Astray(lineage, mark.clone(), reply);
            self.calls.send(call).await.ok()?;
            noted.await.ok()?;
            self.compared.noted(lineage, mark);
        }
        Some(self.compared.answer(word, max))
    }

    /// What was found about all copies, and its changes.
    pub fn found(&self) -> watch::Receiver<Found> {
        self.compared.found.subscribe()
    }

    /// While this member leads: what it has found about all copies.
    pub(crate) fn publish_found(&self, found: Found) {
        self.compared.found.send_if_modified(|published| {
            let changed = *published != found;
            *published = found;
            changed
        });
    }

    /// Up to where the state of this copy is vouched for, and its changes.
    pub fn verified(&self) -> watch::Receiver<Verified> {
        self.compared.verified()
    }

    /// What this member knows about slots that fail (rule K1). `None`: apply has ended.
    pub async fn doubts(&self) -> Option<Doubts> {
        let (reply, doubts) = oneshot::channel();
        self.calls.send(Call::Doubts(reply)).await.ok()?;
        doubts.await.ok()
    }

    /// The leader asks about a slot (rule K1). What is promised is on disk when this returns. `Ok(None)`:
    /// a later ask was answered already, or the slot is skipped. `None`: apply has ended.
    pub async fn ask(&self, ask: Ask) -> Option<Result<Option<Standing>, PromisesError>> {
        let (reply, standing) = oneshot::channel();
        self.calls.send(Call::Ask(ask, reply)).await.ok()?;
        standing.await.ok()
    }

    /// That ask has come to an end, and the slot was not skipped. `None`: apply has ended.
    pub async fn free(&self, ask: Ask) -> Option<()> {
        let (reply, freed) = oneshot::channel();
        self.calls.send(Call::Free(ask, reply)).await.ok()?;
        freed.await.ok()
    }

    /// Slots that nobody executes, as far as that was learnt since this process started.
    pub fn skipped(&self) -> watch::Receiver<Skips> {
        self.skipped.clone()
    }

    /// The start signal (rule A5): the app was started, or is about to be. Returns at once.
    pub fn app_started(&self) {
        self.signals.app_started.notify_one();
    }

    /// What apply waits for, if it does.
    pub fn waiting_on(&self) -> Option<Waiting> {
        self.waiting.borrow().map(|waiting| Waiting {
            on: waiting.on.to_string(),
            slot: waiting.slot.0,
            age_ms: u64::try_from(waiting.since.elapsed().as_millis()).unwrap_or(u64::MAX),
        })
    }

    /// For how long there has been no app, in milliseconds; 0: there is one.
    pub fn app_silent_ms(&self) -> u64 {
        let absent = self.status.borrow().app_absent;
        let waiting = self.waiting_on().filter(|it| absent && it.on == "app");
        waiting.map_or(0, |it| it.age_ms)
    }
}

/// Of a key whose request, if it was used, is done.
fn known(found: KeyLookup, response: Option<Arc<StoredResponse>>) -> KeyOutcome {
    let (slot, outcome) = match found {
        KeyLookup::Unknown => return KeyOutcome::Unknown,
        KeyLookup::OtherPrincipal => return KeyOutcome::PrincipalChanged,
        KeyLookup::Used(slot) => (slot, Outcome::Executed),
        KeyLookup::Skipped(slot) => (slot, Outcome::Skipped),
    };
    KeyOutcome::Known(Answer {
        slot,
        outcome,
        first_answerer: None,
        response,
    })
}

/// Folder for spooled bodies, emptied at each start.
pub fn spool_dir(data: &std::path::Path) -> PathBuf {
    data.join("spool")
}
