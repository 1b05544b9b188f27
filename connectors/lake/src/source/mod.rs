//! From the lake back to Kafka: the replay source.

pub mod cut;
pub mod plan;
