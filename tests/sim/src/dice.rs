//! The only source of chance: one generator, one seed, drawn from in the order of events.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// A seeded generator with the few draws that the simulator needs.
#[derive(Debug)]
pub(crate) struct Dice(StdRng);

// === impl Dice ===

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(StdRng::seed_from_u64(seed))
    }

    /// True with probability `p`.
    pub(crate) fn chance(&mut self, p: f64) -> bool {
        p > 0.0 && self.0.random_bool(p.min(1.0))
    }

    /// Uniform in `low..=high`.
    pub(crate) fn range(&mut self, low: u64, high: u64) -> u64 {
        assert!(low <= high, "an empty range cannot be drawn from");
        self.0.random_range(low..=high)
    }

    /// Uniform in the logarithm: small values as often as large ones.
    pub(crate) fn log_range(&mut self, low: u64, high: u64) -> u64 {
        let (a, b) = ((low.max(1) as f64).ln(), (high.max(1) as f64).ln());
        let x = a + (b - a) * self.0.random::<f64>();
        (x.exp() as u64).clamp(low, high)
    }

    /// Exponentially distributed with this mean: the gaps between rare independent events.
    pub(crate) fn gap(&mut self, mean: u64) -> u64 {
        let u: f64 = self.0.random_range(1e-9..1.0);
        ((mean as f64) * -u.ln()) as u64 + 1
    }

    /// One of `n`, from 0.
    pub(crate) fn pick(&mut self, n: usize) -> usize {
        assert!(n > 0, "nothing cannot be picked from");
        self.0.random_range(0..n)
    }

    /// 128 random bits.
    pub(crate) fn bits(&mut self) -> u128 {
        self.0.random()
    }
}
