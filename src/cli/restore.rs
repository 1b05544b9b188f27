//! `lakeferry restore`: the lake source run to its end by hand. It prepares exactly as the connector does, tells the plan,
//! asks, replays with a progress bar, and gives an account.
//!
//! Invariant: nothing is written before every check has passed. Only a restore that was cut short leaves a partial
//! target; its last words name, for every partition, the offset to go on from. A target that holds records is refused
//! unless `--append` says that this is meant.

mod account;
mod plan;
mod run;
mod sending;

use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::sync::Arc;

use lakeferry_api::{Budget, Clock, Config, ConnectError, Result};
use lakeferry_lake::source::config::SourceSettings;
use lakeferry_lake::source::prepare::{Prepared, Target};

use super::lake::{LakeArgs, read_properties};
use super::{Context, Exit};
use crate::clock::SystemClock;
use crate::executor::Pool;
use crate::kafka::clients::KafkaClients;
use crate::kafka::{Admin, Clients as _};

/// Bytes that a restore may buffer: what is read ahead and what is on its way to the brokers.
const MEMORY_BYTES: u64 = 256 << 20;

/// Bytes of a batch, where the targets take it.
const BATCH_BYTES: u64 = 1 << 20;

/// Bring archived topics back, up to a point in time: bytes, keys, headers, timestamps and partitions as they were
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    lake: LakeArgs,
    /// The cluster to restore to
    #[arg(long, value_name = "B")]
    bootstrap_server: String,
    /// Kafka client properties (security and the like), as Kafka's own scripts take them
    #[arg(long, value_name = "FILE")]
    command_config: Option<PathBuf>,
    /// Another name for a topic; repeat it for several
    #[arg(long = "rename", value_name = "FROM=TO")]
    renames: Vec<String>,
    /// The earliest record: an ISO-8601 instant or milliseconds since the epoch, inclusive
    #[arg(long, value_name = "X")]
    from: Option<String>,
    /// The latest record: an ISO-8601 instant or milliseconds since the epoch, inclusive
    #[arg(long, value_name = "Y")]
    until: Option<String>,
    /// record: exactly the records inside; log: of each partition the prefix that ends before the first later record
    #[arg(long, value_name = "MODE", value_parser = ["record", "log"], default_value = "record")]
    cut: String,
    /// Only these offsets: topic:partition:from:to, inclusive; repeat it for several
    #[arg(long = "offsets", value_name = "RANGE")]
    offsets: Vec<String>,
    /// Which incarnation of a re-created topic: latest, a number, or a topic id
    #[arg(long, value_name = "L", default_value = "latest")]
    lineage: String,
    /// What becomes of records with no timestamp or timestamp 0: fail before anything is written, or now
    #[arg(long, value_name = "WHAT", value_parser = ["fail", "now"], default_value = "fail")]
    untimed: String,
    /// partition: each as fast as it goes; time: partitions advance together by timestamp
    #[arg(long, value_name = "ORDER", value_parser = ["partition", "time"], default_value = "partition")]
    order: String,
    /// At most so many bytes a second
    #[arg(long, value_name = "BYTES")]
    rate: Option<u64>,
    /// Replication factor of topics that are created; without it the broker's default
    #[arg(long, value_name = "N")]
    replication_factor: Option<u32>,
    /// Write to topics that hold records already
    #[arg(long)]
    append: bool,
    /// Write to topics whose configs would delete, compact or re-stamp records
    #[arg(long)]
    force: bool,
    /// Give the restored topics their archived configs at the end
    #[arg(long)]
    apply_configs: bool,
    /// Say what would be done, and stop
    #[arg(long)]
    dry_run: bool,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// Plan and account as JSON on standard output
    #[arg(long)]
    json: bool,
}

/// Runs the command.
///
/// # Errors
/// Where arguments, archive or target do not allow it, or a service fails.
pub(super) async fn run(args: Args, context: Context) -> anyhow::Result<Exit> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let budget = Budget::new(MEMORY_BYTES);
    let clients = KafkaClients::new(budget.clone(), Arc::clone(&clock));
    let properties = args.client_properties()?;
    let admin = clients.admin(&properties)?;
    let source = run::RestoreContext {
        admin: Arc::clone(&admin),
        clock: Arc::clone(&clock),
        executor: Arc::new(Pool::new(std::thread::available_parallelism().map_or(1, std::num::NonZero::get))?),
        budget,
    };
    let mut out = std::io::stdout();
    let beginning = args.begin(&source, &mut out);
    let Some((prepared, plan)) = context.unless_stopped("no record was written", beginning).await? else {
        return Ok(Exit::Done);
    };
    let producer = clients.producer(&producer_properties(properties, plan.batch_bytes))?;
    let account = plan.account(prepared.settings.offsets.as_ref())?;
    let replay = prepared.replay(&source)?;
    let sending = sending::Sending::new(producer, Arc::clone(&clock), account, (plan.records, plan.raw_bytes));
    let outcome = run::Run::new(replay, sending, clock).until_end(&context.stop).await;
    outcome.account.tell(args.json, &mut out)?;
    if let Err(error) = outcome.result {
        return Err(anyhow::Error::from(error).context(args.how_to_go_on(&outcome.account)));
    }
    let settling = settle_configs(&args, admin.as_ref(), &plan, &mut out);
    context.unless_stopped("every record is restored, but not every config is applied", settling).await?;
    Ok(Exit::Done)
}

impl Args {
    fn client_properties(&self) -> Result<Config> {
        let mut properties = match &self.command_config {
            Some(file) => read_properties(file)?,
            None => Config::new(),
        };
        properties.insert("bootstrap.servers".to_owned(), self.bootstrap_server.clone());
        Ok(properties)
    }

    /// Everything before the first record: tells the plan, asks, and makes the targets. `None` where that was all that
    /// was wanted.
    async fn begin(
        &self,
        source: &run::RestoreContext,
        out: &mut impl std::io::Write,
    ) -> anyhow::Result<Option<(Prepared, plan::Plan)>> {
        let prepared = Prepared::new(source, self.settings().await?).await?;
        let targets = prepared.targets(source).await?;
        let plan = plan::Plan::new(&prepared, &targets).await?;
        if self.json {
            plan.tell_json(out)?
        } else {
            plan.tell(out)?
        };
        self.check(&targets)?;
        prepared.refuse_untimed().await?;
        if self.dry_run || !self.is_confirmed().await? {
            return Ok(None);
        }
        prepared.make_targets(source).await?;
        Ok(Some((prepared, plan)))
    }

    /// The arguments as the connector's settings, so that both mean the same.
    async fn settings(&self) -> Result<SourceSettings> {
        let lake = self.lake.settings()?;
        let archive = self.lake.archive()?;
        let topics = self.lake.archived_topics(&archive).await?;
        let mut config: Config = lake.options.into_iter().map(|(key, value)| (format!("store.{key}"), value)).collect();
        let mut set = |key: &str, value: Option<String>| value.map(|value| config.insert(key.to_owned(), value));
        set("store.url", Some(lake.url));
        set("topics.dir", Some(lake.topics_dir));
        set("hadoop.conf.dir", lake.hadoop_conf_dir);
        set("topics", Some(topics.join(",")));
        set("topic.rename", self.renames()?);
        set("replay.from", self.from.clone());
        set("replay.until", self.until.clone());
        set("replay.cut", Some(self.cut.clone()));
        set("replay.offsets", (!self.offsets.is_empty()).then(|| self.offsets.join(",")));
        set("replay.untimed", Some(self.untimed.clone()));
        set("replay.order", Some(self.order.clone()));
        set("replay.rate.bytes", self.rate.map(|rate| rate.to_string()));
        set("replay.replication.factor", self.replication_factor.map(|factor| factor.to_string()));
        set("replay.force", Some(self.force.to_string()));
        set("lineage", Some(self.lineage.clone()));
        SourceSettings::parse(&config)
    }

    fn renames(&self) -> Result<Option<String>> {
        let pair = |text: &String| {
            text.split_once('=').map(|(from, to)| format!("{from}:{to}")).ok_or_else(|| {
                ConnectError::config(format!(
                    "--rename {text}: write it as FROM=TO, for example orders=orders-restored"
                ))
            })
        };
        let pairs: Vec<_> = self.renames.iter().map(pair).collect::<Result<_>>()?;
        Ok((!pairs.is_empty()).then(|| pairs.join(",")))
    }

    /// What stands against writing to the targets as they are.
    fn check(&self, targets: &[Target]) -> Result<()> {
        targets.iter().try_for_each(|target| target.check(self.force))?;
        for target in targets.iter().filter(|_| !self.append) {
            let offsets = target.existing.iter().flat_map(|existing| existing.offsets.iter().enumerate());
            let full: Vec<_> = offsets
                .filter(|(_, (earliest, latest))| latest > earliest)
                .map(|(partition, (earliest, latest))| format!("partition {partition}: {earliest} to {latest}"))
                .collect();
            if !full.is_empty() {
                return Err(ConnectError::config(format!(
                    "topic {} is not empty ({}): restore under another name with --rename, delete it, or say --append to \
                     write behind what is there",
                    target.name,
                    full.join(", ")
                )));
            }
        }
        Ok(())
    }

    async fn is_confirmed(&self) -> anyhow::Result<bool> {
        if self.yes {
            return Ok(true);
        }
        if !std::io::stdin().is_terminal() {
            return Err(ConnectError::config("nobody is there to confirm the plan: say --yes, or --dry-run").into());
        }
        let mut err = std::io::stderr();
        write!(err, "Restore this? [y/N] ")?;
        err.flush()?;
        // A thread of its own: nobody can call it back from there, and a signal must not wait for it.
        let (told, answer) = tokio::sync::oneshot::channel();
        std::thread::Builder::new().name("answer".to_owned()).spawn(move || {
            let mut answer = String::new();
            let read = std::io::stdin().read_line(&mut answer);
            // Nobody waits any more after a signal.
            let _ = told.send(read.map(|_| answer));
        })?;
        let answer = answer.await??;
        Ok(answer.trim().eq_ignore_ascii_case("y") || answer.trim().eq_ignore_ascii_case("yes"))
    }

    /// The words for a restore that was cut short.
    fn how_to_go_on(&self, account: &account::Account) -> String {
        let ranges: Vec<_> = account.rest().iter().map(|range| format!("--offsets {range}")).collect();
        if ranges.is_empty() {
            return "the restore ended early, after the last record was acknowledged: nothing is left to restore"
                .to_owned();
        }
        let doubt = match (account.is_doubtful, account.overtaking) {
            (false, _) => "All that was sent is acknowledged: go on".to_owned(),
            (true, 0) => {
                "Records in flight may or may not have arrived: compare with `lakeferry verify`, then either delete \
                          the targets and begin again, or go on behind what was acknowledged"
                    .to_owned()
            }
            (true, overtaking) => format!(
                "Records in flight may or may not have arrived, and {overtaking} arrived behind one of their partition that \
                 failed: delete the targets and begin again, or, if records may come twice, go on from what failed"
            ),
        };
        let kept = if self.offsets.is_empty() { "the same arguments" } else { "the same arguments without --offsets" };
        let append = if self.append { "" } else { "--append " };
        format!("the restore ended early. {doubt} with {kept} and {append}{}", ranges.join(" "))
    }
}

/// What makes a producer fast where latency does not matter, and give up where the brokers are gone: somebody waits for
/// the end, and can go on. No batch is larger than `batch_bytes`. The user's file may say otherwise.
fn producer_properties(mut properties: Config, batch_bytes: Option<u64>) -> Config {
    let batch_bytes = batch_bytes.map_or(BATCH_BYTES, |most| most.clamp(1, BATCH_BYTES)).to_string();
    let defaults = [
        ("linger.ms", "20"),
        ("batch.size", &batch_bytes),
        ("compression.type", "lz4"),
        ("delivery.timeout.ms", "120000"),
    ];
    for (key, value) in defaults {
        properties.entry(key.to_owned()).or_insert_with(|| value.to_owned());
    }
    properties
}

/// Applies the archived configs, or prints them. Configs that a target got for the restore only (see
/// [`target::new_topic`]) go back to the broker's defaults then, where its own never had them.
async fn settle_configs(
    args: &Args,
    admin: &dyn Admin,
    plan: &plan::Plan,
    out: &mut impl std::io::Write,
) -> anyhow::Result<()> {
    for (topic, settled) in plan.settled_configs() {
        let list: Vec<_> = settled
            .iter()
            .map(|(key, value)| {
                value.as_ref().map_or_else(|| format!("{key} by default"), |value| format!("{key}={value}"))
            })
            .collect();
        if args.apply_configs {
            admin.alter_topic_configs(topic, &settled).await?;
        }
        if !args.json {
            let what = if args.apply_configs { "applied" } else { "archived, apply them with --apply-configs" };
            writeln!(out, "{topic}: configs {what}: {}", list.join(", "))?;
        }
    }
    Ok(())
}
