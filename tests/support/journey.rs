//! The program as users run it: the worker as a child process with a properties file, driven by signals and through its
//! REST API; and its commands. A worker cannot outlive the test process.

#![allow(dead_code, unreachable_pub, reason = "each area uses its own part")]

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::OnceLock;
use std::time::Duration;

use serde_json::Value;

use crate::http::{Request, Response};
use crate::kit::home::{Port, instance_dir};
use crate::kit::process::{Launch, Process};
use crate::kit::{self, poll_until};

/// How long the worker may take to answer for the first time, and to stop.
const LIMIT: Duration = Duration::from_secs(30);

/// A standalone worker. It ends when dropped.
pub struct Worker {
    dir: PathBuf,
    port: Port,
    launch: Launch,
    process: Option<Process>,
}

/// The worker that the tests of this process share, on the shared broker. Tests keep apart by their connectors' names.
pub fn shared() -> kit::Result<&'static Worker> {
    static SHARED: OnceLock<kit::Result<Worker>> = OnceLock::new();
    let start = || {
        let mut worker = Worker::new(&kit::kafka()?.bootstrap(), &[])?;
        worker.run(&[])?;
        worker.wait_ready()?;
        Ok(worker)
    };
    SHARED.get_or_init(start).as_ref().map_err(kit::Error::clone)
}

impl Worker {
    /// A worker on `bootstrap`, not yet started; `properties` override the tests' own, with which rows are JSON.
    pub fn new(bootstrap: &str, properties: &[(&str, &str)]) -> kit::Result<Worker> {
        let (dir, port) = (instance_dir("worker")?, Port::claim()?);
        let json = "org.apache.kafka.connect.json.JsonConverter";
        let mut lines = BTreeMap::from([
            ("bootstrap.servers", bootstrap.to_owned()),
            ("listeners", format!("http://{}", port.address())),
            ("key.converter", json.to_owned()),
            ("value.converter", json.to_owned()),
            ("offset.flush.interval.ms", "500".to_owned()),
            ("offset.storage.file.filename", dir.join("offsets").display().to_string()),
        ]);
        lines.extend(properties.iter().map(|(key, value)| (*key, (*value).to_owned())));
        let lines: String = lines.iter().map(|(key, value)| format!("{key}={value}\n")).collect();
        fs::write(dir.join("worker.properties"), lines)?;
        let launch = Launch::new(program(), dir.join("worker.log"))
            .args([Path::new("connect-standalone"), &dir.join("worker.properties")])
            .env("LAKEFERRY_LOG", "info")
            .env("NO_COLOR", "1");
        Ok(Worker { dir, port, launch, process: None })
    }

    /// A started worker that takes rows as bytes, with these connectors on its command line.
    pub fn start(bootstrap: &str, properties: &[(&str, &str)], connectors: &[Value]) -> Worker {
        let bytes = "org.apache.kafka.connect.converters.ByteArrayConverter";
        let properties: Vec<_> =
            [("key.converter", bytes), ("value.converter", bytes)].iter().chain(properties).copied().collect();
        let mut worker = Worker::new(bootstrap, &properties).unwrap();
        for (number, connector) in connectors.iter().enumerate() {
            let file = worker.dir.join(format!("connector-{number}.json"));
            fs::write(&file, connector.to_string()).unwrap();
            worker.launch = worker.launch.args([file]);
        }
        worker.restart();
        worker
    }

    /// The same, with one more variable in its environment.
    pub fn env(mut self, key: &str, value: &Path) -> Worker {
        self.launch = self.launch.env(key, value);
        self
    }

    /// The same, started by another program: `words` come before its own.
    pub fn by<S: AsRef<OsStr>>(mut self, words: &[S]) -> Worker {
        self.launch = self.launch.by(words);
        self
    }

    /// Starts the process with these connector files.
    pub fn run(&mut self, connectors: &[&Path]) -> kit::Result<()> {
        self.process = Some(self.launch.clone().args(connectors).start()?);
        Ok(())
    }

    /// Returns when all connectors of the command line were created.
    pub fn wait_ready(&mut self) -> kit::Result<()> {
        let address = self.address();
        let ready = || Request::new("GET", "/health").send(&address).is_ok_and(|response| response.status == 200);
        match &mut self.process {
            Some(process) => process.wait_ready(&format!("the worker at {address}"), LIMIT, ready),
            None => panic!("the worker at {address} was not started"),
        }
    }

    /// Starts it again after [`Worker::kill`] or [`Worker::stop`], with the same files and the same port.
    pub fn restart(&mut self) {
        self.run(&[]).unwrap();
        self.wait_ready().unwrap();
    }

    /// Sends it a signal, `TERM` for example.
    pub fn signal(&mut self, name: &str) {
        self.process.iter_mut().for_each(|process| process.signal(name));
    }

    /// How the process ended, once it has.
    pub fn wait(&mut self) -> ExitStatus {
        let ended = self.process.as_mut().and_then(|process| process.wait(LIMIT));
        let ended = ended.unwrap_or_else(|| panic!("the worker does not end\n{}", self.log()));
        self.process = None;
        ended
    }

    /// SIGTERM, and gone when this returns.
    pub fn stop(&mut self) -> ExitStatus {
        self.signal("TERM");
        self.wait()
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        if let Some(process) = self.process.take() {
            process.kill();
        }
    }

    /// `127.0.0.1:port` of its REST API.
    pub fn address(&self) -> String {
        self.port.address()
    }

    /// Its folder: properties, log, offsets.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its pid, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }

    /// One request; status and JSON body (null where there is none).
    pub fn request(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let request = Request::new(method, path);
        let response = self.send(&if body.is_null() { request } else { request.json(body) });
        (response.status, response.json())
    }

    /// One request, which must be answered.
    pub fn send(&self, request: &Request) -> Response {
        request.send(&self.address()).unwrap_or_else(|error| panic!("{request:?}: {error}\n{}", self.log()))
    }

    /// The answer to a `GET`.
    pub fn get(&self, path: &str) -> Response {
        self.send(&Request::new("GET", path))
    }

    /// Creates a connector, which must be accepted.
    pub fn create(&self, connector: &Value) {
        let (status, answer) = self.request("POST", "/connectors", connector);
        assert_eq!(status, 201, "{answer}");
    }

    /// The sum of the offsets that the connector's group has committed: what its manifests say is archived.
    pub fn archived(&self, connector: &str) -> i64 {
        let (_, answer) = self.request("GET", &format!("/connectors/{connector}/offsets"), &Value::Null);
        let offsets = answer["offsets"].as_array().cloned().unwrap_or_default();
        offsets.iter().filter_map(|entry| entry["offset"]["kafka_offset"].as_i64()).sum()
    }

    /// Waits until `archived` reaches `records`; a FAILED task ends the wait with its trace.
    pub fn wait_archived(&self, connector: &str, records: i64, limit: Duration) {
        let done = poll_until(limit, || {
            self.assert_no_failure(connector);
            (self.archived(connector) >= records).then_some(())
        });
        if done.is_none() {
            let archived = self.archived(connector);
            panic!("{connector}: {archived} of {records} archived after {limit:?}\n{}", self.log());
        }
    }

    /// Waits until connector and tasks all are in `state`.
    pub fn wait_state(&self, connector: &str, state: &str, limit: Duration) -> Value {
        let status = || self.request("GET", &format!("/connectors/{connector}/status"), &Value::Null).1;
        let reached = poll_until(limit, || {
            let status = status();
            let tasks = status["tasks"].as_array().cloned().unwrap_or_default();
            let all = !tasks.is_empty() && tasks.iter().all(|task| task["state"] == state);
            (all && status["connector"]["state"] == state).then_some(status)
        });
        reached.unwrap_or_else(|| panic!("{connector} is not {state}: {}\n{}", status(), self.log()))
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.join("worker.log")).unwrap_or_default()
    }

    fn assert_no_failure(&self, connector: &str) {
        let (_, status) = self.request("GET", &format!("/connectors/{connector}/status"), &Value::Null);
        let failed = status["tasks"].as_array().is_some_and(|tasks| tasks.iter().any(|task| task["state"] == "FAILED"));
        assert!(!failed, "{status:#}\n{}", self.log());
    }
}

/// The program under test.
pub fn program() -> &'static str {
    env!("CARGO_BIN_EXE_lakeferry")
}

/// Runs a command of the program to its end; its exit code, standard output and standard error.
pub fn run(arguments: &[&str]) -> (i32, String, String) {
    let output = std::process::Command::new(program())
        .args(arguments)
        .env("LAKEFERRY_LOG", "warn")
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

/// Settings of an S3 lake in `bucket` of the kit's server, as connector keys.
pub fn s3_settings(s3: &kit::S3, bucket: &str) -> Vec<(String, String)> {
    vec![
        ("store.url".to_owned(), format!("s3://{bucket}/lake")),
        ("store.aws_endpoint".to_owned(), s3.endpoint()),
        ("store.aws_region".to_owned(), kit::S3::REGION.to_owned()),
        ("store.aws_access_key_id".to_owned(), kit::S3::ACCESS_KEY.to_owned()),
        ("store.aws_secret_access_key".to_owned(), kit::S3::SECRET_KEY.to_owned()),
    ]
}
