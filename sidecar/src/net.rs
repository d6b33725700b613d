//! Sockets: the system's, or with the feature `turmoil` those of a simulated network, so that a test runs
//! this very program in one.
//!
//! Here is what differs between the two, and nothing else. Between members and between clients and
//! entrance all bytes go through here, and so they do to the app, but for upgrades and snapshots.

#[cfg(not(feature = "turmoil"))]
mod system;
#[cfg(not(feature = "turmoil"))]
mod tables;
#[cfg(not(feature = "turmoil"))]
pub use system::{TcpListener, TcpStream};
#[cfg(not(feature = "turmoil"))]
pub(crate) use {
    system::{SharedStream, lookup_host, watch},
    tables::{connected, listening},
};

#[cfg(feature = "turmoil")]
mod simulated;
#[cfg(feature = "turmoil")]
pub(crate) use simulated::{SharedStream, connected, listening, lookup_host, watch};
#[cfg(feature = "turmoil")]
pub use simulated::{TcpListener, TcpStream};
