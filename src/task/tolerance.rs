//! What happens to a record that a stage cannot process: retried while it may help (`errors.retry.*`), told
//! (`errors.log.*`, dead letters), then skipped or fatal to the task (`errors.tolerance`), as Connect does it. The
//! report comes before the verdict, so the record that fails a task is reported too.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use lakeferry_api::{Clock, ConnectError, Kind, Result};
use tokio_util::sync::CancellationToken;

use super::TaskId;
use crate::config::connector::ErrorHandling;
use crate::random::Random;

const RETRY_FIRST_MS: u64 = 300;

/// Where a record failed; the names stand in logs and in the headers of dead letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    KafkaConsume,
    KeyConverter,
    ValueConverter,
    HeaderConverter,
    KafkaProduce,
}

/// One failure of one record.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) stage: Stage,
    /// The class that ran the stage.
    pub(super) class: Arc<str>,
    pub(super) error: ConnectError,
}

/// How a record that failed at first went on.
pub(super) enum Outcome<T> {
    /// A later attempt worked.
    Processed(T),
    /// It failed for good.
    Failed(Failure),
    /// The task is to stop; nothing is decided.
    Stopped,
}

/// The error handling of one task.
pub(super) struct Tolerance {
    pub(super) id: TaskId,
    pub(super) settings: ErrorHandling,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) random: Arc<Random>,
    pub(super) stop: CancellationToken,
}

impl Tolerance {
    /// Tries again what failed, as long as that may help.
    pub(super) async fn retry<T>(
        &self,
        mut failure: Failure,
        mut again: impl FnMut() -> Result<T, Failure>,
    ) -> Outcome<T> {
        let begun = self.clock.monotonic();
        let mut attempt = 1;
        while failure.error.is_retriable() {
            let Some(delay) = self.delay(attempt, self.clock.monotonic().saturating_sub(begun)) else { break };
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return Outcome::Stopped,
                () = self.clock.sleep(delay) => {}
            }
            match again() {
                Ok(value) => return Outcome::Processed(value),
                Err(next) => failure = next,
            }
            attempt += 1;
        }
        Outcome::Failed(failure)
    }

    /// Says what failed where the connector's config asks for it; `record` tells which record it was.
    pub(super) fn log(&self, failure: &Failure, record: impl fmt::Display) {
        if !self.settings.log_enable {
            return;
        }
        let Failure { stage, class, error } = failure;
        let which = if self.settings.log_include_messages { record.to_string() } else { String::new() };
        tracing::error!(
            error = error.trace(),
            "Error encountered in task {}. Executing stage '{stage}' with class '{class}'{which}.",
            self.id
        );
    }

    /// Whether the task goes on without the record.
    ///
    /// # Errors
    /// The task's end.
    pub(super) fn judge(&self, failure: Failure) -> Result<()> {
        if self.settings.tolerate_all && failure.stage != Stage::KafkaConsume {
            return Ok(());
        }
        Err(failure.error.context("Tolerance exceeded in error handler"))
    }

    /// How long to wait before the attempt after `attempt`, which failed `elapsed` after the first began; `None`: no
    /// more.
    fn delay(&self, attempt: u32, elapsed: Duration) -> Option<Duration> {
        let left = match self.settings.retry_timeout {
            None => Duration::MAX,
            Some(timeout) => timeout.checked_sub(elapsed).filter(|left| !left.is_zero())?,
        };
        let max_ms = u64::try_from(self.settings.retry_delay_max.as_millis()).unwrap_or(u64::MAX);
        let doubled_ms = RETRY_FIRST_MS.saturating_mul(1_u64.checked_shl(attempt - 1).unwrap_or(u64::MAX));
        let delay_ms = if doubled_ms > max_ms { self.random.below(max_ms) } else { doubled_ms };
        Some(Duration::from_millis(delay_ms).min(left))
    }
}

impl Failure {
    /// The name of Connect's exception of this kind, for programs that read dead letters.
    pub(super) fn exception_class(&self) -> &'static str {
        match self.error.kind() {
            Kind::Data => "org.apache.kafka.connect.errors.DataException",
            Kind::Retriable => "org.apache.kafka.connect.errors.RetriableException",
            Kind::NotFound => "org.apache.kafka.connect.errors.NotFoundException",
            Kind::Config => "org.apache.kafka.common.config.ConfigException",
            Kind::Conflict | Kind::Fenced | Kind::Fatal => "org.apache.kafka.connect.errors.ConnectException",
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::KafkaConsume => "KAFKA_CONSUME",
            Self::KeyConverter => "KEY_CONVERTER",
            Self::ValueConverter => "VALUE_CONVERTER",
            Self::HeaderConverter => "HEADER_CONVERTER",
            Self::KafkaProduce => "KAFKA_PRODUCE",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::testing::ManualClock;

    fn tolerance(retry_timeout: Option<Duration>, tolerate_all: bool, clock: Arc<dyn Clock>) -> Tolerance {
        Tolerance {
            id: TaskId { connector: "c".to_owned(), task: 0 },
            settings: ErrorHandling {
                retry_timeout,
                retry_delay_max: Duration::from_secs(1),
                tolerate_all,
                log_enable: false,
                log_include_messages: false,
            },
            clock,
            random: Arc::new(Random::seeded(1)),
            stop: CancellationToken::new(),
        }
    }

    fn failure(error: ConnectError) -> Failure {
        Failure { stage: Stage::ValueConverter, class: "Json".into(), error }
    }

    #[tokio::test]
    async fn retries_double_stay_below_the_limit_and_end_at_the_timeout() {
        let clock = ManualClock::new();
        let tolerance = tolerance(Some(Duration::from_secs(4)), false, clock.clone());
        let mut attempts = Vec::new();
        let begun = clock.monotonic();
        let retried = tolerance.retry(failure(ConnectError::retriable("busy")), || {
            attempts.push((clock.monotonic() - begun).as_millis());
            Err::<(), _>(failure(ConnectError::retriable("still busy")))
        });
        let outcome = clock.drive(retried).await;
        assert!(matches!(outcome, Outcome::Failed(failure) if failure.error.message() == "still busy"));
        assert_eq!(&attempts[..2], [300, 900]);
        assert!(attempts.windows(2).all(|pair| pair[1] - pair[0] <= 1000), "{attempts:?}");
        assert_eq!(attempts.last(), Some(&4000), "the last attempt is at the deadline");
    }

    #[tokio::test]
    async fn only_what_may_help_is_retried() {
        let clock = ManualClock::new();
        let patient = tolerance(None, false, clock.clone());
        let never = |_: ()| -> Result<(), Failure> { panic!("a data error is not retried") };
        let outcome = patient.retry(failure(ConnectError::data("bad")), || never(())).await;
        assert!(matches!(outcome, Outcome::Failed(_)));

        let impatient = tolerance(Some(Duration::ZERO), false, clock.clone());
        let outcome = impatient.retry(failure(ConnectError::retriable("busy")), || never(())).await;
        assert!(matches!(outcome, Outcome::Failed(_)));

        let mut left = 20;
        let retried = patient.retry(failure(ConnectError::retriable("busy")), || {
            left -= 1;
            if left == 0 { Ok(7) } else { Err(failure(ConnectError::retriable("busy"))) }
        });
        assert!(matches!(clock.drive(retried).await, Outcome::Processed(7)));
    }

    #[tokio::test]
    async fn a_stop_decides_nothing() {
        let clock = ManualClock::new();
        let tolerance = tolerance(None, true, clock);
        tolerance.stop.cancel();
        let outcome = tolerance.retry(failure(ConnectError::retriable("busy")), || Ok(1)).await;
        assert!(matches!(outcome, Outcome::Stopped));
    }

    #[test]
    fn tolerance_decides_who_fails_the_task() {
        let clock = ManualClock::new();
        let error = tolerance(None, false, clock.clone()).judge(failure(ConnectError::data("bad"))).unwrap_err();
        assert_eq!(error.trace(), "Tolerance exceeded in error handler\nCaused by: bad");
        let tolerant = tolerance(None, true, clock);
        assert!(tolerant.judge(failure(ConnectError::data("bad"))).is_ok());
        let consumed = Failure { stage: Stage::KafkaConsume, ..failure(ConnectError::data("bad")) };
        assert!(tolerant.judge(consumed).is_err());
    }
}
