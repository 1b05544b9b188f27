//! Following an archive that grows: new entries of known partitions, new partitions, new topics.
//!
//! Invariant: what was replayed stays a prefix of the log. A file that appears below what was replayed is an error, and
//! so is an entry that breaks a law of its chain, and a topic that was created anew: its records are never taken for
//! more records of the old one. While it has none it is no concern of a replay, and nor are incarnations that `lineage`
//! does not ask for.

use lakeferry_api::{ConnectError, Result, TopicPartition};

use super::choose::{ChosenLog, ChosenTopic, choose, choose_log, segments_of};
use super::config::Incarnation;
use super::incarnations::newest_lineage;
use super::read::LogReader;
use super::replay::Replay;
use super::stored::go_on_or_begin_anew;
use crate::manifest::Entry;
use crate::manifest::invariants::Link;
use crate::manifest::read::Chain;

/// Every 16th look, the first included, lists what comes behind the next entry where that is not there: it may have
/// been removed. A listing costs more than asking for one entry, and what is gone needs no haste.
const LOOKS_BEHIND: u64 = 16;

/// Adds new entries of the partitions that `replay` knows, and returns those that it does not know. Cancel-safe: what
/// was not added is found again, and a look that is dropped goes on where it was, so that one that takes longer than
/// its caller waits comes to its end all the same.
///
/// # Errors
/// As [`choose`]; `Fatal` where a later entry is missing, damaged or against a law; `Config` where a topic was created
/// anew.
pub(super) async fn look(replay: &mut Replay) -> Result<Vec<ChosenTopic>> {
    while replay.looked < replay.lanes.len() {
        let at = replay.looked;
        let links = new_links(replay, at).await?;
        if may_go_on_elsewhere(&links, &replay.lanes[at].log, &replay.settings.lineage) {
            look_at_lineages(replay, at, &links).await?;
        } else if !links.is_empty() {
            extend(replay, at, &links)?;
        }
        replay.looked += 1;
    }
    let found = new_partitions(replay).await?;
    replay.looked = 0;
    replay.looks += 1;
    Ok(found)
}

async fn new_links(replay: &Replay, at: usize) -> Result<Vec<Link>> {
    let log = &replay.lanes[at].log;
    let looks_behind = replay.looks.is_multiple_of(LOOKS_BEHIND);
    replay.archive.more(&log.plan.partition, (&log.so_far, log.next_seq), looks_behind).await
}

/// Takes those of `links` that are of the lane's lineage, and comes past the others.
fn extend(replay: &mut Replay, at: usize, links: &[Link]) -> Result<()> {
    let lane = &mut replay.lanes[at];
    let own = links.iter().map(|link| &link.entry).filter(|entry| entry.source.lineage == lane.log.lineage);
    let segments: Vec<_> = own.flat_map(|entry| segments_of(&entry.files)).collect();
    let replayed = lane.reader.position();
    if let Some(late) = segments.iter().find(|segment| segment.rows.from < replayed) {
        return Err(ConnectError::fatal(format!(
            "{} was published behind offset {replayed}, up to which {} was replayed: its records would be out of order; \
             replay it with replay.end=stop",
            late.file.path, lane.log.plan.partition
        )));
    }
    lane.reader.extend(segments);
    lane.log.next_seq += links.len() as u64;
    lane.log.so_far.extend(links);
    lane.ended = false;
    Ok(())
}

/// True where `links` may say that what `wanted` asked for goes on in another lineage than `log`'s: then the chain is
/// asked, the whole of it.
fn may_go_on_elsewhere(links: &[Link], log: &ChosenLog, wanted: &Incarnation) -> bool {
    let Some(Link { entry: end, .. }) = links.last() else { return false };
    match wanted {
        Incarnation::Number(_) => false,
        Incarnation::TopicId(_) => newest_lineage(&end.lineages, log.topic_id.as_deref()) != Some(log.lineage),
        Incarnation::Latest => links.iter().any(|link| link.entry.source.lineage != log.lineage),
    }
}

/// Some of `links` are of another lineage. Where the log was cut back it goes on in that one: the same records up to
/// there, other files behind.
async fn look_at_lineages(replay: &mut Replay, at: usize, links: &[Link]) -> Result<()> {
    let lane = &replay.lanes[at];
    let partition = lane.log.plan.partition.clone();
    let Some(chain) = replay.archive.chain(&partition).await? else {
        return Err(ConnectError::fatal(format!("the manifests of {partition} vanished")));
    };
    let lineage = goes_on_in(&chain, &lane.log, &replay.settings.lineage);
    if lineage == lane.log.lineage {
        return extend(replay, at, links);
    }
    let mut log = choose_log(&chain, lineage, &replay.settings)?;
    log.plan.position = log.position(Some(lane.log.lineage), lane.reader.position())?;
    let lane = &mut replay.lanes[at];
    lane.reader = LogReader::new(replay.access.clone(), log.take_plan());
    lane.log = log;
    lane.ended = false;
    Ok(())
}

/// The lineage of `chain` in which what `wanted` asked for goes on: for the latest incarnation that of another one as
/// soon as there is a record of it behind all that is known of `log`'s.
fn goes_on_in(chain: &Chain, log: &ChosenLog, wanted: &Incarnation) -> u32 {
    let newest = newest_lineage(&chain.end().lineages, log.topic_id.as_deref()).unwrap_or(log.lineage);
    match wanted {
        Incarnation::Number(_) => log.lineage,
        Incarnation::TopicId(_) => newest,
        Incarnation::Latest => {
            let is_ours = |entry: &Entry| entry.source.topic_id == log.topic_id;
            let mut newest_first = chain.links.iter().rev().map(|link| &link.entry);
            let telling = newest_first.find(|entry| is_ours(entry) || !entry.files.is_empty());
            telling.filter(|entry| !is_ours(entry)).map_or(newest, |entry| entry.source.lineage)
        }
    }
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
        refuse_another(topic, replay.topic_ids.get(&topic.topic))?;
    }
    topics.retain(|topic| !topic.logs.is_empty());
    Ok(topics)
}

/// A partition of an incarnation that came later goes with none of the one that is replayed.
fn refuse_another(found: &ChosenTopic, replayed_id: Option<&String>) -> Result<()> {
    let is_another = |log: &&ChosenLog| replayed_id.zip(log.topic_id.as_ref()).is_some_and(|(old, new)| old != new);
    let (Some(log), Some(old)) = (found.logs.iter().find(is_another), replayed_id) else { return Ok(()) };
    Err(ConnectError::config(format!(
        "{} was created anew: {} holds records of topic id {}, and what is replayed is topic id {old}; {}",
        found.topic,
        log.plan.partition,
        log.topic_id.as_deref().unwrap_or_default(),
        go_on_or_begin_anew(&found.topic, Some(old))
    )))
}
