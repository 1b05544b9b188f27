//! `lakeferry sweep`: removes what no manifest names and no live writer can still publish. What that is the lake
//! decides ([`Sweep`]); this file asks for it, and tells what was removed in words or as JSON.
//!
//! A service that fails ends the sweep; what was removed until then is told all the same, and the next sweep goes on.

use std::io::Write;

use lakeferry_api::{Clock as _, ConnectError, Result, TopicPartition};
use lakeferry_lake::sweep::{Kept, LeftoverKind, Sweep, Swept};
use serde::Serialize;

use super::inspect::{bytes, fate, what};
use super::lake::LakeArgs;
use super::{Context, Exit, conclude};
use crate::clock::SystemClock;

/// Remove what writers that are gone left in an archive: objects that no manifest names, unfinished uploads, staged
/// files
///
/// Safe while workers write: only what belongs to an epoch that is over goes, whatever its age.
/// Exit code: 0 done; 1 manifests are damaged or were removed, and nothing of their partitions was touched; 2 wrong
/// usage or configuration; 3 a service failed.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    lake: LakeArgs,
    /// Remove nothing; tell what would be removed
    #[arg(long)]
    dry_run: bool,
    /// One JSON document on standard output
    #[arg(long)]
    json: bool,
}

/// The document of `--json`.
#[derive(Serialize)]
struct Report<'a> {
    url: &'a str,
    dry_run: bool,
    /// False where manifests are damaged or not everything could be looked at.
    ok: bool,
    removed_bytes: u64,
    kept_bytes: u64,
    #[serde(flatten)]
    swept: &'a Swept,
    /// What failed, where not everything could be looked at.
    failure: Option<String>,
}

/// Runs the command.
///
/// # Errors
/// Where the lake cannot be read or holds no archive.
pub(super) async fn run(args: Args, context: Context) -> anyhow::Result<Exit> {
    let mut swept = Swept::default();
    let result = context.unless_stopped("not everything was swept", args.sweep(&mut swept)).await;
    match result {
        Err(error) if swept.partitions == 0 => Err(error.into()),
        result => args.tell(&swept, result),
    }
}

impl Args {
    async fn sweep(&self, swept: &mut Swept) -> Result<()> {
        let (archive, leftovers) = self.lake.archive_and_leftovers()?;
        let topics = self.lake.all_topics(&archive).await?;
        let now_ms = SystemClock::default().now_ms();
        let sweep = Sweep { archive: &archive, leftovers: &leftovers, now_ms, dry_run: self.dry_run };
        sweep.run(&topics, self.lake.topics.is_empty(), swept).await
    }

    fn tell(&self, swept: &Swept, result: Result<()>) -> anyhow::Result<Exit> {
        let failure = result.err();
        let damaged = !swept.damaged.is_empty();
        let report = Report {
            url: &self.lake.url,
            dry_run: self.dry_run,
            ok: !damaged && failure.is_none(),
            removed_bytes: swept.removed.iter().filter_map(|leftover| leftover.bytes).sum(),
            kept_bytes: swept.kept.iter().filter_map(|leftover| leftover.bytes).sum(),
            swept,
            failure: failure.as_ref().map(ConnectError::trace),
        };
        let mut out = std::io::stdout().lock();
        if self.json {
            writeln!(out, "{}", serde_json::to_string_pretty(&report)?)?;
        } else {
            report.write(&mut out)?;
        }
        conclude(failure, damaged)
    }
}

impl Report<'_> {
    fn write(&self, out: &mut impl Write) -> std::io::Result<()> {
        let removed = if self.dry_run { "would remove" } else { "removed" };
        for leftover in &self.swept.removed {
            writeln!(out, "{removed} {}", what(leftover))?;
        }
        for leftover in &self.swept.kept {
            writeln!(out, "kept {}: {}", what(leftover), fate(leftover))?;
        }
        for damage in &self.swept.damaged {
            let name = TopicPartition::new(damage.topic.as_str(), damage.partition);
            writeln!(out, "{name}: DAMAGED, nothing of it was touched: {}", damage.problem)?;
        }
        let count = |kind| self.swept.removed.iter().filter(|leftover| leftover.kind == kind).count();
        writeln!(
            out,
            "{}: {} partitions, {removed} {} objects, {} unfinished uploads, {} staged files and {} probes of {}",
            self.url,
            self.swept.partitions,
            count(LeftoverKind::Object),
            count(LeftoverKind::Upload),
            count(LeftoverKind::StagedFile),
            count(LeftoverKind::Probe),
            bytes(self.removed_bytes),
        )?;
        if let Some(why) = &self.swept.uploads_unseen {
            writeln!(out, "unfinished uploads were not looked at: {why}")?;
        }
        let live = |kept: &Option<Kept>| matches!(kept, Some(Kept::LiveEpoch | Kept::Young));
        let waiting = self.swept.kept.iter().filter(|leftover| live(&leftover.kept)).count();
        if waiting > 0 {
            writeln!(out, "{waiting} more may go in a later sweep, once their writers are known to be gone")?;
        }
        out.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use lakeferry_lake::store;
    use object_store::path::Path;
    use object_store::{ObjectStoreExt as _, PutPayload};

    use super::*;

    #[tokio::test]
    async fn a_topic_that_lost_all_its_manifests_is_damaged_and_not_unknown() {
        let url = "memory:///sweep-without-manifests";
        let lake = store::open(url, &BTreeMap::new(), None).unwrap();
        let object = Path::from("topics/orders/partition=0/00000000000000000000-0000000001-0-0b9f12ab.parquet");
        lake.store.put(&object, PutPayload::from_static(b"x")).await.unwrap();
        for topics in [vec![], vec!["orders".to_owned()]] {
            let args = Args { lake: LakeArgs { topics, ..LakeArgs::of(url) }, dry_run: false, json: false };
            let mut swept = Swept::default();
            args.sweep(&mut swept).await.unwrap();
            let mut told = Vec::new();
            let report = Report {
                url,
                dry_run: false,
                ok: false,
                removed_bytes: 0,
                kept_bytes: 0,
                swept: &swept,
                failure: None,
            };
            report.write(&mut told).unwrap();
            let told = String::from_utf8(told).unwrap();
            let words = "orders-0: DAMAGED, nothing of it was touched: manifest entries of orders-0 were removed: ";
            assert!(told.starts_with(&format!("{words}{object} is there, entry 0 is not")), "{told}");
            assert_eq!(args.tell(&swept, Ok(())).unwrap(), Exit::Difference);
            lake.store.head(&object).await.unwrap();
        }
    }
}
