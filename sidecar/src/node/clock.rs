//! The clocks of the machine, read here and handed into the agreement with each event.

use rustix::time::{ClockId, Timespec, clock_gettime};
use synod_paxos::Now;

/// Both clocks. `CLOCK_BOOTTIME` goes on while the machine sleeps, so a sleep is seen as one.
pub(crate) fn now() -> Now {
    Now {
        mono_ns: nanoseconds(clock_gettime(ClockId::Boottime)),
        wall_ns: nanoseconds(clock_gettime(ClockId::Realtime)),
    }
}

fn nanoseconds(time: Timespec) -> u64 {
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let rest = u64::try_from(time.tv_nsec).unwrap_or(0);
    seconds * 1_000_000_000 + rest
}
