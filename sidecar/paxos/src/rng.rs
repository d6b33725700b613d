//! A small deterministic generator: the same seed gives the same numbers on every machine.

/// BLAKE3 as a stream, keyed by the seed.
#[derive(Debug)]
pub(crate) struct Rng {
    key: [u8; 32],
    block: u64,
    buffer: [u8; Self::BUFFER],
    used: usize,
}

impl Rng {
    const BUFFER: usize = 1024;

    pub(crate) fn new(seed: u64) -> Self {
        Self {
            key: blake3::derive_key("synod paxos rng 1", &seed.to_le_bytes()),
            block: 0,
            buffer: [0; Self::BUFFER],
            used: Self::BUFFER,
        }
    }

    fn take<const N: usize>(&mut self) -> [u8; N] {
        if self.used + N > Self::BUFFER {
            self.block += 1;
            blake3::Hasher::new_keyed(&self.key)
                .update(&self.block.to_le_bytes())
                .finalize_xof()
                .fill(&mut self.buffer);
            self.used = 0;
        }
        let mut out = [0; N];
        out.copy_from_slice(&self.buffer[self.used..self.used + N]);
        self.used += N;
        out
    }

    pub(crate) fn next_u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }

    pub(crate) fn next_u128(&mut self) -> u128 {
        u128::from_le_bytes(self.take())
    }

    /// A number below `limit`, or 0 when that is 0.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        if limit == 0 {
            0
        } else {
            self.next_u64() % limit
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_numbers() {
        let (mut one, mut two, mut other) = (Rng::new(7), Rng::new(7), Rng::new(8));
        let numbers: Vec<u128> = (0..1000).map(|_| one.next_u128()).collect();
        assert!(numbers.iter().all(|number| *number == two.next_u128()));
        assert_ne!(numbers[0], other.next_u128());
        assert_ne!(numbers[0], numbers[64]);
    }
}
