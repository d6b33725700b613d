//! Which commands of other entrances are in the leader's log already: on a slow machine an entrance
//! gives a command again while the first copy is still on its way through the log, and a large one
//! must not be logged once more each time. Only a matter of room: a command takes effect once however
//! often it is in the log (rule P6).

use std::collections::BTreeMap;

use crate::types::{Boot, Command, CommandId, MemberId};

/// Runs of sequences remembered of one entrance, at most.
const RUNS: usize = 4096;

/// What this leader has put into the log or adopted with it, as long as it may be given again.
#[derive(Debug, Default)]
pub(crate) struct Proposed {
    entrances: BTreeMap<MemberId, Sequences>,
}

/// Commands of one start of an entrance.
#[derive(Debug, Default)]
struct Sequences {
    boot: Boot,
    /// First and last of each run.
    runs: BTreeMap<u64, u64>,
}

impl Proposed {
    /// It is in the log, or waits to be put there.
    pub(crate) fn has(&self, id: CommandId) -> bool {
        self.entrances
            .get(&id.member)
            .is_some_and(|it| it.boot == id.boot && it.has(id.sequence))
    }

    /// It is put into the log now.
    pub(crate) fn note(&mut self, command: &Command) {
        let id = command.id;
        let known = self.entrances.entry(id.member).or_default();
        if id.boot > known.boot {
            *known = Sequences {
                boot: id.boot,
                runs: BTreeMap::new(),
            };
        }
        if id.boot == known.boot {
            known.add(id.sequence);
            known.forget_below(command.floor.min(id.sequence));
        }
    }
}

impl Sequences {
    /// The run that begins at this sequence or before it.
    fn run_before(&self, sequence: u64) -> Option<(u64, u64)> {
        let (first, last) = self.runs.range(..=sequence).next_back()?;
        Some((*first, *last))
    }

    fn has(&self, sequence: u64) -> bool {
        self.run_before(sequence)
            .is_some_and(|(_, last)| sequence <= last)
    }

    fn add(&mut self, sequence: u64) {
        if self.has(sequence) {
            return;
        }
        let joined = self
            .run_before(sequence)
            .filter(|(_, last)| last.checked_add(1) == Some(sequence));
        let first = joined.map_or(sequence, |(first, _)| first);
        let following = sequence.checked_add(1).and_then(|it| self.runs.remove(&it));
        self.runs.insert(first, following.unwrap_or(sequence));
        if self.runs.len() > RUNS {
            self.runs.pop_first();
        }
    }

    /// What is below is resolved: it is not given again.
    fn forget_below(&mut self, floor: u64) {
        while let Some(run) = self.runs.first_entry()
            && *run.get() < floor
        {
            run.remove();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(boot: u64, sequence: u64, floor: u64) -> Command {
        Command {
            id: CommandId {
                member: MemberId(2),
                boot: Boot(boot),
                sequence,
            },
            floor,
            ..Command::default()
        }
    }

    fn runs(proposed: &Proposed) -> Vec<(u64, u64)> {
        let known = &proposed.entrances[&MemberId(2)];
        known.runs.iter().map(|(a, b)| (*a, *b)).collect()
    }

    #[test]
    fn what_was_noted_is_known_and_nothing_else_is() {
        let mut proposed = Proposed::default();
        for sequence in [1, 2, 7, 5, 6, 3, 3, 9] {
            proposed.note(&command(4, sequence, 0));
        }
        assert_eq!(runs(&proposed), [(1, 3), (5, 7), (9, 9)]);
        for sequence in 0..12 {
            let known = [1, 2, 3, 5, 6, 7, 9].contains(&sequence);
            assert_eq!(
                proposed.has(command(4, sequence, 0).id),
                known,
                "{sequence}"
            );
        }
        let other = CommandId {
            member: MemberId(3),
            ..command(4, 1, 0).id
        };
        assert!(!proposed.has(other), "of another entrance");
    }

    #[test]
    fn what_is_resolved_and_what_an_earlier_start_gave_is_forgotten() {
        let mut proposed = Proposed::default();
        for sequence in [1, 2, 5, 6] {
            proposed.note(&command(4, sequence, 0));
        }
        proposed.note(&command(4, 9, 3));
        assert_eq!(runs(&proposed), [(5, 6), (9, 9)]);
        proposed.note(&command(3, 1, 0));
        assert!(!proposed.has(command(3, 1, 0).id), "of an earlier start");
        proposed.note(&command(5, 1, 0));
        assert_eq!(runs(&proposed), [(1, 1)]);
        assert!(!proposed.has(command(4, 9, 0).id));
    }

    #[test]
    fn whatever_an_entrance_sends_memory_is_bounded() {
        let mut proposed = Proposed::default();
        for sequence in 0..10_000 {
            proposed.note(&command(1, 2 * sequence, 0));
        }
        proposed.note(&command(1, u64::MAX, u64::MAX));
        proposed.note(&command(1, u64::MAX - 1, 0));
        assert!(runs(&proposed).len() <= RUNS);
        assert!(proposed.has(command(1, u64::MAX, 0).id));
    }
}
