//! The agreement: stable-leader Multi-Paxos over a contiguous log, as a pure state machine.

pub mod configuration;
pub mod message;
pub mod output;
pub mod quorum;
pub mod record;
pub mod types;

pub use configuration::{Configuration, Member, Role};
pub use message::{Envelope, Heartbeat, Hello, Lane, Message, NotTaken, ReadId};
pub use output::{Io, Output, Ticket};
pub use quorum::Quorums;
pub use record::{Genesis, Identity, Record, Recovered};
pub use types::{
    AgreedTime, Ballot, Boot, Command, CommandId, CommandKind, Entry, EntryHash, Epoch, GroupId,
    Header, Incarnation, MemberId, Now, Slot,
};
