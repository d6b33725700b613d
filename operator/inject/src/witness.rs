//! The pod of a witness: the sidecar and nothing beside it, so it is an ordinary container.

use serde_json::{Value, json};

use super::injection::Injection;
use super::names;
use super::sidecar;

/// The template of such pods; `bare` says where they run, `client_port` how the port for clients is called.
pub fn witness(bare: &Value, injection: &Injection, client_port: &str) -> Value {
    let mut container = sidecar::container(injection, client_port, None);
    if let Some(container) = container.as_object_mut() {
        // An ordinary container is always restarted.
        container.shift_remove("restartPolicy");
    }
    let config = format!("{}/{}", names::CONFIG_PATH, names::WITNESS_CONFIG);
    container["command"] = json!(["synod-sidecar", "--config", config]);
    let mut pod = bare.clone();
    let own = [
        (names::SERVICE_LABEL, &injection.service),
        (names::CLUSTER_LABEL, &injection.cluster),
    ];
    for (key, value) in own {
        pod["metadata"]["labels"][key] = json!(value);
    }
    for (key, value) in &injection.labels {
        pod["metadata"]["labels"][key] = json!(value);
    }
    let spec = &mut pod["spec"];
    spec["containers"] = json!([container]);
    spec["volumes"] = json!(sidecar::volumes(injection));
    spec["securityContext"] =
        json!({"fsGroup": names::USER, "fsGroupChangePolicy": "OnRootMismatch"});
    spec["automountServiceAccountToken"] = json!(false);
    pod
}
