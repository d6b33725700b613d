//! Which commands took their turn already, by internal id (rule P6): a fold over the log.

use std::collections::{BTreeMap, BTreeSet};

use synod_mutant::{Mutant, planted};
use synod_paxos::{Boot, CommandId, Configuration, MemberId};
use synod_proto::v1::tables;

/// How far the ids of one start of an entrance may be apart: what is further below the newest
/// counts as resolved.
const WINDOW: u64 = 4_096;

/// Of each entrance its newest start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ids {
    entrances: BTreeMap<MemberId, Entrance>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Entrance {
    boot: Boot,
    /// All sequences below are taken.
    floor: u64,
    /// Sequences taken at or above the floor.
    taken: BTreeSet<u64>,
}

impl Ids {
    /// Takes the id; false if it was taken before or must be treated as if it had been.
    pub(super) fn take(
        &mut self,
        id: CommandId,
        floor: u64,
        configuration: &Configuration,
    ) -> bool {
        if !configuration
            .members
            .iter()
            .any(|member| member.id == id.member)
        {
            return false;
        }
        let entrance = self.entrances.entry(id.member).or_default();
        if id.boot < entrance.boot && !planted(Mutant::OldStartsRunAgain) {
            return false;
        }
        if id.boot > entrance.boot {
            *entrance = Entrance {
                boot: id.boot,
                ..Entrance::default()
            };
        }
        let floor = floor.max(id.sequence.saturating_sub(WINDOW - 1));
        if floor > entrance.floor {
            entrance.floor = floor;
            entrance.taken = entrance.taken.split_off(&floor);
        }
        let is_above = id.sequence >= entrance.floor || planted(Mutant::FloorIsForgotten);
        let first =
            is_above && (entrance.taken.insert(id.sequence) || planted(Mutant::IdsRunAgain));
        assert!(
            entrance.taken.len() as u64 <= WINDOW,
            "the window bounds the set"
        );
        first
    }

    /// Whether the id was taken, or can never be any more.
    pub fn took(&self, id: CommandId) -> bool {
        self.entrances.get(&id.member).is_some_and(|entrance| {
            id.boot < entrance.boot
                || (id.boot == entrance.boot
                    && (id.sequence < entrance.floor || entrance.taken.contains(&id.sequence)))
        })
    }

    /// As part of a snapshot.
    pub(super) fn save(&self) -> Vec<tables::Entrance> {
        let saved = |(member, entrance): (&MemberId, &Entrance)| tables::Entrance {
            member: member.0,
            boot: entrance.boot.0,
            floor: entrance.floor,
            taken: entrance.taken.iter().copied().collect(),
        };
        self.entrances.iter().map(saved).collect()
    }

    /// From a snapshot; an error says what is wrong with it.
    pub(super) fn load(saved: Vec<tables::Entrance>) -> Result<Self, &'static str> {
        let mut entrances = BTreeMap::new();
        for it in saved {
            if it.taken.len() as u64 > WINDOW {
                return Err("an entrance has more commands than its window");
            }
            if it.taken.iter().any(|sequence| *sequence < it.floor) {
                return Err("an entrance has a command below its floor");
            }
            let entrance = Entrance {
                boot: Boot(it.boot),
                floor: it.floor,
                taken: it.taken.into_iter().collect(),
            };
            entrances.insert(MemberId(it.member), entrance);
        }
        Ok(Self { entrances })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use synod_paxos::{Epoch, Incarnation, Member, Quorums, Role};

    fn configuration() -> Configuration {
        Configuration {
            epoch: Epoch(1),
            members: (1..=3)
                .map(|id| Member {
                    id: MemberId(id),
                    name: format!("member-{id}"),
                    incarnation: Incarnation(u128::from(id)),
                    role: Role::Voter,
                    region: String::new(),
                })
                .collect(),
            quorums: Quorums::Majority,
            first_leader: MemberId(0),
        }
    }

    fn id(member: u32, boot: u64, sequence: u64) -> CommandId {
        CommandId {
            member: MemberId(member),
            boot: Boot(boot),
            sequence,
        }
    }

    #[test]
    fn an_id_is_taken_once() {
        let (mut ids, members) = (Ids::default(), configuration());
        assert!(ids.take(id(1, 1, 1), 1, &members));
        assert!(!ids.take(id(1, 1, 1), 1, &members));
        assert!(
            ids.take(id(2, 1, 1), 1, &members),
            "another entrance counts for itself"
        );
    }

    #[test]
    fn what_was_taken_is_told_from_what_still_may_be() {
        let (mut ids, members) = (Ids::default(), configuration());
        assert!(!ids.took(id(1, 1, 1)));
        assert!(ids.take(id(1, 2, 7), 5, &members));
        assert!(ids.took(id(1, 2, 7)));
        assert!(!ids.took(id(1, 2, 6)), "it may still come");
        assert!(ids.took(id(1, 2, 4)), "below the floor");
        assert!(ids.took(id(1, 1, 9)), "of an earlier start");
        assert!(!ids.took(id(1, 3, 1)));
        assert!(!ids.took(id(2, 1, 1)));
    }

    #[test]
    fn ids_above_the_floor_may_come_in_any_order() {
        let (mut ids, members) = (Ids::default(), configuration());
        assert!(ids.take(id(1, 1, 3), 1, &members));
        assert!(ids.take(id(1, 1, 1), 1, &members));
        assert!(ids.take(id(1, 1, 2), 1, &members));
        assert!(!ids.take(id(1, 1, 3), 1, &members));
    }

    #[test]
    fn an_id_below_the_floor_is_a_repeat_even_if_it_was_never_seen() {
        let (mut ids, members) = (Ids::default(), configuration());
        assert!(ids.take(id(1, 1, 9), 8, &members));
        assert!(!ids.take(id(1, 1, 7), 1, &members));
        assert!(ids.take(id(1, 1, 8), 8, &members));
        assert!(!ids.take(id(1, 1, 11), 12, &members), "below its own floor");
    }

    #[test]
    fn a_floor_never_goes_down_and_forgets_what_is_below() {
        let (mut ids, members) = (Ids::default(), configuration());
        for sequence in 1..=100 {
            assert!(ids.take(id(1, 1, sequence), 1, &members));
        }
        assert!(ids.take(id(1, 1, 101), 101, &members));
        assert_eq!(ids.entrances[&MemberId(1)].taken.len(), 1);
        assert!(!ids.take(id(1, 1, 50), 1, &members));
    }

    #[test]
    fn an_older_start_than_the_newest_is_a_repeat() {
        let (mut ids, members) = (Ids::default(), configuration());
        assert!(ids.take(id(1, 2, 1), 1, &members));
        assert!(!ids.take(id(1, 1, 5), 1, &members));
        assert!(
            ids.take(id(1, 3, 1), 1, &members),
            "a newer start begins anew"
        );
        assert!(!ids.take(id(1, 2, 2), 1, &members));
    }

    #[test]
    fn an_entrance_that_is_not_in_the_configuration_has_no_first() {
        let (mut ids, members) = (Ids::default(), configuration());
        assert!(!ids.take(id(4, 1, 1), 1, &members));
        assert!(!ids.take(CommandId::default(), 0, &members));
    }

    #[test]
    fn the_set_above_the_floor_never_outgrows_the_window() {
        let (mut ids, members) = (Ids::default(), configuration());
        for sequence in 1..=(3 * WINDOW) {
            assert!(ids.take(id(1, 1, sequence), 0, &members));
        }
        assert!(
            !ids.take(id(1, 1, 2 * WINDOW), 0, &members),
            "slid out of the window"
        );
        assert!(
            !ids.take(id(1, 1, 2 * WINDOW + 1), 0, &members),
            "taken within it"
        );
        assert_eq!(ids.entrances[&MemberId(1)].taken.len() as u64, WINDOW);
    }
}
