//! Whether a cluster's API server answers: what is known, and since when.

use std::sync::{Arc, Mutex, PoisonError};

use k8s_openapi::jiff::Timestamp;

/// Failures in a row before a cluster counts as unreachable: one lost request is no outage.
const FAILURES: u32 = 2;

/// One cluster's circuit. Cheap to clone; all clones are the same circuit.
#[derive(Clone, Debug, Default)]
pub struct Circuit(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    known: Option<Reachability>,
    failures: u32,
}

/// What is known of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reachability {
    /// Its API server answers, and knows us.
    pub reachable: bool,
    /// Since when that is so.
    pub since: Timestamp,
    /// Why not.
    pub problem: String,
}

// === impl Circuit ===

impl Circuit {
    /// What is known; `None` before the first answer.
    pub fn get(&self) -> Option<Reachability> {
        self.lock().known.clone()
    }

    /// Whether it is worth a try.
    pub fn is_closed(&self) -> bool {
        self.lock().known.as_ref().is_none_or(|it| it.reachable)
    }

    /// Takes note of an answer, or of none. Whether that changes what is known.
    pub fn note(&self, result: Result<(), String>, now: Timestamp) -> bool {
        let mut state = self.lock();
        let (reachable, problem) = match result {
            Ok(()) => {
                state.failures = 0;
                (true, String::new())
            }
            Err(problem) => {
                state.failures = state.failures.saturating_add(1);
                if state.known.is_some() && state.failures < FAILURES {
                    return false;
                }
                (false, problem)
            }
        };
        if let Some(known) = &mut state.known
            && known.reachable == reachable
        {
            let changed = known.problem != problem;
            known.problem = problem;
            return changed;
        }
        state.known = Some(Reachability {
            reachable,
            since: now,
            problem,
        });
        true
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    #[test]
    fn one_lost_request_is_no_outage_and_two_are() {
        let circuit = Circuit::default();
        assert!(circuit.is_closed(), "nothing is known: try");
        assert!(circuit.note(Ok(()), at(1)));
        assert!(!circuit.note(Err("timeout".into()), at(2)));
        assert!(circuit.is_closed());
        assert!(circuit.note(Err("timeout".into()), at(3)));
        assert!(!circuit.is_closed());
        let known = circuit.get().expect("known");
        assert_eq!((known.reachable, known.since), (false, at(3)));
    }

    #[test]
    fn a_cluster_that_never_answered_is_unreachable_at_once() {
        let circuit = Circuit::default();
        assert!(circuit.note(Err("refused".into()), at(1)));
        assert!(!circuit.is_closed());
    }

    #[test]
    fn the_time_stays_that_of_the_change_while_the_words_may_differ() {
        let circuit = Circuit::default();
        circuit.note(Err("refused".into()), at(1));
        assert!(!circuit.note(Err("refused".into()), at(2)));
        assert!(circuit.note(Err("timeout".into()), at(3)));
        let known = circuit.get().expect("known");
        assert_eq!((known.since, known.problem.as_str()), (at(1), "timeout"));
        assert!(circuit.note(Ok(()), at(4)));
        assert!(circuit.is_closed());
    }
}
