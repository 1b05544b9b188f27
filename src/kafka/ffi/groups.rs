//! What an admin client asks about consumer groups.

use std::ptr;
use std::time::Duration;

use lakeferry_api::TopicPartition;
use rdkafka_sys as sys;
use sys::rd_kafka_admin_op_t as Operation;

use super::ask::{Asked, Options, borrowed_error, nothing, slice};
use super::list::{self, Entry, List};
use super::{Failure, Handle, c_name};

impl Handle {
    /// How many members a group has.
    pub(in crate::kafka) fn group_members(&self, group: &str, timeout: Duration) -> Result<usize, Failure> {
        let name = c_name(group)?;
        let options = Options::new(self, Operation::RD_KAFKA_ADMIN_OP_DESCRIBECONSUMERGROUPS, timeout)?;
        let asked = Asked::new(self, timeout)?;
        // SAFETY: all pointers outlive the call, which copies the name.
        unsafe {
            let (queue, mut groups) = (asked.queue.0.as_ptr(), [name.as_ptr()]);
            sys::rd_kafka_DescribeConsumerGroups(self.raw(), groups.as_mut_ptr(), 1, options.0.as_ptr(), queue);
        }
        asked.answer(|event| {
            let mut count = 0;
            // SAFETY: what comes back belongs to the event.
            unsafe {
                let result = sys::rd_kafka_event_DescribeConsumerGroups_result(event.raw());
                let groups = slice(sys::rd_kafka_DescribeConsumerGroups_result_groups(result, &mut count), count);
                let group = *groups.first().ok_or_else(nothing)?;
                borrowed_error(sys::rd_kafka_ConsumerGroupDescription_error(group))?;
                Ok(sys::rd_kafka_ConsumerGroupDescription_member_count(group))
            }
        })
    }

    /// All committed offsets of a group, whatever a transaction is about to make of them.
    pub(in crate::kafka) fn group_offsets(&self, group: &str, timeout: Duration) -> Result<Vec<Entry>, Failure> {
        let options = Options::new(self, Operation::RD_KAFKA_ADMIN_OP_LISTCONSUMERGROUPOFFSETS, timeout)?;
        self.list_group_offsets(group, &options, timeout)
    }

    /// The same; one that a transaction is about to change has a failure in its place.
    pub(in crate::kafka) fn stable_group_offsets(&self, group: &str, timeout: Duration) -> Result<Vec<Entry>, Failure> {
        let options = Options::new(self, Operation::RD_KAFKA_ADMIN_OP_LISTCONSUMERGROUPOFFSETS, timeout)?;
        // SAFETY: the options live; the error that comes back is ours to destroy.
        unsafe {
            Failure::of_error(sys::rd_kafka_AdminOptions_set_require_stable_offsets(options.0.as_ptr(), 1))?;
        }
        self.list_group_offsets(group, &options, timeout)
    }

    fn list_group_offsets(&self, group: &str, options: &Options, timeout: Duration) -> Result<Vec<Entry>, Failure> {
        let name = c_name(group)?;
        let asked = Asked::new(self, timeout)?;
        // SAFETY: all pointers outlive the call, which copies the request; the request is ours to destroy.
        unsafe {
            let request = sys::rd_kafka_ListConsumerGroupOffsets_new(name.as_ptr(), ptr::null());
            let (queue, mut requests) = (asked.queue.0.as_ptr(), [request]);
            sys::rd_kafka_ListConsumerGroupOffsets(self.raw(), requests.as_mut_ptr(), 1, options.0.as_ptr(), queue);
            sys::rd_kafka_ListConsumerGroupOffsets_destroy(request);
        }
        asked.answer(|event| {
            let mut count = 0;
            // SAFETY: what comes back belongs to the event.
            unsafe {
                let result = sys::rd_kafka_event_ListConsumerGroupOffsets_result(event.raw());
                group_rows(slice(sys::rd_kafka_ListConsumerGroupOffsets_result_groups(result, &mut count), count))
            }
        })
    }

    /// Sets offsets of a group, and what stands beside them.
    pub(in crate::kafka) fn alter_group_offsets<'a>(
        &self,
        group: &str,
        rows: impl ExactSizeIterator<Item = (&'a TopicPartition, i64, &'a str)>,
        timeout: Duration,
    ) -> Result<Vec<Entry>, Failure> {
        let (name, rows) = (c_name(group)?, List::of_commits(rows)?);
        let options = Options::new(self, Operation::RD_KAFKA_ADMIN_OP_ALTERCONSUMERGROUPOFFSETS, timeout)?;
        let asked = Asked::new(self, timeout)?;
        // SAFETY: all pointers outlive the call, which copies the request; the request is ours to destroy.
        unsafe {
            let request = sys::rd_kafka_AlterConsumerGroupOffsets_new(name.as_ptr(), rows.raw());
            let (queue, mut requests) = (asked.queue.0.as_ptr(), [request]);
            sys::rd_kafka_AlterConsumerGroupOffsets(self.raw(), requests.as_mut_ptr(), 1, options.0.as_ptr(), queue);
            sys::rd_kafka_AlterConsumerGroupOffsets_destroy(request);
        }
        asked.answer(|event| {
            let mut count = 0;
            // SAFETY: what comes back belongs to the event.
            unsafe {
                let result = sys::rd_kafka_event_AlterConsumerGroupOffsets_result(event.raw());
                group_rows(slice(sys::rd_kafka_AlterConsumerGroupOffsets_result_groups(result, &mut count), count))
            }
        })
    }

    /// Removes offsets of a group.
    pub(in crate::kafka) fn delete_group_offsets(
        &self,
        group: &str,
        partitions: &[TopicPartition],
        timeout: Duration,
    ) -> Result<Vec<Entry>, Failure> {
        let (name, rows) = (c_name(group)?, List::of(partitions.iter().map(|partition| (partition, -1)))?);
        let options = Options::new(self, Operation::RD_KAFKA_ADMIN_OP_DELETECONSUMERGROUPOFFSETS, timeout)?;
        let asked = Asked::new(self, timeout)?;
        // SAFETY: all pointers outlive the call, which copies the request; the request is ours to destroy.
        unsafe {
            let request = sys::rd_kafka_DeleteConsumerGroupOffsets_new(name.as_ptr(), rows.raw());
            let (queue, mut requests) = (asked.queue.0.as_ptr(), [request]);
            sys::rd_kafka_DeleteConsumerGroupOffsets(self.raw(), requests.as_mut_ptr(), 1, options.0.as_ptr(), queue);
            sys::rd_kafka_DeleteConsumerGroupOffsets_destroy(request);
        }
        asked.answer(|event| {
            let mut count = 0;
            // SAFETY: what comes back belongs to the event.
            unsafe {
                let result = sys::rd_kafka_event_DeleteConsumerGroupOffsets_result(event.raw());
                group_rows(slice(sys::rd_kafka_DeleteConsumerGroupOffsets_result_groups(result, &mut count), count))
            }
        })
    }

    /// Removes a group.
    pub(in crate::kafka) fn delete_group(&self, group: &str, timeout: Duration) -> Result<(), Failure> {
        let name = c_name(group)?;
        let options = Options::new(self, Operation::RD_KAFKA_ADMIN_OP_DELETEGROUPS, timeout)?;
        let asked = Asked::new(self, timeout)?;
        // SAFETY: all pointers outlive the call, which copies the request; the request is ours to destroy.
        unsafe {
            let request = sys::rd_kafka_DeleteGroup_new(name.as_ptr());
            let (queue, mut requests) = (asked.queue.0.as_ptr(), [request]);
            sys::rd_kafka_DeleteGroups(self.raw(), requests.as_mut_ptr(), 1, options.0.as_ptr(), queue);
            sys::rd_kafka_DeleteGroup_destroy(request);
        }
        asked.answer(|event| {
            let mut count = 0;
            // SAFETY: what comes back belongs to the event.
            unsafe {
                let result = sys::rd_kafka_event_DeleteGroups_result(event.raw());
                group_rows(slice(sys::rd_kafka_DeleteGroups_result_groups(result, &mut count), count)).map(drop)
            }
        })
    }
}

/// # Safety
/// `groups` are results that live during the call.
unsafe fn group_rows(groups: &[*const sys::rd_kafka_group_result_t]) -> Result<Vec<Entry>, Failure> {
    let group = *groups.first().ok_or_else(nothing)?;
    // SAFETY: what comes back lives as long as the result.
    unsafe {
        borrowed_error(sys::rd_kafka_group_result_error(group))?;
        Ok(list::entries(sys::rd_kafka_group_result_partitions(group)))
    }
}
