//! What a key is supposed to do: the sequential model that answers are compared with.

use crate::{Action, Observed, Value};

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
