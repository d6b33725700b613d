//! Parts of other APIs, carried through unread.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// An object of another API, kept as it was written: a typed copy would drop the fields that it
/// does not know.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RawObject(pub Map<String, Value>);

// === impl RawObject ===

impl RawObject {
    /// The value at a JSON pointer such as `/spec/containers`.
    pub fn pointer(&self, pointer: &str) -> Option<&Value> {
        let (first, rest) = pointer.strip_prefix('/')?.split_once('/').map_or_else(
            || (pointer.trim_start_matches('/'), String::new()),
            |(first, rest)| (first, format!("/{rest}")),
        );
        self.0.get(first)?.pointer(&rest)
    }
}

impl JsonSchema for RawObject {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "RawObject".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
    }
}
