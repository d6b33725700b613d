//! Other revisions of the app: people propose them, take them back or let them take over; somebody starts
//! apps of what is due, or of what may run along silently; and whoever leads has it agreed on that one has
//! taken over, by the production rule.

use std::time::Duration;

use prost::Message as _;
use synod_paxos::{CommandKind, Role, Standing};
use synod_proto::v1::{Revision, RevisionDisagrees, RevisionDone, RevisionStrategy};
use synod_sidecar::apply::{Blocked, Machine, RevisionStatus};
use synod_sidecar::revision::sim::{self, Ready, Said, Sided};

use crate::app::{App, Manners, mix};
use crate::calendar::Event;
use crate::compared::Revising;
use crate::coverage::Sight;
use crate::invariants::Violation;
use crate::invariants::revisions::Event as News;
use crate::network::{id_of, index_of};
use crate::world::World;

/// How often whoever starts apps looks whether one is to run along.
const ROLL_NS: u64 = 1_000_000_000;
/// So long after everything was healed, a person gives up a revision that no copy can begin with, or
/// behind whose barrier a copy stands.
const BEGINS_NS: u64 = 60_000_000_000;

/// What a leader knows of a revision that is about to take over.
#[derive(Debug, Default)]
pub(crate) struct TakingOver {
    ready: Ready,
    /// Since when this revision answers.
    answering: Option<(u64, u64)>,
}

/// What the machine must know of whatever listens before it sees it.
pub(crate) fn tell_revision(machine: &mut Machine, app: &App, offered: u64) {
    let listens = app.up.then_some(app.process);
    if listens.is_none() || listens != machine.listens().map(|it| it.0.get()) {
        machine.handle_offered(if app.up { app.revision } else { offered });
    }
}

// === people ===

impl World {
    fn revising(&self) -> Option<&Revising> {
        self.swarm.compared.as_ref()?.revising.as_ref()
    }

    /// Somebody wants another revision, or another end of the last.
    pub(crate) fn revise(&mut self) -> Result<(), Violation> {
        let Some(revising) = self.revising().cloned().filter(|_| !self.calm) else {
            return Ok(());
        };
        let gap = self.dice.gap(revising.every_ns);
        self.plan(gap, Event::Revise);
        if self.is_looked_for() {
            return Ok(());
        }
        let Some((member, known)) = self.leader_knows() else {
            return Ok(());
        };
        let word = self.dice.chance(revising.takes_back);
        let in_spite = self.dice.chance(revising.in_spite);
        let rolls = self.dice.chance(revising.rolling);
        // Whoever led before had not heard of that.
        let late = self.checks.revisions.disagrees() && self.dice.chance(0.7);
        match known.silent {
            Some((number, _)) if in_spite => self.propose_done(member, number, true),
            Some((number, _)) if late => self.propose_done(member, number, false),
            _ if known.is_unfinished && !word => {}
            _ => self.propose_revision(member, &known, rolls),
        }
        self.settle(member)
    }

    fn leader_knows(&self) -> Option<(usize, RevisionStatus)> {
        let leads = |it: &usize| {
            let process = self.hosts[*it].process.as_ref();
            process.is_some_and(|it| !it.paused && it.paxos.standing() == Standing::Leader)
        };
        let leader = self.seated.iter().copied().find(leads)?;
        let process = self.hosts[leader].process.as_ref()?;
        Some((leader, process.copy.machine.revision_status()))
    }

    fn copies(&self, member: usize) -> Vec<usize> {
        let process = self.hosts[member].process.as_ref().expect("it runs");
        let members = process.paxos.configuration().members.iter();
        let copies = members.filter(|it| it.role != Role::Witness);
        copies.map(|it| index_of(it.id)).collect()
    }

    fn propose_revision(&mut self, member: usize, known: &RevisionStatus, rolls: bool) {
        let copies = self.copies(member);
        let takes_back = known.is_unfinished;
        let rolls = rolls && !takes_back && copies.len() > 1;
        let serves = |it: &usize| {
            let process = self.hosts[*it].process.as_ref();
            process.is_some_and(|it| it.copy.machine.serving())
        };
        let saver = copies.into_iter();
        let saver = saver.max_by_key(|it| (serves(it), *it != member, usize::MAX - it));
        let mut revision = Revision {
            number: known.newest + 1,
            takes_back,
            ..Revision::default()
        };
        if rolls {
            revision.set_strategy(RevisionStrategy::Rolling);
            revision.saver = saver.map_or(0, |it| id_of(it).0);
        }
        self.propose(member, CommandKind::REVISION, revision.encode_to_vec());
    }

    fn propose_done(&mut self, member: usize, number: u64, in_spite: bool) {
        let done = RevisionDone { number, in_spite };
        self.propose(member, CommandKind::REVISION_DONE, done.encode_to_vec());
    }

    fn propose(&mut self, member: usize, kind: CommandKind, payload: Vec<u8>) {
        let now = self.clock(member);
        let host = &mut self.hosts[member];
        let boot = host.disk.boot();
        let process = host.process.as_mut().expect("it leads");
        let command = process.command(boot, kind, payload.into());
        let id = command.id;
        if process.paxos.propose(now, command).is_ok() {
            process.unresolved.insert(id.sequence);
        }
    }

    /// What the agreement has made of that.
    pub(crate) fn learn_revisions(&mut self) {
        if self.swarm.compared.is_none() {
            return;
        }
        for news in self.checks.revisions.learn(&self.checks.chosen) {
            self.trace.line(self.now_ns, || format!("*** {news:?}"));
            self.coverage.saw(match news {
                News::Switched => Sight::Switches,
                News::Rolls => Sight::Rolls,
                News::Done => Sight::SwitchesDone,
                News::TookOver => Sight::RollsDone,
                News::InSpite => Sight::RollsDoneInSpite,
                News::Disagrees => Sight::RollsDisagree,
                News::Refused => Sight::RollsRefused,
                News::SwitchTakenBack => Sight::SwitchesTakenBack,
                News::RollTakenBack => Sight::RollsTakenBack,
            });
        }
    }
}

// === whoever starts apps ===

impl World {
    /// The revision that the next app on this machine is of, as its member says; or the last one, if
    /// nobody can tell. What may not run along is asked for once.
    pub(crate) fn due_revision(&mut self, member: usize) -> u64 {
        let host = &mut self.hosts[member];
        if let Some(process) = &host.process {
            let known = process.copy.machine.revision_status();
            if known.is_known {
                let along = host.along.filter(|it| known.may == Some(*it));
                host.offered = along.unwrap_or(known.due);
            }
        }
        let offered = host.offered;
        host.along.take_if(|it| *it != offered);
        offered
    }

    /// How that one behaves.
    pub(crate) fn manners(&self, number: u64) -> Manners {
        let Some(revising) = self.revising() else {
            return Manners::default();
        };
        let drawn = mix(self.swarm.seed, number);
        Manners {
            refuses: number > 0 && drawn % 1_000 < revising.refuses,
            dressed: number > 0 && (drawn >> 20).is_multiple_of(3),
        }
    }

    /// Somebody looks which copy is to run along next: one at a time, the leader last, until half of them
    /// do, and never the last that answers.
    pub(crate) fn roll(&mut self) -> Result<(), Violation> {
        self.plan(ROLL_NS, Event::Roll);
        if self.is_looked_for() {
            return Ok(());
        }
        let Some((leader, known)) = self.leader_knows() else {
            return Ok(());
        };
        let Some((silent, _)) = known.silent else {
            return Ok(());
        };
        let copies = self.copies(leader);
        if self.calm && (self.checks.revisions.disagrees() || copies.len() < 2) {
            return self.decide_calmly(leader, &known);
        }
        let waits_ns = self.now_ns.saturating_sub(self.swarm.safety_ns);
        let hopeless = self.nobody_may_begin(&copies, silent) || self.stands(&copies);
        if self.calm && waits_ns > BEGINS_NS && hopeless {
            self.propose_revision(leader, &known, false);
            return self.settle(leader);
        }
        let status = |it: &usize| {
            let process = self.hosts[*it].process.as_ref()?;
            let machine = &process.copy.machine;
            Some((machine.revision_status(), machine.serving()))
        };
        let along = |it: &&usize| self.hosts[**it].along == Some(silent);
        let starting =
            |it: &&usize| along(it) && status(it).is_none_or(|it| it.0.running != Some(silent));
        let answers = |it: &&usize| !along(it) && status(it).is_some_and(|it| it.1);
        let many = copies.iter().filter(along).count();
        if 2 * many >= copies.len()
            || copies.iter().any(|it| starting(&it))
            || copies.iter().filter(answers).count() < 2
        {
            return Ok(());
        }
        let able = copies.iter().filter(answers);
        let able = able.filter(|it| status(it).is_some_and(|it| it.0.may == Some(silent)));
        let Some(next) = able.min_by_key(|it| (**it == leader, **it)).copied() else {
            return Ok(());
        };
        self.coverage.saw(Sight::RunsAlong);
        self.hosts[next].along = Some(silent);
        let process = self.hosts[next].app.process;
        self.app_stop(next, process);
        Ok(())
    }
}

impl World {
    /// The state that it begins with is lost.
    fn nobody_may_begin(&self, copies: &[usize], silent: u64) -> bool {
        copies.iter().all(|it| {
            let process = self.hosts[*it].process.as_ref();
            process.is_none_or(|it| {
                let known = it.copy.machine.revision_status();
                known.may != Some(silent) && known.running != Some(silent)
            })
        })
    }

    /// A copy cannot get past a request, and no state that another has is saved meanwhile.
    fn stands(&self, copies: &[usize]) -> bool {
        copies.iter().any(|it| {
            let machine = self.hosts[*it].process.as_ref().map(|it| &it.copy.machine);
            machine.is_some_and(|it| matches!(it.blocked(), Some(Blocked::Pause(_))))
        })
    }

    /// A person decides about one that cannot take over by itself.
    fn decide_calmly(&mut self, leader: usize, known: &RevisionStatus) -> Result<(), Violation> {
        match known.silent {
            Some((number, _)) if number.is_multiple_of(2) => {
                self.propose_done(leader, number, true);
            }
            Some(_) => self.propose_revision(leader, known, false),
            None => {}
        }
        self.settle(leader)
    }
}

// === whoever leads ===

impl World {
    /// Looks whether another revision has taken over.
    pub(crate) fn look_at_revision(&mut self, member: usize) {
        if self.revising().is_none() {
            return;
        }
        let process = self.hosts[member].process.as_mut().expect("it leads");
        let machine = &process.copy.machine;
        let known = machine.revision_status();
        let stands = machine
            .fold()
            .silent()
            .is_some_and(|it| it.disagreement.is_some());
        let reached = process.paxos.commit();
        let Some(term) = &mut process.term else {
            return;
        };
        let (begun_ns, Some(desk)) = (term.begun_ns, &term.desk) else {
            return;
        };
        if !known.is_unfinished || stands {
            term.taking_over = TakingOver::default();
            return;
        }
        let (found, compared) = (desk.comparers.disagreement(), desk.comparers.compared());
        let said = self.said(member);
        let now = Duration::from_nanos(self.now_ns - begun_ns);
        let process = self.hosts[member].process.as_mut().expect("it leads");
        let term = process.term.as_mut().expect("it leads");
        let taking_over = &mut term.taking_over;
        let number = known.in_force;
        if let Some((silent, _)) = known.silent {
            taking_over.answering = None;
            if let Some(found) = found {
                let disagrees = RevisionDisagrees {
                    number: silent,
                    slot: found.slot.0,
                    answered: found.answered.into(),
                    silent: found.silent.into(),
                    ..RevisionDisagrees::default()
                };
                let payload = disagrees.encode_to_vec();
                return self.propose(member, CommandKind::REVISION_DISAGREES, payload);
            }
            let copies = said.iter();
            let copies: Vec<Sided> = copies
                .map(|it| Sided::of(it.as_ref(), silent, reached))
                .collect();
            if taking_over
                .ready
                .look(silent, &copies, reached, compared, now)
            {
                self.propose_done(member, silent, false);
            }
            return;
        }
        taking_over.ready = Ready::default();
        taking_over.answering.take_if(|(of, _)| *of != number);
        let copies = said.iter().map(|it| sim::copy(it.as_ref(), number));
        let copies: Vec<sim::Copy> = copies.collect();
        if !sim::answers(&copies) {
            taking_over.answering = None;
            return;
        }
        let (_, since_ns) = *taking_over.answering.get_or_insert((number, self.now_ns));
        if sim::is_done(&copies, Duration::from_nanos(self.now_ns - since_ns)) {
            self.propose_done(member, number, false);
        }
    }

    /// What all copies say of themselves, as far as they can be asked.
    fn said(&self, member: usize) -> Vec<Option<Said>> {
        let copies = self.copies(member).into_iter();
        let said = copies.map(|it| {
            let reached = it == member
                || !(self.network.is_cut(member, it) || self.network.is_cut(it, member));
            let process = self.hosts[it].process.as_ref();
            let process = process.filter(|it| reached && !it.paused)?;
            let machine = &process.copy.machine;
            Some(Said {
                running: machine.revision_status().running,
                serving: machine.serving(),
                applied: machine.applied(),
            })
        });
        said.collect()
    }
}
