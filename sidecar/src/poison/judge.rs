//! What is done about a request that fails on every copy (rule K1), as one leader decides it: whom it
//! asks, whom it frees, and when it has a slot skipped. Pure: told what the members say and what time it
//! is, it says what to do ([`Judge::poll`]), again at each turn until that has shown its effect.
//!
//! One judge is one leadership. What an earlier leader has asked it sees in what members still promise,
//! and asks anew: promises to another ask prove nothing to it, and end only through its own.

use std::collections::{BTreeMap, BTreeSet};

use synod_mutant::{Mutant, planted};
use synod_paxos::{Ballot, CommandId, MemberId, Slot};
use synod_proto::v1::Skip;

use crate::apply::{Ask, Doubts, Standing};

#[cfg(test)]
mod tests;

/// A slot that failed so often on one member is undecided.
const FAILURES: u32 = 2;
/// A member that failed so often at what another has executed begins behind a snapshot of that.
const FAILURES_ELSEWHERE: u32 = 3;
/// A slot is undecided when nobody could execute it for so many times `applyTimeout`.
const PATIENCE: u64 = 3;
/// What a member has said holds for so long, in milliseconds; then it counts as one that cannot be asked.
const FRESH_MS: u64 = 3_000;
/// A new leader asks nobody before all have said what they know, at most so long, in milliseconds: what
/// failed twice on one was mostly executed by others.
const HEAR_MS: u64 = 2_000;
/// A member that could not be asked for so long is taken for lost, in milliseconds, where the policy
/// allows that.
const LOST_MS: u64 = 10_000;
/// A person's word waits for the answers of those that can be asked, at most so long, in milliseconds.
const WORD_MS: u64 = 3_000;

/// When a slot is skipped (`poison.skip`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SkipWhen {
    /// On a person's word only: nobody is asked before.
    Never,
    /// All members that run the app have promised not to execute it, and none has.
    #[default]
    AllFailed,
    /// The same, without those that cannot be asked.
    ReachableFailed,
}

/// By what is judged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// The policy's word.
    pub skip: SkipWhen,
    /// The policy's `applyTimeout`, in milliseconds.
    pub apply_timeout_ms: u64,
    /// Copies can be given another copy's state.
    pub has_snapshots: bool,
}

/// One thing to do. It is said again while it shows no effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Ask this member.
    Ask { to: MemberId, ask: Ask },
    /// Tell this member that the ask has ended.
    Free { to: MemberId, ask: Ask },
    /// Propose in this leader's ballot that nobody executes the slot. `unsure`: somebody may have been
    /// told that it was executed.
    Skip { slot: Slot, unsure: bool },
    /// Have `to` begin behind a snapshot of `from`, which has executed the slot.
    Restore {
        slot: Slot,
        from: MemberId,
        to: MemberId,
    },
}

/// What a slot waits for that is not decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wait {
    /// It is being asked about, or what was found is being done.
    Answers,
    /// `poison.skip: Never`.
    Person,
    /// A member that may have executed it: it cannot be asked.
    Unreachable(MemberId),
    /// A member that does not know: its machine was started anew.
    Forgotten(MemberId),
    /// A member that has executed it: others need its state, which it cannot give now.
    StateOf(MemberId),
}

/// A slot that no copy gets past.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Undecided {
    pub slot: Slot,
    /// In ascending order, never empty.
    pub waits: Vec<Wait>,
    /// Most copies stand there.
    pub most: bool,
}

/// See the module.
#[derive(Debug)]
pub struct Judge {
    ballot: Ballot,
    /// Members of the ballot's epoch that run the app.
    copies: BTreeSet<MemberId>,
    rules: Rules,
    now_ms: u64,
    /// When it was asked first what is to be done.
    begun_ms: Option<u64>,
    said: BTreeMap<MemberId, Said>,
    /// Asks so far.
    number: u64,
    asking: Option<Asking>,
    /// The last ask about each slot that has ended without a skip.
    freed: BTreeMap<Slot, u64>,
    skipped: BTreeSet<Slot>,
    /// Proposed in this ballot.
    proposed: BTreeSet<Slot>,
    /// A person wants it skipped.
    word: Option<Slot>,
    /// Since when all who could execute this slot are slow or have failed.
    stands: Option<(Slot, u64)>,
    /// No skip of an earlier ballot can be chosen any more that is not known here.
    settled: bool,
}

/// What a member has said last.
#[derive(Debug)]
struct Said {
    at_ms: u64,
    doubts: Doubts,
    /// All up to here it has executed, as it has ever said.
    executed: Slot,
}

#[derive(Debug)]
struct Asking {
    ask: Ask,
    begun_ms: u64,
    answers: BTreeMap<MemberId, Standing>,
}

// === events ===

impl Judge {
    /// Of a leader that begins to lead in `ballot`; `copies` are the members of its epoch that run the
    /// app.
    pub fn new(ballot: Ballot, copies: BTreeSet<MemberId>, rules: Rules) -> Self {
        Self {
            ballot,
            copies,
            rules,
            now_ms: 0,
            begun_ms: None,
            said: BTreeMap::new(),
            number: 0,
            asking: None,
            freed: BTreeMap::new(),
            skipped: BTreeSet::new(),
            proposed: BTreeSet::new(),
            word: None,
            stands: None,
            settled: false,
        }
    }

    pub fn handle_rules(&mut self, rules: Rules) {
        self.rules = rules;
    }

    /// What a member knows about slots that fail.
    pub fn handle_doubts(&mut self, now_ms: u64, member: MemberId, doubts: Doubts) {
        self.now_ms = self.now_ms.max(now_ms);
        self.skipped.extend(doubts.skipped.iter().copied());
        let before = self.said.get(&member).map(|it| it.executed);
        let said = Said {
            at_ms: self.now_ms,
            executed: doubts.executed.max(before.unwrap_or_default()),
            doubts,
        };
        self.said.insert(member, said);
    }

    /// A member's answer to an ask. `None`: it has nothing to say to that any more.
    pub fn handle_standing(&mut self, member: MemberId, ask: Ask, standing: Option<Standing>) {
        if let (Some(asking), Some(standing)) = (&mut self.asking, standing)
            && asking.ask == ask
        {
            asking.answers.insert(member, standing);
        }
    }

    /// An entry of this leader's own ballot is committed, and the log up to there is known here: no skip
    /// that an earlier leader has proposed can come later (rule K1).
    pub fn handle_settled(&mut self) {
        self.settled = true;
    }

    /// The skip was put into this leader's log.
    pub fn handle_proposed(&mut self, slot: Slot) {
        self.proposed.insert(slot);
    }

    /// A person wants this slot skipped, whatever can still be learnt about it. False: nothing waits
    /// for it.
    pub fn handle_word(&mut self, now_ms: u64, slot: Slot) -> bool {
        self.now_ms = self.now_ms.max(now_ms);
        let stands = self.copies.iter().any(|it| self.stands_at(*it, slot));
        let is_open = stands && !self.skipped.contains(&slot);
        if is_open {
            self.word = Some(slot);
        }
        is_open
    }
}

// === what is found ===

impl Judge {
    /// What is to be done now.
    pub fn poll(&mut self, now_ms: u64) -> Vec<Step> {
        self.now_ms = self.now_ms.max(now_ms);
        self.look_who_stands();
        self.end_asking();
        let mut steps = self.free_again();
        if self.is_overtaken() {
            self.free(&mut steps);
        }
        let begun_ms = *self.begun_ms.get_or_insert(self.now_ms);
        let heard = self.copies.iter().all(|it| self.fresh(*it).is_some());
        if (heard || self.now_ms >= begun_ms + HEAR_MS)
            && self.asking.is_none()
            && let Some(slot) = self.to_ask()
        {
            self.number += 1;
            self.asking = Some(Asking {
                ask: Ask {
                    slot,
                    ballot: self.ballot,
                    number: self.number,
                },
                begun_ms: self.now_ms,
                answers: BTreeMap::new(),
            });
        }
        if let Some(asking) = &self.asking {
            let ask = asking.ask;
            let silent = self.copies.iter();
            let silent = silent.filter(|it| !asking.answers.contains_key(it));
            steps.extend(silent.map(|to| Step::Ask { to: *to, ask }));
            self.conclude(&mut steps);
        } else {
            self.help_along(&mut steps);
        }
        steps
    }

    /// What a skip says (`unsure`) of a slot whose entry was proposed in `held`. In a later epoch, a member
    /// may have been removed that had executed it: that is not asked any more.
    fn is_unsure(&self, unsure: bool, held: Ballot) -> bool {
        unsure || held.epoch != self.ballot.epoch
    }

    /// The command for [`Step::Skip`] of a slot that holds the command `of`, proposed in `held`.
    pub fn skip(&self, slot: Slot, (of, held): (CommandId, Ballot), unsure: bool) -> Skip {
        Skip {
            slot: slot.0,
            member: of.member.0,
            boot: of.boot.0,
            sequence: of.sequence,
            unsure: self.is_unsure(unsure, held),
        }
    }

    /// The slot that no copy gets past, if there is one that is not decided.
    pub fn undecided(&self) -> Option<Undecided> {
        let slot = self.doubtful()?;
        let standing = self.copies.iter().filter(|it| self.stands_at(**it, slot));
        let most = 2 * standing.count() > self.copies.len();
        let mut waits = self.waits(slot);
        waits.sort_unstable();
        if waits.is_empty() {
            waits.push(Wait::Answers);
        }
        Some(Undecided { slot, waits, most })
    }

    fn fresh(&self, member: MemberId) -> Option<&Doubts> {
        let said = self.said.get(&member)?;
        let fresh = self.now_ms < said.at_ms + FRESH_MS;
        fresh.then_some(&said.doubts)
    }

    fn all_fresh(&self) -> impl Iterator<Item = (MemberId, &Doubts)> {
        let all = self.copies.iter().map(|it| (*it, self.fresh(*it)));
        all.filter_map(|(member, doubts)| Some((member, doubts?)))
    }

    /// Who is known to have executed the slot, also of those that are gone.
    fn executors(&self, slot: Slot) -> BTreeSet<MemberId> {
        let said = self.said.iter();
        let said = said.filter(|(_, it)| it.executed >= slot);
        let mut found: BTreeSet<_> = said.map(|(member, _)| *member).collect();
        if let Some(asking) = self.asking.as_ref().filter(|it| it.ask.slot == slot) {
            let answers = asking.answers.iter();
            let applied = answers.filter(|(_, it)| **it == Standing::Applied);
            found.extend(applied.map(|(member, _)| *member));
        }
        found.retain(|it| self.copies.contains(it));
        found
    }

    /// The member can go no further than to this slot.
    fn stands_at(&self, member: MemberId, slot: Slot) -> bool {
        self.fresh(member).is_some_and(|it| {
            let failed = it.progress.failed.is_some_and(|(at, _)| at == slot);
            let slow = it.progress.slow && it.progress.next == Some(slot);
            failed || slow || it.promises.iter().any(|ask| ask.slot == slot)
        })
    }

    /// Nobody who could execute the slot has, since when.
    fn look_who_stands(&mut self) {
        let slow = self.all_fresh().filter(|(_, it)| it.progress.slow);
        let slot = slow.filter_map(|(_, it)| it.progress.next).min();
        let stands = slot.filter(|slot| {
            let mut able = self.all_fresh().filter(|(_, it)| {
                it.progress.next == Some(*slot)
                    || it.progress.failed.is_some_and(|(at, _)| at == *slot)
            });
            able.all(|(member, _)| self.stands_at(member, *slot))
                && self.executors(*slot).is_empty()
        });
        self.stands = stands.map(|slot| match self.stands {
            Some((same, since_ms)) if same == slot => (slot, since_ms),
            _ => (slot, self.now_ms),
        });
    }

    /// Slots that failed twice on a member, and one that nobody could execute for long.
    fn obstacles(&self) -> impl Iterator<Item = Slot> {
        let failed = self.all_fresh().filter_map(|(_, it)| it.progress.failed);
        let failed = failed.filter(|(_, times)| *times >= FAILURES);
        let failed = failed.map(|(slot, _)| slot);
        let limit_ms = PATIENCE * self.rules.apply_timeout_ms;
        let stands = self
            .stands
            .filter(|(_, since_ms)| self.now_ms >= since_ms + limit_ms);
        let all = failed.chain(stands.map(|(slot, _)| slot));
        all.filter(|slot| !self.skipped.contains(slot))
    }

    /// The first of these that nobody has executed: all are asked about that.
    fn suspect(&self) -> Option<Slot> {
        let obstacles = self.obstacles();
        let open = obstacles.filter(|slot| self.executors(*slot).is_empty());
        open.min()
    }

    /// Who has executed the slot that is asked about stands at a later one that nobody gets past, and can
    /// give no state before that is decided. It may stand there for an earlier leader's ask alone.
    fn is_overtaken(&self) -> bool {
        let Some(slot) = self.asking.as_ref().map(|it| it.ask.slot) else {
            return false;
        };
        let executors = self.executors(slot);
        let said = executors.iter().filter_map(|it| self.fresh(*it));
        let promised = said.flat_map(|it| &it.promises).map(|ask| ask.slot);
        let promised = promised.filter(|it| !self.skipped.contains(it));
        let promised = promised.filter(|it| self.executors(*it).is_empty());
        let mut later = promised.chain(self.suspect());
        !executors.is_empty() && later.any(|later| later > slot)
    }

    /// The first slot that is promised to an ask that is not this judge's present one, nor one that it
    /// has freed.
    fn orphan(&self) -> Option<Slot> {
        let promised = self.all_fresh().flat_map(|(_, it)| &it.promises);
        let orphans = promised.filter(|ask| !self.is_freed(ask));
        let slots = orphans.map(|ask| ask.slot);
        slots.filter(|slot| !self.skipped.contains(slot)).min()
    }

    fn is_freed(&self, ask: &Ask) -> bool {
        let freed = self.freed.get(&ask.slot);
        ask.ballot == self.ballot && freed.is_some_and(|number| ask.number <= *number)
    }

    fn to_ask(&self) -> Option<Slot> {
        let suspect = self.suspect();
        let suspect = suspect.filter(|_| self.rules.skip != SkipWhen::Never);
        let word = self.word.filter(|slot| !self.skipped.contains(slot));
        [suspect, word, self.orphan()].into_iter().flatten().min()
    }

    /// What no copy gets past, unless it can be given the state of one that did.
    fn doubtful(&self) -> Option<Slot> {
        let asked = self.asking.as_ref().map(|it| it.ask.slot);
        let open = asked.filter(|slot| !self.skipped.contains(slot));
        let obstacles = self.obstacles();
        let obstacles = obstacles.filter(|slot| self.source(*slot).is_none());
        open.or_else(|| obstacles.chain(self.orphan()).min())
    }

    /// An ask has ended when its slot is skipped, or when nobody has any promise to keep.
    fn end_asking(&mut self) {
        let Some(asking) = &self.asking else {
            return;
        };
        let slot = asking.ask.slot;
        let skipped = self.skipped.contains(&slot);
        let passed = |it: &MemberId| self.fresh(*it).is_some_and(|it| it.executed >= slot);
        if skipped || self.copies.iter().all(passed) {
            self.asking = None;
            self.word.take_if(|word| *word == slot);
        }
    }

    /// Those who have not heard yet that an ask has ended, or were asked late.
    fn free_again(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        for (to, doubts) in self.all_fresh() {
            let promised = doubts.promises.iter().filter(|ask| self.is_freed(ask));
            steps.extend(promised.map(|ask| Step::Free { to, ask: *ask }));
        }
        steps
    }
}

// === what is decided ===

impl Judge {
    fn conclude(&mut self, steps: &mut Vec<Step>) {
        let Some(asking) = &self.asking else {
            return;
        };
        let slot = asking.ask.slot;
        if self.proposed.contains(&slot) {
            return;
        }
        let all_answered = self.copies.iter().all(|it| asking.answers.contains_key(it));
        let waited_ms = self.now_ms - asking.begun_ms;
        if self.word == Some(slot) {
            if all_answered || waited_ms >= WORD_MS {
                let unsure = !self.none_can_have(asking);
                steps.push(Step::Skip { slot, unsure });
            }
            return;
        }
        if !self.executors(slot).is_empty() {
            return self.go_on_with_applied(slot, steps);
        }
        match self.rules.skip {
            SkipWhen::Never => self.free(steps),
            _ if self.none_can_have(asking) => {
                let unsure = false;
                steps.push(Step::Skip { slot, unsure });
            }
            SkipWhen::ReachableFailed if self.none_that_is_there_has(asking, waited_ms) => {
                let unsure = true;
                steps.push(Step::Skip { slot, unsure });
            }
            SkipWhen::AllFailed | SkipWhen::ReachableFailed => {}
        }
    }

    /// All have promised, and none has executed it.
    fn none_can_have(&self, asking: &Asking) -> bool {
        let sure = [Some(&Standing::Failed), Some(&Standing::Held)];
        let mut copies = self.copies.iter();
        if planted(Mutant::OneAnswerIsEnough) {
            return copies.any(|it| sure.contains(&asking.answers.get(it)));
        }
        !self.copies.is_empty() && copies.all(|it| sure.contains(&asking.answers.get(it)))
    }

    /// The same of those that can be asked, one of whom at least knows it; the others could not be for so
    /// long that they are taken for lost.
    fn none_that_is_there_has(&self, asking: &Asking, waited_ms: u64) -> bool {
        let mut copies = self.copies.iter();
        let known = |it: &Standing| matches!(it, Standing::Failed | Standing::Held);
        asking.answers.values().any(known)
            && copies.all(|it| match asking.answers.get(it) {
                Some(Standing::Failed | Standing::Held | Standing::Unknown) => true,
                Some(Standing::Applied) => false,
                None => waited_ms >= LOST_MS && self.fresh(*it).is_none(),
            })
    }

    /// It must not be undone: the others get the state of who has executed it, or try again.
    fn go_on_with_applied(&mut self, slot: Slot, steps: &mut Vec<Step>) {
        if !self.rules.has_snapshots {
            return self.free(steps);
        }
        let Some(from) = self.source(slot) else {
            return;
        };
        let behind = self.all_fresh().filter(|(_, it)| it.executed < slot);
        let behind = behind.map(|(to, _)| Step::Restore { slot, from, to });
        steps.extend(behind);
    }

    /// Whose state the others can have.
    fn source(&self, slot: Slot) -> Option<MemberId> {
        let able = self.all_fresh().filter(|(_, it)| it.applied >= slot);
        // Not the leader while a follower can (rule N1).
        let best = able.min_by_key(|(member, _)| (*member == self.ballot.node, *member));
        best.map(|(member, _)| member)
    }

    fn free(&mut self, steps: &mut Vec<Step>) {
        if !self.settled {
            return;
        }
        let Some(Asking { ask, .. }) = self.asking.take() else {
            return;
        };
        self.freed.insert(ask.slot, ask.number);
        // Whatever they have said: the last answer may have been lost.
        let copies = self.copies.iter();
        steps.extend(copies.map(|to| Step::Free { to: *to, ask }));
    }

    /// Nobody asks about what somebody has executed: who fails there again and again is helped past it.
    fn help_along(&self, steps: &mut Vec<Step>) {
        if !self.rules.has_snapshots {
            return;
        }
        for (to, doubts) in self.all_fresh() {
            if let Some((slot, times)) = doubts.progress.failed
                && times >= FAILURES_ELSEWHERE
                && let Some(from) = self.source(slot)
            {
                steps.push(Step::Restore { slot, from, to });
            }
        }
    }

    /// Whom or what an undecided slot waits for.
    fn waits(&self, slot: Slot) -> Vec<Wait> {
        if self.proposed.contains(&slot) || self.word == Some(slot) {
            return Vec::new();
        }
        let executors = self.executors(slot);
        if !executors.is_empty() {
            let lost = self.source(slot).is_none();
            let lost = executors.into_iter().filter(|_| lost);
            return lost.map(Wait::StateOf).collect();
        }
        let asking = self.asking.as_ref().filter(|it| it.ask.slot == slot);
        let Some(asking) = asking else {
            let person = self.rules.skip == SkipWhen::Never;
            return person.then_some(Wait::Person).into_iter().collect();
        };
        let copies = self.copies.iter().copied();
        let waits = copies.filter_map(|it| match asking.answers.get(&it) {
            Some(Standing::Unknown) => Some(Wait::Forgotten(it)),
            None if self.fresh(it).is_none() => Some(Wait::Unreachable(it)),
            _ => None,
        });
        waits.collect()
    }
}
