//! Random numbers with a seed that is printed: `RINGLOG_TEST_SEED=n` repeats a run. Not for secrets.

use std::time::{SystemTime, UNIX_EPOCH};

/// A SplitMix64 generator (Steele, Lea, Flood: "Fast splittable pseudorandom number generators").
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    /// Starts from `RINGLOG_TEST_SEED` or from the clock, and prints the seed for the test's output.
    pub fn seeded(test: &str) -> Self {
        let seed = std::env::var("RINGLOG_TEST_SEED")
            .ok()
            .and_then(|s| s.parse().ok());
        let seed = seed.unwrap_or_else(|| {
            let now = SystemTime::now().duration_since(UNIX_EPOCH);
            u64::from(now.expect("the clock is past 1970").subsec_nanos())
        });
        eprintln!("{test}: RINGLOG_TEST_SEED={seed}");
        Self(seed)
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound` (the bias of the remainder does not matter here).
    pub fn below(&mut self, bound: u64) -> u64 {
        self.number() % bound
    }

    /// `length` bytes.
    pub fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length)
            .map(|_| self.number().to_be_bytes()[0])
            .collect()
    }
}
