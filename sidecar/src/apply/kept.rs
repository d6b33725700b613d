//! A store of the newest things, bounded in number, memory and disk.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::sync::Arc;

use super::handle::{StoredBody, StoredResponse};

/// Memory that responses may take, in bytes.
const MEMORY_BYTES: u64 = 64 << 20;
/// Room on disk that responses may take, in bytes.
const DISK_BYTES: u64 = 1 << 30;
/// What an entry counts for besides its body and fields, in bytes.
const OVERHEAD_BYTES: u64 = 512;

/// The newest values by key.
#[derive(Debug)]
pub(super) struct Kept<K, V> {
    most: usize,
    values: HashMap<K, V>,
    by_age: VecDeque<(K, Weight)>,
    total: Weight,
}

/// What a response takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Weight {
    memory: u64,
    disk: u64,
}

impl Weight {
    pub(super) fn of(response: Option<&Arc<StoredResponse>>) -> Self {
        let Some(response) = response else {
            return Self {
                memory: OVERHEAD_BYTES,
                disk: 0,
            };
        };
        let fields = response.headers.iter().chain(&response.trailers);
        let fields: usize = fields
            .map(|(name, value)| name.as_str().len() + value.len())
            .sum();
        let (memory, disk) = match &response.body {
            StoredBody::Memory(bytes) => (bytes.len() as u64, 0),
            StoredBody::File { len, .. } => (0, *len),
        };
        Self {
            memory: memory + fields as u64 + OVERHEAD_BYTES,
            disk,
        }
    }
}

impl<K: Copy + Eq + Hash, V> Kept<K, V> {
    pub(super) fn new(most: usize) -> Self {
        Self {
            most,
            values: HashMap::new(),
            by_age: VecDeque::new(),
            total: Weight::default(),
        }
    }

    pub(super) fn get(&self, key: &K) -> Option<&V> {
        self.values.get(key)
    }

    /// Keeps the value, unless there is one already: the first one is the one that was told.
    pub(super) fn insert(&mut self, key: K, value: V, weight: Weight) {
        if self.values.contains_key(&key) {
            return;
        }
        self.values.insert(key, value);
        self.by_age.push_back((key, weight));
        self.total.memory += weight.memory;
        self.total.disk += weight.disk;
        while self.by_age.len() > 1 && self.is_too_much() {
            let (key, weight) = self.by_age.pop_front().expect("longer than one");
            self.values.remove(&key);
            self.total.memory -= weight.memory;
            self.total.disk -= weight.disk;
        }
        assert_eq!(
            self.values.len(),
            self.by_age.len(),
            "each value has an age"
        );
    }

    fn is_too_much(&self) -> bool {
        self.by_age.len() > self.most
            || self.total.memory > MEMORY_BYTES
            || self.total.disk > DISK_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weight(memory: u64, disk: u64) -> Weight {
        Weight { memory, disk }
    }

    #[test]
    fn the_newest_are_kept_within_each_bound() {
        for (each, left) in [
            (weight(1, 0), 100),
            (weight(MEMORY_BYTES / 10, 0), 10),
            (weight(1, DISK_BYTES / 20), 20),
            (weight(2 * MEMORY_BYTES, 0), 1),
        ] {
            let mut kept = Kept::new(100);
            for key in 0..1_000_u32 {
                kept.insert(key, key, each);
            }
            assert_eq!(kept.values.len(), left);
            assert_eq!(kept.get(&999), Some(&999));
            assert_eq!(kept.get(&(999 - left as u32)), None);
        }
    }

    #[test]
    fn the_first_value_of_a_key_stays() {
        let mut kept = Kept::new(10);
        kept.insert(1, "first", weight(1, 0));
        kept.insert(1, "second", weight(1, 0));
        assert_eq!(kept.get(&1), Some(&"first"));
        assert_eq!(kept.total, weight(1, 0));
    }
}
