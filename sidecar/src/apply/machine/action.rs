//! What a machine starts from, and what it says to do.

use std::sync::Arc;

use synod_paxos::{AgreedTime, Ballot, CommandId, CommandKind, Incarnation, MemberId, Slot};
use synod_proto::v1::Request;

use crate::app::Instance;
use crate::apply::Outcome;
use crate::apply::fold::Fold;
use crate::apply::ids::Ids;
use crate::apply::ledger::{Found, Record};

/// What a machine starts from.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Which member this is.
    pub incarnation: Incarnation,
    /// Before the first slot ([`Fold::new`]), or of the newest snapshot of this member: where a copy
    /// begins of which nothing better is known.
    pub fold: Fold,
    /// Where the app keeps its state.
    pub state: StateType,
    /// What the ledger says about earlier lives of this process.
    pub ledger: Found,
    /// Putting the app's volume back was begun once and never ended: it holds no state at all.
    pub half_restored: bool,
    /// What earlier lives have promised and was not freed.
    pub promises: Vec<Ask>,
    /// Nothing is executed before [`Machine::handle_proven`](super::Machine::handle_proven) and the
    /// log up to there: it may skip slots (rule K2).
    pub gated: bool,
    /// Whoever starts the app here may start another revision of it. Where that comes with a process of its
    /// own instead, the app whose revision has ended is left alone until it is taken away.
    pub changes_in_place: bool,
}

/// Where the app keeps its state, and so what its restart means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StateType {
    /// In its process: an app that starts has an empty state.
    #[default]
    Ephemeral,
    /// On a volume: an app that starts has the state that the one before it left there.
    Volume(UncleanCrash),
}

/// What is done when that is not surely the state of a known slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UncleanCrash {
    /// The volume is put back to the last snapshot.
    Rollback,
    /// The app says which slot its state contains.
    AppliedHeader,
    /// What was in flight is sent again. If nothing was, as `Rollback`.
    AtLeastOnce,
}

/// Number of an execution; unique within a machine's life, so that late news is told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Run(pub u64);

/// Number of anything else that takes a while; unique within a machine's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Job(pub u64);

/// One thing that must be done, before the next one is begun.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Write this to the ledger. It must survive the death of this process from here on.
    Ledger(Record),
    /// Send the request to the app, and report what came of it.
    Execute(Execute),
    /// Tell whoever waits, and whoever will ask.
    Answer(Answer),
    /// The state of this instance of the app is not known (any more): have it stopped.
    StopApp(Instance),
    /// Call [`Machine::handle_pause_over`](super::Machine::handle_pause_over) after so long.
    Pause { slot: Slot, pause_ms: u64 },
    /// Apply ends before this slot: this version does not know what it holds (rule P8).
    Halt { slot: Slot, kind: CommandKind },
    /// Commands up to this slot, which a snapshot stands for, are not answered here any more: of
    /// those that are among `taken`, only others may know what became of them.
    Jump { slot: Slot, taken: Arc<Ids> },
    /// Put the state of the snapshot at this slot into this instance, which has just started with an
    /// empty one; then [`Machine::handle_restored`](super::Machine::handle_restored) or
    /// [`Machine::handle_restore_failed`](super::Machine::handle_restore_failed).
    Restore {
        job: Job,
        slot: Slot,
        instance: Instance,
    },
    /// Put the volume back as it was in the snapshot at this slot (0: as it was before the first
    /// request) while no app runs, and have the app started only then. That means to have the whole
    /// pod replaced, where an app may start at any time. One that runs is stopped as
    /// [`Action::StopApp`] is, and not before. Then
    /// [`Machine::handle_volume_restored`](super::Machine::handle_volume_restored) or
    /// [`Machine::handle_volume_not_restored`](super::Machine::handle_volume_not_restored).
    /// Takes the place of an earlier one.
    ReplaceApp { job: Job, slot: Slot },
    /// Ask this instance which slot its state contains; then
    /// [`Machine::handle_app_applied`](super::Machine::handle_app_applied).
    AskApplied { job: Job, instance: Instance },
    /// Take a snapshot of the state of this instance, which is that of this slot, with these tables;
    /// then [`Machine::handle_snapshot_taken`](super::Machine::handle_snapshot_taken), also when it
    /// failed. Nothing is executed meanwhile.
    TakeSnapshot {
        job: Job,
        slot: Slot,
        instance: Instance,
        tables: Box<Fold>,
    },
    /// Nothing comes of this snapshot: throw away what there is of it.
    DropSnapshot { job: Job },
    /// Nobody executes this slot any more: tell people. `unsure`: a client may have been told that it was
    /// executed.
    Skipped { slot: Slot, unsure: bool },
    /// The snapshot at this slot, this member's newest, has executed a slot that nobody should have:
    /// get another one, from a member that has not.
    VoidSnapshot { slot: Slot },
    /// This copy differs from others from this slot on: throw away what was saved of it from there on and
    /// was not compared. It may be the base.
    VoidSince { slot: Slot },
}

/// The leader's question about a slot that fails (rule K1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    /// The slot.
    pub slot: Slot,
    /// The ballot of the leader that asks.
    pub ballot: Ballot,
    /// Counts its asks.
    pub number: u64,
}

/// How the execution of the next slot goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// The slot that the app has, or is to be sent next; `None`: its state is far from the end of what is
    /// known, or it has none.
    pub next: Option<Slot>,
    /// That takes longer than `applyTimeout`.
    pub slow: bool,
    /// The first slot that this member has never executed and of which it could not tell what became of
    /// it, and how often that was so.
    pub failed: Option<(Slot, u32)>,
}

/// What a member says to an [`Ask`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It has executed the slot.
    Applied,
    /// The slot may have reached its app, but no response was told. A promise: neither to execute
    /// nor to answer it.
    Failed,
    /// The slot was surely not sent. The same promise.
    Held,
    /// It does not know: the same promise, but it counts as not asked.
    Unknown,
}

/// A request for the app.
#[derive(Clone, Debug, PartialEq)]
pub struct Execute {
    /// Names this execution in what is reported.
    pub run: Run,
    /// Its slot.
    pub slot: Slot,
    /// From 1; counts how often this member could not tell what became of the slot.
    pub attempt: u32,
    /// Agreed time of the slot.
    pub time: AgreedTime,
    /// Agreed random bits of the slot.
    pub seed: u128,
    /// What is sent, the same on every copy.
    pub request: Arc<Request>,
}

/// What became of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The command.
    pub id: CommandId,
    /// The slot whose response is the answer: its own, or for a repeat by key that of the first.
    pub slot: Slot,
    /// What was done with it.
    pub outcome: Outcome,
    /// For a repeat by key: whose copy answered the client of the first.
    pub first_answerer: Option<MemberId>,
}

/// Why nothing is executed, when nothing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blocked {
    /// The app does not run, or must be stopped first.
    NoApp,
    /// The app runs, and is given the state of this slot or asked for the slot of its own.
    Restore(Slot),
    /// The leader asks about this slot: it is not executed before that has come to an end.
    Asked(Slot),
    /// This slot failed more than once, or could not be sent: the next attempt is later.
    Pause(Slot),
    /// It is not known yet what was chosen when this life began: nothing from this slot on is executed
    /// before, since it may be skipped (rule K2).
    Unproven(Slot),
    /// Here ends what the revision of the app executes, or begins what it may: that of this slot is to be
    /// started, or its state is still to come from another member (rule V1).
    Revision(Slot),
    /// The copy differs from others, and was told to stop before this slot.
    Differs(Slot),
    /// This slot holds something unknown.
    Unknown(Slot),
}
