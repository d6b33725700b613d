//! Makes histories that a correct system might produce, and the same with one thing gone wrong.

use std::collections::BTreeMap;

use synod_history::{Action, History, Observed, Operation, Outcome, Value, Witness};

/// A small generator of numbers (SplitMix64), so that a seed is a history.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

/// What a history is like.
pub(crate) struct Shape {
    pub(crate) operations: u64,
    pub(crate) keys: u64,
    /// Mean time between two invocations.
    pub(crate) gap_ns: u64,
    /// Longest operation.
    pub(crate) longest_ns: u64,
    pub(crate) unknown_percent: u64,
    pub(crate) failed_percent: u64,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            operations: 300,
            keys: 6,
            gap_ns: 100,
            longest_ns: 1_000,
            unknown_percent: 5,
            failed_percent: 3,
        }
    }
}

/// What the system does wrong, at the write with this id.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bug {
    None,
    /// Answers, then forgets the write at once.
    Forgets(u64),
    /// Applies it a second time, unseen.
    AppliesTwice(u64),
}

/// A history with what every copy holds at its end.
pub(crate) struct Run {
    pub(crate) history: History,
    pub(crate) contents: BTreeMap<String, Observed>,
}

#[derive(Clone, Default)]
struct Cell {
    version: u64,
    value: Option<Value>,
}

impl Cell {
    fn apply(&mut self, action: Action) {
        self.version += 1;
        self.value = Some(match (action, self.value.take()) {
            (Action::Put(number), _) => Value::Number(number),
            (Action::Add(amount), Some(Value::Number(sum))) => Value::Number(sum + amount),
            (Action::Add(amount), _) => Value::Number(amount),
            (Action::Append(element), Some(Value::List(mut list))) => {
                list.push(element);
                Value::List(list)
            }
            (Action::Append(element), _) => Value::List(vec![element]),
            (Action::Get, _) => unreachable!("a read is not applied"),
        });
    }

    fn observed(&self) -> Observed {
        Observed {
            version: Some(self.version),
            value: Some(self.value.clone().unwrap_or(Value::Absent)),
        }
    }
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Low,
    Effect,
    High,
}

/// A history made by a system that does `bug`.
pub(crate) fn generate(seed: u64, shape: &Shape, bug: Bug) -> Run {
    let mut random = Random(seed);
    let mut operations = Vec::new();
    let mut steps = Vec::new();
    let mut now = 1_000;
    for id in 1..=shape.operations {
        now += random.below(2 * shape.gap_ns);
        let number = random.below(shape.keys);
        let (key, write) = match number % 3 {
            0 => (format!("r/{number}"), Action::Put(id)),
            1 => (format!("c/{number}"), Action::Add(1 + random.below(5))),
            _ => (format!("l/{number}"), Action::Append(id)),
        };
        let action = if random.below(2) == 0 {
            Action::Get
        } else {
            write
        };
        let complete_ns = now + 1 + random.below(shape.longest_ns);
        let dice = random.below(100);
        let outcome = if dice < shape.unknown_percent {
            Outcome::Unknown
        } else if dice < shape.unknown_percent + shape.failed_percent {
            Outcome::Failed
        } else {
            Outcome::Ok(Observed::default())
        };
        let late = matches!(outcome, Outcome::Unknown) && random.below(2) == 0;
        let span = if late {
            20 * shape.longest_ns
        } else {
            complete_ns - now
        };
        let effect = now + random.below(span + 1);
        let never = match outcome {
            Outcome::Failed => true,
            Outcome::Unknown => random.below(2) == 0,
            Outcome::Ok(_) => false,
        };
        if !never {
            if action == Action::Get {
                // Half of the reads know of no lower bound.
                if random.below(2) == 0 {
                    let low = now + random.below(effect - now + 1);
                    steps.push((low, operations.len(), Step::Low));
                }
                let high = effect + random.below(complete_ns.saturating_sub(effect) + 1);
                steps.push((high, operations.len(), Step::High));
            }
            steps.push((effect, operations.len(), Step::Effect));
        }
        operations.push(Operation {
            id,
            member: 1 + random.below(3) as u32,
            key,
            action,
            invoke_ns: now,
            complete_ns,
            outcome,
            witness: None,
        });
    }
    steps.sort_unstable();
    let contents = execute(&mut operations, steps, bug);
    Run {
        history: History::new(operations),
        contents,
    }
}

fn execute(
    operations: &mut [Operation],
    steps: Vec<(u64, usize, Step)>,
    bug: Bug,
) -> BTreeMap<String, Observed> {
    let mut cells: BTreeMap<String, Cell> = BTreeMap::new();
    let mut slot = 0;
    for (_, index, step) in steps {
        let op = &mut operations[index];
        match step {
            Step::Low => op.witness = Some(Witness::Within(slot, slot)),
            Step::High => {
                let low = match op.witness {
                    Some(Witness::Within(low, _)) => low,
                    _ => 0,
                };
                op.witness = Some(Witness::Within(low, slot));
            }
            Step::Effect => {}
        }
        if step != Step::Effect {
            continue;
        }
        let cell = cells.entry(op.key.clone()).or_default();
        let mut seen = cell.clone();
        if op.action != Action::Get {
            slot += 1;
            seen.apply(op.action);
            *cell = match bug {
                Bug::Forgets(id) if id == op.id => cell.clone(),
                Bug::AppliesTwice(id) if id == op.id => {
                    let mut twice = seen.clone();
                    twice.apply(op.action);
                    twice
                }
                _ => seen.clone(),
            };
        }
        if let Outcome::Ok(observed) = &mut op.outcome {
            *observed = seen.observed();
            if op.action != Action::Get {
                op.witness = Some(Witness::At(slot));
                if let Some(Value::List(_)) = observed.value {
                    observed.value = None;
                }
            }
        }
    }
    cells.retain(|_, cell| cell.version > 0);
    cells
        .into_iter()
        .map(|(key, cell)| (key, cell.observed()))
        .collect()
}
