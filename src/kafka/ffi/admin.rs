//! What an admin client asks of librdkafka. Every call sends its request now and waits for its answer on a queue of its
//! own, so callers run them off the runtime.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::ptr::{self, NonNull};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use lakeferry_api::TopicPartition;
use lakeferry_api::source::NewTopic;
use rdkafka_sys as sys;
use sys::rd_kafka_admin_op_t as Operation;

use super::ask::{Asked, Options, SLICE, borrowed_error, nothing, slice, slices};
use super::code::{code, raw};
use super::list::{self, Entry, List};
use super::{Code, Event, Failure, Handle, c_name, millis, text};

/// A topic as the broker describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::kafka) struct Described {
    /// Its id in Kafka's notation; `None` where the broker gives none.
    pub topic_id: Option<String>,
    /// Its partitions.
    pub partitions: Vec<PartitionShape>,
}

/// A partition of a [`Described`] topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::kafka) struct PartitionShape {
    /// Its number.
    pub partition: i32,
    /// True where it can be written to.
    pub has_leader: bool,
    /// How many replicas it has.
    pub replicas: usize,
}

/// One config of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::kafka) struct ConfigEntry {
    /// Its name.
    pub name: String,
    /// Its value; `None` where the broker keeps it secret.
    pub value: Option<String>,
    /// True where it was set on the topic itself.
    pub is_set_on_topic: bool,
}

/// Which offset of a partition is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::kafka) enum OffsetSpec {
    /// The log's start.
    Earliest,
    /// The last stable offset.
    Stable,
    /// The high watermark.
    End,
}

impl Handle {
    /// The cluster's id.
    pub(in crate::kafka) fn cluster_id(&self, timeout: Duration) -> Result<String, Failure> {
        for _ in 0..slices(timeout) {
            // SAFETY: the text that comes back is ours to free.
            let id = unsafe {
                let raw = sys::rd_kafka_clusterid(self.raw(), millis(SLICE));
                let id = text(raw);
                if !raw.is_null() {
                    sys::rd_kafka_mem_free(self.raw(), raw.cast());
                }
                id
            };
            if let Some(id) = id {
                return Ok(id);
            }
            self.check_login()?;
        }
        Err(Failure::new(Code::RD_KAFKA_RESP_ERR__TIMED_OUT, None))
    }

    /// All topics with their partitions, without ids.
    pub(in crate::kafka) fn all_topics(&self, timeout: Duration) -> Result<Vec<(String, Described)>, Failure> {
        let mut metadata = ptr::null();
        // SAFETY: the metadata that comes back is ours to destroy, and holds `topic_cnt` topics.
        unsafe {
            let wait = millis(timeout);
            let found = raw::rd_kafka_metadata(self.raw(), 1, ptr::null_mut(), &mut metadata, wait);
            if let Err(failure) = Failure::of(code(found)) {
                return Err(self.check_login().err().unwrap_or(failure));
            }
            let topics = slice((*metadata).topics, usize::try_from((*metadata).topic_cnt).unwrap_or_default());
            let rows = topics.iter().map(|topic| (text(topic.topic).unwrap_or_default(), known(topic))).collect();
            sys::rd_kafka_metadata_destroy(metadata);
            Ok(rows)
        }
    }

    /// The description of a topic.
    pub(in crate::kafka) fn describe_topic(&self, topic: &str, timeout: Duration) -> Result<Described, Failure> {
        let name = c_name(topic)?;
        let options = Options::new(self, Operation::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS, timeout)?;
        let asked = Asked::new(self, timeout)?;
        // SAFETY: all pointers outlive the call, which copies the names.
        unsafe {
            let topics = sys::rd_kafka_TopicCollection_of_topic_names([name.as_ptr()].as_mut_ptr(), 1);
            sys::rd_kafka_DescribeTopics(self.raw(), topics, options.0.as_ptr(), asked.queue.0.as_ptr());
            sys::rd_kafka_TopicCollection_destroy(topics);
        }
        asked.answer(|event| {
            let mut count = 0;
            // SAFETY: what comes back belongs to the event.
            unsafe {
                let result = sys::rd_kafka_event_DescribeTopics_result(event.raw());
                let topics = slice(sys::rd_kafka_DescribeTopics_result_topics(result, &mut count), count);
                let topic = *topics.first().ok_or_else(nothing)?;
                borrowed_error(sys::rd_kafka_TopicDescription_error(topic))?;
                Ok(described(topic))
            }
        })
    }

    /// The offsets of some partitions, one list of answers for each of `specs`. All requests are sent before the first
    /// answer is awaited.
    pub(in crate::kafka) fn list_offsets(
        &self,
        partitions: &[TopicPartition],
        specs: &[OffsetSpec],
        timeout: Duration,
    ) -> Result<Vec<Vec<Entry>>, Failure> {
        let ask = |spec: &OffsetSpec| self.ask_offsets(partitions, *spec, timeout);
        let asked = specs.iter().map(ask).collect::<Result<Vec<_>, _>>()?;
        let read = |event: &Event<'_>| {
            let mut count = 0;
            // SAFETY: what comes back belongs to the event.
            unsafe {
                let result = sys::rd_kafka_event_ListOffsets_result(event.raw());
                let infos = slice(sys::rd_kafka_ListOffsets_result_infos(result, &mut count), count);
                let row = |info: &*const _| list::entry(&*sys::rd_kafka_ListOffsetsResultInfo_topic_partition(*info));
                Ok(infos.iter().map(row).collect())
            }
        };
        asked.into_iter().map(|asked| asked.answer(read)).collect()
    }

    fn ask_offsets(
        &self,
        partitions: &[TopicPartition],
        spec: OffsetSpec,
        timeout: Duration,
    ) -> Result<Asked<'_>, Failure> {
        let (which, isolation) = match spec {
            OffsetSpec::Earliest => (-2, sys::rd_kafka_IsolationLevel_t::RD_KAFKA_ISOLATION_LEVEL_READ_COMMITTED),
            OffsetSpec::Stable => (-1, sys::rd_kafka_IsolationLevel_t::RD_KAFKA_ISOLATION_LEVEL_READ_COMMITTED),
            OffsetSpec::End => (-1, sys::rd_kafka_IsolationLevel_t::RD_KAFKA_ISOLATION_LEVEL_READ_UNCOMMITTED),
        };
        let rows = List::of(partitions.iter().map(|partition| (partition, which)))?;
        let options = Options::new(self, Operation::RD_KAFKA_ADMIN_OP_LISTOFFSETS, timeout)?;
        let asked = Asked::new(self, timeout)?;
        // SAFETY: all pointers outlive the calls; the list is copied.
        unsafe {
            Failure::of_error(sys::rd_kafka_AdminOptions_set_isolation_level(options.0.as_ptr(), isolation))?;
            sys::rd_kafka_ListOffsets(self.raw(), rows.raw(), options.0.as_ptr(), asked.queue.0.as_ptr());
        }
        Ok(asked)
    }

    /// Every config of a topic.
    pub(in crate::kafka) fn describe_configs(
        &self,
        topic: &str,
        timeout: Duration,
    ) -> Result<Vec<ConfigEntry>, Failure> {
        let resource = Resource::topic(topic)?;
        let options = Options::new(self, Operation::RD_KAFKA_ADMIN_OP_DESCRIBECONFIGS, timeout)?;
        let asked = Asked::new(self, timeout)?;
        // SAFETY: all pointers outlive the call, which copies the resource.
        unsafe {
            let queue = asked.queue.0.as_ptr();
            sys::rd_kafka_DescribeConfigs(self.raw(), [resource.0.as_ptr()].as_mut_ptr(), 1, options.0.as_ptr(), queue);
        }
        asked.answer(|event| {
            let mut count = 0;
            // SAFETY: what comes back belongs to the event.
            unsafe {
                let result = sys::rd_kafka_event_DescribeConfigs_result(event.raw());
                let resources = slice(sys::rd_kafka_DescribeConfigs_result_resources(result, &mut count), count);
                let resource = *resources.first().ok_or_else(nothing)?;
                resource_error(resource)?;
                let entries = slice(sys::rd_kafka_ConfigResource_configs(resource, &mut count), count);
                Ok(entries.iter().map(|entry| config_entry(*entry)).collect())
            }
        })
    }

    /// Sets configs of a topic and leaves the others as they are.
    pub(in crate::kafka) fn alter_configs(
        &self,
        topic: &str,
        configs: &BTreeMap<String, Option<String>>,
        timeout: Duration,
    ) -> Result<(), Failure> {
        use sys::rd_kafka_AlterConfigOpType_t::{
            RD_KAFKA_ALTER_CONFIG_OP_TYPE_DELETE as DELETE, RD_KAFKA_ALTER_CONFIG_OP_TYPE_SET as SET,
        };
        let resource = Resource::topic(topic)?;
        for (name, value) in configs {
            let name = c_name(name)?;
            let value = value.as_deref().map(c_name).transpose()?;
            let operation = if value.is_some() { SET } else { DELETE };
            let value = value.as_ref().map_or(std::ptr::null(), |value| value.as_ptr());
            let (resource, name) = (resource.0.as_ptr(), name.as_ptr());
            // SAFETY: all pointers outlive the call, which copies the texts; to delete takes no value.
            unsafe {
                Failure::of_error(sys::rd_kafka_ConfigResource_add_incremental_config(
                    resource, name, operation, value,
                ))?;
            }
        }
        let options = Options::new(self, Operation::RD_KAFKA_ADMIN_OP_INCREMENTALALTERCONFIGS, timeout)?;
        let asked = Asked::new(self, timeout)?;
        // SAFETY: all pointers outlive the call, which copies the resource.
        unsafe {
            let (queue, mut resources) = (asked.queue.0.as_ptr(), [resource.0.as_ptr()]);
            sys::rd_kafka_IncrementalAlterConfigs(self.raw(), resources.as_mut_ptr(), 1, options.0.as_ptr(), queue);
        }
        asked.answer(|event| {
            let mut count = 0;
            // SAFETY: what comes back belongs to the event.
            unsafe {
                let result = sys::rd_kafka_event_IncrementalAlterConfigs_result(event.raw());
                let raw = sys::rd_kafka_IncrementalAlterConfigs_result_resources(result, &mut count);
                slice(raw, count).iter().try_for_each(|resource| resource_error(*resource))
            }
        })
    }

    /// Creates a topic; with `dry_run` it is only asked whether that could be.
    pub(in crate::kafka) fn create_topic(
        &self,
        topic: &NewTopic,
        dry_run: bool,
        timeout: Duration,
    ) -> Result<(), Failure> {
        let new = new_topic(topic)?;
        let options = Options::new(self, Operation::RD_KAFKA_ADMIN_OP_CREATETOPICS, timeout)?;
        options.set_validate_only(dry_run)?;
        let asked = Asked::new(self, timeout)?;
        // SAFETY: all pointers outlive the call, which copies the topic; the topic is ours to destroy.
        unsafe {
            let queue = asked.queue.0.as_ptr();
            sys::rd_kafka_CreateTopics(self.raw(), [new.as_ptr()].as_mut_ptr(), 1, options.0.as_ptr(), queue);
            sys::rd_kafka_NewTopic_destroy(new.as_ptr());
        }
        asked.answer(|event| {
            let mut count = 0;
            // SAFETY: what comes back belongs to the event.
            unsafe {
                let result = sys::rd_kafka_event_CreateTopics_result(event.raw());
                let topics = slice(sys::rd_kafka_CreateTopics_result_topics(result, &mut count), count);
                let topic = *topics.first().ok_or_else(nothing)?;
                let code = code(raw::rd_kafka_topic_result_error(topic));
                let words = text(sys::rd_kafka_topic_result_error_string(topic));
                Failure::of(code).map_err(|_| Failure::new(code, words))
            }
        })
    }
}

struct Resource(NonNull<sys::rd_kafka_ConfigResource_t>);

impl Resource {
    fn topic(topic: &str) -> Result<Self, Failure> {
        let name: CString = c_name(topic)?;
        let kind = sys::rd_kafka_ResourceType_t::RD_KAFKA_RESOURCE_TOPIC;
        // SAFETY: the name outlives the call, which copies it.
        NonNull::new(unsafe { sys::rd_kafka_ConfigResource_new(kind, name.as_ptr()) }).map(Self).ok_or_else(nothing)
    }
}

impl Drop for Resource {
    fn drop(&mut self) {
        // SAFETY: the last use; requests copy their resources.
        unsafe { sys::rd_kafka_ConfigResource_destroy(self.0.as_ptr()) }
    }
}

fn new_topic(topic: &NewTopic) -> Result<NonNull<sys::rd_kafka_NewTopic_t>, Failure> {
    let name = c_name(&topic.name)?;
    // -1: as the broker is configured.
    let number = |wanted: Option<u32>| wanted.map_or(-1, |wanted| i32::try_from(wanted).unwrap_or(i32::MAX));
    let (partitions, replicas) = (number(topic.partitions), number(topic.replication_factor));
    let mut reason = [0_u8; 256];
    // SAFETY: name and buffer outlive the call, which copies the name.
    let raw = unsafe {
        let (reason, len) = (reason.as_mut_ptr().cast(), reason.len());
        NonNull::new(sys::rd_kafka_NewTopic_new(name.as_ptr(), partitions, replicas, reason, len))
    };
    let refused = || Failure::new(Code::RD_KAFKA_RESP_ERR__INVALID_ARG, Some(super::buffer_text(&reason)));
    let new = raw.ok_or_else(refused)?;
    for (key, value) in &topic.configs {
        let (key, value) = (c_name(key)?, c_name(value)?);
        // SAFETY: all pointers outlive the call, which copies the texts.
        Failure::of(unsafe { sys::rd_kafka_NewTopic_set_config(new.as_ptr(), key.as_ptr(), value.as_ptr()) })?;
    }
    Ok(new)
}

/// # Safety
/// `topic` is a description that lives during the call.
unsafe fn described(topic: *const sys::rd_kafka_TopicDescription_t) -> Described {
    let mut count = 0;
    // SAFETY: what comes back lives as long as the description.
    unsafe {
        let partitions = slice(sys::rd_kafka_TopicDescription_partitions(topic, &mut count), count);
        let shape = |partition: &*const _| {
            let mut replicas = 0;
            sys::rd_kafka_TopicPartitionInfo_replicas(*partition, &mut replicas);
            let leader = sys::rd_kafka_TopicPartitionInfo_leader(*partition);
            let partition = sys::rd_kafka_TopicPartitionInfo_partition(*partition);
            PartitionShape { partition, has_leader: !leader.is_null(), replicas }
        };
        let partitions = partitions.iter().map(shape).collect();
        Described { topic_id: uuid(sys::rd_kafka_TopicDescription_topic_id(topic)), partitions }
    }
}

/// # Safety
/// `topic` is a topic of metadata that lives during the call.
unsafe fn known(topic: &sys::rd_kafka_metadata_topic) -> Described {
    // SAFETY: it holds `partition_cnt` partitions.
    let partitions = unsafe { slice(topic.partitions, usize::try_from(topic.partition_cnt).unwrap_or_default()) };
    let shape = |partition: &sys::rd_kafka_metadata_partition| PartitionShape {
        partition: partition.id,
        has_leader: partition.leader >= 0,
        replicas: usize::try_from(partition.replica_cnt).unwrap_or_default(),
    };
    Described { topic_id: None, partitions: partitions.iter().map(shape).collect() }
}

/// Kafka's notation of an id: URL-safe base64 without padding. librdkafka's own uses the other alphabet. All zeros is
/// how the protocol says "none".
///
/// # Safety
/// `raw` is null or an id that lives during the call.
unsafe fn uuid(raw: *const sys::rd_kafka_Uuid_t) -> Option<String> {
    if raw.is_null() {
        return None;
    }
    // SAFETY: not null, as the caller promises alive.
    let (most, least) =
        unsafe { (sys::rd_kafka_Uuid_most_significant_bits(raw), sys::rd_kafka_Uuid_least_significant_bits(raw)) };
    let bytes = [most.to_be_bytes(), least.to_be_bytes()].concat();
    ((most, least) != (0, 0)).then(|| URL_SAFE_NO_PAD.encode(bytes))
}

/// # Safety
/// `entry` is a config entry that lives during the call.
unsafe fn config_entry(entry: *const sys::rd_kafka_ConfigEntry_t) -> ConfigEntry {
    // SAFETY: its texts live as long as the entry.
    unsafe {
        let source = sys::rd_kafka_ConfigEntry_source(entry);
        ConfigEntry {
            name: text(sys::rd_kafka_ConfigEntry_name(entry)).unwrap_or_default(),
            value: text(sys::rd_kafka_ConfigEntry_value(entry)),
            is_set_on_topic: source == sys::rd_kafka_ConfigSource_t::RD_KAFKA_CONFIG_SOURCE_DYNAMIC_TOPIC_CONFIG,
        }
    }
}

/// # Safety
/// `resource` is a resource that lives during the call.
unsafe fn resource_error(resource: *const sys::rd_kafka_ConfigResource_t) -> Result<(), Failure> {
    // SAFETY: as the caller promises.
    unsafe {
        let code = code(raw::rd_kafka_ConfigResource_error(resource));
        let words = text(sys::rd_kafka_ConfigResource_error_string(resource));
        Failure::of(code).map_err(|_| Failure::new(code, words))
    }
}
