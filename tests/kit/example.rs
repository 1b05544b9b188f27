//! `cargo run --example kit -- kafka s3 hdfs`: the kit's services by hand, to try the worker against.
//!
//! Starts what is named, prints where it is and stays up until Ctrl-C, until its standard input ends (if that was open
//! when everything was up), or until it is killed; the services go with it in every case. Holds no logic of its own:
//! what it starts is what the tests start.

#![allow(clippy::print_stdout, reason = "it talks to the person who runs it")]

#[path = "mod.rs"]
mod kit;

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;

use kit::{ConnectOptions, ConnectWorker, Hdfs, HdfsOptions, Kafka, KafkaOptions, S3, S3Options, S3Server};

const USAGE: &str = "usage: cargo run --example kit -- [--brokers N] [--sasl] SERVICE...
services:
  kafka    a broker (with --brokers 3: three; with --sasl: a second listener that wants credentials)
  s3       versitygw, objects are plain files
  connect  a JVM Connect worker, standalone, on a broker of the kit
  python   only says where a Python with pyarrow, duckdb, fastavro, confluent-kafka and the flights is
  hdfs     a NameNode and a DataNode, with WebHDFS
  minio    another S3 server, with true flat keys (a long build)";

fn main() -> ExitCode {
    let stdin = watch_stdin();
    let mut services = Services::default();
    let outcome = parse(std::env::args().skip(1)).and_then(|wanted| services.start(&wanted));
    if let Err(why) = outcome {
        println!("{why}");
        return ExitCode::FAILURE;
    }
    println!("\nUp. Ctrl-C stops everything.");
    stdin.wait_for_end();
    ExitCode::SUCCESS
}

struct Wanted {
    services: Vec<String>,
    kafka: KafkaOptions,
}

fn parse(args: impl Iterator<Item = String>) -> Result<Wanted, String> {
    let mut wanted = Wanted { services: Vec::new(), kafka: KafkaOptions::default() };
    let mut args = args;
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--sasl" => wanted.kafka.sasl = true,
            "--brokers" => {
                let count = args.next().unwrap_or_default();
                wanted.kafka.brokers = count.parse().map_err(|_| format!("--brokers wants a number, not `{count}`"))?;
            }
            "--help" | "-h" => return Err(USAGE.to_owned()),
            _ => wanted.services.push(arg),
        }
    }
    if wanted.services.is_empty() { Err(USAGE.to_owned()) } else { Ok(wanted) }
}

/// What runs; dropped in order of declaration, users of a service before the service.
#[derive(Default)]
struct Services {
    connect: Option<ConnectWorker>,
    hdfs: Option<Hdfs>,
    s3: Vec<S3>,
    kafka: Option<Kafka>,
}

impl Services {
    fn start(&mut self, wanted: &Wanted) -> Result<(), String> {
        for service in &wanted.services {
            let started = match service.as_str() {
                "kafka" => self.start_kafka(&wanted.kafka),
                "connect" => self.start_connect(&wanted.kafka),
                "python" => kit::python().map(|python| println!("\n# Python\n{}", python.path().display())),
                "hdfs" => self.start_hdfs(),
                "s3" => self.start_s3(S3Server::Versitygw),
                "minio" => self.start_s3(S3Server::Minio),
                other => return Err(format!("there is no service `{other}`\n{USAGE}")),
            };
            started.map_err(|error| format!("{service}: {error}"))?;
        }
        Ok(())
    }

    fn start_kafka(&mut self, options: &KafkaOptions) -> kit::Result<()> {
        if self.kafka.is_some() {
            return Ok(());
        }
        let kafka = Kafka::start(options.clone())?;
        println!("\n# Kafka 4.3.1, in {}", kafka.dir().display());
        println!("bootstrap.servers={}", kafka.bootstrap());
        if options.sasl {
            println!("# or with credentials");
            println!("bootstrap.servers={}", kafka.sasl_bootstrap());
            println!("security.protocol=SASL_PLAINTEXT\nsasl.mechanism=PLAIN");
            println!("sasl.username={}\nsasl.password={}", kit::kafka::SASL_USER, kit::kafka::SASL_PASSWORD);
        }
        self.kafka = Some(kafka);
        Ok(())
    }

    fn start_connect(&mut self, kafka: &KafkaOptions) -> kit::Result<()> {
        self.start_kafka(kafka)?;
        let bootstrap = self.kafka.as_ref().map(Kafka::bootstrap).unwrap_or_default();
        let worker = ConnectWorker::start(ConnectOptions::new(bootstrap))?;
        println!("\n# JVM Connect worker 4.3.1, in {}", worker.dir().display());
        println!("curl {}/connector-plugins", worker.rest_url());
        self.connect = Some(worker);
        Ok(())
    }

    fn start_hdfs(&mut self) -> kit::Result<()> {
        let hdfs = Hdfs::start(HdfsOptions::default())?;
        println!("\n# HDFS 3.5.0, in {}", hdfs.dir().display());
        println!("{}", hdfs.url());
        println!("export HADOOP_CONF_DIR={}", hdfs.conf_dir().display());
        println!("curl '{}/?op=LISTSTATUS'", hdfs.webhdfs());
        self.hdfs = Some(hdfs);
        Ok(())
    }

    fn start_s3(&mut self, server: S3Server) -> kit::Result<()> {
        let s3 = S3::start(S3Options { server, ..S3Options::default() })?;
        let bucket = s3.create_bucket("lake")?;
        println!("\n# S3 ({server:?}) with a bucket `lake`, in {}", bucket.display());
        println!("export AWS_ENDPOINT_URL={} AWS_REGION={}", s3.endpoint(), S3::REGION);
        println!("export AWS_ACCESS_KEY_ID={} AWS_SECRET_ACCESS_KEY={}", S3::ACCESS_KEY, S3::SECRET_KEY);
        self.s3.push(s3);
        Ok(())
    }
}

/// Whether and when standard input ends. An input that was closed from the start (`</dev/null`, a daemon's) is no wish
/// to stop, so the watch begins before the services do.
struct Stdin {
    closed: Arc<AtomicBool>,
    ended: mpsc::Receiver<()>,
}

fn watch_stdin() -> Stdin {
    let (end, ended) = mpsc::sync_channel(1);
    let closed = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&closed);
    thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        seen.store(true, Ordering::SeqCst);
        let _ = end.send(());
    });
    Stdin { closed, ended }
}

impl Stdin {
    fn wait_for_end(self) {
        if self.closed.load(Ordering::SeqCst) {
            loop {
                thread::park();
            }
        }
        let _ = self.ended.recv();
    }
}
