//! What an OpenAPI schema, as API servers take it, says of a value; and values made by one. It knows the words
//! that the schemas of custom resources use, and no others.

use proptest::prelude::{BoxedStrategy, Just, any, prop};
use proptest::strategy::Strategy;
use serde_json::{Map, Value};

/// The paths at which a value is not what the schema says, such as `spec.routes[0].name`. What is null counts
/// as not given, and fields that are not known are refused, as API servers do when asked to be strict.
pub fn violations(schema: &Value, value: &Value) -> Vec<String> {
    let mut found = Vec::new();
    check("", schema, value, &mut found);
    found
}

/// The path of a field of what is at `path`.
pub fn below(path: &str, field: &str) -> String {
    match path {
        "" => field.to_owned(),
        path => format!("{path}.{field}"),
    }
}

fn check(path: &str, schema: &Value, value: &Value, found: &mut Vec<String>) {
    let bad = match value {
        Value::Null => false,
        Value::Bool(_) => schema["type"] != "boolean" && !is_any(schema),
        Value::Number(number) => !is_number(schema, number) && !is_any(schema),
        Value::String(text) => !is_text(schema, text) && !is_any(schema),
        Value::Array(list) => {
            for (index, it) in list.iter().enumerate() {
                if it.is_null() && !is_any(schema) {
                    found.push(format!("{path}[{index}]"));
                }
                check(&format!("{path}[{index}]"), &schema["items"], it, found);
            }
            !is_any(schema) && (schema["type"] != "array" || !is_list(schema, list))
        }
        Value::Object(map) => {
            fields(path, schema, map, found);
            !is_any(schema)
                && (schema["type"] != "object" || !is_within(schema, map.len(), "Properties"))
        }
    };
    if bad {
        found.push(path.to_owned());
    }
}

fn fields(path: &str, schema: &Value, map: &Map<String, Value>, found: &mut Vec<String>) {
    if schema["x-kubernetes-preserve-unknown-fields"] == true {
        return;
    }
    for required in schema["required"].as_array().into_iter().flatten() {
        let name = required.as_str().expect("names are text");
        if map.get(name).is_none_or(Value::is_null) {
            found.push(below(path, name));
        }
    }
    for (name, value) in map {
        let known = schema["properties"].get(name);
        match known.or_else(|| schema.get("additionalProperties")) {
            Some(schema) => check(&below(path, name), schema, value, found),
            None if is_any(schema) => {}
            None => found.push(below(path, name)),
        }
    }
}

/// It says nothing.
fn is_any(schema: &Value) -> bool {
    schema.is_null()
}

fn is_within(schema: &Value, count: usize, what: &str) -> bool {
    let bound = |side: &str| schema[format!("{side}{what}")].as_u64();
    bound("min").is_none_or(|least| count as u64 >= least)
        && bound("max").is_none_or(|most| count as u64 <= most)
}

fn is_number(schema: &Value, number: &serde_json::Number) -> bool {
    let (kind, number_as_float) = (&schema["type"], number.as_f64().unwrap_or(f64::NAN));
    let whole = number.as_i64();
    let fits = match schema["format"].as_str() {
        Some("int32") => whole.is_some_and(|it| i32::try_from(it).is_ok()),
        _ => whole.is_some(),
    };
    let is_kind = match kind.as_str() {
        Some("integer") => fits,
        Some("number") => true,
        _ => schema["x-kubernetes-int-or-string"] == true && fits,
    };
    is_kind
        && schema["minimum"]
            .as_f64()
            .is_none_or(|least| number_as_float >= least)
        && schema["maximum"]
            .as_f64()
            .is_none_or(|most| number_as_float <= most)
}

fn is_text(schema: &Value, text: &str) -> bool {
    let is_kind = schema["type"] == "string" || schema["x-kubernetes-int-or-string"] == true;
    let one_of = schema["enum"].as_array();
    is_kind
        && one_of.is_none_or(|them| them.iter().any(|it| it == text))
        && is_within(schema, text.chars().count(), "Length")
        && schema["pattern"]
            .as_str()
            .is_none_or(|pattern| matches(pattern, text))
}

/// The patterns that there are.
fn matches(pattern: &str, text: &str) -> bool {
    if pattern.contains("(h|m|s|ms)") {
        let mut rest = text;
        let mut parts = 0;
        while !rest.is_empty() {
            let after = rest.trim_start_matches(|it: char| it.is_ascii_digit());
            let digits = rest.len() - after.len();
            let units = ["ms", "h", "m", "s"];
            let Some(behind) = units.iter().find_map(|unit| after.strip_prefix(unit)) else {
                return false;
            };
            if !(1..=5).contains(&digits) {
                return false;
            }
            (rest, parts) = (behind, parts + 1);
        }
        (1..=4).contains(&parts)
    } else {
        assert!(pattern.contains("Ki|Mi|Gi"), "no such pattern: {pattern}");
        let after = text.trim_start_matches(|it: char| it.is_ascii_digit());
        let suffix = match after.strip_prefix('.') {
            None => after,
            Some(fraction) => {
                let suffix = fraction.trim_start_matches(|it: char| it.is_ascii_digit());
                if !(1..=9).contains(&(fraction.len() - suffix.len())) {
                    return false;
                }
                suffix
            }
        };
        let exponents = ["3", "6", "9", "12", "15", "18"];
        let exponent = suffix.strip_prefix(['e', 'E']);
        let suffixes = [
            "", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei", "k", "M", "G", "T", "P", "E",
        ];
        after.len() < text.len()
            && (suffixes.contains(&suffix) || exponent.is_some_and(|it| exponents.contains(&it)))
    }
}

fn is_list(schema: &Value, list: &[Value]) -> bool {
    let keys = schema["x-kubernetes-list-map-keys"].as_array();
    let key = |it: &Value| match keys {
        Some(keys) => keys
            .iter()
            .map(|key| it[key.as_str().expect("keys are text")].to_string())
            .collect(),
        None => vec![it.to_string()],
    };
    let is_free = keys.is_none() && schema["x-kubernetes-list-type"] != "set";
    let unique: std::collections::BTreeSet<Vec<String>> = list.iter().map(key).collect();
    is_within(schema, list.len(), "Items") && (is_free || unique.len() == list.len())
}

/// The value with the schema's defaults where nothing is given.
pub fn with_defaults(schema: &Value, value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let mut map = map.clone();
            for (name, schema) in schema["properties"].as_object().into_iter().flatten() {
                let given = map.get(name).filter(|it| !it.is_null());
                if let Some(value) = given.or(schema.get("default")) {
                    map.insert(name.clone(), with_defaults(schema, value));
                }
            }
            Value::Object(map)
        }
        Value::Array(list) => {
            let items = list.iter().map(|it| with_defaults(&schema["items"], it));
            Value::Array(items.collect())
        }
        other => other.clone(),
    }
}

/// Values that the schema accepts, with some of what need not be there. `word` gives those of texts, numbers
/// and whatever may hold anything, by the path without indices (`spec.routes[].name`).
pub fn values(
    path: &str,
    schema: &Value,
    word: &dyn Fn(&str) -> Option<BoxedStrategy<Value>>,
) -> BoxedStrategy<Value> {
    if let Some(words) = word(path) {
        return words;
    }
    if let Some(them) = schema["enum"].as_array() {
        return prop::sample::select(them.clone()).boxed();
    }
    let kind = schema["type"].as_str().unwrap_or_default();
    match kind {
        "boolean" => any::<bool>().prop_map(Value::from).boxed(),
        "integer" => {
            let bound = |key: &str, usual: u64| schema[key].as_f64().map_or(usual, |it| it as u64);
            let (least, most) = (bound("minimum", 0), bound("maximum", 1_000_000));
            (least..=most).prop_map(Value::from).boxed()
        }
        "array" => {
            let most = schema["maxItems"].as_u64().unwrap_or(4).min(4) as usize;
            let least = schema["minItems"].as_u64().unwrap_or(0) as usize;
            let items = values(&format!("{path}[]"), &schema["items"], word);
            prop::collection::vec(items, least..=most)
                .prop_map(Value::from)
                .boxed()
        }
        "object" => {
            let required = schema["required"].as_array();
            let is_required =
                |name: &str| required.is_some_and(|it| it.iter().any(|it| it == name));
            let field = |(name, schema): (&String, &Value)| {
                let value = values(&below(path, name), schema, word);
                let name = name.clone();
                if is_required(&name) {
                    value.prop_map(move |it| Some((name.clone(), it))).boxed()
                } else {
                    let given = prop::option::weighted(0.4, value);
                    given.prop_map(move |it| Some((name.clone(), it?))).boxed()
                }
            };
            let properties = schema["properties"].as_object().into_iter().flatten();
            let fields: Vec<_> = properties.map(field).collect();
            fields
                .prop_map(|fields| Value::Object(fields.into_iter().flatten().collect()))
                .boxed()
        }
        _ => panic!("no word is known for {path}: {:?}", Just(schema)),
    }
}
