//! The `ReplicaGroup`: the exact work for one cluster, written by the hub and reported on by that
//! cluster's operator. People read it; only operators write it.

use std::collections::BTreeMap;

use kube_derive::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::app::AppProtocol;
use crate::findings::Findings;
use crate::int_or_string::IntOrString;
use crate::membership::{MembersChange, Membership};
use crate::placement::Overrides;
use crate::raw::RawObject;
use crate::revision::{Along, GroupRevision, Revise, RevisionState};
use crate::runtime::{Leader, Network, Service, Sidecar, Update};
use crate::service::ReplicatedServiceSpec;
use crate::state::{BootstrapType, Log, State, VolumeClaimRetentionPolicy};
use crate::status::{Condition, MemberRole, MemberState, SnapshotAnswer, SnapshotStatus};

/// What one cluster runs of a replicated service. Written by the operator of the hub; do not edit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema, CustomResource)]
// The columns are not one another's duplicates.
#[allow(clippy::duplicated_attributes)]
#[kube(
    group = "synod.dev",
    version = "v1alpha1",
    kind = "ReplicaGroup",
    plural = "replicagroups",
    shortname = "rgrp",
    category = "synod",
    doc = "What one cluster runs of a replicated service. Written by the operator of the hub and \
           reported on by the operator of the cluster; do not edit: change the ReplicatedService.",
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status",
        description = "Whether all is as desired here."
    ),
    printcolumn(
        name = "Cluster",
        type_ = "string",
        json_path = ".spec.cluster",
        description = "Name of this cluster in the hub."
    ),
    printcolumn(
        name = "Region",
        type_ = "string",
        json_path = ".spec.region",
        description = "Region of this cluster."
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].reason",
        description = "Why it is ready, or is not."
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    ),
    namespaced,
    status = "ReplicaGroupStatus",
    derive = "PartialEq",
    crates(kube_core = "::kube_core")
)]
#[serde(rename_all = "camelCase")]
pub struct ReplicaGroupSpec {
    /// UID of the ReplicatedService that this belongs to: two hubs cannot share a group.
    #[schemars(length(min = 1, max = 64))]
    pub owner: String,
    /// Name of this cluster in the hub.
    #[schemars(length(min = 1, max = 40))]
    pub cluster: String,
    /// Region of this cluster.
    #[serde(default)]
    #[schemars(length(max = 63))]
    pub region: String,
    /// Trust domain of the members' certificates.
    #[schemars(length(min = 1, max = 253))]
    pub trust_domain: String,
    /// The members in this cluster.
    #[schemars(length(max = 27), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub members: Vec<GroupMember>,
    /// Pod template of the app, before the sidecar is added.
    pub template: RawObject,
    /// The app's container and port.
    pub app: GroupApp,
    /// The revision of the app that these two are of; 0 is the first.
    #[serde(default)]
    pub revision: u64,
    /// Others that pods may be made of: those before it, and the next one once it is agreed on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["number"]))]
    pub revisions: Vec<GroupRevision>,
    /// The log of each member.
    #[serde(default)]
    pub log: Log,
    /// Where the app keeps its state.
    #[serde(default)]
    pub state: State,
    /// What becomes of claims.
    #[serde(default)]
    pub volume_claim_retention_policy: VolumeClaimRetentionPolicy,
    /// The Service that clients use.
    #[serde(default)]
    pub service: Service,
    /// The proxy next to each copy.
    #[serde(default)]
    pub sidecar: Sidecar,
    /// How members reach each other.
    #[serde(default)]
    pub network: Network,
    /// Where the leader should be.
    #[serde(default)]
    pub leader: Leader,
    /// How a new revision takes over.
    #[serde(default)]
    pub update: Update,
    /// What differs in this cluster.
    #[serde(default)]
    pub overrides: Overrides,
    /// The replicated policy as it should be: `synod.v1.Policy` in hex.
    #[schemars(length(max = 262_144))]
    pub policy: String,
    /// Every member of the group and where it listens for its peers.
    #[serde(default)]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub peers: Vec<GroupPeer>,
    /// The first configuration, JSON; set once all members have reported, never changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 524_288))]
    pub genesis: Option<String>,
    /// From what the group begins, if not with nothing; for the cluster that has it, and until it has
    /// begun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub founding: Option<GroupFounding>,
    /// Certificates from the hub.
    #[serde(default)]
    pub issuer: GroupIssuer,
    /// This cluster may replace pods now: the hub lets one cluster at a time.
    #[serde(default)]
    pub rollout: bool,
    /// Nothing is done while this is set.
    #[serde(default)]
    pub paused: bool,
    /// A snapshot that a member here is to make now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<SnapshotRequest>,
    /// The protocol version to which the leader, if it is here, raises the group; 0: as it is.
    #[serde(default)]
    pub protocol: u32,
    /// The epoch that the numbers and roles of `members` are of; 0: as the group was formed.
    #[serde(default)]
    pub epoch: u64,
    /// What the leader, if it is here, is asked to change about the members.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change: Option<MembersChange>,
    /// The revision of the app that the leader, if it is here, is asked to have agreed on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revise: Option<Revise>,
    /// The revision of the app that runs along silently, as long as it is wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub along: Option<Along>,
    /// How members here with an empty log get into the group: the text of their join file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 524_288))]
    pub join: Option<String>,
}

/// From what a group begins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GroupFounding {
    /// `Claim` and `Snapshot`: the one member that is named here makes the first state. `Existing`:
    /// members go on with the logs that they have.
    #[serde(rename = "type")]
    pub kind: BootstrapType,
    /// Name of the volume claim with the state or the backup; empty for `Existing`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 253))]
    pub claim: String,
    /// The folder of the backup in it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 1024))]
    pub path: String,
    /// What was done at this slot and behind it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<u64>,
}

/// A snapshot that somebody asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotRequest {
    /// The annotation's value; another one is another request.
    #[schemars(length(min = 1, max = 63))]
    pub word: String,
    /// Who is to make it.
    #[schemars(length(min = 1, max = 63))]
    pub member: String,
}

/// One member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GroupMember {
    /// Name of its pod, and of the member.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// Its number in the configuration; 0: it is not in the group, or not yet.
    pub id: u32,
    /// What it does.
    pub role: MemberRole,
    /// The life of its log with which it is in the group; empty: it is not, or that is not known.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 64))]
    pub incarnation: String,
    /// An earlier life of its log, which is thrown away with its claims if that is what it has; empty:
    /// nothing is thrown away.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 64))]
    pub discard: String,
}

/// The app, with every default filled in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GroupApp {
    /// Name of its container.
    #[schemars(length(min = 1, max = 63))]
    pub container: String,
    /// Number of its port.
    pub port: u16,
    /// How it is spoken to.
    #[serde(default)]
    pub protocol: AppProtocol,
    /// Numbers of further ports that may be reached directly.
    #[serde(default)]
    #[schemars(length(max = 16))]
    pub passthrough_ports: Vec<u16>,
}

/// Where a member listens for its peers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GroupPeer {
    /// The member.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// `host:port`.
    #[schemars(length(min = 1, max = 300))]
    pub address: String,
    /// What it does; one of which nothing is said is taken for a voter.
    #[serde(default = "GroupPeer::default_role")]
    pub role: MemberRole,
}

/// Certificates that come from the hub.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct GroupIssuer {
    /// Trusted roots, PEM.
    #[schemars(length(max = 65_536))]
    pub roots: String,
    /// This cluster's intermediate certificate, PEM; empty until its request was answered.
    #[schemars(length(max = 65_536))]
    pub chain: String,
}

/// What this cluster reports.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ReplicaGroupStatus {
    /// Generation of the spec that this is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// What is so, and what is not.
    #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// The members in this cluster as they are.
    #[schemars(length(max = 27), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub members: Vec<GroupMemberStatus>,
    /// The request for this cluster's intermediate certificate, PEM.
    #[schemars(length(max = 16_384))]
    pub issuer_request: String,
    /// Pods that run the template as it is now, of how many.
    pub updated: u32,
    /// Labels of the pods, as a selector.
    #[schemars(length(max = 1024))]
    pub selector: String,
    /// What came of the last snapshot that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<SnapshotAnswer>,
    /// What members here have in their logs as the beginning of their group, as the text of a genesis,
    /// while nothing is known of it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4), inner(length(max = 524_288)))]
    pub begun: Vec<String>,
    /// Who is in the group, while a member here leads it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub membership: Option<Membership>,
    /// How far the app's revisions are, while a member here leads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<RevisionState>,
    /// What members here have found out about requests and copies.
    #[serde(skip_serializing_if = "Findings::is_empty")]
    pub findings: Findings,
    /// Further facts by name, for people.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16))]
    pub facts: BTreeMap<String, String>,
}

/// One member as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GroupMemberStatus {
    /// Its name.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// The life of its log, 32 hex digits; empty until it was heard.
    #[serde(default)]
    #[schemars(length(max = 64))]
    pub incarnation: String,
    /// Where it listens for its peers, `host:port`; empty until that is known.
    #[serde(default)]
    #[schemars(length(max = 300))]
    pub endpoint: String,
    /// How it is.
    pub state: MemberState,
    /// Its role in the group's configuration, as it says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<MemberRole>,
    /// Name of the leader it follows.
    #[serde(default)]
    #[schemars(length(max = 63))]
    pub leader: String,
    /// Number of the membership configuration it acts in; 0 before genesis.
    #[serde(default)]
    pub epoch: u64,
    /// It accepts clients' requests and its log counts.
    #[serde(default)]
    pub ready: bool,
    /// Version of the policy in force there.
    #[serde(default)]
    pub policy_version: u64,
    /// Lowest and highest protocol version that it speaks.
    #[serde(default)]
    pub protocol: [u32; 2],
    /// The protocol version in force there; 0: not known.
    #[serde(default)]
    pub protocol_in_force: u32,
    /// Size of its log in MiB, rounded up to whole 64 MiB.
    #[serde(default)]
    pub log_mebibytes: u64,
    /// Its newest snapshot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<SnapshotStatus>,
    /// It runs the pod template as it is now.
    #[serde(default)]
    pub updated: bool,
    /// The revision of the app by whose copies clients are answered, as far as it knows.
    #[serde(default)]
    pub revision: u64,
    /// The one that its copy is of; absent: no copy runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running: Option<u64>,
    /// The one that its pod is made of; absent: there is none, or it is being deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made_of: Option<u64>,
    /// The one that runs along silently, if what it begins with is here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub may: Option<u64>,
    /// What keeps its pod from running, if anything: in kubelet's words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 1024))]
    pub problem: String,
}

// === impl GroupPeer ===

impl GroupPeer {
    /// Nothing is taken for less than it may be.
    fn default_role() -> MemberRole {
        MemberRole::Voter
    }
}

// === impl GroupApp ===

impl GroupApp {
    /// The app of a service with its template in it; `None` when that has no such container.
    pub fn of(spec: &ReplicatedServiceSpec) -> Option<Self> {
        let containers = spec.template.as_ref()?.pointer("/spec/containers")?;
        let containers = containers.as_array()?;
        let text = |value: &Value, key: &str| value.get(key)?.as_str().map(str::to_owned);
        let named = |name: &String| {
            let mut list = containers.iter();
            list.find(|it| text(it, "name").as_ref() == Some(name))
        };
        let container = match &spec.app.container {
            None => containers.first(),
            Some(name) => named(name),
        }?;
        let ports = container.get("ports").and_then(Value::as_array);
        let ports = ports.map_or(&[][..], Vec::as_slice);
        let number = |port: &Value| u16::try_from(port.get("containerPort")?.as_u64()?).ok();
        let resolve = |port: &IntOrString| match port {
            IntOrString::Int(it) => u16::try_from(*it).ok(),
            IntOrString::String(name) => ports
                .iter()
                .find(|it| text(it, "name").as_ref() == Some(name))
                .and_then(number),
        };
        let port = match &spec.app.port {
            Some(port) => resolve(port),
            None => ports.first().and_then(number),
        };
        let passthrough = spec.app.passthrough_ports.iter();
        Some(Self {
            container: text(container, "name").unwrap_or_default(),
            // 0 where the template says something that is no port: the API server's dry run tells.
            port: port.unwrap_or(0),
            protocol: spec.app.protocol,
            passthrough_ports: passthrough.filter_map(|it| resolve(&it.port)).collect(),
        })
    }
}
