//! The shell of a member: it starts and ends the process, carries out what the agreement asks for,
//! and looks at the invariants after each step.

use synod_paxos::{CommandId, Entry, Io, Output, Paxos, Record, Slot, Ticket};

use crate::app::mix;
use crate::calendar::{Event, Life};
use crate::client::Reply;
use crate::comparison::Compared;
use crate::copy::{Copy, Ledger};
use crate::coverage::Sight;
use crate::invariants::time::{self, Right};
use crate::invariants::{Violation, limits, unsynced};
use crate::network::id_of;
use crate::process::{Outgoing, Process, Write};
use crate::revisions::tell_revision;
use crate::snapshots::Keeper;
use crate::swarm::Plant;
use crate::world::World;

/// Outputs and actions in a row without time passing, beyond which something goes in circles.
const SETTLE_LIMIT: u32 = 100_000;
/// Each so many steps of a member its queues are looked at.
const LIMITS_EVERY: u64 = 64;

impl World {
    /// Carries out all that a member has to do now, then checks it.
    pub(crate) fn settle(&mut self, member: usize) -> Result<(), Violation> {
        let mut outputs = 0;
        loop {
            self.pump(member)?;
            let Some(process) = &mut self.hosts[member].process else {
                return Ok(());
            };
            let Some(output) = process.paxos.poll_output() else {
                break;
            };
            self.carry_out(member, output)?;
            outputs += 1;
            if outputs > SETTLE_LIMIT {
                let text = format!("member {} has ever more to do at one moment", member + 1);
                return Err(Violation::new("I12", text));
            }
        }
        self.set_timer(member);
        self.check(member)?;
        self.keep_in_touch(member)?;
        self.note_changes();
        self.look_for_odd();
        Ok(())
    }

    fn carry_out(&mut self, member: usize, output: Output) -> Result<(), Violation> {
        match output {
            Output::Persist { io, records } => self.persist(member, io, &records),
            Output::Send {
                to,
                lane,
                message,
                after,
            } => {
                let early = self.swarm.plant == Plant::EarlySend;
                let after = after.filter(|_| !early);
                let outgoing = Outgoing {
                    to,
                    lane,
                    message,
                    after,
                };
                let process = self.hosts[member].process.as_mut().expect("it was polled");
                match process.hold(outgoing) {
                    Some(outgoing) => self.transmit(member, outgoing),
                    None => Ok(()),
                }
            }
            Output::Chosen { through, entries } => {
                self.checks
                    .chosen
                    .committed(member, through, &self.hosts[member].disk)?;
                for entry in &entries {
                    self.checks
                        .chosen
                        .claimed(member, entry.slot, "hands over")?;
                    self.checks.chosen.handed(member, entry)?;
                }
                let process = self.hosts[member].process.as_mut().expect("it was polled");
                process.copy.hand_over(through);
                Ok(())
            }
            Output::Resolved { id, .. } => {
                let process = self.hosts[member].process.as_mut().expect("it was polled");
                process.unresolved.remove(&id.sequence);
                Ok(())
            }
            Output::Withdrawn { id, .. } => {
                self.withdrawn(member, id);
                Ok(())
            }
            Output::ReadReady { id, index } => self.read_ready(member, id, index),
            Output::ReadFailed { id } => {
                let process = self.hosts[member].process.as_mut().expect("it was polled");
                process.proof_read.take_if(|it| *it == id);
                if let Some(term) = &mut process.term {
                    term.settle_read.take_if(|it| *it == id);
                }
                if let Some((attempt, _)) = process.reads.remove(&id) {
                    self.send_reply(attempt, Reply::Unknown);
                }
                Ok(())
            }
            Output::Load {
                ticket,
                from,
                through,
                max_bytes,
            } => {
                let life = self.hosts[member].life;
                let delay = self.dice.range(10_000, 2_000_000);
                self.plan(
                    delay,
                    Event::Loaded {
                        member,
                        life,
                        ticket,
                        from,
                        through,
                        max_bytes,
                    },
                );
                Ok(())
            }
            Output::LeaderChanged { leader, .. } => {
                self.tally.leader_changes += 1;
                self.trace
                    .line(self.now_ns, || format!("{} follows {leader:?}", member + 1));
                Ok(())
            }
            Output::NeedSnapshot { at_least } => {
                self.need_snapshot(member, at_least);
                Ok(())
            }
            Output::Installed { base } => self.installed(member, base.slot),
            Output::ProtocolChanged { .. } => Ok(()),
            Output::ConfigurationChanged {
                slot,
                configuration,
                ..
            } => self.configuration_changed(member, slot, &configuration),
            Output::Removed { epoch } => self.removed(member, epoch),
            Output::Outdated { protocol, .. } => Err(Violation::new(
                "P8",
                format!("member {} does not speak {protocol}", member + 1),
            )),
            Output::Forgetful { reported_by } => Err(Violation::new(
                "M4",
                format!(
                    "member {} is said to be forgetful by {reported_by}",
                    member + 1
                ),
            )),
        }
    }

    fn withdrawn(&mut self, member: usize, id: CommandId) {
        let process = self.hosts[member].process.as_mut().expect("it was polled");
        process.unresolved.remove(&id.sequence);
        if let Some(attempt) = process.attempts.remove(&id) {
            self.send_reply(attempt, Reply::NotOrdered);
        }
    }

    // === disk ===

    fn persist(&mut self, member: usize, io: Io, records: &[Record]) -> Result<(), Violation> {
        for record in records {
            self.trace.line(self.now_ns, || {
                format!("{} writes {}", member + 1, brief(record))
            });
            let host = &self.hosts[member];
            self.checks.written(member, host.life, record, &host.disk)?;
            if let Record::Append(entry) = record {
                self.check_stamp(member, entry)?;
                self.note_first_leader(member, entry);
            }
            let written = self.hosts[member].disk.write(record);
            written.map_err(|text| {
                Violation::new("record", format!("member {}: {text}", member + 1))
            })?;
        }
        let host = &mut self.hosts[member];
        let process = host.process.as_mut().expect("it was polled");
        let expected = Io(process
            .writes
            .back()
            .map_or(process.synced_io.0, |w| w.io.0)
            + 1);
        if io != expected {
            let text = format!(
                "member {} numbers a write {io:?} after {expected:?}",
                member + 1
            );
            return Err(Violation::new("I7", text));
        }
        process.writes.push_back(Write {
            io,
            records: records.len(),
        });
        self.begin_sync(member);
        Ok(())
    }

    /// One sync at a time; it covers all that is written when it begins (rule W3).
    fn begin_sync(&mut self, member: usize) {
        let host = &mut self.hosts[member];
        let life = host.life;
        let process = host.process.as_mut().expect("it runs");
        if process.syncing > 0 || process.writes.is_empty() {
            return;
        }
        process.syncing = process.writes.len();
        let mut takes = self
            .dice
            .range(self.swarm.sync_low_ns, self.swarm.sync_high_ns);
        if !self.calm && self.dice.chance(self.swarm.slow_sync) {
            takes += self.dice.range(0, 3_000_000_000);
        }
        if !self.calm && self.swarm.laggard == Some(member) {
            // Not so slow that it counts as stuck.
            let slow_ns = self.swarm.settings.election_timeout_ns / 3;
            takes = takes.max(self.dice.range(slow_ns / 2, slow_ns));
        }
        self.plan(takes, Event::Synced { member, life });
    }

    pub(crate) fn sync_done(&mut self, member: usize, life: Life) -> Result<(), Violation> {
        let now = self.clock(member);
        let host = &mut self.hosts[member];
        let Some(process) = host.process.as_mut().filter(|p| p.life == life) else {
            return Ok(());
        };
        let done: Vec<Write> = process.writes.drain(..process.syncing).collect();
        process.syncing = 0;
        host.disk
            .synced_up_to(done.iter().map(|write| write.records).sum());
        let io = done.last().expect("a sync covers something").io;
        process.synced_io = io;
        self.checks.synced(member, &host.disk)?;
        for outgoing in process.release() {
            self.transmit(member, outgoing)?;
        }
        let process = self.hosts[member].process.as_mut().expect("it runs");
        process.paxos.handle_synced(now, io);
        self.begin_sync(member);
        self.settle(member)
    }

    pub(crate) fn loaded(
        &mut self,
        member: usize,
        life: Life,
        ticket: Ticket,
        from: Slot,
        through: Slot,
        max_bytes: u64,
    ) -> Result<(), Violation> {
        let now = self.clock(member);
        let host = &mut self.hosts[member];
        let Some(process) = host.process.as_mut().filter(|p| p.life == life) else {
            return Ok(());
        };
        let mut entries = Vec::new();
        let mut bytes = 0;
        let mut slot = from;
        while slot <= through
            && (entries.is_empty() || bytes < max_bytes)
            && let Some(entry) = host.disk.read(slot)
        {
            bytes += entry.weight();
            entries.push(entry.clone());
            slot = slot.next();
        }
        process.paxos.handle_loaded(now, ticket, entries);
        self.settle(member)
    }

    // === time ===

    pub(crate) fn timer(&mut self, member: usize, life: Life) -> Result<(), Violation> {
        let now = self.clock(member);
        let now_ns = self.now_ns;
        let host = &mut self.hosts[member];
        let Some(process) = host.process.as_mut().filter(|p| p.life == life) else {
            return Ok(());
        };
        // An earlier time was set since: this entry of the calendar no longer counts.
        if process.timer_ns.is_none_or(|at| at > now_ns) {
            return Ok(());
        }
        process.timer_ns = None;
        if process
            .paxos
            .poll_timeout()
            .is_none_or(|at| at > now.mono_ns)
        {
            self.set_timer(member);
            return Ok(());
        }
        process.paxos.handle_timeout(now);
        self.settle(member)
    }

    /// Puts the agreement's timeout in the calendar, unless an earlier entry is there already.
    fn set_timer(&mut self, member: usize) {
        let host = &mut self.hosts[member];
        let Some(process) = &mut host.process else {
            return;
        };
        let Some(mono_ns) = process.paxos.poll_timeout() else {
            return;
        };
        // Timers are never exact, and at least a microsecond apart.
        let at = host.clock.true_at(mono_ns).max(self.now_ns + 1_000);
        if process.timer_ns.is_none_or(|set| at < set) {
            process.timer_ns = Some(at);
            let life = host.life;
            self.calendar.put(at, Event::Timer { member, life });
        }
    }

    // === life ===

    /// A dead member starts with what its disk kept.
    pub(crate) fn start(&mut self, member: usize) -> Result<(), Violation> {
        let gone = self.hosts[member].absent_since_ns.is_some();
        if gone || self.hosts[member].process.is_some() {
            return Ok(());
        }
        self.spoil(member);
        let now = self.clock(member);
        let seed = self.dice.bits() as u64;
        let compared = self.swarm.compared.is_some();
        let compared = compared.then(|| Box::new(Compared::new(mix(seed, 1))));
        let host = &mut self.hosts[member];
        host.life += 1;
        host.handovers = 0;
        let recovered = host.disk.recover();
        let genesis = recovered.genesis.clone().expect("every disk has it");
        self.trace.line(self.now_ns, || {
            format!(
                "{} starts: boot {} promised {} accepted {} last {} commit {} faulty {}",
                member + 1,
                recovered.boot,
                recovered.promised,
                recovered.accepted,
                recovered.last,
                recovered.commit,
                recovered.faulty.len()
            )
        });
        let paxos = Paxos::new(host.settings.clone(), recovered, now, seed)
            .map_err(|error| Violation::new("start", format!("member {}: {error}", member + 1)))?;
        if let Some(astray) = host.ledger.astray() {
            host.void_since(astray);
        }
        let mut copy = Copy::new(&genesis, self.swarm.service.state, host);
        copy.compared = compared;
        copy.hand_over(paxos.base().slot);
        tell_revision(&mut copy.machine, &host.app, host.offered);
        copy.machine.handle_app(crate::copy::look(host));
        let newest = host.newest_usable().map(|it| it.base.slot);
        let keeper = Keeper::new(newest.unwrap_or_default());
        let life = host.life;
        host.process = Some(Process::new(
            life,
            paxos,
            copy,
            keeper,
            self.swarm.machines(),
        ));
        if !host.promises.is_empty() {
            self.coverage.saw(Sight::PromisesKept);
        }
        let first = self.dice.range(1_000, self.swarm.service.look_ns);
        self.plan(first, Event::Keep { member, life });
        let first = self.dice.range(1_000, self.swarm.service.look_ns);
        self.plan(first, Event::Judge { member, life });
        self.offer_own_snapshot(member)?;
        let applied = self.tell_applied_at_start(member);
        self.checks.restarted(member, &self.hosts[member].disk)?;
        self.trace.mix(applied.0);
        self.keep_in_touch(member)?;
        if !self.hosts[member].app.up {
            self.plan_app(member, 1_000_000);
        }
        self.settle(member)
    }

    /// The process dies, and with `machine` all that runs beside it.
    pub(crate) fn crash(&mut self, member: usize, machine: bool) {
        let Some(process) = self.hosts[member].process.take() else {
            return;
        };
        let unsynced = self.hosts[member].disk.unsynced();
        let keep = match self.dice.range(0, 3) {
            0 => 0,
            1 => unsynced,
            _ => self.dice.range(0, unsynced as u64) as usize,
        };
        self.trace.line(self.now_ns, || {
            format!(
                "{} dies (machine: {machine}), {keep} of {unsynced} records kept",
                member + 1
            )
        });
        let host = &mut self.hosts[member];
        host.disk.crash(keep);
        if matches!(host.ledger, Ledger::New) {
            host.ledger = Ledger::Missing;
        }
        if machine {
            host.clock.reboot(self.now_ns);
            if let Ledger::Written(record) = &host.ledger {
                host.ledger = Ledger::OtherBoot(record.kept());
            }
            self.end_app(member, true);
        }
        if self.dice.chance(self.swarm.service.ledger_damaged) && !self.calm {
            self.coverage.saw(Sight::LedgersDamaged);
            self.hosts[member].ledger = Ledger::Missing;
        }
        self.tear_exchange(member);
        self.lose_all(member, if machine { 3_000_000_000 } else { 20_000_000 });
        let mut cut_off: Vec<_> = process.attempts.into_values().collect();
        cut_off.extend(process.reads.into_values().map(|(attempt, _)| attempt));
        cut_off.extend(process.ready_reads.into_values());
        for attempt in cut_off {
            self.send_reply(attempt, Reply::Unknown);
        }
    }

    /// A paused process goes on: first with all that came meanwhile.
    pub(crate) fn resume(&mut self, member: usize, life: Life) -> Result<(), Violation> {
        let Some(process) = self.hosts[member]
            .process
            .as_mut()
            .filter(|p| p.life == life)
        else {
            return Ok(());
        };
        if !std::mem::take(&mut process.paused) {
            return Ok(());
        }
        let deferred = std::mem::take(&mut process.deferred);
        self.trace
            .line(self.now_ns, || format!("{} goes on", member + 1));
        for event in deferred {
            self.dispatch(event)?;
        }
        self.settle(member)
    }

    // === checks ===

    /// What a leader stamps lies within the clocks that nobody sets, if they are a majority.
    fn check_stamp(&self, member: usize, entry: &Entry) -> Result<(), Violation> {
        let (members, stepped) = (self.swarm.machines(), self.swarm.stepped);
        if entry.ballot.node != id_of(member) || stepped > (members - 1) / 2 {
            return Ok(());
        }
        let clocks = (stepped..members).map(|member| self.clock(member).wall_ns);
        let right = Right {
            latest_ns: clocks.max().expect("a majority"),
            // A wall clock and a monotonic one may each be off in their rates.
            drift_ns: self.now_ns / 1_000_000 * 2 * self.swarm.drift_ppm,
        };
        time::stamped(member, entry, right)
    }

    fn check(&mut self, member: usize) -> Result<(), Violation> {
        self.check_handover(member)?;
        let host = &mut self.hosts[member];
        let Some(process) = &mut host.process else {
            return Ok(());
        };
        let paxos = &process.paxos;
        let commit = paxos.commit();
        self.trace.mix(commit.0);
        self.checks
            .promised
            .step(member, paxos.promised(), paxos.accepted())?;
        unsynced::leads(member, paxos, host.disk.synced())?;
        if self
            .checks
            .commit
            .step(member, paxos.last(), commit, paxos.applied())?
        {
            let chosen = &mut self.checks.chosen;
            chosen.claimed(member, commit, "has")?;
            // What was learnt in place of what it had is not on a disk that has enough to do.
            let synced = paxos.synced();
            chosen.committed(member, commit.min(synced), &host.disk)?;
        }
        process.steps += 1;
        if process.steps.is_multiple_of(LIMITS_EVERY) {
            limits::check(
                member,
                &paxos.status(),
                &host.settings,
                process.writes.len(),
            )?;
        }
        Ok(())
    }
}

/// A record in one line, without bodies.
fn brief(record: &Record) -> String {
    match record {
        Record::Append(entry) => format!(
            "Append {} in {}: {} at {}",
            entry.slot, entry.ballot, entry.command.id, entry.time.0
        ),
        Record::Stage { ballot, entry } => {
            format!("Stage {} of {} in {ballot}", entry.slot, entry.ballot)
        }
        Record::Repair(entry) => format!("Repair {} of {}", entry.slot, entry.ballot),
        Record::Genesis(_) => "Genesis".to_owned(),
        other => format!("{other:?}"),
    }
}
