//! `lakeferry restore`: the lake source run to its end by hand. It prepares exactly as the connector does, tells the
//! plan, asks, replays with a progress bar, and gives an account.
//!
//! Invariant: nothing is written before every check has passed. Each record arrives exactly once, however often a
//! restore is cut short: the same arguments are the same restore ([`identity`]), and it goes on where its last
//! transaction ended. A target that holds other records is refused, unless `--append` says that this is meant.

mod account;
mod identity;
mod lost;
mod nothing;
mod plan;
mod refuse;
mod run;

use std::collections::BTreeMap;
use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use lakeferry_api::{Budget, Clock, Config, ConnectError, Executor, Kind, Result};
use lakeferry_lake::source::choose::refuse_unknown;
use lakeferry_lake::source::config::{SourceSettings, Topics};
use lakeferry_lake::source::prepare::{Prepared, Target};
use lakeferry_lake::source::replay::Replay;

use self::identity::Identity;
use super::lake::{LakeArgs, read_properties};
use super::{Context, Damage, Exit};
use crate::clock::SystemClock;
use crate::executor::Pool;
use crate::kafka::clients::KafkaClients;
use crate::kafka::{Admin, Clients};
use crate::memory;
use crate::task::exact::{Ledger, LedgerParts, Tolerated, Transactions};

/// Bytes that a restore may buffer: what is read ahead and what is on its way to the brokers.
const MEMORY_BYTES: u64 = 256 << 20;

/// Bytes of a batch, where the targets take it.
const BATCH_BYTES: u64 = 1 << 20;

/// See [`patience`].
const PATIENCE: Duration = Duration::from_secs(120);

/// What helps where a target holds records of somebody else.
const TARGET_REMEDY: &str = "restore under another name with --rename, delete the topic, or say --append (with an --id of \
                             its own where records were restored to it before) to write behind what is there";

/// Bring archived topics back, up to a point in time: bytes, keys, headers, timestamps and partitions as they were
///
/// Exit code: 0 everything is restored (or planned, with --dry-run); 1 the archive is damaged: a manifest, or a file
/// that one names, is missing or altered; or a target has lost records that were restored to it; 2 wrong usage or
/// configuration, or a target that must not be written to; 3 a service failed or stood still for too long, a signal
/// came, or another instance took over.
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
    /// Milliseconds that a transaction lasts: what is written is visible that much later, and written again after a
    /// crash
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(10..=30_000), default_value = "2000")]
    transaction_ms: u64,
    /// Replication factor of topics that are created; without it the broker's default
    #[arg(long, value_name = "N")]
    replication_factor: Option<u32>,
    /// Which restore this is, where the same is done more than once; without it the arguments say
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// Write behind the records that a target holds already
    #[arg(long)]
    append: bool,
    /// Write to topics whose configs would delete, compact or re-stamp records, or that lost what was restored to them
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

/// A restore of which the plan was told. Nothing is written yet.
struct Planned {
    source: run::RestoreContext,
    settings: SourceSettings,
    prepared: Prepared,
    plan: plan::Plan,
    parts: LedgerParts,
    ledger: Arc<Ledger>,
    patience: Duration,
}

/// A restore that has passed every check.
struct Begun {
    run: run::Run,
    /// `None` where nothing is to be written, nor a topic made for it.
    replay: Option<Replay>,
    plan: plan::Plan,
}

impl Planned {
    /// Ends what another instance of this restore has under way, and makes the targets. Its transactions are to end
    /// every `interval`.
    async fn take_over(self, interval: Duration) -> anyhow::Result<Begun> {
        let Self { mut source, mut settings, mut prepared, plan, parts, mut ledger, patience } = self;
        if plan.writes() && !parts.takes_over {
            ledger = Arc::new(Ledger::new(LedgerParts { takes_over: true, ..parts }));
            source.ledger = Some(Arc::clone(&ledger));
            if prepared.resume(&source).await.map_err(Damage::of_resuming)? {
                let why =
                    "another instance has begun this restore meanwhile, with another incarnation: say it once more";
                return Err(ConnectError::config(why).into());
            }
        }
        let replay = match plan.writes() {
            true => {
                prepared.topics.retain(|topic| plan.takes(&topic.topic));
                prepared.make_targets(&source).await?;
                // Nor later: what is archived meanwhile of another topic would go where nobody made a target for it.
                settings.topics = Topics::Names(prepared.topics.iter().map(|topic| topic.topic.clone()).collect());
                Some(prepared.replay(&source)?)
            }
            false => None,
        };
        let progress = account::Progress::new(Arc::clone(&source.clock), (plan.records, plan.raw_bytes));
        let transactions = Transactions::new(ledger, interval);
        let run = run::Run { context: source, settings, transactions, progress, patience, is_damaged: false };
        Ok(Begun { run, replay, plan })
    }
}

/// Where a restore takes place: the cluster that it writes to, and the process that it runs in.
pub struct Surroundings {
    /// Makes Kafka clients.
    pub clients: Arc<dyn Clients>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Where heavy work runs.
    pub executor: Arc<dyn Executor>,
    /// The byte budget.
    pub budget: Budget,
    /// True where somebody is to see on standard error how far it is.
    pub is_watched: bool,
}

/// Runs the command.
///
/// # Errors
/// Where arguments, archive or target do not allow it, or a service fails.
pub(super) async fn run(args: Args, context: Context) -> anyhow::Result<Exit> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let budget = Budget::new(MEMORY_BYTES);
    let around = Surroundings {
        clients: Arc::new(KafkaClients::new(budget.clone(), Arc::clone(&clock))),
        clock,
        executor: Arc::new(Pool::new(std::thread::available_parallelism().map_or(1, std::num::NonZero::get))?),
        budget,
        is_watched: true,
    };
    let _giving_back = memory::give_back(around.budget.clone(), Arc::clone(&around.clock));
    Box::pin(run_in(args, around, context, std::io::stdout())).await
}

/// As [`run`], in surroundings that the caller chooses.
///
/// # Errors
/// As [`run`].
pub(super) async fn run_in(
    args: Args,
    around: Surroundings,
    context: Context,
    mut out: impl std::io::Write,
) -> anyhow::Result<Exit> {
    let properties = args.client_properties()?;
    let is_watched = around.is_watched;
    let admin = around.clients.admin(&properties)?;
    let source = run::RestoreContext {
        admin: Arc::clone(&admin),
        clock: around.clock,
        executor: around.executor,
        budget: around.budget,
        ledger: None,
    };
    let beginning = args.begin(source, around.clients.as_ref(), properties, &mut out);
    let Some(begun) = context.unless_stopped("no record was written", beginning).await? else {
        return Ok(Exit::Done);
    };
    let Begun { mut run, replay, plan } = begun;
    if !is_watched {
        run.progress.hide();
    }
    let (ledger, clock, patience) = (run.context.ledger.clone(), Arc::clone(&run.context.clock), run.patience);
    let mut outcome = run.until_end(replay, &context.stop).await;
    let mut kept = Ok(());
    if let Some(ledger) = ledger.filter(|_| outcome.result.is_ok()) {
        let held = ledger.holdings();
        let looking = Box::pin(lost::look_patiently(admin.as_ref(), clock.as_ref(), &held, patience));
        kept = outcome.account.close(context.unless_stopped(lost::NOT_LOOKED, looking).await, args.force);
    }
    outcome.account.tell(args.json, plan.nothing(), &mut out)?;
    if let Err(error) = outcome.result {
        let words = ended_early(outcome.account.records, error.kind(), outcome.is_damaged);
        let error = if outcome.is_damaged { Damage(error).into() } else { anyhow::Error::from(error) };
        return Err(error.context(words));
    }
    kept?;
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
        refuse::long_transactions(&properties, self.transaction_ms)?;
        Ok(properties)
    }

    /// Everything before the first record: tells the plan, asks, and makes the targets. `None` where that was all that
    /// was wanted.
    async fn begin(
        &self,
        source: run::RestoreContext,
        clients: &dyn Clients,
        properties: Config,
        out: &mut impl std::io::Write,
    ) -> anyhow::Result<Option<Begun>> {
        let planned = self.plan(source, clients, properties, out).await?;
        if self.dry_run || planned.plan.writes() && !self.is_confirmed().await? {
            return Ok(None);
        }
        Ok(Some(planned.take_over(Duration::from_millis(self.transaction_ms)).await?))
    }

    /// Looks at everything, tells the plan, and refuses one that cannot be carried out.
    async fn plan(
        &self,
        mut source: run::RestoreContext,
        clients: &dyn Clients,
        properties: Config,
        out: &mut impl std::io::Write,
    ) -> anyhow::Result<Planned> {
        let identity = Identity::of(self)?;
        let settings = self.settings().await?;
        let mut prepared = Prepared::new(&source, settings.clone()).await.map_err(Damage::of)?;
        let mut targets = prepared.targets(&source).await?;
        let fit = targets.iter().try_for_each(|target| target.check(self.force));
        let patience = patience(&properties);
        let properties = producer_properties(properties, &identity, &targets);
        let parts = LedgerParts {
            group: identity.group(),
            routes: Arc::new(settings.clone()),
            producer: clients.producer(&properties)?,
            admin: Arc::clone(&source.admin),
            clock: Arc::clone(&source.clock),
            what: Some(identity.what.clone()),
            tolerated: if self.append { Tolerated::Records } else { Tolerated::Nothing },
            // Whoever only looks must not end what another instance has under way.
            takes_over: self.yes && !self.dry_run,
            remedy: TARGET_REMEDY,
        };
        let ledger = Arc::new(Ledger::new(parts.clone()));
        source.ledger = Some(Arc::clone(&ledger));
        // One that goes on with an older incarnation has other demands of its targets; else what they are counts first.
        match prepared.resume(&source).await {
            Ok(true) => targets = prepared.targets(&source).await?,
            Ok(false) => {}
            Err(why) => return fit.map_err(anyhow::Error::from).and(Err(Damage::of_resuming(why))),
        }
        self.judge(&prepared, &mut targets).await.map_err(Damage::of)?;
        let surveys = prepared.survey().await.map_err(Damage::of)?;
        let mut plan = plan::Plan::new((&prepared, &surveys), &targets, &identity).await.map_err(Damage::of)?;
        let lost = Box::pin(lost::look(source.admin.as_ref(), source.clock.as_ref(), &ledger.holdings())).await?;
        plan.note_lost(&lost);
        if self.json {
            plan.tell_json(out)?
        } else {
            plan.tell(out)?
        };
        lost::refuse_unexplained(&lost, self.force)?;
        refuse::too_much_at_once(prepared.held_by_time()?, refuse::available(), self.force)?;
        refuse::impossible((&prepared, &surveys), (&plan, &targets), source.admin.as_ref()).await?;
        Ok(Planned { source, settings, prepared, plan, parts, ledger, patience })
    }

    /// Refuses what stands against the targets. Nothing does where all records of a topic were restored before: its
    /// configs may have been applied, too.
    async fn judge(&self, prepared: &Prepared, targets: &mut [Target]) -> Result<()> {
        let check = |targets: &[Target]| targets.iter().try_for_each(|target| target.check(self.force));
        if check(targets).is_ok() {
            return Ok(());
        }
        let left = prepared.survey().await?;
        for (topic, target) in prepared.topics.iter().zip(&mut *targets) {
            let is_begun = topic.logs.iter().any(|log| log.plan.position > 0);
            let mut surveys = topic.logs.iter().filter_map(|log| left.get(&log.plan.partition));
            if is_begun && surveys.all(|survey| survey.records == 0) {
                target.objections.clear();
            }
        }
        check(targets)
    }

    /// The arguments as the connector's settings, so that both mean the same.
    async fn settings(&self) -> Result<SourceSettings> {
        let lake = self.lake.settings()?;
        let archive = self.lake.archive()?;
        let topics = self.lake.all_topics(&archive).await?;
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
        let renamed = self.renames.iter().filter_map(|pair| Some(pair.split_once('=')?.0.trim()));
        refuse_unknown("--rename", renamed, &topics)?;
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
}

/// What a restore that failed says before its error. Where the targets are not as it left them, nobody knows what
/// stays of it, and the same command may be refused as well. Records that a target refuses it refuses again.
fn ended_early(records: u64, kind: Kind, is_damaged: bool) -> String {
    if matches!(kind, Kind::Config | Kind::NotFound | Kind::Conflict) {
        return format!("the restore ended early, after {records} records");
    }
    let first = match kind {
        _ if is_damaged => ", once the archive is mended,",
        Kind::Data => ", once the target takes the next ones, which it refused,",
        _ => "",
    };
    format!(
        "the restore ended early: {records} records are restored and stay; the same command{first} goes on behind them"
    )
}

/// What makes a producer fast, and give up where the brokers are gone: somebody waits for the end, and can go on. No
/// batch is larger than what every target takes. The user's file may say otherwise.
fn producer_properties(mut properties: Config, identity: &Identity, targets: &[Target]) -> Config {
    let limit = |target: &Target| target.existing.as_ref()?.configs.get("max.message.bytes")?.parse::<u64>().ok();
    let batch_bytes = targets.iter().filter_map(limit).min().map_or(BATCH_BYTES, |most| most.clamp(1, BATCH_BYTES));
    let batch_bytes = batch_bytes.to_string();
    let defaults = [("batch.size", batch_bytes.as_str()), ("compression.type", "lz4")];
    for (key, value) in defaults {
        properties.entry(key.to_owned()).or_insert_with(|| value.to_owned());
    }
    properties.insert("transactional.id".to_owned(), identity.group());
    properties
}

/// How long the brokers may be gone: `delivery.timeout.ms`, as a producer has it where nothing is said.
fn patience(properties: &Config) -> Duration {
    let given = properties.get("delivery.timeout.ms").and_then(|text| text.trim().parse().ok());
    given.map_or(PATIENCE, Duration::from_millis)
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
            let old = if deletes_by_age(&settled) { "; under these the brokers delete what is too old" } else { "" };
            writeln!(out, "{topic}: configs {what}: {}{old}", list.join(", "))?;
        }
    }
    Ok(())
}

/// True where records may be too old for the topic as soon as it has these `configs`.
fn deletes_by_age(configs: &BTreeMap<String, Option<String>>) -> bool {
    let retention = configs.get("retention.ms").and_then(Option::as_ref);
    retention.is_some_and(|ms| ms.parse::<i64>().is_ok_and(|ms| ms >= 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_restore_that_can_go_on_says_so() {
        for kind in [Kind::Retriable, Kind::Fatal, Kind::Fenced] {
            let words = ended_early(7, kind, false);
            assert!(
                words.ends_with("7 records are restored and stay; the same command goes on behind them"),
                "{words}"
            );
        }
        let words = ended_early(7, Kind::Fatal, true);
        assert!(words.ends_with("the same command, once the archive is mended, goes on behind them"), "{words}");
        let words = ended_early(7, Kind::Data, false);
        assert!(words.contains("the same command, once the target takes the next ones, which it refused,"), "{words}");
        for kind in [Kind::Config, Kind::NotFound, Kind::Conflict] {
            assert_eq!(ended_early(7, kind, false), "the restore ended early, after 7 records");
        }
    }
}
