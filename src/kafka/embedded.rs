//! A Kafka cluster inside this process, for the demo: librdkafka's mock broker, which speaks the real protocol on
//! loopback and keeps its topics in memory until it is dropped.
//!
//! Honest limits: it keeps 5 MB or 100,000 records of a partition, knows no topic ids or topic configs, cannot create
//! topics through the admin protocol and does not honour aborted transactions. Nothing but the demo uses it.

use lakeferry_api::error::Context as _;
use lakeferry_api::{Kind, Result};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;

/// Records that a partition of the embedded cluster keeps; older ones are dropped.
pub const RECORDS_PER_PARTITION: u64 = 100_000;

/// The cluster; gone when dropped.
pub struct Embedded {
    cluster: MockCluster<'static, DefaultProducerContext>,
}

impl Embedded {
    /// Starts a cluster of one broker on a free loopback port.
    ///
    /// # Errors
    /// `Fatal` where it cannot listen.
    pub fn start() -> Result<Self> {
        let cluster = MockCluster::new(1).context(Kind::Fatal, || "the embedded cluster cannot start".to_owned())?;
        Ok(Self { cluster })
    }

    /// Where clients reach it.
    pub fn bootstrap_servers(&self) -> String {
        self.cluster.bootstrap_servers()
    }

    /// Creates a topic.
    ///
    /// # Errors
    /// `Fatal` where the cluster refuses it.
    pub fn create_topic(&self, topic: &str, partitions: i32) -> Result<()> {
        self.cluster
            .create_topic(topic, partitions, 1)
            .context(Kind::Fatal, || format!("the embedded cluster cannot create topic {topic}"))
    }
}
