//! The model app: append lists, one per register, of which it keeps the length and a running hash.
//!
//! In: bodies of ordered requests, one at a time, and reads. Out: answers that pin down the whole
//! state they came from. It knows nothing of the group; its process can be slow, lose a connection
//! or die with all its state (`Ephemeral`).

use bytes::Bytes;
use synod_paxos::Slot;

/// What a request asks of the app, as it travels in the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Work {
    /// The client's operation.
    pub(crate) op: u64,
    pub(crate) register: u64,
}

/// The state of one register.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Register {
    /// How many values were appended.
    pub(crate) count: u64,
    /// Hash over all of them in order.
    pub(crate) chain: u64,
}

/// One process of the app.
#[derive(Debug, Default)]
pub(crate) struct App {
    /// Number of the process, from 1; its identity (rule A4).
    pub(crate) process: u64,
    pub(crate) up: bool,
    /// Hash over everything executed, in order, with its slots.
    digest: u64,
    /// The last slot whose effect is in the state. The app does not know it; the checks do.
    reflects: Slot,
    registers: Vec<Register>,
    /// The ordered request that it works on, or worked on last, and what came of it.
    pub(crate) work: Option<(Slot, Work, Option<Register>)>,
}

// === impl Work ===

impl Work {
    /// The body of a request, padded to at least `bytes`.
    pub(crate) fn encode(self, bytes: u64) -> Bytes {
        let mut body = vec![0_u8; (bytes as usize).max(16)];
        body[..8].copy_from_slice(&self.op.to_le_bytes());
        body[8..16].copy_from_slice(&self.register.to_le_bytes());
        body.into()
    }

    pub(crate) fn decode(body: &[u8]) -> Self {
        let word = |at: usize| u64::from_le_bytes(body[at..at + 8].try_into().expect("8 bytes"));
        Self {
            op: word(0),
            register: word(8),
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

// === impl App ===

impl App {
    /// A new process with an empty state.
    pub(crate) fn start(&mut self, registers: u64) {
        self.process += 1;
        self.up = true;
        self.digest = 0;
        self.reflects = Slot::ZERO;
        self.registers = vec![Register::default(); registers as usize];
        self.work = None;
    }

    /// The process is gone, and with it all it knew.
    pub(crate) fn die(&mut self) {
        self.up = false;
        self.work = None;
    }

    /// Does what the request asks. `slot` is for the checks only.
    pub(crate) fn execute(&mut self, slot: Slot, work: Work) -> Register {
        assert!(self.up, "a dead app executes nothing");
        let register = &mut self.registers[work.register as usize];
        *register = register.append(work.op);
        self.digest = mix(mix(self.digest, slot.0), work.op);
        self.reflects = slot;
        *register
    }

    /// Answers a read, with the slot whose state it shows.
    pub(crate) fn read(&self, register: u64) -> (Register, Slot) {
        assert!(self.up, "a dead app answers nothing");
        (self.registers[register as usize], self.reflects)
    }

    /// Equal on two copies that executed the same requests at the same slots.
    pub(crate) fn digest(&self) -> u64 {
        self.digest
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
