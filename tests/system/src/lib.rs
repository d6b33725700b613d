//! Real processes, real programs, real faults.
//!
//! [`group::Group`] runs `synod local` with three members, [`client::Client`] speaks to them as any
//! client would, [`workload`] drives and records, [`nemesis`] kills and stops, and each scenario
//! under [`scenario`] is one promise of the project held against what then happens.

pub mod app;
pub mod client;
pub mod disk;
pub mod group;
pub mod links;
pub mod nemesis;
pub mod process;
pub mod raw;
pub mod report;
pub mod scenario;
pub mod workload;
