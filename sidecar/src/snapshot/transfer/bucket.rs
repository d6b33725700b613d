//! A token bucket. Pure: time is an argument.

use std::time::Duration;

use tokio::time::Instant;

/// How long a sender may catch up for a time in which it sent nothing.
const BURST: Duration = Duration::from_millis(100);

/// Lets so many bytes pass in a second.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bucket {
    /// Bytes in a second; 0: as many as can be.
    rate: u64,
    /// When everything that was taken has passed.
    paid: Instant,
}

// === impl Bucket ===

impl Bucket {
    pub(super) fn new(rate: u64, now: Instant) -> Self {
        Self { rate, paid: now }
    }

    /// Takes so many bytes, and tells when they may be sent.
    pub(super) fn take(&mut self, now: Instant, bytes: u64) -> Instant {
        if self.rate == 0 {
            return now;
        }
        let earliest = now.checked_sub(BURST).unwrap_or(now);
        let from = self.paid.max(earliest);
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.rate);
        let takes = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        // A rate so low that the clock ends before it is the same as never.
        self.paid = from
            .checked_add(takes)
            .unwrap_or(from + Duration::from_secs(1 << 30));
        from.max(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: u64 = 1_000_000;

    #[test]
    fn no_more_than_the_rate_passes_in_any_second_but_for_one_burst_and_one_piece() {
        let start = Instant::now();
        let mut bucket = Bucket::new(RATE, start);
        let (mut now, mut sent) = (start, Vec::new());
        for piece in [1_000, 250_000, 40_000].iter().cycle().take(60) {
            let at = bucket.take(now, *piece);
            assert!(at >= now, "never in the past");
            now = at;
            sent.push((at, *piece));
        }
        for (index, (from, _)) in sent.iter().enumerate() {
            let second = sent[index..]
                .iter()
                .filter(|(at, _)| *at < *from + Duration::from_secs(1));
            let bytes: u64 = second.map(|(_, bytes)| bytes).sum();
            assert!(bytes <= RATE + RATE / 10 + 250_000, "{bytes}");
        }
    }

    #[test]
    fn a_sender_that_rests_catches_up_for_a_burst_only() {
        let start = Instant::now();
        let mut bucket = Bucket::new(RATE, start);
        let later = start + Duration::from_secs(3600);
        assert_eq!(bucket.take(later, 100_000), later);
        assert_eq!(bucket.take(later, 100_000), later);
        assert_eq!(bucket.take(later, 1), later + Duration::from_millis(100));
    }

    #[test]
    fn a_rate_of_zero_is_no_limit() {
        let start = Instant::now();
        let mut bucket = Bucket::new(0, start);
        for _ in 0..10 {
            assert_eq!(bucket.take(start, u64::MAX), start);
        }
    }
}
