//! `hdfs://host:port/dir`, `hdfs://nameservice/dir`, or `hdfs:///dir` at `fs.defaultFS`.
//!
//! Manifests are created by [`Staged`]: a closed file of a unique name is renamed without overwrite, the one step that
//! HDFS does atomically. (A file created under its final name is seen empty until it is closed, and a writer that dies
//! leaves it cut off for good.) Names of files, sizes of blocks and the like are the cluster's own settings.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use hdfs_native::{ClientBuilder, HdfsError};
use hdfs_native_object_store::HdfsObjectStore;
use lakeferry_api::{ConnectError, Result};
use object_store::prefix::PrefixStore;
use url::Url;

use super::deadline::Deadline;
use super::leftovers::Leftovers;
use super::site;
use super::staged::Staged;
use super::staging::{HdfsStaging, lease_of};
use super::{Checked, Opened, Refusal, path_of};

/// The client's own patience with a NameNode that is away: about ten seconds, where the client alone waits minutes. The
/// task tries again after that. `store.dfs...` overrides it.
const PATIENCE: [(&str, &str); 3] = [
    ("dfs.client.failover.max.attempts", "4"),
    ("dfs.client.failover.sleep.base.millis", "500"),
    ("dfs.client.failover.sleep.max.millis", "5000"),
];

/// Looks at the options alone.
///
/// # Errors
/// Where one is unknown.
pub(super) fn check(options: &BTreeMap<String, String>) -> Checked<()> {
    let unknown = options.keys().find(|option| *option != "user" && !option.contains('.'));
    unknown.map_or(Ok(()), |option| Err(Refusal::of_option("hdfs", option)))
}

/// Opens the folder that `url` names; it is made with the first object. `options` are Hadoop's own settings, which
/// have a dot in their names, and `user`.
///
/// # Errors
/// `Config` where an option is unknown, or no NameNode is named by `url` and Hadoop's configuration.
pub(super) fn open(url: &Url, options: &BTreeMap<String, String>, hadoop_conf_dir: Option<&str>) -> Result<Opened> {
    check(options).map_err(Refusal::into_error)?;
    let mut settings: BTreeMap<&str, &str> = PATIENCE.into();
    let mut builder = ClientBuilder::new();
    for (option, value) in options {
        match option.as_str() {
            "user" => builder = builder.with_user(value),
            option => {
                settings.insert(option, value);
            }
        }
    }
    if let Some(dir) = hadoop_conf_dir.filter(|dir| !dir.is_empty()) {
        if !Path::new(dir).is_dir() {
            return Err(ConnectError::config(format!(
                "hadoop.conf.dir={dir} is no folder; name the one that holds core-site.xml and hdfs-site.xml"
            )));
        }
        builder = builder.with_config_dir(dir);
    }
    if url.has_host() {
        builder = builder.with_url(&url[..url::Position::BeforePath]);
    }
    let lease = lease_of(options, hadoop_conf_dir);
    let client = builder.with_config(settings).build().map_err(|error| {
        if let (HdfsError::XmlParseError(_) | HdfsError::IOError(_), Some(folder)) =
            (&error, site::folder(hadoop_conf_dir))
        {
            let which = site::unreadable(&folder);
            let which = which.unwrap_or_else(|| format!("core-site.xml or hdfs-site.xml in {}", folder.display()));
            let what = format!("store.url={url} cannot be opened: {which}: {error}; correct that file");
            return ConnectError::config(what).caused_by(error);
        }
        ConnectError::config(format!(
            "store.url={url} cannot be opened: {error}; name the NameNode and its port (hdfs://host:8020/dir), or set \
             hadoop.conf.dir to the folder whose files define the name service and fs.defaultFS"
        ))
        .caused_by(error)
    })?;
    let store = PrefixStore::new(Deadline::new(HdfsObjectStore::new(client)), path_of(url)?);
    let staged = Staged::new(store);
    let staging = HdfsStaging { store: staged.inner(), lease };
    let leftovers = Leftovers { uploads: None, staging: Some(Arc::new(staging)) };
    Ok(Opened { store: Arc::new(staged), leftovers, names: None })
}
