//! The custom resource definitions as an API server takes them: the schemas of the Rust types, made
//! structural and bounded, with the rules that the server itself checks.

use serde_json::{Map, Value, json};

use crate::{ReplicaGroup, ReplicatedService};
use kube_core::CustomResourceExt as _;

mod files;
mod rules;

pub use files::files;
pub use rules::{FIELD_RULES, FieldRule};

/// Characters of a value in a map of strings, such as an annotation.
const MAX_MAP_VALUE: u32 = 4096;

/// The definitions by file name, in the order in which they are applied.
fn definitions() -> [(&'static str, Value); 2] {
    let service = ReplicatedService::crd();
    let group = ReplicaGroup::crd();
    [
        (
            "replicatedservices.yaml",
            definition(&service, "ReplicatedService"),
        ),
        ("replicagroups.yaml", definition(&group, "ReplicaGroup")),
    ]
}

/// The schema of a service.
pub(crate) fn service_schema() -> Value {
    let crd = definition(&ReplicatedService::crd(), "ReplicatedService");
    crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone()
}

fn definition(crd: &impl serde::Serialize, kind: &str) -> Value {
    let mut crd = serde_json::to_value(crd).expect("a definition is JSON");
    crd["metadata"]["labels"] = json!({"app.kubernetes.io/part-of": "synod"});
    let schema = &mut crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    tidy(schema);
    let status = &mut schema["properties"]["status"];
    // Without these, what waits for a condition takes an object that nobody has looked at yet for
    // one that has no conditions to wait for.
    status["default"] = json!({});
    status["properties"]["conditions"]["default"] = json!([{
        "type": "Ready",
        "status": "Unknown",
        "reason": "Pending",
        "message": "no operator has looked at this object yet: is one running here?",
    }]);
    for rule in FIELD_RULES.iter().filter(|it| it.kind == kind) {
        let at = at_path(schema, rule.at)
            .unwrap_or_else(|| panic!("{kind} has no schema at {:?}", rule.at));
        let rules = at
            .entry("x-kubernetes-validations")
            .or_insert_with(|| json!([]));
        let mut entry = json!({"rule": rule.rule, "message": rule.message});
        if !rule.field.is_empty() {
            entry["fieldPath"] = json!(rule.field);
        }
        rules
            .as_array_mut()
            .expect("made as a list above")
            .push(entry);
    }
    crd
}

/// The schema at a path such as `spec.placement[]`.
fn at_path<'a>(schema: &'a mut Value, path: &str) -> Option<&'a mut Map<String, Value>> {
    let mut at = schema;
    for part in path.split('.').filter(|it| !it.is_empty()) {
        let (name, item) = match part.strip_suffix("[]") {
            Some(name) => (name, true),
            None => (part, false),
        };
        at = at.get_mut("properties")?.get_mut(name)?;
        if item {
            at = at.get_mut("items")?;
        }
    }
    at.as_object_mut()
}

/// Takes out what API servers warn about or refuse: formats that they do not know, and defaults
/// that say nothing.
fn tidy(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            if map.get("default") == Some(&Value::Null) {
                map.remove("default");
            }
            // `kubectl explain` breaks lines itself.
            if let Some(Value::String(text)) = map.get_mut("description") {
                let paragraphs = text.split("\n\n").map(|it| it.replace('\n', " "));
                *text = paragraphs.collect::<Vec<_>>().join("\n\n");
            }
            // A null that a user writes means what it means in the API's own types: not given.
            map.remove("nullable");
            if let Some(values) = map.get_mut("additionalProperties")
                && values["type"] == "string"
            {
                values["maxLength"] = json!(MAX_MAP_VALUE);
            }
            match map.get("format").and_then(Value::as_str) {
                Some("uint64") => {
                    map.insert("format".to_owned(), json!("int64"));
                }
                Some("uint32") => {
                    map.insert("format".to_owned(), json!("int32"));
                }
                Some("uint16" | "uint8" | "uint") => {
                    map.remove("format");
                }
                _ => {}
            }
            map.values_mut().for_each(tidy);
        }
        Value::Array(list) => list.iter_mut().for_each(tidy),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walk(path: &str, schema: &Value, found: &mut Vec<String>) {
        let Some(map) = schema.as_object() else {
            return;
        };
        let has = |key: &str| map.contains_key(key);
        let kind = map.get("type").and_then(Value::as_str);
        if kind == Some("array") && !has("maxItems") {
            found.push(format!("{path}: maxItems"));
        }
        let text = kind == Some("string") || has("x-kubernetes-int-or-string");
        if text && !has("maxLength") && !has("enum") && !has("format") {
            found.push(format!("{path}: maxLength"));
        }
        if has("additionalProperties") && !has("maxProperties") {
            found.push(format!("{path}: maxProperties"));
        }
        if let Some(properties) = map.get("properties").and_then(Value::as_object) {
            for (name, schema) in properties {
                walk(&format!("{path}.{name}"), schema, found);
            }
        }
        if let Some(items) = map.get("items") {
            walk(&format!("{path}[]"), items, found);
        }
        if let Some(values) = map.get("additionalProperties") {
            walk(&format!("{path}{{}}"), values, found);
        }
    }

    #[test]
    fn everything_in_the_schemas_is_bounded() {
        for (file, crd) in definitions() {
            let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
            let mut found = Vec::new();
            walk("", schema, &mut found);
            assert!(
                found.is_empty(),
                "{file}: no bound, so rules cost too much:\n{}",
                found.join("\n")
            );
        }
    }

    #[test]
    fn every_field_has_a_description() {
        fn walk(path: &str, schema: &Value, found: &mut Vec<String>) {
            let Some(properties) = schema.get("properties").and_then(Value::as_object) else {
                return;
            };
            for (name, schema) in properties {
                let path = format!("{path}.{name}");
                if schema.get("description").is_none() {
                    found.push(path.clone());
                }
                walk(&path, schema, found);
                walk(&path, &schema["items"], found);
            }
        }
        for (file, crd) in definitions() {
            let mut found = Vec::new();
            let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
            walk("", schema, &mut found);
            assert!(found.is_empty(), "{file}: {found:?}");
        }
    }

    #[test]
    fn every_rule_names_its_field_and_the_way_out() {
        for rule in FIELD_RULES {
            let (field, way_out) = rule.message.split_once(": ").expect(rule.message);
            assert!(
                field.starts_with("spec.") || field.starts_with("metadata."),
                "{}",
                rule.message
            );
            assert!(!way_out.is_empty());
        }
    }
}
