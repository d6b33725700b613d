//! What is tried: one file for each kind of trouble.

mod half_open;

/// A named situation.
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    /// Says what was seen, or why it failed.
    pub(crate) run: fn(u64) -> turmoil::Result<String>,
}

/// All of them.
pub(crate) const ALL: &[Scenario] = &[Scenario {
    name: "half-open",
    run: half_open::run,
}];
