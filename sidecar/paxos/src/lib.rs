//! The agreement: stable-leader Multi-Paxos over a contiguous log, as a pure state machine.

pub mod configuration;
mod error;
pub mod message;
pub mod output;
mod paxos;
pub mod quorum;
pub mod record;
mod settings;
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
