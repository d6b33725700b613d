//! A collection of operations, and its form on disk: one JSON object a line.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{self, BufRead, Write};

use crate::{Action, Operation, Outcome};

/// All operations of a run, in no particular order.
#[derive(Clone, Debug, Default)]
pub struct History {
    operations: Vec<Operation>,
}

/// Why a history means nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// An id is used twice.
    #[error("operation {0} is in the history twice")]
    SameId(u64),
    /// An answer came before its question.
    #[error("operation {0} completed before it was invoked")]
    BackwardsInTime(u64),
    /// A key is a register here and a list there.
    #[error("key {0} is written by actions of two kinds")]
    MixedKinds(String),
}

/// Why a history could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The source failed.
    #[error("reading the history")]
    Io(#[from] io::Error),
    /// A line is no operation.
    #[error("line {line} of the history is not an operation: {error}")]
    Line {
        /// Counted from 1.
        line: usize,
        /// What the parser says.
        error: serde_json::Error,
    },
}

// === impl History ===

impl History {
    /// Of these operations.
    pub fn new(operations: Vec<Operation>) -> Self {
        Self { operations }
    }

    /// Adds one.
    pub fn push(&mut self, operation: Operation) {
        self.operations.push(operation);
    }

    /// All of them.
    pub fn operations(&self) -> &[Operation] {
        &self.operations
    }

    /// All of them, to change.
    pub fn operations_mut(&mut self) -> &mut Vec<Operation> {
        &mut self.operations
    }

    /// Number of operations known to have taken effect.
    pub fn completed(&self) -> usize {
        self.count(|outcome| matches!(outcome, Outcome::Ok(_)))
    }

    /// Number of operations nobody knows about.
    pub fn unknown(&self) -> usize {
        self.count(|outcome| matches!(outcome, Outcome::Unknown))
    }

    fn count(&self, which: impl Fn(&Outcome) -> bool) -> usize {
        self.operations
            .iter()
            .filter(|op| which(&op.outcome))
            .count()
    }

    /// What every check relies on.
    pub fn validate(&self) -> Result<(), Malformed> {
        let mut ids = HashSet::new();
        let mut kinds = HashMap::new();
        for op in &self.operations {
            if !ids.insert(op.id) {
                return Err(Malformed::SameId(op.id));
            }
            if op.deadline_ns() < op.invoke_ns {
                return Err(Malformed::BackwardsInTime(op.id));
            }
            if op.action == Action::Get {
                continue;
            }
            let kind = std::mem::discriminant(&op.action);
            if *kinds.entry(op.key.as_str()).or_insert(kind) != kind {
                return Err(Malformed::MixedKinds(op.key.clone()));
            }
        }
        Ok(())
    }

    /// The operations that a check must explain, by key, each key's in order of invocation: those
    /// that failed took no effect, and a read nobody saw the answer of says nothing.
    pub(crate) fn by_key(&self) -> BTreeMap<&str, Vec<&Operation>> {
        let mut keys: BTreeMap<&str, Vec<&Operation>> = BTreeMap::new();
        for op in self.operations.iter().filter(|op| is_relevant(op)) {
            keys.entry(&op.key).or_default().push(op);
        }
        for operations in keys.values_mut() {
            operations.sort_by_key(|op| (op.invoke_ns, op.id));
        }
        keys
    }

    /// Writes it as JSON lines.
    pub fn write_to(&self, mut to: impl Write) -> io::Result<()> {
        for op in &self.operations {
            serde_json::to_writer(&mut to, op)?;
            to.write_all(b"\n")?;
        }
        to.flush()
    }

    /// Reads what [`Self::write_to`] wrote.
    pub fn read_from(from: impl BufRead) -> Result<Self, ReadError> {
        let mut operations = Vec::new();
        for (index, line) in from.lines().enumerate() {
            let operation = serde_json::from_str(&line?).map_err(|error| ReadError::Line {
                line: index + 1,
                error,
            })?;
            operations.push(operation);
        }
        Ok(Self { operations })
    }
}

fn is_relevant(op: &Operation) -> bool {
    match op.outcome {
        Outcome::Ok(_) => true,
        Outcome::Failed => false,
        Outcome::Unknown => !op.action.is_read(),
    }
}
