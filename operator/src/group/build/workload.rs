//! The StatefulSet. Pods are started side by side and replaced by us alone.

use serde_json::{Value, json};
use synod_api::{AppProtocol, RawObject, Retention, State, StateType, is_witness};

use super::template::template;
use super::{Child, Input, Kind, Workload, digest, labels, selector, state};
use crate::group::names;
use crate::group::validate::Valid;
use crate::inject::{self, InjectError, Injection};

/// What a log needs when nothing was said: room for `log.maxSize` by default.
const LOG_SIZE: &str = "10Gi";
/// What an app's volume gets when nothing was said.
pub(crate) const STATE_SIZE: &str = "10Gi";

pub(super) fn stateful_set(input: &Input<'_>) -> Result<Workload, InjectError> {
    let valid = input.valid;
    let spec = &valid.group.spec;
    let bare = template(valid);
    let mut injection = Injection::rendered(valid.name, spec, input.image, input.token);
    injection.labels = labels(valid);
    let mut pod = inject::render(&bare, &injection)?;
    let digest = made_from(&bare, &injection, &spec.state);
    pod["metadata"]["annotations"][names::TEMPLATE_ANNOTATION] = json!(digest);
    let wanted = claims(valid, &bare);
    let replicas = valid.copies();
    let (child, kept_claims) = set(
        input,
        &valid.workload,
        replicas,
        &selector(valid),
        &pod,
        wanted,
    );
    Ok(Workload {
        child,
        template: digest,
        kept_claims,
    })
}

/// A StatefulSet of so many of these pods, and the claims that are asked for in vain.
pub(super) fn set(
    input: &Input<'_>,
    name: &str,
    replicas: u32,
    selector: &Value,
    pod: &Value,
    wanted: Vec<Value>,
) -> (Child, Vec<String>) {
    let valid = input.valid;
    let (claims, kept_claims) = match input.claims {
        Some(there) => keep(there, &wanted),
        None => (wanted, Vec::new()),
    };
    let retention = valid.group.spec.volume_claim_retention_policy;
    let policy = |it: Retention| match it {
        Retention::Retain => "Retain",
        Retention::Delete => "Delete",
    };
    let child = Child::new(
        valid,
        Kind::StatefulSet,
        name,
        json!({"spec": {
            "replicas": replicas,
            "serviceName": names::headless(valid.name),
            // One that waits for the others would wait for ever: they need it for a quorum.
            "podManagementPolicy": "Parallel",
            "updateStrategy": {"type": "OnDelete"},
            "selector": {"matchLabels": selector},
            "persistentVolumeClaimRetentionPolicy": {
                "whenDeleted": policy(retention.when_deleted),
                "whenScaled": policy(retention.when_scaled),
            },
            "template": pod,
            "volumeClaimTemplates": claims,
        }}),
    );
    (child, kept_claims)
}

/// What users decide about a pod. How this version of the operator renders the sidecar, and which
/// image it has, is left out: a new operator does not replace pods by itself.
pub(crate) fn made_from(bare: &Value, injection: &Injection, state: &State) -> String {
    let ports = injection.ports;
    // Sidecars read these when they start. What is usual is left out, as earlier operators did.
    let protocol = (injection.app.protocol != AppProtocol::Http1).then_some(injection.app.protocol);
    let mut parts = json!([
        bare,
        injection.region,
        injection.app.container,
        injection.app.port,
        [ports.http, ports.peer, ports.admin],
        injection.resources.as_ref().map(|it| &it.0),
        injection.token,
        format!("{:?}", injection.state),
    ]);
    let source = injection.source.as_ref().map(|it| json!({"source": it}));
    let revision = (injection.revision > 0).then(|| json!({"revision": injection.revision}));
    let protocol = protocol.map(|it| json!(it));
    let more = [protocol, state::section(state), source, revision];
    if let Some(parts) = parts.as_array_mut() {
        parts.extend(more.into_iter().flatten());
    }
    digest(&parts)
}

/// One claim for each member's log, as a claim template would make it.
pub(super) fn log_claims(valid: &Valid<'_>) -> Vec<Child> {
    let spec = &valid.group.spec;
    let body = log_claim(valid);
    let members = spec.members.iter().filter(|it| !is_witness(&it.name));
    let members = members.map(|member| {
        let name = inject::names::log_claim(&member.name);
        let mut child = Child::new(
            valid,
            Kind::PersistentVolumeClaim,
            &name,
            json!({"spec": body["spec"]}),
        );
        child.create_only = true;
        let metadata = &mut child.value["metadata"];
        metadata["labels"] = body["metadata"]["labels"].clone();
        // What has an owner goes with it.
        if spec.volume_claim_retention_policy.when_deleted == Retention::Retain {
            let metadata = metadata.as_object_mut().expect("an object");
            metadata.shift_remove("ownerReferences");
        }
        child
    });
    members.collect()
}

/// The claim template for logs.
pub(super) fn log_claim(valid: &Valid<'_>) -> Value {
    let spec = &valid.group.spec;
    let class = spec.overrides.storage_class_name.as_deref();
    let given = spec.log.volume_claim.as_ref().map(|it| &it.spec);
    claim(valid, inject::names::LOG_VOLUME, given, LOG_SIZE, class)
}

fn claims(valid: &Valid<'_>, bare: &Value) -> Vec<Value> {
    let spec = &valid.group.spec;
    let class = spec.overrides.storage_class_name.as_deref();
    let mut claims = vec![log_claim(valid)];
    let volume = spec.state.volume.as_ref();
    if let (StateType::Volume, Some(volume)) = (spec.state.kind, volume) {
        let name = inject::state_volume(bare, &spec.app.container, &volume.mount_path);
        let given = volume.volume_claim.as_ref().map(|it| &it.spec);
        claims.push(claim(valid, &name, given, STATE_SIZE, class));
    }
    claims
}

/// Only one pod can have a volume at a time, so that a member and its successor never write the
/// same log (rule M4).
fn claim(
    valid: &Valid<'_>,
    name: &str,
    given: Option<&RawObject>,
    size: &str,
    class: Option<&str>,
) -> Value {
    let mut spec = given.map_or_else(Default::default, |it| it.0.clone());
    spec.entry("accessModes")
        .or_insert_with(|| json!(["ReadWriteOncePod"]));
    let resources = spec.entry("resources").or_insert_with(|| json!({}));
    if resources.pointer("/requests/storage").is_none() && resources.is_object() {
        resources["requests"] = json!({"storage": size});
    }
    if let Some(class) = class {
        spec.insert("storageClassName".to_owned(), json!(class));
    }
    let mut labels = labels(valid);
    labels.insert(
        names::OWNER_LABEL.to_owned(),
        valid.group.spec.owner.clone(),
    );
    json!({
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name, "labels": labels},
        "spec": spec,
    })
}

/// Claim templates as they are, and the names of those that should be others.
fn keep(there: &[Value], wanted: &[Value]) -> (Vec<Value>, Vec<String>) {
    let name = |it: &Value| it.pointer("/metadata/name").cloned();
    let kept: Vec<_> = there
        .iter()
        .map(|it| {
            json!({
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "metadata": {
                    "name": it["metadata"]["name"],
                    "labels": it["metadata"]["labels"],
                },
                "spec": it["spec"],
            })
        })
        .collect();
    let same = |wanted: &Value| {
        there
            .iter()
            .find(|it| name(it) == name(wanted))
            .is_some_and(|it| contains(&it["spec"], &wanted["spec"]))
    };
    let changed = wanted
        .iter()
        .filter(|it| !same(it))
        .filter_map(|it| name(it)?.as_str().map(str::to_owned))
        .collect();
    (kept, changed)
}

/// Whether everything that is wanted is there; more may be.
pub(crate) fn contains(there: &Value, wanted: &Value) -> bool {
    match (there, wanted) {
        (Value::Object(there), Value::Object(wanted)) => wanted.iter().all(|(key, wanted)| {
            there
                .get(key)
                .map_or(is_nothing(wanted), |it| contains(it, wanted))
        }),
        (Value::Array(there), Value::Array(wanted)) => {
            there.len() == wanted.len()
                && there
                    .iter()
                    .zip(wanted)
                    .all(|(it, wanted)| contains(it, wanted))
        }
        (there, wanted) => there == wanted,
    }
}

/// The API server leaves empty things out.
fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(map) => map.values().all(is_nothing),
        Value::Array(items) => items.is_empty(),
        Value::String(text) => text.is_empty(),
        _ => false,
    }
}
