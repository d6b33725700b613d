//! The world: all members with their machines, the network, the clients, and the calendar.
//!
//! In: a swarm. Out: a report. The world takes one event after the other from the calendar and
//! lets it happen; the other modules hold what each kind of event does.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use synod_paxos::{
    Configuration, Epoch, Genesis, GroupId, Identity, Incarnation, Member as Voter, MemberId, Now,
    Role, Settings, Slot,
};
use synod_sidecar::apply::Ask;

use crate::app::App;
use crate::calendar::{Calendar, Event, Life};
use crate::changes::Request;
use crate::client::Client;
use crate::clock::Clock;
use crate::copy::Ledger;
use crate::coverage::Coverage;
use crate::dice::Dice;
use crate::disk::Disk;
use crate::exchange::Exchange;
use crate::faults::{Strike, Tally};
use crate::invariants::{Checks, Violation};
use crate::membership::Seat;
use crate::network::{LANES, Network, Packet, StreamId, id_of};
use crate::odd::Odd;
use crate::placement::Resting;
use crate::poison::{Letter, Save};
use crate::process::Process;
use crate::snapshots::Snapshot;
use crate::swarm::{Plant, Swarm};
use crate::trace::Trace;
use crate::{Options, Report};

/// A machine with a member on it.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) clock: Clock,
    pub(crate) disk: Disk,
    pub(crate) app: App,
    /// What apply keeps outside the process.
    pub(crate) ledger: Ledger,
    /// What was promised to leaders, on disk.
    pub(crate) promises: Vec<Ask>,
    /// The snapshots in its own store, by slot.
    pub(crate) snapshots: Vec<Snapshot>,
    /// The furthest of those that turned out to be damaged.
    pub(crate) rotten: Slot,
    /// Putting the app's volume back was begun, and not ended.
    pub(crate) half_restored: bool,
    /// The revision of the app that is started next, as was found last.
    pub(crate) offered: u64,
    /// Its app is to run this revision along.
    pub(crate) along: Option<u64>,
    /// A start of the app is in the calendar.
    pub(crate) app_planned: bool,
    /// The last request that was sent to the app.
    pub(crate) exchange: Option<Exchange>,
    pub(crate) process: Option<Process>,
    pub(crate) life: Life,
    pub(crate) settings: Settings,
    /// Since when it is gone for good.
    pub(crate) absent_since_ns: Option<u64>,
    /// How often it has handed over to a preferred member in this life.
    pub(crate) handovers: u64,
    pub(crate) seat: Seat,
    /// It votes and has no app, as far as it knows.
    pub(crate) witness: bool,
    pub(crate) disk_full: bool,
}

/// A packet that turns up again.
#[derive(Debug)]
pub(crate) struct LateCopy {
    pub(crate) stream: StreamId,
    pub(crate) packet: Packet,
    /// The receiver's: a connection never outlives the process at its end.
    pub(crate) life: Life,
}

/// Everything.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) swarm: Swarm,
    pub(crate) dice: Dice,
    pub(crate) now_ns: u64,
    pub(crate) calendar: Calendar,
    pub(crate) network: Network,
    pub(crate) hosts: Vec<Host>,
    pub(crate) clients: Vec<Client>,
    pub(crate) checks: Checks,
    pub(crate) trace: Trace,
    pub(crate) tally: Tally,
    /// Faults that were to strike so far.
    pub(crate) planned: u64,
    /// None but these strike.
    pub(crate) only: Option<BTreeSet<u64>>,
    /// Those that did.
    pub(crate) strikes: Vec<Strike>,
    /// The safety phase is over.
    pub(crate) calm: bool,
    pub(crate) finished: bool,
    /// Everything has converged: where leadership comes to rest.
    pub(crate) resting: Option<Resting>,
    pub(crate) next_op: u64,
    pub(crate) next_copy: u64,
    pub(crate) late: BTreeMap<u64, LateCopy>,
    /// A connection attempt for this stream is in the calendar.
    pub(crate) connecting: Vec<bool>,
    /// Counts what happens, what a paused process catches up with one by one.
    pub(crate) turn: u64,
    /// By stream: in which turn something was sent last, and how many bytes in that turn.
    pub(crate) bursts: Vec<(u64, u64)>,
    pub(crate) genesis: Genesis,
    /// Machines with members, or with such as may still be needed.
    pub(crate) seated: Vec<usize>,
    /// Requests for changes under way.
    pub(crate) requests: BTreeMap<u64, Request>,
    pub(crate) next_request: u64,
    /// Changes that leaders took.
    pub(crate) proposals: Vec<Configuration>,
    /// Changes up to this epoch were counted.
    pub(crate) noted: Epoch,
    /// The last epoch whose first leader proposed without phase 1.
    pub(crate) led_first: Epoch,
    pub(crate) coverage: Coverage,
    /// Poison so far, and the earliest time of the next.
    pub(crate) poisons: u32,
    pub(crate) next_poison_ns: u64,
    /// What members tell each other about slots that fail.
    pub(crate) letters: BTreeMap<u64, Letter>,
    pub(crate) next_letter: u64,
    /// Promises that are not on disk yet.
    pub(crate) saves: BTreeMap<u64, Save>,
    /// A copy has gone astray.
    pub(crate) odd: Option<Odd>,
    steps: u64,
    progress: Option<Arc<AtomicU64>>,
}

// === impl World ===

impl World {
    pub(crate) fn new(swarm: Swarm, options: &Options) -> Self {
        let mut dice = Dice::new(swarm.seed);
        let machines = swarm.machines();
        let network = Network::new(machines, swarm.network.clone(), &swarm.placement, &mut dice);
        let genesis = genesis(&swarm, &mut dice);
        let hosts = (0..machines)
            .map(|index| host(index, &genesis, &swarm, &mut dice))
            .collect();
        let mut world = Self {
            checks: Checks::new(machines, &genesis.configuration, swarm.registers),
            noted: genesis.configuration.epoch,
            led_first: genesis.configuration.epoch,
            genesis,
            seated: (0..swarm.members).collect(),
            requests: BTreeMap::new(),
            next_request: 0,
            proposals: Vec::new(),
            coverage: Coverage::default(),
            clients: (0..swarm.clients).map(|_| Client::new()).collect(),
            connecting: vec![false; machines * machines * LANES.len()],
            trace: Trace::new(options.text, options.echo),
            dice,
            now_ns: 0,
            calendar: Calendar::default(),
            network,
            hosts,
            tally: Tally::default(),
            planned: 0,
            only: options.only.clone(),
            strikes: Vec::new(),
            calm: false,
            finished: false,
            resting: None,
            next_op: 0,
            next_copy: 0,
            late: BTreeMap::new(),
            poisons: 0,
            next_poison_ns: 0,
            letters: BTreeMap::new(),
            next_letter: 0,
            saves: BTreeMap::new(),
            odd: None,
            steps: 0,
            progress: options.progress.clone(),
            turn: 0,
            bursts: vec![(0, 0); machines * machines * LANES.len()],
            swarm,
        };
        world.set_out();
        world
    }

    /// The first entries of the calendar.
    fn set_out(&mut self) {
        for member in 0..self.swarm.members {
            let at = self.dice.range(0, 500_000_000);
            self.calendar.put(at, Event::Start { member });
        }
        for client in 0..self.swarm.clients {
            let at = self.dice.gap(self.swarm.think_ns);
            self.calendar.put(at, Event::Wake { client });
        }
        self.plan_faults();
        if let Some(membership) = &self.swarm.membership {
            let at = self.dice.gap(membership.every_ns);
            self.calendar.put(at, Event::Operate);
        }
        let compared = self.swarm.compared.as_ref();
        if let Some(revising) = compared.and_then(|it| it.revising.as_ref()) {
            let at = self.dice.gap(revising.every_ns);
            self.calendar.put(at, Event::Revise);
            self.calendar.put(at, Event::Roll);
        }
        self.calendar.put(self.swarm.safety_ns, Event::Calm);
    }

    /// Runs to the end, or to the first violation.
    pub(crate) fn run(&mut self, limit: Option<u64>) -> Result<(), Violation> {
        while !self.finished && limit.is_none_or(|limit| self.steps < limit) {
            let Some((at_ns, event)) = self.calendar.next() else {
                break;
            };
            assert!(at_ns >= self.now_ns, "time goes forward");
            self.now_ns = at_ns;
            self.steps += 1;
            if let Some(progress) = &self.progress {
                progress.store(self.steps, Ordering::Relaxed);
            }
            self.trace.mix(at_ns);
            self.dispatch(event).map_err(|violation| Violation {
                at_ns: self.now_ns,
                ..violation
            })?;
        }
        Ok(())
    }

    /// Lets an event happen, now or when the paused process that it is meant for goes on.
    pub(crate) fn dispatch(&mut self, event: Event) -> Result<(), Violation> {
        self.turn += 1;
        if let Some(member) = self.target(&event)
            && let Some(process) = &mut self.hosts[member].process
            && process.paused
        {
            process.deferred.push(event);
            return Ok(());
        }
        match event {
            Event::Deliver { stream, turn } => self.deliver(stream, turn),
            Event::Late { copy } => self.deliver_late(copy),
            Event::Connect { stream } => self.connect(stream),
            Event::Up { stream, generation } => self.connection_up(stream, generation),
            Event::Down { stream, generation } => self.connection_down(stream, generation),
            Event::Refused { stream, refusal } => self.connection_refused(stream, refusal),
            Event::Timer { member, life } => self.timer(member, life),
            Event::Synced { member, life } => self.sync_done(member, life),
            Event::Loaded {
                member,
                life,
                ticket,
                from,
                through,
                max_bytes,
            } => self.loaded(member, life, ticket, from, through, max_bytes),
            Event::Start { member } => self.start(member),
            Event::Resume { member, life } => self.resume(member, life),
            Event::PauseOver { member, life, slot } => self.pause_over(member, life, slot),
            Event::Slow { member, life, run } => self.slow(member, life, run),
            Event::AppUp { member } => {
                self.app_up(member);
                Ok(())
            }
            Event::StartSignal { member } => self.start_signal(member),
            Event::Look { member } => self.look_at_app(member),
            Event::AppStop { member, process } => {
                self.app_stop(member, process);
                Ok(())
            }
            Event::AppEffect {
                member,
                process,
                slot,
            } => {
                self.app_effect(member, process, slot);
                Ok(())
            }
            Event::AppDone {
                member,
                life,
                run,
                response,
            } => self.app_done(member, life, run, response),
            Event::AppRead {
                member,
                life,
                process,
                attempt,
            } => self.app_read(member, life, process, attempt),
            Event::Restored {
                member,
                life,
                job,
                slot,
                process,
                end,
            } => self.restored(member, life, job, (slot, process, end)),
            Event::VolumeBack {
                member,
                life,
                job,
                slot,
                end,
            } => self.volume_back(member, life, job, (slot, end)),
            Event::Claimed {
                member,
                life,
                job,
                process,
                says,
            } => self.claimed(member, life, job, (process, says)),
            Event::Taken {
                member,
                life,
                job,
                slot,
                end,
            } => self.taken(member, life, job, (slot, end)),
            Event::Stored { member, life, slot } => {
                self.stored(member, life, slot);
                Ok(())
            }
            Event::Overdue { member, life, job } => self.overdue(member, life, job),
            Event::Keep { member, life } => self.look_round(member, life),
            Event::Turn { member } => self.turn(member),
            Event::Judge { member, life } => self.judge(member, life),
            Event::Letter { number, .. } => self.letter(number),
            Event::Saved { member, number } => {
                self.promises_saved(member, number);
                Ok(())
            }
            Event::Fetched {
                member,
                life,
                from,
                at_least,
            } => self.fetched(member, life, from, at_least),
            Event::Operate => self.operate(),
            Event::Change { member, number } => self.request_change(member, number),
            Event::Wake { client } => {
                self.wake(client);
                Ok(())
            }
            Event::Again { client, op } => {
                self.again(client, op);
                Ok(())
            }
            Event::Request { attempt, member } => self.request(attempt, member),
            Event::Reply { attempt, reply } => self.reply(attempt, reply),
            Event::GiveUp { attempt } => self.give_up(attempt),
            Event::Revise => self.revise(),
            Event::Roll => self.roll(),
            Event::Mend { member } => {
                self.mend(member);
                Ok(())
            }
            Event::Fault(fault) => self.strike(fault),
            Event::Heal(fault) => self.heal(fault),
            Event::Calm => self.become_calm(),
            Event::Converged => self.check_converged(),
        }
    }

    /// The process that must get time for this event.
    fn target(&self, event: &Event) -> Option<usize> {
        match event {
            Event::Deliver { stream, .. } => Some(self.network.ends(*stream).1),
            Event::Up { stream, .. }
            | Event::Down { stream, .. }
            | Event::Refused { stream, .. } => Some(self.network.ends(*stream).0),
            Event::Timer { member, .. }
            | Event::Synced { member, .. }
            | Event::Loaded { member, .. }
            | Event::Fetched { member, .. }
            | Event::Restored { member, .. }
            | Event::VolumeBack { member, .. }
            | Event::Claimed { member, .. }
            | Event::Taken { member, .. }
            | Event::Stored { member, .. }
            | Event::Overdue { member, .. }
            | Event::Keep { member, .. }
            | Event::Turn { member }
            | Event::Judge { member, .. }
            | Event::Letter { member, .. }
            | Event::Saved { member, .. }
            | Event::PauseOver { member, .. }
            | Event::Slow { member, .. }
            | Event::StartSignal { member }
            | Event::Look { member }
            | Event::AppDone { member, .. }
            | Event::Change { member, .. }
            | Event::Request { member, .. } => Some(*member),
            _ => None,
        }
    }

    pub(crate) fn clock(&self, member: usize) -> Now {
        self.hosts[member].clock.now(self.now_ns)
    }

    pub(crate) fn plan(&mut self, in_ns: u64, event: Event) {
        self.calendar.put(self.now_ns + in_ns, event);
    }

    pub(crate) fn report(self, violation: Option<Violation>) -> Report {
        Report {
            seed: self.swarm.seed,
            events: self.steps,
            simulated_ns: self.now_ns,
            operations: self.checks.answers.operations(),
            handovers: self.tally.handovers,
            compactions: self.tally.compactions,
            installs: self.tally.installs,
            chosen: self.checks.chosen.through().0,
            trace_hash: self.trace.hash(),
            violation,
            tail: self.trace.tail(),
            coverage: self.coverage,
            parameters: format!("{:?}", self.swarm),
            faults: self.tally,
            strikes: self.strikes,
        }
    }
}

fn genesis(swarm: &Swarm, dice: &mut Dice) -> Genesis {
    let members = (0..swarm.members)
        .map(|index| Voter {
            id: id_of(index),
            name: name_of(index),
            incarnation: Incarnation(dice.bits()),
            role: if index + swarm.witnesses < swarm.members {
                Role::Voter
            } else {
                Role::Witness
            },
            region: swarm.placement.regions[index].clone(),
        })
        .collect();
    Genesis {
        group: GroupId(dice.bits().to_le_bytes()),
        configuration: Configuration {
            epoch: Epoch(1),
            members,
            quorums: swarm.quorums,
            first_leader: MemberId(0),
        },
        policy: crate::copy::first_policy(),
        // Revisions that run along are known from there on.
        protocol: swarm.settings.protocol_max,
        initial_state: Bytes::new(),
    }
}

fn name_of(index: usize) -> String {
    format!("member-{}", index + 1)
}

fn host(index: usize, genesis: &Genesis, swarm: &Swarm, dice: &mut Dice) -> Host {
    let first = genesis.configuration.members.get(index);
    let identity = Identity {
        name: name_of(index),
        incarnation: first.map_or_else(|| Incarnation(dice.bits()), |it| it.incarnation),
    };
    let seat = if first.is_some() {
        Seat::Taken
    } else {
        Seat::Waiting
    };
    let ppm = |dice: &mut Dice| {
        let bound = swarm.drift_ppm.cast_signed();
        dice.range(0, 2 * swarm.drift_ppm).cast_signed() - bound
    };
    let skew =
        dice.range(0, 2 * swarm.wall_skew_ns).cast_signed() - swarm.wall_skew_ns.cast_signed();
    // The planted lie is on every disk: a minority of liars may go unseen for long.
    let lies = swarm.plant == Plant::LyingDisk;
    Host {
        clock: Clock::new(dice.range(1, 1 << 50), ppm(dice), ppm(dice), skew),
        disk: Disk::new(identity, genesis.clone(), lies),
        app: App::new(swarm.service.state, swarm.registers),
        promises: Vec::new(),
        half_restored: false,
        offered: 0,
        along: None,
        app_planned: false,
        exchange: None,
        ledger: Ledger::default(),
        snapshots: Vec::new(),
        rotten: Slot::ZERO,
        process: None,
        life: 0,
        settings: Settings {
            preference: swarm.placement.preferences[index],
            ..swarm.settings.clone()
        },
        absent_since_ns: None,
        handovers: 0,
        seat,
        witness: false,
        disk_full: false,
    }
}
