//! A Kafka cluster in KRaft mode: one broker by default, three on request, each broker its own controller.
//!
//! Used by nearly every integration test and by the example. A cluster keeps its ports and its data when it is killed,
//! stopped and restarted; both are its own, and so is its cluster id. Topics are made and asked after over the wire
//! (`wire.rs`), the rest by Kafka's own tools. Nobody but the owner can stop a cluster: the shared one is only lent.

mod distribution;
mod node;
mod raw;
mod wire;

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use distribution::Distribution;
pub use raw::RawRecord;
pub use wire::Partition;
pub use wire::acls::{Operation, Permission, Thing};

use node::Node;
use wire::acls::Acl;

use super::home::{self, Port};
use super::java::Java;
use super::poll::wait_until;
use super::{Error, Result};

/// From exec to ready: a second or two, on a starved machine much more.
const START_LIMIT: Duration = Duration::from_secs(120);
const STOP_LIMIT: Duration = Duration::from_secs(30);
const TOOL_LIMIT: Duration = Duration::from_secs(120);
const TOPIC_LIMIT: Duration = Duration::from_secs(30);

#[derive(Debug, Clone)]
pub struct KafkaOptions {
    pub brokers: usize,
    /// A second listener that wants SASL/PLAIN credentials; see [`Kafka::sasl_bootstrap`].
    pub sasl: bool,
    /// A listener with TLS, whose key and certificates this PEM file holds; see [`Kafka::tls_bootstrap`].
    pub tls: Option<PathBuf>,
    /// Lines of `server.properties`; they override the kit's own.
    pub properties: Vec<(String, String)>,
}

impl Default for KafkaOptions {
    fn default() -> KafkaOptions {
        KafkaOptions { brokers: 1, sasl: false, tls: None, properties: Vec::new() }
    }
}

impl KafkaOptions {
    pub fn property(mut self, key: &str, value: &str) -> KafkaOptions {
        self.properties.push((key.to_owned(), value.to_owned()));
        self
    }
}

/// The user that the SASL listener lets in.
pub const SASL_USER: &str = "alice";
pub const SASL_PASSWORD: &str = "alice-secret";

#[derive(Debug)]
pub struct Kafka {
    dir: PathBuf,
    nodes: Vec<Node>,
    distribution: &'static Distribution,
}

impl Kafka {
    /// A cluster of one's own, ready for clients. It ends when the value is dropped.
    pub fn start(options: KafkaOptions) -> Result<Kafka> {
        Kafka::start_with(Distribution::provision()?, options, None)
    }

    /// `recorder`: options of a JVM that records its class data, in place of those that use the record.
    fn start_with(
        distribution: &'static Distribution,
        options: KafkaOptions,
        recorder: Option<Vec<OsString>>,
    ) -> Result<Kafka> {
        let dir = home::instance_dir("kafka")?;
        let nodes = Node::prepare(distribution, &dir, &options)?;
        let mut kafka = Kafka { dir, nodes, distribution };
        let jvm_options = recorder.unwrap_or_else(|| distribution.broker_archive.options());
        for node in &mut kafka.nodes {
            node.set_jvm_options(jvm_options.clone());
        }
        kafka.restart()?;
        Ok(kafka)
    }

    /// `127.0.0.1:port`, several with commas. No credentials, no encryption, every right.
    pub fn bootstrap(&self) -> String {
        join(self.nodes.iter().map(|node| &node.client_port))
    }

    /// The same of those brokers that nobody has ended: for clients that take a dead one for a failure.
    pub fn live_bootstrap(&self) -> String {
        self.running().collect::<Vec<_>>().join(",")
    }

    /// The bootstrap servers that want [`SASL_USER`] and [`SASL_PASSWORD`] (`SASL_PLAINTEXT`, mechanism `PLAIN`).
    /// Empty unless the options asked for it.
    pub fn sasl_bootstrap(&self) -> String {
        join(self.nodes.iter().filter_map(|node| node.sasl_port.as_ref()))
    }

    /// The bootstrap servers that speak TLS (`SSL`). Empty unless the options asked for it.
    pub fn tls_bootstrap(&self) -> String {
        join(self.nodes.iter().filter_map(|node| node.tls_port.as_ref()))
    }

    /// SIGKILL to every broker, and gone when this returns. Ports and data stay.
    pub fn kill(&mut self) {
        self.nodes.iter_mut().for_each(Node::kill);
    }

    /// SIGTERM to every broker, and gone when this returns.
    pub fn stop(&mut self) -> Result<()> {
        self.nodes.iter_mut().for_each(Node::ask_to_stop);
        self.nodes.iter_mut().try_for_each(|node| node.stop(STOP_LIMIT))
    }

    /// Starts every broker that is down, on its old port and data, and waits until each of them knows all.
    pub fn restart(&mut self) -> Result<()> {
        for node in &mut self.nodes {
            node.start()?;
        }
        self.wait_ready()
    }

    /// Starts one broker that is down, counted from 0, and waits until it sees all that run and no other.
    pub fn start_broker(&mut self, index: usize) -> Result<()> {
        let Some(node) = self.nodes.get_mut(index) else { return Ok(()) };
        node.start()?;
        let running = self.running().count();
        self.nodes.get_mut(index).map_or(Ok(()), |node| node.wait_ready(running, START_LIMIT))
    }

    /// SIGTERM to one broker, counted from 0, and gone when this returns.
    pub fn stop_broker(&mut self, index: usize) -> Result<()> {
        self.nodes.get_mut(index).map_or(Ok(()), |node| {
            node.ask_to_stop();
            node.stop(STOP_LIMIT)
        })
    }

    /// SIGKILL to one broker, counted from 0.
    pub fn kill_broker(&mut self, index: usize) {
        if let Some(node) = self.nodes.get_mut(index) {
            node.kill();
        }
    }

    /// Names a signal to one broker: `STOP` makes it hang, `CONT` goes on.
    pub fn signal_broker(&mut self, index: usize, signal: &str) {
        if let Some(node) = self.nodes.get_mut(index) {
            node.signal(signal);
        }
    }

    /// The pid of each broker that runs.
    pub fn pids(&self) -> Vec<u32> {
        self.nodes.iter().filter_map(Node::pid).collect()
    }

    /// Creates a topic with as many replicas as there are brokers, up to three, and waits until it has leaders.
    pub fn create_topic(&self, name: &str, partitions: usize, configs: &[(&str, &str)]) -> Result<()> {
        let replicas = self.nodes.len().min(3);
        self.create(&wire::NewTopic { name, partitions, replicas, brokers: &[], configs })
    }

    /// Creates a topic of one partition on these brokers, counted from 0. The first one leads.
    pub fn create_topic_on(&self, brokers: &[usize], name: &str, configs: &[(&str, &str)]) -> Result<()> {
        let brokers: Vec<i32> = brokers.iter().filter_map(|index| self.nodes.get(*index)).map(|node| node.id).collect();
        self.create(&wire::NewTopic { name, partitions: 1, replicas: brokers.len(), brokers: &brokers, configs })
    }

    fn create(&self, topic: &wire::NewTopic<'_>) -> Result<()> {
        let &wire::NewTopic { name, partitions, .. } = topic;
        wire::create_topic(&self.address()?, topic)?;
        wait_until(&format!("topic {name} has its leaders"), TOPIC_LIMIT, || {
            self.running().all(|broker| wire::topic(&broker, name).is_ok_and(|topic| has_leaders(topic, partitions)))
        })?;
        // A leader that all brokers name may not know yet that it is one.
        let leads = |partition: &Partition| {
            let leader = self.node(partition.leader).map(|node| node.client_port.address());
            leader.is_some_and(|leader| wire::offset(&leader, name, partition.id, wire::LATEST).is_ok())
        };
        let created = self.topic(name)?.unwrap_or_default();
        wait_until(&format!("topic {name} takes records"), TOPIC_LIMIT, || created.iter().all(leads))
    }

    /// Deletes a topic and waits until no broker knows it, so that it can be created again.
    pub fn delete_topic(&self, name: &str) -> Result<()> {
        wire::delete_topic(&self.address()?, name)?;
        wait_until(&format!("topic {name} is gone"), TOPIC_LIMIT, || {
            self.running().all(|broker| wire::topic(&broker, name).is_ok_and(|topic| topic.is_none()))
        })
    }

    /// Lets a user do `operation` with `thing`, or forbids it, and waits until every broker goes by it. Only where the
    /// properties name an authorizer.
    pub fn rule(&self, user: &str, permission: Permission, rules: &[(Thing<'_>, Operation)]) -> Result<()> {
        let rules = rules.iter().copied();
        let acls: Vec<_> = rules.map(|(thing, operation)| Acl { user, thing, operation, permission }).collect();
        wire::acls::create(&self.address()?, &acls)?;
        let known = |broker: &str| acls.iter().all(|acl| wire::acls::is_known(broker, acl).unwrap_or(false));
        wait_until("every broker goes by the rules", TOPIC_LIMIT, || self.running().all(|broker| known(&broker)))
    }

    /// Produces records as one batch, byte for byte, whatever client libraries think of them.
    pub fn produce_raw(&self, topic: &str, partition: i32, records: &[RawRecord]) -> Result<()> {
        wire::produce(&self.leader(topic, partition)?, topic, partition, &raw::batch(records))
    }

    /// Deletes all records below `before`: moves the log start offset of one partition.
    pub fn delete_records(&self, topic: &str, partition: i32, before: i64) -> Result<()> {
        wire::delete_records(&self.leader(topic, partition)?, topic, partition, before)
    }

    /// Log start offset and end offset (high watermark) of one partition.
    pub fn offsets(&self, topic: &str, partition: i32) -> Result<(i64, i64)> {
        let leader = self.leader(topic, partition)?;
        let start = wire::offset(&leader, topic, partition, wire::EARLIEST)?;
        Ok((start, wire::offset(&leader, topic, partition, wire::LATEST)?))
    }

    /// Puts every member out of a consumer group behind its back: each believes to own what it had until it asks next.
    /// Of a cluster of one broker only, which coordinates every group.
    pub fn evict(&self, group: &str) -> Result<()> {
        let address = self.address()?;
        let members = wire::members(&address, group)?;
        members.iter().try_for_each(|member| wire::leave_group(&address, group, member))
    }

    /// The partitions of a topic with their leaders, or `None` if there is no such topic.
    pub fn topic(&self, name: &str) -> Result<Option<Vec<Partition>>> {
        wire::topic(&self.address()?, name)
    }

    /// Runs one of Kafka's tools against this cluster: `--bootstrap-server` is added. Its standard output.
    pub fn tool(&self, class: &str, args: &[&str]) -> Result<String> {
        self.tool_with_input(class, args, "")
    }

    /// The same, with something to read on standard input (`ConsoleProducer`).
    pub fn tool_with_input(&self, class: &str, args: &[&str], input: &str) -> Result<String> {
        let options = self.distribution.tool_archive.options();
        self.run_tool(class, &[&["--bootstrap-server", &self.bootstrap()], args].concat(), input, options)
    }

    /// Runs any main class of the distribution (`DumpLogSegments`), with just these arguments. Its standard output.
    pub fn java(&self, class: &str, args: &[&str]) -> Result<String> {
        self.run_tool(class, args, "", self.distribution.tool_archive.options())
    }

    /// Where configs, data and logs of this cluster are.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    fn run_tool(&self, class: &str, args: &[&str], input: &str, options: Vec<OsString>) -> Result<String> {
        let scratch = home::instance_dir("tool")?;
        fs::write(scratch.join("in"), input)?;
        let jvm = self.distribution.jvm(class, options);
        let launch = Java::find()?.launch(&jvm, &scratch.join("log")).args(args);
        let answer = launch.stdin(scratch.join("in")).stdout(scratch.join("out")).run(TOOL_LIMIT)?;
        fs::remove_dir_all(&scratch)?;
        Ok(answer)
    }

    fn wait_ready(&mut self) -> Result<()> {
        let brokers = self.nodes.len();
        self.nodes.iter_mut().try_for_each(|node| node.wait_ready(brokers, START_LIMIT))
    }

    /// Some broker that answers.
    fn address(&self) -> Result<String> {
        self.running().next().ok_or_else(|| Error::failed("no broker of this cluster is running"))
    }

    /// The addresses of those brokers that nobody has ended.
    fn running(&self) -> impl Iterator<Item = String> {
        self.nodes.iter().filter(|node| node.pid().is_some()).map(|node| node.client_port.address())
    }

    fn leader(&self, topic: &str, partition: i32) -> Result<String> {
        let partitions = self.topic(topic)?.unwrap_or_default();
        let leader = partitions.iter().find(|candidate| candidate.id == partition).map(|found| found.leader);
        let node = leader.and_then(|leader| self.node(leader));
        let node = node.ok_or_else(|| Error::failed(format!("{topic}-{partition} has no leader")))?;
        Ok(node.client_port.address())
    }

    fn node(&self, id: i32) -> Option<&Node> {
        self.nodes.iter().find(|node| node.id == id)
    }
}

impl Drop for Kafka {
    fn drop(&mut self) {
        self.kill();
        if !std::thread::panicking() {
            // The logs stay; data nobody can reach is only a burden. A leftover is swept with its run.
            self.nodes.iter().for_each(Node::remove_data);
        }
    }
}

fn has_leaders(topic: Option<Vec<Partition>>, count: usize) -> bool {
    topic.is_some_and(|partitions| partitions.len() == count && partitions.iter().all(|one| one.leader >= 0))
}

fn join<'a>(ports: impl Iterator<Item = &'a Port>) -> String {
    ports.map(Port::address).collect::<Vec<_>>().join(",")
}
