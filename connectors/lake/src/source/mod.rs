//! From the lake back to Kafka: the replay source.

pub mod cut;
mod fetch;
pub mod plan;
pub mod read;
