//! The keeper of each member's snapshots, as far as it decides anything: members take turns to make
//! them, have them compared, begin their copies and their logs behind them, and give them to those who
//! lack what no log has any more.
//!
//! In: how far copies are, what the agreement needs. Out: snapshots that apply and the agreement begin
//! behind. Each holds the tables of the production fold and the app's state; each step from the app's
//! answer to the use of a snapshot is an event of its own, between which everything may die.

use bytes::Bytes;
use synod_paxos::{Base, Epoch, MemberId, Slot};
use synod_sidecar::app::Instance;
use synod_sidecar::apply::{Fold, Job};
/// Whether it may be used.
pub(crate) use synod_sidecar::snapshot::Standing as Use;

use crate::app::State;
use crate::calendar::{Event, Life};
use crate::coverage::Sight;
use crate::invariants::Violation;
use crate::invariants::applied::is_right;
use crate::network::{id_of, index_of};
use crate::world::{Host, World};

/// Usable snapshots that a member keeps.
const KEPT: usize = 2;
/// A snapshot in a member's store.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    pub(crate) base: Base,
    /// As the production fold saves them.
    pub(crate) tables: Bytes,
    pub(crate) state: State,
    pub(crate) standing: Use,
    /// Whose state it is, on the member that took it.
    pub(crate) maker: Option<Maker>,
}

/// What a snapshot is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Maker {
    pub(crate) life: Life,
    pub(crate) lineage: u64,
    pub(crate) instance: Option<Instance>,
}

/// A snapshot that was asked for.
#[derive(Debug)]
pub(crate) struct Taking {
    pub(crate) job: Job,
    /// Once its slot is reached.
    pub(crate) tables: Option<Box<Fold>>,
}

/// The keeper of a running member.
#[derive(Debug, Default)]
pub(crate) struct Keeper {
    /// The newest that apply was told of.
    pub(crate) told: Slot,
    pub(crate) taking: Option<Taking>,
    /// On its way to the store.
    pub(crate) made: Option<Snapshot>,
    /// One of another member is on its way.
    pub(crate) fetching: bool,
    /// The agreement needs one of this slot or a later one.
    pub(crate) needs: Option<Slot>,
    /// The volume is to be put back once no app runs.
    pub(crate) volume: Option<(Job, Slot)>,
    /// Where the copy stood when it was seen last, and since when.
    pub(crate) stood: Option<(Slot, Slot, u64)>,
}

// === impl Maker ===

impl Maker {
    /// The same state, with all that it has become since.
    pub(crate) fn is(self, now: Self) -> bool {
        (self.life, self.lineage) == (now.life, now.lineage)
    }
}

// === impl Keeper ===

impl Keeper {
    /// Of a life that begins behind this snapshot.
    pub(crate) fn new(told: Slot) -> Self {
        Self {
            told,
            ..Self::default()
        }
    }

    pub(crate) fn is_busy(&self) -> bool {
        self.taking.is_some() || self.made.is_some() || self.fetching
    }
}

// === impl Host ===

impl Host {
    pub(crate) fn newest_usable(&self) -> Option<&Snapshot> {
        self.snapshots.iter().rev().find(|it| it.standing.usable())
    }

    /// In slot order; one at each slot.
    pub(crate) fn put_snapshot(&mut self, snapshot: Snapshot) {
        let slot = snapshot.base.slot;
        let at = self.snapshots.partition_point(|it| it.base.slot < slot);
        match self.snapshots.get_mut(at).filter(|it| it.base.slot == slot) {
            Some(there) if there.standing == Use::Uncompared => *there = snapshot,
            Some(_) => {}
            None => self.snapshots.insert(at, snapshot),
        }
        self.retain();
    }

    /// The newest that may be used, and what waits for its comparison.
    pub(crate) fn retain(&mut self) {
        let usable = |it: &&Snapshot| it.standing.usable();
        while self.snapshots.iter().filter(usable).count() > KEPT {
            let oldest = self.snapshots.iter().position(|it| usable(&it));
            self.snapshots.remove(oldest.expect("there are some"));
        }
    }

    /// The copy was found to differ from this slot on: what it has made since is void, but for what a
    /// majority vouches for. True if there was any.
    pub(crate) fn void_since(&mut self, slot: Slot) -> bool {
        let before = self.snapshots.len();
        let is_good = |it: &Snapshot| it.base.slot < slot || it.standing == Use::Verified;
        self.snapshots.retain(is_good);
        self.snapshots.len() < before
    }
}

// === from one member to another ===

impl World {
    /// The agreement needs one to go on behind.
    pub(crate) fn need_snapshot(&mut self, member: usize, at_least: Slot) {
        let process = self.hosts[member].process.as_mut().expect("it was polled");
        process.keeper.needs = process.keeper.needs.max(Some(at_least));
    }

    /// A snapshot of another member is on its way.
    pub(crate) fn plan_fetch(&mut self, member: usize, from: Option<usize>, at_least: Slot) {
        let life = self.hosts[member].life;
        let delay = self.dice.log_range(1_000_000, 2_000_000_000);
        self.plan(
            delay,
            Event::Fetched {
                member,
                life,
                from: from.map(id_of),
                at_least,
            },
        );
    }

    /// Another member's state is to help this one past a slot.
    pub(crate) fn fetch_past(&mut self, member: usize, from: usize, slot: Slot) {
        let Some(process) = &mut self.hosts[member].process else {
            return;
        };
        if !process.keeper.is_busy() {
            process.keeper.fetching = true;
            self.plan_fetch(member, Some(from), slot);
        }
    }

    /// A snapshot has come, if anybody could give one.
    pub(crate) fn fetched(
        &mut self,
        member: usize,
        life: Life,
        from: Option<MemberId>,
        at_least: Slot,
    ) -> Result<(), Violation> {
        let process = self.hosts[member].process.as_mut();
        let Some(process) = process.filter(|it| it.life == life) else {
            self.coverage.saw(Sight::DiedFetching);
            return Ok(());
        };
        process.keeper.fetching = false;
        let from = match from {
            Some(from) => index_of(from),
            None => self.seated[self.dice.pick(self.seated.len())],
        };
        let host = &self.hosts[from];
        let found = host.newest_usable().filter(|it| it.base.slot >= at_least);
        let reached = from != member && !self.network.is_cut(from, member);
        let found = found.filter(|_| host.process.is_some() && reached);
        // A witness votes for nothing that too few copies have.
        let is_held = |it: &&Snapshot| {
            !self.hosts[member].witness || it.base.slot <= self.held_as_led(member)
        };
        let found = found.filter(is_held);
        let own = self.hosts[member].newest_usable();
        let own = own.filter(|it| it.base.slot >= at_least);
        let Some(snapshot) = own.or(found).cloned() else {
            return Ok(());
        };
        let base = snapshot.base.clone();
        is_right(member, &snapshot)?;
        let host = &mut self.hosts[member];
        // A witness has no use for the state.
        if !host.witness {
            host.put_snapshot(Snapshot {
                maker: None,
                ..snapshot
            });
        }
        let process = host.process.as_mut().expect("it runs");
        if process.keeper.needs.is_some_and(|it| it <= base.slot) {
            process.keeper.needs = None;
            self.offer(member, base)?;
        }
        self.settle(member)
    }

    /// At a start the agreement hears of a snapshot that the log does not reach.
    pub(crate) fn offer_own_snapshot(&mut self, member: usize) -> Result<(), Violation> {
        let host = &self.hosts[member];
        let process = host.process.as_ref();
        let last = process.map_or(Slot::ZERO, |it| it.paxos.last());
        let newest = host.newest_usable().map(|it| it.base.clone());
        match newest.filter(|base| base.slot > last) {
            Some(base) => self.offer(member, base),
            None => Ok(()),
        }
    }

    fn offer(&mut self, member: usize, base: Base) -> Result<(), Violation> {
        let now = self.clock(member);
        self.trace.line(self.now_ns, || {
            format!("{} gets a snapshot of slot {}", member + 1, base.slot)
        });
        let process = self.hosts[member].process.as_mut().expect("it runs");
        process.paxos.handle_installed(now, base).map_err(|error| {
            let text = format!("member {} refuses a snapshot: {error}", member + 1);
            Violation::new("W5", text)
        })
    }

    /// The log begins behind this slot: apply goes on from the snapshot.
    pub(crate) fn installed(&mut self, member: usize, slot: Slot) -> Result<(), Violation> {
        self.tally.installs += 1;
        let host = &mut self.hosts[member];
        if host.disk.base_slot() != slot || host.disk.synced().last < slot {
            let text = format!("member {} installs {slot} before its sync", member + 1);
            return Err(Violation::new("I7", text));
        }
        self.checks.chosen.claimed(member, slot, "installs")?;
        let process = self.hosts[member].process.as_mut().expect("it was polled");
        process.copy.hand_over(slot);
        if process.paxos.base().configuration.epoch > process.told_epoch {
            self.coverage.saw(Sight::InstalledAcrossEpochs);
            if member >= self.swarm.members && process.told_epoch == Epoch(1) {
                self.coverage.saw(Sight::JoinedBySnapshot);
            }
        }
        Ok(())
    }
}
