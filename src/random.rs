//! Randomness as a seam: ids and jitter come from one seeded generator that the assembly makes, so that a simulated
//! run repeats itself (A8).

use std::sync::{Mutex, PoisonError};

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

/// A shared generator.
#[derive(Debug)]
pub struct Random {
    generator: Mutex<StdRng>,
}

impl Random {
    /// Seeded by the operating system.
    pub fn from_system() -> Self {
        Self { generator: Mutex::new(StdRng::from_os_rng()) }
    }

    /// The same numbers for the same seed.
    pub fn seeded(seed: u64) -> Self {
        Self { generator: Mutex::new(StdRng::seed_from_u64(seed)) }
    }

    /// A new id.
    pub fn id(&self) -> u128 {
        self.generator.lock().unwrap_or_else(PoisonError::into_inner).random()
    }

    /// A number below `limit`; 0 where that is 0.
    pub fn below(&self, limit: u64) -> u64 {
        if limit == 0 {
            return 0;
        }
        self.generator.lock().unwrap_or_else(PoisonError::into_inner).random_range(0..limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_seed_gives_one_sequence() {
        let draw = |random: &Random| (0..4).map(|_| random.id()).collect::<Vec<_>>();
        let (first, second, other) = (Random::seeded(7), Random::seeded(7), Random::seeded(8));
        let ids = draw(&first);
        assert_eq!(ids, draw(&second));
        assert_ne!(ids, draw(&other));
        assert!((0..100).all(|_| first.below(3) < 3));
        assert_eq!(first.below(0), 0);
    }
}
