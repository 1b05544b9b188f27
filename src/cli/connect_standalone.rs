//! `lakeferry connect-standalone`: one worker by itself, as Kafka's script of that name. It serves the REST API,
//! creates the connectors of the command line, and runs until a signal comes.

use std::path::{Path, PathBuf};

use lakeferry_api::error::Context as _;
use lakeferry_api::{ConnectError, Kind, Result};

use super::connector_file::NewConnector;
use super::{Context, Exit};
use crate::config::{WorkerConfig, properties};
use crate::worker::Worker;

/// Run a worker by itself: its connectors live in its memory, its source offsets in a file.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The worker's settings, in Java properties form.
    #[arg(value_name = "WORKER.properties")]
    worker: PathBuf,
    /// Connectors to create at start: properties, flat JSON, or {"name", "config", "initial_state"}.
    #[arg(value_name = "CONNECTOR.properties|CONNECTOR.json")]
    connectors: Vec<PathBuf>,
}

pub(super) async fn run(args: Args, context: Context) -> anyhow::Result<Exit> {
    let config = properties::parse(&read(&args.worker)?)
        .and_then(|settings| WorkerConfig::standalone(&settings))
        .map_err(|error| error.context(format!("{} cannot be used", args.worker.display())))?;
    let worker = Worker::start(config, context.loggers).await?;
    let created = tokio::select! {
        created = create_all(&worker, &args.connectors) => created,
        () = context.stop.cancelled() => Ok(()),
    };
    if created.is_ok() {
        worker.herder().set_ready();
        context.stop.cancelled().await;
    }
    worker.stop().await;
    // Whatever is wrong with a connector of the command line, the worker could not be started as it was told to.
    created
        .map(|()| Exit::Done)
        .map_err(|error| ConnectError::fatal(error.message().to_owned()).caused_by(error).into())
}

async fn create_all(worker: &Worker, files: &[PathBuf]) -> Result<()> {
    for file in files {
        let connector = NewConnector::parse(&read(file)?);
        let created = async {
            let NewConnector { name, config, target } = connector?;
            worker.herder().create(&name, config, target).await
        };
        let created = created
            .await
            .map_err(|error| error.context(format!("The connector of {} could not be created", file.display())))?;
        tracing::info!(connector = created.info.name, "created");
    }
    Ok(())
}

fn read(file: &Path) -> Result<Vec<u8>> {
    properties::read(file).context(Kind::Config, || format!("{} cannot be read", file.display()))
}
