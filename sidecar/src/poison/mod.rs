//! Requests that kill or hang every copy (rules K1, K2): found, asked about, and skipped when nobody
//! can have been told that they were executed.
//!
//! In: what each copy knows about slots that fail, asked for by the leader over the peers' port. Out: a
//! skip in the agreed order, or the state of the copy that did execute the slot for those that could
//! not. What is done is decided by [`judge`], which is pure; what a copy promises is its apply machine's
//! matter, and is on disk before the leader hears it.

#[expect(clippy::disallowed_methods, reason = "a shell: reads clocks")]
mod board;
mod judge;
#[expect(clippy::disallowed_methods, reason = "a shell: reads clocks")]
mod leadership;
mod service;
mod wire;

/// For the simulator, which decides with the production judge.
#[doc(hidden)]
pub mod sim {
    pub use super::judge::{Judge, Rules, SkipWhen, Step, Undecided, Wait};
}

pub(crate) use board::tellable;
pub use board::{Board, Found, SkippedRequest, UndecidedRequest};
pub use leadership::{Parts, Watch};
pub use service::{PoisonService, service};

use synod_proto::v1::{Policy, poison_policy::Skip};

use self::judge::{Rules, SkipWhen};
use crate::apply::apply_timeout;

/// By which it is judged while this policy is in force.
fn rules(policy: &Policy, has_snapshots: bool) -> Rules {
    let poison = policy.poison.unwrap_or_default();
    let apply_timeout = apply_timeout(policy);
    Rules {
        skip: match poison.skip() {
            Skip::Never => SkipWhen::Never,
            Skip::Unspecified | Skip::WhenAllFailed => SkipWhen::AllFailed,
            Skip::WhenReachableFailed => SkipWhen::ReachableFailed,
        },
        apply_timeout_ms: u64::try_from(apply_timeout.as_millis()).unwrap_or(u64::MAX),
        has_snapshots,
    }
}

#[cfg(test)]
mod tests {
    use synod_proto::v1::PoisonPolicy;

    use super::*;

    #[test]
    fn a_policy_that_says_nothing_waits_for_all() {
        let said = rules(&Policy::default(), true);
        let expected = Rules {
            skip: SkipWhen::AllFailed,
            apply_timeout_ms: 30_000,
            has_snapshots: true,
        };
        assert_eq!(said, expected);
        for (skip, when) in [
            (Skip::Never, SkipWhen::Never),
            (Skip::WhenAllFailed, SkipWhen::AllFailed),
            (Skip::WhenReachableFailed, SkipWhen::ReachableFailed),
        ] {
            let policy = Policy {
                apply_timeout_ms: 7,
                poison: Some(PoisonPolicy { skip: skip.into() }),
                ..Policy::default()
            };
            let said = rules(&policy, false);
            assert_eq!((said.skip, said.apply_timeout_ms), (when, 7));
        }
    }
}
