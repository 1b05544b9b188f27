//! One partition of a task: where its chain stands, the file being filled, the files on their way, and the one entry
//! in flight. Owned by [`LakeSinkTask`](super::task::LakeSinkTask), which lets it move on in every call.
//!
//! ```text
//!            take(batch)                 rotate                upload                entry
//!  Kafka ──▶ position ─────▶ open file ─────────▶ closing ─────────────▶ stored ─────────▶ durable
//! ```
//!
//! Invariants: offsets leave this pipeline in order; the position only moves over offsets that a batch answers for;
//! one entry is in flight at a time; before an epoch is open nothing is uploaded under it. On any retriable failure
//! everything from `position` to `durable` is dropped and read again from the chain's end, exactly as after a crash.

mod tenure;

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use lakeferry_api::simulation::sabotage::{self, Fault};
use lakeferry_api::sink::OffsetReset;
use lakeferry_api::{Batch, ConnectError, Kind, Place, Result, SinkContext, TopicPartition};
use tokio::sync::Notify;

use self::tenure::Tenure;
use super::backoff::backoff;
use super::check::Check;
use super::closing::Ended;
use super::commit::{self, Identity};
use super::settings::KnownSettings;
use super::spill::Spill;
use super::start::Start;
use super::troubles::Troubles;
use super::upload::Target;
use super::writer::OpenFile;
use crate::config::SinkSettings;
use crate::format::{Compression, FileFormat, FileHeader};
use crate::job::Job;
use crate::manifest::{End, ManifestStore};
use crate::rotate::Moment;

/// What all partitions of a task share.
pub(crate) struct Shared {
    pub(crate) context: Arc<dyn SinkContext>,
    pub(crate) settings: SinkSettings,
    pub(crate) format: &'static FileFormat,
    pub(crate) compression: Compression,
    pub(crate) identity: Identity,
    pub(crate) manifests: ManifestStore,
    pub(crate) target: Target,
    /// Where encoded bytes may wait while memory runs short.
    pub(crate) spill: Option<Spill>,
    /// Woken when a job of any partition ends.
    pub(crate) ended: Arc<Notify>,
    pub(crate) troubles: Troubles,
    /// What the archive tells of the topics' settings.
    pub(crate) told: KnownSettings,
}

/// One partition's archive, being written.
pub(crate) struct Partition {
    shared: Arc<Shared>,
    name: TopicPartition,
    phase: Phase,
    start: Start,
    /// The next offset expected from Kafka.
    position: i64,
    /// Where the next file's span begins: behind everything that a closed stretch answers for.
    accounted: i64,
    /// Since when `start` is what counts.
    begun: Duration,
    /// Since when the position is ahead of `accounted` with no file open to answer for it.
    passed_since: Option<Duration>,
    file: Option<Box<OpenFile>>,
    closing: VecDeque<Ended>,
    tenure: Tenure,
    commit: Option<Job<End>>,
    files_begun: u32,
    failures: u32,
    check: Check,
}

/// What happens to batches.
enum Phase {
    /// They are taken.
    Reading,
    /// Something failed; nothing is taken until the chain's end was read again: never, where that fails the task.
    Waiting { until: Duration },
    /// The chain's end is being read.
    Restarting(Job<Start>),
    /// The group gave the partition to somebody else; nothing is taken unless the group, asked again, says otherwise.
    Gone { ask_at: Duration, asked: Option<Job<()>> },
}

impl Partition {
    /// Reads the chain's end and decides where to begin. Writes nothing.
    ///
    /// # Errors
    /// `Config` where somebody else owns the chain or it is damaged; `Retriable` where Kafka or the store is away.
    pub(crate) async fn open(shared: Arc<Shared>, name: TopicPartition) -> Result<Self> {
        let start = Start::find(&shared, &name).await?;
        warn_of_loss(&shared, &name, &start);
        Ok(Self {
            phase: Phase::Reading,
            position: start.resume,
            accounted: start.resume,
            begun: shared.context.clock().monotonic(),
            passed_since: None,
            file: None,
            closing: VecDeque::new(),
            tenure: Tenure::Unopened,
            commit: None,
            files_begun: 0,
            failures: 0,
            check: Check::new(&shared, &name),
            shared,
            name,
            start,
        })
    }

    /// Where Kafka is to be read from.
    pub(crate) fn place(&self) -> Place {
        Place { offset: self.start.resume, mark: self.start.mark }
    }

    /// The first offset that is not durable. Until a new lineage has an entry, the chain's end speaks of another log
    /// than the one that is read, and what was lost before the first record is not published as lost.
    pub(crate) fn durable(&self) -> Option<i64> {
        match &self.tenure {
            Tenure::Open(end) => end.entry.resume_offset,
            _ => match self.start.end.as_ref().and_then(|end| end.entry.resume_offset) {
                Some(published) => Some(published.min(self.start.resume)),
                // What comes before the first entry must not be skipped where reading began at the end.
                None => self.start.source.first.filter(|_| self.shared.context.offset_reset() == OffsetReset::Latest),
            },
        }
    }

    /// Memory of the file being filled, where it has records.
    pub(crate) fn open_file_bytes(&self) -> u64 {
        self.file.as_ref().map_or(0, |file| file.memory_bytes())
    }

    /// Memory that uploads under way give back.
    pub(crate) fn leaving_bytes(&self) -> u64 {
        self.closing.iter().map(|ended| ended.leaving_bytes(self.shared.settings.part_bytes)).sum()
    }

    /// True while something is on its way that [`Partition::progress`] moves on.
    pub(crate) fn is_busy(&self) -> bool {
        matches!(self.phase, Phase::Reading) && (!self.closing.is_empty() || self.commit.is_some())
    }

    /// Takes a batch that continues the partition. While a restart is under way it is dropped: it comes again.
    ///
    /// # Errors
    /// Those that fail the task.
    pub(crate) async fn take(&mut self, batch: &Batch) -> Result<()> {
        if !matches!(self.phase, Phase::Reading) {
            return Ok(());
        }
        let taken = self.route(batch).await;
        self.settle(taken)
    }

    /// Waits until all that the open file took is encoded.
    ///
    /// # Errors
    /// Those that fail the task.
    pub(crate) async fn catch_up(&mut self) -> Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        let caught_up = file.catch_up().await;
        self.settle(caught_up)
    }

    /// Moves what the open file holds to disk. False where nothing came of it.
    ///
    /// # Errors
    /// Those that fail the task.
    pub(crate) async fn spill(&mut self) -> Result<bool> {
        let (Some(file), Some(spill)) = (&mut self.file, &self.shared.spill) else { return Ok(false) };
        match file.spill(spill, &self.shared.context.executor()).await {
            Ok(found_room) => Ok(found_room),
            Err(error) => self.settle(Err(error)).map(|()| true),
        }
    }

    /// Ends the open file now, whatever rotation says: to publish it, or to free its memory.
    ///
    /// # Errors
    /// Those that fail the task.
    pub(crate) async fn rotate(&mut self) -> Result<()> {
        let rotated = self.end_file().await;
        self.settle(rotated)
    }

    /// Lets everything that goes on beside the loop move on. Never waits for the store or the broker.
    ///
    /// # Errors
    /// Those that fail the task.
    pub(crate) async fn progress(&mut self) -> Result<()> {
        let moved = self.advance().await;
        self.settle(moved)
    }

    /// Offsets that were read and that no entry names, from the first that is not durable: they are read again, where
    /// the log has them still.
    pub(crate) fn unpublished(&self) -> Range<i64> {
        self.durable().unwrap_or(self.start.resume)..self.position
    }

    /// True where the partition is given up until it is opened again.
    pub(crate) fn is_gone(&self) -> bool {
        matches!(self.phase, Phase::Gone { .. })
    }

    async fn route(&mut self, batch: &Batch) -> Result<()> {
        if batch.base_offset() != self.position {
            return Err(ConnectError::retriable(format!(
                "{}: a batch begins at offset {} where {} was expected; reading again from the last manifest",
                self.name,
                batch.base_offset(),
                self.position
            )));
        }
        let mut rest = batch.clone();
        while let Some((from, to)) = self.archived_ahead(rest.next_offset()) {
            let behind = rest.offsets().partition_point(|offset| *offset <= to);
            self.fill(&rest.until(from)).await?;
            self.pass(from.max(self.position));
            self.close_stretch().await?;
            rest = rest.slice(behind..rest.len());
            self.position = (to + 1).min(rest.next_offset());
            self.accounted = self.position;
            if self.position == rest.next_offset() {
                return Ok(());
            }
        }
        self.fill(&rest).await?;
        self.pass(rest.next_offset());
        Ok(())
    }

    /// The next run of offsets, from the position on and beginning before `next_offset`, that is in files already.
    fn archived_ahead(&self, next_offset: i64) -> Option<(i64, i64)> {
        let run = self.start.ahead.ranges().find(|run| run.to >= self.position)?;
        (run.from < next_offset).then_some((run.from, run.to))
    }

    /// Adds rows to the open file, and to as many more as rotation makes of them.
    async fn fill(&mut self, batch: &Batch) -> Result<()> {
        let mut rest = batch.clone();
        while !rest.is_empty() {
            let clock = self.shared.context.clock();
            let file = match &mut self.file {
                Some(file) => file,
                None => {
                    let file = self.begin_file(Moment::now(&*clock))?;
                    self.passed_since = None;
                    self.file.insert(Box::new(file))
                }
            };
            file.catch_up().await?;
            let (facts, rotation) = (file.facts(), &self.shared.settings.rotation);
            let is_full = facts.records > 0 && rotation.is_due(&facts, Moment::now(&*clock));
            let fitting = if is_full { 0 } else { rotation.fitting_rows(&facts, &rest) };
            if fitting == 0 {
                self.pass(rest.offsets()[0]);
                self.end_file().await?;
                continue;
            }
            let slice = rest.slice(0..fitting);
            file.append(&slice, &self.shared.target).await?;
            self.position = slice.next_offset();
            rest = rest.slice(fitting..rest.len());
            if rotation.is_due(&file.facts(), Moment::now(&*clock)) {
                self.end_file().await?;
            }
        }
        Ok(())
    }

    /// Moves the position over offsets that hold no record.
    fn pass(&mut self, next_offset: i64) {
        self.position = next_offset;
        match &mut self.file {
            Some(file) => file.pass(next_offset),
            None if next_offset > self.accounted => {
                let now = self.shared.context.clock().monotonic();
                self.passed_since.get_or_insert(now);
            }
            None => {}
        }
    }

    fn begin_file(&mut self, now: Moment) -> Result<OpenFile> {
        let header = FileHeader {
            partition: self.name.clone(),
            cluster_id: Some(self.shared.identity.cluster_id.clone()),
            topic_id: self.start.source.topic_id.clone(),
        };
        let encoder = self.shared.format.encoder(header, self.shared.compression)?;
        Ok(OpenFile::new(encoder, self.accounted, now, &self.shared.context.budget()))
    }

    async fn end_file(&mut self) -> Result<()> {
        let Some(mut file) = self.file.take() else { return Ok(()) };
        file.finish(&self.shared.context.executor()).await?;
        self.accounted = file.contents().next_offset;
        let n = self.files_begun;
        self.files_begun += 1;
        if sabotage::is(Fault::RotationForgets) {
            return Ok(());
        }
        if sabotage::is(Fault::BudgetLeak) {
            std::mem::forget(self.shared.context.budget().take(1));
        }
        self.closing.push_back(Ended::File { file, n });
        Ok(())
    }

    /// Ends the open file, or makes a gap of passed offsets that no file answers for.
    async fn close_stretch(&mut self) -> Result<()> {
        if self.file.is_some() {
            return self.end_file().await;
        }
        if self.position > self.accounted {
            self.closing.push_back(Ended::Gap { from: self.accounted, to: self.position - 1 });
            self.accounted = self.position;
        }
        self.passed_since = None;
        Ok(())
    }

    async fn advance(&mut self) -> Result<()> {
        let now = self.shared.context.clock().monotonic();
        match &mut self.phase {
            Phase::Gone { .. } if sabotage::is(Fault::OpenRaceIsFence) => return Ok(()),
            Phase::Gone { asked: Some(job), .. } => return job.take_if_ended().unwrap_or(Ok(())),
            Phase::Gone { ask_at, .. } if now < *ask_at => return Ok(()),
            Phase::Gone { asked, .. } => {
                let reclaim = commit::reclaim(Arc::clone(&self.shared), self.name.clone());
                *asked = Some(Job::start(&self.shared.ended, reclaim));
                return Ok(());
            }
            Phase::Waiting { until } if now < *until => return Ok(()),
            Phase::Waiting { .. } => {
                let (shared, name) = (Arc::clone(&self.shared), self.name.clone());
                let find = async move { Start::find(&shared, &name).await };
                self.phase = Phase::Restarting(Job::start(&self.shared.ended, find));
                return Ok(());
            }
            Phase::Restarting(job) => {
                let Some(start) = job.take_if_ended() else { return Ok(()) };
                self.begin(start?);
                self.shared.context.seek(&self.name, self.place());
                return Ok(());
            }
            Phase::Reading => {}
        }
        if let Some(file) = &mut self.file {
            file.look()?;
        }
        self.rotate_if_due(now).await?;
        self.advance_tenure(now)?;
        self.advance_uploads()?;
        self.advance_commit()?;
        if self.check.is_due(now) {
            let belief = self.belief();
            self.check.ask(&self.shared, belief);
        }
        let belief = self.belief();
        if self.check.answer(&belief)? && self.is_idle() {
            self.shared.troubles.tell(&self.name, None);
        }
        Ok(())
    }

    /// Takes `start` as the truth: everything begins at its resume offset.
    fn begin(&mut self, start: Start) {
        warn_of_loss(&self.shared, &self.name, &start);
        self.position = start.resume;
        self.accounted = start.resume;
        self.begun = self.shared.context.clock().monotonic();
        self.start = start;
        self.phase = Phase::Reading;
    }

    async fn rotate_if_due(&mut self, now: Duration) -> Result<()> {
        let moment = Moment { wall_ms: self.shared.context.clock().now_ms(), monotonic: now };
        let rotation = &self.shared.settings.rotation;
        let file_due = self.file.as_ref().is_some_and(|file| rotation.is_due(&file.facts(), moment));
        let passed_due = self.passed_since.is_some_and(|since| now.saturating_sub(since) >= rotation.age());
        if file_due || passed_due { self.close_stretch().await } else { Ok(()) }
    }

    fn advance_uploads(&mut self) -> Result<()> {
        let Tenure::Open(end) = &self.tenure else { return Ok(()) };
        let epoch = end.entry.epoch;
        let closing = self.closing.iter_mut().filter_map(|stretch| match stretch {
            Ended::File { file, n } => Some((file, *n)),
            Ended::Gap { .. } => None,
        });
        // What has no name yet waits for the next epoch, where one is to follow.
        let epoch_ends = self.check.other_settings().is_some();
        for (file, n) in closing.chain(self.file.as_mut().map(|file| (file, self.files_begun))) {
            if file.wants_upload(self.shared.settings.part_bytes) && !epoch_ends {
                let first_offset = file.contents().first_offset;
                let object = self.shared.identity.object_name(first_offset, epoch, n, self.shared.format);
                file.begin_upload(&self.shared.target, self.shared.manifests.layout().data(&self.name, &object));
            }
            file.advance(self.shared.settings.part_bytes)?;
        }
        Ok(())
    }

    /// Takes note of an entry that is committed, and sends the next for all stretches that are stored, in order.
    fn advance_commit(&mut self) -> Result<()> {
        if let Some(job) = &mut self.commit {
            let Some(committed) = job.take_if_ended() else { return Ok(()) };
            self.commit = None;
            self.tenure = Tenure::Open(Box::new(committed?));
            self.failures = 0;
            self.shared.troubles.tell(&self.name, None);
        }
        let Tenure::Open(end) = &self.tenure else { return Ok(()) };
        let stored = self.closing.iter().take_while(|stretch| stretch.is_stored()).count();
        if stored == 0 {
            return Ok(());
        }
        let end = end.clone();
        let stretches = self.closing.drain(..stored).map(Ended::into_stretch).collect::<Result<Vec<_>>>()?;
        let entry = commit::commit(Arc::clone(&self.shared), self.name.clone(), *end, stretches);
        self.commit = Some(Job::start(&self.shared.ended, entry));
        Ok(())
    }

    /// True where nothing is to be written.
    fn is_idle(&self) -> bool {
        self.file.is_none() && self.closing.is_empty() && self.commit.is_none()
    }

    /// Acts on an error's kind: what may pass is waited for and begun again from the chain's end.
    fn settle(&mut self, outcome: Result<()>) -> Result<()> {
        let Err(error) = outcome else { return Ok(()) };
        let wait = backoff(self.failures);
        let again_at = self.shared.context.clock().monotonic() + wait;
        match error.kind() {
            Kind::Retriable | Kind::NotFound | Kind::Conflict => {
                let (name, wait_ms, unpublished) = (&self.name, wait.as_millis() as u64, self.unpublished());
                let why = format!("starting again from the last manifest: {}", error.trace());
                if error.kind() == Kind::Conflict {
                    // A race is no trouble. Where it was lost to a new owner, the worker warns of the loss.
                    tracing::info!(partition = %name, wait_ms, ?unpublished, "{why}");
                } else {
                    tracing::warn!(partition = %name, wait_ms, ?unpublished, "{why}");
                }
                self.shared.troubles.tell(&self.name, Some(error.trace()));
                self.phase = Phase::Waiting { until: again_at };
            }
            Kind::Fenced => {
                if !self.is_gone() {
                    // The worker warns of the loss when the group tells it, before or after this.
                    tracing::info!(partition = %self.name, "given up: {}", error.trace());
                }
                self.phase = Phase::Gone { ask_at: again_at, asked: None };
            }
            Kind::Config | Kind::Fatal | Kind::Data => self.phase = Phase::Waiting { until: Duration::MAX },
        }
        self.failures += 1;
        self.discard();
        if matches!(error.kind(), Kind::Config | Kind::Fatal | Kind::Data) { Err(error) } else { Ok(()) }
    }

    fn discard(&mut self) {
        self.file = None;
        self.closing.clear();
        if let Tenure::Open(end) = std::mem::replace(&mut self.tenure, Tenure::Unopened) {
            // What it makes durable stays so, until the chain's end is read again.
            self.start.resume = end.entry.resume_offset.unwrap_or(self.start.resume);
            self.start.end = Some(*end);
        }
        self.commit = None;
        self.check.forget();
        self.passed_since = None;
        self.files_begun = 0;
    }
}

fn warn_of_loss(shared: &Shared, name: &TopicPartition, start: &Start) {
    if let Some(lost) = start.lost(name) {
        let what_follows = if shared.settings.fail_on_gap {
            "errors.on.gap=fail: the brokers are asked once more before the task fails"
        } else {
            "the next manifest records the gap"
        };
        tracing::warn!("{lost}; {what_follows}");
    }
}
