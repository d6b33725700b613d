//! Scenarios: what a group does in a named situation, as a script that people read and a program runs.
//!
//! In: scripts of commands with the output that each should have (`scripts/<area>/<name>.txt`). Out:
//! whether they still have it, and whether what they claim holds. What is driven is the production code:
//! `synod-paxos`, `synod-wal` on a disk in memory, and the apply machine of `synod-sidecar`. Nothing
//! happens by itself and nothing by chance.

mod commands;
mod diff;
mod print;
mod run;
mod script;
mod words;
mod world;

pub use diff::unified;
pub use run::{Ran, find, run};
pub use script::{Item, Malformed, Script};
