//! Between the bytes of Kafka and what a connector wants or gives. Byte connectors are passed by untouched. For typed
//! ones a batch is decoded (key, value, headers) or encoded (headers, key, value) as a whole on the encode pool; only
//! records that fail there come back to the loop, which retries, reports and drops them or fails the task.

use std::fmt;
use std::sync::Arc;

use lakeferry_api::convert::{Converter, HeaderConverter, Usage};
use lakeferry_api::executor::run;
use lakeferry_api::record::{Header, Origin, RawRecord};
use lakeferry_api::{
    Batch, Budget, ConnectError, Executor, Record, RecordForm, Result, Row, TimestampType, TopicPartition,
};

use super::dead_letters::DeadLetters;
use super::tolerance::{Failure, Outcome, Stage, Tolerance};
use crate::config::catalog::Catalog;
use crate::config::{ConnectorConfig, ConverterSettings};

/// The converters of one connector, with the class names that reports show.
pub(super) struct Converters {
    key: Named<Box<dyn Converter>>,
    value: Named<Box<dyn Converter>>,
    header: Named<Box<dyn HeaderConverter>>,
}

struct Named<T> {
    class: Arc<str>,
    plugin: T,
}

/// What records pass on their way to a sink.
pub(super) struct SinkPipeline {
    typed: Option<TypedSink>,
}

struct TypedSink {
    converters: Arc<Converters>,
    executor: Arc<dyn Executor>,
    budget: Budget,
    tolerance: Tolerance,
    dead_letters: Option<DeadLetters>,
}

/// What records pass on their way from a typed source.
pub(super) struct SourcePipeline {
    converters: Arc<Converters>,
    executor: Arc<dyn Executor>,
    tolerance: Arc<Tolerance>,
}

impl Converters {
    /// The converters that a connector's config asks for; `None` for connectors of bytes.
    ///
    /// # Errors
    /// `Config` where a class does not exist or does not take its options, or where transforms are asked for.
    pub(super) fn new(catalog: &Catalog, config: &ConnectorConfig, form: RecordForm) -> Result<Option<Self>> {
        if let Some(alias) = config.transforms.first() {
            return Err(ConnectError::config(format!(
                "transforms={alias}: this version of the worker has no transforms, and records must not pass \
                 untransformed; remove the key"
            )));
        }
        if form == RecordForm::Bytes {
            return Ok(None);
        }
        let converter = |settings: &ConverterSettings, usage| {
            let mut plugin = catalog.converter(&settings.class)?;
            plugin.configure(&settings.options, usage)?;
            Ok::<_, ConnectError>(Named { class: class_name(catalog, &settings.class), plugin })
        };
        let key = converter(&config.key_converter, Usage::Key)?;
        let value = converter(&config.value_converter, Usage::Value)?;
        let settings = &config.header_converter;
        let mut plugin = catalog.header_converter(&settings.class)?;
        plugin.configure(&settings.options)?;
        let header = Named { class: class_name(catalog, &settings.class), plugin };
        Ok(Some(Self { key, value, header }))
    }

    fn decode(&self, partition: &TopicPartition, row: Row<'_>) -> Result<Record, Failure> {
        let topic = &partition.topic;
        if let Some(timestamp) = row.timestamp().filter(|timestamp| *timestamp < 0) {
            let error = ConnectError::data(format!("Invalid record timestamp {timestamp}"));
            return Err(Failure { stage: Stage::KafkaConsume, class: "".into(), error });
        }
        let key = self.key.plugin.decode(topic, row.key_bytes().as_ref());
        let key = key.map_err(|error| self.key.failure(Stage::KeyConverter, error))?;
        let value = self.value.plugin.decode(topic, row.value_bytes().as_ref());
        let value = value.map_err(|error| self.value.failure(Stage::ValueConverter, error))?;
        let decode_header = |(key, bytes): (&str, Option<&[u8]>)| {
            let bytes = bytes.map(bytes::Bytes::copy_from_slice);
            let value = self.header.plugin.decode(topic, key, bytes.as_ref());
            let value = value.map_err(|error| self.header.failure(Stage::HeaderConverter, error))?;
            Ok(Header { key: key.into(), value })
        };
        let headers = row.headers().map(decode_header).collect::<Result<_, Failure>>()?;
        Ok(Record {
            topic: Arc::clone(topic),
            partition: Some(partition.partition),
            timestamp: row.timestamp(),
            key,
            value,
            headers,
            origin: Some(Origin::new(partition.clone(), row.offset(), row.timestamp_type())),
        })
    }

    fn encode(&self, record: &Record) -> Result<RawRecord, Failure> {
        let topic = &record.topic;
        let encode_header = |header: &Header| {
            let bytes = self.header.plugin.encode(topic, &header.key, &header.value);
            let bytes = bytes.map_err(|error| self.header.failure(Stage::HeaderConverter, error))?;
            Ok((Arc::clone(&header.key), bytes))
        };
        let headers = record.headers.iter().map(encode_header).collect::<Result<_, Failure>>()?;
        let key = self.key.plugin.encode(topic, &record.key);
        let key = key.map_err(|error| self.key.failure(Stage::KeyConverter, error))?;
        let value = self.value.plugin.encode(topic, &record.value);
        let value = value.map_err(|error| self.value.failure(Stage::ValueConverter, error))?;
        let topic = Arc::clone(topic);
        Ok(RawRecord { topic, partition: record.partition, timestamp: record.timestamp, key, value, headers })
    }
}

impl<T> Named<T> {
    fn failure(&self, stage: Stage, error: ConnectError) -> Failure {
        Failure { stage, class: Arc::clone(&self.class), error }
    }
}

impl SinkPipeline {
    /// For a connector of bytes.
    pub(super) fn bytes() -> Self {
        Self { typed: None }
    }

    /// For a connector of typed records.
    pub(super) fn typed(
        converters: Converters,
        (executor, budget): (Arc<dyn Executor>, Budget),
        tolerance: Tolerance,
        dead_letters: Option<DeadLetters>,
    ) -> Self {
        let converters = Arc::new(converters);
        Self { typed: Some(TypedSink { converters, executor, budget, tolerance, dead_letters }) }
    }

    /// The batch as the connector wants it; `None` where the task is to stop meanwhile.
    ///
    /// # Errors
    /// The task's end: a record that is not tolerated.
    pub(super) async fn decode(&mut self, batch: Batch) -> Result<Option<Batch>> {
        match &mut self.typed {
            Some(typed) if !batch.is_empty() => typed.decode(batch).await,
            _ => Ok(Some(batch)),
        }
    }
}

impl TypedSink {
    async fn decode(&mut self, batch: Batch) -> Result<Option<Batch>> {
        let (converters, shared) = (Arc::clone(&self.converters), batch.clone());
        let decode_all = move || {
            let decode = |row| converters.decode(shared.partition(), row);
            shared.rows().map(decode).collect::<Vec<_>>()
        };
        let mut records = Vec::with_capacity(batch.len());
        for (index, decoded) in run(self.executor.as_ref(), decode_all).await?.into_iter().enumerate() {
            match decoded {
                Ok(record) => records.push(record),
                Err(failure) => {
                    let again = || self.converters.decode(batch.partition(), batch.row(index));
                    match self.tolerance.retry(failure, again).await {
                        Outcome::Processed(record) => records.push(record),
                        Outcome::Failed(failure) => self.give_up(&batch, index, failure).await?,
                        Outcome::Stopped => return Ok(None),
                    }
                }
            }
        }
        if !self.settle().await {
            return Ok(None);
        }
        // The bytes and the records, which take about as much again.
        let permit = self.budget.take(2 * batch.memory_bytes());
        Ok(Some(batch.with_records(records).holding(permit)))
    }

    /// Reports a record that failed for good; then tolerance decides.
    async fn give_up(&mut self, batch: &Batch, index: usize, failure: Failure) -> Result<()> {
        let row = batch.row(index);
        self.tolerance.log(&failure, Consumed(batch.partition(), row));
        if let Some(dead_letters) = &mut self.dead_letters {
            dead_letters.send(batch.partition(), row, &failure).await;
        }
        let verdict = self.tolerance.judge(failure);
        if verdict.is_err() {
            self.settle().await;
        }
        verdict
    }

    /// False where the task is to stop before the brokers have every dead letter.
    async fn settle(&mut self) -> bool {
        let Some(dead_letters) = &mut self.dead_letters else { return true };
        tokio::select! {
            biased;
            () = dead_letters.settle() => true,
            () = self.tolerance.stop.cancelled() => false,
        }
    }
}

impl SourcePipeline {
    pub(super) fn new(converters: Converters, executor: Arc<dyn Executor>, tolerance: Arc<Tolerance>) -> Self {
        Self { converters: Arc::new(converters), executor, tolerance }
    }

    /// The records as they go to Kafka, without those that are dropped; `None` where the task is to stop meanwhile.
    ///
    /// # Errors
    /// The task's end: a record that is not tolerated.
    pub(super) async fn encode(&self, records: Vec<Record>) -> Result<Option<Vec<RawRecord>>> {
        let records = Arc::new(records);
        let (converters, shared) = (Arc::clone(&self.converters), Arc::clone(&records));
        let encode_all = move || shared.iter().map(|record| converters.encode(record)).collect::<Vec<_>>();
        let mut encoded = Vec::with_capacity(records.len());
        for (index, result) in run(self.executor.as_ref(), encode_all).await?.into_iter().enumerate() {
            let failure = match result {
                Ok(raw) => {
                    encoded.push(raw);
                    continue;
                }
                Err(failure) => failure,
            };
            match self.tolerance.retry(failure, || self.converters.encode(&records[index])).await {
                Outcome::Processed(raw) => encoded.push(raw),
                Outcome::Failed(failure) => {
                    self.tolerance.log(&failure, Produced(&records[index].topic));
                    self.tolerance.judge(failure)?;
                }
                Outcome::Stopped => return Ok(None),
            }
        }
        Ok(Some(encoded))
    }
}

/// The full class name of a plug-in, whatever name the config has for it.
fn class_name(catalog: &Catalog, name: &str) -> Arc<str> {
    catalog.find(name).map_or(name, |plugin| plugin.class).into()
}

/// A consumed record as the error log shows it.
struct Consumed<'a>(&'a TopicPartition, Row<'a>);

/// A record of a source as the error log shows it.
pub(super) struct Produced<'a>(pub(super) &'a str);

impl fmt::Display for Consumed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(TopicPartition { topic, partition }, row) = self;
        write!(f, ", where consumed record is {{topic='{topic}', partition={partition}, offset={}", row.offset())?;
        if let Some(timestamp) = row.timestamp() {
            let kind = match row.timestamp_type() {
                Some(TimestampType::Create) => "CreateTime",
                Some(TimestampType::Append) => "LogAppendTime",
                None => "NoTimestampType",
            };
            write!(f, ", timestamp={timestamp}, timestampType={kind}")?;
        }
        f.write_str("}")
    }
}

impl fmt::Display for Produced<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, ", where source record is for topic '{}'", self.0)
    }
}
