//! Which requests are treated how.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::duration::Duration;

/// What is done with requests that no route settles.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DefaultConsistency {
    /// Reads by their method are linearizable, all others ordered.
    #[default]
    ByMethod,
    /// All are ordered.
    Ordered,
}

/// Requests that are treated differently from the default.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Route {
    /// Name of the route in metrics and reports, unique in the service: lower-case letters, digits
    /// and `-`.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// A request matches the route when it matches any of these. Default: it always matches.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub matches: Vec<RouteMatch>,
    /// How such requests are treated. `Ordered`: through the log. `Linearizable`: a read that sees
    /// every write that was answered before it began. `Session`: a read that sees the client's own
    /// writes, by its `Synod-Min-Slot`. `BoundedStale`: a read not older than `maxStaleness`.
    /// `Local`: a read of whatever the nearest copy has. `Bypass`: passed to the nearest copy
    /// untouched, whatever it is. Default: by the service's `defaultConsistency`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consistency: Option<Consistency>,
    /// How old what a read sees may be; needed by `BoundedStale`, and only there. 1ms to 24h.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_staleness: Option<Duration>,
    /// Allows event streams, upgrades to WebSocket, and streaming gRPC; such a route is never
    /// ordered. Default: false.
    #[serde(default)]
    pub streaming: bool,
}

/// How a request is treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Consistency {
    /// Through the log, with a slot of its own.
    Ordered,
    /// Sees every write that was answered before it began.
    Linearizable,
    /// Sees the client's own writes.
    Session,
    /// Sees a state of limited age.
    BoundedStale,
    /// Sees whatever the copy has.
    Local,
    /// None of our business.
    Bypass,
}

/// One way to match a request; all that is given must hold.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RouteMatch {
    /// The path. Default: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathMatch>,
    /// The method, upper case. Default: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 32))]
    pub method: Option<String>,
}

/// How a path is matched.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PathMatch {
    /// `Exact`: the whole path. `PathPrefix` (default): its first segments, so `/a` matches `/a` and
    /// `/a/b` but not `/ab`.
    #[serde(default, rename = "type")]
    pub kind: PathMatchType,
    /// The path, from `/`, without a query.
    #[schemars(length(min = 1, max = 1024))]
    pub value: String,
}

/// How a path is matched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PathMatchType {
    /// The whole path.
    Exact,
    /// Its first segments.
    #[default]
    PathPrefix,
}
