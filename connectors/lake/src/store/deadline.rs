//! A decorator that ends every request in bounded time, for a client that waits for ever on a peer that went silent
//! (an HDFS client on a NameNode whose machine lost its network).
//!
//! A write that ran out of time is in doubt like any that failed: it may still happen. Time is the runtime's own here:
//! the limit guards against a real network, and no simulation runs on one.

use std::fmt;
use std::future::Future;
use std::ops::Range;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result, UploadPart,
};

/// What one request may take; a put or a part carries some MiB at most.
const LIMIT: Duration = Duration::from_secs(60);

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Deadline<S> {
    inner: S,
    limit: Duration,
}

impl<S> Deadline<S> {
    /// `inner`, with the usual limit.
    pub(super) fn new(inner: S) -> Self {
        Self { inner, limit: LIMIT }
    }
}

impl<S> fmt::Display for Deadline<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Deadline")
    }
}

async fn within<T>(limit: Duration, request: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(limit, request).await.unwrap_or_else(|_| {
        let text = format!("no answer within {} s", limit.as_secs_f32());
        Err(Error::Generic { store: "Deadline", source: text.into() })
    })
}

/// Every item within the limit; the stream ends after one that is not.
fn each_within<T: Send + 'static>(
    limit: Duration,
    items: BoxStream<'static, Result<T>>,
) -> BoxStream<'static, Result<T>> {
    futures::stream::unfold(Some(items), move |items| async move {
        let mut items = items?;
        match within(limit, items.next().map(Ok)).await {
            Ok(item) => Some((item?, Some(items))),
            Err(error) => Some((Err(error), None)),
        }
    })
    .boxed()
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<S: ObjectStore> ObjectStore for Deadline<S> {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        within(self.limit, self.inner.put_opts(location, payload, opts)).await
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        let upload = within(self.limit, self.inner.put_multipart_opts(location, opts)).await?;
        Ok(Box::new(DeadlineUpload { upload, limit: self.limit }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        // The bytes themselves come from the DataNodes, where the client has a limit of its own.
        within(self.limit, self.inner.get_opts(location, options)).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        within(self.limit, self.inner.get_ranges(location, ranges)).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        each_within(self.limit, self.inner.delete_stream(locations))
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        each_within(self.limit, self.inner.list(prefix))
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        each_within(self.limit, self.inner.list_with_offset(prefix, offset))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        within(self.limit, self.inner.list_with_delimiter(prefix)).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        within(self.limit, self.inner.copy_opts(from, to, options)).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        within(self.limit, self.inner.rename_opts(from, to, options)).await
    }
}

#[derive(Debug)]
struct DeadlineUpload {
    upload: Box<dyn MultipartUpload>,
    limit: Duration,
}

#[async_trait]
impl MultipartUpload for DeadlineUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        within(self.limit, self.upload.put_part(data)).boxed()
    }

    async fn complete(&mut self) -> Result<PutResult> {
        within(self.limit, self.upload.complete()).await
    }

    async fn abort(&mut self) -> Result<()> {
        within(self.limit, self.upload.abort()).await
    }
}

#[cfg(test)]
mod tests {
    use futures::TryStreamExt;
    use object_store::ObjectStoreExt;
    use object_store::memory::InMemory;
    use object_store::throttle::{ThrottleConfig, ThrottledStore};

    use super::*;

    #[tokio::test]
    async fn a_silent_store_is_given_up() {
        let silence = Duration::from_secs(3600);
        let config =
            ThrottleConfig { wait_put_per_call: silence, wait_list_per_call: silence, ..ThrottleConfig::default() };
        let silent = ThrottledStore::new(InMemory::new(), config);
        let store = Deadline { inner: silent, limit: Duration::from_millis(20) };
        let error = store.put(&Path::from("a"), "x".into()).await.unwrap_err();
        assert!(error.to_string().contains("no answer within 0.02 s"), "{error}");
        assert!(store.list(None).try_next().await.is_err());
    }

    #[tokio::test]
    async fn a_store_that_answers_is_left_alone() {
        let store = Deadline::new(InMemory::new());
        for name in ["a", "b/c"] {
            store.put(&Path::from(name), name.into()).await.unwrap();
        }
        let listed: Vec<_> = store.list(None).map_ok(|meta| meta.location.to_string()).try_collect().await.unwrap();
        assert_eq!(listed, ["a", "b/c"]);
        assert!(matches!(store.get(&Path::from("c")).await, Err(Error::NotFound { .. })));
    }
}
