//! The work of one cluster: from a `ReplicaGroup` to pods and what they need. Comes in: the group as
//! the hub wrote it, what is there already, what members say. Goes out: children by server-side
//! apply, deleted pods while a new template is rolled out, and the group's status.
//!
//! `dereference` reads, `validate`, `certificates`, `build` and `plan` decide, `apply` and `status`
//! write: only the first and the last do I/O.

pub(crate) mod adopt;
mod apply;
mod build;
mod bypass;
mod certificates;
mod children;
mod controller;
mod dereference;
mod disruptions;
mod findings;
mod members;
mod membership;
mod names;
mod observe;
mod plan;
mod pods;
mod policy;
mod reconcile;
mod requests;
mod revise;
mod roll;
mod runs;
mod source;
mod status;
mod validate;

pub use controller::run;
