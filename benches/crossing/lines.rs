//! One measurement, how it is printed, and what several rounds come to.

use std::collections::BTreeMap;

use crate::data::Topic;
use crate::measure::Meanwhile;

/// Counting with librdkafka plus compressing with zstd-1.
pub(crate) const LIMIT_OF_ARCHIVING: &str = "limit of archiving";
/// The same at the same time, on both cores.
pub(crate) const LIMIT_AT_ONCE: &str = "limit, both at once";
/// Decompressing plus producing with librdkafka.
pub(crate) const LIMIT_OF_RESTORING: &str = "limit of restoring";
/// The JVM worker.
pub(crate) const PEER: &str = "JVM Iceberg sink";
/// What names of archiving runs begin with.
pub(crate) const ARCHIVING: &str = "lakeferry";
/// What names of restoring runs begin with.
pub(crate) const RESTORING: &str = "restore";

/// What was measured of one program on one data set.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    /// The program: what ran.
    pub(crate) program: String,
    /// The data set, in words.
    pub(crate) data: String,
    pub(crate) records: u64,
    /// Bytes of keys and values.
    pub(crate) bytes: u64,
    /// What it took by the wall clock, where that says something of the program.
    pub(crate) wall_s: Option<f64>,
    pub(crate) cpu_s: f64,
    pub(crate) peak_rss_mb: f64,
    pub(crate) files: usize,
    pub(crate) stored_bytes: u64,
    /// What all cores did meanwhile, of what they could, where that was measured: with all of it used, something else
    /// on the machine, such as the broker, had what the program did not use.
    pub(crate) busy: Option<f64>,
    /// Cores that the broker used meanwhile, where that was measured.
    pub(crate) broker_cores: Option<f64>,
}

/// The median of all rounds of one program on one data set, in MB per core-second, with what it is compared with.
#[derive(Debug, Clone)]
pub(crate) struct Median {
    pub(crate) data: String,
    pub(crate) program: String,
    pub(crate) mb_per_core_s: f64,
    pub(crate) of_limit: Option<f64>,
    pub(crate) of_peer: Option<f64>,
}

impl Line {
    /// What [`Line::text`] puts below each other.
    pub(crate) const HEAD: &'static str = "program             data             k rec/s    MB/s   CPU s  MB/core-s  \
        k rec/core-s  peak MB  files  stored MB  cores  broker  busy";

    /// A line of `topic` that has measured nothing yet.
    pub(crate) fn new(program: &str, topic: &Topic) -> Line {
        Line {
            program: program.to_owned(),
            data: topic.label(),
            records: topic.records(),
            bytes: topic.bytes,
            wall_s: None,
            cpu_s: 0.0,
            peak_rss_mb: 0.0,
            files: 0,
            stored_bytes: 0,
            busy: None,
            broker_cores: None,
        }
    }

    /// One that has measured what the machine did meanwhile.
    pub(crate) fn during(meanwhile: &Meanwhile, program: &str, topic: &Topic) -> Line {
        let Meanwhile { wall_s, busy, broker_cores } = *meanwhile;
        Line { wall_s: Some(wall_s), busy: Some(busy), broker_cores, ..Line::new(program, topic) }
    }

    pub(crate) fn mb_per_core_s(&self) -> f64 {
        self.bytes as f64 / 1e6 / self.cpu_s
    }

    pub(crate) fn text(&self) -> String {
        let known = |number: Option<f64>, digits: usize| {
            number.map_or_else(|| "-".to_owned(), |number| format!("{number:.digits$}"))
        };
        let a_second = |number: f64| known(self.wall_s.map(|wall_s| number / wall_s), 0);
        format!(
            "{:<19} {:<15} {:>8} {:>7} {:>7.2} {:>10.1} {:>13.0} {:>8.0} {:>6} {:>10.0} {:>6} {:>7} {:>5}",
            self.program,
            self.data,
            a_second(self.records as f64 / 1e3),
            a_second(self.bytes as f64 / 1e6),
            self.cpu_s,
            self.mb_per_core_s(),
            self.records as f64 / 1e3 / self.cpu_s,
            self.peak_rss_mb,
            self.files,
            self.stored_bytes as f64 / 1e6,
            known(self.wall_s.map(|wall_s| self.cpu_s / wall_s), 2),
            known(self.broker_cores, 2),
            known(self.busy, 2),
        )
    }
}

impl Median {
    /// What [`Median::text`] puts below each other.
    pub(crate) const HEAD: &'static str = "median of rounds                      MB/core-s  of limit  x peer";

    pub(crate) fn text(&self) -> String {
        let ratio = |ratio: Option<f64>| ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.2}"));
        let (of_limit, of_peer) = (ratio(self.of_limit), ratio(self.of_peer));
        format!("{:<19} {:<15} {:>11.1} {of_limit:>9} {of_peer:>7}", self.program, self.data, self.mb_per_core_s)
    }
}

/// What the rounds come to, data set by data set.
pub(crate) fn medians(lines: &[Line]) -> Vec<Median> {
    let mut rounds: BTreeMap<(&str, &str), Vec<f64>> = BTreeMap::new();
    for line in lines {
        rounds.entry((&line.data, &line.program)).or_default().push(line.mb_per_core_s());
    }
    let medians: BTreeMap<_, _> = rounds.into_iter().map(|(name, rounds)| (name, median(rounds))).collect();
    let against = |data: &str, other: &str, own: f64| medians.get(&(data, other)).map(|other| own / other);
    let of = |(&(data, program), &own): (&(&str, &str), &f64)| {
        let limit = match program {
            _ if program.starts_with(ARCHIVING) => LIMIT_OF_ARCHIVING,
            _ if program.starts_with(RESTORING) => LIMIT_OF_RESTORING,
            _ => "",
        };
        Median {
            data: data.to_owned(),
            program: program.to_owned(),
            mb_per_core_s: own,
            of_limit: against(data, limit, own),
            of_peer: against(data, PEER, own).filter(|_| program.starts_with(ARCHIVING)),
        }
    };
    medians.iter().map(of).collect()
}

/// The one in the middle.
pub(crate) fn median(mut rounds: Vec<f64>) -> f64 {
    rounds.sort_by(f64::total_cmp);
    let middle = rounds.len() / 2;
    if rounds.len() % 2 == 1 { rounds[middle] } else { f64::midpoint(rounds[middle - 1], rounds[middle]) }
}
