//! The exactly-once check: what a copy holds when everything is over, against what was
//! acknowledged. Each acknowledged write is there once, each of unknown outcome at most once, and
//! nothing else is there.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::{Action, History, Malformed, Observed, Operation, Outcome, Value};

/// What was compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Acknowledged writes, all found once.
    pub acknowledged: u64,
    /// Writes of unknown outcome that did take effect.
    pub unknown_applied: u64,
    /// Writes of unknown outcome.
    pub unknown: u64,
}

/// What is wrong with a key's content.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// It is not a history.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// Acknowledged and not there.
    #[error("lost: {0}")]
    Lost(Box<Operation>),
    /// There more than once.
    #[error("applied {times} times: {operation}")]
    AppliedTwice {
        /// What.
        operation: Box<Operation>,
        /// How often it is there.
        times: usize,
    },
    /// A value that nobody wrote, or whose write is known to have failed.
    #[error("key {key} holds {value}, which no write put there")]
    FromNowhere {
        /// Where.
        key: String,
        /// What.
        value: u64,
    },
    /// More or fewer effects than there were writes.
    #[error("key {key} saw {found} writes; {least} to {most} were made")]
    WrongCount {
        /// Where.
        key: String,
        /// Version found.
        found: u64,
        /// Acknowledged writes.
        least: u64,
        /// Acknowledged writes and those of unknown outcome.
        most: u64,
    },
    /// A counter whose amount no set of writes adds up to.
    #[error("counter {key} is {found}, outside {least} to {most}")]
    WrongSum {
        /// Where.
        key: String,
        /// Its amount.
        found: u64,
        /// Sum of the acknowledged.
        least: u64,
        /// Sum of all.
        most: u64,
    },
    /// A content of another kind than the writes make.
    #[error("key {0} holds a content of the wrong kind")]
    WrongKind(String),
}

/// Compares `contents` (version and value of each key at the end) with `history`. Elements of lists
/// are to be unique.
pub fn check(
    history: &History,
    contents: &BTreeMap<String, Observed>,
) -> Result<Summary, Vec<Violation>> {
    history.validate().map_err(|error| vec![error.into()])?;
    let mut writes: BTreeMap<&str, Vec<&Operation>> = BTreeMap::new();
    for key in contents.keys() {
        writes.insert(key, Vec::new());
    }
    for op in history.operations() {
        if !op.action.is_read() && op.outcome != Outcome::Failed {
            writes.entry(&op.key).or_default().push(op);
        }
    }

    let mut summary = Summary::default();
    let mut violations = Vec::new();
    let nothing = Observed {
        version: Some(0),
        value: Some(Value::Absent),
    };
    for (key, writes) in writes {
        let content = contents.get(key).unwrap_or(&nothing);
        check_key(key, &writes, content, &mut summary, &mut violations);
    }
    if violations.is_empty() {
        Ok(summary)
    } else {
        Err(violations)
    }
}

fn check_key(
    key: &str,
    writes: &[&Operation],
    content: &Observed,
    summary: &mut Summary,
    violations: &mut Vec<Violation>,
) {
    let acknowledged = writes.iter().filter(|op| op.observed().is_some()).count() as u64;
    let all = writes.len() as u64;
    summary.acknowledged += acknowledged;
    summary.unknown += all - acknowledged;
    if let Some(found) = content.version {
        summary.unknown_applied += found.saturating_sub(acknowledged);
        if found < acknowledged || found > all {
            violations.push(Violation::WrongCount {
                key: key.to_owned(),
                found,
                least: acknowledged,
                most: all,
            });
        }
    }
    match &content.value {
        Some(Value::List(list)) => check_list(key, writes, list, violations),
        Some(Value::Number(number)) => check_number(key, writes, *number, violations),
        Some(Value::Absent) => {
            let lost = writes.iter().find(|op| op.observed().is_some());
            violations.extend(lost.map(|op| Violation::Lost(Box::new((*op).clone()))));
        }
        None => {}
    }
}

fn check_list(key: &str, writes: &[&Operation], list: &[u64], violations: &mut Vec<Violation>) {
    let mut times: HashMap<u64, usize> = HashMap::new();
    for &element in list {
        *times.entry(element).or_default() += 1;
    }
    let mut written = BTreeSet::new();
    for op in writes {
        let Action::Append(element) = op.action else {
            violations.push(Violation::WrongKind(key.to_owned()));
            return;
        };
        written.insert(element);
        let times = times.get(&element).copied().unwrap_or(0);
        if times > 1 {
            violations.push(Violation::AppliedTwice {
                operation: Box::new((*op).clone()),
                times,
            });
        } else if times == 0 && op.observed().is_some() {
            violations.push(Violation::Lost(Box::new((*op).clone())));
        }
    }
    let strangers = times.keys().filter(|element| !written.contains(element));
    violations.extend(strangers.map(|&value| Violation::FromNowhere {
        key: key.to_owned(),
        value,
    }));
}

fn check_number(key: &str, writes: &[&Operation], number: u64, violations: &mut Vec<Violation>) {
    let (mut least, mut most) = (0_u64, 0_u64);
    let mut candidate = false;
    for op in writes {
        match op.action {
            Action::Put(value) => candidate |= value == number,
            Action::Add(amount) => {
                candidate = true;
                most += amount;
                least += if op.observed().is_some() { amount } else { 0 };
            }
            Action::Append(_) | Action::Get => {
                violations.push(Violation::WrongKind(key.to_owned()));
                return;
            }
        }
    }
    if !candidate {
        violations.push(Violation::FromNowhere {
            key: key.to_owned(),
            value: number,
        });
    } else if most > 0 && (number < least || number > most) {
        violations.push(Violation::WrongSum {
            key: key.to_owned(),
            found: number,
            least,
            most,
        });
    }
}
