//! What is noted in a group's facts while this cluster holds the disruption token: until when, and
//! whether its budget is open. Who works next goes on from there.

use std::collections::BTreeMap;

use k8s_openapi::jiff::Timestamp;

const KEY: &str = "disruption";
const OPEN: &str = "open";
const CLOSED: &str = "closed";

/// One note.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fact {
    /// The budget is open.
    pub(super) open: bool,
    /// The token is ours until then.
    pub(super) until: Timestamp,
}

// === impl Fact ===

impl Fact {
    /// What is noted; none that cannot be read.
    pub(super) fn read(facts: &BTreeMap<String, String>) -> Option<Self> {
        let (state, until) = facts.get(KEY)?.split_once(" until ")?;
        let open = match state {
            OPEN => true,
            CLOSED => false,
            _ => return None,
        };
        let until = until.parse().ok()?;
        Some(Self { open, until })
    }

    pub(super) fn write(self, facts: &mut BTreeMap<String, String>) {
        let state = if self.open { OPEN } else { CLOSED };
        facts.insert(KEY.to_owned(), format!("{state} until {}", self.until));
    }

    pub(super) fn forget(facts: &mut BTreeMap<String, String>) {
        facts.remove(KEY);
    }

    /// The token is ours now.
    pub(super) fn holds(self, now: Timestamp) -> bool {
        now < self.until
    }
}
