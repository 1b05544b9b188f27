//! librdkafka's topic partition lists: made for a call, read after it, never kept. A list may hold references into its
//! client, so it never leaves this folder; what callers see is [`Entry`].

use std::ptr::{self, NonNull};

use lakeferry_api::TopicPartition;
use rdkafka_sys as sys;

use super::ask::slice;
use super::code::code_at;
use super::{Failure, c_name, text};

/// How librdkafka says that it knows no leader epoch.
const NO_EPOCH: i32 = -1;

/// One row of a list: a partition, an offset and what went wrong with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::kafka) struct Entry {
    /// The partition.
    pub partition: TopicPartition,
    /// The offset; `None` where the list has none.
    pub offset: Option<i64>,
    /// What stands beside the offset of a group; empty where nothing does.
    pub metadata: String,
    /// What went wrong with this partition.
    pub failure: Option<Failure>,
}

/// Where the client is to fetch from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::kafka) struct FetchFrom {
    /// The partition.
    pub partition: TopicPartition,
    /// The offset.
    pub offset: i64,
    /// The leader epoch of the record before it; a seek with one is checked by the broker first.
    pub leader_epoch: Option<i32>,
}

pub(super) struct List(NonNull<sys::rd_kafka_topic_partition_list_t>);

impl List {
    pub(super) fn new(capacity: usize) -> Self {
        // SAFETY: has no precondition; it aborts the process itself where memory is out.
        let raw = unsafe { sys::rd_kafka_topic_partition_list_new(capacity as i32) };
        Self(NonNull::new(raw).unwrap_or_else(|| std::process::abort()))
    }

    /// The partitions, each at an offset (real or one of librdkafka's special ones).
    pub(super) fn of<'a>(rows: impl ExactSizeIterator<Item = (&'a TopicPartition, i64)>) -> Result<Self, Failure> {
        let list = Self::new(rows.len());
        for (partition, offset) in rows {
            list.add(&partition.topic, partition.partition, offset)?;
        }
        Ok(list)
    }

    /// Where to fetch from, with the leader epochs that are known.
    pub(super) fn of_starts(rows: &[FetchFrom]) -> Result<Self, Failure> {
        let list = Self::new(rows.len());
        for FetchFrom { partition, offset, leader_epoch } in rows {
            list.add_in_epoch(&partition.topic, partition.partition, *offset, leader_epoch.unwrap_or(NO_EPOCH))?;
        }
        Ok(list)
    }

    /// What a group commits: partitions, offsets and what stands beside them, ordered by topic.
    pub(super) fn of_commits<'a>(
        rows: impl ExactSizeIterator<Item = (&'a TopicPartition, i64, &'a str)>,
    ) -> Result<Self, Failure> {
        let list = Self::new(rows.len());
        for (partition, offset, metadata) in rows {
            list.add(&partition.topic, partition.partition, offset)?;
            if metadata.is_empty() {
                continue;
            }
            // SAFETY: the row that was added is the last; its metadata is librdkafka's to free, so librdkafka's own
            // allocator, which is C's, makes the copy.
            unsafe {
                let row = (*list.raw()).elems.add(usize::try_from((*list.raw()).cnt - 1).unwrap_or_default());
                let copy = sys::rd_kafka_mem_malloc(ptr::null_mut(), metadata.len());
                ptr::copy_nonoverlapping(metadata.as_ptr(), copy.cast::<u8>(), metadata.len());
                (*row).metadata = copy;
                (*row).metadata_size = metadata.len();
            }
        }
        Ok(list)
    }

    pub(super) fn add(&self, topic: &str, partition: i32, offset: i64) -> Result<(), Failure> {
        self.add_in_epoch(topic, partition, offset, NO_EPOCH)
    }

    fn add_in_epoch(&self, topic: &str, partition: i32, offset: i64, leader_epoch: i32) -> Result<(), Failure> {
        let topic = c_name(topic)?;
        // SAFETY: list and name live; the row that comes back belongs to the list and stays where it is until the next
        // one is added.
        unsafe {
            let row = sys::rd_kafka_topic_partition_list_add(self.0.as_ptr(), topic.as_ptr(), partition);
            (*row).offset = offset;
            sys::rd_kafka_topic_partition_set_leader_epoch(row, leader_epoch);
        }
        Ok(())
    }

    pub(super) fn raw(&self) -> *mut sys::rd_kafka_topic_partition_list_t {
        self.0.as_ptr()
    }

    pub(super) fn entries(&self) -> Vec<Entry> {
        // SAFETY: the list lives as long as `self`.
        unsafe { entries(self.0.as_ptr()) }
    }
}

impl Drop for List {
    fn drop(&mut self) {
        // SAFETY: the last use.
        unsafe { sys::rd_kafka_topic_partition_list_destroy(self.0.as_ptr()) }
    }
}

/// The rows of a list that somebody else owns.
///
/// # Safety
/// `list` is null or a list that lives during the call.
pub(super) unsafe fn entries(list: *const sys::rd_kafka_topic_partition_list_t) -> Vec<Entry> {
    if list.is_null() {
        return Vec::new();
    }
    // SAFETY: the list lives, and has `cnt` rows.
    unsafe {
        let count = usize::try_from((*list).cnt).unwrap_or_default();
        (0..count).map(|row| entry(&*(*list).elems.add(row))).collect()
    }
}

/// # Safety
/// `row` is a valid row of a list.
pub(super) unsafe fn entry(row: &sys::rd_kafka_topic_partition_t) -> Entry {
    // SAFETY: a row's topic is a C string, its code a number.
    let (topic, code) = unsafe { (text(row.topic).unwrap_or_default(), code_at(&raw const row.err)) };
    // SAFETY: a row's metadata is null or has as many bytes as it says.
    let metadata = unsafe { slice(row.metadata.cast::<u8>().cast_const(), row.metadata_size) };
    Entry {
        metadata: String::from_utf8_lossy(metadata).into_owned(),
        partition: TopicPartition::new(topic, row.partition),
        offset: (row.offset >= 0).then_some(row.offset),
        failure: Failure::of(code).err(),
    }
}
