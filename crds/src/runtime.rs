//! How the service runs: divergence, poison, reads, leadership, updates, network, Service, sidecar.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::raw::RawObject;

/// What is done when copies answer the same request differently.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Divergence {
    /// `Observe`: one copy answers and all are compared, for a trial. `Alert`: it is reported.
    /// `Quarantine` (default): the odd one out is taken out and rebuilt. `Halt`: the service stops
    /// until a person decides.
    pub action: DivergenceAction,
    /// Response headers that may differ between copies. Default: none but `Date`, `Server` and the
    /// like.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 64)))]
    pub ignore_headers: Vec<String>,
    /// Places in JSON response bodies that may differ between copies, by JSON pointer (RFC 6901).
    /// Default: none.
    #[serde(rename = "ignoreJSONPointers", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 256)))]
    pub ignore_json_pointers: Vec<String>,
}

/// What is done when copies differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DivergenceAction {
    /// One copy answers, all are compared.
    Observe,
    /// It is reported.
    Alert,
    /// The odd one out is taken out and rebuilt.
    #[default]
    Quarantine,
    /// The service stops.
    Halt,
}

/// What is done with a request that makes copies fail.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Poison {
    /// When such a request is skipped. `Never`: a person decides. `WhenAllFailed` (default): every
    /// copy said that it did not execute it. `WhenReachableFailed`: every copy that can be asked said
    /// so; a lost one may have acknowledged it.
    pub skip: PoisonSkip,
}

/// When a request that makes copies fail is skipped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PoisonSkip {
    /// A person decides.
    Never,
    /// No copy executed it, for sure.
    #[default]
    WhenAllFailed,
    /// No copy that can be asked executed it.
    WhenReachableFailed,
}

/// How linearizable reads learn that they are up to date.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Reads {
    /// `Lease` (default): the leader answers alone for a short agreed time, trusting that clocks run
    /// at nearly the same rate. `ReadIndex`: it asks a quorum each time; for machines that may be
    /// paused and resumed.
    pub protocol: ReadProtocol,
}

/// How reads are confirmed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ReadProtocol {
    /// By a lease of the leader.
    #[default]
    Lease,
    /// By a quorum, each time.
    ReadIndex,
}

/// Where the leader should be.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Leader {
    /// Regions in order of preference; the leader moves there when it can. Default: none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 63)))]
    pub preferred_regions: Vec<String>,
}

/// How a new revision of the app takes over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Update {
    /// `Rolling` (default): the new revision first runs along silently, on half of the copies. It takes
    /// over, without a pause, when these have caught up and every request has gone alike with both. If one
    /// has gone otherwise, it does not, and is taken back by putting the template back. `Switch`: the new
    /// revision takes over at one point in the order; nobody is answered between there and the first copy
    /// of it that has started. A single copy is always switched.
    pub strategy: UpdateStrategy,
}

/// How a new revision takes over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum UpdateStrategy {
    /// Silently along, then over.
    #[default]
    Rolling,
    /// At one point in the order.
    Switch,
}

/// How members of different clusters reach each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Network {
    /// `Flat` (default): pod addresses reach everywhere. `PerPodService`: a LoadBalancer or NodePort
    /// Service for each member. `MultiClusterServices`: names under `clusterset.local`. `Static`:
    /// addresses that you give.
    pub mode: NetworkMode,
}

/// How members reach each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum NetworkMode {
    /// By pod addresses.
    #[default]
    Flat,
    /// By a Service for each member.
    PerPodService,
    /// By names under `clusterset.local`.
    MultiClusterServices,
    /// By given addresses.
    Static,
}

/// The Service that clients use.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Service {
    /// Name of the Service. Default: the name of the replicated service.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub name: Option<String>,
    /// `ClusterIP` (default), `NodePort` or `LoadBalancer`.
    #[serde(rename = "type")]
    pub kind: ServiceType,
    /// Its port: 1 to 65535. Default: 80.
    #[schemars(range(min = 1, max = 65535))]
    pub port: u16,
    /// Annotations of the Service.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    pub annotations: BTreeMap<String, String>,
    /// Labels of the Service.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    pub labels: BTreeMap<String, String>,
    /// Whether the Service is exported to other clusters (`ServiceExport`). Default: false, and this
    /// version takes nothing else.
    pub export: bool,
}

/// Type of a Service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ServiceType {
    /// Inside the cluster.
    #[default]
    #[serde(rename = "ClusterIP")]
    ClusterIp,
    /// On a port of each node.
    NodePort,
    /// By a load balancer.
    LoadBalancer,
}

/// The proxy that runs next to each copy.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Sidecar {
    /// Compute resources of the sidecar's container. Default: requests of 100m CPU and 64Mi memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<RawObject>,
    /// Ports that the sidecar listens on. They must differ from each other and from the template's.
    pub ports: SidecarPorts,
    /// When running members get a new version of the sidecar. `WhenRestarted` (default): when they
    /// are restarted anyway. `Automatic`: the operator restarts them, one service at a time.
    pub update: SidecarUpdate,
}

/// Ports that the sidecar listens on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct SidecarPorts {
    /// For clients. Default: 7480.
    #[schemars(range(min = 1, max = 65535))]
    pub http: u16,
    /// For other members. Default: 7443.
    #[schemars(range(min = 1, max = 65535))]
    pub peer: u16,
    /// For probes, metrics and status. Default: 7420.
    #[schemars(range(min = 1, max = 65535))]
    pub admin: u16,
}

/// When running members get a new version of the sidecar.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SidecarUpdate {
    /// When they are restarted anyway.
    #[default]
    WhenRestarted,
    /// The operator restarts them.
    Automatic,
}

// === impl Default ===

impl Default for Service {
    fn default() -> Self {
        Self {
            name: None,
            kind: ServiceType::ClusterIp,
            port: 80,
            annotations: BTreeMap::new(),
            labels: BTreeMap::new(),
            export: false,
        }
    }
}

impl Default for SidecarPorts {
    fn default() -> Self {
        Self {
            http: 7480,
            peer: 7443,
            admin: 7420,
        }
    }
}
