//! The leader's comparison of what the copies answered, slot by slot: which copy is the odd one, what
//! is mere noise, and up to where a copy's state is vouched for by a majority (rule N2).
//!
//! In come batches of digests, in any order between members, and who runs an app; out come
//! [`Verdict`]s. Pure.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use synod_mutant::{Mutant, planted};
use synod_paxos::{MemberId, Slot};

use super::digests::{Batch, Digest, NOISE, Noise, Part};

mod revisions;
#[cfg(test)]
mod tests;
mod ties;
mod verdict;

pub use revisions::{Comparers, Disagreement};
pub use verdict::{Mark, OnDivergence, Rules, Verdict};

/// Slots that wait for a copy's digest, at most: a copy that is away for longer is not waited for.
const PENDING: usize = 16_384;

/// See the module's documentation. Copies of different revisions of the app are not compared here: up to
/// the barrier counts what the revision before has answered, and beyond it what the one in force has
/// ([`Comparers`] has one of these for each of two that run side by side).
///
/// A leader begins with nothing. What earlier ones have found is with the copies: the slots of which
/// they have thrown their digests away are judged, and who was found to differ brings its [`Mark`].
/// Therefore a digest is thrown away only when all copies have heard what came of its slot. Where what
/// comes of a slot is open, since a part that differs may turn out to be noise, it is kept.
#[derive(Debug)]
pub struct Comparer {
    rules: Rules,
    copies: BTreeSet<MemberId>,
    /// How many there will be.
    expected: usize,
    serving: BTreeSet<MemberId>,
    quarantined: BTreeSet<MemberId>,
    /// The revision of the app in force, and its barrier.
    in_force: (u64, Slot),
    /// That of each copy.
    revisions: BTreeMap<MemberId, u64>,
    /// The state that each copy has.
    lineages: BTreeMap<MemberId, u64>,
    /// How far each copy has reported.
    through: BTreeMap<MemberId, Slot>,
    /// Copies of which nothing new has come for long.
    away: BTreeSet<MemberId>,
    pending: BTreeMap<Slot, BTreeMap<MemberId, Digest>>,
    /// All up to here is compared, or will not be.
    finished: Slot,
    noise: BTreeSet<Noise>,
    marks: BTreeMap<MemberId, Mark>,
    /// Up to where each copy has heard what was found.
    told: BTreeMap<MemberId, Slot>,
    /// Copies whose mark is of a tie that is over.
    over: BTreeSet<MemberId>,
    /// The slot of the only tie that stands, if it was found here and all that was heard since is there.
    open: Option<Slot>,
    verdicts: VecDeque<Verdict>,
}

// === events ===

impl Comparer {
    /// Knows no copies yet.
    pub fn new(rules: Rules) -> Self {
        Self {
            rules,
            copies: BTreeSet::new(),
            expected: 0,
            serving: BTreeSet::new(),
            quarantined: BTreeSet::new(),
            in_force: (0, Slot::ZERO),
            revisions: BTreeMap::new(),
            lineages: BTreeMap::new(),
            through: BTreeMap::new(),
            away: BTreeSet::new(),
            pending: BTreeMap::new(),
            finished: Slot::ZERO,
            noise: BTreeSet::new(),
            marks: BTreeMap::new(),
            told: BTreeMap::new(),
            over: BTreeSet::new(),
            open: None,
            verdicts: VecDeque::new(),
        }
    }

    /// The members that run an app of the answering revision, and those of them that can serve.
    pub fn handle_copies(&mut self, copies: BTreeSet<MemberId>, serving: BTreeSet<MemberId>) {
        if (&self.copies, &self.serving) == (&copies, &serving) {
            return;
        }
        if self.copies != copies {
            self.open = None;
        }
        self.copies = copies;
        self.serving = serving;
        let copies = &self.copies;
        self.through.retain(|member, _| copies.contains(member));
        self.lineages.retain(|member, _| copies.contains(member));
        self.revisions.retain(|member, _| copies.contains(member));
        self.marks.retain(|member, _| copies.contains(member));
        self.told.retain(|member, _| copies.contains(member));
        self.over.retain(|member| copies.contains(member));
        self.quarantined.retain(|member| copies.contains(member));
        for digests in self.pending.values_mut() {
            digests.retain(|member, _| copies.contains(member));
        }
        self.pending.retain(|_, digests| !digests.is_empty());
        self.judge_each(self.pending.keys().copied().collect());
        self.take_out_more();
    }

    /// So many copies will be compared here: nobody vouches for any until most of them are there, and what
    /// they have said is kept until all are.
    pub fn handle_expected(&mut self, copies: usize) {
        self.expected = copies;
    }

    /// Nothing new has come of these copies for so long that they may never say more.
    pub fn handle_away(&mut self, away: BTreeSet<MemberId>) {
        self.away = away;
    }

    /// This revision of the app executes what follows this slot. Whatever an earlier one has answered
    /// beyond is void: it was taken back.
    pub fn handle_revision(&mut self, number: u64, barrier: Slot) {
        if self.in_force == (number, barrier) {
            return;
        }
        self.in_force = (number, barrier);
        self.open = None;
        let earlier = self.revisions.iter().filter(|(_, it)| **it < number);
        let earlier: BTreeSet<MemberId> = earlier.map(|(member, _)| *member).collect();
        for (member, through) in &mut self.through {
            if earlier.contains(member) {
                *through = barrier.min(*through);
            }
        }
        for digests in self.pending.range_mut(barrier.next()..).map(|it| it.1) {
            digests.retain(|member, _| !earlier.contains(member));
        }
        self.pending.retain(|_, digests| !digests.is_empty());
    }

    /// What a copy has answered.
    pub fn handle_batch(&mut self, member: MemberId, mut batch: Batch) {
        let (in_force, barrier) = self.in_force;
        // Of a revision that is not in force as far as is known here, more is asked for again.
        if !self.copies.contains(&member) || batch.revision > in_force {
            return;
        }
        if batch.revision < in_force {
            batch.through = barrier.min(batch.through);
        }
        self.revisions.insert(member, batch.revision);
        self.finish(batch.released);
        for noise in &batch.noise {
            if self.noise.len() < NOISE {
                self.noise.insert(noise.clone());
            }
        }
        let before = self.reported(member);
        if self.lineages.get(&member) != Some(&batch.lineage) {
            self.enter(member, &batch);
        }
        match batch.mark {
            // It is yet to hear that.
            Some(mark) if mark.tie.is_some() && self.over.contains(&member) => {}
            Some(mark) => self.remember(member, mark),
            None => drop(self.over.remove(&member)),
        }
        self.settle_tie();
        let from = self.reported(member);
        let through = batch.through.max(from);
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
        // Of the others it has nothing to say, nor of what its state came to without it.
        let silent = self.pending.range(before.min(from).next()..);
        let silent = silent.take_while(|(slot, _)| **slot <= through);
        heard.extend(silent.map(|(slot, _)| *slot));
        self.judge_each(heard);
    }

    /// The policy says so from now on.
    pub fn handle_rules(&mut self, rules: Rules) {
        if self.rules == rules {
            return;
        }
        self.rules = rules;
        let marked: Vec<MemberId> = self.marks.keys().copied().collect();
        for member in marked {
            let mark = &self.marks[&member];
            if mark.is_odd() && mark.measure != self.measure(member) {
                self.tell_odd(member);
            }
        }
    }

    /// This copy has heard what was found up to this slot: its [`Comparer::mark`] of then.
    pub fn handle_told(&mut self, member: MemberId, through: Slot) {
        if self.copies.contains(&member) {
            let told = self.told.entry(member).or_default();
            *told = through.max(*told);
        }
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
        if !self.are_most_there() {
            verified = verified.min(self.in_force.1);
        }
        if let Some(mark) = self.marks.get(&member) {
            verified = verified.min(mark.slot.prev());
        }
        // Behind what all have reported somebody's word is still awaited.
        let by_all = through.last().copied().unwrap_or_default();
        let mut awaited = self.pending.range(by_all.next()..);
        let open = awaited.find(|(slot, digests)| {
            // Whoever differs from those that agree is an odd one already.
            **slot > verified || self.agreed(digests).is_empty()
        });
        open.map_or(verified, |(slot, _)| verified.min(slot.prev()))
    }

    /// Up to here every copy was heard but those that are away, and nowhere do two of them differ without a
    /// majority that says which is right: where the log has no more room to wait for the others, a snapshot
    /// of this copy may be used though nobody vouches for it (rule N2).
    pub fn undisputed(&self, member: MemberId) -> Slot {
        if !self.copies.contains(&member) {
            return Slot::ZERO;
        }
        let present = self.copies.iter().copied();
        let present = present.filter(|it| *it == member || !self.away.contains(it));
        let heard = present.map(|it| self.reported(it)).min();
        let mut heard = heard.unwrap_or_default();
        if let Some(mark) = self.marks.get(&member) {
            heard = heard.min(mark.slot.prev());
        }
        let mut heard_of = self.pending.range(..=heard);
        let disputed = heard_of.find(|(_, digests)| self.differ_without_majority(digests));
        disputed.map_or(heard, |(slot, _)| slot.prev())
    }

    /// Those that are compared.
    pub fn copies(&self) -> &BTreeSet<MemberId> {
        &self.copies
    }

    /// The last slot that any copy has reported.
    pub fn newest(&self) -> Slot {
        self.through.values().copied().max().unwrap_or_default()
    }

    /// All up to here is compared, or will not be.
    pub fn finished(&self) -> Slot {
        self.finished
    }

    /// And every copy has heard what came of it: no digest of it is needed any more.
    pub fn released(&self) -> Slot {
        let told = self.copies.iter().map(|it| self.told.get(it).copied());
        told.map(Option::unwrap_or_default)
            .min()
            .unwrap_or_default()
    }

    /// What was found about copies that were not made anew since.
    pub fn marks(&self) -> impl Iterator<Item = (MemberId, &Mark)> {
        self.marks.iter().map(|(member, mark)| (*member, mark))
    }

    /// What is noise, as far as is known here or was known to earlier leaders.
    pub fn noise(&self) -> &BTreeSet<Noise> {
        &self.noise
    }

    /// What was found about this copy.
    pub fn mark(&self, member: MemberId) -> Option<&Mark> {
        self.marks.get(&member)
    }

    /// What this copy has still noted about itself was of a tie that is over.
    pub fn is_over(&self, member: MemberId) -> bool {
        self.over.contains(&member)
    }

    /// The state of this copy that is known here; 0: none.
    pub fn lineage(&self, member: MemberId) -> u64 {
        self.lineages.get(&member).copied().unwrap_or_default()
    }

    /// Digests of this copy are wanted behind this slot.
    pub fn wanted(&self, member: MemberId) -> Slot {
        self.reported(member)
    }

    fn majority(&self) -> usize {
        self.copies.len() / 2 + 1
    }

    fn are_most_there(&self) -> bool {
        self.copies.len() > self.expected / 2
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
        let is_ignored = match part {
            Part::Header(name) | Part::Trailer(name) => self.rules.ignored.contains(name),
            _ => false,
        };
        let is_learnt = |it: &Noise| it.part == *part && it.route == route;
        is_ignored || self.noise.iter().any(is_learnt)
    }

    fn difference(&self, one: &Digest, other: &Digest) -> Option<Part> {
        one.difference(other, |part| self.is_noise(&one.route, part))
    }

    /// The copies of a majority that agrees; nobody if none does.
    fn agreed(&self, digests: &BTreeMap<MemberId, Digest>) -> BTreeSet<MemberId> {
        let largest = self.largest(digests);
        if largest.len() >= self.majority() || planted(Mutant::AnyAnswerIsRight) {
            largest
        } else {
            BTreeSet::new()
        }
    }

    fn differ_without_majority(&self, digests: &BTreeMap<MemberId, Digest>) -> bool {
        let alike = self.largest(digests).len();
        alike < digests.len() && alike < self.majority()
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

// === states that come and go ===

impl Comparer {
    /// All up to here was judged by an earlier leader.
    fn finish(&mut self, through: Slot) {
        if through > self.finished {
            self.finished = through;
            self.pending = self.pending.split_off(&through.next());
        }
    }

    /// This copy has another state than before: what the one before has answered is not what this one
    /// has, and what was found about it is over, unless it is found in what the copy brings.
    fn enter(&mut self, member: MemberId, batch: &Batch) {
        let before = self.marks.remove(&member);
        let same = |mark: &Mark| batch.mark.as_ref().is_some_and(|it| it.slot == mark.slot);
        if let Some(mark) = before.filter(same) {
            self.marks.insert(member, mark);
        } else {
            self.quarantined.remove(&member);
        }
        self.over.remove(&member);
        self.open = None;
        self.lineages.insert(member, batch.lineage);
        self.through.insert(member, batch.from);
        for digests in self.pending.values_mut() {
            digests.remove(&member);
        }
        self.pending.retain(|_, digests| !digests.is_empty());
        self.take_out_more();
    }

    /// What was found by an earlier leader, or was told by this one.
    fn remember(&mut self, member: MemberId, mark: Mark) {
        if mark.measure == OnDivergence::Quarantine {
            self.quarantined.insert(member);
        }
        if self.marks.contains_key(&member) {
            return;
        }
        let (is_odd, measure) = (mark.is_odd(), mark.measure);
        // Where else an earlier leader has seen a tie is not known.
        self.open = None;
        self.marks.insert(member, mark);
        if is_odd && measure != self.measure(member) {
            self.tell_odd(member);
        }
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
        self.settle_noise();
        let open = self.open_tie().map_or(everybody, Slot::prev);
        if self.copies.len() >= self.expected {
            self.finished = self.finished.max(everybody.min(open));
        }
        self.pending = self.pending.split_off(&self.finished.next());
    }

    /// `last_word`: no other digest of this slot comes.
    fn judge(&mut self, slot: Slot, last_word: bool) {
        let digests = self.pending[&slot].clone();
        let mut agreed = self.agreed(&digests);
        if agreed.is_empty() && last_word {
            self.learn(slot, &digests);
            agreed = self.largest(&digests);
            if self.differ_without_majority(&digests) {
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
            match self.marks.get_mut(member) {
                // Where noise was learned first, a later slot may have been judged before.
                Some(mark) if mark.is_odd() => mark.slot = mark.slot.min(slot),
                tie => {
                    let slot = tie.map_or(slot, |mark| mark.slot.min(slot));
                    let mark = Mark {
                        slot,
                        route,
                        part,
                        measure: OnDivergence::Alert,
                        tie: None,
                    };
                    self.marks.insert(*member, mark);
                    self.tell_odd(*member);
                }
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
            let noise = Noise {
                route: route.expect("there are several").clone(),
                part: part.clone(),
            };
            if values.len() == digests.len()
                && self.noise.len() < NOISE
                && self.noise.insert(noise.clone())
            {
                let Noise { route, part } = noise;
                let verdict = Verdict::NotDeterministic { slot, route, part };
                self.verdicts.push_back(verdict);
            }
        }
    }

    /// What may be done about this odd one.
    fn measure(&self, member: MemberId) -> OnDivergence {
        let is_out = self.quarantined.contains(&member);
        match self.rules.on_divergence {
            _ if is_out => OnDivergence::Quarantine,
            OnDivergence::Quarantine if !self.may_take_out(member) => OnDivergence::Alert,
            measure => measure,
        }
    }

    fn tell_odd(&mut self, member: MemberId) {
        let measure = self.measure(member);
        if measure == OnDivergence::Quarantine {
            self.quarantined.insert(member);
        }
        let mark = self.marks.get_mut(&member).expect("it was found to differ");
        mark.measure = measure;
        self.verdicts.push_back(Verdict::OddOneOut {
            slot: mark.slot,
            route: mark.route.clone(),
            member,
            part: mark.part.clone(),
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
        if self.rules.on_divergence != OnDivergence::Quarantine {
            return;
        }
        let odd = self.marks.iter().filter(|(_, mark)| mark.is_odd());
        let odd: Vec<MemberId> = odd.map(|(member, _)| *member).collect();
        for member in odd {
            if !self.quarantined.contains(&member) && self.may_take_out(member) {
                self.tell_odd(member);
            }
        }
    }
}
