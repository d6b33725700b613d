//! What a group has found out about requests and copies: the parts of a `ReplicaGroup`'s status by which
//! hub and operators tell each other.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What members have found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Findings {
    /// The request that no copy gets past, while a member here leads and it is so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub undecided: Option<UndecidedRequest>,
    /// Requests that nobody executes, the latest ones, by slot.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub skipped: Vec<SkippedRequest>,
    /// Copies that answered differently and were not made anew yet, while a member here leads.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub diverged: Vec<DivergedCopies>,
}

/// A request that fails on every copy, of which nobody knows yet what becomes of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UndecidedRequest {
    /// Its place in the order.
    pub slot: u64,
    /// Its method.
    #[serde(default)]
    #[schemars(length(max = 64))]
    pub method: String,
    /// Its path, without a query.
    #[serde(default)]
    #[schemars(length(max = 1024))]
    pub path: String,
    /// What the decision waits for, in words.
    #[serde(default)]
    #[schemars(length(max = 16), inner(length(max = 512)))]
    pub waits_for: Vec<String>,
}

/// A request that nobody executes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SkippedRequest {
    /// Its place in the order.
    pub slot: u64,
    /// Its method; empty: no log has it any more.
    #[serde(default)]
    #[schemars(length(max = 64))]
    pub method: String,
    /// Its path, without a query.
    #[serde(default)]
    #[schemars(length(max = 1024))]
    pub path: String,
    /// A client may have been told that it was executed.
    #[serde(default)]
    pub may_have_been_acknowledged: bool,
    /// When the hub first saw that (RFC 3339); only in its own status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub seen: Option<String>,
}

/// Copies that answered a request differently.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DivergedCopies {
    /// The first request that they answered differently, by its place in the order.
    pub slot: u64,
    /// Name of its route; empty: none matched.
    #[serde(default)]
    #[schemars(length(max = 63))]
    pub route: String,
    /// Members whose copies differ from a majority; without one, all that have answered.
    #[schemars(length(max = 64), inner(length(max = 63)))]
    pub members: Vec<String>,
    /// The first part of the response that differs, in words.
    #[serde(default)]
    #[schemars(length(max = 512))]
    pub part: String,
    /// What is done about it: `Observe`, `Alert`, `Quarantine` or `Halt`; `Tie`: there is no majority,
    /// and a person decides which copies are made anew.
    #[schemars(length(max = 32))]
    pub measure: String,
}

// === impl Findings ===

impl Findings {
    /// Nothing was found.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

// === impl DivergedCopies ===

impl DivergedCopies {
    /// No answer has a majority.
    pub fn is_tie(&self) -> bool {
        self.measure == "Tie"
    }

    /// These copies are kept from clients.
    pub fn is_out(&self) -> bool {
        matches!(self.measure.as_str(), "Quarantine" | "Halt")
    }
}
