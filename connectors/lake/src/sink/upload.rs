//! Carries one file's bytes to the store, beside the task's loop.
//!
//! [`Upload`] is fed chunks without ever blocking its owner; a job behind it gathers them into parts,
//! uploads parts in parallel on the task's [`Lanes`] and completes the object when told that the file is whole. A
//! small file goes up in one request. An upload that is dropped, or fails, leaves nothing visible: its job stops at
//! once and aborts the multipart, as far as store and process live to do it, and its name is never used again.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use lakeferry_api::simulation::host::inherit;
use lakeferry_api::{Budget, ConnectError, Executor, Kind, Permit, Result, executor};
use object_store::path::Path;
use object_store::{Error as StoreError, MultipartUpload, ObjectStore, ObjectStoreExt, PutPayload};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::{JoinError, JoinSet};

use super::lanes::Lanes;
use super::spill::Spilled;
use crate::job::Job;
use crate::store::{explain, words};

/// Chunks that may wait between the loop and the job. More wait in [`Upload::feed`]'s caller, paid from the budget.
const QUEUED_CHUNKS: usize = 2;

/// Encoded bytes, in file order.
pub(crate) enum Chunk {
    /// In memory, with their share of the budget.
    Held { bytes: Bytes, permit: Permit },
    /// On disk.
    Spilled(Spilled),
}

/// Where uploads go and how.
#[derive(Clone)]
pub(crate) struct Target {
    /// The store.
    pub(crate) store: Arc<dyn ObjectStore>,
    /// Size of a part in bytes.
    pub(crate) part_bytes: usize,
    /// What all uploads of the task go up on.
    pub(crate) lanes: Arc<Lanes>,
    /// Woken when an upload has room for bytes again, and when it ends.
    pub(crate) ended: Arc<Notify>,
    /// Where spilled bytes are read.
    pub(crate) pool: Arc<dyn Executor>,
    /// What bytes in memory are paid from.
    pub(crate) budget: Budget,
}

/// One object on its way.
pub(crate) struct Upload {
    chunks: Option<mpsc::Sender<Message>>,
    job: Job<()>,
    /// Its end tells the job that nobody wants the object any more.
    _wanted: oneshot::Sender<()>,
}

enum Message {
    Chunk(Chunk),
    Whole,
}

impl Chunk {
    /// How many bytes they are.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Held { bytes, .. } => bytes.len(),
            Self::Spilled(spilled) => spilled.len(),
        }
    }

    /// The bytes in memory.
    async fn load(self, target: &Target) -> Result<(Bytes, Permit)> {
        match self {
            Self::Held { bytes, permit } => Ok((bytes, permit)),
            Self::Spilled(spilled) => {
                let permit = target.budget.take(spilled.len() as u64);
                let bytes = executor::run(target.pool.as_ref(), move || spilled.read()).await??;
                Ok((bytes, permit))
            }
        }
    }
}

impl Upload {
    /// Begins the object `path`.
    pub(crate) fn start(target: &Target, path: Path) -> Self {
        let (chunks, receiver) = mpsc::channel(QUEUED_CHUNKS);
        let carrier = Carrier { target: target.clone(), path, pending: VecDeque::new(), pending_bytes: 0, parts: None };
        let (wanted, given_up) = oneshot::channel();
        let job = Job::start(&target.ended, carrier.run(receiver, given_up));
        Self { chunks: Some(chunks), job, _wanted: wanted }
    }

    /// Hands over the first of `waiting`, unless the job has enough to do; how many bytes it is.
    pub(crate) fn feed(&mut self, waiting: &mut VecDeque<Chunk>) -> Option<usize> {
        let slot = self.chunks.as_ref()?.try_reserve().ok()?;
        let chunk = waiting.pop_front()?;
        let bytes = chunk.len();
        slot.send(Message::Chunk(chunk));
        Some(bytes)
    }

    /// Says that everything was fed and the object is to become real; again until the job has room to take note.
    pub(crate) fn complete(&mut self) {
        if let Some(chunks) = &self.chunks
            && chunks.try_send(Message::Whole).is_ok()
        {
            self.chunks = None;
        }
    }

    /// The outcome, once there is one. `Ok` means that the whole object is durable.
    pub(crate) fn take_if_ended(&mut self) -> Option<Result<()>> {
        self.job.take_if_ended()
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        self.job.detach();
    }
}

/// The job's side: all state of one object.
struct Carrier {
    target: Target,
    path: Path,
    pending: VecDeque<Chunk>,
    pending_bytes: usize,
    parts: Option<Parts>,
}

struct Parts {
    upload: Box<dyn MultipartUpload>,
    in_flight: JoinSet<Result<()>>,
    begun: usize,
}

impl Carrier {
    async fn run(mut self, mut chunks: mpsc::Receiver<Message>, given_up: oneshot::Receiver<()>) -> Result<()> {
        let outcome = tokio::select! {
            biased;
            outcome = self.carry(&mut chunks) => outcome,
            _ = given_up => Err(ConnectError::retriable("nobody waits for it")),
        };
        if outcome.is_err() {
            drop(chunks);
            self.abort().await;
        }
        outcome
    }

    /// Takes back what is in the store, which limits each request in time.
    async fn abort(&mut self) {
        self.pending.clear();
        let Some(mut parts) = self.parts.take() else { return };
        // A part that comes in after the abort would stay.
        parts.in_flight.shutdown().await;
        if let Err(error) = parts.upload.abort().await {
            tracing::warn!(path = %self.path, error = words(&error), "parts of an upload that was given up stay in the store");
        }
    }

    async fn carry(&mut self, chunks: &mut mpsc::Receiver<Message>) -> Result<()> {
        while let Some(message) = chunks.recv().await {
            self.target.ended.notify_one();
            match message {
                Message::Chunk(chunk) => {
                    self.pending_bytes += chunk.len();
                    self.pending.push_back(chunk);
                    while self.pending_bytes >= self.part_bytes() {
                        self.send_part(self.part_bytes()).await?;
                    }
                }
                Message::Whole => return self.complete().await,
            }
        }
        Err(ConnectError::retriable(format!("the upload of {} was given up", self.path)))
    }

    /// The size of the next part.
    fn part_bytes(&self) -> usize {
        part_bytes(self.target.part_bytes, self.parts.as_ref().map_or(0, |parts| parts.begun))
    }

    async fn complete(&mut self) -> Result<()> {
        if self.parts.is_none() {
            let lane = self.target.lanes.enter().await;
            let (payload, _held) = self.take_pending(self.pending_bytes).await?;
            let put = self.target.store.put(&self.path, payload).await;
            lane.leave(put.is_ok());
            return put.map(drop).map_err(|error| failed(&format!("store {}", self.path), error));
        }
        if self.pending_bytes > 0 {
            self.send_part(self.pending_bytes).await?;
        }
        let parts = self.begun()?;
        while let Some(part) = parts.in_flight.join_next().await {
            part.map_err(lost)??;
        }
        let completed = parts.upload.complete().await;
        completed.map(drop).map_err(|error| failed(&format!("complete the upload of {}", self.path), error))
    }

    async fn send_part(&mut self, bytes: usize) -> Result<()> {
        if self.parts.is_none() {
            let started = self.target.store.put_multipart(&self.path).await;
            let upload = started.map_err(|error| failed(&format!("begin the upload of {}", self.path), error))?;
            self.parts = Some(Parts { upload, in_flight: JoinSet::new(), begun: 0 });
        }
        // Spilled bytes come back to memory only when it is their turn.
        let lane = self.target.lanes.enter().await;
        let (payload, held) = self.take_pending(bytes).await?;
        let path = self.path.clone();
        let parts = self.begun()?;
        let part = parts.upload.put_part(payload);
        parts.begun += 1;
        parts.in_flight.spawn(inherit(async move {
            let sent = part.await;
            lane.leave(sent.is_ok());
            drop(held);
            sent.map_err(|error| failed(&format!("upload a part of {path}"), error))
        }));
        while let Some(ended) = parts.in_flight.try_join_next() {
            ended.map_err(lost)??;
        }
        Ok(())
    }

    /// The parts of an upload that was begun.
    fn begun(&mut self) -> Result<&mut Parts> {
        let Self { parts, path, .. } = self;
        parts.as_mut().ok_or_else(|| {
            ConnectError::fatal(format!("{path}: a part of an upload that was not begun; please report this"))
        })
    }

    /// Exactly `bytes` bytes of what is pending, and the permits to hold until they are stored.
    async fn take_pending(&mut self, bytes: usize) -> Result<(PutPayload, Vec<Permit>)> {
        let (mut taken, mut held) = (Vec::new(), Vec::new());
        let mut left = bytes;
        while left > 0 {
            let Some(chunk) = self.pending.pop_front() else { break };
            let (mut bytes, permit) = chunk.load(&self.target).await?;
            if bytes.len() <= left {
                left -= bytes.len();
                taken.push(bytes);
                held.push(permit);
            } else {
                taken.push(bytes.split_to(left));
                left = 0;
                self.pending.push_front(Chunk::Held { bytes, permit });
            }
        }
        self.pending_bytes -= bytes;
        Ok((PutPayload::from_iter(taken), held))
    }
}

/// S3 takes 10,000 parts an object, of which the first ones are `first` bytes: so that no file is too large for them,
/// the size doubles every thousand.
fn part_bytes(first: usize, begun: usize) -> usize {
    first << (begun / 1_000)
}

/// Where the store refuses us the user must act; whatever else went wrong may be gone when the records come again,
/// under another name.
fn failed(doing: &str, error: StoreError) -> ConnectError {
    let error = explain(doing, error);
    match error.kind() {
        Kind::Conflict | Kind::NotFound => ConnectError::retriable(error.message()).caused_by(error),
        _ => error,
    }
}

fn lost(error: JoinError) -> ConnectError {
    ConnectError::retriable("the upload of a part was lost").caused_by(error)
}

#[cfg(test)]
mod tests {
    use super::part_bytes;

    #[test]
    fn ten_thousand_parts_hold_terabytes() {
        assert_eq!((part_bytes(5 << 20, 999), part_bytes(5 << 20, 1_000)), (5 << 20, 10 << 20));
        let all: usize = (0..10_000).map(|begun| part_bytes(5 << 20, begun)).sum();
        assert!(all > 4 << 40, "{all} bytes");
        assert!(part_bytes(5 << 20, 9_999) <= 5 << 30, "S3 takes 5 GiB a part");
    }
}
