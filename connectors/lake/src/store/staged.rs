//! A decorator for file systems: whatever is written goes to a name of its own in `.tmp/`, and gets its real name in
//! one atomic step when it is whole.
//!
//! Invariants: no reader sees an object that is not whole; `PutMode::Create` is a rename that never overwrites, so one
//! writer of a name wins; a staged file whose writing did not end well is never renamed; and no staged name is used
//! twice, so a sweeper that removes one can never make two writers share it. A staged name says what the file is to
//! become ([`Purpose`]), so that the sweep can ask the right chain about it. `.tmp/` is left out of listings.
//!
//! What it does not do: settle a doubt. A rename that failed may have happened; the staged file is then removed if it
//! is still there, which takes nothing back, and the caller reads the target.

use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt,
    PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, RenameTargetMode, Result,
    UploadPart,
};
use sha2::{Digest as _, Sha256};

/// The folder of what is being written.
pub(super) const STAGING: &str = ".tmp";
/// A longer name than this is not repeated in a staged name, which must stay below the 255 bytes of file systems.
const MAX_NAME: usize = 120;

/// What a staged file was to become.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Purpose {
    /// See [`Purpose::folder_mark`].
    pub folder_mark: u64,
    /// The name in that folder.
    pub name: String,
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Staged<S> {
    inner: Arc<S>,
    names: Names,
}

impl<S> Staged<S> {
    /// `inner` must rename atomically, without overwrite where it is asked to.
    pub(super) fn new(inner: S) -> Self {
        Self { inner: Arc::new(inner), names: Names::new() }
    }

    /// The store below, which shows the staged files too.
    pub(super) fn inner(&self) -> Arc<S> {
        Arc::clone(&self.inner)
    }
}

impl<S> fmt::Display for Staged<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Staged")
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<S: ObjectStore> ObjectStore for Staged<S> {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let target_mode = match opts.mode {
            PutMode::Create => RenameTargetMode::Create,
            PutMode::Overwrite => RenameTargetMode::Overwrite,
            PutMode::Update(_) => return self.inner.put_opts(location, payload, opts).await,
        };
        let staged = self.names.next(location);
        let written = self.inner.put_opts(&staged, payload, PutOptions { mode: PutMode::Overwrite, ..opts }).await;
        match written {
            Ok(result) => publish(&*self.inner, &staged, location, target_mode).await.map(|()| result),
            Err(error) => {
                discard(&*self.inner, &staged).await;
                Err(error)
            }
        }
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        let staged = self.names.next(location);
        let upload = self.inner.put_multipart_opts(&staged, opts).await?;
        Ok(Box::new(StagedUpload { inner: Arc::clone(&self.inner), upload, staged, location: location.clone() }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.inner.get_ranges(location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        published(prefix, self.inner.list(prefix))
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        published(prefix, self.inner.list_with_offset(prefix, offset))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let mut listed = self.inner.list_with_delimiter(prefix).await?;
        listed.common_prefixes.retain(|path| path.as_ref() != STAGING);
        Ok(listed)
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.inner.rename_opts(from, to, options).await
    }
}

/// An upload to a staged name.
#[derive(Debug)]
struct StagedUpload<S> {
    inner: Arc<S>,
    upload: Box<dyn MultipartUpload>,
    staged: Path,
    location: Path,
}

#[async_trait]
impl<S: ObjectStore> MultipartUpload for StagedUpload<S> {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        self.upload.put_part(data)
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let result = self.upload.complete().await?;
        // Names of data objects never repeat: one that is taken means that something is wrong, so nothing is
        // overwritten.
        publish(&*self.inner, &self.staged, &self.location, RenameTargetMode::Create).await?;
        Ok(result)
    }

    async fn abort(&mut self) -> Result<()> {
        self.upload.abort().await
    }
}

async fn publish(store: &impl ObjectStore, staged: &Path, to: &Path, target_mode: RenameTargetMode) -> Result<()> {
    let renamed = store.rename_opts(staged, to, RenameOptions { target_mode, ..RenameOptions::default() }).await;
    match renamed {
        Ok(()) => Ok(()),
        // Not `to` is missing, and it may well be there by now: the caller looks, and writes the same again.
        Err(Error::NotFound { .. }) => {
            let text =
                format!("{staged}, which was to become {to}, is gone: swept away, or renamed by a request before");
            Err(Error::Generic { store: "Staged", source: text.into() })
        }
        Err(error) => {
            discard(store, staged).await;
            Err(error)
        }
    }
}

async fn discard(store: &impl ObjectStore, staged: &Path) {
    match store.delete(staged).await {
        Ok(()) | Err(Error::NotFound { .. }) => {}
        Err(error) => tracing::debug!(%staged, %error, "a staged file stays until the sweep"),
    }
}

/// Leaves out what is being written, unless the listing asks for just that.
fn published(
    prefix: Option<&Path>,
    listed: BoxStream<'static, Result<ObjectMeta>>,
) -> BoxStream<'static, Result<ObjectMeta>> {
    if prefix.is_some_and(|prefix| !prefix.is_root()) {
        return listed;
    }
    let is_staged = |path: &Path| path.parts().next().is_some_and(|part| part.as_ref() == STAGING);
    listed.filter(move |meta| std::future::ready(!meta.as_ref().is_ok_and(|meta| is_staged(&meta.location)))).boxed()
}

/// Names that no other writer has or will have.
#[derive(Debug)]
struct Names {
    instance: u128,
    used: AtomicU64,
}

impl Names {
    fn new() -> Self {
        // The standard library's door to the system's randomness. Nothing but uniqueness hangs on it, and no simulation
        // runs on a store that is staged.
        let random = || u128::from(RandomState::new().build_hasher().finish());
        Self { instance: random() << 64 | random(), used: AtomicU64::new(0) }
    }

    /// A new name for what becomes `location`.
    fn next(&self, location: &Path) -> Path {
        let number = self.used.fetch_add(1, Ordering::Relaxed);
        let unique = format!("{STAGING}/{:032x}-{number}", self.instance);
        let (folder, name) = location.as_ref().rsplit_once('/').unwrap_or(("", location.as_ref()));
        let telling = name.len() <= MAX_NAME && !name.contains('#');
        let staged = match telling {
            true => format!("{unique}-{:016x}-{name}", Purpose::mark(folder)),
            false => unique,
        };
        Path::parse(&staged).unwrap_or_else(|_| Path::from(staged))
    }
}

impl Purpose {
    /// What stands for `folder` in a staged name, which has no room for it: the first 64 bits of its SHA-256.
    pub fn folder_mark(folder: &Path) -> u64 {
        Self::mark(folder.as_ref())
    }

    fn mark(folder: &str) -> u64 {
        let digest = Sha256::digest(folder.as_bytes());
        digest.iter().take(8).fold(0, |mark, byte| mark << 8 | u64::from(*byte))
    }

    /// The purpose that a name in the staging folder tells. Stores decorate it while they write: `name#1` on a local
    /// disk, `.name.tmp.1` on HDFS.
    pub(super) fn of(name: &str) -> Option<Self> {
        let name = match name.strip_prefix('.') {
            Some(inner) => inner.rsplit_once(".tmp.")?.0,
            None => name.split_once('#').map_or(name, |(name, _)| name),
        };
        let mut parts = name.splitn(4, '-');
        let (instance, number, mark, name) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        u128::from_str_radix(instance, 16).ok().filter(|_| instance.len() == 32)?;
        number.parse::<u64>().ok()?;
        let folder_mark = u64::from_str_radix(mark, 16).ok().filter(|_| mark.len() == 16)?;
        Some(Self { folder_mark, name: name.to_owned() })
    }
}

#[cfg(test)]
mod tests;
