//! The transactions of a producer. Every call waits for the brokers as long as it is told; one that ran out of time is
//! made again and goes on where it was.

use std::ptr::NonNull;
use std::time::Duration;

use lakeferry_api::TopicPartition;
use rdkafka_sys as sys;

use super::ask::nothing;
use super::list::List;
use super::{Failure, Handle, c_name, millis};

/// Why a transaction does not go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::kafka) struct TransactionFailure {
    /// What happened.
    pub failure: Failure,
    /// What is to be done.
    pub remedy: Remedy,
}

/// What librdkafka wants done about a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::kafka) enum Remedy {
    /// The same call again.
    CallAgain,
    /// The transaction is to be aborted.
    Abort,
    /// Nothing helps.
    Nothing,
}

struct GroupMetadata(NonNull<sys::rd_kafka_consumer_group_metadata_t>);

impl Handle {
    /// Takes the transactional id over.
    pub(in crate::kafka) fn init_transactions(&self, timeout: Duration) -> Result<(), TransactionFailure> {
        // SAFETY: the client lives; the error that comes back is ours to destroy.
        unsafe { outcome(sys::rd_kafka_init_transactions(self.raw(), millis(timeout))) }
    }

    /// Begins a transaction; asks nobody.
    pub(in crate::kafka) fn begin_transaction(&self) -> Result<(), TransactionFailure> {
        // SAFETY: as in `init_transactions`.
        unsafe { outcome(sys::rd_kafka_begin_transaction(self.raw())) }
    }

    /// Sends what is queued, however short a time it has lingered, and waits until all of it is reported on.
    pub(in crate::kafka) fn flush(&self, timeout: Duration) -> Result<(), Failure> {
        // SAFETY: the client lives.
        Failure::of(unsafe { sys::rd_kafka_flush(self.raw(), millis(timeout)) })
    }

    /// Makes commits of a group without members a part of the transaction.
    pub(in crate::kafka) fn send_offsets<'a>(
        &self,
        group: &str,
        rows: impl ExactSizeIterator<Item = (&'a TopicPartition, i64, &'a str)>,
        timeout: Duration,
    ) -> Result<(), TransactionFailure> {
        let list = List::of_commits(rows)?;
        let group = GroupMetadata::of(group)?;
        // SAFETY: list and group outlive the call, which copies them; the error that comes back is ours to destroy.
        unsafe {
            let (list, group) = (list.raw(), group.0.as_ptr());
            outcome(sys::rd_kafka_send_offsets_to_transaction(self.raw(), list, group, millis(timeout)))
        }
    }

    /// Commits the transaction.
    pub(in crate::kafka) fn commit_transaction(&self, timeout: Duration) -> Result<(), TransactionFailure> {
        // SAFETY: as in `init_transactions`.
        unsafe { outcome(sys::rd_kafka_commit_transaction(self.raw(), millis(timeout))) }
    }

    /// Aborts the transaction.
    pub(in crate::kafka) fn abort_transaction(&self, timeout: Duration) -> Result<(), TransactionFailure> {
        // SAFETY: as in `init_transactions`.
        unsafe { outcome(sys::rd_kafka_abort_transaction(self.raw(), millis(timeout))) }
    }
}

/// # Safety
/// `error` is null or an error object that nobody else destroys.
unsafe fn outcome(error: *mut sys::rd_kafka_error_t) -> Result<(), TransactionFailure> {
    if error.is_null() {
        return Ok(());
    }
    // SAFETY: not null and ours.
    unsafe {
        let remedy = if sys::rd_kafka_error_txn_requires_abort(error) != 0 {
            Remedy::Abort
        } else if sys::rd_kafka_error_is_retriable(error) != 0 {
            Remedy::CallAgain
        } else {
            Remedy::Nothing
        };
        Failure::of_error(error).map_err(|failure| TransactionFailure { failure, remedy })
    }
}

impl From<Failure> for TransactionFailure {
    fn from(failure: Failure) -> Self {
        Self { failure, remedy: Remedy::Nothing }
    }
}

impl GroupMetadata {
    fn of(group: &str) -> Result<Self, Failure> {
        let name = c_name(group)?;
        // SAFETY: the name outlives the call, which copies it.
        let raw = unsafe { sys::rd_kafka_consumer_group_metadata_new(name.as_ptr()) };
        NonNull::new(raw).map(Self).ok_or_else(nothing)
    }
}

impl Drop for GroupMetadata {
    fn drop(&mut self) {
        // SAFETY: the last use.
        unsafe { sys::rd_kafka_consumer_group_metadata_destroy(self.0.as_ptr()) }
    }
}
