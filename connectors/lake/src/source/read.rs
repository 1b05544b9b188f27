//! The records of one partition's log, file by file, cut as its [`Walk`] says. Called by the replay task, by the
//! survey of a plan, and by whoever compares an archive with a topic.
//!
//! Invariant: records come in offset order, each exactly as it was archived, and only from bytes that were found equal
//! to their manifest's hashes; a file that holds more, fewer or other offsets than its manifest says is an error. The
//! target's names, timestamps that cannot be produced, and throttling are the task's affair.

use std::sync::Arc;

use lakeferry_api::{Batch, ConnectError, Kind, Result, TopicPartition, executor};
use tokio::sync::{Notify, mpsc};

use super::cut::Side;
pub use super::fetch::Access;
use super::fetch::{Blocks, Fetches, Stretch, altered};
use super::plan::{Reading, Segment, Selection, Walk};
use crate::format::{self, Batches, FileDecoder};
use crate::job::Job;
use crate::manifest::model::FileEntry;
use crate::manifest::read::Chain;

/// Decoded batches that wait for their receiver.
const DECODED_BATCHES: usize = 2;

/// Which records of which partition: the recipe of a [`LogReader`].
#[derive(Debug, Clone)]
pub struct LogPlan {
    /// The archived partition.
    pub partition: TopicPartition,
    /// Its files.
    pub segments: Vec<Segment>,
    /// Which of their rows.
    pub selection: Selection,
    /// Everything below is done already.
    pub position: i64,
}

/// Reads the records of a [`LogPlan`], ahead of who takes them. Files that were read are forgotten, so that one that
/// goes on for months holds, and looks through, no more than what is to be read.
pub struct LogReader {
    access: Access,
    plan: LogPlan,
    /// Where the walk stands before the first file of `plan`.
    side: Side,
    feed: Option<Feed>,
    finished: bool,
}

/// What a plan comes to once its files were looked into.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Survey {
    /// Records to replay.
    pub records: u64,
    /// Bytes of their keys, values and headers.
    pub raw_bytes: u64,
    /// Those that cannot be produced as they were: see [`is_untimed`].
    pub untimed: u64,
    /// The files that are read for them.
    pub files: Vec<Arc<FileEntry>>,
}

struct Feed {
    batches: mpsc::Receiver<Batch>,
    /// Gives what [`Walk::rest`] does.
    job: Job<(Vec<Segment>, Side)>,
    /// It walks along the first so many segments of the plan: others may have come since.
    segments: usize,
    /// All of these lie below.
    end: i64,
}

impl LogPlan {
    /// The rows of `lineage` of `chain` that `selection` wants, from the beginning.
    ///
    /// # Errors
    /// As [`Chain::pieces`].
    pub fn of(chain: &Chain, lineage: u32, selection: Selection) -> Result<Self> {
        let pieces = chain.pieces(lineage)?;
        let segments =
            pieces.iter().map(|piece| Segment { file: Arc::new(piece.file.clone()), rows: piece.offsets }).collect();
        Ok(Self { partition: chain.partition.clone(), segments, selection, position: 0 })
    }

    /// The walk along its files.
    ///
    /// # Errors
    /// As [`Walk::new`].
    pub fn walk(&self) -> Result<Walk> {
        Walk::new(self.segments.clone(), self.selection.clone(), self.position)
    }
}

impl LogReader {
    /// A reader that has not begun.
    pub fn new(access: Access, plan: LogPlan) -> Self {
        let side = plan.selection.cut.start();
        Self { access, plan, side, feed: None, finished: false }
    }

    /// The next records; `None` at the end. Cancel-safe. After an error it begins again behind the last batch.
    ///
    /// # Errors
    /// `Fatal` where an object is missing or not what its manifest says; `Retriable` while the store does not answer.
    pub async fn next(&mut self) -> Result<Option<Batch>> {
        while !self.finished {
            let feed = match &mut self.feed {
                Some(feed) => feed,
                None => self.feed.insert(Feed::start(&self.access, &self.plan, self.side)?),
            };
            if let Some(batch) = feed.batches.recv().await {
                self.plan.position = batch.next_offset();
                return Ok(Some(batch));
            }
            let (ended, walked, end) = (feed.job.wait().await, feed.segments, feed.end);
            self.feed = None;
            let (rest, side) = ended?;
            self.finished = walked == self.plan.segments.len();
            self.plan.position = self.plan.position.max(end);
            self.plan.segments.splice(..walked, rest);
            self.side = side;
        }
        Ok(None)
    }

    /// Everything below was given out.
    pub fn position(&self) -> i64 {
        self.plan.position
    }

    /// Adds files that were published meanwhile, none of them below [`LogReader::position`]: [`LogReader::next`] comes
    /// to them once it is through those before.
    pub fn extend(&mut self, segments: impl IntoIterator<Item = Segment>) {
        let known = self.plan.segments.len();
        self.plan.segments.extend(segments);
        let new = &self.plan.segments[known..];
        self.finished &= new.is_empty();
        // Files are not always published in the order of their offsets: what is read beyond a new one is read again.
        let is_between = |feed: &mut Feed| new.iter().any(|segment| segment.rows.from < feed.end);
        drop(self.feed.take_if(is_between));
    }

    /// The files it holds: those to be read, and of others only what [`Walk::rest`] needs.
    pub fn segments(&self) -> &[Segment] {
        &self.plan.segments
    }
}

impl Feed {
    fn start(access: &Access, plan: &LogPlan, side: Side) -> Result<Self> {
        let (sender, batches) = mpsc::channel(DECODED_BATCHES);
        let rows = Rows::new(access.clone(), plan, plan.walk()?.beginning_at(side));
        let job = Job::start(&Arc::new(Notify::new()), feed(rows, sender));
        let last = plan.segments.iter().map(|segment| segment.rows.to).max();
        let end = last.map_or(i64::MIN, |last| last.saturating_add(1));
        Ok(Self { batches, job, segments: plan.segments.len(), end })
    }
}

async fn feed(mut rows: Rows, sender: mpsc::Sender<Batch>) -> Result<(Vec<Segment>, Side)> {
    while let Some(reading) = rows.walk.next_file() {
        let mut file = rows.open(&reading).await?;
        while let Some(batch) = rows.next(&mut file).await? {
            if !batch.is_empty() && sender.send(batch).await.is_err() {
                return Err(ConnectError::fatal("nobody takes the records any more"));
            }
        }
    }
    Ok(rows.walk.rest())
}

/// Counts what `plan` comes to. Reads only files whose manifest entry cannot tell.
///
/// # Errors
/// As [`LogReader::next`].
pub async fn survey(access: &Access, plan: &LogPlan) -> Result<Survey> {
    let mut rows = Rows::new(access.clone(), plan, plan.walk()?);
    let mut survey = Survey::default();
    while let Some(reading) = rows.walk.next_file() {
        let entry = &reading.segment.file;
        survey.files.push(Arc::clone(entry));
        if reading.whole && !reading.segment.may_be_untimed() {
            survey.records = survey.records.saturating_add(entry.records);
            survey.raw_bytes = survey.raw_bytes.saturating_add(entry.raw_bytes);
            continue;
        }
        let mut file = rows.open(&reading).await?;
        while let Some(batch) = rows.next(&mut file).await? {
            survey.records = survey.records.saturating_add(batch.len() as u64);
            survey.raw_bytes = survey.raw_bytes.saturating_add(batch.raw_bytes() as u64);
            survey.untimed += batch.timestamps().iter().filter(|timestamp| is_untimed(**timestamp)).count() as u64;
        }
    }
    Ok(survey)
}

/// True where the client library cannot produce a record with this timestamp: it takes 0 for absent and stamps now, and
/// knows no time before.
pub fn is_untimed(timestamp: i64) -> bool {
    timestamp <= 0
}

/// The rows of a walk.
struct Rows {
    access: Access,
    partition: TopicPartition,
    walk: Walk,
    fetches: Fetches,
}

/// A file that is being read.
struct ReadingFile {
    entry: Arc<FileEntry>,
    /// Behind the last row of it that is a row of the log: what follows there is another file's.
    end: i64,
    decoder: Option<Box<dyn FileDecoder>>,
    blocks: Blocks,
    batches: Option<Batches>,
    records: u64,
    last_offset: Option<i64>,
}

impl Rows {
    fn new(access: Access, plan: &LogPlan, walk: Walk) -> Self {
        let fetches = Fetches::new(access.clone());
        Self { access, partition: plan.partition.clone(), walk, fetches }
    }

    async fn open(&mut self, reading: &Reading) -> Result<ReadingFile> {
        let entry = Arc::clone(&reading.segment.file);
        let format = format_of(&entry)?;
        let later = upcoming(&self.walk);
        let (blocks, prelude) = Blocks::open(&mut self.fetches, &entry, format.prelude(&entry.blocks), later).await?;
        let (file, partition) = (Arc::clone(&entry), self.partition.clone());
        let open = move || format.decoder(prelude, &file.blocks, &partition, file.content());
        let decoder = executor::run(&*self.access.executor, open).await?.map_err(|error| named(&entry, error))?;
        let end = reading.segment.rows.to.saturating_add(1);
        Ok(ReadingFile { entry, end, decoder: Some(decoder), blocks, batches: None, records: 0, last_offset: None })
    }

    /// The next rows of `file` that the walk takes, none of them maybe; `None` at its end.
    async fn next(&mut self, file: &mut ReadingFile) -> Result<Option<Batch>> {
        loop {
            if let Some(batch) = self.decode_next(file).await? {
                file.check(&batch)?;
                let keep = self.walk.judge(batch.offsets(), batch.timestamps());
                let permit = self.access.budget.take(batch.memory_bytes());
                return Ok(Some(batch.select(&keep).until(file.end).holding(permit)));
            }
            if !self.begin_block(file).await? {
                return file.check_end().map(|()| None);
            }
        }
    }

    async fn decode_next(&self, file: &mut ReadingFile) -> Result<Option<Batch>> {
        let Some(mut batches) = file.batches.take() else { return Ok(None) };
        let (batches, batch) = executor::run(&*self.access.executor, move || {
            let batch = batches.next();
            (batches, batch)
        })
        .await?;
        file.batches = batch.is_some().then_some(batches);
        batch.transpose().map_err(|error| named(&file.entry, error))
    }

    /// False where the file has no more blocks.
    async fn begin_block(&mut self, file: &mut ReadingFile) -> Result<bool> {
        self.fetches.ahead(file.blocks.rest().chain(upcoming(&self.walk)));
        let Some((index, bytes)) = file.blocks.next(&mut self.fetches).await? else { return Ok(false) };
        let Some(decoder) = file.decoder.take() else {
            return Err(ConnectError::fatal(format!("{}: its decoder is gone", file.entry.path)));
        };
        let (decoder, batches) = executor::run(&*self.access.executor, move || {
            let batches = decoder.decode(index, bytes);
            (decoder, batches)
        })
        .await?;
        file.decoder = Some(decoder);
        file.batches = Some(batches.map_err(|error| named(&file.entry, error))?);
        Ok(true)
    }
}

impl ReadingFile {
    /// The offsets of a file ascend and stay where its manifest says.
    fn check(&mut self, batch: &Batch) -> Result<()> {
        let allowed = self.entry.offsets();
        for offset in batch.offsets() {
            let ascends = self.last_offset.is_none_or(|last| last < *offset);
            if !ascends || *offset < allowed.from || allowed.to < *offset {
                let how = format!("holds offset {offset}, its manifest says {} to {}", allowed.from, allowed.to);
                return Err(altered(&self.entry, &how));
            }
            self.last_offset = Some(*offset);
        }
        self.records += batch.len() as u64;
        Ok(())
    }

    fn check_end(&self) -> Result<()> {
        if self.records == self.entry.records && self.last_offset == Some(self.entry.last_offset) {
            return Ok(());
        }
        let how = format!("holds {} records, its manifest says {}", self.records, self.entry.records);
        Err(altered(&self.entry, &how))
    }
}

/// What is read behind the file that a walk gave last.
fn upcoming(walk: &Walk) -> impl Iterator<Item = Stretch> + '_ {
    let stretches = walk.ahead().filter_map(|segment| {
        let format = format_of(&segment.file).ok()?;
        Some(Stretch::all_of(&segment.file, format.prelude(&segment.file.blocks)))
    });
    stretches.flatten()
}

fn format_of(entry: &FileEntry) -> Result<&'static format::FileFormat> {
    format::find(&entry.format).map_err(|error| {
        ConnectError::config(format!("data object {} cannot be read: {}", entry.path, error.message()))
    })
}

fn named(entry: &FileEntry, error: ConnectError) -> ConnectError {
    match error.kind() {
        Kind::Retriable => error,
        _ => altered(entry, &format!("cannot be decoded: {}", error.message())).caused_by(error),
    }
}

#[cfg(test)]
mod tests;
