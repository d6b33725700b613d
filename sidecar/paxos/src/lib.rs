//! The agreement: stable-leader Multi-Paxos over a contiguous log, as a pure state machine.
//!
//! [`Paxos`] is one member of one group. It does no I/O, reads no clock, draws no random numbers and
//! iterates nothing in hash order: the same events give the same outputs, in production and in
//! simulation. This page is the contract with the shell around it.
//!
//! # Events and outputs
//! The shell hands events in (`handle_*`, [`Paxos::propose`], [`Paxos::read`], [`Paxos::transfer`]),
//! each with the time, then calls [`Paxos::poll_output`] until it returns `None` and does what it
//! says, in that order, then waits for the next event or for [`Paxos::poll_timeout`]. Several events
//! may come before a poll: what they cause is batched (rule P2), so a loop that takes all that is
//! queued and then polls gets large batches under load and none when alone.
//!
//! [`Now`] is read once per event. Its monotonic clock must not go back; if it does, it stands still
//! here. Its wall clock may do anything: it is only one of the voters' clocks that agreed time follows
//! as far as a majority of them vouches for it ([`Paxos::agreed_clock`]).
//!
//! # Start
//! 1. Read the log. Increment `boot` and sync it before anything else.
//! 2. [`Paxos::new`] with what was found, and a seed that no other start of any member used.
//! 3. If the own store has a snapshot behind the end of the log: [`Paxos::handle_installed`].
//! 4. [`Paxos::handle_applied`] with what the ledger says was applied.
//!
//! A [`StartError`] is for people. A member whose incarnation the group does not know never starts.
//!
//! # The disk
//! [`Output::Persist`] numbers its writes one by one, and at most [`Settings::max_persists`] are
//! under way, and one more that makes the log shorter. Their records go behind all earlier ones; a write is synced when it and all before it
//! are. [`Paxos::handle_synced`] may skip numbers: each stands for all below it. A failed sync is
//! final: the process ends.
//!
//! Of the records: [`Record::Stage`] changes nothing by itself. The same slot may be staged more than
//! once in one ballot, always with the same entry; slots may be staged beyond what is adopted. A later
//! [`Record::Promise`] or [`Record::Adopt`] of another ballot makes all that was staged before
//! worthless. [`Record::Commit`] may be lost. After a [`Record::Compact`] or [`Record::Install`] is
//! synced, what lies before it is never asked for again.
//!
//! [`Output::Load`] asks for entries that were written before, [`Paxos::handle_loaded`] is called once
//! per ticket, with what can be read of them from the start on: nothing, if the first cannot be read
//! (yet). It is asked for again.
//!
//! # The network
//! Three connections per peer, one for each [`Lane`]; each delivers in order what it delivers. On each
//! one, the first words are [`Paxos::hello`], and nothing of a peer is handed in before
//! [`Paxos::handle_hello`] took its hello. If it was refused, the peer is told why and closes; the
//! peer hands the reason to [`Paxos::handle_hello_refused`]. [`Paxos::handle_connection`] tells when a
//! lane came up or broke: a broken one shortens the wait for a silent leader, a new one makes the
//! leader send again what was on its way.
//!
//! A message is put into its [`Envelope`] by [`Paxos::envelope`], and held back until its
//! `after` is synced. It may get lost, come twice or late: only speed suffers. Whatever a peer says,
//! it is checked, and dropped and counted ([`Counters`]) when it makes no sense. But members do trust
//! each other's word: identities are the transport's job.
//!
//! # Apply
//! [`Output::Chosen`] hands over what is chosen and synced here, each slot once per start, from the
//! first of the log on. Entries that are no longer in memory are read from the log by the shell.
//! [`Paxos::handle_applied`] tells how far the app is, [`Paxos::handle_app`] that it stands still.
//!
//! # Snapshots
//! The shell makes, fetches, checks and keeps them. [`Paxos::base_at`] says what one has to tell of
//! the log; [`Paxos::handle_snapshot`] lets the log forget what one in the own store stands for. (Let
//! the store have two, and the log begin behind the older one.) [`Output::NeedSnapshot`] asks for one
//! of a peer, [`Paxos::handle_installed`] says that it is here, and [`Output::Installed`] that apply
//! goes on from it. Own commands that are in it are given again, and chosen once more: apply drops
//! them by their ids.
//!
//! # Members
//! The leader's shell changes them ([`Paxos::propose_configuration`]); [`Output::ConfigurationChanged`]
//! tells of it on each member, in order with what is handed to apply, and apply itself takes it from
//! [`Entry::reconfigures_to`]. Whom to be connected with is [`Paxos::contacts`], which may change with
//! each event, a hello too: compare [`Paxos::contacts_version`] with what it was before. What is to be
//! sent to anybody else is dropped.
//!
//! A member that comes later starts with an empty log, a new incarnation and a number never used
//! before: [`Recovered::joining`]. It gets everything from those whom it was told of, log or snapshot.
//! One that was removed hears so ([`Output::Removed`]), and goes on to help those that do not know yet,
//! until somebody ends it: not before the old epoch is retired on a member of the new one.
//!
//! # Commands and reads
//! A command that [`Paxos::propose`] took is kept, given to each leader in turn, and ends with one
//! [`Output::Resolved`]. It may be chosen more than once: apply drops the second by its id. There is no
//! way back, since any copy may still be chosen; [`Output::Withdrawn`] has its place for commands that
//! never left, and is not used yet.
//!
//! A [`Paxos::read`] ends with one [`Output::ReadReady`] or [`Output::ReadFailed`]; after the latter
//! the caller asks again under a new id, so that no old answer can serve it. An id is not used twice.
//!
//! # Where things are
//! | module | what it decides |
//! |---|---|
//! | `acceptor`, `promise`, `staging` | promises, adoption, votes |
//! | `candidate`, `catch_up` | phase 1 and the log to adopt |
//! | `leader`, `follower`, `proposed` | phase 2, replication, commit |
//! | `transfer`, `preference` | hand-over of leadership |
//! | `election`, `takeover`, `peer` | heartbeats, health, take-over, timeouts |
//! | `entrance` | commands of this member |
//! | `reads` | read indexes |
//! | `clock` | agreed time |
//! | `repair` | entries that cannot be read |
//! | `hello` | who may talk to us; forgetful members |
//! | `reconfigure`, `membership`, `encoding` | epochs, and who is a member in them |
//! | `learn` | getting out of an epoch that has ended, and into the group |
//! | `snapshot`, `upgrade` | what stands for the start of a log; protocol versions |
//! | `skip` | slots that nobody executes |
//! | `deliver` | what is handed to apply |
//! | `log`, `journal` | the log in memory, writes on their way |
//! | `invariants` | what must hold after each event, in release too |
//!
//! # Not yet
//! Leases and their fences, early learning, quorum reads. Messages and records have their fields.

mod acceptor;
mod ballot;
mod base;
mod candidate;
mod catch_up;
mod clock;
pub mod configuration;
mod deliver;
mod election;
mod encoding;
mod entrance;
mod error;
mod follower;
mod hello;
mod invariants;
mod journal;
mod leader;
mod learn;
mod log;
mod membership;
pub mod message;
pub mod output;
mod paxos;
mod peer;
mod preference;
mod promise;
mod proposed;
pub mod quorum;
mod reads;
mod reconfigure;
pub mod record;
mod recovered;
mod repair;
mod rng;
mod settings;
mod skip;
mod snapshot;
mod staging;
mod status;
mod takeover;
mod transfer;
pub mod types;
mod upgrade;

pub use base::Base;
pub use configuration::{Configuration, Member, Role};
pub use error::{
    HelloRefusal, ProposeRefused, ReconfigureRefused, SkipRefused, SnapshotRefused, StartError,
    UpgradeRefused,
};
pub use message::{Envelope, Heartbeat, Hello, Lane, Message, NotTaken, ReadId};
pub use output::{Io, Output, Ticket};
pub use paxos::Paxos;
pub use quorum::Quorums;
pub use record::{Genesis, Identity, Record, Recovered};
pub use settings::{Settings, SettingsError};
pub use status::{Counters, PeerStatus, Standing, Status, WaitingOn};
pub use types::{
    AgreedTime, Ballot, Boot, Command, CommandId, CommandKind, Entry, EntryHash, Epoch, GroupId,
    Header, Incarnation, MemberId, Now, Reading, Slot,
};
