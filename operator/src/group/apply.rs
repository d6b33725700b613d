//! Children are brought to the API server. What is there as it should be is left alone.

use kube::api::{DynamicObject, Patch, PatchParams, PostParams, ValidationDirective};
use kube::{Client, ResourceExt as _};
use serde_json::{Value, json};

use super::build::{Child, Kind, contains};
use super::dereference::api;
use super::names;
use super::validate::Stall;
use crate::conditions;
use crate::inject::names::CONTAINER;

/// Why a child is not as it should be.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApplyError {
    /// The API server will not take it, now or later.
    #[error("{}", .0.message)]
    Refused(Stall),
    /// Something else went wrong.
    #[error("cannot apply {kind} {name}: {}", words(error))]
    Api {
        /// Which kind.
        kind: &'static str,
        /// Which object.
        name: String,
        /// What was said.
        error: kube::Error,
    },
}

// === impl ApplyError ===

impl ApplyError {
    /// What a quota, a policy or a missing right refuses, it refuses until a person changes that.
    fn of(kind: &'static str, name: &str, error: kube::Error) -> Self {
        let refused = matches!(&error, kube::Error::Api(it) if matches!(it.code, 403 | 422));
        if refused {
            let words = format!("the API server refuses {kind} {name}: {}", words(&error));
            return Self::Refused(Stall::new(&conditions::CHILD_REFUSED, words));
        }
        Self::Api {
            kind,
            name: name.to_owned(),
            error,
        }
    }
}

/// Applies a child; returns whether anything was sent. `live` is what is there.
pub(crate) async fn apply(
    client: &Client,
    namespace: &str,
    child: &Child,
    live: Option<&DynamicObject>,
) -> Result<bool, ApplyError> {
    let wrap = |error| ApplyError::of(child.kind.name(), &child.name, error);
    let api = api(client, child.kind, namespace);
    if child.create_only {
        if live.is_some() {
            return Ok(false);
        }
        let object = serde_json::from_value(child.value.clone()).expect("it has metadata");
        let params = PostParams {
            field_manager: Some(names::MANAGER.to_owned()),
            ..PostParams::default()
        };
        return match api.create(&params, &object).await {
            Ok(_) => Ok(true),
            // Another was first: the next look finds it.
            Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(false),
            Err(error) => Err(wrap(error)),
        };
    }
    let digest = child.digest();
    if live.is_some_and(|it| is_as_applied(it, child, &digest)) {
        return Ok(false);
    }
    let mut value = child.value.clone();
    value["metadata"]["annotations"][names::APPLIED_ANNOTATION] = json!(digest);
    // Ours was seen to be ours: what others wrote into it is put right. What was not there a moment
    // ago is not forced: somebody else's object of that name keeps its fields.
    let params = PatchParams {
        force: live.is_some(),
        field_manager: Some(names::MANAGER.to_owned()),
        ..PatchParams::default()
    };
    if let Some(live) = live {
        // Never its successor's.
        value["metadata"]["uid"] = json!(live.uid());
    }
    if let Some(ports) = live.and_then(|it| ports_instead(it, child)) {
        let patch =
            json!({"metadata": {"uid": value["metadata"]["uid"]}, "spec": {"ports": ports}});
        let params = PatchParams {
            field_manager: Some(names::MANAGER.to_owned()),
            ..PatchParams::default()
        };
        api.patch(&child.name, &params, &Patch::Merge(&patch))
            .await
            .map_err(wrap)?;
    }
    if child.kind == Kind::StatefulSet {
        let dry = PatchParams {
            dry_run: true,
            field_validation: Some(ValidationDirective::Strict),
            ..params.clone()
        };
        match api.patch(&child.name, &dry, &Patch::Apply(&value)).await {
            Ok(_) => {}
            Err(error) => {
                return Err(refusal(&error).map_or_else(|| wrap(error), ApplyError::Refused));
            }
        }
    }
    api.patch(&child.name, &params, &Patch::Apply(&value))
        .await
        .map_err(wrap)?;
    Ok(true)
}

/// Whether this very child was applied and nobody has changed it since.
fn is_as_applied(live: &DynamicObject, child: &Child, digest: &str) -> bool {
    let Ok(there) = serde_json::to_value(live) else {
        return false;
    };
    live.annotations()
        .get(names::APPLIED_ANNOTATION)
        .map(String::as_str)
        == Some(digest)
        && contains(&there, &child.value)
        && ports_instead(live, child).is_none()
}

/// The ports of a Service, when it has others too. Server-side apply knows a port by its number: one
/// that somebody has added, or changed to another number, it would leave beside ours.
fn ports_instead<'a>(live: &DynamicObject, child: &'a Child) -> Option<&'a Value> {
    if child.kind != Kind::Service {
        return None;
    }
    let wanted = &child.value["spec"]["ports"];
    let numbers = |ports: &Value| {
        let ports = ports.as_array().into_iter().flatten();
        ports.map(|it| it["port"].as_u64()).collect::<Vec<_>>()
    };
    let ours = numbers(wanted);
    let others = numbers(&live.data["spec"]["ports"]);
    others.iter().any(|it| !ours.contains(it)).then_some(wanted)
}

/// The API server's words about a template, when it is the template that it refuses.
fn refusal(error: &kube::Error) -> Option<Stall> {
    let kube::Error::Api(status) = error else {
        return None;
    };
    // Fields that it does not know are an internal error to server-side apply.
    let unknown = status.code == 500 && status.message.contains(UNKNOWN_FIELDS);
    if !unknown && !matches!(status.code, 400 | 422) {
        return None;
    }
    let said = user_paths(&words(error));
    Some(Stall::new(
        &conditions::INVALID_TEMPLATE,
        format!("the API server refuses the pod template: {said}"),
    ))
}

/// How server-side apply begins to say that it does not know some fields.
const UNKNOWN_FIELDS: &str = "failed to create typed patch object";

/// What the API server said, in one line.
pub(crate) fn words(error: &kube::Error) -> String {
    let kube::Error::Api(status) = error else {
        return error.to_string();
    };
    let lines: Vec<_> = status.message.lines().map(str::trim).collect();
    let text = lines.join(" ");
    match text.split_once("): ") {
        Some((head, rest)) if head.starts_with(UNKNOWN_FIELDS) => {
            let rest = rest.trim_start_matches("errors: ").trim_start_matches('.');
            rest.replace(" .", ", ")
        }
        _ => text,
    }
}

/// Takes our own container out of the indexes of `initContainers`, so that paths are those of the
/// user's template.
pub(crate) fn user_paths(message: &str) -> String {
    const FIELD: &str = "initContainers[";
    let mut text = String::with_capacity(message.len());
    let mut rest = message;
    while let Some(at) = rest.find(FIELD) {
        let (before, after) = rest.split_at(at + FIELD.len());
        let digits = after.bytes().take_while(u8::is_ascii_digit).count();
        match after[..digits].parse::<usize>() {
            Ok(0) if after[digits..].starts_with(']') => {
                text.push_str(&before[..at]);
                text.push_str("(the sidecar's container, ");
                text.push_str(CONTAINER);
                text.push(')');
                rest = &after[digits + 1..];
            }
            Ok(index) if index > 0 => {
                text.push_str(before);
                text.push_str(&(index - 1).to_string());
                rest = &after[digits..];
            }
            _ => {
                text.push_str(before);
                rest = after;
            }
        }
    }
    text.push_str(rest);
    text
}

/// Makes kubelet look at the pod's volumes now instead of within a minute, by a change of the pod
/// that means nothing else.
pub(crate) async fn nudge(
    client: &Client,
    namespace: &str,
    pod: &str,
    uid: &str,
    digest: &str,
) -> kube::Result<()> {
    use k8s_openapi::api::core::v1::Pod;
    let pods: kube::Api<Pod> = kube::Api::namespaced(client.clone(), namespace);
    let patch: Value = json!({"metadata": {
        "uid": uid,
        "annotations": {names::SEEN_ANNOTATION: digest},
    }});
    let params = PatchParams {
        field_manager: Some(names::MANAGER.to_owned()),
        ..PatchParams::default()
    };
    match pods
        .patch_metadata(pod, &params, &Patch::Merge(&patch))
        .await
    {
        Ok(_) => Ok(()),
        // It is another pod by now, or none.
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409 | 422) => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_that_somebody_added_or_changed_are_put_right() {
        let child = Child {
            kind: Kind::Service,
            name: "notes".to_owned(),
            value: json!({"spec": {"ports": [{"name": "http", "port": 80, "targetPort": "http"}]}}),
            create_only: false,
        };
        let instead = |ports: Value| {
            let live: DynamicObject = serde_json::from_value(json!({
                "apiVersion": "v1", "kind": "Service", "metadata": {"name": "notes"},
                "spec": {"ports": ports},
            }))
            .expect("a Service");
            ports_instead(&live, &child).is_some()
        };
        assert!(!instead(
            json!([{"name": "http", "port": 80, "nodePort": 30001}])
        ));
        assert!(instead(json!([{"name": "http", "port": 99}])), "changed");
        let added = json!([{"name": "http", "port": 80}, {"name": "more", "port": 9000}]);
        assert!(instead(added), "added");
    }

    fn said(code: u16, message: &str) -> kube::Error {
        kube::Error::Api(
            kube::core::Status::failure(message, "")
                .with_code(code)
                .boxed(),
        )
    }

    #[test]
    fn what_the_server_does_not_know_in_a_template_is_told_by_its_path() {
        let message = "failed to create typed patch object (default/notes-local; apps/v1, \
            Kind=StatefulSet): errors:\n  .spec.template.spec.containers[name=\"notes\"].foo: \
            field not declared in schema\n  .spec.template.spec.x: field not declared in schema";
        let stall = refusal(&said(500, message)).expect("about the template");
        assert_eq!(stall.reason.name, "InvalidTemplate");
        assert_eq!(
            stall.message,
            "the API server refuses the pod template: \
             spec.template.spec.containers[name=\"notes\"].foo: field not declared in schema, \
             spec.template.spec.x: field not declared in schema"
        );
    }

    #[test]
    fn one_unknown_field_is_told_like_several() {
        let message = "failed to create typed patch object (default/notes-local; apps/v1, \
            Kind=StatefulSet): .spec.template.spec.x: field not declared in schema";
        assert_eq!(
            words(&said(500, message)),
            "spec.template.spec.x: field not declared in schema"
        );
    }

    #[test]
    fn trouble_of_the_server_is_not_the_templates_fault() {
        for (code, message) in [(500, "etcd is gone"), (403, "no rights"), (503, "later")] {
            assert_eq!(refusal(&said(code, message)), None);
        }
    }

    #[test]
    fn what_a_quota_or_a_policy_refuses_is_told_as_that() {
        for (code, message) in [(403, "exceeded quota: few"), (422, "denied the request")] {
            let ApplyError::Refused(stall) =
                ApplyError::of("Service", "notes", said(code, message))
            else {
                panic!("{message}");
            };
            assert_eq!(stall.reason.name, "ChildRefused");
            assert!(stall.message.contains("Service notes") && stall.message.contains(message));
        }
        let later = ApplyError::of("Service", "notes", said(500, "etcd is gone"));
        assert!(matches!(later, ApplyError::Api { .. }), "{later}");
    }

    #[test]
    fn paths_in_the_servers_words_are_those_of_the_users_template() {
        for (said, expected) in [
            (
                "spec.template.spec.initContainers[1].image: Required value",
                "spec.template.spec.initContainers[0].image: Required value",
            ),
            (
                "strict decoding error: unknown field \"spec.template.spec.initContainers[12].x\", unknown field \"spec.template.spec.containers[0].y\"",
                "strict decoding error: unknown field \"spec.template.spec.initContainers[11].x\", unknown field \"spec.template.spec.containers[0].y\"",
            ),
            (
                "spec.template.spec.initContainers[0].ports: bad",
                "spec.template.spec.(the sidecar's container, synod).ports: bad",
            ),
            ("initContainers[x]", "initContainers[x]"),
            (
                "initContainers[99999999999999999999]",
                "initContainers[99999999999999999999]",
            ),
            ("initContainers[", "initContainers["),
        ] {
            assert_eq!(user_paths(said), expected);
        }
    }
}
