//! One broker of a cluster: its ports, its folder, its process when it runs.
//!
//! Called by `Kafka` only. The data folder is a copy of one formatted at provisioning time, with this node's and this
//! cluster's ids put in: formatting would cost a JVM start per broker.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::{Distribution, KafkaOptions, SASL_PASSWORD, SASL_USER, wire};
use crate::kit::Result;
use crate::kit::home::Port;
use crate::kit::java::Java;
use crate::kit::process::Process;

const COMMON: &str = include_str!("server.properties");

#[derive(Debug)]
pub(super) struct Node {
    pub(super) id: i32,
    pub(super) client_port: Port,
    pub(super) sasl_port: Option<Port>,
    pub(super) tls_port: Option<Port>,
    controller_port: Port,
    dir: PathBuf,
    jvm_options: Vec<OsString>,
    distribution: &'static Distribution,
    process: Option<Process>,
}

impl Node {
    /// Writes configs and data folders of a whole cluster; starts nothing.
    pub(super) fn prepare(
        distribution: &'static Distribution,
        dir: &Path,
        options: &KafkaOptions,
    ) -> Result<Vec<Node>> {
        let mut nodes = Vec::new();
        for id in (1..).take(options.brokers.max(1)) {
            let port_if = |wanted: bool| if wanted { Port::claim().map(Some) } else { Ok(None) };
            let (sasl_port, tls_port) = (port_if(options.sasl)?, port_if(options.tls.is_some())?);
            let (client_port, controller_port) = (Port::claim()?, Port::claim()?);
            let dir = dir.join(format!("broker-{id}"));
            let (jvm_options, process) = (Vec::new(), None);
            nodes.push(Node {
                id,
                client_port,
                sasl_port,
                tls_port,
                controller_port,
                dir,
                jvm_options,
                distribution,
                process,
            });
        }
        let voters: Vec<String> =
            nodes.iter().map(|node| format!("{}@{}", node.id, node.controller_port.address())).collect();
        let cluster_id = fresh_cluster_id();
        for node in &nodes {
            node.format(&cluster_id)?;
            fs::write(node.config(), node.properties(&voters.join(","), nodes.len(), options))?;
        }
        Ok(nodes)
    }

    pub(super) fn set_jvm_options(&mut self, options: Vec<OsString>) {
        self.jvm_options = options;
    }

    /// Starts the broker unless it runs.
    pub(super) fn start(&mut self) -> Result<()> {
        if self.process.as_mut().is_some_and(|process| process.exited().is_none()) {
            return Ok(());
        }
        let jvm = self.distribution.jvm("kafka.Kafka", self.jvm_options.clone());
        let launch = Java::find()?.launch(&jvm, &self.dir.join("log")).args([self.config()]);
        self.process = Some(launch.start()?);
        Ok(())
    }

    /// Ready: this broker itself says that it sees `brokers` brokers and a controller.
    pub(super) fn wait_ready(&mut self, brokers: usize, limit: Duration) -> Result<()> {
        let address = self.client_port.address();
        let sees_all =
            || wire::cluster(&address).is_ok_and(|cluster| cluster.brokers == brokers && cluster.controller >= 0);
        let Some(process) = &mut self.process else { return Ok(()) };
        process.wait_ready(&format!("broker {} at {address}", self.id), limit, sees_all)
    }

    pub(super) fn kill(&mut self) {
        if let Some(process) = self.process.take() {
            process.kill();
        }
    }

    pub(super) fn signal(&mut self, name: &str) {
        if let Some(process) = &mut self.process {
            process.signal(name);
        }
    }

    pub(super) fn ask_to_stop(&mut self) {
        self.signal("TERM");
    }

    pub(super) fn stop(&mut self, limit: Duration) -> Result<()> {
        self.process.take().map_or(Ok(()), |process| process.terminate(limit))
    }

    pub(super) fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }

    pub(super) fn remove_data(&self) {
        let _ = fs::remove_dir_all(self.data());
    }

    fn format(&self, cluster_id: &str) -> Result<()> {
        fs::create_dir_all(self.data())?;
        let checkpoint = "bootstrap.checkpoint";
        fs::copy(self.distribution.formatted.join(checkpoint), self.data().join(checkpoint))?;
        let meta = self.data().join("meta.properties");
        // A directory id is 16 bytes in URL-safe base64; any will do that differs from broker to broker.
        let directory_id = format!("kitDirectoryOfNode0{:02}A", self.id);
        let text = format!("version=1\nnode.id={}\ncluster.id={cluster_id}\ndirectory.id={directory_id}\n", self.id);
        fs::write(meta, text)?;
        Ok(())
    }

    fn properties(&self, voters: &str, brokers: usize, options: &KafkaOptions) -> String {
        let mut lines: BTreeMap<String, String> = BTreeMap::new();
        let mut set = |key: &str, value: String| lines.insert(key.to_owned(), value);
        for line in COMMON.lines().filter(|line| !line.starts_with('#')) {
            if let Some((key, value)) = line.split_once('=') {
                set(key, value.to_owned());
            }
        }
        let (client, controller) = (self.client_port.address(), self.controller_port.address());
        let mut listeners = format!("PLAINTEXT://{client},CONTROLLER://{controller}");
        if let Some(port) = &self.sasl_port {
            listeners = format!("{listeners},SASL://{}", port.address());
            let module = "org.apache.kafka.common.security.plain.PlainLoginModule required";
            set("sasl.enabled.mechanisms", "PLAIN".to_owned());
            let jaas = format!("{module} user_{SASL_USER}=\"{SASL_PASSWORD}\";");
            set("listener.name.sasl.plain.sasl.jaas.config", jaas);
        }
        if let (Some(port), Some(pem)) = (&self.tls_port, &options.tls) {
            listeners = format!("{listeners},TLS://{}", port.address());
            set("listener.name.tls.ssl.keystore.type", "PEM".to_owned());
            set("listener.name.tls.ssl.keystore.location", pem.display().to_string());
        }
        set("listeners", listeners);
        let protocols = "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL:SASL_PLAINTEXT,TLS:SSL";
        set("listener.security.protocol.map", protocols.to_owned());
        set("node.id", self.id.to_string());
        set("controller.quorum.voters", voters.to_owned());
        set("log.dirs", self.data().display().to_string());
        let (replicas, in_sync) = if brokers >= 3 { (3, 2) } else { (1, 1) };
        for topic in ["offsets.topic", "transaction.state.log", "share.coordinator.state.topic"] {
            set(&format!("{topic}.replication.factor"), replicas.to_string());
        }
        for topic in ["transaction.state.log", "share.coordinator.state.topic"] {
            set(&format!("{topic}.min.isr"), in_sync.to_string());
        }
        set("default.replication.factor", replicas.to_string());
        for (key, value) in &options.properties {
            set(key, value.clone());
        }
        lines.iter().fold(String::new(), |mut text, (key, value)| {
            let _ = writeln!(text, "{key}={value}");
            text
        })
    }

    fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    fn config(&self) -> PathBuf {
        self.dir.join("server.properties")
    }
}

/// 16 bytes in URL-safe base64, written by hand: unlike those of every other cluster on this machine.
fn fresh_cluster_id() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed) % 1_000;
    format!("kitCluster{:08}{count:03}A", std::process::id() % 100_000_000)
}
