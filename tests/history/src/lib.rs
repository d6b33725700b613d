//! Histories of clients and the checks on them.
//!
//! In: what clients saw, as [`Operation`]s with times of one monotonic clock. Out: whether there is
//! a single order of the operations that explains it. Pure: no I/O but [`History`]'s reading and
//! writing of JSON lines on what the caller hands in.
//!
//! Three checks, from the cheapest and most trusting to the most independent:
//! - [`witnessed`] takes the slots that the responses carry at their word and checks that they form
//!   an explanation, in O(n log n);
//! - [`linearizable`] trusts no slot and searches for an explanation, key by key;
//! - [`effects`] compares what a copy holds at the end with what was acknowledged.

pub mod effects;
mod history;
pub mod linearizable;
pub mod model;
mod operation;
pub mod witnessed;

pub use history::{History, Malformed, ReadError};
pub use operation::{Action, Observed, Operation, Outcome, Value, Witness};
