//! What the sidecar took the place of. It is kept in an annotation of the pod, so that what was
//! rendered once can be rendered again, by this version or another, as if it had never been.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::json::{has, list, list_mut, named, named_mut, object_mut, prune, set, text};
use super::names;
use super::volume;

/// Fields of the app's container that are replaced as a whole.
const FIELDS: [&str; 5] = [
    "ports",
    "startupProbe",
    "readinessProbe",
    "livenessProbe",
    "lifecycle",
];

/// The annotation's content.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Original {
    /// Name of the app's container.
    container: String,
    /// Its [`FIELDS`] as they were, without those that were absent.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    fields: Map<String, Value>,
    /// Path of the mount that was added to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) state_mount: Option<String>,
    /// The app's volume, of which its containers see one folder only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) state_volume: Option<String>,
    /// Fields of the pod's security context that were added.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) security: Vec<String>,
    /// Labels of the pod that were added or replaced, as they were.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) labels: BTreeMap<String, Option<String>>,
}

// === impl Original ===

impl Original {
    /// Of a template without a sidecar.
    pub(super) fn of(container: &Value) -> Self {
        let fields = FIELDS
            .into_iter()
            .filter(|field| has(container, field))
            .map(|field| (field.to_owned(), container[field].clone()))
            .collect();
        Self {
            container: text(container, "name").unwrap_or_default().to_owned(),
            fields,
            ..Self::default()
        }
    }

    /// Notes it in the template.
    pub(super) fn write(&self, template: &mut Value) {
        let text = serde_json::to_string(self).expect("text keys only");
        let metadata = ensure_metadata(template);
        object_mut(metadata, "annotations")
            .insert(names::ORIGINAL_ANNOTATION.to_owned(), Value::String(text));
    }

    fn read(template: &Value) -> Option<Self> {
        let annotations = template.get("metadata")?.get("annotations")?;
        let text = annotations.get(names::ORIGINAL_ANNOTATION)?.as_str()?;
        serde_json::from_str(text).ok()
    }

    /// Takes our own parts out of the template; it stays as it is when none are in it. An annotation
    /// alone proves nothing, and neither does a container alone.
    pub(super) fn remove(template: &mut Value) {
        let Some(original) = Self::read(template) else {
            return;
        };
        let ours = list(&template["spec"], "initContainers");
        let ours = named(ours, names::CONTAINER).is_some();
        let metadata = ensure_metadata(template);
        set_in(metadata, "annotations", names::ORIGINAL_ANNOTATION, None);
        if ours {
            original.restore(template);
        }
        prune(template, "metadata");
    }

    fn restore(self, template: &mut Value) {
        for (label, value) in self.labels {
            let labels = ensure_metadata(template);
            set_in(labels, "labels", &label, value.map(Value::String));
        }
        let spec = &mut template["spec"];
        list_mut(spec, "initContainers").retain(|it| text(it, "name") != Some(names::CONTAINER));
        prune(spec, "initContainers");
        if has(spec, "volumes") {
            list_mut(spec, "volumes")
                .retain(|it| !text(it, "name").is_some_and(|name| names::VOLUMES.contains(&name)));
            prune(spec, "volumes");
        }
        if let Some(volume) = &self.state_volume {
            volume::widen(spec, volume);
        }
        for field in &self.security {
            set_in(spec, "securityContext", field, None);
        }
        let containers = list_mut(spec, "containers");
        let Some(app) = named_mut(containers, &self.container) else {
            return;
        };
        for field in FIELDS {
            let value = self.fields.get(field).cloned().unwrap_or_default();
            set(app, field, value);
        }
        if let Some(path) = self.state_mount.filter(|_| has(app, "volumeMounts")) {
            list_mut(app, "volumeMounts").retain(|it| {
                text(it, "mountPath") != Some(&path)
                    || text(it, "name") != Some(names::STATE_VOLUME)
            });
            prune(app, "volumeMounts");
        }
    }
}

/// Sets or removes one entry of an object, and the object when that empties it.
fn set_in(parent: &mut Value, object: &str, key: &str, value: Option<Value>) {
    let map = object_mut(parent, object);
    match value {
        Some(value) => drop(map.insert(key.to_owned(), value)),
        None => drop(map.shift_remove(key)),
    }
    prune(parent, object);
}

/// The template's metadata, made when there is none.
pub(super) fn ensure_metadata(template: &mut Value) -> &mut Value {
    object_mut(template, "metadata");
    &mut template["metadata"]
}
