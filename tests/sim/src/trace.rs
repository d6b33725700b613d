//! What happened, twice: as a hash that proves two runs equal, and, when asked for, as text.
//!
//! A run keeps only the hash. When an invariant breaks, the same seed is run again with the text
//! on, which is what a person reads.

use std::collections::VecDeque;
use std::fmt;

use synod_paxos::{Entry, Message};

/// Lines kept when text is on.
const TAIL_LINES: usize = 400;

/// The running hash of all events, and the last lines of text.
#[derive(Debug)]
pub(crate) struct Trace {
    hash: u64,
    events: u64,
    text: Option<VecDeque<String>>,
    echo: bool,
}

// === impl Trace ===

impl Trace {
    pub(crate) fn new(text: bool, echo: bool) -> Self {
        Self {
            hash: 0xcbf2_9ce4_8422_2325,
            events: 0,
            text: (text || echo).then(VecDeque::new),
            echo,
        }
    }

    /// Takes part of an event into the hash.
    pub(crate) fn mix(&mut self, word: u64) {
        // One round of a 64-bit finaliser per word: cheap, and every bit of each word counts.
        let mut x = self.hash ^ word.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        x ^= x >> 32;
        x = x.wrapping_mul(0xd6e8_feb8_6659_fd93);
        x ^= x >> 29;
        self.hash = x;
        self.events += 1;
    }

    /// Adds a line when text is on; the closure is not called otherwise.
    pub(crate) fn line<D: fmt::Display>(&mut self, at_ns: u64, line: impl FnOnce() -> D) {
        let Some(text) = &mut self.text else { return };
        let line = format!("{:>14.6} {}", at_ns as f64 / 1e9, line());
        if self.echo {
            eprintln!("{line}");
        }
        if text.len() == TAIL_LINES {
            text.pop_front();
        }
        text.push_back(line);
    }

    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    pub(crate) fn tail(&self) -> Vec<String> {
        self.text.iter().flatten().cloned().collect()
    }
}

/// A message in one line, without bodies.
pub(crate) fn brief(message: &Message) -> String {
    let span = |entries: &[Entry]| match (entries.first(), entries.last()) {
        (Some(first), Some(last)) => format!("{}..={}", first.slot, last.slot),
        _ => "none".to_owned(),
    };
    match message {
        Message::Promise {
            ballot,
            accepted,
            last,
            commit,
            after,
            part,
            done,
            suffix,
            faulty,
            ..
        } => {
            format!(
                "Promise {ballot} accepted {accepted} last {last} commit {commit} after {after} \
                 part {part} done {done} entries {} faulty {}",
                span(suffix),
                faulty.len()
            )
        }
        Message::AcceptSync {
            ballot,
            after,
            part,
            done,
            entries,
            last,
            commit,
            ..
        } => format!(
            "AcceptSync {ballot} after {after} part {part} done {done} entries {} last {last} \
             commit {commit}",
            span(entries)
        ),
        Message::Accept {
            ballot,
            previous,
            previous_ballot,
            entries,
            commit,
            ..
        } => format!(
            "Accept {ballot} previous {previous} ({previous_ballot}) entries {} commit {commit}",
            span(entries)
        ),
        Message::Heartbeat(beat) => format!(
            "Heartbeat {} healthy {} last {} commit {} applied {}",
            beat.ballot, beat.healthy, beat.last, beat.commit, beat.applied
        ),
        Message::Propose { commands, .. } => {
            let ids: Vec<_> = commands.iter().map(|c| c.id.to_string()).collect();
            format!("Propose {}", ids.join(" "))
        }
        Message::Repair { entries } => format!("Repair {}", span(entries)),
        Message::Learn { entries } => format!("Learn {}", span(entries)),
        other => format!("{other:?}"),
    }
}
