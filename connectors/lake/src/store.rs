//! Opens the object store that a URL names: the scheme table, and the order of the decorators that give every store
//! one contract.
//!
//! | scheme | store | decorators, outermost first |
//! |---|---|---|
//! | `file`, or a plain path | `LocalFileSystem`, fsync on | [`Staged`](staged::Staged) |
//! | `s3`, `s3a` | `AmazonS3` | `PrefixStore` |
//! | `hdfs` | `HdfsObjectStore` | `Staged`, `PrefixStore`, [`Deadline`](deadline::Deadline) |
//! | `memory` | `InMemory`, one for each URL of the process | none |
//!
//! The contract: a put or an upload is there whole or not at all, and durable when it returns; `PutMode::Create` lets
//! one writer of a name win. An error, and `AlreadyExists` too, may stand for a write that happened: whoever must know
//! reads the object. Every request ends within a bounded time. Requests are retried here, and by nobody below.

mod answer;
mod deadline;
mod error;
mod hdfs;
pub mod leftovers;
mod local;
pub mod memory;
mod probe;
mod s3;
mod staged;
mod staging;
#[cfg(test)]
pub(crate) mod testing;
mod uploads;

use std::collections::BTreeMap;
use std::sync::Arc;

use lakeferry_api::{ConnectError, Result};
use object_store::ObjectStore;
use url::Url;

use self::leftovers::Leftovers;
pub use error::explain;
pub(crate) use error::words;
pub use probe::probe;
pub use s3::check_endpoint;
pub use staged::Purpose;

/// An open store, rooted at its URL.
#[derive(Debug, Clone)]
pub struct Lake {
    /// The store; paths are relative to the URL.
    pub store: Arc<dyn ObjectStore>,
    /// The URL, for messages.
    pub url: String,
    /// What the store may hold besides objects.
    pub leftovers: Leftovers,
}

/// What the row of a scheme gives.
struct Opened {
    store: Arc<dyn ObjectStore>,
    leftovers: Leftovers,
}

/// What the row of a scheme opens: the URL, the options and the folder of Hadoop's configuration.
type Opener = fn(&Url, &BTreeMap<String, String>, Option<&str>) -> Result<Opened>;

static SCHEMES: &[(&str, Opener)] = &[
    ("file", |url, options, _| local::open(url, options)),
    ("s3", |url, options, _| s3::open(url, options)),
    ("s3a", |url, options, _| s3::open(url, options)),
    ("hdfs", hdfs::open),
    ("memory", |url, options, _| memory::open(url, options)),
];

/// Opens the store at `url` with `options`, the settings `store.<option>` without their prefix. Sends nothing: use
/// [`probe`] to learn whether the store answers and keeps its promises. Call it inside the runtime that will use it.
///
/// # Errors
/// `Config`, naming the setting and the remedy.
pub fn open(url: &str, options: &BTreeMap<String, String>, hadoop_conf_dir: Option<&str>) -> Result<Lake> {
    let parsed = parse(url)?;
    let Opened { store, leftovers } = opener(&parsed)?(&parsed, options, hadoop_conf_dir)?;
    Ok(Lake { store, url: url.to_owned(), leftovers })
}

/// Looks at `url` alone: whether it is one, of a scheme that there is a store for.
///
/// # Errors
/// As [`open`].
pub fn check(url: &str) -> Result<()> {
    opener(&parse(url)?).map(drop)
}

fn opener(url: &Url) -> Result<Opener> {
    let scheme = url.scheme();
    let Some((_, opener)) = SCHEMES.iter().find(|(name, _)| *name == scheme) else {
        let known = SCHEMES.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
        let why = match scheme {
            "gs" | "abfs" | "abfss" | "az" => format!("{scheme}:// is not built in yet"),
            _ => format!("no store is called {scheme}://"),
        };
        return Err(ConnectError::config(format!("store.url={url} cannot be opened: {why}; use one of: {known}")));
    };
    Ok(*opener)
}

/// A URL, or a plain path of the local disk.
fn parse(url: &str) -> Result<Url> {
    let refuse = |why: String| {
        ConnectError::config(format!(
            "store.url={url} cannot be opened: {why}; write it as file:///dir, s3://bucket/prefix or hdfs://host:port/dir"
        ))
    };
    if url.is_empty() {
        return Err(refuse("it is empty".into()));
    }
    if url.contains("://") {
        let parsed = Url::parse(url).map_err(|error| refuse(error.to_string()))?;
        if !parsed.username().is_empty() || parsed.password().is_some() {
            return Err(ConnectError::config(
                "store.url carries a user name or a password; give credentials in store.<option>",
            ));
        }
        return Ok(parsed);
    }
    let path = std::path::absolute(url).map_err(|error| refuse(error.to_string()))?;
    Url::from_file_path(path).map_err(|()| refuse("it is no path".into()))
}

/// The path of `url` below its host.
fn path_of(url: &Url) -> Result<object_store::path::Path> {
    object_store::path::Path::from_url_path(url.path())
        .map_err(|error| ConnectError::config(format!("store.url={url} has no usable path: {error}")))
}

fn unknown_option(scheme: &str, option: &str) -> ConnectError {
    ConnectError::config(format!("store.{option} is not an option of {scheme}:// stores; remove or correct it"))
}

#[cfg(test)]
mod tests;
