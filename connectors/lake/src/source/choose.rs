//! Which partitions of which incarnation a replay reads: its settings against what the archive holds.
//!
//! Invariant: partitions of one topic are never chosen from different incarnations of it. A partition whose chain holds
//! nothing of the chosen one is left out, and said to be; so are the records of other incarnations.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::{StreamExt as _, stream};
use lakeferry_api::{ConnectError, Kind, Result, TopicPartition};

use super::config::{Incarnation, SourceSettings, Topics};
use super::ends::EndsEarly;
use super::incarnations::{Incarnations, LeftBehind, Other, PassedOver, left_behind};
use super::plan::{Segment, Selection};
use super::read::LogPlan;
use super::stored::go_on_or_begin_anew;
use crate::manifest::invariants::ChainSoFar;
use crate::manifest::model::{Lineage, TopicSettings};
use crate::manifest::read::{Archive, Chain};

/// Chains that are read at once.
const PARALLEL_CHAINS: usize = 8;

/// An archived topic that is replayed.
#[derive(Debug, Clone)]
pub struct ChosenTopic {
    /// Its name in the archive.
    pub topic: String,
    /// Its name in the target.
    pub target: String,
    /// Its id in the chosen incarnation, where that is known.
    pub topic_id: Option<String>,
    /// How many partitions it had in the chosen incarnation: at least one more than the highest that was archived.
    pub partitions: u32,
    /// Its settings in that incarnation as they were last seen.
    pub settings: Option<TopicSettings>,
    /// What is read, by partition.
    pub logs: Vec<ChosenLog>,
    /// Partitions that hold nothing of the chosen incarnation, and why.
    pub left_out: Vec<(i32, String)>,
    /// Partitions that were not asked for and cannot be read, and why: which incarnations they hold is not known.
    pub damaged: Vec<(i32, String)>,
    /// Those of them that are of other incarnations only, as the last entry of their chain says.
    pub damaged_elsewhere: BTreeSet<i32>,
    /// Where the newest incarnation is empty and that is why another was chosen: that newest one.
    pub passed_over: Option<PassedOver>,
    /// Incarnations that hold records and are not replayed.
    pub others: Vec<Other>,
    /// Lineages of the chosen incarnation that hold records which are not replayed; none where the user named one.
    pub left_behind: Vec<LeftBehind>,
    /// The latest time that is asked for, where the replay ends.
    pub until: Option<i64>,
    /// Partitions whose archive ends before that.
    pub ends_early: Vec<EndsEarly>,
}

/// An archived partition that is replayed.
#[derive(Debug, Clone)]
pub struct ChosenLog {
    /// The lineage whose log is read.
    pub lineage: u32,
    /// That lineage and those it continues, newest first, each with the last offset of it that counts.
    pub history: Vec<(u32, i64)>,
    /// The topic's id in that lineage.
    pub topic_id: Option<String>,
    /// What is read; without files once a reader has them, see [`ChosenLog::take_plan`].
    pub plan: LogPlan,
    /// The number of the chain's next entry.
    pub next_seq: u64,
    /// What later entries are held against; empty where the archive is not followed.
    pub so_far: ChainSoFar,
}

impl ChosenTopic {
    /// How many partitions a target gets that is made for it: those that are damaged count, too, unless they are known
    /// to be of other incarnations, so that what is restored of them once they are mended has its place.
    pub fn new_partitions(&self) -> u32 {
        let of_it = self.damaged.iter().filter(|(partition, _)| !self.damaged_elsewhere.contains(partition));
        of_it.map(|(partition, _)| partition.unsigned_abs() + 1).fold(self.partitions, u32::max)
    }

    /// What users should know of its incarnations, and of where it ends, in sentences; they set `lineage` by `option`.
    pub fn remarks(&self, option: &str) -> Vec<String> {
        let passed_over = self.passed_over.iter().map(|empty| empty.tell(self.topic_id.as_deref(), option));
        let others = self.others.iter().map(|other| other.tell(option));
        let left_behind = self.left_behind.iter().map(|left| left.tell(option));
        let damaged = self.damaged.iter().map(|(partition, why)| {
            let room = match (partition.unsigned_abs() < self.partitions, self.damaged_elsewhere.contains(partition)) {
                (true, _) => "",
                (false, true) => "; it is of other incarnations only, so that a target that is made does not get it",
                (false, false) => "; a target that is made gets this partition all the same",
            };
            format!(
                "partition {partition} was not asked for and is damaged{room}; a newer incarnation that is archived in it \
                 alone is not known: {why}"
            )
        });
        passed_over
            .chain(others)
            .chain(left_behind)
            .chain(damaged)
            .chain(EndsEarly::tell(&self.ends_early, self.until))
            .collect()
    }
}

impl ChosenLog {
    /// The plan with its files, which it gives away: a reader forgets what it has read.
    pub fn take_plan(&mut self) -> LogPlan {
        let segments = std::mem::take(&mut self.plan.segments);
        LogPlan { segments, ..self.plan.clone() }
    }

    /// The position of a replay that has stored `offset` of `lineage`.
    ///
    /// # Errors
    /// `Config` where that position lies in another log.
    pub fn position(&self, lineage: Option<u32>, offset: i64) -> Result<i64> {
        let shared = lineage.is_none_or(|lineage| {
            self.history.iter().any(|(known, last)| *known == lineage && offset <= last.saturating_add(1))
        });
        if shared {
            return Ok(offset);
        }
        let partition = &self.plan.partition;
        Err(ConnectError::config(format!(
            "the stored offset {offset} of {partition} belongs to lineage {}, which lineage {} does not continue there: \
             the topic was created anew or cut back; {}",
            lineage.unwrap_or_default(),
            self.lineage,
            go_on_or_begin_anew(&partition.topic, None)
        )))
    }
}

/// Chooses what `settings` ask for, among the partitions of this task's share.
///
/// # Errors
/// `Config` where the archive does not have what is asked for; `Fatal` where manifests of a topic were removed;
/// otherwise as [`Archive::chain`]. What is wrong with a partition that no range of offsets asks for is none.
pub async fn choose(archive: &Archive, settings: &SourceSettings) -> Result<Vec<ChosenTopic>> {
    let mut chosen = Vec::new();
    for topic in topics(archive, settings).await? {
        let (chains, damaged) = read(archive, &topic, settings).await?;
        let topic = choose_topic(&topic, &chains, settings)?;
        let damaged_elsewhere = elsewhere(archive, &topic, &damaged).await?;
        chosen.push(ChosenTopic { damaged, damaged_elsewhere, ..topic });
    }
    look_for_renamed(&chosen, settings)?;
    refuse_shared_targets(&chosen)?;
    Ok(chosen)
}

/// The chains of `topic`, and the partitions that nobody asked for and whose chain cannot be read, with why.
async fn read(archive: &Archive, topic: &str, settings: &SourceSettings) -> Result<(Vec<Chain>, Vec<(i32, String)>)> {
    let reads = archive.partitions(topic).await?.into_iter().map(|partition| async move {
        let read = archive.chain(&partition).await;
        (partition, read)
    });
    let mut reads = stream::iter(reads).buffered(PARALLEL_CHAINS);
    let (mut chains, mut damaged, mut told) = (Vec::new(), Vec::new(), BTreeSet::new());
    let mut pass_over = |partition: &TopicPartition, error: ConnectError| {
        if settings.asks_for(partition) || error.kind() != Kind::Fatal {
            return Err(error);
        }
        damaged.push((partition.partition, error.message().to_owned()));
        Ok(())
    };
    while let Some((partition, read)) = reads.next().await {
        match read {
            Ok(Some(chain)) => chains.push(chain),
            Ok(None) => continue,
            Err(error) => pass_over(&partition, error)?,
        }
        told.insert(partition);
    }
    for (partition, error) in archive.removed(topic, &told).await? {
        pass_over(&partition, error)?;
    }
    Ok((chains, damaged))
}

/// Those of the `damaged` partitions of `topic` that hold nothing of the chosen incarnation.
async fn elsewhere(archive: &Archive, topic: &ChosenTopic, damaged: &[(i32, String)]) -> Result<BTreeSet<i32>> {
    let mut elsewhere = BTreeSet::new();
    // What a broker without ids made may be of any.
    let Some(chosen) = &topic.topic_id else { return Ok(elsewhere) };
    for (number, _) in damaged {
        let known = archive.known_ids(&TopicPartition::new(topic.topic.as_str(), *number)).await?;
        let is_other = |id: &Option<String>| id.as_ref().is_some_and(|id| id != chosen);
        elsewhere.extend(known.filter(|ids| ids.iter().all(is_other)).map(|_| *number));
    }
    Ok(elsewhere)
}

/// A name that was mistyped must not leave its topic to be written under its own. Names beside `topics` were refused
/// with the settings.
fn look_for_renamed(chosen: &[ChosenTopic], settings: &SourceSettings) -> Result<()> {
    if matches!(settings.topics, Topics::Names(_)) {
        return Ok(());
    }
    let archived: Vec<_> = chosen.iter().map(|chosen| chosen.topic.as_str()).collect();
    match refuse_unknown("topic.rename", settings.rename.keys().map(String::as_str), &archived) {
        Err(error) if settings.follow => {
            tracing::warn!("{}, unless it comes later", error.message());
            Ok(())
        }
        outcome => outcome,
    }
}

/// Refuses a name in `option` that is none of the topics that are `chosen`.
///
/// # Errors
/// `Config` naming it, and what is chosen.
pub fn refuse_unknown<'a>(
    option: &str,
    mut names: impl Iterator<Item = &'a str>,
    chosen: &[impl AsRef<str>],
) -> Result<()> {
    let is_unknown = |name: &&str| !chosen.iter().any(|topic| topic.as_ref() == *name);
    let Some(name) = names.find(is_unknown) else { return Ok(()) };
    let chosen: Vec<_> = chosen.iter().map(AsRef::as_ref).collect();
    Err(ConnectError::config(format!(
        "{option}: {name} is not among the archived topics that are chosen: {}; correct the name",
        chosen.join(", ")
    )))
}

/// Records of two topics in one would have no order, and no progress of their own.
fn refuse_shared_targets(chosen: &[ChosenTopic]) -> Result<()> {
    let mut topic_by_target = BTreeMap::new();
    for ChosenTopic { topic, target, .. } in chosen {
        if let Some(other) = topic_by_target.insert(target, topic) {
            return Err(ConnectError::config(format!(
                "topic.rename: {other} and {topic} would both be written to {target}; give each topic its own"
            )));
        }
    }
    Ok(())
}

/// What `settings` ask for of the log in `chain`, in the lineage that was chosen before.
///
/// # Errors
/// As [`Chain::pieces`].
pub fn choose_log(chain: &Chain, lineage: u32, settings: &SourceSettings) -> Result<ChosenLog> {
    let ranges = |wanted: &BTreeMap<_, _>| wanted.get(&chain.partition).cloned().unwrap_or_default();
    let selection = Selection { cut: settings.cut, offsets: settings.offsets.as_ref().map(ranges) };
    let plan = LogPlan::of(chain, lineage, selection)?;
    Ok(ChosenLog {
        lineage,
        history: chain.history(lineage)?,
        topic_id: topic_id(chain, lineage),
        plan,
        next_seq: chain.end().seq + 1,
        so_far: if settings.follow { ChainSoFar::of(&chain.links) } else { ChainSoFar::default() },
    })
}

async fn topics(archive: &Archive, settings: &SourceSettings) -> Result<Vec<String>> {
    let chosen = archive.all_topics(|topic| settings.topics.has(topic)).await?;
    let wrong = match &settings.topics {
        Topics::Names(names) => {
            let missing = names.iter().find(|name| !chosen.contains(name));
            missing.map(|missing| format!("topics: there is no archive of {missing}"))
        }
        Topics::Pattern(_) => chosen.is_empty().then(|| "topics.regex: no archived topic matches".to_owned()),
    };
    let Some(wrong) = wrong.filter(|_| !settings.follow) else { return Ok(chosen) };
    let archived = archive.all_topics(|_| true).await?;
    let list = if archived.is_empty() { "none".to_owned() } else { archived.join(", ") };
    Err(ConnectError::config(format!("{wrong} at {}; archived are: {list}", settings.lake.url)))
}

fn choose_topic(topic: &str, chains: &[Chain], settings: &SourceSettings) -> Result<ChosenTopic> {
    let known = Incarnations::of(chains);
    let wanted_id = match &settings.lineage {
        Incarnation::Latest => known.latest(),
        Incarnation::TopicId(id) => Some(id.clone()),
        Incarnation::Number(_) => None,
    };
    let is_latest = settings.lineage == Incarnation::Latest;
    let mut lineages = Vec::new();
    for chain in chains.iter().filter(|chain| settings.asks_for(&chain.partition)) {
        lineages.push((chain, lineage_of(chain, &settings.lineage, wanted_id.as_deref())?));
    }
    check_incarnation(topic, &lineages, settings)?;
    let chosen_ids: BTreeSet<_> =
        lineages.iter().filter_map(|(chain, lineage)| Some(topic_id(chain, (*lineage)?))).collect();
    let chosen_id = chosen_ids.iter().flatten().next().cloned();
    // What is read is no other one, also where none of the partitions that are asked for holds a record of it.
    let mut read = chosen_ids.clone();
    if !matches!(settings.lineage, Incarnation::Number(_)) {
        read.insert(wanted_id.clone());
    }
    let archived = Chain::newest_settings(chains, chosen_id.as_deref()).cloned();
    let at_least = archived_partitions(chains, chosen_id.as_deref());
    let mut chosen = ChosenTopic {
        topic: topic.to_owned(),
        target: settings.target_of(topic).to_owned(),
        topic_id: chosen_id.clone().or_else(|| wanted_id.clone()),
        partitions: archived.as_ref().map_or(at_least, |settings| settings.partitions.max(at_least)),
        settings: archived,
        logs: Vec::new(),
        left_out: Vec::new(),
        damaged: Vec::new(),
        damaged_elsewhere: BTreeSet::new(),
        passed_over: is_latest.then(|| known.passed_over(wanted_id.as_deref())).flatten(),
        others: if lineages.is_empty() { Vec::new() } else { known.others(&read)? },
        left_behind: match settings.lineage {
            Incarnation::Number(_) => Vec::new(),
            _ => left_behind(lineages.iter().filter_map(|(chain, lineage)| Some((*chain, (*lineage)?))))?,
        },
        until: settings.cut.window.until.filter(|_| !settings.follow),
        ends_early: Vec::new(),
    };
    for (chain, lineage) in lineages.into_iter().filter(|(chain, _)| settings.share.has(&chain.partition)) {
        match lineage {
            Some(lineage) => {
                chosen.logs.push(choose_log(chain, lineage, settings)?);
                let early = chosen.until.map(|until| EndsEarly::of(chain, lineage, until)).transpose()?;
                chosen.ends_early.extend(early.flatten());
            }
            None => chosen.left_out.push((
                chain.partition.partition,
                format!("it holds no record of topic id {}", wanted_id.as_deref().unwrap_or_default()),
            )),
        }
    }
    Ok(chosen)
}

/// How many partitions are archived of the incarnation with `chosen_id`, where one is known: one that was there before
/// or came after may have had more.
fn archived_partitions(chains: &[Chain], chosen_id: Option<&str>) -> u32 {
    let knows = |line: &Lineage| line.topic_id.is_none() || line.topic_id.as_deref() == chosen_id;
    let of_it = chains.iter().filter(|chain| chosen_id.is_none() || chain.end().lineages.iter().any(knows));
    of_it.map(|chain| chain.partition.partition.unsigned_abs() + 1).max().unwrap_or(0)
}

/// The lineage of `chain` to read; `None` where it holds nothing of the incarnation with `wanted_id`.
fn lineage_of(chain: &Chain, wanted: &Incarnation, wanted_id: Option<&str>) -> Result<Option<u32>> {
    let latest = chain.latest_lineage();
    if let Incarnation::Number(number) = wanted {
        chain
            .history(*number)
            .map_err(|error| ConnectError::config(format!("lineage={number}: {}", error.message())))?;
        return Ok(Some(*number));
    }
    let is_latest = *wanted == Incarnation::Latest;
    let has = |id: Option<&str>| id == wanted_id || is_latest && id.is_none();
    if has(topic_id(chain, latest).as_deref()) {
        return Ok(Some(latest));
    }
    let newest_first = chain.end().lineages.iter().rev();
    let newest = newest_first.filter(|line| has(line.topic_id.as_deref())).map(|line| line.lineage).next();
    Ok(newest.or((is_latest && wanted_id.is_none()).then_some(latest)))
}

/// The topic's id in that lineage.
pub(super) fn topic_id(chain: &Chain, lineage: u32) -> Option<String> {
    chain.end().lineages.iter().find(|line| line.lineage == lineage)?.topic_id.clone()
}

/// Looks at the partitions of all tasks: each of them must come to the same judgement.
fn check_incarnation(topic: &str, lineages: &[(&Chain, Option<u32>)], settings: &SourceSettings) -> Result<()> {
    let chosen = lineages.iter().filter_map(|(chain, lineage)| topic_id(chain, (*lineage)?));
    let ids: BTreeSet<String> = chosen.collect();
    if ids.len() > 1 {
        let ids: Vec<_> = ids.into_iter().collect();
        return Err(ConnectError::config(format!(
            "lineage: its number means different incarnations in different partitions of {topic}; set it to one of their \
             topic ids: {}",
            ids.join(", ")
        )));
    }
    let Incarnation::TopicId(id) = &settings.lineage else { return Ok(()) };
    if !lineages.is_empty() && lineages.iter().all(|(_, lineage)| lineage.is_none()) {
        return Err(ConnectError::config(format!("lineage: no partition of {topic} was archived with topic id {id}")));
    }
    Ok(())
}

/// The segments of one more entry's files.
pub(super) fn segments_of(files: &[crate::manifest::model::FileEntry]) -> impl Iterator<Item = Segment> + '_ {
    files.iter().map(|file| Segment::whole(Arc::new(file.clone())))
}

/// The partition's name in the target.
pub(super) fn target_partition(topic: &ChosenTopic, partition: &TopicPartition) -> TopicPartition {
    TopicPartition::new(topic.target.as_str(), partition.partition)
}

#[cfg(test)]
mod tests {
    use object_store::ObjectStoreExt as _;

    use super::*;
    use crate::store::testing::Faulty;
    use crate::testing::{TestArchive, row};

    async fn choose_by(settings: &[(&str, &str)]) -> Result<Vec<ChosenTopic>> {
        let mut archive = TestArchive::new();
        archive.open("orders", 0, 0).await;
        archive.open("offers", 0, 0).await;
        let base = [("store.url", "memory:///")];
        let pairs = base.iter().chain(settings).map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        choose(&archive.archive(), &SourceSettings::parse(&pairs.collect()).unwrap()).await
    }

    #[tokio::test]
    async fn a_partition_whose_manifests_are_gone_is_not_passed_over() {
        let mut archive = TestArchive::new();
        let [bare, whole] = [archive.open("orders", 0, 0).await, archive.open("orders", 1, 0).await];
        archive.publish(&bare, &[row(0, 1)], 0).await;
        archive.publish(&whole, &[row(0, 1)], 0).await;
        let refused = async |topics: (&str, &str)| {
            let pairs = [("store.url", "memory:///"), topics].map(|(key, value)| (key.to_owned(), value.to_owned()));
            let error = choose(&archive.archive(), &SourceSettings::parse(&pairs.into()).unwrap()).await.unwrap_err();
            assert_eq!(error.kind(), lakeferry_api::Kind::Fatal, "{error}");
            error.message().to_owned()
        };
        remove_chain(&archive, &bare).await;
        let words = "manifest entries of orders-0 were removed: topics/orders/partition=0/";
        let told = refused(("topics", "orders")).await;
        assert!(told.starts_with(words) && told.contains("is there, entry 0 is not"), "{told}");
        // The last of them: nothing of the topic would be seen.
        remove_chain(&archive, &whole).await;
        assert!(refused(("topics", "orders")).await.starts_with(words));
        assert!(refused(("topics.regex", ".*")).await.starts_with(words));
    }

    #[tokio::test]
    async fn damage_of_a_partition_that_nobody_asked_for_refuses_nothing() {
        let mut archive = TestArchive::new();
        archive.partitions = 3;
        let [bare, altered, whole] = [
            archive.open("orders", 0, 0).await,
            archive.open("orders", 1, 0).await,
            archive.open("orders", 2, 0).await,
        ];
        for partition in [&bare, &altered, &whole] {
            archive.publish(partition, &[row(0, 1)], 0).await;
        }
        remove_chain(&archive, &bare).await;
        archive.reseal(&altered, |entry| entry.files.clear()).await;
        let choose = async |offsets: &str| {
            let pairs = [("store.url", "memory:///"), ("topics", "orders"), ("replay.offsets", offsets)];
            let pairs = pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
            choose(&archive.archive(), &SourceSettings::parse(&pairs).unwrap()).await
        };
        let chosen = choose("orders:2:0:9").await.unwrap().remove(0);
        let logs: Vec<_> = chosen.logs.iter().map(|log| log.plan.partition.clone()).collect();
        assert_eq!((logs, chosen.partitions), (vec![whole], 3));
        let told = chosen.remarks("--lineage ");
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told[0].starts_with("partition 1 was not asked for and is damaged") && told[0].contains("(law of "));
        assert!(
            told[1].starts_with("partition 0 was not asked for and is damaged")
                && told[1].contains("entries of orders-0 were removed")
        );
        for asked in ["orders:0:0:9,orders:2:0:9", "orders:1:0:9,orders:2:0:9"] {
            assert_eq!(choose(asked).await.unwrap_err().kind(), Kind::Fatal, "{asked}");
        }
    }

    async fn remove_chain(archive: &TestArchive, partition: &TopicPartition) {
        for seq in 0..2 {
            archive.store.delete(&archive.layout.entry(partition, seq)).await.unwrap();
        }
    }

    #[tokio::test]
    async fn folders_of_topics_that_nobody_asked_for_are_not_looked_into() {
        let store = Arc::new(Faulty::default());
        let mut archive = TestArchive::of(Arc::clone(&store) as _, "archive.parquet");
        archive.open("orders", 0, 0).await;
        let foreign = object_store::path::Path::from("topics/foreign/partition=0/foreign+0+0000000000.avro");
        archive.store.put(&foreign, "of another sink".into()).await.unwrap();
        for topics in [("topics", "orders"), ("topics.regex", "or.*")] {
            store.take_listed();
            let pairs = [("store.url", "memory:///"), topics].map(|(key, value)| (key.to_owned(), value.to_owned()));
            let chosen = choose(&archive.archive(), &SourceSettings::parse(&pairs.into()).unwrap()).await.unwrap();
            assert_eq!(chosen.len(), 1);
            let listed = store.take_listed();
            assert!(!listed.is_empty() && listed.iter().all(|folder| !folder.contains("foreign")), "{listed:?}");
        }
    }

    #[tokio::test]
    async fn a_renamed_topic_that_is_not_archived_is_refused_unless_it_may_come() {
        let mistyped = [("topics.regex", "o.*"), ("topic.rename", "orders:copy,ordres:other")];
        let error = choose_by(&mistyped).await.unwrap_err();
        assert_eq!(error.kind(), lakeferry_api::Kind::Config);
        assert!(error.message().contains("topic.rename: ordres is not among"), "{error}");
        assert!(error.message().contains("chosen: offers, orders;"), "{error}");
        let followed = choose_by(&[&mistyped[..], &[("replay.end", "follow")]].concat()).await.unwrap();
        let targets: Vec<_> = followed.iter().map(|topic| topic.target.as_str()).collect();
        assert_eq!(targets, ["offers", "copy"]);
        // One task's share changes nothing about it.
        let share = [("lakeferry.task.index", "1"), ("lakeferry.task.count", "2")];
        choose_by(&[&mistyped[..], &share].concat()).await.unwrap_err();
        choose_by(&[&[("topics.regex", "o.*"), ("topic.rename", "orders:copy")][..], &share].concat()).await.unwrap();
    }
}
