//! The comparison of the copies: whether all of them answer alike, and what is done when one does not.
//!
//! In: what each copy has answered, as digests ([`crate::apply::digests`]), asked for by the leader over
//! the peers' port. Out: to each copy, up to where a majority vouches for its state (rule N2) and from
//! where on it differs; to people, [`Found`]. What is judged is judged by
//! [`crate::apply::divergence`], which is pure; what comes of it in a copy is its apply machine's matter.

#[expect(clippy::disallowed_methods, reason = "a shell: reads clocks")]
mod comparison;
mod found;
mod service;
mod wire;

pub use comparison::Comparison;
pub use found::{Along, Diverged, Found, Noise};
pub use service::{CopiesService, service};

use synod_proto::v1::{Policy, divergence_policy::Action};

use crate::apply::divergence::{OnDivergence, Rules};

/// By which the copies are judged while this policy is in force.
fn rules(policy: &Policy) -> Rules {
    let divergence = policy.divergence.clone().unwrap_or_default();
    let names = divergence.ignore_headers.iter();
    Rules {
        on_divergence: match divergence.action() {
            Action::Observe => OnDivergence::Observe,
            Action::Alert => OnDivergence::Alert,
            Action::Unspecified | Action::Quarantine => OnDivergence::Quarantine,
            Action::Halt => OnDivergence::Halt,
        },
        ignored: names.map(|name| name.to_ascii_lowercase()).collect(),
    }
}

#[cfg(test)]
mod tests {
    use synod_proto::v1::DivergencePolicy;

    use super::*;

    #[test]
    fn a_policy_that_says_nothing_has_the_odd_one_made_anew() {
        assert_eq!(rules(&Policy::default()), Rules::default());
        let mut divergence = DivergencePolicy {
            ignore_headers: vec!["ETag".into()],
            ..DivergencePolicy::default()
        };
        divergence.set_action(Action::Halt);
        let policy = Policy {
            divergence: Some(divergence),
            ..Policy::default()
        };
        let expected = Rules {
            on_divergence: OnDivergence::Halt,
            ignored: ["etag".to_owned()].into(),
        };
        assert_eq!(rules(&policy), expected);
    }
}
