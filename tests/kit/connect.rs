//! A JVM Connect worker, standalone, of the same Kafka version: the reference that REST scenarios are compared with.
//!
//! It runs from the jars of the broker, with the file connectors in a plugin folder of their own as in the real
//! distribution. It has one JSON file of offsets in its folder and survives kill and restart with it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::archive::Archive;
use super::home::{self, Port};
use super::java::Java;
use super::kafka::Distribution;
use super::process::Process;
use super::{Result, http};

const START_LIMIT: Duration = Duration::from_secs(120);
const STOP_LIMIT: Duration = Duration::from_secs(20);
const STANDALONE: &str = "org.apache.kafka.connect.cli.ConnectStandalone";

#[derive(Debug, Clone)]
pub struct ConnectOptions {
    pub bootstrap: String,
    /// Lines of `worker.properties`; they override the kit's own.
    pub properties: Vec<(String, String)>,
    /// Connector files, in properties or JSON form, as on the command line.
    pub connectors: Vec<PathBuf>,
    /// See [`ConnectOptions::shipped_options`].
    shipped: bool,
}

impl ConnectOptions {
    /// A worker without connectors on this cluster.
    pub fn new(bootstrap: impl Into<String>) -> ConnectOptions {
        ConnectOptions { bootstrap: bootstrap.into(), properties: Vec::new(), connectors: Vec::new(), shipped: false }
    }

    pub fn property(mut self, key: &str, value: &str) -> ConnectOptions {
        self.properties.push((key.to_owned(), value.to_owned()));
        self
    }

    /// With the JVM options of Kafka's own start scripts in place of the kit's, which start quickly and run slowly.
    pub fn shipped_options(mut self) -> ConnectOptions {
        self.shipped = true;
        self
    }
}

#[derive(Debug)]
pub struct ConnectWorker {
    dir: PathBuf,
    rest: Port,
    connectors: Vec<PathBuf>,
    jvm_options: Vec<OsString>,
    shipped: bool,
    distribution: &'static Distribution,
    process: Option<Process>,
}

impl ConnectWorker {
    /// A worker of one's own, its REST API ready. It ends when the value is dropped.
    pub fn start(options: ConnectOptions) -> Result<ConnectWorker> {
        let distribution = Distribution::provision()?;
        if options.shipped {
            return ConnectWorker::start_with(distribution, options, Vec::new());
        }
        Archive::record([&distribution.worker_archive], |[recorder]| {
            let mut worker =
                ConnectWorker::start_with(distribution, ConnectOptions::new(&options.bootstrap), recorder)?;
            http::get(&worker.address(), "/connector-plugins?connectorsOnly=false")?;
            worker.terminate()
        })?;
        ConnectWorker::start_with(distribution, options, distribution.worker_archive.options())
    }

    fn start_with(
        distribution: &'static Distribution,
        options: ConnectOptions,
        jvm_options: Vec<OsString>,
    ) -> Result<ConnectWorker> {
        let (dir, rest) = (home::instance_dir("connect")?, Port::claim()?);
        let (connectors, shipped) = (options.connectors.clone(), options.shipped);
        let mut worker = ConnectWorker { dir, rest, connectors, jvm_options, shipped, distribution, process: None };
        fs::write(worker.config(), worker.properties(&options))?;
        worker.restart()?;
        Ok(worker)
    }

    /// `http://127.0.0.1:port`
    pub fn rest_url(&self) -> String {
        format!("http://{}", self.address())
    }

    /// `127.0.0.1:port`
    pub fn address(&self) -> String {
        self.rest.address()
    }

    /// Where config, offsets and log are; a good place for the files of file connectors.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }

    /// SIGKILL, and gone when this returns. Port and offsets stay.
    pub fn kill(&mut self) {
        if let Some(process) = self.process.take() {
            process.kill();
        }
    }

    /// SIGTERM, and gone when this returns. Now and then Jetty's shutdown hook and Connect's wait for each other for
    /// ever; a worker that hangs like this is killed.
    pub fn stop(&mut self) {
        if let Err(error) = self.terminate() {
            home::say(&format!("kit: {error}"));
        }
    }

    fn terminate(&mut self) -> Result<()> {
        self.process.take().map_or(Ok(()), |process| process.terminate(STOP_LIMIT))
    }

    /// Starts the worker, unless it runs, on its old port and offsets.
    pub fn restart(&mut self) -> Result<()> {
        if self.process.as_mut().is_some_and(|process| process.exited().is_none()) {
            return Ok(());
        }
        let mut options = self.jvm_options.clone();
        options.push("-Dkit.log.level=INFO".into());
        let jvm = self.distribution.jvm(STANDALONE, options);
        let (java, log) = (Java::find()?, self.dir.join("log"));
        let launch = if self.shipped { java.launch_as_shipped(&jvm, &log) } else { java.launch(&jvm, &log) };
        let launch = launch.args([self.config()]).args(&self.connectors);
        let address = self.address();
        let process = self.process.insert(launch.start()?);
        process.wait_ready(&format!("Connect worker at {address}"), START_LIMIT, || {
            http::is_ok(&address, "/") && http::is_ok(&address, "/health")
        })
    }

    fn config(&self) -> PathBuf {
        self.dir.join("worker.properties")
    }

    fn properties(&self, options: &ConnectOptions) -> String {
        let json = "org.apache.kafka.connect.json.JsonConverter";
        let own = [
            ("bootstrap.servers", options.bootstrap.clone()),
            ("listeners", self.rest_url()),
            ("key.converter", json.to_owned()),
            ("value.converter", json.to_owned()),
            ("offset.flush.interval.ms", "1000".to_owned()),
            ("offset.storage.file.filename", self.dir.join("offsets").display().to_string()),
            ("plugin.path", self.distribution.plugins().display().to_string()),
            // The other ways look into every class of every jar, which takes many seconds.
            ("plugin.discovery", "service_load".to_owned()),
        ];
        let mut lines: BTreeMap<String, String> = own.map(|(key, value)| (key.to_owned(), value)).into();
        lines.extend(options.properties.iter().cloned());
        lines.iter().map(|(key, value)| format!("{key}={value}\n")).collect()
    }
}
