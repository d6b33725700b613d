//! What the rest of the sidecar may ask of apply.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use synod_paxos::{CommandId, Slot};
use synod_proto::v1::Policy;
use tokio::sync::watch;

/// A cheap handle on this member's apply.
#[derive(Clone, Debug)]
pub struct ApplyHandle {
    status: watch::Receiver<ApplyStatus>,
    policy: watch::Receiver<Arc<Policy>>,
}

/// What became of a command here, once its slot is done.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Its slot; for a repeat, the slot of the first.
    pub slot: Slot,
    /// What was done.
    pub outcome: Outcome,
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
    /// Not executed here: a repeat by internal id. Nobody waits for it.
    Duplicate,
    /// A command that is not a request took effect (a policy, for one).
    Done,
    /// A policy whose base version was no longer in force.
    Conflict,
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
    /// All slots up to here are done.
    pub applied: Slot,
    /// Highest slot sent to the app (rule R6).
    pub sent: Slot,
    /// The copy can answer clients: its app runs and it is not replaying what was known to be
    /// chosen when it (re)started.
    pub serving: bool,
    /// It is replaying after a start.
    pub rebuilding: bool,
    /// It executes what others executed long ago, or waits for an app that does not answer.
    pub app_stalled: bool,
    /// The app must be stopped: its liveness probe answers 503.
    pub kill_app: bool,
    /// Starts of the app that were seen.
    pub app_starts: u64,
}

/// What the tables know about an Idempotency-Key, for the outcome endpoint.
#[derive(Clone, Debug)]
pub enum KeyOutcome {
    /// Never seen, or forgotten.
    Unknown,
    /// Executed, with what is left of the response.
    Executed(Answer),
    /// Used by another principal.
    PrincipalChanged,
}

impl ApplyHandle {
    /// The answer to a command, once it is done here. Immediate when it is among the responses kept
    /// (the last 4,096). Waits for ever for a command that never comes: the caller limits the time.
    pub async fn answer(&self, id: CommandId) -> Answer {
        let _ = id;
        std::future::pending().await
    }

    /// Returns once `applied >= slot`.
    pub async fn wait_applied(&self, slot: Slot) {
        let _ = slot;
        std::future::pending().await
    }

    /// Looks up a key in the tables as applied now.
    pub async fn key_outcome(&self, principal: Bytes, key: Bytes) -> KeyOutcome {
        let _ = (principal, key);
        KeyOutcome::Unknown
    }

    /// The policy in force, and its changes.
    pub fn policy(&self) -> watch::Receiver<Arc<Policy>> {
        self.policy.clone()
    }

    /// The latest status, and its changes.
    pub fn status(&self) -> watch::Receiver<ApplyStatus> {
        self.status.clone()
    }

    /// The start signal (rule A5): the app was started, or is about to be. Returns at once.
    pub fn app_started(&self) {}
}

/// Folder for spooled bodies, emptied at each start.
pub fn spool_dir(data: &std::path::Path) -> PathBuf {
    data.join("spool")
}
