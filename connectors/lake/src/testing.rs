//! Small archives for the tests of those who read them: written by the formats and the manifest store, not by the
//! sink, so that a test of the reader does not depend on the writer.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;

use lakeferry_api::batch::NO_TIMESTAMP;
use lakeferry_api::source::{NewTopic, TargetTopic};
use lakeferry_api::{
    Batch, BatchBuilder, Budget, Clock, ConnectError, Executor, Result, SourceBatch, SourceContext, SourceOffset,
    SourcePartition, TimestampType, TopicPartition, executor,
};
use object_store::memory::InMemory;
use object_store::{ObjectStore, ObjectStoreExt as _, PutPayload};
use sha2::Digest as _;

use crate::format::{self, FileHeader};
use crate::layout::{Layout, ObjectName};
use crate::manifest::model::{
    Continues, EntryKind, FileEntry, Isolation, Lineage, LogState, Missing, OffsetRange, OffsetSet, Owner, Reason,
    Source, StartedBy, TopicSettings, Totals, Writer,
};
use crate::manifest::read::Archive;
use crate::manifest::{Digest, Entry, ManifestStore, Outcome, wire};
use crate::source::read::Access;
use crate::store::testing::CountingClock;

const WRITER: u32 = 0x0b9f_12ab;

/// A record to archive.
#[derive(Clone, PartialEq)]
pub(crate) struct TestRow {
    pub(crate) offset: i64,
    pub(crate) timestamp: i64,
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) value: Option<Vec<u8>>,
    pub(crate) headers: Vec<(String, Option<Vec<u8>>)>,
}

impl std::fmt::Debug for TestRow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}@{}", self.offset, self.timestamp)
    }
}

/// An archive in memory.
pub(crate) struct TestArchive {
    pub(crate) store: Arc<dyn ObjectStore>,
    pub(crate) layout: Layout,
    pub(crate) format: &'static str,
    /// Rows in a block.
    pub(crate) block_rows: usize,
    /// When entries are written.
    pub(crate) written_at: i64,
    ends: BTreeMap<TopicPartition, Entry>,
    hashes: BTreeMap<TopicPartition, Digest>,
    pub(crate) partitions: u32,
    begun: u32,
}

/// A record with a key, a value and a header that depend on its offset.
pub(crate) fn row(offset: i64, timestamp: i64) -> TestRow {
    TestRow {
        offset,
        timestamp,
        key: (offset % 5 != 0).then(|| format!("key-{offset}").into_bytes()),
        value: (offset % 7 != 0).then(|| format!("value of {offset}").into_bytes()),
        headers: vec![("n".into(), Some(offset.to_string().into_bytes())), ("n".into(), None)],
    }
}

/// What a batch holds, to compare with what was archived.
pub(crate) fn rows_of(batch: &Batch) -> Vec<TestRow> {
    let owned = |bytes: Option<&[u8]>| bytes.map(<[u8]>::to_vec);
    batch
        .rows()
        .map(|row| TestRow {
            offset: row.offset(),
            timestamp: row.timestamp().unwrap_or(NO_TIMESTAMP),
            key: owned(row.key()),
            value: owned(row.value()),
            headers: row.headers().map(|(key, value)| (key.to_owned(), owned(value))).collect(),
        })
        .collect()
}

/// A file's entry that is right in itself.
pub(crate) fn file_entry() -> FileEntry {
    FileEntry {
        path: "orders/partition=0/00000000000000000000-0000000001-0-0b9f12ab.parquet".into(),
        route: String::new(),
        format: "archive.parquet".into(),
        codec: "zstd".into(),
        span_from: Some(0),
        span_to: Some(9),
        first_offset: 0,
        last_offset: 9,
        records: 10,
        missing: Missing::new(),
        min_timestamp: Some(1_000),
        max_timestamp: Some(2_000),
        untimed: 0,
        stored_bytes: 100,
        raw_bytes: 400,
        sha256: Digest::of(b"").to_string(),
        blocks: Vec::new(),
    }
}

impl TestArchive {
    pub(crate) fn new() -> Self {
        Self::of(Arc::new(InMemory::new()), "archive.parquet")
    }

    pub(crate) fn of(store: Arc<dyn ObjectStore>, format: &'static str) -> Self {
        Self {
            store,
            layout: Layout::new("topics").unwrap(),
            format,
            block_rows: 4,
            written_at: 1_763_712_000_000,
            ends: BTreeMap::new(),
            hashes: BTreeMap::new(),
            partitions: 2,
            begun: 0,
        }
    }

    pub(crate) fn archive(&self) -> Archive {
        Archive::new(self.manifests())
    }

    pub(crate) fn access(&self, budget: &Budget) -> Access {
        Access {
            store: Arc::clone(&self.store),
            layout: self.layout.clone(),
            executor: Arc::new(executor::Inline),
            budget: budget.clone(),
        }
    }

    /// Begins the chain of a partition whose log begins at `first`.
    pub(crate) async fn open(&mut self, topic: &str, partition: i32, first: i64) -> TopicPartition {
        let lineage = Lineage { lineage: 1, topic_id: Some("Qm9".into()), first: Some(first), continues: None };
        let partition = TopicPartition::new(topic, partition);
        let entry = self.opening(&partition, lineage, StartedBy::Earliest);
        self.create(&partition, entry).await;
        partition
    }

    /// The topic was created anew: a new lineage at offset 0.
    pub(crate) async fn recreate(&mut self, partition: &TopicPartition) {
        let topic_id = format!("Qm9-{}", self.ends[partition].source.lineage + 1);
        self.recreate_as(partition, &topic_id).await;
    }

    /// As [`TestArchive::recreate`], with an id of the caller's; a partition that has no chain begins one.
    pub(crate) async fn recreate_as(&mut self, partition: &TopicPartition, topic_id: &str) {
        let number = self.ends.get(partition).map_or(1, |end| end.source.lineage + 1);
        let topic_id = Some(topic_id.to_owned());
        let lineage = Lineage { lineage: number, topic_id, first: Some(0), continues: None };
        let entry = self.opening(partition, lineage, StartedBy::Created);
        self.create(partition, entry).await;
    }

    /// The incarnation of `lineage` is there again, and goes on where its last entry stood.
    pub(crate) async fn go_back(&mut self, partition: &TopicPartition, lineage: u32) {
        let chain = self.archive().chain(partition).await.unwrap().unwrap();
        let entries = chain.links.iter().rev().map(|link| &link.entry);
        let last = entries.clone().find(|entry| entry.source.lineage == lineage).unwrap().clone();
        let mut entry = self.next(partition);
        (entry.kind, entry.epoch) = (EntryKind::Open, entry.epoch + 1);
        entry.topic = entries.clone().find_map(|entry| entry.topic.clone());
        (entry.source, entry.totals, entry.log) = (last.source, last.totals, last.log);
        (entry.resume_offset, entry.ahead) = (last.resume_offset, last.ahead);
        self.create(partition, entry).await;
    }

    /// The log was cut back to `before`.
    pub(crate) async fn truncate(&mut self, partition: &TopicPartition, before: i64) {
        let old = self.ends[partition].source.clone();
        let continues = Some(Continues { lineage: old.lineage, before });
        let lineage =
            Lineage { lineage: old.lineage + 1, topic_id: old.topic_id.clone(), first: Some(before), continues };
        let entry = self.opening(partition, lineage, StartedBy::Truncation);
        self.create(partition, entry).await;
    }

    /// The connector's offsets were reset, and the task begins again at `first`.
    pub(crate) async fn start_over(&mut self, partition: &TopicPartition, first: i64) {
        let Source { topic_id, lineage, .. } = self.ends[partition].source.clone();
        let lineage = Lineage { lineage: lineage + 1, topic_id, first: Some(first), continues: None };
        let entry = self.opening(partition, lineage, StartedBy::Altered);
        self.create(partition, entry).await;
    }

    /// Publishes one file with `rows`; the offsets up to `span_to` that are no rows are missing.
    pub(crate) async fn publish(&mut self, partition: &TopicPartition, rows: &[TestRow], span_to: i64) -> FileEntry {
        let mut entry = self.next(partition);
        let span = OffsetRange::new(entry.resume_offset.unwrap(), span_to);
        let file = self.write(partition, &entry, rows, span).await;
        entry.resume_offset = Some(span_to + 1);
        entry.log.last_stable_offset = span_to + 1;
        entry.totals = entry.totals.plus(std::slice::from_ref(&file), &Missing::new(), &[]);
        entry.files = vec![file.clone()];
        self.create(partition, entry).await;
        file
    }

    /// Changes the last entry of a chain and seals it again, as somebody does who means to deceive.
    pub(crate) async fn reseal(&mut self, partition: &TopicPartition, change: impl FnOnce(&mut Entry)) {
        let mut entry = self.ends[partition].clone();
        change(&mut entry);
        let path = self.layout.entry(partition, entry.seq);
        self.store.put(&path, PutPayload::from(wire::encode(&entry).unwrap())).await.unwrap();
    }

    fn manifests(&self) -> ManifestStore {
        ManifestStore::new(Arc::clone(&self.store), self.layout.clone(), Arc::new(CountingClock::default()))
    }

    fn opening(&self, partition: &TopicPartition, lineage: Lineage, started_by: StartedBy) -> Entry {
        let previous = self.ends.get(partition);
        let mut lineages = previous.map(|entry| entry.lineages.clone()).unwrap_or_default();
        lineages.push(lineage.clone());
        Entry {
            seq: previous.map_or(0, |entry| entry.seq + 1),
            previous_sha256: self.hashes.get(partition).copied(),
            kind: EntryKind::Open,
            epoch: previous.map_or(1, |entry| entry.epoch + 1),
            written_at: self.written_at,
            owner: Owner { cluster_id: "c".into(), group: "connect-archive".into() },
            writer: Writer {
                id: format!("{WRITER:08x}00000000000000000000cafe"),
                connector: "archive".into(),
                task: 0,
                worker: "10.0.0.5:8083".into(),
                version: "0.1.0".into(),
            },
            source: Source {
                topic: partition.topic.to_string(),
                partition: partition.partition,
                topic_id: lineage.topic_id.clone(),
                lineage: lineage.lineage,
                first: lineage.first,
                started_by,
                continues: lineage.continues,
            },
            topic: Some(TopicSettings {
                partitions: self.partitions,
                replication_factor: 1,
                configs: BTreeMap::from([("retention.ms".to_owned(), "604800000".to_owned())]),
            }),
            lineages,
            files: Vec::new(),
            missing: Missing::new(),
            gaps: Vec::new(),
            resume_offset: lineage.first,
            ahead: OffsetSet::new(),
            totals: Totals::default(),
            log: LogState {
                start_offset: lineage.first.unwrap(),
                last_stable_offset: lineage.first.unwrap(),
                leader_epoch: None,
                leader_epoch_upto: None,
                isolation: Isolation::ReadCommitted,
            },
        }
    }

    fn next(&self, partition: &TopicPartition) -> Entry {
        let end = self.ends[partition].clone();
        let previous_sha256 = self.hashes.get(partition).copied();
        Entry {
            seq: end.seq + 1,
            previous_sha256,
            kind: EntryKind::Commit,
            written_at: self.written_at,
            topic: None,
            files: Vec::new(),
            ..end
        }
    }

    async fn create(&mut self, partition: &TopicPartition, entry: Entry) {
        let bytes = wire::encode(&entry).unwrap();
        let outcome = self.manifests().create(partition, entry.seq, bytes.clone()).await.unwrap();
        assert_eq!(outcome, Outcome::Committed);
        self.hashes.insert(partition.clone(), Digest::of(&bytes));
        self.ends.insert(partition.clone(), entry);
    }

    async fn write(
        &mut self,
        partition: &TopicPartition,
        entry: &Entry,
        rows: &[TestRow],
        span: OffsetRange,
    ) -> FileEntry {
        let format = format::find(self.format).unwrap();
        let codec = format.codecs[format.codecs.len() - 1].name;
        let compression = format.compression(codec, None).unwrap();
        let header = FileHeader {
            partition: partition.clone(),
            cluster_id: Some(entry.owner.cluster_id.clone()),
            topic_id: entry.source.topic_id.clone(),
        };
        let mut encoder = format.encoder(header, compression).unwrap();
        let mut raw_bytes = 0;
        for chunk in rows.chunks(self.block_rows) {
            let batch = batch(partition, chunk);
            raw_bytes += batch.raw_bytes() as u64;
            encoder.append(&batch).unwrap();
            encoder.end_block().unwrap();
        }
        let tail = encoder.finish().unwrap();
        let bytes = encoder.take_encoded();
        assert_eq!(hex(&sha2::Sha256::digest(&bytes)), tail.sha256);

        let (first_offset, last_offset) = (rows[0].offset, rows[rows.len() - 1].offset);
        let n = self.begun;
        self.begun += 1;
        let extension = format.extension.to_owned();
        let name = ObjectName { first_offset, epoch: entry.epoch, n, writer: WRITER, extension };
        let path = self.layout.data(partition, &name);
        self.store.put(&path, PutPayload::from(bytes)).await.unwrap();
        let timed = || rows.iter().map(|row| row.timestamp).filter(|timestamp| *timestamp != NO_TIMESTAMP);
        let missing = span.width() - rows.len() as u64;
        FileEntry {
            path: self.layout.relative(&path).unwrap(),
            route: String::new(),
            format: format.name.into(),
            codec: compression.codec().into(),
            span_from: Some(span.from),
            span_to: Some(span.to),
            first_offset,
            last_offset,
            records: rows.len() as u64,
            missing: if missing == 0 { Missing::new() } else { Missing::from([(Reason::Transaction, missing)]) },
            min_timestamp: timed().min(),
            max_timestamp: timed().max(),
            untimed: (rows.len() - timed().count()) as u64,
            stored_bytes: tail.stored_bytes,
            raw_bytes,
            sha256: tail.sha256,
            blocks: tail.blocks,
        }
    }
}

/// A batch of exactly these rows.
pub(crate) fn batch(partition: &TopicPartition, rows: &[TestRow]) -> Batch {
    let mut builder = BatchBuilder::new(partition.clone(), rows[0].offset);
    for row in rows {
        let kind = (row.timestamp != NO_TIMESTAMP).then_some(TimestampType::Create);
        builder.push(row.offset, (row.timestamp, kind), row.key.as_deref(), row.value.as_deref());
        for (key, value) in &row.headers {
            builder.header(key, value.as_deref());
        }
    }
    builder.build(rows[rows.len() - 1].offset + 1)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Seeded randomness for loops that must come out the same every time (SplitMix64).
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `limit`.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit
    }
}

/// A worker and a target cluster, as a source task sees them.
pub(crate) struct TestContext {
    pub(crate) clock: Arc<CountingClock>,
    pub(crate) budget: Budget,
    pub(crate) offsets: Mutex<BTreeMap<SourcePartition, SourceOffset>>,
    pub(crate) targets: Mutex<BTreeMap<String, TargetTopic>>,
}

impl TestContext {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            clock: Arc::new(CountingClock::default()),
            budget: Budget::new(64 << 20),
            offsets: Mutex::default(),
            targets: Mutex::default(),
        })
    }

    /// Stores offsets as the worker does once their records are acknowledged.
    pub(crate) fn store(&self, batches: &[SourceBatch]) {
        for batch in batches {
            self.offsets.lock().unwrap().insert(batch.partition.clone(), batch.offset.clone().unwrap());
        }
    }
}

#[async_trait]
impl SourceContext for TestContext {
    fn connector(&self) -> &str {
        "replay"
    }

    fn task(&self) -> u32 {
        0
    }

    fn clock(&self) -> Arc<dyn Clock> {
        Arc::clone(&self.clock) as Arc<dyn Clock>
    }

    fn executor(&self) -> Arc<dyn Executor> {
        Arc::new(executor::Inline)
    }

    fn budget(&self) -> Budget {
        self.budget.clone()
    }

    async fn offset(&self, partition: &SourcePartition) -> Result<Option<SourceOffset>> {
        Ok(self.offsets.lock().unwrap().get(partition).cloned())
    }

    async fn target_topic(&self, topic: &str) -> Result<Option<TargetTopic>> {
        Ok(self.targets.lock().unwrap().get(topic).cloned())
    }

    async fn create_topic(&self, topic: &NewTopic) -> Result<()> {
        let partitions = topic.partitions.unwrap();
        if partitions > 10_000 {
            return Err(ConnectError::config(format!("{} cannot have {partitions} partitions", topic.name)));
        }
        let offsets = vec![(0, 0); partitions as usize];
        let made = TargetTopic { partitions, configs: topic.configs.clone(), offsets };
        assert!(self.targets.lock().unwrap().insert(topic.name.clone(), made).is_none(), "{} exists", topic.name);
        Ok(())
    }
}
