//! The jars of Kafka and what is made from them once: a formatted data folder and class data archives.
//!
//! Everything lies in `target/kit/kafka-4.3.1`. The file connectors stand apart in `plugins`, as in the real
//! distribution, so that a Connect worker loads them through `plugin.path`.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use super::{Kafka, KafkaOptions};
use crate::kit::archive::Archive;
use crate::kit::java::{Java, Jvm};
use crate::kit::{Error, Result, provision};

const NAME: &str = "kafka-4.3.1";
const POM: &str = include_str!("pom.xml");
const LOG4J: &str = include_str!("log4j2.properties");
const FORMAT_LIMIT: Duration = Duration::from_secs(120);
const TOPIC_COMMAND: &str = "org.apache.kafka.tools.TopicCommand";

#[derive(Debug)]
pub struct Distribution {
    folder: PathBuf,
    /// Files of an empty, formatted data folder; the ids in it are replaced in each copy.
    pub(super) formatted: PathBuf,
    pub(super) broker_archive: Archive,
    pub(super) tool_archive: Archive,
    pub(in crate::kit) worker_archive: Archive,
}

impl Distribution {
    /// The one of this machine, fetched if need be.
    pub fn provision() -> Result<&'static Distribution> {
        static DISTRIBUTION: OnceLock<Result<Distribution>> = OnceLock::new();
        let distribution = DISTRIBUTION.get_or_init(fetch).as_ref().map_err(Error::clone)?;
        // Outside the cell: the recording itself starts a broker of this distribution.
        distribution.record()?;
        Ok(distribution)
    }

    pub(in crate::kit) fn jvm<'a>(&self, main: &'a str, mut options: Vec<OsString>) -> Jvm<'a> {
        let mut log = OsString::from("-Dlog4j2.configurationFile=");
        log.push(self.folder.join("log4j2.properties"));
        options.push(log);
        let mut class_path = self.folder.join("libs").into_os_string();
        class_path.push("/*");
        Jvm { class_path, main, options, max_heap_mb: 512 }
    }

    /// For `plugin.path`.
    pub(in crate::kit) fn plugins(&self) -> PathBuf {
        self.folder.join("plugins")
    }

    /// A broker for the broker's archive, and a tool that speaks to it for the tools'.
    fn record(&'static self) -> Result<()> {
        Archive::record([&self.broker_archive, &self.tool_archive], |[broker, tool]| {
            let mut kafka = Kafka::start_with(self, KafkaOptions::default(), Some(broker))?;
            kafka.create_topic("train", 1, &[])?;
            kafka.tool_with_input("org.apache.kafka.tools.ConsoleProducer", &["--topic", "train"], "one\n")?;
            kafka.run_tool(TOPIC_COMMAND, &["--bootstrap-server", &kafka.bootstrap(), "--describe"], "", tool)?;
            kafka.stop()
        })
    }
}

fn fetch() -> Result<Distribution> {
    let java = Java::find()?;
    let folder = provision::jars(NAME, POM)?;
    let recipe = format!("{POM}{LOG4J}");
    // The rest is made from the jars beside them, under a mark of its own.
    let formatted = provision::folder(&format!("{NAME}/formatted"), &recipe, "kafka", |formatted| {
        let (libs, plugins) = (folder.join("libs"), folder.join("plugins/connect-file"));
        fs::create_dir_all(&plugins)?;
        let jar = "connect-file-4.3.1.jar";
        if libs.join(jar).exists() {
            fs::rename(libs.join(jar), plugins.join(jar))?;
        }
        fs::write(folder.join("log4j2.properties"), LOG4J)?;
        format(java, &folder, formatted)
    })?;
    let archive = |name| Archive::new(&folder, name, java);
    let (broker_archive, tool_archive, worker_archive) = (archive("broker"), archive("tool"), archive("worker"));
    Ok(Distribution { formatted, broker_archive, tool_archive, worker_archive, folder })
}

/// Lets Kafka format an empty folder: that gives `bootstrap.checkpoint`, which holds the feature levels.
fn format(java: &Java, folder: &Path, formatted: &Path) -> Result<()> {
    let config = folder.join("format.properties");
    let text = format!(
        "process.roles=broker,controller\nnode.id=1\ncontroller.quorum.voters=1@127.0.0.1:9093\n\
         listeners=PLAINTEXT://127.0.0.1:9092,CONTROLLER://127.0.0.1:9093\ncontroller.listener.names=CONTROLLER\n\
         log.dirs={}\n",
        formatted.display()
    );
    fs::write(&config, text)?;
    let mut class_path = folder.join("libs").into_os_string();
    class_path.push("/*");
    let jvm = Jvm { class_path, main: "kafka.tools.StorageTool", options: Vec::new(), max_heap_mb: 256 };
    let tool = java.launch(&jvm, &folder.join("format.log"));
    tool.args(["format", "-t", "AAAAAAAAQACAAAAAAAAAAQ", "-c"]).args([config]).run(FORMAT_LIMIT)?;
    Ok(())
}
