//! The pod template as far as it concerns us: which container is the app, and its ports. All else
//! in it is the API server's matter.

use std::collections::BTreeSet;

use serde_json::Value;

use super::Problems;
use crate::int_or_string::IntOrString;
use crate::raw::RawObject;
use crate::service::ReplicatedServiceSpec;

pub(super) fn check(p: &mut Problems, spec: &ReplicatedServiceSpec) {
    sidecar_ports(p, spec);
    p.at_most(
        "spec.app.passthroughPorts",
        spec.app.passthrough_ports.len(),
        16,
    );
    match (&spec.template, &spec.workload_ref) {
        (Some(_), Some(_)) => p.add(
            "spec.workloadRef",
            "it excludes spec.template: remove one of the two",
        ),
        (None, None) => p.add(
            "spec.template",
            "it is missing: give the app's pod template, or a spec.workloadRef to take it from",
        ),
        (None, Some(workload)) => {
            p.add_if(
                workload.api_version != "apps/v1",
                "spec.workloadRef.apiVersion",
                format!("`{}` is not supported: use apps/v1", workload.api_version),
            );
            p.add_if(
                !["Deployment", "StatefulSet"].contains(&workload.kind.as_str()),
                "spec.workloadRef.kind",
                format!(
                    "`{}` is not supported: use Deployment or StatefulSet",
                    workload.kind
                ),
            );
            p.add_if(
                workload.name.is_empty(),
                "spec.workloadRef.name",
                "it is missing: name the workload",
            );
        }
        (Some(template), None) => template_of(p, spec, template),
    }
}

fn own_ports(spec: &ReplicatedServiceSpec) -> [(&'static str, u16); 3] {
    let own = spec.sidecar.ports;
    [("http", own.http), ("peer", own.peer), ("admin", own.admin)]
}

fn taken(name: &str, port: u16) -> String {
    format!("{port} is the sidecar's own: set spec.sidecar.ports.{name} to another")
}

fn sidecar_ports(p: &mut Problems, spec: &ReplicatedServiceSpec) {
    let mut seen = BTreeSet::new();
    for (name, port) in own_ports(spec) {
        let path = format!("spec.sidecar.ports.{name}");
        p.add_if(port == 0, &path, "0 is not a port: use 1 to 65535");
        p.add_if(
            !seen.insert(port),
            &path,
            format!("{port} is used twice: each of http, peer and admin needs its own"),
        );
    }
}

fn template_of(p: &mut Problems, spec: &ReplicatedServiceSpec, template: &RawObject) {
    let path = "spec.template.spec.containers";
    let containers = template
        .pointer("/spec/containers")
        .and_then(Value::as_array)
        .map_or(&[][..], Vec::as_slice);
    if containers.is_empty() {
        p.add(
            path,
            "the template has no container: one of them must be the app",
        );
        return;
    }
    for (index, container) in containers.iter().enumerate() {
        p.add_if(
            text(container, "name") == Some("synod"),
            format!("{path}[{index}].name"),
            "`synod` is the name of the sidecar's container: choose another",
        );
        collisions(p, &format!("{path}[{index}]"), container, spec);
    }
    let app = match &spec.app.container {
        None => containers.first(),
        Some(name) => containers.iter().find(|it| text(it, "name") == Some(name)),
    };
    let Some(app) = app else {
        let names: Vec<_> = containers
            .iter()
            .filter_map(|it| text(it, "name"))
            .collect();
        p.add(
            "spec.app.container",
            format!(
                "the template has no container of that name: use one of {}",
                names.join(", ")
            ),
        );
        return;
    };
    app_port(p, spec, "spec.app.port", spec.app.port.as_ref(), app);
    for (index, it) in spec.app.passthrough_ports.iter().enumerate() {
        app_port(
            p,
            spec,
            &format!("spec.app.passthroughPorts[{index}].port"),
            Some(&it.port),
            app,
        );
    }
}

/// A port that is named must be one of the container's; a number stands for itself.
fn app_port(
    p: &mut Problems,
    spec: &ReplicatedServiceSpec,
    path: &str,
    port: Option<&IntOrString>,
    app: &Value,
) {
    let names = || ports(app).filter_map(|it| text(it, "name"));
    match port {
        None => p.add_if(
            ports(app).next().is_none(),
            path,
            "it is missing, and the app's container declares no port: give the number on which the app listens",
        ),
        Some(IntOrString::Int(number)) => {
            for (name, ours) in own_ports(spec) {
                p.add_if(*number == i32::from(ours), path, taken(name, ours));
            }
        }
        Some(IntOrString::String(name)) => p.add_if(
            !names().any(|it| it == name),
            path,
            format!(
                "the app's container has no port named `{name}`: {}",
                if names().next().is_none() {
                    "name one there, or give its number".to_owned()
                } else {
                    format!("use one of {}", names().collect::<Vec<_>>().join(", "))
                }
            ),
        ),
    }
}

fn collisions(p: &mut Problems, path: &str, container: &Value, spec: &ReplicatedServiceSpec) {
    for (index, port) in ports(container).enumerate() {
        let number = port.get("containerPort").and_then(Value::as_u64);
        for (name, ours) in own_ports(spec) {
            p.add_if(
                number == Some(u64::from(ours)),
                format!("{path}.ports[{index}].containerPort"),
                taken(name, ours),
            );
        }
    }
}

fn ports(container: &Value) -> impl Iterator<Item = &Value> {
    container
        .get("ports")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
}

fn text<'a>(value: &'a Value, key: &str) -> Option<&'a str> {
    value.get(key).and_then(Value::as_str)
}
