//! I11: epochs are totally ordered along the log, and a stop-sign is the last slot of its epoch; and
//! what goes with it: an epoch begins when its stop-sign is chosen and not before, its first leader
//! proposes in round 0 only in the life that entered it, no number and no incarnation is used again,
//! and nobody is needed by an epoch that is said to be retired.
//!
//! Sources: Lamport, Malkhi, Zhou, *Reconfiguring a State Machine* (2010), stoppable Paxos; the bug
//! classes "concurrent reconfigurations" (Raft, 2015) and "forgetful member re-added under its name"
//! (RethinkDB 2.2.3). Agreed time, which never goes back along the log, is checked in the same place.

use std::collections::BTreeMap;

use synod_paxos::{
    Ballot, CommandKind, Configuration, Entry, Epoch, Incarnation, Member, MemberId, Message,
    Quorums, Role,
};

use super::Violation;
use crate::calendar::Life;
use crate::network::id_of;

/// All configurations that were chosen, and who entered which in which life.
#[derive(Debug)]
pub(crate) struct Epochs {
    /// In order, that of the genesis first.
    configurations: Vec<Configuration>,
    /// Of the stop-signs, the first of which begins the second configuration.
    ballots: Vec<Ballot>,
    used: BTreeMap<MemberId, Incarnation>,
    /// By member: the epoch that it entered last by its own record, and in which life.
    entered: Vec<Option<(Epoch, Life)>>,
}

/// `entry` may stand right behind `before`.
pub(crate) fn follows(before: &Entry, entry: &Entry) -> Result<(), Violation> {
    let (old, new) = (before.ballot.epoch, entry.ballot.epoch);
    let stopped = before.command.kind == CommandKind::RECONFIGURE;
    if new < old || (stopped && new == old) || (!stopped && new > old) {
        return Err(Violation::new(
            "I11",
            format!(
                "slot {} of epoch {new} stands behind one of epoch {old}",
                entry.slot
            ),
        ));
    }
    if entry.time < before.time {
        return Err(Violation::new(
            "P5",
            format!("agreed time goes back at slot {}", entry.slot),
        ));
    }
    Ok(())
}

/// Who counts in quorums; by an opinion of this module's own, as all that it judges by.
pub(crate) fn voters(configuration: &Configuration) -> Vec<MemberId> {
    let members = configuration.members.iter();
    let voters = members.filter(|it| matches!(it.role, Role::Voter | Role::Witness));
    voters.map(|it| it.id).collect()
}

/// How many voters it takes for each phase.
pub(crate) fn quorums(configuration: &Configuration) -> (usize, usize) {
    let majority = voters(configuration).len() / 2 + 1;
    match configuration.quorums {
        Quorums::Majority => (majority, majority),
        Quorums::Flexible { phase1, phase2 } => (phase1 as usize, phase2 as usize),
    }
}

/// Those that get a vote by a change.
pub(crate) fn new_voters(before: &Configuration, after: &Configuration) -> Vec<MemberId> {
    let old = voters(before);
    let all = voters(after).into_iter();
    all.filter(|it| !old.contains(it)).collect()
}

// === impl Epochs ===

impl Epochs {
    pub(crate) fn new(genesis: &Configuration, machines: usize) -> Self {
        let used = genesis.members.iter().map(|it| (it.id, it.incarnation));
        Self {
            used: used.collect(),
            configurations: vec![genesis.clone()],
            ballots: Vec::new(),
            entered: vec![None; machines],
        }
    }

    /// This entry was chosen.
    pub(crate) fn chosen(&mut self, entry: &Entry) -> Result<(), Violation> {
        let Some(configuration) = entry.reconfigures_to() else {
            return Ok(());
        };
        let before = self.latest();
        let wrong = |rule, what: &str| {
            let text = format!(
                "slot {} makes of {before:?} {configuration:?}: {what}",
                entry.slot
            );
            Err(Violation::new(rule, text))
        };
        if configuration.epoch != before.epoch.next()
            || configuration.epoch != entry.ballot.epoch.next()
        {
            return wrong("I11", "this epoch does not follow");
        }
        for it in &configuration.members {
            let stays = before
                .member(it.id)
                .is_some_and(|old| old.incarnation == it.incarnation);
            if self.used(it) && !stays {
                return wrong("M4", "a number or an incarnation is used again");
            }
        }
        let role_in = |configuration: &Configuration, it: MemberId| {
            let member = configuration.member(it);
            member.map(|it| it.role)
        };
        let may_vote = |it: &MemberId| match role_in(before, *it) {
            Some(role) => role == Role::Observer,
            None => role_in(&configuration, *it) == Some(Role::Witness),
        };
        let new = new_voters(before, &configuration);
        if new.len() > 1 || !new.iter().all(may_vote) {
            return wrong(
                "M2",
                "one observer, or one new witness, at a time gets a vote",
            );
        }
        let members = configuration.members.iter();
        self.used.extend(members.map(|it| (it.id, it.incarnation)));
        self.configurations.push(configuration);
        self.ballots.push(entry.ballot);
        Ok(())
    }

    /// The number or the incarnation is or was a member's.
    pub(crate) fn used(&self, member: &Member) -> bool {
        let mut used = self.used.iter();
        used.any(|(id, incarnation)| *id == member.id || *incarnation == member.incarnation)
    }

    /// The change that ended this epoch: what was before it and after it, and the ballot in which it
    /// was proposed.
    pub(crate) fn change(&self, ended: Epoch) -> Option<(&Configuration, &Configuration, Ballot)> {
        let (before, after) = (self.of(ended)?, self.of(ended.next())?);
        let at = ended.0 - self.configurations[0].epoch.0;
        Some((before, after, self.ballots[usize::try_from(at).ok()?]))
    }

    /// The last one that was chosen.
    pub(crate) fn latest(&self) -> &Configuration {
        self.configurations.last().expect("that of the genesis")
    }

    pub(crate) fn of(&self, epoch: Epoch) -> Option<&Configuration> {
        let first = self.configurations.first()?.epoch;
        let at = epoch.0.checked_sub(first.0)?;
        self.configurations.get(usize::try_from(at).ok()?)
    }

    /// The member is in the group, or was.
    pub(crate) fn knows(&self, member: MemberId) -> bool {
        self.used.contains_key(&member)
    }

    /// The epoch from which on the member is not in the group any more.
    pub(crate) fn left(&self, member: MemberId) -> Option<Epoch> {
        let last = self
            .configurations
            .iter()
            .rposition(|it| it.member(member).is_some())?;
        self.configurations.get(last + 1).map(|it| it.epoch)
    }

    /// Voters of the epoch and how many of them choose.
    pub(crate) fn quorum(&self, epoch: Epoch) -> Option<(Vec<MemberId>, usize)> {
        let configuration = self.of(epoch)?;
        Some((voters(configuration), quorums(configuration).1))
    }

    /// A member says that this is the configuration of its epoch, and acts by it.
    pub(crate) fn acts(
        &self,
        member: usize,
        configuration: &Configuration,
    ) -> Result<(), Violation> {
        if self.of(configuration.epoch) == Some(configuration) {
            return Ok(());
        }
        let text = format!(
            "member {} acts in {configuration:?}, chosen is {:?}",
            member + 1,
            self.of(configuration.epoch)
        );
        Err(Violation::new("M1", text))
    }

    /// A member writes the record by which it enters an epoch.
    pub(crate) fn enters(
        &mut self,
        member: usize,
        life: Life,
        configuration: &Configuration,
    ) -> Result<(), Violation> {
        self.acts(member, configuration)?;
        self.entered[member] = Some((configuration.epoch, life));
        Ok(())
    }

    /// A member puts an entry behind the last of its log, which `last` is if it can be read.
    pub(crate) fn appends(
        &self,
        member: usize,
        life: Life,
        last: Option<&Entry>,
        entry: &Entry,
    ) -> Result<(), Violation> {
        let ballot = entry.ballot;
        let ends = |it: &Entry| it.ballot.epoch == ballot.epoch && it.reconfigures_to().is_some();
        if last.is_some_and(ends) {
            let text = format!(
                "member {} puts slot {} behind the stop-sign of {}",
                member + 1,
                entry.slot,
                ballot.epoch
            );
            return Err(Violation::new("I11", text));
        }
        let proposes = ballot.node == id_of(member) && ballot.round == 0;
        if proposes && self.entered[member] != Some((ballot.epoch, life)) {
            let text = format!(
                "member {} proposes in {ballot} in another life than it entered that epoch in",
                member + 1
            );
            return Err(Violation::new("M1", text));
        }
        Ok(())
    }

    /// A member says that those are not needed any more whom its epoch has left behind; the last slot
    /// that is chosen is of epoch `reached`.
    pub(crate) fn retires(
        &self,
        member: usize,
        epoch: Epoch,
        reached: Option<Epoch>,
    ) -> Result<(), Violation> {
        if epoch == self.configurations[0].epoch || reached >= Some(epoch) {
            return Ok(());
        }
        let text = format!(
            "member {} calls the epoch before {epoch} retired, and no slot of {epoch} is chosen",
            member + 1
        );
        Err(Violation::new("M6", text))
    }

    /// A member that is in epoch `own` was told that it is in the group no more from this epoch on. It
    /// helps its own as long as that may be needed: till an entry of the later one is chosen.
    pub(crate) fn removed(
        &self,
        member: usize,
        own: Epoch,
        epoch: Epoch,
        reached: Option<Epoch>,
    ) -> Result<(), Violation> {
        if own < epoch {
            self.retires(member, epoch, reached)?;
        }
        let configuration = self.of(epoch);
        if configuration.is_some_and(|it| it.member(id_of(member)).is_none()) {
            return Ok(());
        }
        let text = format!(
            "member {} is told that it is removed by {configuration:?}",
            member + 1
        );
        Err(Violation::new("M6", text))
    }

    /// This message leaves a member: only voters of an epoch stand for election in it, and only its
    /// members promise and accept.
    pub(crate) fn leaves(&self, member: usize, message: &Message) -> Result<(), Violation> {
        let (ballot, stands): (&Ballot, bool) = match message {
            Message::Prepare { ballot, .. } => (ballot, true),
            Message::Promise { ballot, .. } | Message::Accepted { ballot, .. } => (ballot, false),
            _ => return Ok(()),
        };
        let place = self
            .of(ballot.epoch)
            .and_then(|it| it.member(id_of(member)));
        if place.is_some_and(|it| !stands || it.role != Role::Observer) {
            return Ok(());
        }
        let text = format!("member {}, there {place:?}, sends {message:?}", member + 1);
        Err(Violation::new("M4", text))
    }
}
