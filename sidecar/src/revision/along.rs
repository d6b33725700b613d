//! When a revision that has run along silently is to take over. Pure.

use std::time::Duration;

use synod_paxos::Slot;

use super::Said;

/// A copy that is not further behind has caught up: what was chosen since the leader has last looked.
const NEAR_SLOTS: u64 = 1_024;
/// That no copy can answer lasts so long before one that cannot be taken back takes over.
const NOBODY: Duration = Duration::from_secs(5);

/// A copy, as far as this matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sided {
    /// Of the silent revision, and it has caught up.
    Along,
    /// It answers, with the old revision.
    Answers,
    /// Neither.
    Neither,
}

/// Since when that revision has been ready.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ready(Option<Since>);

#[derive(Clone, Copy, Debug)]
struct Since {
    number: u64,
    at: Duration,
    /// What was chosen then.
    reached: Slot,
}

// === impl Sided ===

impl Sided {
    /// `silent` is the revision that runs along, and the log was chosen up to `reached` before it was asked.
    pub fn of(said: Option<&Said>, silent: u64, reached: Slot) -> Self {
        match said {
            Some(it) if it.running == Some(silent) => {
                if it.applied.0 + NEAR_SLOTS >= reached.0 {
                    Self::Along
                } else {
                    Self::Neither
                }
            }
            Some(it) if it.serving => Self::Answers,
            _ => Self::Neither,
        }
    }
}

// === impl Ready ===

impl Ready {
    /// Whether it is to take over now: by half of the copies, when all that was chosen when these had
    /// caught up was compared with what the old revision has answered; or by one, when no copy can answer.
    /// `now` is read on a clock of the leader's that only goes forward.
    pub fn look(
        &mut self,
        number: u64,
        copies: &[Sided],
        reached: Slot,
        compared: Slot,
        now: Duration,
    ) -> bool {
        let count = |sided| copies.iter().filter(|it| **it == sided).count();
        let (along, answer) = (count(Sided::Along), count(Sided::Answers));
        let half = along > 0 && 2 * along >= copies.len();
        let alone = along > 0 && answer == 0;
        if !(half || alone) {
            self.0 = None;
            return false;
        }
        self.0.take_if(|it| it.number != number);
        let since = *self.0.get_or_insert(Since {
            number,
            at: now,
            reached,
        });
        let nobody = alone && now.saturating_sub(since.at) >= NOBODY;
        (half && compared >= since.reached) || nobody
    }
}

#[cfg(test)]
mod tests {
    use super::Sided::{Along, Answers, Neither};
    use super::*;

    fn said(running: u64, serving: bool, applied: u64) -> Said {
        Said {
            running: Some(running),
            serving,
            applied: Slot(applied),
        }
    }

    #[test]
    fn a_copy_counts_for_the_silent_revision_when_it_has_caught_up() {
        let reached = Slot(10_000);
        for (said, expected) in [
            (Some(said(2, false, 9_999)), Along),
            (Some(said(2, false, 5_000)), Neither),
            (Some(said(1, true, 9_999)), Answers),
            (Some(said(1, false, 9_999)), Neither),
            (None, Neither),
        ] {
            assert_eq!(Sided::of(said.as_ref(), 2, reached), expected);
        }
    }

    #[test]
    fn half_of_the_copies_must_have_caught_up_and_all_up_to_then_be_compared() {
        let now = Duration::from_secs(9);
        for (copies, expected) in [
            (&[Along, Along, Answers][..], true),
            (&[Along, Answers], true),
            (&[Along, Answers, Answers], false),
            (&[Along, Neither, Answers], false),
            (&[Answers, Answers], false),
            (&[], false),
        ] {
            let mut ready = Ready::default();
            let mut look =
                |reached, compared| ready.look(2, copies, Slot(reached), Slot(compared), now);
            assert!(!look(100, 99), "{copies:?}");
            // More was chosen since.
            assert_eq!(look(200, 100), expected, "{copies:?}");
        }
    }

    #[test]
    fn one_is_enough_when_no_copy_has_been_able_to_answer_for_a_while() {
        let now = Duration::from_secs(9);
        let copies = [Along, Neither, Neither];
        let mut ready = Ready::default();
        assert!(!ready.look(2, &copies, Slot(9), Slot(0), now));
        let later = now + NOBODY;
        let answered = [Along, Answers, Neither];
        let mut other = ready;
        assert!(!other.look(2, &answered, Slot(9), Slot(0), later));
        assert!(!other.look(2, &copies, Slot(9), Slot(0), later), "anew");
        let mut other = ready;
        assert!(!other.look(3, &copies, Slot(9), Slot(0), later), "another");
        assert!(ready.look(2, &copies, Slot(9), Slot(0), later));
    }
}
