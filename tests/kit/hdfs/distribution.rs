//! The jars of HDFS and what is made from them once: a formatted name folder and class data archives.
//!
//! Everything lies in `target/kit/hdfs-3.5.0`. One jar is our own: `webapps.jar`, which stands first on the class path
//! and holds nothing but the names of empty web applications. Jetty unpacks the jar in which it finds those, and the
//! one of the distribution takes it many seconds; the servlets that we use (WebHDFS, JMX) are not in there anyway.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use super::{Hdfs, HdfsOptions, site};
use crate::kit::archive::Archive;
use crate::kit::java::{Java, Jvm};
use crate::kit::{Error, Result, http, provision};

const NAME: &str = "hdfs-3.5.0";
const POM: &str = include_str!("pom.xml");
const LOG4J: &str = include_str!("log4j.properties");
const FORMAT_LIMIT: Duration = Duration::from_secs(120);
const WEBAPPS: [&str; 6] = [
    "webapps/",
    "webapps/hdfs/",
    "webapps/hdfs/WEB-INF/",
    "webapps/datanode/",
    "webapps/datanode/WEB-INF/",
    "webapps/static/",
];

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
        let mut class_path = self.folder.join("webapps.jar").into_os_string();
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
    let recipe = format!("{POM}{LOG4J}{WEBAPPS:?}");
    // The rest is made from the jars beside them, under a mark of its own.
    provision::folder(&format!("{NAME}/formatted"), &recipe, "hdfs", |formatted| {
        fs::write(folder.join("log4j.properties"), LOG4J)?;
        fs::write(folder.join("webapps.jar"), zip_of_folders(&WEBAPPS))?;
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

/// A zip file whose entries are folders; these have neither content nor checksum.
fn zip_of_folders(names: &[&str]) -> Vec<u8> {
    const FIRST_OF_1980: u32 = 0x0021_0000;
    let u16_of = |value: usize| u16::try_from(value).unwrap_or(u16::MAX).to_le_bytes();
    let u32_of = |value: usize| u32::try_from(value).unwrap_or(u32::MAX).to_le_bytes();
    let (mut entries, mut directory) = (Vec::new(), Vec::new());
    for name in names {
        // Version 2.0, no flags, stored; then checksum and both sizes: 0; the name's length, no extra field.
        let common = [&[20, 0, 0, 0, 0, 0][..], &FIRST_OF_1980.to_le_bytes(), &[0; 12], &u16_of(name.len()), &[0; 2]];
        let common = common.concat();
        let attributes = [0; 10];
        let start = u32_of(entries.len());
        directory.extend([b"PK\x01\x02\x14\x00", &common[..], &attributes, &[0; 2], &start, name.as_bytes()].concat());
        entries.extend([b"PK\x03\x04", &common[..], name.as_bytes()].concat());
    }
    let (count, size, start) = (u16_of(names.len()), u32_of(directory.len()), u32_of(entries.len()));
    let end = [b"PK\x05\x06\0\0\0\0", &count[..], &count, &size, &start, &[0; 2]].concat();
    [entries, directory, end].concat()
}
