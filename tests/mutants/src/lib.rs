//! Mutants: bugs of the protocol that are planted in the production code one by one
//! ([`synod_mutant::Mutant`]), and the checks that find them: the scenario scripts, and the invariants of the
//! simulator.
//!
//! Each runs in processes of its own, so that an assertion of the production code, which ends a process, is a
//! check like the others, and so that one that goes in circles can be ended. What a process finds it says
//! line by line ([`Said`]).

mod child;
mod found;
mod hints;
mod said;
mod watch;

pub use child::{Part, carry_out};
pub use found::{Check, Found, last_line};
pub use hints::{Hint, Hints};
pub use said::Said;
pub use watch::{Plan, is_clean, look_for};
