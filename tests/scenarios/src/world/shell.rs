//! What the shell of a member does: it carries out what the agreement says, in that order, and keeps
//! back what depends on a write until that is synced.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write as _;

use synod_paxos::{
    Entry, Io, Lane, Message, Output, Paxos, ReadId, Record, Recovered, Settings, Slot, Standing,
};
use synod_wal::Wal;

use super::{Host, Outgoing, Process, World};
use crate::print;
use crate::words::Wrong;

/// Things that a member has to do at one moment, beyond which it goes in circles.
const OUTPUTS: usize = 100_000;

impl World {
    /// Carries out all that a member has to do now.
    pub(super) fn settle(&mut self, member: u32) {
        for _ in 0..OUTPUTS {
            self.pump(member);
            let Ok(process) = self.running(member) else {
                return;
            };
            let Some(output) = process.paxos.poll_output() else {
                self.notice(member);
                self.keep_in_touch(member);
                return;
            };
            self.carry_out(member, output);
        }
        self.checks
            .found(format!("{member} has ever more to do at one moment"));
    }

    fn carry_out(&mut self, member: u32, output: Output) {
        match output {
            Output::Persist { io, records } => self.persist(member, io, records),
            Output::Send {
                to,
                lane,
                message,
                after,
            } => {
                let outgoing = Outgoing {
                    to: to.0,
                    lane,
                    message,
                    after,
                };
                self.send(member, outgoing);
            }
            Output::Chosen { through, entries } => {
                for entry in &entries {
                    self.checks.chosen(member, entry);
                }
                if let Ok(process) = self.running(member) {
                    process.through = process.through.max(through);
                    process.machine.handle_commit(through);
                }
            }
            Output::Resolved { id, .. } | Output::Withdrawn { id, .. } => {
                if let Ok(process) = self.running(member) {
                    process.unresolved.remove(&id.sequence);
                }
            }
            Output::ReadReady { id, index } => self.read_ready(member, id, index),
            Output::ReadFailed { id } => self.read_failed(member, id),
            Output::Load {
                ticket,
                from,
                through,
                max_bytes,
            } => {
                let now = self.now_at(member);
                if let Ok(process) = self.running(member) {
                    let entries = process.wal.reader().read(from, through, max_bytes);
                    let entries = entries.unwrap_or_default();
                    process.paxos.handle_loaded(now, ticket, entries);
                }
            }
            Output::LeaderChanged { .. } => {}
            Output::NeedSnapshot { at_least } => {
                self.say(format!(
                    "{member} needs a snapshot of slot {at_least} or a later one"
                ));
                if let Ok(process) = self.running(member) {
                    process.needs_snapshot = Some(at_least);
                }
            }
            Output::Installed { base } => self.installed(member, base.slot),
            Output::ProtocolChanged { slot, protocol } => {
                self.say(format!("{member} is at protocol {protocol} behind {slot}"));
            }
            Output::ConfigurationChanged {
                slot,
                configuration,
                ..
            } => {
                let members = print::configuration(&configuration);
                self.say(format!("{member} is in {members} (behind {slot})"));
            }
            Output::Removed { epoch } => {
                self.tell(format!(
                    "{member} is in the group no more from epoch {epoch} on"
                ));
            }
            Output::Outdated { slot, protocol } => {
                let why = format!("it does not speak protocol {protocol}, agreed on at {slot}");
                self.end(member, why);
            }
            Output::Forgetful { reported_by } => {
                self.end(member, format!("it is forgetful, says {reported_by}"));
            }
        }
    }

    fn persist(&mut self, member: u32, io: Io, records: Vec<Record>) {
        self.say(format!("{member} writes: {}", print::records(&records)));
        for record in &records {
            self.checks.written(member, record);
        }
        if let Ok(process) = self.running(member) {
            process.writes.push_back((io, records));
        }
    }

    /// What waits for a write keeps back what comes behind it on its lane.
    fn send(&mut self, member: u32, outgoing: Outgoing) {
        let Ok(process) = self.running(member) else {
            return;
        };
        let synced = process.synced;
        let lane = |it: &Outgoing| (it.to, it.lane) == (outgoing.to, outgoing.lane);
        let waits =
            outgoing.after.is_some_and(|io| io > synced) || process.waiting.iter().any(lane);
        let beat = matches!(outgoing.message, Message::Heartbeat(_));
        if !beat {
            let when = if waits { " when synced" } else { "" };
            self.say_sends(member, when, outgoing.to, &outgoing.message);
        }
        match self.running(member) {
            Ok(process) if waits => process.waiting.push(outgoing),
            _ => self.transmit(member, outgoing.to, outgoing.message),
        }
    }

    /// The same to several members is said once.
    fn say_sends(&mut self, member: u32, when: &str, to: u32, message: &Message) {
        if self.quiet {
            return;
        }
        let begin = format!("{}{member} sends{when} to ", "  ".repeat(self.indent));
        let text = print::message(message);
        if let Some((at, before, said)) = &self.last_send
            && (*at + 1, before, said) == (self.said.len(), &begin, &text)
        {
            let line = &mut self.said[*at];
            // Sent once more.
            let to = to.to_string();
            let names = &line[begin.len()..line.len() - text.len() - 2];
            if names.split(", ").any(|it| it == to) {
                return;
            }
            line.truncate(line.len() - text.len() - 2);
            let _ = write!(line, ", {to}: {text}");
            return;
        }
        self.last_send = Some((self.said.len(), begin.clone(), text.clone()));
        self.said.push(format!("{begin}{to}: {text}"));
    }

    /// Up to this write all is synced: what waited for that leaves.
    pub(super) fn release(&mut self, member: u32, io: Io) {
        let now = self.now_at(member);
        let Ok(process) = self.running(member) else {
            return;
        };
        process.synced = io;
        let mut stuck: BTreeSet<(u32, Lane)> = BTreeSet::new();
        let (mut free, mut kept) = (Vec::new(), Vec::new());
        for outgoing in std::mem::take(&mut process.waiting) {
            let lane = (outgoing.to, outgoing.lane);
            if stuck.contains(&lane) || outgoing.after.is_some_and(|after| after > io) {
                stuck.insert(lane);
                kept.push(outgoing);
            } else {
                free.push(outgoing);
            }
        }
        process.waiting = kept;
        for outgoing in free {
            if !matches!(outgoing.message, Message::Heartbeat(_)) {
                self.say_sends(member, "", outgoing.to, &outgoing.message);
            }
            self.transmit(member, outgoing.to, outgoing.message);
        }
        if let Ok(process) = self.running(member) {
            process.paxos.handle_synced(now, io);
        }
        self.settle(member);
    }

    /// I7: what a member says about itself is on its disk.
    pub(super) fn check_synced(&mut self, member: u32, message: &Message) {
        let Some(process) = self.process(member) else {
            return;
        };
        let unsynced = || process.writes.iter().flat_map(|(_, records)| records);
        let promises = |it: &Record, ballot| matches!(it, Record::Promise(it) if *it >= ballot);
        let early = match message {
            Message::Prepare { ballot, .. } => unsynced().any(|it| promises(it, *ballot)),
            Message::Promise { ballot, last, .. } => unsynced().any(|it| {
                let in_log = print::slot_of(it).is_some_and(|slot| slot <= *last);
                promises(it, *ballot) || in_log
            }),
            Message::Accepted { slot, .. } => unsynced().any(|it| {
                let in_log = print::slot_of(it).is_some_and(|it| it <= *slot);
                in_log || matches!(it, Record::Adopt { .. } | Record::Enter { .. })
            }),
            _ => false,
        };
        if early {
            let kind = print::kind(message);
            self.checks.found(format!(
                "a {kind} leaves {member} before what it tells is synced"
            ));
        }
    }

    /// What people see of a member.
    fn notice(&mut self, member: u32) {
        let Ok(process) = self.running(member) else {
            return;
        };
        let paxos = &process.paxos;
        let leads = (paxos.standing() == Standing::Leader).then(|| paxos.promised());
        let commit = paxos.commit();
        let before = std::mem::replace(&mut process.led, leads);
        self.checks.commit(member, commit);
        match (before, leads) {
            (before, Some(ballot)) if before != leads => {
                let still = if before.is_some() { " now" } else { "" };
                self.say(format!("{member} leads in {ballot}{still}"));
            }
            (Some(_), None) => self.say(format!("{member} leads no more")),
            _ => {}
        }
    }

    /// Connects a member with whom it knows now.
    fn keep_in_touch(&mut self, member: u32) {
        let Ok(process) = self.running(member) else {
            return;
        };
        let version = process.paxos.contacts_version();
        if process.contacts_version.replace(version) == Some(version) {
            return;
        }
        let contacts = process.paxos.contacts();
        for contact in contacts {
            if contact.id.0 != member {
                self.connect(member, contact.id.0);
            }
        }
    }
}

// === life ===

impl World {
    /// Starts a member from what its disk holds.
    pub(crate) fn start(&mut self, member: u32) -> Result<(), Wrong> {
        let host = self.host(member)?;
        if host.process.is_some() {
            return Err(format!("{member} runs"));
        }
        if let Some(why) = &host.ended {
            return Err(format!("{member} has ended for good: {why}"));
        }
        let (wal, recovered) = match self.open_log(member) {
            Ok(opened) => opened,
            Err(error) => {
                self.tell(format!("{member} does not start: {error}"));
                return Ok(());
            }
        };
        let now = self.now_at(member);
        let settings = Settings {
            protocol_max: self.hosts[&member].protocol_max,
            ..self.settings.clone()
        };
        self.say(format!("{member} starts: {}", found(&recovered)));
        // Each start has its own.
        self.starts += 1;
        let seed = self.starts;
        let paxos = match Paxos::new(settings, recovered, now, seed) {
            Ok(paxos) => paxos,
            Err(error) => {
                self.tell(format!("{member} does not start: {error}"));
                return Ok(());
            }
        };
        self.votes.retain(|(it, ..)| *it != member);
        self.checks.started(member);
        let process = self.begin_process(member, paxos, wal);
        self.hosts
            .entry(member)
            .and_modify(|it| it.process = Some(process));
        self.offer_own_snapshot(member);
        self.tell_applied_at_start(member);
        if let Ok(process) = self.running(member) {
            process.last_read = ReadId(1);
            process.proof = Some(ReadId(1));
            process.paxos.read(now, ReadId(1));
        }
        self.settle(member);
        for peer in self.members() {
            let knows = |paxos: &Paxos, it: u32| paxos.contacts().iter().any(|to| to.id.0 == it);
            let known = self.paxos(peer).is_ok_and(|it| knows(it, member));
            if peer != member && known {
                self.connect(peer, member);
            }
        }
        self.beat();
        Ok(())
    }

    fn begin_process(&self, member: u32, paxos: Paxos, wal: Wal) -> Process {
        let host = &self.hosts[&member];
        let mut machine = self.machine(host);
        let base = paxos.base().slot;
        machine.handle_commit(base);
        machine.handle_offered(host.app.revision());
        machine.handle_app(host.app.listens());
        Process {
            through: base,
            time: paxos.base().time,
            paxos,
            wal,
            machine,
            writes: VecDeque::new(),
            synced: Io(0),
            waiting: Vec::new(),
            sequence: 0,
            unresolved: BTreeSet::new(),
            commands: BTreeMap::new(),
            last_read: ReadId(0),
            reads: BTreeMap::new(),
            ready: BTreeMap::new(),
            responses: BTreeMap::new(),
            proof: None,
            told_applied: Slot::ZERO,
            told_stalled: false,
            led: None,
            contacts_version: None,
            pauses: Vec::new(),
            volume: None,
            needs_snapshot: None,
            term: None,
        }
    }

    /// The process dies: what it has not handed to the system is lost, and with `power` all that was not
    /// synced, and the app.
    pub(crate) fn crash(&mut self, member: u32, power: bool) -> Result<(), Wrong> {
        if self.host(member)?.process.is_none() && !power {
            return Err(format!("{member} does not run"));
        }
        self.stop_process(member);
        if power {
            self.lose_power(member);
        }
        Ok(())
    }

    pub(super) fn stop_process(&mut self, member: u32) {
        let Some(host) = self.hosts.get_mut(&member) else {
            return;
        };
        let Some(process) = host.process.take() else {
            return;
        };
        host.paused = false;
        host.ledger.outlive();
        let lost: usize = process.writes.iter().map(|(_, it)| it.len()).sum();
        if lost > 0 {
            let lost = print::count(lost, "unsynced record");
            self.say(format!("{member} loses {lost}"));
        }
        self.lose_clients(member, &process);
        let disk = self.hosts[&member].disk.clone();
        drop(process);
        disk.restart();
        self.hang_up(member);
        self.beat();
    }

    /// The process ends by itself, for good.
    pub(super) fn end(&mut self, member: u32, why: String) {
        self.tell(format!("{member} ends: {why}"));
        self.stop_process(member);
        if let Ok(host) = self.host_mut(member) {
            host.ended = Some(why);
        }
    }

    /// The process gets no time, or gets it again.
    pub(crate) fn pause(&mut self, member: u32, paused: bool) -> Result<(), Wrong> {
        self.running(member)?;
        let host = self.host_mut(member)?;
        if std::mem::replace(&mut host.paused, paused) == paused {
            return Err(format!("{member} is so already"));
        }
        if !paused {
            self.beat();
        }
        Ok(())
    }
}

/// What a start finds in its log.
fn found(recovered: &Recovered) -> String {
    let unreadable = if recovered.faulty.is_empty() {
        String::new()
    } else {
        let slots = recovered.faulty.iter().map(|it| it.slot.to_string());
        format!(", cannot read {}", slots.collect::<Vec<_>>().join(" "))
    };
    let first = recovered.first();
    let log = if recovered.last < first {
        format!("nothing behind {}", recovered.last)
    } else {
        format!("{first}..{}", recovered.last)
    };
    format!(
        "boot {}, promised {}, accepted {}, log {log}, commit {}{unreadable}",
        recovered.boot, recovered.promised, recovered.accepted, recovered.commit
    )
}

impl Process {
    /// Reads an entry that is synced.
    pub(super) fn entry(&self, slot: Slot) -> Option<Entry> {
        let entries = self.wal.reader().read(slot, slot, 1).ok()?;
        entries.into_iter().find(|entry| entry.slot == slot)
    }

    /// The lowest sequence that is not resolved, which all commands carry (rule P6).
    pub(super) fn floor(&self) -> u64 {
        let first = self.unresolved.first().copied();
        first.unwrap_or(self.sequence + 1)
    }
}

impl Host {
    /// Runs and gets time.
    pub(super) fn is_awake(&self) -> bool {
        self.process.is_some() && !self.paused
    }
}
