//! The app as we see it: an HTTP server on the loopback that has never heard of us.

mod instance;

pub use instance::{Instance, look};
