//! Carries one file's bytes to the store, beside the task's loop.
//!
//! [`Upload`] is fed chunks without ever blocking its owner; a job behind it gathers them into parts of equal size,
//! uploads parts in parallel under the task's permits and completes the object when told that the file is whole. A
//! small file goes up in one request. An upload that is dropped, or fails, leaves nothing visible: the multipart is
//! aborted as far as the store lets us, and its name is never used again.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use lakeferry_api::error::Context as _;
use lakeferry_api::{ConnectError, Kind, Permit, Result};
use object_store::path::Path;
use object_store::{MultipartUpload, ObjectStore, ObjectStoreExt, PutPayload};
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::task::{JoinError, JoinSet};

use crate::job::Job;

/// Chunks that may wait between the loop and the job. More wait in [`Upload::feed`]'s caller, paid from the budget.
const QUEUED_CHUNKS: usize = 16;

/// Encoded bytes and what they hold of the byte budget.
#[derive(Debug)]
pub(crate) struct Chunk {
    /// The bytes, in file order.
    pub(crate) bytes: Bytes,
    /// Their share of the budget.
    pub(crate) permit: Permit,
}

/// Where uploads go and how.
#[derive(Clone)]
pub(crate) struct Target {
    /// The store.
    pub(crate) store: Arc<dyn ObjectStore>,
    /// Size of a part in bytes.
    pub(crate) part_bytes: usize,
    /// How many requests may be under way at once, over all uploads of the task.
    pub(crate) permits: Arc<Semaphore>,
    /// Woken when an upload ends.
    pub(crate) ended: Arc<Notify>,
}

/// One object on its way.
#[derive(Debug)]
pub(crate) struct Upload {
    chunks: Option<mpsc::Sender<Message>>,
    job: Job<()>,
}

#[derive(Debug)]
enum Message {
    Chunk(Chunk),
    Whole,
}

impl Upload {
    /// Begins the object `path`.
    pub(crate) fn start(target: &Target, path: Path) -> Self {
        let (chunks, receiver) = mpsc::channel(QUEUED_CHUNKS);
        let carrier = Carrier { target: target.clone(), path, pending: Vec::new(), pending_bytes: 0, parts: None };
        Self { chunks: Some(chunks), job: Job::start(&target.ended, carrier.run(receiver)) }
    }

    /// Hands over as many of `waiting` as the job takes now, in order.
    pub(crate) fn feed(&mut self, waiting: &mut VecDeque<Chunk>) {
        let Some(chunks) = &self.chunks else { return };
        while !waiting.is_empty() {
            let Ok(slot) = chunks.try_reserve() else { return };
            if let Some(chunk) = waiting.pop_front() {
                slot.send(Message::Chunk(chunk));
            }
        }
    }

    /// Says that everything was fed and the object is to become real. True once the job has taken note.
    pub(crate) fn complete(&mut self) -> bool {
        if let Some(chunks) = &self.chunks
            && chunks.try_send(Message::Whole).is_ok()
        {
            self.chunks = None;
        }
        self.chunks.is_none()
    }

    /// The outcome, once there is one. `Ok` means that the whole object is durable.
    pub(crate) fn take_if_ended(&mut self) -> Option<Result<()>> {
        self.job.take_if_ended()
    }
}

/// The job's side: all state of one object.
struct Carrier {
    target: Target,
    path: Path,
    pending: Vec<Chunk>,
    pending_bytes: usize,
    parts: Option<Parts>,
}

struct Parts {
    upload: Box<dyn MultipartUpload>,
    in_flight: JoinSet<Result<()>>,
}

impl Carrier {
    async fn run(mut self, mut chunks: mpsc::Receiver<Message>) -> Result<()> {
        let outcome = self.carry(&mut chunks).await;
        if outcome.is_err()
            && let Some(parts) = &mut self.parts
        {
            // Best effort: what stays is listed by `inspect` and was never named by a manifest.
            let _ = parts.upload.abort().await;
        }
        outcome
    }

    async fn carry(&mut self, chunks: &mut mpsc::Receiver<Message>) -> Result<()> {
        while let Some(message) = chunks.recv().await {
            match message {
                Message::Chunk(chunk) => {
                    self.pending_bytes += chunk.bytes.len();
                    self.pending.push(chunk);
                    while self.pending_bytes >= self.target.part_bytes {
                        self.send_part(self.target.part_bytes).await?;
                    }
                }
                Message::Whole => return self.complete().await,
            }
        }
        Err(ConnectError::retriable(format!("the upload of {} was given up", self.path)))
    }

    async fn complete(&mut self) -> Result<()> {
        if self.parts.is_none() {
            let (payload, _held) = self.take_pending(self.pending_bytes);
            let _permit = permit(&self.target.permits).await?;
            let put = self.target.store.put(&self.path, payload).await;
            return put.map(drop).context(Kind::Retriable, || format!("cannot store {}", self.path));
        }
        if self.pending_bytes > 0 {
            self.send_part(self.pending_bytes).await?;
        }
        let Some(parts) = &mut self.parts else { return Ok(()) };
        while let Some(part) = parts.in_flight.join_next().await {
            part.map_err(lost)??;
        }
        let completed = parts.upload.complete().await;
        completed.map(drop).context(Kind::Retriable, || format!("cannot complete the upload of {}", self.path))
    }

    async fn send_part(&mut self, bytes: usize) -> Result<()> {
        if self.parts.is_none() {
            let started = self.target.store.put_multipart(&self.path).await;
            let upload = started.context(Kind::Retriable, || format!("cannot begin the upload of {}", self.path))?;
            self.parts = Some(Parts { upload, in_flight: JoinSet::new() });
        }
        let (payload, held) = self.take_pending(bytes);
        let ticket = permit(&self.target.permits).await?;
        let path = self.path.clone();
        let Some(parts) = &mut self.parts else { return Ok(()) };
        let part = parts.upload.put_part(payload);
        parts.in_flight.spawn(async move {
            let sent = part.await;
            drop((ticket, held));
            sent.context(Kind::Retriable, || format!("cannot upload a part of {path}"))
        });
        while let Some(ended) = parts.in_flight.try_join_next() {
            ended.map_err(lost)??;
        }
        Ok(())
    }

    /// Exactly `bytes` bytes of what is pending, and the permits to hold until they are stored.
    fn take_pending(&mut self, bytes: usize) -> (PutPayload, Vec<Permit>) {
        let mut taken = Vec::new();
        let mut held = Vec::new();
        let mut left = bytes;
        let mut rest = Vec::new();
        for mut chunk in self.pending.drain(..) {
            if left == 0 {
                rest.push(chunk);
            } else if chunk.bytes.len() <= left {
                left -= chunk.bytes.len();
                taken.push(chunk.bytes);
                held.push(chunk.permit);
            } else {
                taken.push(chunk.bytes.split_to(left));
                left = 0;
                rest.push(chunk);
            }
        }
        self.pending = rest;
        self.pending_bytes -= bytes;
        (PutPayload::from_iter(taken), held)
    }
}

fn lost(error: JoinError) -> ConnectError {
    ConnectError::retriable("the upload of a part was lost").caused_by(error)
}

async fn permit(permits: &Arc<Semaphore>) -> Result<tokio::sync::OwnedSemaphorePermit> {
    Arc::clone(permits)
        .acquire_owned()
        .await
        .map_err(|_| ConnectError::retriable("the task is stopping; the upload was given up"))
}
