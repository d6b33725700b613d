//! Pods that ask for a sidecar and have none: they came past the webhook, because they were labelled
//! later or the webhook was not there. Told by an event on the pod and a number; a group tells of its
//! own besides.

use std::collections::BTreeSet;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::runtime::events::{Event, EventType};
use kube::{Api, Resource as _, ResourceExt as _};

use super::metrics::Metrics;
use crate::conditions;
use crate::inject::names::{CONTAINER, INJECT_LABEL};
use crate::run::Context;

/// Between two looks.
const PERIOD: Duration = Duration::from_secs(30);

/// Looks until told to stop, while this instance is the one that writes.
pub(super) async fn run(context: &Context, metrics: &Metrics) {
    let mut told = BTreeSet::new();
    loop {
        tokio::select! {
            () = context.stop.cancelled() => return,
            () = tokio::time::sleep(PERIOD) => {}
        }
        if !context.leadership.leads() {
            metrics.bare(0);
            continue;
        }
        let pods: Api<Pod> = Api::all(context.client.clone());
        match pods.list(&ListParams::default().labels(INJECT_LABEL)).await {
            Ok(list) => {
                let bare: Vec<_> = list.items.into_iter().filter(is_bare).collect();
                metrics.bare(bare.len());
                told.retain(|uid| bare.iter().any(|it| it.metadata.uid.as_ref() == Some(uid)));
                for pod in &bare {
                    if told.insert(pod.metadata.uid.clone().unwrap_or_default()) {
                        tell(context, pod).await;
                    }
                }
            }
            Err(error) => tracing::warn!(%error, "labelled pods cannot be listed"),
        }
    }
}

fn is_bare(pod: &Pod) -> bool {
    let init = pod
        .spec
        .iter()
        .flat_map(|it| it.init_containers.iter().flatten());
    let ours = |name: &str, policy: Option<&str>| name == CONTAINER && policy == Some("Always");
    let phase = pod.status.as_ref().and_then(|it| it.phase.as_deref());
    pod.metadata.deletion_timestamp.is_none()
        && !matches!(phase, Some("Succeeded" | "Failed"))
        && !init
            .into_iter()
            .any(|it| ours(&it.name, it.restart_policy.as_deref()))
}

async fn tell(context: &Context, pod: &Pod) {
    let (name, namespace) = (pod.name_any(), pod.namespace().unwrap_or_default());
    let service = pod.labels().get(INJECT_LABEL);
    let service = service.map_or("", String::as_str);
    tracing::warn!(
        service,
        namespace,
        pod = name,
        "a labelled pod has no sidecar"
    );
    let event = Event {
        type_: EventType::Warning,
        reason: conditions::INJECTION_MISSING.name.to_owned(),
        note: Some(format!(
            "this pod asks for the sidecar of {service:?} and runs without one, so it is no member \
             of it: delete it, and it is made again with the sidecar"
        )),
        action: "Inject".to_owned(),
        secondary: None,
    };
    if let Err(error) = context.events.publish(&event, &pod.object_ref(&())).await {
        tracing::debug!(service, %error, "cannot publish an event");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_running_pod_without_the_native_sidecar_is_found() {
        let bare = |text: &str| is_bare(&serde_yaml::from_str(text).expect("a pod"));
        assert!(bare("spec: {containers: []}"));
        assert!(bare(
            "spec: {containers: [], initContainers: [{name: synod}]}"
        ));
        assert!(!bare(
            "spec: {containers: [], initContainers: [{name: synod, restartPolicy: Always}]}"
        ));
        assert!(!bare(
            "{spec: {containers: []}, status: {phase: Succeeded}}"
        ));
        assert!(!bare(
            "{metadata: {deletionTimestamp: 2026-01-01T00:00:00Z}, spec: {containers: []}}"
        ));
    }
}
