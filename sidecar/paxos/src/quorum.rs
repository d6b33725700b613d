//! Quorums are a type, checked where they are made (rule P4).

/// How many voters decide, per phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quorums {
    /// More than half of the voters, in both phases.
    Majority,
    /// Flexible Paxos (Howard, Malkhi, Spiegelman 2016): `phase1 + phase2 > voters`.
    Flexible { phase1: u32, phase2: u32 },
}
