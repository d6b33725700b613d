//! The model app: a table of values, and whatever a script wants it to do wrong.
//!
//! A request is `x=1` (sets x), `x+1` (adds to it) or `x` with anything else behind it (noted as text).
//! The answer says what the request was and what x is then.

use std::collections::BTreeMap;
use std::num::NonZeroU64;

use synod_paxos::Slot;
use synod_sidecar::app::Instance;
use synod_sidecar::apply::{StateType, UncleanCrash};

/// All that the app knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct State {
    values: BTreeMap<String, String>,
    /// What it has executed, with the slots, which it knows nothing of; for the claims only.
    pub(super) executed: Vec<(Slot, String)>,
}

/// What the app does with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// Its process dies before a byte has come.
    DiesBefore,
    /// It dies when a part of the request has come.
    DiesDuring,
    /// It dies when it has executed it, before it answers.
    DiesAfter,
    /// It works on it and does not answer.
    Hangs,
    /// The connection breaks before all of the request has come; the process lives on.
    LosesRequest,
    /// The connection breaks before all of the answer has left; the process lives on.
    LosesAnswer,
    /// It does something else than it should.
    Differs,
}

/// The app of one machine.
#[derive(Debug)]
pub(super) struct App {
    kind: StateType,
    /// Number of the process, from 1: its identity (rule A4).
    process: u64,
    pub(super) up: bool,
    /// It is not started before somebody says so.
    pub(super) stays_down: bool,
    state: State,
    /// What the next request meets, and what certain requests meet each time.
    next: Option<Fate>,
    always: Vec<(String, Fate)>,
    /// What it works on and does not answer.
    pub(super) hangs_on: Option<(Slot, String)>,
    revision: u64,
}

// === impl Fate ===

impl Fate {
    pub(super) fn parse(words: &[&str]) -> Option<Self> {
        Some(match words {
            ["dies", "before"] => Self::DiesBefore,
            ["dies", "during"] => Self::DiesDuring,
            ["dies", "after"] => Self::DiesAfter,
            ["hangs"] => Self::Hangs,
            ["loses", "request"] => Self::LosesRequest,
            ["loses", "answer"] => Self::LosesAnswer,
            ["differs"] => Self::Differs,
            _ => return None,
        })
    }
}

// === impl State ===

impl State {
    fn execute(&mut self, slot: Slot, request: &str) -> String {
        self.executed.push((slot, request.to_owned()));
        let name: String = request
            .chars()
            .take_while(|it| it.is_alphabetic())
            .collect();
        let rest = &request[name.len()..];
        let before = self.values.get(&name).cloned().unwrap_or_default();
        let value = match rest.split_at_checked(1) {
            Some(("=", value)) => value.to_owned(),
            Some(("+", _)) => {
                let number = |it: &str| it.parse().unwrap_or(0_i64);
                (number(&before) + number(&rest[1..])).to_string()
            }
            _ => rest.to_owned(),
        };
        self.values.insert(name.clone(), value.clone());
        format!("{name} is {value}")
    }

    /// The last slot that it contains.
    pub(super) fn reflects(&self) -> Slot {
        self.executed.last().map_or(Slot::ZERO, |(slot, _)| *slot)
    }

    /// What it holds, for people.
    pub(super) fn show(&self) -> String {
        let all = self
            .values
            .iter()
            .map(|(name, value)| format!("{name}={value}"));
        let all: Vec<String> = all.collect();
        if all.is_empty() {
            return "nothing".to_owned();
        }
        all.join(" ")
    }
}

// === impl App ===

impl App {
    pub(super) fn new(kind: StateType) -> Self {
        Self {
            kind,
            process: 0,
            up: false,
            stays_down: false,
            state: State::default(),
            next: None,
            always: Vec::new(),
            hangs_on: None,
            revision: 0,
        }
    }

    /// A new process begins with what is there.
    pub(super) fn start(&mut self) {
        self.process += 1;
        self.up = true;
        self.stays_down = false;
        self.hangs_on = None;
        if self.kind == StateType::Ephemeral {
            self.state = State::default();
        }
    }

    /// The process is gone. What is in its files was synced, so `power` takes only what was in memory.
    pub(super) fn die(&mut self, power: bool) {
        self.up = false;
        self.hangs_on = None;
        if self.kind == StateType::Ephemeral {
            self.state = State::default();
        }
        if power && self.kind == StateType::Volume(UncleanCrash::AppliedHeader) {
            self.forget_last();
        }
    }

    /// The last request was not synced by the app.
    fn forget_last(&mut self) {
        let executed: Vec<(Slot, String)> = self
            .state
            .executed
            .split_last()
            .map_or_else(Vec::new, |(_, before)| before.to_vec());
        self.state = State::default();
        for (slot, request) in executed {
            self.state.execute(slot, &request);
        }
    }

    pub(super) fn listens(&self) -> Option<Instance> {
        let process = NonZeroU64::new(self.process).filter(|_| self.up);
        process.map(Instance)
    }

    pub(super) fn revision(&self) -> u64 {
        self.revision
    }

    /// The next process is of this revision.
    pub(super) fn offer(&mut self, revision: u64) {
        self.revision = revision;
    }

    pub(super) fn state(&self) -> &State {
        &self.state
    }

    /// Its state is this one from now on.
    pub(super) fn put(&mut self, state: State) {
        self.state = state;
    }

    /// What the next request meets, or this one each time.
    pub(super) fn will(&mut self, fate: Fate, always: Option<&str>) {
        match always {
            Some(request) => self.always.push((request.to_owned(), fate)),
            None => self.next = Some(fate),
        }
    }

    /// Somebody has mended it.
    pub(super) fn mend(&mut self) {
        self.next = None;
        self.always.clear();
    }

    pub(super) fn meets(&mut self, request: &str) -> Option<Fate> {
        let always = self.always.iter().find(|(it, _)| it == request);
        let always = always.map(|(_, fate)| *fate);
        always.or_else(|| self.next.take())
    }

    /// Does what a request asks for, and answers.
    pub(super) fn execute(&mut self, slot: Slot, request: &str, differs: bool) -> String {
        let request = if differs {
            format!("{request}?")
        } else {
            request.to_owned()
        };
        self.state.execute(slot, &request)
    }
}
