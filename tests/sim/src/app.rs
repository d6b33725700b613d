//! The model app: append lists, one per register, of which it keeps the length and a running hash.
//!
//! In: bodies of ordered requests, one at a time, and reads. Out: answers that pin down the whole
//! state they came from. It knows nothing of the group; its process can be slow, hang, lose a
//! connection or die. What its next process begins with depends on where it keeps its state: nothing
//! (in memory), whatever a crash leaves of the files, a state of a moment before, which it can name, or
//! all but perhaps the last request.

use std::collections::VecDeque;

use bytes::Bytes;
use synod_paxos::Slot;
use synod_sidecar::apply::{StateType, UncleanCrash};

use crate::dice::Dice;

/// States of which a crash leaves one, where the app writes each as a whole.
const HISTORY: usize = 6;

/// Where numbers of machines that are not struck begin, in a body.
const BUT: u8 = 128;
/// How often revisions of the app that do so answer with another status class: one request in so many.
const REFUSES: u64 = 7;

/// What a request does to the app's process, besides its work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Poison {
    #[default]
    None,
    /// The process dies of it.
    Kills(On),
    /// It never answers.
    Hangs(On),
}

/// Where that happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum On {
    /// On every copy, each time.
    All,
    /// On the copy of this machine.
    One(usize),
    /// On every copy but that of this machine.
    AllBut(usize),
    /// Now here, now there.
    Some,
}

/// What a request asks of the app, as it travels in the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Work {
    /// The client's operation.
    pub(crate) op: u64,
    pub(crate) register: u64,
    pub(crate) poison: Poison,
}

/// The state of one register.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Register {
    /// How many values were appended.
    pub(crate) count: u64,
    /// Hash over all of them in order.
    pub(crate) chain: u64,
}

/// All that the app knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct State {
    /// Hash over everything executed, in order, with its slots.
    digest: u64,
    /// What was executed last, and what came of it. An app with an applied header knows the slot; for
    /// the others it is for the checks only.
    last: Option<Done>,
    registers: Vec<Register>,
    /// Slots that it contains and that may be skipped some day; for the checks only.
    poisonous: Vec<Slot>,
    /// Registers, as bits, that are not what they should be; for the checks only.
    odd: u64,
    /// The revision of the app that has executed the last; for the checks only.
    by: u64,
}

/// A request that was executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Done {
    pub(crate) slot: Slot,
    pub(crate) work: Work,
    pub(crate) result: Register,
}

/// What comes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) result: Register,
    /// Hash over all that the state contains then.
    pub(crate) digest: u64,
    /// The status code.
    pub(crate) status: u16,
    /// It has a header field that other revisions do not send.
    pub(crate) dressed: bool,
    /// It is not what it should be.
    pub(crate) odd: bool,
    /// Of the app.
    pub(crate) revision: u64,
    /// If another revision had executed what came before: which, and up to where.
    pub(crate) begun: Option<(u64, Slot)>,
}

/// How a revision of the app answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Manners {
    /// It refuses some requests that others do not refuse, though it executes them.
    pub(crate) refuses: bool,
    /// It sends a header field that others do not.
    pub(crate) dressed: bool,
}

/// The app of one machine.
#[derive(Debug)]
pub(crate) struct App {
    /// Number of the process, from 1; its identity (rule A4).
    pub(crate) process: u64,
    pub(crate) up: bool,
    kind: StateType,
    registers: u64,
    state: State,
    /// This process has executed something: its files are in motion.
    dirty: bool,
    /// With an applied header: states that a crash may leave, oldest first.
    history: VecDeque<State>,
    /// The ordered request that it works on, or worked on last, and what came of it.
    pub(crate) work: Option<(Slot, Work, Option<Register>)>,
    /// Of the process, or of the last.
    pub(crate) revision: u64,
    manners: Manners,
    /// It is about to go astray.
    pub(crate) strays: bool,
}

// === impl Work ===

impl Work {
    /// The body of a request, padded to at least `bytes`.
    pub(crate) fn encode(self, bytes: u64) -> Bytes {
        let mut body = vec![0_u8; (bytes as usize).max(18)];
        body[..8].copy_from_slice(&self.op.to_le_bytes());
        body[8..16].copy_from_slice(&self.register.to_le_bytes());
        let (what, on) = match self.poison {
            Poison::None => (0, None),
            Poison::Kills(on) => (1, Some(on)),
            Poison::Hangs(on) => (2, Some(on)),
        };
        body[16] = what;
        body[17] = match on {
            None | Some(On::All) => 0,
            Some(On::Some) => 1,
            Some(On::One(machine)) => 2 + u8::try_from(machine).expect("few machines"),
            Some(On::AllBut(machine)) => BUT + u8::try_from(machine).expect("few machines"),
        };
        body.into()
    }

    pub(crate) fn decode(body: &[u8]) -> Self {
        let word = |at: usize| u64::from_le_bytes(body[at..at + 8].try_into().expect("8 bytes"));
        let on = match body[17] {
            0 => On::All,
            1 => On::Some,
            machine if machine >= BUT => On::AllBut(usize::from(machine - BUT)),
            machine => On::One(usize::from(machine) - 2),
        };
        Self {
            op: word(0),
            register: word(8),
            poison: match body[16] {
                0 => Poison::None,
                1 => Poison::Kills(on),
                _ => Poison::Hangs(on),
            },
        }
    }
}

// === impl Register ===

impl Register {
    /// This register with one more value.
    pub(crate) fn append(self, op: u64) -> Self {
        Self {
            count: self.count + 1,
            chain: mix(self.chain, op),
        }
    }
}

// === impl State ===

impl State {
    fn empty(registers: u64) -> Self {
        Self {
            registers: vec![Register::default(); registers as usize],
            ..Self::default()
        }
    }

    /// What is left of files in the middle of being written: nothing that makes sense.
    fn tear(&mut self, dice: &mut Dice) {
        let noise = dice.range(1, u64::MAX);
        self.digest ^= noise;
        for register in &mut self.registers {
            register.chain ^= noise;
        }
    }

    /// The last slot that it contains.
    pub(crate) fn reflects(&self) -> Slot {
        self.last.map_or(Slot::ZERO, |it| it.slot)
    }

    pub(crate) fn last(&self) -> Option<Done> {
        self.last
    }

    /// Equal on two copies that executed the same requests at the same slots.
    pub(crate) fn digest(&self) -> u64 {
        self.digest
    }

    pub(crate) fn poisonous(&self) -> &[Slot] {
        &self.poisonous
    }

    /// Something in it is not what it should be.
    pub(crate) fn is_odd(&self) -> bool {
        self.odd != 0
    }

    fn is_odd_at(&self, register: u64) -> bool {
        self.odd & (1 << register) != 0
    }
}

// === impl App ===

impl App {
    pub(crate) fn new(kind: StateType, registers: u64) -> Self {
        Self {
            process: 0,
            up: false,
            kind,
            registers,
            state: State::empty(registers),
            dirty: false,
            history: VecDeque::new(),
            work: None,
            revision: 0,
            manners: Manners::default(),
            strays: false,
        }
    }

    /// A new process, of this revision, begins with what is there.
    pub(crate) fn start(&mut self, revision: u64, manners: Manners) {
        self.process += 1;
        self.up = true;
        self.revision = revision;
        self.manners = manners;
        self.strays = false;
        self.dirty = false;
        self.work = None;
        if self.kind == StateType::Ephemeral {
            self.state = State::empty(self.registers);
        }
        self.history.clear();
        self.history.push_back(self.state.clone());
    }

    /// The process is gone, and with `machine` all that was not on its disk.
    pub(crate) fn die(&mut self, machine: bool, dice: &mut Dice) {
        if !std::mem::take(&mut self.up) {
            return;
        }
        self.work = None;
        match self.kind {
            StateType::Ephemeral => self.state = State::empty(self.registers),
            StateType::Volume(UncleanCrash::Rollback) if self.dirty => self.state.tear(dice),
            StateType::Volume(UncleanCrash::AppliedHeader) => {
                self.state = self.history[dice.pick(self.history.len())].clone();
            }
            StateType::Volume(UncleanCrash::AtLeastOnce) if machine => self.state.tear(dice),
            StateType::Volume(UncleanCrash::Rollback | UncleanCrash::AtLeastOnce) => {}
        }
    }

    /// Its files are touched by somebody who has not come to an end.
    pub(crate) fn spoil(&mut self, dice: &mut Dice) {
        self.state.tear(dice);
        self.history.clear();
        self.history.push_back(self.state.clone());
    }

    /// Its state is this one from now on; `None`: the one before the first request.
    pub(crate) fn put(&mut self, state: Option<&State>) {
        let empty = || State::empty(self.registers);
        self.state = state.map_or_else(empty, Clone::clone);
        self.history.clear();
        self.history.push_back(self.state.clone());
    }

    pub(crate) fn state(&self) -> &State {
        &self.state
    }

    /// What this register holds is not what it should hold from now on.
    pub(crate) fn go_astray(&mut self, register: u64, noise: u64) {
        self.state.odd |= 1 << register;
        self.state.registers[register as usize].chain ^= noise;
    }

    /// Something that it may go on with is not what it should be.
    pub(crate) fn knows_odd(&self) -> bool {
        self.state.odd != 0 || self.history.iter().any(|it| it.odd != 0)
    }

    /// Does what the request asks. Whoever sends requests again says that each may come twice.
    pub(crate) fn execute(&mut self, slot: Slot, work: Work) -> Answer {
        assert!(self.up, "a dead app executes nothing");
        let before = (self.state.by, self.state.reflects());
        let repeats = self.kind == StateType::Volume(UncleanCrash::AtLeastOnce);
        let last = self.state.last.filter(|it| repeats && it.slot == slot);
        let result = match last {
            Some(last) => last.result,
            None => self.work_on(slot, work),
        };
        Answer {
            result,
            digest: self.state.digest,
            status: if self.manners.refuses && work.op.is_multiple_of(REFUSES) {
                500
            } else {
                200
            },
            dressed: self.manners.dressed,
            odd: self.state.is_odd_at(work.register),
            revision: self.revision,
            begun: Some(before).filter(|(by, _)| *by != self.revision),
        }
    }

    fn work_on(&mut self, slot: Slot, work: Work) -> Register {
        self.dirty = true;
        let state = &mut self.state;
        state.by = self.revision;
        let register = &mut state.registers[work.register as usize];
        *register = register.append(work.op);
        let result = *register;
        state.digest = mix(mix(state.digest, slot.0), work.op);
        state.last = Some(Done { slot, work, result });
        if work.poison != Poison::None {
            state.poisonous.push(slot);
        }
        if self.kind == StateType::Volume(UncleanCrash::AppliedHeader) {
            self.history.push_back(state.clone());
            if self.history.len() > HISTORY {
                self.history.pop_front();
            }
        }
        result
    }

    /// Answers a read, with the slot whose state it shows. `None`: not as it should.
    pub(crate) fn read(&self, register: u64) -> Option<(Register, Slot)> {
        assert!(self.up, "a dead app answers nothing");
        let value = self.state.registers[register as usize];
        (!self.state.is_odd_at(register)).then(|| (value, self.state.reflects()))
    }
}

/// A cheap hash step; collisions would only hide a fault, with probability 2^-64.
pub(crate) fn mix(state: u64, word: u64) -> u64 {
    let mut x = state.rotate_left(23) ^ word.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x ^= x >> 30;
    x = x.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x ^= x >> 27;
    x
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_request_does_travels_in_its_body() {
        for poison in [
            Poison::None,
            Poison::Kills(On::All),
            Poison::Kills(On::Some),
            Poison::Hangs(On::One(0)),
            Poison::Hangs(On::One(6)),
            Poison::Kills(On::AllBut(0)),
            Poison::Hangs(On::AllBut(20)),
        ] {
            let work = Work {
                op: 1 << 40,
                register: 3,
                poison,
            };
            assert_eq!(Work::decode(&work.encode(1)), work);
        }
    }

    fn after_a_crash(crash: Option<UncleanCrash>, machine: bool) -> (State, State) {
        let kind = crash.map_or(StateType::Ephemeral, StateType::Volume);
        let dice = &mut Dice::new(1);
        let mut app = App::new(kind, 1);
        app.start(0, Manners::default());
        for slot in 1..=20 {
            let work = Work {
                op: slot,
                register: 0,
                poison: Poison::None,
            };
            app.execute(Slot(slot), work);
        }
        let before = app.state.clone();
        app.die(machine, dice);
        app.start(0, Manners::default());
        (before, app.state.clone())
    }

    #[test]
    fn what_a_crash_leaves_is_what_the_kind_of_state_says() {
        let (_, after) = after_a_crash(None, false);
        assert_eq!(after, State::empty(1));
        let (before, after) = after_a_crash(Some(UncleanCrash::Rollback), false);
        assert_ne!(after.digest, before.digest);
        let (before, after) = after_a_crash(Some(UncleanCrash::AppliedHeader), true);
        assert!(after.reflects().0 + HISTORY as u64 > before.reflects().0);
        let (before, after) = after_a_crash(Some(UncleanCrash::AtLeastOnce), false);
        assert_eq!(after, before);
        let (before, after) = after_a_crash(Some(UncleanCrash::AtLeastOnce), true);
        assert_ne!(after.digest, before.digest);
    }
}
