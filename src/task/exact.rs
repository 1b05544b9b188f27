//! Exactly once into Kafka: records and progress in one transaction. A [`Ledger`] knows how far a source got, from the
//! committed offsets of a group of its own in the target cluster; [`Transactions`] writes batches and moves the offsets
//! on. The source loop and `restore` use both.
//!
//! Why nothing comes twice and nothing is missing: the offsets of a group change with the transaction that holds the
//! records before them, or not at all. Whoever goes on begins with the transactional id, which ends what its
//! predecessor had under way, and then with those offsets. A predecessor that wakes up later is refused by the brokers.
//!
//! And why nobody else's records get between: each commit says which offset of the target was delivered last. What is
//! behind it at a start must be invisible (markers, aborted records), and what is delivered must touch it, but for the
//! markers of transactions, of which there may be more than one after a failure of the brokers. So even two writers
//! whom no transactional id sets apart cannot both go on: the first who finds the other's record aborts his
//! transaction.

mod ledger;
mod mark;
mod transactions;

pub(crate) use self::ledger::{Holding, Ledger, LedgerParts, Tolerated};
pub(crate) use self::mark::{Mark, Tail};
pub(crate) use self::transactions::{Settled, Transactions};
