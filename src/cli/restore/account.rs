//! What a restore has done: counted as transactions are committed, shown meanwhile, told at the end.

use std::collections::BTreeMap;
use std::io::{IsTerminal as _, Write};
use std::sync::Arc;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use lakeferry_api::{Clock, Result};
use lakeferry_lake::source::stored::archived_partition;
use serde_json::json;

use super::lost::{Lost, refuse_unexplained};
use crate::cli::inspect::bytes;
use crate::task::exact::Settled;

const TELL_EVERY: Duration = Duration::from_secs(5);

/// Records that are restored: visible, and counted in the restore's group.
#[derive(Debug, Default)]
pub(super) struct Account {
    pub(super) records: u64,
    pub(super) raw_bytes: u64,
    pub(super) took: Duration,
    /// Every record was written, and what is gone again is explained, or `--force` takes the target so.
    pub(super) is_complete: bool,
    /// What was written and is gone again.
    pub(super) lost: Vec<Lost>,
    records_by_topic: BTreeMap<String, u64>,
}

/// What the user sees of an account that grows.
pub(super) struct Progress {
    clock: Arc<dyn Clock>,
    bar: ProgressBar,
    planned: u64,
    told_at: Duration,
    hidden: bool,
}

impl Account {
    /// A transaction was committed.
    ///
    /// # Errors
    /// `Config` where something in it was of no archive.
    pub(super) fn add(&mut self, settled: &Settled) -> Result<()> {
        self.raw_bytes += settled.raw_bytes;
        for (source, records) in &settled.records {
            let topic = archived_partition(source)?.topic;
            self.records += records;
            *self.records_by_topic.entry(topic.to_string()).or_default() += records;
        }
        Ok(())
    }

    /// Every record was written: takes in what is `lost` of them.
    ///
    /// # Errors
    /// As [`refuse_unexplained`], and where it is not known.
    pub(super) fn close(&mut self, lost: Result<Vec<Lost>>, force: bool) -> anyhow::Result<()> {
        let kept = lost.map_err(anyhow::Error::from).and_then(|lost| {
            self.lost = lost;
            refuse_unexplained(&self.lost, force)
        });
        self.is_complete = kept.is_ok();
        kept
    }

    /// Tells it; `nothing` is why there was nothing to restore, where that is so.
    pub(super) fn tell(&self, as_json: bool, nothing: Option<String>, out: &mut impl Write) -> anyhow::Result<()> {
        let seconds = self.took.as_secs_f64().max(0.001);
        if as_json {
            let account = json!({
                "complete": self.is_complete,
                "records": self.records,
                "raw_bytes": self.raw_bytes,
                "seconds": seconds,
                "records_by_topic": self.records_by_topic,
                "lost": self.lost,
            });
            writeln!(out, "{account}")?;
            return Ok(());
        }
        if let Some(why) = nothing.filter(|_| self.is_complete && self.records == 0) {
            writeln!(out, "nothing was restored: {why}")?;
            return Ok(());
        }
        self.lost.iter().try_for_each(|lost| writeln!(out, "{lost}"))?;
        for (topic, records) in &self.records_by_topic {
            writeln!(out, "restored {topic}: {records} records")?;
        }
        writeln!(
            out,
            "restored {} records, {} in {seconds:.1} s ({:.0} records/s, {}/s)",
            self.records,
            bytes(self.raw_bytes),
            self.records as f64 / seconds,
            bytes((self.raw_bytes as f64 / seconds) as u64)
        )?;
        Ok(())
    }
}

impl Progress {
    /// Nothing is done yet of so many `planned` records and bytes.
    pub(super) fn new(clock: Arc<dyn Clock>, (planned, raw_bytes): (u64, u64)) -> Self {
        let bar = ProgressBar::with_draw_target(Some(raw_bytes), ProgressDrawTarget::stderr());
        let template = "{bar:40} {percent:>3}% {bytes}/{total_bytes} {bytes_per_sec} {msg} left {eta}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        let told_at = clock.monotonic();
        Self { clock, bar, planned, told_at, hidden: false }
    }

    /// Nobody sees it.
    pub(super) fn hide(&mut self) {
        self.hidden = true;
        self.bar.set_draw_target(ProgressDrawTarget::hidden());
    }

    pub(super) fn tell(&mut self, account: &Account) {
        if self.hidden {
            return;
        }
        self.bar.set_position(account.raw_bytes);
        self.bar.set_message(format!("{} records,", account.records));
        let now = self.clock.monotonic();
        if !std::io::stderr().is_terminal() && now.saturating_sub(self.told_at) >= TELL_EVERY {
            self.told_at = now;
            tell_line(&format!("{} of {} records, {}", account.records, self.planned, bytes(account.raw_bytes)));
        }
    }

    pub(super) fn end(&self) {
        self.bar.finish_and_clear();
    }
}

#[allow(clippy::print_stderr, reason = "progress of a command is for people")]
fn tell_line(text: &str) {
    eprintln!("{text}");
}

#[cfg(test)]
mod tests {
    use lakeferry_api::TopicPartition;
    use lakeferry_lake::source::stored::source_partition;

    use super::*;

    #[test]
    fn partitions_count_for_their_topic() {
        let mut account = Account::default();
        let source = |number| source_partition(&TopicPartition::new("orders", number)).unwrap();
        let records = BTreeMap::from([(source(0), 3), (source(1), 4)]);
        for _ in 0..2 {
            account.add(&Settled { records: records.clone(), raw_bytes: 70, ..Settled::default() }).unwrap();
        }
        assert_eq!((account.records, account.raw_bytes), (14, 140));
        assert_eq!(account.records_by_topic, BTreeMap::from([("orders".to_owned(), 14)]));
    }

    #[test]
    fn an_account_of_nothing_says_why() {
        let told = |account: &Account, nothing: Option<&str>| {
            let mut out = Vec::new();
            account.tell(false, nothing.map(str::to_owned), &mut out).unwrap();
            String::from_utf8(out).unwrap()
        };
        let complete = Account { is_complete: true, ..Account::default() };
        assert_eq!(told(&complete, Some("it is empty")), "nothing was restored: it is empty\n");
        assert!(told(&complete, None).starts_with("restored 0 records"));
        // What ended early has another reason.
        assert!(told(&Account::default(), Some("it is empty")).starts_with("restored 0 records"));
    }
}
