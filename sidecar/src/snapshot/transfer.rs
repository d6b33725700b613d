//! Snapshots from one member to another.
//!
//! In: a [`Connector`] to a member. Out: one of its snapshots in this member's store. The file goes
//! over as it is, in pieces, each with its place and a checksum, on a connection of its own, so
//! nothing of the agreement ever waits behind it. A transfer that breaks off goes on behind the
//! last whole chunk that came, with any member that has the same snapshot. What came becomes part
//! of the store only when every chunk, the hash over the file and the digest of the state are
//! right, read back from the disk.
//!
//! Bounds: one transfer at a time in each direction and member; [`IN_FLIGHT_BYTES`] at most on
//! their way; a rate that the sender keeps.

mod bucket;
mod error;
mod fetcher;
mod front;
mod offer;
mod partial;
mod service;
#[cfg(test)]
mod tests;

pub use error::FetchError;
pub use fetcher::Fetcher;
pub use service::{SnapshotService, service};

use crate::identity::Connector;

/// Of a file, in one message.
const PIECE_BYTES: usize = 1 << 20;
/// Pieces that wait for the disk.
const QUEUED_PIECES: usize = 4;
/// What the receiver's side of a connection takes before it is read.
const WINDOW_BYTES: u32 = 4 << 20;
/// What a transfer has in memory at most, both sides together.
pub const IN_FLIGHT_BYTES: usize = 16 << 20;

const _: () = assert!(WINDOW_BYTES as usize + (QUEUED_PIECES + 6) * PIECE_BYTES <= IN_FLIGHT_BYTES);
