//! What Connect stores of a replayed partition, and under which key: `{"partition": 0, "topic": "orders"}` to
//! `{"lineage": 1, "offset": 1000, "topic_id": "..."}`. What users write into the offsets' REST API is read here, too.
//!
//! Invariant: an offset says which incarnation it belongs to by the topic's id, where the broker gave one. A number of
//! a lineage means another log in another archive, and in that of another topic.

use lakeferry_api::{ConnectError, Result, SourceOffset, SourcePartition, TopicPartition};
use serde_json::{Map, Value};

/// How far a partition was replayed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// The lineage, where it is said.
    pub lineage: Option<u32>,
    /// Everything below is replayed.
    pub offset: i64,
    /// The topic's id in that lineage, where it is said.
    pub topic_id: Option<String>,
}

impl Stored {
    /// What a stored source offset says.
    ///
    /// # Errors
    /// `Config` where it is not one of this connector's.
    pub fn read(stored: &SourceOffset) -> Result<Self> {
        let map = stored.as_map();
        Self::of(map).ok_or_else(|| {
            let text = Value::Object(map.clone());
            ConnectError::config(format!(
                "{text} is no offset of a lake source; write {{\"offset\": 1000}}, and the \"lineage\" where it matters"
            ))
        })
    }

    fn of(map: &Map<String, Value>) -> Option<Self> {
        let said = |key: &str| map.get(key).filter(|value| !value.is_null());
        let lineage = |value: &Value| value.as_u64().and_then(|value| u32::try_from(value).ok());
        let is_known = |key: &String| ["lineage", "offset", "topic_id"].contains(&key.as_str());
        let stored = Self {
            lineage: said("lineage").map_or(Some(None), |value| lineage(value).map(Some))?,
            offset: said("offset").and_then(Value::as_i64).filter(|offset| *offset >= 0)?,
            topic_id: said("topic_id").map_or(Some(None), |value| value.as_str().map(|id| Some(id.to_owned())))?,
        };
        map.keys().all(is_known).then_some(stored)
    }

    /// What Connect stores.
    ///
    /// # Errors
    /// As [`SourceOffset::new`].
    pub fn write(&self) -> Result<SourceOffset> {
        let mut map = Map::new();
        map.extend(self.lineage.map(|lineage| ("lineage".to_owned(), Value::from(lineage))));
        map.insert("offset".to_owned(), Value::from(self.offset));
        map.extend(self.topic_id.as_deref().map(|id| ("topic_id".to_owned(), Value::from(id))));
        SourceOffset::new(map)
    }
}

/// What Connect stores offsets of an archived partition under.
///
/// # Errors
/// As [`SourcePartition::new`].
pub fn source_partition(partition: &TopicPartition) -> Result<SourcePartition> {
    let topic = ("topic".to_owned(), Value::from(&*partition.topic));
    let number = ("partition".to_owned(), Value::from(partition.partition));
    SourcePartition::new(&Map::from_iter([topic, number]))
}

/// What to do about an incarnation of `topic` that does not continue what was replayed so far: `begun`, where its id is
/// known.
pub(super) fn go_on_or_begin_anew(topic: &str, begun: Option<&str>) -> String {
    let begun = begun.unwrap_or("<topic id>");
    format!(
        "to go on with the old one set lineage={begun}, where {topic} is all that is replayed (no other topic has that \
         id); to replay the new one give {topic} another target (topic.rename); to have it behind what its target holds, \
         {}",
        forget_offsets(topic)
    )
}

/// How to set back one topic of a connector that may replay others, too.
pub(super) fn forget_offsets(topic: &str) -> String {
    format!(
        "stop the connector, PATCH /connectors/NAME/offsets with {{\"offsets\": [{{\"partition\": {{\"topic\": \"{topic}\", \
         \"partition\": 0}}, \"offset\": null}}]}}, one entry for each partition of {topic}, and resume it; do not reset the \
         offsets of all: that writes every other topic to its target a second time"
    )
}

/// The archived partition that Connect stores offsets of under `partition`.
///
/// # Errors
/// `Config` where it is none.
pub fn archived_partition(partition: &SourcePartition) -> Result<TopicPartition> {
    let map = partition.to_map();
    let topic = map.get("topic").and_then(Value::as_str);
    let number = map.get("partition").and_then(Value::as_i64).and_then(|number| i32::try_from(number).ok());
    match (topic, number) {
        (Some(topic), Some(number)) if map.len() == 2 && number >= 0 => Ok(TopicPartition::new(topic, number)),
        _ => Err(ConnectError::config(format!(
            "{} is no partition of a lake source; write {{\"topic\": \"orders\", \"partition\": 0}}",
            partition.as_str()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_stored_is_read_and_nothing_else() {
        let offset = |value: Value| SourceOffset::new(value.as_object().unwrap().clone()).unwrap();
        for (lineage, topic_id) in [(None, None), (Some(2), None), (Some(1), Some("Qm9".to_owned()))] {
            let stored = Stored { lineage, offset: 7, topic_id };
            assert_eq!(Stored::read(&stored.write().unwrap()).unwrap(), stored);
        }
        let nulls = json!({"offset": 3, "lineage": null, "topic_id": null});
        assert_eq!(Stored::read(&offset(nulls)).unwrap(), Stored { lineage: None, offset: 3, topic_id: None });
        for refused in [
            json!({}),
            json!({"offset": -1}),
            json!({"offset": "3"}),
            json!({"offset": 3, "lineage": -1}),
            json!({"offset": 3, "topic_id": 1}),
            json!({"offset": 3, "position": 1}),
        ] {
            let error = Stored::read(&offset(refused.clone())).unwrap_err();
            assert!(error.message().contains("is no offset of a lake source"), "{refused}: {error}");
        }
    }
}
