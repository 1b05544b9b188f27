//! What is so in some seeds only. Each has dice of its own: whatever is added here leaves all other seeds as they are.

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

/// See the module's documentation.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Rare {
    /// A topic that is made anew has another number of partitions.
    pub(crate) resizes: bool,
}

impl Rare {
    /// Those of `seed`.
    pub(crate) fn of(seed: u64) -> Self {
        let dice = |salt: u64| StdRng::seed_from_u64(seed ^ salt);
        Self { resizes: dice(0x7e512e).random_bool(0.4) }
    }
}
