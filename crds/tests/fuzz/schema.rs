//! What an API server makes of an object by the definition that it was given: defaults, the schema, and the
//! rules in CEL for an object that is new. The rules are written here once more, by their texts.

use serde_json::{Map, Value, json};

/// The schema of the one version of a definition.
pub(crate) fn of_definition(yaml: &str) -> Value {
    let definition: Value = serde_yaml::from_str(yaml).expect("a definition is YAML");
    definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone()
}

/// Puts defaults in.
pub(crate) fn complete(schema: &Value, value: &mut Value) {
    match value {
        Value::Object(map) => {
            for (name, schema) in properties(schema) {
                if let Some(default) = schema.get("default") {
                    map.entry(name.clone()).or_insert_with(|| default.clone());
                }
                if let Some(value) = map.get_mut(name) {
                    complete(schema, value);
                }
            }
        }
        Value::Array(items) => items
            .iter_mut()
            .for_each(|it| complete(&schema["items"], it)),
        _ => {}
    }
}

fn properties(schema: &Value) -> impl Iterator<Item = (&String, &Value)> {
    schema["properties"].as_object().into_iter().flatten()
}

/// Why it refuses a complete object: path and reason. Unknown fields are refused, as `kubectl` asks for.
pub(crate) fn refusals(schema: &Value, path: &str, value: &Value, found: &mut Vec<String>) {
    let mut add = |why: String| found.push(format!("{path}: {why}"));
    let int_or_string = schema["x-kubernetes-int-or-string"] == true;
    let fits = match schema["type"].as_str() {
        _ if int_or_string => value.is_string() || value.is_i64(),
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("integer") => value.is_i64(),
        Some("boolean") => value.is_boolean(),
        other => panic!("{path}: of type {other:?}"),
    };
    if !fits {
        return add(format!("{value} is no {}", schema["type"]));
    }
    if let Some(allowed) = schema["enum"].as_array()
        && !allowed.contains(value)
    {
        add(format!("{value} is none of {allowed:?}"));
    }
    let out = |least: &str, most: &str, count: f64| {
        schema[least].as_f64().is_some_and(|it| count < it)
            || schema[most].as_f64().is_some_and(|it| count > it)
    };
    match value {
        Value::String(text) => {
            if out("minLength", "maxLength", text.chars().count() as f64) {
                add("its length is out of bounds".to_owned());
            }
            if schema["pattern"]
                .as_str()
                .is_some_and(|it| !matches(it, text))
            {
                add(format!("{text:?} does not match"));
            }
        }
        Value::Number(number) => {
            let number = number.as_i64().expect("it was looked at");
            let in_format = schema["format"] != "int32" || i32::try_from(number).is_ok();
            if out("minimum", "maximum", number as f64) || !in_format {
                add(format!("{number} is out of bounds"));
            }
        }
        Value::Array(items) => {
            if out("minItems", "maxItems", items.len() as f64) {
                add("its length is out of bounds".to_owned());
            }
            let keys = schema["x-kubernetes-list-map-keys"].as_array();
            let key = |item: &Value| match keys {
                Some(keys) => json!(
                    keys.iter()
                        .map(|key| &item[key.as_str().unwrap()])
                        .collect::<Vec<_>>()
                ),
                None => item.clone(),
            };
            let unique = schema["x-kubernetes-list-type"].is_string();
            for (at, item) in items.iter().enumerate() {
                if unique && items[..at].iter().any(|it| key(it) == key(item)) {
                    add(format!("[{at}] is there twice"));
                }
            }
            for (at, item) in items.iter().enumerate() {
                refusals(&schema["items"], &format!("{path}[{at}]"), item, found);
            }
        }
        Value::Object(map) => {
            if out("minProperties", "maxProperties", map.len() as f64) {
                add("it has too many fields".to_owned());
            }
            for name in schema["required"].as_array().into_iter().flatten() {
                if !map.contains_key(name.as_str().unwrap()) {
                    add(format!("{name} is missing"));
                }
            }
            for (name, value) in map {
                let path = format!("{path}.{name}");
                let known = schema["properties"]
                    .get(name)
                    .or_else(|| schema.get("additionalProperties"));
                match known {
                    Some(schema) => refusals(schema, &path, value, found),
                    None if schema["x-kubernetes-preserve-unknown-fields"] == true => {}
                    // Of every object.
                    None if [".apiVersion", ".kind", ".metadata"].contains(&&path[..]) => {}
                    None => found.push(format!("{path}: it is unknown")),
                }
            }
        }
        Value::Bool(_) | Value::Null => {}
    }
}

/// The patterns that the schemas have.
fn matches(pattern: &str, text: &str) -> bool {
    match pattern {
        "^([0-9]{1,5}(h|m|s|ms)){1,4}$" => millis(text).is_some(),
        "^[0-9]+(\\.[0-9]{1,9})?(Ki|Mi|Gi|Ti|Pi|Ei|k|M|G|T|P|E|[eE](3|6|9|12|15|18))?$" => {
            let number = text.trim_end_matches(|it: char| !it.is_ascii_digit() && it != '.');
            let (number, suffix) = match text
                .find(['e', 'E'])
                .filter(|at| text[at + 1..].parse::<u8>().is_ok())
            {
                Some(at) => text.split_at(at),
                None => text.split_at(number.len()),
            };
            let (whole, fraction) = match number.split_once('.') {
                Some((whole, fraction)) => (whole, Some(fraction)),
                None => (number, None),
            };
            let digits = |it: &str| !it.is_empty() && it.bytes().all(|it| it.is_ascii_digit());
            let suffixes = [
                "", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei", "k", "M", "G", "T", "P", "E",
            ];
            let exponents = ["3", "6", "9", "12", "15", "18"];
            digits(whole)
                && fraction.is_none_or(|it| digits(it) && it.len() <= 9)
                && (suffixes.contains(&suffix)
                    || exponents.contains(&suffix.trim_start_matches(['e', 'E'])))
        }
        other => panic!("a pattern that is not known here: {other}"),
    }
}

/// A length of time.
fn millis(text: &str) -> Option<u64> {
    let (mut rest, mut sum, mut parts) = (text, 0, 0);
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let number: u64 = rest[..digits].parse().ok()?;
        let (scale, length) = match &rest.as_bytes()[digits..] {
            [b'm', b's', ..] => (1, 2),
            [b's', ..] => (1_000, 1),
            [b'm', ..] => (60_000, 1),
            [b'h', ..] => (3_600_000, 1),
            _ => return None,
        };
        sum += number * scale;
        parts += 1;
        if digits > 5 || parts > 4 {
            return None;
        }
        rest = &rest[digits + length..];
    }
    (parts > 0).then_some(sum)
}

/// An amount of bytes, near enough to compare it.
fn bytes(value: &Value) -> f64 {
    let text = value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned);
    if let Ok(number) = text.parse() {
        return number;
    }
    let number = text.trim_end_matches(|it: char| it.is_ascii_alphabetic());
    let scale: f64 = match &text[number.len()..] {
        "Ki" => 1024.0,
        "Mi" => 1024_f64.powi(2),
        "Gi" => 1024_f64.powi(3),
        "Ti" => 1024_f64.powi(4),
        "Pi" => 1024_f64.powi(5),
        "Ei" => 1024_f64.powi(6),
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "P" => 1e15,
        "E" => 1e18,
        other => panic!("{other}"),
    };
    number.parse::<f64>().unwrap() * scale
}

type Holds = fn(&Value) -> bool;

const MIB: f64 = 1024.0 * 1024.0;

fn has(value: &Value, field: &str) -> bool {
    value.get(field).is_some()
}

fn number(value: &Value, field: &str) -> i64 {
    value[field].as_i64().unwrap_or(0)
}

fn items<'a>(value: &'a Value, field: &str) -> &'a [Value] {
    value[field].as_array().map_or(&[], Vec::as_slice)
}

fn votes(spec: &Value) -> i64 {
    items(spec, "placement")
        .iter()
        .map(|it| number(it, "voters") + number(it, "witnesses"))
        .sum()
}

fn length(value: &Value) -> usize {
    value.as_str().map_or(0, |it| it.chars().count())
}

fn label(value: &Value, first: fn(u8) -> bool) -> bool {
    let text = value.as_str().unwrap_or_default().as_bytes();
    let inner = |it: &u8| it.is_ascii_lowercase() || it.is_ascii_digit() || *it == b'-';
    text.first().is_some_and(|it| first(*it))
        && text.iter().all(inner)
        && text.last() != Some(&b'-')
}

fn knows_even(spec: &Value) -> bool {
    items(spec, "acknowledgedRisks").contains(&json!("EvenVoters"))
}

/// What the rule with this text says of `self`.
pub(crate) fn rule(text: &str) -> Holds {
    const RULES: &[(&str, Holds)] = &[
        ("size(self.metadata.name) <= 40", |it| {
            length(&it["metadata"]["name"]) <= 40
        }),
        (
            "self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
            |it| label(&it["metadata"]["name"], |it| it.is_ascii_lowercase()),
        ),
        (
            "!has(self.spec.placement) || self.spec.placement.all(p, size(self.metadata.name) + 1 + size(p.cluster) <= 52)",
            |it| {
                let name = length(&it["metadata"]["name"]);
                items(&it["spec"], "placement")
                    .iter()
                    .all(|p| name + 1 + length(&p["cluster"]) <= 52)
            },
        ),
        ("!(has(self.replicas) && has(self.placement))", |it| {
            !(has(it, "replicas") && has(it, "placement"))
        }),
        (
            "!has(self.replicas) || self.replicas % 2 == 1 || (has(self.acknowledgedRisks) && 'EvenVoters' in self.acknowledgedRisks)",
            |it| !has(it, "replicas") || number(it, "replicas") % 2 == 1 || knows_even(it),
        ),
        (
            "!has(self.placement) || self.placement.map(p, p.voters + p.witnesses).sum() % 2 == 1 || (has(self.acknowledgedRisks) && 'EvenVoters' in self.acknowledgedRisks)",
            |it| !has(it, "placement") || votes(it) % 2 == 1 || knows_even(it),
        ),
        (
            "!has(self.placement) || self.placement.map(p, p.voters + p.witnesses).sum() <= 9",
            |it| votes(it) <= 9,
        ),
        (
            "!has(self.placement) || self.placement.exists(p, p.voters > 0)",
            |it| {
                !has(it, "placement")
                    || items(it, "placement")
                        .iter()
                        .any(|p| number(p, "voters") > 0)
            },
        ),
        (
            "!has(self.placement) || self.placement.map(p, p.voters + p.observers + p.witnesses).sum() <= 32",
            |it| {
                votes(it)
                    + items(it, "placement")
                        .iter()
                        .map(|p| number(p, "observers"))
                        .sum::<i64>()
                    <= 32
            },
        ),
        ("self.voters + self.observers + self.witnesses > 0", |it| {
            number(it, "voters") + number(it, "observers") + number(it, "witnesses") > 0
        }),
        (
            "self.cluster.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",
            |it| label(&it["cluster"], |it| it != b'-'),
        ),
        ("has(self.template) != has(self.workloadRef)", |it| {
            has(it, "template") != has(it, "workloadRef")
        }),
        (
            "self.apiVersion == 'apps/v1' && self.kind in ['Deployment', 'StatefulSet'] && size(self.name) > 0",
            |it| {
                it["apiVersion"] == "apps/v1"
                    && (it["kind"] == "Deployment" || it["kind"] == "StatefulSet")
                    && length(&it["name"]) > 0
            },
        ),
        (
            "duration(self.ordering.responseTimeout) >= duration(self.app.applyTimeout)",
            |it| {
                let time = |value: &Value| millis(value.as_str().unwrap()).unwrap();
                time(&it["ordering"]["responseTimeout"]) >= time(&it["app"]["applyTimeout"])
            },
        ),
        (
            "quantity(string(self.maxBodySize)).compareTo(quantity('16Mi')) <= 0",
            |it| bytes(&it["maxBodySize"]) <= 16.0 * MIB,
        ),
        (
            "[has(self.pathSegment), has(self.header), has(self.jsonPointer)].exists_one(it, it)",
            |it| {
                ["pathSegment", "header", "jsonPointer"]
                    .iter()
                    .filter(|field| has(it, field))
                    .count()
                    == 1
            },
        ),
        (
            "quantity(string(self.maxSize)).compareTo(quantity('256Mi')) >= 0",
            |it| bytes(&it["maxSize"]) >= 256.0 * MIB,
        ),
        ("(self.type == 'Volume') == has(self.volume)", |it| {
            (it["type"] == "Volume") == has(it, "volume")
        }),
        (
            "self.snapshot.type != 'Volume' || self.type == 'Volume'",
            |it| it["snapshot"]["type"] != "Volume" || it["type"] == "Volume",
        ),
        ("!has(self.onUncleanCrash) || self.type == 'Volume'", |it| {
            !has(it, "onUncleanCrash") || it["type"] == "Volume"
        }),
        (
            "(has(self.onUncleanCrash) && self.onUncleanCrash == 'AppliedHeader') == has(self.applied)",
            |it| (it["onUncleanCrash"] == "AppliedHeader") == has(it, "applied"),
        ),
        ("(self.type == 'HTTP') == has(self.http)", |it| {
            (it["type"] == "HTTP") == has(it, "http")
        }),
        ("!has(self.every) || self.type != 'None'", |it| {
            !has(it, "every") || it["type"] != "None"
        }),
        ("(self.type == 'Claim') == has(self.claim)", |it| {
            (it["type"] == "Claim") == has(it, "claim")
        }),
        ("(self.type == 'Snapshot') == has(self.snapshot)", |it| {
            (it["type"] == "Snapshot") == has(it, "snapshot")
        }),
        (
            "!has(self.bootstrap) || self.bootstrap.type != 'Claim' || (has(self.state) && self.state.type == 'Volume' && self.state.snapshot.type == 'Volume')",
            |it| {
                it["bootstrap"]["type"] != "Claim"
                    || (it["state"]["type"] == "Volume"
                        && it["state"]["snapshot"]["type"] == "Volume")
            },
        ),
        (
            "self.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",
            |it| label(&it["name"], |it| it != b'-'),
        ),
        (
            "(has(self.consistency) && self.consistency == 'BoundedStale') == has(self.maxStaleness)",
            |it| (it["consistency"] == "BoundedStale") == has(it, "maxStaleness"),
        ),
        (
            "!self.streaming || !has(self.consistency) || self.consistency != 'Ordered'",
            |it| it["streaming"] != true || it["consistency"] != "Ordered",
        ),
    ];
    let found = RULES.iter().find(|it| it.0 == text);
    found
        .unwrap_or_else(|| panic!("a rule that is not known here: {text}"))
        .1
}

/// Messages of the rules that a complete object that fits its schema breaks.
pub(crate) fn broken_rules(schema: &Value, value: &Value, found: &mut Vec<String>) {
    for entry in schema["x-kubernetes-validations"]
        .as_array()
        .into_iter()
        .flatten()
    {
        let text = entry["rule"].as_str().unwrap();
        // Of an object that is there already.
        if !text.contains("oldSelf") && !rule(text)(value) {
            found.push(entry["message"].as_str().unwrap().to_owned());
        }
    }
    match value {
        Value::Object(map) => {
            for (name, schema) in properties(schema) {
                if let Some(value) = map.get(name) {
                    broken_rules(schema, value, found);
                }
            }
        }
        Value::Array(items) => items
            .iter()
            .for_each(|it| broken_rules(&schema["items"], it, found)),
        _ => {}
    }
}

/// Whatever was given is there still.
pub(crate) fn is_kept(given: &Value, kept: &Value) -> bool {
    match (given, kept) {
        (Value::Object(given), Value::Object(kept)) => {
            let nothing = Value::Null;
            given.iter().all(|(name, value)| match kept.get(name) {
                Some(kept) => is_kept(value, kept),
                // What is empty, or no, is left out when written.
                None => is_nothing(value) || *value == nothing,
            })
        }
        (Value::Array(given), Value::Array(kept)) => {
            given.len() == kept.len()
                && given
                    .iter()
                    .zip(kept)
                    .all(|(given, kept)| is_kept(given, kept))
        }
        // A quantity is a text.
        (Value::Number(number), Value::String(text)) => number.to_string() == *text,
        // A length of time is written in its shortest form.
        (Value::String(given), Value::String(kept)) => {
            given == kept || millis(given).is_some_and(|it| millis(kept) == Some(it))
        }
        (given, kept) => given == kept,
    }
}

fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Object(map) => map == &Map::new(),
        Value::Array(items) => items.is_empty(),
        Value::Bool(yes) => !yes,
        _ => false,
    }
}
