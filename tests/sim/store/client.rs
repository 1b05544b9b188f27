//! The store as one process sees it: every request takes its time, and some go wrong.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt,
    PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart,
};
use tokio::sync::oneshot;

use super::{Accident, Point, SimStore, is_manifest, spawn};
use crate::awaits::{Stage, Stretch, seen};
use crate::process::Process;

/// What becomes of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Fine,
    /// Refused; it never happens.
    Refused,
    /// It happens, and the answer is an error.
    AnswerLost,
    /// The answer is an error, and it happens later.
    Late,
}

pub(super) struct Client {
    pub(super) store: Arc<SimStore>,
    pub(super) worker: String,
    pub(super) process: Arc<Process>,
}

impl Client {
    fn fate(&self, writes: bool) -> Fate {
        let store = &self.store;
        if store.away.load(Ordering::Relaxed) {
            return Fate::Refused;
        }
        if !store.dice.hits(store.faults.load(Ordering::Relaxed)) {
            return Fate::Fine;
        }
        match store.dice.below(if writes { 3 } else { 1 }) {
            0 => Fate::Refused,
            1 => Fate::AnswerLost,
            _ => Fate::Late,
        }
    }

    /// The entry at `path` was sent, and its number is settled, or in doubt: who loses one that publishes something
    /// asks the group whose the partition is.
    fn note_number(&self, path: &Path, entry: &Bytes, error: Option<&Error>) {
        let publishes = serde_json::from_slice(entry).is_ok_and(|entry: serde_json::Value| entry["kind"] == "commit");
        let chain = path.as_ref().rsplit_once('/').map_or("", |(chain, _)| chain);
        match error {
            None => self.process.wins(chain),
            Some(Error::AlreadyExists { .. }) if publishes => self.process.loses(chain),
            Some(_) => {}
        }
    }

    /// What comes in the way of a request at `point`.
    fn meet(&self, point: Point) -> Option<Accident> {
        let mut books = self.store.books.lock().unwrap();
        let accident = books.accidents.remove(&(self.worker.clone(), point));
        if matches!(accident, Some(Accident::Late { .. })) {
            // Its sender begins again before it knows.
            books.accidents.insert((self.worker.clone(), Point::BeforeData), Accident::Refuse);
        }
        drop(books);
        match accident {
            Some(Accident::Crash) => {
                self.store.diary.note(format!("{} is killed {point:?}", self.worker));
                self.process.crash();
            }
            Some(Accident::Stop { for_ms }) => {
                self.store.diary.note(format!("{} is stopped {point:?} for {for_ms} ms", self.worker));
                self.process.stop(self.store.clock.ms());
                let (clock, process) = (Arc::clone(&self.store.clock), Arc::clone(&self.process));
                spawn(async move {
                    clock.wait(for_ms).await;
                    process.go_on();
                });
            }
            Some(Accident::Late { .. } | Accident::Refuse) | None => {}
        }
        accident
    }

    /// Sends a request: `effect` happens at the store, whatever becomes of the sender meanwhile.
    pub(super) async fn request<T, F>(&self, what: String, points: Option<(Point, Point)>, effect: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(Arc<SimStore>) -> futures::future::BoxFuture<'static, Result<T>> + Send + 'static,
    {
        let store = Arc::clone(&self.store);
        let asked = self.process.asks(what.clone());
        let comes_to = asked.reporter();
        let mut fate = self.fate(points.is_some());
        let mut late = store.dice.between(50, if store.dice.hits(500) { 1_500 } else { 60_000 });
        if let Some((before, _)) = points {
            match self.meet(before) {
                Some(Accident::Late { for_ms }) => (fate, late) = (Fate::Late, for_ms),
                Some(Accident::Refuse) => fate = Fate::Refused,
                _ => {}
            }
            // Who is stopped or killed here sends it when it goes on, or never.
            store.clock.wait(1).await;
        }
        let slow = store.dice.hits(20);
        let there = store.dice.between(1, if slow { 3_000 } else { 12 });
        let back = store.dice.between(1, if slow { 1_000 } else { 8 });
        let (answer, answered) = oneshot::channel();
        let (worker, after, wanted) = (self.worker.clone(), points.map(|(_, after)| after), what.clone());
        let client = Client { store: Arc::clone(&store), worker: worker.clone(), process: Arc::clone(&self.process) };
        comes_to(Stage::Sent);
        spawn(async move {
            store.clock.wait(there).await;
            if fate == Fate::Refused {
                store.diary.note(format!("{worker} {what}: refused"));
                store.clock.wait(back).await;
                return drop(answer.send(Err(failed("503 Slow Down"))));
            }
            if fate == Fate::Late {
                let _ = answer.send(Err(failed("connection reset")));
                store.clock.wait(late).await;
                let outcome = effect(Arc::clone(&store)).await;
                store.diary.note(format!("{worker} {what}: late, {}", told(&outcome)));
                return;
            }
            let outcome = effect(Arc::clone(&store)).await;
            comes_to(Stage::Done);
            store.diary.note(format!("{worker} {what}: {}{}", told(&outcome), lost(fate)));
            if let Some(after) = after {
                client.meet(after);
            }
            store.clock.wait(back).await;
            let _ = answer.send(if fate == Fate::AnswerLost { Err(failed("connection reset")) } else { outcome });
        });
        let outcome = seen(answered).await.unwrap_or_else(|_| Err(failed("gone")));
        if matches!(&outcome, Err(error) if !matches!(error, Error::NotFound { .. })) {
            self.process.is_troubled(wanted, self.store.clock.ms());
        }
        match &outcome {
            Err(Error::AlreadyExists { .. }) => self.process.reach(Stretch::Lost),
            Err(_) if points.is_some() => self.process.reach(Stretch::Doubt),
            _ => {}
        }
        outcome
    }
}

fn told<T>(outcome: &Result<T>) -> &'static str {
    match outcome {
        Ok(_) => "ok",
        Err(Error::AlreadyExists { .. }) => "exists already",
        Err(Error::NotFound { .. }) => "absent",
        Err(_) => "failed",
    }
}

fn lost(fate: Fate) -> &'static str {
    if fate == Fate::AnswerLost { ", the answer is lost" } else { "" }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sim:{}", self.worker)
    }
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.worker)
    }
}

fn points(path: &Path) -> (Point, Point) {
    if is_manifest(path) {
        (Point::BeforeManifest, Point::AfterManifest)
    } else {
        (Point::BeforeData, Point::AfterData)
    }
}

#[async_trait]
impl ObjectStore for Client {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let bytes: Bytes = payload.clone().into();
        if is_manifest(location) {
            let judge = self.store.judge.lock().unwrap().clone();
            if let (Some(judge), Ok(entry)) = (judge, serde_json::from_slice(&bytes)) {
                judge(&self.worker, &entry);
            }
        }
        let (path, what) = (location.clone(), format!("puts {location} ({} bytes)", bytes.len()));
        let (process, sent_ms) = (Arc::clone(&self.process), self.store.clock.ms());
        let sent = bytes.clone();
        let outcome = self.request(what, Some(points(location)), move |store| {
            async move {
                let taken = opts.mode == PutMode::Create && store.objects.head(&path).await.is_ok();
                if !taken {
                    store.check_write(&path, &opts.mode);
                }
                let put = store.objects.put_opts(&path, payload, opts).await;
                if put.is_ok() && is_manifest(&path) {
                    store.note_entry(&path, &bytes);
                    store.note_sender(&path, process, sent_ms);
                }
                put
            }
            .boxed()
        });
        let outcome = outcome.await;
        if is_manifest(location) {
            self.note_number(location, &sent, outcome.as_ref().err());
        }
        outcome
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        let path = location.clone();
        let begun = self.request(format!("begins {location}"), Some(points(location)), move |store| {
            async move {
                let upload = store.objects.put_multipart_opts(&path, opts).await?;
                Ok((store.begin_upload(path), upload))
            }
            .boxed()
        });
        let (id, upload) = begun.await?;
        let inner = Arc::new(tokio::sync::Mutex::new(upload));
        Ok(Box::new(Upload {
            client: Arc::new(Client {
                store: Arc::clone(&self.store),
                worker: self.worker.clone(),
                process: Arc::clone(&self.process),
            }),
            path: location.clone(),
            id,
            inner,
        }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.meet(Point::BeforeRead);
        let (path, head) = (location.clone(), options.head);
        let what = format!("{} {location}", if head { "looks for" } else { "reads" });
        self.request(what, None, move |store| async move { store.objects.get_opts(&path, options).await }.boxed()).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let client = Arc::new(Client {
            store: Arc::clone(&self.store),
            worker: self.worker.clone(),
            process: Arc::clone(&self.process),
        });
        locations
            .and_then(move |path| {
                let client = Arc::clone(&client);
                async move {
                    let gone = path.clone();
                    let delete = client.request(format!("deletes {path}"), None, move |store| {
                        async move {
                            store.check_delete(&gone);
                            store.objects.delete(&gone).await
                        }
                        .boxed()
                    });
                    delete.await.map(|()| path)
                }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let client =
            Client { store: Arc::clone(&self.store), worker: self.worker.clone(), process: Arc::clone(&self.process) };
        let prefix = prefix.cloned();
        let listing = async move {
            let what = format!("lists {}", prefix.as_ref().map_or("", |prefix| prefix.as_ref()));
            let listed = client.request(what, None, move |store| {
                async move { store.objects.list(prefix.as_ref()).try_collect::<Vec<_>>().await }.boxed()
            });
            match listed.await {
                Ok(metas) => stream::iter(metas.into_iter().map(Ok)).left_stream(),
                Err(error) => stream::iter([Err(error)]).right_stream(),
            }
        };
        stream::once(listing).flatten().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let (prefix, what) = (prefix.cloned(), "lists folders".to_owned());
        self.request(what, None, move |store| {
            async move { store.objects.list_with_delimiter(prefix.as_ref()).await }.boxed()
        })
        .await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, _: CopyOptions) -> Result<()> {
        self.store.diary.accuse(format!("{from} is copied to {to}: nobody needs that"));
        Err(failed("not part of the simulation"))
    }
}

struct Upload {
    client: Arc<Client>,
    path: Path,
    id: u64,
    inner: Arc<tokio::sync::Mutex<Box<dyn MultipartUpload>>>,
}

impl fmt::Debug for Upload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "upload of {}", self.path)
    }
}

#[async_trait]
impl MultipartUpload for Upload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let (client, inner, path) = (Arc::clone(&self.client), Arc::clone(&self.inner), self.path.clone());
        // Parts are numbered in the order of the calls.
        let part = inner.try_lock().ok().map(|mut inner| inner.put_part(data));
        let id = self.id;
        async move {
            let Some(part) = part else { return Err(failed("a part while the upload ends")) };
            let of = path.clone();
            let put = client.request(format!("puts a part of {path}"), Some(points(&path)), move |store| {
                async move {
                    store.check_upload(id, &of)?;
                    part.await
                }
                .boxed()
            });
            put.await
        }
        .boxed()
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let (inner, path, id) = (Arc::clone(&self.inner), self.path.clone(), self.id);
        self.client
            .request(format!("completes {path}"), Some(points(&self.path)), move |store| {
                async move {
                    store.check_upload(id, &path)?;
                    store.check_write(&path, &PutMode::Overwrite);
                    store.end_upload(id);
                    inner.lock().await.complete().await
                }
                .boxed()
            })
            .await
    }

    async fn abort(&mut self) -> Result<()> {
        let (inner, path, id) = (Arc::clone(&self.inner), self.path.clone(), self.id);
        let what = format!("aborts {path}");
        let abort = self.client.request(what, None, move |store| {
            async move {
                store.check_upload(id, &path)?;
                store.end_upload(id);
                inner.lock().await.abort().await
            }
            .boxed()
        });
        abort.await
    }
}

fn failed(what: &str) -> Error {
    Error::Generic { store: "sim", source: what.into() }
}
