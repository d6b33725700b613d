//! The `ReplicatedService` itself.

use kube_derive::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::app::App;
use crate::ordering::Ordering;
use crate::placement::Placement;
use crate::raw::RawObject;
use crate::routes::{DefaultConsistency, Route};
use crate::runtime::{Divergence, Leader, Network, Poison, Reads, Service, Sidecar, Update};
use crate::state::{Bootstrap, Log, State, VolumeClaimRetentionPolicy};
use crate::status::ReplicatedServiceStatus;

/// API group and version of these types.
pub const API_VERSION: &str = "synod.dev/v1alpha1";
/// Kind of [`ReplicatedService`].
pub const KIND: &str = "ReplicatedService";

/// What is wanted of a replicated service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema, CustomResource)]
// The columns are not one another's duplicates.
#[allow(clippy::duplicated_attributes)]
#[kube(
    group = "synod.dev",
    version = "v1alpha1",
    kind = "ReplicatedService",
    plural = "replicatedservices",
    shortname = "rsvc",
    category = "all",
    category = "synod",
    namespaced,
    status = "ReplicatedServiceStatus",
    derive = "PartialEq",
    doc = "An HTTP service of which several identical copies run. Every copy executes the same \
           requests in the same agreed order, so any minority of them may be lost without losing \
           anything acknowledged.",
    scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status",
        description = "Whether all is as desired."
    ),
    printcolumn(
        name = "Members",
        type_ = "string",
        json_path = ".status.summary.members",
        description = "Members that are ready, of how many."
    ),
    printcolumn(
        name = "Leader",
        type_ = "string",
        json_path = ".status.leader.member",
        description = "The member that leads."
    ),
    printcolumn(
        name = "Tolerates",
        type_ = "string",
        json_path = ".status.summary.tolerates",
        description = "What may be lost besides before the service stops."
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].reason",
        description = "Why it is ready, or is not."
    ),
    printcolumn(
        name = "Snapshot",
        type_ = "date",
        json_path = ".status.snapshot.time",
        priority = 1,
        description = "How old the newest snapshot is that may be used."
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    ),
    crates(kube_core = "::kube_core")
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ReplicatedServiceSpec {
    /// Number of copies that vote, all in the operator's own cluster: an odd number from 1 to 9.
    /// Leave it out when `placement` is given; without both it is 3. A change adds or removes
    /// members one at a time while the service goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 9))]
    pub replicas: Option<u32>,
    /// How many members of which role run in which cluster. Leave it out when `replicas` is given.
    /// A change adds or removes members one at a time while the service goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["cluster"]))]
    pub placement: Option<Vec<Placement>>,
    /// Risks that you know and accept; each one lifts one refusal. `EvenVoters`: an even number of
    /// votes, which tolerates no more losses than one fewer. `RegionMajority`: one region holds a
    /// majority, so its loss stops the service. `NoSnapshot`: the whole log is kept and replayed.
    /// `UnorderedWrites`: requests that may change state pass by the log on `Bypass` or `Local`
    /// routes. `OutboundCalls`: the app calls others, once per copy and once more per replay.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 5), extend("x-kubernetes-list-type" = "set"))]
    pub acknowledged_risks: Vec<Risk>,
    /// Pod template of the app: an ordinary one, nothing in it knows about Synod. A change of image,
    /// command, environment or volumes starts a new revision of the app; a change of labels,
    /// annotations, resources or scheduling restarts the members one by one, the leader last. Leave
    /// it out when `workloadRef` is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<RawObject>,
    /// An existing workload whose pod template is taken instead of `template`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload_ref: Option<WorkloadRef>,
    /// Which container is the app, and how it is spoken to.
    #[serde(default)]
    pub app: App,
    /// What the copies start from the first time; without effect afterwards, and then it cannot be
    /// changed.
    #[serde(default)]
    pub bootstrap: Bootstrap,
    /// The agreed log that each member keeps.
    #[serde(default)]
    pub log: Log,
    /// Where the app keeps its state, and how it is saved and put back.
    #[serde(default)]
    pub state: State,
    /// What becomes of the volume claims of members.
    #[serde(default)]
    pub volume_claim_retention_policy: VolumeClaimRetentionPolicy,
    /// What is done with requests that match no route, or a route without `consistency`. `ByMethod`
    /// (default): GET, HEAD, OPTIONS, PROPFIND, REPORT, SEARCH and QUERY are linearizable reads, all
    /// others are ordered. `Ordered`: all are ordered, for apps whose reads change something. A
    /// change is agreed and takes effect without a restart.
    #[serde(default)]
    pub default_consistency: DefaultConsistency,
    /// Exceptions from `defaultConsistency`; the first route that matches a request wins. A change
    /// is agreed and takes effect without a restart.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub routes: Vec<Route>,
    /// How requests get their place in the agreed order. A change is agreed and takes effect
    /// without a restart.
    #[serde(default)]
    pub ordering: Ordering,
    /// What is done when copies answer the same request differently. This version does not compare
    /// them, and refuses all but the default.
    #[serde(default)]
    pub divergence: Divergence,
    /// What is done with a request that makes copies fail. This version skips none.
    #[serde(default)]
    pub poison: Poison,
    /// How linearizable reads learn that they are up to date. This version always asks a quorum, so a
    /// change has no effect.
    #[serde(default)]
    pub reads: Reads,
    /// Where the leader should be. A change holds for each member from its next restart on.
    #[serde(default)]
    pub leader: Leader,
    /// How a new revision of the app takes over. A change holds for the next one that begins.
    #[serde(default)]
    pub update: Update,
    /// How members of different clusters reach each other. A change restarts the members one by
    /// one.
    #[serde(default)]
    pub network: Network,
    /// The Service that clients use. A change takes effect without a restart.
    #[serde(default)]
    pub service: Service,
    /// The proxy that runs next to each copy. A change restarts the members one by one.
    #[serde(default)]
    pub sidecar: Sidecar,
    /// Stops the operator from acting on this object; the service itself goes on. Default: false.
    #[serde(default)]
    pub paused: bool,
}

/// A risk that a user knows and accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Risk {
    /// An even number of votes tolerates no more losses than one fewer.
    EvenVoters,
    /// One region holds a majority: its loss stops the service.
    RegionMajority,
    /// The whole log is kept, and replayed at each start of the app.
    NoSnapshot,
    /// Requests that may change state pass by the log.
    UnorderedWrites,
    /// The app calls others: once per copy, and once more per replay.
    OutboundCalls,
}

/// An existing workload whose pod template is taken.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WorkloadRef {
    /// API version of the workload: `apps/v1`.
    #[schemars(length(max = 64))]
    pub api_version: String,
    /// Kind of the workload: `Deployment` or `StatefulSet`.
    #[schemars(length(max = 63))]
    pub kind: String,
    /// Name of the workload, in the namespace of the service.
    #[schemars(length(max = 253))]
    pub name: String,
    /// When the workload's own pods are scaled down to none. `OnSuccess` (default): once the
    /// replicated service is ready. `Never`: you do it.
    #[serde(default)]
    pub scale_down: ScaleDown,
}

/// When the pods of a referenced workload go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ScaleDown {
    /// Once the replicated service is ready.
    #[default]
    OnSuccess,
    /// A person does it.
    Never,
}

// === impl ReplicatedServiceSpec ===

impl ReplicatedServiceSpec {
    /// Voters when neither `replicas` nor `placement` says.
    pub const DEFAULT_REPLICAS: u32 = 3;

    /// Whether the user has accepted this risk.
    pub fn acknowledges(&self, risk: Risk) -> bool {
        self.acknowledged_risks.contains(&risk)
    }

    /// How many members have a vote, over all clusters: voters and witnesses.
    pub fn votes(&self) -> u32 {
        match &self.placement {
            Some(placement) => placement
                .iter()
                .map(|it| it.voters.saturating_add(it.witnesses))
                .fold(0, u32::saturating_add),
            None => self.replicas.unwrap_or(Self::DEFAULT_REPLICAS),
        }
    }
}
