//! The user's pod template with what differs in this cluster, before the sidecar is added.

use serde_json::{Map, Value, json};
use synod_api::Overrides;

use super::selector;
use crate::group::validate::Valid;

/// The template of the pods, without the sidecar.
pub(super) fn template(valid: &Valid<'_>) -> Value {
    let spec = &valid.group.spec;
    let mut template = Value::Object(spec.template.0.clone());
    // What is not an object is left as it is: the injection says what is wrong with it.
    if let Some(pod) = template.get_mut("spec").and_then(Value::as_object_mut) {
        overrides(pod, &spec.overrides);
        spread(pod, valid);
    }
    template
}

/// What of a template says where pods run, and how their images are pulled.
const WHERE: [&str; 6] = [
    "nodeSelector",
    "tolerations",
    "imagePullSecrets",
    "priorityClassName",
    "schedulerName",
    "runtimeClassName",
];

/// Where the pods of witnesses run: as the user's own, as far as that has to do with nodes. Wherever the
/// user's pods like to be together or apart, witnesses are apart from them.
pub(super) fn place(valid: &Valid<'_>) -> Value {
    let spec = &valid.group.spec;
    let given = spec.template.0.get("spec").and_then(Value::as_object);
    let mut pod = Map::new();
    for field in WHERE {
        let said = given
            .and_then(|it| it.get(field))
            .filter(|it| !it.is_null());
        if let Some(said) = said {
            pod.insert(field.to_owned(), said.clone());
        }
    }
    overrides(&mut pod, &spec.overrides);
    spread(&mut pod, valid);
    let nodes = given.and_then(|it| it.get("affinity")?.get("nodeAffinity"));
    if let Some(nodes) = nodes.filter(|it| !it.is_null()) {
        pod.insert("affinity".to_owned(), json!({"nodeAffinity": nodes}));
    }
    json!({"spec": pod})
}

fn overrides(pod: &mut Map<String, Value>, overrides: &Overrides) {
    if !overrides.node_selector.is_empty() {
        let entry = pod.entry("nodeSelector").or_insert_with(|| json!({}));
        if let Some(map) = entry.as_object_mut() {
            for (key, value) in &overrides.node_selector {
                map.insert(key.clone(), json!(value));
            }
        }
    }
    append(
        pod,
        "tolerations",
        overrides
            .tolerations
            .iter()
            .map(|it| Value::Object(it.0.clone())),
    );
    append(
        pod,
        "imagePullSecrets",
        overrides
            .image_pull_secrets
            .iter()
            .map(|it| json!({"name": it.name})),
    );
    if overrides.image_registry.is_empty() {
        return;
    }
    for list in ["initContainers", "containers"] {
        let containers = pod.get_mut(list).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            if let Some(Value::String(image)) = container.get_mut("image") {
                *image = from_registry(image, &overrides.image_registry);
            }
        }
    }
}

fn append(pod: &mut Map<String, Value>, field: &str, items: impl Iterator<Item = Value>) {
    let items: Vec<_> = items.collect();
    if items.is_empty() {
        return;
    }
    let entry = pod.entry(field).or_insert_with(|| json!([]));
    if let Some(list) = entry.as_array_mut() {
        for item in items {
            if !list.contains(&item) {
                list.push(item);
            }
        }
    }
}

/// An image name begins with a registry if its first part looks like a host; without one it is of
/// Docker Hub, where names of one part are in `library`.
fn from_registry(image: &str, registry: &str) -> String {
    let registry = registry.trim_end_matches('/');
    match image.split_once('/') {
        Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => {
            format!("{registry}/{rest}")
        }
        Some(_) => format!("{registry}/{image}"),
        None => format!("{registry}/library/{image}"),
    }
}

/// Members on one node or in one zone would be lost together. What the template says about that
/// itself stands.
fn spread(pod: &mut Map<String, Value>, valid: &Valid<'_>) {
    let said = |path: &str| pod.get(path).is_some_and(|it| !it.is_null());
    if said("topologySpreadConstraints") || said("affinity") || said("nodeName") {
        return;
    }
    let constraint = |key: &str| {
        json!({
            "maxSkew": 1,
            "topologyKey": key,
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": selector(valid)},
        })
    };
    let both = [
        constraint("kubernetes.io/hostname"),
        constraint("topology.kubernetes.io/zone"),
    ];
    pod.insert("topologySpreadConstraints".to_owned(), json!(both));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_taken_from_the_given_registry_under_its_own_path() {
        for (image, expected) in [
            ("registry.example/notes:1.4", "mirror:5000/notes:1.4"),
            (
                "registry.example/a/notes@sha256:ab",
                "mirror:5000/a/notes@sha256:ab",
            ),
            ("localhost/notes", "mirror:5000/notes"),
            ("localhost:5001/notes", "mirror:5000/notes"),
            ("team/notes:2", "mirror:5000/team/notes:2"),
            ("nginx:1.29", "mirror:5000/library/nginx:1.29"),
        ] {
            assert_eq!(from_registry(image, "mirror:5000"), expected);
            assert_eq!(from_registry(image, "mirror:5000/"), expected);
        }
    }
}
