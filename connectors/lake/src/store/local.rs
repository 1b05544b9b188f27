//! `file:///dir`: a folder that exists, everything synced to disk before it counts.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lakeferry_api::{ConnectError, Result};
use object_store::local::LocalFileSystem;
use url::Url;

use super::leftovers::Leftovers;
use super::staged::Staged;
use super::staging::LocalStaging;
use super::{Checked, Opened, Refusal, no_options};

/// Opens the folder that `url` names.
///
/// # Errors
/// `Config` where it is none. It is not made: a file system that is not mounted would be mistaken for an empty archive.
pub(super) fn open(url: &Url, options: &BTreeMap<String, String>) -> Result<Opened> {
    check(url, options).map_err(Refusal::into_error)?;
    let path = path_of(url)?;
    let remedy = match std::fs::metadata(&path) {
        Ok(found) if found.is_dir() => None,
        Ok(_) => Some("it is a file; name a folder".to_owned()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Some(format!("there is no such folder; create it (mkdir -p {}) or mount its disk", quoted(&path)))
        }
        Err(error) => Some(format!("{error}; give the worker's user the right to read and write there")),
    };
    if let Some(remedy) = remedy {
        return Err(ConnectError::config(format!("store.url={url} cannot be opened: {remedy}")));
    }
    let store = LocalFileSystem::new_with_prefix(&path)
        .map_err(|error| super::explain(&format!("open {}", path.display()), error))?;
    let staging: Arc<LocalStaging> = Arc::new(LocalStaging::below(&path));
    let leftovers = Leftovers { uploads: None, staging: Some(staging) };
    Ok(Opened { store: Arc::new(Staged::new(store.with_fsync(true))), leftovers, names: None })
}

/// The path as a shell takes it for one word.
fn quoted(path: &Path) -> String {
    let path = path.display().to_string();
    let is_plain = |char: char| char.is_ascii_alphanumeric() || "/._-+,:@%=".contains(char);
    if path.chars().all(is_plain) { path } else { format!("'{}'", path.replace('\'', "'\\''")) }
}

/// Looks at the settings alone.
///
/// # Errors
/// As [`open`], but for what is on the disk.
pub(super) fn check(url: &Url, options: &BTreeMap<String, String>) -> Checked<()> {
    no_options("file", options)?;
    path_of(url).map(drop).map_err(Refusal::at("store.url"))
}

fn path_of(url: &Url) -> Result<PathBuf> {
    let refuse =
        || ConnectError::config(format!("store.url={url} names no local folder; write three slashes: file:///dir"));
    url.to_file_path().map_err(|()| refuse())
}
