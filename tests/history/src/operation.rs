//! One operation of one client, as that client saw it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What a client asked for, when, and what it was told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// Unique in its history.
    pub id: u64,
    /// Number of the member that answered last; 0 when none did.
    pub member: u32,
    /// What it is about. All actions on one key are of one kind.
    pub key: String,
    /// What was asked for.
    pub action: Action,
    /// When the first byte of the first try may have left, in nanoseconds of the history's clock.
    pub invoke_ns: u64,
    /// When the answer was there, in nanoseconds; without meaning when the outcome is `Unknown`.
    pub complete_ns: u64,
    /// What the client knows.
    pub outcome: Outcome,
    /// Where in the agreed log the answer says that it belongs.
    pub witness: Option<Witness>,
}

/// A request on one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Action {
    /// Overwrite a register.
    Put(u64),
    /// Add to a counter.
    Add(u64),
    /// Append to a list.
    Append(u64),
    /// Read whatever the key is.
    Get,
}

/// What a client knows about its operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// It took effect, once, between invocation and completion, and this was the answer.
    Ok(Observed),
    /// It never took effect and never will.
    Failed,
    /// It may have taken effect, or may yet, or never.
    Unknown,
}

/// What an answer says about the key right after the operation (for a read: at it). Absent parts
/// were not said and are not checked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observed {
    /// Number of writes that took effect on the key so far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
    /// Content of the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<Value>,
}

/// Content of a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Value {
    /// Never written.
    Absent,
    /// Of a register or a counter.
    Number(u64),
    /// Of a list.
    List(Vec<u64>),
}

/// What the response says about its place in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Witness {
    /// A write: it is this slot. A read: it saw exactly the state after this slot.
    At(u64),
    /// A read that ran beside writes: it saw the state after one of these slots, both included.
    Within(u64, u64),
}

// === impl Action ===

impl Action {
    /// It changes nothing.
    pub fn is_read(self) -> bool {
        self == Self::Get
    }
}

// === impl Operation ===

impl Operation {
    /// When it must have taken effect at the latest.
    pub(crate) fn deadline_ns(&self) -> u64 {
        match self.outcome {
            Outcome::Unknown => u64::MAX,
            Outcome::Ok(_) | Outcome::Failed => self.complete_ns,
        }
    }

    /// What was answered, when it is known to have taken effect.
    pub(crate) fn observed(&self) -> Option<&Observed> {
        match &self.outcome {
            Outcome::Ok(observed) => Some(observed),
            Outcome::Failed | Outcome::Unknown => None,
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "#{} {:?} on {} via member {} [{} ns, ",
            self.id, self.action, self.key, self.member, self.invoke_ns
        )?;
        match &self.outcome {
            Outcome::Ok(observed) => {
                write!(f, "{} ns]", self.complete_ns)?;
                if let Some(version) = observed.version {
                    write!(f, " version {version}")?;
                }
                match &observed.value {
                    Some(Value::Absent) => write!(f, " absent")?,
                    Some(Value::Number(number)) => write!(f, " = {number}")?,
                    Some(Value::List(list)) => write!(f, " = {list:?}")?,
                    None => {}
                }
            }
            Outcome::Failed => write!(f, "{} ns] failed", self.complete_ns)?,
            Outcome::Unknown => write!(f, "never] unknown")?,
        }
        match self.witness {
            Some(Witness::At(slot)) => write!(f, " at slot {slot}"),
            Some(Witness::Within(low, high)) => write!(f, " within slots {low}..={high}"),
            None => Ok(()),
        }
    }
}
