//! Whole groups in one thread, under virtual time.
//!
//! A seed decides everything: the parameters (swarm), the faults and when they strike, the
//! traffic. What is driven is the production code, `synod-paxos` and the apply machine of
//! `synod-sidecar`; the world around them is modelled. A run has a safety phase, in which
//! everything may fail, and a liveness phase, in which everything is healed and the group must
//! converge. The invariants are checked at each step.

mod app;
mod calendar;
mod changes;
mod checkpoint;
mod client;
mod clock;
mod compared;
mod comparison;
mod copy;
mod coverage;
mod dice;
mod disk;
mod exchange;
mod faults;
mod invariants;
mod jobs;
mod keeper;
mod kept;
mod links;
mod membership;
mod network;
mod odd;
mod placement;
mod poison;
mod process;
mod revisions;
mod service;
mod shell;
mod shrink;
mod snapshots;
mod swarm;
mod trace;
mod traffic;
mod wires;
mod world;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

pub use coverage::{Coverage, Sight};
pub use faults::{Strike, Tally};
pub use invariants::Violation;
pub use shrink::{Shrunk, shrink};
pub use swarm::{Plant, Swarm, Trouble};

use crate::world::World;

/// How to run a seed.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// End after this many events, with safety checked only.
    pub steps: Option<u64>,
    /// Keep a readable tail of the trace.
    pub text: bool,
    /// Print each event to standard error.
    pub echo: bool,
    /// A fault built in on purpose.
    pub plant: Plant,
    /// None but these faults strike, by their [`Strike::number`].
    pub only: Option<BTreeSet<u64>>,
    /// What else is left out.
    pub without: Vec<Trouble>,
    /// Says how many events have taken place, for whoever has no report since an assertion broke.
    pub progress: Option<Arc<AtomicU64>>,
}

/// What a run found.
#[derive(Clone, Debug)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// Events that took place.
    pub events: u64,
    /// Virtual time that passed, in nanoseconds.
    pub simulated_ns: u64,
    /// Operations of clients that were answered and checked.
    pub operations: u64,
    /// Hand-overs of leadership to a preferred member.
    pub handovers: u64,
    /// Times that a log was made shorter behind a snapshot.
    pub compactions: u64,
    /// Snapshots that took the place of a log.
    pub installs: u64,
    /// Slots chosen.
    pub chosen: u64,
    /// Hash over all events.
    pub trace_hash: u64,
    /// The first violation, which ended the run.
    pub violation: Option<Violation>,
    /// The last lines of the trace, when asked for.
    pub tail: Vec<String>,
    /// What was seen of changing members.
    pub coverage: Coverage,
    /// What the swarm drew.
    pub parameters: String,
    /// Faults of each kind that took place.
    pub faults: Tally,
    /// Those that strike at a time of their own, in order.
    pub strikes: Vec<Strike>,
}

/// Runs one seed to its end, or to its first violation.
pub fn run(seed: u64, options: &Options) -> Report {
    let mut swarm = Swarm::new(seed, options.plant);
    for trouble in &options.without {
        swarm.leave_out(*trouble);
    }
    run_swarm(swarm, options)
}

/// The same with parameters that were changed by hand.
pub fn run_swarm(swarm: Swarm, options: &Options) -> Report {
    let mut world = World::new(swarm, options);
    let violation = world.run(options.steps).err();
    world.report(violation)
}
