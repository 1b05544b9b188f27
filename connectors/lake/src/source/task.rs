//! The task of the replay source: prepares, then polls its [`Replay`].
//!
//! Invariant: the task stores nothing; where it goes on is what the worker has stored for its partitions, in one
//! transaction with their records.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use lakeferry_api::{Config, ConnectError, Result, SourceBatch, SourceContext, SourceTask};

use super::choose::ChosenTopic;
use super::config::SourceSettings;
use super::prepare::{self, NotResumed, Prepared};
use super::replay::{Next, Replay};

/// How often a finished task is heard of.
const IDLE: Duration = Duration::from_secs(1);

/// See [`super::LakeSourceConnector`].
#[derive(Default)]
pub struct LakeSourceTask {
    state: State,
}

#[derive(Default)]
enum State {
    #[default]
    Stopped,
    /// A service was away at the start: the polls try again.
    Waiting(Waiting),
    Running(Box<Running>),
}

/// A preparation that goes on over several polls: the worker drops one that takes longer than its rounds.
struct Waiting {
    context: Arc<dyn SourceContext>,
    settings: Box<SourceSettings>,
    attempt: BoxFuture<'static, Result<Running>>,
}

struct Running {
    context: Arc<dyn SourceContext>,
    replay: Replay,
    settings: SourceSettings,
    found: Vec<ChosenTopic>,
    told: bool,
}

#[async_trait]
impl SourceTask for LakeSourceTask {
    /// Fails for what cannot pass by itself. What may (a store or a broker that is away, a topic without a leader) is
    /// left to the first polls: any error of a start fails the task, one of a poll is told and tried again.
    async fn start(&mut self, context: Arc<dyn SourceContext>, config: &Config) -> Result<()> {
        let settings = SourceSettings::parse(config)?;
        let mut waiting = Waiting::new(context, settings);
        self.state = match waiting.end().await {
            Ok(running) => State::Running(Box::new(running)),
            Err(error) if error.is_retriable() => {
                tracing::warn!(error = error.trace(), "the replay cannot begin yet");
                State::Waiting(waiting)
            }
            Err(error) => return Err(error),
        };
        Ok(())
    }

    async fn poll(&mut self) -> Result<Vec<SourceBatch>> {
        if let State::Waiting(waiting) = &mut self.state {
            self.state = State::Running(Box::new(waiting.end().await?));
        }
        match &mut self.state {
            State::Running(running) => running.poll().await,
            _ => Err(ConnectError::fatal("the task was not started")),
        }
    }

    async fn rewind(&mut self) -> Result<()> {
        let (context, settings) = match std::mem::take(&mut self.state) {
            State::Stopped => return Err(ConnectError::fatal("the task was not started")),
            State::Waiting(waiting) => (waiting.context, *waiting.settings),
            State::Running(running) => (running.context, running.settings),
        };
        self.state = State::Waiting(Waiting::new(context, settings));
        Ok(())
    }

    async fn stop(&mut self) {
        self.state = State::Stopped;
    }
}

impl Waiting {
    fn new(context: Arc<dyn SourceContext>, settings: SourceSettings) -> Self {
        let attempt = Running::prepare(Arc::clone(&context), settings.clone()).boxed();
        Self { context, settings: Box::new(settings), attempt }
    }

    /// How the attempt ends; after a failure the next one begins. Cancel-safe.
    async fn end(&mut self) -> Result<Running> {
        let ended = (&mut self.attempt).await;
        if ended.is_err() {
            self.attempt = Running::prepare(Arc::clone(&self.context), (*self.settings).clone()).boxed();
        }
        ended
    }
}

impl Running {
    /// Nothing is kept of one that fails but targets that were made.
    async fn prepare(context: Arc<dyn SourceContext>, settings: SourceSettings) -> Result<Self> {
        let mut prepared = Prepared::new(context.as_ref(), settings.clone()).await?;
        for topic in &prepared.topics {
            for remark in topic.remarks("lineage=") {
                tracing::info!(topic = topic.topic, "{remark}");
            }
            for (partition, why) in &topic.left_out {
                tracing::info!(topic = topic.topic, partition, why, "left out");
            }
        }
        prepared.resume(context.as_ref()).await.map_err(NotResumed::into_error)?;
        prepared.refuse_untimed().await?;
        prepared.make_targets(context.as_ref()).await?;
        let replay = prepared.replay(context.as_ref())?;
        Ok(Self { context, replay, settings, found: Vec::new(), told: false })
    }

    async fn poll(&mut self) -> Result<Vec<SourceBatch>> {
        self.welcome().await?;
        match self.replay.next().await? {
            Next::Batches(batches) => Ok(batches),
            Next::Found(topics) => {
                self.found = topics;
                self.welcome().await?;
                Ok(Vec::new())
            }
            Next::End => {
                if !self.told {
                    tracing::info!(connector = self.context.connector(), task = self.context.task(), "replay complete");
                    self.told = true;
                }
                self.context.clock().sleep(IDLE).await;
                Ok(Vec::new())
            }
        }
    }

    /// Makes the targets of partitions that appeared, then replays them.
    async fn welcome(&mut self) -> Result<()> {
        if self.found.is_empty() {
            return Ok(());
        }
        prepare::resume(self.context.as_ref(), &mut self.found).await?;
        prepare::make_targets(self.context.as_ref(), &self.found, &self.settings).await?;
        for topic in self.found.drain(..) {
            self.replay.add(&topic)?;
        }
        Ok(())
    }
}
