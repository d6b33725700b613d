//! The leader's comparison of what the copies answered, slot by slot: which copy is the odd one, what
//! is mere noise, and up to where a copy's state is vouched for by a majority (rule N2).
//!
//! In come batches of digests, in any order between members, and who runs an app; out come
//! [`Verdict`]s. Pure.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use synod_paxos::{MemberId, Slot};

use super::digests::{Batch, Digest, Part};

#[cfg(test)]
mod tests;

/// Slots that wait for a copy's digest, at most: a copy that is away for longer is not waited for.
const PENDING: usize = 16_384;
/// Parts of responses that are known to be noise, at most.
const NOISE: usize = 1_024;

/// What is to be done about the odd one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnDivergence {
    /// It is told; a trial.
    Observe,
    /// A person is called.
    Alert,
    /// It is taken out and made anew.
    #[default]
    Quarantine,
    /// The service stops.
    Halt,
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A majority agrees, and this copy does not. Told once, until it is made anew, and once more if
    /// it can be taken out only later.
    OddOneOut {
        /// The first slot at which it differs.
        slot: Slot,
        /// Name of the request's route.
        route: String,
        /// Whose copy it is.
        member: MemberId,
        /// The first part of the response that differs.
        part: Part,
        /// What is to be done.
        measure: OnDivergence,
    },
    /// The copies differ and no majority agrees: nobody is taken out, a person decides. Told once,
    /// until that is done.
    NoMajority {
        /// The slot.
        slot: Slot,
        /// Name of the request's route.
        route: String,
        /// The first part of the response that differs between any two.
        part: Part,
        /// No two copies agree.
        all_differ: bool,
    },
    /// This part differs on all copies: it is noise from now on, for this route. Told once.
    NotDeterministic {
        /// Where it was seen.
        slot: Slot,
        /// Name of the request's route.
        route: String,
        /// What differs.
        part: Part,
    },
}

/// See the module's documentation. Every copy that it knows of runs the revision that answers.
#[derive(Debug)]
pub struct Comparer {
    on_divergence: OnDivergence,
    copies: BTreeSet<MemberId>,
    serving: BTreeSet<MemberId>,
    quarantined: BTreeSet<MemberId>,
    /// How far each copy has reported.
    through: BTreeMap<MemberId, Slot>,
    pending: BTreeMap<Slot, BTreeMap<MemberId, Digest>>,
    /// All up to here is compared, or will not be.
    finished: Slot,
    noise: BTreeMap<String, BTreeSet<Part>>,
    odd: BTreeMap<MemberId, Odd>,
    /// The first slot at which no majority agreed, until a person has decided.
    disputed: Option<Slot>,
    verdicts: VecDeque<Verdict>,
}

/// What the odd one did first.
#[derive(Clone, Debug)]
struct Odd {
    slot: Slot,
    route: String,
    part: Part,
}

// === events ===

impl Comparer {
    /// Knows no copies yet. What lies up to `from` is not compared any more.
    pub fn new(on_divergence: OnDivergence, from: Slot) -> Self {
        Self {
            on_divergence,
            copies: BTreeSet::new(),
            serving: BTreeSet::new(),
            quarantined: BTreeSet::new(),
            through: BTreeMap::new(),
            pending: BTreeMap::new(),
            finished: from,
            noise: BTreeMap::new(),
            odd: BTreeMap::new(),
            disputed: None,
            verdicts: VecDeque::new(),
        }
    }

    /// The members that run an app of the answering revision, and those of them that can serve.
    pub fn handle_copies(&mut self, copies: BTreeSet<MemberId>, serving: BTreeSet<MemberId>) {
        self.copies = copies;
        self.serving = serving;
        let copies = &self.copies;
        self.through.retain(|member, _| copies.contains(member));
        self.odd.retain(|member, _| copies.contains(member));
        self.quarantined.retain(|member| copies.contains(member));
        for digests in self.pending.values_mut() {
            digests.retain(|member, _| copies.contains(member));
        }
        self.pending.retain(|_, digests| !digests.is_empty());
        self.judge_each(self.pending.keys().copied().collect());
        self.take_out_more();
    }

    /// What a copy has answered.
    pub fn handle_batch(&mut self, member: MemberId, batch: Batch) {
        if !self.copies.contains(&member) {
            return;
        }
        let before = self.reported(member);
        let through = batch.through.max(before);
        self.through.insert(member, through);
        let mut heard: BTreeSet<Slot> = BTreeSet::new();
        for (slot, digest) in batch.digests {
            if slot > self.finished && slot <= through {
                // What a copy has answered first is what counts.
                let digests = self.pending.entry(slot).or_default();
                digests.entry(member).or_insert(digest);
                heard.insert(slot);
            }
        }
        // Of the others it has nothing to say.
        let silent = self.pending.range(before.next()..);
        let silent = silent.take_while(|(slot, _)| **slot <= through);
        heard.extend(silent.map(|(slot, _)| *slot));
        self.judge_each(heard);
    }

    /// This copy was made anew from a state that a majority vouches for.
    pub fn handle_rebuilt(&mut self, member: MemberId) {
        self.quarantined.remove(&member);
        let finished = self.finished;
        self.odd.remove(&member);
        // What the one before has answered is not what this one has.
        for (_, digests) in self.pending.range_mut(finished.next()..) {
            digests.remove(&member);
        }
        self.pending.retain(|_, digests| !digests.is_empty());
        self.take_out_more();
    }

    /// A person has decided about the slots at which no majority agreed, up to this one; or these go
    /// unverified.
    pub fn handle_decided(&mut self, through: Slot) {
        self.disputed.take_if(|slot| *slot <= through);
        self.pending = self.pending.split_off(&through.next());
        self.finished = self.finished.max(through);
    }

    /// What was found, one after another.
    pub fn poll_verdict(&mut self) -> Option<Verdict> {
        self.verdicts.pop_front()
    }
}

// === getters ===

impl Comparer {
    /// Up to here, the answers of this copy were those of a majority, as far as they can be compared
    /// any more: a snapshot of its state up to there is verified (rule N2).
    pub fn verified(&self, member: MemberId) -> Slot {
        if !self.copies.contains(&member) {
            return Slot::ZERO;
        }
        let mut through: Vec<Slot> = self.copies.iter().map(|it| self.reported(*it)).collect();
        through.sort_unstable_by(|a, b| b.cmp(a));
        let by_majority = through[self.majority() - 1];
        let mut verified = self.reported(member).min(by_majority);
        let odd = self.odd.get(&member).map(|odd| odd.slot);
        for bad in [odd, self.disputed].into_iter().flatten() {
            verified = verified.min(bad.prev());
        }
        for (slot, digests) in self.pending.range(..=verified) {
            // Whoever differs from those that agree is an odd one already.
            if self.agreed(digests).is_empty() && !self.waiting(*slot).is_empty() {
                return slot.prev();
            }
        }
        verified
    }

    /// All up to here is compared: no digest of it is needed any more.
    pub fn finished(&self) -> Slot {
        self.finished
    }

    fn majority(&self) -> usize {
        self.copies.len() / 2 + 1
    }

    fn reported(&self, member: MemberId) -> Slot {
        self.through.get(&member).copied().unwrap_or_default()
    }

    /// The copies whose word on this slot is still awaited.
    fn waiting(&self, slot: Slot) -> Vec<MemberId> {
        let copies = self.copies.iter().copied();
        copies.filter(|it| self.reported(*it) < slot).collect()
    }

    fn is_noise(&self, route: &str, part: &Part) -> bool {
        self.noise.get(route).is_some_and(|it| it.contains(part))
    }

    fn difference(&self, one: &Digest, other: &Digest) -> Option<Part> {
        one.difference(other, |part| self.is_noise(&one.route, part))
    }

    /// The copies of a majority that agrees; nobody if none does.
    fn agreed(&self, digests: &BTreeMap<MemberId, Digest>) -> BTreeSet<MemberId> {
        let largest = self.largest(digests);
        if largest.len() >= self.majority() {
            largest
        } else {
            BTreeSet::new()
        }
    }

    /// The largest set of copies that agree.
    fn largest(&self, digests: &BTreeMap<MemberId, Digest>) -> BTreeSet<MemberId> {
        let alike = |digest: &Digest| -> BTreeSet<MemberId> {
            let same = digests
                .iter()
                .filter(|(_, it)| self.difference(digest, it).is_none());
            same.map(|(member, _)| *member).collect()
        };
        let mut largest = BTreeSet::new();
        for digest in digests.values() {
            let alike = alike(digest);
            if alike.len() > largest.len() {
                largest = alike;
            }
        }
        largest
    }
}

// === judgement ===

impl Comparer {
    fn judge_each(&mut self, slots: BTreeSet<Slot>) {
        for slot in slots {
            self.judge(slot, self.waiting(slot).is_empty());
        }
        // The oldest are not waited for any more.
        while self.pending.len() > PENDING {
            let slot = *self.pending.keys().next().expect("there are many");
            self.judge(slot, true);
            self.finished = slot;
            self.pending.remove(&slot);
        }
        let copies = self.copies.iter().map(|it| self.reported(*it));
        let everybody = copies.min().unwrap_or_default();
        self.finished = self.finished.max(everybody);
        self.pending = self.pending.split_off(&self.finished.next());
    }

    /// `last_word`: no other digest of this slot comes.
    fn judge(&mut self, slot: Slot, last_word: bool) {
        let digests = self.pending[&slot].clone();
        let mut agreed = self.agreed(&digests);
        if agreed.is_empty() && last_word {
            self.learn(slot, &digests);
            agreed = self.largest(&digests);
            if agreed.len() < digests.len() && agreed.len() < self.majority() {
                return self.dispute(slot, &digests);
            }
        }
        let Some(common) = agreed.first().map(|member| &digests[member]) else {
            return;
        };
        for (member, digest) in &digests {
            let Some(part) = self.difference(common, digest) else {
                continue;
            };
            let route = common.route.clone();
            match self.odd.get_mut(member) {
                None => {
                    self.odd.insert(*member, Odd { slot, route, part });
                    self.tell_odd(*member);
                }
                // Where noise was learned first, a later slot may have been judged before.
                Some(odd) => odd.slot = odd.slot.min(slot),
            }
        }
    }

    /// A part that differs on all copies, of which there are enough to tell, is noise.
    fn learn(&mut self, slot: Slot, digests: &BTreeMap<MemberId, Digest>) {
        if digests.len() < self.copies.len() || digests.len() < 3 {
            return;
        }
        let parts: BTreeSet<&Part> = digests.values().flat_map(|it| it.parts.keys()).collect();
        for part in parts {
            let values: BTreeSet<_> = digests.values().map(|it| it.parts.get(part)).collect();
            let route = digests.values().map(|it| &it.route).next();
            let route = route.expect("there are several").clone();
            let known: usize = self.noise.values().map(BTreeSet::len).sum();
            if values.len() == digests.len()
                && known < NOISE
                && self
                    .noise
                    .entry(route.clone())
                    .or_default()
                    .insert(part.clone())
            {
                let part = part.clone();
                let verdict = Verdict::NotDeterministic { slot, route, part };
                self.verdicts.push_back(verdict);
            }
        }
    }

    fn dispute(&mut self, slot: Slot, digests: &BTreeMap<MemberId, Digest>) {
        if self.disputed.is_some() {
            return;
        }
        let all: Vec<&Digest> = digests.values().collect();
        let pairs = all.iter().enumerate();
        let pairs = pairs.flat_map(|(at, one)| all[at + 1..].iter().map(move |it| (one, it)));
        let parts: Vec<_> = pairs.map(|(one, it)| self.difference(one, it)).collect();
        let all_differ = parts.iter().all(Option::is_some);
        let first = parts.into_iter().flatten().min();
        let part = first.expect("they are not all alike");
        self.disputed = Some(slot);
        self.verdicts.push_back(Verdict::NoMajority {
            slot,
            route: all[0].route.clone(),
            part,
            all_differ,
        });
    }

    fn tell_odd(&mut self, member: MemberId) {
        let measure = match self.on_divergence {
            OnDivergence::Quarantine if !self.may_take_out(member) => OnDivergence::Alert,
            measure => measure,
        };
        if measure == OnDivergence::Quarantine {
            self.quarantined.insert(member);
        }
        let Odd { slot, route, part } = self.odd[&member].clone();
        self.verdicts.push_back(Verdict::OddOneOut {
            slot,
            route,
            member,
            part,
            measure,
        });
    }

    /// Never more than a minority, and never the last copy that can serve.
    fn may_take_out(&self, member: MemberId) -> bool {
        let minority = self.copies.len() - self.majority();
        let left = self.serving.iter();
        let mut left = left.filter(|it| **it != member && !self.quarantined.contains(it));
        self.quarantined.len() < minority && left.next().is_some()
    }

    /// Those whose turn it was not before.
    fn take_out_more(&mut self) {
        if self.on_divergence != OnDivergence::Quarantine {
            return;
        }
        let odd: Vec<MemberId> = self.odd.keys().copied().collect();
        for member in odd {
            if !self.quarantined.contains(&member) && self.may_take_out(member) {
                self.tell_odd(member);
            }
        }
    }
}
