//! Typed settings of the lake connectors, lowered once from their `ConfigDef` tables; below this file there are no
//! string keys. The keys that both connectors share (where the lake is) stand here once.

use std::collections::BTreeMap;

use chrono_tz::Tz;
use lakeferry_api::config_def::{ConfigKey, ConfigType, ConfigValue, Importance, Parsed, Width};
use lakeferry_api::{Config, ConfigDef, ConnectError, ParsedConfig, Result};

use crate::store;

/// Where the lake is and how to reach it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LakeSettings {
    /// `store.url`.
    pub url: String,
    /// `store.<option>` without the prefix.
    pub options: BTreeMap<String, String>,
    /// `hadoop.conf.dir`.
    pub hadoop_conf_dir: Option<String>,
    /// `topics.dir`.
    pub topics_dir: String,
}

/// The settings of the archive sink.
#[derive(Debug, Clone)]
pub struct SinkSettings {
    /// Where the lake is.
    pub lake: LakeSettings,
    /// `format`: a name of the formats' table.
    pub format: String,
    /// `codec`; `None`: the format's default.
    pub codec: Option<String>,
    /// `codec.level`; `None`: the codec's default.
    pub codec_level: Option<i32>,
    /// When a file is full.
    pub rotation: Rotation,
    /// `archive.takeover`: the owners whose chains may be continued.
    pub takeover: Vec<String>,
    /// `errors.on.gap=fail`.
    pub fail_on_gap: bool,
    /// `lakeferry.part.bytes`: the size of an upload part.
    pub part_bytes: usize,
}

/// When a file is full; every bound that is `None` does not apply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rotation {
    /// `flush.size`: records in a file.
    pub records: u64,
    /// `rotate.bytes`: stored bytes in a file, near enough.
    pub bytes: u64,
    /// `rotate.interval.ms`: span of record time in a file.
    pub record_time_ms: Option<i64>,
    /// `rotate.schedule.interval.ms`: wall-clock boundaries in `timezone`.
    pub schedule_ms: Option<i64>,
    /// `rotate.age.ms`: time since the file's first record was fetched.
    pub age_ms: i64,
    /// `timezone`: where the boundaries of `schedule_ms` are counted from midnight.
    pub timezone: Tz,
}

const LAKE: &str = "Lake";
const FILES: &str = "Files";
const ARCHIVE: &str = "Archive";
/// An S3 store takes no smaller part, except the last.
const MIN_PART_BYTES: i64 = 5 * 1024 * 1024;

/// The keys that say where the lake is; both connectors have them.
pub fn lake_def() -> ConfigDef {
    use ConfigType::{Password, String};
    let option = |name: &str, kind: ConfigType, doc: &str, order: i32| {
        ConfigKey::new(format!("store.{name}"), kind).default_null().importance(Importance::Medium).doc(doc).shown(
            LAKE,
            order,
            Width::Medium,
            name,
        )
    };
    ConfigDef::new()
        .define(
            ConfigKey::new("store.url", String)
                .check(given)
                .importance(Importance::High)
                .doc(
                    "Where the lake is: file:///dir, s3://bucket/prefix, hdfs://host:port/dir or \
                     hdfs://nameservice/dir.",
                )
                .shown(LAKE, 1, Width::Long, "Lake URL"),
        )
        .define(
            ConfigKey::new("topics.dir", String)
                .default("topics")
                .check(plain_folder)
                .importance(Importance::Low)
                .doc("The first folder below the URL.")
                .shown(LAKE, 2, Width::Medium, "Topics folder"),
        )
        .define(
            ConfigKey::new("hadoop.conf.dir", String)
                .default_null()
                .importance(Importance::Medium)
                .doc("Folder of core-site.xml and hdfs-site.xml; without it HADOOP_CONF_DIR counts.")
                .shown(LAKE, 3, Width::Long, "Hadoop configuration folder"),
        )
        .define(option("aws_endpoint", String, "Endpoint of an S3-compatible store.", 4).check(is_endpoint))
        .define(option("aws_region", String, "Region of the bucket.", 5))
        .define(option("aws_access_key_id", String, "Access key.", 6))
        .define(option("aws_secret_access_key", Password, "Secret of the access key.", 7))
        .define(option("aws_session_token", Password, "Token of temporary credentials.", 8))
}

/// The definition of the sink.
pub fn sink_def() -> ConfigDef {
    lake_def().define_all(file_keys()).define_all(rotation_keys()).define_all(archive_keys())
}

fn file_keys() -> ConfigDef {
    use ConfigType::{Int, String};
    let row = |name: &str, kind: ConfigType| ConfigKey::new(name, kind).importance(Importance::Medium);
    ConfigDef::new()
    .define(
        row("format", String)
            .default("archive.parquet")
            .one_of(&["archive.parquet", "archive.avro"])
            .importance(Importance::High)
            .doc("The form of the files: archive.parquet or archive.avro, both byte-exact.")
            .shown(FILES, 1, Width::Medium, "Format"),
    )
    .define(
        row("codec", String)
            .default_null()
            .doc(
                "Compression. Parquet: none, snappy, gzip, lz4_raw, zstd (the default); Avro: null, deflate, snappy, \
                 zstandard (the default).",
            )
            .shown(FILES, 2, Width::Short, "Codec"),
    )
    .define(
        row("codec.level", Int)
            .default_null()
            .importance(Importance::Low)
            .doc("Level of the codec, where it has levels.")
            .shown(FILES, 3, Width::Short, "Codec level"),
    )
}

fn rotation_keys() -> ConfigDef {
    use ConfigType::{Long, String};
    let row = |name: &str, kind: ConfigType| ConfigKey::new(name, kind).importance(Importance::Medium);
    ConfigDef::new()
        .define(
            row("flush.size", Long)
                .default("1000000")
                .at_least(1)
                .importance(Importance::High)
                .doc("Records in a file.")
                .shown(FILES, 4, Width::Short, "Records in a file"),
        )
        .define(
            row("rotate.bytes", Long)
                .default("134217728")
                .at_least(1)
                .doc("Stored bytes in a file, near enough (within a row group or block).")
                .shown(FILES, 5, Width::Short, "Bytes in a file"),
        )
        .define(
            row("rotate.interval.ms", Long)
                .default("-1")
                .at_least(-1)
                .doc("Span of record time in a file; -1: any.")
                .shown(FILES, 6, Width::Short, "Record-time span"),
        )
        .define(
            row("rotate.schedule.interval.ms", Long)
                .default("-1")
                .at_least(-1)
                .doc("Wall-clock boundaries at which files end, counted from midnight in timezone; -1: none.")
                .shown(FILES, 7, Width::Short, "Scheduled rotation"),
        )
        .define(
            row("timezone", String)
                .default("UTC")
                .check(known_timezone)
                .importance(Importance::Low)
                .doc("Time zone of rotate.schedule.interval.ms.")
                .shown(FILES, 8, Width::Medium, "Time zone"),
        )
        .define(
            row("rotate.age.ms", Long)
                .default("600000")
                .at_least(1)
                .doc("A file is published at most this long after its first record: how much an accident can cost.")
                .shown(FILES, 9, Width::Short, "Age of a file"),
        )
}

fn archive_keys() -> ConfigDef {
    ConfigDef::new()
        .define(
            ConfigKey::new("archive.takeover", ConfigType::List)
                .default("")
                .importance(Importance::Low)
                .doc("<cluster id>/<group>, separated by commas: go on with the chains that these other owners wrote.")
                .shown(ARCHIVE, 1, Width::Long, "Take over from"),
        )
        .define(
            ConfigKey::new("errors.on.gap", ConfigType::String)
                .default("continue")
                .one_of(&["continue", "fail"])
                .importance(Importance::Medium)
                .doc("What to do where offsets were lost to retention before they were archived.")
                .shown(ARCHIVE, 2, Width::Short, "On a gap"),
        )
        .define(
            ConfigKey::new("lakeferry.part.bytes", ConfigType::Int)
                .default("5242880")
                .at_least(MIN_PART_BYTES)
                .importance(Importance::Low)
                .doc("Size of an upload part; smaller files go up in one request.")
                .shown(ARCHIVE, 3, Width::Short, "Upload part"),
        )
}

/// Tells what is wrong with where the lake is, as far as nobody need be asked, at the key to correct.
pub(crate) fn check_lake(config: &Config, values: &mut [ConfigValue]) {
    let Some(url) = config.get("store.url") else { return };
    let Err(store::Refusal { key, error }) = store::check(url, &store_options(config)) else { return };
    // An option that nobody knows has no value of its own.
    let at = |key: &str| values.iter().position(|value| value.name == key);
    let Some(value) = at(&key).or_else(|| at("store.url")).and_then(|at| values.get_mut(at)) else { return };
    if value.errors.is_empty() {
        value.errors.push(error.message().to_owned());
    }
}

/// `store.<option>` without the prefix.
fn store_options(config: &Config) -> BTreeMap<String, String> {
    let options =
        config.iter().filter_map(|(key, value)| Some((key.strip_prefix("store.")?.to_owned(), value.clone())));
    options.filter(|(key, _)| key != "url").collect()
}

impl LakeSettings {
    /// Lowers the keys of [`lake_def`].
    ///
    /// # Errors
    /// `Config` naming the key, the value and the remedy.
    pub fn parse(config: &Config, parsed: &ParsedConfig) -> Result<Self> {
        Ok(Self {
            url: parsed.text("store.url")?.to_owned(),
            options: store_options(config),
            hadoop_conf_dir: parsed.text_if_set("hadoop.conf.dir").map(str::to_owned),
            topics_dir: parsed.text("topics.dir")?.to_owned(),
        })
    }

    /// Opens the store that they name.
    ///
    /// # Errors
    /// `Config` where they cannot name one.
    pub fn open_lake(&self) -> Result<store::Lake> {
        store::open(&self.url, &self.options, self.hadoop_conf_dir.as_deref())
    }
}

impl SinkSettings {
    /// Checks and lowers a sink's config.
    ///
    /// # Errors
    /// `Config` naming the key, the value and the remedy.
    pub fn parse(config: &Config) -> Result<Self> {
        let parsed = sink_def().parse(config)?;
        let span = |name: &str| parsed.integer(name).map(|ms| Some(ms).filter(|ms| *ms > 0));
        let rotation = Rotation {
            records: parsed.integer("flush.size")? as u64,
            bytes: parsed.integer("rotate.bytes")? as u64,
            record_time_ms: span("rotate.interval.ms")?,
            schedule_ms: span("rotate.schedule.interval.ms")?,
            age_ms: parsed.integer("rotate.age.ms")?,
            timezone: timezone(parsed.text("timezone")?)?,
        };
        Ok(Self {
            lake: LakeSettings::parse(config, &parsed)?,
            format: parsed.text("format")?.to_owned(),
            codec: parsed.text_if_set("codec").map(str::to_owned),
            codec_level: parsed.integer_if_set("codec.level").map(|level| level as i32),
            rotation,
            takeover: parsed.list("archive.takeover").to_vec(),
            fail_on_gap: parsed.text("errors.on.gap")? == "fail",
            part_bytes: parsed.integer("lakeferry.part.bytes")? as usize,
        })
    }
}

fn timezone(name: &str) -> Result<Tz> {
    name.parse().map_err(|_| {
        ConnectError::config(format!("timezone: '{name}' is no IANA time zone; write one like UTC or Europe/Berlin"))
    })
}

fn known_timezone(value: &Parsed) -> std::result::Result<(), String> {
    timezone(&value.to_string()).map(drop).map_err(|error| error.message().to_owned())
}

fn is_endpoint(value: &Parsed) -> std::result::Result<(), String> {
    match value {
        Parsed::Text(text) => store::check_endpoint(text),
        _ => Ok(()),
    }
}

/// Of a key that is there, and null, nothing else says that it is needed.
fn given(value: &Parsed) -> std::result::Result<(), String> {
    if *value == Parsed::Null { Err("Value must be non-null".to_owned()) } else { Ok(()) }
}

fn plain_folder(value: &Parsed) -> std::result::Result<(), String> {
    let text = value.to_string();
    let plain = |part: &str| !part.is_empty() && part != "." && part != "..";
    let ok = text.split('/').all(plain);
    if ok { Ok(()) } else { Err("must be a relative folder such as topics or archive/topics".to_owned()) }
}

#[cfg(test)]
mod tests {
    use lakeferry_api::Connector;

    use super::*;
    use crate::sink::LakeSinkConnector;
    use crate::source::LakeSourceConnector;

    fn config(pairs: &[(&str, &str)]) -> Config {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    /// Every key with what validation says of it.
    fn refused(connector: &dyn Connector, pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        let config = config(&[&[("topics", "orders")], pairs].concat());
        let mut values = connector.config_def().validate(&config);
        connector.validate(&config, &mut values);
        let errors = |value: ConfigValue| value.errors.into_iter().map(move |error| (value.name.clone(), error));
        values.into_iter().flat_map(errors).collect()
    }

    #[test]
    fn validation_finds_what_a_task_would_fail_on() {
        let (id, secret) = (("store.aws_access_key_id", "me"), ("store.aws_secret_access_key", "hush"));
        let s3 = ("store.url", "s3://bucket/lake");
        type Case<'a> = (&'a [(&'a str, &'a str)], &'a str, &'a str);
        let cases: [Case; 9] = [
            (&[("store.url", "lake/dir")], "store.url", "relative path"),
            (&[("store.url", "file:lake")], "store.url", "relative path"),
            (&[("store.url", "file://lake/dir")], "store.url", "file:///dir"),
            (&[("store.url", "s3:///lake")], "store.url", "bucket"),
            (&[s3, id], "store.aws_secret_access_key", "missing beside store.aws_access_key_id"),
            (&[s3, secret], "store.aws_access_key_id", "missing beside store.aws_secret_access_key"),
            (&[s3, ("store.aws_colour", "blue")], "store.url", "store.aws_colour is not an option"),
            (&[("store.url", "file:///tmp"), id], "store.aws_access_key_id", "is not an option of file://"),
            (&[("store.url", "hdfs://h:1/lake"), id], "store.aws_access_key_id", "is not an option of hdfs://"),
        ];
        let connectors: [&dyn Connector; 2] = [&LakeSinkConnector::default(), &LakeSourceConnector::default()];
        for (connector, (pairs, key, words)) in
            connectors.iter().flat_map(|it| cases.iter().map(move |case| (it, case)))
        {
            let found = refused(*connector, pairs);
            assert!(matches!(&found[..], [(at, why)] if at == key && why.contains(words)), "{pairs:?}: {found:?}");
            assert!(!found[0].1.contains("hush"), "{found:?}");
        }
        for connector in connectors {
            assert_eq!(refused(connector, &[s3, id, secret]), []);
            assert_eq!(refused(connector, &[("store.url", "/lake")]), []);
        }
    }

    #[test]
    fn validation_knows_what_a_lineage_can_be() {
        let source = LakeSourceConnector::default();
        let with = |lineage| refused(&source, &[("store.url", "/lake"), ("lineage", lineage)]);
        for lineage in ["latest", "3", "Qm9sVXkzT0mC5rJ8dEw2yA"] {
            assert_eq!(with(lineage), []);
        }
        for lineage in ["foo", "newest", "Qm9sVXkzT0mC5rJ8dEw2yA==", "Qm9sVXkzT0mC5rJ8dEw2y+"] {
            let found = with(lineage);
            let is_told = matches!(&found[..], [(key, why)] if key == "lineage" && why.contains("topic id"));
            assert!(is_told && found[0].1.contains(lineage), "{found:?}");
        }
    }

    #[test]
    fn options_reach_the_store_without_their_prefix() {
        let settings =
            SinkSettings::parse(&config(&[("store.url", "s3://b/p"), ("store.aws_region", "eu-west-1")])).unwrap();
        assert_eq!(settings.lake.options, config(&[("aws_region", "eu-west-1")]));
        assert_eq!(settings.rotation.record_time_ms, None);
        assert_eq!(settings.rotation.age_ms, 600_000);
    }

    #[test]
    fn a_bad_value_names_key_value_and_remedy() {
        let error = SinkSettings::parse(&config(&[("store.url", "file:///x"), ("timezone", "Mars/Base")])).unwrap_err();
        assert!(error.message().contains("Mars/Base") && error.message().contains("timezone"), "{error}");
        let error = SinkSettings::parse(&config(&[("store.url", "file:///x"), ("topics.dir", "../up")])).unwrap_err();
        assert!(error.message().contains("topics.dir"), "{error}");
        let endpoint = [("store.url", "s3://b/p"), ("store.aws_endpoint", "127.0.0.1:25653")];
        let error = SinkSettings::parse(&config(&endpoint)).unwrap_err();
        for part in ["store.aws_endpoint", "127.0.0.1:25653", "http://127.0.0.1:25653 or https://"] {
            assert!(error.message().contains(part), "{error}");
        }
        assert!(SinkSettings::parse(&Config::new()).unwrap_err().message().contains("store.url"));
    }
}
