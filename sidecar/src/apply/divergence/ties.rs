//! Copies that differ without a majority: nobody vouches for any of them until those that are left agree,
//! or what differs turns out to be noise.

use std::collections::{BTreeMap, BTreeSet};

use synod_paxos::{MemberId, Slot};

use super::{Comparer, Mark, OnDivergence, Verdict};
use crate::apply::digests::{Digest, Part};

impl Comparer {
    /// Nobody vouches for any of these from here on. While they differ from an earlier slot on, people know
    /// of it.
    pub(super) fn dispute(&mut self, slot: Slot, digests: &BTreeMap<MemberId, Digest>) {
        let is_news = self.marks.values().all(|mark| mark.tie.is_none());
        let all: Vec<&Digest> = digests.values().collect();
        let pairs = all.iter().enumerate();
        let pairs = pairs.flat_map(|(at, one)| all[at + 1..].iter().map(move |it| (one, it)));
        let parts: Vec<_> = pairs.map(|(one, it)| self.difference(one, it)).collect();
        let all_differ = parts.iter().all(Option::is_some);
        let first = parts.into_iter().flatten().min();
        let part = first.expect("they are not all alike");
        let route = &all[0].route;
        let mut marks = self.marks.clone();
        for (member, digest) in digests {
            let alike = |it: &&Digest| self.difference(digest, it).is_none();
            let camp = all.iter().position(alike).expect("it is like itself");
            let mark = Mark {
                slot,
                route: route.clone(),
                part: part.clone(),
                measure: OnDivergence::Alert,
                tie: u32::try_from(camp).ok(),
            };
            marks.entry(*member).or_insert(mark);
            self.over.remove(member);
        }
        self.marks = marks;
        if is_news {
            self.open = Some(slot);
            self.verdicts.push_back(Verdict::NoMajority {
                members: digests.keys().copied().collect(),
                slot,
                route: route.clone(),
                part,
                all_differ,
            });
        }
    }

    /// A tie is over when those that are left agree.
    pub(super) fn settle_tie(&mut self) {
        // Camps of different slots have nothing to do with each other.
        let camps = self
            .marks
            .values()
            .filter_map(|mark| Some((mark.slot, mark.tie?)));
        let camps: BTreeSet<(Slot, u32)> = camps.collect();
        // Who was not heard may be in another.
        let all_heard = self.copies.iter().all(|it| self.lineages.contains_key(it));
        if camps.len() == 1 && all_heard {
            let tied = self.marks.iter().filter(|(_, mark)| mark.tie.is_some());
            self.over.extend(tied.map(|(member, _)| *member));
            self.marks.retain(|_, mark| mark.tie.is_none());
        }
    }

    /// The slot of a tie that may turn out to be of noise only, as long as all digests are there that this
    /// leader has heard since. Whether a copy has lost some that an earlier leader has heard is not known.
    pub(super) fn open_tie(&self) -> Option<Slot> {
        let open = self.open?;
        let may_be_noise = |part: &Part| !matches!(part, Part::StatusClass | Part::Status);
        let mut tied = self.marks.values().filter(|mark| mark.tie.is_some());
        let is_open = tied.any(|mark| mark.slot == open && may_be_noise(&mark.part));
        (is_open && self.copies.len() > 2 && self.pending.contains_key(&open)).then_some(open)
    }

    /// A tie is over, too, when what differs there is known to be noise by now.
    pub(super) fn settle_noise(&mut self) {
        let Some(open) = self.open_tie() else {
            return;
        };
        if self.agreed(&self.pending[&open]).is_empty() {
            return;
        }
        let tied = self.marks.iter().filter(|(_, mark)| mark.tie.is_some());
        self.over.extend(tied.map(|(member, _)| *member));
        self.marks.retain(|_, mark| mark.tie.is_none());
        self.open = None;
        // What else has differed since was not told.
        let since: Vec<Slot> = self.pending.range(open..).map(|(slot, _)| *slot).collect();
        for slot in since {
            self.judge(slot, self.waiting(slot).is_empty());
        }
    }
}
