//! Machines that come and go: what a seed draws of it, and what the people who run a group do besides
//! asking for changes. They start a member once the configuration that names it is chosen, throw one
//! away only when the core says that nobody needs it any more, and lose disks now and then.

use synod_paxos::{Configuration, Role, Slot, Standing};

use crate::calendar::Event;
use crate::changes::{Odd, Request};
use crate::coverage::Sight;
use crate::dice::Dice;
use crate::disk::Disk;
use crate::invariants::Violation;
use crate::network::{id_of, index_of};
use crate::swarm::{Plant, Swarm};
use crate::world::World;

/// How the members of a group change.
#[derive(Clone, Debug)]
pub(crate) struct MembershipSwarm {
    /// Mean time between two requests for a change, in nanoseconds.
    pub(crate) every_ns: u64,
    /// The longest time that a request is under way, in nanoseconds.
    pub(crate) delay_ns: u64,
    /// Machines besides the first members, each for one member.
    pub(crate) spares: usize,
    /// Members at a time.
    pub(crate) most: usize,
    /// Share of the requests that are wrong in some way.
    pub(crate) odd: f64,
    /// Share of the requests that are followed by another at once.
    pub(crate) twice: f64,
    /// Mean time between losses of disks, in nanoseconds; `None`: none is lost.
    pub(crate) lose: Option<u64>,
    /// Chance, each time that somebody looks, that a member which is not needed is thrown away.
    pub(crate) tidy: f64,
}

/// What a machine is to the group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seat {
    /// It has an incarnation, an empty disk and no group yet.
    Waiting,
    /// It is a member, or was and may be needed.
    Taken,
    /// Its disk is lost, and the member with it.
    Lost,
    /// It was removed and thrown away.
    Gone,
}

/// The machine's member has an app.
pub(crate) fn runs_app(configuration: &Configuration, machine: usize) -> bool {
    let place = configuration.member(id_of(machine));
    place.is_some_and(|it| it.role != Role::Witness)
}

// === impl MembershipSwarm ===

impl MembershipSwarm {
    pub(crate) fn draw(dice: &mut Dice, swarm: &Swarm) -> Option<Self> {
        let on = dice.chance(0.6);
        let requests = dice.log_range(5, 80);
        let every_ns = swarm.safety_ns / requests;
        let lose = dice.chance(0.5);
        // What is lost on one disk is on one other perhaps.
        let lose = lose && swarm.faults.spoil == 0.0;
        let drawn = Self {
            every_ns,
            delay_ns: dice.log_range(1_000_000, 2 * every_ns),
            spares: dice.range(2, 14) as usize,
            most: dice.range(3, 8) as usize,
            odd: [0.1, 0.4][dice.pick(2)],
            twice: [0.0, 0.2][dice.pick(2)],
            lose: lose.then(|| dice.log_range(2, 10) * every_ns),
            tidy: [0.1, 0.5, 1.0][dice.pick(3)],
        };
        on.then_some(drawn)
    }
}

// === impl World ===

impl World {
    /// All machines that are in the last configuration chosen.
    pub(crate) fn configured(&self) -> Vec<usize> {
        let configuration = self.checks.chosen.epochs.latest();
        let members = configuration.members.iter();
        members.map(|it| index_of(it.id)).collect()
    }

    /// Somebody looks after the group, and asks for a change.
    pub(crate) fn operate(&mut self) -> Result<(), Violation> {
        let Some(membership) = self.swarm.membership.clone().filter(|_| !self.calm) else {
            return Ok(());
        };
        let gap = self.dice.gap(membership.every_ns);
        self.plan(gap, Event::Operate);
        self.attend(0.5, membership.tidy)?;
        let Some(to) = self.addressee() else {
            return Ok(());
        };
        let delay = self.dice.log_range(10_000, membership.delay_ns);
        let second = self.dice.chance(membership.twice);
        for _ in 0..=usize::from(second) {
            let odd = self.dice.chance(membership.odd);
            let mut odd = odd.then(|| Odd::draw(&mut self.dice));
            let lost = self.configured().iter().any(|it| self.is_lost(*it));
            if lost && self.dice.chance(0.2) {
                odd = Some(Odd::TooFew);
            }
            if let Some(request) = self.draw_change(to, odd) {
                self.ask(to, request, delay);
            }
        }
        Ok(())
    }

    fn ask(&mut self, member: usize, request: Request, delay: u64) {
        self.next_request += 1;
        let number = self.next_request;
        self.requests.insert(number, request);
        self.plan(delay, Event::Change { member, number });
    }

    /// Mostly one that leads, as it believes.
    fn addressee(&mut self) -> Option<usize> {
        let leads = |it: &usize| {
            let process = self.hosts[*it].process.as_ref();
            process.is_some_and(|it| it.paxos.standing() == Standing::Leader)
        };
        let leaders: Vec<usize> = self.seated.iter().copied().filter(leads).collect();
        let all = leaders.is_empty() || self.dice.chance(0.1);
        let among = if all { &self.seated } else { &leaders };
        among.get(self.dice.pick(among.len())).copied()
    }

    /// Starts members that were added, and throws away those that were removed and are not needed,
    /// each with this chance.
    fn attend(&mut self, start: f64, tidy: f64) -> Result<(), Violation> {
        for member in 0..self.hosts.len() {
            let seat = self.hosts[member].seat;
            let left = self.checks.chosen.epochs.left(id_of(member)).is_some();
            match seat {
                Seat::Waiting if left => self.vacate(member, Seat::Gone),
                Seat::Waiting if self.is_configured(member) && self.dice.chance(start) => {
                    self.join(member)?;
                }
                Seat::Taken if left && self.is_dispensable(member) && self.dice.chance(tidy) => {
                    self.coverage.saw(Sight::ThrownAway);
                    self.vacate(member, Seat::Gone);
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn is_configured(&self, member: usize) -> bool {
        let configuration = self.checks.chosen.epochs.latest();
        configuration.member(id_of(member)).is_some()
    }

    /// Somebody who does not count on it says that the epoch before its own is retired (rule M6).
    pub(crate) fn is_dispensable(&self, member: usize) -> bool {
        let Some(left) = self.checks.chosen.epochs.left(id_of(member)) else {
            return false;
        };
        let mut others = self.seated.iter().filter(|it| **it != member);
        others.any(|it| {
            let process = self.hosts[*it].process.as_ref();
            process.is_some_and(|it| it.paxos.epoch() >= left && it.paxos.old_epoch_retired())
        })
    }

    /// A new member begins with an empty disk, the genesis, and the configuration that names it.
    fn join(&mut self, member: usize) -> Result<(), Violation> {
        let configuration = self.checks.chosen.epochs.latest().clone();
        let name = configuration
            .member(id_of(member))
            .map(|it| it.name.clone());
        let host = &mut self.hosts[member];
        assert_eq!(name.as_ref(), Some(&host.disk.identity().name), "its seat");
        let lies = self.swarm.plant == Plant::LyingDisk;
        let identity = host.disk.identity().clone();
        host.disk = Disk::joining(identity, self.genesis.clone(), configuration, lies);
        host.seat = Seat::Taken;
        self.seated.push(member);
        self.coverage.saw(Sight::Joined);
        self.start(member)
    }

    /// The machine is not there any more.
    fn vacate(&mut self, member: usize, seat: Seat) {
        self.trace
            .line(self.now_ns, || format!("{} is {seat:?}", member + 1));
        self.trace.mix(member as u64);
        self.crash(member, true);
        let host = &mut self.hosts[member];
        host.seat = seat;
        host.absent_since_ns = Some(self.now_ns);
        self.seated.retain(|it| *it != member);
    }

    pub(crate) fn is_lost(&self, member: usize) -> bool {
        self.hosts[member].seat == Seat::Lost
    }

    /// A disk is lost, if the others can do without: whoever leads has had an entry of its own chosen,
    /// so that no change of an earlier ballot comes back, has none under way, and enough voters for
    /// both phases stay.
    pub(crate) fn lose_disk(&mut self, member: usize) {
        let configuration = self.checks.chosen.epochs.latest();
        if configuration.member(id_of(member)).is_none()
            || !self.is_settled(configuration)
            || self.is_astray()
        {
            return;
        }
        let voters = configuration.voters().count();
        let quorums = configuration.quorums;
        let needed = quorums.phase1(voters).max(quorums.phase2(voters));
        // A witness that has not entered the epoch has a vote and no log: it is none of those that stay.
        let stays = |it: &synod_paxos::MemberId| {
            let host = &self.hosts[index_of(*it)];
            let votes = runs_app(configuration, index_of(*it))
                || host.disk.synced().accepted.epoch >= configuration.epoch;
            index_of(*it) != member && host.seat == Seat::Taken && votes
        };
        let has = |it: &usize| *it != member && runs_app(configuration, *it);
        if configuration.voters().filter(stays).count() < needed || !self.keeps_state(has) {
            return;
        }
        self.coverage.saw(Sight::DisksLost);
        self.vacate(member, Seat::Lost);
    }

    /// One of these could give a state to whoever's log has forgotten the most.
    pub(crate) fn keeps_state(&self, among: impl Fn(&usize) -> bool) -> bool {
        let bases = self
            .seated
            .iter()
            .map(|it| self.hosts[*it].disk.base_slot());
        let needed = bases.max().unwrap_or_default();
        let has = |it: &usize| {
            let host = &self.hosts[*it];
            !host.witness
                && host
                    .newest_usable()
                    .is_some_and(|it| it.base.slot >= needed)
        };
        needed == Slot::ZERO || self.seated.iter().any(|it| among(it) && has(it))
    }

    /// The last change is over, and no other can come of what was ever proposed.
    pub(crate) fn is_settled(&self, configuration: &Configuration) -> bool {
        self.seated.iter().any(|it| {
            let host = &self.hosts[*it];
            host.process.as_ref().is_some_and(|process| {
                let paxos = &process.paxos;
                paxos.standing() == Standing::Leader
                    && paxos.configuration() == configuration
                    && paxos.old_epoch_retired()
                    && paxos.ballot_at(paxos.commit()) == Some(paxos.promised())
                    && !self.ends_epoch(*it)
            })
        })
    }

    /// The member's log ends with the stop-sign of its epoch.
    pub(crate) fn ends_epoch(&self, member: usize) -> bool {
        let host = &self.hosts[member];
        let Some(process) = &host.process else {
            return false;
        };
        let paxos = &process.paxos;
        let last = paxos
            .entry(paxos.last())
            .or_else(|| host.disk.entry(paxos.last()));
        last.is_some_and(|it| it.ballot.epoch == paxos.epoch() && it.reconfigures_to().is_some())
    }

    // === after everything is healed ===

    /// What was asked for and has not arrived is forgotten.
    pub(crate) fn stop_operating(&mut self) {
        self.requests.clear();
    }

    /// Whoever was added comes, whoever was removed goes, whose disk is lost is removed.
    pub(crate) fn operate_calmly(&mut self) -> Result<(), Violation> {
        if self.swarm.membership.is_none() {
            return Ok(());
        }
        self.attend(1.0, 1.0)?;
        let lost = self.configured().into_iter().find(|it| self.is_lost(*it));
        let Some(lost) = lost else {
            return Ok(());
        };
        let leader = self.seated.iter().copied().find(|it| {
            let process = self.hosts[*it].process.as_ref();
            process.is_some_and(|it| it.paxos.standing() == Standing::Leader)
        });
        match leader.and_then(|leader| Some((leader, self.without(leader, lost)?))) {
            Some((leader, request)) => {
                self.ask(leader, request, 1_000);
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// What is not yet as it should be of the members.
    pub(crate) fn members_unfinished(&self) -> Option<String> {
        for (member, host) in self.hosts.iter().enumerate() {
            let name = member + 1;
            let configured = self.is_configured(member);
            match host.seat {
                Seat::Waiting if configured => {
                    return Some(format!("member {name} is not started"));
                }
                Seat::Lost if configured => {
                    return Some(format!("member {name} is lost and still counted on"));
                }
                Seat::Taken if !configured => {
                    return Some(format!("member {name} is removed and still needed"));
                }
                _ => {}
            }
        }
        None
    }
}
