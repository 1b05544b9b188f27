//! Proof that the simulator can fail: each deliberate fault takes one rule of the commit path away, and one of the
//! first seeds must notice, by the law that the fault breaks, and the same seed must be clean without the fault.
//! `docs/reliability.md` has the table, and must have it as this very test finds it; `LAKEFERRY_SIM_FAULT=GapOverAhead`
//! tries one alone.

use lakeferry_api::simulation::sabotage::Fault;

use crate::plan::Plan;
use crate::rare::Rare;
use crate::run;

/// Seeds that a fault may survive at most.
const PATIENCE: u64 = 400;

/// A fault as the table has it.
struct Deliberate {
    fault: Fault,
    /// The rule that it breaks.
    breaks: &'static str,
    /// How the table calls what notices it, and what that says.
    noticed_as: &'static str,
    says: &'static str,
}

const fn fault(fault: Fault, breaks: &'static str, (noticed_as, says): (&'static str, &'static str)) -> Deliberate {
    Deliberate { fault, breaks, noticed_as, says }
}

/// In the order of the table.
const FAULTS: &[Deliberate] = &[
    fault(
        Fault::OffsetBeforeManifest,
        "the group's offset is committed before a manifest names the records",
        ("A4: committed beyond the manifests", "A4: "),
    ),
    fault(
        Fault::EpochNotChecked,
        "a writer that lost its number goes on behind the winner under its old epoch",
        ("records that never were", "holds a record that was never there"),
    ),
    fault(
        Fault::CreateWithoutCondition,
        "entries are written over whatever stands at their number",
        ("a manifest without a condition", "is written without a condition"),
    ),
    fault(
        Fault::OpenRaceIsFence,
        "who loses a race to open takes itself for fenced",
        ("a partition that stays deaf", "liveness: after ten minutes of peace"),
    ),
    fault(
        Fault::RetryWithOtherBytes,
        "a retry carries one file more under the same number",
        ("records that never were", "holds a record that was never there"),
    ),
    fault(
        Fault::WriterIdIsEquality,
        "an entry of the same writer is taken for the very same entry",
        ("a chain that does not follow", "does not follow the entry before"),
    ),
    fault(
        Fault::TopicIdFromCache,
        "the topic's id is asked once and remembered",
        ("records that never were", "holds a record that was never there"),
    ),
    fault(
        Fault::KnownTopicIdFromEarliest,
        "a topic id that the chain knows begins at earliest again",
        ("an entry that breaks the laws", "an entry that breaks the laws of manifests"),
    ),
    fault(
        Fault::GapOverAhead,
        "a gap counts what is archived ahead",
        ("an entry that breaks the laws", "an entry that breaks the laws of manifests"),
    ),
    fault(
        Fault::FreedNumber,
        "the entry of a failed write is deleted, its number used again",
        ("A11: a manifest is deleted", "A11: "),
    ),
    fault(
        Fault::ObjectNameTwice,
        "names of data objects repeat",
        ("an entry that breaks the laws", "an entry that breaks the laws of manifests"),
    ),
    fault(
        Fault::SweepByAge,
        "the sweep goes by age and not by epoch",
        ("an upload is swept away that its epoch may publish", "is swept away while its epoch may publish it"),
    ),
    fault(
        Fault::RotationForgets,
        "a file that rotation ended is forgotten",
        ("a partition that is never whole", "liveness: after ten minutes of peace"),
    ),
    fault(
        Fault::ZombiePublishes,
        "who lost a partition publishes what it has of it",
        ("an entry after the loss was heard", "after it handed it over"),
    ),
    fault(
        Fault::ResumeFromGroup,
        "a partition resumes at the group's offset",
        ("an entry that breaks the laws", "an entry that breaks the laws of manifests"),
    ),
    fault(
        Fault::RetryPublishesTwice,
        "an entry in doubt is published again under the next number",
        ("records that never were", "holds a record that was never there"),
    ),
    fault(
        Fault::FlushAfterRelease,
        "revoked partitions are acknowledged, then flushed",
        ("an entry after the partition was handed over", "after it handed it over"),
    ),
    fault(
        Fault::BudgetLeak,
        "the memory of an ended file is not given back",
        ("A7: bytes unpaid when the worker ends", "of its budget unpaid"),
    ),
    fault(
        Fault::TickStarved,
        "batches come before what is due by the clock",
        ("what is durable is not committed", "was durable to"),
    ),
    fault(
        Fault::ResetAsksGroup,
        "after a reset the offset that the group still holds says where to begin",
        ("a lineage without its beginning", "the newest lineage: offset 0 is lost"),
    ),
    fault(
        Fault::ProgressApart,
        "a restore stores how far it got in a transaction of its own, behind that of the records",
        ("a restore that refuses its own records", "write to another topic"),
    ),
    fault(
        Fault::RestoreFromBeginning,
        "a restore that is begun again begins at the beginning",
        ("records that come back twice", "comes back with"),
    ),
    fault(
        Fault::LostDeliveryCounts,
        "a batch that was not delivered is taken for one that was",
        ("a commit while a batch is not delivered", "batches are not delivered"),
    ),
    fault(
        Fault::NoRewind,
        "a transaction is taken back, and what follows it is written",
        ("records that do not come back", "records back"),
    ),
    fault(
        Fault::OwnTransactionalId,
        "each instance of a restore has a transactional id of its own",
        ("a task that meets the records of its predecessor", "something else writes to"),
    ),
    fault(
        Fault::CutIgnored,
        "what an election took back comes back with a restore",
        ("records that come back though an election took them back", "comes back with"),
    ),
    fault(
        Fault::StopUnheard,
        "a task that is asked to stop goes on",
        ("a task that does not stop", "does not stop when it is asked to"),
    ),
    fault(
        Fault::DeletedIsLost,
        "what was read of a topic that is deleted is dropped, as if another had its partitions",
        ("records of a deleted topic that nobody has", "the archive lacks"),
    ),
];

/// The fault that `LAKEFERRY_SIM_FAULT` names.
pub(crate) fn chosen() -> Option<Fault> {
    let name = std::env::var("LAKEFERRY_SIM_FAULT").ok()?;
    FAULTS.iter().map(|deliberate| deliberate.fault).find(|fault| format!("{fault:?}") == name)
}

/// The plan of `seed` without what is so in some seeds only: the rules that are broken are those of all.
fn plain(seed: u64) -> Plan {
    Plan::draw(seed, Rare::default())
}

impl Deliberate {
    /// Its line of the table.
    fn row(&self, seeds: u64) -> String {
        format!("| `{:?}`: {} | {seeds} | {} |", self.fault, self.breaks, self.noticed_as)
    }

    /// Looks for the first seed that notices; what speaks against the proof is added to `flaws`.
    fn try_out(&self, flaws: &mut Vec<String>) -> Option<String> {
        let Self { fault, says, .. } = self;
        let caught = (0..PATIENCE).find_map(|seed| Some((seed, run(&plain(seed), Some(*fault)).broken?)));
        let Some((seed, law)) = caught else {
            flaws.push(format!("nobody notices {fault:?}"));
            return None;
        };
        if !law.contains(says) {
            flaws.push(format!("{fault:?} is noticed by seed {seed}, but not as {says:?}: {law}"));
        }
        if let Some(law) = run(&plain(seed), None).broken {
            flaws.push(format!("seed {seed} notices {fault:?}, and fails without it, too: {law}"));
        }
        println!("{fault:?}: seed {seed}: {}", law.replace('\n', " "));
        Some(self.row(seed + 1))
    }
}

/// The lines of the table that `docs/reliability.md` has.
fn documented() -> Vec<String> {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/reliability.md")).unwrap();
    let behind = page.split_once("\n### Deliberate faults\n").expect("a section about deliberate faults").1;
    let section = behind.split("\n#").next().unwrap_or_default();
    section.lines().filter(|line| line.starts_with("| `")).map(str::to_owned).collect()
}

#[test]
fn every_deliberate_fault_is_caught() {
    let mut flaws = Vec::new();
    let tried = FAULTS.iter().filter(|deliberate| chosen().is_none_or(|chosen| chosen == deliberate.fault));
    let found: Vec<_> = tried.filter_map(|deliberate| deliberate.try_out(&mut flaws)).collect();
    let table = found.join("\n");
    println!("{table}");
    assert!(flaws.is_empty(), "{flaws:#?}");
    let known = documented();
    let is_known = if chosen().is_none() { known == found } else { found.iter().all(|row| known.contains(row)) };
    assert!(is_known, "docs/reliability.md has another table; this one is true:\n{table}");
}
