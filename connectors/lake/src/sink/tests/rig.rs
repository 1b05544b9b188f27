//! A scripted Kafka, a faulty store and a clock that tests move: enough world to run the task unchanged.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;
use lakeferry_api::connector::SinkAlteration;
use lakeferry_api::executor::Inline;
use lakeferry_api::sink::{OffsetReset, SinkEvent};
use lakeferry_api::{
    Batch, BatchBuilder, Budget, Clock, Config, ConnectError, Executor, PartitionView, Place, Positions, Result,
    SinkContext, SinkTask, TimestampType, TopicPartition, TopicView,
};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt as _,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, UploadPart,
};

use crate::config::SinkSettings;
use crate::layout::Layout;
use crate::manifest::model::FileEntry;
use crate::manifest::{Digest, Entry, ManifestStore};
use crate::sink::alter::alter;
use crate::sink::commit::Identity;
use crate::sink::task::LakeSinkTask;
use crate::store::Lake;
use crate::store::leftovers::Leftovers;

mod store;

pub(super) use store::{Fault, FaultyStore};

pub(super) const TOPIC: &str = "orders";

pub(super) fn partition(number: i32) -> TopicPartition {
    TopicPartition::new(TOPIC, number)
}

/// A clock that moves only when told.
#[derive(Debug, Default)]
pub(super) struct ManualClock {
    now_ms: AtomicI64,
    /// How far the wall clock was set back.
    behind_ms: AtomicI64,
}

impl ManualClock {
    pub(super) fn now(&self) -> i64 {
        self.now_ms.load(Ordering::SeqCst)
    }

    pub(super) fn advance(&self, ms: i64) {
        self.now_ms.fetch_add(ms, Ordering::SeqCst);
    }

    /// Sets the wall clock back; time passes on as before.
    pub(super) fn set_back(&self, ms: i64) {
        self.behind_ms.fetch_add(ms, Ordering::SeqCst);
    }
}

#[async_trait]
impl Clock for ManualClock {
    fn now_ms(&self) -> i64 {
        self.now() - self.behind_ms.load(Ordering::SeqCst)
    }

    fn monotonic(&self) -> Duration {
        Duration::from_millis(self.now() as u64)
    }

    async fn sleep(&self, duration: Duration) {
        let until = self.now() + duration.as_millis() as i64;
        for _ in 0..1_000_000 {
            if self.now() >= until {
                return;
            }
            tokio::task::yield_now().await;
        }
        panic!("{duration:?} never pass: what is waited for does not come, and nobody moves the clock");
    }
}

/// What the broker and the group say.
pub(super) struct Kafka {
    pub(super) view: PartitionView,
    pub(super) deleted: bool,
    pub(super) cleanup_policy: String,
    pub(super) committed: Option<i64>,
    pub(super) commit_refused: bool,
    /// A partition whose leader does not answer.
    pub(super) leaderless: Option<i32>,
    /// How many questions about the topic's configs go unanswered, and how many were asked.
    pub(super) configs_unanswered: u32,
    pub(super) configs_asked: u32,
    pub(super) configs_denied: bool,
    /// Whoever tells of the topic's configs tells of a topic with this id.
    pub(super) topic_id_of_configs: Option<String>,
    pub(super) live: bool,
    pub(super) commits: Vec<Positions>,
    pub(super) seeks: Vec<(TopicPartition, Place)>,
    pub(super) trouble: Vec<Option<String>>,
    /// How many files ended early for memory, as operators are told.
    pub(super) ended_early: usize,
}

/// The worker's side of one task.
pub(super) struct Context {
    pub(super) kafka: Arc<Mutex<Kafka>>,
    clock: Arc<ManualClock>,
    budget: Budget,
    spill: Option<(PathBuf, u64)>,
    pool: Arc<dyn Executor>,
    group: String,
    id: u128,
}

#[async_trait]
impl SinkContext for Context {
    fn connector(&self) -> &str {
        "archive"
    }
    fn task(&self) -> u32 {
        0
    }
    fn worker_id(&self) -> &str {
        "127.0.0.1:8083"
    }
    fn group(&self) -> &str {
        &self.group
    }
    fn offset_reset(&self) -> OffsetReset {
        OffsetReset::Earliest
    }
    fn clock(&self) -> Arc<dyn Clock> {
        Arc::clone(&self.clock) as Arc<dyn Clock>
    }
    fn executor(&self) -> Arc<dyn Executor> {
        Arc::clone(&self.pool)
    }
    fn budget(&self) -> Budget {
        self.budget.clone()
    }
    fn spill(&self) -> Option<(PathBuf, u64)> {
        self.spill.clone()
    }
    fn random_id(&self) -> u128 {
        self.id
    }
    async fn cluster_id(&self) -> Result<String> {
        Ok("cluster".to_owned())
    }
    async fn partition(&self, partition: &TopicPartition) -> Result<PartitionView> {
        let kafka = self.kafka.lock().unwrap();
        if kafka.leaderless == Some(partition.partition) {
            Err(ConnectError::retriable(format!("{partition} has no leader")))
        } else if kafka.deleted {
            Err(ConnectError::not_found(format!("{partition} does not exist")))
        } else {
            Ok(kafka.view.clone())
        }
    }
    async fn topic(&self, topic: &str) -> Result<TopicView> {
        let mut kafka = self.kafka.lock().unwrap();
        kafka.configs_asked += 1;
        if kafka.configs_unanswered > 0 {
            kafka.configs_unanswered -= 1;
            return Err(ConnectError::retriable("the brokers did not answer in time"));
        }
        if kafka.configs_denied {
            return Err(ConnectError::config(format!("grant this user DESCRIBE_CONFIGS on topic {topic}")));
        }
        if kafka.deleted {
            return Err(ConnectError::not_found(format!("{topic} does not exist")));
        }
        let configs = BTreeMap::from([("cleanup.policy".to_owned(), kafka.cleanup_policy.clone())]);
        let topic_id = kafka.topic_id_of_configs.clone().or_else(|| kafka.view.topic_id.clone());
        Ok(TopicView { topic_id, partitions: 4, replication_factor: 1, configs })
    }
    async fn committed(&self, partitions: &[TopicPartition]) -> Result<Positions> {
        let committed = self.kafka.lock().unwrap().committed;
        Ok(committed.iter().flat_map(|offset| partitions.iter().map(|name| (name.clone(), *offset))).collect())
    }
    async fn group_is_live(&self) -> Result<bool> {
        Ok(self.kafka.lock().unwrap().live)
    }
    async fn commit(&self, positions: &Positions) -> Result<()> {
        let mut kafka = self.kafka.lock().unwrap();
        if kafka.commit_refused {
            return Err(ConnectError::fenced("the group gave the partition to another member"));
        }
        kafka.commits.push(positions.clone());
        Ok(())
    }
    fn trouble(&self, what: Option<String>) {
        self.kafka.lock().unwrap().trouble.push(what);
    }
    fn count(&self, event: &SinkEvent<'_>) {
        let early =
            usize::from(matches!(event, SinkEvent::EndedEarly { partition } if partition.topic.as_ref() == TOPIC));
        self.kafka.lock().unwrap().ended_early += early;
    }
    fn seek(&self, partition: &TopicPartition, place: Place) {
        self.kafka.lock().unwrap().seeks.push((partition.clone(), place));
    }
}

/// The world of a test.
pub(super) struct Rig {
    pub(super) store: Arc<FaultyStore>,
    pub(super) clock: Arc<ManualClock>,
    pub(super) kafka: Arc<Mutex<Kafka>>,
    pub(super) budget: Budget,
    pub(super) spill: Option<(PathBuf, u64)>,
    /// Where batches are encoded: at once, unless a test has its own.
    pub(super) pool: Arc<dyn Executor>,
    config: Config,
}

/// One task and what it was told last.
pub(super) struct Writer {
    pub(super) task: LakeSinkTask,
    rig: Arc<Mutex<Kafka>>,
}

impl Rig {
    /// A log of offsets 0 to 999 and a sink with these settings.
    pub(super) fn new(settings: &[(&str, &str)]) -> Self {
        let view = PartitionView {
            topic_id: Some("id-1".to_owned()),
            log_start_offset: 0,
            last_stable_offset: 1_000,
            end_offset: Some(1_000),
            ..PartitionView::default()
        };
        let kafka = Kafka {
            view,
            deleted: false,
            cleanup_policy: "delete".to_owned(),
            committed: None,
            commit_refused: false,
            leaderless: None,
            configs_unanswered: 0,
            configs_asked: 0,
            configs_denied: false,
            topic_id_of_configs: None,
            live: true,
            commits: Vec::new(),
            seeks: Vec::new(),
            trouble: Vec::new(),
            ended_early: 0,
        };
        let mut config = Config::from([("store.url".to_owned(), "memory:///".to_owned())]);
        config.extend(settings.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
        Self {
            store: Arc::default(),
            clock: Arc::default(),
            kafka: Arc::new(Mutex::new(kafka)),
            budget: Budget::new(64 << 20),
            spill: None,
            pool: Arc::new(Inline),
            config,
        }
    }

    /// Alters the offset of partition 0 as REST does.
    pub(super) async fn alter(&self, offset: Option<i64>) -> Result<()> {
        self.alter_as("connect-archive", &SinkAlteration::Some([(partition(0), offset)].into())).await
    }

    /// Alters offsets of the connector with this group.
    pub(super) async fn alter_as(&self, group: &str, alteration: &SinkAlteration) -> Result<()> {
        let context = self.context(99, group);
        let identity = Identity::of(context.as_ref(), "cluster".to_owned());
        alter(context.as_ref(), &self.manifests(), &identity, alteration).await
    }

    pub(super) fn manifests(&self) -> ManifestStore {
        let clock = Arc::clone(&self.clock) as Arc<dyn Clock>;
        ManifestStore::new(Arc::clone(&self.store) as Arc<dyn ObjectStore>, Layout::new("topics").unwrap(), clock)
    }

    /// The worker's side of a task of `group`.
    pub(super) fn context(&self, id: u128, group: &str) -> Arc<Context> {
        Arc::new(Context {
            kafka: Arc::clone(&self.kafka),
            clock: Arc::clone(&self.clock),
            budget: self.budget.clone(),
            spill: self.spill.clone(),
            pool: Arc::clone(&self.pool),
            group: group.to_owned(),
            id: id << 96,
        })
    }

    /// A started task of this archive. Each has a writer id of its own.
    pub(super) fn writer(&self, id: u128) -> Writer {
        self.writer_of_group(id, "connect-archive")
    }

    /// The same of another consumer group.
    pub(super) fn writer_of_group(&self, id: u128, group: &str) -> Writer {
        let settings = SinkSettings::parse(&self.config).unwrap();
        let store = Arc::clone(&self.store) as Arc<dyn ObjectStore>;
        let lake = Lake { store, url: String::new(), leftovers: Leftovers::default(), names: None };
        let task = LakeSinkTask::on(self.context(id, group), settings, lake, "cluster".to_owned()).unwrap();
        Writer { task, rig: Arc::clone(&self.kafka) }
    }

    /// The chain of partition 0, every link of it checked.
    pub(super) async fn chain(&self) -> Vec<Entry> {
        let manifests = self.manifests();
        let mut chain: Vec<Entry> = Vec::new();
        let mut previous = None;
        while let Some((entry, bytes)) = manifests.read(&partition(0), chain.len() as u64).await.unwrap() {
            assert_eq!(entry.previous_sha256, previous);
            previous = Some(Digest::of(&bytes));
            chain.push(entry);
        }
        chain
    }

    /// The spans `(from, to, records)` of all files of the chain.
    pub(super) async fn spans(&self) -> Vec<(i64, i64, u64)> {
        let chain = self.chain().await;
        let files = chain.iter().flat_map(|entry| &entry.files);
        files.map(|file| (file.span_from.unwrap(), file.span_to.unwrap(), file.records)).collect()
    }

    /// The object of `file` is what the entry says, byte for byte.
    pub(super) async fn assert_stored(&self, file: &FileEntry) {
        let stored = self.store.get(&Path::from(format!("topics/{}", file.path))).await.unwrap();
        let bytes = stored.bytes().await.unwrap();
        assert_eq!(bytes.len() as u64, file.stored_bytes);
        assert_eq!(Digest::of(&bytes).to_string(), file.sha256);
        let last = file.blocks.last().unwrap();
        assert_eq!(last.at + last.len, file.stored_bytes, "blocks cover every byte");
        for block in &file.blocks {
            let at = block.at as usize;
            block.check(&bytes[at..at + block.len as usize]).unwrap();
        }
    }

    /// Writes at the store so far.
    pub(super) fn writes(&self) -> u64 {
        self.store.writes.load(Ordering::SeqCst)
    }
}

impl Writer {
    /// Opens partition 0.
    pub(super) async fn open(&mut self) -> i64 {
        self.open_at().await.offset
    }

    /// The same, with what the broker is to be asked.
    pub(super) async fn open_at(&mut self) -> Place {
        let name = partition(0);
        self.task.open(std::slice::from_ref(&name)).await.unwrap().places[&name]
    }

    /// Puts records with these offsets, beginning at `base` and ending at `next`.
    pub(super) async fn put(&mut self, base: i64, next: i64, offsets: impl IntoIterator<Item = i64>) -> Result<()> {
        self.task.put(&[batch(base, next, offsets)]).await
    }

    /// The same, all of one leader epoch.
    pub(super) async fn put_in_epoch(&mut self, epoch: i32, base: i64, next: i64) -> Result<()> {
        let mut builder = batch_builder(base, base..next);
        builder.leader_epoch(Some(epoch));
        self.task.put(&[builder.build(next)]).await
    }

    /// Ticks until `done` holds, letting jobs run in between.
    pub(super) async fn tick_until(&mut self, rig: &Rig, mut done: impl AsyncFnMut(&Rig) -> bool) {
        for _ in 0..10_000 {
            if done(rig).await {
                return;
            }
            self.tick().await.unwrap();
            rig.clock.advance(10);
        }
        panic!("not within 100 s of the test's clock; trouble: {:?}", self.rig.lock().unwrap().trouble);
    }

    /// One tick, after which every job that can has ended.
    pub(super) async fn tick(&mut self) -> Result<()> {
        let ticked = self.task.put(&[]).await;
        for _ in 0..50 {
            tokio::task::yield_now().await;
        }
        ticked
    }

    /// Takes the latest seek, as the loop does before the next put.
    pub(super) fn seek(&self) -> Option<i64> {
        self.rig.lock().unwrap().seeks.pop().map(|(_, place)| place.offset)
    }
}

/// Records of partition 0, one millisecond of record time an offset.
pub(super) fn batch(base: i64, next: i64, offsets: impl IntoIterator<Item = i64>) -> Batch {
    batch_builder(base, offsets).build(next)
}

fn batch_builder(base: i64, offsets: impl IntoIterator<Item = i64>) -> BatchBuilder {
    let mut builder = BatchBuilder::new(partition(0), base);
    for offset in offsets {
        let value = format!("value {offset}");
        builder.push(offset, (offset, Some(TimestampType::Create)), Some(b"key"), Some(value.as_bytes()));
    }
    builder
}
