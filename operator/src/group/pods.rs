//! Pods as the group looks at them. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use k8s_openapi::jiff::Timestamp;

use super::names;
use crate::inject::names::{CONTAINER, revision_of};

/// One pod.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct PodView {
    /// Its name.
    pub(crate) name: String,
    /// The member that it is: called like the pod, where the operator makes it.
    pub(crate) member: String,
    pub(crate) labels: BTreeMap<String, String>,
    /// Image of its sidecar; `None`: it has none.
    pub(crate) sidecar: Option<String>,
    /// The revision that its app is of, as its sidecar reads it.
    pub(crate) app_revision: u64,
    pub(crate) uid: String,
    /// Its node; empty before it has one.
    pub(crate) node: String,
    /// Its address; empty before it has one.
    pub(crate) ip: String,
    /// Address of its node.
    pub(crate) host_ip: String,
    /// When it was made.
    pub(crate) made: Option<Timestamp>,
    /// As kubelet says.
    pub(crate) phase: String,
    /// It is being deleted.
    pub(crate) leaving: bool,
    pub(crate) ready: bool,
    /// When `ready` last changed.
    pub(crate) since: Option<Timestamp>,
    /// Revision of the StatefulSet that it was made from.
    pub(crate) revision: String,
    /// What its template was made from.
    pub(crate) template: String,
    /// One of its containers ran at some time.
    pub(crate) ran: bool,
    /// All its containers exist or have a reason for it: kubelet waits for something else.
    pub(crate) waits_silently: bool,
    /// Since when kubelet waits before it starts a container again that ended time after time.
    pub(crate) backing_off: Option<Timestamp>,
    /// What keeps it from running, in the words of scheduler and kubelet.
    pub(crate) problem: String,
    /// Which configuration it should have seen.
    pub(crate) seen: String,
}

/// What kubelet says while it is simply at work.
const AT_WORK: [&str; 2] = ["ContainerCreating", "PodInitializing"];

// === impl PodView ===

impl PodView {
    pub(crate) fn new(pod: &Pod) -> Self {
        let metadata = &pod.metadata;
        let status = pod.status.clone().unwrap_or_default();
        let label = |key: &str| {
            let labels = metadata.labels.as_ref();
            labels.and_then(|it| it.get(key)).cloned()
        };
        let annotation = |key: &str| {
            let annotations = metadata.annotations.as_ref();
            annotations.and_then(|it| it.get(key)).cloned()
        };
        let ready = status
            .conditions
            .iter()
            .flatten()
            .find(|it| it.type_ == "Ready");
        let containers = || {
            let own = status.init_container_statuses.iter().flatten();
            own.chain(status.container_statuses.iter().flatten())
        };
        let (problem, waits_silently) = problem(pod);
        Self {
            name: metadata.name.clone().unwrap_or_default(),
            member: metadata.name.clone().unwrap_or_default(),
            labels: metadata.labels.clone().unwrap_or_default(),
            sidecar: sidecar(pod),
            app_revision: app_revision(pod).unwrap_or_default(),
            uid: metadata.uid.clone().unwrap_or_default(),
            node: pod
                .spec
                .as_ref()
                .and_then(|it| it.node_name.clone())
                .unwrap_or_default(),
            ip: status.pod_ip.clone().unwrap_or_default(),
            host_ip: status.host_ip.clone().unwrap_or_default(),
            made: metadata.creation_timestamp.as_ref().map(|it| it.0),
            phase: status.phase.clone().unwrap_or_default(),
            leaving: metadata.deletion_timestamp.is_some(),
            ready: ready.is_some_and(|it| it.status == "True"),
            since: ready.and_then(|it| it.last_transition_time.as_ref().map(|it| it.0)),
            revision: label("controller-revision-hash").unwrap_or_default(),
            template: annotation(names::TEMPLATE_ANNOTATION).unwrap_or_default(),
            ran: containers().any(ran),
            waits_silently,
            backing_off: containers().filter_map(backing_off).min(),
            problem,
            seen: annotation(names::SEEN_ANNOTATION).unwrap_or_default(),
        }
    }
}

fn sidecar(pod: &Pod) -> Option<String> {
    let init = pod.spec.as_ref()?.init_containers.as_ref()?;
    let ours = init.iter().find(|it| it.name == CONTAINER)?;
    let native = ours.restart_policy.as_deref() == Some("Always");
    native.then(|| ours.image.clone().unwrap_or_default())
}

fn app_revision(pod: &Pod) -> Option<u64> {
    let init = pod.spec.as_ref()?.init_containers.as_ref()?;
    let ours = init.iter().find(|it| it.name == CONTAINER)?;
    let words = ours.command.iter().chain(&ours.args).flatten();
    words.into_iter().find_map(|it| revision_of(it))
}

fn ran(status: &ContainerStatus) -> bool {
    let now = status.state.as_ref();
    let last = status.last_state.as_ref();
    status.restart_count > 0
        || now.is_some_and(|it| it.running.is_some() || it.terminated.is_some())
        || last.is_some_and(|it| it.terminated.is_some())
}

/// When it last ended, if kubelet waits since then. The first waits are short.
fn backing_off(status: &ContainerStatus) -> Option<Timestamp> {
    let waiting = status.state.as_ref()?.waiting.as_ref()?;
    let waits = waiting.reason.as_deref() == Some("CrashLoopBackOff") && status.restart_count >= 3;
    let last = status.last_state.as_ref()?.terminated.as_ref()?;
    let ended = last.finished_at.as_ref()?.0;
    waits.then_some(ended)
}

/// What keeps a pod from running, and whether kubelet waits without a word in the status.
fn problem(pod: &Pod) -> (String, bool) {
    let Some(status) = &pod.status else {
        return (String::new(), false);
    };
    // Its containers end as they must, and some of them with a code.
    if pod.metadata.deletion_timestamp.is_some() {
        return (String::new(), false);
    }
    let unscheduled = status
        .conditions
        .iter()
        .flatten()
        .find(|it| it.type_ == "PodScheduled" && it.status == "False");
    if let Some(condition) = unscheduled {
        let words = condition.message.clone().unwrap_or_default();
        return (format!("not scheduled: {words}"), false);
    }
    if status.phase.as_deref() == Some("Failed") {
        let reason = status.reason.clone().unwrap_or_default();
        let words = status.message.clone().unwrap_or_default();
        return (format!("failed: {reason} {words}"), false);
    }
    let mut silent = false;
    let init = status.init_container_statuses.iter().flatten();
    for container in init.chain(status.container_statuses.iter().flatten()) {
        let waiting = container
            .state
            .as_ref()
            .and_then(|it| it.waiting.as_ref())
            .and_then(|it| Some((it.reason.as_deref()?, it.message.as_deref())));
        let Some((reason, words)) = waiting else {
            continue;
        };
        if AT_WORK.contains(&reason) {
            silent = true;
            continue;
        }
        let name = if container.name == CONTAINER {
            "the sidecar".to_owned()
        } else {
            format!("container {:?}", container.name)
        };
        // What kubelet says of its back-off is nothing but names and a number that changes.
        let words = words.filter(|_| reason != "CrashLoopBackOff");
        let words = words.map_or_else(String::new, |it| format!(": {it}"));
        let last = last_words(container);
        return (format!("{name}: {reason}{words}{last}"), false);
    }
    (String::new(), silent)
}

/// How a container that does not come up ended the last time.
fn last_words(container: &ContainerStatus) -> String {
    let last = container
        .last_state
        .as_ref()
        .and_then(|it| it.terminated.as_ref());
    let Some(last) = last else {
        return String::new();
    };
    let words = last.message.as_deref().unwrap_or_default().trim();
    // Programs of ours end with one line of JSON.
    let told = words.lines().last().and_then(|it| {
        let line: serde_json::Value = serde_json::from_str(it).ok()?;
        let message = line["message"].as_str()?;
        let error = line["error"].as_str();
        Some(error.map_or_else(|| message.to_owned(), |error| format!("{message}: {error}")))
    });
    if let Some(told) = told {
        let told: String = told.chars().take(400).collect();
        return format!("; it ended with code {}: {told}", last.exit_code);
    }
    // The end says why; the log before it may be long.
    let tail: String = words
        .lines()
        .rev()
        .take(2)
        .collect::<Vec<_>>()
        .into_iter()
        .rev()
        .collect::<Vec<_>>()
        .join(" | ");
    let tail: String = tail.chars().take(400).collect();
    if tail.is_empty() {
        format!("; it ended with code {}", last.exit_code)
    } else {
        format!("; it ended with code {}: {tail}", last.exit_code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(status: serde_json::Value) -> PodView {
        let value = serde_json::json!({
            "metadata": {"name": "notes-local-0", "labels": {"controller-revision-hash": "r1"}},
            "status": status,
        });
        PodView::new(&serde_json::from_value(value).expect("a pod"))
    }

    #[test]
    fn what_scheduler_and_kubelet_wait_for_is_said_in_their_words() {
        let cases = [
            (
                serde_json::json!({"conditions": [{
                    "type": "PodScheduled", "status": "False", "reason": "Unschedulable",
                    "message": "0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims",
                }]}),
                "not scheduled: 0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims",
            ),
            (
                serde_json::json!({"containerStatuses": [{
                    "name": "notes", "image": "x", "imageID": "", "ready": false, "restartCount": 0,
                    "state": {"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling image \"x\""}},
                }]}),
                "container \"notes\": ImagePullBackOff: Back-off pulling image \"x\"",
            ),
            (
                serde_json::json!({"initContainerStatuses": [{
                    "name": "synod", "image": "x", "imageID": "", "ready": false, "restartCount": 3,
                    "state": {"waiting": {"reason": "CrashLoopBackOff"}},
                    "lastState": {"terminated": {"exitCode": 64, "message": "a\nbad field\n"}},
                }]}),
                "the sidecar: CrashLoopBackOff; it ended with code 64: a | bad field",
            ),
            (
                serde_json::json!({"phase": "Failed", "reason": "Evicted", "message": "disk"}),
                "failed: Evicted disk",
            ),
        ];
        for (status, expected) in cases {
            assert_eq!(pod(status).problem, expected);
        }
    }

    #[test]
    fn a_pod_that_is_being_deleted_has_no_problem() {
        let view = |deleted: Option<&str>| {
            let value = serde_json::json!({
                "metadata": {"name": "notes-local-0", "deletionTimestamp": deleted},
                "status": {"phase": "Failed", "reason": "Error", "message": "exit 137"},
            });
            PodView::new(&serde_json::from_value(value).expect("a pod"))
        };
        assert_eq!(view(None).problem, "failed: Error exit 137");
        assert_eq!(view(Some("2026-01-01T00:00:00Z")).problem, "");
    }

    #[test]
    fn kubelets_back_off_counts_from_the_last_end_after_the_third_start() {
        let view = |restarts: u32, reason: &str| {
            pod(serde_json::json!({"containerStatuses": [{
                "name": "notes", "image": "x", "imageID": "", "ready": false,
                "restartCount": restarts,
                "state": {"waiting": {"reason": reason}},
                "lastState": {"terminated": {"exitCode": 1, "finishedAt": "2026-01-01T00:00:07Z"}},
            }]}))
        };
        let ended = "2026-01-01T00:00:07Z".parse().expect("a time");
        assert_eq!(view(3, "CrashLoopBackOff").backing_off, Some(ended));
        assert_eq!(view(2, "CrashLoopBackOff").backing_off, None);
        assert_eq!(view(3, "ImagePullBackOff").backing_off, None);
    }

    #[test]
    fn a_pod_that_is_merely_starting_has_no_problem() {
        let view = pod(serde_json::json!({"containerStatuses": [{
            "name": "notes", "image": "x", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"waiting": {"reason": "ContainerCreating"}},
        }]}));
        assert_eq!(view.problem, "");
        assert!(view.waits_silently);
        assert!(!view.ran);
    }
}
