//! The commands, one file each: a row in [`Command`], an arm in [`Command::run`], and a file that exports `Args` and
//! `run(args, context) -> anyhow::Result<Exit>`.
//!
//! Exit codes: 0 done, and all as it should be; 1 a check found a difference, or an archive is damaged; 2 wrong usage
//! or configuration; 3 a service failed. A command says 0 or 1 through [`Exit`]; its error says 2 or 3 by its kind, and
//! 1 where it is a [`Damage`]. The first SIGTERM or Ctrl-C cancels [`Context::stop`], which every command obeys; the
//! second ends the process at once.

mod connect_standalone;
mod connector_file;
mod demo;
mod inspect;
mod lake;
mod options;
mod restore;
mod sweep;
mod verify;

use std::error::Error as StdError;
use std::fmt;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use lakeferry_api::{ConnectError, Kind};
use lakeferry_lake::source::prepare::NotResumed;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

pub use self::restore::Surroundings;

use crate::logging::{Level, Loggers};

/// A Kafka Connect-compatible worker that ferries topics to a lake and back.
#[derive(Debug, Parser)]
#[command(name = "lakeferry", version)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    ConnectStandalone(connect_standalone::Args),
    Demo(demo::Args),
    Inspect(inspect::Args),
    Restore(Box<restore::Args>),
    Sweep(sweep::Args),
    Verify(Box<verify::Args>),
}

/// What every command is given.
#[derive(Clone)]
pub struct Context {
    /// Cancelled by the first signal: publish what is whole and return.
    pub stop: CancellationToken,
    /// The levels of the log.
    pub loggers: Loggers,
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Done, and what was to be checked is as it should be.
    Done,
    /// The check found a difference, or the archive is damaged.
    Difference,
    /// Wrong usage or configuration.
    Usage,
    /// A service failed.
    Failed,
}

/// The error of a damaged archive: nothing that passes, so that no script takes it for an outage and tries again.
#[derive(Debug)]
struct Damage(ConnectError);

impl Cli {
    /// Runs the command to its end; an error goes to standard error with all its causes.
    pub async fn run(self, context: Context) -> Exit {
        let has_options = matches!(self.command, Command::Restore(_) | Command::Verify(_));
        match Box::pin(self.command.run(context)).await {
            Ok(exit) => exit,
            Err(error) => {
                let words = words(&error);
                tell(&if has_options { options::in_options(&words) } else { words });
                Exit::of_error(&error)
            }
        }
    }
}

impl Cli {
    /// Runs a `restore` in surroundings that the caller chooses, and in silence: the simulator has no broker to connect
    /// to.
    ///
    /// # Errors
    /// Those of the command; `Fatal` where it is another one.
    pub async fn restore_in(self, around: Surroundings, context: Context) -> anyhow::Result<Exit> {
        match self.command {
            Command::Restore(args) => Box::pin(restore::run_in(*args, around, context, std::io::sink())).await,
            _ => Err(ConnectError::fatal("only a restore has surroundings").into()),
        }
    }
}

impl Command {
    async fn run(self, context: Context) -> anyhow::Result<Exit> {
        // A worker's log is for its operator; a command has words of its own and logs only what went wrong.
        let is_worker = matches!(self, Self::ConnectStandalone(_));
        if !is_worker && std::env::var_os("LAKEFERRY_LOG").is_none() {
            context.loggers.set("root", Level::Warn, 0);
        }
        match self {
            Self::ConnectStandalone(args) => connect_standalone::run(args, context).await,
            Self::Demo(args) => demo::run(args, context).await,
            Self::Inspect(args) => inspect::run(args, context).await,
            Self::Restore(args) => restore::run(*args, context).await,
            Self::Sweep(args) => sweep::run(args, context).await,
            Self::Verify(args) => verify::run(*args, context).await,
        }
    }
}

impl Context {
    /// A context that nobody has cancelled yet.
    pub fn new(loggers: Loggers) -> Self {
        Self { stop: CancellationToken::new(), loggers }
    }

    /// What `work` comes to, unless a signal comes first: then an error that says `what` is left.
    async fn unless_stopped<T, E: From<ConnectError>>(
        &self,
        what: &str,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        tokio::select! {
            biased;
            result = work => result,
            () = self.stop.cancelled() => Err(ConnectError::retriable(format!("stopped by a signal: {what}")).into()),
        }
    }
}

impl Damage {
    /// True where `error`, of whoever read an archive, is the archive's fault. An outage that nobody waits for any
    /// longer is none.
    fn is(error: &ConnectError) -> bool {
        let mut known = anyhow::Chain::new(error).filter_map(|cause| cause.downcast_ref::<ConnectError>());
        matches!(error.kind(), Kind::Fatal | Kind::Data) && !known.any(ConnectError::is_retriable)
    }

    /// What became of reading an archive.
    fn of(error: ConnectError) -> anyhow::Error {
        if Self::is(&error) { Self(error).into() } else { error.into() }
    }

    /// True where it is the archive that keeps a replay from going on.
    fn keeps(why: &NotResumed) -> bool {
        matches!(why, NotResumed::Archive(error) if Self::is(error))
    }

    /// What became of going on with a replay.
    fn of_resuming(why: NotResumed) -> anyhow::Error {
        match why {
            NotResumed::Archive(error) => Self::of(error),
            NotResumed::Stored(error) => error.into(),
        }
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl StdError for Damage {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source()
    }
}

impl Exit {
    /// The code of an error: 1 where an archive is damaged, 2 where the user's configuration is at fault, else 3.
    fn of_error(error: &anyhow::Error) -> Self {
        if error.chain().any(|cause| cause.is::<Damage>()) {
            return Self::Difference;
        }
        let kind = error.chain().find_map(|cause| cause.downcast_ref::<ConnectError>()).map(ConnectError::kind);
        if kind == Some(Kind::Config) { Self::Usage } else { Self::Failed }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Done => 0,
            Exit::Difference => 1,
            Exit::Usage => 2,
            Exit::Failed => 3,
        })
    }
}

/// Cancels `stop` at the first SIGTERM or SIGINT and ends the process at the second.
pub async fn cancel_on_signal(stop: CancellationToken) {
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        tracing::warn!("signals cannot be caught; the process ends at the first one");
        return;
    };
    for count in 1.. {
        let name = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        if count == 1 {
            tracing::info!("{name}: stopping; a second signal ends the process at once");
            stop.cancel();
        } else {
            tracing::warn!("{name}: ending at once");
            std::process::exit(130);
        }
    }
}

#[allow(clippy::print_stderr, reason = "the last word of a command is for people, whatever the log level")]
fn tell(words: &str) {
    eprintln!("lakeferry: {words}");
}

/// The error and every cause that says more.
fn words(error: &anyhow::Error) -> String {
    let mut words = error.to_string();
    for cause in error.chain().map(ToString::to_string) {
        if !words.contains(&cause) {
            words = format!("{words}: {cause}");
        }
    }
    words
}

/// How a command that looks at an archive ends: whether what it found is wrong, and what kept it from finding all. The
/// words of a failure go to standard error, where the exit code is chosen too.
fn conclude(failure: Option<ConnectError>, wrong: bool) -> anyhow::Result<Exit> {
    match failure {
        Some(error) => Err(error.into()),
        None if wrong => Ok(Exit::Difference),
        None => Ok(Exit::Done),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn nothing_is_said_twice() {
        let refused = ConnectError::config("no such key").context("w.properties cannot be used");
        let error = anyhow::Error::new(ConnectError::fatal("w.properties cannot be used").caused_by(refused));
        assert_eq!(words(&error), "w.properties cannot be used: no such key");
    }

    #[test]
    fn an_error_says_2_for_the_user_and_3_for_a_service() {
        let user = anyhow::Error::new(ConnectError::config("no such key")).context("worker.properties");
        assert_eq!(Exit::of_error(&user), Exit::Usage);
        assert_eq!(Exit::of_error(&ConnectError::retriable("no broker").into()), Exit::Failed);
        assert_eq!(Exit::of_error(&anyhow::anyhow!("disk full")), Exit::Failed);
    }

    #[test]
    fn a_damaged_archive_says_1_and_an_outage_that_lasts_does_not() {
        let altered = || ConnectError::fatal("x.parquet was altered").caused_by(ConnectError::data("no such page"));
        let error = Damage::of(altered()).context("the restore ended early");
        assert_eq!(Exit::of_error(&error), Exit::Difference);
        assert_eq!(words(&error), "the restore ended early: x.parquet was altered: no such page");
        let away = ConnectError::fatal("no answer").caused_by(ConnectError::retriable("no answer"));
        assert_eq!(Exit::of_error(&Damage::of(away)), Exit::Failed);
        assert_eq!(Exit::of_error(&Damage::of(ConnectError::config("no such bucket"))), Exit::Usage);
        assert_eq!(Exit::of_error(&altered().into()), Exit::Failed, "who did not read an archive");
        // Who goes on with a replay reads the archive, and what somebody else stored.
        let resumed = |why| Exit::of_error(&Damage::of_resuming(why));
        assert_eq!(resumed(NotResumed::Archive(altered())), Exit::Difference);
        assert_eq!(resumed(NotResumed::Stored(ConnectError::fatal("no group"))), Exit::Failed);
    }
}
