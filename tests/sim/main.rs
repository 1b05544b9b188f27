//! The simulator: the worker's own task loops and lake connectors, unchanged, between a simulated cluster and a
//! simulated store, in simulated time. Every run is drawn from one seed and is the same each time.
//!
//! `LAKEFERRY_SIM_SEEDS=10000` runs that many seeds, from `LAKEFERRY_SIM_FROM` on; `LAKEFERRY_SIM_SEED=7` runs one and
//! prints its diary, `LAKEFERRY_SIM_STEPS=0,3,9` only those steps of it, which is what a failing seed is reduced to.

#![allow(clippy::unwrap_used, reason = "what cannot go on fails its test")]
#![allow(clippy::print_stdout, reason = "diaries and tables are for whoever runs it by hand")]

mod awaits;
mod broker;
mod chance;
mod checker;
mod clock;
mod drill;
mod plan;
mod process;
mod rare;
mod reduce;
mod restore;
mod saboteur;
mod sights;
mod store;
mod watch;
mod world;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};

use lakeferry_api::simulation::sabotage::{self, Fault};

use crate::awaits::{Blow, Hit, Struck};
use crate::broker::Broker;
use crate::checker::Objects;
use crate::clock::SimClock;
use crate::plan::Plan;
use crate::reduce::Reduced;
use crate::sights::Sights;
use crate::store::SimStore;
use crate::watch::Watched;
use crate::world::World;

/// What became of a run.
struct Outcome {
    broken: Option<String>,
    hash: u64,
    lines: Vec<String>,
    struck: Vec<(Blow, Hit)>,
    /// Records that came back with the restore.
    restored: usize,
}

/// How many seeds meet every request of the commit path with a crash.
const AIMED_SEEDS: u64 = 500;

/// Of so many seeds at least the archive comes back with records in it.
const RESTORED_PERCENT: u64 = 80;

/// Of the seeds that are run twice, so many bring records back by the command `restore` at least.
const REPEATED_COMMANDS: usize = 8;

/// After so many seeds that break a law the others wait.
const ENOUGH_BROKEN: usize = 3;

static RUNS: AtomicU64 = AtomicU64::new(0);

/// What must be gone when a run has ended: whatever holds a part of a world holds one of these.
struct Remains {
    clock: Weak<SimClock>,
    store: Weak<SimStore>,
    broker: Weak<Broker>,
}

impl Remains {
    fn of(world: &World) -> Self {
        let (clock, store) = (Arc::downgrade(&world.clock), Arc::downgrade(&world.store));
        Self { clock, store, broker: Arc::downgrade(&world.broker) }
    }

    /// What is there still, and how often it is held.
    fn found(&self) -> Vec<(&'static str, usize)> {
        let counts = [
            ("clock", self.clock.strong_count()),
            ("store", self.store.strong_count()),
            ("cluster", self.broker.strong_count()),
        ];
        counts.into_iter().filter(|(_, count)| *count > 0).collect()
    }
}

/// Runs `plan`, with `fault` built in. Without one, what panics beside the world and a world that does not go break a
/// law, too; of a fault the law counts that it breaks by itself.
fn run(plan: &Plan, fault: Option<Fault>) -> Outcome {
    let watched = Watched::new(plan.seed, &reduce::command(plan.seed, None, fault));
    sabotage::switch(fault);
    let (mut outcome, remains) = run_world(plan);
    sabotage::switch(None);
    if fault.is_some() {
        return outcome;
    }
    if let Some(said) = watched.panicked() {
        outcome.broken.get_or_insert(format!("something panics: {said}"));
    }
    let found = remains.found();
    if !found.is_empty() {
        outcome.broken.get_or_insert(format!("the run has ended and its world is held by something: {found:?}"));
    }
    outcome
}

fn run_world(plan: &Plan) -> (Outcome, Remains) {
    let clock = Arc::new(SimClock::default());
    let idle = Arc::clone(&clock);
    let runtime = tokio::runtime::Builder::new_current_thread().on_thread_park(move || idle.step()).build().unwrap();
    let mut world = World::new(plan, &clock, RUNS.fetch_add(1, Ordering::Relaxed));
    let outcome = runtime.block_on(async {
        world.live().await;
        let mut restored = 0;
        if world.diary.broken().is_none() {
            match checker::check(&world.store.snapshot().await, &world.broker) {
                Ok(archived) if plan.restores() => restored = restore::run(&world, &archived).await,
                Ok(_) => {}
                Err(law) => world.diary.accuse(law),
            }
        }
        let struck = std::mem::take(&mut *world.struck.lock().unwrap());
        Outcome { broken: world.diary.broken(), hash: world.diary.hash(), lines: world.diary.lines(), struck, restored }
    });
    let remains = Remains::of(&world);
    (outcome, remains)
}

/// What `plan` leaves in the store, and the cluster that it is the archive of. Nothing is checked yet.
fn archive(plan: &Plan) -> (Objects, Arc<Broker>) {
    let clock = Arc::new(SimClock::default());
    let idle = Arc::clone(&clock);
    let runtime = tokio::runtime::Builder::new_current_thread().on_thread_park(move || idle.step()).build().unwrap();
    let mut world = World::new(plan, &clock, RUNS.fetch_add(1, Ordering::Relaxed));
    runtime.block_on(async {
        world.live().await;
        (world.store.snapshot().await, Arc::clone(&world.broker))
    })
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn nothing_is_lost_doubled_or_left_behind() {
    if let Some(seed) = number("LAKEFERRY_SIM_SEED") {
        return replay(seed);
    }
    let from = number("LAKEFERRY_SIM_FROM").unwrap_or(0);
    let seeds = number("LAKEFERRY_SIM_SEEDS").unwrap_or(500);
    // A later part of a long run leaves the drills, and what they are to strike, to the first.
    let is_aimed = seeds >= AIMED_SEEDS && from == 0;
    // Each run is one thread's; the threads only share the list of seeds.
    let plans: Vec<u64> = drill::seeds().filter(|_| from == 0).chain(from..from + seeds).collect();
    let next = AtomicUsize::new(0);
    let broken = Mutex::new(Vec::new());
    let struck = Mutex::new(Struck::default());
    let sights = Mutex::new(Sights::default());
    let drilled = Mutex::new(BTreeMap::new());
    let restored = AtomicU64::new(0);
    let work = || {
        loop {
            let Some(&seed) = plans.get(next.fetch_add(1, Ordering::Relaxed)) else { return };
            let plan = Plan::of(seed);
            let outcome = run(&plan, None);
            if let Some(law) = outcome.broken {
                let mut broken = broken.lock().unwrap();
                broken.push((plan, law));
                if broken.len() == ENOUGH_BROKEN {
                    next.store(plans.len(), Ordering::Relaxed);
                }
                continue;
            }
            match drill::aim(seed) {
                Some(aim) => *drilled.lock().unwrap().entry(aim).or_insert(0) += outcome.struck.len(),
                None => sights.lock().unwrap().add(&Sights::of(&outcome.lines)),
            }
            struck.lock().unwrap().add(&outcome.struck);
            if outcome.restored > 0 {
                restored.fetch_add(1, Ordering::Relaxed);
            }
        }
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..2).map(|_| scope.spawn(work)).collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
    });
    let broken = broken.into_inner().unwrap();
    let reduced: Vec<_> = broken.iter().map(|(plan, law)| Reduced::of(plan, law, None).to_string()).collect();
    assert!(reduced.is_empty(), "{}", reduced.join("\n\n"));
    let (struck, sights, restored) =
        (struck.into_inner().unwrap(), sights.into_inner().unwrap(), restored.into_inner());
    println!("{struck}\n{sights}");
    println!("{restored} of {seeds} seeds restored records, beside {} drills", plans.len() as u64 - seeds);
    assert!(!is_aimed || restored * 100 >= seeds * RESTORED_PERCENT, "only {restored} restored a record");
    let idle: Vec<_> = drilled.into_inner().unwrap().into_iter().filter(|(_, struck)| *struck == 0).collect();
    assert!(idle.is_empty(), "no drill strikes at {idle:?}");
    // Or the seeds have lost their aim.
    assert!(!is_aimed || struck.spared().is_empty(), "spared: {:#?}", struck.spared());
    assert!(!is_aimed || sights.rare().is_empty(), "seen too seldom: {:#?}", sights.rare());
}

fn replay(seed: u64) {
    // What the workers say stands above the diary, without a time of its own.
    let log = tracing_subscriber::fmt().without_time().with_target(false).with_ansi(false);
    log.with_max_level(tracing::Level::INFO).with_test_writer().init();
    let mut plan = Plan::of(seed);
    if let Ok(steps) = std::env::var("LAKEFERRY_SIM_STEPS") {
        plan = plan.only(&reduce::numbers(&steps));
    }
    let outcome = run(&plan, saboteur::chosen());
    println!("{:#?}\n{:#?}\n{}", plan.settings, plan.conditions, outcome.lines.join("\n"));
    if let Some(law) = outcome.broken {
        panic!("seed {seed}: {law}");
    }
}

#[test]
fn the_same_seed_is_the_same_run() {
    let mut by_command = 0;
    for seed in 0..40 {
        let plan = Plan::of(seed);
        let (first, second) = (run(&plan, None), run(&plan, None));
        if first.hash != second.hash {
            let pairs = first.lines.iter().zip(&second.lines);
            let differing = pairs.enumerate().find(|(_, (one, other))| one != other);
            panic!("seed {seed} went two ways: {differing:?}");
        }
        by_command += usize::from(plan.conditions.by_command && first.restored > 0);
    }
    assert!(by_command >= REPEATED_COMMANDS, "only {by_command} of these seeds bring records back by command");
}
