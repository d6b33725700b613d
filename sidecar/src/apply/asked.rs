//! The executor's side of a leader's questions about a slot that fails (rule K1): the machine answers,
//! and nobody hears an answer before what it promises is on disk.

use std::collections::BTreeSet;

use synod_failpoint::{Point, hit};
use synod_paxos::Slot;
use tokio::sync::oneshot;
use tokio::task::spawn_blocking;

use super::executor::Executor;
use super::machine::{Ask, Machine, Progress, Standing};
use super::promises::{Promises, PromisesError};
use super::states::States;
use crate::app::App;

/// Skips that are told to people, at most: the last ones.
const TOLD: usize = 32;

/// What this member knows about slots that fail.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Doubts {
    /// The state of the app that answers is that of this slot; 0: none answers here, or what it has is not
    /// for others.
    pub applied: Slot,
    /// All slots up to here were executed by this member, in whatever life.
    pub executed: Slot,
    /// The log is known up to here, with all that it says about slots before.
    pub admitted: Slot,
    /// How the next one goes.
    pub progress: Progress,
    /// What was promised and has not ended, in slot order.
    pub promises: Vec<Ask>,
    /// Slots that nobody executes.
    pub skipped: BTreeSet<Slot>,
}

/// A slot that nobody executes, as it was learnt in this life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// The slot.
    pub slot: Slot,
    /// A client may have been told that it was executed: not all members could be asked.
    pub unsure: bool,
}

/// Slots that nobody executes, as far as that was learnt in this life.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Skips {
    /// How many.
    pub total: u64,
    /// The last of them, in the order in which they were learnt.
    pub last: Vec<Skipped>,
}

// === impl Doubts ===

impl Doubts {
    /// What this machine knows.
    pub fn of(machine: &Machine) -> Self {
        let applied = machine.applied();
        let gives = !machine.is_silent_at(applied.next()) && machine.astray().is_none();
        Self {
            applied: if gives { applied } else { Slot::ZERO },
            executed: machine.executed(),
            admitted: machine.fold().admitted(),
            progress: machine.progress(),
            promises: machine.promises().collect(),
            skipped: machine.fold().skipped().clone(),
        }
    }
}

/// Called to answer an ask.
pub(super) type Answered = oneshot::Sender<Result<Option<Standing>, PromisesError>>;

/// The promises as they were last seen, and their file.
pub(super) struct Asked {
    file: Promises,
    number: u64,
    seen: Vec<Ask>,
}

impl Asked {
    pub(super) fn new(file: Promises, found: Vec<Ask>) -> Self {
        Self {
            file,
            number: 0,
            seen: found,
        }
    }

    /// Takes a look at the promises; true: they are others than before.
    fn look(&mut self, machine: &Machine) -> bool {
        if machine.promises().eq(self.seen.iter().copied()) {
            return false;
        }
        self.seen = machine.promises().collect();
        self.number += 1;
        true
    }

    /// Has them written, and then tells.
    fn save(&self, then: impl FnOnce(Result<(), PromisesError>) + Send + 'static) {
        let (file, number, asks) = (self.file.clone(), self.number, self.seen.clone());
        spawn_blocking(move || then(file.save(number, &asks)));
    }
}

impl<A: App, S: States> Executor<A, S> {
    /// The leader asks.
    pub(super) fn ask(&mut self, ask: Ask, reply: Answered) {
        let standing = self.machine.handle_ask(ask);
        hit(Point::PromiseMade);
        tracing::info!(
            slot = %ask.slot, ballot = %ask.ballot, number = ask.number, ?standing,
            "the leader asks about a request that fails"
        );
        self.asked.look(&self.machine);
        // Also if nothing is new: the write before may have failed, or be under way.
        self.asked.save(move |saved| {
            hit(Point::PromiseSaved);
            // Who has left does not want to know.
            let _ = reply.send(saved.map(|()| standing));
        });
    }

    /// What ended meanwhile need not be kept any more. If that is not noted it is asked about once more.
    pub(super) fn keep_promises(&mut self) {
        if self.asked.look(&self.machine) {
            self.asked.save(|saved| {
                if let Err(error) = saved {
                    tracing::warn!(%error, "a promise that has ended is kept");
                }
            });
        }
    }

    pub(super) fn doubts(&self) -> Doubts {
        Doubts::of(&self.machine)
    }

    pub(super) fn note_skipped(&mut self, slot: Slot, unsure: bool) {
        hit(Point::ApplySkipped);
        self.published.skipped.send_modify(|told| {
            if told.last.len() >= TOLD {
                told.last.remove(0);
            }
            told.last.push(Skipped { slot, unsure });
            told.total += 1;
        });
    }
}
