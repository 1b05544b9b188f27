//! The one error type that crosses a seam. A loop acts on the [`Kind`] alone; the text is for people.
//!
//! Invariant: every error that reaches a loop has a kind (A9). The message names the thing, the value and, where
//! there is one, the remedy. Low-level causes travel in `source` and end up in the trace of a status.

use std::error::Error as StdError;
use std::fmt;

/// What the receiver of an error must do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Try the same thing again later; nothing was lost and nothing half done is visible.
    Retriable,
    /// One record cannot be processed; tolerance decides.
    Data,
    /// The user's configuration is wrong; retrying cannot help.
    Config,
    /// The request does not fit the present state (REST: 409).
    Conflict,
    /// The thing does not exist (REST: 404).
    NotFound,
    /// Another writer owns this now; discard and let the group decide.
    Fenced,
    /// Stop: going on could damage data.
    Fatal,
}

/// An error with a kind, a message and its cause.
#[derive(Debug)]
pub struct ConnectError {
    kind: Kind,
    message: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// The result of everything that can fail across a seam.
pub type Result<T, E = ConnectError> = std::result::Result<T, E>;

impl ConnectError {
    /// An error of `kind` whose message names the thing, the value and the remedy.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), source: None }
    }

    /// See [`Kind::Retriable`].
    pub fn retriable(message: impl Into<String>) -> Self {
        Self::new(Kind::Retriable, message)
    }

    /// See [`Kind::Data`].
    pub fn data(message: impl Into<String>) -> Self {
        Self::new(Kind::Data, message)
    }

    /// See [`Kind::Config`].
    pub fn config(message: impl Into<String>) -> Self {
        Self::new(Kind::Config, message)
    }

    /// See [`Kind::Conflict`].
    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(Kind::Conflict, message)
    }

    /// See [`Kind::NotFound`].
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(Kind::NotFound, message)
    }

    /// See [`Kind::Fenced`].
    pub fn fenced(message: impl Into<String>) -> Self {
        Self::new(Kind::Fenced, message)
    }

    /// See [`Kind::Fatal`].
    pub fn fatal(message: impl Into<String>) -> Self {
        Self::new(Kind::Fatal, message)
    }

    /// The same error with its cause attached.
    #[must_use]
    pub fn caused_by(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The same kind, with `context` said first and this error as its cause.
    #[must_use]
    pub fn context(self, context: impl Into<String>) -> Self {
        Self { kind: self.kind, message: context.into(), source: Some(Box::new(self)) }
    }

    /// What the receiver must do.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The message without its causes.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// True where the same call may succeed later.
    pub fn is_retriable(&self) -> bool {
        self.kind == Kind::Retriable
    }

    /// The message and every cause that says more, one a line, as a status trace shows it.
    pub fn trace(&self) -> String {
        let mut text = self.message.clone();
        let mut cause = self.source();
        while let Some(error) = cause {
            let line = error.to_string();
            if !text.contains(&line) {
                text.push_str("\nCaused by: ");
                text.push_str(&line);
            }
            cause = error.source();
        }
        text
    }
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl StdError for ConnectError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

/// Adds words and a kind to any error on its way up.
pub trait Context<T> {
    /// Turns the error into one of `kind` whose message is `message()` and whose cause is the original.
    fn context(self, kind: Kind, message: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<Box<dyn StdError + Send + Sync>>> Context<T> for std::result::Result<T, E> {
    fn context(self, kind: Kind, message: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| ConnectError::new(kind, message()).caused_by(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_names_every_cause_once() {
        let io = std::io::Error::other("disk full");
        let error = ConnectError::retriable("cannot write part 3").caused_by(io).context("upload of orders/0.parquet");
        assert_eq!(error.kind(), Kind::Retriable);
        assert_eq!(error.trace(), "upload of orders/0.parquet\nCaused by: cannot write part 3\nCaused by: disk full");
        let said = ConnectError::fatal("no space: disk full; make room").caused_by(std::io::Error::other("disk full"));
        assert_eq!(said.trace(), "no space: disk full; make room");
    }
}
