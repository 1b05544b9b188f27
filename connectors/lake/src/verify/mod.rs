//! Whether an archive is what its manifests say, and whether these are what a writer can have written. Called by
//! `lakeferry verify`.
//!
//! Three levels, each with all that is below it: [`Level::Manifest`] reads the chains ([`chains`]), [`Level::Objects`]
//! reads every byte of every file, [`Level::Content`] decodes every row ([`files`]). [`compare`] sets an archived log
//! beside a topic.
//!
//! Invariant: a [`Finding`] is a fault of the archive and names the object; a store that does not answer is an error
//! and no finding. Nothing here writes, and nothing is shared with the sink but the formats themselves.

mod chains;
pub mod compare;
mod files;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

use lakeferry_api::{ConnectError, Result, TopicPartition};
use serde::Serialize;

use crate::manifest::model::FileEntry;
use crate::manifest::read::Archive;
use crate::source::read::Access;

/// How much is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Every manifest: hashes, chain, laws.
    Manifest,
    /// And every byte of every file: size, SHA-256.
    Objects,
    /// And every row: counts, offsets, timestamps, spans.
    Content,
}

/// A fault of the archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The topic.
    pub topic: String,
    /// The partition, where the fault is one of a partition.
    pub partition: Option<i32>,
    /// The object that is at fault, relative to the store's URL.
    pub object: String,
    /// The member of the manifest that does not fit, where it is one.
    pub field: Option<String>,
    /// What is wrong.
    pub problem: String,
}

/// What was checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Checked {
    /// Partitions.
    pub partitions: u64,
    /// Manifest entries.
    pub entries: u64,
    /// Files: looked at only above [`Level::Manifest`].
    pub files: u64,
    /// Their bytes.
    pub stored_bytes: u64,
    /// Records: decoded only at [`Level::Content`].
    pub records: u64,
    /// Objects beside the archive's that no manifest names, left by writers that died: no fault.
    pub unnamed_objects: u64,
    /// Their bytes.
    pub unnamed_bytes: u64,
}

/// What came of it.
#[derive(Debug, Clone, Default)]
pub struct Verification {
    /// What was checked.
    pub checked: Checked,
    /// What is wrong; empty: nothing.
    pub findings: Vec<Finding>,
}

/// Hears of progress.
pub trait Listener: Send + Sync {
    /// That many more bytes of files will be read.
    fn expect(&self, bytes: u64);
    /// That many were.
    fn advance(&self, bytes: u64);
}

/// The parts that every check needs.
struct Bench<'a> {
    access: &'a Access,
    archive: &'a Archive,
    listener: &'a dyn Listener,
}

/// One file to check.
struct FileCase {
    partition: TopicPartition,
    /// The entry that names it, as an object.
    entry: String,
    /// Its place in that entry.
    at: usize,
    file: Arc<FileEntry>,
    cluster_id: String,
    topic_id: Option<String>,
}

/// Checks `topics` of an archive, all where it is empty; what comes of it is added to `verification`.
///
/// # Errors
/// `Config` where a topic is not archived; otherwise as [`explain`](crate::store::explain). What was found until then
/// is in `verification`.
pub async fn verify(
    access: &Access,
    archive: &Archive,
    (topics, level): (&[String], Level),
    listener: &dyn Listener,
    verification: &mut Verification,
) -> Result<()> {
    let bench = Bench { access, archive, listener };
    let mut cases = Vec::new();
    for topic in chains::topics(&bench, topics).await? {
        cases.extend(chains::check_topic(&bench, (&topic, !topics.is_empty()), verification).await?);
    }
    if level > Level::Manifest {
        listener.expect(cases.iter().map(|case| case.file.stored_bytes).fold(0, u64::saturating_add));
        files::check(&bench, cases, level, verification).await?;
    }
    Ok(())
}

impl Verification {
    fn add(&mut self, partition: &TopicPartition, object: impl Into<String>, problem: impl Into<String>) {
        self.add_field(partition, object, None, problem);
    }

    fn add_field(
        &mut self,
        partition: &TopicPartition,
        object: impl Into<String>,
        field: Option<String>,
        problem: impl Into<String>,
    ) {
        self.findings.push(Finding {
            topic: partition.topic.to_string(),
            partition: Some(partition.partition),
            object: object.into(),
            field,
            problem: problem.into(),
        });
    }
}

impl FileCase {
    fn field(&self, member: &str) -> Option<String> {
        Some(format!("files[{}].{member}", self.at))
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.field {
            Some(field) => write!(f, "{}: {field}: {}", self.object, self.problem),
            None => write!(f, "{}: {}", self.object, self.problem),
        }
    }
}

fn no_such_topic(topic: &str, archived: &[String]) -> ConnectError {
    let list = if archived.is_empty() { "none".to_owned() } else { archived.join(", ") };
    ConnectError::config(format!("--topic {topic}: there is no archive of it; archived are: {list}"))
}
