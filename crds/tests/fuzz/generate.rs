//! Manifests by chance, from the schema: mostly what it allows, and now and then something near it.

use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Map, Value, json};

/// A manifest: a valid head mostly, and a spec of a few of its fields.
pub(crate) fn manifest(schema: &Value) -> BoxedStrategy<Value> {
    let name = select(vec![
        "notes".to_owned(),
        "n".to_owned(),
        "notes-2".to_owned(),
        "Notes".to_owned(),
        "2notes".to_owned(),
        "notes-".to_owned(),
        "x".repeat(40),
        "x".repeat(41),
        "n\u{e9}".to_owned(),
        "a.b".to_owned(),
        String::new(),
    ]);
    let name = prop_oneof![3 => Just("notes".to_owned()), 1 => name];
    let spec = object(&schema["properties"]["spec"], "spec", 0.12);
    let app = prop_oneof![12 => template().prop_map(Some), 1 => Just(None)];
    (name, spec, app)
        .prop_map(|(name, mut spec, app)| {
            if let (Some(spec), Some(app)) = (spec.as_object_mut(), app)
                && !spec.contains_key("workloadRef")
            {
                spec.insert("template".to_owned(), app);
            }
            json!({
                "apiVersion": "synod.dev/v1alpha1",
                "kind": "ReplicatedService",
                "metadata": {"name": name},
                "spec": spec,
            })
        })
        .boxed()
}

fn value(schema: &Value, name: &str) -> BoxedStrategy<Value> {
    let well = well(schema, name);
    let wrong = select(vec![
        json!(5),
        json!(-1),
        json!(3.5),
        json!("x"),
        json!(""),
        json!([]),
        json!({}),
        json!(true),
        json!([{}]),
        json!(u64::MAX),
    ]);
    prop_oneof![60 => well, 1 => wrong].boxed()
}

fn well(schema: &Value, name: &str) -> BoxedStrategy<Value> {
    if let Some(allowed) = schema["enum"].as_array() {
        let odd = select(vec![
            json!("None"),
            json!(""),
            json!("ordered"),
            json!("Ordered "),
        ]);
        return prop_oneof![40 => select(allowed.clone()), 1 => odd].boxed();
    }
    if schema["x-kubernetes-int-or-string"] == true {
        return if schema["pattern"].is_string() {
            quantity()
        } else {
            port()
        };
    }
    match schema["type"].as_str() {
        Some("object") if name == "template" => template(),
        Some("object") if schema["additionalProperties"].is_object() => {
            map(&schema["additionalProperties"])
        }
        Some("object") if schema["properties"].is_object() => object(schema, name, 0.4),
        Some("object") => select(vec![
            json!({}),
            json!({"resources": {"requests": {"storage": "1Gi"}}}),
            json!({"key": "x", "n": [1, null]}),
            json!({"limits": {"memory": "64Mi"}}),
        ])
        .boxed(),
        Some("array") => array(schema, name),
        Some("string") if schema["pattern"].is_string() => time(),
        Some("string") => text(schema, name),
        Some("integer") => integer(schema),
        Some("boolean") => any::<bool>().prop_map(|it| json!(it)).boxed(),
        other => panic!("{name}: of type {other:?}"),
    }
}

fn object(schema: &Value, name: &str, chance: f64) -> BoxedStrategy<Value> {
    let required = schema["required"].as_array().cloned().unwrap_or_default();
    let mut fields: BoxedStrategy<Map<String, Value>> = Just(Map::new()).boxed();
    for (field, schema) in schema["properties"].as_object().into_iter().flatten() {
        if name == "spec" && field == "template" {
            continue;
        }
        let chance = if required.contains(&json!(field)) {
            0.98
        } else {
            chance
        };
        let given = prop::option::weighted(chance, value(schema, field));
        let field = field.clone();
        fields = (fields, given)
            .prop_map(move |(mut fields, given)| {
                fields.extend(given.map(|it| (field.clone(), it)));
                fields
            })
            .boxed();
    }
    let unknown = prop::option::weighted(
        0.015,
        select(vec!["typ", "Type", "replica", "x-y", "", "na me"]),
    );
    (fields, unknown)
        .prop_map(|(mut fields, unknown)| {
            fields.extend(unknown.map(|it| (it.to_owned(), json!("x"))));
            Value::Object(fields)
        })
        .boxed()
}

fn array(schema: &Value, name: &str) -> BoxedStrategy<Value> {
    let item = value(&schema["items"], name);
    let most = schema["maxItems"].as_u64().expect("lists are bounded") as usize;
    let some = prop::collection::vec(item.clone(), 0..4.min(most + 1));
    let many = (item, select(vec![most, most + 1])).prop_map(|(item, count)| vec![item; count]);
    prop_oneof![40 => some, 1 => many]
        .prop_map(Value::Array)
        .boxed()
}

fn map(values: &Value) -> BoxedStrategy<Value> {
    let value = value(values, "value");
    let name = select(vec!["app", "synod.dev/x", "A_b.c", "\u{e9}", "", "a/b/c"]);
    prop::collection::vec((name, value), 0..3)
        .prop_map(|fields| {
            Value::Object(
                fields
                    .into_iter()
                    .map(|(name, value)| (name.to_owned(), value))
                    .collect(),
            )
        })
        .boxed()
}

fn quantity() -> BoxedStrategy<Value> {
    select(vec![
        json!("16Mi"),
        json!("17Mi"),
        json!("16777216"),
        json!(16_777_217),
        json!("256Mi"),
        json!("255Mi"),
        json!("8Gi"),
        json!("64Ki"),
        json!("63Ki"),
        json!("1Gi"),
        json!("1.5Gi"),
        json!("0.5"),
        json!("1e3"),
        json!("1E18"),
        json!("8E"),
        json!("0"),
        json!(0),
        json!(-1),
        json!(300_000_000),
        json!("-1"),
        json!("1.0Ki"),
        json!("1.1"),
        json!("8Ei"),
        json!("9223372036854775807"),
        json!("9223372036854775808"),
        json!("00016Mi"),
        json!("1.123456789Gi"),
        json!("99999999999999999999999999"),
        json!("16MB"),
        json!("1 Mi"),
        json!("1."),
        json!(".5"),
        json!("100Ei"),
        json!("12345678901234567890123456"),
        json!("1e4"),
        json!("+1"),
        json!("1.1234567890"),
    ])
    .boxed()
}

fn time() -> BoxedStrategy<Value> {
    select(vec![
        json!("30s"),
        json!("35s"),
        json!("1ms"),
        json!("0s"),
        json!("1h30m"),
        json!("24h"),
        json!("24h1ms"),
        json!("720h"),
        json!("721h"),
        json!("1s"),
        json!("999ms"),
        json!("1h"),
        json!("99999h99999h99999h99999h"),
        json!("30m1h"),
        json!("10"),
        json!("1.5s"),
        json!("1d"),
        json!("1m"),
        json!("5m30s"),
        json!("100000s"),
        json!("1h1h1h1h1h"),
        json!(10),
        json!("1S"),
    ])
    .boxed()
}

fn port() -> BoxedStrategy<Value> {
    select(vec![
        json!(8080),
        json!("http"),
        json!(0),
        json!(-1),
        json!(65535),
        json!(65536),
        json!("metrics"),
        json!("8080"),
        json!(""),
        json!("x".repeat(63)),
        json!("x".repeat(64)),
        json!(4_294_967_296_i64),
        json!("\u{e9}"),
        json!(i64::MIN),
    ])
    .boxed()
}

fn integer(schema: &Value) -> BoxedStrategy<Value> {
    let mut numbers = vec![
        json!(0),
        json!(1),
        json!(2),
        json!(3),
        json!(-1),
        json!(4_294_967_296_i64),
        json!(i64::MAX),
        json!(u64::MAX),
    ];
    for bound in ["minimum", "maximum"] {
        if let Some(bound) = schema[bound].as_f64() {
            numbers.extend([
                json!(bound as i64),
                json!(bound as i64 - 1),
                json!(bound as i64 + 1),
            ]);
        }
    }
    prop_oneof![2 => select(vec![json!(1), json!(3)]), 1 => select(numbers)].boxed()
}

fn text(schema: &Value, name: &str) -> BoxedStrategy<Value> {
    let likely: &[&str] = match name {
        "cluster" => &["here", "there", "eu-west", "2x", "-x"],
        "path" | "value" | "mountPath" => &[
            "/", "/a", "/a/b", "/data", "a", "/a/../b", "/a?b", "//", "/%2e", "/a b", "/etc",
            "/tmp/",
        ],
        "method" => &[
            "GET", "PUT", "POST", "get", "G T", "CONNECT", "TRACE", "HEAD",
        ],
        "apiVersion" => &["apps/v1", "v1"],
        "kind" => &["Deployment", "StatefulSet", "Pod"],
        "header" | "headers" | "ignoreHeaders" | "cookies" => &[
            "Authorization",
            "X-Key",
            "Idempotency-Key",
            "Synod-Slot",
            "synod-x",
            "a b",
            "x:y",
            "Cookie",
            "Host",
        ],
        "jsonPointer" | "ignoreJSONPointers" => &["", "/a", "/a/0", "a", "/~2"],
        _ => &["notes", "a", "b", "n-1", "Notes", "a_b", "1a", "a.b"],
    };
    let likely: Vec<Value> = likely.iter().map(|it| json!(it)).collect();
    let most = schema["maxLength"].as_u64().expect("texts are bounded") as usize;
    let odd = select(vec![
        json!(""),
        json!(" "),
        json!("\u{e9}\u{1F600}"),
        json!("a\nb"),
        json!("a".repeat(most)),
        json!("a".repeat(most + 1)),
        json!("\u{e9}".repeat(most)),
        json!(format!("/{}", "a".repeat(most - 1))),
        json!("\u{0}"),
        json!("~"),
        json!("{x}"),
    ]);
    prop_oneof![12 => select(likely), 1 => odd].boxed()
}

/// Pod templates.
fn template() -> BoxedStrategy<Value> {
    let container =
        json!({"name": "notes", "image": "i", "ports": [{"name": "http", "containerPort": 8080}]});
    let well = json!({"spec": {"containers": [container]}});
    let odd = select(vec![
        json!({}),
        json!({"spec": {}}),
        json!({"spec": {"containers": []}}),
        json!({"spec": {"containers": [{"name": "notes"}]}}),
        json!({"spec": {"containers": [container, {"name": "a", "image": "i", "ports": [{"containerPort": 1}]}]}}),
        json!({"spec": {"containers": [container, container]}}),
        json!({"spec": {"containers": {"name": 5}}}),
        json!({"spec": [[]], "metadata": null}),
        json!({"spec": {"containers": [{"name": "notes", "ports": [{"containerPort": "x"}]}]}}),
        json!({"spec": {"containers": [null, 5, {"name": null}]}}),
        json!({"spec": {"containers": [{"name": "notes", "ports": [{"name": "http", "containerPort": 70000}]}]}}),
    ]);
    prop_oneof![12 => Just(well), 1 => odd].boxed()
}
