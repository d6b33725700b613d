//! The children of a group as they should be. Comes in: a valid group and its certificates. Goes
//! out: objects in JSON, not applied yet. Pure.

mod budget;
mod configuration;
mod services;
mod state;
mod template;
mod witnesses;
mod workload;

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::names;
use super::validate::Valid;
use crate::inject::{InjectError, SidecarImage};

pub(crate) use configuration::{config_map, genesis, peers, secret};
pub(crate) use workload::{STATE_SIZE, contains, made_from};

/// What kinds of children there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kind {
    ConfigMap,
    Secret,
    Service,
    NetworkPolicy,
    PodDisruptionBudget,
    PersistentVolumeClaim,
    StatefulSet,
}

/// One child as it should be.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Child {
    pub(crate) kind: Kind,
    pub(crate) name: String,
    pub(crate) value: Value,
    /// It is made when it is missing, and never changed.
    pub(crate) create_only: bool,
}

/// What children are made from, besides the group itself.
pub(crate) struct Input<'a> {
    pub(crate) valid: &'a Valid<'a>,
    pub(crate) image: &'a SidecarImage,
    /// What the app's hooks show to the sidecar.
    pub(crate) token: &'a str,
    /// Claim templates of the StatefulSet that is there: they cannot be changed.
    pub(crate) claims: Option<&'a [Value]>,
    /// How many pods may be away at once.
    pub(crate) disruptions: u32,
}

/// The StatefulSet, with what decides whether a pod must be replaced.
#[derive(Debug)]
pub(crate) struct Workload {
    pub(crate) child: Child,
    /// Digest of what the template was made from.
    pub(crate) template: String,
    /// Claims that are asked for now but cannot be changed any more.
    pub(crate) kept_claims: Vec<String>,
}

/// The StatefulSets of a group.
#[derive(Debug, Default)]
pub(crate) struct Workloads {
    /// Of the members that run the app.
    pub(crate) copies: Option<Workload>,
    /// Of those that run none; `None`: there are none, and never were.
    pub(crate) witnesses: Option<Workload>,
}

/// Everything else that pods find when they start: it is there before they are.
pub(crate) fn surroundings(input: &Input<'_>) -> Vec<Child> {
    let mut children = vec![
        services::headless(input.valid),
        services::client(input.valid),
    ];
    children.extend(services::per_pod(input.valid));
    children.push(budget::network_policy(input.valid));
    children.push(budget::disruption_budget(input));
    children
}

/// The budget that lets no pod go.
pub(crate) fn closed_budget(input: &Input<'_>) -> Child {
    budget::disruption_budget(&Input {
        disruptions: 0,
        ..*input
    })
}

/// The pods of the members that run no app; `input.claims`: those of their own StatefulSet.
pub(crate) fn witnesses(input: &Input<'_>) -> Workload {
    witnesses::stateful_set(input)
}

/// The pods of the members that run the app.
pub(crate) fn workload(input: &Input<'_>) -> Result<Workload, InjectError> {
    workload::stateful_set(input)
}

// === impl Kind ===

impl Kind {
    pub(crate) fn api_version(self) -> &'static str {
        match self {
            Self::ConfigMap | Self::Secret | Self::Service | Self::PersistentVolumeClaim => "v1",
            Self::NetworkPolicy => "networking.k8s.io/v1",
            Self::PodDisruptionBudget => "policy/v1",
            Self::StatefulSet => "apps/v1",
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::ConfigMap => "ConfigMap",
            Self::Secret => "Secret",
            Self::Service => "Service",
            Self::NetworkPolicy => "NetworkPolicy",
            Self::PodDisruptionBudget => "PodDisruptionBudget",
            Self::PersistentVolumeClaim => "PersistentVolumeClaim",
            Self::StatefulSet => "StatefulSet",
        }
    }
}

// === impl Child ===

impl Child {
    /// A child with our labels and owner; `body` holds everything but `metadata`.
    fn new(valid: &Valid<'_>, kind: Kind, name: &str, body: Value) -> Self {
        let mut value = json!({
            "apiVersion": kind.api_version(),
            "kind": kind.name(),
            "metadata": {
                "name": name,
                "namespace": valid.namespace,
                "labels": object(labels(valid)),
                "ownerReferences": [owner(valid)],
            },
        });
        let Value::Object(body) = body else {
            unreachable!("bodies are objects");
        };
        value.as_object_mut().expect("an object").extend(body);
        Self {
            kind,
            name: name.to_owned(),
            value,
            create_only: false,
        }
    }

    /// Digest of what it should be.
    pub(crate) fn digest(&self) -> String {
        digest(&self.value)
    }
}

/// Labels of every child and pod.
pub(super) fn labels(valid: &Valid<'_>) -> BTreeMap<String, String> {
    let mut labels: BTreeMap<_, _> = names::selector(valid.name, &valid.group.spec.cluster)
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .collect();
    let (key, value) = names::MANAGED_BY;
    labels.insert(key.to_owned(), value.to_owned());
    labels.insert(names::INSTANCE_LABEL.to_owned(), valid.name.to_owned());
    labels
}

/// The claims with the members' logs, for pods of a StatefulSet that has no claim template for them.
pub(crate) fn log_claims(valid: &Valid<'_>) -> Vec<Child> {
    workload::log_claims(valid)
}

/// The port of the sidecar by which clients come, as Services are to target it: in pods of a user's
/// own StatefulSet it goes by the name that the app's port has.
pub(crate) fn client_port(valid: &Valid<'_>) -> String {
    services::client_port(valid)
}

/// `matchLabels` of the pods.
pub(super) fn selector(valid: &Valid<'_>) -> Value {
    let pairs = names::selector(valid.name, &valid.group.spec.cluster);
    object(
        pairs
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value)),
    )
}

fn owner(valid: &Valid<'_>) -> Value {
    json!({
        "apiVersion": synod_api::API_VERSION,
        "kind": "ReplicaGroup",
        "name": valid.name,
        "uid": valid.uid,
        "controller": true,
        "blockOwnerDeletion": true,
    })
}

fn object(pairs: impl IntoIterator<Item = (String, String)>) -> Value {
    Value::Object(
        pairs
            .into_iter()
            .map(|(key, value)| (key, Value::String(value)))
            .collect::<Map<_, _>>(),
    )
}

/// Of a value, whatever the order of its fields.
pub(crate) fn digest(value: &Value) -> String {
    let mut hasher = blake3::Hasher::new();
    feed(&mut hasher, value);
    hasher.finalize().to_hex()[..16].to_owned()
}

fn feed(hasher: &mut blake3::Hasher, value: &Value) {
    match value {
        Value::Object(map) => {
            let sorted: BTreeMap<_, _> = map.iter().collect();
            hasher.update(b"{");
            for (key, value) in sorted {
                hasher.update(&(key.len() as u64).to_le_bytes());
                hasher.update(key.as_bytes());
                feed(hasher, value);
            }
            hasher.update(b"}");
        }
        Value::Array(items) => {
            hasher.update(b"[");
            for item in items {
                feed(hasher, item);
            }
            hasher.update(b"]");
        }
        scalar => {
            let text = scalar.to_string();
            hasher.update(&(text.len() as u64).to_le_bytes());
            hasher.update(text.as_bytes());
        }
    }
}

#[cfg(test)]
mod tests;
