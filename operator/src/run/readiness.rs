//! What keeps an instance from being ready: latches, each set once by its owner.

use std::sync::{Arc, Mutex, PoisonError};

/// The latches of this process.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<Mutex<Vec<(&'static str, bool)>>>);

/// One part's own latch.
#[derive(Debug)]
pub struct Latch {
    all: Readiness,
    at: usize,
}

// === impl Readiness ===

impl Readiness {
    /// A latch for a part: the process is not ready before it is set.
    pub fn latch(&self, part: &'static str) -> Latch {
        let mut list = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        list.push((part, false));
        Latch {
            all: self.clone(),
            at: list.len() - 1,
        }
    }

    /// The parts that are not ready yet.
    pub fn missing(&self) -> Vec<&'static str> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .filter(|(_, set)| !set)
            .map(|(part, _)| *part)
            .collect()
    }
}

// === impl Latch ===

impl Latch {
    /// The part is ready, and stays so.
    pub fn set(&self) {
        let mut list = self.all.0.lock().unwrap_or_else(PoisonError::into_inner);
        list[self.at].1 = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_is_ready_once_all_latches_are_set() {
        let readiness = Readiness::default();
        let (first, second) = (readiness.latch("a"), readiness.latch("b"));
        assert_eq!(readiness.missing(), ["a", "b"]);
        second.set();
        assert_eq!(readiness.missing(), ["a"]);
        first.set();
        first.set();
        assert!(readiness.missing().is_empty());
    }
}
