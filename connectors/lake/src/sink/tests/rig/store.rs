//! A store in memory that fails on request.

use super::*;

/// What happens to the next matching write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Fault {
    /// It fails before it takes place.
    Before,
    /// It takes place and its reply is lost.
    After,
    /// It is refused for lack of a permission.
    Denied,
}

/// A store in memory that counts writes and fails on request.
#[derive(Debug, Default)]
pub(in super::super) struct FaultyStore {
    inner: InMemory,
    pub(in super::super) writes: AtomicU64,
    /// Uploads in parts that are under way: begun, but neither completed nor aborted.
    pub(in super::super) unfinished: Arc<AtomicU64>,
    /// Faults still to come, each for the next write whose path contains the text.
    pub(in super::super) faults: Mutex<Vec<(&'static str, Fault)>>,
    /// What each read takes by this clock, where that is anything.
    pub(in super::super) latency: OnceLock<(Arc<ManualClock>, Duration)>,
    pub(in super::super) reads: AtomicU64,
    /// What each put takes by this clock, where that is anything.
    pub(in super::super) put_latency: OnceLock<(Arc<ManualClock>, Duration)>,
    /// Puts that are under way, and how many were at the most.
    puts: AtomicU64,
    pub(in super::super) most_puts: AtomicU64,
}

impl FaultyStore {
    fn next_fault(&self, path: &Path) -> Option<Fault> {
        let mut faults = self.faults.lock().unwrap();
        let at = faults.iter().position(|(part, _)| path.as_ref().contains(part))?;
        Some(faults.remove(at).1)
    }

    fn lost() -> object_store::Error {
        object_store::Error::Generic { store: "faulty", source: "the connection was cut".into() }
    }
}

impl fmt::Display for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FaultyStore")
    }
}

#[async_trait]
impl ObjectStore for FaultyStore {
    async fn put_opts(&self, path: &Path, payload: PutPayload, options: PutOptions) -> object_store::Result<PutResult> {
        self.writes.fetch_add(1, Ordering::SeqCst);
        if let Some((clock, latency)) = self.put_latency.get() {
            self.most_puts.fetch_max(self.puts.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            clock.sleep(*latency).await;
            self.puts.fetch_sub(1, Ordering::SeqCst);
        }
        let fault = self.next_fault(path);
        if fault == Some(Fault::Before) {
            return Err(Self::lost());
        }
        if fault == Some(Fault::Denied) {
            return Err(object_store::Error::PermissionDenied { path: path.to_string(), source: "403".into() });
        }
        let result = self.inner.put_opts(path, payload, options).await;
        if fault == Some(Fault::After) { Err(Self::lost()) } else { result }
    }
    async fn put_multipart_opts(
        &self,
        path: &Path,
        options: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        self.writes.fetch_add(1, Ordering::SeqCst);
        let upload = self.inner.put_multipart_opts(path, options).await?;
        self.unfinished.fetch_add(1, Ordering::SeqCst);
        Ok(Box::new(CountedUpload { upload, unfinished: Arc::clone(&self.unfinished) }))
    }
    async fn get_opts(&self, path: &Path, options: GetOptions) -> object_store::Result<GetResult> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        if let Some((clock, latency)) = self.latency.get() {
            clock.sleep(*latency).await;
        }
        self.inner.get_opts(path, options).await
    }
    fn delete_stream(
        &self,
        paths: BoxStream<'static, object_store::Result<Path>>,
    ) -> BoxStream<'static, object_store::Result<Path>> {
        self.writes.fetch_add(1, Ordering::SeqCst);
        self.inner.delete_stream(paths)
    }
    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        self.inner.list(prefix)
    }
    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> object_store::Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }
    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> object_store::Result<()> {
        self.writes.fetch_add(1, Ordering::SeqCst);
        self.inner.copy_opts(from, to, options).await
    }
}

/// An upload in parts that says when it is over.
#[derive(Debug)]
struct CountedUpload {
    upload: Box<dyn MultipartUpload>,
    unfinished: Arc<AtomicU64>,
}

#[async_trait]
impl MultipartUpload for CountedUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        self.upload.put_part(data)
    }
    async fn complete(&mut self) -> object_store::Result<PutResult> {
        self.unfinished.fetch_sub(1, Ordering::SeqCst);
        self.upload.complete().await
    }
    async fn abort(&mut self) -> object_store::Result<()> {
        self.unfinished.fetch_sub(1, Ordering::SeqCst);
        self.upload.abort().await
    }
}
