//! How requests get their place in the agreed order.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::duration::Duration;
use crate::quantity::Quantity;

/// How requests get their place in the agreed order, and what is remembered of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Ordering {
    /// How a repeated request is recognised, so that it is executed once.
    pub idempotency: Idempotency,
    /// Largest body of a request; larger ones get 413. At most 16Mi. Default: 16Mi.
    pub max_body_size: Quantity,
    /// How long a request may wait for its place in the order; after that it gets 503 and is never
    /// executed. None is taken while the copies are behind by more. 1ms to 1h. Default: 10s.
    pub queue_timeout: Duration,
    /// How long the client of an ordered request waits for its response; after that it gets 504
    /// and the outcome is open. At least `app.applyTimeout`, at most 24h. Default: 35s.
    pub response_timeout: Duration,
    /// Classes of requests that may be executed in parallel. Requests of different keys may overtake
    /// each other, those of one key never; a request without a key runs alone. Default: none, one
    /// request at a time. This version takes no other value.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub lanes: Vec<Lane>,
}

/// How a repeated request is recognised.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Idempotency {
    /// Header that carries the client's key. Default: Idempotency-Key.
    #[schemars(length(min = 1, max = 64))]
    pub header: String,
    /// What tells clients apart, so that nobody gets another's response by guessing a key.
    pub principal: Principal,
    /// How long a key is remembered, in agreed time: 1s to 720h. Default: 24h.
    pub keep_for: Duration,
    /// How much memory keys may take; beyond it the oldest are forgotten: 64Ki to 1Gi. Default:
    /// 32Mi.
    pub max_size: Quantity,
}

/// What tells clients apart.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Principal {
    /// Request headers whose values name the client. Default: Authorization.
    #[schemars(length(max = 8), inner(length(min = 1, max = 64)))]
    pub headers: Vec<String>,
    /// Cookies whose values name the client. Default: none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), inner(length(min = 1, max = 64)))]
    pub cookies: Vec<String>,
}

/// A class of requests that may be executed in parallel by key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Lane {
    /// Where the key of a request is.
    pub key: LaneKey,
    /// How many requests run at the same time: 1 to 1024.
    #[schemars(range(min = 1, max = 1024))]
    pub count: u32,
}

/// Where the key of a request is: exactly one of these.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LaneKey {
    /// A segment of the path, counted from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 32))]
    pub path_segment: Option<u32>,
    /// A request header.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub header: Option<String>,
    /// A value in a JSON body, by JSON pointer (RFC 6901).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub json_pointer: Option<String>,
}

// === impl Default ===

impl Default for Ordering {
    fn default() -> Self {
        Self {
            idempotency: Idempotency::default(),
            max_body_size: Quantity::mebibytes(16),
            queue_timeout: Duration::from_secs(10),
            response_timeout: Duration::from_secs(35),
            lanes: Vec::new(),
        }
    }
}

impl Default for Idempotency {
    fn default() -> Self {
        Self {
            header: "Idempotency-Key".to_owned(),
            principal: Principal::default(),
            keep_for: Duration::from_hours(24),
            max_size: Quantity::mebibytes(32),
        }
    }
}

impl Default for Principal {
    fn default() -> Self {
        Self {
            headers: vec!["Authorization".to_owned()],
            cookies: Vec::new(),
        }
    }
}
