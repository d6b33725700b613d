//! Where the leader should be: a leader that is not preferred hands over to a voter that is, once that
//! voter has been able to lead for a quiet while. Each member tells its own preference in its
//! heartbeats, so that two never hold each other for the better one. It is not in the ballot: a change
//! of preference is no election.

use crate::configuration::Role;
use crate::follower::{Follower, Progress};
use crate::paxos::{Office, Paxos};
use crate::types::{MemberId, Slot};

/// Election timeouts for which the better voter must have been able to lead without a break.
const QUIET: u64 = 20;
/// Each attempt doubles that for the next, so often at most. A preferred member that comes and goes
/// must not take the group along each time.
const DOUBLINGS: u32 = 6;
/// Quiet times without an attempt after which the earlier ones are forgotten.
const FORGET: u64 = 1 << (DOUBLINGS + 1);
/// Election timeouts for which a member that was told to let another lead does not want to lead: it is
/// about to end, or a person wants it so for now.
const ASIDE: u64 = 1000;
/// The greatest preference.
const MOST: u32 = 100;

/// A hand-over to a preferred member that is being considered.
#[derive(Debug, Default)]
pub(crate) struct Handover {
    /// Who is better, and since when it has been so.
    better: Option<(MemberId, u64)>,
    attempts: u32,
    last_attempt_ns: u64,
    /// Until then this member does not want to lead.
    aside_until_ns: u64,
}

impl Handover {
    /// Nobody is better now.
    fn forget(&mut self) {
        self.better = None;
    }

    /// How long this one has been better without a break, in nanoseconds.
    fn better_for_ns(&mut self, member: MemberId, now_ns: u64) -> u64 {
        let since_ns = match self.better {
            Some((known, since_ns)) if known == member => since_ns,
            _ => now_ns,
        };
        self.better = Some((member, since_ns));
        now_ns - since_ns
    }

    fn quiet_ns(&self, timeout_ns: u64) -> u64 {
        (QUIET * timeout_ns) << self.attempts.min(DOUBLINGS)
    }

    fn attempt(&mut self, now_ns: u64) {
        self.better = None;
        self.attempts += 1;
        self.last_attempt_ns = now_ns;
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

    /// This member was told to let another lead.
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
        let (now_ns, timeout_ns) = (self.now.mono_ns, self.election.timeout_ns);
        let better = self.better_voter();
        let handover = &mut self.election.handover;
        let Some(better) = better else {
            handover.forget();
            return None;
        };
        if now_ns >= handover.last_attempt_ns + FORGET * QUIET * timeout_ns {
            handover.attempts = 0;
        }
        if handover.better_for_ns(better, now_ns) < handover.quiet_ns(timeout_ns) {
            return None;
        }
        handover.attempt(now_ns);
        Some(better)
    }

    /// The most preferred voter above this leader's own preference that could lead at once.
    fn better_voter(&self) -> Option<MemberId> {
        let Office::Leader(leader) = &self.office else {
            return None;
        };
        if !self.election.healthy {
            return None;
        }
        let own = self.preference();
        leader
            .followers
            .iter()
            .filter_map(|(member, follower)| {
                let preference = self.preference_of(*member)?;
                let better = preference > own && self.could_lead(*member, follower);
                better.then_some((preference, std::cmp::Reverse(*member)))
            })
            .max()
            .map(|(_, member)| member.0)
    }

    /// What a member says of itself.
    pub(crate) fn preference_of(&self, member: MemberId) -> Option<u32> {
        let peer = self.peers.get(&member)?;
        Some(peer.beat.preference.min(MOST))
    }

    /// It has a vote, an app that is not behind, a disk that works, and all of the log but what is on
    /// its way just now.
    fn could_lead(&self, member: MemberId, follower: &Follower) -> bool {
        let Some(peer) = self.peers.get(&member) else {
            return false;
        };
        let able = self.is_voter(member)
            && self.hears(member)
            && peer.role != Role::Witness
            && !peer.beat.disk_stalled
            && !peer.beat.app_stalled;
        able && self.is_caught_up(follower) && self.is_small(peer.beat.applied, self.applied)
    }

    /// Everything was sent to it, and little of it is still on its way.
    pub(crate) fn is_caught_up(&self, follower: &Follower) -> bool {
        follower.progress == Progress::Streaming
            && follower.next > self.log.commit()
            && follower.in_flight_bytes <= self.settings.window_bytes / 2
    }

    /// Between these slots lies less than a window.
    fn is_small(&self, from: Slot, to: Slot) -> bool {
        let slots = to.0.saturating_sub(from.0);
        slots.saturating_mul(self.entry_bytes().max(1)) <= self.settings.window_bytes
    }
}
