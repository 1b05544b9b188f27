//! The staging folders that [`Staged`](super::staged::Staged) writes by way of, listed and tidied: of a local disk by
//! the system's own calls, since `LocalFileSystem` hides what it writes to, and of HDFS through its store.

use std::collections::BTreeMap;
use std::io::{Error as IoError, ErrorKind, Result as IoResult};
use std::path::{Path as FsPath, PathBuf};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use async_trait::async_trait;
use futures::TryStreamExt;
use lakeferry_api::Result;
use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt};

use super::explain;
use super::leftovers::{StagedFile, Staging};
use super::site;
use super::staged::{Purpose, STAGING};

/// How long HDFS lets a silent writer hold its file: the setting, and what holds where nobody sets it.
const LEASE_KEY: &str = "dfs.namenode.lease-hard-limit-sec";
const LEASE_SECONDS: u64 = 20 * 60;

/// The staging folder of a local disk.
#[derive(Debug)]
pub(super) struct LocalStaging {
    folder: PathBuf,
}

/// The staging folder of an HDFS.
#[derive(Debug)]
pub(super) struct HdfsStaging<S> {
    /// Shows staged files.
    pub(super) store: Arc<S>,
    pub(super) lease: Duration,
}

impl LocalStaging {
    /// The one below `root`.
    pub(super) fn below(root: &FsPath) -> Self {
        Self { folder: root.join(STAGING) }
    }

    async fn read(&self) -> IoResult<Vec<StagedFile>> {
        let mut files = Vec::new();
        let mut entries = match tokio::fs::read_dir(&self.folder).await {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(files),
            Err(error) => return Err(error),
        };
        while let Some(entry) = entries.next_entry().await? {
            let Ok(name) = entry.file_name().into_string() else { continue };
            match entry.metadata().await {
                Ok(meta) if meta.is_file() => {
                    let modified = meta.modified()?.duration_since(UNIX_EPOCH).map_err(IoError::other)?;
                    let (purpose, modified_ms) = (Purpose::of(&name), modified.as_millis() as i64);
                    files.push(StagedFile { purpose, name, bytes: meta.len(), modified_ms });
                }
                Ok(_) => {}
                // Its writer was faster.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(files)
    }

    fn failed(&self, doing: &str, error: IoError) -> lakeferry_api::ConnectError {
        let source = Error::Generic { store: "LocalFileSystem", source: Box::new(error) };
        explain(&format!("{doing} {}", self.folder.display()), source)
    }
}

#[async_trait]
impl Staging for LocalStaging {
    async fn list(&self) -> Result<Vec<StagedFile>> {
        self.read().await.map_err(|error| self.failed("list", error))
    }

    async fn remove(&self, file: &StagedFile) -> Result<()> {
        match tokio::fs::remove_file(self.folder.join(&file.name)).await {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(self.failed(&format!("remove {} from", file.name), error))
            }
            _ => Ok(()),
        }
    }

    /// A local disk knows of no lease: a writer is alive while it writes.
    fn lease(&self) -> Duration {
        Duration::ZERO
    }
}

#[async_trait]
impl<S: ObjectStore> Staging for HdfsStaging<S> {
    async fn list(&self) -> Result<Vec<StagedFile>> {
        let listed: Vec<_> = self
            .store
            .list(Some(&Path::from(STAGING)))
            .try_collect()
            .await
            .map_err(|error| explain(&format!("list {STAGING}"), error))?;
        let file = |meta: object_store::ObjectMeta| {
            let name = meta.location.filename()?.to_owned();
            let (bytes, modified_ms) = (meta.size, meta.last_modified.timestamp_millis());
            Some(StagedFile { purpose: Purpose::of(&name), name, bytes, modified_ms })
        };
        Ok(listed.into_iter().filter_map(file).collect())
    }

    async fn remove(&self, file: &StagedFile) -> Result<()> {
        let path = Path::from(STAGING).join(file.name.as_str());
        match self.store.delete(&path).await {
            Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(explain(&format!("remove {path}"), error)),
        }
    }

    fn lease(&self) -> Duration {
        self.lease
    }
}

/// The hard limit of leases that `options` or Hadoop's configuration name, else HDFS's own.
pub(super) fn lease_of(options: &BTreeMap<String, String>, hadoop_conf_dir: Option<&str>) -> Duration {
    let configured = || site::setting(&site::folder(hadoop_conf_dir)?, LEASE_KEY)?.parse().ok();
    let seconds = options.get(LEASE_KEY).and_then(|value| value.trim().parse().ok()).or_else(configured);
    Duration::from_secs(seconds.unwrap_or(LEASE_SECONDS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lease_is_the_clusters() {
        let options = BTreeMap::from([(LEASE_KEY.to_owned(), "90".to_owned())]);
        assert_eq!(lease_of(&options, None), Duration::from_secs(90));
        assert_eq!(lease_of(&BTreeMap::new(), Some("/no/such/folder")), Duration::from_secs(LEASE_SECONDS));
    }
}
