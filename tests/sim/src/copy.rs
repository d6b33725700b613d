//! A member's copy: the production apply machine, and the executor around it as far as it decides
//! anything, over the model app.
//!
//! In: chosen entries, what the app does. Out: answers to clients, the ledger, stops of the app.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message as _;
use synod_paxos::{AgreedTime, Genesis, Now, Reading, Slot};
use synod_proto::v1::{IdempotencyPolicy, Policy};
use synod_sidecar::app::Instance;
use synod_sidecar::apply::{Action, Fold, Found, Machine, Outcome, Record, Run, Setup, StateType};

use crate::app::{Register, Work};
use crate::calendar::{Event, Life};
use crate::client::{Attempt, Reply};
use crate::invariants::{Violation, read_index};
use crate::swarm::Plant;
use crate::world::{Host, World};

/// Responses that a member keeps for repeats and for other members.
const RESPONSES: usize = 4_096;
/// The policy's limit on one request, in milliseconds.
const APPLY_TIMEOUT_MS: u64 = 1_000;

/// What survives the death of the process, and what of it the next life may use.
#[derive(Debug, Default)]
pub(crate) enum Ledger {
    /// Never written.
    #[default]
    Missing,
    /// Written since the machine was started.
    Written(Record),
    /// Written before the machine died.
    OtherBoot,
}

/// Apply in one life of a member.
#[derive(Debug)]
pub(crate) struct Copy {
    pub(crate) machine: Machine,
    /// All slots up to here were handed over by the agreement.
    through: Slot,
    pub(crate) responses: BTreeMap<Slot, Register>,
    /// The agreed time last seen.
    time: AgreedTime,
    told_applied: Slot,
    told_stalled: bool,
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

// === impl Copy ===

impl Copy {
    pub(crate) fn new(genesis: &Genesis, ledger: &Ledger) -> Self {
        let policy = Policy::decode(genesis.policy.clone()).expect("written here");
        let machine = Machine::new(Setup {
            fold: Fold::new(genesis.configuration.clone(), genesis.protocol, policy),
            state: StateType::Ephemeral,
            half_restored: false,
            promises: Vec::new(),
            gated: false,
            ledger: match ledger {
                Ledger::Missing => Found::Missing,
                Ledger::OtherBoot => Found::OtherBoot,
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
        }
    }

    /// What agreed time is about now, for deadlines (rule X3).
    pub(crate) fn agreed_now(&self, clock: Option<Reading>, now: Now) -> AgreedTime {
        let clock = clock.map_or(AgreedTime(now.wall_ns), |it| it.at(now.mono_ns));
        clock.max(self.time)
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
        while let Some(action) = self.poll_copy(member) {
            match action {
                Action::Ledger(record) => self.hosts[member].ledger = Ledger::Written(record),
                Action::Execute(execute) => {
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
                other => {
                    let text = format!("member {} has no snapshots: {other:?}", member + 1);
                    return Err(Violation::new("A1", text));
                }
            }
            self.feed(member)?;
        }
        self.serve_reads(member);
        self.tell_paxos(member);
        Ok(())
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
        let mut lacks = None;
        let Host {
            disk,
            snapshots,
            witness,
            process: Some(process),
            ..
        } = &mut self.hosts[member]
        else {
            return Ok(());
        };
        let copy = &mut process.copy;
        loop {
            let admit = copy
                .machine
                .next_to_admit()
                .filter(|slot| *slot <= copy.through);
            let Some(slot) = admit.or_else(|| copy.machine.next_to_execute()) else {
                break;
            };
            // What the log has forgotten is in the snapshot that it begins with, or in a later one:
            // the state at its slot is what executing all before it comes to. (Who was a witness has
            // to get one first.) A slot whose body is lost comes when it is repaired.
            let base = disk.base_slot();
            let kept = if slot > base {
                disk.read(slot)
            } else if snapshots.last().is_some_and(|it| it.slot >= base) {
                self.checks.chosen.value(slot)
            } else {
                lacks = Some(base);
                None
            };
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
        let lacks = lacks.filter(|_| !*witness && !process.fetches_state);
        if let Some(base) = lacks {
            process.fetches_state = true;
            self.plan_fetch(member, base);
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

    /// Sends a request to the app, if it is still the process that the machine means.
    fn execute(&mut self, member: usize, run: Run, slot: Slot, work: Work) {
        let life = self.hosts[member].life;
        let host = &mut self.hosts[member];
        let found = look(host);
        let machine = &mut host.process.as_mut().expect("it was polled").copy.machine;
        if found.is_none() || found != machine.instance() {
            machine.handle_not_sent(run);
            machine.handle_app(found);
            return;
        }
        host.app.work = Some((slot, work, None));
        let process = host.app.process;
        let slow = !self.calm && self.dice.chance(self.swarm.app_slow);
        let mean = if slow {
            self.swarm.app_slow_ns
        } else {
            self.swarm.app_ns
        };
        let takes = self.dice.range(mean / 2, mean * 3 / 2);
        let effect = self.dice.range(0, takes);
        let lost = !self.calm && self.dice.chance(self.swarm.app_loses_connection);
        let ends = if lost {
            self.dice.range(0, takes)
        } else {
            takes
        };
        self.plan(
            effect,
            Event::AppEffect {
                member,
                process,
                slot,
            },
        );
        self.plan(
            ends,
            Event::AppDone {
                member,
                life,
                run,
                response: !lost,
            },
        );
        if takes > APPLY_TIMEOUT_MS * 1_000_000 {
            self.plan(
                APPLY_TIMEOUT_MS * 1_000_000,
                Event::Slow { member, life, run },
            );
        }
    }

    pub(crate) fn app_effect(
        &mut self,
        member: usize,
        process: u64,
        slot: Slot,
    ) -> Result<(), Violation> {
        let twice =
            self.swarm.plant == Plant::DoubleExecution && member == 0 && slot.0.is_multiple_of(8);
        let app = &mut self.hosts[member].app;
        if !app.up || app.process != process {
            return Ok(());
        }
        let Some((at, work, None)) = app.work.filter(|(at, ..)| *at == slot) else {
            return Ok(());
        };
        let mut result = app.execute(slot, work);
        if twice {
            result = app.execute(slot, work);
        }
        app.work = Some((at, work, Some(result)));
        let digest = app.digest();
        self.trace.mix(digest);
        self.trace.line(self.now_ns, || {
            format!(
                "{} app executes slot {slot}: op {} {result:?}",
                member + 1,
                work.op
            )
        });
        self.checks.executed(member, slot, work, result, digest)
    }

    pub(crate) fn app_done(
        &mut self,
        member: usize,
        life: Life,
        run: Run,
        response: bool,
    ) -> Result<(), Violation> {
        let host = &mut self.hosts[member];
        let found = look(host);
        let Some(process) = host.process.as_mut().filter(|p| p.life == life) else {
            return Ok(());
        };
        let machine = &mut process.copy.machine;
        // A late end of a request that the machine has given up.
        if machine.in_flight().is_none() {
            return self.settle(member);
        }
        let result = host
            .app
            .work
            .and_then(|(slot, _, result)| Some((slot, result?)));
        match result {
            Some((slot, result))
                if response
                    && found == machine.instance()
                    && machine.in_flight().is_some_and(|(busy, _)| busy == slot) =>
            {
                process.copy.responses.insert(slot, result);
                if process.copy.responses.len() > RESPONSES {
                    process.copy.responses.pop_first();
                }
                process.copy.machine.handle_response(run);
            }
            _ => {
                machine.handle_unknown(run);
                machine.handle_app(found);
            }
        }
        self.settle(member)
    }

    /// The app takes longer than the policy allows.
    pub(crate) fn slow(&mut self, member: usize, life: Life, run: Run) -> Result<(), Violation> {
        let host = &mut self.hosts[member];
        let Some(process) = host.process.as_mut().filter(|p| p.life == life) else {
            return Ok(());
        };
        process.copy.machine.handle_slow(run);
        if process
            .copy
            .machine
            .in_flight()
            .is_some_and(|(_, slow)| slow)
        {
            let status = process.paxos.status();
            let elsewhere = status.peers.iter().map(|peer| peer.applied).max();
            process
                .copy
                .machine
                .handle_applied_elsewhere(elsewhere.unwrap_or_default());
            self.plan(200_000_000, Event::Slow { member, life, run });
        }
        self.settle(member)
    }

    pub(crate) fn pause_over(
        &mut self,
        member: usize,
        life: Life,
        slot: Slot,
    ) -> Result<(), Violation> {
        if let Some(process) = self.hosts[member]
            .process
            .as_mut()
            .filter(|p| p.life == life)
        {
            process.copy.machine.handle_pause_over(slot);
        }
        self.settle(member)
    }

    /// A new process of the app listens, and the start signal is given.
    pub(crate) fn app_up(&mut self, member: usize) {
        let host = &mut self.hosts[member];
        if host.app.up || host.witness {
            return;
        }
        host.app.start(self.swarm.registers);
        let found = look(host);
        self.trace.line(self.now_ns, || {
            format!("{} app starts: {found:?}", member + 1)
        });
        self.plan(100_000, Event::StartSignal { member });
    }

    /// The start signal (rule A5): the sidecar looks what listens.
    pub(crate) fn start_signal(&mut self, member: usize) -> Result<(), Violation> {
        let found = look(&self.hosts[member]);
        if let Some(process) = &mut self.hosts[member].process {
            process.copy.machine.handle_app_started(found);
        }
        self.settle(member)
    }

    /// The app's process is ended, if it is still this one, and will be started anew.
    pub(crate) fn app_stop(&mut self, member: usize, process: u64) {
        let app = &mut self.hosts[member].app;
        if !app.up || app.process != process {
            return;
        }
        app.die();
        self.trace
            .line(self.now_ns, || format!("{} app ends", member + 1));
        let start = self
            .dice
            .range(self.swarm.app_start_ns / 2, self.swarm.app_start_ns);
        self.plan(start, Event::AppUp { member });
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
        let Some(running) = host.process.as_mut().filter(|p| p.life == life) else {
            return Ok(());
        };
        if !host.app.up || host.app.process != process {
            running.copy.machine.handle_app(found);
            self.send_reply(attempt, Reply::Unknown);
            return self.settle(member);
        }
        let Some(operation) = self.clients[attempt.client].operation_of(attempt.op) else {
            return Ok(());
        };
        let (value, reflects) = host.app.read(operation.work.register);
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
                kept.map_or(Reply::Gone { slot }, |r| Reply::Wrote {
                    slot,
                    count: r.count,
                    chain: r.chain,
                })
            }
            Outcome::Expired | Outcome::Reclassify => Reply::NotOrdered,
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
        if let Some((attempt, floor)) = process.reads.remove(&id) {
            read_index::given(member, index, floor)?;
            process.ready_reads.insert((index, id), attempt);
        }
        Ok(())
    }
}
