//! What a replay asks of the topics it writes to. Pure: the task and `restore` act on what stands here.
//!
//! Invariant: a topic that is created keeps every record for ever and as it comes, however old it is; a topic that
//! exists and would delete, compact, refuse or re-stamp records is told by name, before anything is written.

use std::collections::BTreeMap;
use std::fmt;

use lakeferry_api::source::{NewTopic, TargetTopic};

/// What is going to be written to a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Demand {
    /// How many partitions it needs.
    pub partitions: u32,
    /// The smallest timestamp.
    pub oldest: Option<i64>,
    /// The largest timestamp.
    pub newest: Option<i64>,
    /// Bytes of the partition that gets most.
    pub partition_bytes: u64,
    /// Some record has that many bytes or more: the largest average of a file. Manifests tell no more.
    pub least_record_bytes: u64,
    /// No record has more: the bytes of the largest file.
    pub most_record_bytes: u64,
    /// What the archived topic took at most (`max.message.bytes`), where that was set on it.
    pub archived_limit_bytes: Option<u64>,
}

impl Demand {
    /// Why a broker that takes `limit_bytes` at most would refuse a record. A limit below that of the archived topic is
    /// one, unless whole files fit; where that is not known only a record that is certainly larger is.
    fn outgrows(&self, limit_bytes: u64) -> Option<String> {
        if self.least_record_bytes > limit_bytes {
            return Some(format!("the broker would refuse records: one has {} bytes or more", self.least_record_bytes));
        }
        let archived = self.archived_limit_bytes?;
        (limit_bytes < archived.min(self.most_record_bytes)).then(|| {
            format!(
                "the broker may refuse records: the archived topic took up to {archived} bytes, and its manifests do not \
                 tell how large the largest is"
            )
        })
    }
}

/// Why a topic should not be written to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Objection {
    /// The config that stands against it, or `partitions`.
    pub config: String,
    /// Its value.
    pub value: String,
    /// What would happen.
    pub why: String,
    /// True where a user may insist.
    pub can_be_forced: bool,
}

impl fmt::Display for Objection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}: {}", self.config, self.value, self.why)
    }
}

/// The topic to create for records that may be of any age and size. Its own configs come back at the end, where the
/// user wants them.
pub fn new_topic(name: &str, partitions: u32, replication_factor: Option<u32>) -> NewTopic {
    let forever = i64::MAX.to_string();
    let configs = [
        ("retention.ms", "-1"),
        ("retention.bytes", "-1"),
        ("cleanup.policy", "delete"),
        ("message.timestamp.type", "CreateTime"),
        ("message.timestamp.before.max.ms", &forever),
        ("message.timestamp.after.max.ms", &forever),
        // Nobody knows the largest record of entries that are still to come.
        ("max.message.bytes", &i32::MAX.to_string()),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()));
    NewTopic {
        name: name.to_owned(),
        partitions: Some(partitions),
        replication_factor,
        configs: BTreeMap::from(configs),
    }
}

/// What stands against writing `demand` to `target`.
pub fn objections(target: &TargetTopic, demand: &Demand, now_ms: i64) -> Vec<Objection> {
    let mut found = Vec::new();
    let mut object = |config: &str, value: &str, why: String| {
        found.push(Objection { config: config.to_owned(), value: value.to_owned(), why, can_be_forced: true });
    };
    let text = |config: &str| target.configs.get(config).map(String::as_str);
    let number = |config: &str| text(config)?.parse::<i64>().ok();

    if let Some(policy) = text("cleanup.policy").filter(|policy| policy.contains("compact")) {
        object("cleanup.policy", policy, "the broker would remove older records of a key".to_owned());
    }
    if let Some(kind) = text("message.timestamp.type").filter(|kind| *kind == "LogAppendTime") {
        object("message.timestamp.type", kind, "the broker would replace the timestamps of the records".to_owned());
    }
    let age = demand.oldest.map_or(0, |oldest| now_ms.saturating_sub(oldest));
    if let Some(retention) = number("retention.ms").filter(|retention| *retention >= 0 && age > *retention) {
        let why = format!("the broker would delete records while they arrive; the oldest is {age} ms old");
        object("retention.ms", &retention.to_string(), why);
    }
    let limit = |bytes: &i64| *bytes >= 0 && demand.partition_bytes > bytes.unsigned_abs();
    if let Some(retention) = number("retention.bytes").filter(limit) {
        let why = format!(
            "the broker would delete records while they arrive: a partition gets {} bytes",
            demand.partition_bytes
        );
        object("retention.bytes", &retention.to_string(), why);
    }
    let lead = demand.newest.map_or(0, |newest| newest.saturating_sub(now_ms));
    let bounds = [
        ("message.timestamp.before.max.ms", age),
        ("message.timestamp.after.max.ms", lead),
        ("message.timestamp.difference.max.ms", age.max(lead)),
    ];
    for (config, distance) in bounds {
        if let Some(most) = number(config).filter(|most| distance > *most) {
            object(config, &most.to_string(), format!("the broker would refuse records {distance} ms from now"));
        }
    }
    if let Some((limit, why)) =
        number("max.message.bytes").and_then(|limit| Some((limit, demand.outgrows(limit.unsigned_abs())?)))
    {
        object("max.message.bytes", &limit.to_string(), why);
    }
    if target.partitions < demand.partitions {
        found.push(Objection {
            config: "partitions".to_owned(),
            value: target.partitions.to_string(),
            why: format!("the archive has {}, and a record never changes its partition", demand.partitions),
            can_be_forced: false,
        });
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_763_712_000_000;
    const DAY: i64 = 86_400_000;

    fn target(configs: &[(&str, &str)]) -> TargetTopic {
        let mut effective: BTreeMap<String, String> = new_topic("t", 3, None).configs;
        effective.extend(configs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
        TargetTopic { partitions: 3, configs: effective, offsets: vec![(0, 0); 3] }
    }

    fn demand() -> Demand {
        Demand {
            partitions: 3,
            oldest: Some(NOW - 4000 * DAY),
            newest: Some(NOW + DAY),
            partition_bytes: 1 << 40,
            ..records(5_000, 1 << 30, None)
        }
    }

    fn records(least_record_bytes: u64, most_record_bytes: u64, archived_limit_bytes: Option<u64>) -> Demand {
        Demand { least_record_bytes, most_record_bytes, archived_limit_bytes, ..Demand::default() }
    }

    #[test]
    fn a_topic_that_is_created_suits_any_record() {
        assert_eq!(objections(&target(&[]), &demand(), NOW), []);
        let ancient = Demand { oldest: Some(i64::MIN), newest: Some(i64::MAX), ..demand() };
        assert_eq!(objections(&target(&[]), &ancient, NOW), []);
    }

    #[test]
    fn every_config_that_eats_refuses_or_stamps_records_is_named() {
        let cases = [
            ("cleanup.policy", "compact"),
            ("cleanup.policy", "compact,delete"),
            ("message.timestamp.type", "LogAppendTime"),
            ("retention.ms", "604800000"),
            ("retention.bytes", "1073741824"),
            ("message.timestamp.before.max.ms", "604800000"),
            ("message.timestamp.after.max.ms", "3600000"),
            ("message.timestamp.difference.max.ms", "3600000"),
            ("max.message.bytes", "4999"),
        ];
        for (config, value) in cases {
            let found = objections(&target(&[(config, value)]), &demand(), NOW);
            assert_eq!(found.len(), 1, "{config}={value}: {found:?}");
            assert_eq!((found[0].config.as_str(), found[0].value.as_str()), (config, value));
            assert!(found[0].can_be_forced);
        }
    }

    #[test]
    fn a_limit_on_the_size_of_records_matters_where_some_may_be_larger() {
        let limited = target(&[("max.message.bytes", "1000000")]);
        for (demand, refused) in [
            (records(200, 1 << 30, None), false),
            (records(200, 1 << 30, Some(1_000_000)), false),
            (records(200, 1 << 30, Some(20_000_000)), true),
            (records(200, 900_000, Some(20_000_000)), false),
            (records(1_000_001, 1 << 30, None), true),
        ] {
            assert_eq!(objections(&limited, &demand, NOW).len(), usize::from(refused), "{demand:?}");
        }
    }

    #[test]
    fn young_and_small_records_suit_a_topic_with_limits() {
        let young = Demand { oldest: Some(NOW - DAY), newest: Some(NOW), partition_bytes: 1000, ..demand() };
        let limits = target(&[
            ("retention.ms", "604800000"),
            ("retention.bytes", "1000"),
            ("message.timestamp.after.max.ms", "3600000"),
        ]);
        assert_eq!(objections(&limits, &young, NOW), []);
        let nothing = Demand { partitions: 1, ..Demand::default() };
        assert_eq!(objections(&limits, &nothing, NOW), []);
    }

    #[test]
    fn too_few_partitions_cannot_be_forced() {
        let found = objections(&target(&[]), &Demand { partitions: 4, ..demand() }, NOW);
        assert!(found.len() == 1 && !found[0].can_be_forced, "{found:?}");
    }
}
