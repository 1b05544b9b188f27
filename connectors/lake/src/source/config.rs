//! The replay source's settings: declared once, lowered once at start. Below this file there are no string keys.

mod values;

use std::collections::BTreeMap;

use fancy_regex::Regex;
use lakeferry_api::config_def::{ConfigKey, ConfigType, ConfigValue, Importance, Width};
use lakeferry_api::{Config, ConfigDef, ConnectError, ParsedConfig, Result, TopicPartition};

pub use self::values::milliseconds;
use self::values::{
    is_incarnation, is_instant, is_offsets, is_pattern, is_rate, is_rename, is_replication_factor, is_topic_id,
    offsets, pattern, renames,
};
use super::cut::{Cut, CutMode, Window};
use crate::config::{LakeSettings, lake_def};
use crate::manifest::model::OffsetRange;

/// What to replay, and how.
#[derive(Debug, Clone)]
pub struct SourceSettings {
    /// Where the lake is.
    pub lake: LakeSettings,
    /// `topics`, `topics.regex`.
    pub topics: Topics,
    /// `topic.rename`.
    pub rename: BTreeMap<String, String>,
    /// `lineage`.
    pub lineage: Incarnation,
    /// `replay.untimed=now`: records that cannot be produced as they were get the time of their replay.
    pub stamp_untimed: bool,
    /// `replay.from`, `replay.until`, `replay.cut`.
    pub cut: Cut,
    /// `replay.offsets`: sorted, disjoint ranges; `None`: all.
    pub offsets: Option<BTreeMap<TopicPartition, Vec<OffsetRange>>>,
    /// `replay.order=time`.
    pub by_time: bool,
    /// `replay.rate.bytes`.
    pub rate_bytes: Option<u64>,
    /// `replay.end=follow`.
    pub follow: bool,
    /// `replay.follow.interval.ms`.
    pub follow_interval_ms: u64,
    /// `provenance.headers`.
    pub provenance: bool,
    /// `replay.force`: write to targets that would delete, compact or re-stamp.
    pub force: bool,
    /// `replay.replication.factor` of topics that are created; `None`: the broker's default.
    pub replication_factor: Option<u32>,
    /// Which partitions are this task's.
    pub share: Share,
}

/// Which archived topics.
#[derive(Debug, Clone)]
pub enum Topics {
    /// These.
    Names(Vec<String>),
    /// All that this matches as a whole.
    Pattern(Regex),
}

/// Which incarnation of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Incarnation {
    /// The log as it was last known.
    Latest,
    /// The lineage of this number.
    Number(u32),
    /// The topic that had this id.
    TopicId(String),
}

/// One of several tasks that share the partitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// Which one.
    pub index: u32,
    /// Of how many.
    pub count: u32,
}

/// The task's number among those of its connector: set by the connector, not by users.
pub(super) const TASK_INDEX: &str = "lakeferry.task.index";
/// How many tasks the connector has.
pub(super) const TASK_COUNT: &str = "lakeferry.task.count";

const TOPICS: &str = "Topics";
const REPLAY: &str = "Replay";
const TARGET: &str = "Target";

/// The definition of the source.
pub fn source_def() -> ConfigDef {
    target_keys(pace_keys(replay_keys(topic_keys(lake_def()))))
}

fn row(name: &str, kind: ConfigType, doc: &str) -> ConfigKey {
    ConfigKey::new(name, kind).doc(doc)
}

fn topic_keys(def: ConfigDef) -> ConfigDef {
    use ConfigType::{List, String};
    def.define(
        row("topics", List, "Archived topics to replay. Either this or topics.regex.")
            .default("")
            .importance(Importance::High)
            .shown(TOPICS, 1, Width::Long, "Topics"),
    )
    .define(
        row("topics.regex", String, "Replays every archived topic whose whole name this regular expression matches.")
            .default_null()
            .check(is_pattern)
            .importance(Importance::High)
            .shown(TOPICS, 2, Width::Long, "Topics regex"),
    )
    .define(row("topic.rename", List, "Names in the target: a list of from:to.").default("").check(is_rename).shown(
        TOPICS,
        3,
        Width::Long,
        "Rename",
    ))
    .define(
        row(
            "lineage",
            String,
            "Which incarnation of a re-created topic: latest (the newest that holds records), the number of a lineage, \
             or a topic id.",
        )
        .default("latest")
        .check(is_incarnation)
        .shown(TOPICS, 4, Width::Medium, "Incarnation"),
    )
}

fn replay_keys(def: ConfigDef) -> ConfigDef {
    use ConfigType::{List, String};
    let instant =
        "an ISO-8601 instant or milliseconds since the epoch, inclusive, compared with each record's timestamp";
    let moment = |name: &str, which: &str, order: i32, shown: &str| {
        row(name, String, &format!("{which} record to replay by time: {instant}."))
            .default_null()
            .check(is_instant)
            .importance(Importance::High)
            .shown(REPLAY, order, Width::Medium, shown)
    };
    def.define(moment("replay.from", "Earliest", 1, "From"))
        .define(moment("replay.until", "Latest", 2, "Until"))
        .define(
            row(
                "replay.cut",
                String,
                "record: exactly the records whose timestamp lies inside; log: of each partition the prefix that ends \
                 before the first record later than replay.until.",
            )
            .default("record")
            .one_of(&["record", "log"])
            .shown(REPLAY, 3, Width::Short, "Cut"),
        )
        .define(
            row("replay.offsets", List, "Replays only these: a list of topic:partition:from:to, bounds inclusive.")
                .default("")
                .check(is_offsets)
                .shown(REPLAY, 4, Width::Long, "Offsets"),
        )
        .define(
            row(
                "replay.untimed",
                String,
                "Records with no timestamp or one of 0 or less, which the client library cannot produce as they were: fail \
                 (before anything is written), or now: stamp them when they are replayed.",
            )
            .default("fail")
            .one_of(&["fail", "now"])
            .shown(REPLAY, 5, Width::Short, "Untimed records"),
        )
}

fn pace_keys(def: ConfigDef) -> ConfigDef {
    use ConfigType::{Boolean, Long, String};
    def.define(
        row(
            "replay.order",
            String,
            "partition: each partition as fast as it goes; time: partitions advance together by timestamp, in one \
                 task.",
        )
        .default("partition")
        .one_of(&["partition", "time"])
        .shown(REPLAY, 6, Width::Short, "Order"),
    )
    .define(
        row("replay.rate.bytes", Long, "Bytes a second of all tasks together; -1: as fast as it goes.")
            .default("-1")
            .check(is_rate)
            .shown(REPLAY, 7, Width::Short, "Rate"),
    )
    .define(
        row("replay.end", String, "At the end of the archive: stop, or follow: replay new entries as they appear.")
            .default("stop")
            .one_of(&["stop", "follow"])
            .shown(REPLAY, 8, Width::Short, "At the end"),
    )
    .define(
        row("replay.follow.interval.ms", Long, "How often replay.end=follow looks for new entries.")
            .default("5000")
            .at_least(10)
            .importance(Importance::Low)
            .shown(REPLAY, 9, Width::Short, "Follow interval"),
    )
    .define(
        row("provenance.headers", Boolean, "Adds headers that say where each record was archived from.")
            .default("false")
            .importance(Importance::Low)
            .shown(REPLAY, 10, Width::Short, "Provenance headers"),
    )
}

fn target_keys(def: ConfigDef) -> ConfigDef {
    use ConfigType::{Boolean, Int};
    let task = |name: &str, default: &str| {
        let mut key = row(name, Int, "Set by the connector for its tasks.").default(default).at_least(0);
        key.internal = true;
        key
    };
    def.define(
        row("replay.force", Boolean, "Writes to existing topics that would delete, compact or re-stamp the records.")
            .default("false")
            .importance(Importance::Low)
            .shown(TARGET, 1, Width::Short, "Force"),
    )
    .define(
        row(
            "replay.replication.factor",
            Int,
            "Replication factor of topics that are created; -1: the broker's default.",
        )
        .default("-1")
        .check(is_replication_factor)
        .importance(Importance::Low)
        .shown(TARGET, 2, Width::Short, "Replication factor"),
    )
    .define(task(TASK_INDEX, "0"))
    .define(task(TASK_COUNT, "1"))
}

impl SourceSettings {
    /// False where only offsets of other partitions are asked for.
    pub fn asks_for(&self, partition: &TopicPartition) -> bool {
        self.offsets.as_ref().is_none_or(|wanted| wanted.contains_key(partition))
    }

    /// Checks and lowers a source's config.
    ///
    /// # Errors
    /// `Config` naming the key, the value and the remedy.
    pub fn parse(config: &Config) -> Result<Self> {
        let parsed = source_def().parse(config)?;
        let window = Window { from: instant(&parsed, "replay.from")?, until: instant(&parsed, "replay.until")? };
        let mode = if parsed.text("replay.cut")? == "log" { CutMode::Log } else { CutMode::Record };
        let count = |name: &str| parsed.integer(name).map(|count| u32::try_from(count).unwrap_or_default());
        let positive = |name: &str| parsed.integer(name).map(|value| Some(value).filter(|value| *value > 0));
        let settings = Self {
            lake: LakeSettings::parse(config, &parsed)?,
            topics: topics(&parsed)?,
            rename: renames(parsed.list("topic.rename")).map_err(|why| refuse("topic.rename", &why))?,
            lineage: incarnation(parsed.text("lineage")?),
            stamp_untimed: parsed.text("replay.untimed")? == "now",
            cut: Cut { window, mode },
            offsets: offsets(parsed.list("replay.offsets")).map_err(|why| refuse("replay.offsets", &why))?,
            by_time: parsed.text("replay.order")? == "time",
            rate_bytes: positive("replay.rate.bytes")?.map(i64::unsigned_abs),
            follow: parsed.text("replay.end")? == "follow",
            follow_interval_ms: parsed.integer("replay.follow.interval.ms")?.unsigned_abs(),
            provenance: parsed.boolean("provenance.headers"),
            force: parsed.boolean("replay.force"),
            replication_factor: positive("replay.replication.factor")?.and_then(|factor| u32::try_from(factor).ok()),
            share: Share { index: count(TASK_INDEX)?, count: count(TASK_COUNT)?.max(1) },
        };
        settings.check().map(|()| settings)
    }

    /// The name that `topic` has in the target.
    pub fn target_of<'a>(&'a self, topic: &'a str) -> &'a str {
        self.rename.get(topic).map_or(topic, String::as_str)
    }

    /// What holds between keys.
    fn check(&self) -> Result<()> {
        if let Window { from: Some(from), until: Some(until) } = self.cut.window
            && from > until
        {
            return Err(refuse("replay.until", "it lies before replay.from: nothing would be replayed"));
        }
        if self.follow && self.offsets.is_some() {
            return Err(refuse("replay.end", "follow and replay.offsets exclude each other; use stop"));
        }
        let mut targets = BTreeMap::new();
        for (from, to) in &self.rename {
            if !self.topics.has(from) {
                return Err(refuse("topic.rename", &not_chosen(from, &self.topics)));
            }
            if let Some(other) = targets.insert(to, from) {
                return Err(refuse(
                    "topic.rename",
                    &format!("{other} and {from} would both become {to}; give each topic its own"),
                ));
            }
        }
        Ok(())
    }
}

impl Share {
    /// True where `partition` is this task's.
    pub fn has(&self, partition: &TopicPartition) -> bool {
        // FNV-1a: the same in every task and every version.
        let hash = partition
            .topic
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        let number = hash.wrapping_add(u64::from(partition.partition.unsigned_abs()));
        number % u64::from(self.count) == u64::from(self.index)
    }
}

impl Topics {
    /// True where `topic` is wanted.
    pub fn has(&self, topic: &str) -> bool {
        match self {
            Self::Names(names) => names.iter().any(|name| name == topic),
            Self::Pattern(pattern) => pattern.is_match(topic).unwrap_or(false),
        }
    }
}

fn not_chosen(from: &str, topics: &Topics) -> String {
    match topics {
        Topics::Names(names) => {
            format!("{from} is not among the topics that are chosen: {}; correct the name", names.join(", "))
        }
        Topics::Pattern(_) => format!("{from} does not match topics.regex; correct the name"),
    }
}

fn refuse(key: &str, why: &str) -> ConnectError {
    ConnectError::config(format!("{key} cannot be used: {why}"))
}

fn topics(parsed: &ParsedConfig) -> Result<Topics> {
    let names: Vec<String> = parsed.list("topics").iter().filter(|name| !name.is_empty()).cloned().collect();
    match (names.is_empty(), parsed.text_if_set("topics.regex")) {
        (false, None) => Ok(Topics::Names(names)),
        (true, Some(text)) => pattern(text).map(Topics::Pattern).map_err(|why| refuse("topics.regex", &why)),
        (false, Some(_)) => Err(refuse("topics.regex", "topics is set too; remove one of the two")),
        (true, None) => Err(refuse("topics", "it is empty; name archived topics here or in topics.regex")),
    }
}

fn incarnation(text: &str) -> Incarnation {
    match (text, text.parse()) {
        ("latest", _) => Incarnation::Latest,
        (_, Ok(number)) => Incarnation::Number(number),
        _ => Incarnation::TopicId(text.to_owned()),
    }
}

/// Tells a `lineage` that can be none: an archive would only say so once a task reads it.
pub(super) fn check_lineage(values: &mut [ConfigValue]) {
    let Some(value) = values.iter_mut().find(|value| value.name == "lineage" && value.errors.is_empty()) else {
        return;
    };
    if let Some(text) = value.value.as_deref()
        && let Incarnation::TopicId(id) = incarnation(text)
        && !is_topic_id(&id)
    {
        value.errors.push(format!(
            "Invalid value {id} for configuration lineage: write latest, the number of a lineage, or a topic id of 22 \
             characters as lakeferry inspect lists them"
        ));
    }
}

/// Milliseconds since the epoch. An instant finer than that is moved inwards, so that the bound stays exact.
fn instant(parsed: &ParsedConfig, key: &str) -> Result<Option<i64>> {
    let Some(text) = parsed.text_if_set(key) else { return Ok(None) };
    let upwards = key == "replay.from";
    milliseconds(text, upwards).map(Some).map_err(|why| refuse(key, &why))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(pairs: &[(&str, &str)]) -> Result<SourceSettings> {
        let base = [("store.url", "memory:///config"), ("topics", "orders")];
        let pairs = base.iter().chain(pairs);
        SourceSettings::parse(&pairs.map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn defaults_replay_everything_as_it_was() {
        let settings = parse(&[]).unwrap();
        assert!(settings.cut.window.is_everything() && settings.offsets.is_none());
        assert!(!settings.stamp_untimed && !settings.follow && !settings.by_time && !settings.provenance);
        assert_eq!(settings.target_of("orders"), "orders");
        assert!(settings.share.has(&TopicPartition::new("orders", 7)));
    }

    #[test]
    fn instants_are_exact_to_the_millisecond() {
        assert_eq!(milliseconds("2013-06-30T23:59:59.999Z", false), Ok(1_372_636_799_999));
        assert_eq!(milliseconds("2013-07-01T01:59:59.999+02:00", false), Ok(1_372_636_799_999));
        assert_eq!(milliseconds("1372636799999", false), Ok(1_372_636_799_999));
        assert_eq!(milliseconds("2013-06-30T23:59:59.9990001Z", false), Ok(1_372_636_799_999));
        assert_eq!(milliseconds("2013-06-30T23:59:59.9990001Z", true), Ok(1_372_636_800_000));
        assert_eq!(milliseconds("-5", false), Ok(-5));
        for bad in ["2013-06-30", "2013-06-30T23:59:59", "yesterday", ""] {
            assert!(milliseconds(bad, false).is_err(), "{bad}");
        }
    }

    #[test]
    fn every_key_is_lowered() {
        let settings = parse(&[
            ("topics", ""),
            ("topics.regex", "or.*s"),
            ("topic.rename", "orders:copy, oranges : next"),
            ("lineage", "2"),
            ("replay.untimed", "now"),
            ("replay.from", "5"),
            ("replay.until", "9"),
            ("replay.cut", "log"),
            ("replay.offsets", "orders:1:9:20, orders:1:0:3"),
            ("replay.order", "time"),
            ("replay.rate.bytes", "1000"),
            ("provenance.headers", "true"),
            ("replay.force", "true"),
            ("replay.replication.factor", "3"),
        ]);
        let settings = settings.unwrap();
        assert!(settings.topics.has("orders") && !settings.topics.has("orders2") && !settings.topics.has("xors"));
        assert_eq!(settings.target_of("oranges"), "next");
        assert_eq!(settings.lineage, Incarnation::Number(2));
        let window = Window { from: Some(5), until: Some(9) };
        assert_eq!(settings.cut, Cut { window, mode: CutMode::Log });
        let ranges = &settings.offsets.as_ref().unwrap()[&TopicPartition::new("orders", 1)];
        assert_eq!(ranges, &[OffsetRange::new(0, 3), OffsetRange::new(9, 20)]);
        assert_eq!((settings.rate_bytes, settings.replication_factor), (Some(1000), Some(3)));
        assert!(settings.stamp_untimed && settings.by_time && settings.provenance && settings.force);
    }

    #[test]
    fn a_bad_value_names_its_key() {
        let bad: [(&str, &str); 13] = [
            ("topics.regex", "x"),
            ("replay.from", "yesterday"),
            ("replay.cut", "half"),
            ("replay.offsets", "orders:1:9"),
            ("replay.offsets", "orders:1:9:3"),
            ("replay.offsets", "orders:1:0:9,orders:1:9:12"),
            ("topic.rename", "orders"),
            ("topic.rename", "orders:x,orders:y"),
            ("topic.rename", "order:x"),
            ("lineage", "0"),
            ("replay.rate.bytes", "0"),
            ("replay.replication.factor", "0"),
            ("replay.order", "size"),
        ];
        for (key, value) in bad {
            let error = parse(&[(key, value)]).unwrap_err();
            assert!(error.message().contains(key), "{key}={value}: {error}");
        }
        assert!(parse(&[("replay.from", "9"), ("replay.until", "5")]).is_err());
        assert!(parse(&[("topics", "a,b"), ("topic.rename", "a:x,b:x")]).is_err());
        parse(&[("topics", ""), ("topics.regex", "or.*"), ("topic.rename", "ordres:x")]).unwrap();
        let error = parse(&[("topics", ""), ("topics.regex", "or.*"), ("topic.rename", "Orders:x")]).unwrap_err();
        assert!(error.message().contains("Orders") && error.message().contains("topics.regex"), "{error}");
        assert!(parse(&[("replay.end", "follow"), ("replay.offsets", "orders:1:0:9")]).is_err());
    }

    #[test]
    fn every_partition_is_the_share_of_one_task() {
        for count in 1..7 {
            for partition in (0..40).map(|partition| TopicPartition::new("orders", partition)) {
                let owners = (0..count).filter(|index| Share { index: *index, count }.has(&partition)).count();
                assert_eq!(owners, 1);
            }
            let most = (0..count)
                .map(|index| {
                    let share = Share { index, count };
                    (0..12).filter(|partition| share.has(&TopicPartition::new("orders", *partition))).count() as u32
                })
                .max();
            assert_eq!(most, Some(12_u32.div_ceil(count)), "one topic is spread evenly");
        }
    }
}
