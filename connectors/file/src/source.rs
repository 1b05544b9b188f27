//! The source: each line of a file (or of standard input) becomes a record of one topic.
//!
//! Source partition `{"filename": …}`, offset `{"position": …}` behind the line. Standard input has no offsets. The
//! file may not exist yet and may grow for ever: the task asks again every second.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use lakeferry_api::config_def::{ConfigKey, ConfigType, Importance, Parsed};
use lakeferry_api::connector::{AlteredOffsets, ConnectorType, RecordForm, Task};
use lakeferry_api::schema::Type;
use lakeferry_api::{
    Config, ConfigDef, ConnectError, Connector, Datum, Record, Result, Schema, SourceBatch, SourceContext,
    SourceOffset, SourcePartition, SourceRecords, SourceTask, Value,
};
use serde_json::{Map, Value as Json};
use tokio::fs::File;
use tokio::io::AsyncReadExt;
use tracing::warn;

use crate::lines::{Line, Lines};

const FILENAME: &str = "filename";
const POSITION: &str = "position";
/// How long the task waits where there is nothing to read.
const IDLE: Duration = Duration::from_secs(1);
const CHUNK_BYTES: usize = 64 << 10;

/// `FileStreamSourceConnector`.
#[derive(Default)]
pub struct FileStreamSource {
    config: Config,
}

#[async_trait]
impl Connector for FileStreamSource {
    fn connector_type(&self) -> ConnectorType {
        ConnectorType::Source
    }

    fn record_form(&self) -> RecordForm {
        RecordForm::Typed
    }

    fn version(&self) -> String {
        crate::VERSION.to_owned()
    }

    fn config_def(&self) -> ConfigDef {
        let key = |name: &str, kind, doc: &str| ConfigKey::new(name, kind).importance(Importance::High).doc(doc);
        ConfigDef::new()
            .define(key("file", ConfigType::String, "The file to read. Unset: standard input.").default_null())
            .define(key("topic", ConfigType::String, "The topic that gets the lines.").check(not_empty))
            .define(
                key("batch.size", ConfigType::Int, "At most this many lines are read at once.")
                    .default("2000")
                    .importance(Importance::Low),
            )
    }

    async fn start(&mut self, config: &Config) -> Result<()> {
        self.config_def().parse(config)?;
        self.config = config.clone();
        Ok(())
    }

    /// One task: a stream has one reader.
    fn task_configs(&self, _tasks_max: usize) -> Result<Vec<Config>> {
        Ok(vec![self.config.clone()])
    }

    fn task_class(&self) -> &'static str {
        "org.apache.kafka.connect.file.FileStreamSourceTask"
    }

    fn task(&self) -> Task {
        Task::Source(Box::new(FileStreamSourceTask { running: None }))
    }

    async fn alter_source_offsets(&self, config: &Config, offsets: &AlteredOffsets) -> Result<bool> {
        if crate::file(config).is_none() {
            return Err(ConnectError::config(
                "Offsets cannot be modified if the 'file' configuration is unspecified. This is because stdin is used for \
                 input and offsets are not tracked.",
            ));
        }
        // A reset is allowed for anything, so that what does not belong here can be cleaned up.
        let set = offsets.iter().filter_map(|(partition, offset)| Some((partition, offset.as_ref()?)));
        for (partition, offset) in set {
            check_offset(partition, offset)?;
        }
        Ok(true)
    }
}

fn check_offset(partition: &SourcePartition, offset: &SourceOffset) -> Result<()> {
    let refused = |message: &str| Err(ConnectError::config(message));
    let Some(position) = offset.as_map().get(POSITION) else {
        return refused("Offset objects should either be null or contain the key 'position'");
    };
    match position.as_i64() {
        None => refused("The value for the 'position' key in the offset is expected to be a Long value"),
        Some(..0) => refused("The value for the 'position' key in the offset should be a non-negative value"),
        Some(_) if !partition.to_map().contains_key(FILENAME) => {
            refused("Partition objects should contain the key 'filename'")
        }
        Some(_) => Ok(()),
    }
}

fn not_empty(value: &Parsed) -> Result<(), String> {
    match value {
        Parsed::Text(text) if text.is_empty() => Err("String must be non-empty".to_owned()),
        _ => Ok(()),
    }
}

struct FileStreamSourceTask {
    running: Option<Running>,
}

/// The task after its start.
struct Running {
    context: Arc<dyn SourceContext>,
    path: PathBuf,
    is_stdin: bool,
    topic: Arc<str>,
    batch_size: usize,
    partition: SourcePartition,
    schema: Arc<Schema>,
    open: Option<Open>,
}

/// The stream and what was read of it.
struct Open {
    stream: File,
    lines: Lines,
    chunk: Vec<u8>,
}

#[async_trait]
impl SourceTask for FileStreamSourceTask {
    async fn start(&mut self, context: Arc<dyn SourceContext>, config: &Config) -> Result<()> {
        let parsed = FileStreamSource::default().config_def().parse(config)?;
        let filename = config.get("file").map_or(Json::Null, |file| Json::from(file.trim()));
        self.running = Some(Running {
            context,
            path: PathBuf::from(crate::file(config).unwrap_or("/dev/stdin")),
            is_stdin: crate::file(config).is_none(),
            topic: parsed.text("topic")?.into(),
            batch_size: usize::try_from(parsed.integer("batch.size")?).unwrap_or(0).max(1),
            partition: SourcePartition::new(&Map::from_iter([(FILENAME.to_owned(), filename)]))?,
            schema: Arc::new(Schema::new(Type::String)),
            open: None,
        });
        Ok(())
    }

    async fn poll(&mut self) -> Result<Vec<SourceBatch>> {
        let running = self.running.as_mut().ok_or_else(|| ConnectError::fatal("polled before its start"))?;
        if running.open.is_none() {
            running.open = running.open().await?;
        }
        let Some(open) = &mut running.open else {
            running.context.clock().sleep(IDLE).await;
            return Ok(Vec::new());
        };
        let mut lines = open.lines.take(running.batch_size);
        if lines.is_empty() {
            // Nothing is held across an await but what `open` keeps: a dropped poll loses no line.
            let len = match open.stream.read(&mut open.chunk).await {
                Ok(len) => len,
                Err(error) => return Err(running.failed("read", error)),
            };
            open.lines.push(&open.chunk[..len]);
            if len == 0 {
                running.context.clock().sleep(IDLE).await;
            }
            lines = open.lines.take(running.batch_size);
        }
        running.batch(lines)
    }

    async fn stop(&mut self) {
        self.running = None;
    }
}

impl Running {
    /// The stream, ready to go on where the stored offset says; `None` where the file does not exist yet.
    async fn open(&self) -> Result<Option<Open>> {
        let stream = match File::open(&self.path).await {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                warn!(file = %self.path.display(), "the file to read does not exist yet; looking again in a second");
                return Ok(None);
            }
            Err(error) => return Err(self.failed("open", error)),
        };
        let resume_at = if self.is_stdin { 0 } else { self.stored_position().await? };
        Ok(Some(Open { stream, lines: Lines::resuming_at(resume_at), chunk: vec![0; CHUNK_BYTES] }))
    }

    async fn stored_position(&self) -> Result<u64> {
        let stored = self.context.offset(&self.partition).await?;
        let position =
            stored.as_ref().and_then(|offset| offset.as_map().get(POSITION)).filter(|position| !position.is_null());
        position.map_or(Some(0), Json::as_u64).ok_or_else(|| {
            ConnectError::config(format!(
                "Offset position is the incorrect type: {stored:?}; reset the connector's offsets"
            ))
        })
    }

    fn batch(&self, lines: Vec<Line>) -> Result<Vec<SourceBatch>> {
        let Some(last) = lines.last() else { return Ok(Vec::new()) };
        let offset = SourceOffset::new(Map::from_iter([(POSITION.to_owned(), last.position.into())]))?;
        let offset = Some(offset).filter(|_| !self.is_stdin);
        let now_ms = self.context.clock().now_ms();
        let record = |line: Line| Record {
            topic: Arc::clone(&self.topic),
            partition: None,
            timestamp: Some(now_ms),
            key: Datum::NULL,
            value: Datum::new(Arc::clone(&self.schema), Value::String(line.text.into())),
            headers: Vec::new(),
            origin: None,
        };
        let records = SourceRecords::Typed(lines.into_iter().map(record).collect());
        Ok(vec![SourceBatch { partition: self.partition.clone(), offset, records }])
    }

    fn failed(&self, what: &str, error: std::io::Error) -> ConnectError {
        ConnectError::fatal(format!("Couldn't {what} {} for FileStreamSourceTask", self.path.display()))
            .caused_by(error)
    }
}
