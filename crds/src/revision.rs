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
    /// The revision in force that it follows; refused when that is another.
    pub from: u64,
    /// The epoch of the members at that time; refused in any other.
    pub epoch: u64,
    /// The revision in force, which not all copies run yet, is taken back.
    #[serde(default)]
    pub takes_back: bool,
}

/// How far the revisions are, as the leader says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RevisionState {
    /// Name of the leader that says so.
    #[schemars(length(max = 63))]
    pub leader: String,
    /// The revision that executes what is agreed on now.
    pub in_force: u64,
    /// Not all copies run it yet, and it may be taken back.
    #[serde(default)]
    pub unfinished: bool,
    /// Why the leader has not had the next one agreed on; empty: it was not asked, or it has.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 1024))]
    pub problem: String,
}
