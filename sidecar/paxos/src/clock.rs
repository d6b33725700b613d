//! Agreed time (rule P5): the leader stamps by the median clock of a majority of voters, so that one
//! wrong clock, its own included, never leads all copies astray.

use crate::paxos::Paxos;
use crate::types::{AgreedTime, Now};

/// Off by more than this is reported.
const SKEWED_NS: u64 = 1_000_000_000;

/// What the next stamp is made of.
#[derive(Debug)]
pub(crate) struct Clock {
    /// Median offset of the voters' wall clocks from ours, while a majority is known.
    offset_ns: Option<i64>,
    /// When the greatest stamp of the log was made or came, on our monotonic clock.
    stamped_at_ns: u64,
    /// Somebody's clock is off.
    pub(crate) skewed: bool,
}

impl Clock {
    pub(crate) fn new(now: Now) -> Self {
        Self {
            offset_ns: None,
            stamped_at_ns: now.mono_ns,
            skewed: false,
        }
    }

    /// A later stamp was made or came.
    pub(crate) fn advanced(&mut self, now: Now) {
        self.stamped_at_ns = now.mono_ns;
    }

    /// There is a time to stamp with: a majority's, or one to go on from. A log without any has to
    /// wait for the majority; a fresh leader (`patient`) waits a little so that time does not lag.
    pub(crate) fn is_set(&self, last: AgreedTime, patient: bool) -> bool {
        self.offset_ns.is_some() || (last > AgreedTime(0) && !patient)
    }

    /// Never before `last`, and without a majority's clock no further than time has passed here.
    fn stamp(&self, now: Now, last: AgreedTime) -> AgreedTime {
        let time = match self.offset_ns {
            Some(offset) => now.wall_ns.saturating_add_signed(offset),
            None => last
                .0
                .saturating_add(now.mono_ns.saturating_sub(self.stamped_at_ns)),
        };
        AgreedTime(time.max(last.0.saturating_add(1)))
    }
}

impl Paxos {
    /// Looks at the voters' clocks again.
    pub(crate) fn read_clocks(&mut self) {
        let mut offsets: Vec<i64> = Vec::with_capacity(self.voters.len());
        let timeout_ns = self.election.timeout_ns;
        for voter in &self.voters {
            if *voter == self.me {
                offsets.push(0);
            } else if let Some(peer) = self.peers.get(voter)
                && peer.is_heard(self.now.mono_ns, timeout_ns)
            {
                offsets.extend(peer.clock_offset_ns);
            }
        }
        offsets.sort_unstable();
        let majority = self.voters.len() / 2 + 1;
        self.clock.offset_ns =
            (offsets.len() >= majority).then(|| offsets[(offsets.len() - 1) / 2]);
        self.clock.skewed = offsets
            .iter()
            .any(|offset| offset.unsigned_abs() > SKEWED_NS);
    }

    /// The stamp for the next entry.
    pub(crate) fn stamp(&mut self) -> AgreedTime {
        let time = self.clock.stamp(self.now, self.log.time());
        self.clock.advanced(self.now);
        time
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn now(mono_s: u64, wall_s: u64) -> Now {
        Now {
            mono_ns: mono_s * SECOND,
            wall_ns: wall_s * SECOND,
        }
    }

    #[test]
    fn without_a_majority_time_goes_on_as_it_passes_here_whatever_the_wall_says() {
        let clock = Clock::new(now(100, 5000));
        let stamp = clock.stamp(now(103, 9_000_000), AgreedTime(50 * SECOND));
        assert_eq!(stamp, AgreedTime(53 * SECOND));
    }

    #[test]
    fn with_a_majority_time_is_the_median_clock() {
        let mut clock = Clock::new(now(100, 5000));
        clock.offset_ns = Some(-2 * SECOND.cast_signed());
        let stamp = clock.stamp(now(103, 5003), AgreedTime(50 * SECOND));
        assert_eq!(stamp, AgreedTime(5001 * SECOND));
    }

    #[test]
    fn time_never_goes_back() {
        let mut clock = Clock::new(now(100, 5000));
        clock.offset_ns = Some(0);
        let last = AgreedTime(6000 * SECOND);
        assert_eq!(clock.stamp(now(101, 5001), last), AgreedTime(last.0 + 1));
    }
}
