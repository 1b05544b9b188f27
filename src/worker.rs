//! Assembly: builds every part of a standalone worker from its settings, downstream first, and stops them in the
//! opposite order. Sockets are opened before anything else, so that clients may connect at once; Kafka is asked for
//! its id in the background, so an unreachable broker keeps nobody from seeing what goes on.

use std::num::NonZero;
use std::sync::Arc;
use std::time::Duration;

use lakeferry_api::{Budget, Clock, Result};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::backing::OffsetLog;
use crate::backing::file::FileOffsetLog;
use crate::clock::SystemClock;
use crate::config::WorkerConfig;
use crate::executor::Pool;
use crate::herder::{self, Statuses};
use crate::kafka::clients::KafkaClients;
use crate::kafka::{Admin, Clients};
use crate::logging::Loggers;
use crate::random::Random;
use crate::rest::{self, Api, Sockets};
use crate::spawn::{Spawned, spawn};
use crate::task::{self, Tasks};
use crate::{memory, plugins, task::TaskFactory};

/// How long requests under way may take to end once the worker stops.
const REST_PATIENCE: Duration = Duration::from_secs(2);

/// The longest wait between two attempts to reach Kafka for its id.
const MAX_BACKOFF: Duration = Duration::from_secs(10);

/// A running worker.
pub struct Worker {
    herder: herder::Handle,
    worker_id: String,
    clock: Arc<dyn Clock>,
    serving: (CancellationToken, Spawned<()>),
    herding: (CancellationToken, Spawned<()>),
    _asking: Spawned<()>,
    _giving_back: Spawned<()>,
}

impl Worker {
    /// Starts a standalone worker: when this returns, its REST API answers.
    ///
    /// # Errors
    /// `Config` for a listener, a file or a client's setting that cannot be used.
    pub async fn start(config: WorkerConfig, loggers: Loggers) -> Result<Self> {
        let sockets = Sockets::open(&config.rest)?;
        let worker_id = sockets.worker_id().to_owned();
        config.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let config = Arc::new(config);
        let parts = Parts::new(&config, worker_id.clone(), Arc::clone(&clock)).await?;
        // Settings that no client can be made of are told at once; brokers that do not answer are waited for.
        let admin = parts.clients.admin(&config.own_client())?;
        let (cluster_id, asking) = ask_cluster_id(admin, Arc::clone(&clock));

        let giving_back = memory::give_back(parts.budget.clone(), Arc::clone(&clock));
        let stop_herder = CancellationToken::new();
        let (herder, herding) = herder::start(parts.herder(), stop_herder.clone());
        let api = Api {
            herder: herder.clone(),
            version: plugins::KAFKA_VERSION,
            cluster_id,
            loggers,
            clock: Arc::clone(&clock),
            worker_id: worker_id.clone(),
        };
        let stop_rest = CancellationToken::new();
        let serving = rest::serve(sockets, api, &config.rest, stop_rest.clone());
        tracing::info!(worker_id, "the REST API answers");
        Ok(Self {
            herder,
            worker_id,
            clock,
            serving: (stop_rest, serving),
            herding: (stop_herder, herding),
            _asking: asking,
            _giving_back: giving_back,
        })
    }

    /// Asks its herder.
    pub fn herder(&self) -> &herder::Handle {
        &self.herder
    }

    /// `host:port`: what statuses call it and, behind `http://`, where its REST API answers.
    pub fn worker_id(&self) -> &str {
        &self.worker_id
    }

    /// Stops everything within the grace period: no new request, then tasks and connectors, then what still runs.
    pub async fn stop(self) {
        let (stop_rest, mut serving) = self.serving;
        let (stop_herder, mut herding) = self.herding;
        stop_rest.cancel();
        stop_herder.cancel();
        if let Err(error) = herding.join().await {
            tracing::error!(trace = error.trace(), "the herder failed");
        }
        serving.join_within(REST_PATIENCE, self.clock.as_ref(), || {}).await;
        tracing::info!("stopped");
    }
}

/// What tasks and herder share.
struct Parts {
    config: Arc<WorkerConfig>,
    worker_id: String,
    catalog: Arc<crate::config::catalog::Catalog>,
    clients: Arc<dyn Clients>,
    offsets: Arc<dyn OffsetLog>,
    clock: Arc<dyn Clock>,
    executor: Arc<Pool>,
    budget: Budget,
    random: Arc<Random>,
}

impl Parts {
    async fn new(config: &Arc<WorkerConfig>, worker_id: String, clock: Arc<dyn Clock>) -> Result<Self> {
        let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
        let budget = Budget::new(config.memory_bytes);
        let catalog = Arc::new(plugins::catalog());
        config.check_converters(&catalog)?;
        Ok(Self {
            config: Arc::clone(config),
            worker_id,
            catalog,
            clients: Arc::new(KafkaClients::new(budget.clone(), Arc::clone(&clock))),
            offsets: Arc::new(FileOffsetLog::open(config.offset_storage_file.clone()).await?),
            clock,
            executor: Arc::new(Pool::new(cores)?),
            budget,
            random: Arc::new(Random::from_system()),
        })
    }

    fn tasks(&self) -> Arc<dyn TaskFactory> {
        Arc::new(Tasks::new(task::Parts {
            catalog: Arc::clone(&self.catalog),
            worker: Arc::clone(&self.config),
            worker_id: self.worker_id.clone(),
            clients: Arc::clone(&self.clients),
            offsets: Arc::clone(&self.offsets),
            clock: Arc::clone(&self.clock),
            executor: Arc::<Pool>::clone(&self.executor),
            budget: self.budget.clone(),
            random: Arc::clone(&self.random),
        }))
    }

    fn herder(self) -> herder::Parts {
        let statuses = Statuses::new(self.worker_id.clone(), self.config.topic_tracking_enable);
        herder::Parts {
            factory: self.tasks(),
            statuses: Arc::new(statuses),
            catalog: self.catalog,
            worker: self.config,
            worker_id: self.worker_id,
            clients: self.clients,
            offsets: self.offsets,
            clock: self.clock,
            executor: self.executor,
            budget: self.budget,
            random: self.random,
        }
    }
}

/// Asks Kafka for the cluster's id until it answers.
fn ask_cluster_id(admin: Arc<dyn Admin>, clock: Arc<dyn Clock>) -> (watch::Receiver<Option<String>>, Spawned<()>) {
    let (known, cluster_id) = watch::channel(None);
    let asking = spawn("cluster id", async move {
        let mut backoff = Duration::from_millis(250);
        loop {
            match admin.cluster_id().await {
                Ok(id) => {
                    tracing::info!(cluster_id = id, "Kafka answers");
                    drop(known.send(Some(id)));
                    return;
                }
                Err(error) => {
                    tracing::warn!(trace = error.trace(), "Kafka does not tell the cluster's id; asking again")
                }
            }
            clock.sleep(backoff).await;
            backoff = (backoff * 2).min(MAX_BACKOFF);
        }
    });
    (cluster_id, asking)
}
