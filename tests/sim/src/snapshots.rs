//! The keeper of each member's snapshots, as far as it decides anything: members take turns to make
//! them, have them compared, begin their copies and their logs behind them, and give them to those who
//! lack what no log has any more.
//!
//! In: how far copies are, what the agreement needs. Out: snapshots that apply and the agreement begin
//! behind. Each holds the tables of the production fold and the app's state; each step from the app's
//! answer to the use of a snapshot is an event of its own, between which everything may die.

use bytes::Bytes;
use synod_paxos::{Base, Epoch, MemberId, Role, Slot, SnapshotRefused, Standing};
use synod_sidecar::apply::{Fold, Job};
use synod_sidecar::snapshot::policy;

use crate::app::State;
use crate::calendar::{Event, Life};
use crate::coverage::Sight;
use crate::invariants::Violation;
use crate::network::{id_of, index_of};
use crate::world::{Host, World};

/// Usable snapshots that a member keeps.
const KEPT: usize = 2;
/// Chance, each look, that what cannot be compared is used all the same: the log is half full.
const FILLS: f64 = 0.005;
/// Chance that one usable snapshot must do to cut the log: it is nearly full.
const NEARLY_FULL: f64 = 0.02;
/// A copy that could execute something and has nothing to wait for has done so before that.
const STANDS_NS: u64 = 20_000_000_000;

/// A snapshot in a member's store.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    pub(crate) base: Base,
    /// As the production fold saves them.
    pub(crate) tables: Bytes,
    pub(crate) state: State,
    pub(crate) standing: Use,
    /// The life and the lineage that it was taken of, on the member that took it.
    pub(crate) maker: Option<(Life, u64)>,
}

/// Whether it may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    Uncompared,
    /// It need not, or cannot, be compared.
    Unverified,
    Verified,
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
    told: Slot,
    pub(crate) taking: Option<Taking>,
    /// On its way to the store.
    pub(crate) made: Option<Snapshot>,
    /// One of another member is on its way.
    fetching: bool,
    /// The agreement needs one of this slot or a later one.
    needs: Option<Slot>,
    /// The volume is to be put back once no app runs.
    pub(crate) volume: Option<(Job, Slot)>,
    /// Where the copy stood when it was seen last, and since when.
    stood: Option<(Slot, Slot, u64)>,
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
        let usable = |it: &&Snapshot| it.standing != Use::Uncompared;
        self.snapshots.iter().rev().find(usable)
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
        let usable = |it: &&Snapshot| it.standing != Use::Uncompared;
        while self.snapshots.iter().filter(usable).count() > KEPT {
            let oldest = self.snapshots.iter().position(|it| usable(&it));
            self.snapshots.remove(oldest.expect("there are some"));
        }
    }
}

// === the keeper looks round ===

impl World {
    pub(crate) fn look_round(&mut self, member: usize, life: Life) -> Result<(), Violation> {
        let process = self.hosts[member].process.as_ref();
        if process.is_none_or(|it| it.life != life) {
            return Ok(());
        }
        self.plan(self.swarm.service.look_ns, Event::Keep { member, life });
        self.check_kept()?;
        self.prove(member);
        if self.hosts[member].witness {
            self.forget_as_witness(member)?;
            self.fetch(member);
            return self.settle(member);
        }
        self.check_standing(member)?;
        self.mark(member);
        self.tell_apply(member)?;
        self.compact(member)?;
        self.fetch(member);
        self.give_turn(member);
        if self.swarm.snapshot_slots > 0 && !self.calm {
            let wanted = self.dice.chance(self.swarm.service.wanted_now);
            if wanted {
                self.take(member);
            }
        }
        self.settle(member)
    }

    /// Asks the agreement what was chosen when this life began (rule R1), until it says so.
    fn prove(&mut self, member: usize) {
        let now = self.clock(member);
        let Some(process) = &mut self.hosts[member].process else {
            return;
        };
        if !process.copy.proven && process.proof_read.is_none() {
            let id = process.next_read();
            process.proof_read = Some(id);
            process.paxos.read(now, id);
        }
    }

    /// A copy that nothing holds up goes on.
    fn check_standing(&mut self, member: usize) -> Result<(), Violation> {
        let now_ns = self.now_ns;
        let host = &mut self.hosts[member];
        let Some(process) = &mut host.process else {
            return Ok(());
        };
        let copy = &process.copy;
        let machine = &copy.machine;
        let (applied, admitted) = (machine.applied(), machine.fold().admitted());
        let next = machine.next_to_execute().unwrap_or(admitted.next());
        let readable = next > host.disk.base_slot() && host.disk.read(next).is_some();
        let unproven = matches!(
            machine.blocked(),
            Some(synod_sidecar::apply::Blocked::Unproven(_))
        );
        let waits = machine.run().is_some()
            || machine.taking_snapshot().is_some()
            || applied >= copy.through()
            || (admitted < copy.through() && !readable)
            || if unproven {
                !copy.proven
            } else {
                machine.blocked().is_some()
            };
        let stood = process
            .keeper
            .stood
            .filter(|(a, b, _)| (*a, *b) == (applied, admitted));
        if waits {
            process.keeper.stood = None;
            return Ok(());
        }
        let (_, _, since) = *process
            .keeper
            .stood
            .insert(stood.unwrap_or((applied, admitted, now_ns)));
        if now_ns < since + STANDS_NS {
            return Ok(());
        }
        let text = format!(
            "member {} stands at slot {applied}, has admitted {admitted} of {} and waits for nothing: {:?}",
            member + 1,
            copy.through(),
            machine.blocked()
        );
        Err(Violation::new("standstill", text))
    }

    /// What a majority has executed alike may be used; what is of another life can be compared no more.
    fn mark(&mut self, member: usize) {
        let fills = self.dice.chance(FILLS);
        let Some(process) = &self.hosts[member].process else {
            return;
        };
        let now = (process.life, process.copy.machine.lineage().number);
        let members = process.paxos.configuration().members.iter();
        let copies = members.filter(|it| it.role != Role::Witness);
        let mut executed: Vec<Slot> = copies
            .map(|it| {
                let process = self.hosts[index_of(it.id)].process.as_ref();
                process.map_or(Slot::ZERO, |it| it.copy.machine.executed())
            })
            .collect();
        executed.sort_unstable_by(|a, b| b.cmp(a));
        let majority = executed.get(executed.len() / 2).copied();
        let host = &mut self.hosts[member];
        let mut gone = Vec::new();
        for it in &mut host.snapshots {
            if it.standing != Use::Uncompared {
                continue;
            }
            let slot = it.base.slot;
            if it.maker != Some(now) {
                self.coverage.saw(Sight::SnapshotsUncomparable);
                gone.push(slot);
            } else if majority.is_some_and(|it| it >= slot) {
                self.coverage.saw(Sight::SnapshotsCompared);
                it.standing = Use::Verified;
            } else if fills {
                self.coverage.saw(Sight::SnapshotsUnverified);
                it.standing = Use::Unverified;
            }
        }
        host.snapshots.retain(|it| !gone.contains(&it.base.slot));
        let all = std::mem::take(&mut host.snapshots);
        for it in all {
            host.put_snapshot(it);
        }
    }

    /// A copy that must be made anew begins with the newest.
    fn tell_apply(&mut self, member: usize) -> Result<(), Violation> {
        let host = &mut self.hosts[member];
        let newest = host
            .newest_usable()
            .map(|it| (it.base.slot, it.tables.clone()));
        let Some(process) = &mut host.process else {
            return Ok(());
        };
        let Some((slot, tables)) = newest else {
            return Ok(());
        };
        let reached = process.paxos.commit().max(process.copy.through());
        if slot <= process.keeper.told || slot > reached {
            return Ok(());
        }
        process.keeper.told = slot;
        let fold = Fold::load(&tables).expect("what was saved can be loaded");
        let ahead = fold.admitted() > process.copy.machine.fold().admitted();
        if process.copy.machine.handle_snapshot_available(fold) {
            self.coverage.saw(if ahead {
                Sight::SnapshotsJumped
            } else {
                Sight::SnapshotsUsed
            });
        }
        self.settle(member)
    }

    /// The log begins behind the older of two, as far as apply does not need it.
    fn compact(&mut self, member: usize) -> Result<(), Violation> {
        let full = self.dice.chance(NEARLY_FULL);
        let host = &self.hosts[member];
        let Some(process) = &host.process else {
            return Ok(());
        };
        let usable = |it: &&Snapshot| it.standing != Use::Uncompared;
        let mut usable = host.snapshots.iter().rev().filter(usable);
        let newest = usable.next();
        let older = if full { newest } else { usable.next() };
        let Some(base) = older.map(|it| it.base.clone()) else {
            return Ok(());
        };
        let needed = base.slot > process.copy.machine.not_needed();
        if base.slot <= process.paxos.base().slot || needed {
            return Ok(());
        }
        self.forget(member, base)
    }

    /// Gets one from another member, if the log lacks what no log has any more.
    fn fetch(&mut self, member: usize) {
        let host = &mut self.hosts[member];
        let newest = host.newest_usable().map(|it| it.base.slot);
        let newest = newest.unwrap_or_default();
        let Some(process) = &mut host.process else {
            return;
        };
        let base = process.paxos.base().slot;
        let lacks = (newest < base && !host.witness).then_some(base);
        process.keeper.needs.take_if(|it| *it <= base);
        let Some(at_least) = process.keeper.needs.max(lacks) else {
            return;
        };
        if !process.keeper.is_busy() {
            process.keeper.fetching = true;
            self.plan_fetch(member, None, at_least);
        }
    }

    /// If this member leads, and nobody is at it: whoever is due makes one, followers first; the leader
    /// gets a follower's.
    fn give_turn(&mut self, member: usize) {
        let every = self.swarm.snapshot_slots;
        let Some(process) = self.hosts[member].process.as_ref() else {
            return;
        };
        if process.paxos.standing() != Standing::Leader || every == 0 {
            return;
        }
        let members = process.paxos.configuration().members.iter();
        let copies: Vec<usize> = members
            .filter(|it| it.role != Role::Witness)
            .map(|it| index_of(it.id))
            .filter(|it| *it == member || !self.network.is_cut(member, *it))
            .collect();
        let mut due = Vec::new();
        let mut best = (Slot::ZERO, member);
        for it in copies {
            let host = &self.hosts[it];
            let Some(process) = host.process.as_ref().filter(|it| !it.paused) else {
                continue;
            };
            if process.keeper.is_busy() {
                return;
            }
            let newest = host.snapshots.last().map_or(Slot::ZERO, |it| it.base.slot);
            let usable = host.newest_usable().map_or(Slot::ZERO, |it| it.base.slot);
            if it != member && process.copy.machine.serving() {
                best = best.max((usable, it));
            }
            let healthy = process.copy.machine.serving();
            // Tables grow with the log, and so does what saving them costs the simulator.
            let every = every.max(newest.0 / 12);
            if healthy && process.copy.machine.applied().0 >= newest.0 + every {
                due.push((newest, it));
            }
        }
        due.sort_unstable();
        let Some((newest, to)) = due.first().copied() else {
            return;
        };
        let delay = self.dice.range(10_000, 5_000_000);
        if to == member && best.0 > newest {
            let at_least = newest.next();
            let process = self.hosts[member].process.as_mut().expect("it leads");
            process.keeper.fetching = true;
            self.coverage.saw(Sight::SnapshotsCopied);
            self.plan_fetch(member, Some(best.1), at_least);
        } else {
            self.plan(delay, Event::Turn { member: to });
        }
    }

    /// It is this member's turn.
    pub(crate) fn turn(&mut self, member: usize) -> Result<(), Violation> {
        self.take(member);
        self.settle(member)
    }

    /// A witness makes none: it forgets what enough of those that run the app have in theirs.
    fn forget_as_witness(&mut self, member: usize) -> Result<(), Violation> {
        let Some(process) = &self.hosts[member].process else {
            return Ok(());
        };
        let paxos = &process.paxos;
        let slot = self.held_by_copies(member);
        let every = self.swarm.snapshot_slots;
        if every == 0 || slot.0 < paxos.base().slot.0 + every {
            return Ok(());
        }
        let time = self.checks.chosen.value(slot).map(|entry| entry.time);
        match time.and_then(|time| paxos.base_at(slot, time)) {
            Some(base) => self.forget(member, base),
            None => Ok(()),
        }
    }

    /// As a leader says that this witness reaches: one that has no log yet knows of old members only.
    fn held_as_led(&self, member: usize) -> Slot {
        let leads = |it: &&usize| {
            let process = self.hosts[**it].process.as_ref();
            let leads = process.is_some_and(|it| it.paxos.standing() == Standing::Leader);
            leads && !self.network.is_cut(**it, member)
        };
        let epoch = |it: &&usize| {
            let process = self.hosts[**it].process.as_ref();
            process.map(|it| it.paxos.epoch())
        };
        let leader = self.seated.iter().filter(leads).max_by_key(epoch);
        leader.map_or(Slot::ZERO, |it| self.held_by_copies(*it))
    }

    /// As the copies say that this member reaches.
    fn held_by_copies(&self, member: usize) -> Slot {
        let Some(process) = &self.hosts[member].process else {
            return Slot::ZERO;
        };
        policy::held(process.paxos.roster(), |copy| {
            let copy = index_of(copy);
            let host = &self.hosts[copy];
            let reached = host.process.is_some() && !self.network.is_cut(copy, member);
            let newest = host.newest_usable().filter(|_| reached);
            newest.map_or(Slot::ZERO, |it| it.base.slot)
        })
    }

    fn forget(&mut self, member: usize, older: Base) -> Result<(), Violation> {
        let now = self.clock(member);
        let process = self.hosts[member].process.as_mut().expect("it runs");
        self.trace.line(self.now_ns, || {
            format!("{} forgets all up to {}", member + 1, older.slot)
        });
        match process.paxos.handle_snapshot(now, older) {
            Ok(()) => {
                self.tally.compactions += 1;
                Ok(())
            }
            // An entry that cannot be read holds up what comes behind it.
            Err(SnapshotRefused::Beyond { .. }) => Ok(()),
            Err(error) => {
                let text = format!("member {} may not forget: {error}", member + 1);
                Err(Violation::new("W5", text))
            }
        }
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
    fn plan_fetch(&mut self, member: usize, from: Option<usize>, at_least: Slot) {
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
