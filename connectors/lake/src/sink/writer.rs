//! All state of one file, from its first record until its object is durable: what it answers for, its encoder, the
//! encoded bytes that wait and the upload they go to.
//!
//! A batch is encoded beside the loop, which reads on meanwhile: a file waits for the batch before when the next one
//! comes, when it ends and when it is spilled.
//!
//! Called by [`Partition`](super::partition::Partition) only. Invariants: a file's span begins where the one before
//! ends and covers every offset that the position passed; its bytes go up in order; nothing is visible before
//! [`OpenFile::stored`] says so, and even then no manifest names it yet.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use lakeferry_api::{Batch, Budget, ConnectError, EpochMark, Executor, Permit, Result, executor};
use object_store::path::Path;

use super::spill::Spill;
use super::upload::{Chunk, Target, Upload};
use crate::format::{FileEncoder, Tail};
use crate::job::Job;
use crate::rotate::{FileFacts, Moment};

/// Below this a batch that ends no block is encoded where it is: handing it to the pool would cost more.
const INLINE_BYTES: u64 = 16 * 1024;

/// What a file answers for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Contents {
    /// First offset of the span.
    pub(crate) span_from: i64,
    /// The position after the span.
    pub(crate) next_offset: i64,
    /// Offset of the first record.
    pub(crate) first_offset: i64,
    /// Offset of the last record.
    pub(crate) last_offset: i64,
    /// Number of records.
    pub(crate) records: u64,
    /// Bytes of keys, values and headers.
    pub(crate) raw_bytes: u64,
    /// Least and greatest timestamp; `None` where no record has one.
    pub(crate) timestamps: Option<(i64, i64)>,
    /// How many records have no timestamp.
    pub(crate) untimed: u64,
    /// Leader epoch of the last record, where the broker told.
    pub(crate) leader_epoch: Option<i32>,
}

impl Contents {
    /// What the log must still hold once this is published.
    pub(crate) fn mark(&self) -> Option<EpochMark> {
        self.leader_epoch.map(|leader_epoch| EpochMark { leader_epoch, upto: self.last_offset + 1 })
    }
}

/// What came of an encoder's work.
struct Encoded {
    encoder: Box<dyn FileEncoder>,
    bytes: Bytes,
    /// Whose rows they are. It pays for memory until somebody else does.
    _batch: Option<Batch>,
}

/// A file being written, or written and on its way.
pub(crate) struct OpenFile {
    contents: Contents,
    opened: Moment,
    first_timestamp_ms: Option<i64>,
    /// `None` while it works, and once the file has ended.
    encoder: Option<Box<dyn FileEncoder>>,
    /// The encoder at work on the batch that was added last.
    encoding: Option<Job<Encoded>>,
    /// How long the file would be if it had ended before that batch.
    stored_bytes: u64,
    held: Permit,
    waiting: VecDeque<Chunk>,
    waiting_bytes: usize,
    /// A part or more waited: all of it goes to the upload.
    feeding: bool,
    upload: Option<(Path, Upload)>,
    tail: Option<Tail>,
    stored: bool,
}

impl OpenFile {
    /// A file whose span begins at `span_from` and whose first record comes next.
    pub(crate) fn new(encoder: Box<dyn FileEncoder>, span_from: i64, opened: Moment, budget: &Budget) -> Self {
        let contents = Contents {
            span_from,
            next_offset: span_from,
            first_offset: span_from,
            last_offset: span_from,
            records: 0,
            raw_bytes: 0,
            timestamps: None,
            untimed: 0,
            leader_epoch: None,
        };
        Self {
            contents,
            opened,
            first_timestamp_ms: None,
            stored_bytes: encoder.stored_bytes(),
            encoder: Some(encoder),
            encoding: None,
            held: budget.take(0),
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            feeding: false,
            upload: None,
            tail: None,
            stored: false,
        }
    }

    /// What it answers for.
    pub(crate) fn contents(&self) -> &Contents {
        &self.contents
    }

    /// What rotation asks. Of the batch that was added last the stored bytes count once it is encoded.
    pub(crate) fn facts(&self) -> FileFacts {
        FileFacts {
            records: self.contents.records,
            stored_bytes: self.stored_bytes,
            opened: self.opened,
            first_timestamp_ms: self.first_timestamp_ms,
        }
    }

    /// Bytes of the budget it holds.
    pub(crate) fn memory_bytes(&self) -> u64 {
        let waiting = self.waiting.iter().map(|chunk| match chunk {
            Chunk::Held { permit, .. } => permit.bytes(),
            Chunk::Spilled(_) => 0,
        });
        self.held.bytes() + waiting.sum::<u64>()
    }

    /// Memory that comes back by itself, near enough, because the file is finished and on its way to the store.
    pub(crate) fn leaving_bytes(&self, part_bytes: usize) -> u64 {
        match (&self.tail, &self.upload) {
            // Of a large one no more than a part waits to be full.
            (Some(tail), Some(_)) if !self.stored => tail.stored_bytes.min(self.memory_bytes() + part_bytes as u64),
            _ => 0,
        }
    }

    /// Adds the rows of `batch`, which continues the file. Waits until the batch before is encoded, not for this one,
    /// unless it is small.
    ///
    /// # Errors
    /// Any error loses the file, those of the batch before too: its owner starts again from the chain's end.
    pub(crate) async fn append(&mut self, batch: &Batch, target: &Target) -> Result<()> {
        self.catch_up().await?;
        let encoder = self.encoder.take().ok_or_else(cut_short)?;
        if batch.memory_bytes() < INLINE_BYTES && !encoder.ends_block(batch) {
            self.take_back(append_rows(encoder, batch.clone())?);
        } else {
            let (pool, batch) = (Arc::clone(&target.pool), batch.clone());
            let work = async move { executor::run(pool.as_ref(), move || append_rows(encoder, batch)).await? };
            self.encoding = Some(Job::start(&target.ended, work));
        }
        self.count(batch);
        Ok(())
    }

    /// Waits until all that was added is encoded.
    ///
    /// # Errors
    /// As [`OpenFile::append`].
    pub(crate) async fn catch_up(&mut self) -> Result<()> {
        let Some(job) = &mut self.encoding else { return Ok(()) };
        let encoded = job.wait().await;
        self.encoding = None;
        self.take_back(encoded?);
        Ok(())
    }

    /// Notes that the position passed offsets behind the last record without finding any.
    pub(crate) fn pass(&mut self, next_offset: i64) {
        self.contents.next_offset = next_offset;
    }

    /// Moves what it holds to disk: the block being encoded ends, and bytes that wait for an upload part go to `spill`.
    /// False where they found no room.
    ///
    /// # Errors
    /// As [`OpenFile::append`].
    pub(crate) async fn spill(&mut self, spill: &Spill, pool: &Arc<dyn Executor>) -> Result<bool> {
        self.catch_up().await?;
        let mut encoder = self.encoder.take().ok_or_else(cut_short)?;
        let encoded = executor::run(pool.as_ref(), move || {
            encoder.end_block()?;
            let bytes = encoder.take_encoded();
            Ok::<_, ConnectError>(Encoded { encoder, bytes, _batch: None })
        });
        self.take_back(encoded.await??);
        let (waiting, spill) = (std::mem::take(&mut self.waiting), spill.clone());
        let (waiting, found_room) = executor::run(pool.as_ref(), move || spill_chunks(waiting, &spill)).await?;
        self.waiting = waiting;
        Ok(found_room)
    }

    /// Ends the file: no record joins it any more.
    ///
    /// # Errors
    /// As [`OpenFile::append`].
    pub(crate) async fn finish(&mut self, pool: &Arc<dyn Executor>) -> Result<()> {
        self.catch_up().await?;
        let mut encoder = self.encoder.take().ok_or_else(cut_short)?;
        let (tail, encoded) = executor::run(pool.as_ref(), move || {
            let tail = encoder.finish()?;
            Ok::<_, ConnectError>((tail, encoder.take_encoded()))
        })
        .await??;
        self.held.resize(0);
        self.keep(encoded);
        self.tail = Some(tail);
        Ok(())
    }

    /// True once enough bytes wait to begin the upload, or the file is finished.
    pub(crate) fn wants_upload(&self, part_bytes: usize) -> bool {
        self.upload.is_none() && (self.tail.is_some() || self.waiting_bytes >= part_bytes)
    }

    /// True once its object has a name.
    pub(crate) fn is_named(&self) -> bool {
        self.upload.is_some()
    }

    /// Begins the upload under `path`.
    pub(crate) fn begin_upload(&mut self, target: &Target, path: Path) {
        let upload = Upload::start(target, path.clone());
        self.upload = Some((path, upload));
    }

    /// Takes note of a batch that is encoded by now. Never waits.
    ///
    /// # Errors
    /// As [`OpenFile::append`].
    pub(crate) fn look(&mut self) -> Result<()> {
        if let Some(encoded) = self.encoding.as_mut().and_then(Job::take_if_ended) {
            self.encoding = None;
            self.take_back(encoded?);
        }
        Ok(())
    }

    /// Moves bytes on and, once the object is durable, says so. Never waits.
    ///
    /// # Errors
    /// The upload failed for good.
    pub(crate) fn advance(&mut self, part_bytes: usize) -> Result<()> {
        let Some((_, upload)) = self.upload.as_mut().filter(|_| !self.stored) else { return Ok(()) };
        // What is less than a part stays here, where it can be spilled; what is more goes as a whole, or both sides
        // would hold nearly a part.
        self.feeding |= self.tail.is_some() || self.waiting_bytes >= part_bytes;
        while self.feeding && !self.waiting.is_empty() {
            let Some(fed) = upload.feed(&mut self.waiting) else { break };
            self.waiting_bytes -= fed;
        }
        self.feeding &= !self.waiting.is_empty();
        if self.tail.is_some() && self.waiting.is_empty() {
            upload.complete();
        }
        match upload.take_if_ended() {
            Some(Ok(())) => self.stored = true,
            Some(Err(error)) => return Err(error),
            None => {}
        }
        Ok(())
    }

    /// Name and tail of the object, once it is durable.
    pub(crate) fn stored(&self) -> Option<(&Path, &Tail)> {
        match (&self.upload, &self.tail) {
            (Some((path, _)), Some(tail)) if self.stored => Some((path, tail)),
            _ => None,
        }
    }

    fn take_back(&mut self, encoded: Encoded) {
        self.held.resize(encoded.encoder.memory_bytes());
        self.stored_bytes = encoded.encoder.stored_bytes();
        self.encoder = Some(encoded.encoder);
        self.keep(encoded.bytes);
    }

    fn keep(&mut self, encoded: Bytes) {
        if !encoded.is_empty() {
            self.waiting_bytes += encoded.len();
            let permit = self.held.budget().take(encoded.len() as u64);
            self.waiting.push_back(Chunk::Held { bytes: encoded, permit });
        }
    }

    fn count(&mut self, batch: &Batch) {
        let (Some(first), Some(last)) = (batch.offsets().first(), batch.offsets().last()) else { return };
        let contents = &mut self.contents;
        if contents.records == 0 {
            contents.first_offset = *first;
        }
        contents.last_offset = *last;
        contents.next_offset = batch.next_offset();
        contents.records += batch.len() as u64;
        contents.raw_bytes += batch.raw_bytes() as u64;
        contents.leader_epoch = batch.leader_epoch();
        for timestamp in batch.rows().map(|row| row.timestamp()) {
            let Some(timestamp) = timestamp else {
                contents.untimed += 1;
                continue;
            };
            self.first_timestamp_ms.get_or_insert(timestamp);
            let (min, max) = contents.timestamps.unwrap_or((timestamp, timestamp));
            contents.timestamps = Some((min.min(timestamp), max.max(timestamp)));
        }
    }
}

fn append_rows(mut encoder: Box<dyn FileEncoder>, batch: Batch) -> Result<Encoded> {
    encoder.append(&batch)?;
    let bytes = encoder.take_encoded();
    Ok(Encoded { encoder, bytes, _batch: Some(batch) })
}

/// The chunks, on disk as far as there was room, and whether there was enough. A disk that fails has no room.
fn spill_chunks(chunks: VecDeque<Chunk>, spill: &Spill) -> (VecDeque<Chunk>, bool) {
    let mut found_room = true;
    let mut move_chunk = |chunk| match chunk {
        Chunk::Held { bytes, permit } if found_room => {
            let written = spill.write(&bytes).unwrap_or_else(|error| {
                tracing::warn!("files end early where memory runs short: {}", error.trace());
                None
            });
            found_room = written.is_some();
            written.map_or(Chunk::Held { bytes, permit }, Chunk::Spilled)
        }
        chunk => chunk,
    };
    let chunks = chunks.into_iter().map(&mut move_chunk).collect();
    (chunks, found_room)
}

fn cut_short() -> ConnectError {
    ConnectError::retriable("an earlier step of this file was cut short; it is written again from the last manifest")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_fails_has_no_room() {
        let budget = Budget::new(100);
        let chunk = || Chunk::Held { bytes: Bytes::from_static(b"ten bytes!"), permit: budget.take(10) };
        let (chunks, found_room) = spill_chunks([chunk(), chunk()].into(), &Spill::broken());
        assert!(!found_room && chunks.iter().all(|chunk| matches!(chunk, Chunk::Held { .. })));
        assert_eq!(budget.used(), 20, "they are still in memory");
    }
}
