//! The transactional verbs of the producer on librdkafka, which blocks: each call waits on a thread for blocking work,
//! a short while at a time, and is made again until it ends.
//!
//! Invariant: one call at a time. One whose future was dropped is waited for by the next, so librdkafka never sees two.

use std::sync::Arc;
use std::time::Duration;

use lakeferry_api::{Config, ConnectError, Kind, Result};
use tokio::sync::Mutex;

use super::Commits;
use super::admin::rows;
use super::error::{explain, kind};
use super::ffi::{Handle, Remedy, TransactionFailure};
use super::producer::Shared;
use super::security::Settings;

/// How long one call waits for the brokers.
const SLICE: Duration = Duration::from_secs(2);
/// Nothing is open while an id is taken over, so whoever waits for that may be told that no broker answers.
const INIT_SLICES: u64 = 15;
/// How long a transaction may stay open, where nothing else is said: as Java's producer has it.
const TRANSACTION_TIMEOUT_MS: &str = "60000";

/// See the module.
pub(super) struct Transactions {
    shared: Arc<Shared>,
    id: String,
    turn: Arc<Mutex<()>>,
}

impl Transactions {
    /// Those of a producer with these properties.
    pub(super) fn of(properties: &Config, shared: Arc<Shared>) -> Self {
        let id = properties.get("transactional.id").cloned().unwrap_or_default();
        Self { shared, id, turn: Arc::default() }
    }

    /// What transactions need of a producer's settings: a record that is not acknowledged within the time of a
    /// transaction is lost with it.
    ///
    /// # Errors
    /// `Config` where the settings exclude transactions.
    pub(super) fn demand(settings: &mut Settings) -> Result<()> {
        let must = [("enable.idempotence", "true"), ("acks", "all")];
        for (key, value) in must {
            let given = settings.insert(key.to_owned(), value.to_owned());
            let same = |given: &String| given == value || (key == "acks" && given == "-1");
            if let Some(given) = given.filter(|given| !same(given)) {
                return Err(ConnectError::config(format!(
                    "Invalid value {given} for configuration {key}: a producer with transactions has {value}"
                )));
            }
        }
        let timeout = settings.entry("transaction.timeout.ms".to_owned());
        let timeout = timeout.or_insert_with(|| TRANSACTION_TIMEOUT_MS.to_owned()).clone();
        let number = |text: &String| text.trim().parse::<u64>().unwrap_or(u64::MAX);
        let delivery = settings.get("delivery.timeout.ms").map_or(u64::MAX, number);
        settings.insert("delivery.timeout.ms".to_owned(), delivery.min(number(&timeout)).to_string());
        Ok(())
    }

    pub(super) async fn init(&self) -> Result<()> {
        self.call_within("taking over", INIT_SLICES, |handle| handle.init_transactions(SLICE)).await
    }

    pub(super) async fn begin(&self) -> Result<()> {
        self.call("beginning a transaction of", Handle::begin_transaction).await
    }

    pub(super) async fn send_offsets(&self, group: &str, commits: &Commits) -> Result<()> {
        let (group, commits) = (group.to_owned(), commits.clone());
        self.call("storing offsets in a transaction of", move |handle| {
            handle.send_offsets(&group, rows(&commits), SLICE)
        })
        .await
    }

    pub(super) async fn commit(&self) -> Result<()> {
        self.call("committing a transaction of", |handle| handle.commit_transaction(SLICE)).await
    }

    pub(super) async fn abort(&self) -> Result<()> {
        self.call("aborting a transaction of", |handle| handle.abort_transaction(SLICE)).await
    }

    async fn call(
        &self,
        what: &str,
        verb: impl Fn(&Handle) -> Result<(), TransactionFailure> + Send + Sync + 'static,
    ) -> Result<()> {
        self.call_within(what, u64::MAX, verb).await
    }

    async fn call_within(
        &self,
        what: &str,
        slices: u64,
        verb: impl Fn(&Handle) -> Result<(), TransactionFailure> + Send + Sync + 'static,
    ) -> Result<()> {
        let verb = Arc::new(verb);
        for slice in 1.. {
            let turn = Arc::clone(&self.turn).lock_owned().await;
            let (shared, once) = (Arc::clone(&self.shared), Arc::clone(&verb));
            let outcome = tokio::task::spawn_blocking(move || {
                // Held to the end of the call, even where nobody waits for it any more.
                let _turn = turn;
                once(shared.client.handle())
            });
            let outcome = outcome.await;
            match outcome.map_err(|error| ConnectError::fatal("a transaction was cut off").caused_by(error))? {
                Ok(()) => return Ok(()),
                Err(TransactionFailure { failure, remedy: Remedy::CallAgain }) if slice < slices => {
                    tracing::debug!(id = self.id, "{what} the transactional id: {}", failure.text);
                }
                Err(TransactionFailure { failure, remedy: Remedy::CallAgain }) => {
                    return Err(explain(&failure, format!("{what} the transactional id {}", self.id)));
                }
                Err(failure) => return Err(self.explain(what, &failure)),
            }
        }
        Ok(())
    }

    fn explain(&self, what: &str, TransactionFailure { failure, remedy }: &TransactionFailure) -> ConnectError {
        let what = format!("{what} the transactional id {}", self.id);
        let fatal = self.shared.client.handle().fatal();
        let cause = fatal.as_ref().unwrap_or(failure);
        match (remedy, kind(cause)) {
            (_, Kind::Fenced) => ConnectError::new(
                Kind::Fenced,
                format!(
                    "{what}: another instance has taken it over, and this one can write no more; nothing of its last \
                     transaction is visible ({})",
                    cause.text
                ),
            ),
            (_, Kind::Config | Kind::Data | Kind::NotFound) => explain(cause, what),
            (Remedy::Abort, _) if fatal.is_none() => ConnectError::retriable(format!("{what}: {}", cause.text)),
            _ => ConnectError::fatal(format!("{what}: {}", cause.text)),
        }
    }
}
