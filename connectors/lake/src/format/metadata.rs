//! What a file says of itself, to and from the key-value metadata of the formats.

use lakeferry_api::{ConnectError, Result};

use super::{FileHeader, FileMetadata};

const VERSION: &str = "lakeferry.version";
const CLUSTER_ID: &str = "lakeferry.cluster_id";
const TOPIC_ID: &str = "lakeferry.topic_id";
const FIRST_OFFSET: &str = "lakeferry.first_offset";
const LAST_OFFSET: &str = "lakeferry.last_offset";

impl FileMetadata {
    /// What a file that begins with `header` and is written by this version says, its offsets left out.
    pub(super) fn new(header: &FileHeader) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            cluster_id: header.cluster_id.clone(),
            topic_id: header.topic_id.clone(),
            first_offset: None,
            last_offset: None,
        }
    }

    /// The keys that have a value, in a fixed order.
    pub(super) fn pairs(&self) -> impl Iterator<Item = (&'static str, String)> {
        let pairs = [
            (VERSION, Some(self.version.clone())),
            (CLUSTER_ID, self.cluster_id.clone()),
            (TOPIC_ID, self.topic_id.clone()),
            (FIRST_OFFSET, self.first_offset.map(|offset| offset.to_string())),
            (LAST_OFFSET, self.last_offset.map(|offset| offset.to_string())),
        ];
        pairs.into_iter().filter_map(|(key, value)| Some((key, value?)))
    }

    /// What `value_of` has for each key.
    ///
    /// # Errors
    /// `Fatal` where the version is missing or an offset is not a number.
    pub(super) fn read<'a>(value_of: impl Fn(&str) -> Option<&'a str>) -> Result<Self> {
        let text = |key| value_of(key).map(str::to_owned);
        let offset = |key| {
            let number = value_of(key).map(str::parse).transpose();
            number.map_err(|_| ConnectError::fatal(format!("metadata {key} is not an offset: {:?}", value_of(key))))
        };
        let version = text(VERSION);
        Ok(Self {
            version: version.ok_or_else(|| {
                ConnectError::fatal(format!("the file has no metadata {VERSION}: Lakeferry did not write it"))
            })?,
            cluster_id: text(CLUSTER_ID),
            topic_id: text(TOPIC_ID),
            first_offset: offset(FIRST_OFFSET)?,
            last_offset: offset(LAST_OFFSET)?,
        })
    }
}
