//! Topics that the brokers do not know. The client tells of each once, and what comes of another topic, or to another
//! task, says nothing of it: so the status names it until the brokers, which are asked while any is missing, have it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::BoxFuture;
use lakeferry_api::{ConnectError, TopicPartition};

use super::SinkLoop;
use crate::task::voice::Trouble;

/// How long after an answer the brokers are asked again; longer where many are missing, at this rate.
const ASK_EVERY: Duration = Duration::from_secs(10);
const ASKED_AT_THAT_RATE: usize = 10;
/// The status names no more.
const NAMED: usize = 10;

/// See the module.
#[derive(Default)]
pub(super) struct Missing {
    /// What was told of each.
    told: BTreeMap<String, String>,
    ask_at: Duration,
    asked: Option<BoxFuture<'static, Vec<String>>>,
}

impl Missing {
    /// When to ask; `None` while nothing is missing or an answer is awaited.
    pub(super) fn due(&self) -> Option<Duration> {
        (!self.told.is_empty() && self.asked.is_none()).then_some(self.ask_at)
    }

    /// Those that are there after all; never returns while nobody was asked. Cancel-safe.
    pub(super) async fn answered(&mut self) -> Vec<String> {
        let Some(asked) = &mut self.asked else { return std::future::pending().await };
        let found = asked.await;
        self.asked = None;
        found
    }

    fn wait(&mut self, now: Duration) {
        let rounds = self.told.len().div_ceil(ASKED_AT_THAT_RATE).max(1);
        self.ask_at = now + ASK_EVERY * u32::try_from(rounds).unwrap_or(u32::MAX);
    }

    fn shown(&self) -> Option<String> {
        let named = self.told.values().take(NAMED).cloned();
        let more = self.told.len().saturating_sub(NAMED);
        let more = (more > 0).then(|| format!("{more} more topics are not there"));
        (!self.told.is_empty()).then(|| named.chain(more).collect::<Vec<_>>().join("\n"))
    }
}

impl SinkLoop {
    pub(super) fn topic_is_missing(&mut self, topic: String, error: &ConnectError) {
        let now = self.clock.monotonic();
        if let Some(held_back) = self.consumer_errors.admit(error.message(), now) {
            tracing::warn!(error = error.trace(), held_back, "the consumer waits for the topic");
        }
        if self.missing.told.is_empty() {
            self.missing.wait(now);
        }
        // What is being asked may be about the time before.
        self.missing.asked = None;
        self.missing.told.insert(topic, error.trace());
        self.parts.voice.trouble(Trouble::Topics, self.missing.shown());
    }

    /// Asks the brokers for all that are missing. One that cannot be asked for is not found.
    pub(super) fn look_for_missing(&mut self) {
        let topics: Vec<_> = self.missing.told.keys().cloned().collect();
        let context = Arc::clone(&self.parts.context);
        self.missing.asked = Some(Box::pin(async move {
            let (mut found, Ok(admin)) = (Vec::new(), context.admin.get()) else { return Vec::new() };
            let mut answers = futures::stream::iter(topics.into_iter().map(|topic| {
                let (admin, first) = (Arc::clone(&admin), TopicPartition::new(topic.as_str(), 0));
                async move { admin.partition(&first).await.is_ok().then_some(topic) }
            }))
            .buffered(ASKED_AT_THAT_RATE);
            while let Some(answer) = answers.next().await {
                found.extend(answer);
            }
            found
        }));
    }

    pub(super) fn topics_found(&mut self, found: &[String]) {
        let now = self.clock.monotonic();
        self.missing.wait(now);
        if found.iter().filter(|topic| self.missing.told.remove(*topic).is_some()).count() > 0 {
            tracing::info!(topics = found.join(","), "topics are there that were missing");
            self.parts.voice.trouble(Trouble::Topics, self.missing.shown());
        }
    }
}
