//! Nothing that a peer or the shell says may panic: messages made by chance from plausible numbers
//! are thrown at members in all states. (A peer that lies can break agreement; it must not break the
//! process.) Agreement is not checked here, but what each member holds to by itself is: it goes back
//! behind no promise and no commit, and what it has handed to apply stays what it is.

mod common;

use std::collections::BTreeMap;

use bytes::Bytes;
use common::{Chance, Net, genesis};
use synod_paxos::{
    AgreedTime, Ballot, Boot, Command, CommandId, CommandKind, Configuration, Entry, EntryHash,
    Epoch, Header, Heartbeat, Io, MemberId, Message, NotTaken, Quorums, ReadId, Role, Slot, Ticket,
};

struct Liar {
    chance: Chance,
    last: u64,
    round: u64,
    from: MemberId,
}

impl Liar {
    fn below(&mut self, limit: u64) -> u64 {
        self.chance.below(limit)
    }

    fn slot(&mut self) -> Slot {
        match self.below(12) {
            0 => Slot(0),
            1 => Slot(u64::MAX - self.chance.below(3)),
            _ => Slot(
                self.last
                    .saturating_add(4)
                    .saturating_sub(self.chance.below(8)),
            ),
        }
    }

    fn ballot(&mut self) -> Ballot {
        let node = match self.below(4) {
            0 => MemberId(self.chance.below(5) as u32),
            _ => self.from,
        };
        let round = match self.below(30) {
            0 => u64::MAX - self.chance.below(2),
            _ => self
                .round
                .saturating_add(2)
                .saturating_sub(self.chance.below(4)),
        };
        let epoch = Epoch(if self.below(20) == 0 {
            self.below(4)
        } else {
            1
        });
        Ballot { epoch, round, node }
    }

    fn command(&mut self) -> Command {
        Command {
            kind: CommandKind(self.below(9) as u16),
            id: CommandId {
                member: MemberId(self.below(5) as u32),
                boot: Boot(self.below(3)),
                sequence: self.below(20),
            },
            floor: self.below(5),
            payload: Bytes::from(vec![0; self.chance.below(100) as usize]),
        }
    }

    /// The end of an epoch, of one that there is or of another, with members that there are or not.
    fn stop_sign(&mut self) -> Command {
        let mut payload = vec![1, 0, 0, 0];
        let mut members = genesis(&[Role::Voter; 3], Quorums::Majority)
            .configuration
            .members;
        members.truncate(1 + self.below(3) as usize);
        let configuration = Configuration {
            epoch: Epoch(1 + self.below(4)),
            first_leader: MemberId(self.below(4) as u32),
            members,
            quorums: Quorums::Majority,
        };
        configuration.put(&mut payload);
        Command {
            kind: CommandKind::RECONFIGURE,
            payload: payload.into(),
            ..Command::default()
        }
    }

    fn entries(&mut self) -> Vec<Entry> {
        let mut slot = self.slot();
        let mut ballot = self.ballot();
        (0..self.below(4))
            .map(|_| {
                if self.below(6) == 0 {
                    slot = self.slot();
                    ballot = self.ballot();
                }
                slot = Slot(slot.0.saturating_add(1));
                Entry {
                    slot,
                    ballot,
                    time: AgreedTime(if self.below(9) == 0 { u64::MAX } else { 5 }),
                    seed: 0,
                    command: match self.below(6) {
                        0 => self.stop_sign(),
                        _ => self.command(),
                    },
                }
            })
            .collect()
    }

    fn headers(&mut self) -> Vec<Header> {
        (0..self.below(3))
            .map(|_| Header {
                slot: self.slot(),
                ballot: self.ballot(),
                hash: EntryHash([0; 16]),
            })
            .collect()
    }

    fn reads(&mut self) -> Vec<ReadId> {
        (0..self.below(3)).map(|_| ReadId(self.below(9))).collect()
    }

    fn message(&mut self) -> Message {
        let ballot = self.ballot();
        match self.below(19) {
            0 => Message::Prepare {
                ballot,
                accepted: self.ballot(),
                last: self.slot(),
                commit: self.slot(),
                handed_over: self.below(2) == 0,
            },
            1 | 2 => Message::Promise {
                ballot,
                accepted: self.ballot(),
                last: self.slot(),
                commit: self.slot(),
                first: if self.below(5) == 0 {
                    self.slot()
                } else {
                    Slot(1)
                },
                before: self.ballot(),
                after: self.slot(),
                part: self.below(3) as u32,
                done: self.below(3) > 0,
                suffix: self.entries(),
                faulty: self.headers(),
                age_ns: self.below(u64::MAX),
            },
            3 => Message::Refused {
                ballot,
                promised: self.ballot(),
            },
            4 | 5 => Message::AcceptSync {
                ballot,
                after: self.slot(),
                part: self.below(3) as u32,
                done: self.below(3) > 0,
                entries: self.entries(),
                last: self.slot(),
                commit: self.slot(),
                commit_ballot: self.ballot(),
            },
            6 => Message::Staged {
                ballot,
                through: self.slot(),
            },
            7 | 8 => Message::Accept {
                ballot,
                previous: self.slot(),
                previous_ballot: self.ballot(),
                entries: self.entries(),
                commit: self.slot(),
                commit_ballot: self.ballot(),
                early: self.below(2) == 0,
            },
            9 => Message::Accepted {
                ballot,
                slot: self.slot(),
            },
            10 => Message::Gap {
                ballot,
                last: self.slot(),
            },
            11 => Message::Heartbeat(self.heartbeat(ballot)),
            12 => Message::Propose {
                commands: (0..self.below(3)).map(|_| self.command()).collect(),
                again: self.below(9) == 0,
            },
            13 => Message::NotTaken {
                id: self.command().id,
                reason: NotTaken::Overloaded,
            },
            14 => match self.below(3) {
                0 => Message::ReadIndex { ids: self.reads() },
                1 => Message::ReadIndexes {
                    ids: self.reads(),
                    index: self.slot(),
                },
                _ => Message::ReadRefused { ids: self.reads() },
            },
            15 => Message::Confirm {
                ballot,
                round: self.below(5),
            },
            16 => Message::Confirmed {
                ballot,
                round: self.below(5),
            },
            17 => Message::Transfer { ballot },
            _ => match self.below(5) {
                3 => Message::LearnRequest { after: self.slot() },
                4 => Message::Learn {
                    entries: self.entries(),
                },
                0 => Message::Compacted {
                    slot: self.slot(),
                    ballot,
                },
                1 => Message::RepairRequest {
                    headers: self.headers(),
                },
                _ => Message::Repair {
                    entries: self.entries(),
                },
            },
        }
    }

    fn heartbeat(&mut self, ballot: Ballot) -> Heartbeat {
        let any = |liar: &mut Self| match liar.below(3) {
            0 => u64::MAX,
            1 => 0,
            _ => liar.below(1_000_000_000_000),
        };
        Heartbeat {
            ballot,
            hears: (0..self.below(4)).map(|n| MemberId(n as u32)).collect(),
            healthy: self.below(2) == 0,
            last: self.slot(),
            commit: self.slot(),
            commit_ballot: self.ballot(),
            applied: self.slot(),
            disk_stalled: self.below(9) == 0,
            app_stalled: self.below(9) == 0,
            mono_ns: any(self),
            wall_ns: any(self),
            echo_mono_ns: any(self),
            echo_held_ns: any(self),
            entry_bytes: any(self),
            preference: any(self) as u32,
            timeout_ns: any(self),
        }
    }
}

/// What a member has said so far, and cannot take back.
#[derive(Default)]
struct Words(BTreeMap<MemberId, (Ballot, Slot, BTreeMap<Slot, EntryHash>)>);

impl Words {
    /// Whatever it was told since, it keeps its word.
    fn are_kept(&mut self, net: &Net, seed: u64) {
        for member in net.members() {
            let paxos = net.paxos(member);
            let (promised, commit, applied) = self.0.entry(member).or_default();
            assert!(
                paxos.promised() >= *promised && paxos.commit() >= *commit,
                "seed {seed}: {member} goes back to {:?} and slot {}",
                paxos.promised(),
                paxos.commit()
            );
            (*promised, *commit) = (paxos.promised(), paxos.commit());
            assert!(
                *commit <= paxos.last(),
                "seed {seed}: {member} has no such slot"
            );
            for (slot, entry) in &net.node(member).applied {
                let first = *applied.entry(*slot).or_insert(entry.hash());
                assert_eq!(
                    first,
                    entry.hash(),
                    "seed {seed}: {member} has {slot} applied twice"
                );
            }
        }
    }
}

/// Its log begins behind all that it has handed over.
fn forget(net: &mut Net, member: MemberId) {
    let through = net.node(member).through;
    let now = net.now(member);
    net.with_paxos(member, |paxos| {
        if let Some(base) = paxos.base_at(through, AgreedTime(5)) {
            paxos.handle_snapshot(now, base).expect("taken");
        }
    });
    net.drain(member);
}

#[test]
fn messages_made_by_chance_never_panic() {
    for seed in 0..150 {
        let mut net = Net::new(3);
        net.agreement = false;
        let mut chance = Chance(seed);
        net.elect();
        for _ in 0..chance.below(10) {
            net.propose(common::id(1), b"payload");
            net.run(chance.below(30));
        }
        let members = net.members();
        let mut words = Words::default();
        for _ in 0..300 {
            let to = members[chance.below(3) as usize];
            let from = members[chance.below(3) as usize];
            if from == to {
                continue;
            }
            let paxos = net.paxos(to);
            let mut liar = Liar {
                chance: Chance(chance.next()),
                last: paxos.last().0,
                round: paxos.promised().round,
                from: if chance.below(3) == 0 { to } else { from },
            };
            let message = liar.message();
            net.inject(from, to, message);
            if chance.below(30) == 0 {
                forget(&mut net, to);
            }
            if chance.below(10) == 0 {
                net.run(chance.below(200));
            }
            words.are_kept(&net, seed);
        }
        net.run(2000);
        words.are_kept(&net, seed);
    }
}

#[test]
fn events_that_no_sound_shell_reports_are_counted_and_ignored() {
    let mut net = Net::new(3);
    let leader = net.elect();
    let now = net.now(leader);
    let before = net.paxos(leader).counters().impossible_events;
    net.with_paxos(leader, |paxos| {
        paxos.handle_synced(now, Io(u64::MAX));
        paxos.handle_loaded(now, Ticket(77), Vec::new());
        paxos.handle_applied(Slot(u64::MAX));
        paxos.handle_connection(now, MemberId(9), synod_paxos::Lane::Log, true);
    });
    assert_eq!(net.paxos(leader).counters().impossible_events, before + 4);
}
