//! The sink: each record's value becomes a line at the end of a file (or of standard output).
//!
//! Values are written in the words of Java's `toString`, bytes as they are. Nothing is written twice by the task
//! itself; a crash between a write and the commit of its offsets repeats lines, as in Kafka.

use std::sync::Arc;

use async_trait::async_trait;
use lakeferry_api::config_def::{ConfigKey, ConfigType, Importance};
use lakeferry_api::connector::{ConnectorType, RecordForm, SinkAlteration, Task};
use lakeferry_api::{
    Batch, Closing, Config, ConfigDef, ConnectError, Connector, Opened, Positions, Record, Result, SinkContext,
    SinkTask, TopicPartition, Value, text,
};
use tokio::fs::{File, OpenOptions};
use tokio::io::{AsyncWriteExt, BufWriter};

/// `FileStreamSinkConnector`.
#[derive(Default)]
pub struct FileStreamSink {
    config: Config,
}

#[async_trait]
impl Connector for FileStreamSink {
    fn connector_type(&self) -> ConnectorType {
        ConnectorType::Sink
    }

    fn record_form(&self) -> RecordForm {
        RecordForm::Typed
    }

    fn version(&self) -> String {
        crate::VERSION.to_owned()
    }

    fn config_def(&self) -> ConfigDef {
        ConfigDef::new().define(
            ConfigKey::new("file", ConfigType::String)
                .default_null()
                .importance(Importance::High)
                .doc("The file to append to. Unset: standard output."),
        )
    }

    async fn start(&mut self, config: &Config) -> Result<()> {
        self.config_def().parse(config)?;
        self.config = config.clone();
        Ok(())
    }

    fn task_configs(&self, tasks_max: usize) -> Result<Vec<Config>> {
        Ok(vec![self.config.clone(); tasks_max])
    }

    fn task_class(&self) -> &'static str {
        "org.apache.kafka.connect.file.FileStreamSinkTask"
    }

    fn task(&self) -> Task {
        Task::Sink(Box::new(FileStreamSinkTask::default()))
    }

    /// Offsets are kept by the group alone, so any will do.
    async fn alter_sink_offsets(
        &self,
        _context: Arc<dyn SinkContext>,
        _config: &Config,
        _alteration: &SinkAlteration,
    ) -> Result<bool> {
        Ok(true)
    }
}

#[derive(Default)]
struct FileStreamSinkTask {
    path: String,
    out: Option<BufWriter<File>>,
    written: Positions,
}

#[async_trait]
impl SinkTask for FileStreamSinkTask {
    async fn start(&mut self, _context: Arc<dyn SinkContext>, config: &Config) -> Result<()> {
        self.path = crate::file(config).unwrap_or("/dev/stdout").to_owned();
        let opened = OpenOptions::new().create(true).append(true).open(&self.path).await;
        let out = opened.map_err(|error| {
            let path = &self.path;
            ConnectError::config(format!("Couldn't find or create file '{path}' for FileStreamSinkTask"))
                .caused_by(error)
        })?;
        self.out = Some(BufWriter::new(out));
        Ok(())
    }

    async fn open(&mut self, _partitions: &[TopicPartition]) -> Result<Opened> {
        Ok(Opened::default())
    }

    async fn put(&mut self, batches: &[Batch]) -> Result<()> {
        let Some(out) = &mut self.out else { return Err(ConnectError::fatal("put before its start")) };
        for batch in batches {
            let lines: Vec<u8> = batch.records().iter().flat_map(line).collect();
            // Some of it may have been written, so this is not to be tried again.
            out.write_all(&lines).await.map_err(|error| failed(&self.path, error))?;
            self.written.insert(batch.partition().clone(), batch.next_offset());
        }
        Ok(())
    }

    async fn flush(&mut self, consumed: &Positions) -> Result<Positions> {
        self.flush_lines().await?;
        Ok(consumed.clone())
    }

    async fn close(&mut self, partitions: &[TopicPartition], _why: Closing) -> Result<Positions> {
        self.flush_lines().await?;
        let closed = |partition: &TopicPartition| self.written.remove_entry(partition);
        Ok(partitions.iter().filter_map(closed).collect())
    }

    async fn stop(&mut self) {
        self.out = None;
    }
}

impl FileStreamSinkTask {
    async fn flush_lines(&mut self) -> Result<()> {
        match &mut self.out {
            Some(out) => out.flush().await.map_err(|error| failed(&self.path, error)),
            None => Ok(()),
        }
    }
}

fn line(record: &Record) -> Vec<u8> {
    let mut line = match (&record.value.value, text::of(&record.value)) {
        (_, Some(text)) => text.into_bytes(),
        (Value::Bytes(bytes), None) => bytes.to_vec(),
        (_, None) => Vec::new(),
    };
    line.push(b'\n');
    line
}

fn failed(path: &str, error: std::io::Error) -> ConnectError {
    ConnectError::fatal(format!("Couldn't write to {path} for FileStreamSinkTask")).caused_by(error)
}
