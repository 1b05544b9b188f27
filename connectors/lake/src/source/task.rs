//! The task of the replay source: prepares, then polls its [`Replay`].
//!
//! Invariant: the task stores nothing; where it goes on is what the worker has stored for its partitions, so a batch is
//! produced again after a crash rather than lost.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use lakeferry_api::{Config, ConnectError, Result, SourceBatch, SourceContext, SourceTask};

use super::choose::ChosenTopic;
use super::config::SourceSettings;
use super::prepare::{self, Prepared};
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
    /// A service was away at the start: each poll begins again.
    Waiting(Arc<dyn SourceContext>, Box<SourceSettings>),
    Running(Box<Running>),
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
        self.state = match Running::prepare(&context, &settings).await {
            Ok(running) => State::Running(Box::new(running)),
            Err(error) if error.is_retriable() => {
                tracing::warn!(error = error.trace(), "the replay cannot begin yet");
                State::Waiting(context, Box::new(settings))
            }
            Err(error) => return Err(error),
        };
        Ok(())
    }

    async fn poll(&mut self) -> Result<Vec<SourceBatch>> {
        if let State::Waiting(context, settings) = &self.state {
            let running = Running::prepare(context, settings).await?;
            self.state = State::Running(Box::new(running));
        }
        match &mut self.state {
            State::Running(running) => running.poll().await,
            _ => Err(ConnectError::fatal("the task was not started")),
        }
    }

    async fn stop(&mut self) {
        self.state = State::Stopped;
    }
}

impl Running {
    /// Nothing is kept of one that fails or is dropped but targets that were made.
    async fn prepare(context: &Arc<dyn SourceContext>, settings: &SourceSettings) -> Result<Self> {
        let mut prepared = Prepared::new(context.as_ref(), settings.clone()).await?;
        for topic in &prepared.topics {
            for (partition, why) in &topic.left_out {
                tracing::info!(topic = topic.topic, partition, why, "left out");
            }
        }
        prepared.resume(context.as_ref()).await?;
        prepared.refuse_untimed().await?;
        prepared.make_targets(context.as_ref()).await?;
        let replay = prepared.replay(context.as_ref())?;
        let context = Arc::clone(context);
        Ok(Self { context, replay, settings: settings.clone(), found: Vec::new(), told: false })
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
