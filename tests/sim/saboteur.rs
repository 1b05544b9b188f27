//! Proof that the simulator can fail: each deliberate fault takes one rule of the commit path away, and one of the first
//! seeds must notice. `docs/reliability.md` has the table, which [`every_deliberate_fault_is_caught`] keeps true.

use lakeferry_api::simulation::sabotage::Fault;

use crate::plan::Plan;
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
    Fault::RotationForgets,
    Fault::ZombiePublishes,
    Fault::ResumeFromGroup,
    Fault::RetryPublishesTwice,
    Fault::FlushAfterRelease,
    Fault::BudgetLeak,
    Fault::TickStarved,
];

#[test]
fn every_deliberate_fault_is_caught() {
    let mut survivors = Vec::new();
    for fault in FAULTS {
        let caught = (0..PATIENCE).find_map(|seed| Some((seed, run(&Plan::of(seed), Some(*fault)).broken?)));
        match caught {
            Some((seed, law)) => {
                let law = law.lines().take(3).collect::<Vec<_>>().join(" ");
                println!("| {fault:?} | {} | {law} |", seed + 1);
            }
            None => survivors.push(fault),
        }
    }
    assert!(survivors.is_empty(), "nobody notices {survivors:?}");
}
