//! Who leads (rules E1-E4, after Omni-Paxos' quorum-connected election, EuroSys'23): heartbeats to
//! all, health, take-over, step-down, hand-over, and timeouts that follow the network.

use synod_mutant::{Mutant, planted};

use crate::clock::Look;
use crate::configuration::Role;
use crate::follower::Progress;
use crate::message::{Heartbeat, Lane, Message};
use crate::output::Output;
use crate::paxos::{Office, Paxos};
use crate::preference::Handover;
use crate::settings::Settings;
use crate::takeover::Takeover;
use crate::types::{Ballot, MemberId, Now};

/// Heartbeats in one election timeout.
const BEATS: u64 = 5;
/// Round trips that must have been measured before timeouts follow them.
const SAMPLES: u64 = 4;

/// The election's part of the state.
#[derive(Debug)]
pub(crate) struct Election {
    pub(crate) timeout_ns: u64,
    pub(crate) next_tick: u64,
    /// Time from one heartbeat to the next.
    beat_ns: u64,
    pub(crate) takeover: Takeover,
    pub(crate) handover: Handover,
    /// It hears a healthy leader, or is one, as last told to all.
    pub(crate) healthy: bool,
    /// The greatest ballot seen anywhere.
    pub(crate) seen: Ballot,
    /// Whom this member follows now.
    pub(crate) followed: Option<(MemberId, Ballot)>,
    /// Whom commands were last given to.
    served: Option<(MemberId, Ballot)>,
    /// The ballot as told in the last heartbeat.
    told: Ballot,
}

impl Election {
    pub(crate) fn new(settings: &Settings, promised: Ballot, now: Now) -> Self {
        Self {
            timeout_ns: settings.election_timeout_ns,
            next_tick: now.mono_ns,
            beat_ns: settings.election_timeout_ns / BEATS,
            takeover: Takeover::default(),
            handover: Handover::default(),
            healthy: false,
            seen: promised,
            followed: None,
            served: None,
            told: promised,
        }
    }

    pub(crate) fn interval_ns(&self) -> u64 {
        (self.timeout_ns / BEATS).max(1)
    }

    /// Heartbeats get more frequent at once, and rarer little by little: one late answer makes this
    /// member patient for a while, and the others, who have not seen it, must not miss anything.
    /// `others_ns`: the election timeout of the most impatient of them.
    fn next_beat_ns(&mut self, others_ns: u64) -> u64 {
        let slower_ns = self.beat_ns + self.beat_ns / 16 + 1;
        let slowest_ns = self.interval_ns().min((others_ns / BEATS).max(1));
        self.beat_ns = slowest_ns.min(slower_ns);
        self.beat_ns
    }

    /// A ballot of this epoch was seen.
    pub(crate) fn note(&mut self, ballot: Ballot) {
        self.seen = self.seen.max(ballot);
    }
}

impl Paxos {
    /// Whether `member` was heard within the election timeout.
    pub(crate) fn hears(&self, member: MemberId) -> bool {
        let (now_ns, timeout_ns) = (self.now.mono_ns, self.election.timeout_ns);
        self.peers
            .get(&member)
            .is_some_and(|peer| peer.is_heard(now_ns, timeout_ns))
    }

    /// The same, and it was in this member's epoch then: only such a one can follow or lead here.
    pub(crate) fn is_with(&self, member: MemberId) -> bool {
        let peer = self.peers.get(&member);
        self.hears(member) && peer.is_some_and(|peer| peer.beat.ballot.epoch == self.epoch())
    }

    /// A heartbeat came (rule E1).
    pub(crate) fn handle_heartbeat(&mut self, from: MemberId, beat: Heartbeat) {
        let now = self.now;
        let (epoch, timeout_ns) = (self.epoch(), self.election.timeout_ns);
        let voter = self.is_voter(from) && beat.ballot.epoch == epoch;
        let Some(peer) = self.acquaintance_mut(from) else {
            return;
        };
        if !beat.ballot.is_of(beat.ballot.epoch) || beat.commit > beat.last {
            self.counters.impossible_messages += 1;
            return;
        }
        // A heartbeat that was overtaken by a later one says nothing new. (The later one may be the last of a
        // machine that has been started anew, and its clock with it: that one is heard no more.)
        if beat.mono_ns < peer.beat.mono_ns && peer.is_heard(now.mono_ns, timeout_ns) {
            self.counters.stale_messages += 1;
            return;
        }
        peer.heard_at = Some(now.mono_ns);
        peer.suspect = false;
        if beat.echo_mono_ns != 0
            && let Some(trip_ns) = now
                .mono_ns
                .checked_sub(beat.echo_mono_ns.saturating_add(beat.echo_held_ns))
            && trip_ns < 60_000_000_000
        {
            peer.trip.sample(trip_ns);
            // A delayed answer tells little about the clock.
            if trip_ns <= 2 * peer.trip.ns {
                peer.clock = Some(Look::new(beat.wall_ns, trip_ns, now.mono_ns));
            }
        }
        let (ballot, commit, commit_ballot) = (beat.ballot, beat.commit, beat.commit_ballot);
        peer.beat = beat;
        peer.epoch = peer.epoch.max(ballot.epoch);
        if ballot.epoch == epoch {
            self.election.note(ballot);
        }
        // Rule L4: by the entry itself, or on the word of the leader whose log this is.
        if self.log.ballot_at(commit) == Some(commit_ballot) {
            self.raise_commit(commit);
        } else if (ballot.node == from && ballot == self.acceptor.accepted)
            || planted(Mutant::CommitWithoutTheEntry)
        {
            self.raise_commit(commit.min(self.log.last()));
        }
        if voter && self.epoch() == epoch {
            self.outbid(ballot);
        }
        if ballot.epoch > self.epoch() {
            self.learn();
        }
        self.read_clocks();
        self.evaluate();
    }

    /// A follower refused a ballot of this member.
    pub(crate) fn handle_refused(&mut self, from: MemberId, ballot: Ballot, promised: Ballot) {
        if !promised.is_of(self.configuration().epoch) || !self.is_voter(from) {
            self.counters.stale_messages += 1;
            return;
        }
        self.election.note(promised);
        match &self.office {
            Office::Candidate(candidate) if candidate.ballot == ballot && promised > ballot => {
                self.resign();
                self.evaluate();
            }
            Office::Leader(leader) if leader.ballot == ballot => self.outbid(promised),
            _ => self.counters.stale_messages += 1,
        }
    }

    /// A voter has promised a ballot above this leader's: it cannot follow any more. If another leads
    /// there, this one gives way; else it prepares above, so that the voter can follow again.
    fn outbid(&mut self, ballot: Ballot) {
        let Office::Leader(leader) = &self.office else {
            return;
        };
        if ballot <= leader.ballot {
            return;
        }
        let other = self.peers.iter().any(|(member, peer)| {
            self.is_with(*member) && peer.beat.healthy && peer.beat.ballot >= ballot
        });
        if other || !self.election.healthy || !self.is_heard_by_quorum() {
            self.resign();
        } else {
            self.campaign(false);
        }
    }

    /// A phase-1 quorum says that it hears this member.
    pub(crate) fn is_heard_by_quorum(&self) -> bool {
        let hearing = self
            .voters
            .iter()
            .filter(|voter| {
                **voter == self.me
                    || (self.is_with(**voter)
                        && self
                            .peers
                            .get(voter)
                            .is_some_and(|peer| peer.beat.hears.contains(&self.me)))
            })
            .count();
        hearing >= self.phase1()
    }

    /// The healthy leader that this member hears, itself aside.
    fn healthy_leader(&self) -> Option<(MemberId, Ballot)> {
        self.voters
            .iter()
            .filter_map(|voter| Some((*voter, self.peers.get(voter)?)))
            .filter(|(voter, peer)| {
                peer.beat.healthy && peer.beat.ballot.node == *voter && self.is_with(*voter)
            })
            .map(|(voter, peer)| (voter, peer.beat.ballot))
            .max_by_key(|(_, ballot)| *ballot)
    }

    /// A Prepare of anybody else must not disturb the leader that works (rule E2).
    pub(crate) fn shields(&self, from: MemberId) -> bool {
        match &self.office {
            _ if planted(Mutant::ReturningMemberDisturbs) => false,
            Office::Leader(leader) => {
                self.election.healthy && leader.transfer.is_none_or(|transfer| transfer.to != from)
            }
            _ => self
                .healthy_leader()
                .is_some_and(|(leader, ballot)| leader != from && ballot >= self.acceptor.promised),
        }
    }

    /// Rule E1.
    fn is_healthy(&self) -> bool {
        match &self.office {
            Office::Leader(_) => self.has_quorum() && self.makes_progress(),
            _ => self
                .healthy_leader()
                .is_some_and(|(_, ballot)| ballot >= self.acceptor.promised),
        }
    }

    /// Enough voters follow this leader to commit.
    pub(crate) fn has_quorum(&self) -> bool {
        let ballot = self.acceptor.promised;
        let following = self
            .voters
            .iter()
            .filter(|voter| {
                **voter == self.me
                    || (self.hears(**voter)
                        && self.peers.get(voter).is_some_and(|peer| {
                            // Its heartbeats may not tell yet what it has promised.
                            peer.beat.ballot == ballot
                                || (peer.beat.ballot < ballot && self.has_promised(**voter))
                        }))
            })
            .count();
        following >= self.phase2()
    }

    /// Nothing waits for commit, or enough voters have got further within the timeout.
    fn makes_progress(&self) -> bool {
        let Office::Leader(leader) = &self.office else {
            return false;
        };
        let last = self.log.last();
        if self.log.commit() == last {
            return true;
        }
        let (now_ns, timeout_ns) = (self.now.mono_ns, self.stall_ns());
        let moving = leader
            .followers
            .iter()
            .filter(|(member, follower)| {
                self.is_voter(**member)
                    && ((follower.progress == Progress::Streaming && follower.acknowledged == last)
                        || (follower.progress != Progress::Unpromised
                            && now_ns < follower.moved_at_ns + timeout_ns))
            })
            .count();
        moving + usize::from(!self.is_disk_stalled()) >= self.phase2()
    }

    /// How long a disk or a stream may stand still before it counts as stuck. On a fast network the
    /// election timeout is shorter than the odd sync of a healthy disk takes.
    fn stall_ns(&self) -> u64 {
        self.settings
            .election_timeout_ns
            .max(2 * self.election.timeout_ns)
    }

    /// The disk has not answered for too long.
    pub(crate) fn is_disk_stalled(&self) -> bool {
        self.journal
            .waiting_since()
            .is_some_and(|since| self.now.mono_ns >= since + self.stall_ns())
    }

    /// Looks at the group again and acts: takes over, gives up, hands over, tells all.
    pub(crate) fn evaluate(&mut self) {
        match &self.office {
            Office::Leader(_) => self.evaluate_leader(),
            Office::Candidate(candidate) => {
                let late = self.now.mono_ns >= candidate.deadline_ns;
                let needless = !candidate.handed_over && self.hears_health();
                if late || needless {
                    self.resign();
                }
            }
            Office::Follower => {}
        }
        if matches!(self.office, Office::Follower) {
            self.consider_takeover();
        }
        let healthy = self.is_healthy();
        let ballot = self.acceptor.synced_promised;
        if healthy != self.election.healthy || ballot != self.election.told {
            self.election.healthy = healthy;
            self.send_heartbeats();
        }
        self.notice_leader();
    }

    /// Rule E3.
    fn evaluate_leader(&mut self) {
        if self.alone_for_ns() >= self.election.timeout_ns {
            self.step_down();
            return;
        }
        if self.is_disk_stalled() && self.voters.len() > 1 {
            // Whoever is next need not wait for this disk.
            if let Some(to) = self.successor() {
                let ballot = self.acceptor.promised;
                self.send(to, Lane::Log, Message::Transfer { ballot });
            }
            self.step_down();
            return;
        }
        let Office::Leader(leader) = &self.office else {
            return;
        };
        if leader.transfer.is_some() {
            return;
        }
        if let Some(to) = self.successor()
            && let Some(peer) = self.peers.get(&to)
        {
            let ahead = !peer.beat.app_stalled && peer.beat.applied > self.applied;
            if (self.app_stalled && ahead) || self.role == Role::Witness {
                self.begin_transfer(to, false);
                return;
            }
        }
        if let Some(to) = self.preferred_successor() {
            self.begin_transfer(to, false);
        }
    }

    fn step_down(&mut self) {
        self.counters.step_downs += 1;
        self.resign();
    }

    /// Some voter is led already.
    pub(crate) fn hears_health(&self) -> bool {
        self.voters.iter().any(|voter| {
            self.is_with(*voter) && self.peers.get(voter).is_some_and(|peer| peer.beat.healthy)
        })
    }

    /// Gives up whatever office this member has.
    pub(crate) fn resign(&mut self) {
        if let Office::Leader(leader) = std::mem::replace(&mut self.office, Office::Follower) {
            self.refuse_readers(leader.rounds);
        }
        self.election.takeover.call_off();
    }

    /// Whom this member follows; itself when it leads.
    pub fn leader(&self) -> Option<MemberId> {
        self.election.followed.map(|(leader, _)| leader)
    }

    /// The leader that this member should turn to.
    fn present_leader(&self) -> Option<(MemberId, Ballot)> {
        if let Office::Leader(leader) = &self.office {
            return Some((self.me, leader.ballot));
        }
        if matches!(self.office, Office::Candidate(_)) {
            return None;
        }
        let accepted = self.acceptor.accepted;
        let adopted = accepted == self.acceptor.promised
            && accepted.node != self.me
            && self.hears(accepted.node)
            && self.peers.get(&accepted.node).is_some_and(|peer| {
                // Its heartbeats may not say so yet, but must not say that it has given up. (An epoch's
                // first leader leads once its heartbeats say that it has entered it.)
                let first = accepted.round == 0;
                peer.beat.healthy || (peer.beat.ballot < accepted) != first
            });
        match self.healthy_leader() {
            Some((leader, ballot)) if ballot >= self.acceptor.promised => Some((leader, ballot)),
            _ if adopted && accepted.is_elected() => Some((accepted.node, accepted)),
            _ => None,
        }
    }

    /// Tells the shell, the entrance and the readers when the leader is another one.
    pub(crate) fn notice_leader(&mut self) {
        let followed = self.present_leader();
        if followed == self.election.followed {
            return;
        }
        self.election.followed = followed;
        let (leader, ballot) = match followed {
            Some((leader, ballot)) => (Some(leader), ballot),
            None => (None, self.acceptor.promised),
        };
        self.outputs
            .push_back(Output::LeaderChanged { leader, ballot });
        if followed.is_some() && followed != self.election.served {
            self.election.served = followed;
            self.fail_asked();
            self.restart_entrance();
        }
    }

    /// A connection to `peer` came up (after its hello was taken) or went down.
    pub fn handle_connection(&mut self, now: Now, peer: MemberId, lane: Lane, up: bool) {
        if !self.enter(now) {
            return;
        }
        let Some(other) = self.acquaintance_mut(peer) else {
            self.counters.impossible_events += 1;
            return;
        };
        if !up {
            other.suspect = true;
        } else if lane == Lane::Log {
            self.stream_restarted(peer);
            self.promise_restarted(peer);
            if self.leader() == Some(peer) {
                self.restart_entrance();
                // A vote may have been lost with the old stream.
                self.vote(true);
            }
        }
        if lane == Lane::Heartbeat {
            if up {
                self.send_heartbeat(peer);
            } else if self.leader() == Some(peer) {
                self.fail_asked();
            }
        }
        self.evaluate();
    }

    /// What happens at each heartbeat interval.
    pub(crate) fn tick(&mut self) {
        self.adapt_timeout();
        let others_ns = self.others_timeout_ns();
        self.election.next_tick = self.now.mono_ns + self.election.next_beat_ns(others_ns);
        self.send_heartbeats();
        self.read_clocks();
        self.prepare_again();
        self.prod_followers();
        self.confirm();
        self.expire_reads();
        self.resend_overdue();
        self.request_repairs();
        self.learn();
        let commit = self.log.commit();
        if let Some((io, records)) = self.journal.take_commit(self.now.mono_ns, commit) {
            self.outputs.push_back(Output::Persist { io, records });
        }
    }

    /// The election timeout of the most impatient of all that are heard here. A message that was held up
    /// for seconds makes nobody patient but its receiver.
    fn others_timeout_ns(&self) -> u64 {
        let heard = self.peers.iter().filter(|(member, _)| self.hears(**member));
        let told = heard.map(|(_, peer)| peer.beat.timeout_ns);
        let shortest_ns = told.filter(|it| *it != 0).min().unwrap_or(u64::MAX);
        shortest_ns.max(self.settings.min_election_timeout_ns)
    }

    /// Rule E4: `4 x RTT + 8 x jitter` of the slowest voter heard, once a majority is known.
    fn adapt_timeout(&mut self) {
        let known = || {
            self.voters
                .iter()
                .filter(|voter| self.hears(**voter))
                .filter_map(|voter| self.peers.get(voter))
                .filter(|peer| peer.trip.samples >= SAMPLES)
        };
        let others = self
            .voters
            .iter()
            .filter(|voter| **voter != self.me)
            .count();
        if known().count() < others / 2 + others % 2 {
            return;
        }
        let slowest_ns = known()
            .map(|peer| 4 * peer.trip.ns + 8 * peer.trip.jitter_ns)
            .max()
            .unwrap_or(0);
        self.election.timeout_ns = slowest_ns.clamp(
            self.settings.min_election_timeout_ns,
            self.settings.max_election_timeout_ns,
        );
    }

    fn send_heartbeats(&mut self) {
        self.election.told = self.acceptor.synced_promised;
        for peer in self.audience() {
            self.send_heartbeat(peer);
        }
    }

    /// Only what is synced is told.
    fn send_heartbeat(&mut self, to: MemberId) {
        let now_ns = self.now.mono_ns;
        let known = self.peers.iter().chain(&self.former);
        let hears = known
            .filter(|(_, peer)| peer.is_heard(now_ns, self.election.timeout_ns))
            .map(|(member, _)| *member)
            .collect();
        let last = self.acceptor.synced_last;
        let commit = self.log.commit().min(last);
        let Some(peer) = self.acquaintance(to) else {
            return;
        };
        let (echo_mono_ns, echo_held_ns) = match peer.heard_at {
            Some(at) => (peer.beat.mono_ns, now_ns - at),
            None => (0, 0),
        };
        let beat = Heartbeat {
            ballot: self.acceptor.synced_promised,
            hears,
            healthy: self.election.healthy,
            last,
            commit,
            commit_ballot: self.log.ballot_at(commit).unwrap_or_default(),
            applied: self.applied,
            disk_stalled: self.is_disk_stalled(),
            app_stalled: self.app_stalled,
            mono_ns: now_ns,
            wall_ns: self.now.wall_ns,
            echo_mono_ns,
            echo_held_ns,
            entry_bytes: self.entry_bytes(),
            preference: self.preference(),
            timeout_ns: self.election.timeout_ns,
        };
        self.send(to, Lane::Heartbeat, Message::Heartbeat(beat));
    }

    /// When [`Self::handle_timeout`] wants to be called, as `Now::mono_ns`.
    pub fn poll_timeout(&self) -> Option<u64> {
        if self.is_ended() {
            return None;
        }
        let followed = self
            .election
            .followed
            .filter(|_| self.election.healthy)
            .and_then(|(leader, _)| self.peers.get(&leader))
            .and_then(|peer| peer.silent_at(self.election.timeout_ns));
        let deadline = match &self.office {
            Office::Candidate(candidate) => Some(candidate.deadline_ns),
            Office::Leader(leader) => leader.transfer.map(|transfer| transfer.deadline_ns),
            Office::Follower => self.election.takeover.at_ns(),
        };
        [Some(self.election.next_tick), followed, deadline]
            .into_iter()
            .flatten()
            .min()
    }
}
