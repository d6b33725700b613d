//! What others may do to the pods: evict them, connect to them.

use serde_json::json;

use super::{Child, Input, Kind, selector};
use crate::group::names;
use crate::group::validate::Valid;

/// As many pods as must stay. A number, not a share: a share is rounded, and not always up.
pub(super) fn disruption_budget(input: &Input<'_>) -> Child {
    let valid = input.valid;
    let least = valid.replicas().saturating_sub(input.disruptions);
    let name = names::workload(valid.name, &valid.group.spec.cluster);
    Child::new(
        valid,
        Kind::PodDisruptionBudget,
        &name,
        json!({"spec": {
            "minAvailable": least,
            "selector": {"matchLabels": selector(valid)},
        }}),
    )
}

/// The sidecar's ports and those that were declared: nobody reaches the app past the sidecar.
pub(super) fn network_policy(valid: &Valid<'_>) -> Child {
    let spec = &valid.group.spec;
    let ports = spec.sidecar.ports;
    let open = [ports.http, ports.peer, ports.admin]
        .into_iter()
        .chain(spec.app.passthrough_ports.iter().copied());
    let open: Vec<_> = open
        .map(|port| json!({"protocol": "TCP", "port": port}))
        .collect();
    Child::new(
        valid,
        Kind::NetworkPolicy,
        valid.name,
        json!({"spec": {
            "podSelector": {"matchLabels": selector(valid)},
            "policyTypes": ["Ingress"],
            "ingress": [{"ports": open}],
        }}),
    )
}
