//! Which configuration is in force, here and at each slot, and who is who in it.

use std::collections::BTreeMap;

use synod_mutant::{Mutant, planted};

use crate::base::Base;
use crate::configuration::{Configuration, Member, Role};
use crate::message::Hello;
use crate::paxos::Paxos;
use crate::peer::Peer;
use crate::types::{Epoch, Incarnation, MemberId, Slot};

/// Members of later epochs whose hellos are taken, at most.
const STRANGERS: usize = 16;

/// What this member knows of configurations besides the one of the base.
#[derive(Debug)]
pub(crate) struct Membership {
    /// Those entered behind the base, by the slots of their stop-signs.
    changes: BTreeMap<Slot, Configuration>,
    /// Whom to ask for the log until that epoch is entered.
    joining: Option<Configuration>,
    /// Members of later epochs that have said hello to help this one out of its own.
    strangers: BTreeMap<MemberId, Member>,
    /// Counts what changes whom this member is to be connected with.
    contacts: u64,
    /// The shell was told of the configurations up to this epoch.
    pub(crate) told: Epoch,
    /// This member is in the group no more from that epoch on.
    pub(crate) removed: Option<Epoch>,
}

impl Membership {
    /// As recovered; checked by the caller.
    pub(crate) fn new(
        base: &Base,
        changes: Vec<(Slot, Configuration)>,
        joining: Option<Configuration>,
    ) -> Self {
        Self {
            changes: changes.into_iter().collect(),
            joining,
            strangers: BTreeMap::new(),
            contacts: 0,
            told: base.configuration.epoch,
            removed: None,
        }
    }

    /// The one acted in.
    pub(crate) fn current<'a>(&'a self, base: &'a Base) -> &'a Configuration {
        let last = self.changes.last_key_value();
        last.map_or(&base.configuration, |(_, configuration)| configuration)
    }

    /// The one in force behind `slot`.
    pub(crate) fn at<'a>(&'a self, base: &'a Base, slot: Slot) -> &'a Configuration {
        let last = self.changes.range(..=slot).next_back();
        last.map_or(&base.configuration, |(_, configuration)| configuration)
    }

    /// All that were members before and are not in the one in force behind `slot`.
    pub(crate) fn former_at(&self, base: &Base, slot: Slot) -> Vec<Member> {
        let mut former = base.former.clone();
        let mut before = &base.configuration;
        for (_, after) in self.changes.range(..=slot) {
            former.extend(gone(before, after));
            before = after;
        }
        former.sort_by_key(|it| it.id);
        former
    }

    /// Those that the last change left behind; with earlier ones if the base does not tell them apart.
    fn left_last(&self, base: &Base) -> Vec<Member> {
        let mut latest = self.changes.values().rev();
        let Some(after) = latest.next() else {
            return base.former.clone();
        };
        let before = latest.next().unwrap_or(&base.configuration);
        gone(before, after).collect()
    }

    /// Of an epoch that is not entered yet.
    pub(crate) fn joining(&self, base: &Base) -> Option<&Configuration> {
        let epoch = self.current(base).epoch;
        self.joining.as_ref().filter(|it| it.epoch > epoch)
    }

    /// The chosen entry at `slot` ends an epoch.
    pub(crate) fn enter(&mut self, slot: Slot, configuration: Configuration) {
        self.changes.insert(slot, configuration);
    }

    /// What is up to `slot` is part of the base now.
    pub(crate) fn forget(&mut self, slot: Slot) {
        self.changes = self.changes.split_off(&slot.next());
    }

    /// The first change at or behind `slot`, or the one that is not told yet.
    pub(crate) fn untold(&self) -> Option<(Slot, &Configuration)> {
        let mut changes = self.changes.iter();
        let (slot, configuration) = changes.find(|(_, it)| it.epoch > self.told)?;
        Some((*slot, configuration))
    }
}

/// Those of the first configuration that are not in the second.
fn gone<'a>(
    before: &'a Configuration,
    after: &'a Configuration,
) -> impl Iterator<Item = Member> + 'a {
    let members = before.members.iter();
    members.filter(|it| after.member(it.id).is_none()).cloned()
}

impl Paxos {
    /// The configuration that this member acts in: the last one that it knows to be chosen.
    pub fn configuration(&self) -> &Configuration {
        self.membership.current(&self.base)
    }

    /// Whom this member is to ask and to answer: the members of its configuration, or, before it has
    /// entered one that it is in, of the one that it was started with.
    pub fn roster(&self) -> &Configuration {
        let joining = self.membership.joining(&self.base);
        joining.unwrap_or_else(|| self.configuration())
    }

    /// Its number.
    pub fn epoch(&self) -> Epoch {
        self.configuration().epoch
    }

    /// Everybody that this member is to be connected with: the others of its [`Self::roster`], those that
    /// left last until they are not needed any more, and those of later epochs that have said hello. Look
    /// again when [`Self::contacts_version`] has changed.
    pub fn contacts(&self) -> Vec<Member> {
        let mut contacts = self.others();
        contacts.extend(self.left_behind());
        contacts.extend(self.membership.strangers.values().cloned());
        contacts
    }

    /// Those that the epoch before needs until this one has chosen something (rule M6). None of those that
    /// left earlier: the stop-sign that began this epoch was chosen in the one before, without them.
    fn left_behind(&self) -> Vec<Member> {
        if self.old_epoch_retired() {
            return Vec::new();
        }
        let mut left = self.membership.left_last(&self.base);
        left.retain(|it| it.id != self.me);
        left
    }

    /// Changes whenever [`Self::contacts`] may have.
    pub fn contacts_version(&self) -> u64 {
        2 * self.membership.contacts + u64::from(self.old_epoch_retired())
    }

    /// Somebody unknown says hello from a later epoch. It may be the only one left that can help this
    /// member out of its own: its word counts for what is chosen, and for nothing else.
    pub(crate) fn meet(&mut self, hello: &Hello) -> bool {
        let strange = hello.member != self.me
            && hello.member != MemberId(0)
            && hello.incarnation != self.identity.incarnation;
        let room = self.membership.strangers.len() < STRANGERS;
        if !strange || !room || hello.epoch <= self.epoch() || self.removed().is_some() {
            return false;
        }
        let member = Member {
            id: hello.member,
            name: hello.name.clone(),
            incarnation: hello.incarnation,
            role: Role::Observer,
            region: String::new(),
        };
        self.former.insert(member.id, Peer::new(&member));
        self.membership.strangers.insert(member.id, member);
        self.membership.contacts += 1;
        true
    }

    /// It was a member once. (A stranger is none yet, as far as is known here.)
    pub(crate) fn has_left(&self, member: MemberId, incarnation: Incarnation) -> bool {
        let former = self.former.get(&member);
        former.is_some_and(|it| it.incarnation == incarnation)
            && !self.membership.strangers.contains_key(&member)
    }

    /// Whoever may be in a later epoch.
    pub(crate) fn helpers(&self) -> impl Iterator<Item = (MemberId, &Peer)> {
        let strangers = self.membership.strangers.keys();
        let strangers = strangers.filter_map(|it| Some((*it, self.former.get(it)?)));
        self.peers
            .iter()
            .map(|(it, peer)| (*it, peer))
            .chain(strangers)
    }

    /// All that a heartbeat goes to.
    pub(crate) fn audience(&self) -> Vec<MemberId> {
        let mut all: Vec<MemberId> = self.peers.keys().copied().collect();
        all.extend(self.left_behind().iter().map(|it| it.id));
        all.extend(self.membership.strangers.keys());
        all
    }

    /// An entry of this epoch is known to be chosen, by a phase-2 quorum of its voters: nobody needs
    /// those any more that the last change left behind (rule M6).
    pub fn old_epoch_retired(&self) -> bool {
        let epoch = self.epoch();
        let chosen = self.log.ballot_at(self.log.commit());
        epoch == self.genesis.configuration.epoch
            || chosen.is_some_and(|it| it.epoch == epoch)
            || planted(Mutant::OldEpochRetiresEarly)
    }

    /// Since which epoch this member is not in the group any more.
    pub fn removed(&self) -> Option<Epoch> {
        self.membership.removed
    }

    /// All that were members once and are not any more, by number: neither their numbers nor their
    /// incarnations are used again (rule M4).
    pub fn former_members(&self) -> Vec<Member> {
        self.membership.former_at(&self.base, Slot(u64::MAX))
    }

    fn others(&self) -> Vec<Member> {
        let others = self.roster().members.iter();
        let others = others.filter(|it| it.id != self.me);
        others.cloned().collect()
    }

    /// Whoever may talk to this member.
    pub(crate) fn acquaintance(&self, member: MemberId) -> Option<&Peer> {
        self.peers.get(&member).or_else(|| self.former.get(&member))
    }

    pub(crate) fn acquaintance_mut(&mut self, member: MemberId) -> Option<&mut Peer> {
        let peer = self.peers.get_mut(&member);
        peer.or_else(|| self.former.get_mut(&member))
    }

    /// Takes the place that the configuration gives it, among the others that it names. What is known
    /// of those who stay is kept.
    pub(crate) fn take_place(&mut self) {
        let configuration = self.configuration().clone();
        let own = configuration.member(self.me);
        self.role = own.map_or(Role::Observer, |it| it.role);
        self.voters = configuration.voters().collect();
        let former = &self.former;
        let ahead = |it: &MemberId| {
            former
                .get(it)
                .is_some_and(|it| it.epoch > configuration.epoch)
        };
        self.membership.strangers.retain(|it, _| ahead(it));
        let mut known = std::mem::take(&mut self.peers);
        known.append(&mut self.former);
        let mut meet = |member: &Member| {
            let mut peer = known
                .remove(&member.id)
                .unwrap_or_else(|| Peer::new(member));
            peer.role = member.role;
            (member.id, peer)
        };
        self.peers = self.others().iter().map(&mut meet).collect();
        self.membership.contacts += 1;
        let peers = &self.peers;
        let strangers = &mut self.membership.strangers;
        strangers.retain(|it, _| !peers.contains_key(it));
        let mut former = self.former_members();
        former.extend(self.membership.strangers.values().cloned());
        let gone = former.iter().filter(|it| it.id != self.me);
        self.former = gone
            .filter(|it| !self.peers.contains_key(&it.id))
            .map(meet)
            .collect();
        let has_joined = self.membership.joining(&self.base).is_none();
        if configuration.member(self.me).is_none() && has_joined {
            self.be_removed(configuration.epoch);
        }
    }
}
