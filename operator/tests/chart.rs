//! The chart against the code: what it renders is what the API server, the operator's command line
//! and the exported figures know. What is looked at is in `tests/chart/rendered`, which
//! `tests/run chart` compares with what helm makes of the chart.

use std::collections::BTreeSet;
use std::path::PathBuf;

use clap::Parser as _;
use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use serde::de::DeserializeOwned;
use serde::{Deserialize as _, Serialize};
use serde_json::Value;

/// Objects whose types are others' custom resources, and our own, which `crds/` looks at.
const OTHERS: [&str; 5] = [
    "Certificate",
    "CustomResourceDefinition",
    "PodMonitor",
    "PrometheusRule",
    "ServiceMonitor",
];

fn read(path: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// What is rendered, with the name of the values.
fn rendered() -> Vec<(&'static str, Vec<Value>)> {
    let names = ["available", "default", "member", "observed", "restricted"];
    names
        .map(|name| {
            let text = read(&format!("tests/chart/rendered/{name}.yaml"));
            let documents = serde_yaml::Deserializer::from_str(&text)
                .map(|it| Value::deserialize(it).expect("YAML"))
                .filter(|it| !it.is_null());
            (name, documents.collect())
        })
        .to_vec()
}

/// An object through its type, which drops what it does not know.
fn typed<T: Serialize + DeserializeOwned>(object: &Value) -> Result<Value, String> {
    let object: T = serde_json::from_value(object.clone()).map_err(|it| it.to_string())?;
    serde_json::to_value(object).map_err(|it| it.to_string())
}

/// Fields that were dropped.
fn lost(path: &str, before: &Value, after: &Value, found: &mut Vec<String>) {
    match (before, after) {
        (Value::Object(before), Value::Object(after)) => {
            for (key, value) in before {
                let path = format!("{path}.{key}");
                match after.get(key) {
                    Some(after) => lost(&path, value, after, found),
                    None => found.push(path),
                }
            }
        }
        (Value::Array(before), Value::Array(after)) if before.len() == after.len() => {
            for (index, (before, after)) in before.iter().zip(after).enumerate() {
                lost(&format!("{path}[{index}]"), before, after, found);
            }
        }
        _ if before == after => {}
        _ => found.push(format!("{path}: {before} became {after}")),
    }
}

#[test]
fn every_field_of_the_rendered_objects_is_one_that_kubernetes_knows() {
    for (name, objects) in rendered() {
        for object in objects {
            let kind = object["kind"].as_str().expect("a kind");
            let after = match kind {
                "ClusterRole" => typed::<ClusterRole>(&object),
                "ClusterRoleBinding" => typed::<ClusterRoleBinding>(&object),
                "ConfigMap" => typed::<ConfigMap>(&object),
                "Deployment" => typed::<Deployment>(&object),
                "MutatingWebhookConfiguration" => typed::<MutatingWebhookConfiguration>(&object),
                "NetworkPolicy" => typed::<NetworkPolicy>(&object),
                "Pod" => typed::<Pod>(&object),
                "PodDisruptionBudget" => typed::<PodDisruptionBudget>(&object),
                "Role" => typed::<Role>(&object),
                "RoleBinding" => typed::<RoleBinding>(&object),
                "Service" => typed::<Service>(&object),
                "ServiceAccount" => typed::<ServiceAccount>(&object),
                "ValidatingAdmissionPolicy" => typed::<ValidatingAdmissionPolicy>(&object),
                "ValidatingAdmissionPolicyBinding" => {
                    typed::<ValidatingAdmissionPolicyBinding>(&object)
                }
                _ if OTHERS.contains(&kind) => continue,
                _ => panic!("{name}: a {kind} is looked at by nothing"),
            };
            let after = after.unwrap_or_else(|error| panic!("{name}: {kind}: {error}"));
            let mut found = Vec::new();
            lost("", &object, &after, &mut found);
            assert!(found.is_empty(), "{name}: {kind}: {found:?}");
        }
    }
}

#[test]
fn the_operator_takes_the_command_line_that_the_chart_gives_it() {
    for (name, objects) in rendered() {
        let deployment = objects.iter().find(|it| it["kind"] == "Deployment");
        let deployment = deployment.expect("there is one");
        let arguments = deployment["spec"]["template"]["spec"]["containers"][0]["args"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|it| it.as_str().expect("text"));
        let flags = synod_operator::run::Flags::try_parse_from(
            std::iter::once("synod-operator").chain(arguments),
        )
        .unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(flags.hub, name != "member");
        assert_eq!(flags.webhook.listen.is_some(), name != "restricted");
        // The rights are for a Lease of this name only.
        let role = objects.iter().find(|it| it["kind"] == "Role");
        let role = role.expect("there is one");
        assert_eq!(role["rules"][1]["resourceNames"][0], flags.lease);
    }
}

#[test]
fn every_pod_of_the_chart_keeps_to_the_restricted_standard() {
    for (name, objects) in rendered() {
        let pods = objects.iter().filter_map(|it| match it["kind"].as_str() {
            Some("Deployment") => Some(&it["spec"]["template"]["spec"]),
            Some("Pod") => Some(&it["spec"]),
            _ => None,
        });
        for pod in pods {
            assert_eq!(pod["securityContext"]["runAsNonRoot"], true, "{name}");
            assert!(pod["securityContext"]["runAsUser"].is_u64(), "{name}");
            let seccomp = &pod["securityContext"]["seccompProfile"]["type"];
            assert_eq!(seccomp, "RuntimeDefault", "{name}");
            for container in pod["containers"].as_array().expect("a list") {
                let context = &container["securityContext"];
                assert_eq!(context["allowPrivilegeEscalation"], false, "{name}");
                assert_eq!(context["readOnlyRootFilesystem"], true, "{name}");
                assert_eq!(context["capabilities"]["drop"][0], "ALL", "{name}");
            }
        }
    }
}

#[test]
fn no_right_of_the_operator_is_for_everything() {
    for (name, objects) in rendered() {
        for role in objects.iter().filter(|it| {
            let kind = it["kind"].as_str().expect("a kind");
            kind == "ClusterRole" || kind == "Role"
        }) {
            let text = role["rules"].to_string();
            assert!(!text.contains("\"*\""), "{name}: {text}");
            for verb in ["escalate", "bind", "impersonate"] {
                assert!(!text.contains(verb), "{name}: {text}");
            }
        }
    }
}

/// All expressions of the alerts and the dashboard.
fn expressions() -> Vec<String> {
    fn walk(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(map) => {
                for (key, value) in map {
                    match value {
                        Value::String(text) if key == "expr" || key == "query" => {
                            found.push(text.clone());
                        }
                        _ => walk(value, found),
                    }
                }
            }
            Value::Array(list) => list.iter().for_each(|it| walk(it, found)),
            _ => {}
        }
    }
    let (_, objects) = rendered()
        .into_iter()
        .find(|(name, _)| *name == "observed")
        .expect("it has them all");
    let mut found = Vec::new();
    for object in objects {
        match object["kind"].as_str() {
            Some("PrometheusRule") => walk(&object, &mut found),
            Some("ConfigMap") => {
                let text = object["data"]["synod.json"]
                    .as_str()
                    .expect("the dashboard");
                walk(&serde_json::from_str(text).expect("JSON"), &mut found);
            }
            _ => {}
        }
    }
    assert!(found.len() > 20, "{found:?}");
    found
}

/// Names in an expression, without the texts that labels are compared with.
fn names(expression: &str) -> BTreeSet<String> {
    let outside = expression.split('"').step_by(2).collect::<String>();
    outside
        .split(|it: char| !it.is_ascii_alphanumeric() && it != '_')
        .filter(|it| !it.is_empty())
        .map(str::to_owned)
        .collect()
}

/// Labels that the PodMonitor puts on a member's figures.
const LABELS: [&str; 3] = ["namespace", "pod", "synod_dev_service"];

/// The source of a figure, and the text by which it is registered there.
fn source(name: &str) -> (&'static str, &str) {
    let name = name.strip_prefix("synod_").expect("ours");
    let (file, name) = if let Some(name) = name.strip_prefix("operator_") {
        if name.starts_with("webhook_") || name == "pods_without_sidecar" {
            return ("operator/src/webhook/metrics.rs", name);
        }
        ("operator/src/run/metrics.rs", name)
    } else if let Some(name) = name.strip_prefix("ingress_") {
        ("sidecar/src/ingress/metrics.rs", name)
    } else {
        let name = name.strip_prefix("paxos_").unwrap_or(name);
        ("sidecar/src/admin/gauges.rs", name)
    };
    // What the format adds: kinds, then units.
    let name = ["_total", "_bucket", "_count", "_sum"]
        .into_iter()
        .find_map(|it| name.strip_suffix(it))
        .unwrap_or(name);
    let name = ["_bytes", "_seconds"]
        .into_iter()
        .find_map(|it| name.strip_suffix(it))
        .unwrap_or(name);
    (file, name)
}

#[test]
fn every_figure_of_alerts_and_dashboard_is_one_that_is_exported() {
    let mut figures = BTreeSet::new();
    for expression in expressions() {
        let all = names(&expression);
        figures.extend(
            all.into_iter()
                .filter(|it| it.starts_with("synod_") && !LABELS.contains(&it.as_str())),
        );
    }
    assert!(figures.len() > 15, "{figures:?}");
    for figure in figures {
        let (file, name) = source(&figure);
        assert!(
            read(file).contains(&format!("\"{name}\"")),
            "{figure} is not exported: {file} has no \"{name}\""
        );
    }
}

#[test]
fn every_label_of_alerts_and_dashboard_is_one_that_the_figures_have() {
    for expression in expressions() {
        let figures = names(&expression)
            .into_iter()
            .filter(|it| it.starts_with("synod_") && !LABELS.contains(&it.as_str()));
        let sources: String = figures.map(|it| read(source(&it).0)).collect();
        let mut labels: Vec<&str> = Vec::new();
        for list in expression.split("by (").skip(1) {
            let list = list.split(')').next().expect("one at least");
            labels.extend(list.split(',').map(str::trim));
        }
        for list in expression.split('{').skip(1) {
            let list = list.split('}').next().expect("one at least");
            labels.extend(list.split('"').step_by(2).filter_map(|it| {
                let name = it.trim_matches([',', ' ', '=', '~', '!']);
                (!name.is_empty()).then_some(name)
            }));
        }
        for label in labels {
            assert!(
                LABELS.contains(&label)
                    || label == "le"
                    || sources.contains(&format!("    {label}: "))
                    || sources.contains(&format!("\"{label}\"")),
                "{expression}: no figure has the label {label}"
            );
        }
    }
}

#[test]
fn every_alert_has_its_section_of_the_page_and_every_section_its_alert() {
    let alerts: Value = serde_yaml::from_str(&read("charts/synod/alerts.yaml")).expect("YAML");
    let mut named = BTreeSet::new();
    for rule in alerts
        .as_array()
        .expect("groups")
        .iter()
        .flat_map(|it| it["rules"].as_array().expect("rules"))
    {
        let name = rule["alert"].as_str().expect("a name");
        let page = format!("docs/kubernetes/alerts.md#{}", name.to_lowercase());
        assert_eq!(rule["annotations"]["runbook_url"], page);
        named.insert(name.to_owned());
    }
    let page = read("docs/kubernetes/alerts.md");
    let sections = page.lines().filter_map(|it| it.strip_prefix("## "));
    let sections: BTreeSet<_> = sections
        .filter(|it| it.starts_with("Synod"))
        .map(str::to_owned)
        .collect();
    assert_eq!(named, sections);
}

#[test]
fn the_label_by_which_the_guides_find_the_operator_is_the_charts() {
    let page = read("docs/kubernetes/conditions.md");
    let (_, label) = page
        .split_once("kubectl get deploy -A -l ")
        .expect("the page tells how to find it");
    let (key, value) = label
        .split_once('`')
        .and_then(|(label, _)| label.split_once('='))
        .expect("a label");
    for (name, objects) in rendered() {
        let deployment = objects.iter().find(|it| it["kind"] == "Deployment");
        let labels = &deployment.expect("there is one")["metadata"]["labels"];
        assert_eq!(labels[key], value, "{name}");
    }
}

#[test]
fn every_value_that_the_guide_names_is_one_of_the_charts() {
    let values: Value = serde_yaml::from_str(&read("charts/synod/values.yaml")).expect("YAML");
    let page = read("docs/kubernetes/install.md");
    let (_, table) = page.split_once("| value | ").expect("a table");
    let rows = table.lines().skip(2).map_while(|it| it.strip_prefix("| "));
    let mut found = 0;
    for row in rows {
        let (names, _) = row.split_once(" |").expect("a column");
        let mut last = String::new();
        for name in names.split(", ").map(|it| it.trim_matches('`')) {
            let full = match (name.strip_prefix('.'), last.rsplit_once('.')) {
                (Some(name), Some((parent, _))) => format!("{parent}.{name}"),
                _ => name.to_owned(),
            };
            let path = format!("/{}", full.replace('.', "/"));
            assert!(values.pointer(&path).is_some(), "there is no value {full}");
            last = full;
            found += 1;
        }
    }
    assert!(found > 10, "{found} values in the table");
}
