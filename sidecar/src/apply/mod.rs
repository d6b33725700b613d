//! From agreed requests to what this member's app does: a pure machine that takes every decision,
//! and an executor that carries it out.

pub mod handle;

pub use handle::{Answer, ApplyHandle, ApplyStatus, Outcome, StoredBody, StoredResponse};
