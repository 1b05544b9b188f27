//! What a producer asks of librdkafka. A record travels with a token of the caller's, an `Arc`, which comes back with
//! the record's delivery report; one token may travel with a whole batch, whose values it keeps where they are.

use std::collections::BTreeMap;
use std::ffi::c_void;
use std::marker::PhantomData;
use std::ptr::{self, NonNull};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use rdkafka_sys as sys;

use super::code::{code, code_at, raw};
use super::{ANY_PARTITION, Code, Failure, Handle, c_name};

/// Topics that are kept at a time. Few producers write to more; those look some of them up again.
pub(in crate::kafka) const KEPT_TOPICS: usize = 64;

/// A producing client whose tokens are `T`.
pub(in crate::kafka) struct Producer<T> {
    /// Where the last records went, so that topics are not looked up for every one. Goes before the client.
    topics: Mutex<BTreeMap<String, Topic>>,
    handle: Handle,
    tokens: PhantomData<fn(T) -> T>,
}

/// What comes back with a delivery report.
pub(in crate::kafka) struct Token<T> {
    /// The caller's.
    pub(in crate::kafka) answer: T,
    /// Values of records that travel with it.
    kept: Bytes,
}

/// A record on its way out; [`Producer::send`] copies what its token does not keep.
pub(in crate::kafka) struct Outgoing<'a> {
    /// Target topic.
    pub topic: &'a str,
    /// Target partition; `None` lets the client choose by key.
    pub partition: Option<i32>,
    /// Milliseconds since the epoch; librdkafka stamps 0 with the present.
    pub timestamp: i64,
    /// Key.
    pub key: Option<&'a [u8]>,
    /// Value.
    pub value: Option<&'a [u8]>,
}

/// A topic that the client knows.
struct Topic(NonNull<sys::rd_kafka_topic_t>);

struct Headers(NonNull<sys::rd_kafka_headers_t>);

// SAFETY: librdkafka's objects may be used from any thread.
unsafe impl Send for Topic {}

impl<T> Token<T> {
    /// A token that keeps `values` until it is dropped.
    pub(in crate::kafka) fn keeping(values: Bytes, answer: T) -> Self {
        Self { answer, kept: values }
    }

    fn keeps(&self, value: &[u8]) -> bool {
        let (kept, value) = (self.kept.as_ptr_range(), value.as_ptr_range());
        kept.start <= value.start && value.end <= kept.end
    }
}

impl<T: Send + Sync> Producer<T> {
    /// Wraps a client that was opened as a producer.
    pub(in crate::kafka) fn new(handle: Handle) -> Self {
        Self { topics: Mutex::default(), handle, tokens: PhantomData }
    }

    /// The client itself.
    pub(in crate::kafka) fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Queues a record. Where this fails the token does not come back by [`Producer::poll`].
    pub(in crate::kafka) fn send<'h>(
        &self,
        record: &Outgoing<'_>,
        headers: impl ExactSizeIterator<Item = (&'h [u8], Option<&'h [u8]>)>,
        token: Arc<Token<T>>,
    ) -> Result<(), Failure> {
        let mut topics = self.topics.lock().unwrap_or_else(PoisonError::into_inner);
        let topic = self.topic(&mut topics, record.topic)?;
        let headers = Headers::of(headers)?;
        let (key, key_len) = parts(record.key);
        let (value, value_len) = parts(record.value);
        let is_kept = record.value.is_some_and(|value| token.keeps(value));
        let copies = if is_kept { 0 } else { sys::RD_KAFKA_MSG_F_COPY };
        let token = Arc::into_raw(token);
        // SAFETY: the arguments are librdkafka's tag-value pairs with the types that it documents. It copies the key
        // and, with F_COPY, the value; without, it reads the value, which nobody writes to, no later than it reports
        // the record, and until then it has this reference to the token that keeps it. It takes over the headers where
        // it takes the record.
        let code = unsafe {
            sys::rd_kafka_producev(
                self.handle.raw(),
                sys::rd_kafka_vtype_t::RD_KAFKA_VTYPE_RKT,
                topic.0.as_ptr(),
                sys::rd_kafka_vtype_t::RD_KAFKA_VTYPE_PARTITION,
                record.partition.unwrap_or(ANY_PARTITION),
                sys::rd_kafka_vtype_t::RD_KAFKA_VTYPE_MSGFLAGS,
                copies,
                sys::rd_kafka_vtype_t::RD_KAFKA_VTYPE_VALUE,
                value,
                value_len,
                sys::rd_kafka_vtype_t::RD_KAFKA_VTYPE_KEY,
                key,
                key_len,
                sys::rd_kafka_vtype_t::RD_KAFKA_VTYPE_OPAQUE,
                token.cast::<c_void>(),
                sys::rd_kafka_vtype_t::RD_KAFKA_VTYPE_TIMESTAMP,
                record.timestamp,
                sys::rd_kafka_vtype_t::RD_KAFKA_VTYPE_HEADERS,
                headers.as_ref().map_or(ptr::null_mut(), |headers| headers.0.as_ptr()),
                sys::rd_kafka_vtype_t::RD_KAFKA_VTYPE_END,
            )
        };
        match Failure::of(code) {
            Ok(()) => std::mem::forget(headers),
            // SAFETY: librdkafka did not take the record, so the token is still this one reference.
            Err(_) => drop(unsafe { Arc::from_raw(token) }),
        }
        Failure::of(code)
    }

    /// The topic called `name`: one of those that are kept, from now on.
    fn topic<'t>(&self, kept: &'t mut BTreeMap<String, Topic>, name: &str) -> Result<&'t Topic, Failure> {
        if !kept.contains_key(name) {
            let c_name = c_name(name)?;
            // SAFETY: client and name live; null stands for the client's own topic settings.
            let raw = unsafe { sys::rd_kafka_topic_new(self.handle.raw(), c_name.as_ptr(), ptr::null_mut()) };
            // SAFETY: has no precondition; it is this thread's.
            let refused = || Failure::new(code(unsafe { raw::rd_kafka_last_error() }), None);
            let topic = Topic(NonNull::new(raw).ok_or_else(refused)?);
            if kept.len() >= KEPT_TOPICS {
                kept.clear();
            }
            kept.insert(name.to_owned(), topic);
        }
        Ok(&kept[name])
    }

    /// Waits up to `timeout` for an event and tells `delivered` of every record that it reports: the token, and where
    /// the record stands or why it does not. What is not a report goes to `failed`. False where nothing came.
    pub(in crate::kafka) fn poll(
        &self,
        timeout: Duration,
        mut delivered: impl FnMut(Arc<Token<T>>, Result<(i32, i64), Failure>),
        failed: impl FnOnce(Failure),
    ) -> bool {
        let Some(event) = self.handle.take_event(timeout) else {
            return false;
        };
        if event.kind() != sys::RD_KAFKA_EVENT_DR {
            if let Some(failure) = event.failure() {
                failed(failure);
            }
            return true;
        }
        // SAFETY: messages belong to the event. Each carries the one reference that `send` gave it.
        unsafe {
            while let Some(message) = sys::rd_kafka_event_message_next(event.raw()).as_ref() {
                let token = Arc::from_raw(message._private.cast_const().cast::<Token<T>>());
                let code = code_at(&raw const message.err);
                delivered(token, Failure::of(code).map(|()| (message.partition, message.offset)));
            }
        }
        true
    }

    /// Fails everything that is queued or in flight; the reports come by [`Producer::poll`].
    pub(in crate::kafka) fn purge(&self) {
        // SAFETY: the client lives.
        unsafe { sys::rd_kafka_purge(self.handle.raw(), sys::RD_KAFKA_PURGE_F_QUEUE | sys::RD_KAFKA_PURGE_F_INFLIGHT) };
    }

    /// Records and reports that are not yet done with.
    pub(in crate::kafka) fn outstanding(&self) -> usize {
        // SAFETY: the client lives.
        usize::try_from(unsafe { sys::rd_kafka_outq_len(self.handle.raw()) }).unwrap_or_default()
    }
}

impl Drop for Topic {
    fn drop(&mut self) {
        // SAFETY: the last use of our reference; records on their way hold their own.
        unsafe { sys::rd_kafka_topic_destroy(self.0.as_ptr()) }
    }
}

impl Headers {
    /// `None` where there are none.
    fn of<'h>(headers: impl ExactSizeIterator<Item = (&'h [u8], Option<&'h [u8]>)>) -> Result<Option<Self>, Failure> {
        if headers.len() == 0 {
            return Ok(None);
        }
        // SAFETY: has no precondition.
        let list = NonNull::new(unsafe { sys::rd_kafka_headers_new(headers.len()) }).map(Self);
        let list = list.ok_or_else(|| Failure::new(Code::RD_KAFKA_RESP_ERR__FAIL, None))?;
        for (name, value) in headers {
            let (data, len) = parts(value);
            // SAFETY: name and value outlive the call, which copies them.
            Failure::of(unsafe {
                let (name, name_len) = (name.as_ptr().cast(), name.len() as isize);
                sys::rd_kafka_header_add(list.0.as_ptr(), name, name_len, data, len as isize)
            })?;
        }
        Ok(Some(list))
    }
}

impl Drop for Headers {
    fn drop(&mut self) {
        // SAFETY: the last use; headers that a record took were forgotten.
        unsafe { sys::rd_kafka_headers_destroy(self.0.as_ptr()) }
    }
}

/// Pointer and length; null is null, and an empty slice's pointer is not.
fn parts(value: Option<&[u8]>) -> (*mut c_void, usize) {
    value.map_or((ptr::null_mut(), 0), |value| (value.as_ptr().cast_mut().cast(), value.len()))
}
