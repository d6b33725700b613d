//! Client HTTP in and out: accept, classify by route, capture, answer.
//!
//! In: clients' connections, and reads that other members hand over. Out: responses. It may call
//! the agreement and apply through [`Backend`], and other members through [`PeerChannels`].

pub mod backend;
pub mod body;
pub mod handover;
pub mod route;

pub use backend::{Backend, Handles};
pub use handover::PeerChannels;
