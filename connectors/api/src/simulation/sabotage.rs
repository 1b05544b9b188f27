//! Deliberate faults. Each takes one rule of the commit path away; the simulator must notice every one of them.
//! Production code asks [`is`] where the rule stands; without the feature the answer is `false` at compile time.

/// A rule that is broken on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Fault {
    /// The Kafka offset is committed from what was consumed, before a manifest names it.
    OffsetBeforeManifest,
    /// A writer that lost its number goes on behind the winner under its old epoch.
    EpochNotChecked,
    /// Entries are written over whatever stands at their number.
    CreateWithoutCondition,
    /// The loser of a race to open takes itself for fenced, for ever.
    OpenRaceIsFence,
    /// A retry of an entry carries one segment more than the first try.
    RetryWithOtherBytes,
    /// An entry of the same writer id is taken for the very same entry.
    WriterIdIsEquality,
    /// The topic's id is asked once and remembered.
    TopicIdFromCache,
    /// A topic id that the chain knows starts from the earliest offset again.
    KnownTopicIdFromEarliest,
    /// A gap before the log's start counts what is archived ahead, too.
    GapOverAhead,
    /// An entry whose write failed is deleted, and its number used again.
    FreedNumber,
    /// Names of data objects repeat.
    ObjectNameTwice,
    /// The sweep goes by age instead of epoch.
    SweepByAge,
    /// A file that rotation ended is forgotten.
    RotationForgets,
    /// A writer whose partition was lost publishes what it has all the same.
    ZombiePublishes,
    /// A partition resumes from the group's offset instead of its chain.
    ResumeFromGroup,
    /// An entry in doubt is published again under the next number.
    RetryPublishesTwice,
    /// Revoked partitions are acknowledged before they are flushed.
    FlushAfterRelease,
    /// The memory of an ended file is never given back.
    BudgetLeak,
    /// Batches come before what is due by the clock.
    TickStarved,
    /// After a reset the offset that the group still holds says where to begin.
    ResetAsksGroup,
    /// A restore stores how far it got in a transaction of its own, behind that of the records.
    ProgressApart,
    /// A restore that is begun again begins at the beginning.
    RestoreFromBeginning,
    /// A batch that was not delivered is taken for one that was.
    LostDeliveryCounts,
    /// A transaction is taken back, and what follows it is written.
    NoRewind,
    /// Each instance of a restore has a transactional id of its own.
    OwnTransactionalId,
    /// What an election took back comes back with a restore.
    CutIgnored,
    /// A task that is asked to stop goes on.
    StopUnheard,
    /// What was read of a topic that is deleted is dropped, as if another had its partitions.
    DeletedIsLost,
}

#[cfg(not(feature = "simulation"))]
/// Whether `fault` is switched on: never.
pub const fn is(fault: Fault) -> bool {
    let _ = fault;
    false
}

#[cfg(feature = "simulation")]
pub use simulated::{is, switch};

#[cfg(feature = "simulation")]
mod simulated {
    use std::cell::Cell;

    use super::Fault;

    thread_local! {
        static PRESENT: Cell<Option<Fault>> = const { Cell::new(None) };
    }

    /// Whether `fault` is switched on in this thread.
    pub fn is(fault: Fault) -> bool {
        PRESENT.get() == Some(fault)
    }

    /// From now on this thread runs with `fault`, or with none.
    pub fn switch(fault: Option<Fault>) {
        PRESENT.set(fault);
    }
}
