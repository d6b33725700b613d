//! Points at which tests interfere with a member: [`hit`] stands at each step that a crash could come
//! before or after, and [`check`] at those that can also fail. Without the feature `enabled` both are
//! nothing, and so they are in every program that is shipped.
//!
//! In: a text that says what happens at which points, such as `wal-before-sync=3*kill`: the third time from
//! now on. Several are separated by `;` or line feeds.
//!
//! | action | what happens, once |
//! |---|---|
//! | `kill` | the process gets SIGKILL, so nothing is flushed, unwound or told |
//! | `kill(PID)` | the same to another process, such as the app's; this one goes on |
//! | `delay(MS)` | the step takes so many milliseconds longer |
//! | `fail` | the step ends with an error of the system that it can end with ([`Point::can_fail`]) |
//!
//! Why not the crate `fail`: it keeps its points by name in a map behind a lock, so nobody can list what
//! a program has, a test that names a point which is gone passes, and each hit is a look-up; and it knows
//! no kill. What is needed of it is less than what would have to be built around it.

#[cfg(feature = "enabled")]
mod armed;
mod points;

#[cfg(feature = "enabled")]
pub use armed::{BadText, arm, check, hit, watch};
pub use points::Point;

/// Whether points do anything.
pub const ENABLED: bool = cfg!(feature = "enabled");

/// This step is reached.
#[cfg(not(feature = "enabled"))]
#[inline(always)]
pub const fn hit(_: Point) {}

/// This step is reached, and goes on unless this is an error.
#[cfg(not(feature = "enabled"))]
#[inline]
pub const fn check(_: Point) -> std::io::Result<()> {
    Ok(())
}

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
