//! A member's copy: the production apply machine, and the executor around it as far as it decides
//! anything, over the model app.
//!
//! In: chosen entries, what the app does. Out: answers to clients, the ledger, stops of the app. What
//! takes a while is done by [`exchange`](crate::exchange) and [`jobs`](crate::jobs).

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message as _;
use synod_paxos::{AgreedTime, Genesis, Now, Reading, Slot};
use synod_proto::v1::{IdempotencyPolicy, Policy};
use synod_sidecar::app::Instance;
use synod_sidecar::apply::{
    Action, Ask, Fold, Found, Kept, Machine, Outcome, Record, Setup, StateType,
};

use crate::app::{Answer, Done, Work};
use crate::calendar::{Event, Life};
use crate::client::{Attempt, Reply};
use crate::comparison::Compared;
use crate::coverage::Sight;
use crate::invariants::{Violation, read_index, sent};
use crate::snapshots::Maker;
use crate::swarm::Plant;
use crate::world::{Host, World};

/// Responses that a member keeps for repeats and for other members.
pub(crate) const RESPONSES: usize = 4_096;
/// The policy's limit on one request, in milliseconds.
pub(crate) const APPLY_TIMEOUT_MS: u64 = 1_000;

/// What survives the death of the process, and what of it the next life may use.
#[derive(Debug, Default)]
pub(crate) enum Ledger {
    /// Never written, in the first life of a log.
    #[default]
    New,
    /// Lost, or never written by lives that may have done something.
    Missing,
    /// Written since the machine was started.
    Written(Record),
    /// Written before the machine died.
    OtherBoot(Kept),
}

/// Apply in one life of a member.
#[derive(Debug)]
pub(crate) struct Copy {
    pub(crate) machine: Machine,
    /// All slots up to here were handed over by the agreement.
    through: Slot,
    pub(crate) responses: BTreeMap<Slot, Answer>,
    /// The agreed time last seen.
    time: AgreedTime,
    told_applied: Slot,
    told_stalled: bool,
    /// What the app's process says that its state ends with, until the machine goes on from there.
    pub(crate) claim: Option<(Instance, Done, u64)>,
    /// The machine was told what was chosen when this life began.
    pub(crate) proven: bool,
    /// What was promised, as it was last handed to the disk; and how often that was.
    pub(crate) promised: Vec<Ask>,
    pub(crate) promises_handed: u64,
    /// Its side of the comparison.
    pub(crate) compared: Option<Box<Compared>>,
}

/// The first policy, part of the genesis.
pub(crate) fn first_policy() -> Bytes {
    Policy {
        version: 1,
        classes_version: 1,
        idempotency: Some(IdempotencyPolicy {
            header: "idempotency-key".to_owned(),
            keep_for_ms: 24 * 3_600_000,
            max_bytes: 32 << 20,
            ..IdempotencyPolicy::default()
        }),
        max_body_bytes: 16 << 10,
        queue_timeout_ms: 10_000,
        response_timeout_ms: 35_000,
        apply_timeout_ms: APPLY_TIMEOUT_MS,
        service: "sim".to_owned(),
        ..Policy::default()
    }
    .encode_to_vec()
    .into()
}

/// The tables of the start of the log.
pub(crate) fn first_fold(genesis: &Genesis) -> Fold {
    let policy = Policy::decode(genesis.policy.clone()).expect("written here");
    Fold::new(genesis.configuration.clone(), genesis.protocol, policy)
}

// === impl Ledger ===

impl Ledger {
    /// From which slot on the copy was found to differ from others, as an earlier life has noted.
    pub(crate) fn astray(&self) -> Option<Slot> {
        match self {
            Self::New | Self::Missing => None,
            Self::Written(record) => record.astray,
            Self::OtherBoot(kept) => kept.astray,
        }
    }
}

// === impl Copy ===

impl Copy {
    pub(crate) fn new(genesis: &Genesis, state: StateType, host: &Host) -> Self {
        let newest = host.newest_usable();
        let fold = newest.map_or_else(
            || first_fold(genesis),
            |it| Fold::load(&it.tables).expect("what was saved can be loaded"),
        );
        let machine = Machine::new(Setup {
            incarnation: host.disk.identity().incarnation,
            fold,
            state,
            half_restored: host.half_restored,
            promises: host.promises.clone(),
            gated: true,
            changes_in_place: true,
            ledger: match &host.ledger {
                Ledger::New => Found::New,
                Ledger::Missing => Found::Missing,
                Ledger::OtherBoot(kept) => Found::OtherBoot(*kept),
                Ledger::Written(record) => Found::Record(*record),
            },
        });
        Self {
            machine,
            through: Slot::ZERO,
            responses: BTreeMap::new(),
            time: AgreedTime(0),
            told_applied: Slot::ZERO,
            told_stalled: false,
            claim: None,
            proven: false,
            promised: host.promises.clone(),
            promises_handed: 0,
            compared: None,
        }
    }

    /// What agreed time is about now, for deadlines (rule X3).
    pub(crate) fn agreed_now(&self, clock: Option<Reading>, now: Now) -> AgreedTime {
        let clock = clock.map_or(AgreedTime(now.wall_ns), |it| it.at(now.mono_ns));
        clock.max(self.time)
    }

    /// What a snapshot that is taken now is of.
    pub(crate) fn maker(&self, life: Life) -> Maker {
        Maker {
            life,
            lineage: self.machine.lineage().number,
            instance: self.machine.instance(),
        }
    }

    /// All slots up to here were handed over by the agreement.
    pub(crate) fn through(&self) -> Slot {
        self.through
    }

    /// All up to `through` may be applied.
    pub(crate) fn hand_over(&mut self, through: Slot) {
        self.through = self.through.max(through);
        self.machine.handle_commit(self.through);
    }
}

/// What listens at the app's address.
pub(crate) fn look(host: &Host) -> Option<Instance> {
    host.app
        .up
        .then(|| Instance(host.app.process.try_into().expect("processes count from 1")))
}

impl World {
    /// Feeds the machine with what it can take and carries out what it says.
    pub(crate) fn pump(&mut self, member: usize) -> Result<(), Violation> {
        self.feed(member)?;
        self.note_claim(member)?;
        while let Some(action) = self.poll_copy(member) {
            if self.dies_before(member, &action) {
                return Ok(());
            }
            match action {
                Action::Ledger(record) => self.hosts[member].ledger = Ledger::Written(record),
                Action::Execute(execute) => {
                    sent::sends(member, &execute, &self.checks.chosen)?;
                    let work = Work::decode(&execute.request.body);
                    self.execute(member, execute.run, execute.slot, work);
                }
                Action::Answer(answer) => {
                    let outcome = answer.outcome;
                    self.answer(member, answer.id, answer.slot, outcome)?;
                }
                Action::StopApp(instance) => {
                    let process = instance.0.get();
                    let delay = self.dice.range(1_000_000, 400_000_000);
                    self.plan(delay, Event::AppStop { member, process });
                }
                Action::Pause { slot, pause_ms } => {
                    let life = self.hosts[member].life;
                    self.plan(
                        pause_ms * 1_000_000,
                        Event::PauseOver { member, life, slot },
                    );
                }
                Action::Halt { slot, kind } => {
                    let text = format!(
                        "member {} stops before slot {slot} of kind {}",
                        member + 1,
                        kind.0
                    );
                    return Err(Violation::new("P8", text));
                }
                Action::Skipped { slot, unsure } => self.skipped(member, slot, unsure)?,
                // Whoever waits for one of those goes elsewhere when it has waited for long enough.
                Action::Jump { .. } => {}
                job => self.begin_job(member, job),
            }
            self.feed(member)?;
            self.note_claim(member)?;
        }
        self.tidy_jobs(member);
        self.tell_side(member);
        self.keep_promises(member);
        self.serve_reads(member);
        self.tell_paxos(member);
        Ok(())
    }

    /// The process may die between any two actions.
    fn dies_before(&mut self, member: usize, action: &Action) -> bool {
        let chance = self.swarm.service.dies_before_action;
        if self.calm || self.is_looked_for() || !self.dice.chance(chance) {
            return false;
        }
        self.coverage.saw(match action {
            Action::Ledger(_) => Sight::DiedBeforeLedger,
            Action::Execute(_) => Sight::DiedBeforeSend,
            Action::Answer(_) => Sight::DiedBeforeAnswer,
            _ => Sight::DiedBeforeJob,
        });
        let machine = self.dice.chance(self.swarm.faults.machine);
        let length = self.dice.gap(self.swarm.faults.length_ns);
        self.kill(member, machine, length);
        true
    }

    fn poll_copy(&mut self, member: usize) -> Option<Action> {
        self.hosts[member]
            .process
            .as_mut()?
            .copy
            .machine
            .poll_action()
    }

    /// Reads from the log what the machine wants next.
    fn feed(&mut self, member: usize) -> Result<(), Violation> {
        let tampered = self.swarm.plant == Plant::TamperedCommit && member == 0;
        let Host {
            disk,
            witness: false,
            process: Some(process),
            ..
        } = &mut self.hosts[member]
        else {
            return Ok(());
        };
        let copy = &mut process.copy;
        loop {
            let next = copy.machine.next_to_execute();
            let next = next.or_else(|| copy.machine.next_to_admit());
            let Some(slot) = next.filter(|slot| *slot <= copy.through) else {
                break;
            };
            // What the log has forgotten is in a snapshot, of which the machine is yet to be told; a
            // slot whose body is lost comes when it is repaired.
            let kept = disk.read(slot).filter(|_| slot > disk.base_slot());
            let Some(entry) = kept else { break };
            let time = entry.time;
            if tampered && entry.slot.0.is_multiple_of(16) {
                let mut entry = entry.clone();
                entry.seed ^= 1;
                self.checks.chosen.handed(member, &entry)?;
                copy.machine.handle_entry(&entry);
            } else {
                self.checks.chosen.handed(member, entry)?;
                copy.machine.handle_entry(entry);
            }
            copy.time = copy.time.max(time);
        }
        Ok(())
    }

    /// What the ledger says was applied was chosen (rule L4).
    pub(crate) fn tell_applied_at_start(&mut self, member: usize) -> Slot {
        let process = self.hosts[member]
            .process
            .as_mut()
            .expect("it has just started");
        let applied = process.copy.machine.applied();
        process.copy.told_applied = applied;
        process.paxos.handle_applied(applied);
        applied
    }

    /// Tells the agreement how far the app is.
    fn tell_paxos(&mut self, member: usize) {
        let now = self.clock(member);
        let host = &mut self.hosts[member];
        let Some(process) = &mut host.process else {
            return;
        };
        let copy = &mut process.copy;
        let applied = copy.machine.applied();
        if applied != copy.told_applied {
            copy.told_applied = applied;
            process.paxos.handle_applied(applied);
        }
        // A witness has no app that could.
        let stalled = copy.machine.blocked().is_some() && applied < copy.through && !host.witness;
        if stalled != copy.told_stalled {
            copy.told_stalled = stalled;
            process.paxos.handle_app(now, stalled);
        }
    }

    /// Sends all reads to the app that may go there now (rule R6).
    fn serve_reads(&mut self, member: usize) {
        let stale = self.swarm.plant == Plant::StaleRead;
        let host = &mut self.hosts[member];
        let life = host.life;
        let Some(process) = &mut host.process else {
            return;
        };
        if !process.copy.machine.serving() {
            return;
        }
        let instance = process.copy.machine.instance();
        let app = instance.expect("a copy that serves has an app").0.get();
        let applied = process.copy.machine.applied();
        let mut served = Vec::new();
        while let Some(first) = process.ready_reads.first_entry()
            && (first.key().0 <= applied || stale)
        {
            served.push(first.remove());
        }
        for attempt in served {
            let delay = self.dice.range(1_000, self.swarm.app_ns);
            let event = Event::AppRead {
                member,
                life,
                process: app,
                attempt,
            };
            self.plan(delay, event);
        }
    }

    pub(crate) fn app_read(
        &mut self,
        member: usize,
        life: Life,
        process: u64,
        attempt: Attempt,
    ) -> Result<(), Violation> {
        let host = &mut self.hosts[member];
        let found = look(host);
        if host.process.as_ref().is_none_or(|p| p.life != life) {
            return Ok(());
        }
        if !host.app.up || host.app.process != process {
            self.see(member, found);
            self.send_reply(attempt, Reply::Unknown);
            return self.settle(member);
        }
        let Some(operation) = self.clients[attempt.client].operation_of(attempt.op) else {
            return Ok(());
        };
        let Some((value, reflects)) = host.app.read(operation.work.register) else {
            self.send_reply(attempt, Reply::Astray { slot: Slot::ZERO });
            return Ok(());
        };
        let applied = host.process.as_ref().map(|it| it.copy.machine.applied());
        let contained = host.app.state().poisonous().iter().copied();
        let contained = contained.filter(|it| Some(*it) <= applied);
        self.checks.shows(contained);
        self.send_reply(
            attempt,
            Reply::Read {
                reflects,
                count: value.count,
                chain: value.chain,
            },
        );
        Ok(())
    }

    /// A command is done here: tells the client that waits for it, if any.
    fn answer(
        &mut self,
        member: usize,
        id: synod_paxos::CommandId,
        slot: Slot,
        outcome: Outcome,
    ) -> Result<(), Violation> {
        self.trace.line(self.now_ns, || {
            format!("{} answers {id} at slot {slot}: {outcome:?}", member + 1)
        });
        let Some(process) = &mut self.hosts[member].process else {
            return Ok(());
        };
        // The second of two copies of a command: the first may still be with the app.
        if outcome == Outcome::Duplicate {
            return Ok(());
        }
        let Some(attempt) = process.attempts.remove(&id) else {
            return Ok(());
        };
        let reply = match outcome {
            Outcome::Executed | Outcome::Replayed => {
                // Any copy that has the response may give it.
                let order = (0..self.hosts.len()).map(|i| (member + i) % self.hosts.len());
                let kept = order
                    .filter_map(|i| self.hosts[i].process.as_ref())
                    .find_map(|process| process.copy.responses.get(&slot));
                match kept {
                    None => Reply::Gone { slot },
                    Some(kept) if kept.odd => Reply::Astray { slot },
                    Some(kept) => Reply::Wrote {
                        slot,
                        count: kept.result.count,
                        chain: kept.result.chain,
                        revision: kept.revision,
                    },
                }
            }
            Outcome::Expired | Outcome::Reclassify => Reply::NotOrdered,
            Outcome::Skipped => Reply::Skipped { slot },
            Outcome::Elsewhere => Reply::Unknown,
            other => {
                let text = format!("command {id} at slot {slot} became {other:?}");
                return Err(Violation::new("X2", text));
            }
        };
        self.send_reply(attempt, reply);
        Ok(())
    }

    /// The agreement gave an index for a read.
    pub(crate) fn read_ready(
        &mut self,
        member: usize,
        id: synod_paxos::ReadId,
        index: Slot,
    ) -> Result<(), Violation> {
        let Some(process) = &mut self.hosts[member].process else {
            return Ok(());
        };
        if process.proof_read == Some(id) {
            process.proof_read = None;
            process.copy.proven = true;
            process.copy.machine.handle_proven(index);
            return Ok(());
        }
        if let Some(term) = &mut process.term
            && term.settle_read == Some(id)
        {
            term.settles_at = Some(index);
            return Ok(());
        }
        if let Some((attempt, floor)) = process.reads.remove(&id) {
            read_index::given(member, index, floor)?;
            process.ready_reads.insert((index, id), attempt);
        }
        Ok(())
    }
}
