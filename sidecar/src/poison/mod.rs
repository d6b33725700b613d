//! Requests that kill or hang every copy (rules K1, K2): found, asked about, and skipped when nobody
//! can have been told that they were executed.
//!
//! In: what each copy knows about slots that fail, asked for by the leader over the peers' port. Out: a
//! skip in the agreed order, or the state of the copy that did execute the slot for those that could
//! not. What is done is decided by [`judge`], which is pure; what a copy promises is its apply machine's
//! matter, and is on disk before the leader hears it.

mod judge;
