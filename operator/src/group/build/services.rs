//! Services: for clients, for members of this cluster, for members of others.

use serde_json::{Value, json};
use synod_api::{AppProtocol, NetworkMode, ServiceType};

use super::{Child, Kind, object, selector};
use crate::group::names;
use crate::group::validate::Valid;
use crate::inject::names as pod;

/// What clients use. Its port leads to the sidecar by name.
pub(super) fn client(valid: &Valid<'_>) -> Child {
    let spec = &valid.group.spec;
    let service = &spec.service;
    let mut port = json!({
        "name": "http",
        "port": service.port,
        "targetPort": pod::CLIENT_PORT,
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

/// One for each member, reachable from other clusters by a port of the nodes.
pub(super) fn per_pod(valid: &Valid<'_>) -> Vec<Child> {
    if valid.group.spec.network.mode != NetworkMode::PerPodService {
        return Vec::new();
    }
    let peer = valid.group.spec.sidecar.ports.peer;
    (0..valid.replicas())
        .map(|ordinal| {
            let mut selector = selector(valid);
            let name = format!("{}-{ordinal}", valid.workload);
            selector["statefulset.kubernetes.io/pod-name"] = json!(name);
            Child::new(
                valid,
                Kind::Service,
                &names::pod_service(valid.name, ordinal),
                json!({"spec": {
                    "type": "NodePort",
                    "publishNotReadyAddresses": true,
                    "selector": selector,
                    "ports": [named(pod::PEER_PORT, peer)],
                }}),
            )
        })
        .collect()
}

fn named(name: &str, port: u16) -> Value {
    json!({"name": name, "port": port, "targetPort": name, "protocol": "TCP"})
}
