//! Asking a broker: a request goes out with options and a queue of its own, and [`Asked`] waits there for the answer.

use std::collections::BTreeSet;
use std::marker::PhantomData;
use std::ptr::{self, NonNull};
use std::time::Duration;

use rdkafka_sys as sys;
use sys::rd_kafka_admin_op_t as Operation;

use super::code::{code, code_at, raw};
use super::{Code, Event, Failure, Handle, Queue, millis, text};

const NO_SUCH_TOPIC: Code = Code::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART;
/// Of a bootstrap server.
const NO_NUMBER: i32 = -1;
/// How many answers of bootstrap servers are heard at most before one of the cluster's brokers is.
const MEETINGS: usize = 8;

/// A request under way.
pub(super) struct Asked<'a> {
    handle: &'a Handle,
    pub(super) queue: Queue,
    timeout: Duration,
}

pub(super) struct Options(pub(super) NonNull<sys::rd_kafka_AdminOptions_t>);

impl Handle {
    /// What was said of our login, or of the broker's certificate, since the last look. A refused one shows nowhere
    /// else but as a time-out; nor does what keeps a broker from being reached, which is kept for who tells of that.
    pub(super) fn check_login(&self) -> Result<(), Failure> {
        while let Some(event) = self.take_event(Duration::ZERO) {
            match event.failure() {
                Some(failure) if failure.is_login() || failure.is_certificate() => return Err(failure),
                Some(failure) if failure.is_unreached() => self.note_unreached(Some(failure.text)),
                _ => {}
            }
        }
        Ok(())
    }

    /// Waits until a broker answers. An admin request that waits for its broker by itself makes librdkafka connect
    /// again at every failure, without its backoff: thousands of times a second while the broker refuses. This wait
    /// keeps the backoff.
    fn reach(&self, timeout: Duration) -> Result<(), Failure> {
        let (mut waited, mut wait) = (Duration::ZERO, REACH_FIRST);
        loop {
            wait = wait.min(timeout.saturating_sub(waited));
            let found = self.who_answers(wait);
            waited += wait;
            self.check_login()?;
            match found {
                Err(_) if waited < timeout => wait *= 2,
                found => return found.map(drop),
            }
        }
    }

    /// Waits until a broker of the cluster answers, for about `timeout` at most. The first to answer may be a bootstrap
    /// server, which librdkafka leaves as soon as it knows the brokers by their numbers; then none is connected.
    pub(in crate::kafka) fn meet(&self, timeout: Duration) {
        for _ in 0..MEETINGS {
            if self.who_answers(timeout) != Ok(NO_NUMBER) {
                return;
            }
        }
    }

    /// Connects to some broker now, and waits for nothing. Left alone a consumer does so with its thread's next look at
    /// the group, which may be a second later.
    pub(super) fn connect(&self) {
        let _ = self.who_answers(Duration::ZERO);
    }

    /// Topics that this client deals with and the brokers know no more.
    pub(in crate::kafka) fn absent_topics(&self, timeout: Duration) -> Result<BTreeSet<String>, Failure> {
        self.metadata(timeout, |metadata| {
            let count = usize::try_from(metadata.topic_cnt).unwrap_or_default();
            // SAFETY: there are `topic_cnt` topics, which live as long as the metadata.
            let topics = unsafe { slice(metadata.topics, count) }.iter();
            // SAFETY: a topic's error is a number, its name a text.
            let absent = topics.filter(|topic| unsafe { code_at(&raw const topic.err) } == NO_SUCH_TOPIC);
            absent.filter_map(|topic| unsafe { text(topic.topic) }).collect()
        })
    }

    /// The number of the broker that answers first.
    fn who_answers(&self, timeout: Duration) -> Result<i32, Failure> {
        self.metadata(timeout, |metadata| metadata.orig_broker_id)
    }

    /// What `read` makes of a fresh answer about the topics that this client deals with.
    fn metadata<R>(&self, timeout: Duration, read: impl FnOnce(&sys::rd_kafka_metadata) -> R) -> Result<R, Failure> {
        let mut metadata = ptr::null();
        // SAFETY: the metadata that comes back is ours to destroy, and whole where there is no error.
        unsafe {
            let found = raw::rd_kafka_metadata(self.raw(), 0, ptr::null_mut(), &mut metadata, millis(timeout));
            let answer = metadata.as_ref().map(read);
            if !metadata.is_null() {
                sys::rd_kafka_metadata_destroy(metadata);
            }
            Failure::of(code(found)).and_then(|()| answer.ok_or_else(nothing))
        }
    }
}

impl<'a> Asked<'a> {
    pub(super) fn new(handle: &'a Handle, timeout: Duration) -> Result<Self, Failure> {
        handle.reach(timeout)?;
        let queue = Queue::new(handle).ok_or_else(nothing)?;
        Ok(Self { handle, queue, timeout })
    }

    /// The answer, or what keeps it from coming.
    pub(super) fn answer<R>(self, read: impl FnOnce(&Event<'_>) -> Result<R, Failure>) -> Result<R, Failure> {
        for _ in 0..slices(self.timeout + GRACE) {
            if let Some(raw) = self.queue.poll(SLICE) {
                let event = Event { raw, handle: PhantomData::<&Handle> };
                return event.failure().map_or_else(|| read(&event), Err);
            }
            self.handle.check_login()?;
        }
        Err(Failure::new(Code::RD_KAFKA_RESP_ERR__TIMED_OUT, None))
    }
}

/// The first look at what keeps a broker from answering; each next one takes twice the time.
const REACH_FIRST: Duration = Duration::from_millis(250);
/// librdkafka answers every request at its time-out by itself; this is for the case that it does not.
const GRACE: Duration = Duration::from_secs(5);
pub(super) const SLICE: Duration = Duration::from_millis(50);

pub(super) fn slices(timeout: Duration) -> u128 {
    timeout.as_millis().div_ceil(SLICE.as_millis())
}

impl Options {
    pub(super) fn new(handle: &Handle, operation: Operation, timeout: Duration) -> Result<Self, Failure> {
        let mut reason = [0_u8; 256];
        // SAFETY: client and buffer outlive the calls.
        unsafe {
            let raw = NonNull::new(sys::rd_kafka_AdminOptions_new(handle.raw(), operation)).ok_or_else(nothing)?;
            let options = Self(raw);
            let (reason, len) = (reason.as_mut_ptr().cast(), reason.len());
            Failure::of(sys::rd_kafka_AdminOptions_set_request_timeout(raw.as_ptr(), millis(timeout), reason, len))?;
            Ok(options)
        }
    }

    /// The brokers check what they are asked to do, and do nothing.
    pub(super) fn set_validate_only(&self, only: bool) -> Result<(), Failure> {
        let mut reason = [0_u8; 256];
        // SAFETY: options and buffer outlive the call.
        unsafe {
            let (reason, len) = (reason.as_mut_ptr().cast(), reason.len());
            Failure::of(sys::rd_kafka_AdminOptions_set_validate_only(self.0.as_ptr(), only.into(), reason, len))
        }
    }
}

impl Drop for Options {
    fn drop(&mut self) {
        // SAFETY: the last use; requests copy their options.
        unsafe { sys::rd_kafka_AdminOptions_destroy(self.0.as_ptr()) }
    }
}

/// # Safety
/// `error` is null or an error that lives during the call.
pub(super) unsafe fn borrowed_error(error: *const sys::rd_kafka_error_t) -> Result<(), Failure> {
    if error.is_null() {
        return Ok(());
    }
    // SAFETY: as the caller promises.
    let (code, words) = unsafe { (code(raw::rd_kafka_error_code(error)), text(sys::rd_kafka_error_string(error))) };
    Failure::of(code).map_err(|_| Failure::new(code, words))
}

/// # Safety
/// `raw` is null or points to `count` items that live as long as the caller makes them.
pub(super) unsafe fn slice<'s, T>(raw: *const T, count: usize) -> &'s [T] {
    // SAFETY: as the caller promises.
    if raw.is_null() { &[] } else { unsafe { std::slice::from_raw_parts(raw, count) } }
}

pub(super) fn nothing() -> Failure {
    Failure::new(Code::RD_KAFKA_RESP_ERR__BAD_MSG, Some("the broker's answer is empty".to_owned()))
}
