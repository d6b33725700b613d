//! Requests that no copy gets past: the leader's production judge asks the copies and does what follows.
//! What members tell each other about that arrives at once, where there is a way.

use std::collections::BTreeSet;

use prost::Message as _;
use synod_paxos::{Ballot, CommandKind, MemberId, ReadId, Role, Slot, Standing as Office};
use synod_sidecar::apply::{Doubts, Standing};
use synod_sidecar::poison::sim::{Judge, Rules, SkipWhen, Step, Wait};

use super::{APPLY_TIMEOUT_MS, World};
use crate::words::Wrong;

/// One leadership.
pub(super) struct Term {
    ballot: Ballot,
    judge: Judge,
    begun_ns: u64,
    /// The read whose index is at or above the first entry of this ballot.
    settle_read: Option<ReadId>,
    settles_at: Option<Slot>,
    settled: bool,
}

impl World {
    /// The leader looks once at slots that fail.
    pub(crate) fn judge(&mut self, member: u32) -> Result<(), Wrong> {
        self.begin_term(member)?;
        self.settle_term(member);
        let now_ns = self.now_ns;
        let process = self.running(member)?;
        let configuration = process.paxos.configuration().clone();
        let copies = configuration.members.iter();
        let copies = copies.filter(|it| it.role != Role::Witness).map(|it| it.id);
        for copy in copies {
            let Some(doubts) = self.asks(member, copy.0, |machine| Doubts::of(machine)) else {
                continue;
            };
            let term = self.running(member)?.term.as_mut().expect("it has begun");
            let now_ms = (now_ns - term.begun_ns) / 1_000_000;
            term.judge.handle_doubts(now_ms, copy, doubts);
        }
        let term = self.running(member)?.term.as_mut().expect("it has begun");
        let now_ms = (now_ns - term.begun_ns) / 1_000_000;
        let steps = term.judge.poll(now_ms);
        for step in steps {
            self.take_step(member, step);
        }
        let term = self.running(member)?.term.as_mut().expect("it has begun");
        if let Some(undecided) = term.judge.undecided() {
            let waits: Vec<String> = undecided.waits.iter().map(|it| waits_for(*it)).collect();
            let waits = waits.join(", ");
            self.say(format!("slot {} waits for {waits}", undecided.slot));
        }
        self.settle(member);
        self.beat();
        Ok(())
    }

    /// A person wants a slot skipped, whatever can still be learnt.
    pub(crate) fn skip(&mut self, member: u32, slot: Slot) -> Result<(), Wrong> {
        self.begin_term(member)?;
        let now_ns = self.now_ns;
        let term = self.running(member)?.term.as_mut().expect("it has begun");
        let now_ms = (now_ns - term.begun_ns) / 1_000_000;
        if !term.judge.handle_word(now_ms, slot) {
            return Err(format!("nothing waits for slot {slot}"));
        }
        Ok(())
    }

    fn begin_term(&mut self, member: u32) -> Result<(), Wrong> {
        let now = self.hosts.get(&member).map(|_| self.now_at(member));
        let now_ns = self.now_ns;
        let process = self.running(member)?;
        let paxos = &process.paxos;
        if paxos.standing() != Office::Leader {
            process.term = None;
            return Err(format!("{member} does not lead"));
        }
        let ballot = paxos.promised();
        if process.term.as_ref().is_some_and(|it| it.ballot == ballot) {
            return Ok(());
        }
        let members = paxos.configuration().members.iter();
        let copies = members.filter(|it| it.role != Role::Witness);
        let copies: BTreeSet<MemberId> = copies.map(|it| it.id).collect();
        let rules = Rules {
            skip: SkipWhen::AllFailed,
            apply_timeout_ms: APPLY_TIMEOUT_MS,
            has_snapshots: true,
        };
        process.last_read = ReadId(process.last_read.0 + 1);
        let id = process.last_read;
        process.term = Some(Term {
            ballot,
            judge: Judge::new(ballot, copies, rules),
            begun_ns: now_ns,
            settle_read: Some(id),
            settles_at: None,
            settled: false,
        });
        process.paxos.read(now.unwrap_or_default(), id);
        self.settle(member);
        self.beat();
        Ok(())
    }

    /// The index for the judge has come.
    pub(super) fn judge_settles(&mut self, member: u32, id: ReadId, index: Slot) -> bool {
        let Ok(process) = self.running(member) else {
            return false;
        };
        match &mut process.term {
            Some(term) if term.settle_read == Some(id) => {
                term.settles_at = Some(index);
                true
            }
            _ => false,
        }
    }

    /// An entry of this ballot is committed, and the log up to there is known.
    fn settle_term(&mut self, member: u32) {
        let Ok(process) = self.running(member) else {
            return;
        };
        let admitted = process.machine.fold().admitted();
        let doubts = Doubts::of(&process.machine);
        let me = process.paxos.member();
        if let Some(term) = process.term.as_mut().filter(|it| !it.settled)
            && term.settles_at.is_some_and(|it| it <= admitted)
        {
            term.judge.handle_doubts(0, me, doubts);
            term.judge.handle_settled();
            term.settled = true;
        }
    }

    /// What a copy answers to a leader that it follows.
    fn asks<T>(
        &mut self,
        leader: u32,
        copy: u32,
        ask: impl FnOnce(&mut synod_sidecar::apply::Machine) -> T,
    ) -> Option<T> {
        let ballot = self.process(leader)?.paxos.promised();
        let awake = self.hosts.get(&copy)?.is_awake();
        let reached = leader == copy || self.is_open(leader, copy);
        let paxos = &self.process(copy)?.paxos;
        let follows = leader == copy
            || (paxos.promised() == ballot && paxos.leader() == Some(MemberId(leader)));
        if !awake || !reached || !follows {
            return None;
        }
        let answer = ask(&mut self.running(copy).ok()?.machine);
        self.settle(copy);
        Some(answer)
    }

    fn take_step(&mut self, member: u32, step: Step) {
        match step {
            Step::Ask { to, ask } => {
                let answer = self.asks(member, to.0, |machine| machine.handle_ask(ask));
                let Some(standing) = answer else {
                    self.say(format!(
                        "{member} asks {to} about slot {}: no answer",
                        ask.slot
                    ));
                    return;
                };
                let word = match standing {
                    Some(Standing::Applied) => "applied",
                    Some(Standing::Failed) => "failed, and promises not to try it",
                    Some(Standing::Held) => "held, and promises not to send it",
                    Some(Standing::Unknown) => "unknown, and promises not to try it",
                    None => "nothing",
                };
                self.say(format!(
                    "{member} asks {to} about slot {}: {word}",
                    ask.slot
                ));
                if let Ok(process) = self.running(member)
                    && let Some(term) = &mut process.term
                {
                    term.judge.handle_standing(to, ask, standing);
                }
            }
            Step::Free { to, ask } => {
                self.say(format!("{member} frees {to} for slot {}", ask.slot));
                self.asks(member, to.0, |machine| machine.handle_free(ask));
            }
            Step::Restore { slot, from, to } => {
                self.say(format!(
                    "{to} is to get the state of {from}, which has done slot {slot}"
                ));
            }
            Step::Skip { slot, unsure } => self.propose_skip(member, slot, unsure),
        }
    }

    fn propose_skip(&mut self, member: u32, slot: Slot, unsure: bool) {
        let now = self.now_at(member);
        let Ok(process) = self.running(member) else {
            return;
        };
        let Some(entry) = process.entry(slot) else {
            return;
        };
        if entry.command.kind != CommandKind::REQUEST {
            return;
        }
        let term = process.term.as_mut().expect("it leads");
        let held = (entry.command.id, entry.ballot);
        let payload = term.judge.skip(slot, held, unsure).encode_to_vec();
        let ballot = term.ballot;
        if process.paxos.skip(now, ballot, payload.into()).is_ok() {
            term.judge.handle_proposed(slot);
            self.say(format!("{member} proposes to skip slot {slot}"));
        }
    }
}

fn waits_for(wait: Wait) -> String {
    match wait {
        Wait::Answers => "answers".to_owned(),
        Wait::Person => "a person".to_owned(),
        Wait::Unreachable(member) => format!("{member}, which cannot be asked"),
        Wait::Forgotten(member) => format!("{member}, which does not know"),
        Wait::StateOf(member) => format!("the state of {member}"),
    }
}
