//! V1: who answers a slot follows from the log alone. An opinion of the simulator's own, from what was
//! chosen, beside that of the production tables.
//!
//! Each slot is answered by the revision in force there; no revision executes a slot before its barrier, and
//! each begins with the state of that; one that disagrees takes over on a person's word only.

use std::collections::BTreeMap;

use prost::Message as _;
use synod_paxos::{CommandKind, Entry, Slot};
use synod_proto::v1::{Revision, RevisionDisagrees, RevisionDone, RevisionStrategy};
use synod_sidecar::apply::Fold;

use super::Violation;
use super::chosen::Chosen;
use crate::app::Answer;

/// From some slot on, as the log says from some slot on, this revision answers.
#[derive(Clone, Copy, Debug)]
struct Turn {
    /// It answers what follows this.
    after: Slot,
    /// Known where the log is known up to here.
    known: Slot,
    number: u64,
}

/// What the log says at some slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Stand {
    in_force: u64,
    barrier: Slot,
    newest: u64,
    /// After a switch: not done yet.
    switching: bool,
    silent: Option<Silent>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Silent {
    number: u64,
    barrier: Slot,
    disagrees: bool,
}

/// What became of a revision, for the coverage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    Switched,
    Rolls,
    Done,
    TookOver,
    InSpite,
    Disagrees,
    /// A take-over that came too late.
    Refused,
    SwitchTakenBack,
    RollTakenBack,
}

/// All that was chosen about revisions.
#[derive(Debug)]
pub(crate) struct Revisions {
    through: Slot,
    stand: Stand,
    /// In the order of the log, from which slot on each holds.
    stands: Vec<(Slot, Stand)>,
    turns: Vec<Turn>,
    barriers: BTreeMap<u64, Slot>,
    /// With whose state each begins.
    parents: BTreeMap<u64, u64>,
}

// === impl Revisions ===

impl Revisions {
    pub(crate) fn new() -> Self {
        let first = Turn {
            after: Slot::ZERO,
            known: Slot::ZERO,
            number: 0,
        };
        Self {
            through: Slot::ZERO,
            stand: Stand::default(),
            stands: vec![(Slot::ZERO, Stand::default())],
            turns: vec![first],
            barriers: BTreeMap::from([(0, Slot::ZERO)]),
            parents: BTreeMap::new(),
        }
    }

    /// Takes note of all that was chosen since, and says what it was.
    pub(crate) fn learn(&mut self, chosen: &Chosen) -> Vec<Event> {
        let mut events = Vec::new();
        while self.through < chosen.through() {
            let slot = self.through.next();
            let entry = chosen.value(slot).expect("what is chosen is known");
            self.through = slot;
            if let Some(event) = self.take(entry) {
                self.stands.push((slot, self.stand));
                events.push(event);
            }
        }
        events
    }

    fn take(&mut self, entry: &Entry) -> Option<Event> {
        let payload = entry.command.payload.clone();
        match entry.command.kind {
            CommandKind::REVISION => {
                let revision = Revision::decode(payload).expect("proposed here");
                self.revise(entry.slot, &revision)
            }
            CommandKind::REVISION_DONE => {
                let done = RevisionDone::decode(payload).expect("proposed here");
                self.done(entry.slot, done)
            }
            CommandKind::REVISION_DISAGREES => {
                let disagrees = RevisionDisagrees::decode(payload).expect("proposed here");
                let silent = self.stand.silent.as_mut();
                let silent = silent.filter(|it| it.number == disagrees.number);
                silent.map(|it| {
                    it.disagrees = true;
                    Event::Disagrees
                })
            }
            _ => None,
        }
    }

    fn revise(&mut self, slot: Slot, revision: &Revision) -> Option<Event> {
        let stand = &mut self.stand;
        let open = stand.switching || stand.silent.is_some();
        if revision.number != stand.newest + 1 || revision.takes_back != open {
            return None;
        }
        // What only takes one away uses no number.
        if stand.silent.take().is_some() {
            return Some(Event::RollTakenBack);
        }
        let number = revision.number;
        stand.newest = number;
        self.parents.insert(number, stand.in_force);
        if !revision.takes_back && revision.strategy() == RevisionStrategy::Rolling {
            self.barriers.insert(number, slot);
            stand.silent = Some(Silent {
                number,
                barrier: slot,
                disagrees: false,
            });
            return Some(Event::Rolls);
        }
        if !revision.takes_back {
            stand.barrier = slot;
        }
        stand.in_force = number;
        stand.switching = true;
        self.barriers.insert(number, stand.barrier);
        self.turns.push(Turn {
            after: stand.barrier,
            known: slot,
            number,
        });
        Some(if revision.takes_back {
            Event::SwitchTakenBack
        } else {
            Event::Switched
        })
    }

    fn done(&mut self, slot: Slot, done: RevisionDone) -> Option<Event> {
        let stand = &mut self.stand;
        if done.number == stand.in_force {
            return std::mem::take(&mut stand.switching).then_some(Event::Done);
        }
        let silent = stand.silent.filter(|it| it.number == done.number)?;
        if silent.disagrees && !done.in_spite {
            return Some(Event::Refused);
        }
        stand.silent = None;
        stand.in_force = silent.number;
        stand.barrier = silent.barrier;
        self.turns.push(Turn {
            after: slot,
            known: slot,
            number: silent.number,
        });
        Some(if done.in_spite {
            Event::InSpite
        } else {
            Event::TookOver
        })
    }

    /// Who answers the slot, where the log is known up to `known`.
    fn answering(&self, slot: Slot, known: Slot) -> u64 {
        let turns = self.turns.iter().rev();
        let mut turns = turns.filter(|it| it.after < slot && it.known <= known);
        turns.next().map_or(0, |it| it.number)
    }

    /// Some member may have had this revision answer the slot.
    fn may_answer(&self, slot: Slot, number: u64) -> bool {
        let mut later = self.turns.iter();
        self.answering(slot, slot) == number
            || later.any(|it| it.number == number && it.after < slot && it.known > slot)
    }

    /// Whose app has executed the slot in the state that this revision has, silently or not.
    fn maker(&self, mut number: u64, slot: Slot) -> u64 {
        while let Some(parent) = self.parents.get(&number)
            && slot <= self.barriers[&number]
        {
            number = *parent;
        }
        number
    }

    /// The tables of a copy say what the log says.
    pub(crate) fn agree(&self, member: usize, fold: &Fold) -> Result<(), Violation> {
        let admitted = fold.admitted();
        let at = self.stands.partition_point(|(from, _)| *from <= admitted);
        let (_, expected) = self.stands[at - 1];
        let silent = fold.silent().map(|it| Silent {
            number: it.number,
            barrier: it.barrier,
            disagrees: it.disagreement.is_some(),
        });
        let found = Stand {
            in_force: fold.revision(),
            barrier: fold.barrier(),
            newest: fold.newest_revision(),
            switching: fold.is_unfinished() && silent.is_none(),
            silent,
        };
        if admitted > self.through || found == expected {
            return Ok(());
        }
        Err(Violation::new(
            "V1",
            format!(
                "member {} has admitted {admitted} and holds {found:?}, the log says {expected:?}",
                member + 1
            ),
        ))
    }

    /// A copy has executed a slot, and knows the log up to `known`. `silent`: it tells nobody.
    pub(crate) fn executed(
        &self,
        member: usize,
        (slot, known): (Slot, Slot),
        answer: &Answer,
        silent: bool,
    ) -> Result<(), Violation> {
        let number = answer.revision;
        let broken = |text: String| {
            let text = format!(
                "member {}, revision {number}, slot {slot}: {text}",
                member + 1
            );
            Err(Violation::new("V1", text))
        };
        let expected = self.answering(slot, known);
        if !silent && number != expected {
            return broken(format!(
                "it answers, where {expected} does as the log says up to {known}"
            ));
        }
        if silent && number == expected {
            return broken("it is silent, and nobody else answers".to_owned());
        }
        let barrier = self.barriers.get(&number).copied();
        let Some(barrier) = barrier.filter(|it| *it < slot) else {
            return broken(format!("it begins behind {barrier:?}"));
        };
        match answer.begun {
            None => Ok(()),
            Some((by, at)) if at <= barrier && by == self.maker(number, at) => Ok(()),
            Some((by, at)) => broken(format!(
                "it begins with what {by} has made up to {at}, and not with the state of {barrier}"
            )),
        }
    }

    /// A client was told what this revision has made of the slot.
    pub(crate) fn told(&self, slot: Slot, number: u64) -> Result<(), Violation> {
        if self.may_answer(slot, number) {
            return Ok(());
        }
        let expected = self.answering(slot, self.through);
        let text =
            format!("slot {slot} is answered by revision {number}, and {expected} answers it");
        Err(Violation::new("V1", text))
    }

    /// What is not over yet.
    pub(crate) fn unfinished(&self) -> Option<String> {
        let stand = self.stand;
        if stand.switching {
            return Some(format!("revision {} is not done", stand.in_force));
        }
        let silent = stand.silent?;
        Some(format!("revision {} has not taken over", silent.number))
    }

    /// One that runs along stands against a person's word.
    pub(crate) fn disagrees(&self) -> bool {
        self.stand.silent.is_some_and(|it| it.disagrees)
    }

    pub(crate) fn in_force(&self) -> u64 {
        self.stand.in_force
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::Register;

    fn answer(revision: u64, begun: Option<(u64, Slot)>) -> Answer {
        Answer {
            result: Register::default(),
            digest: 0,
            status: 200,
            dressed: false,
            odd: false,
            revision,
            begun,
        }
    }

    fn rolled() -> Revisions {
        let mut revisions = Revisions::new();
        let mut revision = Revision {
            number: 1,
            ..Revision::default()
        };
        revision.set_strategy(RevisionStrategy::Rolling);
        assert_eq!(revisions.revise(Slot(10), &revision), Some(Event::Rolls));
        revisions
    }

    #[test]
    fn the_next_one_begins_with_what_the_one_before_has_executed_silently() {
        let mut revisions = rolled();
        assert_eq!(revisions.done(Slot(20), done(false)), Some(Event::TookOver));
        let switch = Revision {
            number: 2,
            ..Revision::default()
        };
        let switched = revisions.revise(Slot(30), &switch);
        assert_eq!(switched, Some(Event::Switched));
        let at = (Slot(31), Slot(31));
        let begins = |by, slot| answer(2, Some((by, Slot(slot))));
        for (by, slot, right) in [(1, 15, true), (0, 15, false), (0, 9, true), (1, 9, false)] {
            let told = revisions.executed(0, at, &begins(by, slot), false);
            assert_eq!(told.is_ok(), right, "{by} {slot}");
        }
    }

    fn done(in_spite: bool) -> RevisionDone {
        RevisionDone {
            number: 1,
            in_spite,
        }
    }

    #[test]
    fn the_slot_at_which_it_takes_over_is_the_last_that_the_one_before_answers() {
        let mut revisions = rolled();
        assert_eq!(revisions.done(Slot(20), done(false)), Some(Event::TookOver));
        let all = (Slot(20), Slot(25));
        assert!(revisions.executed(0, all, &answer(0, None), false).is_ok());
        assert!(revisions.executed(0, all, &answer(1, None), false).is_err());
        assert!(revisions.executed(0, all, &answer(1, None), true).is_ok());
        let next = (Slot(21), Slot(25));
        assert!(
            revisions
                .executed(0, next, &answer(0, None), false)
                .is_err()
        );
        assert!(revisions.executed(0, next, &answer(1, None), false).is_ok());
        assert!(revisions.told(Slot(20), 1).is_err() && revisions.told(Slot(21), 1).is_ok());
    }

    #[test]
    fn one_that_disagrees_takes_over_on_a_persons_word_only() {
        let mut revisions = rolled();
        let silent = revisions.stand.silent.as_mut().expect("it runs along");
        silent.disagrees = true;
        assert_eq!(revisions.done(Slot(20), done(false)), Some(Event::Refused));
        assert_eq!(revisions.in_force(), 0);
        assert_eq!(revisions.done(Slot(21), done(true)), Some(Event::InSpite));
        assert_eq!(revisions.in_force(), 1);
    }

    #[test]
    fn a_revision_begins_with_the_state_of_its_barrier() {
        let revisions = rolled();
        let at = (Slot(12), Slot(15));
        let begins = |slot| answer(1, Some((0, Slot(slot))));
        assert!(revisions.executed(0, at, &begins(9), true).is_ok());
        assert!(revisions.executed(0, at, &begins(11), true).is_err());
        let early = (Slot(10), Slot(15));
        assert!(revisions.executed(0, early, &begins(9), true).is_err());
    }
}
