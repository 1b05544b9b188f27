//! What is counted, for `GET /metrics`: one function per event, called where it happens by whoever runs tasks. Counters
//! belong to the process, begin at zero when it starts, and only grow.
//!
//! Deliberately absent: gauges, histograms, and anything that is counted per record.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Mutex, MutexGuard, PoisonError};

use lakeferry_api::TopicPartition;

static GAP_OFFSETS: Counter = Counter::new(
    "lakeferry_sink_gap_offsets_total",
    "Offsets that Kafka had no more when the sink came to read them: their records are in no archive.",
    &["connector", "topic", "partition", "reason"],
);

static FILES_ENDED_EARLY: Counter = Counter::new(
    "lakeferry_sink_files_ended_early_total",
    "Files that ended before they were full because memory ran short.",
    &["connector", "topic"],
);

/// Every family, in the order of their names.
static ALL: &[&Counter] = &[&FILES_ENDED_EARLY, &GAP_OFFSETS];

/// A manifest records a gap of so many offsets.
pub(crate) fn gap(connector: &str, partition: &TopicPartition, reason: &str, offsets: u64) {
    GAP_OFFSETS.add(&[connector, &partition.topic, &partition.partition.to_string(), reason], offsets);
}

/// A file of `partition` ended early for memory.
pub(crate) fn file_ended_early(connector: &str, partition: &TopicPartition) {
    FILES_ENDED_EARLY.add(&[connector, &partition.topic], 1);
}

/// Everything in Prometheus' text format.
pub(crate) fn text() -> String {
    let mut text = String::new();
    ALL.iter().for_each(|counter| counter.write(&mut text));
    text
}

/// A family of counters, one for each set of label values that was counted.
struct Counter {
    name: &'static str,
    help: &'static str,
    labels: &'static [&'static str],
    count_by_values: Mutex<BTreeMap<Vec<String>, u64>>,
}

impl Counter {
    const fn new(name: &'static str, help: &'static str, labels: &'static [&'static str]) -> Self {
        Self { name, help, labels, count_by_values: Mutex::new(BTreeMap::new()) }
    }

    fn add(&self, values: &[&str], more: u64) {
        let values = values.iter().map(ToString::to_string).collect();
        let mut counts = self.counts();
        let count = counts.entry(values).or_default();
        *count = count.saturating_add(more);
    }

    fn write(&self, text: &mut String) {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "# HELP {} {}\n# TYPE {} counter", self.name, self.help, self.name);
        for (values, count) in &*self.counts() {
            let label = |(name, value): (&&str, &String)| format!("{name}=\"{}\"", escaped(value));
            let labels: Vec<_> = self.labels.iter().zip(values).map(label).collect();
            let _ = writeln!(text, "{}{{{}}} {count}", self.name, labels.join(","));
        }
    }

    fn counts(&self) -> MutexGuard<'_, BTreeMap<Vec<String>, u64>> {
        self.count_by_values.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_stands_as_prometheus_reads_it() {
        static ODD: Counter = Counter::new("odd_total", "Odd things.", &["name", "kind"]);
        let written = || {
            let mut text = String::new();
            ODD.write(&mut text);
            text
        };
        let head = "# HELP odd_total Odd things.\n# TYPE odd_total counter\n";
        assert_eq!(written(), head);
        ODD.add(&["b", "x"], 2);
        ODD.add(&["a\"\\\n", "x"], u64::MAX);
        ODD.add(&["b", "x"], 3);
        ODD.add(&["a\"\\\n", "x"], 1);
        let rows = format!(
            "odd_total{{name=\"a\\\"\\\\\\n\",kind=\"x\"}} {}\nodd_total{{name=\"b\",kind=\"x\"}} 5\n",
            u64::MAX
        );
        assert_eq!(written(), head.to_owned() + &rows);
    }

    #[test]
    fn events_are_counted_under_the_names_that_the_documentation_has() {
        gap("archive", &TopicPartition::new("orders", 3), "log_start_moved", 5);
        file_ended_early("archive", &TopicPartition::new("orders", 3));
        let (text, documented) = (text(), include_str!("../docs/metrics.md"));
        let row = "lakeferry_sink_gap_offsets_total{connector=\"archive\",topic=\"orders\",partition=\"3\",reason=\"log_start_moved\"} 5\n";
        assert!(text.contains(row), "{text}");
        assert!(text.contains("lakeferry_sink_files_ended_early_total{connector=\"archive\",topic=\"orders\"} 1\n"));
        for counter in ALL {
            assert!(documented.contains(counter.name), "{} is not documented", counter.name);
        }
        assert!(ALL.is_sorted_by_key(|counter| counter.name));
    }
}
