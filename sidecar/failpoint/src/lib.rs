//! Points at which tests end a member, as a crash would: [`hit`] stands at each step that a crash could
//! come before or after. Without the feature `enabled` it is nothing, and so it is in every program that
//! is shipped.
//!
//! In: a text that says at which points, such as `wal-before-sync=3*kill`: the third time from now on,
//! the process gets SIGKILL, so nothing is flushed, unwound or told. `kill(PID)` does the same to another
//! process, such as the app's, and goes on. Several are separated by `;` or line feeds.
//!
//! Why not the crate `fail`: it keeps its points by name in a map behind a lock, so nobody can list what
//! a program has, a test that names a point which is gone passes, and each hit is a look-up; and it knows
//! no kill. What is needed of it is less than what would have to be built around it.

#[cfg(feature = "enabled")]
mod armed;
mod points;

#[cfg(feature = "enabled")]
pub use armed::{BadText, arm, hit, watch};
pub use points::Point;

/// Whether points do anything.
pub const ENABLED: bool = cfg!(feature = "enabled");

/// This step is reached.
#[cfg(not(feature = "enabled"))]
#[inline(always)]
pub const fn hit(_: Point) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_apart() {
        let mut names: Vec<_> = Point::ALL.iter().map(|it| it.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Point::ALL.len());
    }
}
