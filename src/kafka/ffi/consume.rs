//! What a consumer asks of librdkafka: subscribing, polling, assigning, seeking, pausing, committing, closing.

use std::ffi::c_void;
use std::ptr::{self, NonNull};
use std::time::Duration;

use lakeferry_api::TopicPartition;
use lakeferry_api::batch::NO_TIMESTAMP;
use lakeferry_api::record::TimestampType;
use rdkafka_sys as sys;

use super::code::{code, raw};
use super::list::{self, Entry, FetchFrom, List};
use super::{ANY_PARTITION, Code, Event, Failure, Handle, Queue, c_name, millis};

/// What a poll gave.
pub(in crate::kafka) enum Polled<'a> {
    /// A record.
    Message(Message<'a>),
    /// The end of a partition, at this position.
    End(TopicPartition, i64),
    /// The group gives these partitions.
    Assign(Vec<TopicPartition>),
    /// The group takes these partitions.
    Revoke(Vec<TopicPartition>),
    /// Something failed, perhaps with one partition at an offset.
    Failed(Failure, Option<Entry>),
    /// Nothing that concerns a consumer.
    Nothing,
}

/// A record in librdkafka's memory.
pub(in crate::kafka) struct Message<'a> {
    raw: NonNull<sys::rd_kafka_message_t>,
    headers: Option<NonNull<sys::rd_kafka_headers_t>>,
    _event: Event<'a>,
}

impl Handle {
    /// Joins the group with these topics; one that begins with `^` is a pattern.
    pub(in crate::kafka) fn subscribe(&self, topics: &[String]) -> Result<(), Failure> {
        let list = List::new(topics.len());
        for topic in topics {
            list.add(topic, ANY_PARTITION, -1)?;
        }
        // SAFETY: client and list live.
        Failure::of(unsafe { sys::rd_kafka_subscribe(self.raw(), list.raw()) })
    }

    /// Waits up to `timeout` for one event.
    pub(in crate::kafka) fn poll(&self, timeout: Duration) -> Option<Polled<'_>> {
        let event = self.take_event(timeout)?;
        Some(match event.kind() {
            sys::RD_KAFKA_EVENT_FETCH => Message::of(event).map_or(Polled::Nothing, Polled::Message),
            sys::RD_KAFKA_EVENT_REBALANCE => rebalance(&event),
            sys::RD_KAFKA_EVENT_ERROR => failed(&event),
            _ => Polled::Nothing,
        })
    }

    /// True where the group moves partitions one by one (cooperative), false where it takes all away first. Asks
    /// librdkafka's main thread.
    pub(in crate::kafka) fn is_cooperative(&self) -> bool {
        // SAFETY: gives a static text or null.
        unsafe { super::text(sys::rd_kafka_rebalance_protocol(self.raw())) }.as_deref() == Some("COOPERATIVE")
    }

    /// True where the present assignment was lost without being revoked.
    pub(in crate::kafka) fn is_assignment_lost(&self) -> bool {
        // SAFETY: the client lives.
        unsafe { sys::rd_kafka_assignment_lost(self.raw()) == 1 }
    }

    /// Replaces the assignment.
    pub(in crate::kafka) fn assign(&self, rows: &[FetchFrom]) -> Result<(), Failure> {
        let list = List::of_starts(rows)?;
        self.outlast_stops();
        // SAFETY: client and list live.
        Failure::of(unsafe { sys::rd_kafka_assign(self.raw(), list.raw()) })
    }

    /// Gives the whole assignment up.
    pub(in crate::kafka) fn unassign(&self) -> Result<(), Failure> {
        self.outlast_stops();
        // SAFETY: null stands for an empty assignment.
        Failure::of(unsafe { sys::rd_kafka_assign(self.raw(), ptr::null()) })
    }

    /// Replacing an assignment stops what is fetched, by orders that librdkafka's main thread gives itself. It ends the
    /// process where the next replacement comes before they are done: it stops a partition twice then. They are done
    /// before anything that is asked of it after the first replacement.
    fn outlast_stops(&self) {
        self.is_cooperative();
    }

    /// Adds partitions to the assignment.
    pub(in crate::kafka) fn incremental_assign(&self, rows: &[FetchFrom]) -> Result<(), Failure> {
        let list = List::of_starts(rows)?;
        // SAFETY: client and list live; the error object is ours.
        unsafe { Failure::of_error(sys::rd_kafka_incremental_assign(self.raw(), list.raw())) }
    }

    /// Takes partitions out of the assignment.
    pub(in crate::kafka) fn incremental_unassign(&self, partitions: &[TopicPartition]) -> Result<(), Failure> {
        let list = partition_list(partitions)?;
        // SAFETY: client and list live; the error object is ours.
        unsafe { Failure::of_error(sys::rd_kafka_incremental_unassign(self.raw(), list.raw())) }
    }

    /// Stops fetching; what was fetched and not yet polled is dropped. Partitions that are not assigned yet will not be
    /// fetched once they are.
    pub(in crate::kafka) fn pause(&self, partitions: &[TopicPartition]) -> Result<(), Failure> {
        for partition in partitions {
            // librdkafka skips a partition that it has never heard of; asking for its queue makes it known.
            let topic = c_name(&partition.topic)?;
            // SAFETY: client and name live; the queue that comes back is ours.
            let queue = unsafe { sys::rd_kafka_queue_get_partition(self.raw(), topic.as_ptr(), partition.partition) };
            drop(NonNull::new(queue).map(Queue));
        }
        let list = partition_list(partitions)?;
        // SAFETY: client and list live.
        Failure::of(unsafe { sys::rd_kafka_pause_partitions(self.raw(), list.raw()) })
    }

    /// Fetches again.
    pub(in crate::kafka) fn resume(&self, partitions: &[TopicPartition]) -> Result<(), Failure> {
        let list = partition_list(partitions)?;
        // SAFETY: client and list live.
        Failure::of(unsafe { sys::rd_kafka_resume_partitions(self.raw(), list.raw()) })
    }

    /// Moves positions. Once this returns, no record that was fetched for an older position is polled any more. Where a
    /// row has a leader epoch, the broker is asked first whether that epoch reaches the offset (KIP-320): unlike this,
    /// assigning asks nothing.
    pub(in crate::kafka) fn seek(&self, rows: &[FetchFrom], wait: Duration) -> Result<Vec<Entry>, Failure> {
        let list = List::of_starts(rows)?;
        // SAFETY: client and list live; the error object is ours.
        unsafe { Failure::of_error(sys::rd_kafka_seek_partitions(self.raw(), list.raw(), millis(wait)))? };
        Ok(list.entries())
    }

    /// Commits with the member's generation and waits for the answer.
    pub(in crate::kafka) fn commit(
        &self,
        rows: &[(TopicPartition, i64)],
        timeout: Duration,
    ) -> Result<Vec<Entry>, Failure> {
        let list = positions(rows)?;
        let queue = Queue::new(self).ok_or_else(|| Failure::new(Code::RD_KAFKA_RESP_ERR__FAIL, None))?;
        // SAFETY: client, list and queue live; librdkafka copies the list and keeps a reference to the queue.
        Failure::of(unsafe {
            sys::rd_kafka_commit_queue(self.raw(), list.raw(), queue.0.as_ptr(), None, ptr::null_mut())
        })?;
        let Some(raw) = queue.poll(timeout) else {
            return Err(Failure::new(Code::RD_KAFKA_RESP_ERR__TIMED_OUT, None));
        };
        let event: Event<'_> = Event { raw, handle: std::marker::PhantomData };
        // SAFETY: the list belongs to the event.
        let entries = unsafe { list::entries(sys::rd_kafka_event_topic_partition_list(event.raw())) };
        match event.failure() {
            Some(failure) if entries.iter().all(|entry| entry.failure.is_none()) => Err(failure),
            _ => Ok(entries),
        }
    }

    /// The group's committed offsets.
    pub(in crate::kafka) fn committed(
        &self,
        partitions: &[TopicPartition],
        timeout: Duration,
    ) -> Result<Vec<Entry>, Failure> {
        let list = partition_list(partitions)?;
        // SAFETY: client and list live.
        Failure::of(code(unsafe { raw::rd_kafka_committed(self.raw(), list.raw(), millis(timeout)) }))?;
        Ok(list.entries())
    }

    /// Begins to leave the group. A last [`Polled::Revoke`] must be answered before [`Handle::is_closed`].
    pub(in crate::kafka) fn begin_close(&self) -> Result<(), Failure> {
        // A client that closes with no partition assigned does not tell the broker, and the group would have a member
        // until its session ends. One that unsubscribes does; closing then waits for the answer.
        // SAFETY: the client lives. An error leaves it as it was, to be closed all the same.
        let _ = Failure::of(unsafe { sys::rd_kafka_unsubscribe(self.raw()) });
        // SAFETY: client and queue live; the error object is ours.
        unsafe { Failure::of_error(sys::rd_kafka_consumer_close_queue(self.raw(), self.events.0.as_ptr())) }
    }

    /// True once the group was left.
    pub(in crate::kafka) fn is_closed(&self) -> bool {
        // SAFETY: the client lives.
        unsafe { sys::rd_kafka_consumer_closed(self.raw()) == 1 }
    }
}

impl<'a> Message<'a> {
    fn of(event: Event<'a>) -> Option<Self> {
        let mut headers = ptr::null_mut();
        // SAFETY: the message belongs to the event and lives as long; so do its headers. librdkafka hands both out as
        // pointers that it may write through, and nobody else reads them meanwhile.
        unsafe {
            let raw = NonNull::new(sys::rd_kafka_event_message_next(event.raw()).cast_mut())?;
            let found = sys::rd_kafka_message_headers(raw.as_ptr(), &mut headers);
            let headers = NonNull::new(headers).filter(|_| found == Code::RD_KAFKA_RESP_ERR_NO_ERROR);
            Some(Self { raw, headers, _event: event })
        }
    }

    fn get(&self) -> &sys::rd_kafka_message_t {
        // SAFETY: the message lives as long as its event.
        unsafe { self.raw.as_ref() }
    }

    /// Its topic's name.
    pub(in crate::kafka) fn topic(&self) -> &str {
        // SAFETY: the topic object lives as long as the message, and its name is a C string.
        let name = unsafe { std::ffi::CStr::from_ptr(sys::rd_kafka_topic_name(self.get().rkt)) };
        name.to_str().unwrap_or_default()
    }

    /// Its partition.
    pub(in crate::kafka) fn partition(&self) -> i32 {
        self.get().partition
    }

    /// True where both are of one partition.
    pub(in crate::kafka) fn is_of_partition(&self, other: &Message<'_>) -> bool {
        self.get().rkt == other.get().rkt && self.get().partition == other.get().partition
    }

    /// Its offset.
    pub(in crate::kafka) fn offset(&self) -> i64 {
        self.get().offset
    }

    /// Its key.
    pub(in crate::kafka) fn key(&self) -> Option<&[u8]> {
        // SAFETY: pointer and length describe memory of the message.
        unsafe { bytes(self.get().key, self.get().key_len) }
    }

    /// Its value.
    pub(in crate::kafka) fn value(&self) -> Option<&[u8]> {
        // SAFETY: pointer and length describe memory of the message.
        unsafe { bytes(self.get().payload, self.get().len) }
    }

    /// Its timestamp and who gave it; [`NO_TIMESTAMP`] and nobody where it has none.
    pub(in crate::kafka) fn timestamp(&self) -> (i64, Option<TimestampType>) {
        let mut kind = sys::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
        // SAFETY: the message lives.
        let timestamp = unsafe { sys::rd_kafka_message_timestamp(self.raw.as_ptr(), &mut kind) };
        let kind = match kind {
            sys::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_CREATE_TIME => Some(TimestampType::Create),
            sys::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_LOG_APPEND_TIME => Some(TimestampType::Append),
            sys::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE => None,
        };
        if timestamp < 0 || kind.is_none() { (NO_TIMESTAMP, None) } else { (timestamp, kind) }
    }

    /// The leader epoch of its batch, where the broker told.
    pub(in crate::kafka) fn leader_epoch(&self) -> Option<i32> {
        // SAFETY: the message lives.
        let epoch = unsafe { sys::rd_kafka_message_leader_epoch(self.raw.as_ptr()) };
        (epoch >= 0).then_some(epoch)
    }

    /// Its headers in order. Keys are bytes: Kafka does not hold producers to UTF-8.
    pub(in crate::kafka) fn headers(&self) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
        (0..).map_while(|index| {
            let headers = self.headers?;
            let (mut name, mut value, mut size) = (ptr::null(), ptr::null(), 0);
            // SAFETY: headers live as long as the message; name is a C string, value has `size` bytes or is null.
            unsafe {
                let found = sys::rd_kafka_header_get_all(headers.as_ptr(), index, &mut name, &mut value, &mut size);
                (found == Code::RD_KAFKA_RESP_ERR_NO_ERROR)
                    .then(|| (std::ffi::CStr::from_ptr(name).to_bytes(), bytes(value, size)))
            }
        })
    }
}

/// # Safety
/// `data` is null or points to `len` bytes that live as long as the caller makes them.
unsafe fn bytes<'m>(data: *const c_void, len: usize) -> Option<&'m [u8]> {
    // SAFETY: as the caller promises.
    (!data.is_null()).then(|| unsafe { std::slice::from_raw_parts(data.cast(), len) })
}

fn rebalance<'a>(event: &Event<'a>) -> Polled<'a> {
    // SAFETY: the list belongs to the event.
    let rows = unsafe { list::entries(sys::rd_kafka_event_topic_partition_list(event.raw())) };
    let partitions = rows.into_iter().map(|entry| entry.partition).collect();
    // SAFETY: the event lives.
    match code(unsafe { raw::rd_kafka_event_error(event.raw()) }) {
        Code::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => Polled::Assign(partitions),
        // Anything else that comes as a rebalance is to be treated as taking away, librdkafka's manual says.
        _ => Polled::Revoke(partitions),
    }
}

fn failed<'a>(event: &Event<'a>) -> Polled<'a> {
    // SAFETY: the event lives; the row that it gives is ours to destroy.
    let place = unsafe {
        NonNull::new(sys::rd_kafka_event_topic_partition(event.raw())).map(|row| {
            let entry = list::entry(row.as_ref());
            sys::rd_kafka_topic_partition_destroy(row.as_ptr());
            entry
        })
    };
    match (event.failure(), place) {
        (Some(Failure { code: Code::RD_KAFKA_RESP_ERR__PARTITION_EOF, .. }), Some(place)) => match place.offset {
            Some(offset) => Polled::End(place.partition, offset),
            None => Polled::Nothing,
        },
        (Some(failure), place) => Polled::Failed(failure, place),
        (None, _) => Polled::Nothing,
    }
}

fn positions(rows: &[(TopicPartition, i64)]) -> Result<List, Failure> {
    List::of(rows.iter().map(|(partition, offset)| (partition, *offset)))
}

fn partition_list(partitions: &[TopicPartition]) -> Result<List, Failure> {
    List::of(partitions.iter().map(|partition| (partition, i64::from(sys::RD_KAFKA_OFFSET_INVALID))))
}
