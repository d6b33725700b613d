//! What the sidecars read: their configuration, the peer table, the genesis, Secrets.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use serde_json::{Value, json};
use synod_api::{AppProtocol, BootstrapType, GroupApp};

use super::{Child, Kind, state};
use crate::group::names;
use crate::group::validate::Valid;
use crate::inject::names as pod;

/// How a member with an empty log gets into the group: it comes to exist when there is one.
const JOIN_FILE: &str = "join.json";

/// One file for all members whose app is of one revision: what differs between them comes by the
/// environment and `{member}`.
pub(crate) fn config_map(valid: &Valid<'_>) -> Child {
    let mut data = json!({});
    let spec = &valid.group.spec;
    // The first one's also stands for those that are not known any more.
    let others = spec.revisions.iter().map(|it| (it.number, &it.app));
    for (number, app) in [(0, &spec.app), (spec.revision, &spec.app)]
        .into_iter()
        .chain(others)
    {
        data[pod::config_file(number)] = text(&config(valid, number, app));
    }
    if valid.witness_pods() > 0 {
        data[pod::WITNESS_CONFIG] = text(&witness(valid));
    }
    data["peers.json"] = json!(peers(valid));
    if let Some(join) = &valid.group.spec.join {
        data[JOIN_FILE] = json!(join);
    }
    Child::new(
        valid,
        Kind::ConfigMap,
        &pod::config_map(valid.name),
        json!({"data": data}),
    )
}

/// Written once and never again (rule M5).
pub(crate) fn genesis(valid: &Valid<'_>, text: &str) -> Child {
    let mut child = Child::new(
        valid,
        Kind::ConfigMap,
        &pod::genesis_map(valid.name),
        json!({"immutable": true, "data": {"genesis.json": text}}),
    );
    child.create_only = true;
    child
}

/// A Secret of ours.
pub(crate) fn secret(
    valid: &Valid<'_>,
    name: &str,
    content: &BTreeMap<String, String>,
    create_only: bool,
) -> Child {
    let data: BTreeMap<_, _> = content
        .iter()
        .map(|(key, value)| (key, ByteString(value.clone().into_bytes())))
        .collect();
    let mut child = Child::new(
        valid,
        Kind::Secret,
        name,
        json!({"type": "Opaque", "data": data}),
    );
    child.create_only = create_only;
    child
}

/// The peer table. Members of this cluster find each other by name whatever the hub knows: an
/// address changes with each pod, and the hub may be out of reach.
pub(crate) fn peers(valid: &Valid<'_>) -> String {
    let spec = &valid.group.spec;
    let mut table: BTreeMap<_, _> = spec
        .peers
        .iter()
        .map(|it| (it.name.clone(), it.address.clone()))
        .collect();
    for member in &spec.members {
        let host = match valid.ordinal(&member.name).filter(|_| valid.labelled) {
            Some(ordinal) => names::pod_service(valid.name, ordinal),
            None => format!(
                "{}.{}",
                valid.pod_of(&member.name),
                names::headless(valid.name)
            ),
        };
        let address = format!("{host}.{}.svc:{}", valid.namespace, spec.sidecar.ports.peer);
        table.insert(member.name.clone(), address);
    }
    let members: Vec<_> = table
        .into_iter()
        .map(|(name, address)| json!({"name": name, "address": address}))
        .collect();
    serde_json::to_string_pretty(&json!({"members": members})).expect("strings are JSON")
}

fn config(valid: &Valid<'_>, revision: u64, app: &GroupApp) -> Value {
    let spec = &valid.group.spec;
    let ports = spec.sidecar.ports;
    let listen = |port: u16| format!("0.0.0.0:{port}");
    let mut config = json!({
        "service": valid.name,
        // Each pod puts its own above it.
        "member": format!("{}-0", valid.workload),
        "region": spec.region,
        "trustDomain": spec.trust_domain,
        "namespace": valid.namespace,
        // A folder of its own: file systems bring theirs along, and ours is closed to others.
        "data": format!("{}/member", pod::LOG_PATH),
        "genesis": format!("{}/genesis.json", pod::GENESIS_PATH),
        "peers": format!("{}/peers.json", pod::CONFIG_PATH),
        "tls": {
            "ca": format!("{}/ca.crt", pod::TLS_PATH),
            "cert": format!("{}/{{member}}.crt", pod::TLS_PATH),
            "key": format!("{}/{{member}}.key", pod::TLS_PATH),
        },
        "listen": {
            "http": listen(ports.http),
            "peer": listen(ports.peer),
            "admin": listen(ports.admin),
        },
        "app": {
            "address": format!("127.0.0.1:{}", app.port),
            "protocol": match app.protocol {
                AppProtocol::H2c => "H2C",
                AppProtocol::Http1 => "HTTP1",
            },
        },
        "log": {"maxBytes": spec.log.max_size.bytes()},
        "leader": {"preferredRegions": spec.leader.preferred_regions},
    });
    if revision > 0 {
        config["app"]["revision"] = json!(revision);
    }
    // Sidecars of before members changed do not know it, and none is asked for before all do.
    if spec.epoch > 0 {
        config["join"] = json!(format!("{}/{JOIN_FILE}", pod::CONFIG_PATH));
    }
    // Sidecars of before there were snapshots do not know it, and run on beside this operator.
    if let Some(state) = state::section(&spec.state) {
        config["state"] = state;
    }
    // Nor this, and only who makes a first state needs it.
    if let Some(founding) = founding(valid) {
        config["founding"] = founding;
    }
    config
}

fn text(config: &Value) -> Value {
    json!(serde_yaml::to_string(config).expect("JSON is YAML"))
}

/// Of the members that run no app. The state's section says when the next snapshot is due, should one lead.
fn witness(valid: &Valid<'_>) -> Value {
    let mut config = config(valid, 0, &valid.group.spec.app);
    if let Some(config) = config.as_object_mut() {
        config.shift_remove("app");
        // What is made of that is a copy's state.
        config.shift_remove("founding");
        config.insert("witness".to_owned(), json!(true));
    }
    config
}

/// From what the first member here makes the group's first state.
fn founding(valid: &Valid<'_>) -> Option<Value> {
    let spec = &valid.group.spec;
    let founding = spec.founding.as_ref()?;
    let member = &spec.members.first()?.name;
    match founding.kind {
        BootstrapType::Claim => Some(json!({
            "member": member,
            "import": {"volume": pod::SOURCE_PATH, "policy": spec.policy},
        })),
        BootstrapType::Snapshot => {
            let backup = format!("{}/{}", pod::SOURCE_PATH, founding.path);
            let mut restore = json!({"backup": backup});
            if let Some(before) = founding.before {
                restore["before"] = json!(before);
            }
            Some(json!({"member": member, "restore": restore}))
        }
        BootstrapType::Empty | BootstrapType::Existing => None,
    }
}
