//! What is so in some seeds only. Each has dice of its own: whatever is added here leaves all other seeds as they are.

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

/// See the module's documentation.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Rare {
    /// A topic that is made anew has another number of partitions.
    pub(crate) resizes: bool,
    /// Where a partition begins that has neither archive nor offset.
    pub(crate) reset: Reset,
    /// `errors.on.gap=fail`.
    pub(crate) fails_on_gap: bool,
    /// A broker that is some seconds behind the others may answer any question about a partition, and any fetch.
    pub(crate) lags: bool,
    /// Memory is short, there are large records, and so much room for open files on disk, in MiB.
    pub(crate) spill_mib: Option<u64>,
    /// Other connectors take the archive over.
    pub(crate) takes_over: bool,
    /// The connector is paused and resumed.
    pub(crate) pauses: bool,
}

/// `auto.offset.reset`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Reset {
    #[default]
    Earliest,
    /// At the end: there are records before anybody archives.
    Latest,
    /// The group holds an offset of every partition from the beginning on, and a user keeps it so.
    None,
}

impl Reset {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Earliest => "earliest",
            Self::Latest => "latest",
            Self::None => "none",
        }
    }
}

impl Rare {
    /// Those of `seed`.
    pub(crate) fn of(seed: u64) -> Self {
        let dice = |salt: u64| StdRng::seed_from_u64(seed ^ salt);
        let reset = match dice(0x4e5e7).random_range(0..20) {
            0..3 => Reset::Latest,
            3 => Reset::None,
            _ => Reset::Earliest,
        };
        let fails_on_gap = dice(0x6a9).random_bool(0.2);
        let lags = dice(0x1a6).random_bool(0.2);
        // Where reading begins at the end another group begins at another one.
        let takes_over = reset != Reset::Latest && dice(0x7a7e).random_bool(0.15);
        let mut disk = dice(0xd15c);
        let spill_mib = disk.random_bool(0.08).then(|| if disk.random_bool(0.3) { 2 } else { 64 });
        let (resizes, pauses) = (dice(0x7e512e).random_bool(0.4), dice(0x9a05e).random_bool(0.2));
        Self { spill_mib, takes_over, resizes, reset, fails_on_gap, lags, pauses }
    }
}
