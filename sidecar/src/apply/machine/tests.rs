//! The rules of apply, one by one, and a random life in the end.

mod admission;
mod life;
mod lineage;
mod poison;
mod random;
mod revisions;
mod rolling;
mod snapshots;
mod table;

use std::num::NonZeroU64;

use bytes::Bytes;
use prost::Message;
use synod_paxos::{
    AgreedTime, Ballot, Boot, Command, CommandId, CommandKind, Configuration, Entry, Epoch,
    Incarnation, Member, MemberId, Quorums, Role, Slot,
};
use synod_proto::v1::{
    Idempotency, Policy, Request, Revision, RevisionDisagrees, RevisionDone, RevisionStrategy, Skip,
};

use super::*;
use crate::apply::ledger::{History, InFlight, Kept, Record};

/// A machine with its log; what it says is carried out by the test.
pub(super) struct Bench {
    pub(super) machine: Machine,
    pub(super) log: Vec<Entry>,
    /// What a next process would find.
    pub(super) ledger: Record,
    pub(super) state: StateType,
    /// The newest snapshot of this member; the log begins behind it.
    pub(super) base: Option<Fold>,
}

pub(super) fn instance(number: u64) -> Instance {
    Instance(NonZeroU64::new(number).unwrap())
}

pub(super) fn configuration() -> Configuration {
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

pub(super) fn id(sequence: u64) -> CommandId {
    CommandId {
        member: MemberId(1),
        boot: Boot(1),
        sequence,
    }
}

pub(super) fn request() -> Request {
    Request {
        policy_version: 1,
        expires_ns: u64::MAX,
        method: "POST".into(),
        target: "/notes".into(),
        ..Request::default()
    }
}

pub(super) fn keyed(key: &'static str, principal: &'static str, digest: &'static str) -> Request {
    Request {
        idempotency: Some(Idempotency {
            key: Bytes::from_static(key.as_bytes()),
            principal: Bytes::from_static(principal.as_bytes()),
            request_digest: Bytes::from_static(digest.as_bytes()),
        }),
        ..request()
    }
}

pub(super) fn executed(sequence: u64, slot: u64) -> Action {
    told(sequence, slot, Outcome::Executed)
}

pub(super) fn told(sequence: u64, slot: u64, outcome: Outcome) -> Action {
    Action::Answer(Answer {
        id: id(sequence),
        slot: Slot(slot),
        outcome,
        // The entrance of every request in these tests.
        first_answerer: (outcome == Outcome::Replayed).then_some(id(sequence).member),
    })
}

impl Bench {
    /// A machine in its first life, with the app listening as instance 1.
    pub(super) fn new() -> Self {
        let mut bench = Self::begin(Found::Record(Record::default()), Vec::new());
        bench.machine.handle_app(Some(instance(1)));
        bench
    }

    /// A machine that has not looked at the app yet.
    pub(super) fn begin(ledger: Found, log: Vec<Entry>) -> Self {
        Self::begin_from(StateType::Ephemeral, None, ledger, log)
    }

    /// The same, with another state type or behind a snapshot.
    pub(super) fn begin_from(
        state: StateType,
        base: Option<Fold>,
        ledger: Found,
        log: Vec<Entry>,
    ) -> Self {
        let empty = || Fold::new(configuration(), 1, Policy::default());
        let mut machine = Machine::new(Setup {
            incarnation: Incarnation(1),
            fold: base.clone().unwrap_or_else(empty),
            state,
            ledger,
            half_restored: false,
            promises: Vec::new(),
            gated: false,
            changes_in_place: true,
        });
        machine.handle_commit(Slot(log.len() as u64));
        Self {
            machine,
            log,
            ledger: match ledger {
                Found::Record(record) => record,
                Found::New | Found::Missing | Found::OtherBoot(_) => Record::default(),
            },
            state,
            base,
        }
    }

    /// The same member in its next process.
    pub(super) fn restarted(&self, listens: Option<Instance>) -> Self {
        self.restarted_with(Found::Record(self.ledger), listens)
    }

    pub(super) fn restarted_with(&self, ledger: Found, listens: Option<Instance>) -> Self {
        let log = self.log.clone();
        let mut bench = Self::begin_from(self.state, self.base.clone(), ledger, log);
        bench.machine.handle_app(listens);
        bench
    }

    /// The tables as of this slot of the log.
    pub(super) fn fold_at(&self, slot: u64) -> Fold {
        let mut fold = Fold::new(configuration(), 1, Policy::default());
        for entry in &self.log[..slot as usize] {
            fold.admit(entry);
        }
        fold
    }

    /// A snapshot of this member at this slot of the log, and nothing of the log below.
    pub(super) fn snapshot(&mut self, slot: u64) {
        let fold = self.fold_at(slot);
        if self.machine.handle_snapshot_available(fold.clone()) {
            self.base = Some(fold);
        }
    }

    /// Puts a command into the log, not yet handed in.
    pub(super) fn append(&mut self, kind: CommandKind, id: CommandId, payload: Vec<u8>) -> Slot {
        let slot = Slot(self.log.len() as u64 + 1);
        self.log.push(Entry {
            slot,
            ballot: Ballot::default(),
            time: AgreedTime(slot.0 * 1_000),
            seed: u128::from(slot.0),
            command: Command {
                kind,
                id,
                floor: 1,
                payload: payload.into(),
            },
        });
        slot
    }

    /// Has a request chosen under the sequence number.
    pub(super) fn choose(&mut self, sequence: u64, request: &Request) -> Slot {
        self.append(CommandKind::REQUEST, id(sequence), request.encode_to_vec())
    }

    /// Has it chosen that nobody executes this slot.
    pub(super) fn choose_skip(&mut self, slot: u64) -> Slot {
        let of = &self.log[slot as usize - 1].command.id;
        let skip = Skip {
            slot,
            member: of.member.0,
            boot: of.boot.0,
            sequence: of.sequence,
            unsure: false,
        };
        self.append(
            CommandKind::SKIP,
            CommandId::default(),
            skip.encode_to_vec(),
        )
    }

    /// Has another revision of the app chosen.
    pub(super) fn choose_revision(&mut self, sequence: u64, number: u64, takes_back: bool) -> Slot {
        let revision = Revision {
            number,
            takes_back,
            ..Revision::default()
        };
        self.append(
            CommandKind::REVISION,
            id(sequence),
            revision.encode_to_vec(),
        )
    }

    /// Has one chosen that runs along silently; this member's copy is to save the state of the barrier if
    /// it is 1.
    pub(super) fn choose_rolling(&mut self, sequence: u64, number: u64, saver: u32) -> Slot {
        let mut revision = Revision {
            number,
            saver,
            ..Revision::default()
        };
        revision.set_strategy(RevisionStrategy::Rolling);
        self.append(
            CommandKind::REVISION,
            id(sequence),
            revision.encode_to_vec(),
        )
    }

    /// Has it chosen that a request goes otherwise with that one.
    pub(super) fn choose_disagreement(&mut self, number: u64, slot: u64) -> Slot {
        let disagrees = RevisionDisagrees {
            number,
            slot,
            method: "POST".into(),
            path: "/notes".into(),
            answered: 201,
            silent: 500,
        };
        self.append(
            CommandKind::REVISION_DISAGREES,
            CommandId::default(),
            disagrees.encode_to_vec(),
        )
    }

    /// Has it chosen that this one has taken over.
    pub(super) fn choose_revision_done(&mut self, number: u64) -> Slot {
        self.append(
            CommandKind::REVISION_DONE,
            CommandId::default(),
            RevisionDone {
                number,
                in_spite: false,
            }
            .encode_to_vec(),
        )
    }

    pub(super) fn choose_noop(&mut self) -> Slot {
        self.append(CommandKind::NOOP, CommandId::default(), Vec::new())
    }

    pub(super) fn choose_policy(&mut self, sequence: u64, policy: &Policy) -> Slot {
        self.append(CommandKind::POLICY, id(sequence), policy.encode_to_vec())
    }

    /// Hands in what the machine wants, as an executor does, and returns what it says to do.
    pub(super) fn step(&mut self) -> Vec<Action> {
        self.machine.handle_commit(Slot(self.log.len() as u64));
        let mut actions = Vec::new();
        loop {
            let next = self
                .machine
                .next_to_execute()
                .or(self.machine.next_to_admit());
            if let Some(slot) = next {
                let not_needed = self.machine.not_needed();
                assert!(slot > not_needed, "slot {slot} is not in the log any more");
            }
            let entry = next
                .and_then(|slot| self.log.get(slot.0 as usize - 1))
                .cloned();
            if let Some(entry) = &entry {
                self.machine.handle_entry(entry);
            }
            while let Some(action) = self.machine.poll_action() {
                if let Action::Ledger(record) = action {
                    self.ledger = record;
                }
                actions.push(action);
            }
            if entry.is_none() {
                return actions;
            }
        }
    }

    /// Steps, and expects that exactly one request is sent.
    pub(super) fn sent(&mut self) -> Execute {
        let actions = self.step();
        let mut sent = actions.into_iter().filter_map(|action| match action {
            Action::Execute(execute) => Some(execute),
            _ => None,
        });
        let execute = sent.next().expect("a request is sent");
        assert!(sent.next().is_none(), "one at a time");
        execute
    }

    /// Lets the app execute all that it is sent; returns the slots, and the answers told.
    pub(super) fn run(&mut self) -> (Vec<u64>, Vec<Action>) {
        let (mut slots, mut answers) = (Vec::new(), Vec::new());
        let mut actions = self.step();
        while !actions.is_empty() {
            for action in actions {
                match action {
                    Action::Execute(execute) => {
                        slots.push(execute.slot.0);
                        self.machine.handle_response(execute.run);
                    }
                    Action::Ledger(_) => {}
                    other => answers.push(other),
                }
            }
            actions = self.step();
        }
        (slots, answers)
    }
}
