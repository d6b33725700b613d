//! The answer of `GET /status`: what one member knows about itself and its group.

use serde::{Deserialize, Serialize};

use synod_proto::v1::{RevisionDisagreement, RevisionDisagrees};

use crate::app::Outsider;
use crate::copies::{Diverged, Noise};
use crate::poison::{SkippedRequest, UndecidedRequest};

/// `GET /status`, JSON. Absent values are `null`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
pub struct Status {
    /// Name of the service.
    pub service: String,
    /// This member's stable name.
    pub member: String,
    /// This member's number in the configuration; `None` before genesis.
    pub id: Option<u32>,
    /// The life of its log: 32 hex digits.
    pub incarnation: String,
    /// Number of this start.
    pub boot: u64,
    /// The group as clients see it; `None` before genesis.
    pub group: Option<String>,
    /// Number of the membership configuration.
    pub epoch: u64,
    /// `Voter`, `Observer` or `Witness`.
    pub role: String,
    /// Name of the leader this member follows.
    pub leader: Option<String>,
    /// The ballot it promised, as `epoch.round.node`.
    pub ballot: String,
    /// Last slot in its log.
    pub last: u64,
    /// Last slot it knows to be chosen.
    pub commit: u64,
    /// Last slot its app has executed; of a witness, 0.
    pub applied: u64,
    /// Version of the policy in force.
    pub policy_version: u64,
    /// `CaughtUp`, `CatchingUp`, `Rebuilding`, `Quarantined` or `Unreachable`; of a witness, that of its log.
    pub state: String,
    /// It accepts clients' requests and its log counts.
    pub ready: bool,
    /// Its own copy answers clients.
    pub serving: bool,
    /// Names of voters whose wall clocks are off by more than a second: keep clocks in step.
    pub skewed: Vec<String>,
    /// What it waits for, if anything.
    pub waiting_on: Option<Waiting>,
    /// Starts of the app that were seen.
    pub app_starts: u64,
    /// Lowest and highest protocol version that it speaks.
    pub protocol: [u32; 2],
    /// The protocol version in force; 0 before genesis.
    #[serde(default)]
    pub protocol_in_force: u32,
    /// Its log begins behind this slot.
    #[serde(default)]
    pub base: u64,
    /// Its newest snapshot.
    #[serde(default)]
    pub snapshot: Option<Snapshot>,
    /// The slot to which the app's volume is to be put back: its pod must be replaced.
    #[serde(default)]
    pub rollback: Option<u64>,
    /// Who last talked to the app past this sidecar, if anybody did.
    #[serde(default)]
    pub bypass: Option<Bypass>,
    /// Copies that answered differently and were not made anew yet, as the leader has found; empty on
    /// other members.
    #[serde(default)]
    pub diverged: Vec<Diverged>,
    /// What differs on all copies and is therefore not compared, as the leader has found; empty on
    /// other members.
    #[serde(default)]
    pub not_deterministic: Vec<Noise>,
    /// The state of this copy is vouched for up to this slot: a majority has answered alike.
    #[serde(default)]
    pub verified: u64,
    /// It is in the group no more, from that epoch on: it may be ended once an entry of that epoch is
    /// chosen.
    #[serde(default)]
    pub removed: Option<u64>,
    /// The request that no copy gets past, as the leader has found; `None` on other members.
    #[serde(default)]
    pub undecided: Option<UndecidedRequest>,
    /// Which revision of the app answers, and which runs here.
    #[serde(default)]
    pub revision: Revision,
    /// Requests that were skipped, as far as that was learnt since this start; the last ones.
    #[serde(default)]
    pub skipped: Vec<SkippedRequest>,
}

/// How far a change of the app is.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
pub struct Revision {
    /// The one whose copies answer clients; 0 is the first.
    pub in_force: u64,
    /// It executes what follows this slot.
    pub barrier: u64,
    /// The newest has not taken over yet, and it may be taken back.
    pub unfinished: bool,
    /// The one that runs here; `None`: none does.
    pub running: Option<u64>,
    /// The one that is to be started here.
    pub due: u64,
    /// The newest that has ever begun.
    #[serde(default)]
    pub newest: u64,
    /// One that runs along without answering; `None`: there is none.
    #[serde(default)]
    pub silent: Option<u64>,
    /// That one may be started here instead.
    #[serde(default)]
    pub may: Option<u64>,
    /// A request goes otherwise with that one, and it does not take over before a person has decided.
    #[serde(default)]
    pub disagreement: Option<Disagreement>,
    /// Requests that went alike with both and were answered with something else, as the leader has
    /// counted; 0 on other members.
    #[serde(default)]
    pub differences: u64,
}

/// Two revisions of the app have answered a request with another class of status codes.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
pub struct Disagreement {
    /// Its slot.
    pub slot: u64,
    /// Of the request, without its query.
    pub method: String,
    /// Of the request, without its query.
    pub path: String,
    /// Which revision has answered what, and what can be done, in words.
    pub text: String,
}

impl Disagreement {
    /// Of the revision `in_force` and the one that runs along.
    pub(crate) fn of(it: &RevisionDisagrees, in_force: u64) -> Self {
        Self {
            slot: it.slot,
            method: it.method.clone(),
            path: it.path.clone(),
            text: format!(
                "revision {in_force} answered with status {}, and revision {} would have with {}: take it \
                 back, or let it take over all the same",
                it.answered, it.number, it.silent
            ),
        }
    }
}

impl From<Disagreement> for RevisionDisagreement {
    fn from(it: Disagreement) -> Self {
        Self {
            slot: it.slot,
            method: it.method,
            path: it.path,
            text: it.text,
        }
    }
}

/// A snapshot of the app's state.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Snapshot {
    /// The last slot whose effect is in it.
    pub slot: u64,
    /// Size of its file.
    pub bytes: u64,
    /// Its slots were compared with those of other copies, and agreed.
    pub verified: bool,
}

/// Somebody outside the pod who was connected to the app's own port.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Bypass {
    /// Its address.
    pub address: String,
    /// How long ago it was last seen, in milliseconds.
    pub age_ms: u64,
}

impl From<Outsider> for Bypass {
    fn from(outsider: Outsider) -> Self {
        Self {
            address: outsider.address.to_string(),
            age_ms: outsider.age_ms(),
        }
    }
}

/// All that a member may wait for.
pub const WAITING_ON: [&str; 13] = [
    "genesis",
    "quorum",
    "sync",
    "fence",
    "app",
    "poison",
    "snapshot",
    "window",
    "clock",
    "policy",
    "upgrade",
    "divergence",
    "revision",
];

/// Why nothing goes on.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Waiting {
    /// One of [`WAITING_ON`].
    pub on: String,
    /// The slot concerned; 0 when none is.
    pub slot: u64,
    /// For how long, in milliseconds.
    pub age_ms: u64,
}
