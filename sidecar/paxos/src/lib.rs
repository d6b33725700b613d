//! The agreement: stable-leader Multi-Paxos over a contiguous log, as a pure state machine.

mod acceptor;
mod ballot;
mod candidate;
mod clock;
pub mod configuration;
mod election;
mod entrance;
mod error;
mod follower;
mod hello;
mod invariants;
mod journal;
mod leader;
mod log;
pub mod message;
pub mod output;
mod paxos;
mod peer;
pub mod quorum;
mod reads;
pub mod record;
mod repair;
mod rng;
mod settings;
mod staging;
mod status;
pub mod types;

pub use configuration::{Configuration, Member, Role};
pub use error::{HelloRefusal, ProposeRefused, StartError};
pub use message::{Envelope, Heartbeat, Hello, Lane, Message, NotTaken, ReadId};
pub use output::{Io, Output, Ticket};
pub use paxos::Paxos;
pub use quorum::Quorums;
pub use record::{Genesis, Identity, Record, Recovered};
pub use settings::{Settings, SettingsError};
pub use status::{Counters, PeerStatus, Standing, Status, WaitingOn};
pub use types::{
    AgreedTime, Ballot, Boot, Command, CommandId, CommandKind, Entry, EntryHash, Epoch, GroupId,
    Header, Incarnation, MemberId, Now, Slot,
};
