//! Changes of the configuration (rules M1-M4, M6; after Lamport, Malkhi, Zhou, *Stoppable Paxos*, 2008,
//! and *Reconfiguring a State Machine*, SIGACT News 2010). The last entry of an epoch, its stop-sign,
//! says who the members of the next are. It takes effect when it is chosen, never when it is appended:
//! whoever knows it to be chosen, and so holds all before it, enters the next epoch by one record.

use synod_mutant::{Mutant, planted};

use crate::configuration::{Configuration, Member, Role};
use crate::error::ReconfigureRefused;
use crate::journal::Effect;
use crate::message::{Lane, Message};
use crate::output::Output;
use crate::paxos::{Office, Paxos};
use crate::record::Record;
use crate::types::{Ballot, Command, Entry, Epoch, MemberId, Now, Slot};

/// Protocol version from which on members change.
const PROTOCOL: u32 = 2;

impl Paxos {
    /// If this member leads: proposes `configuration`, which was computed from the one of epoch
    /// `expected`, and whose own epoch is the next. [`Output::ConfigurationChanged`] tells when it is
    /// so, here as on each member. Until then nothing else is proposed: commands wait, and are given to
    /// the leader of the next epoch by their entrances.
    ///
    /// A change may do anything but give more than one member a vote, and that one has to be an
    /// observer that has caught up, or a witness that is new: it has no state to get, and a quorum is
    /// heard without it. Whoever is a witness is one for all its life, and nobody else becomes one. Where
    /// there are witnesses, no copy gives up its vote before enough of the others have the log.
    /// [`Self::best_first_leader`] says whom to name as first leader.
    pub fn propose_configuration(
        &mut self,
        now: Now,
        expected: Epoch,
        configuration: &Configuration,
    ) -> Result<(), ReconfigureRefused> {
        if !self.enter(now) {
            return Err(ReconfigureRefused::Ended);
        }
        if !matches!(self.office, Office::Leader(_)) {
            let leader = self.leader();
            return Err(ReconfigureRefused::NotLeader { leader });
        }
        let current = self.epoch();
        if expected != current && !planted(Mutant::ChangeByForce) {
            return Err(ReconfigureRefused::Epoch { expected, current });
        }
        if self.is_closed() || !self.old_epoch_retired() {
            let epoch = if self.is_closed() {
                current.next()
            } else {
                current
            };
            return Err(ReconfigureRefused::UnderWay { epoch });
        }
        let in_force = self.protocol();
        if in_force < PROTOCOL {
            return Err(ReconfigureRefused::Protocol { in_force });
        }
        self.check_change(configuration)?;
        if !self.may_propose() || !self.has_room() || self.disk_full {
            return Err(ReconfigureRefused::Busy);
        }
        self.append_command(Command::reconfigure(configuration));
        Ok(())
    }

    /// The voter of `configuration` that leads best from its first slot on: this leader itself as long
    /// as it is one that runs the app, otherwise the best follower that is; nobody if there is none.
    pub fn best_first_leader(&self, configuration: &Configuration) -> MemberId {
        let leads = |member: MemberId| {
            let found = configuration.member(member);
            found.is_some_and(|it| it.role == Role::Voter)
        };
        if leads(self.me) {
            return self.me;
        }
        self.successor_among(leads).unwrap_or_default()
    }

    /// What is wrong with a change to `next`, if anything.
    fn check_change(&self, next: &Configuration) -> Result<(), ReconfigureRefused> {
        let current = self.configuration();
        if next.epoch != current.epoch.next() && !planted(Mutant::ChangeByForce) {
            let what = "its epoch must be one above the one that it was computed from";
            return Err(ReconfigureRefused::Invalid(what));
        }
        next.check().map_err(ReconfigureRefused::Invalid)?;
        let former = self.former_members();
        for member in &next.members {
            if is_used_otherwise(&former, &current.members, member)
                && !planted(Mutant::NumbersAreUsedAgain)
            {
                return Err(ReconfigureRefused::UsedBefore {
                    member: member.id,
                    incarnation: member.incarnation,
                });
            }
        }
        let runs_app = |role: Role| role != Role::Witness;
        for member in &next.members {
            let before = current.member(member.id);
            if before.is_some_and(|it| runs_app(it.role) != runs_app(member.role)) {
                let member = member.id;
                return Err(ReconfigureRefused::Witness { member });
            }
        }
        let voters: Vec<MemberId> = next.voters().collect();
        let new = voters.iter().filter(|voter| !self.is_voter(**voter));
        let members: Vec<MemberId> = new.copied().collect();
        if members.len() > 1 && !planted(Mutant::SeveralNewVoters) {
            return Err(ReconfigureRefused::ManyNewVoters { members });
        }
        let needs_state = |it: MemberId| next.member(it).is_some_and(|it| runs_app(it.role));
        let mut lacking = members.into_iter().filter(|it| needs_state(*it));
        if let Some(member) = lacking.find(|it| !self.has_caught_up(*it)) {
            return Err(ReconfigureRefused::NotCaughtUp { member });
        }
        let members = self.copies_missing(next);
        if !members.is_empty() {
            return Err(ReconfigureRefused::FewCopies { members });
        }
        // A witness decides nothing until it has the log up to this epoch, and enters that: one that is far
        // behind may come to need what the others have in states only, and waits for a leader then.
        let decides = |it: MemberId| {
            let is_witness = next.member(it).is_some_and(|it| !runs_app(it.role));
            it == self.me || (self.is_with(it) && (!is_witness || self.has_caught_up(it)))
        };
        let silent = voters.iter().filter(|voter| !decides(**voter));
        let members: Vec<MemberId> = silent.copied().collect();
        let quorums = next.quorums;
        let needed = quorums
            .phase1(voters.len())
            .max(quorums.phase2(voters.len()));
        if voters.len() - members.len() < needed {
            return Err(ReconfigureRefused::Unheard { members });
        }
        Ok(())
    }

    /// A quorum with witnesses in it has the log, and that may begin behind a state that only copies have:
    /// so no copy that is there gives up its vote before enough of the others are. Which of them are not.
    fn copies_missing(&self, next: &Configuration) -> Vec<MemberId> {
        let is_copy = |it: &Member| it.role == Role::Voter;
        let is_there = |it: MemberId| it == self.me || self.has_caught_up(it);
        let has_witness = next.members.iter().any(|it| it.role == Role::Witness);
        let mut copies = self.configuration().members.iter().filter(|it| is_copy(it));
        let goes = copies.any(|it| is_there(it.id) && !next.member(it.id).is_some_and(is_copy));
        let copies = next.members.iter().filter(|it| is_copy(it));
        let (there, missing): (Vec<_>, Vec<_>) =
            copies.map(|it| it.id).partition(|it| is_there(*it));
        if has_witness && goes && there.len() < next.enough_copies() {
            return missing;
        }
        Vec::new()
    }

    /// As far as this leader knows: a member of this epoch that it hears, within a window of its log.
    pub fn has_caught_up(&self, member: MemberId) -> bool {
        let Office::Leader(leader) = &self.office else {
            return false;
        };
        let follower = leader.followers.get(&member);
        follower.is_some_and(|follower| {
            self.is_with(member)
                && self.is_caught_up(follower)
                && self.is_small(follower.acknowledged, self.log.last())
        })
    }

    /// The stop-sign that the log ends with, if it ends with that of this epoch.
    fn stop_sign(&self) -> Option<(Slot, Configuration)> {
        let entry = self.log.entry(self.log.last())?;
        self.ends_epoch(entry)
            .map(|configuration| (entry.slot, configuration))
    }

    /// The configuration that follows if this entry is chosen and ends this epoch.
    fn ends_epoch(&self, entry: &Entry) -> Option<Configuration> {
        if entry.ballot.epoch != self.epoch() {
            return None;
        }
        entry.reconfigures_to()
    }

    /// The log ends with the stop-sign of this epoch: nothing follows it (rule M1).
    pub(crate) fn is_closed(&self) -> bool {
        self.stop_sign().is_some()
    }

    /// Of these entries, the last of which a log ends with at `last`, none is behind a stop-sign of
    /// this epoch (I11).
    pub(crate) fn nothing_follows_a_stop_sign(&self, entries: &[Entry], last: Slot) -> bool {
        entries
            .iter()
            .all(|entry| entry.slot == last || self.ends_epoch(entry).is_none())
    }

    /// Enters the next epoch if the stop-sign of this one is held and chosen.
    pub(crate) fn enter_if_decided(&mut self) {
        if let Some((slot, configuration)) = self.stop_sign()
            && (slot <= self.log.commit() || planted(Mutant::InForceOnAppend))
        {
            self.enter_epoch(slot, configuration);
        }
    }

    /// The entry is chosen: if it ends this epoch, the next is entered. (It was unreadable until now, or
    /// a crash came between.)
    pub(crate) fn note_decided(&mut self, entry: &Entry) {
        if let Some(configuration) = self.ends_epoch(entry)
            && entry.slot == self.log.last()
        {
            self.enter_epoch(entry.slot, configuration);
        }
    }

    /// The stop-sign at `slot` is chosen, and everything up to it is held (rule M1).
    fn enter_epoch(&mut self, slot: Slot, configuration: Configuration) {
        let ballot = configuration.first_ballot();
        assert_eq!(ballot.epoch, self.epoch().next(), "I11: epochs in order");
        assert!(slot <= self.log.commit(), "a configuration is chosen first");
        self.tell_decided();
        self.log.cut(slot);
        self.faulty.cut(slot);
        self.resign();
        let record = Record::Enter {
            slot,
            configuration: configuration.clone(),
        };
        let io = self
            .journal
            .record(record, Effect::Entered { ballot, last: slot });
        self.acceptor.begin_epoch(ballot, io);
        self.membership.enter(slot, configuration);
        self.begin_epoch();
    }

    /// This leader's last word in its epoch: the stop-sign is chosen.
    fn tell_decided(&mut self) {
        let Office::Leader(leader) = &mut self.office else {
            return;
        };
        let ballot = leader.ballot;
        let mut followers = std::mem::take(&mut leader.followers);
        for (member, follower) in &mut followers {
            if follower.is_streaming() {
                self.send_accept(ballot, *member, follower, Vec::new());
            }
        }
    }

    /// A base of a later epoch has come, which so is entered without the stop-signs before it. Its
    /// members have taken part in nothing yet: they promise the first leader too before they vote.
    pub(crate) fn enter_by_base(&mut self) {
        let ballot = Ballot::none(self.epoch());
        let last = self.base.slot;
        self.resign();
        self.journal.and(Effect::Entered { ballot, last });
        let io = self.journal.filling();
        self.acceptor.begin_epoch(ballot, io);
        self.begin_epoch();
    }

    fn begin_epoch(&mut self) {
        let ballot = self.acceptor.promised;
        self.election.note(ballot);
        self.learning = None;
        self.take_place();
        if ballot.is_elected() && ballot.node != self.me {
            // The first leader has its turn.
            let patient_ns = self.now.mono_ns + self.election.timeout_ns / 2;
            self.election.takeover.give_way(patient_ns);
        }
    }

    /// The record by which an epoch was entered is synced. Its first leader leads: in this life, and in
    /// no later one (rule M1).
    pub(crate) fn entered(&mut self, ballot: Ballot, last: Slot) {
        let acceptor = &mut self.acceptor;
        acceptor.synced_promised = acceptor.synced_promised.max(ballot);
        acceptor.synced_accepted = acceptor.synced_accepted.max(ballot);
        acceptor.kept = acceptor.kept.max((ballot, last));
        if acceptor.accepted == ballot {
            assert!(last <= self.log.last(), "synced after entered");
            acceptor.synced_last = acceptor.synced_last.max(last);
        }
        if (acceptor.promised, acceptor.accepted) == (ballot, ballot) && ballot.node == self.me {
            self.lead_first();
        }
        self.evaluate();
    }

    /// The epoch's first leader needs no phase 1: nothing was proposed in it before.
    fn lead_first(&mut self) {
        let ballot = self.acceptor.accepted;
        self.lead(ballot, &std::collections::BTreeMap::new());
        let Office::Leader(leader) = &self.office else {
            return;
        };
        // Whoever has entered the epoch answers with its vote, all others promise.
        let followers: Vec<MemberId> = leader.followers.keys().copied().collect();
        let prepare = Message::Prepare {
            ballot,
            accepted: ballot,
            last: self.log.last(),
            commit: self.log.commit(),
            handed_over: false,
        };
        for to in followers {
            self.send(to, Lane::Log, prepare.clone());
        }
    }

    /// This member is in the group no more.
    pub(crate) fn be_removed(&mut self, epoch: Epoch) {
        if self.membership.removed.is_some() {
            return;
        }
        self.membership.removed = Some(epoch);
        self.resign();
        self.wanted = None;
        self.learning = None;
        self.give_up_reads();
        self.outputs.push_back(Output::Removed { epoch });
    }
}

/// Its number or its incarnation was another member's, or one's that left (rule M4).
fn is_used_otherwise(former: &[Member], current: &[Member], member: &Member) -> bool {
    let same = |other: &Member| other.id == member.id || other.incarnation == member.incarnation;
    let other = |other: &Member| {
        same(other) && (other.id, other.incarnation) != (member.id, member.incarnation)
    };
    former.iter().any(same) || current.iter().any(other)
}
