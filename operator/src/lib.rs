//! The operator: makes what a `ReplicatedService` asks for true, in one cluster or several.
//!
//! In the hub, `placement` turns a service into one `ReplicaGroup` per cluster; in every cluster,
//! `group` turns its `ReplicaGroup` into pods, Services, budgets, policies and certificates. The
//! members need none of this to go on serving.

pub mod certs;
pub mod conditions;
pub mod group;
pub mod placement;
pub mod registry;
pub mod run;
pub mod webhook;

pub use synod_inject as inject;
