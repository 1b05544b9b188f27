//! What a connector author imports, and nothing else: no Kafka client, no runtime, no Arrow.
//!
//! Reading order: [`connector`] (what a plug-in is), [`sink`] or [`source`] (the two task contracts), [`batch`]
//! (how records travel), then [`config_def`] (how a setting is declared once) and [`error`] (what the worker does
//! about a failure).
//!
//! Life of a sink task (every call comes from the task's own loop, never two at once):
//!
//! ```text
//!  start ──▶ open(partitions) ──▶ put(batches)* ──▶ flush ──▶ ... ──▶ close(partitions, why) ──▶ stop
//!                 ▲                  │  put(&[]) is the tick: it comes several times a second with no data
//!                 └── rebalance ◀────┘
//! ```
//!
//! Life of a source task: `start ──▶ poll* / committed* ──▶ stop`.
//!
//! Promises of the worker: a batch is delivered once per fetch and again, byte for byte the same, after a
//! [`Retriable`](error::Kind::Retriable) error; an offset is committed to Kafka only when [`sink::SinkTask::flush`]
//! called it durable; a source offset is stored only when every record before it was acknowledged.

pub mod batch;
pub mod budget;
pub mod clock;
pub mod config_def;
pub mod connector;
pub mod convert;
pub mod decimal;
pub mod error;
pub mod executor;
pub mod logical;
#[cfg(feature = "measure")]
pub mod measure;
pub mod record;
pub mod schema;
pub mod simulation;
pub mod sink;
pub mod source;
pub mod text;
pub mod value;

pub use batch::{Batch, BatchBuilder, Headers, Row};
pub use budget::{Budget, Permit};
pub use clock::Clock;
pub use config_def::{Config, ConfigDef, ParsedConfig};
pub use connector::{Connector, RecordForm};
pub use error::{ConnectError, Kind, Result};
pub use executor::Executor;
pub use record::{Record, TimestampType, TopicPartition};
pub use schema::Schema;
pub use sink::{
    Closing, EpochMark, Opened, PartitionView, Place, Places, Positions, SinkContext, SinkEvent, SinkTask, TopicView,
};
pub use source::{Routes, SourceBatch, SourceContext, SourceOffset, SourcePartition, SourceRecords, SourceTask};
pub use value::{Datum, Value};
