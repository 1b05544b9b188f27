//! The transactional verbs of the producer on librdkafka, which blocks: each call waits on a thread for blocking work,
//! a short while at a time, and is made again until it ends.
//!
//! Invariant: one call at a time. One whose future was dropped is waited for by the next, so librdkafka never sees two.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use lakeferry_api::{Config, ConnectError, Kind, Result};
use tokio::sync::Mutex;

use super::Commits;
use super::admin::rows;
use super::error::{explain, explain_needing, kind, named};
use super::ffi::{Code, Handle, Remedy, TransactionFailure};
use super::producer::Shared;
use super::security::Settings;

/// How long one call waits for the brokers.
const SLICE: Duration = Duration::from_secs(2);
/// How long a broker is waited for before the coordinator is asked for.
const MEETING: Duration = Duration::from_secs(1);
/// Nothing is open while an id is taken over, so whoever waits for that may be told that no broker answers.
const INIT_SLICES: u64 = 15;
const TIMEOUT: &str = "transaction.timeout.ms";
/// How long a transaction may stay open, where nothing else is said: as Java's producer has it.
const TRANSACTION_TIMEOUT_MS: &str = "60000";

/// One call, for those who hear of its failure.
struct Call {
    what: &'static str,
    /// Whose offsets it stores.
    group: String,
    /// What the user must be allowed to do with the topics that are written to.
    right: String,
    /// How often it is made.
    slices: u64,
}

impl Call {
    fn new(what: &'static str) -> Self {
        let right = "WRITE on the topics that it writes to".to_owned();
        Self { what, group: String::new(), right, slices: u64::MAX }
    }
}

/// See the module.
pub(super) struct Transactions {
    shared: Arc<Shared>,
    id: String,
    servers: String,
    timeout_ms: String,
    turn: Arc<Mutex<()>>,
}

impl Transactions {
    /// Those of a producer with these properties.
    pub(super) fn of(properties: &Config, shared: Arc<Shared>) -> Self {
        let property = |key| properties.get(key).cloned().unwrap_or_default();
        let (id, servers) = (property("transactional.id"), property("bootstrap.servers"));
        let timeout_ms = properties.get(TIMEOUT).map_or(TRANSACTION_TIMEOUT_MS, String::as_str).to_owned();
        Self { shared, id, servers, timeout_ms, turn: Arc::default() }
    }

    /// What transactions need of a producer's settings. A record that is not acknowledged is given up well before the
    /// time of its transaction is over: whoever takes that back in time can write again, and is put out else.
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
        let timeout = settings.entry(TIMEOUT.to_owned());
        let timeout = timeout.or_insert_with(|| TRANSACTION_TIMEOUT_MS.to_owned()).clone();
        let number = |text: &String| text.trim().parse::<u64>().unwrap_or(u64::MAX);
        let delivery = settings.get("delivery.timeout.ms").map_or(u64::MAX, number);
        let in_time = (number(&timeout) / 4).saturating_mul(3).max(1);
        settings.insert("delivery.timeout.ms".to_owned(), delivery.min(in_time).to_string());
        Ok(())
    }

    pub(super) async fn init(&self) -> Result<()> {
        // Where no broker of the cluster is connected yet librdkafka looks for the coordinator half a second later.
        self.call_once(&Arc::new(|handle: &Handle| {
            handle.meet(MEETING);
            Ok(())
        }))
        .await?
        .ok();
        let call = Call { slices: INIT_SLICES, ..Call::new("taking over") };
        self.call(call, |handle| handle.init_transactions(SLICE)).await
    }

    pub(super) async fn begin(&self) -> Result<()> {
        self.call(Call::new("beginning a transaction of"), Handle::begin_transaction).await
    }

    /// Lets nothing linger that is queued, and waits a while for its delivery; its reports say what was delivered.
    pub(super) async fn flush(&self) -> Result<()> {
        let flushed = self.call_once(&Arc::new(|handle: &Handle| Ok(handle.flush(SLICE)?))).await?;
        if let Err(TransactionFailure { failure, .. }) = flushed {
            tracing::debug!(id = self.id, "flushing before the end of a transaction: {}", failure.text);
        }
        Ok(())
    }

    pub(super) async fn send_offsets(&self, group: &str, commits: &Commits) -> Result<()> {
        let topics: BTreeSet<_> = commits.keys().map(|partition| &*partition.topic).collect();
        let topics = topics.into_iter().collect::<Vec<_>>().join(", ");
        let (group, right) = (group.to_owned(), format!("READ on topic {topics}"));
        let call = Call { group: group.clone(), right, ..Call::new("storing offsets in a transaction of") };
        let commits = commits.clone();
        self.call(call, move |handle| handle.send_offsets(&group, rows(&commits), SLICE)).await
    }

    pub(super) async fn commit(&self) -> Result<()> {
        self.call(Call::new("committing a transaction of"), |handle| handle.commit_transaction(SLICE)).await
    }

    /// Aborts, and gives the reason where one is known that does not pass.
    pub(super) async fn abort(&self) -> Result<()> {
        let denied = self.denied().await?;
        let aborted = self.call(Call::new("aborting a transaction of"), |handle| handle.abort_transaction(SLICE)).await;
        denied.map_or(aborted, Err)
    }

    /// What the brokers hold against the open transaction, where a right is missing or the like. Of its records the
    /// client says no more than that they went with it; who begins another transaction is told.
    async fn denied(&self) -> Result<Option<ConnectError>> {
        let call = Call::new("writing in a transaction of");
        let failed = self.call_once(&Arc::new(Handle::begin_transaction)).await?.err();
        let failed = failed.filter(|failed| failed.remedy == Remedy::Abort && kind(&failed.failure) == Kind::Config);
        Ok(failed.map(|failed| self.explain(&call, &failed)))
    }

    async fn call(
        &self,
        call: Call,
        verb: impl Fn(&Handle) -> Result<(), TransactionFailure> + Send + Sync + 'static,
    ) -> Result<()> {
        let verb = Arc::new(verb);
        for slice in 1.. {
            match self.call_once(&verb).await? {
                Ok(()) => return Ok(()),
                Err(TransactionFailure { failure, remedy: Remedy::CallAgain }) if slice < call.slices => {
                    tracing::debug!(id = self.id, "{} the transactional id: {}", call.what, failure.text);
                }
                Err(TransactionFailure { failure, remedy: Remedy::CallAgain }) => {
                    let failure = named(failure, &self.servers, None);
                    return Err(explain(&failure, format!("{} the transactional id {}", call.what, self.id)));
                }
                Err(failure) => return Err(self.explain(&call, &failure)),
            }
        }
        Ok(())
    }

    /// The inner result is the client's answer.
    async fn call_once(
        &self,
        verb: &Arc<impl Fn(&Handle) -> Result<(), TransactionFailure> + Send + Sync + 'static>,
    ) -> Result<Result<(), TransactionFailure>> {
        let turn = Arc::clone(&self.turn).lock_owned().await;
        let (shared, once) = (Arc::clone(&self.shared), Arc::clone(verb));
        let outcome = tokio::task::spawn_blocking(move || {
            // Held to the end of the call, even where nobody waits for it any more.
            let _turn = turn;
            once(shared.client.handle())
        });
        outcome.await.map_err(|error| ConnectError::fatal("a transaction was cut off").caused_by(error))
    }

    fn right(&self, call: &Call, denied: Code) -> String {
        match denied {
            Code::RD_KAFKA_RESP_ERR_TRANSACTIONAL_ID_AUTHORIZATION_FAILED => {
                format!("WRITE on transactional id {}", self.id)
            }
            Code::RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED => format!("READ on group {}", call.group),
            _ => call.right.clone(),
        }
    }

    fn explain(&self, call: &Call, TransactionFailure { failure, remedy }: &TransactionFailure) -> ConnectError {
        let what = format!("{} the transactional id {}", call.what, self.id);
        let fatal = self.shared.client.handle().fatal();
        let cause = fatal.as_ref().unwrap_or(failure);
        match (remedy, kind(cause)) {
            // The brokers raise the epoch, too, when they end a transaction for its age: from here both look the same.
            (_, Kind::Fenced) => ConnectError::fenced(format!(
                "{what}: this instance can write no more: it, or the brokers, stood still for longer than \
                 {TIMEOUT}={}, or another instance has taken it over ({}); nothing of a transaction that was not \
                 committed is visible. Restart the task, or give the same command again: it goes on behind what was \
                 committed, nothing is lost or written twice. Look for a second instance if this comes again",
                self.timeout_ms, cause.text
            )),
            (_, Kind::Config | Kind::Data | Kind::NotFound) => {
                explain_needing(cause, what, self.right(call, cause.code))
            }
            (Remedy::Abort, _) if fatal.is_none() => ConnectError::retriable(format!("{what}: {}", cause.text)),
            _ => ConnectError::fatal(format!("{what}: {}", cause.text)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_given_up_while_its_transaction_can_still_be_taken_back() {
        let timeout = |given: &[(&str, &str)]| {
            let pair = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
            let mut settings: Settings = given.iter().map(pair).collect();
            Transactions::demand(&mut settings).unwrap();
            settings["delivery.timeout.ms"].clone()
        };
        assert_eq!(timeout(&[]), "45000");
        assert_eq!(timeout(&[("delivery.timeout.ms", "2147483647"), ("transaction.timeout.ms", "900000")]), "675000");
        assert_eq!(timeout(&[("delivery.timeout.ms", "30000")]), "30000");
    }
}
