//! What kubelet, operators and people ask of one member: live, ready, metrics, status, app health
//! and the hooks of the pod's containers.
//!
//! In: HTTP requests on a port of its own. Out: what the member knows about itself. It reads the
//! published status of the agreement and of apply, and passes the start signal on.

pub mod status;

mod gauges;
mod health;
mod lifecycle;
mod observer;
mod server;
#[cfg(test)]
mod testing;

use std::sync::{Arc, OnceLock};

use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use synod_paxos::{Boot, Incarnation};
use synod_proto::v1::Policy;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use server::serve;

use self::status::Waiting;
use crate::app::{Instance, Outsider};
use crate::apply::{ApplyStatus, Verified};
use crate::config::Token;
use crate::copies::Found;
use crate::node::{NodeHandle, NodeStatus};
use crate::poison;

/// What the admin port is made of.
pub struct AdminParts {
    /// Name of the service.
    pub service: String,
    /// This member's stable name.
    pub member: String,
    /// Whose log this is; set once it is open.
    pub log: Arc<OnceLock<LogIdentity>>,
    /// Lowest and highest protocol version that this build speaks.
    pub protocol: [u32; 2],
    /// What the agreement publishes.
    pub node: watch::Receiver<NodeStatus>,
    /// What apply publishes.
    pub apply: watch::Receiver<ApplyStatus>,
    /// The policy in force.
    pub policy: watch::Receiver<Arc<Policy>>,
    /// What apply waits for.
    pub apply_waits: Box<dyn Fn() -> Option<Waiting> + Send + Sync>,
    /// The group allows that this instance of the app is stopped now.
    pub may_stop: Box<dyn Fn(Instance) -> bool + Send + Sync>,
    /// The start signal (rule A5); must return at once.
    pub app_started: Box<dyn Fn() + Send + Sync>,
    /// It is a witness: there is no app beside it.
    pub witness: bool,
    /// The app has a volume, on which it must find what it should.
    pub has_volume: bool,
    /// The app may be started from now on; false: not now.
    pub let_start: Box<dyn Fn() -> bool + Send + Sync>,
    /// The revision of the app that is to be started here; `None`: it is not known yet.
    pub revision_due: Box<dyn Fn() -> Option<u64> + Send + Sync>,
    /// One that runs along silently may be started instead; `None`: there is none.
    pub revision_may: Box<dyn Fn() -> Option<u64> + Send + Sync>,
    /// The newest snapshot.
    pub snapshot: Box<dyn Fn() -> Option<status::Snapshot> + Send + Sync>,
    /// How long the app takes for ordered requests.
    pub apply_durations: Histogram,
    /// Everything else that is counted, under the prefix `synod`.
    pub registry: Registry,
    /// The agreement itself, asked about its details now and then.
    pub agreement: NodeHandle,
    /// Most bytes that the log may have.
    pub log_max_bytes: u64,
    /// What the app's probes and the hooks must show; `None`: nothing.
    pub token: Option<Token>,
    /// Who went past this sidecar.
    pub outsiders: watch::Receiver<Option<Outsider>>,
    /// What the leader has found about the copies.
    pub found: watch::Receiver<Found>,
    /// Up to where this copy is vouched for.
    pub verified: watch::Receiver<Verified>,
    /// Requests that fail on every copy, and what was skipped.
    pub poison: watch::Receiver<poison::Found>,
    /// Cancelled when this member begins to leave: it is not ready any more.
    pub leaving: CancellationToken,
}

/// One start of one log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogIdentity {
    /// The life of the log.
    pub incarnation: Incarnation,
    /// The number of this start.
    pub boot: Boot,
}
