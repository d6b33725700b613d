//! Which fields of a manifest do nothing under `synod local`, and why.

use serde::Deserialize as _;
use serde_json::Value;
use synod_api::KIND;

/// A field that was given and does nothing here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ignored {
    /// Its path.
    pub(super) path: &'static str,
    /// Why it does nothing.
    pub(super) reason: &'static str,
}

const ONE_MACHINE: &str = "there is no cluster here";
const COMMAND: &str = "what runs is the command after `--`, or else the example app";
const NOT_YET: &str = "not in this version yet";

const FIELDS: [(&str, &str); 22] = [
    ("metadata.namespace", ONE_MACHINE),
    (
        "spec.placement",
        "all members run on this machine: its voters and witnesses, no observers",
    ),
    ("spec.template", COMMAND),
    ("spec.workloadRef", COMMAND),
    ("spec.app.container", COMMAND),
    (
        "spec.app.port",
        "the app is told its port as {port} or PORT",
    ),
    (
        "spec.app.passthroughPorts",
        "every port of this machine can be reached",
    ),
    ("spec.bootstrap", "members start from their folder"),
    ("spec.log.volumeClaim", "logs are in the data folder"),
    (
        "spec.state.volume",
        "the app's volume is its folder, {data} or DATA_DIR",
    ),
    ("spec.state.maxReplay", NOT_YET),
    ("spec.volumeClaimRetentionPolicy", ONE_MACHINE),
    ("spec.ordering.lanes", NOT_YET),
    ("spec.divergence.ignoreJSONPointers", NOT_YET),
    (
        "spec.reads",
        "every linearizable read asks a quorum in this version",
    ),
    ("spec.leader", "there is one region here"),
    ("spec.update", ONE_MACHINE),
    ("spec.network", ONE_MACHINE),
    ("spec.service", "members listen from --listen on"),
    ("spec.sidecar", ONE_MACHINE),
    ("spec.paused", ONE_MACHINE),
    ("status", ONE_MACHINE),
];

/// The fields of the service in `yaml` that do nothing here. The text has been parsed before.
pub(super) fn without_meaning(yaml: &str) -> Vec<Ignored> {
    let service = serde_yaml::Deserializer::from_str(yaml)
        .filter_map(|it| Value::deserialize(it).ok())
        .find(|it| it.get("kind").and_then(Value::as_str) == Some(KIND));
    let Some(service) = service else {
        return Vec::new();
    };
    FIELDS
        .into_iter()
        .filter(|(path, _)| {
            let value = path.split('.').try_fold(&service, |it, key| it.get(key));
            value.is_some_and(says_something)
        })
        .map(|(path, reason)| Ignored { path, reason })
        .collect()
}

/// Empty objects and lists ask for nothing.
fn says_something(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn given_fields_without_a_meaning_are_listed_and_others_are_not() {
        let yaml = "kind: Other\nspec: {paused: true}\n---\nkind: ReplicatedService\nmetadata: {name: a, namespace: b}\nspec:\n  template: {spec: {}}\n  network: {mode: Flat}\n  ordering: {lanes: [], maxBodySize: 1Mi}\n  log: {maxSize: 1Gi}\n  service: {}\n";
        let paths: Vec<_> = without_meaning(yaml)
            .into_iter()
            .map(|it| it.path)
            .collect();
        assert_eq!(
            paths,
            ["metadata.namespace", "spec.template", "spec.network"]
        );
    }
}
