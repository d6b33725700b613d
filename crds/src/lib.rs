//! The custom resources as Rust types.
