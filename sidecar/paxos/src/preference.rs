//! Where the leader should be: a leader that is not preferred hands over to a voter that is, once that
//! voter has been able to lead for a quiet while. Each member tells its own preference in its
//! heartbeats, so that two never hold each other for the better one. It is not in the ballot: a change
//! of preference is no election.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use crate::configuration::Role;
use crate::follower::{Follower, Progress};
use crate::paxos::{Office, Paxos};
use crate::types::{MemberId, Slot};

/// Election timeouts for which a better voter must have been able to lead without a break.
const QUIET: u64 = 20;
/// Each attempt doubles that for the same voter, so often at most. A preferred member that comes and
/// goes, or cannot win, must not take the group along each time.
const DOUBLINGS: u32 = 6;
/// Quiet times without an attempt after which the earlier ones are forgotten.
const FORGET: u64 = 1 << (DOUBLINGS + 1);
/// Election timeouts for which a member that let another lead on request does not want to lead: it is
/// about to end, or a person wants it so for now.
const ASIDE: u64 = 1000;
/// The greatest preference.
const MOST: u32 = 100;

/// Hand-overs to preferred members: being considered, and tried before.
#[derive(Debug, Default)]
pub(crate) struct Handover {
    /// Who would be better and could lead now, and since when that has been so.
    able_since_ns: BTreeMap<MemberId, u64>,
    /// Whom it was tried with before: how often, and when last.
    attempts: BTreeMap<MemberId, (u32, u64)>,
    /// Until then this member does not want to lead.
    aside_until_ns: u64,
}

impl Handover {
    /// What was seen so far says nothing about now: this member begins to lead.
    pub(crate) fn begin(&mut self) {
        self.able_since_ns.clear();
    }

    /// These, with their preferences, would be better and could lead. Says whose time has come, the
    /// most preferred first.
    fn consider(
        &mut self,
        better: &[(MemberId, u32)],
        now_ns: u64,
        timeout_ns: u64,
    ) -> Option<MemberId> {
        let is_better = |member: &MemberId| better.iter().any(|(it, _)| it == member);
        self.able_since_ns.retain(|member, _| is_better(member));
        self.attempts
            .retain(|_, (_, last_ns)| now_ns < last_ns.saturating_add(FORGET * QUIET * timeout_ns));
        for (member, _) in better {
            self.able_since_ns.entry(*member).or_insert(now_ns);
        }
        better
            .iter()
            .filter(|(member, _)| {
                let attempts = self.attempts.get(member).map_or(0, |(count, _)| *count);
                let quiet_ns = (QUIET * timeout_ns) << attempts.min(DOUBLINGS);
                now_ns >= self.able_since_ns[member] + quiet_ns
            })
            .max_by_key(|(member, preference)| (*preference, Reverse(*member)))
            .map(|(member, _)| *member)
    }

    /// It is tried with this one. If that fails, the next try is not soon, with whomever.
    fn attempt(&mut self, member: MemberId, now_ns: u64) {
        self.able_since_ns.clear();
        let (count, last_ns) = self.attempts.entry(member).or_default();
        (*count, *last_ns) = (count.saturating_add(1), now_ns);
    }
}

impl Paxos {
    /// How gladly this member leads now.
    pub(crate) fn preference(&self) -> u32 {
        if self.now.mono_ns < self.election.handover.aside_until_ns {
            0
        } else {
            self.settings.preference
        }
    }

    /// This member lets another lead on request.
    pub(crate) fn step_aside(&mut self) {
        let until_ns = self.now.mono_ns + ASIDE * self.election.timeout_ns;
        self.election.handover.aside_until_ns = until_ns;
    }

    /// Others want this member to lead.
    pub(crate) fn step_forward(&mut self) {
        self.election.handover.aside_until_ns = 0;
    }

    /// The voter to hand over to now, if it is time.
    pub(crate) fn preferred_successor(&mut self) -> Option<MemberId> {
        let better = self.better_voters();
        let (now_ns, timeout_ns) = (self.now.mono_ns, self.election.timeout_ns);
        let handover = &mut self.election.handover;
        let to = handover.consider(&better, now_ns, timeout_ns)?;
        handover.attempt(to, now_ns);
        self.counters.handovers += 1;
        Some(to)
    }

    /// All voters that lead more gladly than this leader and could do so at once.
    fn better_voters(&self) -> Vec<(MemberId, u32)> {
        let Office::Leader(leader) = &self.office else {
            return Vec::new();
        };
        if !self.election.healthy {
            return Vec::new();
        }
        let own = self.preference();
        leader
            .followers
            .iter()
            .filter_map(|(member, follower)| {
                let preference = self.preference_of(*member)?;
                let better = preference > own && self.could_lead(*member, follower);
                better.then_some((*member, preference))
            })
            .collect()
    }

    /// What a member says of itself.
    pub(crate) fn preference_of(&self, member: MemberId) -> Option<u32> {
        let peer = self.peers.get(&member)?;
        Some(peer.beat.preference.min(MOST))
    }

    /// It has a vote, voters that could follow it, an app that is not behind, a disk that works, and
    /// all of the log but what is on its way just now.
    fn could_lead(&self, member: MemberId, follower: &Follower) -> bool {
        let Some(peer) = self.peers.get(&member) else {
            return false;
        };
        let able = self.is_voter(member)
            && self.is_with(member)
            && peer.role != Role::Witness
            && !peer.beat.disk_stalled
            && !peer.beat.app_stalled;
        able && self.is_connected(member)
            && self.is_caught_up(follower)
            && self.is_small(peer.beat.applied, self.applied)
    }

    /// Enough voters for either phase, itself among them, hear it and are heard by it.
    fn is_connected(&self, member: MemberId) -> bool {
        let hears = |one: MemberId, other: MemberId| {
            if one == self.me {
                return self.hears(other);
            }
            let peer = self.peers.get(&one);
            self.hears(one) && peer.is_some_and(|peer| peer.beat.hears.contains(&other))
        };
        let with_it = self
            .voters
            .iter()
            .filter(|voter| **voter == member || (hears(**voter, member) && hears(member, **voter)))
            .count();
        with_it >= self.phase1().max(self.phase2())
    }

    /// Everything was sent to it, and little of it is still on its way.
    pub(crate) fn is_caught_up(&self, follower: &Follower) -> bool {
        follower.progress == Progress::Streaming
            && follower.next > self.log.commit()
            && follower.in_flight_bytes <= self.settings.window_bytes / 2
    }

    /// Between these slots lies less than a window.
    pub(crate) fn is_small(&self, from: Slot, to: Slot) -> bool {
        let slots = to.0.saturating_sub(from.0);
        slots.saturating_mul(self.entry_bytes().max(1)) <= self.settings.window_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: MemberId = MemberId(1);
    const TWO: MemberId = MemberId(2);
    const BOTH: [(MemberId, u32); 2] = [(ONE, 50), (TWO, 100)];
    /// With a timeout of 1 ns.
    const QUIET_NS: u64 = QUIET;

    /// Lets time go on in small steps until somebody's time has come; says who and when.
    fn next(handover: &mut Handover, better: &[(MemberId, u32)], from_ns: u64) -> (MemberId, u64) {
        let mut tries = (from_ns..).map(|now_ns| (handover.consider(better, now_ns, 1), now_ns));
        let found = tries.find_map(|(member, now_ns)| Some((member?, now_ns)));
        let (member, now_ns) = found.expect("time is endless");
        handover.attempt(member, now_ns);
        (member, now_ns)
    }

    #[test]
    fn whoever_fails_to_take_over_gets_rarer_tries_and_the_next_best_its_turn() {
        let mut handover = Handover::default();
        assert_eq!(next(&mut handover, &BOTH, 0), (TWO, QUIET_NS));
        assert_eq!(next(&mut handover, &BOTH, 20), (ONE, 2 * QUIET_NS));
        let (member, at_ns) = next(&mut handover, &BOTH[1..], 40);
        assert_eq!((member, at_ns), (TWO, 4 * QUIET_NS));
        let (_, again_ns) = next(&mut handover, &BOTH[1..], at_ns);
        assert_eq!(again_ns - at_ns, 4 * QUIET_NS);
    }

    #[test]
    fn a_break_however_short_begins_the_quiet_time_anew() {
        let mut handover = Handover::default();
        assert_eq!(handover.consider(&BOTH, 0, 1), None);
        assert_eq!(handover.consider(&[], QUIET_NS - 1, 1), None);
        assert_eq!(handover.consider(&BOTH, QUIET_NS, 1), None);
        assert_eq!(handover.consider(&BOTH, 2 * QUIET_NS, 1), Some(TWO));
        handover.begin();
        assert_eq!(handover.consider(&BOTH, 2 * QUIET_NS, 1), None);
    }

    #[test]
    fn attempts_of_long_ago_are_forgotten() {
        let mut handover = Handover::default();
        let mut at_ns = 0;
        for _ in 0..20 {
            (_, at_ns) = next(&mut handover, &BOTH[..1], at_ns);
        }
        let (_, again_ns) = next(&mut handover, &BOTH[..1], at_ns);
        assert_eq!(again_ns - at_ns, QUIET_NS << DOUBLINGS, "the longest");
        let later_ns = again_ns + FORGET * QUIET_NS;
        assert_eq!(handover.consider(&[], later_ns, 1), None);
        assert_eq!(
            next(&mut handover, &BOTH[..1], later_ns).1,
            later_ns + QUIET_NS
        );
    }
}
