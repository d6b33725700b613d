//! What is tried: one file for each kind of trouble.

mod backpressure;
mod certificates;
mod half_open;
mod resets;
mod slow;

/// A named situation.
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    /// With a seed; says what was seen, or why it failed.
    pub(crate) run: fn(u64) -> turmoil::Result<String>,
}

/// All of them.
pub(crate) const ALL: &[Scenario] = &[
    Scenario {
        name: "half-open/lost",
        run: half_open::lost,
    },
    Scenario {
        name: "half-open/silent",
        run: half_open::silent,
    },
    Scenario {
        name: "resets/members",
        run: resets::of_members,
    },
    Scenario {
        name: "resets/clients",
        run: resets::of_clients,
    },
    Scenario {
        name: "resets/app",
        run: resets::of_the_app,
    },
    Scenario {
        name: "slow/narrow",
        run: slow::narrow,
    },
    Scenario {
        name: "slow/far",
        run: slow::far,
    },
    Scenario {
        name: "backpressure/client",
        run: backpressure::of_a_client,
    },
    Scenario {
        name: "backpressure/app",
        run: backpressure::of_the_app,
    },
    Scenario {
        name: "backpressure/follower",
        run: backpressure::of_a_follower,
    },
    Scenario {
        name: "certificates/expiry",
        run: certificates::expiry,
    },
    Scenario {
        name: "certificates/rotation",
        run: certificates::rotation,
    },
];
