//! Snapshots as far as the agreement sees them: members make them now and then, keep two, let their
//! logs begin behind the older one, and give them to those who ask.
//!
//! In: how far copies are, what the agreement needs. Out: bases. What a snapshot holds besides is the
//! state that executing all up to its slot comes to, and that is how a copy gets it here: it executes
//! what was chosen, from the beginning.

use synod_paxos::{Base, Epoch, Role, Slot, SnapshotRefused};

use crate::calendar::{Event, Life};
use crate::coverage::Sight;
use crate::invariants::Violation;
use crate::network::index_of;
use crate::world::World;

impl World {
    /// A member whose copy is far enough behind its last snapshot makes another.
    pub(crate) fn make_snapshot(&mut self, member: usize) -> Result<(), Violation> {
        let host = &mut self.hosts[member];
        let every = self.swarm.snapshot_slots;
        let Some(process) = host.process.as_mut().filter(|it| !it.paused && every > 0) else {
            return Ok(());
        };
        let applied = process.copy.machine.applied();
        let newest = host.snapshots.last().map_or(Slot::ZERO, |base| base.slot);
        if host.witness {
            return self.forget_as_witness(member);
        }
        if applied.0 < newest.0 + every || applied > process.paxos.commit() {
            return Ok(());
        }
        let Some(time) = self.checks.chosen.value(applied).map(|entry| entry.time) else {
            return Ok(());
        };
        let Some(base) = process.paxos.base_at(applied, time) else {
            return Ok(());
        };
        keep(&mut host.snapshots, base);
        self.tally.snapshots += 1;
        let older = host.snapshots[0].clone();
        if host.snapshots.len() < 2 || older.slot <= process.paxos.base().slot {
            return Ok(());
        }
        self.forget(member, older)
    }

    /// A witness makes none: it forgets what a majority of those that run the app have in theirs.
    fn forget_as_witness(&mut self, member: usize) -> Result<(), Violation> {
        let process = self.hosts[member]
            .process
            .as_ref()
            .expect("the caller has looked");
        let paxos = &process.paxos;
        let members = paxos.configuration().members.iter();
        let copies = members.filter(|it| it.role != Role::Witness);
        let newest = copies.map(|it| self.hosts[index_of(it.id)].snapshots.last());
        let mut newest: Vec<Slot> = newest
            .map(|it| it.map_or(Slot::ZERO, |it| it.slot))
            .collect();
        newest.sort_unstable_by(|a, b| b.cmp(a));
        let Some(slot) = newest.get(newest.len() / 2).copied() else {
            return Ok(());
        };
        if slot.0 < paxos.base().slot.0 + self.swarm.snapshot_slots {
            return Ok(());
        }
        let time = self.checks.chosen.value(slot).map(|entry| entry.time);
        match time.and_then(|time| paxos.base_at(slot, time)) {
            Some(base) => self.forget(member, base),
            None => Ok(()),
        }
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
                self.settle(member)
            }
            // An entry that cannot be read holds up what comes behind it.
            Err(SnapshotRefused::Beyond { .. }) => Ok(()),
            Err(error) => {
                let text = format!("member {} may not forget: {error}", member + 1);
                Err(Violation::new("W5", text))
            }
        }
    }

    /// A snapshot of another member is on its way.
    pub(crate) fn plan_fetch(&mut self, member: usize, at_least: Slot) {
        let life = self.hosts[member].life;
        let delay = self.dice.log_range(1_000_000, 2_000_000_000);
        self.plan(
            delay,
            Event::Fetched {
                member,
                life,
                at_least,
            },
        );
    }

    /// A snapshot has come, if anybody could give one.
    pub(crate) fn fetched(
        &mut self,
        member: usize,
        life: Life,
        at_least: Slot,
    ) -> Result<(), Violation> {
        if self.hosts[member]
            .process
            .as_ref()
            .is_none_or(|it| it.life != life)
        {
            return Ok(());
        }
        let from = self.seated[self.dice.pick(self.seated.len())];
        let host = &self.hosts[from];
        let found = host.snapshots.last().filter(|base| base.slot >= at_least);
        // What a witness keeps is no state.
        let found = found.filter(|_| !host.witness);
        let Some(base) = found.filter(|_| host.process.is_some()).cloned() else {
            self.plan_fetch(member, at_least);
            return Ok(());
        };
        if self.hosts[member]
            .snapshots
            .last()
            .is_none_or(|it| it.slot < base.slot)
        {
            let host = &mut self.hosts[member];
            if !host.witness {
                keep(&mut host.snapshots, base.clone());
            }
        }
        let process = self.hosts[member].process.as_mut().expect("it runs");
        process.fetches_state = false;
        self.offer(member, base)?;
        self.settle(member)
    }

    /// At a start the agreement hears of a snapshot that the log does not reach.
    pub(crate) fn offer_own_snapshot(&mut self, member: usize) -> Result<(), Violation> {
        let host = &self.hosts[member];
        let last = host
            .process
            .as_ref()
            .map_or(Slot::ZERO, |it| it.paxos.last());
        match host
            .snapshots
            .last()
            .filter(|base| base.slot > last)
            .cloned()
        {
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

fn keep(snapshots: &mut Vec<Base>, base: Base) {
    snapshots.push(base);
    if snapshots.len() > 2 {
        snapshots.remove(0);
    }
}
