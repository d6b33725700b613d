//! Manifests by chance: good ones, made by the schema of the custom resource with sensible values, and such
//! with something wrong in them.

use proptest::prelude::{BoxedStrategy, Just, any, prop};
use proptest::prop_oneof;
use proptest::sample::{Index, select};
use proptest::strategy::Strategy;
use serde_json::{Map, Value, json};

use super::schema::{below, values};

/// The schema of a `ReplicatedService`, as it is installed.
pub fn schema() -> Value {
    let text = include_str!("../../../crds/replicatedservices.yaml");
    let definition: Value = serde_yaml::from_str(text).expect("it is YAML");
    let mut schema = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone();
    // Kubernetes knows these itself.
    let fields = schema["properties"].as_object_mut().expect("it has fields");
    fields.insert("apiVersion".to_owned(), json!({"type": "string"}));
    fields.insert("kind".to_owned(), json!({"type": "string"}));
    let texts = json!({"type": "object", "additionalProperties": {"type": "string"}});
    let metadata = json!({"type": "object", "properties": {
        "name": {"type": "string"}, "namespace": {"type": "string"},
        "labels": texts, "annotations": texts,
    }});
    fields.insert("metadata".to_owned(), metadata);
    fields.shift_remove("status");
    schema["required"] = json!(["apiVersion", "kind", "metadata", "spec"]);
    schema
}

/// Manifests in which nothing is wrong.
pub fn good() -> impl Strategy<Value = Value> {
    let schema = schema();
    let spec = values("spec", &schema["properties"]["spec"], &word);
    (spec, any::<u8>()).prop_map(|(spec, choices)| {
        let mut manifest = json!({
            "apiVersion": "synod.dev/v1alpha1",
            "kind": "ReplicatedService",
            "metadata": {"name": "notes"},
            "spec": spec,
        });
        agree(&mut manifest["spec"], choices);
        manifest
    })
}

/// What texts and numbers mean here.
fn word(path: &str) -> Option<BoxedStrategy<Value>> {
    let one_of = |them: &[&str]| {
        let them: Vec<Value> = them.iter().map(|it| Value::from(*it)).collect();
        Some(select(them).boxed())
    };
    let maps = || {
        let key = select(vec!["tier", "example.org/zone", "a"]);
        prop::collection::btree_map(key, select(vec!["", "front", "ünï 1"]), 0..3)
    };
    match path {
        "spec.template" => Some(template()),
        "spec.app.container" | "spec.workloadRef.name" => one_of(&["notes"]),
        "spec.app.port" | "spec.app.passthroughPorts[].port" => {
            Some(select(vec![json!("http"), json!(8080), json!(9090)]).boxed())
        }
        "spec.app.applyTimeout" => one_of(&["1ms", "30s", "2m", "1h30m"]),
        "spec.bootstrap.claim.cluster" | "spec.bootstrap.snapshot.cluster" => one_of(&["us", "eu"]),
        "spec.bootstrap.claim.name" | "spec.bootstrap.snapshot.claim" => one_of(&["data-notes-0"]),
        "spec.bootstrap.snapshot.path" => one_of(&["backup", "2026/11/a b"]),
        "spec.divergence.ignoreHeaders[]" => one_of(&["Date", "X-Request-Id"]),
        "spec.divergence.ignoreJSONPointers[]" | "spec.ordering.lanes[].key.jsonPointer" => {
            one_of(&["", "/items/0/name", "/ü~1"])
        }
        "spec.leader.preferredRegions[]" => one_of(&["us-east-1", "Frankfurt (Main)", "東京"]),
        "spec.log.maxSize" => Some(
            select(vec![
                json!("256Mi"),
                json!("8Gi"),
                json!(300 << 20),
                json!("1.5G"),
            ])
            .boxed(),
        ),
        "spec.log.volumeClaim.spec" | "spec.state.volume.volumeClaim.spec" => {
            Some(Just(json!({"resources": {"requests": {"storage": "10Gi"}}})).boxed())
        }
        "spec.ordering.idempotency.header" | "spec.ordering.lanes[].key.header" => {
            one_of(&["Idempotency-Key", "x-key"])
        }
        "spec.ordering.idempotency.principal.headers[]" => one_of(&["Authorization", "X-User"]),
        "spec.ordering.idempotency.principal.cookies[]" => one_of(&["session", "a.b_c"]),
        "spec.ordering.idempotency.keepFor" => one_of(&["1s", "24h", "720h"]),
        "spec.ordering.idempotency.maxSize" => one_of(&["64Ki", "32Mi", "1Gi"]),
        "spec.ordering.maxBodySize" => {
            Some(select(vec![json!(0), json!(1), json!("1k"), json!("16Mi")]).boxed())
        }
        "spec.ordering.queueTimeout" => one_of(&["1ms", "10s", "1h"]),
        "spec.ordering.responseTimeout" => one_of(&["35s", "2h", "24h"]),
        "spec.placement[].cluster" => one_of(&["us", "eu", "ap-south", "local", "0"]),
        "spec.placement[].overrides.imagePullSecrets[].name" => one_of(&["", "mirror"]),
        "spec.placement[].overrides.imageRegistry" => one_of(&["", "mirror.example:5000"]),
        "spec.placement[].overrides.storageClassName" => one_of(&["", "fast"]),
        "spec.placement[].overrides.nodeSelector"
        | "spec.service.annotations"
        | "spec.service.labels" => Some(maps().prop_map(|it| json!(it)).boxed()),
        "spec.placement[].overrides.tolerations[]" => {
            Some(Just(json!({"key": "a", "operator": "Exists"})).boxed())
        }
        "spec.routes[].name" => Some(
            (0..50_u8)
                .prop_map(|it| json!(format!("route-{it}")))
                .boxed(),
        ),
        "spec.routes[].matches[].method" => one_of(&["GET", "QUERY", "POST", "M-SEARCH"]),
        "spec.routes[].matches[].path.value" => one_of(&["/", "/reports", "/a.b/c;d=1", "/%C3%BC"]),
        "spec.routes[].maxStaleness" => one_of(&["1ms", "5s", "24h"]),
        "spec.service.name" => one_of(&["notes", "a"]),
        "spec.sidecar.resources" => {
            Some(Just(json!({"requests": {"cpu": "100m", "memory": 67_108_864}})).boxed())
        }
        "spec.state.applied.path"
        | "spec.state.snapshot.http.save.path"
        | "spec.state.snapshot.http.restore.path"
        | "spec.state.snapshot.http.settle.path" => {
            one_of(&["/dump", "/admin/state?part=all", "/%7Eme"])
        }
        "spec.state.maxReplay" => one_of(&["1s", "10m", "720h"]),
        "spec.state.snapshot.every.logSize" => one_of(&["1", "64Mi", "128Mi"]),
        "spec.state.snapshot.transferRate" => one_of(&["64Ki", "1G"]),
        "spec.state.volume.mountPath" => one_of(&["/data", "/var/lib/a b"]),
        "spec.workloadRef.apiVersion" => one_of(&["apps/v1"]),
        "spec.workloadRef.kind" => one_of(&["Deployment", "StatefulSet"]),
        it if it.ends_with(".method") => one_of(&["GET", "PUT", "POST"]),
        _ => None,
    }
}

fn template() -> BoxedStrategy<Value> {
    let others = json!([{"name": "side", "image": "b", "ports": [{"containerPort": 9000}]}]);
    let others = prop_oneof![Just(json!([])), Just(others)];
    others
        .prop_map(|others| {
            let mut containers = vec![json!({
                "name": "notes", "image": "registry.example/notes:1.4", "env": [{"name": "A", "value": "ü\n"}],
                "ports": [{"name": "http", "containerPort": 8080}, {"containerPort": 9090}],
            })];
            containers.extend(others.as_array().cloned().unwrap_or_default());
            json!({"metadata": {"labels": {"app": "notes"}}, "spec": {"containers": containers}})
        })
        .boxed()
}

fn remove(map: &mut Value, field: &str) {
    if let Some(map) = map.as_object_mut() {
        map.shift_remove(field);
    }
}

/// A part that is made when it is not there.
fn part<'a>(value: &'a mut Value, field: &str) -> &'a mut Value {
    if !value[field].is_object() {
        value[field] = json!({});
    }
    &mut value[field]
}

/// Takes out, or puts in, what fields ask of each other.
fn agree(spec: &mut Value, choices: u8) {
    let chosen = |bit: u8| choices & (1 << bit) != 0;
    // The members.
    if chosen(0) || !spec["placement"].is_array() {
        remove(spec, "placement");
    } else {
        remove(spec, "replicas");
        let mut seen = Vec::new();
        let places = spec["placement"].as_array_mut().expect("it was looked at");
        places.retain(|it| {
            !seen.contains(&it["cluster"]) && {
                seen.push(it["cluster"].clone());
                true
            }
        });
        for (index, place) in places.iter_mut().enumerate() {
            place["voters"] = json!(2);
            place["witnesses"] = json!(u8::from(index == 0));
            place["observers"] = json!(place["observers"].as_u64().unwrap_or(0) % 5);
        }
    }
    let mut risks: Vec<Value> = ["EvenVoters", "UnorderedWrites"].map(Value::from).to_vec();
    if chosen(1) {
        risks.push("OutboundCalls".into());
    }
    spec["acknowledgedRisks"] = risks.into();
    // The app.
    if chosen(2) || !spec["workloadRef"].is_object() {
        remove(spec, "workloadRef");
        if !spec["template"].is_object() {
            let container =
                json!({"name": "notes", "ports": [{"name": "http", "containerPort": 8080}]});
            spec["template"] = json!({"spec": {"containers": [container]}});
        }
    } else {
        remove(spec, "template");
    }
    let timeout = spec["app"]["applyTimeout"].clone();
    if timeout == "2m" || timeout == "1h30m" {
        part(spec, "ordering")["responseTimeout"] = "2h".into();
    }
    let ports = spec["sidecar"]["ports"].as_object().map_or(0, Map::len);
    if ports > 0 {
        spec["sidecar"]["ports"] = json!({"http": 1, "peer": 65535, "admin": 7000});
    }
    for lane in spec["ordering"]["lanes"]
        .as_array_mut()
        .into_iter()
        .flatten()
    {
        let first = lane["key"].as_object().and_then(|it| it.iter().next());
        let first = first.map_or(("pathSegment".to_owned(), json!(1)), |(name, it)| {
            (name.clone(), it.clone())
        });
        lane["key"] = Value::Object(Map::from_iter([first]));
    }
    state(spec);
    let mut seen = Vec::new();
    if let Some(routes) = spec["routes"].as_array_mut() {
        routes.retain(|it| {
            !seen.contains(&it["name"]) && {
                seen.push(it["name"].clone());
                true
            }
        });
        for route in routes {
            if route["consistency"] == "BoundedStale" {
                route["maxStaleness"] = "5s".into();
            } else {
                remove(route, "maxStaleness");
            }
            if route["streaming"] == true {
                route["consistency"] = "Local".into();
                remove(route, "maxStaleness");
            }
        }
    }
    // Made on the way to look at them.
    prune(spec);
}

fn state(spec: &mut Value) {
    let bootstrap = spec["bootstrap"]["type"].clone();
    if bootstrap == "Claim" {
        let state = part(spec, "state");
        state["type"] = "Volume".into();
        part(state, "snapshot")["type"] = "Volume".into();
    }
    if bootstrap == "Snapshot" {
        let snapshot = part(part(spec, "state"), "snapshot");
        snapshot["type"] = "HTTP".into();
    }
    for (kind, field, usual) in [
        ("Claim", "claim", json!({"cluster": "us", "name": "c"})),
        (
            "Snapshot",
            "snapshot",
            json!({"cluster": "us", "claim": "c", "path": "p"}),
        ),
    ] {
        if bootstrap != kind {
            remove(&mut spec["bootstrap"], field);
        } else if !spec["bootstrap"][field].is_object() {
            spec["bootstrap"][field] = usual;
        }
    }
    if !spec["state"].is_object() {
        return;
    }
    let state = &mut spec["state"];
    let call = json!({"method": "GET", "path": "/s"});
    if state["type"] == "Volume" {
        if !state["volume"].is_object() {
            state["volume"] = json!({"mountPath": "/data"});
        }
    } else {
        remove(state, "volume");
        remove(state, "onUncleanCrash");
        if state["snapshot"]["type"] == "Volume" {
            state["snapshot"]["type"] = "HTTP".into();
        }
    }
    if state["onUncleanCrash"] != "AppliedHeader" {
        remove(state, "applied");
    } else if !state["applied"].is_object() {
        state["applied"] = call.clone();
    }
    let snapshot = &mut state["snapshot"];
    if snapshot["type"] != "HTTP" {
        remove(snapshot, "http");
    } else if !snapshot["http"].is_object() {
        snapshot["http"] = json!({"save": call, "restore": call});
    }
    if !matches!(snapshot["type"].as_str(), Some("HTTP" | "Volume")) {
        remove(snapshot, "every");
        remove(snapshot, "transferRate");
    } else if snapshot["every"].is_object() {
        snapshot["every"]["logSize"] = "64Mi".into();
    }
}

fn prune(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, it| !it.is_null());
            map.values_mut().for_each(prune);
        }
        Value::Array(list) => list.iter_mut().for_each(prune),
        _ => {}
    }
}

/// A manifest with something done to one of its fields, and the path of that.
#[derive(Clone, Debug)]
pub struct Changed {
    /// The manifest.
    pub manifest: Value,
    /// What was changed.
    pub path: String,
}

#[derive(Clone, Debug)]
enum Change {
    Remove,
    /// Under a name that is a little wrong.
    Rename(&'static str),
    Put(Value),
    /// The entries of a list, or the fields of an object, so many times.
    Many(usize),
}

/// Good manifests with one field changed.
pub fn changed() -> impl Strategy<Value = Changed> {
    let long = "n".repeat(70_000);
    let deep = (0..100).fold(json!(1), |inside, _| json!([inside]));
    let odd = vec![
        json!(null),
        json!(true),
        json!(false),
        json!(0),
        json!(-1),
        json!(1),
        json!(10),
        json!(1.5),
        json!(65_535),
        json!(7_480),
        json!(7_480),
        json!(65_536),
        json!(70_000),
        json!(1_u64 << 31),
        json!(1_u64 << 32),
        json!(i64::MAX),
        json!(u64::MAX),
        json!(i64::MIN),
        json!([]),
        json!({}),
        json!([1]),
        json!({"a": 1}),
        json!(["a", "a"]),
        json!([null]),
        json!(""),
        json!(" "),
        json!("~"),
        json!("a"),
        json!("A b"),
        json!("1"),
        json!("true"),
        json!("ünï"),
        json!("\u{0}"),
        json!("\n"),
        json!("\t- a: b"),
        json!("\u{202e}abc"),
        json!("😀".repeat(63)),
        json!("a".repeat(64)),
        json!("a".repeat(300)),
        json!("/".repeat(2_000)),
        json!(long),
        deep,
        json!("10"),
        json!("10x"),
        json!("1.5s"),
        json!("-1s"),
        json!("99999h"),
        json!("100000s"),
        json!("0s"),
        json!("1h1m1s1ms1s"),
        json!("16MiB"),
        json!("1e3"),
        json!("0.1Ki"),
        json!("1.5"),
        json!("8Ei"),
        json!("999999999999999999999999Ei"),
        json!("-1Gi"),
        json!("0"),
        json!("64Ki"),
        json!("100Gi"),
        json!("/a/../b"),
        json!("//"),
        json!("/%2e"),
        json!("/a?b#c"),
        json!("/{a}"),
        json!("/a\"b"),
        json!("CONNECT"),
        json!("get"),
        json!("synod-slot"),
        json!("Local"),
        json!("Volume"),
        json!("HTTP"),
        json!("None"),
        json!("Bypass"),
        json!("Claim"),
        json!("notes"),
        json!("*a"),
        json!("<<"),
        json!("{{ a }}"),
    ];
    let change = prop_oneof![
        2 => Just(Change::Remove),
        2 => select(vec!["x", "s", "Name", "\u{e4}", " "]).prop_map(Change::Rename),
        12 => select(odd).prop_map(Change::Put),
        1 => select(vec![2_usize, 5, 70, 1_000]).prop_map(Change::Many),
    ];
    (good(), any::<Index>(), change).prop_map(|(mut manifest, at, change)| {
        let mut paths = Vec::new();
        all_paths("", &manifest, &mut paths);
        let path = at.get(&paths).clone();
        apply(&mut manifest, "", &path, &change);
        let list = path.strip_suffix(']').and_then(|it| it.rsplit_once('['));
        let path = match (list, change) {
            // The numbers of the others are others now.
            (Some((list, _)), Change::Remove | Change::Rename(_)) => list.to_owned(),
            (None, Change::Rename(end)) => path + end,
            _ => path,
        };
        Changed { manifest, path }
    })
}

/// The paths of all fields and entries, but what is in parts that may hold anything.
fn all_paths(path: &str, value: &Value, paths: &mut Vec<String>) {
    if !path.is_empty() {
        paths.push(path.to_owned());
    }
    let is_open = path == "spec.template" || path.ends_with("volumeClaim.spec");
    match value {
        _ if is_open => {}
        Value::Object(map) => {
            for (name, value) in map {
                all_paths(&below(path, name), value, paths);
            }
        }
        Value::Array(list) => {
            for (index, value) in list.iter().enumerate() {
                all_paths(&format!("{path}[{index}]"), value, paths);
            }
        }
        _ => {}
    }
}

fn apply(value: &mut Value, here: &str, path: &str, change: &Change) {
    match value {
        Value::Object(map) => {
            let names: Vec<String> = map.keys().cloned().collect();
            for name in names {
                let inside = below(here, &name);
                if inside != path {
                    apply(
                        map.get_mut(&name).expect("it is there"),
                        &inside,
                        path,
                        change,
                    );
                    continue;
                }
                match change {
                    Change::Remove => drop(map.shift_remove(&name)),
                    Change::Rename(end) => {
                        let value = map.shift_remove(&name).expect("it is there");
                        map.insert(format!("{name}{end}"), value);
                    }
                    Change::Put(value) => drop(map.insert(name, value.clone())),
                    Change::Many(times) => many(map.get_mut(&name).expect("it is there"), *times),
                }
            }
        }
        Value::Array(list) => {
            for index in 0..list.len() {
                let inside = format!("{here}[{index}]");
                if inside != path {
                    apply(&mut list[index], &inside, path, change);
                    continue;
                }
                match change {
                    Change::Remove => drop(list.remove(index)),
                    Change::Rename(_) => {
                        let again = list[index].clone();
                        list.push(again);
                    }
                    Change::Put(value) => list[index] = value.clone(),
                    Change::Many(times) => many(&mut list[index], *times),
                }
                return;
            }
        }
        _ => {}
    }
}

fn many(value: &mut Value, times: usize) {
    match value {
        Value::Array(list) => *list = vec![list.clone(); times].concat(),
        Value::Object(map) => {
            let first = map.values().next().cloned().unwrap_or_default();
            map.extend((0..times).map(|index| (format!("more-{index}"), first.clone())));
        }
        Value::String(text) => *text = text.repeat(times),
        other => *other = Value::Array(vec![other.clone(); times]),
    }
}
