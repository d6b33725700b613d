//! Services that lead clients to the app's own port, past the agreed order. Comes in: the Services of
//! the namespace and the labels of the members' pods. Goes out: the names of such Services. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Service, ServicePort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt as _;

use super::validate::Stall;
use crate::conditions;
use crate::inject::names;

pub(crate) type Labels = BTreeMap<String, String>;

/// What such Services keep the group from, if there are any. `client_port` is the name by which the
/// sidecar's port is found.
pub(crate) fn bypass(
    services: &[Service],
    pods: &[Labels],
    app_port: u16,
    client_port: &str,
) -> Option<Stall> {
    let mut found: Vec<_> = services
        .iter()
        .filter(|it| selects(it, pods))
        .filter_map(|it| Some((it.name_any(), way(it, app_port)?)))
        .map(|(name, way)| format!("Service {name} ({way})"))
        .collect();
    if found.is_empty() {
        return None;
    }
    found.sort();
    Some(Stall::new(
        &conditions::BYPASS_POSSIBLE,
        format!(
            "clients reach the app past the agreed order by {}: let its targetPort be the name \
             `{client_port}` (of a headless one, which leads to whatever port a client asks for: let \
             its port be the sidecar's), or delete it",
            found.join(" and ")
        ),
    ))
}

/// Labels that a pod has by a StatefulSet of this name.
pub(crate) fn of_ordinal(labels: &Labels, set: &str, ordinal: u32) -> Labels {
    let mut labels = labels.clone();
    let name = format!("{set}-{ordinal}");
    labels.insert("statefulset.kubernetes.io/pod-name".to_owned(), name);
    let index = ordinal.to_string();
    labels.insert(names::INDEX_LABEL.to_owned(), index);
    labels
}

fn selects(service: &Service, pods: &[Labels]) -> bool {
    let selector = service.spec.as_ref().and_then(|it| it.selector.as_ref());
    // Without a selector somebody else says where it leads.
    let Some(selector) = selector.filter(|it| !it.is_empty()) else {
        return false;
    };
    pods.iter().any(|labels| {
        selector
            .iter()
            .all(|(key, value)| labels.get(key) == Some(value))
    })
}

/// By which of its ports the app is reached.
fn way(service: &Service, app_port: u16) -> Option<String> {
    let spec = service.spec.as_ref()?;
    let headless = spec.cluster_ip.as_deref() == Some("None");
    spec.ports.as_ref()?.iter().find_map(|it| {
        let tcp = it.protocol.as_deref().is_none_or(|it| it == "TCP");
        if tcp && headless && it.port == i32::from(app_port) {
            return Some(format!(
                "it is headless, so its targetPort counts for nothing and port {app_port} is the \
                 app's own"
            ));
        }
        (tcp && leads_to(it, app_port)).then(|| match &it.target_port {
            Some(IntOrString::String(name)) => {
                format!("port {} leads to the app's port `{name}`", it.port)
            }
            _ => format!("port {} leads to the app's port {app_port}", it.port),
        })
    })
}

fn leads_to(port: &ServicePort, app_port: u16) -> bool {
    match &port.target_port {
        Some(IntOrString::Int(number)) => *number == i32::from(app_port),
        // The sidecar's port has the names that users know; the app's was given one of ours.
        Some(IntOrString::String(name)) => name
            .strip_prefix(names::APP_PORT)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('-')),
        None => port.port == i32::from(app_port),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(name: &str, spec: &str) -> Service {
        let text = format!("metadata: {{name: {name}}}\nspec: {spec}");
        serde_yaml::from_str(&text).expect("a Service")
    }

    fn found(spec: &str) -> Option<Stall> {
        let labels = Labels::from([("app".to_owned(), "notes".to_owned())]);
        let pods = [of_ordinal(&labels, "web", 0), of_ordinal(&labels, "web", 1)];
        bypass(&[service("front", spec)], &pods, 8080, "http")
    }

    #[test]
    fn a_service_that_selects_members_and_targets_the_apps_port_is_named() {
        for (spec, way) in [
            (
                "{selector: {app: notes}, ports: [{port: 80, targetPort: 8080}]}",
                "port 80 leads to the app's port 8080",
            ),
            (
                "{selector: {app: notes}, ports: [{port: 1}, {port: 8080}]}",
                "port 8080 leads to",
            ),
            (
                "{selector: {app: notes}, ports: [{port: 80, targetPort: synod-app}]}",
                "the app's port `synod-app`",
            ),
            (
                "{clusterIP: None, selector: {app: notes}, ports: [{port: 8080, targetPort: http}]}",
                "it is headless",
            ),
            (
                "{clusterIP: None, selector: {app: notes}, ports: [{port: 80, targetPort: 8080}]}",
                "port 80 leads to the app's port 8080",
            ),
            (
                "{selector: {statefulset.kubernetes.io/pod-name: web-1}, ports: [{port: 80, targetPort: 8080}]}",
                "Service front",
            ),
        ] {
            let stall = found(spec).expect(spec);
            assert_eq!(stall.reason.name, "BypassPossible");
            assert!(stall.message.contains(way), "{}", stall.message);
            assert!(stall.message.contains("Service front"), "{}", stall.message);
        }
    }

    #[test]
    fn a_service_of_other_pods_or_ports_or_by_name_is_none_of_our_business() {
        for spec in [
            "{selector: {app: notes}, ports: [{port: 80, targetPort: http}]}",
            "{selector: {app: notes}, ports: [{port: 80, targetPort: synod-appendix}]}",
            "{selector: {app: notes}, ports: [{port: 80, targetPort: 9090}]}",
            "{selector: {app: notes}, ports: [{port: 80, targetPort: 8080, protocol: UDP}]}",
            "{selector: {app: other}, ports: [{port: 80, targetPort: 8080}]}",
            "{selector: {app: notes, tier: x}, ports: [{port: 80, targetPort: 8080}]}",
            "{ports: [{port: 80, targetPort: 8080}]}",
            "{type: ExternalName, externalName: example.com}",
            "{clusterIP: None, selector: {app: notes}, ports: [{port: 7480, targetPort: http}]}",
            "{clusterIP: 10.0.0.9, selector: {app: notes}, ports: [{port: 8080, targetPort: http}]}",
        ] {
            assert_eq!(found(spec), None, "{spec}");
        }
    }
}
