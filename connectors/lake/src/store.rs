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
//! A task of the sink puts `LimitStore` around all of them: its partitions share so many requests at a time.
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
pub(crate) mod names;
mod probe;
mod s3;
mod site;
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
pub use self::names::Names;
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
    /// Finds objects by how their names begin, where the store can.
    pub names: Option<Arc<dyn Names>>,
}

/// What the row of a scheme gives.
struct Opened {
    store: Arc<dyn ObjectStore>,
    leftovers: Leftovers,
    names: Option<Arc<dyn Names>>,
}

/// What the row of a scheme opens: the URL, the options and the folder of Hadoop's configuration.
type Opener = fn(&Url, &BTreeMap<String, String>, Option<&str>) -> Result<Opened>;

/// What it looks at before anything is opened: the URL and the options.
type Checker = fn(&Url, &BTreeMap<String, String>) -> Checked<()>;

static SCHEMES: &[(&str, Opener, Checker)] = &[
    ("file", |url, options, _| local::open(url, options), local::check),
    ("s3", |url, options, _| s3::open(url, options), s3::check),
    ("s3a", |url, options, _| s3::open(url, options), s3::check),
    ("hdfs", hdfs::open, |_, options| hdfs::check(options)),
    ("memory", |url, options, _| memory::open(url, options), |_, options| no_options("memory", options)),
];

/// Settings that cannot be used.
#[derive(Debug)]
pub struct Refusal {
    /// The key to correct.
    pub key: String,
    /// Why, and how.
    pub error: ConnectError,
}

type Checked<T> = Result<T, Refusal>;

/// Opens the store at `url` with `options`, the settings `store.<option>` without their prefix. Sends nothing: use
/// [`probe`] to learn whether the store answers and keeps its promises. Call it inside the runtime that will use it.
///
/// # Errors
/// `Config`, naming the setting and the remedy.
pub fn open(url: &str, options: &BTreeMap<String, String>, hadoop_conf_dir: Option<&str>) -> Result<Lake> {
    let parsed = parse(url)?;
    let (open, _) = row(&parsed)?;
    let Opened { store, leftovers, names } = open(&parsed, options, hadoop_conf_dir)?;
    Ok(Lake { store, url: url.to_owned(), leftovers, names })
}

/// Looks at the settings of a connector as far as nobody need be asked: `url`, which must mean the same wherever the
/// worker was started, and `options` as of [`open`].
///
/// # Errors
/// The first setting that cannot be used.
pub fn check(url: &str, options: &BTreeMap<String, String>) -> Checked<()> {
    let refuse = Refusal::at("store.url");
    if !url.is_empty() && !url.contains("://") && std::path::Path::new(url).is_relative() {
        return Err(refuse(ConnectError::config(format!(
            "store.url={url} is a relative path, which depends on where the worker was started; write it as \
             file:///dir, s3://bucket/prefix or hdfs://host:port/dir"
        ))));
    }
    let parsed = parse(url).map_err(&refuse)?;
    let (_, check) = row(&parsed).map_err(refuse)?;
    check(&parsed, options)
}

impl Refusal {
    /// Its error alone.
    fn into_error(self) -> ConnectError {
        self.error
    }

    /// Makes a refusal of `key` out of an error.
    fn at(key: impl Into<String>) -> impl Fn(ConnectError) -> Self {
        let key = key.into();
        move |error| Self { key: key.clone(), error }
    }

    fn of_option(scheme: &str, option: &str) -> Self {
        Self { key: format!("store.{option}"), error: unknown_option(scheme, option) }
    }
}

fn row(url: &Url) -> Result<(Opener, Checker)> {
    let scheme = url.scheme();
    let Some((_, open, check)) = SCHEMES.iter().find(|(name, ..)| *name == scheme) else {
        let known = SCHEMES.iter().map(|(name, ..)| *name).collect::<Vec<_>>().join(", ");
        let why = match scheme {
            "gs" | "abfs" | "abfss" | "az" => format!("{scheme}:// is not built in yet"),
            _ => format!("no store is called {scheme}://"),
        };
        return Err(ConnectError::config(format!("store.url={url} cannot be opened: {why}; use one of: {known}")));
    };
    Ok((*open, *check))
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

/// Of a store that has no options.
fn no_options(scheme: &str, options: &BTreeMap<String, String>) -> Checked<()> {
    options.keys().next().map_or(Ok(()), |option| Err(Refusal::of_option(scheme, option)))
}

fn unknown_option(scheme: &str, option: &str) -> ConnectError {
    ConnectError::config(format!("store.{option} is not an option of {scheme}:// stores; remove or correct it"))
}

#[cfg(test)]
mod tests;
