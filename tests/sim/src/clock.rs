//! The clocks of one machine: how true (virtual) time looks on it.
//!
//! In: true time and faults. Out: what the member reads. A member never sees true time.

use synod_paxos::Now;

/// True time 0 on a wall clock without fault.
const WALL_ORIGIN_NS: i128 = 1_750_000_000_000_000_000;

/// One machine's `CLOCK_BOOTTIME` and wall clock, each with a rate of its own.
#[derive(Clone, Debug)]
pub(crate) struct Clock {
    /// Where the monotonic clock stood at true time `since_ns`.
    mono_ns: u64,
    since_ns: u64,
    /// Parts per million by which the monotonic clock runs fast.
    mono_ppm: i64,
    wall_ppm: i64,
    wall_offset_ns: i128,
}

// === impl Clock ===

impl Clock {
    pub(crate) fn new(mono_ns: u64, mono_ppm: i64, wall_ppm: i64, wall_offset_ns: i64) -> Self {
        Self {
            mono_ns,
            since_ns: 0,
            mono_ppm,
            wall_ppm,
            wall_offset_ns: i128::from(wall_offset_ns),
        }
    }

    /// What this machine reads at true time `at_ns`.
    pub(crate) fn now(&self, at_ns: u64) -> Now {
        let elapsed = at_ns - self.since_ns;
        let wall = WALL_ORIGIN_NS + stretch(at_ns, self.wall_ppm) + self.wall_offset_ns;
        Now {
            mono_ns: self.mono_ns + u64::try_from(stretch(elapsed, self.mono_ppm)).unwrap_or(0),
            wall_ns: u64::try_from(wall).unwrap_or(0),
        }
    }

    /// The first true time at which this machine's monotonic clock reads at least `mono_ns`.
    pub(crate) fn true_at(&self, mono_ns: u64) -> u64 {
        let ahead = mono_ns.saturating_sub(self.mono_ns);
        let mut at = self.since_ns + (u128::from(ahead) * 1_000_000 / rate(self.mono_ppm)) as u64;
        while self.now(at).mono_ns < mono_ns {
            at += 1;
        }
        at
    }

    /// Somebody sets the wall clock.
    pub(crate) fn jump_wall(&mut self, by_ns: i64) {
        self.wall_offset_ns += i128::from(by_ns);
    }

    /// The machine starts anew: the monotonic clock begins near 0 again.
    pub(crate) fn reboot(&mut self, at_ns: u64) {
        self.mono_ns = 1_000_000_000;
        self.since_ns = at_ns;
    }
}

fn rate(ppm: i64) -> u128 {
    u128::try_from(1_000_000 + ppm).expect("no clock runs backwards by its rate")
}

fn stretch(ns: u64, ppm: i64) -> i128 {
    i128::from(ns) + i128::from(ns) * i128::from(ppm) / 1_000_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timer_set_for_a_reading_fires_no_earlier_than_it_is_read() {
        for ppm in [-900, -1, 0, 1, 900] {
            let clock = Clock::new(77, ppm, 0, 0);
            for mono in [0, 77, 78, 1_000_003, 987_654_321_012] {
                let at = clock.true_at(mono);
                assert!(clock.now(at).mono_ns >= mono, "{ppm} {mono}");
                assert!(
                    at == 0 || clock.now(at - 1).mono_ns < mono,
                    "{ppm} {mono}: too late"
                );
            }
        }
    }

    #[test]
    fn a_jump_of_the_wall_clock_leaves_the_monotonic_one_alone() {
        let mut clock = Clock::new(5, 10, -10, 0);
        let before = clock.now(1_000_000_000);
        clock.jump_wall(-3_600_000_000_000);
        let after = clock.now(1_000_000_000);
        assert_eq!(before.mono_ns, after.mono_ns);
        assert_eq!(before.wall_ns - 3_600_000_000_000, after.wall_ns);
    }
}
