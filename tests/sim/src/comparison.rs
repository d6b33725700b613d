//! The comparison of the copies: whoever leads asks each copy for its digests, has them judged by the
//! production comparer, and each copy takes what it is told through the production side of it.
//!
//! In: what the apps have answered. Out: copies that differ are made anew, and snapshots that a majority
//! vouches for. Only in seeds that draw it; the others go by who has executed what.

use std::collections::{BTreeMap, BTreeSet};

use synod_paxos::{MemberId, Role, Slot};
use synod_sidecar::apply::Word;
use synod_sidecar::apply::digests::{Batch, Digest, Part};
use synod_sidecar::apply::divergence::{Comparers, OnDivergence, Rules, Verdict};
use synod_sidecar::apply::sim::Side;

use crate::app::{Answer, mix};
use crate::calendar::Life;
use crate::coverage::Sight;
use crate::dice::Dice;
use crate::invariants::Violation;
use crate::network::{id_of, index_of};
use crate::poison::News;
use crate::world::World;

/// Longest wait for a copy's answer, and how long what it says of itself holds.
const PATIENCE_NS: u64 = 2_000_000_000;
/// A copy that has not told all, and has told nothing new for so long, is away (rule N2).
const AWAY_NS: u64 = 30_000_000_000;
/// Digests in one answer, at most: few enough that a copy that was made anew takes several.
const DIGESTS: usize = 256;

/// The leader's side.
#[derive(Debug)]
pub(crate) struct Desk {
    pub(crate) comparers: Comparers,
    asked: BTreeMap<MemberId, Asked>,
    /// What each copy knows to be noise.
    noise: BTreeMap<MemberId, u64>,
    /// When each copy has said last that it serves.
    serving: BTreeMap<MemberId, u64>,
    /// When it began, and when each copy has told something new since, or had told all.
    begun_ns: u64,
    news: BTreeMap<MemberId, u64>,
    number: u64,
}

/// A question that is not answered yet.
#[derive(Clone, Copy, Debug)]
struct Asked {
    number: u64,
    at_ns: u64,
    /// What there is to say up to here, the copy has heard when it answers.
    finished: Slot,
}

/// A copy's answer.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    number: u64,
    batch: Batch,
    serving: bool,
}

/// The copy's side.
#[derive(Debug)]
pub(crate) struct Compared {
    pub(crate) side: Side,
    /// Slots that it has answered otherwise than it should have, in this life.
    pub(crate) odd: BTreeSet<Slot>,
}

// === impl Desk ===

impl Desk {
    pub(crate) fn new(begun_ns: u64) -> Self {
        Self {
            begun_ns,
            news: BTreeMap::new(),
            comparers: Comparers::new(Rules::default()),
            asked: BTreeMap::new(),
            noise: BTreeMap::new(),
            serving: BTreeMap::new(),
            number: 0,
        }
    }

    /// What to ask a copy now, if it is its time.
    fn question(&mut self, to: MemberId, now_ns: u64) -> Option<(u64, Box<Word>)> {
        let waits = self.asked.get(&to);
        if waits.is_some_and(|it| now_ns < it.at_ns + PATIENCE_NS) {
            return None;
        }
        let its_noise = self.noise.get(&to).copied().unwrap_or_default();
        let (word, finished) = self.comparers.word(to, its_noise);
        self.number += 1;
        let asked = Asked {
            number: self.number,
            at_ns: now_ns,
            finished,
        };
        self.asked.insert(to, asked);
        Some((self.number, Box::new(word)))
    }

    /// True: there is more.
    fn answered(&mut self, from: MemberId, now_ns: u64, told: Told) -> bool {
        let asked = self.asked.get(&from).copied();
        let Some(asked) = asked.filter(|it| it.number == told.number) else {
            return false;
        };
        self.asked.remove(&from);
        let more = told.batch.more;
        self.noise.insert(from, told.batch.noise_known);
        if told.serving {
            self.serving.insert(from, now_ns);
        } else {
            self.serving.remove(&from);
        }
        let comparers = &mut self.comparers;
        if comparers.handle_answer(from, asked.finished, told.batch) {
            self.news.insert(from, now_ns);
        }
        more
    }

    /// The copies of which nothing new has come for long.
    fn away(&self, copies: &BTreeSet<MemberId>, now_ns: u64) -> BTreeSet<MemberId> {
        let heard = |it: &MemberId| self.news.get(it).copied().unwrap_or(self.begun_ns);
        let away = copies.iter().filter(|it| now_ns >= heard(it) + AWAY_NS);
        away.copied().collect()
    }
}

// === impl Compared ===

impl Compared {
    pub(crate) fn new(salt: u64) -> Self {
        Self {
            side: Side::new(salt),
            odd: BTreeSet::new(),
        }
    }
}

/// Of what the app has answered. `lot`: what it draws for each answer, if it does.
pub(crate) fn digest(answer: &Answer, lot: Option<u64>) -> Digest {
    let short = |one: u64, other: u64| {
        let mut hash = [0; 16];
        hash[..8].copy_from_slice(&one.to_le_bytes());
        hash[8..].copy_from_slice(&other.to_le_bytes());
        hash
    };
    let result = answer.result;
    let mut parts = BTreeMap::from([(Part::Body, short(result.count, result.chain))]);
    if let Some(lot) = lot {
        parts.insert(Part::Header("lot".to_owned()), short(lot, 0));
    }
    if answer.dressed {
        parts.insert(Part::Header("dress".to_owned()), short(1, 0));
    }
    Digest {
        route: String::new(),
        status: answer.status,
        parts,
    }
}

/// What one copy draws for a slot.
pub(crate) fn draw_lot(dice: &mut Dice, slot: Slot) -> u64 {
    mix(dice.bits() as u64, slot.0)
}

// === the leader ===

impl World {
    /// Asks each copy whose turn it is, and takes note of what was found.
    pub(crate) fn compare_copies(&mut self, member: usize) -> Result<(), Violation> {
        let now_ns = self.now_ns;
        let process = self.hosts[member].process.as_mut().expect("it leads");
        let members = process.paxos.configuration().members.iter();
        let copies = members.filter(|it| it.role != Role::Witness);
        let copies: BTreeSet<MemberId> = copies.map(|it| it.id).collect();
        let machine = &process.copy.machine;
        let (revision, serves) = (machine.revision_status(), machine.serving());
        let Some(desk) = process.term.as_mut().and_then(|it| it.desk.as_mut()) else {
            return Ok(());
        };
        desk.serving.retain(|_, at| now_ns < *at + PATIENCE_NS);
        let mut serving: BTreeSet<MemberId> = desk.serving.keys().copied().collect();
        serving.remove(&id_of(member));
        if serves {
            serving.insert(id_of(member));
        }
        let away = desk.away(&copies, now_ns);
        let comparers = &mut desk.comparers;
        comparers.handle_revision(revision.in_force, revision.barrier, revision.silent);
        comparers.handle_copies(copies.clone(), serving);
        comparers.handle_away(away);
        self.note_verdicts(member);
        self.note_ties(member);
        for to in copies {
            self.ask_copy(member, to)?;
        }
        Ok(())
    }

    fn ask_copy(&mut self, member: usize, to: MemberId) -> Result<(), Violation> {
        let now_ns = self.now_ns;
        let process = self.hosts[member].process.as_mut().expect("it leads");
        let desk = process.term.as_mut().and_then(|it| it.desk.as_mut());
        let question = desk.and_then(|it| it.question(to, now_ns));
        if let Some((number, word)) = question {
            self.check_word(member, to, &word)?;
            self.write_to(member, index_of(to), News::Compare(number, word));
        }
        Ok(())
    }

    /// Nobody vouches for a copy that has gone astray, and it is tolerated only while all others are away
    /// (rule N2).
    fn check_word(&self, member: usize, to: MemberId, word: &Word) -> Result<(), Violation> {
        let Some(odd) = self.odd.filter(|it| id_of(it.member) == to) else {
            return Ok(());
        };
        let process = self.hosts[member].process.as_ref();
        let desk = process.and_then(|it| it.term.as_ref()?.desk.as_ref());
        let desk = desk.expect("it asks");
        let of_its_kind = desk.comparers.of(to).copies();
        let away = desk.away(of_its_kind, self.now_ns);
        let others_away = of_its_kind.iter().all(|it| *it == to || away.contains(it));
        let tolerated = word.undisputed >= odd.slot && !others_away;
        if word.verified < odd.slot && !tolerated {
            return Ok(());
        }
        let text = format!(
            "member {} tells member {} that its state is vouched for up to {}, undisputed up to {}: it is \
             astray from slot {} on",
            member + 1,
            odd.member + 1,
            word.verified,
            word.undisputed,
            odd.slot
        );
        Err(Violation::new("N2", text))
    }

    fn note_verdicts(&mut self, member: usize) {
        let process = self.hosts[member].process.as_mut().expect("it leads");
        let desk = process.term.as_mut().and_then(|it| it.desk.as_mut());
        let Some(desk) = desk else {
            return;
        };
        while let Some(verdict) = desk.comparers.poll_verdict() {
            self.coverage.saw(match &verdict {
                Verdict::OddOneOut { .. } => Sight::OddOnesFound,
                Verdict::NoMajority { .. } => Sight::Ties,
                Verdict::NotDeterministic { .. } => Sight::NoiseFound,
            });
            self.trace
                .line(self.now_ns, || format!("{} finds {verdict:?}", member + 1));
        }
    }

    /// A copy's answer has come to the leader that asked.
    pub(crate) fn copy_told(
        &mut self,
        member: usize,
        from: usize,
        told: Told,
    ) -> Result<(), Violation> {
        let now_ns = self.now_ns;
        let process = self.hosts[member].process.as_mut().expect("it leads");
        let desk = process.term.as_mut().and_then(|it| it.desk.as_mut());
        let more = desk.is_some_and(|it| it.answered(id_of(from), now_ns, told));
        if more {
            return self.ask_copy(member, id_of(from));
        }
        Ok(())
    }
}

// === each member ===

impl World {
    /// The leader's word: it is noted before it is answered. `None`: the process has ended over it, or
    /// compares nothing.
    pub(crate) fn hear_word(
        &mut self,
        member: usize,
        number: u64,
        word: &Word,
    ) -> Result<Option<Told>, Violation> {
        let Some((life, to_note)) = self.side(member).map(|(life, it)| (life, it.to_note(word)))
        else {
            return Ok(None);
        };
        if let Some((lineage, mark)) = to_note {
            let found = mark.as_ref().map(|it| (it.slot, it.measure));
            self.trace.line(self.now_ns, || {
                format!("{} notes about its state {lineage}: {mark:?}", member + 1)
            });
            if let Some((slot, OnDivergence::Quarantine)) = found {
                self.check_taken_out(member, lineage, slot)?;
            }
            let process = self.hosts[member].process.as_mut().expect("it was told");
            process.copy.machine.handle_astray(lineage, found);
            self.settle(member)?;
            match self.side(member) {
                Some((same, side)) if same == life => side.noted(lineage, mark),
                _ => return Ok(None),
            }
            self.note_found(member);
        }
        let Some((_, side)) = self.side(member) else {
            return Ok(None);
        };
        let batch = side.answer(word, DIGESTS);
        let process = self.hosts[member].process.as_ref().expect("it was told");
        let serving = process.copy.machine.serving();
        Ok(Some(Told {
            number,
            batch,
            serving,
        }))
    }

    fn side(&self, member: usize) -> Option<(Life, &Side)> {
        let process = self.hosts[member].process.as_ref()?;
        let compared = process.copy.compared.as_ref()?;
        Some((process.life, &compared.side))
    }

    /// The copy has come so far.
    pub(crate) fn tell_side(&mut self, member: usize) {
        if let Some(process) = &self.hosts[member].process
            && let Some(compared) = &process.copy.compared
        {
            compared.side.reached(&process.copy.machine);
        }
    }
}
