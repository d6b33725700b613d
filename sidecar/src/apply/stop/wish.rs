//! A member's side: whether it may have its app stopped, and what it tells the leader about that.

use synod_paxos::{Ballot, Slot};

use super::{Claim, MARGIN_MS};
use crate::app::Instance;
use crate::apply::ApplyStatus;

/// Who holds the token tells so again after this time, in milliseconds.
const RENEW_MS: u64 = 3_000;
/// Who did not get it, or no answer, asks again after this time, in milliseconds.
const RETRY_MS: u64 = 250;
/// A copy that comes no further for so long lets others have their turn, in milliseconds.
const PATIENCE_MS: u64 = 30_000;
/// And one that is given a state, which may be large, in milliseconds.
const RESTORE_PATIENCE_MS: u64 = 600_000;

/// See the module's documentation. Times are milliseconds of a clock that never goes back.
#[derive(Debug)]
pub struct Wish {
    /// Number of the present or the next wish; its first is drawn at random by each process, so that
    /// a leader tells one life from the next.
    number: u64,
    phase: Phase,
    /// The token is held until then.
    lease_until_ms: Option<u64>,
    /// The ballot of the leader that is followed.
    leader: Option<Ballot>,
    /// It knows that nothing is claimed.
    told: bool,
    /// When it is told next.
    due_ms: u64,
    /// How far the copy was when it last came further.
    mark: (Phase, u64, Slot),
    marked_ms: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// There is nothing to stop.
    Idle,
    /// This instance must be stopped, and runs; so many starts were seen.
    Wanted { instance: Instance, starts: u64 },
    /// It was stopped under the token: its successor is rebuilt.
    Stopped { starts: u64 },
}

impl Wish {
    /// Wishes nothing yet. `first` is drawn at random.
    pub fn new(first: u64) -> Self {
        Self {
            number: first,
            phase: Phase::Idle,
            lease_until_ms: None,
            leader: None,
            told: false,
            due_ms: 0,
            mark: (Phase::Idle, 0, Slot::ZERO),
            marked_ms: 0,
        }
    }

    /// Looks at the copy, and at the ballot of the leader that is followed.
    pub fn observe(&mut self, now_ms: u64, copy: &ApplyStatus, leader: Option<Ballot>) {
        if self.leader != leader {
            self.leader = leader;
            self.told = false;
            self.due_ms = now_ms;
        }
        self.lease_until_ms.take_if(|until| *until <= now_ms);
        let held = self.lease_until_ms.is_some();
        let next = match (self.phase, copy.condemned) {
            (Phase::Wanted { instance, .. }, Some(condemned)) if instance == condemned => {
                self.phase
            }
            (_, Some(instance)) => Phase::Wanted {
                instance,
                starts: copy.app_starts,
            },
            (Phase::Wanted { starts, .. } | Phase::Stopped { starts }, None) => {
                let once = !copy.serving && copy.app_starts <= starts + 1;
                if held && once {
                    Phase::Stopped { starts }
                } else {
                    Phase::Idle
                }
            }
            (Phase::Idle, None) => Phase::Idle,
        };
        self.enter(now_ms, next);
        let mark = (self.phase, copy.app_starts, copy.applied);
        let patience_ms = if copy.restoring {
            RESTORE_PATIENCE_MS
        } else {
            PATIENCE_MS
        };
        if self.mark != mark || !held {
            self.mark = mark;
            self.marked_ms = now_ms;
        } else if now_ms >= self.marked_ms + patience_ms {
            self.give_up(now_ms);
        }
    }

    fn enter(&mut self, now_ms: u64, next: Phase) {
        let same = match (self.phase, next) {
            // One wish, from the condemned app to the copy that serves again.
            (Phase::Wanted { .. }, Phase::Stopped { .. }) => true,
            (old, new) => old == new,
        };
        self.phase = next;
        if !same {
            self.begin(now_ms);
        }
    }

    /// What was held is over.
    fn begin(&mut self, now_ms: u64) {
        self.number = self.number.wrapping_add(1);
        self.lease_until_ms = None;
        self.told = false;
        self.due_ms = now_ms;
    }

    fn give_up(&mut self, now_ms: u64) {
        if matches!(self.phase, Phase::Stopped { .. }) {
            self.phase = Phase::Idle;
        }
        self.begin(now_ms);
    }

    /// What the leader is to be told now, and the ballot in which it leads.
    pub fn due(&self, now_ms: u64) -> Option<(Ballot, Claim)> {
        let leader = self.leader?;
        let known = self.told && self.claim() == Claim::Nothing;
        (now_ms >= self.due_ms && !known).then(|| (leader, self.claim()))
    }

    fn claim(&self) -> Claim {
        match (self.phase, self.lease_until_ms) {
            (Phase::Idle, _) => Claim::Nothing,
            (_, Some(_)) => Claim::Holds(self.number),
            (_, None) => Claim::Wants(self.number),
        }
    }

    /// What came of telling that, begun at `asked_ms`: whether and for how long the token is held
    /// from then on; `None`: no answer.
    pub fn handle_answer(
        &mut self,
        now_ms: u64,
        asked_ms: u64,
        (leader, claim): (Ballot, Claim),
        granted_ms: Option<u64>,
    ) {
        if self.leader != Some(leader) || self.claim() != claim {
            return;
        }
        self.due_ms = now_ms + RETRY_MS;
        match (claim, granted_ms) {
            (Claim::Nothing, Some(_)) => self.told = true,
            (_, Some(granted_ms)) if granted_ms > 0 => {
                self.lease_until_ms = Some(asked_ms + granted_ms);
                self.due_ms = now_ms + RENEW_MS;
            }
            _ => {}
        }
    }

    /// This instance may be stopped now, and the token lasts until that is over.
    pub fn allows(&self, now_ms: u64, instance: Instance) -> bool {
        let wanted = matches!(self.phase, Phase::Wanted { instance: it, .. } if it == instance);
        wanted
            && self
                .lease_until_ms
                .is_some_and(|until| until > now_ms + MARGIN_MS)
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use synod_paxos::{Epoch, MemberId};

    use super::*;
    use crate::apply::stop::TTL_MS;

    fn instance(number: u64) -> Instance {
        Instance(NonZeroU64::new(number).expect("not zero"))
    }

    fn ballot(round: u64) -> Ballot {
        Ballot {
            epoch: Epoch(1),
            round,
            node: MemberId(1),
        }
    }

    fn condemned(number: u64, starts: u64) -> ApplyStatus {
        ApplyStatus {
            condemned: Some(instance(number)),
            app_starts: starts,
            ..ApplyStatus::default()
        }
    }

    fn replaying(starts: u64, applied: u64) -> ApplyStatus {
        ApplyStatus {
            rebuilding: true,
            app_starts: starts,
            applied: Slot(applied),
            ..ApplyStatus::default()
        }
    }

    fn serving(starts: u64) -> ApplyStatus {
        ApplyStatus {
            serving: true,
            app_starts: starts,
            applied: Slot(9),
            ..ApplyStatus::default()
        }
    }

    fn claim(wish: &Wish, now_ms: u64) -> Option<Claim> {
        wish.due(now_ms).map(|(_, claim)| claim)
    }

    fn answer(wish: &mut Wish, now_ms: u64, granted_ms: Option<u64>) {
        let asked = wish.due(now_ms).expect("something is due");
        wish.handle_answer(now_ms, now_ms, asked, granted_ms);
    }

    /// One whose app 7 must be stopped, and that holds the token from time 0 on.
    fn holding() -> Wish {
        let mut wish = Wish::new(0);
        wish.observe(0, &condemned(7, 1), Some(ballot(1)));
        assert!(!wish.allows(0, instance(7)));
        answer(&mut wish, 0, Some(TTL_MS));
        wish
    }

    #[test]
    fn each_leader_is_told_once_that_nothing_is_claimed() {
        let mut wish = Wish::new(0);
        wish.observe(0, &serving(1), None);
        assert_eq!(claim(&wish, 0), None);
        wish.observe(1, &serving(1), Some(ballot(1)));
        answer(&mut wish, 1, None);
        assert_eq!(claim(&wish, 1), None);
        answer(&mut wish, 1 + RETRY_MS, Some(0));
        assert_eq!(claim(&wish, 60_000), None);
        wish.observe(60_000, &serving(1), Some(ballot(2)));
        assert_eq!(claim(&wish, 60_000), Some(Claim::Nothing));
    }

    #[test]
    fn an_app_may_be_stopped_only_while_enough_of_the_lease_is_left() {
        let mut wish = holding();
        assert!(wish.allows(0, instance(7)));
        assert!(!wish.allows(0, instance(8)));
        let last_ms = TTL_MS - MARGIN_MS;
        wish.observe(last_ms, &condemned(7, 1), Some(ballot(1)));
        assert!(!wish.allows(last_ms, instance(7)));
        answer(&mut wish, last_ms, Some(TTL_MS));
        assert!(wish.allows(last_ms, instance(7)), "renewed");
        let end_ms = last_ms + TTL_MS;
        wish.observe(end_ms, &condemned(7, 1), Some(ballot(1)));
        assert_eq!(claim(&wish, end_ms), Some(Claim::Wants(1)));
    }

    #[test]
    fn without_a_leader_or_its_yes_nothing_is_stopped() {
        let mut wish = Wish::new(0);
        wish.observe(0, &condemned(7, 1), None);
        assert_eq!(claim(&wish, 0), None);
        assert!(!wish.allows(0, instance(7)));
        wish.observe(10, &condemned(7, 1), Some(ballot(1)));
        assert_eq!(claim(&wish, 10), Some(Claim::Wants(1)));
        answer(&mut wish, 10, Some(0));
        assert!(!wish.allows(10, instance(7)));
        assert_eq!(claim(&wish, 11), None);
        assert_eq!(claim(&wish, 10 + RETRY_MS), Some(Claim::Wants(1)));
    }

    #[test]
    fn the_token_is_kept_until_the_copy_serves_again() {
        let mut wish = holding();
        for (at_ms, copy) in [
            (1_000, replaying(1, 0)),
            (2_000, replaying(2, 0)),
            (8_000, replaying(2, 5)),
        ] {
            wish.observe(at_ms, &copy, Some(ballot(1)));
            assert_eq!(wish.claim(), Claim::Holds(1), "at {at_ms}");
        }
        assert_eq!(claim(&wish, 8_000), Some(Claim::Holds(1)));
        answer(&mut wish, 8_000, Some(TTL_MS));
        wish.observe(9_000, &serving(2), Some(ballot(1)));
        assert_eq!(claim(&wish, 9_000), Some(Claim::Nothing));
    }

    #[test]
    fn a_rebuilt_copy_that_fails_again_is_a_new_wish() {
        let mut wish = holding();
        wish.observe(1_000, &replaying(2, 3), Some(ballot(1)));
        wish.observe(2_000, &condemned(8, 2), Some(ballot(1)));
        assert_eq!(claim(&wish, 2_000), Some(Claim::Wants(2)));
        assert!(!wish.allows(2_000, instance(8)));
    }

    #[test]
    fn a_rebuilt_app_that_goes_down_by_itself_gives_the_token_back() {
        let mut wish = holding();
        wish.observe(1_000, &replaying(2, 3), Some(ballot(1)));
        wish.observe(2_000, &replaying(3, 0), Some(ballot(1)));
        assert_eq!(claim(&wish, 2_000), Some(Claim::Nothing));
    }

    #[test]
    fn an_app_that_goes_before_there_is_a_token_needs_none() {
        let mut wish = Wish::new(0);
        wish.observe(0, &condemned(7, 1), Some(ballot(1)));
        wish.observe(1, &replaying(2, 0), Some(ballot(1)));
        assert_eq!(claim(&wish, 1), Some(Claim::Nothing));
    }

    #[test]
    fn a_copy_that_comes_no_further_gives_the_token_back() {
        let mut wish = holding();
        for at_ms in (0..PATIENCE_MS).step_by(1_000) {
            wish.observe(at_ms, &condemned(7, 1), Some(ballot(1)));
            if let Some(asked) = wish.due(at_ms) {
                wish.handle_answer(at_ms, at_ms, asked, Some(TTL_MS));
            }
            assert!(wish.allows(at_ms, instance(7)), "at {at_ms}");
        }
        wish.observe(PATIENCE_MS, &condemned(7, 1), Some(ballot(1)));
        assert!(!wish.allows(PATIENCE_MS, instance(7)));
        assert_eq!(claim(&wish, PATIENCE_MS), Some(Claim::Wants(2)));
    }

    #[test]
    fn a_copy_that_is_given_a_large_state_keeps_the_token_for_longer() {
        let mut wish = holding();
        let restoring = ApplyStatus {
            restoring: true,
            ..replaying(2, 0)
        };
        let begun_ms = 1_000;
        let end_ms = begun_ms + RESTORE_PATIENCE_MS;
        for at_ms in (begun_ms..end_ms).step_by(1_000) {
            wish.observe(at_ms, &restoring, Some(ballot(1)));
            if let Some(asked) = wish.due(at_ms) {
                wish.handle_answer(at_ms, at_ms, asked, Some(TTL_MS));
            }
            assert_eq!(wish.claim(), Claim::Holds(1), "at {at_ms}");
        }
        wish.observe(end_ms, &restoring, Some(ballot(1)));
        assert_eq!(wish.claim(), Claim::Nothing);
    }

    #[test]
    fn a_late_answer_to_an_earlier_wish_grants_nothing() {
        let mut wish = Wish::new(0);
        wish.observe(0, &condemned(7, 1), Some(ballot(1)));
        let asked = wish.due(0).expect("due");
        wish.observe(10, &condemned(8, 2), Some(ballot(1)));
        wish.handle_answer(20, 0, asked, Some(TTL_MS));
        assert!(!wish.allows(20, instance(8)));
        let asked = wish.due(20).expect("due");
        wish.observe(30, &condemned(8, 2), Some(ballot(2)));
        wish.handle_answer(40, 20, asked, Some(TTL_MS));
        assert!(!wish.allows(40, instance(8)), "of an earlier leader");
    }
}
