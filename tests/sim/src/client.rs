//! Model clients: each has one operation at a time, goes to any member, and retries where that is
//! allowed.
//!
//! In: what came back, or that nothing did. Out: what to send next. A write without an
//! Idempotency-Key that may have been ordered is given up; with a key, or when the answer was a
//! definite "not ordered", it is sent again, through another member.

use bytes::Bytes;
use synod_paxos::Slot;

use crate::app::{Poison, Work};
use crate::dice::Dice;
use crate::swarm::Swarm;

/// Names one attempt of one operation of one client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Attempt {
    pub(crate) client: usize,
    pub(crate) op: u64,
    pub(crate) number: u32,
}

/// What an operation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Read,
    Write { key: bool },
}

/// One operation, from its first attempt to its answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Operation {
    pub(crate) work: Work,
    pub(crate) kind: Kind,
    /// The highest slot that any client had seen when this began.
    pub(crate) floor: Slot,
    pub(crate) bytes: u64,
    pub(crate) attempts: u32,
    pub(crate) begun_ns: u64,
    pub(crate) done: bool,
}

/// What comes back for an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    /// The write is at this slot and the app answered this.
    Wrote {
        slot: Slot,
        count: u64,
        chain: u64,
        /// Of the app.
        revision: u64,
    },
    /// The same, of a copy that has gone astray; a read of such a copy: at slot 0.
    Astray { slot: Slot },
    /// The read shows the state of this slot.
    Read {
        reflects: Slot,
        count: u64,
        chain: u64,
    },
    /// Not ordered, and never will be.
    NotOrdered,
    /// It may have been ordered, or may still be.
    Unknown,
    /// Executed, and the response is gone (410).
    Gone { slot: Slot },
    /// Never executed, now or later (502).
    Skipped { slot: Slot },
}

/// What a client does after a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// The same operation once more.
    Retry,
    /// This operation is over.
    Over,
    /// The reply was to an attempt that no longer matters.
    Nothing,
}

/// One client.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) operation: Option<Operation>,
}

// === impl Client ===

impl Client {
    pub(crate) fn new() -> Self {
        Self { operation: None }
    }

    /// A new operation begins.
    pub(crate) fn begin(
        &mut self,
        op: u64,
        floor: Slot,
        now_ns: u64,
        poison: Poison,
        swarm: &Swarm,
        dice: &mut Dice,
    ) {
        let work = Work {
            op,
            register: dice.range(0, swarm.registers - 1),
            poison,
        };
        let reads = poison == Poison::None;
        let kind = if reads && dice.chance(swarm.read_share) {
            Kind::Read
        } else {
            Kind::Write {
                key: dice.chance(swarm.key_share),
            }
        };
        self.operation = Some(Operation {
            work,
            kind,
            floor,
            bytes: dice.range(swarm.body_low, swarm.body_high),
            attempts: 0,
            begun_ns: now_ns,
            done: false,
        });
    }

    /// The operation that a reply belongs to, also when it is over already.
    pub(crate) fn operation_of(&self, op: u64) -> Option<Operation> {
        self.operation.filter(|o| o.work.op == op)
    }

    /// What follows from a reply to `attempt`.
    pub(crate) fn next(&self, attempt: Attempt, reply: Reply) -> Next {
        let Some(operation) = self.operation_of(attempt.op).filter(|o| !o.done) else {
            return Next::Nothing;
        };
        match reply {
            Reply::Wrote { .. }
            | Reply::Astray { .. }
            | Reply::Read { .. }
            | Reply::Gone { .. }
            | Reply::Skipped { .. } => Next::Over,
            // An older attempt failed: the latest is still under way.
            Reply::NotOrdered | Reply::Unknown if attempt.number < operation.attempts => {
                Next::Nothing
            }
            Reply::NotOrdered => Next::Retry,
            Reply::Unknown => match operation.kind {
                Kind::Read | Kind::Write { key: true } => Next::Retry,
                Kind::Write { key: false } => Next::Over,
            },
        }
    }
}

/// The Idempotency-Key of an operation.
pub(crate) fn key_of(op: u64) -> Bytes {
    Bytes::copy_from_slice(format!("op-{op}").as_bytes())
}
