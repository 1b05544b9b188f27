//! What a restore meets with, drawn from the seed: the conditions it runs under, and the setbacks on its way, which are
//! steps of the plan like any other.

use rand::Rng as _;
use rand::rngs::StdRng;

use crate::awaits::Blow;
use crate::broker::transactions::{Moment, Verb};
use crate::store::Accident;

/// Something happens to a restore that is under way.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Setback {
    /// The process is killed.
    Crash {
        down_ms: u64,
    },
    /// The process is stopped, and goes on beside whoever took over meanwhile.
    Stop {
        for_ms: u64,
    },
    /// The next request of this kind meets with an accident.
    Meet {
        verb: Verb,
        moment: Moment,
        accident: Accident,
    },
    /// The next read of the archive does.
    Read {
        accident: Accident,
    },
    /// The process meets with an accident the `nth` time from now on that it gives up control.
    Trap {
        nth: u64,
        blow: Blow,
    },
    /// The tasks end in order, and begin again later.
    ShutDown {
        down_ms: u64,
    },
    /// The tasks are paused.
    Pause {
        for_ms: u64,
    },
    StoreAway {
        for_ms: u64,
    },
    BrokerAway {
        for_ms: u64,
    },
}

/// What a restore runs under.
#[derive(Debug, Clone)]
pub(crate) struct Conditions {
    /// By the command, and not by connectors.
    pub(crate) by_command: bool,
    pub(crate) tasks: usize,
    pub(crate) by_time: bool,
    pub(crate) transaction_ms: u64,
    /// How many seconds it takes where nothing comes in its way; `None`: as fast as it goes.
    pub(crate) pace_s: Option<u64>,
    pub(crate) store_faults: u64,
    pub(crate) broker_faults: u64,
    /// Which of the older incarnations comes back as well, modulo what there is.
    pub(crate) older: u64,
    /// Whether it begins once more when everything is there.
    pub(crate) once_more: bool,
}

impl Conditions {
    /// Nothing goes wrong.
    pub(crate) fn calm() -> Self {
        Self {
            by_command: false,
            tasks: 1,
            by_time: false,
            transaction_ms: 2_000,
            pace_s: None,
            store_faults: 0,
            broker_faults: 0,
            older: 0,
            once_more: false,
        }
    }

    pub(crate) fn draw(dice: &mut StdRng) -> Self {
        let calm = dice.random_bool(0.25);
        let mut faults = |most: u64| if calm || dice.random_bool(0.4) { 0 } else { dice.random_range(0..most) };
        let (store_faults, broker_faults) = (faults(80), faults(120));
        Self {
            by_command: dice.random_bool(0.35),
            tasks: dice.random_range(1..3),
            by_time: dice.random_bool(0.2),
            transaction_ms: if dice.random_bool(0.3) { 2_000 } else { dice.random_range(20..600) },
            pace_s: dice.random_bool(0.7).then(|| dice.random_range(2..12)),
            store_faults,
            broker_faults,
            older: dice.random(),
            once_more: dice.random_bool(0.3),
        }
    }

    /// The setbacks, each with the time that passes before it.
    pub(crate) fn setbacks(&self, dice: &mut StdRng) -> Vec<(u64, Setback)> {
        let count = if dice.random_bool(0.3) { 0 } else { dice.random_range(2..10) };
        (0..count).map(|_| (dice.random_range(0..1_200), setback(dice))).collect()
    }
}

fn setback(dice: &mut StdRng) -> Setback {
    let for_ms = match dice.random_range(0..20) {
        0..15 => dice.random_range(200..5_000),
        15..18 => dice.random_range(5_000..60_000),
        // Longer than a transaction may be open.
        _ => dice.random_range(60_000..90_000),
    };
    let accident = if dice.random_bool(0.5) { Accident::Crash } else { Accident::Stop { for_ms } };
    let down_ms = dice.random_range(20..1_000);
    match dice.random_range(0..100) {
        0..10 => Setback::Crash { down_ms },
        10..25 => Setback::Stop { for_ms },
        25..50 => Setback::Meet { verb: verb(dice), moment: moment(dice), accident },
        50..70 => {
            let most = [8, 40, 150][dice.random_range(0..3)];
            let blow = if dice.random_bool(0.5) { Blow::Crash } else { Blow::Stop { for_ms } };
            Setback::Trap { nth: dice.random_range(1..most), blow }
        }
        70..75 => Setback::Read { accident },
        75..82 => Setback::ShutDown { down_ms },
        82..88 => Setback::Pause { for_ms },
        88..93 => Setback::StoreAway { for_ms },
        _ => Setback::BrokerAway { for_ms },
    }
}

fn verb(dice: &mut StdRng) -> Verb {
    match dice.random_range(0..10) {
        0 => Verb::Init,
        1..4 => Verb::Produce,
        4..6 => Verb::SendOffsets,
        6..9 => Verb::Commit,
        _ => Verb::Abort,
    }
}

fn moment(dice: &mut StdRng) -> Moment {
    if dice.random() { Moment::Before } else { Moment::After }
}
