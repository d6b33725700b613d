//! Requests that kill or hang the app: whoever leads has them judged by the production judge, asks the
//! copies, and does what it says; each copy's promises are on its disk before the leader hears of them.
//!
//! In: what machines know about slots that fail. Out: asks, frees, states of who got past, and skips
//! that the agreement decides about.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message as _;
use synod_paxos::{Ballot, CommandKind, MemberId, Role, Slot, Standing as Office};
use synod_proto::v1::Request;
use synod_sidecar::apply::{Ask, Doubts, Standing, Word};
use synod_sidecar::poison::sim::{Judge, Rules, SkipWhen, Step, Wait};

use crate::app::Work;
use crate::calendar::{Event, Life};
use crate::comparison::{Desk, Told};
use crate::copy::APPLY_TIMEOUT_MS;
use crate::coverage::Sight;
use crate::invariants::Violation;
use crate::network::{id_of, index_of};
use crate::revisions::TakingOver;
use crate::service::Skipping;
use crate::snapshots::Use;
use crate::world::World;

/// How often the leader judges.
const LOOK_NS: u64 = 250_000_000;
/// The longest that a letter is on its way.
const LATE_NS: u64 = 2_000_000_000;
/// A member that is to get another's state is told so again after so long.
const RESTORE_AGAIN_NS: u64 = 2_000_000_000;

/// One leadership.
#[derive(Debug)]
pub(crate) struct Term {
    ballot: Ballot,
    judge: Judge,
    pub(crate) begun_ns: u64,
    /// The read whose index is at or above the first entry of this ballot.
    pub(crate) settle_read: Option<synod_paxos::ReadId>,
    pub(crate) settles_at: Option<Slot>,
    /// Compares the copies, where they are compared.
    pub(crate) desk: Option<Box<Desk>>,
    pub(crate) taking_over: TakingOver,
    settled: bool,
    /// When a member was last told to get another's state.
    restored: BTreeMap<usize, u64>,
}

/// What members tell each other about slots that fail.
#[derive(Clone, Debug)]
pub(crate) struct Letter {
    from: usize,
    to: usize,
    /// Of the leader that wrote it, or that is answered.
    ballot: Ballot,
    /// The life that waits for the answer.
    life: Life,
    news: News,
}

#[derive(Clone, Debug)]
pub(crate) enum News {
    Ask(Ask),
    Free(Ask),
    Restore { slot: Slot, from: MemberId },
    Look,
    Doubts(Box<Doubts>),
    Standing(Ask, Option<Standing>),
    Compare(u64, Box<Word>),
    Told(Box<Told>),
}

/// Promises on their way to the disk, and what is told when they are there.
#[derive(Debug)]
pub(crate) struct Save {
    life: Life,
    number: u64,
    asks: Vec<Ask>,
    then: Option<Letter>,
}

// === impl News ===

impl News {
    /// A member that was asked twice answers twice.
    fn is_question(&self) -> bool {
        matches!(
            self,
            Self::Ask(_) | Self::Free(_) | Self::Restore { .. } | Self::Compare(..)
        )
    }
}

// === the leader ===

impl World {
    pub(crate) fn judge(&mut self, member: usize, life: Life) -> Result<(), Violation> {
        let process = self.hosts[member].process.as_ref();
        if process.is_none_or(|it| it.life != life) {
            return Ok(());
        }
        let every = LOOK_NS.max(self.swarm.service.look_ns);
        self.plan(every, Event::Judge { member, life });
        if !self.lead(member) {
            return Ok(());
        }
        self.settle_term(member);
        self.ask_all(member);
        self.compare_copies(member)?;
        self.look_at_revision(member);
        let now_ns = self.now_ns;
        let word = self.calm || self.dice.chance(self.swarm.service.word);
        let process = self.hosts[member].process.as_mut().expect("it leads");
        let Some(term) = &mut process.term else {
            return Ok(());
        };
        let now_ms = (now_ns - term.begun_ns) / 1_000_000;
        if word
            && let Some(undecided) = term.judge.undecided()
            && undecided.waits.iter().any(|it| *it != Wait::Answers)
            && term.judge.handle_word(now_ms, undecided.slot)
        {
            self.coverage.saw(Sight::Words);
        }
        let steps = term.judge.poll(now_ms);
        for step in steps {
            self.take_step(member, step);
        }
        self.settle(member)
    }

    /// Whether this member leads in an epoch that has begun; its term begins if it is new.
    fn lead(&mut self, member: usize) -> bool {
        let rules = self.rules();
        let compared = self.swarm.compared.is_some();
        let now_ns = self.now_ns;
        let process = self.hosts[member].process.as_mut().expect("it runs");
        let paxos = &process.paxos;
        let (ballot, configuration) = (paxos.promised(), paxos.configuration());
        let leads = paxos.standing() == Office::Leader
            && ballot.node == id_of(member)
            && configuration.epoch == ballot.epoch;
        if !leads {
            process.term = None;
            return false;
        }
        if process.term.as_ref().is_none_or(|it| it.ballot != ballot) {
            let members = configuration.members.iter();
            let copies = members.filter(|it| it.role != Role::Witness);
            let copies = copies.map(|it| it.id).collect();
            process.term = Some(Term {
                ballot,
                judge: Judge::new(ballot, copies, rules),
                begun_ns: now_ns,
                settle_read: None,
                settles_at: None,
                desk: compared.then(|| Box::new(Desk::new(now_ns))),
                taking_over: TakingOver::default(),
                settled: false,
                restored: BTreeMap::new(),
            });
        }
        true
    }

    fn rules(&self) -> Rules {
        Rules {
            skip: match self.swarm.service.skipping {
                Skipping::Never => SkipWhen::Never,
                Skipping::AllFailed => SkipWhen::AllFailed,
                Skipping::ReachableFailed => SkipWhen::ReachableFailed,
            },
            apply_timeout_ms: APPLY_TIMEOUT_MS,
            has_snapshots: self.swarm.snapshot_slots > 0,
        }
    }

    /// Notes when an entry of this ballot is committed and the log up to there is known here.
    fn settle_term(&mut self, member: usize) {
        let now = self.clock(member);
        let now_ns = self.now_ns;
        let process = self.hosts[member].process.as_mut().expect("it leads");
        let admitted = process.copy.machine.fold().admitted();
        let doubts = Doubts::of(&process.copy.machine);
        let Some(term) = process.term.as_mut().filter(|it| !it.settled) else {
            return;
        };
        if term.settles_at.is_some_and(|it| it <= admitted) {
            let now_ms = (now_ns - term.begun_ns) / 1_000_000;
            term.judge.handle_doubts(now_ms, id_of(member), doubts);
            term.judge.handle_settled();
            term.settled = true;
        } else if term.settles_at.is_none() && term.settle_read.is_none() {
            process.last_read.0 += 1;
            let id = process.last_read;
            term.settle_read = Some(id);
            process.paxos.read(now, id);
        }
    }

    /// Asks each copy what it knows.
    fn ask_all(&mut self, member: usize) {
        let process = self.hosts[member].process.as_ref().expect("it leads");
        let members = process.paxos.configuration().members.iter();
        let copies = members.filter(|it| it.role != Role::Witness);
        let copies: Vec<usize> = copies.map(|it| index_of(it.id)).collect();
        for to in copies {
            self.write_to(member, to, News::Look);
        }
    }

    pub(crate) fn write_to(&mut self, member: usize, to: usize, news: News) {
        let process = self.hosts[member].process.as_ref().expect("it leads");
        let Some(ballot) = process.term.as_ref().map(|it| it.ballot) else {
            return;
        };
        let letter = Letter {
            from: member,
            to,
            ballot,
            life: process.life,
            news,
        };
        self.send_letter(letter);
    }

    /// It may come late, and what is asked may come twice.
    fn send_letter(&mut self, letter: Letter) {
        let (own, to) = (letter.from == letter.to, letter.to);
        let network = self.swarm.network.clone();
        // That an ask comes once more after all that came of it is rare otherwise.
        let again = match &letter.news {
            News::Ask(_) => network.duplicate.max(0.1),
            news if news.is_question() => network.duplicate,
            _ => 0.0,
        };
        let again = !own && !self.calm && self.dice.chance(again);
        if again {
            let delay = self.dice.range(network.delay_low_ns, LATE_NS);
            self.post(to, letter.clone(), delay);
        }
        let late = !own && !self.calm && self.dice.chance(network.straggler);
        let delay = if own {
            1_000
        } else if late {
            self.dice.range(network.delay_low_ns, LATE_NS)
        } else {
            self.dice.range(network.delay_low_ns, network.delay_high_ns)
        };
        self.post(to, letter, delay);
    }

    fn post(&mut self, to: usize, letter: Letter, delay: u64) {
        self.next_letter += 1;
        let number = self.next_letter;
        self.letters.insert(number, letter);
        self.plan(delay, Event::Letter { member: to, number });
    }

    fn take_step(&mut self, member: usize, step: Step) {
        match step {
            Step::Ask { to, ask } => {
                self.coverage.saw(Sight::Asks);
                self.write_to(member, index_of(to), News::Ask(ask));
            }
            Step::Free { to, ask } => {
                self.coverage.saw(Sight::Frees);
                self.write_to(member, index_of(to), News::Free(ask));
            }
            Step::Restore { slot, from, to } => {
                for to in [index_of(from), index_of(to)] {
                    let now_ns = self.now_ns;
                    let process = self.hosts[member].process.as_mut().expect("it leads");
                    let term = process.term.as_mut().expect("it leads");
                    let last = term.restored.get(&to);
                    if last.is_none_or(|at| now_ns >= at + RESTORE_AGAIN_NS) {
                        term.restored.insert(to, now_ns);
                        self.write_to(member, to, News::Restore { slot, from });
                    }
                }
            }
            Step::Skip { slot, unsure } => self.propose_skip(member, slot, unsure),
        }
    }

    fn propose_skip(&mut self, member: usize, slot: Slot, unsure: bool) {
        let now = self.clock(member);
        let host = &mut self.hosts[member];
        let Some(entry) = host.disk.read(slot) else {
            return;
        };
        if entry.command.kind != CommandKind::REQUEST {
            return;
        }
        let held = (entry.command.id, entry.ballot);
        let process = host.process.as_mut().expect("it leads");
        let term = process.term.as_mut().expect("it leads");
        let skip = term.judge.skip(slot, held, unsure);
        let unsure = skip.unsure;
        let payload = Bytes::from(skip.encode_to_vec());
        if process.paxos.skip(now, term.ballot, payload).is_ok() {
            term.judge.handle_proposed(slot);
            self.trace.line(self.now_ns, || {
                format!(
                    "{} proposes to skip slot {slot}, unsure: {unsure}",
                    member + 1
                )
            });
        }
    }
}

// === each member ===

impl World {
    /// A letter arrives, if a path is there and its reader is still who was meant.
    pub(crate) fn letter(&mut self, number: u64) -> Result<(), Violation> {
        let Some(letter) = self.letters.remove(&number) else {
            return Ok(());
        };
        let Letter {
            from, to, ballot, ..
        } = letter;
        let cut = from != to && self.network.is_cut(from, to);
        let now_ns = self.now_ns;
        let Some(process) = self.hosts[to].process.as_mut().filter(|_| !cut) else {
            return Ok(());
        };
        let term = process.term.as_mut();
        let term = term.filter(|it| it.ballot == ballot && process.life == letter.life);
        match letter.news {
            News::Doubts(doubts) => {
                if let Some(term) = term {
                    let now_ms = (now_ns - term.begun_ns) / 1_000_000;
                    term.judge.handle_doubts(now_ms, id_of(from), *doubts);
                }
                return Ok(());
            }
            News::Standing(ask, standing) => {
                if let Some(term) = term {
                    term.judge.handle_standing(id_of(from), ask, standing);
                }
                return Ok(());
            }
            News::Told(told) => {
                return match term {
                    Some(_) => self.copy_told(to, from, *told),
                    None => Ok(()),
                };
            }
            _ => {}
        }
        // It answers the leader that it follows, and nobody else.
        let follows = (process.paxos.leader(), process.paxos.promised());
        if follows != (Some(id_of(from)), ballot) {
            return Ok(());
        }
        let answer = |news| Letter {
            from: to,
            to: from,
            ballot,
            life: letter.life,
            news,
        };
        match letter.news {
            News::Look => {
                let known = Box::new(Doubts::of(&process.copy.machine));
                self.send_letter(answer(News::Doubts(known)));
                Ok(())
            }
            News::Ask(ask) => {
                let standing = process.copy.machine.handle_ask(ask);
                self.coverage.saw(match standing {
                    Some(Standing::Applied) => Sight::AnsweredApplied,
                    Some(Standing::Failed) => Sight::AnsweredFailed,
                    Some(Standing::Held) => Sight::AnsweredHeld,
                    Some(Standing::Unknown) => Sight::AnsweredUnknown,
                    None => Sight::AnsweredNothing,
                });
                self.trace.line(self.now_ns, || {
                    format!("{} answers {ask:?}: {standing:?}", to + 1)
                });
                let letter = answer(News::Standing(ask, standing));
                self.save_promises(to, Some(letter));
                self.settle(to)
            }
            News::Free(ask) => {
                process.copy.machine.handle_free(ask);
                self.settle(to)
            }
            News::Restore { slot, from } => {
                self.help_past(to, index_of(from), slot);
                self.settle(to)
            }
            News::Compare(number, word) => {
                if let Some(told) = self.hear_word(to, number, &word)? {
                    self.send_letter(answer(News::Told(Box::new(told))));
                }
                Ok(())
            }
            News::Doubts(_) | News::Standing(..) | News::Told(_) => {
                unreachable!("these were looked at")
            }
        }
    }

    /// A copy that got past the slot gives its state, the others get it.
    fn help_past(&mut self, member: usize, from: usize, slot: Slot) {
        let host = &mut self.hosts[member];
        let past = host.newest_usable().is_some_and(|it| it.base.slot >= slot);
        if past {
            return;
        }
        self.coverage.saw(Sight::HelpedPast);
        if member != from {
            return self.fetch_past(member, from, slot);
        }
        let process = host.process.as_ref().expect("it was asked");
        if process.copy.machine.astray().is_some() {
            return;
        }
        let now = process.copy.maker(process.life);
        let mut made = host.snapshots.iter_mut().rev();
        let made = made.find(|it| it.base.slot >= slot && it.maker.is_some_and(|it| it.is(now)));
        match made {
            Some(made) => made.standing = Use::Unverified,
            None => self.take(member),
        }
    }

    /// What is promised is on its way to the disk, and then told.
    fn save_promises(&mut self, member: usize, then: Option<Letter>) {
        let takes = self.dice.log_range(20_000, 20_000_000);
        let process = self.hosts[member].process.as_mut().expect("it was asked");
        let copy = &mut process.copy;
        copy.promised = copy.machine.promises().collect();
        copy.promises_handed += 1;
        let save = Save {
            life: process.life,
            number: copy.promises_handed,
            asks: copy.promised.clone(),
            then,
        };
        self.next_letter += 1;
        let number = self.next_letter;
        self.saves.insert(number, save);
        self.plan(takes, Event::Saved { member, number });
    }

    /// What ended meanwhile need not be kept any more.
    pub(crate) fn keep_promises(&mut self, member: usize) {
        let Some(process) = &self.hosts[member].process else {
            return;
        };
        let promises = process.copy.machine.promises();
        if !promises.eq(process.copy.promised.iter().copied()) {
            self.save_promises(member, None);
        }
    }

    pub(crate) fn promises_saved(&mut self, member: usize, number: u64) {
        let Some(save) = self.saves.remove(&number) else {
            return;
        };
        let host = &mut self.hosts[member];
        let Some(process) = host.process.as_mut().filter(|it| it.life == save.life) else {
            // The file is written anew as a whole: it is there, or the one before.
            return;
        };
        if process.promises_saved < save.number {
            process.promises_saved = save.number;
            host.promises = save.asks;
        }
        if let Some(letter) = save.then {
            self.send_letter(letter);
        }
    }

    /// A copy has learnt that nobody executes a slot.
    pub(crate) fn skipped(
        &mut self,
        member: usize,
        slot: Slot,
        unsure: bool,
    ) -> Result<(), Violation> {
        self.trace.line(self.now_ns, || {
            format!("{} skips slot {slot}, unsure: {unsure}", member + 1)
        });
        let held = self.checks.chosen.value(slot);
        let held = held.and_then(|it| Request::decode(it.command.payload.clone()).ok());
        let Some(op) = held.map(|it| Work::decode(&it.body).op) else {
            let text = format!("slot {slot} is skipped and holds no request");
            return Err(Violation::new("K1", text));
        };
        if self.checks.skipped(slot, unsure, op)? {
            self.coverage.saw(if unsure {
                Sight::SkipsUnsure
            } else {
                Sight::Skips
            });
        }
        Ok(())
    }
}
