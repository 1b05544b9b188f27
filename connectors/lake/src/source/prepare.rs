//! What happens before the first record is replayed: the archive is read, the plan counted, the targets looked at and
//! made. The source task and `restore` take the same steps; `restore` stops between them to tell and to ask.
//!
//! Invariant: whatever would make a replay wrong (records that cannot be produced, a target that eats them) is found
//! before anything is written.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use lakeferry_api::simulation::sabotage::{self, Fault};
use lakeferry_api::source::{NewTopic, TargetTopic};
use lakeferry_api::{ConnectError, Kind, Result, SourceContext, TopicPartition};

use super::begun;
use super::choose::{ChosenLog, ChosenTopic, choose};
use super::config::SourceSettings;
use super::cut::CutMode;
use super::fetch::held_bytes;
use super::plan::{Outline, Walk};
use super::present;
use super::read::{Access, Survey, survey};
use super::replay::Replay;
use super::stored::{Stored, source_partition};
use super::target::{Demand, Objection, new_topic, objections};
use crate::layout::Layout;
use crate::manifest::ManifestStore;
use crate::manifest::read::Archive;

/// How long a topic that was just made may take to answer, and how often it is asked.
const MEETING: Duration = Duration::from_secs(30);
const MEET_AGAIN: Duration = Duration::from_millis(100);

/// A replay that has not begun.
pub struct Prepared {
    /// What is replayed, and from where.
    pub topics: Vec<ChosenTopic>,
    /// How.
    pub settings: SourceSettings,
    access: Access,
    archive: Archive,
}

/// A topic that is written to.
#[derive(Debug, Clone)]
pub struct Target {
    /// Its name.
    pub name: String,
    /// What is going to be written.
    pub demand: Demand,
    /// What is there now; `None`: nothing.
    pub existing: Option<TargetTopic>,
    /// What will be made where nothing is there.
    pub new_topic: NewTopic,
    /// What stands against writing to what is there.
    pub objections: Vec<Objection>,
}

/// Why a replay does not go on where it was. Who reads an archive has to tell whether that is what is wrong.
#[derive(Debug)]
pub enum NotResumed {
    /// The archive could not be read.
    Archive(ConnectError),
    /// The stored offsets could not be, or they forbid it.
    Stored(ConnectError),
}

impl Prepared {
    /// Reads the archive and chooses what `settings` ask for.
    ///
    /// # Errors
    /// As [`choose`]; `Config` where the lake cannot be opened.
    pub async fn new(context: &dyn SourceContext, settings: SourceSettings) -> Result<Self> {
        let layout = Layout::new(&settings.lake.topics_dir)?;
        let lake = settings.lake.open_lake()?;
        let manifests = ManifestStore::new(Arc::clone(&lake.store), layout.clone(), context.clock());
        let archive = Archive::new(manifests.finding(lake.names));
        let access = Access { store: lake.store, layout, executor: context.executor(), budget: context.budget() };
        let topics = choose(&archive, &settings).await?;
        Ok(Self { topics, settings, access, archive })
    }

    /// Moves every partition to its stored offset. True where one of the topics goes on with an older incarnation than
    /// was chosen, because that is what was replayed so far.
    ///
    /// # Errors
    /// `Config` where an offset is none of what is chosen; otherwise as [`choose`] and [`SourceContext::offsets`], and
    /// which of them it was.
    pub async fn resume(&mut self, context: &dyn SourceContext) -> Result<bool, NotResumed> {
        let is_another = !sabotage::is(Fault::RestoreFromBeginning)
            && begun::keep(context, &self.archive, &self.settings, &mut self.topics).await?;
        resume(context, &mut self.topics).await?;
        Ok(is_another)
    }

    /// Counts what is going to be replayed, by partition, from manifests alone where they can tell.
    ///
    /// # Errors
    /// As [`survey`].
    pub async fn survey(&self) -> Result<BTreeMap<TopicPartition, Survey>> {
        let mut surveys = BTreeMap::new();
        for topic in &self.topics {
            for log in &topic.logs {
                surveys.insert(log.plan.partition.clone(), survey(&self.access, &log.plan).await?);
            }
        }
        Ok(surveys)
    }

    /// Refuses a replay of what `surveys` found where an object that it reads is missing or has another size than its
    /// manifest says. Nothing but listings is read.
    ///
    /// # Errors
    /// `Fatal` with the objects; otherwise as [`explain`](crate::store::explain).
    pub async fn check_objects(&self, surveys: &BTreeMap<TopicPartition, Survey>) -> Result<()> {
        present::check(&self.access, surveys.values().flat_map(|survey| survey.files.iter().cloned())).await
    }

    /// What is going to be replayed, by partition, as far as manifests tell.
    ///
    /// # Errors
    /// As [`Walk::new`].
    pub fn outlines(&self) -> Result<BTreeMap<TopicPartition, Outline>> {
        let logs = self.topics.iter().flat_map(|topic| &topic.logs);
        logs.map(|log| Ok((log.plan.partition.clone(), log.plan.walk()?.outline()))).collect()
    }

    /// What the readers of all partitions hold at once, near enough, where those take turns by time: no budget bounds
    /// it, since the next record of each must be known. `None` where they do not.
    ///
    /// # Errors
    /// As [`Walk::new`].
    pub fn held_by_time(&self) -> Result<Option<(usize, u64)>> {
        if !self.settings.by_time {
            return Ok(None);
        }
        let (mut partitions, mut bytes) = (0, 0_u64);
        for log in self.topics.iter().flat_map(|topic| &topic.logs) {
            let held = log.plan.walk()?.ahead().map(|segment| held_bytes(&segment.file)).max();
            partitions += usize::from(held.is_some());
            bytes = bytes.saturating_add(held.unwrap_or(0));
        }
        Ok(Some((partitions, bytes)))
    }

    /// Looks for records that cannot be produced as they were, unless they are to be stamped now.
    ///
    /// # Errors
    /// `Config` with their count by partition; otherwise as [`survey`].
    pub async fn refuse_untimed(&self) -> Result<()> {
        if self.settings.stamp_untimed {
            return Ok(());
        }
        let mut found = Vec::new();
        for topic in &self.topics {
            for log in &topic.logs {
                let untimed = count_untimed(&self.access, log).await?;
                if untimed > 0 {
                    found.push(format!("{untimed} in {}", log.plan.partition));
                }
            }
        }
        if found.is_empty() {
            return Ok(());
        }
        Err(ConnectError::config(format!(
            "there are records with no timestamp or one of 0 or less, which the client library cannot produce as they were: \
             {}; nothing was written; set replay.untimed=now to stamp them when they are replayed, or leave them out with \
             replay.from or replay.offsets",
            found.join(", ")
        )))
    }

    /// What the topics to write to are, and what stands against it.
    ///
    /// # Errors
    /// As [`SourceContext::target_topic`].
    pub async fn targets(&self, context: &dyn SourceContext) -> Result<Vec<Target>> {
        let mut targets = Vec::new();
        for topic in &self.topics {
            targets.push(look_at(context, topic, &self.settings).await?);
        }
        Ok(targets)
    }

    /// Makes the topics that are missing, unless something stands against one that exists.
    ///
    /// # Errors
    /// `Config` where something does; otherwise as [`SourceContext::create_topic`].
    pub async fn make_targets(&self, context: &dyn SourceContext) -> Result<()> {
        make_targets(context, &self.topics, &self.settings).await
    }

    /// The replay.
    ///
    /// # Errors
    /// As [`Replay::new`].
    pub fn replay(self, context: &dyn SourceContext) -> Result<Replay> {
        Replay::new(self.access, self.archive, self.settings, context.clock(), self.topics)
    }

    /// How to read the archive's objects.
    pub fn access(&self) -> &Access {
        &self.access
    }
}

impl From<ConnectError> for NotResumed {
    fn from(error: ConnectError) -> Self {
        Self::Stored(error)
    }
}

impl NotResumed {
    /// The error, for whom it is all the same.
    pub fn into_error(self) -> ConnectError {
        match self {
            Self::Archive(error) | Self::Stored(error) => error,
        }
    }
}

impl Target {
    /// Refuses what stands against it, unless `force` is given and enough.
    ///
    /// # Errors
    /// `Config` naming every objection.
    pub fn check(&self, force: bool) -> Result<()> {
        let standing: Vec<_> = self.objections.iter().filter(|found| !force || !found.can_be_forced).collect();
        if standing.is_empty() {
            return Ok(());
        }
        let list: Vec<_> = standing.iter().map(ToString::to_string).collect();
        let remedy = if standing.iter().all(|found| found.can_be_forced) {
            "change that, choose another target, or force it (replay.force=true)".to_owned()
        } else {
            let (name, partitions) = (&self.name, self.demand.partitions);
            let rest = if standing.len() > 1 { " and change the rest" } else { "" };
            format!(
                "add partitions to it (kafka-topics --alter --topic {name} --partitions {partitions}){rest}, or choose \
                 another target"
            )
        };
        Err(ConnectError::config(format!("topic {} is not fit for a replay: {}; {remedy}", self.name, list.join("; "))))
    }
}

async fn count_untimed(access: &Access, log: &ChosenLog) -> Result<u64> {
    if log.plan.walk()?.outline().untimed { Ok(survey(access, &log.plan).await?.untimed) } else { Ok(0) }
}

/// Moves the partitions of `topics` to their stored offsets.
pub(super) async fn resume(context: &dyn SourceContext, topics: &mut [ChosenTopic]) -> Result<()> {
    let mut logs: Vec<&mut ChosenLog> = topics.iter_mut().flat_map(|topic| &mut topic.logs).collect();
    let partitions = logs.iter().map(|log| source_partition(&log.plan.partition)).collect::<Result<Vec<_>>>()?;
    for (log, stored) in logs.iter_mut().zip(context.offsets(&partitions).await?) {
        // What was stored when somebody asked before may be gone, with the target.
        log.plan.position = match stored.filter(|_| !sabotage::is(Fault::RestoreFromBeginning)) {
            Some(stored) => {
                let stored = Stored::read(&stored)?;
                log.position(stored.lineage, stored.offset)?
            }
            None => 0,
        };
    }
    Ok(())
}

/// See [`Prepared::make_targets`].
pub(super) async fn make_targets(
    context: &dyn SourceContext,
    topics: &[ChosenTopic],
    settings: &SourceSettings,
) -> Result<()> {
    let mut targets = Vec::new();
    for topic in topics {
        if topic.logs.is_empty() {
            continue;
        }
        let target = look_at(context, topic, settings).await?;
        target.check(settings.force)?;
        targets.push((topic, target));
    }
    for (topic, target) in targets {
        if target.existing.is_some() {
            for objection in &target.objections {
                tracing::warn!(topic = target.name, %objection, "writing to a topic that is not fit for a replay");
            }
            continue;
        }
        match context.create_topic(&target.new_topic).await {
            Ok(()) => tracing::info!(topic = target.name, partitions = topic.new_partitions(), "created"),
            // Another task was faster.
            Err(error) if error.kind() == Kind::Conflict => {
                look_at(context, topic, settings).await?.check(settings.force)?;
            }
            Err(error) => return Err(error),
        }
        meet(context, topic).await?;
    }
    Ok(())
}

/// Lets whoever keeps the progress in `topic` see the target that was made: which one it is, and that it is empty.
///
/// # Errors
/// `Retriable` where the progress is another than before; otherwise as [`SourceContext::offsets`].
async fn meet(context: &dyn SourceContext, topic: &ChosenTopic) -> Result<()> {
    let partitions = topic.logs.iter().map(|log| source_partition(&log.plan.partition)).collect::<Result<Vec<_>>>()?;
    let clock = context.clock();
    let deadline = clock.monotonic() + MEETING;
    let all_stored = loop {
        match context.offsets(&partitions).await {
            // A leader that all brokers name may not know yet that it is one.
            Err(error) if error.is_retriable() && clock.monotonic() < deadline => clock.sleep(MEET_AGAIN).await,
            outcome => break outcome?,
        }
    };
    for (log, stored) in topic.logs.iter().zip(all_stored) {
        let offset = stored.as_ref().map(Stored::read).transpose()?.map_or(0, |stored| stored.offset);
        if offset != log.plan.position && !sabotage::is(Fault::RestoreFromBeginning) {
            let (partition, target) = (&log.plan.partition, &topic.target);
            return Err(ConnectError::retriable(format!(
                "the progress of {partition} changed while {target} was made: it is at {offset}, and was at {}",
                log.plan.position
            )));
        }
    }
    Ok(())
}

async fn look_at(context: &dyn SourceContext, topic: &ChosenTopic, settings: &SourceSettings) -> Result<Target> {
    let demand = demand(topic, settings)?;
    let existing = context.target_topic(&topic.target).await?;
    let now_ms = context.clock().now_ms();
    let objections = existing.as_ref().map(|found| objections(found, &demand, now_ms)).unwrap_or_default();
    let new_topic = new_topic(&topic.target, topic.new_partitions(), settings.replication_factor);
    Ok(Target { name: topic.target.clone(), demand, existing, new_topic, objections })
}

fn demand(topic: &ChosenTopic, settings: &SourceSettings) -> Result<Demand> {
    let limit = topic.settings.as_ref().and_then(|settings| settings.configs.get("max.message.bytes")?.parse().ok());
    let mut demand = Demand { partitions: topic.partitions, archived_limit_bytes: limit, ..Demand::default() };
    for log in &topic.logs {
        let walk: Walk = log.plan.walk()?;
        for segment in walk.ahead() {
            demand.oldest = demand.oldest.into_iter().chain(segment.file.min_timestamp).min();
            demand.newest = demand.newest.into_iter().chain(segment.file.max_timestamp).max();
            let raw_bytes = segment.file.raw_bytes;
            demand.least_record_bytes = demand.least_record_bytes.max(raw_bytes / segment.file.records.max(1));
            demand.most_record_bytes = demand.most_record_bytes.max(raw_bytes);
        }
        demand.partition_bytes = demand.partition_bytes.max(walk.outline().most_raw_bytes);
    }
    if settings.cut.mode == CutMode::Record {
        let window = settings.cut.window;
        demand.oldest = demand.oldest.map(|oldest| oldest.max(window.from.unwrap_or(i64::MIN)));
        demand.newest = demand.newest.map(|newest| newest.min(window.until.unwrap_or(i64::MAX)));
    }
    Ok(demand)
}
