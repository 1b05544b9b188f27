//! The program: reads the arguments, runs one command, and turns its end into an exit code. Everything else is the
//! library's.

use std::process::ExitCode;

use clap::Parser as _;
use lakeferry::cli::{self, Cli, Exit};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let loggers = lakeferry::logging::start();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "cannot start the runtime");
            return Exit::Failed.into();
        }
    };
    let context = cli::Context::new(loggers);
    runtime.spawn(cli::cancel_on_signal(context.stop.clone()));
    let exit = runtime.block_on(cli.run(context));
    runtime.shutdown_background();
    exit.into()
}
