//! The run's dice and its diary: one seeded generator and one list of everything that happened, shared by all parts.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash as _, Hasher as _};
use std::sync::{Arc, Mutex};

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use crate::clock::SimClock;

/// A seeded generator.
pub(crate) struct Dice(Mutex<StdRng>);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Mutex::new(StdRng::seed_from_u64(seed)))
    }

    /// A number below `limit`, which is not 0.
    pub(crate) fn below(&self, limit: u64) -> u64 {
        self.0.lock().unwrap().random_range(0..limit)
    }

    /// A number of `from..=to`.
    pub(crate) fn between(&self, from: u64, to: u64) -> u64 {
        self.0.lock().unwrap().random_range(from..=to)
    }

    /// True in `per_mille` of 1,000 cases.
    pub(crate) fn hits(&self, per_mille: u64) -> bool {
        self.below(1000) < per_mille
    }

    /// One of `choices`.
    pub(crate) fn pick<'a, T>(&self, choices: &'a [T]) -> &'a T {
        &choices[self.below(choices.len() as u64) as usize]
    }
}

/// Everything that happened, in order. Two runs of one seed write the same lines.
#[derive(Clone)]
pub(crate) struct Diary {
    clock: Arc<SimClock>,
    pages: Arc<Mutex<Pages>>,
}

#[derive(Default)]
struct Pages {
    lines: Vec<String>,
    hash: DefaultHasher,
    broken: Option<String>,
}

impl Diary {
    pub(crate) fn new(clock: Arc<SimClock>) -> Self {
        Self { clock, pages: Arc::default() }
    }

    pub(crate) fn note(&self, line: impl AsRef<str>) {
        let line = format!("{:>8} {}", self.clock.ms(), line.as_ref());
        let mut pages = self.pages.lock().unwrap();
        line.hash(&mut pages.hash);
        pages.lines.push(line);
    }

    /// A law was broken. The first is what the run fails with.
    pub(crate) fn accuse(&self, law: impl Into<String>) {
        let law = law.into();
        self.note(format!("BROKEN {law}"));
        self.pages.lock().unwrap().broken.get_or_insert(law);
    }

    /// The first law that was broken.
    pub(crate) fn broken(&self) -> Option<String> {
        self.pages.lock().unwrap().broken.clone()
    }

    /// What all lines together hash to.
    pub(crate) fn hash(&self) -> u64 {
        self.pages.lock().unwrap().hash.finish()
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        self.pages.lock().unwrap().lines.clone()
    }
}
