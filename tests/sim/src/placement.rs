//! Where the leader should be (`leader.preferredRegions`): what a seed draws of it, and whether
//! leadership gets there and stays there once everything is healed.

use synod_sidecar::config::Leader;

use crate::dice::Dice;
use crate::invariants::Violation;
use crate::network::{id_of, index_of};
use crate::world::World;
use synod_paxos::{Ballot, MemberId, Role};

/// What began in the safety phase, as a sync that takes seconds, is over so long after it.
const AFTERMATH_NS: u64 = 5_000_000_000;
/// Longest election timeouts within which leadership has come to rest: the longest wait before a
/// hand-over is 1280 of them, and it may take some.
const LIMIT: u64 = 6000;
/// Election timeouts for which it must rest.
const REST: u64 = 100;
/// So long after its end a member may still be taken for alive: messages under way, and silence.
const NEWS_NS: u64 = 10_000_000_000;

/// Who is where and leads how gladly.
#[derive(Clone, Debug)]
pub(crate) struct Placement {
    /// By member; empty where regions do not matter.
    pub(crate) regions: Vec<String>,
    /// By member, of 100.
    pub(crate) preferences: Vec<u32>,
}

impl Placement {
    /// Nobody is preferred, anybody somehow, or a list of regions as users write it.
    pub(crate) fn draw(dice: &mut Dice, members: usize) -> Self {
        let mut names = ["east", "south", "west"].map(str::to_owned).to_vec();
        let count = 1 + dice.pick(names.len());
        let regions: Vec<String> = (0..members)
            .map(|_| names[dice.pick(count)].clone())
            .collect();
        names.rotate_left(dice.pick(count));
        names.truncate(1 + dice.pick(count));
        let any: Vec<u32> = (0..members).map(|_| dice.range(0, 100) as u32).collect();
        let leader = Leader {
            preferred_regions: names,
        };
        let listed = regions.iter().map(|it| leader.preference(it)).collect();
        let (regions, preferences) = match dice.pick(5) {
            0 => (vec![String::new(); members], vec![100; members]),
            1 => (vec![String::new(); members], any),
            _ => (regions, listed),
        };
        Self {
            regions,
            preferences,
        }
    }

    /// So many more, each like one of the first.
    pub(crate) fn grow(&mut self, dice: &mut Dice, more: usize) {
        let first = self.regions.len();
        for _ in 0..more {
            let like = dice.pick(first);
            self.regions.push(self.regions[like].clone());
            self.preferences.push(self.preferences[like]);
        }
    }

    /// Both are known to be in one place.
    pub(crate) fn are_near(&self, one: usize, other: usize) -> bool {
        !self.regions[one].is_empty() && self.regions[one] == self.regions[other]
    }
}

/// The search for the place where leadership rests.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Resting {
    since_ns: u64,
    /// Who leads in which ballot, since when.
    seen: Option<(MemberId, Ballot, u64)>,
}

impl World {
    /// Members that end with the safety phase and do not come back, so many that all others go on.
    pub(crate) fn choose_absent(&mut self) -> Vec<usize> {
        let mut members: Vec<usize> = (0..self.swarm.members).collect();
        for at in 1..members.len() {
            members.swap(at, self.dice.pick(at + 1));
        }
        if self.dice.chance(0.5) {
            let preferences = &self.swarm.placement.preferences;
            members.sort_by_key(|it| std::cmp::Reverse(preferences[*it]));
        }
        members.truncate(self.swarm.absent);
        members
    }

    /// The group has converged. True once leadership has rested where it is preferred.
    pub(crate) fn rests(&mut self, unfinished: Option<String>) -> Result<bool, Violation> {
        let now_ns = self.now_ns;
        if now_ns < self.swarm.safety_ns + AFTERMATH_NS {
            return Ok(false);
        }
        let mut resting = self.resting.unwrap_or(Resting {
            since_ns: now_ns,
            seen: None,
        });
        let longest_ns = self.swarm.settings.max_election_timeout_ns;
        if let Some((leader, ballot, _)) = resting.seen
            && self.promises().any(|it| it > ballot)
        {
            let text = format!("member {leader} loses the lead though nobody else is preferred");
            return Err(Violation::new("placement", text));
        }
        let trouble = unfinished.or_else(|| self.misplaced());
        let seen = resting.seen.or_else(|| {
            let (leader, ballot) = self.leader()?;
            Some((leader, ballot, now_ns))
        });
        resting.seen = seen.filter(|_| trouble.is_none());
        self.resting = Some(resting);
        if now_ns > resting.since_ns + LIMIT * longest_ns {
            let why = trouble.unwrap_or_else(|| "it moves now and then".to_owned());
            let text = format!("leadership does not come to rest where it is preferred: {why}");
            return Err(Violation::new("placement", text));
        }
        let rest_ns = REST * self.timeout_ns();
        let rests = |(_, _, at_ns)| now_ns >= at_ns + rest_ns;
        Ok(resting.seen.is_some_and(rests))
    }

    /// The longest election timeout in force.
    fn timeout_ns(&self) -> u64 {
        let running = self.hosts.iter().filter_map(|it| it.process.as_ref());
        let timeouts = running.map(|it| it.paxos.status().election_timeout_ns);
        timeouts.max().unwrap_or(0)
    }

    fn promises(&self) -> impl Iterator<Item = Ballot> {
        let members = self.configured().into_iter();
        let running = members.filter_map(|it| self.hosts[it].process.as_ref());
        running.map(|it| it.paxos.promised())
    }

    fn leader(&self) -> Option<(MemberId, Ballot)> {
        let mut members = self.configured().into_iter();
        let process = members.find_map(|it| self.hosts[it].process.as_ref())?;
        let leader = process.paxos.leader()?;
        let process = self.hosts[index_of(leader)].process.as_ref()?;
        Some((leader, process.paxos.promised()))
    }

    /// Somebody who can lead would do so more gladly than the leader. What counts is what members
    /// say now: whoever was asked to let another lead does not want to for a while.
    fn misplaced(&self) -> Option<String> {
        let preference = |member: usize| {
            let process = self.hosts[member].process.as_ref()?;
            Some(process.paxos.status().preference)
        };
        let (leader, _) = self.leader()?;
        let own = preference(index_of(leader))?;
        // (A witness leads only when no voter with an app can.)
        let configuration = self.checks.chosen.epochs.latest();
        let voters = configuration.members.iter();
        let voters = voters.filter(|it| it.role == Role::Voter);
        voters.map(|it| index_of(it.id)).find_map(|member| {
            let better = preference(member).filter(|it| *it > own)?;
            let better = format!("{better} of member {}", member + 1);
            Some(format!("member {leader} leads with {own} against {better}"))
        })
    }

    /// A leader begins to hand over because another is preferred: that one must be there, and have
    /// nearly all of the log.
    pub(crate) fn check_handover(&mut self, member: usize) -> Result<(), Violation> {
        let host = &self.hosts[member];
        let Some(paxos) = host.process.as_ref().map(|it| &it.paxos) else {
            return Ok(());
        };
        let handovers = paxos.counters().handovers;
        if handovers == host.handovers {
            return Ok(());
        }
        let wrong = |text: String| {
            let text = format!("member {} hands over to member {text}", member + 1);
            Err(Violation::new("E3", text))
        };
        if let Some(to) = paxos.handing_over_to() {
            let target = &self.hosts[index_of(to)];
            if target
                .absent_since_ns
                .is_some_and(|at| self.now_ns > at + NEWS_NS)
            {
                return wrong(format!("{to}, which is gone"));
            }
            let has = target.disk.synced().last;
            let lacks = (has.0 + 1..=paxos.commit().0)
                .filter_map(|slot| host.disk.read(synod_paxos::Slot(slot)))
                .map(synod_paxos::Entry::weight)
                .sum::<u64>();
            let settings = &self.swarm.settings;
            let little = settings.window_bytes / 2 + settings.max_message_bytes;
            let most = little + settings.max_payload_bytes();
            if lacks > most {
                return wrong(format!("{to}, which lacks {lacks} bytes, more than {most}"));
            }
        }
        self.tally.handovers += 1;
        self.trace.line(self.now_ns, || {
            let to = self.hosts[member].process.as_ref();
            let to = to.and_then(|it| it.paxos.handing_over_to());
            format!("{} hands over to {to:?}, which is preferred", id_of(member))
        });
        self.hosts[member].handovers = handovers;
        Ok(())
    }
}
