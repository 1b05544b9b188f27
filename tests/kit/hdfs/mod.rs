//! HDFS: a NameNode and a DataNode, each a JVM of its own, with WebHDFS and without permissions.
//!
//! Used by the tests of the HDFS store and by the example. Each daemon can be killed and restarted alone, on its old
//! port and data. The client's view of the config is in `conf_dir()`. A `TcpProxy` before `rpc_address()` can cut the
//! NameNode's replies; the DataNode is always reached directly, where the NameNode says that it is.

mod distribution;
mod jar;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use distribution::{DATA_NODE, Distribution, NAME_NODE};

use super::home::{self, Port};
use super::java::Java;
use super::process::Process;
use super::{Error, Result, http};

/// A few seconds on an idle machine.
const START_LIMIT: Duration = Duration::from_secs(300);
const STOP_LIMIT: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, Default)]
pub struct HdfsOptions {
    /// Entries of `hdfs-site.xml`; they override the kit's own.
    pub properties: Vec<(String, String)>,
}

#[derive(Debug)]
pub struct Hdfs {
    dir: PathBuf,
    distribution: &'static Distribution,
    rpc: Port,
    http: Port,
    _data_ports: [Port; 3],
    name_node: Daemon,
    data_node: Daemon,
}

#[derive(Debug)]
struct Daemon {
    class: &'static str,
    log: &'static str,
    jvm_options: Vec<OsString>,
    process: Option<Process>,
}

impl Hdfs {
    /// An HDFS of one's own, ready for reads and writes. It ends when the value is dropped.
    pub fn start(options: HdfsOptions) -> Result<Hdfs> {
        let distribution = Distribution::provision()?;
        let name_node = distribution.name_node_archive.options();
        let data_node = distribution.data_node_archive.options();
        Hdfs::start_with(distribution, options, name_node, data_node)
    }

    fn start_with(
        distribution: &'static Distribution,
        options: HdfsOptions,
        name_node: Vec<OsString>,
        data_node: Vec<OsString>,
    ) -> Result<Hdfs> {
        let dir = home::instance_dir("hdfs")?;
        let daemon = |class, log, jvm_options| Daemon { class, log, jvm_options, process: None };
        let name_node = daemon(NAME_NODE, "namenode.log", name_node);
        let data_node = daemon(DATA_NODE, "datanode.log", data_node);
        let (rpc, http) = (Port::claim()?, Port::claim()?);
        let _data_ports = [Port::claim()?, Port::claim()?, Port::claim()?];
        let mut hdfs = Hdfs { dir, distribution, rpc, http, _data_ports, name_node, data_node };
        hdfs.configure(&options)?;
        hdfs.restart()?;
        Ok(hdfs)
    }

    /// `hdfs://127.0.0.1:port`
    pub fn url(&self) -> String {
        format!("hdfs://{}", self.rpc_address())
    }

    /// `127.0.0.1:port` of the NameNode's RPC.
    pub fn rpc_address(&self) -> String {
        self.rpc.address()
    }

    /// `http://127.0.0.1:port/webhdfs/v1`; append a path and `?op=..`.
    pub fn webhdfs(&self) -> String {
        format!("http://{}/webhdfs/v1", self.http_address())
    }

    /// `127.0.0.1:port` of the NameNode's web server.
    pub fn http_address(&self) -> String {
        self.http.address()
    }

    /// A folder with `core-site.xml` and `hdfs-site.xml`, good for `HADOOP_CONF_DIR`.
    pub fn conf_dir(&self) -> PathBuf {
        self.dir.join("conf")
    }

    /// Writes a small file, through WebHDFS.
    pub fn write(&self, path: &str, content: &str) -> Result<()> {
        self.web("PUT", path, "CREATE&overwrite=true", content).map(drop)
    }

    /// Reads a small text file, through WebHDFS.
    pub fn read(&self, path: &str) -> Result<String> {
        self.web("GET", path, "OPEN", "")
    }

    /// The JSON of `LISTSTATUS`, through WebHDFS.
    pub fn list(&self, path: &str) -> Result<String> {
        self.web("GET", path, "LISTSTATUS", "")
    }

    /// SIGKILL to both daemons, and gone when this returns. Ports and data stay.
    pub fn kill(&mut self) {
        self.kill_data_node();
        self.kill_name_node();
    }

    pub fn kill_name_node(&mut self) {
        self.name_node.kill();
    }

    pub fn kill_data_node(&mut self) {
        self.data_node.kill();
    }

    /// Names a signal to the NameNode: `STOP` makes it hang, `CONT` goes on.
    pub fn signal_name_node(&mut self, signal: &str) {
        if let Some(process) = &mut self.name_node.process {
            process.signal(signal);
        }
    }

    /// SIGTERM to both daemons, and gone when this returns.
    pub fn stop(&mut self) -> Result<()> {
        self.data_node.stop()?;
        self.name_node.stop()
    }

    /// Starts those daemons that are down, on their old ports and data, and waits until files can be written.
    pub fn restart(&mut self) -> Result<()> {
        self.start_name_node()?;
        self.start_data_node()?;
        self.wait_ready()
    }

    /// Starts the NameNode, if it is down, and does not wait for it.
    pub fn start_name_node(&mut self) -> Result<()> {
        let conf = self.conf_dir();
        self.name_node.start(self.distribution, &self.dir, &conf)
    }

    /// Starts the DataNode, if it is down, and does not wait for it.
    pub fn start_data_node(&mut self) -> Result<()> {
        let conf = self.conf_dir();
        self.data_node.start(self.distribution, &self.dir, &conf)
    }

    /// Waits until the NameNode has a live DataNode with room and is out of safe mode.
    pub fn wait_ready(&mut self) -> Result<()> {
        let address = self.http_address();
        let bean = |name: &str| {
            let answer = http::get(&address, &format!("/jmx?qry=Hadoop:service=NameNode,name={name}"));
            answer.map_or_else(|_| String::new(), |(_, body)| body)
        };
        let ready = || {
            let system = bean("FSNamesystemState");
            let has_room = system.contains("\"CapacityRemaining\"") && !system.contains("\"CapacityRemaining\" : 0,");
            system.contains("\"NumLiveDataNodes\" : 1")
                && has_room
                && bean("NameNodeInfo").contains("\"Safemode\" : \"\"")
        };
        let Some(name_node) = &mut self.name_node.process else { return Err(Error::failed("the NameNode is down")) };
        let waited = name_node.wait_ready(&format!("NameNode at {address}"), START_LIMIT, ready);
        // Why a NameNode is not ready is often told by the DataNode.
        waited.map_err(|error| match &self.data_node.process {
            Some(data_node) => Error::failed(format!("{error}\n{}", data_node.log_tail())),
            None => error,
        })
    }

    /// Where configs, data and logs are.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    fn configure(&self, options: &HdfsOptions) -> Result<()> {
        fs::create_dir_all(self.conf_dir())?;
        let name = self.dir.join("name/current");
        fs::create_dir_all(&name)?;
        for entry in fs::read_dir(self.distribution.formatted.join("name/current"))? {
            let entry = entry?;
            fs::copy(entry.path(), name.join(entry.file_name()))?;
        }
        let url = self.url();
        let core = [("fs.defaultFS", url.as_str()), ("hadoop.tmp.dir", &self.dir.join("tmp").display().to_string())];
        fs::write(self.conf_dir().join("core-site.xml"), site(core))?;
        let mut entries = self.entries();
        entries.extend(options.properties.iter().cloned());
        let pairs = entries.iter().map(|(key, value)| (key.as_str(), value.as_str()));
        fs::write(self.conf_dir().join("hdfs-site.xml"), site(pairs))?;
        Ok(())
    }

    fn entries(&self) -> BTreeMap<String, String> {
        let folder = |name: &str| format!("file://{}", self.dir.join(name).display());
        let (rpc, http) = (self.rpc_address(), self.http_address());
        let [data, ipc, web] = self._data_ports.each_ref().map(Port::address);
        let entries = [
            ("dfs.replication", "1"),
            ("dfs.namenode.name.dir", &folder("name")),
            ("dfs.datanode.data.dir", &folder("data")),
            ("dfs.namenode.rpc-address", &rpc),
            ("dfs.namenode.rpc-bind-host", "127.0.0.1"),
            ("dfs.namenode.http-address", &http),
            ("dfs.datanode.address", &data),
            ("dfs.datanode.ipc.address", &ipc),
            ("dfs.datanode.http.address", &web),
            ("dfs.datanode.hostname", "127.0.0.1"),
            ("dfs.namenode.datanode.registration.ip-hostname-check", "false"),
            ("dfs.permissions.enabled", "false"),
            // Ready as soon as the DataNode is there.
            ("dfs.namenode.safemode.extension", "0"),
            ("dfs.namenode.safemode.threshold-pct", "0.0"),
            ("dfs.namenode.safemode.min.datanodes", "1"),
            ("dfs.namenode.safemode.recheck.interval", "100"),
            ("dfs.heartbeat.interval", "1"),
            // The DataNode dials a NameNode that is not there yet ten times a second, and does not pause for long.
            ("ipc.client.connect.retry.interval", "100"),
            ("ipc.client.connect.max.retries", "1000"),
            // Small blocks for tests of many.
            ("dfs.namenode.fs-limits.min-block-size", "4096"),
        ];
        entries.map(|(key, value)| (key.to_owned(), value.to_owned())).into()
    }

    fn web(&self, method: &str, path: &str, op: &str, body: &str) -> Result<String> {
        let (mut status, mut answer) = self.web_once(method, path, op, body)?;
        if answer.contains("java.io.EOFException") {
            // After a restart of the NameNode the DataNode's own client first trips over its old connection.
            (status, answer) = self.web_once(method, path, op, body)?;
        }
        if status / 100 == 2 { Ok(answer) } else { Err(Error::failed(format!("{op} of {path}: {status} {answer}"))) }
    }

    /// A WebHDFS call that follows the NameNode's one redirect to the DataNode.
    fn web_once(&self, method: &str, path: &str, op: &str, body: &str) -> Result<(u16, String)> {
        let target = format!("/webhdfs/v1{path}?op={op}&user.name=kit&noredirect=true");
        let answer = http::request(method, &self.http_address(), &target, "")?;
        // With `noredirect` the place is in the body: {"Location":"http://host:port/path"}
        let place = answer.1.split_once("{\"Location\":\"http://").and_then(|(_, rest)| rest.split_once('"'));
        match place.and_then(|(place, _)| place.split_once('/')) {
            Some((address, path)) => http::request(method, address, &format!("/{path}"), body),
            None => Ok(answer),
        }
    }
}

impl Drop for Hdfs {
    fn drop(&mut self) {
        self.kill();
        if !std::thread::panicking() {
            // The logs stay. A leftover is swept with its run.
            let _ = ["name", "data", "tmp"].map(|name| fs::remove_dir_all(self.dir.join(name)));
        }
    }
}

impl Daemon {
    fn start(&mut self, distribution: &Distribution, dir: &Path, conf: &Path) -> Result<()> {
        if self.process.as_mut().is_some_and(|process| process.exited().is_none()) {
            return Ok(());
        }
        let home = dir.join("tmp");
        fs::create_dir_all(&home)?;
        let jvm = distribution.jvm(self.class, &home, self.jvm_options.clone());
        let (core, hdfs) = (conf.join("core-site.xml"), conf.join("hdfs-site.xml"));
        let launch = Java::find()?.launch(&jvm, &dir.join(self.log));
        // Not by the class path: class data archives allow only jars there.
        self.process =
            Some(launch.args(["-conf".as_ref(), core.as_os_str(), "-conf".as_ref(), hdfs.as_os_str()]).start()?);
        Ok(())
    }

    fn kill(&mut self) {
        if let Some(process) = self.process.take() {
            process.kill();
        }
    }

    fn stop(&mut self) -> Result<()> {
        self.process.take().map_or(Ok(()), |process| process.terminate(STOP_LIMIT))
    }
}

/// A Hadoop configuration file.
fn site<'a>(entries: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let mut text = String::from("<?xml version=\"1.0\"?>\n<configuration>\n");
    for (name, value) in entries {
        let value = value.replace('&', "&amp;").replace('<', "&lt;");
        let _ = writeln!(text, "<property><name>{name}</name><value>{value}</value></property>");
    }
    text + "</configuration>\n"
}
