//! The sidecar's own container and volumes.

use serde_json::{Value, json};

use super::hooks;
use super::injection::{AppState, Injection, LogVolume, Member};
use super::names;
use super::volume::{Owner, StateMount};

/// Where a service account's token would be mounted.
const ACCOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// How often it is asked whether the app may be started, once a second: for a day, since until then a
/// large volume may be put back. A process that ends is started anew all the same.
const MAY_START_FAILURES: u32 = 86_400;

/// The native sidecar; `client_port` is the name of its port for clients, `state` the app's volume.
pub(super) fn container(
    injection: &Injection,
    client_port: &str,
    state: Option<&StateMount>,
) -> Value {
    let config = names::config_file(injection.revision);
    let config = format!("{}/{config}", names::CONFIG_PATH);
    let Owner { user, group } = state.map_or_else(Owner::default, |it| it.owner);
    let mut container = json!({
        "name": names::CONTAINER,
        "image": injection.image,
        "restartPolicy": "Always",
        "command": ["synod-sidecar", "--config", config],
        "env": environment(injection),
        "ports": [
            {"name": client_port, "containerPort": injection.ports.http, "protocol": "TCP"},
            {"name": names::PEER_PORT, "containerPort": injection.ports.peer, "protocol": "TCP"},
            {"name": names::ADMIN_PORT, "containerPort": injection.ports.admin, "protocol": "TCP"},
        ],
        "startupProbe": startup(injection),
        "readinessProbe": probe(injection, "/ready", 2, 2),
        // It restores nothing that ending the process would not; patience costs little.
        "livenessProbe": probe(injection, "/live", 10, 6),
        "lifecycle": {"preStop": hooks::request("/lifecycle/drain", Vec::new(), injection)},
        "securityContext": {
            "runAsNonRoot": user != 0,
            "runAsUser": user,
            "runAsGroup": group,
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "resources": injection.resources.as_ref().map_or_else(
            || json!({"requests": {"cpu": "100m", "memory": "64Mi"}}),
            |it| Value::Object(it.0.clone()),
        ),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            {"name": names::LOG_VOLUME, "mountPath": names::LOG_PATH},
            {"name": names::CONFIG_VOLUME, "mountPath": names::CONFIG_PATH, "readOnly": true},
            {"name": names::GENESIS_VOLUME, "mountPath": names::GENESIS_PATH, "readOnly": true},
            {"name": names::TLS_VOLUME, "mountPath": names::TLS_PATH, "readOnly": true},
            // Admission mounts a service account's token into every container that has nothing
            // there: an empty folder keeps it out of this one and leaves it to the app.
            {"name": names::NO_ACCOUNT_VOLUME, "mountPath": ACCOUNT_PATH, "readOnly": true},
        ],
    });
    if let (Some(state), Some(mounts)) = (state, container["volumeMounts"].as_array_mut()) {
        mounts.push(json!({"name": names::POD_VOLUME, "mountPath": names::POD_PATH}));
        // Of one mount, so that files can be moved between the app's folder and the other.
        mounts.push(json!({"name": state.volume, "mountPath": names::STATE_PATH}));
        mounts.push(json!({
            "name": state.volume,
            "mountPath": names::STATE_MADE_PATH,
            "subPath": names::STATE_FOLDER,
            "readOnly": true,
        }));
    }
    if let (Some(_), Some(mounts)) = (&injection.source, container["volumeMounts"].as_array_mut()) {
        mounts.push(json!({
            "name": names::SOURCE_VOLUME,
            "mountPath": names::SOURCE_PATH,
            "readOnly": true,
        }));
    }
    if let Some(policy) = &injection.pull_policy {
        container["imagePullPolicy"] = json!(policy);
    }
    container
}

/// The app is started only after this. The process is up; an app with a volume must find there what
/// it should. Neither the app nor a quorum is waited for.
fn startup(injection: &Injection) -> Value {
    if injection.state == AppState::Ephemeral {
        // The process answers once the first state is made.
        let failures = injection
            .source
            .as_ref()
            .map_or(120, |_| MAY_START_FAILURES);
        return probe(injection, "/live", 1, failures);
    }
    let path = format!("/lifecycle/app-may-start?revision={}", injection.revision);
    let mut probe = hooks::request(&path, Vec::new(), injection);
    probe["periodSeconds"] = json!(1);
    probe["timeoutSeconds"] = json!(3);
    probe["failureThreshold"] = json!(MAY_START_FAILURES);
    probe
}

/// The volumes that its mounts need and that no claim template brings.
pub(super) fn volumes(injection: &Injection) -> Vec<Value> {
    let service = &injection.service;
    let mut volumes = vec![
        json!({"name": names::CONFIG_VOLUME, "configMap": {"name": names::config_map(service)}}),
        json!({"name": names::GENESIS_VOLUME, "configMap": {
            "name": names::genesis_map(service), "optional": true,
        }}),
        // Its group may read it, and the pod's fsGroup is its group.
        json!({"name": names::TLS_VOLUME, "secret": {
            "secretName": names::tls_secret(service), "defaultMode": 0o440,
        }}),
        json!({"name": names::NO_ACCOUNT_VOLUME, "emptyDir": {"sizeLimit": "1Mi"}}),
    ];
    if injection.state != AppState::Ephemeral {
        volumes.push(json!({"name": names::POD_VOLUME, "emptyDir": {"sizeLimit": "1Mi"}}));
    }
    if let Some(claim) = &injection.source {
        // Kubelet changes nothing on it either, such as whose the files are.
        volumes.push(
            json!({"name": names::SOURCE_VOLUME, "persistentVolumeClaim": {
                "claimName": claim, "readOnly": true,
            }}),
        );
    }
    if let LogVolume::Claim(claim) = &injection.log {
        volumes.push(
            json!({"name": names::LOG_VOLUME, "persistentVolumeClaim": {"claimName": claim}}),
        );
    }
    volumes
}

fn environment(injection: &Injection) -> Value {
    let member = match &injection.member {
        Member::PodName => json!({
            "name": "SYNOD_MEMBER",
            "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.name"}},
        }),
        Member::Named(name) => json!({"name": "SYNOD_MEMBER", "value": name}),
        Member::Numbered(workload) => {
            json!({"name": "SYNOD_MEMBER", "value": format!("{workload}-$(SYNOD_INDEX)")})
        }
    };
    let mut variables = vec![
        member,
        json!({"name": "SYNOD_REGION", "value": injection.region}),
        json!({"name": "SYNOD_APP_TOKEN", "value": injection.token}),
        json!({"name": "SYNOD_LOG_FORMAT", "value": "json"}),
    ];
    if matches!(injection.member, Member::Numbered(_)) {
        // Only what stands above can be referred to.
        let path = format!("metadata.labels['{}']", names::INDEX_LABEL);
        let index = json!({"fieldRef": {"apiVersion": "v1", "fieldPath": path}});
        variables.insert(0, json!({"name": "SYNOD_INDEX", "valueFrom": index}));
    }
    Value::Array(variables)
}

fn probe(injection: &Injection, path: &str, period: u32, failures: u32) -> Value {
    json!({
        "httpGet": {"path": path, "port": injection.ports.admin},
        "periodSeconds": period,
        "timeoutSeconds": 3,
        "failureThreshold": failures,
    })
}
