//! Revisions of the app: the parts of a `ReplicaGroup` by which hub and operators tell each other which
//! there are, and which is to be next.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::group::GroupApp;
use crate::raw::RawObject;

/// What a revision of the app is: a number that once stood for this stands for it for ever.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GroupRevision {
    /// Its number; 0 is the first.
    pub number: u64,
    /// Pod template of the app, before the sidecar is added.
    pub template: RawObject,
    /// The app's container and port.
    pub app: GroupApp,
}

/// What the leader is asked for: the revision after this one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Revise {
    /// The newest revision that has ever begun, which it follows; refused when that is another.
    pub from: u64,
    /// The epoch of the members at that time; refused in any other.
    pub epoch: u64,
    /// That revision, which has not taken over for good yet, is taken back.
    #[serde(default)]
    pub takes_back: bool,
}

/// A revision that runs along silently: what pods may be made of though it is not in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Along {
    /// Its number.
    pub revision: u64,
    /// The member here whose pod is replaced by one of it now; empty: none is. Pods that are of it
    /// already stay.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 63))]
    pub member: String,
}

/// How far the revisions are, as the leader says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RevisionState {
    /// Name of the leader that says so.
    #[schemars(length(max = 63))]
    pub leader: String,
    /// The revision by whose copies clients are answered.
    pub in_force: u64,
    /// The newest that has ever begun; absent: this operator does not know of such that run along
    /// silently.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub newest: Option<u64>,
    /// The newest has not taken over for good yet, and it may be taken back.
    #[serde(default)]
    pub unfinished: bool,
    /// Where the newest, which runs along silently, answers otherwise than the one in force: it does not
    /// take over. Empty: nowhere, as far as was found.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 1024))]
    pub disagreement: String,
    /// Why the leader has not had the next one agreed on; empty: it was not asked, or it has.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 1024))]
    pub problem: String,
}

// === impl RevisionState ===

impl RevisionState {
    /// The newest that has ever begun.
    pub fn newest(&self) -> u64 {
        self.newest.unwrap_or_default().max(self.in_force)
    }

    /// The one that runs along silently.
    pub fn silent(&self) -> Option<u64> {
        let newest = self.newest();
        (self.unfinished && newest > self.in_force).then_some(newest)
    }
}
