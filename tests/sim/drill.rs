//! Drills: short plans beside the seeds, all alike but for the place of one accident. Each leads two workers along the
//! whole commit path (files small and in parts, transactions, a rebalance, an entry that comes late, one that loses
//! its number to another, an election, an orderly end) and strikes at the first, second, ... await behind one stretch
//! of it: with a crash, a stop, or a rebalance of the group. Some lead to an accident instead behind which other awaits
//! are met: a topic that is deleted, a zombie that lost its number, files ahead of where the chain resumes. Where the
//! seeds strike by chance, the drills strike one after the other; a stretch at which no drill strikes fails the suite.
//!
//! A drill has a seed, too, by which it is printed and run again.

use crate::awaits::{AT_START, Blow, IN_PARTS, REQUESTS, Stretch};
use crate::plan::{Plan, Settings, Step};
use crate::rare::Rare;
use crate::restore::setbacks::Conditions;
use crate::world::{LARGE_BYTES, POOLED_BYTES};

/// The seed of the first drill.
const FIRST_SEED: u64 = 1 << 32;
/// Awaits that are struck behind each stretch.
const DEPTH: u64 = 6;
/// From a worker's first moment on.
const DEPTH_OF_LIFE: u64 = 20;
/// A partition that leaves is published first, then committed.
const DEPTH_OF_RELEASE: u64 = 24;
/// What was read of a deleted topic is published: the broker says twice that it is gone.
const DEPTH_OF_DELETION: u64 = 16;
/// Files in parts are large, and their drills are slow.
const DEPTH_IN_PARTS: u64 = 3;
/// Behind an accident that a drill of its own leads to.
const DEPTH_BEHIND_ANOTHER: u64 = 3;
/// How often each of these is tried: what else goes on at that moment is another thing each time.
const TIMES: u64 = 3;
/// Of awaits at which the group rebalances.
const DEPTH_OF_REBALANCE: u64 = 2;
/// Of records of which a file is made that is to lie ahead.
const PAIR: u64 = 2;
/// A moment.
const SHORT_STOP_MS: u64 = 2_000;
/// Longer than a session: who sleeps that long is a zombie.
const LONG_STOP_MS: u64 = 15_000;

/// The seeds of all drills.
pub(crate) fn seeds() -> impl Iterator<Item = u64> {
    (FIRST_SEED..).take(strikes().len())
}

/// What a drill strikes at, and how, for whoever counts.
pub(crate) fn aim(seed: u64) -> Option<String> {
    let number = usize::try_from(seed.checked_sub(FIRST_SEED)?).ok()?;
    strikes().get(number).map(|strike| format!("{:?}: {}", strike.stretch, strike.blow.name()))
}

/// The drill of `seed`, where it is a drill's.
pub(crate) fn of(seed: u64) -> Option<Plan> {
    let number = seed.checked_sub(FIRST_SEED)?;
    let Strike { stretch, nth, blow, early } = *strikes().get(usize::try_from(number).ok()?)?;
    let in_parts = matches!(stretch, Stretch::Asks(request) if IN_PARTS.contains(&request));
    // Files end by their number of records, and by age.
    let flush_size = match stretch {
        Stretch::Ahead if early => PAIR,
        Stretch::Ahead => 50,
        _ if in_parts || nth.is_multiple_of(2) => 6,
        _ => 50,
    };
    let settings = Settings {
        workers: 2,
        topics: vec![("t0".to_owned(), 2, false)],
        eager: stretch != Stretch::Deleted,
        avro: false,
        untimed: false,
        flush_size,
        age_ms: 1_500,
        memory_bytes: 64 << 20,
        store_faults: 0,
        broker_faults: 0,
        encode_ms: 2,
        rare: Rare::default(),
    };
    let trap = |worker| Step::Trap { worker, stretch, nth, blow };
    let steps = match stretch {
        Stretch::Deleted => deletion(trap),
        Stretch::Taken | Stretch::Claims | Stretch::Reclaims => claims(trap),
        Stretch::Older => older(trap),
        Stretch::Ahead => ahead(trap),
        Stretch::Paused => paused(trap, early),
        _ => script(trap, early, in_parts),
    };
    Some(Plan { seed, settings, conditions: Conditions::calm(), steps })
}

/// Where and how a drill strikes.
#[derive(Debug, Clone, Copy)]
struct Strike {
    stretch: Stretch,
    nth: u64,
    blow: Blow,
    /// From the beginning on, while nothing is archived, and not from when there is an archive.
    early: bool,
}

fn strikes() -> Vec<Strike> {
    let asks = |requests: &'static [&'static str]| requests.iter().copied().map(Stretch::Asks);
    let small = asks(REQUESTS).chain([Stretch::Doubt, Stretch::Lost]);
    let stretches = small.map(|stretch| (stretch, DEPTH));
    let stretches = stretches.chain(asks(IN_PARTS).map(|stretch| (stretch, DEPTH_IN_PARTS)));
    let stretches = stretches.chain([(Stretch::Life, DEPTH_OF_LIFE), (Stretch::Release, DEPTH_OF_RELEASE)]);
    let of = |(stretch, depth)| {
        // By turns one that sleeps for a moment and one that sleeps until it is a zombie.
        let stop = |nth: u64| Blow::Stop { for_ms: if nth.is_multiple_of(2) { LONG_STOP_MS } else { SHORT_STOP_MS } };
        let blows = (1..=depth).flat_map(move |nth| [(nth, Blow::Crash), (nth, stop(nth))]);
        blows.flat_map(move |(nth, blow)| [true, false].map(|early| Strike { stretch, nth, blow, early }))
    };
    // Asked of a partition that nobody has archived yet.
    let first = ["asks for committed offsets", "lists data"].map(Stretch::Asks);
    let is_met = |strike: &Strike| strike.early || !first.contains(&strike.stretch);
    let deletions = of((Stretch::Deleted, DEPTH_OF_DELETION)).filter(|strike| strike.early);
    // The newest come last: the others keep their seeds.
    stretches.flat_map(of).chain(rebalances()).filter(is_met).chain(deletions).chain(thorough()).collect()
}

/// Every blow at each await behind an accident, and a long stop right where something is asked.
fn thorough() -> impl Iterator<Item = Strike> {
    let stop = |for_ms| Blow::Stop { for_ms };
    let kinds = REQUESTS.iter().chain(IN_PARTS).chain(AT_START).copied().map(Stretch::Asks);
    let zombies = kinds.map(move |stretch| Strike { stretch, nth: 1, blow: stop(LONG_STOP_MS), early: true });
    let behind = [Stretch::Cut, Stretch::Taken, Stretch::Claims, Stretch::Reclaims, Stretch::Older];
    // Where files end by their number of records other awaits are met than where they end by age, and where a task
    // begins paused others than where it runs.
    let twofold = [Stretch::Ahead, Stretch::Paused].into_iter().flat_map(|stretch| [(stretch, true), (stretch, false)]);
    let each = behind.into_iter().map(|stretch| (stretch, false)).chain(twofold);
    let blows = move |(stretch, early)| {
        let blows = [Blow::Crash, stop(SHORT_STOP_MS), stop(LONG_STOP_MS), Blow::Rebalance];
        let all = (1..=DEPTH_BEHIND_ANOTHER).flat_map(move |nth| blows.map(|blow| (nth, blow)));
        let all = all.flat_map(|one| (0..TIMES).map(move |_| one));
        all.map(move |(nth, blow)| Strike { stretch, nth, blow, early })
    };
    zombies.chain(each.flat_map(blows))
}

/// The group takes the partitions away while something is asked, in a doubt, behind a lost number, at a release.
fn rebalances() -> impl Iterator<Item = Strike> {
    let asks = |requests: &'static [&'static str]| requests.iter().copied().map(Stretch::Asks);
    let small = asks(REQUESTS).chain([Stretch::Doubt, Stretch::Lost, Stretch::Release]);
    let small = small.flat_map(|stretch| (1..=DEPTH_OF_REBALANCE).map(move |nth| (stretch, nth)));
    let both = small.chain(asks(IN_PARTS).map(|stretch| (stretch, 1)));
    let both = both.flat_map(|(stretch, nth)| [true, false].map(|early| (stretch, nth, early)));
    let at_start = asks(AT_START).map(|stretch| (stretch, 1, true));
    both.chain(at_start).map(|(stretch, nth, early)| Strike { stretch, nth, blow: Blow::Rebalance, early })
}

/// A topic is deleted of which records were read that no entry names yet, and comes back.
fn deletion(trap: impl Fn(u64) -> Step) -> Vec<(u64, Step)> {
    let produce = |gap_ms, partition, records| (gap_ms, Step::Produce { partition, records, bytes: 20, end: None });
    vec![
        produce(500, 0, 9),
        produce(0, 1, 9),
        (3_000, trap(0)),
        (0, trap(1)),
        produce(0, 0, 4),
        produce(0, 1, 4),
        (300, Step::Recreate { topic: 0, after_ms: 7_000 }),
        produce(12_000, 0, 5),
        produce(0, 1, 5),
    ]
}

/// Somebody wakes as a zombie right before it sends an entry: the number is taken by whoever has the partition now, and
/// the group is asked whose it is.
fn claims(trap: impl Fn(u64) -> Step) -> Vec<(u64, Step)> {
    let produce = |gap_ms, partition| (gap_ms, Step::Produce { partition, records: 9, bytes: 20, end: None });
    vec![
        produce(500, 0),
        produce(0, 1),
        (4_000, trap(0)),
        (0, trap(1)),
        (0, Step::Race { partition: 0 }),
        (2_000, Step::Race { partition: 1 }),
        produce(2_000, 0),
    ]
}

/// A topic is made anew and archived, and then opened again by all while a broker still tells of the one that was.
fn older(trap: impl Fn(u64) -> Step) -> Vec<(u64, Step)> {
    let produce = |gap_ms, partition| (gap_ms, Step::Produce { partition, records: 9, bytes: 20, end: None });
    vec![
        produce(500, 0),
        produce(0, 1),
        (4_000, Step::Recreate { topic: 0, after_ms: 300 }),
        produce(1_000, 0),
        produce(0, 1),
        (8_000, trap(0)),
        (0, trap(1)),
        (0, Step::Rebalance),
        (2_000, Step::Rebalance),
        (2_000, Step::Rebalance),
        produce(1_000, 0),
        produce(0, 1),
    ]
}

/// The connector is paused: while its tasks run, or before they begin.
fn paused(trap: impl Fn(u64) -> Step, before: bool) -> Vec<(u64, Step)> {
    let produce = |gap_ms, partition| (gap_ms, Step::Produce { partition, records: 9, bytes: 20, end: None });
    let mut steps = vec![produce(500, 0), produce(0, 1), (4_000, trap(0)), (0, trap(1))];
    if before {
        steps.extend([0, 1].map(|worker| (0, Step::ShutDown { worker, down_ms: 1_500 })));
    }
    steps.extend([produce(0, 0), produce(0, 1), (20, Step::Pause { for_ms: 9_000 }), produce(1_000, 0), produce(0, 1)]);
    steps.extend([(9_000, Step::Rebalance), produce(2_000, 0)]);
    steps
}

/// Files lie ahead of where the chain resumes, and the few records before them are read again, with what follows.
fn ahead(trap: impl Fn(u64) -> Step) -> Vec<(u64, Step)> {
    let pair = (3_000, Step::Produce { partition: 0, records: PAIR, bytes: 3 * POOLED_BYTES, end: None });
    let published = (3_000, Step::PublishAhead { partition: 0, per_mille: 0 });
    vec![pair, pair, pair, pair, published, (0, trap(0)), (0, trap(1)), pair]
}

/// What happens in every other drill; `trap` for each worker.
fn script(trap: impl Fn(u64) -> Step, early: bool, in_parts: bool) -> Vec<(u64, Step)> {
    let produce = |partition, end| Step::Produce { partition, records: 9, bytes: POOLED_BYTES, end };
    let large = Step::Produce { partition: 0, records: 6, bytes: LARGE_BYTES, end: None };
    let (begin, traps) = ([(500, produce(0, None)), (0, produce(1, None))], |gap_ms| [(gap_ms, trap(0)), (0, trap(1))]);
    let mut steps = if early { [traps(0), begin].concat() } else { [begin, traps(3_000)].concat() };
    if in_parts {
        // The second while the store comes and goes: one upload or another is given up when it has begun.
        steps.extend([(0, large), (6_000, large)]);
        steps.extend([(25, Step::StoreAway { for_ms: 15 }); 60]);
    }
    steps.extend([
        (100, produce(0, Some(Some(true)))),
        (100, produce(1, Some(Some(false)))),
        (100, produce(1, None)),
        (2_500, Step::Rebalance),
        (1_000, produce(1, None)),
        (1_000, Step::Doubt { partition: 0, for_ms: 400 }),
        (2_000, Step::Race { partition: 0 }),
        (1_000, Step::Elect { partition: 1, lost: 3 }),
        (1_000, produce(1, None)),
        (1_000, Step::ShutDown { worker: 0, down_ms: 500 }),
        (1_000, produce(0, None)),
    ]);
    steps
}
