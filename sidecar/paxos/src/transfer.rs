//! Hand-over of leadership (rule E3): the target catches up, then prepares at once.

use crate::configuration::Role;
use crate::follower::Progress;
use crate::message::{Lane, Message};
use crate::paxos::{Office, Paxos};
use crate::types::{Ballot, MemberId, Now};

/// Leadership is about to be handed over (rule E3).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Transfer {
    pub(crate) to: MemberId,
    pub(crate) deadline_ns: u64,
    sent: bool,
    /// By a person, or because this member is about to end.
    requested: bool,
}

impl Paxos {
    /// The leader asks this member to take over now (rule E3).
    pub(crate) fn handle_transfer(&mut self, ballot: Ballot) {
        if ballot != self.acceptor.accepted
            || !self.role.votes()
            || self.removed().is_some()
            || self.is_disk_stalled()
        {
            self.counters.stale_messages += 1;
            return;
        }
        self.step_forward();
        self.campaign(true);
    }

    /// If this member leads: let `to`, or the best other voter, lead. Once that one does, and at once
    /// when whoever may lead but this member, it tells the others for a long while that it would
    /// rather not.
    pub fn transfer(&mut self, now: Now, to: Option<MemberId>) {
        if !self.enter(now) {
            return;
        }
        if to.is_none() {
            self.step_aside();
        }
        if let Some(to) = to.or_else(|| self.successor()) {
            self.begin_transfer(to, true);
        }
    }

    /// A Prepare of `to` was taken.
    pub(crate) fn note_taken_over(&mut self, to: MemberId) {
        if let Office::Leader(leader) = &self.office
            && leader
                .transfer
                .is_some_and(|it| it.requested && it.to == to)
        {
            self.step_aside();
        }
    }

    /// Whom this leader is handing over to just now.
    pub fn handing_over_to(&self) -> Option<MemberId> {
        match &self.office {
            Office::Leader(leader) => leader.transfer.map(|transfer| transfer.to),
            _ => None,
        }
    }

    /// The best voter to lead instead of this one.
    pub(crate) fn successor(&self) -> Option<MemberId> {
        self.successor_among(|member| {
            let peer = self.peers.get(&member);
            self.is_voter(member) && peer.is_some_and(|peer| peer.role != Role::Witness)
        })
    }

    /// The best of these followers to lead.
    pub(crate) fn successor_among(&self, may: impl Fn(MemberId) -> bool) -> Option<MemberId> {
        let Office::Leader(leader) = &self.office else {
            return None;
        };
        let now_ns = self.now.mono_ns;
        leader
            .followers
            .iter()
            .filter(|(member, follower)| follower.progress == Progress::Streaming && may(**member))
            .filter_map(|(member, follower)| {
                let peer = self.peers.get(member)?;
                let able =
                    peer.is_heard(now_ns, self.election.timeout_ns) && !peer.beat.disk_stalled;
                let rank = (
                    !peer.beat.app_stalled,
                    self.is_caught_up(follower),
                    self.preference_of(*member),
                    follower.acknowledged,
                );
                able.then_some((rank, *member))
            })
            .max()
            .map(|(_, member)| member)
    }

    /// Begins to hand leadership over to `to` (rule E3), if that can be.
    pub(crate) fn begin_transfer(&mut self, to: MemberId, requested: bool) {
        let deadline_ns = self.now.mono_ns + self.election.timeout_ns;
        if let Office::Leader(leader) = &mut self.office
            && leader.followers.contains_key(&to)
            && self.voters.contains(&to)
        {
            leader.transfer = Some(Transfer {
                to,
                deadline_ns,
                sent: false,
                requested,
            });
        }
    }

    /// Once the target has everything, it is told to prepare.
    pub(crate) fn continue_transfer(&mut self) {
        let (last, now_ns) = (self.log.last(), self.now.mono_ns);
        let Office::Leader(leader) = &mut self.office else {
            return;
        };
        let Some(transfer) = &mut leader.transfer else {
            return;
        };
        let caught_up = leader.followers.get(&transfer.to).is_some_and(|follower| {
            follower.progress == Progress::Streaming && follower.acknowledged == last
        });
        let (to, ballot) = (transfer.to, leader.ballot);
        if caught_up && !transfer.sent {
            transfer.sent = true;
            self.send(to, Lane::Log, Message::Transfer { ballot });
        } else if now_ns >= transfer.deadline_ns {
            leader.transfer = None;
        }
    }
}
