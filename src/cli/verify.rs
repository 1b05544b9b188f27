//! `lakeferry verify`: whether an archive is what it says, and whether a topic is what was archived. The checks are the
//! lake's; this file asks for them, and tells what came of them in words or as JSON.
//!
//! Everything that is wrong is told, not only the first thing; a service that fails ends the check, and what was found
//! until then is told all the same.

mod progress;
mod topic;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use clap::ValueEnum;
use lakeferry_api::{Budget, Config, ConnectError, Result};
use lakeferry_lake::manifest::read::Archive;
use lakeferry_lake::source::choose::refuse_unknown;
use lakeferry_lake::source::config::SourceSettings;
use lakeferry_lake::source::read::Access;
use lakeferry_lake::verify::{Checked, Finding, Verification, verify};
use serde::Serialize;

use self::progress::Progress;
use self::topic::Comparisons;
use super::lake::{LakeArgs, client_properties};
use super::{Context, Exit, conclude};
use crate::clock::SystemClock;
use crate::executor::Pool;

/// What is buffered of objects and topics.
const BUDGET_BYTES: u64 = 256 << 20;

/// Check an archive, and compare it with a topic
///
/// Exit code: 0 everything checked out; 1 a difference was found; 2 wrong usage or configuration; 3 a service failed.
#[derive(Debug, clap::Args)]
#[command(after_long_help = COMPARING)]
pub(super) struct Args {
    #[command(flatten)]
    lake: LakeArgs,
    /// How deep to look; each level includes those before it
    #[arg(long, value_enum, default_value_t = Level::Content)]
    level: Level,
    /// Compare the archived records with the topics of this cluster, too
    #[arg(long, value_name = "HOST:PORT")]
    bootstrap_server: Option<String>,
    /// The topic that an archived topic is compared with, where its name differs; repeat it for several
    #[arg(long = "rename", value_name = "FROM=TO", requires = "bootstrap_server")]
    renames: Vec<String>,
    /// Compare only records of this time and later (2013-01-01T00:00:00Z, or epoch milliseconds)
    #[arg(long, value_name = "TIME", requires = "bootstrap_server")]
    from: Option<String>,
    /// Compare only records up to this time, inclusive
    #[arg(long, value_name = "TIME", requires = "bootstrap_server")]
    until: Option<String>,
    /// What --from and --until mean where timestamps are out of order, as in restore
    #[arg(long, value_enum, default_value_t = Cut::Record, requires = "bootstrap_server")]
    cut: Cut,
    /// Compare only these offsets: topic:partition:from:to, inclusive, in order, as restore wrote them; repeat it for
    /// several. Topics of which none is named are not compared
    #[arg(long = "offsets", value_name = "RANGE", requires = "bootstrap_server")]
    offsets: Vec<String>,
    /// Which record of the topic is which of the archive; see below
    #[arg(long = "match", value_enum, default_value_t = Match::Auto, requires = "bootstrap_server")]
    matching: Match,
    /// Which incarnation of a re-created topic is compared: latest, a number, or a topic id
    #[arg(long, value_name = "L", default_value = "latest", requires = "bootstrap_server")]
    lineage: String,
    /// now: records with no timestamp or timestamp 0 may have another one in the topic, as restore --untimed now left
    /// them
    #[arg(long, value_name = "WHAT", value_parser = ["fail", "now"], default_value = "fail", requires = "bootstrap_server")]
    untimed: String,
    /// Kafka client properties
    #[arg(long, value_name = "FILE", requires = "bootstrap_server")]
    command_config: Option<PathBuf>,
    /// List so many differences at most; all are counted
    #[arg(long, value_name = "NUMBER", default_value_t = 100)]
    list: usize,
    /// One JSON document on standard output
    #[arg(long)]
    json: bool,
}

const COMPARING: &str = "\
Comparing with a topic: key, value, headers, timestamp and partition of every record, as a read_committed consumer finds \
them. Whoever archived and whoever compares have them from the same client library, which knows no time before 1970 and \
ends the key of a header at a NUL byte: records that differ in nothing else are equal here.

--match auto: by offset where the topic is the very log that was archived (the same name, cluster and topic id), else in \
order, since a restored topic has offsets of its own. With --offsets in order.

--match offset: records with the same offset are compared, as far as both the topic and the archive reach: what retention \
removed from the topic, or was not archived yet, is counted and is no difference; nor is what the log cleaner removed from \
a compacted topic. Archived records behind the end of the topic are a difference: a copy is not complete, or an unclean \
election took them back. So is a partition that the topic does not have.

--match order: the topic holds the archived records, in order and nothing else. A record that is missing or too many is \
told as one, as long as both sides meet again within 1024 records, or 64 MiB of them.";

/// How deep to look.
#[derive(Debug, Clone, Copy, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    /// Manifests: chains unbroken, hashes right, laws kept
    Manifest,
    /// And every object: size and SHA-256
    Objects,
    /// And every row: counts, offsets, timestamps
    Content,
}

/// As in restore.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Cut {
    /// Exactly the records whose timestamp lies inside
    Record,
    /// Of each partition one stretch of its log
    Log,
}

/// See [`COMPARING`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Match {
    /// By offset for the log that was archived, else in order
    Auto,
    /// Same offset
    Offset,
    /// Same place
    Order,
}

/// The document of `--json`.
#[derive(Serialize)]
struct Report<'a> {
    url: &'a str,
    level: Level,
    /// False where anything is wrong or not everything could be checked.
    ok: bool,
    checked: Checked,
    findings: u64,
    findings_listed: Vec<&'a Finding>,
    #[serde(flatten)]
    comparisons: Option<&'a Comparisons>,
    /// What failed, where not everything could be checked.
    failure: Option<String>,
}

/// Runs the command.
///
/// # Errors
/// Where the arguments cannot be used, or there is no archive.
pub(super) async fn run(args: Args, context: Context) -> anyhow::Result<Exit> {
    let archive = args.lake.archive()?;
    let settings = args.replay()?;
    let access = access(&archive)?;
    let mut verification = Verification::default();
    let mut comparisons = args.bootstrap_server.as_ref().map(|_| Comparisons::new(args.list));
    let checking = async {
        args.refuse_unknown_names(&archive, &settings).await?;
        let progress = Progress::start();
        let asked = (args.lake.topics.as_slice(), args.level.into());
        verify(&access, &archive, asked, &progress, &mut verification).await?;
        if let Some(comparisons) = &mut comparisons {
            let properties = args.properties()?;
            let comparing = topic::Comparing::new(&args, &properties, settings, (&archive, &access))?;
            comparing.run(&progress, comparisons).await?;
        }
        Ok(())
    };
    let result: Result<()> = context.unless_stopped("not everything was checked", checking).await;
    let nothing = verification.checked.partitions == 0;
    match result {
        Err(error) if nothing => return Err(error.into()),
        Ok(()) if nothing => {
            let (url, dir) = (&args.lake.url, &args.lake.topics_dir);
            let text = format!("{url} holds no archive below {dir}/: check the URL and --topics-dir");
            return Err(ConnectError::config(text).into());
        }
        _ => {}
    }
    args.tell(&verification, comparisons.as_ref(), result)
}

/// How objects are reached, and what reading them may cost.
fn access(archive: &Archive) -> Result<Access> {
    let manifests = archive.manifests();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    Ok(Access {
        store: Arc::clone(manifests.store()),
        layout: manifests.layout().clone(),
        executor: Arc::new(Pool::new(threads)?),
        budget: Budget::new(BUDGET_BYTES),
    })
}

impl Args {
    /// What a restore with the same arguments would replay: what is to be compared.
    fn replay(&self) -> Result<SourceSettings> {
        if self.matching == Match::Offset && !self.offsets.is_empty() {
            return Err(ConnectError::config(
                "--match offset and --offsets exclude each other: what a restore of some offsets wrote has offsets of \
                 its own; leave --match out, and the records are compared in order",
            ));
        }
        let lake = self.lake.settings()?;
        let mut config: Config = lake.options.into_iter().map(|(key, value)| (format!("store.{key}"), value)).collect();
        let renames: Vec<String> = self.renames.iter().map(|pair| pair.replacen('=', ":", 1)).collect();
        let cut = if matches!(self.cut, Cut::Log) { "log" } else { "record" };
        let keys = [
            ("store.url", Some(lake.url)),
            ("hadoop.conf.dir", lake.hadoop_conf_dir),
            ("topics.dir", Some(lake.topics_dir)),
            // Each topic is chosen by itself.
            ("topics.regex", Some(".*".to_owned())),
            ("topic.rename", (!renames.is_empty()).then(|| renames.join(","))),
            ("replay.from", self.from.clone()),
            ("replay.until", self.until.clone()),
            ("replay.cut", Some(cut.to_owned())),
            ("replay.offsets", (!self.offsets.is_empty()).then(|| self.offsets.join(","))),
            ("lineage", Some(self.lineage.clone())),
        ];
        config.extend(keys.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))));
        SourceSettings::parse(&config)
    }

    /// A name that was mistyped would leave its topic to be compared with the one of its own name, or not at all. Where
    /// nothing is archived that is asked for, that is what to tell.
    async fn refuse_unknown_names(&self, archive: &Archive, settings: &SourceSettings) -> Result<()> {
        if settings.rename.is_empty() && settings.offsets.is_none() {
            return Ok(());
        }
        let mut chosen = archive.topics().await?;
        chosen.retain(|topic| self.lake.is_asked(topic));
        if chosen.is_empty() {
            return Ok(());
        }
        refuse_unknown("--rename", settings.rename.keys().map(String::as_str), &chosen)?;
        let named = settings.offsets.iter().flat_map(BTreeMap::keys).map(|partition| &*partition.topic);
        refuse_unknown("--offsets", named, &chosen)
    }

    /// Kafka client properties.
    fn properties(&self) -> Result<Config> {
        client_properties(self.bootstrap_server.as_deref(), self.command_config.as_deref())
    }

    fn tell(
        &self,
        verification: &Verification,
        comparisons: Option<&Comparisons>,
        result: Result<()>,
    ) -> anyhow::Result<Exit> {
        let different = comparisons.is_some_and(|comparisons| comparisons.differ());
        let wrong = different || !verification.findings.is_empty();
        let failure = result.err();
        let report = Report {
            url: &self.lake.url,
            level: self.level,
            ok: !wrong && failure.is_none(),
            checked: verification.checked,
            findings: verification.findings.len() as u64,
            findings_listed: verification.findings.iter().take(self.list).collect(),
            comparisons,
            failure: failure.as_ref().map(ConnectError::trace),
        };
        let mut out = std::io::stdout().lock();
        if self.json {
            writeln!(out, "{}", serde_json::to_string_pretty(&report)?)?;
        } else {
            report.write(&mut out)?;
        }
        conclude(failure, wrong)
    }
}

impl Report<'_> {
    fn write(&self, out: &mut impl Write) -> std::io::Result<()> {
        for finding in &self.findings_listed {
            writeln!(out, "{finding}")?;
        }
        let more = self.findings - self.findings_listed.len() as u64;
        if more > 0 {
            writeln!(out, "... and {more} more faults of the archive")?;
        }
        if let Some(comparisons) = self.comparisons {
            comparisons.write(out)?;
        }
        let Checked { partitions, entries, files, stored_bytes, records, unnamed_objects, unnamed_bytes } =
            self.checked;
        write!(out, "checked {partitions} partitions, {entries} manifests")?;
        if !matches!(self.level, Level::Manifest) {
            write!(out, ", {files} files of {}", super::inspect::bytes(stored_bytes))?;
        }
        if matches!(self.level, Level::Content) {
            write!(out, ", {records} records")?;
        }
        writeln!(
            out,
            ": {} in the archive",
            if self.findings == 0 { "no fault".to_owned() } else { format!("{} faults", self.findings) }
        )?;
        if unnamed_objects > 0 {
            let size = super::inspect::bytes(unnamed_bytes);
            writeln!(
                out,
                "{unnamed_objects} objects of {size} that no manifest names: left by a crash, or being written"
            )?;
        }
        if let Some(comparisons) = self.comparisons {
            writeln!(out, "{}", comparisons.sum_up())?;
        }
        let differ = self.comparisons.is_some_and(Comparisons::differ);
        let end = match (&self.failure, self.findings > 0, differ) {
            (Some(_), ..) => "not fully checked",
            (None, true, true) => "FAULTS AND DIFFERENCES FOUND",
            (None, true, false) => "FAULTS FOUND",
            (None, false, true) => "DIFFERENCES FOUND",
            (None, false, false) => "verified",
        };
        writeln!(out, "{}: {end}", self.url).and_then(|()| out.flush())
    }
}

impl From<Level> for lakeferry_lake::verify::Level {
    fn from(level: Level) -> Self {
        match level {
            Level::Manifest => Self::Manifest,
            Level::Objects => Self::Objects,
            Level::Content => Self::Content,
        }
    }
}

/// The clock of the clients.
fn clock() -> Arc<SystemClock> {
    Arc::new(SystemClock::default())
}

#[cfg(test)]
mod tests;
