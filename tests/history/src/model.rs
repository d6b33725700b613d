//! What a key is supposed to do: the sequential model that answers are compared with.

use std::collections::HashSet;

use crate::{Action, Observed, Operation, Value};

/// State of one key, of constant size: a list is known by its length and a digest, which makes it
/// cheap to remember many states in a search.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct State {
    version: u64,
    content: Content,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Content {
    #[default]
    Absent,
    Number(u64),
    List {
        len: u64,
        digest: u64,
    },
}

// === impl State ===

impl State {
    /// The state after `action`.
    #[must_use]
    pub fn after(self, action: Action) -> Self {
        let content = match (action, self.content) {
            (Action::Get, _) => return self,
            (Action::Put(number), _) => Content::Number(number),
            (Action::Add(amount), Content::Number(number)) => {
                Content::Number(number.wrapping_add(amount))
            }
            (Action::Add(amount), _) => Content::Number(amount),
            (Action::Append(element), Content::List { len, digest }) => {
                append(len, digest, element)
            }
            (Action::Append(element), _) => append(0, 0, element),
        };
        Self {
            version: self.version + 1,
            content,
        }
    }

    /// Whether an answer that says this may come from this state.
    pub fn explains(&self, observed: &Observed) -> bool {
        observed
            .version
            .is_none_or(|version| version == self.version)
            && observed
                .value
                .as_ref()
                .is_none_or(|value| Content::of(value) == self.content)
    }

    /// Number of writes so far.
    pub fn version(&self) -> u64 {
        self.version
    }
}

/// What the answers about one key show of writes whose own outcome is unknown.
pub(crate) struct Shown {
    numbers: HashSet<u64>,
    /// The longest; lists only grow.
    list: Vec<u64>,
}

// === impl Shown ===

impl Shown {
    pub(crate) fn by(operations: &[&Operation]) -> Self {
        let mut shown = Self {
            numbers: HashSet::new(),
            list: Vec::new(),
        };
        let answers = operations.iter().filter_map(|op| op.observed());
        for value in answers.filter_map(|observed| observed.value.as_ref()) {
            match value {
                Value::Number(number) => {
                    shown.numbers.insert(*number);
                }
                Value::List(list) if list.len() > shown.list.len() => shown.list.clone_from(list),
                Value::Absent | Value::List(_) => {}
            }
        }
        shown
    }

    /// Writes of one class explain the same: of these, the one that began first is tried first, and no
    /// other in its place. Classes that would do anywhere come first.
    pub(crate) fn class(&self, action: Action) -> (bool, u64) {
        match action {
            Action::Put(number) if self.numbers.contains(&number) => (true, number),
            Action::Append(element) if self.list.contains(&element) => (true, element),
            Action::Add(amount) => (false, amount),
            Action::Put(_) | Action::Append(_) | Action::Get => (false, 0),
        }
    }

    /// The write does not contradict, in this state, what is shown later.
    pub(crate) fn allows(&self, state: State, action: Action) -> bool {
        let Action::Append(element) = action else {
            return true;
        };
        let len = match state.content {
            Content::List { len, .. } => len as usize,
            _ => 0,
        };
        match self.list.get(len) {
            Some(shown) => *shown == element,
            None => !self.list.contains(&element),
        }
    }
}

// === impl Content ===

impl Content {
    fn of(value: &Value) -> Self {
        match value {
            Value::Absent => Self::Absent,
            Value::Number(number) => Self::Number(*number),
            Value::List(list) if list.is_empty() => Self::Absent,
            Value::List(list) => {
                let mut content = Self::List { len: 0, digest: 0 };
                for &element in list {
                    if let Self::List { len, digest } = content {
                        content = append(len, digest, element);
                    }
                }
                content
            }
        }
    }
}

/// The finaliser of SplitMix64 (Steele, Lea, Flood 2014) mixes each element into the digest.
fn append(len: u64, digest: u64, element: u64) -> Content {
    let mut z = digest
        .rotate_left(23)
        .wrapping_add(element)
        .wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    Content::List {
        len: len + 1,
        digest: z ^ (z >> 31),
    }
}
