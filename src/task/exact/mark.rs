//! What stands beside a committed offset: the whole source offset, the last offset of the target that was delivered for
//! it, and what that target was. Pure.

use lakeferry_api::{ConnectError, Result, SourceOffset, TopicPartition};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::kafka::Committed;

/// The mark of one target partition.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Mark {
    /// How far the source got. `None`: it begins anew, though the target holds records.
    pub(crate) stored: Option<SourceOffset>,
    /// The last offset of the target that was delivered, and whether the marker of a commit lies behind it.
    /// `None`: somebody set the offset by other means.
    pub(crate) tail: Option<Tail>,
    /// The first offset of the target that was delivered, where any was and that was written down.
    pub(crate) first: Option<i64>,
    /// The target's id.
    pub(crate) topic_id: Option<String>,
    /// What was restored: only the same goes on.
    pub(crate) what: Option<String>,
}

/// Where the writing of a target partition goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tail {
    /// The last offset that is known; -1 where there is none.
    pub(crate) last: i64,
    /// True where the next offset is a commit's marker.
    pub(crate) marker: bool,
}

/// The text of a mark.
#[derive(Serialize, Deserialize)]
struct Text {
    lakeferry: u32,
    at: Option<Map<String, Value>>,
    delivered: i64,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    marker: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    first: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    topic_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    what: Option<String>,
}

const VERSION: u32 = 1;

impl Tail {
    /// Everything below `end` is known.
    pub(crate) fn before(end: i64) -> Self {
        Self { last: end - 1, marker: false }
    }

    /// The offset that comes next.
    pub(crate) fn next(self) -> i64 {
        self.last + 1 + i64::from(self.marker)
    }
}

impl Mark {
    /// Reads what `group` committed for `target`. Anyone who may use the group can write it: an offset without a mark
    /// of ours was set by other means, and stands for itself.
    ///
    /// # Errors
    /// `Config` where a later version of this program made the mark, or it cannot be right.
    pub(crate) fn read(group: &str, target: &TopicPartition, committed: &Committed) -> Result<Self> {
        Self::parse(committed).map_err(|why| {
            let offset = committed.offset;
            ConnectError::config(format!("the offset {offset} of {target} in group {group} cannot be used: {why}"))
        })
    }

    fn parse(committed: &Committed) -> Result<Self, String> {
        const REMEDY: &str = "set the offset anew, or delete it";
        let number = ("offset".to_owned(), Value::from(committed.offset));
        let Ok(text) = serde_json::from_str::<Text>(&committed.metadata) else {
            let stored = source_offset(Map::from_iter([number]))?;
            return Ok(Self { stored: Some(stored), tail: None, first: None, topic_id: None, what: None });
        };
        if text.lakeferry != VERSION {
            return Err(format!(
                "its metadata is of version {}, this program knows version {VERSION}; use the Lakeferry that committed it, \
                 or a newer one",
                text.lakeferry
            ));
        }
        // No target ends so far that more could be written behind it.
        if !(-1..i64::MAX - 1).contains(&text.delivered) {
            return Err(format!("`delivered` of its metadata, {}, is no offset; {REMEDY}", text.delivered));
        }
        let stored = text.at.map(|mut at| {
            at.extend([number]);
            source_offset(at).map_err(|why| format!("`at` of its metadata: {why}; {REMEDY}"))
        });
        let tail = Tail { last: text.delivered, marker: text.marker };
        let Text { first, topic_id, what, .. } = text;
        Ok(Self { stored: stored.transpose()?, tail: Some(tail), first, topic_id, what })
    }

    /// The commit.
    ///
    /// # Errors
    /// `Fatal` where the source offset has no number `offset`.
    pub(crate) fn commit(&self) -> Result<Committed> {
        let map = self.stored.as_ref().map(|stored| stored.as_map().clone());
        let offset = match &map {
            None => Some(0),
            Some(map) => map.get("offset").and_then(Value::as_i64).filter(|offset| *offset >= 0),
        };
        let offset = offset.ok_or_else(|| ConnectError::fatal("a source offset has no number `offset`"))?;
        let Some(Tail { last, marker }) = self.tail else {
            return Ok(Committed { offset, metadata: String::new() });
        };
        let (topic_id, what) = (self.topic_id.clone(), self.what.clone());
        let text = Text { lakeferry: VERSION, at: map, delivered: last, marker, first: self.first, topic_id, what };
        let metadata = serde_json::to_string(&text)
            .map_err(|error| ConnectError::fatal("a mark cannot be written").caused_by(error))?;
        Ok(Committed { offset, metadata })
    }
}

fn source_offset(map: Map<String, Value>) -> Result<SourceOffset, String> {
    SourceOffset::new(map).map_err(|error| error.message().to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn stored(json: Value) -> Option<SourceOffset> {
        Some(SourceOffset::new(json.as_object().unwrap().clone()).unwrap())
    }

    fn read(committed: &Committed) -> Result<Mark> {
        Mark::read("connect-orders", &TopicPartition::new("orders", 3), committed)
    }

    /// Reads it, and does with it what its readers do. An error names what was read.
    fn take(committed: &Committed) -> std::result::Result<(), TestCaseError> {
        match read(committed) {
            Ok(mark) => {
                prop_assert!(mark.tail.is_none_or(|tail| tail.next() > tail.last));
                let again = mark.commit().unwrap();
                prop_assert_eq!(read(&again).unwrap(), mark);
            }
            Err(error) => {
                let whose =
                    format!("the offset {} of orders-3 in group connect-orders cannot be used: ", committed.offset);
                let why = error.message().strip_prefix(&whose).unwrap_or_default();
                let named = ["its metadata is of version", "`delivered` of its metadata", "`at` of its metadata"];
                prop_assert!(named.iter().any(|thing| why.starts_with(thing)) && why.contains("; "), "{}", error);
            }
        }
        Ok(())
    }

    fn any_number() -> impl Strategy<Value = i64> {
        prop_oneof![any::<i64>(), Just(i64::MIN), Just(i64::MAX), Just(i64::MAX - 1), -3..50i64]
    }

    proptest! {
        #[test]
        fn no_metadata_makes_it_panic(offset in 0..=i64::MAX, metadata in ".{0,60}") {
            take(&Committed { offset, metadata })?;
        }

        #[test]
        fn no_damage_to_a_mark_makes_it_panic(
            offset in 0..=i64::MAX, delivered in any_number(), version in prop_oneof![4 => Just(1), 1 => any::<u32>()],
            at in any::<prop::sample::Index>(), len in 0..12usize, with in "[\\[\\]{}\",:0-9a-z.-]{0,12}",
        ) {
            let metadata = json!({
                "lakeferry": version, "at": { "lineage": 2, "offset": 7, "x": null }, "delivered": delivered,
                "marker": true, "first": 3, "topic_id": "id", "what": "w",
            });
            let mut metadata = metadata.to_string();
            take(&Committed { offset, metadata: metadata.clone() })?;
            let at = at.index(metadata.len());
            metadata.replace_range(at..(at + len).min(metadata.len()), &with);
            take(&Committed { offset, metadata })?;
        }
    }

    #[test]
    fn what_no_target_can_have_delivered_is_refused_with_the_place() {
        for delivered in [i64::MIN, -2, i64::MAX - 1, i64::MAX] {
            let metadata = json!({ "lakeferry": 1, "at": null, "delivered": delivered, "marker": true }).to_string();
            let error = read(&Committed { offset: 9, metadata }).unwrap_err();
            for word in ["the offset 9 of orders-3 in group connect-orders", "`delivered`", &delivered.to_string()] {
                assert!(error.message().contains(word), "{error}");
            }
        }
        let metadata = json!({ "lakeferry": 1, "at": { "x": [1] }, "delivered": 1 }).to_string();
        let error = read(&Committed { offset: 9, metadata }).unwrap_err();
        assert!(error.message().contains("`at` of its metadata") && error.message().contains("'x' is [1]"), "{error}");
    }

    #[test]
    fn a_mark_comes_back_as_it_was() {
        for stored in [None, stored(json!({ "lineage": 2, "offset": 77 }))] {
            for marker in [false, true] {
                let tail = Some(Tail { last: 41, marker });
                let (topic_id, what) = (Some("id".into()), Some("w".into()));
                let mark = Mark { stored: stored.clone(), tail, first: Some(7), topic_id, what };
                let commit = mark.commit().unwrap();
                assert_eq!(commit.offset, if stored.is_some() { 77 } else { 0 });
                assert_eq!(read(&commit).unwrap(), mark);
            }
        }
    }

    #[test]
    fn the_group_s_number_counts_and_a_bare_one_stands_for_itself() {
        let tail = Some(Tail { last: 41, marker: true });
        let stored_at = stored(json!({ "lineage": 2, "offset": 77 }));
        let mark = Mark { stored: stored_at, tail, first: None, topic_id: None, what: None };
        let moved = Committed { offset: 50, ..mark.commit().unwrap() };
        assert_eq!(read(&moved).unwrap().stored, stored(json!({ "lineage": 2, "offset": 50 })));
        for metadata in ["", "by hand", "{}"] {
            let bare = read(&Committed { offset: 9, metadata: metadata.into() }).unwrap();
            assert_eq!((bare.stored, bare.tail), (stored(json!({ "offset": 9 })), None), "{metadata}");
        }
    }

    #[test]
    fn a_newer_mark_is_refused() {
        let metadata = json!({ "lakeferry": 2, "at": null, "delivered": 1 }).to_string();
        let error = read(&Committed { offset: 9, metadata }).unwrap_err();
        assert!(error.message().contains("is of version 2, this program knows version 1"), "{error}");
    }
}
