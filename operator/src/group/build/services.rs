//! Services: for clients, for members of this cluster, for members of others.

use serde_json::{Value, json};
use synod_api::{AppProtocol, NetworkMode, ServiceType, is_witness};

use super::{Child, Kind, object, selector};
use crate::group::names;
use crate::group::validate::Valid;
use crate::inject::names as pod;

/// The name of the sidecar's port for clients.
pub(super) fn client_port(valid: &Valid<'_>) -> String {
    let spec = &valid.group.spec;
    let template = Value::Object(spec.template.0.clone());
    let own = valid.labelled.then(|| {
        crate::inject::port_name(&template, &spec.app.container, spec.app.port).map(str::to_owned)
    });
    own.flatten().unwrap_or_else(|| pod::CLIENT_PORT.to_owned())
}

/// What clients use. Its port leads to the sidecar by name.
pub(super) fn client(valid: &Valid<'_>) -> Child {
    let spec = &valid.group.spec;
    let service = &spec.service;
    let mut port = json!({
        "name": "http",
        "port": service.port,
        "targetPort": client_port(valid),
        "protocol": "TCP",
    });
    if spec.app.protocol == AppProtocol::H2c {
        port["appProtocol"] = json!("kubernetes.io/h2c");
    }
    let kind = match service.kind {
        ServiceType::ClusterIp => "ClusterIP",
        ServiceType::NodePort => "NodePort",
        ServiceType::LoadBalancer => "LoadBalancer",
    };
    let name = service.name.as_deref().unwrap_or(valid.name);
    let mut child = Child::new(
        valid,
        Kind::Service,
        name,
        json!({"spec": {"type": kind, "selector": selector(valid), "ports": [port]}}),
    );
    let metadata = child.value["metadata"].as_object_mut().expect("an object");
    // Ours stand above: Services are found again by them.
    let mut labels = service.labels.clone();
    labels.extend(super::labels(valid));
    metadata.insert("labels".to_owned(), object(labels));
    if !service.annotations.is_empty() {
        metadata.insert(
            "annotations".to_owned(),
            object(service.annotations.clone()),
        );
    }
    child
}

/// Names of the pods in DNS, also of those that are not ready: they are found by them.
pub(super) fn headless(valid: &Valid<'_>) -> Child {
    let ports = valid.group.spec.sidecar.ports;
    Child::new(
        valid,
        Kind::Service,
        &names::headless(valid.name),
        json!({"spec": {
            "type": "ClusterIP",
            "clusterIP": "None",
            "publishNotReadyAddresses": true,
            "selector": selector(valid),
            "ports": [
                named(pod::PEER_PORT, ports.peer),
                named(pod::ADMIN_PORT, ports.admin),
            ],
        }}),
    )
}

/// One for each member, reachable from other clusters by a port of the nodes. Members that are pods
/// of a user's own StatefulSet also find each other by it, as their names are not those of pods.
pub(super) fn per_pod(valid: &Valid<'_>) -> Vec<Child> {
    let by_node = valid.group.spec.network.mode == NetworkMode::PerPodService;
    if !by_node && !valid.labelled {
        return Vec::new();
    }
    let peer = valid.group.spec.sidecar.ports.peer;
    let members = valid.group.spec.members.iter();
    members
        .filter_map(|it| Some((&it.name, valid.ordinal(&it.name)?)))
        .map(|(member, ordinal)| {
            let mut selector = selector(valid);
            let name = valid.pod_of(member);
            if valid.labelled && !is_witness(member) {
                // The names of pods are the user's.
                selector[pod::INDEX_LABEL] = json!(ordinal.to_string());
            } else {
                selector["statefulset.kubernetes.io/pod-name"] = json!(name);
            }
            let mut spec = json!({
                "type": if by_node { "NodePort" } else { "ClusterIP" },
                "publishNotReadyAddresses": true,
                "selector": selector,
                "ports": [named(pod::PEER_PORT, peer)],
            });
            if !by_node {
                spec["clusterIP"] = json!("None");
            }
            Child::new(
                valid,
                Kind::Service,
                &names::pod_service(valid.name, ordinal),
                json!({"spec": spec}),
            )
        })
        .collect()
}

fn named(name: &str, port: u16) -> Value {
    json!({"name": name, "port": port, "targetPort": name, "protocol": "TCP"})
}
