//! What is told about who leads: a leader that is lost from sight for a moment and found again in
//! the same ballot is no news.

use synod_paxos::{Ballot, MemberId};

/// What was told last, and what has happened since.
#[derive(Debug, Default)]
pub(super) struct Leadership {
    told: Option<(Option<MemberId>, Ballot)>,
    /// Since when there is none, in `mono_ns`.
    none_since_ns: Option<u64>,
    /// The ballot of the last leader.
    followed: Option<Ballot>,
    /// When it was first followed, in `mono_ns`.
    since_ns: u64,
    changes: u64,
}

impl Leadership {
    /// There is another leader, or none; true when that is to be told now.
    pub(super) fn changed(
        &mut self,
        now_ns: u64,
        leader: Option<MemberId>,
        ballot: Ballot,
    ) -> bool {
        if leader.is_none() {
            self.none_since_ns.get_or_insert(now_ns);
            return false;
        }
        self.none_since_ns = None;
        let is_news = self.tell((leader, ballot));
        if self.followed != Some(ballot) {
            self.followed = Some(ballot);
            self.since_ns = now_ns;
            self.changes += 1;
        }
        is_news
    }

    /// Leaders so far; one that comes back in its ballot is the same.
    pub(super) fn changes(&self) -> u64 {
        self.changes
    }

    /// When the last leader was first followed in its ballot, in `mono_ns`.
    pub(super) fn since_ns(&self) -> u64 {
        self.since_ns
    }

    /// True when it is to be told that there is no leader: it has lasted for an election timeout, or
    /// elections have begun.
    pub(super) fn is_missing(&mut self, now_ns: u64, timeout_ns: u64, ballot: Ballot) -> bool {
        let Some(since_ns) = self.none_since_ns else {
            return false;
        };
        let elections = self.told.is_some_and(|(_, told)| ballot > told);
        let long = now_ns.saturating_sub(since_ns) >= timeout_ns;
        if !(long || elections) {
            return false;
        }
        self.none_since_ns = None;
        self.tell((None, ballot))
    }

    fn tell(&mut self, news: (Option<MemberId>, Ballot)) -> bool {
        let is_news = self.told != Some(news);
        self.told = Some(news);
        is_news
    }
}

#[cfg(test)]
mod tests {
    use synod_paxos::Epoch;

    use super::*;

    fn ballot(round: u64) -> Ballot {
        Ballot {
            epoch: Epoch(1),
            round,
            node: MemberId(2),
        }
    }

    const LEADER: Option<MemberId> = Some(MemberId(2));

    fn following() -> Leadership {
        let mut leadership = Leadership::default();
        assert!(leadership.changed(0, LEADER, ballot(1)));
        leadership
    }

    #[test]
    fn a_leader_that_is_lost_for_a_moment_is_no_news() {
        let mut leadership = following();
        for at in 1..5 {
            assert!(!leadership.changed(at * 100, None, ballot(1)));
            assert!(!leadership.is_missing(at * 100 + 50, 60, ballot(1)));
            assert!(!leadership.changed(at * 100 + 55, LEADER, ballot(1)));
            assert!(!leadership.is_missing(at * 100 + 90, 60, ballot(1)));
        }
        assert_eq!(leadership.since_ns(), 0, "it is the same leadership");
    }

    #[test]
    fn a_leader_that_stays_away_is_told_once_and_so_is_its_return() {
        let mut leadership = following();
        assert!(!leadership.changed(100, None, ballot(1)));
        assert!(leadership.is_missing(160, 60, ballot(1)));
        assert!(!leadership.is_missing(900, 60, ballot(1)));
        assert!(leadership.changed(950, LEADER, ballot(1)));
        assert_eq!(leadership.changes(), 1);
    }

    #[test]
    fn a_promise_below_the_ballot_of_the_leader_that_is_followed_is_no_election() {
        let mut leadership = Leadership::default();
        assert!(leadership.changed(0, LEADER, ballot(3)));
        assert!(!leadership.changed(100, None, ballot(1)));
        assert!(!leadership.is_missing(110, 60, ballot(1)));
        assert!(leadership.is_missing(160, 60, ballot(1)));
    }

    #[test]
    fn a_new_ballot_is_news_at_once() {
        let mut leadership = following();
        assert!(!leadership.changed(100, None, ballot(1)));
        assert!(leadership.is_missing(101, 60, ballot(2)));
        assert!(leadership.changed(102, LEADER, ballot(3)));
        assert!(!leadership.changed(103, None, ballot(3)));
        assert!(leadership.changed(104, LEADER, ballot(4)));
        assert_eq!(leadership.since_ns(), 104);
        assert_eq!(leadership.changes(), 3);
    }
}
