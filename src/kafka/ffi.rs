//! The thin safe wrapper over librdkafka's C interface and the only place with `unsafe` code. Everything that it gives
//! out is owned by Rust or borrows the [`Handle`], so nothing of the C library outlives its client.
//!
//! Who calls: the other files of this folder. Events are taken from a queue by polling; no C callback runs project code
//! except the log callback, which only forwards text. Deliberately absent: any decision. What an error code means to a
//! loop stands in `error`, what a client needs to be told in `security`.
#![allow(unsafe_code)]

mod admin;
mod ask;
mod code;
mod consume;
mod groups;
mod list;
mod produce;
mod transact;

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_char, c_int};
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rdkafka_sys as sys;
pub(super) use rdkafka_sys::rd_kafka_resp_err_t as Code;

use code::{code, raw};

pub(super) use admin::{ConfigEntry, Described, OffsetSpec};
pub(super) use consume::{Message, Polled};
pub(super) use list::{Entry, FetchFrom};
#[cfg(test)]
pub(super) use produce::KEPT_TOPICS;
pub(super) use produce::{Outgoing, Producer, Token};
pub(super) use transact::{Remedy, TransactionFailure};

/// librdkafka's number for "no partition in particular".
const ANY_PARTITION: i32 = -1;

/// What a client is created as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// A member of a group, or a reader of assigned partitions.
    Consumer,
    /// A producer.
    Producer,
    /// A client that only asks.
    Admin,
}

/// An error as librdkafka tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    /// Its code.
    pub code: Code,
    /// Its words.
    pub text: String,
}

/// What [`check_setting`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Setting {
    /// librdkafka takes it.
    Good,
    /// librdkafka has no setting of this name.
    Unknown,
    /// The value is refused; librdkafka's words.
    Invalid(String),
}

/// A client instance with the queue that its events come from. Thread-safe, as librdkafka's handles are.
pub(super) struct Handle {
    // Field order is drop order: a queue goes before its client.
    events: Queue,
    client: Client,
    /// What was said last of a broker that cannot be reached.
    unreached: Mutex<Option<String>>,
    credentials: Credentials,
}

/// User and password that the client was opened with, empty where there are none.
struct Credentials(CString, CString);

struct Client(NonNull<sys::rd_kafka_t>);
struct Queue(NonNull<sys::rd_kafka_queue_t>);

/// An event; it borrows the client, because destroying one touches it.
struct Event<'a> {
    raw: NonNull<sys::rd_kafka_event_t>,
    handle: PhantomData<&'a Handle>,
}

// SAFETY: librdkafka documents client and queue handles as thread-safe.
unsafe impl Send for Client {}
unsafe impl Sync for Client {}
unsafe impl Send for Queue {}
unsafe impl Sync for Queue {}

impl Handle {
    /// A client of `role` with librdkafka's own setting names.
    pub(super) fn open(role: Role, settings: &BTreeMap<String, String>) -> Result<Self, Failure> {
        let conf = Conf::new();
        for (key, value) in settings {
            if let Setting::Invalid(text) = conf.set(key, value) {
                return Err(Failure { code: Code::RD_KAFKA_RESP_ERR__INVALID_ARG, text });
            }
        }
        // Error events come by queue for every role; a group's rebalances and a producer's reports as well.
        let mut events = sys::RD_KAFKA_EVENT_ERROR | sys::RD_KAFKA_EVENT_OFFSET_COMMIT;
        events |= match role {
            Role::Consumer => sys::RD_KAFKA_EVENT_REBALANCE,
            Role::Producer => sys::RD_KAFKA_EVENT_DR,
            Role::Admin => 0,
        };
        let kind = match role {
            // An admin client is a consumer with a group: librdkafka 2.12 crashes where it is none and a broker that is
            // asked for a group's offsets is not its coordinator (any more).
            Role::Consumer | Role::Admin => sys::rd_kafka_type_t::RD_KAFKA_CONSUMER,
            Role::Producer => sys::rd_kafka_type_t::RD_KAFKA_PRODUCER,
        };
        let mut reason = [0_u8; 512];
        // SAFETY: the configuration is valid; librdkafka owns it once the client exists, and only then.
        let client = unsafe {
            sys::rd_kafka_conf_set_events(conf.0.as_ptr(), events);
            sys::rd_kafka_conf_set_log_cb(conf.0.as_ptr(), Some(forward_log));
            let raw = sys::rd_kafka_new(kind, conf.0.as_ptr(), reason.as_mut_ptr().cast(), reason.len());
            match NonNull::new(raw) {
                Some(raw) => {
                    std::mem::forget(conf);
                    Client(raw)
                }
                None => {
                    return Err(Failure { code: Code::RD_KAFKA_RESP_ERR__INVALID_ARG, text: buffer_text(&reason) });
                }
            }
        };
        // SAFETY: the client lives; the queue getters give a new reference each.
        let events = unsafe {
            let raw = match role {
                Role::Consumer | Role::Admin => {
                    sys::rd_kafka_poll_set_consumer(client.0.as_ptr());
                    sys::rd_kafka_queue_get_consumer(client.0.as_ptr())
                }
                Role::Producer => sys::rd_kafka_queue_get_main(client.0.as_ptr()),
            };
            NonNull::new(raw).map(Queue)
        };
        let no_queue =
            || Failure { code: Code::RD_KAFKA_RESP_ERR__UNKNOWN_GROUP, text: "a consumer needs a group.id".to_owned() };
        let credential = |key: &str| c_name(settings.get(key).map_or("", String::as_str));
        let credentials = Credentials(credential("sasl.username")?, credential("sasl.password")?);
        let handle = Self { events: events.ok_or_else(no_queue)?, client, unreached: Mutex::default(), credentials };
        if role != Role::Producer {
            handle.connect();
        }
        Ok(handle)
    }

    /// Ends a wait in [`Handle::poll`] at once.
    pub(super) fn wake(&self) {
        // SAFETY: the queue lives as long as `self`.
        unsafe { sys::rd_kafka_queue_yield(self.events.0.as_ptr()) }
    }

    /// Wakes the thread of each broker. One that has nothing to fetch sleeps for up to a second, and nobody tells it
    /// that a paused partition is to be fetched again. Setting the same credentials again is the one call that wakes
    /// all of them; it sends nothing.
    pub(super) fn rouse(&self) {
        let Credentials(user, password) = &self.credentials;
        // SAFETY: the client lives; the texts are copied, and the error object is ours.
        let roused = unsafe {
            Failure::of_error(sys::rd_kafka_sasl_set_credentials(self.raw(), user.as_ptr(), password.as_ptr()))
        };
        if let Err(failure) = roused {
            tracing::debug!("what is read begins up to a second later: {}", failure.text);
        }
    }

    /// The error that made this client unusable, where there is one.
    pub(super) fn fatal(&self) -> Option<Failure> {
        let mut reason = [0_u8; 512];
        // SAFETY: the buffer outlives the call.
        let code = unsafe { sys::rd_kafka_fatal_error(self.raw(), reason.as_mut_ptr().cast(), reason.len()) };
        (code != Code::RD_KAFKA_RESP_ERR_NO_ERROR).then(|| Failure { code, text: buffer_text(&reason) })
    }

    /// What [`Handle::check_login`] heard last of a broker that cannot be reached. The client does not repeat itself,
    /// so it holds until somebody [`forgets`](Handle::forget_unreached) it.
    pub(super) fn unreached(&self) -> Option<String> {
        self.unreached.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A broker has answered.
    pub(super) fn forget_unreached(&self) {
        self.note_unreached(None);
    }

    fn note_unreached(&self, why: Option<String>) {
        *self.unreached.lock().unwrap_or_else(PoisonError::into_inner) = why;
    }

    fn raw(&self) -> *mut sys::rd_kafka_t {
        self.client.0.as_ptr()
    }

    fn take_event(&self, timeout: Duration) -> Option<Event<'_>> {
        self.events.poll(timeout).map(|raw| Event { raw, handle: PhantomData })
    }
}

impl Queue {
    fn new(handle: &Handle) -> Option<Self> {
        // SAFETY: the client lives.
        NonNull::new(unsafe { sys::rd_kafka_queue_new(handle.raw()) }).map(Self)
    }

    fn poll(&self, timeout: Duration) -> Option<NonNull<sys::rd_kafka_event_t>> {
        // SAFETY: the queue lives as long as `self`.
        NonNull::new(unsafe { sys::rd_kafka_queue_poll(self.0.as_ptr(), millis(timeout)) })
    }
}

impl Event<'_> {
    fn raw(&self) -> *mut sys::rd_kafka_event_t {
        self.raw.as_ptr()
    }

    fn kind(&self) -> i32 {
        // SAFETY: the event lives as long as `self`.
        unsafe { sys::rd_kafka_event_type(self.raw()) }
    }

    /// The event's error; `None` where it succeeded.
    fn failure(&self) -> Option<Failure> {
        // SAFETY: the event lives as long as `self`, and so does its text.
        unsafe {
            let code = code(raw::rd_kafka_event_error(self.raw()));
            let text = text(sys::rd_kafka_event_error_string(self.raw()));
            (code != Code::RD_KAFKA_RESP_ERR_NO_ERROR).then(|| Failure::new(code, text))
        }
    }
}

impl Failure {
    fn new(code: Code, text: Option<String>) -> Self {
        Self { code, text: text.filter(|text| !text.is_empty()).unwrap_or_else(|| describe(code)) }
    }

    /// True where it says why a broker cannot be reached.
    fn is_unreached(&self) -> bool {
        matches!(self.code, Code::RD_KAFKA_RESP_ERR__TRANSPORT | Code::RD_KAFKA_RESP_ERR__RESOLVE)
    }

    /// True where the broker refused our login.
    pub(super) fn is_login(&self) -> bool {
        use Code::*;
        matches!(self.code, RD_KAFKA_RESP_ERR__AUTHENTICATION | RD_KAFKA_RESP_ERR_SASL_AUTHENTICATION_FAILED)
    }

    /// True where one side refused the other's certificate. A broker that goes down in the middle of a handshake is an
    /// SSL error too, and a passing one.
    pub(super) fn is_certificate(&self) -> bool {
        let text = self.text.to_ascii_lowercase();
        let told = ["certificate", "verify failed", "unknown ca"].iter().any(|word| text.contains(word));
        told && (self.code == Code::RD_KAFKA_RESP_ERR__SSL || self.is_alert())
    }

    /// True where the broker sent a TLS alert. With TLS 1.3 it looks at our certificate when the handshake is over for
    /// us, so that what it says of it is an error of the transport.
    pub(super) fn is_alert(&self) -> bool {
        use Code::*;
        matches!(self.code, RD_KAFKA_RESP_ERR__SSL | RD_KAFKA_RESP_ERR__TRANSPORT) && self.text.contains("SSL alert")
    }

    fn of(code: Code) -> Result<(), Self> {
        if code == Code::RD_KAFKA_RESP_ERR_NO_ERROR { Ok(()) } else { Err(Self::new(code, None)) }
    }

    /// Takes an error object apart; null is success.
    ///
    /// # Safety
    /// `error` is null or an error object that nobody else destroys.
    unsafe fn of_error(error: *mut sys::rd_kafka_error_t) -> Result<(), Self> {
        if error.is_null() {
            return Ok(());
        }
        // SAFETY: not null and ours.
        unsafe {
            let failure = Self::new(code(raw::rd_kafka_error_code(error)), text(sys::rd_kafka_error_string(error)));
            sys::rd_kafka_error_destroy(error);
            Err(failure)
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // SAFETY: the last use. A consumer was closed by its loop, so destruction need not (and must not) wait for it.
        unsafe { sys::rd_kafka_destroy_flags(self.0.as_ptr(), sys::RD_KAFKA_DESTROY_F_NO_CONSUMER_CLOSE) }
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // SAFETY: the last use.
        unsafe { sys::rd_kafka_queue_destroy(self.0.as_ptr()) }
    }
}

impl Drop for Event<'_> {
    fn drop(&mut self) {
        // SAFETY: the last use; the client still lives, because the event borrows it.
        unsafe { sys::rd_kafka_event_destroy(self.raw()) }
    }
}

/// Whether librdkafka would take `key = value`.
pub(super) fn check_setting(key: &str, value: &str) -> Setting {
    Conf::new().set(key, value)
}

/// librdkafka's words for a code.
pub(super) fn describe(code: Code) -> String {
    // SAFETY: gives a static text for every code.
    unsafe { text(sys::rd_kafka_err2str(code)).unwrap_or_default() }
}

struct Conf(NonNull<sys::rd_kafka_conf_t>);

impl Conf {
    fn new() -> Self {
        // SAFETY: has no precondition; it aborts the process itself where memory is out.
        let raw = unsafe { sys::rd_kafka_conf_new() };
        Self(NonNull::new(raw).unwrap_or_else(|| std::process::abort()))
    }

    fn set(&self, key: &str, value: &str) -> Setting {
        let (Ok(key), Ok(value)) = (CString::new(key), CString::new(value)) else {
            return Setting::Invalid("holds a zero byte".to_owned());
        };
        let mut reason = [0_u8; 512];
        // SAFETY: all pointers outlive the call.
        let result = unsafe {
            let (reason, len) = (reason.as_mut_ptr().cast(), reason.len());
            sys::rd_kafka_conf_set(self.0.as_ptr(), key.as_ptr(), value.as_ptr(), reason, len)
        };
        match result {
            sys::rd_kafka_conf_res_t::RD_KAFKA_CONF_OK => Setting::Good,
            sys::rd_kafka_conf_res_t::RD_KAFKA_CONF_UNKNOWN => Setting::Unknown,
            sys::rd_kafka_conf_res_t::RD_KAFKA_CONF_INVALID => Setting::Invalid(buffer_text(&reason)),
        }
    }
}

impl Drop for Conf {
    fn drop(&mut self) {
        // SAFETY: the last use; a configuration that a client took over was forgotten.
        unsafe { sys::rd_kafka_conf_destroy(self.0.as_ptr()) }
    }
}

/// librdkafka's log lines become the worker's. Its own levels are syslog's; what matters to a loop comes as an error
/// event too, so no line is more than a warning here. That the session timed out is told to the loop as a loss, and
/// it warns of that by the partitions' names.
extern "C" fn forward_log(_client: *const sys::rd_kafka_t, level: c_int, facility: *const c_char, line: *const c_char) {
    // SAFETY: librdkafka passes texts that live during the call.
    let (facility, line) = unsafe { (text(facility).unwrap_or_default(), text(line).unwrap_or_default()) };
    match level {
        ..=4 if facility == "SESSTMOUT" => tracing::info!(target: "librdkafka", "{facility}: {line}"),
        ..=4 => tracing::warn!(target: "librdkafka", "{facility}: {line}"),
        5 | 6 => tracing::info!(target: "librdkafka", "{facility}: {line}"),
        _ => tracing::debug!(target: "librdkafka", "{facility}: {line}"),
    }
}

/// # Safety
/// `raw` is null or a C string that lives during the call.
unsafe fn text(raw: *const c_char) -> Option<String> {
    // SAFETY: as the caller promises.
    (!raw.is_null()).then(|| unsafe { CStr::from_ptr(raw) }.to_string_lossy().into_owned())
}

fn buffer_text(buffer: &[u8]) -> String {
    let end = buffer.iter().position(|byte| *byte == 0).unwrap_or(buffer.len());
    String::from_utf8_lossy(&buffer[..end]).into_owned()
}

fn millis(duration: Duration) -> c_int {
    c_int::try_from(duration.as_millis()).unwrap_or(c_int::MAX)
}

/// A name for the C library. A zero byte cannot be in any name that Kafka takes.
fn c_name(name: &str) -> Result<CString, Failure> {
    let refused = |_| Failure {
        code: Code::RD_KAFKA_RESP_ERR__INVALID_ARG,
        text: format!("the name {name:?} holds a zero byte"),
    };
    CString::new(name).map_err(refused)
}
