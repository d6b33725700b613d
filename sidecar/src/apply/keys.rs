//! Idempotency keys (rule X2): who used which key for which request, a fold over the log. Bounds
//! count keys, principals and digests, never responses, so that all copies evict alike.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use synod_paxos::{AgreedTime, MemberId, Slot};
use synod_proto::v1::{Idempotency, IdempotencyPolicy, tables};

/// How long a key is kept when the policy does not say.
const DEFAULT_KEEP_FOR_MS: u64 = 24 * 3_600 * 1_000;
/// Bound on the table when the policy does not say.
const DEFAULT_MAX_BYTES: u64 = 32 << 20;
/// What a key counts for besides its own bytes: an estimate, but the same on all copies.
const OVERHEAD_BYTES: u64 = 128;

/// The table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Keys {
    /// By key, then principal.
    used: BTreeMap<(Bytes, Bytes), Used>,
    /// By key, then request digest: its principal. One request under one key has one principal.
    requests: BTreeMap<(Bytes, Bytes), Bytes>,
    /// In slot order, oldest first.
    by_age: VecDeque<Aged>,
    bytes: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Used {
    digest: Bytes,
    first: First,
}

/// The first request under a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct First {
    /// Where it is.
    pub(super) slot: Slot,
    /// Whose copy answered its client.
    pub(super) answerer: MemberId,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Aged {
    time: AgreedTime,
    key: Bytes,
    principal: Bytes,
}

/// What a key says about a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KeyUse {
    /// Not used yet.
    Free,
    /// Used for this very request.
    Same(First),
    /// Used for another request.
    OtherRequest,
    /// Used for this request by another principal.
    OtherPrincipal,
}

/// What the table knows of a key without its request, for the outcome endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyLookup {
    /// Never used, or forgotten.
    Unknown,
    /// Used by this principal: the first request is at this slot.
    Used(Slot),
    /// The same, and nobody executes that slot.
    Skipped(Slot),
    /// Used by others only.
    OtherPrincipal,
}

impl Keys {
    /// Forgets what is too old at `time`, or too much.
    pub(super) fn evict(&mut self, time: AgreedTime, policy: Option<&IdempotencyPolicy>) {
        let keep_for_ms = policy.map_or(0, |policy| policy.keep_for_ms);
        let max_bytes = policy.map_or(0, |policy| policy.max_bytes);
        let keep_for_ms = if keep_for_ms == 0 {
            DEFAULT_KEEP_FOR_MS
        } else {
            keep_for_ms
        };
        let max_bytes = if max_bytes == 0 {
            DEFAULT_MAX_BYTES
        } else {
            max_bytes
        };
        let keep_for_ns = keep_for_ms.saturating_mul(1_000_000);
        while let Some(oldest) = self.by_age.front() {
            let too_old = oldest.time.0.saturating_add(keep_for_ns) < time.0;
            if !too_old && self.bytes <= max_bytes {
                break;
            }
            self.evict_oldest();
        }
    }

    /// What the key says about the request.
    pub(super) fn check(&self, idempotency: &Idempotency) -> KeyUse {
        let key = idempotency.key.clone();
        if let Some(used) = self.used.get(&(key.clone(), idempotency.principal.clone())) {
            return if used.digest == idempotency.request_digest {
                KeyUse::Same(used.first)
            } else {
                KeyUse::OtherRequest
            };
        }
        if self
            .requests
            .contains_key(&(key, idempotency.request_digest.clone()))
        {
            return KeyUse::OtherPrincipal;
        }
        KeyUse::Free
    }

    /// Notes the first request under a key that is free.
    pub(super) fn note(&mut self, idempotency: &Idempotency, first: First, time: AgreedTime) {
        // Copied: the bytes at hand are part of a request, whose body must not be kept with them.
        let key = Bytes::copy_from_slice(&idempotency.key);
        let principal = Bytes::copy_from_slice(&idempotency.principal);
        let digest = Bytes::copy_from_slice(&idempotency.request_digest);
        self.bytes += weight(&key, &principal, &digest);
        let known = self
            .requests
            .insert((key.clone(), digest.clone()), principal.clone());
        assert!(
            known.is_none(),
            "one request under one key has one principal"
        );
        let known = self
            .used
            .insert((key.clone(), principal.clone()), Used { digest, first });
        assert!(known.is_none(), "a key is noted only when it is free");
        self.by_age.push_back(Aged {
            time,
            key,
            principal,
        });
    }

    /// What is known of a key.
    pub(super) fn lookup(&self, principal: &Bytes, key: &Bytes) -> KeyLookup {
        if let Some(used) = self.used.get(&(key.clone(), principal.clone())) {
            return KeyLookup::Used(used.first.slot);
        }
        let mut others = self.used.range((key.clone(), Bytes::new())..);
        match others.next() {
            Some(((other, _), _)) if other == key => KeyLookup::OtherPrincipal,
            _ => KeyLookup::Unknown,
        }
    }

    /// As part of a snapshot.
    pub(super) fn save(&self) -> Vec<tables::Key> {
        let saved = |aged: &Aged| {
            let Aged {
                time,
                key,
                principal,
            } = aged.clone();
            let used = &self.used[&(key.clone(), principal.clone())];
            tables::Key {
                key,
                principal,
                request_digest: used.digest.clone(),
                slot: used.first.slot.0,
                answerer: used.first.answerer.0,
                time_ns: time.0,
            }
        };
        self.by_age.iter().map(saved).collect()
    }

    /// From a snapshot; an error says what is wrong with it.
    pub(super) fn load(saved: Vec<tables::Key>) -> Result<Self, &'static str> {
        let mut keys = Self::default();
        let mut newest = (Slot::ZERO, AgreedTime(0));
        for it in saved {
            let age = (Slot(it.slot), AgreedTime(it.time_ns));
            if age.0 <= newest.0 || age.1 < newest.1 {
                return Err("its idempotency keys are not in the order of their slots");
            }
            newest = age;
            let idempotency = Idempotency {
                key: it.key,
                principal: it.principal,
                request_digest: it.request_digest,
            };
            if keys.check(&idempotency) != KeyUse::Free {
                return Err("it has one idempotency key twice");
            }
            let first = First {
                slot: age.0,
                answerer: MemberId(it.answerer),
            };
            keys.note(&idempotency, first, age.1);
        }
        Ok(keys)
    }

    fn evict_oldest(&mut self) {
        let Some(Aged { key, principal, .. }) = self.by_age.pop_front() else {
            return;
        };
        let used = self
            .used
            .remove(&(key.clone(), principal.clone()))
            .expect("what has an age is in the table");
        self.bytes -= weight(&key, &principal, &used.digest);
        let known = self.requests.remove(&(key, used.digest));
        assert_eq!(
            known.as_ref(),
            Some(&principal),
            "both indexes hold the same keys"
        );
    }
}

fn weight(key: &Bytes, principal: &Bytes, digest: &Bytes) -> u64 {
    (key.len() + principal.len() + digest.len()) as u64 + OVERHEAD_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    fn idempotency(key: &str, principal: &str, digest: &str) -> Idempotency {
        Idempotency {
            key: Bytes::copy_from_slice(key.as_bytes()),
            principal: Bytes::copy_from_slice(principal.as_bytes()),
            request_digest: Bytes::copy_from_slice(digest.as_bytes()),
        }
    }

    fn at(slot: u64) -> First {
        First {
            slot: Slot(slot),
            answerer: MemberId(1),
        }
    }

    fn policy(keep_for_ms: u64, max_bytes: u64) -> IdempotencyPolicy {
        IdempotencyPolicy {
            keep_for_ms,
            max_bytes,
            ..IdempotencyPolicy::default()
        }
    }

    #[test]
    fn a_key_belongs_to_one_request_of_one_principal() {
        let mut keys = Keys::default();
        let first = idempotency("k", "ann", "post 1");
        assert_eq!(keys.check(&first), KeyUse::Free);
        keys.note(&first, at(5), AgreedTime(0));
        assert_eq!(keys.check(&first), KeyUse::Same(at(5)));
        assert_eq!(
            keys.check(&idempotency("k", "ann", "post 2")),
            KeyUse::OtherRequest
        );
        assert_eq!(
            keys.check(&idempotency("k", "bob", "post 1")),
            KeyUse::OtherPrincipal
        );
        assert_eq!(
            keys.check(&idempotency("k", "bob", "post 2")),
            KeyUse::Free,
            "two clients may choose the same key by chance"
        );
    }

    #[test]
    fn a_lookup_never_yields_the_slot_of_another_principal() {
        let mut keys = Keys::default();
        keys.note(&idempotency("k", "ann", "post 1"), at(5), AgreedTime(0));
        let (ann, bob) = (Bytes::from_static(b"ann"), Bytes::from_static(b"bob"));
        let (k, j, ka) = (
            Bytes::from_static(b"k"),
            Bytes::from_static(b"j"),
            Bytes::from_static(b"ka"),
        );
        assert_eq!(keys.lookup(&ann, &k), KeyLookup::Used(Slot(5)));
        assert_eq!(keys.lookup(&bob, &k), KeyLookup::OtherPrincipal);
        assert_eq!(keys.lookup(&ann, &j), KeyLookup::Unknown);
        assert_eq!(keys.lookup(&ann, &ka), KeyLookup::Unknown);
    }

    #[test]
    fn a_key_is_forgotten_after_its_time_and_not_before() {
        let mut keys = Keys::default();
        let policy = policy(10, 0);
        let used = idempotency("k", "ann", "post 1");
        keys.note(&used, at(1), AgreedTime(5_000_000));
        keys.evict(AgreedTime(15_000_000), Some(&policy));
        assert_eq!(keys.check(&used), KeyUse::Same(at(1)));
        keys.evict(AgreedTime(15_000_001), Some(&policy));
        assert_eq!(keys.check(&used), KeyUse::Free);
        assert_eq!(keys, Keys::default(), "nothing is left of it");
    }

    #[test]
    fn the_oldest_keys_go_when_the_table_is_too_large() {
        let mut keys = Keys::default();
        let one = weight(&"k-00".into(), &"ann".into(), &"post 1".into());
        let policy = policy(0, 10 * one);
        for slot in 0..50_u64 {
            keys.note(
                &idempotency(&format!("k-{slot:02}"), "ann", "post 1"),
                at(slot),
                AgreedTime(slot),
            );
            keys.evict(AgreedTime(slot), Some(&policy));
            assert!(keys.bytes <= 10 * one);
        }
        assert_eq!(
            keys.check(&idempotency("k-39", "ann", "post 1")),
            KeyUse::Free
        );
        assert_eq!(
            keys.check(&idempotency("k-40", "ann", "post 1")),
            KeyUse::Same(at(40))
        );
    }

    #[test]
    fn without_a_policy_keys_are_kept_for_a_day() {
        let mut keys = Keys::default();
        let used = idempotency("k", "ann", "post 1");
        keys.note(&used, at(1), AgreedTime(0));
        keys.evict(AgreedTime(86_400 * 1_000_000_000), None);
        assert_eq!(keys.check(&used), KeyUse::Same(at(1)));
        keys.evict(AgreedTime(86_400 * 1_000_000_000 + 1), None);
        assert_eq!(keys.check(&used), KeyUse::Free);
    }
}
