//! Which clusters hold which members.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::raw::RawObject;

/// Number of the first witness in a cluster. Members are called `<service>-<cluster>-<number>`; those that run
/// the app are numbered from 0, and are never so many. So a member's name says which kind it is, for all its
/// life.
pub const FIRST_WITNESS: u32 = 100;

/// What the StatefulSet of a cluster's witnesses has behind the name of the other members'.
pub const WITNESS_SUFFIX: &str = "-witness";

/// Whether a member of this name is a witness.
pub fn is_witness(member: &str) -> bool {
    let number = member.rsplit_once('-').and_then(|(_, it)| it.parse().ok());
    number.is_some_and(|it: u32| it >= FIRST_WITNESS)
}

/// The members in one cluster. The region is the one the cluster was registered with.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Placement {
    /// Name of the cluster as it was registered. Each cluster may be named once.
    #[schemars(length(min = 1, max = 40))]
    pub cluster: String,
    /// Members that vote and run the app. Default: 0.
    #[serde(default)]
    #[schemars(range(max = 9))]
    pub voters: u32,
    /// Members that run the app and answer reads, without a vote. Default: 0.
    #[serde(default)]
    #[schemars(range(max = 9))]
    pub observers: u32,
    /// Members that vote and keep the log, but run no app: each has a pod with the sidecar alone and a
    /// claim for its log. The members that run the app and vote must be more than the votes that may be
    /// lost, over all clusters, and at least two. Default: 0.
    #[serde(default)]
    #[schemars(range(max = 9))]
    pub witnesses: u32,
    /// What differs in this cluster. A change restarts this cluster's members one by one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overrides: Option<Overrides>,
}

/// What differs in one cluster from the common pod template.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Overrides {
    /// Storage class of the members' volumes. Default: the cluster's. It cannot be changed for
    /// existing members.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub storage_class_name: Option<String>,
    /// Labels that a node must have, in addition to the template's.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    pub node_selector: BTreeMap<String, String>,
    /// Taints that members tolerate, in addition to the template's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub tolerations: Vec<RawObject>,
    /// Secrets for pulling images, in addition to the template's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub image_pull_secrets: Vec<LocalObjectReference>,
    /// Registry to take the template's images from instead of the one they name, such as
    /// `mirror.example:5000`. Empty (default): as they are named.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 253))]
    pub image_registry: String,
}

/// An object of the same namespace, by name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LocalObjectReference {
    /// Name of the object.
    #[schemars(length(max = 253))]
    pub name: String,
}
