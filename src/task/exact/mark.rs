//! What stands beside a committed offset: the whole source offset, the last offset of the target that was delivered for
//! it, and what that target was. Pure.

use lakeferry_api::{ConnectError, Result, SourceOffset};
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
    /// Reads a commit. An offset without a mark of ours was set by other means, and stands for itself.
    ///
    /// # Errors
    /// `Config` where a later version of this program made the mark.
    pub(crate) fn read(committed: &Committed) -> Result<Self> {
        let number = ("offset".to_owned(), Value::from(committed.offset));
        let Ok(text) = serde_json::from_str::<Text>(&committed.metadata) else {
            let stored = SourceOffset::new(Map::from_iter([number]))?;
            return Ok(Self { stored: Some(stored), tail: None, topic_id: None, what: None });
        };
        if text.lakeferry != VERSION {
            return Err(ConnectError::config(format!(
                "the offset was committed by a newer version of this program: {}",
                committed.metadata
            )));
        }
        let stored = text.at.map(|mut at| {
            at.extend([number]);
            SourceOffset::new(at)
        });
        let tail = Tail { last: text.delivered, marker: text.marker };
        Ok(Self { stored: stored.transpose()?, tail: Some(tail), topic_id: text.topic_id, what: text.what })
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
        let text = Text { lakeferry: VERSION, at: map, delivered: last, marker, topic_id, what };
        let metadata = serde_json::to_string(&text)
            .map_err(|error| ConnectError::fatal("a mark cannot be written").caused_by(error))?;
        Ok(Committed { offset, metadata })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn stored(json: Value) -> Option<SourceOffset> {
        Some(SourceOffset::new(json.as_object().unwrap().clone()).unwrap())
    }

    #[test]
    fn a_mark_comes_back_as_it_was() {
        for stored in [None, stored(json!({ "lineage": 2, "offset": 77 }))] {
            for marker in [false, true] {
                let tail = Some(Tail { last: 41, marker });
                let mark = Mark { stored: stored.clone(), tail, topic_id: Some("id".into()), what: Some("w".into()) };
                let commit = mark.commit().unwrap();
                assert_eq!(commit.offset, if stored.is_some() { 77 } else { 0 });
                assert_eq!(Mark::read(&commit).unwrap(), mark);
            }
        }
    }

    #[test]
    fn the_group_s_number_counts_and_a_bare_one_stands_for_itself() {
        let tail = Some(Tail { last: 41, marker: true });
        let mark = Mark { stored: stored(json!({ "lineage": 2, "offset": 77 })), tail, topic_id: None, what: None };
        let moved = Committed { offset: 50, ..mark.commit().unwrap() };
        assert_eq!(Mark::read(&moved).unwrap().stored, stored(json!({ "lineage": 2, "offset": 50 })));
        for metadata in ["", "by hand", "{}"] {
            let bare = Mark::read(&Committed { offset: 9, metadata: metadata.into() }).unwrap();
            assert_eq!((bare.stored, bare.tail), (stored(json!({ "offset": 9 })), None), "{metadata}");
        }
    }

    #[test]
    fn a_newer_mark_is_refused() {
        let metadata = json!({ "lakeferry": 2, "at": null, "delivered": 1 }).to_string();
        assert!(Mark::read(&Committed { offset: 9, metadata }).is_err());
    }
}
