//! The shell around the agreement: event loop, peers over gRPC, the log's thread.

pub mod handle;
pub mod wire;

pub use handle::{Decided, NodeHandle, NodeStatus, Proposed};
