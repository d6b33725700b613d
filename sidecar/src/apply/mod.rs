//! From agreed requests to what this member's app does: a pure machine that takes every decision,
//! and an executor that carries it out.

mod feed;
mod fold;
pub mod handle;
mod ids;
mod keys;
mod ledger;
mod machine;

pub use feed::{Beginning, EntrySource, Feed, FeedSender, feed};
pub use fold::Fold;
pub use handle::{Answer, ApplyHandle, ApplyStatus, Outcome, StoredBody, StoredResponse};
pub use keys::KeyLookup;
pub use ledger::{Found, InFlight, Ledger, LedgerError, Record};
pub use machine::{Action, Answer as MachineAnswer, Blocked, Execute, Machine, Run, Setup};
