//! What happens in a run, drawn from its seed before anything runs: the cluster's shape, the workers' settings and a
//! list of steps. A plan can be cut down step by step, which is how a failing seed is made small.

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use crate::awaits::{Blow, IN_PARTS, REQUESTS, Stretch};
use crate::drill;
use crate::rare::Rare;
use crate::restore::setbacks::{Conditions, Setback};
use crate::store::{Accident, Point};
use crate::world::alter::{Alteration, To};
use crate::world::takeover::TakeOver;
use crate::world::{LARGE_BYTES, POOLED_BYTES};

/// See the module's documentation.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) settings: Settings,
    /// How the archive is restored at the end.
    pub(crate) conditions: Conditions,
    pub(crate) steps: Vec<(u64, Step)>,
}

/// The shape of a run.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) workers: usize,
    pub(crate) topics: Vec<(String, usize, bool)>,
    pub(crate) eager: bool,
    pub(crate) avro: bool,
    /// Some records have no timestamp, or none of a known type.
    pub(crate) untimed: bool,
    pub(crate) flush_size: u64,
    pub(crate) age_ms: u64,
    pub(crate) memory_bytes: u64,
    pub(crate) store_faults: u64,
    pub(crate) broker_faults: u64,
    /// Milliseconds that a job of the encode pool takes.
    pub(crate) encode_ms: u64,
    pub(crate) rare: Rare,
}

/// Something happens. Numbers are taken modulo what there is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Step {
    Produce {
        partition: u64,
        records: u64,
        bytes: u64,
        end: Option<Option<bool>>,
    },
    EndTransactions {
        partition: u64,
        commit: bool,
    },
    Elect {
        partition: u64,
        lost: u64,
    },
    RemoveRecords {
        partition: u64,
        per_mille: u64,
    },
    Compact {
        topic: u64,
    },
    Recreate {
        topic: u64,
        after_ms: u64,
    },
    AddPartition {
        topic: u64,
    },
    ForgetOffsets,
    /// The connector's offsets are altered while it is stopped.
    Alter(Alteration),
    /// Another connector takes the archive over.
    TakeOver(TakeOver),
    Sweep {
        partition: u64,
    },
    Rebalance,
    Crash {
        worker: u64,
        down_ms: u64,
    },
    Meet {
        worker: u64,
        point: Point,
        accident: Accident,
    },
    /// Something happens to a worker the `nth` time that it gives up control from `stretch` on.
    Trap {
        worker: u64,
        stretch: Stretch,
        nth: u64,
        blow: Blow,
    },
    /// An entry lands late, and the partition begins again before it does.
    Doubt {
        partition: u64,
        for_ms: u64,
    },
    /// A zombie's entry lands between the look and the first entry of whoever has its partition now.
    Race {
        partition: u64,
    },
    Stop {
        worker: u64,
        for_ms: u64,
    },
    ShutDown {
        worker: u64,
        down_ms: u64,
    },
    StoreAway {
        for_ms: u64,
    },
    BrokerAway {
        for_ms: u64,
    },
    PublishAhead {
        partition: u64,
        per_mille: u64,
    },
    /// The connector is paused, and resumed later.
    Pause {
        for_ms: u64,
    },
    Torrent {
        partition: u64,
        for_ms: u64,
    },
    /// At the end, while everything is restored.
    Restore(Setback),
}

impl Plan {
    /// The plan of `seed`.
    pub(crate) fn of(seed: u64) -> Self {
        Self::draw(seed, Rare::of(seed))
    }

    /// The plan of `seed` if this is so in it.
    pub(crate) fn draw(seed: u64, rare: Rare) -> Self {
        if let Some(drill) = drill::of(seed) {
            return drill;
        }
        let mut plan = Self::of_archive(seed, rare);
        if plan.is_torrent() {
            return plan;
        }
        plan.draw_takeovers();
        plan.draw_pauses();
        plan.draw_large();
        // Dice of its own: whatever is changed about restores leaves the archives of all seeds as they are.
        let mut dice = StdRng::seed_from_u64(seed ^ 0xbac4);
        plan.conditions = Conditions::draw(&mut dice);
        let setbacks = plan.conditions.setbacks(&mut dice);
        plan.steps.extend(setbacks.into_iter().map(|(gap_ms, setback)| (gap_ms, Step::Restore(setback))));
        plan
    }

    /// What is to be on disk must be large, and come while memory is short. Dice of its own, too.
    fn draw_large(&mut self) {
        if self.settings.rare.spill_mib.is_none() {
            return;
        }
        self.settings.memory_bytes = 4 << 20;
        self.settings.flush_size = self.settings.flush_size.max(8);
        self.settings.age_ms = self.settings.age_ms.max(3_000);
        let mut dice = StdRng::seed_from_u64(self.seed ^ 0xd15c0);
        for _ in 0..dice.random_range(1..4) {
            let at = dice.random_range(0..=self.steps.len());
            let (partition, records) = (dice.random(), dice.random_range(3..9));
            self.steps.insert(at, (0, Step::Produce { partition, records, bytes: LARGE_BYTES, end: None }));
        }
    }

    /// Dice of their own, too.
    fn draw_takeovers(&mut self) {
        if !self.settings.rare.takes_over {
            return;
        }
        let mut dice = StdRng::seed_from_u64(self.seed ^ 0x7a7e0);
        for _ in 0..dice.random_range(1..4) {
            let for_ms = if dice.random() { dice.random_range(100..9_000) } else { dice.random_range(11_000..60_000) };
            let (to, has_leave, fates) = (dice.random(), dice.random_bool(0.6), dice.random());
            let at = dice.random_range(self.steps.len() / 8..=self.steps.len());
            let step = Step::TakeOver(TakeOver { to, has_leave, fates, for_ms });
            self.steps.insert(at, (dice.random_range(0..6_000), step));
        }
    }

    /// Dice of their own, too.
    fn draw_pauses(&mut self) {
        if !self.settings.rare.pauses {
            return;
        }
        let mut dice = StdRng::seed_from_u64(self.seed ^ 0x9a05);
        for _ in 0..dice.random_range(1..5) {
            let for_ms = if dice.random() { dice.random_range(1..4_000) } else { dice.random_range(4_000..60_000) };
            let at = dice.random_range(0..=self.steps.len());
            self.steps.insert(at, (dice.random_range(0..3_000), Step::Pause { for_ms }));
        }
    }

    fn of_archive(seed: u64, rare: Rare) -> Self {
        let mut dice = StdRng::seed_from_u64(seed);
        let settings = Settings::draw(&mut dice);
        if seed % TORRENT == TORRENT - 1 {
            return Self::torrent(seed, settings, &mut dice);
        }
        let theme = THEMES[(seed % THEMES.len() as u64) as usize];
        let settings = Settings { rare, ..settings.suited(theme) };
        let steps = (0..dice.random_range(10..60)).map(|_| {
            let gap_ms = if dice.random_bool(0.3) { dice.random_range(0..8_000) } else { dice.random_range(0..400) };
            (gap_ms, step(&mut dice, theme))
        });
        Self { seed, steps: steps.collect(), settings, conditions: Conditions::calm() }
    }

    /// Drills end with their archive.
    pub(crate) fn restores(&self) -> bool {
        drill::of(self.seed).is_none()
    }

    fn is_torrent(&self) -> bool {
        self.seed % TORRENT == TORRENT - 1
    }

    /// No faults, but more records than can be archived.
    fn torrent(seed: u64, settings: Settings, dice: &mut StdRng) -> Self {
        let quiet = Settings { store_faults: 0, broker_faults: 0, encode_ms: 150, flush_size: 100, ..settings };
        let steps = vec![(1_000, Step::Torrent { partition: dice.random(), for_ms: 20_000 })];
        Self { seed, settings: quiet, steps, conditions: Conditions::calm() }
    }

    /// The same without the steps that `kept` does not have.
    pub(crate) fn only(&self, kept: &[usize]) -> Self {
        let steps = kept.iter().filter_map(|at| self.steps.get(*at).copied()).collect();
        Self { steps, ..self.clone() }
    }
}

/// One run of so many is a torrent.
const TORRENT: u64 = 50;

/// What a run has more of than others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Theme {
    /// Everything.
    Mixed,
    /// Records and nothing else.
    Calm,
    /// Answers that are lost and writes that land late, while partitions go to and fro.
    Late,
    /// Topics made anew.
    Recreated,
    /// Files ahead of where their chain resumes.
    Ahead,
    /// Zombies.
    Zombies,
    /// Accidents at the awaits of the commit path.
    Awaits,
    /// Offsets that users alter.
    Altered,
}

const THEMES: &[Theme] = &[
    Theme::Mixed,
    Theme::Late,
    Theme::Awaits,
    Theme::Recreated,
    Theme::Mixed,
    Theme::Zombies,
    Theme::Awaits,
    Theme::Ahead,
    Theme::Mixed,
    Theme::Calm,
    Theme::Altered,
    Theme::Awaits,
];

impl Settings {
    fn suited(self, theme: Theme) -> Self {
        match theme {
            // Alone and eager, a task gives everything up and gets it back: its own late writes meet its new ones.
            Theme::Late if self.flush_size.is_multiple_of(2) => {
                Self { store_faults: 5, broker_faults: 0, eager: true, workers: 1, ..self }
            }
            Theme::Awaits => Self { store_faults: self.store_faults.max(80), encode_ms: self.encode_ms.max(1), ..self },
            Theme::Late => Self { store_faults: self.store_faults + 100, ..self },
            Theme::Recreated | Theme::Zombies => {
                Self { workers: self.workers.max(2), store_faults: 0, broker_faults: 0, ..self }
            }
            _ => self,
        }
    }

    fn draw(dice: &mut StdRng) -> Self {
        let topics =
            (0..dice.random_range(1..3)).map(|at| (format!("t{at}"), dice.random_range(1..4), dice.random_bool(0.25)));
        let mut settings = Self {
            topics: topics.collect(),
            workers: dice.random_range(1..4),
            eager: dice.random_bool(0.3),
            avro: dice.random_bool(0.3),
            untimed: false,
            flush_size: dice.random_range(1..40),
            age_ms: dice.random_range(500..6_000),
            memory_bytes: if dice.random_bool(0.2) { 3 << 20 } else { 64 << 20 },
            store_faults: if dice.random_bool(0.3) { 0 } else { dice.random_range(0..120) },
            broker_faults: if dice.random_bool(0.4) { 0 } else { dice.random_range(0..100) },
            encode_ms: [0, 2, 40][dice.random_range(0..3)],
            rare: Rare::default(),
        };
        // No dice: the other draws of all seeds stay what they are.
        settings.untimed = settings.flush_size.is_multiple_of(3);
        settings
    }
}

fn produce(dice: &mut StdRng) -> Step {
    let end = match dice.random_range(0..10) {
        0 => Some(None),
        1 => Some(Some(false)),
        2 | 3 => Some(Some(true)),
        _ => None,
    };
    let large = dice.random_bool(0.01);
    Step::Produce {
        partition: dice.random(),
        records: if large { 7 } else { dice.random_range(1..40) },
        bytes: if large { LARGE_BYTES } else { [dice.random_range(0..200), POOLED_BYTES][dice.random_range(0..2)] },
        end,
    }
}

fn step(dice: &mut StdRng, theme: Theme) -> Step {
    let (worker, partition, topic) = (dice.random(), dice.random(), dice.random());
    let for_ms = if dice.random_bool(0.5) { dice.random_range(100..3_000) } else { dice.random_range(10_000..40_000) };
    if theme == Theme::Calm {
        return produce(dice);
    }
    if theme != Theme::Mixed && dice.random_bool(0.4) {
        return match theme {
            Theme::Late if dice.random() => Step::Doubt { partition, for_ms: dice.random_range(330..480) },
            Theme::Late => Step::Rebalance,
            Theme::Recreated if dice.random() => Step::Recreate { topic, after_ms: dice.random_range(0..1_000) },
            Theme::Recreated => Step::Rebalance,
            Theme::Altered if dice.random_bool(0.4) => Step::Alter(alteration(dice)),
            Theme::Altered => produce(dice),
            Theme::Awaits if dice.random_bool(0.1) => {
                Step::Produce { partition, records: 7, bytes: LARGE_BYTES, end: None }
            }
            Theme::Awaits => trap(dice, worker, for_ms),
            Theme::Ahead => Step::PublishAhead { partition, per_mille: dice.random_range(0..1_500) },
            _ if dice.random_bool(0.2) => Step::Race { partition },
            // A zombie falls while it finds out what became of its partition.
            _ if dice.random_bool(0.3) => {
                Step::Trap { worker, stretch: Stretch::Lost, nth: dice.random_range(1..30), blow: blow(dice, for_ms) }
            }
            _ => Step::Meet { worker, point: point(dice), accident: Accident::Stop { for_ms } },
        };
    }
    match dice.random_range(0..100) {
        0..44 => produce(dice),
        44..45 => Step::Alter(alteration(dice)),
        45..50 => Step::EndTransactions { partition, commit: dice.random() },
        50..54 => Step::Elect { partition, lost: if dice.random_bool(0.4) { 0 } else { dice.random_range(1..30) } },
        54..58 => Step::RemoveRecords { partition, per_mille: dice.random_range(0..1_100) },
        58..60 => Step::Compact { topic },
        60..63 => Step::Recreate { topic, after_ms: dice.random_range(0..7_000) },
        63..64 => Step::AddPartition { topic },
        64..65 => Step::ForgetOffsets,
        65..67 => Step::Sweep { partition },
        67..70 => Step::Rebalance,
        70..72 => Step::Crash { worker, down_ms: dice.random_range(100..20_000) },
        72..80 => trap(dice, worker, for_ms),
        80..84 => Step::Meet { worker, point: point(dice), accident: accident(dice, for_ms) },
        84..89 => Step::Stop { worker, for_ms },
        89..92 => Step::ShutDown { worker, down_ms: dice.random_range(100..10_000) },
        92..95 => Step::StoreAway { for_ms },
        95..98 => Step::BrokerAway { for_ms },
        _ => Step::PublishAhead { partition, per_mille: dice.random_range(0..1_500) },
    }
}

fn point(dice: &mut StdRng) -> Point {
    match dice.random_range(0..8) {
        0 => Point::BeforeData,
        1 => Point::AfterData,
        2..4 => Point::BeforeManifest,
        4..7 => Point::AfterManifest,
        _ => Point::BeforeRead,
    }
}

fn accident(dice: &mut StdRng, for_ms: u64) -> Accident {
    if dice.random_bool(0.5) { Accident::Crash } else { Accident::Stop { for_ms } }
}

/// Near the beginning of a stretch more often than far from it.
fn trap(dice: &mut StdRng, worker: u64, for_ms: u64) -> Step {
    let stretch = match dice.random_range(0..20) {
        0 => Stretch::Life,
        1..3 => Stretch::Release,
        3..5 => Stretch::Doubt,
        5..7 => Stretch::Lost,
        7..9 => Stretch::Asks("puts data"),
        9..12 => Stretch::Asks("puts an entry"),
        // These are rare: few files are large.
        12..15 => Stretch::Asks(IN_PARTS[dice.random_range(0..IN_PARTS.len())]),
        _ => Stretch::Asks(REQUESTS[dice.random_range(0..REQUESTS.len())]),
    };
    let reach = [2, 4, 12, 30][dice.random_range(0..4)];
    let blow = blow(dice, for_ms);
    Step::Trap { worker, stretch, nth: dice.random_range(1..=reach), blow }
}

fn blow(dice: &mut StdRng, for_ms: u64) -> Blow {
    match dice.random_range(0..10) {
        0..6 => Blow::Crash,
        6..9 => Blow::Stop { for_ms },
        _ => Blow::Rebalance,
    }
}

fn alteration(dice: &mut StdRng) -> Alteration {
    let to = match dice.random_range(0..8) {
        0 => To::ResetAll,
        1 => To::Reset,
        2 => To::Offset { per_mille: 1_000 },
        _ => To::Offset { per_mille: dice.random_range(0..=1_000) },
    };
    let (partition, partitions) = (dice.random(), dice.random_range(1..4));
    let crash_at = match dice.random_range(0..10) {
        0..2 => Some((Stretch::Life, dice.random_range(1..40))),
        2..5 => Some((Stretch::Asks("puts an entry"), dice.random_range(1..8))),
        _ => None,
    };
    // A reset that is cut short shows what it left only where nobody asks again.
    let is_cut_short = crash_at.is_some() && !matches!(to, To::Offset { .. });
    Alteration {
        partition,
        partitions,
        to,
        crash_at,
        insists: dice.random_bool(if is_cut_short { 0.2 } else { 0.7 }),
        zombie: dice.random_bool(0.3).then(|| (dice.random(), dice.random_range(12_500..16_000))),
    }
}
