//! Requests for changes of the members: drawing them, right and wrong ones, and handing them to whoever
//! leads. What the core answers is judged by an opinion of the simulator's own.

use synod_paxos::{
    Configuration, Epoch, Incarnation, Member, MemberId, Quorums, ReconfigureRefused, Role,
    Standing,
};

use crate::coverage::Sight;
use crate::dice::Dice;
use crate::invariants::Violation;
use crate::invariants::requests::{self, Seen};
use crate::membership::{Seat, runs_app};
use crate::network::{id_of, index_of};
use crate::swarm::draw_quorums;
use crate::world::World;

/// A change that is asked for.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// The epoch that it was computed from.
    pub(crate) expected: Epoch,
    pub(crate) configuration: Configuration,
}

/// What is wrong with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Odd {
    /// It was computed from the epoch before.
    Stale,
    /// It claims to be stale, but is for the epoch that follows the one in force.
    HalfStale,
    /// Its epoch is not the next.
    Skips,
    /// Somebody who has no log is to vote at once.
    Uncaught,
    /// Two are to vote at once.
    TwoVoters,
    /// A number or an incarnation is used again.
    Reuse,
    /// Its first leader has no vote.
    FirstLeader,
    /// Whoever could decide is to go, and whose disks are lost are to stay.
    TooFew,
}

// === impl Odd ===

impl Odd {
    pub(crate) fn draw(dice: &mut Dice) -> Self {
        let all = [
            Self::Stale,
            Self::HalfStale,
            Self::Skips,
            Self::Uncaught,
            Self::TwoVoters,
            Self::Reuse,
            Self::FirstLeader,
            Self::TooFew,
        ];
        all[dice.pick(all.len())]
    }
}

// === impl World ===

impl World {
    /// A change as somebody computes it who looks at one member and asks another.
    pub(crate) fn draw_change(&mut self, to: usize, odd: Option<Odd>) -> Option<Request> {
        let looks_elsewhere = self.dice.chance(0.15);
        let from = if looks_elsewhere {
            self.seated[self.dice.pick(self.seated.len())]
        } else {
            to
        };
        let view = self.hosts[from].process.as_ref()?;
        let before = view.paxos.configuration().clone();
        let mut next = before.clone();
        next.epoch = before.epoch.next();
        self.change(&mut next)?;
        let voters = next.voters().count();
        if voters > 0 && (self.dice.chance(0.3) || !next.quorums.fit(voters)) {
            next.quorums = draw_quorums(&mut self.dice, voters as u32);
        }
        next.first_leader = self.first_leader(to, &next);
        let mut request = Request {
            expected: before.epoch,
            configuration: next,
        };
        if let Some(odd) = odd {
            self.spoil_request(to, &mut request, &before, odd)?;
        }
        Some(request)
    }

    /// One step away.
    fn change(&mut self, next: &mut Configuration) -> Option<()> {
        let most = self.swarm.membership.as_ref()?.most;
        let lost = |it: &Member| self.is_lost(index_of(it.id));
        let lost = next.members.iter().position(lost);
        let observer = |it: &Member| it.role == Role::Observer && !self.is_lost(index_of(it.id));
        let observer = next.members.iter().position(observer);
        if let Some(lost) = lost
            && self.dice.chance(0.7)
        {
            // Old out, new in: a copy first as an observer, then in its place.
            if next.members[lost].role == Role::Witness {
                next.members.remove(lost);
                self.add(next, Role::Witness)?;
                return Some(());
            }
            match observer {
                Some(observer) => {
                    let role = next.members[lost].role;
                    if role.votes() {
                        next.members[observer].role = role;
                    }
                    next.members.remove(lost);
                }
                None => self.add(next, Role::Observer)?,
            }
            return Some(());
        }
        let at = self.dice.pick(next.members.len());
        match self.dice.range(0, 9) {
            0..=2 if next.members.len() < most => {
                let roles = [Role::Observer, Role::Witness];
                let role = roles[usize::from(self.dice.chance(0.25))];
                self.add(next, role)?;
            }
            0..=2 => drop(next.members.remove(at)),
            3 | 4 => next.members[observer.unwrap_or(at)].role = Role::Voter,
            5 => next.members[at].role = Role::Observer,
            6 if self.dice.chance(0.2) => next.members[at].role = Role::Witness,
            6 => self.add(next, Role::Witness)?,
            7 | 8 if next.members.len() > 1 => drop(next.members.remove(at)),
            _ => {}
        }
        Some(())
    }

    /// A machine that waits for a group is to be a member of this one.
    fn add(&self, next: &mut Configuration, role: Role) -> Option<()> {
        let waiting = |it: &usize| {
            let named = next.member(id_of(*it)).is_some();
            self.hosts[*it].seat == Seat::Waiting && !named
        };
        let new = (0..self.hosts.len()).find(waiting)?;
        let member = self.member(new, role);
        let at = next.members.partition_point(|it| it.id < member.id);
        next.members.insert(at, member);
        Some(())
    }

    fn member(&self, machine: usize, role: Role) -> Member {
        let identity = self.hosts[machine].disk.identity().clone();
        Member {
            id: id_of(machine),
            name: identity.name,
            incarnation: identity.incarnation,
            role,
            region: self.swarm.placement.regions[machine].clone(),
        }
    }

    fn first_leader(&mut self, to: usize, next: &Configuration) -> MemberId {
        let voters: Vec<MemberId> = next.voters().collect();
        match self.dice.range(0, 4) {
            0 => MemberId(0),
            1 if !voters.is_empty() => voters[self.dice.pick(voters.len())],
            _ => {
                let process = self.hosts[to].process.as_ref();
                process.map_or(MemberId(0), |it| it.paxos.best_first_leader(next))
            }
        }
    }

    fn spoil_request(
        &mut self,
        to: usize,
        request: &mut Request,
        before: &Configuration,
        odd: Odd,
    ) -> Option<()> {
        let next = &mut request.configuration;
        match odd {
            Odd::Stale => {
                request.expected = Epoch(before.epoch.0.checked_sub(1)?);
                next.epoch = before.epoch;
            }
            Odd::HalfStale => request.expected = Epoch(before.epoch.0.checked_sub(1)?),
            Odd::Skips => next.epoch = next.epoch.next(),
            Odd::Uncaught => {
                next.clone_from(before);
                next.epoch = before.epoch.next();
                self.add(next, Role::Voter)?;
            }
            Odd::TwoVoters => {
                let mut new = 0;
                for it in &mut next.members {
                    if it.role == Role::Observer {
                        it.role = Role::Voter;
                        new += 1;
                    }
                }
                while new < 2 {
                    self.add(next, Role::Voter)?;
                    new += 1;
                }
            }
            Odd::Reuse => {
                let known = |it: &usize| self.checks.chosen.epochs.knows(id_of(*it));
                let known: Vec<usize> = (0..self.hosts.len()).filter(known).collect();
                let again = known[self.dice.pick(known.len())];
                let mut member = self.member(again, Role::Observer);
                if next.member(member.id).is_some() {
                    // The number stays with another log.
                    next.members.retain(|it| it.id != member.id);
                    member.incarnation = Incarnation(member.incarnation.0 ^ 1);
                } else if self.dice.chance(0.5) {
                    member.incarnation = Incarnation(member.incarnation.0 ^ 1);
                }
                let at = next.members.partition_point(|it| it.id < member.id);
                next.members.insert(at, member);
            }
            Odd::FirstLeader => next.first_leader = MemberId(u32::MAX),
            Odd::TooFew => {
                next.members.clone_from(&before.members);
                let lost = |it: &Member| self.is_lost(index_of(it.id)) && it.role.votes();
                next.members.iter().find(|it| lost(it))?;
                let stays = |it: &Member| lost(it) || it.id == id_of(to) || !it.role.votes();
                next.members.retain(stays);
                next.first_leader = MemberId(0);
            }
        }
        let voters = next.voters().count();
        if odd != Odd::FirstLeader && !next.quorums.fit(voters) {
            next.quorums = Quorums::Majority;
        }
        Some(())
    }

    /// The same members without one that is lost, whose place an observer takes if there is one.
    pub(crate) fn without(&self, leader: usize, lost: usize) -> Option<Request> {
        let paxos = &self.hosts[leader].process.as_ref()?.paxos;
        let before = paxos.configuration();
        let mut next = before.clone();
        next.epoch = before.epoch.next();
        let role = before.member(id_of(lost))?.role;
        next.members.retain(|it| it.id != id_of(lost));
        let mut observers = next.members.iter_mut();
        let observer = observers.find(|it| {
            it.role == Role::Observer && self.hosts[index_of(it.id)].seat == Seat::Taken
        });
        if let Some(observer) = observer.filter(|_| role == Role::Voter) {
            observer.role = role;
        }
        if !next.quorums.fit(next.voters().count()) {
            next.quorums = Quorums::Majority;
        }
        next.first_leader = paxos.best_first_leader(&next);
        Some(Request {
            expected: before.epoch,
            configuration: next,
        })
    }

    // === whoever is asked ===

    /// A request has arrived.
    pub(crate) fn request_change(&mut self, member: usize, number: u64) -> Result<(), Violation> {
        let Some(request) = self.requests.remove(&number) else {
            return Ok(());
        };
        let now = self.clock(member);
        if self.would_ruin(member, &request) || self.is_astray() {
            return Ok(());
        }
        let ends_epoch = self.ends_epoch(member);
        let machines = 0..self.hosts.len();
        let lost = machines.filter(|it| self.is_lost(*it)).map(id_of).collect();
        let Some(process) = &mut self.hosts[member].process else {
            return Ok(());
        };
        let paxos = &mut process.paxos;
        let seen = Seen {
            leads: paxos.standing() == Standing::Leader,
            last: paxos.last(),
            ends_epoch,
            configuration: paxos.configuration().clone(),
            lost,
        };
        let Request {
            expected,
            configuration,
        } = request;
        let answer = paxos.propose_configuration(now, expected, &configuration);
        let last = paxos.last();
        self.trace.line(self.now_ns, || {
            format!(
                "{} is asked, in epoch {expected}, for {configuration:?}: {answer:?}",
                member + 1
            )
        });
        self.trace.mix(u64::from(answer.is_ok()));
        match answer {
            Ok(()) => {
                let epochs = &self.checks.chosen.epochs;
                let reached = self.checks.chosen.reached();
                requests::taken(member, &seen, expected, &configuration, epochs, reached)?;
                self.proposals.push(configuration);
            }
            Err(refusal) => {
                requests::refused(member, &seen, last, &refusal)?;
                self.note_refusal(&refusal);
            }
        }
        self.settle(member)
    }

    /// No person would ask for this now, knowing what the core cannot know.
    fn would_ruin(&self, member: usize, request: &Request) -> bool {
        let Some(process) = &self.hosts[member].process else {
            return true;
        };
        // Whose disk was lost just now is still taken for alive.
        let peers = process.paxos.status().peers;
        let mut peers = peers.iter();
        let misled = peers.any(|it| it.heard && self.is_lost(index_of(it.member)));
        // The only copy of what another cannot read may go with a member.
        let mut before = process.paxos.configuration().members.iter();
        let removes = before.any(|it| request.configuration.member(it.id).is_none());
        let rots = self
            .seated
            .iter()
            .any(|it| self.hosts[*it].disk.faulty_count() > 0);
        // So may the only state, since witnesses have none.
        let has = |it: &usize| runs_app(&request.configuration, *it);
        misled || (removes && rots) || !self.keeps_state(has)
    }

    /// Those that are members whatever comes of all that was asked for.
    pub(crate) fn stays(&self, member: usize) -> bool {
        let latest = self.checks.chosen.epochs.latest();
        let open = self.proposals.iter().filter(|it| it.epoch > latest.epoch);
        let mut all = open.chain([latest]);
        all.all(|it| it.member(id_of(member)).is_some())
    }

    fn note_refusal(&mut self, refusal: &ReconfigureRefused) {
        self.coverage.saw(match refusal {
            ReconfigureRefused::NotLeader { .. } => Sight::FollowersRefused,
            ReconfigureRefused::Epoch { .. } => Sight::StaleRefused,
            ReconfigureRefused::UnderWay { .. } => Sight::SecondRefused,
            ReconfigureRefused::Invalid(_) => Sight::InvalidRefused,
            ReconfigureRefused::UsedBefore { .. } => Sight::ReuseRefused,
            ReconfigureRefused::Witness { .. } => Sight::WitnessRefused,
            ReconfigureRefused::FewCopies { .. } => Sight::FewCopiesRefused,
            ReconfigureRefused::ManyNewVoters { .. } => Sight::TwoVotersRefused,
            ReconfigureRefused::NotCaughtUp { .. } => Sight::UncaughtRefused,
            ReconfigureRefused::Unheard { .. } => Sight::UnheardRefused,
            ReconfigureRefused::Protocol { .. }
            | ReconfigureRefused::Busy
            | ReconfigureRefused::Ended => return,
        });
    }

    // === what came of it ===

    /// Looks at the changes that were chosen since the last look.
    pub(crate) fn note_changes(&mut self) {
        while let Some((before, after, ballot)) = self.checks.chosen.epochs.change(self.noted) {
            let (before, after) = (before.clone(), after.clone());
            self.noted = after.epoch;
            self.trace
                .line(self.now_ns, || format!("*** chosen: {after:?}"));
            self.trace.mix(after.epoch.0);
            for sight in sights(&before, &after, ballot.node, |it| {
                self.is_lost(index_of(it))
            }) {
                self.coverage.saw(sight);
            }
            self.note_weather(before.epoch);
        }
    }

    fn note_weather(&mut self, epoch: Epoch) {
        let members: Vec<usize> = self.configured();
        let hosts = || members.iter().map(|it| &self.hosts[*it]);
        let seated = || hosts().filter(|it| it.seat == Seat::Taken);
        let running = || hosts().filter_map(|it| it.process.as_ref());
        let weather = [
            (Sight::AmidCrash, seated().any(|it| it.process.is_none())),
            (Sight::AmidPause, running().any(|it| it.paused)),
            (Sight::AmidCut, self.network.is_any_cut()),
            (Sight::AmidFullDisk, hosts().any(|it| it.disk_full)),
            (
                Sight::AmidRot,
                seated().any(|it| it.disk.faulty_count() > 0),
            ),
            (
                Sight::AmidClocks,
                self.swarm.stepped > 0 && self.swarm.faults.clock_jump.is_some() && !self.calm,
            ),
            (
                Sight::AmidInstall,
                running().any(|it| it.paxos.needs_snapshot().is_some()),
            ),
            (
                Sight::AmidLaggard,
                running().any(|it| it.paxos.epoch() < epoch),
            ),
        ];
        for (sight, seen) in weather {
            if seen {
                self.coverage.saw(sight);
            }
        }
    }
}

/// What kinds of change this one is.
fn sights(
    before: &Configuration,
    after: &Configuration,
    proposer: MemberId,
    is_lost: impl Fn(MemberId) -> bool,
) -> Vec<Sight> {
    let voted = |it: MemberId| before.voters().any(|voter| voter == it);
    let votes = |it: MemberId| after.voters().any(|voter| voter == it);
    let gone = |it: &&Member| after.member(it.id).is_none();
    let new = |it: &&Member| before.member(it.id).is_none();
    let old_role = |it: &Member| before.member(it.id).map(|it| it.role);
    let is_witness = |it: &Member| it.role == Role::Witness && old_role(it) != Some(Role::Witness);
    let promoted = after
        .members
        .iter()
        .any(|it| !new(&it) && votes(it.id) && !voted(it.id));
    let demoted = after.members.iter().any(|it| !votes(it.id) && voted(it.id));
    let lost = before
        .members
        .iter()
        .filter(gone)
        .any(|it| is_lost(it.id) && voted(it.id));
    let all = [
        (Sight::Changes, true),
        (Sight::Added, after.members.iter().any(|it| new(&it))),
        (Sight::Promoted, promoted),
        (Sight::Demoted, demoted),
        (Sight::Witnesses, after.members.iter().any(is_witness)),
        (Sight::Removed, before.members.iter().any(|it| gone(&it))),
        (Sight::LeadersRemoved, !votes(proposer)),
        (Sight::Replaced, lost && promoted),
        (
            Sight::Requorums,
            before.members == after.members && before.quorums != after.quorums,
        ),
        (Sight::NoFirstLeader, after.first_leader == MemberId(0)),
    ];
    let seen = all.into_iter().filter(|(_, seen)| *seen);
    seen.map(|(sight, _)| sight).collect()
}
