//! The task: one [`Partition`] for each partition it owns, and the routing between the worker's calls and them.
//!
//! Uploads, manifest entries and restarts go on beside the loop and are looked at here ([`Partition::progress`]), in
//! calls that never wait for them: with its records for each partition that has some, at every tick for all. Only
//! `open` and `close` wait.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures::FutureExt;
use futures::future::join_all;
use futures::stream::{self, StreamExt};
use lakeferry_api::simulation::sabotage::{self, Fault};
use lakeferry_api::{
    Batch, Budget, Closing, Config, ConnectError, Kind, Opened, Positions, Result, SinkContext, SinkEvent, SinkTask,
    TopicPartition,
};
use object_store::ObjectStore;
use object_store::limit::LimitStore;
use tokio::sync::Notify;

use super::backoff::backoff;
use super::commit::Identity;
use super::lanes::Lanes;
use super::partition::{Partition, Shared};
use super::settings::KnownSettings;
use super::spill::Spill;
use super::troubles::Troubles;
use super::upload::Target;
use crate::config::{LakeSettings, SinkSettings};
use crate::layout::Layout;
use crate::manifest::ManifestStore;
use crate::store::{self, Lake};

/// Uploads of files and parts that may be under way at once, on a line that carries them.
const UPLOADS_AT_ONCE: usize = 8;
/// Requests of a task to the store that may be under way at once, whatever for: thousands of partitions that write an
/// entry at the same moment must not need as many connections.
const REQUESTS_AT_ONCE: usize = 32;
/// Chains of newly assigned partitions read at once.
const OPENS_AT_ONCE: usize = 16;
/// How often a close looks at uploads that nothing wakes it for.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// A file that holds less is left alone while memory runs short: its blocks would become crumbs.
const WORTH_SPILLING_BYTES: u64 = 64 * 1024;

/// The archive sink's task.
#[derive(Default)]
pub(crate) struct LakeSinkTask {
    shared: Option<Arc<Shared>>,
    partitions: BTreeMap<TopicPartition, Partition>,
}

#[async_trait]
impl SinkTask for LakeSinkTask {
    async fn start(&mut self, context: Arc<dyn SinkContext>, config: &Config) -> Result<()> {
        let settings = SinkSettings::parse(config)?;
        let lake = settings.lake.open_lake()?;
        let layout = Layout::new(&settings.lake.topics_dir)?;
        if !is_proven(&settings.lake) {
            persist(&context, || store::probe(&lake.store, &layout, context.random_id())).await?;
            prove(&settings.lake);
        }
        let cluster_id = persist(&context, || context.cluster_id()).await?;
        *self = Self::on(context, settings, lake, cluster_id)?;
        Ok(())
    }

    async fn open(&mut self, partitions: &[TopicPartition]) -> Result<Opened> {
        let shared = self.shared()?;
        let opening: Vec<_> = partitions
            .iter()
            .map(|name| Partition::open(Arc::clone(&shared), name.clone()).map(|opened| (name.clone(), opened)).boxed())
            .collect();
        let mut opening = stream::iter(opening).buffer_unordered(OPENS_AT_ONCE);
        let mut opened = Opened::default();
        let mut partitions = Vec::new();
        while let Some((name, result)) = opening.next().await {
            match result {
                Ok(partition) => {
                    opened.places.insert(name.clone(), partition.place());
                    partitions.push((name, partition));
                }
                Err(error) if error.is_retriable() || error.kind() == Kind::NotFound => {
                    opened.later.insert(name, error);
                }
                Err(error) => return Err(error),
            }
        }
        self.partitions.extend(partitions);
        Ok(opened)
    }

    async fn put(&mut self, batches: &[Batch]) -> Result<()> {
        let mut batches_by_partition: BTreeMap<&TopicPartition, Vec<&Batch>> = BTreeMap::new();
        for batch in batches {
            batches_by_partition.entry(batch.partition()).or_default().push(batch);
        }
        let is_tick = batches.is_empty();
        let routed = self.partitions.iter_mut().filter_map(|(name, partition)| {
            let batches = batches_by_partition.remove(name).or_else(|| is_tick.then(Vec::new))?;
            Some(take(partition, batches))
        });
        first_error(join_all(routed).await)?;
        self.relieve_memory().await
    }

    async fn flush(&mut self, consumed: &Positions) -> Result<Positions> {
        if sabotage::is(Fault::OffsetBeforeManifest) {
            return Ok(consumed.clone());
        }
        let durable = |(name, partition): (&TopicPartition, &Partition)| {
            let consumed = *consumed.get(name)?;
            Some((name.clone(), partition.durable()?.min(consumed)))
        };
        Ok(self.partitions.iter().filter(|(_, partition)| !partition.is_gone()).filter_map(durable).collect())
    }

    async fn close(&mut self, partitions: &[TopicPartition], why: Closing) -> Result<Positions> {
        let shared = self.shared()?;
        // Behind all that is dropped here: nothing of what leaves is to stay in the status.
        let _forgetting = shared.troubles.forget_after(partitions);
        let mut leaving: BTreeMap<_, _> =
            partitions.iter().filter_map(|name| self.partitions.remove_entry(name)).collect();
        if why == Closing::Revoked || sabotage::is(Fault::ZombiePublishes) {
            publish(&shared, &mut leaving).await?;
        } else {
            for (partition, left) in leaving.iter().filter(|(_, left)| !left.unpublished().is_empty()) {
                let unpublished = left.unpublished();
                tracing::info!(%partition, ?unpublished, "left to who reads it next, where the log has them still");
            }
        }
        let durable = |(name, partition): (TopicPartition, Partition)| {
            let durable = partition.durable().filter(|_| !partition.is_gone())?;
            Some((name, durable))
        };
        Ok(leaving.into_iter().filter_map(durable).collect())
    }
}

impl LakeSinkTask {
    /// A task that is ready to open partitions in `lake`.
    ///
    /// # Errors
    /// `Config` where format, codec or `topics.dir` cannot be used.
    pub(super) fn on(
        context: Arc<dyn SinkContext>,
        settings: SinkSettings,
        lake: Lake,
        cluster_id: String,
    ) -> Result<Self> {
        let (format, compression) = super::compression(&settings)?;
        let Lake { store, names, .. } = lake;
        let store: Arc<dyn ObjectStore> = Arc::new(LimitStore::new(store, REQUESTS_AT_ONCE));
        let identity = Identity::of(context.as_ref(), cluster_id);
        let ended = Arc::new(Notify::new());
        let target = Target {
            store: Arc::clone(&store),
            part_bytes: settings.part_bytes,
            lanes: Arc::new(Lanes::new(UPLOADS_AT_ONCE, context.clock())),
            ended: Arc::clone(&ended),
            pool: context.executor(),
            budget: context.budget(),
        };
        let spill = open_spill(context.as_ref());
        let troubles = Troubles::new(Arc::clone(&context));
        let manifests = ManifestStore::new(store, Layout::new(&settings.lake.topics_dir)?, context.clock());
        // A search by names stands for a listing that waits meanwhile: it needs no room of its own.
        let manifests = manifests.finding(names);
        let shared = Shared {
            context,
            settings,
            format,
            compression,
            identity,
            manifests,
            target,
            spill,
            ended,
            troubles,
            told: KnownSettings::default(),
        };
        Ok(Self { shared: Some(Arc::new(shared)), partitions: BTreeMap::new() })
    }

    fn shared(&self) -> Result<Arc<Shared>> {
        self.shared.clone().ok_or_else(|| ConnectError::fatal("the task was not started"))
    }

    /// Frees memory while the worker runs short of it: what the largest open files hold goes to disk. Where there is
    /// no room files end early: better a small file than none.
    async fn relieve_memory(&mut self) -> Result<()> {
        let budget = self.shared()?.context.budget();
        let (much, enough) = (budget.room() / 4 * 3, budget.room() / 2);
        if budget.moving() < much {
            return Ok(());
        }
        // What a file holds is known when all that it took is encoded.
        first_error(join_all(self.partitions.values_mut().map(Partition::catch_up)).await)?;
        for (_, partition) in self.largest_first() {
            if budget.moving() < enough {
                return Ok(());
            }
            if partition.open_file_bytes() < WORTH_SPILLING_BYTES || !partition.spill().await? {
                break;
            }
        }
        self.end_files_early(&budget, much).await
    }

    /// Ends the largest files, as many as bring what moves below `much` once they have left. Much smaller ones than
    /// the largest stay: they would help little.
    async fn end_files_early(&mut self, budget: &Budget, much: u64) -> Result<()> {
        let context = Arc::clone(&self.shared()?.context);
        // What is on its way to the store frees its memory without more files that end for it.
        let leaving: u64 = self.partitions.values().map(Partition::leaving_bytes).sum();
        let mut staying = budget.moving().saturating_sub(leaving);
        let largest_first = self.largest_first();
        let worthwhile = largest_first.first().map_or(0, |(_, largest)| largest.open_file_bytes() / 2);
        for (name, partition) in largest_first {
            let bytes = partition.open_file_bytes();
            if staying < much || bytes < worthwhile {
                break;
            }
            tracing::info!(partition = %name, bytes, staying, "closing a file early: memory runs short");
            context.count(&SinkEvent::EndedEarly { partition: name });
            partition.rotate().await?;
            partition.progress().await?;
            staying = staying.saturating_sub(bytes);
        }
        Ok(())
    }

    /// The partitions with open files, those that hold most memory first.
    fn largest_first(&mut self) -> Vec<(&TopicPartition, &mut Partition)> {
        let mut open: Vec<_> =
            self.partitions.iter_mut().filter(|(_, partition)| partition.open_file_bytes() > 0).collect();
        open.sort_by_key(|(_, partition)| Reverse(partition.open_file_bytes()));
        open
    }
}

/// The worker's spill file; a folder that cannot be used costs small files under memory pressure, not the task.
fn open_spill(context: &dyn SinkContext) -> Option<Spill> {
    let (dir, bytes) = context.spill()?;
    match Spill::open(&dir, bytes, context.random_id()) {
        Ok(spill) => Some(spill),
        Err(error) => {
            tracing::warn!("files end early where memory runs short: {}", error.trace());
            None
        }
    }
}

/// The lakes that this process has probed. A store does not change its nature while the worker runs, and a task that
/// comes and goes while nothing is archived must not write.
static PROVEN: Mutex<Vec<LakeSettings>> = Mutex::new(Vec::new());

fn is_proven(lake: &LakeSettings) -> bool {
    PROVEN.lock().is_ok_and(|proven| proven.contains(lake))
}

fn prove(lake: &LakeSettings) {
    if let Ok(mut proven) = PROVEN.lock() {
        proven.push(lake.clone());
    }
}

async fn take(partition: &mut Partition, batches: Vec<&Batch>) -> Result<()> {
    for batch in batches {
        partition.take(batch).await?;
    }
    partition.progress().await
}

/// Publishes what the leaving partitions hold. A failure leaves the rest invisible: it is read again by whoever comes
/// next.
async fn publish(shared: &Arc<Shared>, leaving: &mut BTreeMap<TopicPartition, Partition>) -> Result<()> {
    let mut published = first_error(join_all(leaving.values_mut().map(Partition::rotate)).await);
    loop {
        // What one partition fails of does not keep the others from being published.
        published = published.and(first_error(join_all(leaving.values_mut().map(Partition::progress)).await));
        if !leaving.values().any(Partition::is_busy) {
            return published;
        }
        // Uploads and jobs wake us, jobs just before their result can be taken: that needs a second look.
        let clock = shared.context.clock();
        futures::future::select(pin!(shared.ended.notified()), clock.sleep(LOOK_AGAIN)).await;
    }
}

fn first_error(outcomes: Vec<Result<()>>) -> Result<()> {
    outcomes.into_iter().collect()
}

/// Repeats `attempt` until it succeeds or fails for good: a store or broker that is away at the start is waited for.
async fn persist<T, F: Future<Output = Result<T>>>(
    context: &Arc<dyn SinkContext>,
    mut attempt: impl FnMut() -> F,
) -> Result<T> {
    let mut failures = 0;
    loop {
        match attempt().await {
            Err(error) if error.is_retriable() => {
                tracing::warn!(failures, "not started yet, trying again: {}", error.trace());
                context.trouble(Some(error.trace()));
                context.clock().sleep(backoff(failures)).await;
                failures += 1;
            }
            outcome => {
                context.trouble(None);
                return outcome;
            }
        }
    }
}
