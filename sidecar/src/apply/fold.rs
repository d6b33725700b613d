//! Admit: all that every copy must decide alike, as a fold over the log (rules A1, X1, X2, X3, P7).
//! Depends on nothing but the entries in slot order, the configuration and the genesis policy.

use std::sync::Arc;

use prost::Message;
use synod_paxos::{AgreedTime, CommandId, CommandKind, Configuration, Entry, MemberId, Slot};
use synod_proto::v1::{Policy, Request};

use super::Outcome;
use super::ids::Ids;
use super::keys::{First, KeyLookup, KeyUse, Keys};

/// The replicated state besides the app's own.
#[derive(Clone, Debug, PartialEq)]
pub struct Fold {
    configuration: Configuration,
    admitted: Slot,
    time: AgreedTime,
    policy: Arc<Policy>,
    ids: Ids,
    keys: Keys,
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
    /// This version does not know what it is: apply stops before it (rule P8).
    Unknown(CommandKind),
}

impl Fold {
    /// The state before the first slot.
    pub fn new(configuration: Configuration, policy: Policy) -> Self {
        let policy = Policy {
            version: 1,
            classes_version: 1,
            ..policy
        };
        Self {
            configuration,
            admitted: Slot::ZERO,
            time: AgreedTime(0),
            policy: Arc::new(policy),
            ids: Ids::default(),
            keys: Keys::default(),
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

    /// What the tables know of a key.
    pub fn lookup(&self, principal: &bytes::Bytes, key: &bytes::Bytes) -> KeyLookup {
        self.keys.lookup(principal, key)
    }

    /// Decides about the next entry. After [`Admission::Unknown`] nothing has changed.
    pub(super) fn admit(&mut self, entry: &Entry) -> Admission {
        assert_eq!(entry.slot, self.admitted.next(), "admit runs in slot order");
        let kind = entry.command.kind;
        if ![CommandKind::NOOP, CommandKind::REQUEST, CommandKind::POLICY].contains(&kind) {
            return Admission::Unknown(kind);
        }
        self.admitted = entry.slot;
        self.time = self.time.max(entry.time);
        self.keys.evict(self.time, self.policy.idempotency.as_ref());
        if kind == CommandKind::NOOP {
            return Admission::Nothing;
        }
        if !self.take(entry.command.id, entry.command.floor) {
            return Admission::Settled(Outcome::Duplicate);
        }
        if kind == CommandKind::REQUEST {
            self.admit_request(entry)
        } else {
            self.admit_policy(entry)
        }
    }

    fn take(&mut self, id: CommandId, floor: u64) -> bool {
        self.ids.take(id, floor, &self.configuration)
    }

    fn admit_request(&mut self, entry: &Entry) -> Admission {
        let Ok(request) = Request::decode(entry.command.payload.clone()) else {
            // The same bytes everywhere, so nobody executes it.
            return Admission::Settled(Outcome::Skipped);
        };
        if self.time.0 > request.expires_ns {
            return Admission::Settled(Outcome::Expired);
        }
        if request.policy_version < self.policy.classes_version {
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
                KeyUse::Same(first) => return Admission::Repeat(first),
                KeyUse::OtherRequest => return Admission::Settled(Outcome::KeyReused),
                KeyUse::OtherPrincipal => return Admission::Settled(Outcome::PrincipalChanged),
            }
        }
        Admission::Execute(Box::new(request))
    }

    fn admit_policy(&mut self, entry: &Entry) -> Admission {
        let Ok(mut policy) = Policy::decode(entry.command.payload.clone()) else {
            return Admission::Settled(Outcome::Skipped);
        };
        if policy.version.checked_sub(1) != Some(self.policy.version) {
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
}

/// For each admitted slot, whether the app executes it: one bit a slot, so that a replay need not
/// decide again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Decisions {
    words: Vec<u64>,
}

impl Decisions {
    /// Notes that the app executes this slot.
    pub(super) fn note(&mut self, slot: Slot) {
        let word = usize::try_from(slot.0 / 64).expect("a log in this address space");
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
        }
        self.words[word] |= 1 << (slot.0 % 64);
    }

    /// The first slot from `from` on that the app executes.
    pub(super) fn next_from(&self, from: Slot) -> Option<Slot> {
        let first = usize::try_from(from.0 / 64).expect("a log in this address space");
        let mut mask = u64::MAX << (from.0 % 64);
        for (at, word) in self.words.iter().enumerate().skip(first) {
            let word = word & mask;
            if word != 0 {
                return Some(Slot(at as u64 * 64 + u64::from(word.trailing_zeros())));
            }
            mask = u64::MAX;
        }
        None
    }

    /// Whether the app executes this slot.
    pub(super) fn executes(&self, slot: Slot) -> bool {
        let word = usize::try_from(slot.0 / 64).expect("a log in this address space");
        self.words
            .get(word)
            .is_some_and(|word| word & (1 << (slot.0 % 64)) != 0)
    }
}
