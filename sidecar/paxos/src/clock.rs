//! Agreed time (rule P5): what a majority of the voters' clocks vouch for, so that one wrong clock,
//! the leader's own included, never leads all copies astray.
//!
//! In: looks at the voters' wall clocks, each as an interval (Cristian, *Probabilistic Clock
//! Synchronization*, 1989: a clock was read some time between our question and its answer), and the
//! stamps in the log. Out: the next stamp. Everything is kept against this machine's monotonic
//! clock, so that a wall clock that is set moves one of the intervals and nothing else.
//!
//! Agreed time goes on as time passes here. It is moved forward only as far as a majority of the
//! voters' clocks read at least, and back only as far as a majority reads at most (after Marzullo,
//! Owicki, *Maintaining the Time in a Distributed System*, PODC 1983). With all voters heard that is
//! their median. With as few as a majority heard one of them may be off, and which one nobody can
//! tell: then what all of them vouch for counts, and what was agreed before.

use synod_mutant::{Mutant, planted};

use crate::paxos::Paxos;
use crate::types::{AgreedTime, MemberId, Reading};

/// A look at a clock counts for so long: drift of 1,000 ppm makes 10 ms of it.
const COUNTS_NS: u64 = 10_000_000_000;
/// Off by more than this is reported.
const SKEWED_NS: u64 = 1_000_000_000;

/// One look at a wall clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Look {
    /// What it read, at the latest when the answer came.
    earliest: Reading,
    /// From our question to the answer: it may have been read so long before.
    trip_ns: u64,
}

/// What the next stamp is made of.
#[derive(Debug)]
pub(crate) struct Clock {
    /// Agreed time, by the log's last stamp and by all majorities since.
    known: Option<Reading>,
    bounds: Option<Bounds>,
    /// This machine's wall clock, as it counts among the voters'.
    own: Option<Look>,
    /// A majority's clocks were known once in this life.
    measured: bool,
    /// Voters whose clocks are off by what some majority says. Of two that differ, both.
    skewed: Vec<MemberId>,
}

/// What a majority of the voters' clocks vouch for.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    /// A majority reads this or later.
    low: Reading,
    /// A majority reads this or earlier.
    high: Reading,
    /// The oldest look no longer counts then.
    until_ns: u64,
}

// === impl Look ===

impl Look {
    /// An answer that came at `now_ns`, `trip_ns` after our question.
    pub(crate) fn new(wall_ns: u64, trip_ns: u64, now_ns: u64) -> Self {
        Self {
            earliest: Reading {
                time: AgreedTime(wall_ns),
                mono_ns: now_ns,
            },
            trip_ns,
        }
    }

    fn latest(self) -> Reading {
        let Reading { time, mono_ns } = self.earliest;
        Reading {
            time: AgreedTime(time.0.saturating_add(self.trip_ns)),
            mono_ns,
        }
    }

    /// Until when it counts.
    fn until_ns(self) -> u64 {
        self.earliest
            .mono_ns
            .saturating_add(COUNTS_NS)
            .saturating_sub(self.trip_ns)
    }

    /// What that clock most likely reads at `now_ns`.
    fn likely_ns(self, now_ns: u64) -> u64 {
        self.earliest.at(now_ns).0.saturating_add(self.trip_ns / 2)
    }
}

// === impl Bounds ===

impl Bounds {
    /// Of looks that all count; `None` when they are not a majority's.
    fn of(looks: &[(MemberId, Look)], majority: usize, now_ns: u64) -> Option<Self> {
        if looks.len() < majority {
            return None;
        }
        assert!(looks.len() < 2 * majority, "no more looks than voters");
        let sorted = |time: fn(Look) -> Reading| {
            let mut times: Vec<_> = looks.iter().map(|(_, it)| time(*it).at(now_ns)).collect();
            times.sort_unstable();
            times
        };
        let reading = |time| Reading {
            time,
            mono_ns: now_ns,
        };
        let low = sorted(|it| it.earliest)[looks.len() - majority];
        let high = sorted(Look::latest)[majority - 1];
        assert!(low <= high, "two majorities have a voter in common");
        Some(Self {
            low: reading(low),
            high: reading(high),
            until_ns: looks.iter().map(|(_, it)| it.until_ns()).min()?,
        })
    }
}

// === impl Clock ===

impl Clock {
    /// The clock of a start, with the greatest stamp of its log.
    pub(crate) fn new(now_ns: u64, last: AgreedTime) -> Self {
        let mut clock = Self {
            known: None,
            bounds: None,
            own: None,
            measured: false,
            skewed: Vec::new(),
        };
        clock.stamped(now_ns, last);
        clock
    }

    /// The log's greatest stamp is `last`, by an entry that was made or came just now.
    pub(crate) fn stamped(&mut self, now_ns: u64, last: AgreedTime) {
        let later = self.known.is_none_or(|known| known.at(now_ns) < last);
        if later && last > AgreedTime(0) {
            self.known = Some(Reading {
                time: last,
                mono_ns: now_ns,
            });
        }
    }

    /// There is a time to stamp with: a majority's, or one to go on from. A log without any has to
    /// wait for the majority; a fresh leader (`patient`) waits a little so that time does not lag.
    pub(crate) fn is_set(&self, now_ns: u64, patient: bool) -> bool {
        self.bounds_at(now_ns).is_some() || (self.known.is_some() && !patient)
    }

    /// Takes what the voters' clocks are known to read.
    fn look(&mut self, now_ns: u64, looks: &[(MemberId, Look)], majority: usize) {
        self.bounds = Bounds::of(looks, majority, now_ns);
        self.measured |= self.bounds.is_some();
        self.known = self.agreed(now_ns).map(|time| Reading {
            time,
            mono_ns: now_ns,
        });
        let bounds = self.bounds;
        let is_off = |look: &Look| {
            bounds.is_some_and(|Bounds { low, high, .. }| {
                look.earliest.at(now_ns).0 > low.time.0.saturating_add(SKEWED_NS)
                    || look.latest().at(now_ns).0.saturating_add(SKEWED_NS) < high.time.0
            })
        };
        let off = looks.iter().filter(|(_, look)| is_off(look));
        self.skewed = off.map(|(voter, _)| *voter).collect();
    }

    fn bounds_at(&self, now_ns: u64) -> Option<Bounds> {
        self.bounds.filter(|it| now_ns < it.until_ns)
    }

    /// What agreed time is at `now_ns`; without a majority, what it was and the time since.
    fn agreed(&self, now_ns: u64) -> Option<AgreedTime> {
        let known = self.known.map(|it| it.at(now_ns));
        let Some(bounds) = self.bounds_at(now_ns) else {
            return known;
        };
        let (low, high) = (bounds.low.at(now_ns), bounds.high.at(now_ns));
        Some(known.map_or(low, |known| known.clamp(low, high)))
    }

    /// Never at or before `last`.
    fn stamp(&self, now_ns: u64, last: AgreedTime) -> AgreedTime {
        let next = AgreedTime(last.0.saturating_add(1));
        self.agreed(now_ns).map_or(next, |time| time.max(next))
    }
}

impl Paxos {
    /// Looks at the voters' clocks again.
    pub(crate) fn read_clocks(&mut self) {
        let now_ns = self.now.mono_ns;
        self.clock.own = Some(Look::new(self.now.wall_ns, 0, now_ns));
        let looks: Vec<(MemberId, Look)> = self
            .voters
            .iter()
            .filter_map(|voter| match self.peers.get(voter) {
                Some(peer) => Some((*voter, peer.clock?)),
                None if *voter == self.me => Some((*voter, self.clock.own?)),
                None => None,
            })
            .filter(|(_, look)| now_ns < look.until_ns())
            .collect();
        let majority = self.voters.len() / 2 + 1;
        self.clock.look(now_ns, &looks, majority);
    }

    /// The stamp for the next entry.
    pub(crate) fn stamp(&mut self) -> AgreedTime {
        if planted(Mutant::OneClockDecides) {
            return AgreedTime(self.now.wall_ns);
        }
        self.clock.stamp(self.now.mono_ns, self.log.time())
    }

    /// What agreed time is now, as far as this member knows: about what the leader stamps. `None`
    /// until a majority's clocks were known once since the start: a log may be old.
    pub fn agreed_clock(&self) -> Option<Reading> {
        let mono_ns = self.now.mono_ns;
        let time = self.clock.agreed(mono_ns).filter(|_| self.clock.measured)?;
        Some(Reading {
            time: time.max(self.log.time()),
            mono_ns,
        })
    }

    /// Voters whose wall clocks are off by more than a second from what a majority's say. Where as
    /// few as a majority are heard and differ, these are all that differ: who is right is not known.
    pub fn skewed(&self) -> &[MemberId] {
        &self.clock.skewed
    }

    /// By how much the clock that was looked at is ahead of what the majority's say.
    pub(crate) fn clock_offset_ns(&self, look: Option<Look>) -> Option<i64> {
        let now_ns = self.now.mono_ns;
        let agreed = self.clock.agreed(now_ns).filter(|_| self.clock.measured)?;
        let theirs_ns = look?.likely_ns(now_ns);
        Some(theirs_ns.wrapping_sub(agreed.0).cast_signed())
    }

    /// The same of this machine's clock.
    pub(crate) fn own_clock_offset_ns(&self) -> Option<i64> {
        self.clock_offset_ns(self.clock.own)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    /// Looks at clocks that read these seconds at second 100, with their round trips.
    fn looks(clocks: &[(u64, u64)]) -> Vec<(MemberId, Look)> {
        let look =
            |(wall, trip): &(u64, u64)| Look::new(wall * SECOND, trip * SECOND, 100 * SECOND);
        (1..).map(MemberId).zip(clocks.iter().map(look)).collect()
    }

    /// At second 100 agreed time is `last`; what it is after these looks, in seconds.
    fn agreed(last: u64, clocks: &[(u64, u64)], majority: usize) -> u64 {
        let mut clock = Clock::new(100 * SECOND, AgreedTime(last * SECOND));
        clock.look(100 * SECOND, &looks(clocks), majority);
        let stamp = clock.stamp(100 * SECOND, AgreedTime(0));
        assert_eq!(stamp.0 % SECOND, 0);
        stamp.0 / SECOND
    }

    #[test]
    fn without_a_majority_time_goes_on_as_it_passes_here() {
        let mut clock = Clock::new(100 * SECOND, AgreedTime(50 * SECOND));
        clock.look(100 * SECOND, &looks(&[(9_000_000, 0)]), 2);
        let stamp = clock.stamp(103 * SECOND, AgreedTime(50 * SECOND));
        assert_eq!(stamp, AgreedTime(53 * SECOND));
        assert_eq!(clock.skewed, [], "nobody can tell");
    }

    #[test]
    fn with_all_voters_time_is_the_median_clock() {
        assert_eq!(agreed(50, &[(5001, 0), (9000, 0), (4000, 0)], 2), 5001);
        assert_eq!(agreed(9500, &[(5001, 0), (9000, 0), (4000, 0)], 2), 5001);
        assert_eq!(agreed(50, &[(700, 0)], 1), 700, "alone");
    }

    #[test]
    fn with_as_few_as_a_majority_one_wrong_clock_moves_nothing() {
        assert_eq!(agreed(5000, &[(5000, 0), (8600, 0)], 2), 5000);
        assert_eq!(agreed(5000, &[(5000, 0), (1400, 0)], 2), 5000);
        let two_of_five = [(5000, 0), (8600, 0), (8600, 0)];
        assert_eq!(agreed(5000, &two_of_five, 3), 5000);
        assert_eq!(agreed(0, &[(5000, 0), (8600, 0)], 2), 5000, "the first");
        assert_eq!(agreed(50, &[(5000, 0), (8600, 0)], 2), 5000, "long after");
        let four = [(5000, 0), (5001, 0), (8600, 0), (5002, 0)];
        assert_eq!(agreed(5000, &four, 3), 5001);
    }

    #[test]
    fn how_long_an_answer_took_makes_time_no_later() {
        assert_eq!(agreed(50, &[(5000, 8), (5000, 8)], 2), 5000);
        assert_eq!(agreed(5004, &[(5000, 8), (5000, 8)], 2), 5004);
        assert_eq!(agreed(5100, &[(5000, 8), (5000, 8)], 2), 5008);
    }

    #[test]
    fn a_look_counts_for_a_while_only_and_less_when_its_answer_took_long() {
        let mut clock = Clock::new(100 * SECOND, AgreedTime(50 * SECOND));
        clock.look(100 * SECOND, &looks(&[(5000, 0), (5000, 4)]), 2);
        assert!(clock.is_set(105 * SECOND, true));
        assert!(!clock.is_set(106 * SECOND, true));
        assert!(clock.is_set(106 * SECOND, false), "what is known goes on");
        let stamp = clock.stamp(110 * SECOND, AgreedTime(0));
        assert_eq!(stamp, AgreedTime(5010 * SECOND));
    }

    #[test]
    fn a_log_without_any_time_has_none_to_go_on_from() {
        let mut clock = Clock::new(100 * SECOND, AgreedTime(0));
        assert!(!clock.is_set(100 * SECOND, false));
        clock.stamped(100 * SECOND, AgreedTime(7));
        assert!(clock.is_set(100 * SECOND, false));
        assert!(!clock.is_set(100 * SECOND, true));
    }

    #[test]
    fn time_never_goes_back_and_waits_for_the_clocks() {
        let mut clock = Clock::new(100 * SECOND, AgreedTime(6000 * SECOND));
        clock.look(100 * SECOND, &looks(&[(5000, 0), (5000, 0)]), 2);
        let last = AgreedTime(6000 * SECOND);
        let stamp = clock.stamp(101 * SECOND, last);
        assert_eq!(stamp, AgreedTime(last.0 + 1));
        // A stamp that is ahead does not make time run from there.
        clock.stamped(101 * SECOND, stamp);
        let next = clock.stamp(105 * SECOND, stamp);
        assert_eq!(next, AgreedTime(last.0 + 2));
    }

    #[test]
    fn a_clock_is_off_when_the_time_that_its_answer_took_does_not_explain_it() {
        let skewed = |clocks: &[(u64, u64)]| {
            let mut clock = Clock::new(100 * SECOND, AgreedTime(0));
            clock.look(100 * SECOND, &looks(clocks), 2);
            clock.skewed
        };
        assert_eq!(skewed(&[(5000, 0), (5001, 0), (5000, 0)]), []);
        assert_eq!(skewed(&[(5000, 0), (5002, 0), (5000, 0)]), [MemberId(2)]);
        assert_eq!(skewed(&[(5000, 0), (4998, 0), (5000, 0)]), [MemberId(2)]);
        assert_eq!(skewed(&[(5000, 0), (4996, 5), (5000, 0)]), []);
        let both = [MemberId(1), MemberId(2)];
        assert_eq!(skewed(&[(5000, 0), (4998, 0)]), both, "who is right?");
    }
}
