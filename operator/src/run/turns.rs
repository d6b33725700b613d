//! A newer sidecar comes to one service after another, not to all at once: if it does harm, it does it
//! to one. Comes in: which service asks. Goes out: whether it is its turn. There is one list of turns
//! in each operator process, of which one leads.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How long nobody has a turn after the one before has said that it still needs it. Services are
/// looked at every few seconds, so one that is at work says so all the time; then this is the pause.
const PAUSE: Duration = Duration::from_secs(60);

/// Whose turn it is.
#[derive(Debug, Default)]
pub struct Turns(Mutex<Option<Turn>>);

#[derive(Debug)]
struct Turn {
    /// Namespace and name of the service.
    service: (String, String),
    /// When it last said that it needs the turn.
    said: Instant,
}

// === impl Turns ===

impl Turns {
    /// A service has members with an older sidecar and nothing else to do: whether it may replace
    /// them now. It asks again at each look for as long as it has such members.
    pub fn may(&self, namespace: &str, name: &str, now: Instant) -> bool {
        let mut turn = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let free = turn.as_ref().is_none_or(|it| {
            it.is(namespace, name) || now.saturating_duration_since(it.said) >= PAUSE
        });
        if free {
            *turn = Some(Turn {
                service: (namespace.to_owned(), name.to_owned()),
                said: now,
            });
        }
        free
    }

    /// A service is not well: if it has the turn it keeps it, so that no other one gets into the same
    /// trouble.
    pub fn keep(&self, namespace: &str, name: &str, now: Instant) {
        let mut turn = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(turn) = turn.as_mut().filter(|it| it.is(namespace, name)) {
            turn.said = now;
        }
    }
}

// === impl Turn ===

impl Turn {
    fn is(&self, namespace: &str, name: &str) -> bool {
        self.service.0 == namespace && self.service.1 == name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_service_has_the_turn_and_the_next_one_gets_it_after_a_pause() {
        let turns = Turns::default();
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        assert!(turns.may("default", "a", at(0)));
        assert!(!turns.may("default", "b", at(2)));
        assert!(!turns.may("other", "a", at(2)), "another of that name");
        assert!(turns.may("default", "a", at(50)), "it is not done yet");
        assert!(!turns.may("default", "b", at(109)));
        assert!(turns.may("default", "b", at(110)));
        assert!(!turns.may("default", "a", at(111)));
    }

    #[test]
    fn a_service_that_does_not_get_well_keeps_the_turn() {
        let turns = Turns::default();
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        turns.keep("default", "a", at(0));
        assert!(turns.may("default", "b", at(0)), "who has none keeps none");
        for minute in 1..10 {
            turns.keep("default", "b", at(minute * 50));
            turns.keep("default", "a", at(minute * 50));
        }
        assert!(!turns.may("default", "a", at(500)));
        assert!(turns.may("default", "a", at(510)));
    }
}
