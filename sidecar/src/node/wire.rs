//! Between what the agreement says and what travels: pure conversions. Nothing that came over the
//! wire is trusted; what makes no sense becomes a [`WireError`], never a panic.

mod incoming;
mod outgoing;

use synod_paxos::{Ballot, Entry, GroupId, Hello, Incarnation, Lane, MemberId, Message};
use synod_proto::v1;

/// Lowest and highest protocol version that this build speaks.
pub const PROTOCOL: std::ops::RangeInclusive<u32> = 1..=3;

/// An entry as it travels, and as backups hold it.
pub fn read_entry(entry: v1::Entry) -> Result<Entry, WireError> {
    incoming::entry(entry)
}

/// See [`read_entry`].
pub fn write_entries(entries: Vec<Entry>) -> Vec<v1::Entry> {
    outgoing::entries(entries)
}

/// Longest list that is taken in one message.
const MAX_LIST: usize = 1 << 16;
/// Longest name.
const MAX_NAME: usize = 253;
/// Slots, rounds, epochs, starts and sequences that can be reached by counting. What is above
/// would overflow in somebody's arithmetic.
const MAX_COUNT: u64 = 1 << 62;

/// Why something from another member cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// A part that must be there is not.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// A field is outside of what it can be.
    #[error("{0} is out of range")]
    Range(&'static str),
    /// A list or name is longer than anybody needs.
    #[error("{0} is too long")]
    TooLong(&'static str),
    /// A kind of message that this version does not know (rule P8).
    #[error("an unknown kind of message: this member's version is too old for its peer's")]
    UnknownKind,
    /// Not what the exchange prescribes.
    #[error("{0} was not expected here")]
    Unexpected(&'static str),
}

/// The outside of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHead {
    /// The sender's group.
    pub group: GroupId,
    /// The sender's number.
    pub from: MemberId,
    /// The sender's life.
    pub from_incarnation: Incarnation,
    /// The receiver's life, as the sender knows it.
    pub to_incarnation: Incarnation,
    /// The sender's copy answers clients.
    pub serving: bool,
}

/// What the shells tell each other along with a hello.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HelloHead {
    /// Which of the connections with the member this is.
    pub lane: Lane,
    /// Whom the hello is for. 0: whoever is there.
    pub to: MemberId,
}

/// A frame as it was understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// The first one.
    Hello(Hello, HelloHead),
    /// All others.
    Batch(BatchHead, Vec<Message>),
}

/// The first frame of a stream.
pub fn hello(hello: &Hello, head: HelloHead) -> v1::PeerFrame {
    v1::PeerFrame {
        frame: Some(v1::peer_frame::Frame::Hello(outgoing::hello(hello, head))),
    }
}

/// A ballot that names a leadership.
pub(crate) fn term(ballot: Ballot) -> v1::Ballot {
    outgoing::ballot(ballot)
}

/// The same, of another member.
pub(crate) fn read_term(ballot: Option<v1::Ballot>) -> Result<Ballot, WireError> {
    incoming::ballot(ballot)
}

/// Any other frame.
pub fn batch(head: BatchHead, messages: Vec<Message>) -> v1::PeerFrame {
    let batch = v1::Batch {
        group: bytes::Bytes::copy_from_slice(&head.group.0),
        from: head.from.0,
        from_incarnation: outgoing::incarnation(head.from_incarnation),
        to_incarnation: outgoing::incarnation(head.to_incarnation),
        serving: head.serving,
        messages: messages.into_iter().map(outgoing::message).collect(),
    };
    v1::PeerFrame {
        frame: Some(v1::peer_frame::Frame::Batch(batch)),
    }
}

/// Understands a frame.
pub fn read(frame: v1::PeerFrame) -> Result<Frame, WireError> {
    match frame.frame {
        None => Err(WireError::Missing("frame")),
        Some(v1::peer_frame::Frame::Hello(it)) => {
            incoming::hello(it).map(|(hello, head)| Frame::Hello(hello, head))
        }
        Some(v1::peer_frame::Frame::Batch(it)) => {
            incoming::batch(it).map(|(head, messages)| Frame::Batch(head, messages))
        }
    }
}

/// About how many bytes a message takes on the wire; for limits, never for allocation.
pub fn weight(message: &Message) -> u64 {
    let entries = match message {
        Message::Promise {
            suffix: entries, ..
        }
        | Message::AcceptSync { entries, .. }
        | Message::Accept { entries, .. }
        | Message::Repair { entries }
        | Message::Learn { entries } => entries.iter().map(synod_paxos::Entry::weight).sum(),
        Message::Propose { commands, .. } => commands
            .iter()
            .map(|it| it.payload.len() as u64 + synod_paxos::Entry::OVERHEAD_BYTES)
            .sum(),
        Message::ReadIndex { ids }
        | Message::ReadIndexes { ids, .. }
        | Message::ReadRefused { ids } => ids.len() as u64 * 10,
        Message::RepairRequest { headers } => headers.len() as u64 * 64,
        _ => 0,
    };
    let faulty = match message {
        Message::Promise { faulty, .. } => faulty.len() as u64 * 64,
        _ => 0,
    };
    entries + faulty + 128
}

#[cfg(test)]
mod tests;
