//! The jars of HDFS and what is made from them once: a formatted name folder and class data archives.
//!
//! Everything lies in `target/kit/hdfs-3.5.0`. One jar is put together here: `web.jar`, first on the class path, has
//! the web applications (but for their pages) and the two packages of WebHDFS, which are taken out of the large jars.
//! Jetty unpacks the jar of the former and Jersey reads the jars of the latter from end to end at every start of a
//! NameNode: with 75 MB in place of some KB, that is most of the time and two thirds of the CPU that a start takes.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use super::jar::Jar;
use super::{Hdfs, HdfsOptions, site};
use crate::kit::archive::Archive;
use crate::kit::java::{Java, Jvm};
use crate::kit::{Error, Result, http, provision};

const NAME: &str = "hdfs-3.5.0";
const POM: &str = include_str!("pom.xml");
const LOG4J: &str = include_str!("log4j.properties");
const FORMAT_LIMIT: Duration = Duration::from_secs(120);
const WEB_JAR: &str = "web.jar";
/// The jars with packages of [`WEB_PACKAGES`].
const SPLIT_JARS: [&str; 2] = ["hadoop-client-minicluster-3.5.0.jar", "hadoop-client-api-3.5.0.jar"];
const WEB_PACKAGES: [&str; 2] =
    ["org/apache/hadoop/hdfs/web/resources/", "org/apache/hadoop/hdfs/server/namenode/web/resources/"];

pub(super) const NAME_NODE: &str = "org.apache.hadoop.hdfs.server.namenode.NameNode";
pub(super) const DATA_NODE: &str = "org.apache.hadoop.hdfs.server.datanode.DataNode";

#[derive(Debug)]
pub struct Distribution {
    folder: PathBuf,
    /// An empty, formatted name folder.
    pub(super) formatted: PathBuf,
    pub(super) name_node_archive: Archive,
    pub(super) data_node_archive: Archive,
}

impl Distribution {
    /// The one of this machine, fetched if need be.
    pub(super) fn provision() -> Result<&'static Distribution> {
        static DISTRIBUTION: OnceLock<Result<Distribution>> = OnceLock::new();
        let distribution = DISTRIBUTION.get_or_init(fetch).as_ref().map_err(Error::clone)?;
        // Outside the cell: the recording itself starts an HDFS of this distribution.
        distribution.record()?;
        Ok(distribution)
    }

    /// `home`: a folder for what Hadoop wants to lay down beside data and logs.
    pub(super) fn jvm<'a>(&self, main: &'a str, home: &Path, mut options: Vec<OsString>) -> Jvm<'a> {
        let mut define = |key: &str, path: PathBuf| {
            let mut definition = OsString::from(key);
            definition.push(path);
            options.push(definition);
        };
        define("-Dlog4j.configuration=file:", self.folder.join("log4j.properties"));
        define("-Dhadoop.home.dir=", home.to_path_buf());
        define("-Djava.io.tmpdir=", home.to_path_buf());
        let mut class_path = self.folder.join(WEB_JAR).into_os_string();
        class_path.push(":");
        class_path.push(self.folder.join("libs/*"));
        Jvm { class_path, main, options, max_heap_mb: 256 }
    }

    /// Both daemons, a folder and a file give the classes of most that they ever do.
    fn record(&'static self) -> Result<()> {
        Archive::record([&self.name_node_archive, &self.data_node_archive], |[name_node, data_node]| {
            let mut hdfs = Hdfs::start_with(self, HdfsOptions::default(), name_node, data_node)?;
            let address = hdfs.http_address();
            http::request("PUT", &address, "/webhdfs/v1/train/deep?op=MKDIRS&user.name=kit", "")?;
            hdfs.write("/train/file", "kit")?;
            hdfs.stop()
        })
    }
}

fn fetch() -> Result<Distribution> {
    let java = Java::find()?;
    let folder = provision::jars(NAME, POM)?;
    let archive = |name| Archive::new(&folder, name, java);
    let (name_node_archive, data_node_archive) = (archive("namenode"), archive("datanode"));
    let formatted = folder.join("formatted");
    let distribution = Distribution { formatted, name_node_archive, data_node_archive, folder: folder.clone() };
    let recipe = format!("{POM}{LOG4J}{WEB_PACKAGES:?}");
    // The rest is made from the jars beside them, under a mark of its own.
    provision::folder(&format!("{NAME}/formatted"), &recipe, "hdfs", |formatted| {
        fs::write(folder.join("log4j.properties"), LOG4J)?;
        split_web(&folder)?;
        // Class data fit only the jars that they were recorded with.
        let _ = fs::remove_dir_all(folder.join("cds"));
        format(java, &distribution, formatted)
    })?;
    Ok(distribution)
}

/// Lets the NameNode format an empty folder.
fn format(java: &Java, distribution: &Distribution, formatted: &Path) -> Result<()> {
    let config = formatted.join("site.xml");
    let name_dir = format!("file://{}", formatted.join("name").display());
    fs::write(&config, site([("fs.defaultFS", "hdfs://127.0.0.1:9000"), ("dfs.namenode.name.dir", &name_dir)]))?;
    let jvm = distribution.jvm(NAME_NODE, formatted, Vec::new());
    let name_node = java.launch(&jvm, &formatted.join("log")).args(["-conf"]).args([&config]);
    name_node.args(["-format", "-nonInteractive"]).run(FORMAT_LIMIT)?;
    Ok(())
}

/// Makes `web.jar`. May have been interrupted before: then it goes on with what was taken out already.
fn split_web(folder: &Path) -> Result<()> {
    let of_web = |name: &str| {
        let page = name.starts_with("webapps/") && !name.ends_with('/') && !name.ends_with("web.xml");
        WEB_PACKAGES.iter().any(|package| name.starts_with(package)) || (name.starts_with("webapps/") && !page)
    };
    let target = folder.join(WEB_JAR);
    let mut web = if target.exists() { Jar::read(&target)? } else { Jar::default() };
    for name in SPLIT_JARS {
        let large = folder.join("libs").join(name);
        let (taken, rest) = Jar::read(&large)?.split(of_web);
        web = web.join(taken);
        web.write(&target)?;
        // By a rename, so that the jar is whole at any moment.
        let part = large.with_extension("part");
        rest.write(&part)?;
        fs::rename(&part, &large)?;
    }
    Ok(())
}
