//! Our worker as users run it: the binary, a properties file, a signal. It cannot outlive the test process.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::OnceLock;
use std::time::Duration;

use crate::http::{Request, Response};
use crate::kit::{self, Launch, Port, Process};

const LIMIT: Duration = Duration::from_secs(30);

pub(crate) struct Worker {
    dir: PathBuf,
    port: Port,
    launch: Launch,
    process: Option<Process>,
}

impl Worker {
    /// A worker on this cluster, not yet started; `properties` override the defaults of the tests.
    pub(crate) fn new(bootstrap: &str, properties: &[(&str, &str)]) -> kit::Result<Worker> {
        let (dir, port) = (kit::instance_dir("worker")?, Port::claim()?);
        let json = "org.apache.kafka.connect.json.JsonConverter";
        let mut lines = BTreeMap::from([
            ("bootstrap.servers", bootstrap.to_owned()),
            ("listeners", format!("http://{}", port.address())),
            ("key.converter", json.to_owned()),
            ("value.converter", json.to_owned()),
            ("offset.flush.interval.ms", "1000".to_owned()),
            ("offset.storage.file.filename", dir.join("offsets").display().to_string()),
        ]);
        lines.extend(properties.iter().map(|(key, value)| (*key, (*value).to_owned())));
        let lines: String = lines.iter().map(|(key, value)| format!("{key}={value}\n")).collect();
        fs::write(dir.join("worker.properties"), lines)?;
        let launch = Launch::new(env!("CARGO_BIN_EXE_lakeferry"), dir.join("log"));
        Ok(Worker { dir, port, launch, process: None })
    }

    /// A worker whose REST API answers.
    pub(crate) fn start(bootstrap: &str, properties: &[(&str, &str)]) -> kit::Result<Worker> {
        let mut worker = Worker::new(bootstrap, properties)?;
        worker.run(&[])?;
        worker.wait_ready()?;
        Ok(worker)
    }

    /// Starts the process with these connector files.
    pub(crate) fn run(&mut self, connectors: &[&Path]) -> kit::Result<()> {
        let args = ["connect-standalone".into(), self.dir.join("worker.properties")];
        let args = args.iter().map(PathBuf::as_path).chain(connectors.iter().copied());
        self.process = Some(self.launch.clone().args(args).start()?);
        Ok(())
    }

    /// Returns when all connectors of the command line were created.
    pub(crate) fn wait_ready(&mut self) -> kit::Result<()> {
        let address = self.address();
        let ready = || Request::new("GET", "/health").send(&address).is_ok_and(|response| response.status == 200);
        match &mut self.process {
            Some(process) => process.wait_ready(&format!("worker at {address}"), LIMIT, ready),
            None => panic!("the worker at {address} was not started"),
        }
    }

    /// `127.0.0.1:port`
    pub(crate) fn address(&self) -> String {
        self.port.address()
    }

    /// Where its config, offsets and log are.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    pub(crate) fn send(&self, request: &Request) -> Response {
        request.send(&self.address()).unwrap_or_else(|error| panic!("{request:?}: {error}\n{}", self.log()))
    }

    pub(crate) fn get(&self, path: &str) -> Response {
        self.send(&Request::new("GET", path))
    }

    pub(crate) fn signal(&mut self, name: &str) {
        self.process.iter_mut().for_each(|process| process.signal(name));
    }

    /// How the process ended, once it has.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let ended = self.process.as_mut().and_then(|process| process.wait(LIMIT));
        ended.unwrap_or_else(|| panic!("the worker does not end\n{}", self.log()))
    }

    /// SIGTERM, and gone when this returns.
    pub(crate) fn stop(&mut self) -> ExitStatus {
        self.signal("TERM");
        let status = self.wait();
        self.process = None;
        status
    }
}

/// The worker that the tests of this process share, on the shared broker. Tests keep apart by their connectors' names.
pub(crate) fn shared() -> kit::Result<&'static Worker> {
    static SHARED: OnceLock<kit::Result<Worker>> = OnceLock::new();
    SHARED.get_or_init(|| Worker::start(&kit::kafka()?.bootstrap(), &[])).as_ref().map_err(kit::Error::clone)
}
