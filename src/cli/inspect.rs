//! `lakeferry inspect`: what is in an archive, in words or as JSON; the counting is the lake's
//! ([`inspect`](lakeferry_lake::inspect)).

mod now;

use std::collections::BTreeSet;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use chrono::{DateTime, SecondsFormat};
use lakeferry_api::{Clock as _, Result, TopicPartition};
use lakeferry_lake::inspect::{Incarnation, LineageSummary, LogSummary, TopicSummary, inspect};
use lakeferry_lake::manifest::model::{Gap, Lineage, Reason, StartedBy, TopicSettings};
use lakeferry_lake::sweep::{Kept, Leftover, LeftoverKind, StagedFiles};

use super::lake::{LakeArgs, client_properties};
use super::{Context, Exit};
use crate::clock::SystemClock;
use crate::kafka::admin;

/// Show what is in an archive: topics, partitions, offsets, times, files, and what is missing and why
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    lake: LakeArgs,
    /// Ask this cluster, too, how far the archived topics reach now, what an open transaction holds back, and of what
    /// the group has no committed offset
    #[arg(long, value_name = "HOST:PORT")]
    bootstrap_server: Option<String>,
    /// Kafka client properties
    #[arg(long, value_name = "FILE", requires = "bootstrap_server")]
    command_config: Option<PathBuf>,
    /// One JSON document on standard output
    #[arg(long)]
    json: bool,
}

/// Runs the command.
///
/// # Errors
/// Where the lake cannot be read or holds no archive, or the cluster cannot be asked.
pub(super) async fn run(args: Args, context: Context) -> anyhow::Result<Exit> {
    let topics = context.unless_stopped("the archive was not read to its end", args.read()).await?;
    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&topics)?)?;
    } else {
        topics.iter().try_for_each(|topic| tell(&mut out, topic))?;
    }
    let damaged = topics.iter().flat_map(|topic| &topic.partitions).any(|partition| partition.problem.is_some());
    Ok(if damaged { Exit::Difference } else { Exit::Done })
}

impl Args {
    async fn read(&self) -> Result<Vec<TopicSummary>> {
        let (archive, leftovers) = self.lake.archive_and_leftovers()?;
        // Before any chain is read.
        let staged = StagedFiles::list(&leftovers, SystemClock::default().now_ms()).await?;
        let mut topics = Vec::new();
        for topic in self.lake.all_topics(&archive).await? {
            topics.push(inspect(&archive, &leftovers, &staged, &topic).await?);
        }
        if self.bootstrap_server.is_some() {
            let properties = client_properties(self.bootstrap_server.as_deref(), self.command_config.as_deref())?;
            now::ask(&*admin::open(&properties, Arc::new(SystemClock::default()))?, &mut topics).await?;
        }
        Ok(topics)
    }
}

fn tell(out: &mut impl Write, topic: &TopicSummary) -> std::io::Result<()> {
    writeln!(out, "{}", topic.topic)?;
    if let Some(settings) = &topic.settings {
        let configs: Vec<_> = settings.configs.iter().map(|(key, value)| format!(", {key}={value}")).collect();
        let TopicSettings { partitions, replication_factor, .. } = settings;
        writeln!(out, "  {partitions} partitions, replication factor {replication_factor}{}", configs.concat())?;
    }
    let archived: BTreeSet<_> = topic.partitions.iter().map(|partition| partition.partition).collect();
    let all = topic.settings.as_ref().and_then(|settings| i32::try_from(settings.partitions).ok()).unwrap_or(0);
    let silent = all - archived.range(..all).count() as i32;
    if silent > 0 {
        writeln!(out, "  nothing is archived of {silent} of them: they had no record when a task last looked")?;
    }
    topic.incarnations.iter().try_for_each(|it| writeln!(out, "  {}", incarnation(it, topic.incarnations.len())))?;
    for partition in &topic.partitions {
        let name = TopicPartition::new(topic.topic.as_str(), partition.partition);
        match (&partition.log, &partition.problem) {
            (Some(log), _) => {
                tell_log(out, &name, log, partition.now.is_some())?;
                if let Some(now) = &partition.now {
                    now::in_words(now, log).iter().try_for_each(|line| writeln!(out, "    {line}"))?;
                }
            }
            (None, Some(problem)) => writeln!(out, "  {name}: DAMAGED: {problem}")?,
            (None, None) => writeln!(out, "  {name}: no manifests")?,
        }
    }
    Ok(())
}

fn tell_log(out: &mut impl Write, name: &TopicPartition, log: &LogSummary, was_asked: bool) -> std::io::Result<()> {
    let offset = |offset: Option<i64>| offset.map_or("?".to_owned(), |offset| offset.to_string());
    writeln!(
        out,
        "  {name}: offsets {} to {} (next), {}{} records in {} files, {} stored ({} raw)",
        offset(log.first_offset),
        offset(log.resume_offset),
        at_most(log.is_exact),
        log.records,
        log.files,
        bytes(log.stored_bytes),
        bytes(log.raw_bytes),
    )?;
    if log.superseded > 0 {
        let (least, count) = (if log.is_exact { "" } else { "at least " }, log.superseded);
        writeln!(out, "    {least}{count} more are superseded: the offsets were set back, or the log was cut back")?;
    }
    if let (Some(min), Some(max)) = (log.min_timestamp, log.max_timestamp) {
        writeln!(out, "    record times {} to {}", instant(min), instant(max))?;
    }
    writeln!(
        out,
        "    owner {}, epoch {}, {} manifests, the last of {}",
        log.owner,
        log.epoch,
        log.entries,
        instant(log.written_at)
    )?;
    if let Some(resume) = log.resume_offset {
        let end = log.last_stable_offset;
        match end.saturating_sub(resume) {
            ..=0 => {
                writeln!(
                    out,
                    "    at the end {end} of the log then, for readers of committed records{}",
                    unasked(was_asked)
                )?;
            }
            behind => writeln!(out, "    {behind} offsets behind the end {end} of the log then")?,
        }
    }
    match &log.lineages[..] {
        [only] => writeln!(out, "    lineage {}: {}", only.lineage.lineage, history(only))?,
        lines => {
            writeln!(out, "    lineage {} of these; older ones can be restored by --lineage:", log.lineage)?;
            for line in lines {
                writeln!(out, "      {}: {}", line.lineage.lineage, history(line))?;
            }
        }
    }
    for (reason, count) in &log.missing {
        writeln!(out, "    {count} offsets without record: {}", in_words(*reason))?;
    }
    for gap in &log.gaps {
        writeln!(out, "    {}", gap_in_words(gap, log.gaps_held_by.get(&gap.from)))?;
    }
    for leftover in &log.unreferenced {
        writeln!(out, "    no manifest names {}: {}", what(leftover), fate(leftover))?;
    }
    if let Some(why) = &log.uploads_unseen {
        writeln!(out, "    unfinished uploads were not looked at: {why}")?;
    }
    Ok(())
}

/// What the manifests alone cannot tell.
fn unasked(was_asked: bool) -> &'static str {
    match was_asked {
        true => "",
        false => " (whether an open transaction holds back more is told with --bootstrap-server)",
    }
}

/// What an incarnation, one of so many, holds, and what a restore makes of it.
fn incarnation(it: &Incarnation, count: usize) -> String {
    let Incarnation { topic_id, lineage, came_up_at, records, is_exact, superseded, is_latest } = it;
    let id = topic_id.as_ref().map_or("without topic id".to_owned(), |id| format!("with topic id {id}"));
    let fate = match (is_latest, records) {
        (true, _) if count == 1 => "what a restore brings back".to_owned(),
        (true, _) => "what a restore brings back (--lineage latest)".to_owned(),
        (false, 0) => "nothing to restore".to_owned(),
        (false, _) => format!("restored by --lineage {lineage}"),
    };
    let superseded = if *superseded > 0 { format!(", {superseded} more superseded") } else { String::new() };
    let (most, since) = (at_most(*is_exact), instant(*came_up_at));
    format!("incarnation {id}, since {since}: {most}{records} records{superseded}: {fate}")
}

fn at_most(is_exact: bool) -> &'static str {
    if is_exact { "" } else { "up to " }
}

/// Something that no manifest names, and its size.
pub(super) fn what(leftover: &Leftover) -> String {
    let Leftover { kind, path, bytes: size, .. } = leftover;
    let size = size.map(|size| format!(" ({})", bytes(size))).unwrap_or_default();
    let kind = match kind {
        LeftoverKind::Object => "",
        LeftoverKind::Upload => "unfinished upload of ",
        LeftoverKind::StagedFile => "staged file ",
        LeftoverKind::Probe => "probe ",
    };
    format!("{kind}{path}{size}")
}

/// What will become of it.
pub(super) fn fate(leftover: &Leftover) -> &'static str {
    match leftover.kept {
        None => "a writer that is gone left it, `lakeferry sweep` removes it",
        Some(Kept::LiveEpoch) => "its epoch is the last one, whose writer may publish it yet",
        Some(Kept::ForeignName) => "no sink gives such a name here",
        Some(Kept::Young) => {
            "its writer may be at it this moment (none is after an hour, or the store's lease limit where that is longer)"
        }
    }
}

/// Why a lineage was begun.
fn history(line: &LineageSummary) -> String {
    let Lineage { topic_id, first, continues, .. } = &line.lineage;
    let first = first.map_or("where it begins next".to_owned(), |first| first.to_string());
    let why = match line.started_by {
        Some(StartedBy::Earliest) => "the log from its start",
        Some(StartedBy::Latest) => "the log from what was its end",
        Some(StartedBy::Committed) => "the log from the group's committed offset",
        Some(StartedBy::Created) => "the topic was created again",
        Some(StartedBy::Truncation) => "an unclean election cut the log back",
        Some(StartedBy::Altered) => "the connector's offsets were altered",
        None => "no manifest says why",
    };
    let id = topic_id.as_ref().map(|id| format!(", topic id {id}")).unwrap_or_default();
    let before =
        continues.map(|continues| format!(", after lineage {} before {}", continues.lineage, continues.before));
    let archived = line.archived_to.map(|offset| format!(", archived to offset {offset} (next)")).unwrap_or_default();
    format!("{why}, offset {first}{id}{}{archived}", before.unwrap_or_default())
}

/// A gap; `held_by` is another lineage that holds records of it.
fn gap_in_words(gap: &Gap, held_by: Option<&u32>) -> String {
    let Gap { from, to, reason } = gap;
    let why = in_words(*reason);
    match held_by {
        Some(lineage) => format!(
            "gap {from} to {to}: {}; lineage {lineage} holds records of it: --lineage {lineage} restores that log",
            why.trim_start_matches("LOST: ")
        ),
        None => format!("gap {from} to {to}: {why}"),
    }
}

fn in_words(reason: Reason) -> &'static str {
    match reason {
        Reason::Transaction => "transaction markers and aborted data",
        Reason::Compaction => "removed by the log cleaner",
        Reason::CompactionOrTransaction => "removed by the log cleaner, or transaction markers and aborted data",
        Reason::LogStartMoved => "LOST: retention or deleted records overtook the archive",
        Reason::Truncation => "cut from the log by an unclean election",
        Reason::Altered => "jumped over when the connector's offsets were altered",
        Reason::Skipped => "filtered, or sent to the dead letter queue",
        Reason::Unknown => "for a reason that nobody can tell",
    }
}

/// A time as people read it.
pub(super) fn instant(at_ms: i64) -> String {
    DateTime::from_timestamp_millis(at_ms)
        .map_or_else(|| format!("{at_ms} ms"), |at| at.to_rfc3339_opts(SecondsFormat::Millis, true))
}

/// A size as people read it.
pub(super) fn bytes(count: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let (mut size, mut unit) = (count as f64, 0);
    while size >= 1024.0 && unit + 1 < units.len() {
        size /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{count} B") } else { format!("{size:.1} {}", units[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_incarnation_says_what_a_restore_makes_of_it() {
        let old = Incarnation {
            topic_id: Some("Qm9".to_owned()),
            lineage: "Qm9".to_owned(),
            came_up_at: 1_372_636_799_999,
            records: 15,
            is_exact: true,
            superseded: 6,
            is_latest: false,
        };
        let words = "incarnation with topic id Qm9, since 2013-06-30T23:59:59.999Z: 15 records, 6 more superseded: \
                     restored by --lineage Qm9";
        assert_eq!(incarnation(&old, 2), words);
        let latest = Incarnation { is_latest: true, superseded: 0, is_exact: false, ..old.clone() };
        assert!(incarnation(&latest, 2).ends_with(": up to 15 records: what a restore brings back (--lineage latest)"));
        assert!(incarnation(&latest, 1).ends_with("brings back"));
        assert!(incarnation(&Incarnation { records: 0, ..old }, 2).ends_with("nothing to restore"));
    }

    #[test]
    fn a_gap_is_lost_only_where_no_lineage_has_it() {
        let gap = Gap { from: 10, to: 39, reason: Reason::LogStartMoved };
        let words = "gap 10 to 39: LOST: retention or deleted records overtook the archive";
        assert_eq!(gap_in_words(&gap, None), words);
        let words = "gap 10 to 39: retention or deleted records overtook the archive; lineage 1 holds records of it: \
                     --lineage 1 restores that log";
        assert_eq!(gap_in_words(&gap, Some(&1)), words);
    }

    #[test]
    fn sizes_and_times_read_well() {
        assert_eq!((bytes(0), bytes(1_023), bytes(1_536)), ("0 B".into(), "1023 B".into(), "1.5 KiB".into()));
        assert_eq!(bytes(3 << 40), "3.0 TiB");
        assert_eq!(instant(1_372_636_799_999), "2013-06-30T23:59:59.999Z");
        assert_eq!(instant(i64::MAX), format!("{} ms", i64::MAX));
    }
}
