//! What the API server refuses by the schema alone: lengths and numbers out of bounds. Comes in: an object
//! whose fields and types are right. Goes out: each problem.

use std::sync::LazyLock;

use serde_json::Value;

use crate::crd;
use crate::validate::Problem;

static SCHEMA: LazyLock<Value> = LazyLock::new(crd::service_schema);

/// All that is out of bounds.
pub(super) fn check(object: &Value) -> Vec<Problem> {
    let mut problems = Vec::new();
    walk("", &SCHEMA, object, &mut problems);
    problems
}

fn walk(path: &str, schema: &Value, value: &Value, problems: &mut Vec<Problem>) {
    let bound = |key: &str| schema.get(key).and_then(Value::as_f64);
    let mut within = |count: f64, least: &str, most: &str, of: &str| {
        let words = match (bound(least), bound(most)) {
            (Some(least), _) if count < least => format!("at least {least}"),
            (_, Some(most)) if count > most => format!("at most {most}"),
            _ => return,
        };
        problems.push(Problem {
            path: path.to_owned(),
            message: format!("{count}{of} are out of bounds: {words}"),
        });
    };
    match value {
        Value::String(text) => {
            let count = text.chars().count() as f64;
            within(count, "minLength", "maxLength", " characters");
        }
        Value::Number(number) => {
            within(number.as_f64().unwrap_or(0.0), "minimum", "maximum", "");
            if number.as_i64().is_none() && schema.get("format") == Some(&"int64".into()) {
                problems.push(Problem {
                    path: path.to_owned(),
                    message: format!("{number} is out of bounds: at most {}", i64::MAX),
                });
            }
        }
        Value::Array(list) => {
            within(list.len() as f64, "minItems", "maxItems", " entries");
            if let Some(items) = schema.get("items") {
                for (index, it) in list.iter().enumerate() {
                    walk(&format!("{path}[{index}]"), items, it, problems);
                }
            }
        }
        Value::Object(map) => {
            within(
                map.len() as f64,
                "minProperties",
                "maxProperties",
                " entries",
            );
            for (name, value) in map {
                let known = schema.get("properties").and_then(|it| it.get(name));
                if let Some(schema) = known.or_else(|| schema.get("additionalProperties")) {
                    let path = match path {
                        "" => name.clone(),
                        path => format!("{path}.{name}"),
                    };
                    walk(&path, schema, value, problems);
                }
            }
        }
        Value::Null | Value::Bool(_) => {}
    }
}
