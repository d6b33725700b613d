//! The leader's side: who holds the token, and who is next.

use std::collections::{BTreeMap, BTreeSet};

use synod_paxos::{Ballot, MemberId};

use super::{Claim, TTL_MS};

/// Who waits and was not heard for so long does not wait any more, in milliseconds.
const FORGET_MS: u64 = 5_000;

/// See the module's documentation. Times are milliseconds of a clock that never goes back.
#[derive(Debug, Default)]
pub struct Desk {
    /// The leadership that all below belongs to, and when it began.
    term: Option<(Ballot, u64)>,
    /// Copies that have not said since then whether they hold the token from an earlier leader.
    unheard: BTreeSet<MemberId>,
    holder: Option<Holder>,
    waiting: BTreeMap<MemberId, Waiting>,
    arrivals: u64,
}

#[derive(Clone, Copy, Debug)]
struct Holder {
    member: MemberId,
    wish: u64,
    until_ms: u64,
}

#[derive(Clone, Copy, Debug)]
struct Waiting {
    wish: u64,
    arrival: u64,
    heard_ms: u64,
}

impl Desk {
    /// This member leads in the ballot `term` a group with these copies. Changes nothing when that
    /// is known.
    pub fn lead(&mut self, now_ms: u64, term: Ballot, copies: impl Iterator<Item = MemberId>) {
        if self.term.is_some_and(|(known, _)| known == term) {
            return;
        }
        *self = Self {
            term: Some((term, now_ms)),
            unheard: copies.collect(),
            ..Self::default()
        };
    }

    /// Hears a copy's member; true when it holds the token for [`TTL_MS`] from when it asked.
    pub fn hear(&mut self, now_ms: u64, member: MemberId, claim: Claim) -> bool {
        assert!(self.term.is_some(), "only a leader is asked");
        self.holder.take_if(|holder| holder.until_ms <= now_ms);
        self.waiting
            .retain(|_, waiting| waiting.heard_ms + FORGET_MS > now_ms);
        self.unheard.remove(&member);
        let mine = self.holder.filter(|holder| holder.member == member);
        match (claim, mine) {
            (Claim::Nothing, _) => {
                self.waiting.remove(&member);
                self.holder = self.holder.filter(|_| mine.is_none());
                false
            }
            // Renewed, or asked again since the answer was lost.
            (Claim::Wants(wish) | Claim::Holds(wish), Some(holder)) if holder.wish == wish => {
                self.give(now_ms, member, wish)
            }
            // From an earlier leader.
            (Claim::Holds(wish), None) => self.holder.is_none() && self.give(now_ms, member, wish),
            (Claim::Holds(wish) | Claim::Wants(wish), _) => {
                // What it was rebuilt for is over: others have their turn first.
                self.holder = self.holder.filter(|_| mine.is_none());
                self.wait(now_ms, member, wish);
                self.may_give(now_ms, member) && self.give(now_ms, member, wish)
            }
        }
    }

    fn wait(&mut self, now_ms: u64, member: MemberId, wish: u64) {
        self.arrivals += 1;
        let known = self.waiting.get(&member).filter(|it| it.wish == wish);
        let arrival = known.map_or(self.arrivals, |it| it.arrival);
        let waiting = Waiting {
            wish,
            arrival,
            heard_ms: now_ms,
        };
        self.waiting.insert(member, waiting);
    }

    /// Nobody has it, also not from an earlier leader, and this is the first of those who wait.
    fn may_give(&self, now_ms: u64, member: MemberId) -> bool {
        let (_, began_ms) = self.term.expect("only a leader gives");
        let none_from_before = self.unheard.is_empty() || now_ms >= began_ms + TTL_MS;
        let first = self.waiting.iter().min_by_key(|(_, it)| it.arrival);
        self.holder.is_none() && none_from_before && first.is_some_and(|(it, _)| *it == member)
    }

    fn give(&mut self, now_ms: u64, member: MemberId, wish: u64) -> bool {
        self.waiting.remove(&member);
        self.holder = Some(Holder {
            member,
            wish,
            until_ms: now_ms + TTL_MS,
        });
        true
    }
}

#[cfg(test)]
mod tests {
    use synod_paxos::Epoch;

    use super::*;

    const A: MemberId = MemberId(1);
    const B: MemberId = MemberId(2);
    const C: MemberId = MemberId(3);

    fn term(round: u64) -> Ballot {
        Ballot {
            epoch: Epoch(1),
            round,
            node: A,
        }
    }

    fn fresh(now_ms: u64) -> Desk {
        let mut desk = Desk::default();
        desk.lead(now_ms, term(1), [A, B, C].into_iter());
        desk
    }

    /// Of a leader that has heard everybody.
    fn desk() -> Desk {
        let mut desk = fresh(0);
        for member in [A, B, C] {
            assert!(!desk.hear(0, member, Claim::Nothing));
        }
        desk
    }

    #[test]
    fn of_two_that_ask_at_once_one_waits_until_the_other_gives_back() {
        let mut desk = desk();
        assert!(desk.hear(10, B, Claim::Wants(7)));
        assert!(!desk.hear(10, C, Claim::Wants(1)));
        assert!(desk.hear(3_000, B, Claim::Holds(7)));
        assert!(!desk.hear(3_000, C, Claim::Wants(1)));
        assert!(!desk.hear(3_500, B, Claim::Nothing));
        assert!(desk.hear(3_600, C, Claim::Wants(1)));
    }

    #[test]
    fn a_lease_ends_when_it_is_not_renewed_and_not_before() {
        let mut desk = desk();
        assert!(desk.hear(0, B, Claim::Wants(7)));
        assert!(desk.hear(5_000, B, Claim::Holds(7)));
        let end_ms = 5_000 + TTL_MS;
        assert!(!desk.hear(end_ms - 1, C, Claim::Wants(1)));
        assert!(desk.hear(end_ms, C, Claim::Wants(1)));
        assert!(!desk.hear(end_ms, B, Claim::Holds(7)), "another has it now");
    }

    #[test]
    fn a_new_leader_gives_nothing_until_it_has_heard_all_copies() {
        let mut desk = fresh(100);
        assert!(!desk.hear(100, A, Claim::Wants(1)));
        assert!(!desk.hear(200, B, Claim::Nothing));
        assert!(!desk.hear(300, A, Claim::Wants(1)));
        assert!(!desk.hear(400, C, Claim::Nothing));
        assert!(desk.hear(500, A, Claim::Wants(1)));
    }

    #[test]
    fn a_new_leader_that_does_not_hear_all_copies_gives_nothing_for_a_whole_lease() {
        let mut desk = fresh(100);
        assert!(!desk.hear(100, A, Claim::Wants(1)));
        assert!(!desk.hear(100 + TTL_MS - 1, A, Claim::Wants(1)));
        assert!(desk.hear(100 + TTL_MS, A, Claim::Wants(1)));
    }

    #[test]
    fn who_holds_it_from_an_earlier_leader_goes_on_holding_it() {
        let mut desk = desk();
        assert!(desk.hear(0, B, Claim::Wants(7)));
        desk.lead(1_000, term(2), [A, B, C].into_iter());
        assert!(!desk.hear(1_000, C, Claim::Wants(1)));
        assert!(!desk.hear(1_000, A, Claim::Nothing));
        assert!(desk.hear(1_500, B, Claim::Holds(7)));
        assert!(!desk.hear(1_600, C, Claim::Wants(1)));
        desk.lead(1_700, term(2), [A, B, C].into_iter());
        assert!(!desk.hear(1_800, C, Claim::Wants(1)), "still that leader");
    }

    #[test]
    fn who_wants_it_again_lets_others_go_first() {
        let mut desk = desk();
        assert!(desk.hear(0, A, Claim::Wants(1)));
        assert!(desk.hear(100, A, Claim::Wants(1)), "the answer was lost");
        assert!(!desk.hear(200, C, Claim::Wants(5)));
        assert!(!desk.hear(300, B, Claim::Wants(5)));
        assert!(!desk.hear(1_000, A, Claim::Wants(2)), "rebuilt in vain");
        assert!(!desk.hear(1_100, B, Claim::Wants(5)));
        assert!(desk.hear(1_100, C, Claim::Wants(5)));
        assert!(!desk.hear(1_200, C, Claim::Nothing));
        assert!(!desk.hear(1_200, A, Claim::Wants(2)));
        assert!(desk.hear(1_200, B, Claim::Wants(5)));
    }

    #[test]
    fn who_waits_and_falls_silent_holds_nobody_up() {
        let mut desk = desk();
        assert!(desk.hear(0, A, Claim::Wants(1)));
        assert!(!desk.hear(0, B, Claim::Wants(1)));
        assert!(!desk.hear(FORGET_MS, C, Claim::Wants(1)));
        assert!(!desk.hear(FORGET_MS, A, Claim::Nothing));
        assert!(desk.hear(FORGET_MS, C, Claim::Wants(1)));
    }
}
