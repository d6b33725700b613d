//! What is kept on disk: the log, the app's state, snapshots of it, and volume claims.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::duration::Duration;
use crate::quantity::Quantity;
use crate::raw::RawObject;

/// What the copies start from the first time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Bootstrap {
    /// `Empty` (default): a fresh app. `Existing`: the retained claims of an earlier service of this
    /// name, which goes on with its own logs. `Claim`: a copy of what is in a volume claim, named in
    /// `claim`; needs `state.type: Volume` and `state.snapshot.type: Volume`. `Snapshot`: a backup,
    /// named in `snapshot`. It cannot be changed once the service was formed.
    #[serde(rename = "type")]
    pub kind: BootstrapType,
    /// The volume claim to start from, for type `Claim`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub claim: Option<BootstrapClaim>,
    /// The backup to start from, for type `Snapshot`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<BootstrapSnapshot>,
}

/// What the copies start from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum BootstrapType {
    /// A fresh app.
    #[default]
    Empty,
    /// The retained claims of an earlier service of this name.
    Existing,
    /// The state in a volume claim.
    Claim,
    /// A backup.
    Snapshot,
}

/// A backup from which the service starts, as a new group.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BootstrapSnapshot {
    /// The cluster in which the claim is: one of the placement with voters.
    #[schemars(length(max = 40))]
    pub cluster: String,
    /// Name of the volume claim with the backup, in the namespace of the service. It is only read.
    #[schemars(length(min = 1, max = 253))]
    pub claim: String,
    /// The folder of the backup in the claim, as `synod backup list` names it.
    #[schemars(length(min = 1, max = 1024))]
    pub path: String,
    /// What was done at this slot and behind it is left out. Default: nothing is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub before: Option<u64>,
}

/// A volume claim that holds the first state. It is only read, and stays as it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BootstrapClaim {
    /// The cluster in which the claim is: one of the placement with voters.
    #[schemars(length(max = 40))]
    pub cluster: String,
    /// Name of the claim, in the namespace of the service. Nobody may use it meanwhile.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// The agreed log that each member keeps on a volume of its own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Log {
    /// The volume claim for the log of each member. Default: 10Gi of the default storage class.
    /// This version does not change claims that exist, and says so in a condition.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume_claim: Option<VolumeClaim>,
    /// The log takes no new requests when it is larger than this. At least 256Mi, and no more than
    /// the claim asks for. Default: 8Gi. A change holds for each member from its next restart on.
    pub max_size: Quantity,
}

/// A template for volume claims.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct VolumeClaim {
    /// An ordinary PersistentVolumeClaim spec.
    pub spec: RawObject,
}

/// Where the app keeps its state, and how that is saved and put back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct State {
    /// `Ephemeral` (default): in memory or in files that go with the process; a restarted app starts
    /// empty and gets everything again from a snapshot and the log. `Volume`: on the volume described
    /// by `volume`. It cannot be changed: make a backup and a new service.
    #[serde(rename = "type")]
    pub kind: StateType,
    /// How the state is saved, so that the log can be cut and a new copy need not replay all of it.
    pub snapshot: Snapshot,
    /// How long a replay may take before the operator reports it. Default: 10m. Nobody measures it
    /// in this version, which takes no other value.
    pub max_replay: Duration,
    /// The app's volume, for type `Volume`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume: Option<StateVolume>,
    /// What is done after a crash that leaves open whether a request was executed, for type
    /// `Volume`. `Rollback` (default): back to the last snapshot and replay. `AppliedHeader`: the app
    /// stores `Synod-Slot` with its data and tells it, as `applied` says. `AtLeastOnce`: the request is
    /// sent again; only where executing any ordered request twice does no harm.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_unclean_crash: Option<OnUncleanCrash>,
    /// The request that the app answers with the slot that its data contains, a decimal number, for
    /// `onUncleanCrash: AppliedHeader`. The app takes the slot from the header `Synod-Slot` of each
    /// ordered request and stores it in the transaction that the request itself makes; 0 before the
    /// first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub applied: Option<Endpoint>,
}

/// Where the app keeps its state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum StateType {
    /// Gone with the process.
    #[default]
    Ephemeral,
    /// On a volume.
    Volume,
}

/// What is done after a crash that leaves open whether a request was executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OnUncleanCrash {
    /// Back to the last snapshot, and replay.
    Rollback,
    /// The app tells which slot its data contains.
    AppliedHeader,
    /// The request is sent again.
    AtLeastOnce,
}

/// How the app's state is saved and put back.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Snapshot {
    /// `None` (default): never; the whole log is kept. `HTTP`: by requests to the app, given in
    /// `http`; needs `state.type: Ephemeral` in this version. `Volume`: by a copy of the app's
    /// volume; needs `state.type: Volume`.
    #[serde(rename = "type")]
    pub kind: SnapshotType,
    /// The requests, for type `HTTP`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpSnapshot>,
    /// When the next snapshot is due: whichever comes first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub every: Option<Every>,
    /// How much of a snapshot a member sends to another one in a second, at most: at least 64Ki. Without,
    /// as fast as it goes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transfer_rate: Option<Quantity>,
}

/// How the app's state is saved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SnapshotType {
    /// Never.
    #[default]
    None,
    /// By requests to the app.
    #[serde(rename = "HTTP")]
    Http,
    /// By a copy of its volume.
    Volume,
}

/// The requests that save and restore the app's state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpSnapshot {
    /// The request whose response body is the whole state.
    pub save: Endpoint,
    /// The request that puts the state back; its body is what `save` gave.
    pub restore: Endpoint,
    /// The request that the app answers with 200 once it does nothing more behind its last response,
    /// and with 503 before; for apps that go on working after they have answered. It is asked before a
    /// snapshot, and after a write before the next one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settle: Option<Endpoint>,
}

/// A request to the app.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Endpoint {
    /// HTTP method, upper case.
    #[schemars(length(min = 1, max = 32))]
    pub method: String,
    /// Path, from `/`.
    #[schemars(length(min = 1, max = 1024))]
    pub path: String,
}

/// When a snapshot is due.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Every {
    /// After this many ordered requests. Default: 100000.
    #[schemars(range(min = 1))]
    pub slots: u64,
    /// After this much log. Default: 1Gi.
    pub log_size: Quantity,
}

/// The app's own volume.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StateVolume {
    /// Where the app's container finds it, from `/`. It cannot be changed.
    #[schemars(length(min = 1, max = 1024))]
    pub mount_path: String,
    /// The volume claim for each copy. A larger request grows the volume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume_claim: Option<VolumeClaim>,
}

/// What becomes of the volume claims of members.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct VolumeClaimRetentionPolicy {
    /// When the service is deleted: `Retain` (default) or `Delete`.
    pub when_deleted: Retention,
    /// When a member is removed: `Delete` (default) or `Retain`.
    pub when_scaled: Retention,
}

/// What becomes of a volume claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Retention {
    /// It stays.
    Retain,
    /// It is deleted, with its data.
    Delete,
}

// === impl Default ===

impl Default for Log {
    fn default() -> Self {
        Self {
            volume_claim: None,
            max_size: Quantity::gibibytes(8),
        }
    }
}

impl Default for State {
    fn default() -> Self {
        Self {
            kind: StateType::Ephemeral,
            snapshot: Snapshot::default(),
            max_replay: Duration::from_minutes(10),
            volume: None,
            on_unclean_crash: None,
            applied: None,
        }
    }
}

impl Default for Every {
    fn default() -> Self {
        Self {
            slots: 100_000,
            log_size: Quantity::gibibytes(1),
        }
    }
}

impl Default for VolumeClaimRetentionPolicy {
    fn default() -> Self {
        Self {
            when_deleted: Retention::Retain,
            when_scaled: Retention::Delete,
        }
    }
}
