//! Admit: all that every copy must decide alike, as a fold over the log (rules A1, X1, X2, X3, P7).
//! Depends on nothing but the entries in slot order, the configuration and the genesis policy.

use std::collections::BTreeSet;
use std::sync::Arc;

use prost::Message;
use synod_mutant::{Mutant, planted};
use synod_paxos::{
    AgreedTime, Boot, CommandId, CommandKind, Configuration, Entry, Member, MemberId, Slot,
};
use synod_proto::v1::{
    Policy, Request, Revision, RevisionDisagrees, RevisionDone, RevisionStrategy, Skip,
};

use super::Outcome;
use super::ids::Ids;
use super::keys::{First, KeyLookup, KeyUse, Keys};

/// What a slot may hold, as far as this version knows.
const KINDS: [CommandKind; 9] = [
    CommandKind::NOOP,
    CommandKind::REQUEST,
    CommandKind::POLICY,
    CommandKind::SKIP,
    CommandKind::UPGRADE,
    CommandKind::RECONFIGURE,
    CommandKind::REVISION,
    CommandKind::REVISION_DONE,
    CommandKind::REVISION_DISAGREES,
];

/// The replicated state besides the app's own. [`Fold::save`] and [`Fold::load`] make it part of
/// snapshots.
#[derive(Clone, Debug, PartialEq)]
pub struct Fold {
    pub(super) configuration: Configuration,
    /// Members of earlier configurations, by id: neither their numbers nor their lives are used again
    /// (rule M4).
    pub(super) former: Vec<Member>,
    pub(super) admitted: Slot,
    pub(super) time: AgreedTime,
    pub(super) policy: Arc<Policy>,
    pub(super) ids: Ids,
    pub(super) keys: Keys,
    /// Slots that nobody executes.
    pub(super) skipped: BTreeSet<Slot>,
    /// The revision of the app that answers clients.
    pub(super) revision: u64,
    /// It executes what follows this slot.
    pub(super) barrier: Slot,
    /// Not all copies run it yet, and it may be taken back.
    pub(super) unfinished: bool,
    /// One that runs along without answering.
    pub(super) silent: Option<Silent>,
    /// The last one that was taken back while it did so; no number is used again.
    pub(super) spent: u64,
    /// The protocol version in force.
    pub(super) protocol: u32,
}

/// A revision of the app that is to take over, and executes silently what follows its barrier.
#[derive(Clone, Debug, PartialEq)]
pub struct Silent {
    /// Its number.
    pub number: u64,
    /// It executes what follows this slot.
    pub barrier: Slot,
    /// Where it was found first to answer otherwise than the revision that answers clients. It takes over
    /// on a person's word only.
    pub disagreement: Option<RevisionDisagrees>,
}

/// What an entry is for.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Admission {
    /// The app executes it: the first time that anybody does.
    Execute(Box<Request>),
    /// Repeats this one, by key.
    Repeat(First),
    /// The app does not see it.
    Settled(Outcome),
    /// Nobody waits for it and nothing comes of it.
    Nothing,
    /// Nobody executes this slot from now on, which holds this command (rule K2).
    Skip {
        slot: Slot,
        id: CommandId,
        /// Somebody may have been told that it was executed.
        unsure: bool,
    },
    /// Another revision executes what follows the barrier, and this one nothing of it (rule V1).
    Revision {
        number: u64,
        before: u64,
        barrier: Slot,
    },
    /// Another one does so, too, silently. `saver`: whose copy saves the state of the barrier.
    Silent {
        number: u64,
        barrier: Slot,
        saver: MemberId,
    },
    /// The silent one answers what follows this slot.
    TakenOver { number: u64, before: u64 },
    /// The silent one is void.
    TakenBack { number: u64 },
    /// This version does not know what it is: apply stops before it (rule P8).
    Unknown(CommandKind),
}

impl Fold {
    /// The state before the first slot of a group that began with this protocol version.
    pub fn new(configuration: Configuration, protocol: u32, policy: Policy) -> Self {
        let policy = Policy {
            version: 1,
            classes_version: 1,
            ..policy
        };
        Self {
            configuration,
            former: Vec::new(),
            admitted: Slot::ZERO,
            time: AgreedTime(0),
            policy: Arc::new(policy),
            ids: Ids::default(),
            keys: Keys::default(),
            skipped: BTreeSet::new(),
            revision: 0,
            barrier: Slot::ZERO,
            unfinished: false,
            silent: None,
            spent: 0,
            protocol,
        }
    }

    /// The same of a group that begins with a state which stands for all up to `slot`, as of `time`.
    #[must_use]
    pub fn behind(self, slot: Slot, time: AgreedTime) -> Self {
        Self {
            admitted: slot,
            time,
            ..self
        }
    }

    /// The last slot that was admitted.
    pub fn admitted(&self) -> Slot {
        self.admitted
    }

    /// Agreed time of that slot.
    pub fn time(&self) -> AgreedTime {
        self.time
    }

    /// The policy in force for the next slot.
    pub fn policy(&self) -> &Arc<Policy> {
        &self.policy
    }

    /// Which commands took their turn.
    pub(super) fn ids(&self) -> &Ids {
        &self.ids
    }

    /// The protocol version in force for the next slot (rule P8).
    pub fn protocol(&self) -> u32 {
        self.protocol
    }

    /// The membership in force.
    pub fn configuration(&self) -> &Configuration {
        &self.configuration
    }

    /// Members of earlier configurations that are in this one no more, by id.
    pub fn former(&self) -> &[Member] {
        &self.former
    }

    /// The revision of the app that answers clients.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// That revision executes what follows this slot (rule V1).
    pub fn barrier(&self) -> Slot {
        self.barrier
    }

    /// The newest revision has not taken over yet, and it may be taken back.
    pub fn is_unfinished(&self) -> bool {
        self.unfinished || self.silent.is_some()
    }

    /// A revision that is to take over, and until then executes without answering.
    pub fn silent(&self) -> Option<&Silent> {
        self.silent.as_ref()
    }

    /// The newest revision that has ever begun.
    pub fn newest_revision(&self) -> u64 {
        let silent = self.silent.as_ref().map_or(0, |it| it.number);
        self.revision.max(silent).max(self.spent)
    }

    /// Slots that nobody executes, in ascending order.
    pub fn skipped(&self) -> &BTreeSet<Slot> {
        &self.skipped
    }

    /// What the tables know of a key.
    pub fn lookup(&self, principal: &bytes::Bytes, key: &bytes::Bytes) -> KeyLookup {
        match self.keys.lookup(principal, key) {
            KeyLookup::Used(slot) if self.skipped.contains(&slot) => KeyLookup::Skipped(slot),
            found => found,
        }
    }

    /// Decides about the next entry. After [`Admission::Unknown`] nothing has changed.
    pub(super) fn admit(&mut self, entry: &Entry) -> Admission {
        assert_eq!(entry.slot, self.admitted.next(), "admit runs in slot order");
        let kind = entry.command.kind;
        if !KINDS.contains(&kind) && !planted(Mutant::UnknownKindsArePassedOver) {
            return Admission::Unknown(kind);
        }
        self.admitted = entry.slot;
        self.time = self.time.max(entry.time);
        self.keys.evict(self.time, self.policy.idempotency.as_ref());
        if kind == CommandKind::NOOP {
            return Admission::Nothing;
        }
        if let Some(configuration) = entry.reconfigures_to() {
            self.reconfigure(configuration);
            return Admission::Nothing;
        }
        if let Some(protocol) = entry.command.upgrades_to() {
            // Proposed by a leader for the group: it is nobody's command.
            self.protocol = self.protocol.max(protocol);
            return Admission::Nothing;
        }
        if kind == CommandKind::SKIP {
            // Nor is this, and it may be proposed more than once.
            return self.admit_skip(entry);
        }
        if kind == CommandKind::REVISION_DONE {
            // Nor this.
            return self.admit_revision_done(entry);
        }
        if kind == CommandKind::REVISION_DISAGREES {
            // Nor this.
            self.admit_disagreement(entry);
            return Admission::Nothing;
        }
        if !self.take(entry.command.id, entry.command.floor) {
            return Admission::Settled(Outcome::Duplicate);
        }
        match kind {
            CommandKind::REQUEST => self.admit_request(entry),
            CommandKind::POLICY => self.admit_policy(entry),
            CommandKind::REVISION => self.admit_revision(entry),
            // Of the group's own, and says nothing that makes sense: the same everywhere.
            _ => Admission::Nothing,
        }
    }

    fn reconfigure(&mut self, configuration: Configuration) {
        let before = std::mem::replace(&mut self.configuration, configuration);
        let gone = before.members.into_iter();
        let gone = gone.filter(|it| self.configuration.member(it.id).is_none());
        self.former.extend(gone);
        self.former.sort_by_key(|it| it.id);
    }

    fn take(&mut self, id: CommandId, floor: u64) -> bool {
        self.ids.take(id, floor, &self.configuration)
    }

    fn admit_request(&mut self, entry: &Entry) -> Admission {
        let Ok(request) = Request::decode(entry.command.payload.clone()) else {
            // The same bytes everywhere, so nobody executes it.
            return Admission::Settled(Outcome::Skipped);
        };
        if self.time.0 > request.expires_ns && !planted(Mutant::ExpiredRuns) {
            return Admission::Settled(Outcome::Expired);
        }
        if request.policy_version < self.policy.classes_version && !planted(Mutant::StaleClassesRun)
        {
            return Admission::Settled(Outcome::Reclassify);
        }
        if let Some(idempotency) = &request.idempotency {
            match self.keys.check(idempotency) {
                KeyUse::Free => {
                    let answerer = match request.answerer {
                        0 => entry.command.id.member,
                        other => MemberId(other),
                    };
                    let slot = entry.slot;
                    let first = First { slot, answerer };
                    self.keys.note(idempotency, first, self.time);
                }
                KeyUse::Same(_) if planted(Mutant::RepeatRuns) => {}
                KeyUse::OtherRequest if planted(Mutant::KeyForAnotherRequest) => {}
                KeyUse::OtherPrincipal if planted(Mutant::KeyOfAnotherUser) => {}
                KeyUse::Same(first) if self.skipped.contains(&first.slot) => {
                    return Admission::Settled(Outcome::Skipped);
                }
                KeyUse::Same(first) => return Admission::Repeat(first),
                KeyUse::OtherRequest => return Admission::Settled(Outcome::KeyReused),
                KeyUse::OtherPrincipal => return Admission::Settled(Outcome::PrincipalChanged),
            }
        }
        Admission::Execute(Box::new(request))
    }

    /// Only of a slot before its own, and once.
    fn admit_skip(&mut self, entry: &Entry) -> Admission {
        let Ok(skip) = Skip::decode(entry.command.payload.clone()) else {
            return Admission::Nothing;
        };
        let slot = Slot(skip.slot);
        let before = slot > Slot::ZERO && slot < entry.slot;
        if !before || !self.skipped.insert(slot) {
            return Admission::Nothing;
        }
        let id = CommandId {
            member: MemberId(skip.member),
            boot: Boot(skip.boot),
            sequence: skip.sequence,
        };
        Admission::Skip {
            slot,
            id,
            unsure: skip.unsure,
        }
    }

    fn admit_policy(&mut self, entry: &Entry) -> Admission {
        let Ok(mut policy) = Policy::decode(entry.command.payload.clone()) else {
            return Admission::Settled(Outcome::Skipped);
        };
        if policy.version.checked_sub(1) != Some(self.policy.version)
            && !planted(Mutant::PolicyByForce)
        {
            return Admission::Settled(Outcome::Conflict);
        }
        let same_classes = policy.routes == self.policy.routes
            && policy.default_consistency == self.policy.default_consistency;
        policy.classes_version = if same_classes {
            self.policy.classes_version
        } else {
            policy.version
        };
        self.policy = Arc::new(policy);
        Admission::Settled(Outcome::Done)
    }

    /// By compare-and-set: a next one when the last has taken over, or one that takes the place of the
    /// last, and with it its barrier, before that. One that runs along silently is only taken away.
    fn admit_revision(&mut self, entry: &Entry) -> Admission {
        let Ok(revision) = Revision::decode(entry.command.payload.clone()) else {
            return Admission::Settled(Outcome::Skipped);
        };
        let is_next = revision.number.checked_sub(1) == Some(self.newest_revision());
        if !is_next || revision.takes_back != self.is_unfinished() {
            return Admission::Settled(Outcome::Conflict);
        }
        let number = revision.number;
        if let Some(silent) = self.silent.take() {
            self.spent = silent.number;
            return Admission::TakenBack {
                number: silent.number,
            };
        }
        if !revision.takes_back && revision.strategy() == RevisionStrategy::Rolling {
            self.silent = Some(Silent {
                number,
                barrier: entry.slot,
                disagreement: None,
            });
            return Admission::Silent {
                number,
                barrier: entry.slot,
                saver: MemberId(revision.saver),
            };
        }
        let before = std::mem::replace(&mut self.revision, number);
        if !revision.takes_back {
            self.barrier = entry.slot;
        }
        self.unfinished = true;
        Admission::Revision {
            number,
            before,
            barrier: self.barrier,
        }
    }

    fn admit_revision_done(&mut self, entry: &Entry) -> Admission {
        let Ok(done) = RevisionDone::decode(entry.command.payload.clone()) else {
            return Admission::Nothing;
        };
        if done.number == self.revision {
            self.unfinished = false;
            return Admission::Nothing;
        }
        let is_free = |it: &mut Silent| {
            let agrees = it.disagreement.is_none() || planted(Mutant::DisagreementIsIgnored);
            it.number == done.number && (agrees || done.in_spite)
        };
        let Some(silent) = self.silent.take_if(is_free) else {
            return Admission::Nothing;
        };
        let before = std::mem::replace(&mut self.revision, silent.number);
        self.barrier = silent.barrier;
        Admission::TakenOver {
            number: silent.number,
            before,
        }
    }

    /// The first that is found counts.
    fn admit_disagreement(&mut self, entry: &Entry) {
        if let Ok(disagrees) = RevisionDisagrees::decode(entry.command.payload.clone())
            && let Some(silent) = &mut self.silent
            && silent.number == disagrees.number
        {
            silent.disagreement.get_or_insert(disagrees);
        }
    }
}
