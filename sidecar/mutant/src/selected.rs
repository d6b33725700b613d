//! Which one it is: one in the whole process, or none.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::Mutant;

/// Its place in the table, from 1; 0: none.
static SELECTED: AtomicUsize = AtomicUsize::new(0);

/// Whether this bug is in the code.
pub fn planted(mutant: Mutant) -> bool {
    SELECTED.load(Ordering::Relaxed) == mutant as usize + 1
}

/// From now on this bug is in the code, and no other.
pub fn select(mutant: Option<Mutant>) {
    SELECTED.store(mutant.map_or(0, |it| it as usize + 1), Ordering::Relaxed);
}
