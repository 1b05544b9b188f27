//! What the commands that look at a lake have in common: where it is, how to reach it, and which topics are meant.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use lakeferry_api::error::Context as _;
use lakeferry_api::{Config, ConnectError, Kind, Result};
use lakeferry_lake::config::LakeSettings;
use lakeferry_lake::layout::Layout;
use lakeferry_lake::manifest::ManifestStore;
use lakeferry_lake::manifest::read::Archive;
use lakeferry_lake::store::leftovers::Leftovers;

use crate::clock::SystemClock;
use crate::config::properties;

/// A properties file that a command was given.
///
/// # Errors
/// `Config` where it cannot be read.
pub(crate) fn read_properties(file: &Path) -> Result<Config> {
    let bytes = properties::read(file).context(Kind::Config, || format!("cannot read {}", file.display()))?;
    properties::parse(&bytes).map_err(|error| error.context(format!("cannot read {}", file.display())))
}

/// The Kafka client properties of a command: those of the file it was given, and the servers.
///
/// # Errors
/// `Config` where the file cannot be read.
pub(crate) fn client_properties(servers: Option<&str>, file: Option<&Path>) -> Result<Config> {
    let mut properties = file.map(read_properties).transpose()?.unwrap_or_default();
    if let Some(servers) = servers {
        properties.insert("bootstrap.servers".to_owned(), servers.to_owned());
    }
    Ok(properties)
}

/// The lake of a command.
#[derive(Debug, Clone, Args)]
pub(crate) struct LakeArgs {
    /// Where the lake is: file:///dir, s3://bucket/prefix, hdfs://host:port/dir
    #[arg(value_name = "LAKE_URL")]
    pub(crate) url: String,
    /// An archived topic; repeat it for several. Without it, all of them
    #[arg(long = "topic", value_name = "TOPIC")]
    pub(crate) topics: Vec<String>,
    /// A properties file with the store's options (aws_endpoint=..., hadoop.conf.dir=...)
    #[arg(long, value_name = "FILE")]
    pub(crate) store_config: Option<PathBuf>,
    /// The first folder below the URL
    #[arg(long, value_name = "FOLDER", default_value = "topics")]
    pub(crate) topics_dir: String,
}

impl LakeArgs {
    /// The whole archive below `url`, as the defaults have it.
    pub(crate) fn of(url: &str) -> Self {
        Self { url: url.to_owned(), topics: Vec::new(), store_config: None, topics_dir: "topics".to_owned() }
    }

    /// The settings that the arguments and the store's file make together. Options may be written with or without the
    /// prefix `store.` that connector configs have.
    ///
    /// # Errors
    /// `Config` where the file cannot be read.
    pub(crate) fn settings(&self) -> Result<LakeSettings> {
        let mut options = match &self.store_config {
            Some(file) => read_properties(file)?,
            None => Config::new(),
        };
        let hadoop_conf_dir = options.remove("hadoop.conf.dir");
        let options = options
            .into_iter()
            .map(|(key, value)| (key.strip_prefix("store.").map(str::to_owned).unwrap_or(key), value))
            .filter(|(key, _)| key != "url")
            .collect();
        Ok(LakeSettings { url: self.url.clone(), options, hadoop_conf_dir, topics_dir: self.topics_dir.clone() })
    }

    /// The archive itself.
    ///
    /// # Errors
    /// `Config` where the settings cannot name one.
    pub(crate) fn archive(&self) -> Result<Archive> {
        self.archive_and_leftovers().map(|(archive, _)| archive)
    }

    /// The archive, and what its store may hold besides objects.
    ///
    /// # Errors
    /// `Config` where the settings cannot name one.
    pub(crate) fn archive_and_leftovers(&self) -> Result<(Archive, Leftovers)> {
        let settings = self.settings()?;
        let layout = Layout::new(&settings.topics_dir)?;
        let lake = settings.open_lake()?;
        let manifests = ManifestStore::new(lake.store, layout, Arc::new(SystemClock::default()));
        let manifests = manifests.finding(lake.names);
        Ok((Archive::new(manifests), lake.leftovers))
    }

    /// True where `topic` is meant.
    pub(crate) fn is_asked(&self, topic: &str) -> bool {
        self.topics.is_empty() || self.topics.iter().any(|asked| asked == topic)
    }

    /// The archived topics that are meant, sorted; those whose manifests were removed, too, which nobody may pass over.
    ///
    /// # Errors
    /// `Config` where a topic that was named is not archived, or nothing is.
    pub(crate) async fn all_topics(&self, archive: &Archive) -> Result<Vec<String>> {
        let found = archive.all_topics(|topic| self.is_asked(topic)).await?;
        let unknown = self.topics.iter().find(|topic| !found.contains(topic));
        if unknown.is_none() && !found.is_empty() {
            return Ok(found);
        }
        let archived = archive.all_topics(|_| true).await?;
        Err(match unknown.filter(|_| !archived.is_empty()) {
            Some(unknown) => ConnectError::config(format!(
                "--topic {unknown}: not archived in {}; archived are: {}",
                self.url,
                archived.join(", ")
            )),
            None => ConnectError::config(format!(
                "{} holds no archive below {}/: check the URL and --topics-dir",
                self.url, self.topics_dir
            )),
        })
    }
}
