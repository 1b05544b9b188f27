//! What writers that died leave where no listing of objects shows it: uploads in parts that nobody will complete (S3),
//! and staged files (`file://`, HDFS). Opened together with the store; used by the sweep and by `inspect` alone.
//!
//! Nothing here judges whether something may go: it lists, and removes what it is told to.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use lakeferry_api::Result;
use object_store::path::Path;

use super::staged::Purpose;

/// What a store may hold besides objects.
#[derive(Debug, Clone, Default)]
pub struct Leftovers {
    /// Uploads in parts, where the store keeps them apart from objects.
    pub uploads: Option<Arc<dyn OpenUploads>>,
    /// Staged files, where the store writes by way of them.
    pub staging: Option<Arc<dyn Staging>>,
}

/// An upload in parts that was begun and neither completed nor aborted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenUpload {
    /// The object that it would become.
    pub path: Path,
    /// Its id.
    pub id: String,
    /// When it was begun, as the store says it.
    pub begun_at: String,
}

/// The uploads in parts of a store.
#[async_trait]
pub trait OpenUploads: Debug + Send + Sync {
    /// Those whose object would lie below `folder`.
    ///
    /// # Errors
    /// As [`explain`](super::explain).
    async fn list(&self, folder: &Path) -> Result<Vec<OpenUpload>>;

    /// Ends one, with all its parts; one that has ended meanwhile is none.
    ///
    /// # Errors
    /// As [`explain`](super::explain).
    async fn abort(&self, upload: &OpenUpload) -> Result<()>;
}

/// A file that was to be renamed once it was whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StagedFile {
    /// Its name in the staging folder.
    pub name: String,
    /// What it was to become, where its name says so.
    pub purpose: Option<Purpose>,
    /// Its size, as far as the store knows it.
    pub bytes: u64,
    /// When it was last changed, in milliseconds since the Unix epoch. HDFS says here when it was begun, until it is
    /// closed.
    pub modified_ms: i64,
}

/// The staging folder of a store.
#[async_trait]
pub trait Staging: Debug + Send + Sync {
    /// Every file in it.
    ///
    /// # Errors
    /// As [`explain`](super::explain).
    async fn list(&self) -> Result<Vec<StagedFile>>;

    /// Removes one; one that is gone by now is none.
    ///
    /// # Errors
    /// As [`explain`](super::explain).
    async fn remove(&self, file: &StagedFile) -> Result<()>;

    /// How long the store lets a writer that says nothing hold its file.
    fn lease(&self) -> Duration;
}
