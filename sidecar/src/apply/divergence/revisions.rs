//! The copies while another revision of the app runs along silently (rule V1): those of each revision are
//! compared among themselves, and the two revisions by whether a request went well. What the silent one
//! answers otherwise takes no copy out; it only stops the change.

use std::collections::{BTreeMap, BTreeSet};

use synod_paxos::{MemberId, Slot};

use super::{Comparer, OnDivergence, Rules, Verdict};
use crate::apply::Word;
use crate::apply::digests::{Batch, Digest, Part, fingerprint};

/// Slots of which the answers of the revision that answers are kept for the other, at most: what is further
/// back when that comes there is not compared.
const KEPT: usize = 16_384;

/// A request that went otherwise with the silent revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disagreement {
    /// Its slot.
    pub slot: Slot,
    /// The status code that clients got.
    pub answered: u16,
    /// The status code that the silent revision has answered.
    pub silent: u16,
}

/// See the module's documentation. Pure, as [`Comparer`] is.
#[derive(Debug)]
pub struct Comparers {
    rules: Rules,
    copies: BTreeSet<MemberId>,
    serving: BTreeSet<MemberId>,
    /// Of each copy's app, as it said last.
    revisions: BTreeMap<MemberId, u64>,
    in_force: u64,
    answering: Comparer,
    along: Option<Along>,
}

/// The revision that runs along.
#[derive(Debug)]
struct Along {
    number: u64,
    barrier: Slot,
    comparer: Comparer,
    /// What copies of the other have answered, one of each kind.
    answered: BTreeMap<Slot, Vec<Digest>>,
    /// What copies of this one have, and is not compared yet.
    silent: BTreeMap<Slot, Vec<Digest>>,
    disagreement: Option<Disagreement>,
    differences: u64,
}

// === impl Comparers ===

impl Comparers {
    /// Knows no copies yet.
    pub fn new(rules: Rules) -> Self {
        Self {
            answering: Comparer::new(rules.clone()),
            rules,
            copies: BTreeSet::new(),
            serving: BTreeSet::new(),
            revisions: BTreeMap::new(),
            in_force: 0,
            along: None,
        }
    }

    /// See [`Comparer::handle_rules`].
    pub fn handle_rules(&mut self, rules: Rules) {
        if let Some(along) = &mut self.along {
            along.comparer.handle_rules(gentle(&rules));
        }
        self.answering.handle_rules(rules.clone());
        self.rules = rules;
    }

    /// The members that run an app, and those of them that can serve.
    pub fn handle_copies(&mut self, copies: BTreeSet<MemberId>, serving: BTreeSet<MemberId>) {
        self.revisions.retain(|member, _| copies.contains(member));
        self.copies = copies;
        self.serving = serving;
        self.divide();
    }

    /// See [`Comparer::handle_away`].
    pub fn handle_away(&mut self, away: BTreeSet<MemberId>) {
        if let Some(along) = &mut self.along {
            along.comparer.handle_away(away.clone());
        }
        self.answering.handle_away(away);
    }

    /// Copies of this revision of the app answer, and it executes what follows this slot; `silent` runs
    /// along behind a barrier of its own.
    pub fn handle_revision(&mut self, in_force: u64, barrier: Slot, silent: Option<(u64, Slot)>) {
        self.in_force = in_force;
        let before = self.along.take();
        match (before, silent) {
            (Some(along), Some(same)) if (along.number, along.barrier) == same => {
                self.along = Some(along);
            }
            (before, silent) => {
                if let Some(along) = before.filter(|it| it.number == in_force) {
                    self.answering = along.comparer;
                    self.answering.handle_rules(self.rules.clone());
                    self.answering.handle_expected(0);
                }
                self.along =
                    silent.map(|(number, barrier)| Along::new(number, barrier, &self.rules));
                self.divide();
            }
        }
        self.answering.handle_revision(in_force, barrier);
    }

    /// What a copy has answered.
    pub fn handle_batch(&mut self, member: MemberId, batch: Batch) {
        if !self.copies.contains(&member) {
            return;
        }
        let revision = batch.revision;
        if self.revisions.insert(member, revision) != Some(revision) {
            self.divide();
        }
        match &mut self.along {
            Some(along) if revision == along.number => {
                note(&mut along.silent, &batch);
                along.comparer.handle_batch(member, batch);
            }
            along => {
                if let Some(along) = along
                    && revision == self.in_force
                {
                    note(&mut along.answered, &batch);
                    along.answered = along.answered.split_off(&along.barrier.next());
                    while along.answered.len() > KEPT {
                        along.answered.pop_first();
                    }
                }
                self.answering.handle_batch(member, batch);
            }
        }
        if let Some(along) = &mut self.along {
            along.compare(&self.answering);
        }
    }

    /// See [`Comparer::handle_told`].
    pub fn handle_told(&mut self, member: MemberId, through: Slot) {
        self.of_mut(member).handle_told(member, through);
    }

    /// A copy has answered, and with that heard all up to `told`; whether it has told something new, or all
    /// there is.
    pub fn handle_answer(&mut self, member: MemberId, told: Slot, batch: Batch) -> bool {
        let before = self.of(member).wanted(member);
        self.handle_told(member, told);
        self.handle_batch(member, batch);
        let comparer = self.of(member);
        let reported = comparer.wanted(member);
        reported != before || reported >= comparer.newest()
    }

    /// What was found, one after another.
    pub fn poll_verdict(&mut self) -> Option<Verdict> {
        let along = self.along.as_mut();
        let found = along.and_then(|it| it.comparer.poll_verdict());
        found.or_else(|| self.answering.poll_verdict())
    }

    /// Which compares the copies that answer.
    pub fn answering(&self) -> &Comparer {
        &self.answering
    }

    /// Which compares this copy.
    pub fn of(&self, member: MemberId) -> &Comparer {
        match &self.along {
            Some(along) if self.runs_along(member) => &along.comparer,
            _ => &self.answering,
        }
    }

    /// What this copy is told, and up to where that is all there is to say: it has heard that when it has
    /// answered ([`Comparers::handle_told`]). `its_noise` is the [`fingerprint`] of the noise that it knows.
    pub fn word(&self, member: MemberId, its_noise: u64) -> (Word, Slot) {
        let comparer = self.of(member);
        let noise_known = fingerprint(comparer.noise());
        let is_news = noise_known != its_noise;
        let word = Word {
            lineage: comparer.lineage(member),
            after: comparer.wanted(member),
            verified: comparer.verified(member),
            undisputed: comparer.undisputed(member),
            release: comparer.released(),
            mark: comparer.mark(member).cloned(),
            is_over: comparer.is_over(member),
            noise: if is_news {
                comparer.noise().clone()
            } else {
                BTreeSet::new()
            },
            noise_known,
        };
        (word, comparer.finished())
    }

    /// What the silent revision answers otherwise, as it was found first.
    pub fn disagreement(&self) -> Option<Disagreement> {
        self.along.as_ref().and_then(|it| it.disagreement)
    }

    /// Requests that went alike with both revisions and were answered with something else.
    pub fn differences(&self) -> u64 {
        self.along.as_ref().map_or(0, |it| it.differences)
    }

    /// Up to here half of all copies have run along, and were compared with those that answer, as far as
    /// they can be.
    pub fn compared(&self) -> Slot {
        let Some(along) = &self.along else {
            return Slot::ZERO;
        };
        let of = along.comparer.copies.iter();
        let mut through: Vec<Slot> = of.map(|it| along.comparer.reported(*it)).collect();
        through.sort_unstable_by(|a, b| b.cmp(a));
        let half = self.copies.len().div_ceil(2);
        let silent = half.checked_sub(1).and_then(|it| through.get(it));
        silent.map_or(Slot::ZERO, |it| heard(&self.answering).min(*it))
    }

    fn runs_along(&self, member: MemberId) -> bool {
        let along = self.along.as_ref().map(|it| it.number);
        along.is_some() && self.revisions.get(&member).copied() == along
    }

    fn of_mut(&mut self, member: MemberId) -> &mut Comparer {
        let runs_along = self.runs_along(member);
        match &mut self.along {
            Some(along) if runs_along => &mut along.comparer,
            _ => &mut self.answering,
        }
    }

    /// Each is compared with those of its own revision, and only a copy that answers can be missed.
    fn divide(&mut self) {
        let silent: BTreeSet<MemberId> = {
            let silent = self.copies.iter().copied();
            silent.filter(|it| self.runs_along(*it)).collect()
        };
        let others = self.copies.difference(&silent).copied().collect();
        self.answering.handle_copies(others, self.serving.clone());
        if let Some(along) = &mut self.along {
            along.comparer.handle_expected(self.copies.len());
            along.comparer.handle_copies(silent, BTreeSet::new());
        }
    }
}

/// Of copies that answer nobody none is made anew because of what it answers.
fn gentle(rules: &Rules) -> Rules {
    let on_divergence = match rules.on_divergence {
        OnDivergence::Observe => OnDivergence::Observe,
        _ => OnDivergence::Alert,
    };
    Rules {
        on_divergence,
        ..rules.clone()
    }
}

/// All copies that can serve have said what they answered up to here; of others nothing is waited for.
fn heard(answering: &Comparer) -> Slot {
    let serving = answering.copies.intersection(&answering.serving);
    let serving = serving.map(|it| answering.reported(*it)).min();
    serving.unwrap_or_default().max(answering.finished)
}

fn note(heard: &mut BTreeMap<Slot, Vec<Digest>>, batch: &Batch) {
    for (slot, digest) in &batch.digests {
        let all = heard.entry(*slot).or_default();
        if !all.contains(digest) {
            all.push(digest.clone());
        }
    }
}

// === impl Along ===

impl Along {
    fn new(number: u64, barrier: Slot, rules: &Rules) -> Self {
        let mut comparer = Comparer::new(gentle(rules));
        comparer.handle_revision(number, barrier);
        Self {
            number,
            barrier,
            comparer,
            answered: BTreeMap::new(),
            silent: BTreeMap::new(),
            disagreement: None,
            differences: 0,
        }
    }

    /// As far as those that answer were heard.
    fn compare(&mut self, answering: &Comparer) {
        let later = self.silent.split_off(&heard(answering).next());
        for (slot, digests) in std::mem::replace(&mut self.silent, later) {
            let Some(answered) = self.answered.get(&slot) else {
                continue;
            };
            for silent in digests {
                let parts = answered.iter().map(|it| answering.difference(it, &silent));
                let parts: Vec<Option<Part>> = parts.collect();
                // Should they differ, it is alike with one of them: that is found among them.
                if parts.contains(&None) {
                    continue;
                }
                if parts.iter().all(|it| *it == Some(Part::StatusClass)) {
                    self.disagreement.get_or_insert(Disagreement {
                        slot,
                        answered: answered[0].status,
                        silent: silent.status,
                    });
                } else {
                    self.differences += 1;
                }
            }
        }
        while self.silent.len() > KEPT {
            self.silent.pop_first();
        }
    }
}
