//! Proof that the simulator can fail: each deliberate fault takes one rule of the commit path away, and one of the
//! first seeds must notice. `docs/reliability.md` has the table, printed by this very test;
//! `LAKEFERRY_SIM_FAULT=GapOverAhead` tries one alone.

use lakeferry_api::simulation::sabotage::Fault;

use crate::plan::Plan;
use crate::rare::Rare;
use crate::run;

/// Seeds that a fault may survive at most.
const PATIENCE: u64 = 400;

const FAULTS: &[Fault] = &[
    Fault::OffsetBeforeManifest,
    Fault::EpochNotChecked,
    Fault::CreateWithoutCondition,
    Fault::OpenRaceIsFence,
    Fault::RetryWithOtherBytes,
    Fault::WriterIdIsEquality,
    Fault::TopicIdFromCache,
    Fault::KnownTopicIdFromEarliest,
    Fault::GapOverAhead,
    Fault::FreedNumber,
    Fault::ObjectNameTwice,
    Fault::SweepByAge,
    Fault::RotationForgets,
    Fault::ZombiePublishes,
    Fault::ResumeFromGroup,
    Fault::RetryPublishesTwice,
    Fault::FlushAfterRelease,
    Fault::BudgetLeak,
    Fault::TickStarved,
    Fault::ResetAsksGroup,
    Fault::ProgressApart,
    Fault::RestoreFromBeginning,
    Fault::LostDeliveryCounts,
    Fault::NoRewind,
    Fault::OwnTransactionalId,
    Fault::CutIgnored,
    Fault::StopUnheard,
];

/// The fault that `LAKEFERRY_SIM_FAULT` names.
pub(crate) fn chosen() -> Option<Fault> {
    let name = std::env::var("LAKEFERRY_SIM_FAULT").ok()?;
    FAULTS.iter().find(|fault| format!("{fault:?}") == name).copied()
}

/// The plan of `seed` without what is so in some seeds only: the rules that are broken are those of all.
fn plain(seed: u64) -> Plan {
    Plan::draw(seed, Rare::default())
}

#[test]
fn every_deliberate_fault_is_caught() {
    let mut survivors = Vec::new();
    for fault in FAULTS.iter().filter(|fault| chosen().is_none_or(|chosen| chosen == **fault)) {
        let caught = (0..PATIENCE).find_map(|seed| Some((seed, run(&plain(seed), Some(*fault)).broken?)));
        match caught {
            Some((seed, law)) => println!("| {fault:?} | {} | {} |", seed + 1, law.replace('\n', " ")),
            None => survivors.push(fault),
        }
    }
    assert!(survivors.is_empty(), "nobody notices {survivors:?}");
}
