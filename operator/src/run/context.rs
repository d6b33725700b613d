//! What all controllers share.

use kube::Client;
use kube::runtime::events::Recorder;
use tokio_util::sync::CancellationToken;

use super::{Flags, Leadership, Metrics, Readiness, Turns};

/// Handed to every controller.
pub struct Context {
    /// Of this cluster.
    pub client: Client,
    /// What the operator was started with.
    pub flags: Flags,
    /// Whether this instance may write. Watches and caches run in every instance.
    pub leadership: Leadership,
    /// Numbers about the controllers.
    pub metrics: Metrics,
    /// What keeps this instance from being ready.
    pub readiness: Readiness,
    /// Which service's members get a newer sidecar now.
    pub turns: Turns,
    /// Publishes events about objects of this cluster.
    pub events: Recorder,
    /// Cancelled when the process is to end: finish what is under way, start nothing.
    pub stop: CancellationToken,
}
