//! The exchange with the model app: a request on its way there, what it does, its response on the way
//! back; and the app's starts and ends at each step of that.

use synod_paxos::Slot;
use synod_sidecar::app::Instance;
use synod_sidecar::apply::{Machine, Run};

use crate::app::{Answer, On, Poison, Work};
use crate::calendar::{Event, Life};
use crate::comparison::{digest, draw_lot};
use crate::copy::{APPLY_TIMEOUT_MS, RESPONSES, look};
use crate::coverage::Sight;
use crate::invariants::Violation;
use crate::invariants::applied::{Effect, has_none_of};
use crate::revisions::tell_revision;
use crate::swarm::Plant;
use crate::world::{Host, World};

/// How soon a broken connection is seen, and an app that must not start yet is tried again.
const NOTICE_NS: u64 = 100_000;
/// Longest time before the end of an app is seen that nothing is sent to.
const LOOK_NS: u64 = 250_000_000;
const START_AGAIN_NS: u64 = 50_000_000;

/// One request that was sent to the app.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Exchange {
    life: Life,
    run: Run,
    slot: Slot,
    process: u64,
    work: Work,
    /// It did not come through in full: nothing comes of it.
    torn: bool,
    /// What it came to.
    result: Option<Answer>,
    /// The process ends when it has answered.
    dies_after: bool,
    /// The process ended before it answered.
    lost: bool,
}

/// What happens to the app's process in one exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Lives,
    DiesBeforeSend,
    DiesInPart,
    DiesExecuted,
    DiesAnswered,
    Hangs,
}

impl World {
    /// Sends a request to the app, if it is still the process that the machine means.
    pub(crate) fn execute(&mut self, member: usize, run: Run, slot: Slot, work: Work) {
        let life = self.hosts[member].life;
        let fate = self.fate(member, slot, work);
        if fate == Fate::DiesBeforeSend {
            let process = self.hosts[member].app.process;
            self.app_stop(member, process);
        }
        let host = &mut self.hosts[member];
        let found = look(host);
        let machine = &mut host.process.as_mut().expect("it was polled").copy.machine;
        if found.is_none() || found != machine.instance() {
            self.coverage.saw(Sight::NotSent);
            machine.handle_not_sent(run);
            return self.see(member, found);
        }
        let process = host.app.process;
        host.app.work = Some((slot, work, None));
        host.exchange = Some(Exchange {
            life,
            run,
            slot,
            process,
            work,
            torn: fate == Fate::DiesInPart,
            result: None,
            dies_after: fate == Fate::DiesAnswered,
            lost: false,
        });
        let slow = !self.calm && self.dice.chance(self.swarm.app_slow);
        let mean = if slow {
            self.swarm.app_slow_ns
        } else {
            self.swarm.app_ns
        };
        let takes = self.dice.range(mean / 2, mean * 3 / 2);
        let effect = self.dice.range(0, takes);
        let lost = !self.calm && self.dice.chance(self.swarm.app_loses_connection);
        self.plan(
            effect,
            Event::AppEffect {
                member,
                process,
                slot,
            },
        );
        let dies = match fate {
            Fate::DiesInPart => Some(self.dice.range(0, effect)),
            Fate::DiesExecuted => Some(self.dice.range(effect, takes)),
            Fate::DiesAnswered => Some(takes),
            _ => None,
        };
        if let Some(dies) = dies {
            self.plan(dies, Event::AppStop { member, process });
        }
        if fate != Fate::Hangs {
            let ends = if lost {
                self.dice.range(0, takes)
            } else {
                takes
            };
            let response = !lost;
            self.plan(
                ends,
                Event::AppDone {
                    member,
                    life,
                    run,
                    response,
                },
            );
        }
        if takes > APPLY_TIMEOUT_MS * 1_000_000 || fate == Fate::Hangs {
            self.plan(
                APPLY_TIMEOUT_MS * 1_000_000,
                Event::Slow { member, life, run },
            );
        }
    }

    fn fate(&mut self, member: usize, slot: Slot, work: Work) -> Fate {
        let calm = self.calm;
        // Without snapshots nothing but a better app helps a copy past what another has executed.
        let executed = self.checks.was_executed(slot);
        let mended = calm && executed && self.swarm.snapshot_slots == 0;
        let mut strikes = |on: On| match on {
            On::All => !mended,
            On::AllBut(machine) => machine != member && !mended,
            On::One(machine) => machine == member && !calm,
            On::Some => !calm && self.dice.chance(0.6),
        };
        let killed = match work.poison {
            Poison::Kills(on) => strikes(on),
            Poison::Hangs(on) if strikes(on) => {
                self.coverage.saw(Sight::Hung);
                return Fate::Hangs;
            }
            _ => false,
        };
        if !killed && (calm || !self.dice.chance(self.swarm.service.app_dies)) {
            return Fate::Lives;
        }
        // What kills is there before it kills.
        let step = self
            .dice
            .range(u64::from(killed), if killed { 2 } else { 3 });
        let (fate, sight) = [
            (Fate::DiesBeforeSend, Sight::AppDiedBeforeSend),
            (Fate::DiesInPart, Sight::AppDiedInPart),
            (Fate::DiesExecuted, Sight::AppDiedExecuted),
            (Fate::DiesAnswered, Sight::AppDiedAnswered),
        ][step as usize];
        self.coverage.saw(sight);
        fate
    }

    pub(crate) fn app_effect(&mut self, member: usize, process: u64, slot: Slot) {
        let twice =
            self.swarm.plant == Plant::DoubleExecution && member == 0 && slot.0.is_multiple_of(8);
        let app = &self.hosts[member].app;
        if !app.up || app.process != process {
            return;
        }
        let Some((at, work, None)) = app.work.filter(|(at, ..)| *at == slot) else {
            return;
        };
        let is_of_this = |it: &&mut Exchange| it.process == process && it.slot == slot;
        let exchange = self.hosts[member].exchange.as_mut();
        if exchange.filter(is_of_this).is_some_and(|it| it.torn) {
            return;
        }
        let noise = self
            .strays(member, slot, work)
            .then(|| self.dice.range(1, u64::MAX));
        let Host { app, exchange, .. } = &mut self.hosts[member];
        if let Some(noise) = noise {
            app.go_astray(work.register, noise);
        }
        let mut result = app.execute(slot, work);
        if twice {
            result = app.execute(slot, work);
        }
        app.work = Some((at, work, Some(result.result)));
        if let Some(exchange) = exchange.as_mut().filter(is_of_this) {
            exchange.result = Some(result);
        }
        let (digest, odd, result) = (app.state().digest(), result.odd, result.result);
        self.trace.mix(digest);
        self.trace.line(self.now_ns, || {
            format!(
                "{} app executes slot {slot}: op {} {result:?}",
                member + 1,
                work.op
            )
        });
        // A read may show it from now on.
        if !odd {
            self.checks.answers.changed(slot, work.register, result);
        }
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
            let waits = host.exchange.take_if(|it| it.life == life && it.run == run);
            if waits.is_some_and(|it| it.result.is_some()) {
                self.coverage.saw(Sight::DiedBeforeResponse);
            }
            return Ok(());
        };
        // A late end of a request that the machine has given up.
        if process.copy.machine.run() != Some(run) {
            return self.settle(member);
        }
        let exchange = host.exchange.filter(|it| it.life == life && it.run == run);
        let answered = exchange.filter(|it| response && !it.lost);
        if let Some((it, answer)) = answered.and_then(|it| Some((it, it.result?))) {
            self.app_answered(member, &it, answer)?;
            let process = self.hosts[member].process.as_mut().expect("it runs");
            process.copy.machine.handle_response(run);
        } else {
            self.coverage.saw(Sight::Ambiguous);
            process.copy.machine.handle_unknown(run);
        }
        self.see(member, found);
        self.settle(member)
    }

    /// The response has come in full: it is kept, and goes to the comparison of the copies.
    fn app_answered(
        &mut self,
        member: usize,
        it: &Exchange,
        answer: Answer,
    ) -> Result<(), Violation> {
        self.learn_revisions();
        let host = &mut self.hosts[member];
        let process = host.process.as_mut().expect("it runs");
        let copy = &mut process.copy;
        let fold = copy.machine.fold();
        let (skipped, silent) = (fold.skipped(), copy.machine.is_silent_at(it.slot));
        if host.app.up && host.app.process == it.process {
            has_none_of(member, skipped, host.app.state())?;
        }
        let (slot, work) = (it.slot, it.work);
        if !silent {
            let contained = host.app.state().poisonous().iter().copied();
            let contained = contained.filter(|it| *it < slot);
            self.checks.shows(contained.chain([slot]));
        }
        let at = (slot, fold.admitted());
        self.checks
            .revisions
            .executed(member, at, &answer, silent)?;
        let effect = Effect {
            work,
            result: answer.result,
            digest: answer.digest,
        };
        if answer.odd {
            self.checks.executed_astray(member, skipped, slot, effect)?;
        } else {
            self.checks.executed(member, skipped, slot, effect)?;
        }
        if let Some(compared) = &mut copy.compared {
            if answer.odd {
                compared.odd.insert(slot);
            }
            let noisy = self.swarm.compared.as_ref().is_some_and(|it| it.noisy);
            let lot = noisy.then(|| draw_lot(&mut self.dice, slot));
            compared.side.executed(slot, digest(&answer, lot));
        }
        if !silent || self.swarm.plant == Plant::SilentAnswers {
            copy.responses.insert(slot, answer);
            if copy.responses.len() > RESPONSES {
                copy.responses.pop_first();
            }
        }
        Ok(())
    }

    /// The app takes longer than the policy allows.
    pub(crate) fn slow(&mut self, member: usize, life: Life, run: Run) -> Result<(), Violation> {
        let host = &mut self.hosts[member];
        let Some(process) = host.process.as_mut().filter(|p| p.life == life) else {
            return Ok(());
        };
        let machine = &mut process.copy.machine;
        machine.handle_slow(run);
        if machine.run() == Some(run) {
            let status = process.paxos.status();
            let elsewhere = status.peers.iter().map(|peer| peer.applied).max();
            machine.handle_applied_elsewhere(elsewhere.unwrap_or_default());
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
        let process = self.hosts[member].process.as_mut();
        if let Some(process) = process.filter(|p| p.life == life) {
            process.copy.machine.handle_pause_over(slot);
        }
        self.settle(member)
    }

    /// The sidecar has died: what it was sending may not have left in full.
    pub(crate) fn tear_exchange(&mut self, member: usize) {
        let torn = self.dice.chance(0.3);
        if let Some(exchange) = &mut self.hosts[member].exchange {
            exchange.torn |= torn;
        }
    }

    // === the app's life ===

    /// An app starts before long, unless that is planned already.
    pub(crate) fn plan_app(&mut self, member: usize, in_ns: u64) {
        if !std::mem::replace(&mut self.hosts[member].app_planned, true) {
            self.plan(in_ns, Event::AppUp { member });
        }
    }

    /// A new process of the app listens, and the start signal is given. Mostly the sidecar is asked
    /// before, if it is there.
    pub(crate) fn app_up(&mut self, member: usize) {
        self.hosts[member].app_planned = false;
        let early = !self.calm && self.dice.chance(self.swarm.service.starts_early);
        let host = &mut self.hosts[member];
        if host.app.up || host.witness {
            return;
        }
        let process = host.process.as_ref();
        let may = process.is_none_or(|it| it.copy.machine.may_start());
        if !may && !early {
            return self.plan_app(member, START_AGAIN_NS);
        }
        let revision = if may {
            self.due_revision(member)
        } else {
            self.coverage.saw(Sight::StartedEarly);
            host.offered
        };
        let manners = self.manners(revision);
        let host = &mut self.hosts[member];
        host.app.start(revision, manners);
        let found = look(host);
        self.trace.line(self.now_ns, || {
            format!("{} app starts: {found:?}", member + 1)
        });
        self.plan(100_000, Event::StartSignal { member });
    }

    /// The start signal (rule A5): the sidecar looks what listens.
    pub(crate) fn start_signal(&mut self, member: usize) -> Result<(), Violation> {
        let found = look(&self.hosts[member]);
        if let Some(machine) = self.told_machine(member) {
            machine.handle_app_started(found);
        }
        self.settle(member)
    }

    /// The sidecar looks what listens, as it does now and then.
    pub(crate) fn look_at_app(&mut self, member: usize) -> Result<(), Violation> {
        let found = look(&self.hosts[member]);
        self.see(member, found);
        self.settle(member)
    }

    /// The machine learns what listens.
    pub(crate) fn see(&mut self, member: usize, found: Option<Instance>) {
        if let Some(machine) = self.told_machine(member) {
            machine.handle_app(found);
        }
    }

    /// The machine, once it knows of which revision whatever listens is.
    fn told_machine(&mut self, member: usize) -> Option<&mut Machine> {
        let host = &mut self.hosts[member];
        let machine = &mut host.process.as_mut()?.copy.machine;
        tell_revision(machine, &host.app, host.offered);
        Some(machine)
    }

    /// The app's process is ended, if it is still this one, and will be started anew.
    pub(crate) fn app_stop(&mut self, member: usize, process: u64) {
        let app = &self.hosts[member].app;
        if !app.up || app.process != process {
            return;
        }
        self.end_app(member, false);
        let start = self
            .dice
            .range(self.swarm.app_start_ns / 2, self.swarm.app_start_ns);
        self.plan_app(member, start);
    }

    /// The app's process is gone. Whoever waits for its answer sees that.
    pub(crate) fn end_app(&mut self, member: usize, machine: bool) {
        let host = &mut self.hosts[member];
        if !host.app.up {
            return;
        }
        host.app.die(machine, &mut self.dice);
        let seen = self.dice.range(NOTICE_NS, LOOK_NS);
        self.plan(seen, Event::Look { member });
        let host = &mut self.hosts[member];
        let exchange = host.exchange.as_mut();
        let waits = exchange.filter(|it| it.process == host.app.process && !it.lost);
        self.trace
            .line(self.now_ns, || format!("{} app ends", member + 1));
        let Some(exchange) = waits else {
            return;
        };
        if exchange.dies_after && exchange.result.is_some() {
            return;
        }
        exchange.lost = true;
        let (life, run) = (exchange.life, exchange.run);
        let response = false;
        self.plan(
            NOTICE_NS,
            Event::AppDone {
                member,
                life,
                run,
                response,
            },
        );
    }
}
