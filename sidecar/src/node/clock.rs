//! The clocks of the machine, read here and handed into the agreement with each event.

use synod_paxos::Now;

/// Both clocks. `CLOCK_BOOTTIME` goes on while the machine sleeps, so a sleep is seen as one.
#[cfg(not(feature = "turmoil"))]
pub(crate) fn now() -> Now {
    use rustix::time::{ClockId, clock_gettime};

    Now {
        mono_ns: nanoseconds(clock_gettime(ClockId::Boottime)),
        wall_ns: nanoseconds(clock_gettime(ClockId::Realtime)),
    }
}

#[cfg(not(feature = "turmoil"))]
fn nanoseconds(time: rustix::time::Timespec) -> u64 {
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let rest = u64::try_from(time.tv_nsec).unwrap_or(0);
    seconds * 1_000_000_000 + rest
}

/// Both clocks, as the simulation has them.
#[cfg(feature = "turmoil")]
pub(crate) fn now() -> Now {
    /// Every machine has been up for a while.
    const UP: std::time::Duration = std::time::Duration::from_secs(3600);

    let on_a_host = "only hosts of the simulation look at their clocks";
    Now {
        mono_ns: (UP + turmoil::sim_elapsed().expect(on_a_host)).as_nanos() as u64,
        wall_ns: turmoil::since_epoch().expect(on_a_host).as_nanos() as u64,
    }
}
