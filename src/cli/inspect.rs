//! `lakeferry inspect`: what is in an archive, in words or as JSON. Reads manifests and one listing of each partition's
//! folder; no data object.

use std::collections::BTreeMap;
use std::io::Write;

use chrono::{DateTime, SecondsFormat};
use futures::TryStreamExt;
use lakeferry_api::{ConnectError, TopicPartition};
use lakeferry_lake::manifest::model::{Gap, Missing, Reason};
use lakeferry_lake::manifest::read::{Archive, Chain};
use serde::Serialize;

use super::lake::LakeArgs;
use super::{Context, Exit};

/// Show what is in an archive: topics, partitions, offsets, times, files, and what is missing and why
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    lake: LakeArgs,
    /// One JSON document on standard output
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct TopicSummary {
    topic: String,
    partitions: Vec<PartitionSummary>,
}

/// The newest lineage of a partition, with what it continues.
#[derive(Debug, Serialize)]
struct PartitionSummary {
    partition: i32,
    owner: String,
    epoch: u32,
    entries: u64,
    lineage: u32,
    lineages: usize,
    first_offset: Option<i64>,
    resume_offset: Option<i64>,
    records: u64,
    files: usize,
    stored_bytes: u64,
    raw_bytes: u64,
    min_timestamp: Option<i64>,
    max_timestamp: Option<i64>,
    missing: Missing,
    gaps: Vec<Gap>,
    /// Data objects that no entry names: what a crash left, or a writer has not published yet.
    unreferenced: Vec<String>,
}

/// Runs the command.
///
/// # Errors
/// Where the lake cannot be read or holds no archive.
pub(super) async fn run(args: Args, _context: Context) -> anyhow::Result<Exit> {
    let archive = args.lake.archive()?;
    let mut topics = Vec::new();
    for topic in args.lake.archived_topics(&archive).await? {
        let mut partitions = Vec::new();
        for partition in archive.partitions(&topic).await? {
            if let Some(chain) = archive.chain(&partition).await? {
                partitions.push(summarize(&archive, &chain).await?);
            }
        }
        topics.push(TopicSummary { topic, partitions });
    }
    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&topics)?)?;
    } else {
        topics.iter().try_for_each(|topic| tell(&mut out, topic))?;
    }
    Ok(Exit::Done)
}

async fn summarize(archive: &Archive, chain: &Chain) -> Result<PartitionSummary, ConnectError> {
    let end = chain.end();
    let lineage = chain.latest_lineage();
    let pieces = chain.pieces(lineage)?;
    let mut missing = Missing::new();
    for counts in pieces.iter().map(|piece| &piece.file.missing) {
        counts.iter().for_each(|(reason, count)| *missing.entry(*reason).or_default() += count);
    }
    let oldest = chain.history(lineage)?.last().map_or(lineage, |(number, _)| *number);
    let first = end.lineages.iter().find(|line| line.lineage == oldest).and_then(|line| line.first);
    Ok(PartitionSummary {
        partition: chain.partition.partition,
        owner: end.owner.to_string(),
        epoch: end.epoch,
        entries: end.seq + 1,
        lineage,
        lineages: end.lineages.len(),
        first_offset: first,
        resume_offset: end.resume_offset,
        records: pieces.iter().map(|piece| piece.file.records).sum(),
        files: pieces.len(),
        stored_bytes: pieces.iter().map(|piece| piece.file.stored_bytes).sum(),
        raw_bytes: pieces.iter().map(|piece| piece.file.raw_bytes).sum(),
        min_timestamp: pieces.iter().filter_map(|piece| piece.file.min_timestamp).min(),
        max_timestamp: pieces.iter().filter_map(|piece| piece.file.max_timestamp).max(),
        missing,
        gaps: chain.gaps(lineage)?,
        unreferenced: unreferenced(archive, chain).await?,
    })
}

async fn unreferenced(archive: &Archive, chain: &Chain) -> Result<Vec<String>, ConnectError> {
    let manifests = archive.manifests();
    let named: BTreeMap<_, _> = chain
        .links
        .iter()
        .flat_map(|link| &link.entry.files)
        .map(|file| (file.path.as_str(), file.stored_bytes))
        .collect();
    let folder = manifests.layout().data_dir(&chain.partition);
    let listed: Vec<_> = manifests
        .store()
        .list(Some(&folder))
        .try_collect()
        .await
        .map_err(|error| ConnectError::retriable(format!("cannot list {folder}")).caused_by(error))?;
    let relative = listed.iter().filter_map(|meta| manifests.layout().relative(&meta.location));
    Ok(relative.filter(|path| !named.contains_key(path.as_str())).collect())
}

fn tell(out: &mut impl Write, topic: &TopicSummary) -> std::io::Result<()> {
    writeln!(out, "{}", topic.topic)?;
    for partition in &topic.partitions {
        tell_partition(out, &topic.topic, partition)?;
    }
    Ok(())
}

fn tell_partition(out: &mut impl Write, topic: &str, summary: &PartitionSummary) -> std::io::Result<()> {
    let name = TopicPartition::new(topic, summary.partition);
    let offset = |offset: Option<i64>| offset.map_or("?".to_owned(), |offset| offset.to_string());
    writeln!(
        out,
        "  {name}: offsets {} to {} (next), {} records in {} files, {} stored ({} raw)",
        offset(summary.first_offset),
        offset(summary.resume_offset),
        summary.records,
        summary.files,
        bytes(summary.stored_bytes),
        bytes(summary.raw_bytes),
    )?;
    if let (Some(min), Some(max)) = (summary.min_timestamp, summary.max_timestamp) {
        writeln!(out, "    record times {} to {}", instant(min), instant(max))?;
    }
    writeln!(out, "    owner {}, epoch {}, {} manifests", summary.owner, summary.epoch, summary.entries)?;
    if summary.lineages > 1 {
        writeln!(
            out,
            "    lineage {} of {}: the topic was re-created, cut back or its offsets were altered; older rows can be \
             restored by number",
            summary.lineage, summary.lineages
        )?;
    }
    for (reason, count) in &summary.missing {
        writeln!(out, "    {count} offsets without record: {}", in_words(*reason))?;
    }
    for gap in &summary.gaps {
        writeln!(out, "    gap {} to {}: {}", gap.from, gap.to, in_words(gap.reason))?;
    }
    for object in &summary.unreferenced {
        writeln!(out, "    no manifest names {object}: a crash left it, or it is being written")?;
    }
    Ok(())
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

fn instant(at_ms: i64) -> String {
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
    fn sizes_and_times_read_well() {
        assert_eq!((bytes(0), bytes(1_023), bytes(1_536)), ("0 B".into(), "1023 B".into(), "1.5 KiB".into()));
        assert_eq!(bytes(3 << 40), "3.0 TiB");
        assert_eq!(instant(1_372_636_799_999), "2013-06-30T23:59:59.999Z");
        assert_eq!(instant(i64::MAX), format!("{} ms", i64::MAX));
    }
}
