//! Where things lie: object names to and from what they say. Pure; called by the sink, the source and the tools.
//!
//! ```text
//! <topics.dir>/<topic>/partition=<p>/<first offset, 20 digits>-<epoch, 10 digits>-<n>-<writer id, 8 hex>.<extension>
//! <topics.dir>/<topic>/_manifests/partition=<p>/<seq, 20 digits>.json
//! ```
//!
//! Invariant: a name that is parsed was built by these functions and no other name parses, so what other programs put
//! beside an archive is never taken for a part of it. Paths are parsed, never percent-encoded: `=` stays `=`.

use std::fmt;
use std::str::FromStr;

use lakeferry_api::{ConnectError, Result, TopicPartition};
use object_store::path::Path;

/// The folder between a topic and the manifests of its partitions.
const MANIFESTS: &str = "_manifests";
/// What the folder of a partition begins with.
const PARTITION: &str = "partition=";
/// What the name of a manifest ends with.
const JSON: &str = ".json";

/// The names of one archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    topics_dir: Path,
}

/// What the name of a data object says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectName {
    /// The offset of its first record.
    pub first_offset: i64,
    /// The epoch that began it.
    pub epoch: u32,
    /// How many files that epoch had begun before it: with the epoch, what makes the name unique.
    pub n: u32,
    /// The first 32 bits of the writer's id.
    pub writer: u32,
    /// What stands after the first dot: the format.
    pub extension: String,
}

impl Layout {
    /// The names below `topics_dir` (the setting `topics.dir`).
    ///
    /// # Errors
    /// `Config` where it is empty or no path.
    pub fn new(topics_dir: &str) -> Result<Self> {
        let refuse = |why: String| {
            let remedy = "give the name of a folder below store.url, for example topics";
            Err(ConnectError::config(format!("topics.dir={topics_dir} cannot be used: {why}; {remedy}")))
        };
        match Path::parse(topics_dir.trim_matches('/')) {
            Ok(path) if path.is_root() => refuse("it is empty".into()),
            Ok(topics_dir) => Ok(Self { topics_dir }),
            Err(error) => refuse(error.to_string()),
        }
    }

    /// The folder of all topics.
    pub fn topics_dir(&self) -> &Path {
        &self.topics_dir
    }

    /// The folder of `topic`.
    pub fn topic_dir(&self, topic: &str) -> Path {
        self.below(topic)
    }

    /// The folder of the manifests of all partitions of `topic`.
    pub fn manifests_dir(&self, topic: &str) -> Path {
        self.below(&format!("{topic}/{MANIFESTS}"))
    }

    /// The folder of the manifests of `partition`.
    pub fn chain_dir(&self, partition: &TopicPartition) -> Path {
        self.below(&format!("{}/{MANIFESTS}/{PARTITION}{}", partition.topic, partition.partition))
    }

    /// The manifest entry `seq` of `partition`.
    pub fn entry(&self, partition: &TopicPartition, seq: u64) -> Path {
        self.below(&format!("{}/{MANIFESTS}/{PARTITION}{}/{seq:020}{JSON}", partition.topic, partition.partition))
    }

    /// The folder of the data objects of `partition`.
    pub fn data_dir(&self, partition: &TopicPartition) -> Path {
        self.below(&format!("{}/{PARTITION}{}", partition.topic, partition.partition))
    }

    /// The data object `name` of `partition`.
    pub fn data(&self, partition: &TopicPartition, name: &ObjectName) -> Path {
        self.below(&format!("{}/{PARTITION}{}/{name}", partition.topic, partition.partition))
    }

    /// The object that the probe called `id` writes and removes.
    pub fn probe(&self, id: u128) -> Path {
        self.below(&format!(".probe-{id:032x}"))
    }

    /// True for the object of a probe, which stays only where its writer died over it.
    pub fn is_probe(&self, path: &Path) -> bool {
        let id = self.relative(path).and_then(|name| name.strip_prefix(".probe-").map(str::to_owned));
        id.is_some_and(|id| id.len() == 32 && id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')))
    }

    /// The object at `path`, which is relative to `topics.dir` as manifests have it.
    ///
    /// # Errors
    /// `Fatal` where `path` is none, or leads out of the archive.
    pub fn object(&self, path: &str) -> Result<Path> {
        let parsed = Path::parse(path).map_err(|error| {
            ConnectError::fatal(format!("\"{path}\" in a manifest is not the path of an object: {error}"))
        })?;
        Ok(self.below(parsed.as_ref()))
    }

    /// `path` relative to `topics.dir`, as manifests have it; `None` where it lies elsewhere.
    pub fn relative(&self, path: &Path) -> Option<String> {
        let relative: Path = path.prefix_match(&self.topics_dir)?.collect();
        (!relative.is_root()).then(|| relative.to_string())
    }

    /// The topic and partition whose manifests lie in the folder `path`.
    pub fn parse_chain_dir(&self, path: &Path) -> Option<TopicPartition> {
        let relative = self.relative(path)?;
        let mut parts = relative.split('/');
        let (topic, manifests, partition) = (parts.next()?, parts.next()?, parts.next()?);
        if manifests != MANIFESTS || parts.next().is_some() {
            return None;
        }
        Some(TopicPartition::new(topic, parse_partition(partition)?))
    }

    /// The topic and partition whose data objects lie in the folder `path`.
    pub fn parse_data_dir(&self, path: &Path) -> Option<TopicPartition> {
        let relative = self.relative(path)?;
        let (topic, partition) = relative.split_once('/')?;
        Some(TopicPartition::new(topic, parse_partition(partition)?))
    }

    /// The partition and number of the manifest entry at `path`.
    pub fn parse_entry(&self, path: &Path) -> Option<(TopicPartition, u64)> {
        let (dir, name) = path.as_ref().rsplit_once('/')?;
        let seq = parse_padded(name.strip_suffix(JSON)?, 20)?;
        Some((self.parse_chain_dir(&Path::parse(dir).ok()?)?, seq))
    }

    /// The partition and name of the data object at `path`, which must lie directly in its partition's folder.
    pub fn parse_data(&self, path: &Path) -> Option<(TopicPartition, ObjectName)> {
        let relative = self.relative(path)?;
        let mut parts = relative.split('/');
        let (topic, partition, name) = (parts.next()?, parts.next()?, parts.next()?);
        if parts.next().is_some() {
            return None;
        }
        Some((TopicPartition::new(topic, parse_partition(partition)?), name.parse().ok()?))
    }

    fn below(&self, relative: &str) -> Path {
        let text = format!("{}/{relative}", self.topics_dir);
        // Kafka allows no topic name that a path refuses ("." and ".."); a user may still type one, and is then told
        // that nothing lies there, at the encoded name.
        Path::parse(&text).unwrap_or_else(|_| Path::from(text))
    }
}

impl ObjectName {
    /// What every name begins with: an offset has 19 digits at most.
    pub const START: &str = "0";
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { first_offset, epoch, n, writer, extension } = self;
        write!(f, "{first_offset:020}-{epoch:010}-{n}-{writer:08x}.{extension}")
    }
}

/// The error of a name that is not an [`ObjectName`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not the name of a data object")]
pub struct ForeignName(String);

impl FromStr for ObjectName {
    type Err = ForeignName;

    fn from_str(text: &str) -> Result<Self, ForeignName> {
        parse_object_name(text).ok_or_else(|| ForeignName(text.to_owned()))
    }
}

fn parse_object_name(text: &str) -> Option<ObjectName> {
    let (stem, extension) = text.split_once('.')?;
    let mut parts = stem.split('-');
    let name = ObjectName {
        first_offset: i64::try_from(parse_padded(parts.next()?, 20)?).ok()?,
        epoch: u32::try_from(parse_padded(parts.next()?, 10)?).ok()?,
        n: parse_plain(parts.next()?)?,
        writer: parse_hex8(parts.next()?)?,
        extension: extension.to_owned(),
    };
    (parts.next().is_none() && !extension.is_empty()).then_some(name)
}

fn parse_partition(text: &str) -> Option<i32> {
    i32::try_from(parse_plain(text.strip_prefix(PARTITION)?)?).ok()
}

/// Digits only, exactly `width` of them.
fn parse_padded(text: &str, width: usize) -> Option<u64> {
    let digits = text.len() == width && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

/// Digits only, without leading zeros.
fn parse_plain(text: &str) -> Option<u32> {
    let value: u32 = text.parse().ok()?;
    (value.to_string() == text).then_some(value)
}

/// Eight lower-case hex digits.
fn parse_hex8(text: &str) -> Option<u32> {
    let value = u32::from_str_radix(text, 16).ok()?;
    (format!("{value:08x}") == text).then_some(value)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn topic() -> impl Strategy<Value = String> {
        let legal = "[a-zA-Z0-9._-]{1,249}".prop_filter("Kafka refuses . and ..", |name| name != "." && name != "..");
        prop_oneof![
            4 => legal,
            1 => Just("a".repeat(249)),
            1 => Just("...".to_owned()),
            1 => Just("_manifests".to_owned()),
            1 => Just("partition.0".to_owned()),
            1 => Just(".hidden-_.".to_owned()),
        ]
    }

    fn object_name() -> impl Strategy<Value = ObjectName> {
        (0..=i64::MAX, any::<u32>(), any::<u32>(), any::<u32>(), "[a-z]{1,8}(\\.[a-z]{1,4})?").prop_map(
            |(first_offset, epoch, n, writer, extension)| ObjectName { first_offset, epoch, n, writer, extension },
        )
    }

    proptest! {
        #[test]
        fn names_come_back_as_they_went(
            topic in topic(), partition in 0..=i32::MAX, seq in any::<u64>(), name in object_name(),
            dir in "[a-z=]{1,9}(/[a-z._ %]{1,9}x)?",
        ) {
            let layout = Layout::new(&dir).unwrap();
            let partition = TopicPartition::new(topic, partition);

            let entry = layout.entry(&partition, seq);
            prop_assert_eq!(layout.parse_entry(&entry), Some((partition.clone(), seq)));
            prop_assert_eq!(layout.parse_data(&entry), None);
            prop_assert_eq!(layout.parse_chain_dir(&layout.chain_dir(&partition)), Some(partition.clone()));

            prop_assert!(name.to_string().starts_with(ObjectName::START));
            let data = layout.data(&partition, &name);
            prop_assert_eq!(layout.parse_data(&data), Some((partition.clone(), name)));
            prop_assert_eq!(layout.parse_entry(&data), None);
            prop_assert_eq!(layout.parse_data_dir(&layout.data_dir(&partition)), Some(partition.clone()));
            prop_assert_eq!(layout.parse_data_dir(&data), None);
            let relative = layout.relative(&data).unwrap();
            prop_assert_eq!(layout.object(&relative).unwrap(), data.clone());
            prop_assert!(data.as_ref().starts_with(&format!("{dir}/{}/partition=", partition.topic)), "{}", data);
            prop_assert!(data.filename().unwrap().len() <= 255);
        }

        #[test]
        fn no_text_that_parses_is_spelled_otherwise(text in "[0-9]{19,21}-[0-9]{9,11}-[0-9]{1,3}-[0-9a-fA-F]{7,9}\\.[a-z]{0,3}") {
            if let Ok(name) = text.parse::<ObjectName>() {
                prop_assert_eq!(name.to_string(), text);
            }
        }

        #[test]
        fn names_sort_as_offsets_do(one in 0..=i64::MAX, other in 0..=i64::MAX) {
            let name = |first_offset| ObjectName { first_offset, epoch: 1, n: 0, writer: 7, extension: "avro".into() };
            prop_assert_eq!(one.cmp(&other), name(one).to_string().cmp(&name(other).to_string()));
        }
    }

    #[test]
    fn the_names_are_those_of_the_specification() {
        let layout = Layout::new("/topics/").unwrap();
        let partition = TopicPartition::new("orders", 0);
        let name = ObjectName { first_offset: 0, epoch: 1, n: 0, writer: 0x0b9f_12ab, extension: "parquet".into() };
        let data = "topics/orders/partition=0/00000000000000000000-0000000001-0-0b9f12ab.parquet";
        assert_eq!(layout.data(&partition, &name).as_ref(), data);
        let entry = "topics/orders/_manifests/partition=0/00000000000000000012.json";
        assert_eq!(layout.entry(&partition, 12).as_ref(), entry);
        assert!(layout.is_probe(&layout.probe(7)) && layout.is_probe(&layout.probe(u128::MAX)));
        for other in ["topics/.probe-7", "topics/orders/.probe-00000000000000000000000000000007", data, entry] {
            assert!(!layout.is_probe(&Path::from(other)), "{other}");
        }
    }

    #[test]
    fn a_path_cannot_leave_the_archive() {
        let layout = Layout::new("topics").unwrap();
        assert!(layout.object("../secrets").is_err());
        assert!(layout.object("orders/../../secrets").is_err());
        assert_eq!(layout.topic_dir("..").as_ref(), "topics/%2E%2E");
        for empty in ["", "/", "a//b", ".."] {
            assert!(Layout::new(empty).is_err(), "{empty}");
        }
    }
}
