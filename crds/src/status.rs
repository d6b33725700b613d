//! What the operator reports about a service.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::findings::SkippedRequest;

/// What was last seen of the service. Slot numbers change too fast for an API object: see the
/// metrics, or `synod status`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ReplicatedServiceStatus {
    /// The generation of `spec` that this status is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Ready, Available, Progressing, Degraded and others, each with its reason.
    #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// Number of the membership configuration; it counts changes of membership.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
    /// Who leads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub leader: Option<LeaderStatus>,
    /// Number of voters there are.
    pub replicas: u32,
    /// Number of voters that are ready.
    pub ready_replicas: u32,
    /// Label selector of the pods, for the scale subresource.
    #[schemars(length(max = 1024))]
    pub selector: String,
    /// Every member.
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub members: Vec<MemberStatus>,
    /// Every cluster that has, had or may have members.
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub clusters: Vec<ClusterStatus>,
    /// How much more may be lost before the service stops.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tolerates: Option<Tolerates>,
    /// Which version of the members' protocol is in use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<ProtocolStatus>,
    /// The newest snapshot that any member has and that may be used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<SnapshotStatus>,
    /// What came of the last snapshot that was asked for by the annotation `synod.dev/snapshot`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshot_request: Option<SnapshotAnswer>,
    /// Requests that nobody executes, since every copy failed at them; the latest ones, by slot.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub skipped: Vec<SkippedRequest>,
    /// Where clients reach the service.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub endpoint: Option<String>,
    /// The same in few words, for `kubectl get`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub summary: Option<Summary>,
}

/// The state of the service in few words.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Summary {
    /// Members that are ready, of how many, such as `2/3`.
    #[schemars(length(max = 16))]
    pub members: String,
    /// What may be lost besides before the service stops, such as `1 member`.
    #[schemars(length(max = 64))]
    pub tolerates: String,
}

/// One aspect of the service's state, as Kubernetes has them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// Name of the aspect, such as Ready.
    #[serde(rename = "type")]
    #[schemars(length(min = 1, max = 63))]
    pub kind: String,
    /// True, False or Unknown.
    #[schemars(length(max = 16))]
    pub status: String,
    /// Why, in one word that stays the same.
    #[schemars(length(min = 1, max = 128))]
    pub reason: String,
    /// Why, and what to do, for a person.
    #[serde(default)]
    #[schemars(length(max = 32768))]
    pub message: String,
    /// When `status` last changed (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub last_transition_time: Option<String>,
    /// The generation of `spec` that this is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}

/// Who leads.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LeaderStatus {
    /// Name of the member.
    #[schemars(length(max = 63))]
    pub member: String,
    /// Its cluster.
    #[schemars(length(max = 40))]
    pub cluster: String,
    /// Its region.
    #[schemars(length(max = 63))]
    pub region: String,
}

/// One member.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MemberStatus {
    /// Its stable name.
    #[schemars(length(max = 63))]
    pub name: String,
    /// Its cluster.
    #[schemars(length(max = 40))]
    pub cluster: String,
    /// Its region.
    #[schemars(length(max = 63))]
    pub region: String,
    /// What it does for the group: Voter, Observer or Witness.
    pub role: MemberRole,
    /// How its copy is: CaughtUp, CatchingUp, Rebuilding, Quarantined or Unreachable.
    pub state: MemberState,
    /// The life of its log: a lost disk begins a new one.
    #[schemars(length(max = 64))]
    pub incarnation: String,
    /// The revision of the app that its copy is of, from 0; absent: no copy runs, or nothing is heard of
    /// it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
    /// Its newest snapshot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<SnapshotStatus>,
}

/// A snapshot of the app's state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotStatus {
    /// The last ordered request whose effect is in it, by its place in the order.
    pub slot: u64,
    /// The agreed time of that request (RFC 3339).
    #[schemars(length(max = 64))]
    pub time: String,
    /// Size of its file, in bytes.
    pub bytes: u64,
    /// Whether it may be used: `Uncompared`, not yet; `Verified`, copies agreed on all that is in it;
    /// `Unverified`, they could not be compared in time, and the log needed the room.
    pub standing: Standing,
}

/// Whether a snapshot may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Standing {
    /// Not yet.
    Uncompared,
    /// Copies agreed on all that is in it.
    Verified,
    /// Copies could not be compared in time.
    Unverified,
}

/// What came of a snapshot that was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotAnswer {
    /// The annotation's value.
    #[schemars(length(max = 63))]
    pub word: String,
    /// The member that was asked; empty when none could be.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 63))]
    pub member: String,
    /// The last ordered request whose effect is in the snapshot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slot: Option<u64>,
    /// Why there is none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 1024))]
    pub problem: String,
}

// === impl Standing ===

impl Standing {
    /// A member may be given it, and the log may be cut behind it.
    pub fn is_usable(self) -> bool {
        self != Self::Uncompared
    }
}

/// What a member does for its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum MemberRole {
    /// Votes and runs the app.
    Voter,
    /// Runs the app, has no vote.
    Observer,
    /// Votes and keeps the log, runs no app.
    Witness,
}

/// How a member's copy is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum MemberState {
    /// It has executed what is agreed.
    CaughtUp,
    /// It is behind, and moving.
    CatchingUp,
    /// Its state is put back to a snapshot, and executed anew from there.
    Rebuilding,
    /// It answered differently from the others and was taken out.
    Quarantined,
    /// Nobody hears it.
    Unreachable,
}

/// One cluster of the placement.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClusterStatus {
    /// Its name.
    #[schemars(length(max = 63))]
    pub name: String,
    /// Its region.
    #[schemars(length(max = 63))]
    pub region: String,
    /// Whether its API server answers the hub.
    pub reachable: bool,
}

/// How much more may be lost before the service stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Tolerates {
    /// This many more members, whichever they are.
    pub members: u32,
    /// This many more regions, whichever they are.
    pub regions: u32,
}

/// Which version of the members' protocol is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProtocolStatus {
    /// The agreed version.
    pub current: u32,
    /// The highest version that all members support.
    pub supported: u32,
}
