//! `lakeferry demo`: nothing needed, everything shown. Two embedded clusters, a real worker driven through its real
//! REST API, a disaster, a restore to the moment before it, and proof; what it leaves in the folder is a real archive.
//!
//! It says what is embedded and does nothing that a user could not do: the commands it runs are those it prints.

mod data;
mod http;

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use clap::Parser as _;
use lakeferry_api::{Budget, Clock, Config};
use lakeferry_lake::manifest::read::Archive;
use serde_json::json;

use super::{Cli, Context, Exit, lake::LakeArgs};
use crate::clock::SystemClock;
use crate::config::WorkerConfig;
use crate::kafka::Clients;
use crate::kafka::clients::KafkaClients;
use crate::kafka::embedded::{Embedded, RECORDS_PER_PARTITION};
use crate::worker::Worker;

/// Show everything at once, with nothing installed: archive, disaster, restore to a moment, proof
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Where the lake is left to look at
    #[arg(long, value_name = "DIR", default_value = "lakeferry-demo")]
    dir: PathBuf,
    /// Records to produce
    #[arg(long, value_name = "N", default_value_t = 30_000, value_parser = clap::value_parser!(u64).range(10..=RECORDS_PER_PARTITION))]
    records: u64,
}

/// How long the archive may take.
const ARCHIVED_WITHIN: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// The moment before the faulty release, as the restore is told it.
const UNTIL: &str = "2026-03-14T14:29:59.999Z";
const CONNECTOR: &str = "archive";

/// Runs the command.
///
/// # Errors
/// Where the folder cannot be used, or a step fails.
pub(super) async fn run(args: Args, context: Context) -> anyhow::Result<Exit> {
    let demo = Demo::new(args, context)?;
    demo.tell(
        "Lakeferry's demo. The two Kafka clusters are embedded in this process (librdkafka's mock brokers on loopback);\n\
         the worker, its REST API, the files and the proof are the real thing.\n",
    )?;
    let produced = demo.archive().await?;
    let exit = demo.restore(produced).await?;
    if exit == Exit::Done {
        demo.farewell()?;
    }
    Ok(exit)
}

struct Demo {
    dir: PathBuf,
    records: u64,
    context: Context,
    clock: SystemClock,
}

impl Demo {
    fn new(args: Args, context: Context) -> anyhow::Result<Self> {
        std::fs::create_dir_all(&args.dir).with_context(|| format!("cannot create --dir {}", args.dir.display()))?;
        let dir = args.dir.canonicalize()?;
        let lake = dir.join("lake");
        if lake.exists() {
            let ours = dir.join("worker.properties").exists();
            ensure!(ours, "--dir {} holds a lake that no demo made; choose another folder", dir.display());
            std::fs::remove_dir_all(&lake)?;
        }
        std::fs::create_dir_all(&lake)?;
        Ok(Self { dir, records: args.records, context, clock: SystemClock::new() })
    }

    fn lake_url(&self) -> String {
        format!("file://{}", self.dir.join("lake").display())
    }

    fn tell(&self, text: &str) -> std::io::Result<()> {
        let mut out = std::io::stdout().lock();
        writeln!(out, "{text}")?;
        out.flush()
    }

    /// Produces the story and archives it; the cluster is gone when this returns.
    async fn archive(&self) -> anyhow::Result<u64> {
        let cluster = self.cluster("production")?;
        let start = self.clock.monotonic();
        let produced = produce(&cluster.bootstrap_servers(), self.records).await?;
        self.tell(&format!(
            "1. A shop's day: {produced} records of orders (updates, tombstones) and clicks (headers, out-of-order timestamps)   {}",
            self.since(start)
        ))?;
        let start = self.clock.monotonic();
        let worker = self.worker(&cluster).await?;
        let rest = worker.worker_id().to_owned();
        let connector = json!({
            "name": CONNECTOR,
            "config": {
                "connector.class": "LakeSink",
                "topics": "orders,clicks",
                "store.url": self.lake_url(),
                "rotate.age.ms": "1000",
            }
        });
        self.tell(&format!("2. A worker at http://{rest}; POST /connectors\n   {connector}"))?;
        let (status, answer) = http::post(&rest, "/connectors", &connector).await?;
        ensure!(status == 201, "the worker answered {status}: {answer}");
        let archived = self.wait_archived(&rest, produced).await;
        worker.stop().await;
        archived?;
        self.tell(&format!(
            "   archived: every offset is in a file that a manifest names                                  {}",
            self.since(start)
        ))?;
        drop(cluster);
        self.tell("3. 14:30, a faulty release deletes every order it sees. Then the whole cluster is lost.")?;
        Ok(produced)
    }

    /// Brings the topics back into a second cluster and compares.
    async fn restore(&self, produced: u64) -> anyhow::Result<Exit> {
        let cluster = self.cluster("recovery")?;
        let (lake, bootstrap) = (self.lake_url(), cluster.bootstrap_servers());
        let kept = data::records(produced).filter(|record| record.timestamp < Some(data::DEPLOYMENT_MS)).count();
        self.tell(&format!(
            "4. A new cluster gets the topics back up to the moment before: {kept} of {produced} records"
        ))?;
        let restore = ["restore", &lake, "--bootstrap-server", &bootstrap, "--until", UNTIL, "--yes"];
        let verify = ["verify", &lake, "--level", "content", "--bootstrap-server", &bootstrap, "--until", UNTIL];
        for command in [&restore[..], &verify[..]] {
            let start = self.clock.monotonic();
            self.tell(&format!("\n   $ lakeferry {}", command.join(" ")))?;
            let cli = Cli::try_parse_from(["lakeferry"].iter().chain(command))?;
            let exit = Box::pin(cli.run(self.context.clone())).await;
            self.tell(&format!("   {}", self.since(start)))?;
            if exit != Exit::Done {
                return Ok(exit);
            }
        }
        Ok(Exit::Done)
    }

    fn farewell(&self) -> anyhow::Result<()> {
        let (lake, dir) = (self.lake_url(), self.dir.display());
        self.tell(&format!(
            "\nThe orders are back as they were at {UNTIL}, byte for byte. What lies where:\n  \
             {dir}/lake/topics/<topic>/partition=<p>/*.parquet      the records\n  \
             {dir}/lake/topics/<topic>/_manifests/partition=<p>/    what makes them real\n\nTry\n  \
             lakeferry inspect {lake}\n  \
             duckdb -c \"select decode(key) as key, count(*) as versions, count(*) filter (value is null) as deletions \
             from '{dir}/lake/topics/orders/*/*.parquet' group by all order by versions desc limit 5\""
        ))?;
        Ok(())
    }

    fn cluster(&self, name: &str) -> anyhow::Result<Embedded> {
        let cluster = Embedded::start().with_context(|| format!("the embedded {name} cluster"))?;
        for (topic, partitions) in data::TOPICS {
            cluster.create_topic(topic, partitions)?;
        }
        Ok(cluster)
    }

    async fn worker(&self, cluster: &Embedded) -> anyhow::Result<Worker> {
        let bytes = "org.apache.kafka.connect.converters.ByteArrayConverter";
        let properties = format!(
            "bootstrap.servers={}\nlisteners=http://127.0.0.1:0\noffset.storage.file.filename={}\nkey.converter={bytes}\n\
             value.converter={bytes}\noffset.flush.interval.ms=1000\n",
            cluster.bootstrap_servers(),
            self.dir.join("offsets.json").display(),
        );
        std::fs::write(self.dir.join("worker.properties"), &properties)?;
        let config = WorkerConfig::standalone(&crate::config::properties::parse(properties.as_bytes())?)?;
        let worker = Worker::start(config, self.context.loggers.clone()).await?;
        worker.herder().set_ready();
        Ok(worker)
    }

    async fn wait_archived(&self, rest: &str, produced: u64) -> anyhow::Result<()> {
        let lake = LakeArgs::of(&self.lake_url());
        let archive = lake.archive()?;
        let deadline = self.clock.monotonic() + ARCHIVED_WITHIN;
        loop {
            if archived(&archive).await? == produced {
                return Ok(());
            }
            if self.clock.monotonic() >= deadline || self.context.stop.is_cancelled() {
                let (_, status) = http::get(rest, &format!("/connectors/{CONNECTOR}/status")).await?;
                anyhow::bail!("not everything is archived: {status:#}");
            }
            self.clock.sleep(LOOK_AGAIN).await;
        }
    }

    fn since(&self, start: Duration) -> String {
        format!("{:.1} s", (self.clock.monotonic() - start).as_secs_f64())
    }
}

/// Records that the ends of all chains say are archived.
async fn archived(archive: &Archive) -> anyhow::Result<u64> {
    let mut records = 0;
    for topic in archive.topics().await? {
        for partition in archive.partitions(&topic).await? {
            let end = archive.manifests().end(&partition).await?;
            records += end.map_or(0, |end| end.entry.totals.records);
        }
    }
    Ok(records)
}

async fn produce(bootstrap: &str, count: u64) -> anyhow::Result<u64> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let clients = KafkaClients::new(Budget::new(64 << 20), clock);
    let properties = Config::from([
        ("bootstrap.servers".to_owned(), bootstrap.to_owned()),
        ("linger.ms".to_owned(), "20".to_owned()),
    ]);
    let producer = clients.producer(&properties)?;
    let mut deliveries = Vec::new();
    for record in data::records(count) {
        deliveries.push(producer.send(record).await?);
    }
    let delivered = deliveries.len() as u64;
    for delivery in deliveries {
        delivery.await?;
    }
    Ok(delivered)
}
