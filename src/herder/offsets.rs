//! The offsets of a connector, read and altered from outside: a source's in Connect's offset log or, where it writes in
//! transactions, in a group of its own ([`progress`]); a sink's in its consumer group. The connector is asked before
//! anything is altered. Runs as a job of the loop, which sees to it that the connector is stopped and stays so
//! meanwhile.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use lakeferry_api::connector::{AlteredOffsets, Connector, ConnectorType, SinkAlteration};
use lakeferry_api::{Config, ConnectError, Kind, PartitionView, Result, SourceOffset, SourcePartition, TopicPartition};
use serde_json::{Map, Value};

use super::Parts;
use super::command::{Altered, NewOffsets, Offsets};
use super::progress::Progress;
use super::stopped_sink::StoppedSink;
use crate::backing::SourceOffsets;
use crate::config::overrides::{Client, client_config};
use crate::kafka::Admin;
use crate::spawn::within;

/// The offsets of a connector as they are stored.
///
/// # Errors
/// `Fatal` where the store or the brokers do not answer.
pub(super) async fn read(parts: &Parts, name: &str, raw: &Config) -> Result<Offsets> {
    let config = parts.worker.providers.resolve(raw)?;
    let failed = |error: ConnectError| match parts.kind_of(&config) {
        Some(ConnectorType::Sink) => {
            fatal(format!("Failed to retrieve consumer group offsets for sink connector {name}"), error)
        }
        _ => fatal(format!("Failed to retrieve the offsets of source connector {name}"), error),
    };
    let connector = parts.connector(&config)?;
    match connector.connector_type() {
        ConnectorType::Sink => {
            let group = Group::new(parts, name, &config).map_err(failed)?;
            let offsets = group.admin.group_offsets(&group.id).await.map_err(failed)?;
            Ok(Offsets::Sink(offsets.into_iter().collect()))
        }
        ConnectorType::Source => {
            let offsets = match Progress::of(parts, name, &config, connector.as_ref()).map_err(failed)? {
                Some(progress) => progress.read().await.map_err(failed)?,
                None => parts.offsets.all(name).await.map_err(failed)?,
            };
            Ok(Offsets::Source(offsets.into_iter().collect()))
        }
    }
}

/// Alters or resets the offsets of a stopped connector.
///
/// # Errors
/// `Config` for a request that makes no sense for a sink; `Fatal` for what the connector, the store or the brokers
/// refuse.
pub(super) async fn alter(parts: &Arc<Parts>, name: &str, raw: &Config, offsets: NewOffsets) -> Result<Altered> {
    let config = parts.worker.providers.resolve(raw)?;
    let connector = parts.connector(&config)?;
    match connector.connector_type() {
        ConnectorType::Sink => alter_sink(parts, name, &config, connector.as_ref(), offsets).await,
        ConnectorType::Source => alter_source(parts, name, &config, connector.as_ref(), offsets).await,
    }
}

async fn alter_source(
    parts: &Parts,
    name: &str,
    config: &Config,
    connector: &dyn Connector,
    offsets: NewOffsets,
) -> Result<Altered> {
    let progress = Progress::of(parts, name, config, connector)?;
    let altered: AlteredOffsets = match (offsets, &progress) {
        (NewOffsets::Some(entries), _) => source_offsets(entries)?,
        (NewOffsets::ResetAll, Some(progress)) => resets(progress.read().await.map_err(refused)?),
        (NewOffsets::ResetAll, None) => resets(parts.offsets.all(name).await?),
    };
    let completely = connector.alter_source_offsets(config, &altered).await.map_err(refused)?;
    match progress {
        Some(progress) => progress.alter(altered).await.map_err(refused)?,
        None => parts.offsets.put(name, &altered.into_iter().collect::<Vec<_>>()).await.map_err(refused)?,
    }
    Ok(Altered { completely })
}

fn resets(offsets: SourceOffsets) -> AlteredOffsets {
    offsets.into_keys().map(|partition| (partition, None)).collect()
}

async fn alter_sink(
    parts: &Arc<Parts>,
    name: &str,
    config: &Config,
    connector: &dyn Connector,
    offsets: NewOffsets,
) -> Result<Altered> {
    let group = Group::new(parts, name, config)?;
    let alteration = match offsets {
        NewOffsets::Some(entries) => SinkAlteration::Some(sink_offsets(name, entries)?),
        NewOffsets::ResetAll => SinkAlteration::ResetAll,
    };
    let verb = if alteration == SinkAlteration::ResetAll { "reset" } else { "alter" };
    if group.admin.group_is_live(&group.id).await.map_err(refused)? {
        return Err(ConnectError::fatal(still_live(verb, name)));
    }
    let context = Arc::new(StoppedSink::new(Arc::clone(parts), name, &group)?);
    let completely = connector.alter_sink_offsets(context, config, &alteration).await.map_err(refused)?;
    match group.alter(&alteration).await {
        Ok(()) => {
            warn_of_offsets_beyond(parts, name, &group, &alteration).await;
            Ok(Altered { completely })
        }
        Err(error) if error.kind() == Kind::Conflict => Err(fatal(still_live(verb, name), error)),
        Err(error) => {
            // Connect says no more than this; what somebody has to set right is said, too.
            let why = if error.kind() == Kind::Config { format!(": {error}") } else { String::new() };
            Err(fatal(format!("Failed to {verb} consumer group offsets for connector {name}{why}"), error))
        }
    }
}

/// Connect takes any offset, and so it is taken here; what has no record to go on with is told of all the same. Brokers
/// that do not say in time how long their logs are keep nobody waiting.
async fn warn_of_offsets_beyond(parts: &Parts, name: &str, group: &Group, alteration: &SinkAlteration) {
    let SinkAlteration::Some(offsets) = alteration else { return };
    let set = offsets.iter().filter_map(|(partition, offset)| Some((partition, (*offset)?)));
    let asked: Vec<_> =
        set.map(|(partition, offset)| async move {
            beyond(partition, offset, &group.admin.partition(partition).await.ok()?)
        })
        .collect();
    let warned = futures::stream::iter(asked).buffer_unordered(CONCURRENT_QUESTIONS).for_each(|warning| async move {
        warning.into_iter().for_each(|warning| tracing::warn!(connector = name, "{warning}"));
    });
    within(LOGS_WITHIN, parts.clock.as_ref(), warned).await;
}

const CONCURRENT_QUESTIONS: usize = 16;
const LOGS_WITHIN: Duration = Duration::from_secs(5);

/// What there is to say of `offset`, where the log is not that long.
fn beyond(partition: &TopicPartition, offset: i64, view: &PartitionView) -> Option<String> {
    let end = view.end_offset.unwrap_or(view.last_stable_offset);
    (offset > end).then(|| {
        format!(
            "the offset {offset} that was set for {partition} lies beyond the end {end} of its log: records before it are \
             passed over, and where the log is still shorter when the connector is resumed, it begins at another \
             offset; set {end} to go on with the next record"
        )
    })
}

/// A sink connector's consumer group.
pub(super) struct Group {
    pub(super) id: String,
    /// The properties of its members.
    pub(super) consumer: Config,
    pub(super) admin: Arc<dyn Admin>,
}

impl Group {
    fn new(parts: &Parts, name: &str, config: &Config) -> Result<Self> {
        let consumer = client_config(&parts.worker, config, Client::Consumer)?;
        let id = consumer.get("group.id").cloned().unwrap_or_else(|| format!("connect-{name}"));
        let admin = parts.clients.admin(&client_config(&parts.worker, config, Client::Admin)?)?;
        Ok(Self { id, consumer, admin })
    }

    async fn alter(&self, alteration: &SinkAlteration) -> Result<()> {
        let SinkAlteration::Some(offsets) = alteration else { return self.admin.delete_group(&self.id).await };
        let set =
            |(partition, offset): (&TopicPartition, &Option<i64>)| offset.map(|offset| (partition.clone(), offset));
        let set: BTreeMap<_, _> = offsets.iter().filter_map(set).collect();
        let reset: Vec<_> =
            offsets.iter().filter(|(_, offset)| offset.is_none()).map(|(partition, _)| partition.clone()).collect();
        if !set.is_empty() {
            self.admin.alter_group_offsets(&self.id, &set).await?;
        }
        if !reset.is_empty() {
            self.admin.delete_group_offsets(&self.id, &reset).await?;
        }
        Ok(())
    }
}

fn source_offsets(entries: Vec<(Value, Value)>) -> Result<AlteredOffsets> {
    let mut offsets = AlteredOffsets::new();
    for (partition, offset) in entries {
        let partition = match (map(partition), &offset) {
            (Some(partition), _) => primitives("Partitions", partition)?,
            (None, Value::Null) => continue,
            (None, _) => return Err(ConnectError::fatal("Partition objects cannot be null")),
        };
        let offset = map(offset).map(|offset| primitives("Offsets", offset).and_then(SourceOffset::new)).transpose()?;
        offsets.insert(SourcePartition::new(&partition)?, offset);
    }
    Ok(offsets)
}

fn primitives(what: &str, map: Map<String, Value>) -> Result<Map<String, Value>> {
    let kind = |value: &Value| match value {
        Value::Object(_) => Some("MAP"),
        Value::Array(_) => Some("ARRAY"),
        _ => None,
    };
    match map.iter().find_map(|(key, value)| Some((key, kind(value)?))) {
        Some((key, kind)) => Err(ConnectError::data(format!(
            "{what} may only contain primitive types as values, but field {key} contains {kind}"
        ))),
        None => Ok(map),
    }
}

fn sink_offsets(name: &str, entries: Vec<(Value, Value)>) -> Result<BTreeMap<TopicPartition, Option<i64>>> {
    let parsed = |(partition, offset)| Ok((sink_partition(partition)?, sink_offset(offset)?));
    let offsets: BTreeMap<_, _> = entries.into_iter().map(parsed).collect::<Result<_>>()?;
    if let Some((partition, Some(offset))) = offsets.iter().find(|(_, offset)| offset.is_some_and(|it| it < 0)) {
        return Err(ConnectError::fatal(format!(
            "Failed to modify offsets for sink connector {name}: the offset {offset} of {partition} is negative"
        )));
    }
    Ok(offsets)
}

fn sink_partition(partition: Value) -> Result<TopicPartition> {
    let partition = map(partition)
        .ok_or_else(|| ConnectError::config("The partition for a sink connector offset cannot be null or missing"))?;
    let (Some(topic), Some(number)) = (partition.get("kafka_topic"), partition.get("kafka_partition")) else {
        return Err(ConnectError::config(
            "The partition for a sink connector offset must contain the keys 'kafka_topic' and 'kafka_partition'",
        ));
    };
    if topic.is_null() {
        return Err(ConnectError::config("Kafka topic names must be valid strings and may not be null"));
    }
    if number.is_null() {
        return Err(ConnectError::config("Kafka partitions must be valid numbers and may not be null"));
    }
    let partition = text(number).parse::<i32>().map_err(|_| {
        ConnectError::config(format!(
            "Failed to parse the following Kafka partition value in the provided offsets: '{}'. Partition values for \
             sink connectors need to be integers.",
            text(number)
        ))
    })?;
    Ok(TopicPartition { topic: text(topic).into(), partition })
}

fn sink_offset(offset: Value) -> Result<Option<i64>> {
    let Some(offset) = map(offset) else { return Ok(None) };
    let number = offset.get("kafka_offset").ok_or_else(|| {
        ConnectError::config("The offset for a sink connector should either be null or contain the key 'kafka_offset'")
    })?;
    let parsed = text(number).parse::<i64>().map_err(|_| {
        ConnectError::config(format!(
            "Failed to parse the following Kafka offset value in the provided offsets: '{}'. Offset values for sink \
             connectors need to be integers.",
            text(number)
        ))
    })?;
    Ok(Some(parsed))
}

fn map(value: Value) -> Option<Map<String, Value>> {
    match value {
        Value::Object(map) => Some(map),
        _ => None,
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// What a connector or a store refuses is no fault of the request's form: it keeps its words and becomes `Fatal`.
fn refused(error: ConnectError) -> ConnectError {
    fatal(error.message().to_owned(), error)
}

fn fatal(message: String, cause: ConnectError) -> ConnectError {
    tracing::error!(trace = cause.trace(), "{message}");
    ConnectError::fatal(message).caused_by(cause)
}

fn still_live(verb: &str, name: &str) -> String {
    format!(
        "Failed to {verb} consumer group offsets for connector {name} either because its tasks haven't stopped \
         completely yet or the connector was resumed before the request to {verb} its offsets could be successfully \
         completed. If the connector is in a stopped state, this operation can be safely retried. If it doesn't \
         eventually succeed, the Connect cluster may need to be restarted to get rid of the zombie sink tasks."
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_offset_beyond_the_end_is_told_of() {
        let (orders, view) = (TopicPartition::new("orders", 0), |end_offset| PartitionView {
            last_stable_offset: 8,
            end_offset,
            ..PartitionView::default()
        });
        for (offset, end, told) in [(10, Some(10), false), (11, Some(10), true), (8, None, false), (9, None, true)] {
            let words = beyond(&orders, offset, &view(end));
            assert_eq!(words.is_some(), told, "{offset} {end:?}");
            let words = words.unwrap_or_default();
            assert!(!told || words.contains("orders-0") && words.contains(&format!("set {} to", end.unwrap_or(8))));
        }
    }
}
