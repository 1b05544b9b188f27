//! Following an archive that grows: new entries of known partitions, new partitions, new topics.
//!
//! Invariant: what was replayed stays a prefix of the log. A file that appears below what was replayed is an error, and
//! so is a topic that was created anew: its records are never taken for more records of the old one.

use lakeferry_api::{ConnectError, Result, TopicPartition};

use super::choose::{ChosenTopic, choose, choose_log, segments_of};
use super::read::LogReader;
use super::replay::Replay;
use crate::manifest::Entry;

/// Adds new entries of the partitions that `replay` knows, and returns those that it does not know. Cancel-safe: what
/// was not added is found again, and a look that is dropped goes on where it was, so that one that takes longer than
/// its caller waits comes to its end all the same.
///
/// # Errors
/// As [`choose`]; `Config` where a topic was created anew.
pub(super) async fn look(replay: &mut Replay) -> Result<Vec<ChosenTopic>> {
    while replay.looked < replay.lanes.len() {
        let at = replay.looked;
        let entries = new_entries(replay, at).await?;
        let lineage = replay.lanes[at].log.lineage;
        if entries.iter().any(|entry| entry.source.lineage != lineage) {
            change_lineage(replay, at).await?;
        } else if !entries.is_empty() {
            extend(replay, at, &entries)?;
        }
        replay.looked += 1;
    }
    let found = new_partitions(replay).await?;
    replay.looked = 0;
    Ok(found)
}

async fn new_entries(replay: &Replay, at: usize) -> Result<Vec<Entry>> {
    let log = &replay.lanes[at].log;
    let mut entries: Vec<Entry> = Vec::new();
    let manifests = replay.archive.manifests();
    while let Some((entry, _)) = manifests.read(&log.plan.partition, log.next_seq + entries.len() as u64).await? {
        entries.push(entry);
    }
    Ok(entries)
}

fn extend(replay: &mut Replay, at: usize, entries: &[Entry]) -> Result<()> {
    let lane = &mut replay.lanes[at];
    let segments: Vec<_> = entries.iter().flat_map(|entry| segments_of(&entry.files)).collect();
    let replayed = lane.reader.position();
    if let Some(late) = segments.iter().find(|segment| segment.rows.from < replayed) {
        return Err(ConnectError::fatal(format!(
            "{} was published behind offset {replayed}, up to which {} was replayed: its records would be out of order; \
             replay it with replay.end=stop",
            late.file.path, lane.log.plan.partition
        )));
    }
    lane.reader.extend(segments);
    lane.log.next_seq += entries.len() as u64;
    lane.ended = false;
    Ok(())
}

/// The log was cut back and goes on in another lineage: the same records up to there, other files behind.
async fn change_lineage(replay: &mut Replay, at: usize) -> Result<()> {
    let lane = &replay.lanes[at];
    let partition = lane.log.plan.partition.clone();
    let Some(chain) = replay.archive.chain(&partition).await? else {
        return Err(ConnectError::fatal(format!("the manifests of {partition} vanished")));
    };
    let mut log = choose_log(&chain, chain.latest_lineage(), &replay.settings)?;
    log.plan.position = log.position(Some(lane.log.lineage), lane.reader.position())?;
    let lane = &mut replay.lanes[at];
    lane.reader = LogReader::new(replay.access.clone(), log.plan.clone());
    lane.log = log;
    lane.ended = false;
    Ok(())
}

async fn new_partitions(replay: &Replay) -> Result<Vec<ChosenTopic>> {
    let is_known = |partition: &TopicPartition| replay.lanes.iter().any(|lane| lane.log.plan.partition == *partition);
    let mut unknown = Vec::new();
    for topic in replay.archive.topics().await?.iter().filter(|topic| replay.settings.topics.has(topic)) {
        let partitions = replay.archive.partitions(topic).await?;
        unknown.extend(
            partitions.into_iter().filter(|partition| replay.settings.share.has(partition) && !is_known(partition)),
        );
    }
    if unknown.is_empty() {
        return Ok(Vec::new());
    }
    let mut topics = choose(&replay.archive, &replay.settings).await?;
    for topic in &mut topics {
        topic.logs.retain(|log| unknown.contains(&log.plan.partition));
    }
    topics.retain(|topic| !topic.logs.is_empty());
    Ok(topics)
}
