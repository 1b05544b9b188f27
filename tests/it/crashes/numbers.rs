//! Records with the numbers 0, 1, 2, ... in their values, written all the time until somebody says stop.
//!
//! The producer is idempotent and patient: each number is in the topic exactly once, whatever happens to the broker,
//! and in every partition they ascend.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer};
use rdkafka::types::RDKafkaErrorCode;

use crate::kit::poll_until;

/// Between two bunches of records.
const PAUSE: Duration = Duration::from_millis(40);
const LIMIT: Duration = Duration::from_secs(300);

/// A producer at work.
pub(crate) struct Numbers {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<u64>,
}

/// Nothing may get lost on the way: what is not in the topic would be missed in the archive for the wrong reason.
struct Strict;

impl rdkafka::ClientContext for Strict {}

impl ProducerContext for Strict {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if let Err((error, _)) = result {
            panic!("a record was not produced: {error}");
        }
    }
}

impl Numbers {
    /// Writes bunches of `bunch` records of about `bytes` bytes, 25 times a second, in turn to the partitions.
    pub(crate) fn start(bootstrap: &str, topic: &'static str, partitions: u64, bytes: usize, bunch: u64) -> Self {
        let producer: ThreadedProducer<Strict> = ClientConfig::new()
            .set("bootstrap.servers", bootstrap)
            .set("enable.idempotence", "true")
            .set("message.timeout.ms", LIMIT.as_millis().to_string())
            .set("reconnect.backoff.max.ms", "500")
            .set("linger.ms", "5")
            .create_with_context(Strict)
            .unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut next = 0;
            while poll_until(PAUSE, || stopped.load(Ordering::SeqCst).then_some(())).is_none() {
                for number in next..next + bunch {
                    send(&producer, topic, (number % partitions) as i32, &value(number, bytes));
                }
                next += bunch;
            }
            producer.flush(LIMIT).unwrap();
            next
        });
        Self { stop, thread }
    }

    /// Ends it; how many numbers are in the topic, all of them acknowledged.
    pub(crate) fn stop(self) -> u64 {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().unwrap()
    }
}

/// The number, a space, and letters that do not compress away.
fn value(number: u64, bytes: usize) -> Vec<u8> {
    let mut value = format!("{number} ").into_bytes();
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    while value.len() < bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        value.extend_from_slice(&state.to_le_bytes());
    }
    value
}

fn send(producer: &ThreadedProducer<Strict>, topic: &str, partition: i32, value: &[u8]) {
    let mut waiting = Some(BaseRecord::<[u8], [u8]>::to(topic).partition(partition).payload(value));
    while let Some(record) = waiting.take() {
        if let Err((error, back)) = producer.send(record) {
            assert_eq!(error.rdkafka_error_code(), Some(RDKafkaErrorCode::QueueFull), "{error}");
            producer.poll(PAUSE);
            waiting = Some(back);
        }
    }
}
