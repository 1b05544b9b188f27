//! The two ways in which the kit can fail, told apart because only one of them may skip a test.
//!
//! `Missing`: the machine lacks a toolchain. `Failed`: everything else (no network, no readiness in time, a service
//! that died), with the end of the service's log in the text. Both are `Clone`: a shared service that failed to start
//! tells everybody who asks.

use std::fmt;

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, Clone)]
pub enum Error {
    Missing(Missing),
    Failed(String),
}

/// A toolchain that this machine does not have.
#[derive(Debug, Clone)]
pub struct Missing {
    /// What is not there, as one would type it: `java`, `mvn`, `go`, `python3`.
    pub tool: &'static str,
    /// What the kit wanted it for.
    pub purpose: String,
    /// What to install.
    pub remedy: &'static str,
}

impl Error {
    pub fn failed(text: impl Into<String>) -> Error {
        Error::Failed(text.into())
    }

    /// The same failure, told from one level higher.
    pub fn during(self, what: impl fmt::Display) -> Error {
        match self {
            Error::Failed(why) => Error::Failed(format!("{what}: {why}")),
            missing => missing,
        }
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} needs `{}`, which this machine lacks ({})", self.purpose, self.tool, self.remedy)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Missing(missing) => missing.fmt(f),
            Error::Failed(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for Error {}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Error {
        Error::Failed(error.to_string())
    }
}
