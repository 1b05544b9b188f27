//! A store in memory that fails on demand, and a clock that does not wait: for the tests of this crate.

use std::collections::VecDeque;
use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use lakeferry_api::Clock;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result,
};

/// What goes wrong with one put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It is refused.
    Refuses,
    /// It happens, and its reply is lost.
    LosesReply,
    /// It happens, and is sent again by somebody on the way, who passes on the second answer.
    SendsTwice,
    /// Its reply is lost, and it happens before the next put.
    Late,
    /// It overwrites, whatever its mode.
    IgnoresConditions,
    /// It is refused, and so is the next read.
    RefusesReadsToo,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(crate) struct Faulty {
    inner: InMemory,
    script: Mutex<VecDeque<Option<Fault>>>,
    always: Mutex<Option<Fault>>,
    late: Mutex<Vec<(Path, PutPayload, PutOptions)>>,
    reads_refused: AtomicU64,
    puts: AtomicU64,
    reads: AtomicU64,
    listed: Mutex<Vec<String>>,
    objects_listed: Arc<AtomicU64>,
}

impl Faulty {
    /// What happens to the next puts; those after are whole again.
    pub(crate) fn next(&self, faults: impl IntoIterator<Item = Option<Fault>>) {
        self.script.lock().unwrap().extend(faults);
    }

    /// What happens to every put that has nothing of its own.
    pub(crate) fn always(&self, fault: Option<Fault>) {
        *self.always.lock().unwrap() = fault;
    }

    /// Refuses the next `count` reads.
    pub(crate) fn refuse_reads(&self, count: u64) {
        self.reads_refused.store(count, Ordering::SeqCst);
    }

    /// How many puts were asked for.
    pub(crate) fn puts(&self) -> u64 {
        self.puts.load(Ordering::SeqCst)
    }

    /// How many objects were asked for.
    pub(crate) fn reads(&self) -> u64 {
        self.reads.load(Ordering::SeqCst)
    }

    /// The folders that were listed since this was asked last.
    pub(crate) fn take_listed(&self) -> Vec<String> {
        std::mem::take(&mut self.listed.lock().unwrap())
    }

    /// How many objects listings gave so far, those by folder aside.
    pub(crate) fn objects_listed(&self) -> u64 {
        self.objects_listed.load(Ordering::SeqCst)
    }

    fn note_listing(&self, prefix: Option<&Path>) {
        self.listed.lock().unwrap().extend(prefix.map(ToString::to_string));
    }

    /// The names of all objects.
    pub(crate) async fn names(&self) -> Vec<String> {
        let objects: Vec<_> = self.inner.list(None).try_collect().await.unwrap();
        objects.into_iter().map(|meta| meta.location.to_string()).collect()
    }

    async fn land(&self) {
        let late = std::mem::take(&mut *self.late.lock().unwrap());
        for (location, payload, opts) in late {
            // Too late, where the name was taken.
            let _ = self.inner.put_opts(&location, payload, opts).await;
        }
    }

    fn read(&self) -> Result<()> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        let one_less = |left: u64| left.checked_sub(1);
        match self.reads_refused.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less) {
            Ok(_) => Err(failed()),
            Err(_) => Ok(()),
        }
    }
}

fn failed() -> Error {
    Error::Generic { store: "Faulty", source: "connection reset".into() }
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Faulty")
    }
}

#[async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        self.puts.fetch_add(1, Ordering::SeqCst);
        self.land().await;
        let scripted = self.script.lock().unwrap().pop_front();
        let fault = scripted.unwrap_or(*self.always.lock().unwrap());
        match fault {
            None => self.inner.put_opts(location, payload, opts).await,
            Some(Fault::Refuses) => Err(failed()),
            Some(Fault::LosesReply) => {
                self.inner.put_opts(location, payload, opts).await?;
                Err(failed())
            }
            Some(Fault::SendsTwice) => {
                let _ = self.inner.put_opts(location, payload.clone(), opts.clone()).await;
                self.inner.put_opts(location, payload, opts).await
            }
            Some(Fault::Late) => {
                self.late.lock().unwrap().push((location.clone(), payload, opts));
                Err(failed())
            }
            Some(Fault::IgnoresConditions) => {
                self.inner.put_opts(location, payload, PutOptions { mode: PutMode::Overwrite, ..opts }).await
            }
            Some(Fault::RefusesReadsToo) => {
                self.refuse_reads(1);
                Err(failed())
            }
        }
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, opts).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.read()?;
        self.inner.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.read()?;
        self.inner.get_ranges(location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.note_listing(prefix);
        let count = Arc::clone(&self.objects_listed);
        self.inner
            .list(prefix)
            .inspect_ok(move |_| count.store(count.load(Ordering::SeqCst) + 1, Ordering::SeqCst))
            .boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.note_listing(prefix);
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.inner.rename_opts(from, to, options).await
    }
}

/// A clock that counts what is slept on it.
#[derive(Debug, Default)]
pub(crate) struct CountingClock {
    slept_ms: AtomicU64,
}

#[async_trait]
impl Clock for CountingClock {
    fn now_ms(&self) -> i64 {
        1_763_712_000_000 + i64::try_from(self.slept_ms.load(Ordering::SeqCst)).unwrap()
    }

    fn monotonic(&self) -> Duration {
        Duration::from_millis(self.slept_ms.load(Ordering::SeqCst))
    }

    async fn sleep(&self, duration: Duration) {
        self.slept_ms.fetch_add(u64::try_from(duration.as_millis()).unwrap(), Ordering::SeqCst);
    }
}
