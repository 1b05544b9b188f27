//! Kafka's FileStream connectors: the lines of a file to a topic, and the values of topics to a file.
//!
//! The smallest example of a connector crate, to be copied for a new one. What belongs to one:
//!
//! - a [`Connector`](lakeferry_api::Connector) for each direction: its keys, its tasks, what offsets it accepts
//!   ([`FileStreamSource`], [`FileStreamSink`]);
//! - a task for each, private: whoever needs one asks the connector for it;
//! - what is hard, in a file of its own that knows no I/O and is tested by itself (`lines`);
//! - one row for each in the worker's `plugins.rs`.
//!
//! Both behave as Kafka 4.3's `FileStreamSourceConnector` and `FileStreamSinkConnector`, under those names.

mod lines;
mod sink;
mod source;

pub use sink::FileStreamSink;
pub use source::FileStreamSource;

/// The version of Kafka whose connectors these stand in for.
pub const VERSION: &str = "4.3.1";

/// The file that a config names; `None` for the standard streams.
fn file(config: &lakeferry_api::Config) -> Option<&str> {
    config.get("file").map(|file| file.trim()).filter(|file| !file.is_empty())
}

#[cfg(test)]
mod tests;
