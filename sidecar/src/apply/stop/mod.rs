//! The group's token for stopping an app that still runs: never are all copies stopped at once while
//! one could serve (rule A3).
//!
//! What can go wrong in one copy mostly goes wrong in all at the same slot. Copies whose state is not
//! known any more are therefore rebuilt one after another: before a member has its running app
//! stopped it holds the token, and keeps it until its copy serves again. The token is a lease of the
//! leader's. An app that has gone by itself needs none.
//!
//! Both sides are pure: [`Desk`] is the leader's, [`Wish`] each member's. The shell between them is
//! `node::Stops`. Leases as in Gray and Cheriton (SOSP 1989): the holder counts from before it asked,
//! the leader from after it was asked, both on clocks that only count.

mod desk;
mod wish;

pub use desk::Desk;
pub use wish::Wish;

/// How long the token is held without being renewed, in milliseconds.
pub const TTL_MS: u64 = 15_000;
/// Whoever stops the app does so within this time after it was told to, in milliseconds: a kubelet
/// asks five times, once a second, and gives the app a second to end.
const MARGIN_MS: u64 = 7_000;

/// What a member says about the token to the leader it follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// It neither holds it nor wants it.
    Nothing,
    /// It wants it for the wish of this number.
    Wants(u64),
    /// It holds it for the wish of this number.
    Holds(u64),
}
