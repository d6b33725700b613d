//! What happens when: the queue of future events, in order of time and, at the same time, of entry.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use synod_paxos::{HelloRefusal, MemberId, Slot, Ticket};
use synod_sidecar::apply::{Job, Run};

use crate::client::{Attempt, Reply};
use crate::faults::Fault;
use crate::jobs::End;
use crate::network::{Generation, StreamId, Turn};

/// Number of a start of a member; events of an earlier life are void.
pub(crate) type Life = u64;

/// Something that will happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// The next packet of a stream is due.
    Deliver { stream: StreamId, turn: Turn },
    /// A late copy of a packet turns up.
    Late { copy: u64 },
    /// A member tries to connect a stream.
    Connect { stream: StreamId },
    /// The sender gets the listener's hello, after its own was taken.
    Up {
        stream: StreamId,
        generation: Generation,
    },
    /// The sender learns that its connection is gone.
    Down {
        stream: StreamId,
        generation: Generation,
    },
    /// The sender learns that its hello was refused.
    Refused {
        stream: StreamId,
        refusal: HelloRefusal,
    },
    /// The agreement's timeout, on this member.
    Timer { member: usize, life: Life },
    /// A sync is done.
    Synced { member: usize, life: Life },
    /// A read of the log is done.
    Loaded {
        member: usize,
        life: Life,
        ticket: Ticket,
        from: Slot,
        through: Slot,
        max_bytes: u64,
    },
    /// A snapshot that was asked for has come, or nobody had one.
    Fetched {
        member: usize,
        life: Life,
        from: Option<MemberId>,
        at_least: Slot,
    },
    /// Putting the state of a snapshot into the app has come to an end.
    Restored {
        member: usize,
        life: Life,
        job: Job,
        slot: Slot,
        process: u64,
        end: End,
    },
    /// Putting the app's volume back has.
    VolumeBack {
        member: usize,
        life: Life,
        job: Job,
        slot: Slot,
        end: End,
    },
    /// The app says which slot its state contains.
    Claimed {
        member: usize,
        life: Life,
        job: Job,
        process: u64,
        says: bool,
    },
    /// The app has given its state for a snapshot.
    Taken {
        member: usize,
        life: Life,
        job: Job,
        slot: Slot,
        end: End,
    },
    /// A snapshot is on the disk.
    Stored {
        member: usize,
        life: Life,
        slot: Slot,
    },
    /// A snapshot has taken too long.
    Overdue { member: usize, life: Life, job: Job },
    /// A keeper of snapshots looks round.
    Keep { member: usize, life: Life },
    /// It is a member's turn to make one.
    Turn { member: usize },
    /// If a member leads, it looks for requests that fail.
    Judge { member: usize, life: Life },
    /// News about such requests reach a member.
    Letter { member: usize, number: u64 },
    /// Promises are on the disk.
    Saved { member: usize, number: u64 },
    /// A dead member starts.
    Start { member: usize },
    /// A paused member goes on.
    Resume { member: usize, life: Life },
    /// A pause of the apply machine is over.
    PauseOver {
        member: usize,
        life: Life,
        slot: Slot,
    },
    /// A request has been with the app for longer than the policy allows, or still is.
    Slow { member: usize, life: Life, run: Run },
    /// A new process of the app listens.
    AppUp { member: usize },
    /// The start signal reaches the sidecar, which may be slow to take it.
    StartSignal { member: usize },
    /// The sidecar looks what listens.
    Look { member: usize },
    /// The app's process is ended from outside.
    AppStop { member: usize, process: u64 },
    /// The effect of a request on the app's state takes place.
    AppEffect {
        member: usize,
        process: u64,
        slot: Slot,
    },
    /// The connection of a request to the app ends: with its response, or without.
    AppDone {
        member: usize,
        life: Life,
        run: Run,
        response: bool,
    },
    /// A read reaches the app's process.
    AppRead {
        member: usize,
        life: Life,
        process: u64,
        attempt: Attempt,
    },
    /// Somebody looks after the group's members.
    Operate,
    /// A request for other members arrives.
    Change { member: usize, number: u64 },
    /// A client begins something.
    Wake { client: usize },
    /// The pause before a client's retry is over.
    Again { client: usize, op: u64 },
    /// A request of a client reaches a member.
    Request { attempt: Attempt, member: usize },
    /// A reply reaches a client.
    Reply { attempt: Attempt, reply: Reply },
    /// A client has waited long enough.
    GiveUp { attempt: Attempt },
    /// Somebody wants another revision of the app.
    Revise,
    /// Somebody looks which copy is to run it along.
    Roll,
    /// A person replaces a copy that is wrong.
    Mend { member: usize },
    /// A fault strikes.
    Fault(Fault),
    /// A fault ends.
    Heal(Fault),
    /// From here on everything is healed.
    Calm,
    /// Has the group converged?
    Converged,
}

/// The queue.
#[derive(Debug, Default)]
pub(crate) struct Calendar {
    queue: BinaryHeap<Reverse<Key>>,
    events: Vec<Event>,
    free: Vec<u32>,
    entered: u64,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    at_ns: u64,
    entered: u64,
    index: u32,
}

// === impl Calendar ===

impl Calendar {
    pub(crate) fn put(&mut self, at_ns: u64, event: Event) {
        self.entered += 1;
        let index = if let Some(index) = self.free.pop() {
            self.events[index as usize] = event;
            index
        } else {
            self.events.push(event);
            u32::try_from(self.events.len() - 1).expect("fewer events than that are under way")
        };
        self.queue.push(Reverse(Key {
            at_ns,
            entered: self.entered,
            index,
        }));
    }

    pub(crate) fn next(&mut self) -> Option<(u64, Event)> {
        let Reverse(key) = self.queue.pop()?;
        self.free.push(key.index);
        Some((key.at_ns, self.events[key.index as usize]))
    }
}
