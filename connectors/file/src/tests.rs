//! Both connectors against real files and a clock that does not wait.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use lakeferry_api::connector::Task;
use lakeferry_api::executor::Inline;
use lakeferry_api::sink::OffsetReset;
use lakeferry_api::source::{NewTopic, TargetTopic};
use lakeferry_api::{
    BatchBuilder, Budget, Clock, Closing, Config, ConnectError, Connector, Datum, Executor, PartitionView, Place,
    Positions, Record, Result, SinkContext, SinkTask, SourceBatch, SourceContext, SourceOffset, SourcePartition,
    SourceRecords, SourceTask, TopicPartition, TopicView, Value,
};
use serde_json::json;

use super::*;

struct Folder(PathBuf);

impl Folder {
    fn new(test: &str) -> Self {
        let path = std::env::temp_dir().join(format!("lakeferry-file-{test}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Time that passes as soon as somebody waits for it, and the offsets that were stored.
#[derive(Default)]
struct World {
    slept: Mutex<Duration>,
    stored: Mutex<BTreeMap<SourcePartition, SourceOffset>>,
}

#[derive(Clone)]
struct Context(Arc<World>);

#[async_trait]
impl Clock for Context {
    fn now_ms(&self) -> i64 {
        1_000
    }

    fn monotonic(&self) -> Duration {
        *self.0.slept.lock().unwrap()
    }

    async fn sleep(&self, duration: Duration) {
        *self.0.slept.lock().unwrap() += duration;
    }
}

#[async_trait]
impl SourceContext for Context {
    fn connector(&self) -> &str {
        "file"
    }

    fn task(&self) -> u32 {
        0
    }

    fn clock(&self) -> Arc<dyn Clock> {
        Arc::new(self.clone())
    }

    fn executor(&self) -> Arc<dyn Executor> {
        Arc::new(Inline)
    }

    fn budget(&self) -> Budget {
        Budget::new(1 << 20)
    }

    async fn offset(&self, partition: &SourcePartition) -> Result<Option<SourceOffset>> {
        Ok(self.0.stored.lock().unwrap().get(partition).cloned())
    }

    async fn target_topic(&self, _topic: &str) -> Result<Option<TargetTopic>> {
        Ok(None)
    }

    async fn create_topic(&self, _topic: &NewTopic) -> Result<()> {
        Err(ConnectError::fatal("not asked for"))
    }
}

fn config(pairs: &[(&str, &str)]) -> Config {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

async fn source(world: &Arc<World>, pairs: &[(&str, &str)]) -> Box<dyn SourceTask> {
    let mut connector = FileStreamSource::default();
    connector.start(&config(pairs)).await.unwrap();
    let configs = connector.task_configs(5).unwrap();
    assert_eq!(configs.len(), 1, "a stream has one reader");
    let Task::Source(mut task) = connector.task() else { panic!("not a source") };
    task.start(Arc::new(Context(Arc::clone(world))), &configs[0]).await.unwrap();
    task
}

/// The lines of a poll; their offset is stored, as the worker does once they are acknowledged.
async fn poll(world: &World, task: &mut dyn SourceTask) -> Vec<String> {
    let mut lines = Vec::new();
    for SourceBatch { partition, offset, records } in task.poll().await.unwrap() {
        let SourceRecords::Typed(records) = records else { panic!("not typed") };
        for record in records {
            assert_eq!(
                (&*record.topic, record.partition, record.timestamp, &record.key),
                ("t", None, Some(1_000), &Datum::NULL)
            );
            let Value::String(text) = record.value.value else { panic!("not text") };
            lines.push(text.to_string());
        }
        world.stored.lock().unwrap().extend(offset.map(|offset| (partition, offset)));
    }
    lines
}

#[tokio::test]
async fn a_growing_file_is_read_once_and_resumed_where_it_was_left() {
    let folder = Folder::new("grows");
    let path = folder.path("in");
    let world = Arc::new(World::default());
    let settings = [("file", path.as_str()), ("topic", "t"), ("batch.size", "2")];
    let mut task = source(&world, &settings).await;
    assert_eq!(poll(&world, &mut *task).await, [""; 0]);
    assert_eq!(*world.slept.lock().unwrap(), Duration::from_secs(1), "a missing file is looked for every second");

    std::fs::write(&path, "one\ntw\u{f6}\r\nthree\nfo").unwrap();
    assert_eq!(poll(&world, &mut *task).await, ["one", "tw\u{f6}"]);
    let partition = SourcePartition::new(json!({ "filename": path }).as_object().unwrap()).unwrap();
    assert_eq!(world.stored.lock().unwrap()[&partition].as_map()["position"], json!(9));
    task.stop().await;

    let mut task = source(&world, &settings).await;
    assert_eq!(poll(&world, &mut *task).await, ["three"]);
    assert_eq!(poll(&world, &mut *task).await, [""; 0], "a line without end waits for it");
    std::fs::write(&path, "one\ntw\u{f6}\r\nthree\nfour\n").unwrap();
    assert_eq!(poll(&world, &mut *task).await, ["four"]);
}

#[tokio::test]
async fn a_stored_position_of_another_kind_is_refused() {
    let folder = Folder::new("position");
    let path = folder.path("in");
    std::fs::write(&path, "one\n").unwrap();
    let world = Arc::new(World::default());
    let partition = SourcePartition::new(json!({ "filename": path }).as_object().unwrap()).unwrap();
    let offset = SourceOffset::new(json!({ "position": "x" }).as_object().unwrap().clone()).unwrap();
    world.stored.lock().unwrap().insert(partition, offset);
    let mut task = source(&world, &[("file", &path), ("topic", "t")]).await;
    assert!(task.poll().await.unwrap_err().message().starts_with("Offset position is the incorrect type"));
}

#[tokio::test]
async fn a_folder_is_no_file() {
    let folder = Folder::new("folder");
    let mut task = source(&Arc::new(World::default()), &[("file", &folder.path(".")), ("topic", "t")]).await;
    assert!(task.poll().await.unwrap_err().message().contains("for FileStreamSourceTask"));
}

#[tokio::test]
async fn offsets_are_altered_by_kafkas_rules() {
    let with_file = config(&[("file", "/in"), ("topic", "t")]);
    let alter = async |config: &Config, partition: serde_json::Value, offset: serde_json::Value| {
        let partition = SourcePartition::new(partition.as_object().unwrap()).unwrap();
        let offset = offset.as_object().map(|offset| SourceOffset::new(offset.clone()).unwrap());
        let offsets = [(partition, offset)].into();
        FileStreamSource::default().alter_source_offsets(config, &offsets).await.map_err(|error| error.to_string())
    };
    let partition = || json!({"filename": "/in"});
    assert_eq!(alter(&with_file, partition(), json!({"position": 5})).await, Ok(true));
    assert_eq!(alter(&with_file, json!({"any": 1}), json!(null)).await, Ok(true));
    let cases = [
        (partition(), json!({"at": 5}), "Offset objects should either be null or contain the key 'position'"),
        (
            partition(),
            json!({"position": "5"}),
            "The value for the 'position' key in the offset is expected to be a Long value",
        ),
        (
            partition(),
            json!({"position": null}),
            "The value for the 'position' key in the offset is expected to be a Long value",
        ),
        (
            partition(),
            json!({"position": -1}),
            "The value for the 'position' key in the offset should be a non-negative value",
        ),
        (json!({"file": "/in"}), json!({"position": 1}), "Partition objects should contain the key 'filename'"),
    ];
    for (partition, offset, message) in cases {
        assert_eq!(alter(&with_file, partition, offset).await, Err(message.to_owned()));
    }
    let without_file = config(&[("topic", "t")]);
    let refused = alter(&without_file, partition(), json!({"position": 5})).await.unwrap_err();
    assert!(refused.starts_with("Offsets cannot be modified if the 'file' configuration is unspecified."), "{refused}");
}

#[async_trait]
impl SinkContext for Context {
    fn connector(&self) -> &str {
        "file"
    }

    fn task(&self) -> u32 {
        0
    }

    fn worker_id(&self) -> &str {
        "localhost:8083"
    }

    fn group(&self) -> &str {
        "connect-file"
    }

    fn offset_reset(&self) -> OffsetReset {
        OffsetReset::Earliest
    }

    fn clock(&self) -> Arc<dyn Clock> {
        Arc::new(self.clone())
    }

    fn executor(&self) -> Arc<dyn Executor> {
        Arc::new(Inline)
    }

    fn budget(&self) -> Budget {
        Budget::new(1 << 20)
    }

    fn spill(&self) -> Option<(PathBuf, u64)> {
        None
    }

    fn random_id(&self) -> u128 {
        0
    }

    async fn cluster_id(&self) -> Result<String> {
        Ok("cluster".to_owned())
    }

    async fn partition(&self, _partition: &TopicPartition) -> Result<PartitionView> {
        Ok(PartitionView::default())
    }

    async fn topic(&self, _topic: &str) -> Result<TopicView> {
        Ok(TopicView::default())
    }

    async fn committed(&self, _partitions: &[TopicPartition]) -> Result<Positions> {
        Ok(Positions::new())
    }

    async fn commit(&self, _positions: &Positions) -> Result<()> {
        Ok(())
    }

    async fn group_is_live(&self) -> Result<bool> {
        Ok(true)
    }

    fn seek(&self, _partition: &TopicPartition, _place: Place) {}

    fn trouble(&self, _what: Option<String>) {}
}

async fn sink(path: &str) -> Result<Box<dyn SinkTask>> {
    let mut connector = FileStreamSink::default();
    connector.start(&config(&[("file", path)])).await?;
    let configs = connector.task_configs(3)?;
    assert_eq!(configs.len(), 3, "every task appends to the same file");
    let Task::Sink(mut task) = connector.task() else { panic!("not a sink") };
    task.start(Arc::new(Context(Arc::default())), &configs[0]).await?;
    Ok(task)
}

fn record(value: Value) -> Record {
    let value = Datum::schemaless(value);
    Record {
        topic: "t".into(),
        partition: Some(0),
        timestamp: None,
        key: Datum::NULL,
        value,
        headers: Vec::new(),
        origin: None,
    }
}

#[tokio::test]
async fn values_become_lines_that_are_there_when_flush_says_so() {
    let folder = Folder::new("sink");
    let path = folder.path("out");
    std::fs::write(&path, "before\n").unwrap();
    let mut task = sink(&path).await.unwrap();
    let partition = TopicPartition::new("t", 0);
    let opened = task.open(std::slice::from_ref(&partition)).await.unwrap();
    assert!(opened.places.is_empty() && opened.later.is_empty());
    let values =
        vec![Value::String("a".into()), Value::Null, Value::Bytes(b"\xff".as_slice().into()), Value::Float64(1.0)];
    let batch = BatchBuilder::new(partition.clone(), 5).build(9).with_records(values.into_iter().map(record).collect());
    task.put(&[batch]).await.unwrap();
    task.put(&[]).await.unwrap();
    let consumed = Positions::from([(partition.clone(), 9)]);
    assert_eq!(task.flush(&consumed).await.unwrap(), consumed);
    assert_eq!(std::fs::read(&path).unwrap(), b"before\na\nnull\n\xff\n1.0\n");
    assert_eq!(task.close(&[partition], Closing::Revoked).await.unwrap(), consumed);
    task.stop().await;
}

#[tokio::test]
async fn a_file_that_cannot_be_created_is_named() {
    let folder = Folder::new("nowhere");
    let path = folder.path("none/out");
    let message = sink(&path).await.err().unwrap().to_string();
    assert_eq!(message, format!("Couldn't find or create file '{path}' for FileStreamSinkTask"));
}
