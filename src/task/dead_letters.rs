//! The dead letter queue of a sink: the original bytes of records that failed, with headers that say why where the
//! connector asks for them. A letter that cannot be sent is logged and fails nothing; a batch goes on only when the
//! brokers have its letters, so that no offset is passed whose record is nowhere.

use std::sync::Arc;

use lakeferry_api::record::RawRecord;
use lakeferry_api::source::NewTopic;
use lakeferry_api::{Config, Kind, Result, Row, TopicPartition};

use super::TaskId;
use super::tolerance::Failure;
use crate::config::connector::DeadLetterQueue;
use crate::kafka::{Admin, Delivery, Producer};

/// The queue of one task.
pub(super) struct DeadLetters {
    id: TaskId,
    queue: DeadLetterQueue,
    producer: Arc<dyn Producer>,
    on_their_way: Vec<Delivery>,
}

impl DeadLetters {
    /// The queue of `id`; its topic is made where it is missing.
    ///
    /// # Errors
    /// Any error of the brokers: the task does not start.
    pub(super) async fn open(
        id: TaskId,
        queue: DeadLetterQueue,
        admin: &dyn Admin,
        producer: Arc<dyn Producer>,
    ) -> Result<Self> {
        create_topic(&queue, admin).await.map_err(|error| {
            error.context(format!("Could not initialize dead letter queue with topic={}", queue.topic))
        })?;
        Ok(Self { id, queue, producer, on_their_way: Vec::new() })
    }

    /// Sends the record of `row`, which failed.
    pub(super) async fn send(&mut self, partition: &TopicPartition, row: Row<'_>, failure: &Failure) {
        let mut headers: Vec<_> =
            row.headers().map(|(key, value)| (Arc::from(key), value.map(<[u8]>::to_vec).map(Into::into))).collect();
        if self.queue.context_headers {
            let context = self.context_headers(partition, row.offset(), failure);
            headers.extend(context.into_iter().map(|(key, text)| (Arc::from(key), Some(text.into()))));
        }
        let letter = RawRecord {
            topic: self.queue.topic.as_str().into(),
            partition: None,
            // One that cannot be written is the present: a letter is worth more than its time.
            timestamp: row.timestamp().filter(|timestamp| *timestamp > 0),
            key: row.key_bytes(),
            value: row.value_bytes(),
            headers,
        };
        match self.producer.send(letter).await {
            Ok(delivery) => self.on_their_way.push(delivery),
            Err(error) => self.lost(&error.trace()),
        }
    }

    /// Waits until the brokers have every letter, or refused it.
    pub(super) async fn settle(&mut self) {
        for delivery in std::mem::take(&mut self.on_their_way) {
            if let Err(error) = delivery.await {
                self.lost(&error.trace());
            }
        }
    }

    fn lost(&self, error: &str) {
        tracing::error!(task = %self.id, topic = self.queue.topic, error, "Could not produce message to dead letter queue");
    }

    fn context_headers(
        &self,
        partition: &TopicPartition,
        offset: i64,
        failure: &Failure,
    ) -> [(&'static str, String); 10] {
        [
            ("__connect.errors.topic", partition.topic.to_string()),
            ("__connect.errors.partition", partition.partition.to_string()),
            ("__connect.errors.offset", offset.to_string()),
            ("__connect.errors.connector.name", self.id.connector.clone()),
            ("__connect.errors.task.id", self.id.task.to_string()),
            ("__connect.errors.stage", failure.stage.to_string()),
            ("__connect.errors.class.name", failure.class.to_string()),
            ("__connect.errors.exception.class.name", failure.exception_class().to_owned()),
            ("__connect.errors.exception.message", failure.error.message().to_owned()),
            ("__connect.errors.exception.stacktrace", failure.error.trace()),
        ]
    }
}

async fn create_topic(queue: &DeadLetterQueue, admin: &dyn Admin) -> Result<()> {
    if admin.topics().await?.contains(&queue.topic) {
        return Ok(());
    }
    let topic = NewTopic {
        name: queue.topic.clone(),
        partitions: Some(1),
        replication_factor: u32::try_from(queue.replication_factor).ok(),
        configs: Config::new(),
    };
    match admin.create_topic(&topic).await {
        // Another task was faster.
        Err(error) if error.kind() == Kind::Conflict => Ok(()),
        result => result,
    }
}
