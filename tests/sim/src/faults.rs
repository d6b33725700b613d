//! Faults: when they strike, what they do, and how they end.

use synod_paxos::Slot;

use crate::calendar::Event;
use crate::invariants::Violation;
use crate::network::LANES;
use crate::world::World;

/// Something that goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    Crash,
    CrashAll,
    Pause,
    /// One path, one way, or both; the ends are drawn when it strikes.
    Cut,
    /// What a cut has cut: it ends for this path.
    CutPath {
        from: usize,
        to: usize,
    },
    /// The members of the mask against all others.
    Partition,
    PartitionOf {
        mask: u32,
    },
    Spike,
    ClockJump,
    AppKill,
    DiskFull,
    DiskFullOf {
        member: usize,
    },
    /// A disk is lost for good, and the member with it.
    DiskLoss,
    /// An app answers and stores something else than all others.
    Astray,
    /// Not a fault, but something that happens at any time: leadership is handed over.
    Transfer,
}

macro_rules! tally {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// How often each kind struck: a run whose faults did not take place proves little.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Tally {
            $($(#[$doc])* pub $name: u64,)*
        }

        // === impl Tally ===

        impl Tally {
            /// Adds what another run saw.
            pub fn add(&mut self, other: &Self) {
                $(self.$name += other.$name;)*
            }

            /// All of them, by name.
            pub fn all(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name)),*].into_iter()
            }
        }
    };
}

tally! {
    /// Processes that died.
    crashes,
    /// Those of them that died with their machine.
    machine_crashes,
    /// Processes that stood still for a while.
    pauses,
    /// Paths between two members that carried nothing, one way or both.
    cuts,
    /// Members cut off from all others.
    partitions,
    /// Streams that broke.
    breaks,
    /// Streams broken by their senders because too much waited in them.
    overflows,
    /// Messages that came again, late.
    duplicates,
    /// Wall clocks that were set.
    clock_jumps,
    /// Apps that died.
    app_kills,
    /// Disks that were full for a while.
    disk_fulls,
    /// Leadership that was handed over on request.
    transfers,
    /// Entries whose bodies were lost on one disk.
    spoiled_entries,
    /// Logs that were cut.
    compactions,
    /// Snapshots that took the place of a log.
    installs,
    /// Leaders that followed another.
    leader_changes,
    /// Leadership was handed over because another was preferred.
    handovers,
    /// Members that did not come back for the liveness phase.
    absent,
}

/// A fault that struck.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Strike {
    /// Its place among all that were planned, from 0.
    pub number: u64,
    /// Virtual time, in nanoseconds.
    pub at_ns: u64,
    /// What it was, and whom it struck.
    pub what: String,
}

impl World {
    /// Puts the first fault of each kind in the calendar.
    pub(crate) fn plan_faults(&mut self) {
        for fault in [
            Fault::Crash,
            Fault::CrashAll,
            Fault::Pause,
            Fault::Cut,
            Fault::Partition,
            Fault::Spike,
            Fault::ClockJump,
            Fault::AppKill,
            Fault::DiskFull,
            Fault::Transfer,
            Fault::DiskLoss,
            Fault::Astray,
        ] {
            self.plan_next(fault);
        }
    }

    fn plan_next(&mut self, fault: Fault) {
        let swarm = &self.swarm.faults;
        let mean = match fault {
            Fault::Crash => swarm.crash,
            Fault::CrashAll => swarm.crash_all,
            Fault::Pause => swarm.pause,
            Fault::Cut => swarm.cut,
            Fault::Partition => swarm.partition,
            Fault::Spike => swarm.spike,
            Fault::ClockJump => swarm.clock_jump,
            Fault::AppKill => swarm.app_kill,
            Fault::DiskFull => swarm.disk_full,
            Fault::Transfer => swarm.transfer,
            Fault::DiskLoss => self.swarm.membership.as_ref().and_then(|it| it.lose),
            Fault::Astray => self.swarm.compared.as_ref().and_then(|it| it.odd_every_ns),
            Fault::CutPath { .. } | Fault::PartitionOf { .. } | Fault::DiskFullOf { .. } => None,
        };
        if let Some(mean) = mean {
            let delay = self.dice.gap(mean);
            self.plan(delay, Event::Fault(fault));
        }
    }

    /// A fault strikes, and the next of its kind is planned.
    pub(crate) fn strike(&mut self, fault: Fault) -> Result<(), Violation> {
        if self.calm {
            return Ok(());
        }
        self.plan_next(fault);
        let member = self.seated[self.dice.pick(self.seated.len())];
        let length = self.dice.gap(self.swarm.faults.length_ns);
        let machine = self.dice.chance(self.swarm.faults.machine);
        let number = self.planned;
        self.planned += 1;
        if self.only.as_ref().is_some_and(|it| !it.contains(&number)) {
            return Ok(());
        }
        let what = format!("{fault:?} (member {})", member + 1);
        self.trace.line(self.now_ns, || format!("*** {what}"));
        self.strikes.push(Strike {
            number,
            at_ns: self.now_ns,
            what,
        });
        match fault {
            Fault::Crash => self.kill(member, machine, length),
            Fault::CrashAll => {
                for member in self.seated.clone() {
                    let length = self.dice.gap(self.swarm.faults.length_ns);
                    self.kill(member, machine, length);
                }
            }
            Fault::Pause => self.pause(member, length),
            Fault::Cut => self.cut(member, length),
            Fault::Partition => {
                let mask = self.dice.range(1, (1 << self.hosts.len()) - 1) as u32;
                self.tally.partitions += 1;
                self.set_partition(mask, true);
                self.plan(length, Event::Heal(Fault::PartitionOf { mask }));
            }
            Fault::Spike => self.network.spike(self.now_ns + length),
            Fault::ClockJump => self.set_clock(member),
            Fault::AppKill => {
                self.tally.app_kills += 1;
                let process = self.hosts[member].app.process;
                self.app_stop(member, process);
            }
            Fault::DiskFull => {
                self.tally.disk_fulls += 1;
                self.plan(length, Event::Heal(Fault::DiskFullOf { member }));
                return self.set_disk_full(member, true);
            }
            Fault::Transfer => {
                let now = self.clock(member);
                if let Some(process) = self.hosts[member].process.as_mut().filter(|p| !p.paused) {
                    self.tally.transfers += 1;
                    process.paxos.transfer(now, None);
                    return self.settle(member);
                }
            }
            Fault::DiskLoss => self.lose_disk(member),
            Fault::Astray => self.lead_astray(member),
            Fault::CutPath { .. } | Fault::PartitionOf { .. } | Fault::DiskFullOf { .. } => {
                unreachable!("these only end")
            }
        }
        Ok(())
    }

    /// A fault ends by itself.
    pub(crate) fn heal(&mut self, fault: Fault) -> Result<(), Violation> {
        match fault {
            Fault::CutPath { from, to } => self.heal_path(from, to),
            Fault::PartitionOf { mask } => self.set_partition(mask, false),
            Fault::DiskFullOf { member } => return self.set_disk_full(member, false),
            _ => {}
        }
        Ok(())
    }

    pub(crate) fn kill(&mut self, member: usize, machine: bool, length: u64) {
        if self.hosts[member].process.is_none() || self.is_looked_for() {
            return;
        }
        self.tally.crashes += 1;
        self.tally.machine_crashes += u64::from(machine);
        self.crash(member, machine);
        self.plan(length, Event::Start { member });
    }

    fn pause(&mut self, member: usize, length: u64) {
        let Some(process) = self.hosts[member].process.as_mut().filter(|p| !p.paused) else {
            return;
        };
        process.paused = true;
        let life = process.life;
        self.tally.pauses += 1;
        self.plan(length, Event::Resume { member, life });
    }

    /// Somebody sets a wall clock: by an hour, as a wrong time zone does, or by anything.
    fn set_clock(&mut self, member: usize) {
        if member >= self.swarm.stepped {
            return;
        }
        let hour_ns = 3_600_000_000_000;
        let by = [hour_ns, self.dice.log_range(1_000_000, 2 * hour_ns)][self.dice.pick(2)];
        let by = by.cast_signed();
        let by = if self.dice.chance(0.5) { by } else { -by };
        self.tally.clock_jumps += 1;
        self.hosts[member].clock.jump_wall(by);
    }

    fn cut(&mut self, from: usize, length: u64) {
        let to = self.seated[self.dice.pick(self.seated.len())];
        if from == to {
            return;
        }
        self.tally.cuts += 1;
        self.network.set_cut(from, to, true);
        self.plan(length, Event::Heal(Fault::CutPath { from, to }));
        if self.dice.chance(0.5) {
            self.network.set_cut(to, from, true);
            self.plan(length, Event::Heal(Fault::CutPath { from: to, to: from }));
        }
    }

    fn set_partition(&mut self, mask: u32, cut: bool) {
        for from in 0..self.hosts.len() {
            for to in self.network.others(from) {
                if (mask >> from) & 1 == (mask >> to) & 1 {
                    continue;
                }
                if cut {
                    self.network.set_cut(from, to, true);
                } else {
                    self.heal_path(from, to);
                }
            }
        }
    }

    /// What waited goes on, or its connections turn out to be dead.
    pub(crate) fn heal_path(&mut self, from: usize, to: usize) {
        self.network.set_cut(from, to, false);
        for lane in LANES {
            let stream = self.network.stream(from, to, lane);
            if !self.network.is_stalled(stream) {
                continue;
            }
            if self.dice.chance(0.5) {
                self.lose(stream, 2_000_000_000);
                continue;
            }
            for (at, turn) in self.network.resume(stream, self.now_ns, &mut self.dice) {
                self.calendar.put(at, Event::Deliver { stream, turn });
            }
        }
    }

    fn set_disk_full(&mut self, member: usize, full: bool) -> Result<(), Violation> {
        let now = self.clock(member);
        self.hosts[member].disk_full = full;
        if let Some(process) = self.hosts[member].process.as_mut().filter(|p| !p.paused) {
            process.paxos.handle_disk(now, full);
            return self.settle(member);
        }
        Ok(())
    }

    /// At a start some entries turn out to have lost their bodies, each with a good, synced copy on
    /// another member.
    pub(crate) fn spoil(&mut self, member: usize) {
        let last = self.hosts[member].disk.synced().last;
        if self.calm || last == Slot::ZERO || !self.dice.chance(self.swarm.faults.spoil) {
            return;
        }
        for _ in 0..self.dice.range(1, 4) {
            // Mostly near the end, where what is lost may not be committed.
            let back = self.dice.log_range(1, last.0) - 1;
            let slot = Slot(last.0 - back);
            let Some(entry) = self.hosts[member].disk.read(slot) else {
                continue;
            };
            let elsewhere = self.network.others(member).any(|other| {
                let disk = &self.hosts[other].disk;
                let stays = self.seated.contains(&other) && self.stays(other);
                stays && disk.synced().last >= slot && disk.read(slot) == Some(entry)
            });
            if elsewhere {
                self.tally.spoiled_entries += 1;
                self.hosts[member].disk.spoil(slot);
                self.trace.line(self.now_ns, || {
                    format!("{} slot {slot} is lost", member + 1)
                });
            }
        }
    }
}
