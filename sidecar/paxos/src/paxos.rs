//! The state machine: events in by `handle_*`, `propose`, `read`; work out by `poll_*`.

use crate::configuration::Configuration;
use crate::error::{HelloRefusal, ProposeRefused, StartError};
use crate::message::{Envelope, Hello, Lane, Message, ReadId};
use crate::output::{Io, Output, Ticket};
use crate::record::{Genesis, Recovered};
use crate::settings::Settings;
use crate::status::{Counters, Standing, Status};
use crate::types::{Ballot, Boot, Command, Entry, MemberId, Now, Slot};

/// One member of a group. Pure: no clock, no disk, no network, no randomness of its own.
#[derive(Debug)]
pub struct Paxos {
    genesis: Genesis,
    me: MemberId,
}

#[expect(unused_variables, reason = "signatures first")]
impl Paxos {
    /// A member that starts (again). `rng_seed` must differ at each start.
    pub fn new(
        settings: Settings,
        recovered: Recovered,
        now: Now,
        rng_seed: u64,
    ) -> Result<Self, StartError> {
        settings.check()?;
        let genesis = recovered.genesis.ok_or(StartError::NoGenesis)?;
        let me = genesis
            .configuration
            .members
            .iter()
            .find(|member| member.incarnation == recovered.identity.incarnation)
            .ok_or(StartError::NotAMember(recovered.identity.incarnation))?
            .id;
        Ok(Self { genesis, me })
    }

    /// What to say first on each connection.
    pub fn hello(&self) -> Hello {
        unimplemented!()
    }

    /// A peer's first words on a connection; nothing else of it may be handed in before. On an error
    /// the connection is closed, and the peer told why.
    pub fn handle_hello(&mut self, now: Now, hello: &Hello) -> Result<(), HelloRefusal> {
        unimplemented!()
    }

    /// A peer refused our hello.
    pub fn handle_hello_refused(&mut self, now: Now, peer: MemberId, refusal: HelloRefusal) {}

    /// A connection to `peer` came up (after its hello was taken) or went down.
    pub fn handle_connection(&mut self, now: Now, peer: MemberId, lane: Lane, up: bool) {}

    /// A message came. `from` is whom the transport authenticated.
    pub fn handle_message(&mut self, now: Now, from: MemberId, envelope: Envelope) {}

    /// Puts a message of [`Output::Send`] into its envelope.
    pub fn envelope(&self, to: MemberId, message: Message) -> Envelope {
        unimplemented!()
    }

    /// The time of [`Self::poll_timeout`] has come. Too early or too often does no harm.
    pub fn handle_timeout(&mut self, now: Now) {}

    /// The write `io` and all before it are synced.
    pub fn handle_synced(&mut self, now: Now, io: Io) {}

    /// What [`Output::Load`] asked for: entries in slot order from `from` on; fewer than asked for, or
    /// none, when they cannot be read.
    pub fn handle_loaded(&mut self, now: Now, ticket: Ticket, entries: Vec<Entry>) {}

    /// The app has executed everything up to `slot` (the ledger says so). Called once right after
    /// [`Self::new`] too: what was applied was chosen (rule L4).
    pub fn handle_applied(&mut self, slot: Slot) {}

    /// The app stands still though something waits for it, or goes on again (rule E3).
    pub fn handle_app(&mut self, now: Now, stalled: bool) {}

    /// The disk has no room for more commands, or has again (rule W4).
    pub fn handle_disk(&mut self, now: Now, full: bool) {}

    /// Takes a command of this entrance. It is kept, forwarded and sent again until it is seen chosen:
    /// [`Output::Resolved`]. Its id must be of this member and start, sequences growing.
    pub fn propose(&mut self, now: Now, command: Command) -> Result<(), ProposeRefused> {
        Ok(())
    }

    /// Asks for a read index: [`Output::ReadReady`] or [`Output::ReadFailed`] follows, once.
    pub fn read(&mut self, now: Now, id: ReadId) {}

    /// If this member leads: let `to`, or the best other voter, lead.
    pub fn transfer(&mut self, now: Now, to: Option<MemberId>) {}

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        None
    }

    /// When [`Self::handle_timeout`] wants to be called, as `Now::mono_ns`.
    pub fn poll_timeout(&self) -> Option<u64> {
        None
    }

    /// A snapshot of the state, for people and metrics.
    pub fn status(&self) -> Status {
        Status::default()
    }

    /// What happened so far.
    pub fn counters(&self) -> Counters {
        Counters::default()
    }

    /// This member's number.
    pub fn member(&self) -> MemberId {
        self.me
    }

    /// This start's number.
    pub fn boot(&self) -> Boot {
        unimplemented!()
    }

    /// The group's first record.
    pub fn genesis(&self) -> &Genesis {
        &self.genesis
    }

    /// The configuration in force.
    pub fn configuration(&self) -> &Configuration {
        &self.genesis.configuration
    }

    /// What this member is doing.
    pub fn standing(&self) -> Standing {
        Standing::Follower
    }

    /// Whom it follows; itself when it leads.
    pub fn leader(&self) -> Option<MemberId> {
        None
    }

    /// Its promise, synced or not.
    pub fn promised(&self) -> Ballot {
        Ballot::default()
    }

    /// The ballot that its log was adopted in, synced or not.
    pub fn accepted(&self) -> Ballot {
        Ballot::default()
    }

    /// First slot held.
    pub fn first(&self) -> Slot {
        Slot(1)
    }

    /// Last slot held, synced or not.
    pub fn last(&self) -> Slot {
        Slot::ZERO
    }

    /// Last slot held that is synced.
    pub fn synced(&self) -> Slot {
        Slot::ZERO
    }

    /// Last slot known to be chosen.
    pub fn commit(&self) -> Slot {
        Slot::ZERO
    }

    /// Last slot that the app has executed.
    pub fn applied(&self) -> Slot {
        Slot::ZERO
    }

    /// The ballot of the entry at `slot`, if it is held.
    pub fn ballot_at(&self, slot: Slot) -> Option<Ballot> {
        None
    }

    /// The entry at `slot`, if it is in memory.
    pub fn entry(&self, slot: Slot) -> Option<&Entry> {
        None
    }
}
