//! `lakeferry connect-standalone`: one worker by itself, as Kafka's script of that name. It serves the REST API and
//! runs until a signal comes.

use std::path::PathBuf;

use lakeferry_api::ConnectError;

use super::{Context, Exit};

/// Run a worker by itself: its connectors live in its memory, its source offsets in a file.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The worker's settings, in Java properties form.
    worker: PathBuf,
    /// Connectors to create at start: properties, flat JSON, or {"name", "config", "initial_state"}.
    connectors: Vec<PathBuf>,
}

pub(super) async fn run(args: Args, context: Context) -> anyhow::Result<Exit> {
    let _ = (&args.connectors, context.stop);
    Err(ConnectError::config(format!("{}: the standalone worker is not assembled yet", args.worker.display())).into())
}
