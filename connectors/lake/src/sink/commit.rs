//! The entries a writer makes, and the jobs that put them into the chain.
//!
//! Building an entry is pure; a job asks the broker for the topic's id first (in a request that is sent after the last
//! record of the entry's files was fetched), builds the entry once, freezes its bytes and sends exactly these until
//! its number is settled. Losing a number while opening is a race, not a fence; losing it while committing means that
//! somebody opened a higher epoch, and the group decides whose the partition is.

use std::sync::Arc;

use bytes::Bytes;
use lakeferry_api::simulation::sabotage::{self, Fault};
use lakeferry_api::{
    ConnectError, Kind, PartitionView, Positions, Result, SinkContext, SinkEvent, TopicPartition, TopicView,
};
use object_store::path::Path;
use uuid::Uuid;

use super::backoff::backoff;
use super::broken;
use super::partition::Shared;
use super::start::{Start, before_a_bare_stretch};
use super::writer::Contents;
use crate::format::{FileFormat, Tail};
use crate::layout::ObjectName;
use crate::manifest::invariants::{self, Before};
use crate::manifest::model::{Entry, EntryKind, FileEntry, Gap, Isolation, LogState, Missing, Owner, Reason, Writer};
use crate::manifest::{Digest, End, Outcome, wire};

/// Who writes.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    pub(crate) cluster_id: String,
    pub(crate) group: String,
    pub(crate) writer_id: Uuid,
    pub(crate) connector: String,
    pub(crate) task: u32,
    pub(crate) worker: String,
}

/// A stretch of offsets that is ready to be named.
#[derive(Debug, Clone)]
pub(crate) enum Stretch {
    /// A durable object.
    File { contents: Contents, path: Path, tail: Tail },
    /// Offsets without records that no file answers for, both inclusive.
    Gap { from: i64, to: i64 },
}

impl Stretch {
    /// True where it answers for offsets without a record.
    fn has_holes(&self) -> bool {
        match self {
            Self::File { contents, .. } => contents.next_offset.abs_diff(contents.span_from) != contents.records,
            Self::Gap { .. } => true,
        }
    }
}

impl Identity {
    /// The identity of the task that `context` belongs to, with a new writer id.
    pub(crate) fn of(context: &dyn SinkContext, cluster_id: String) -> Self {
        Self {
            cluster_id,
            group: context.group().to_owned(),
            writer_id: Uuid::from_u128(context.random_id()),
            connector: context.connector().to_owned(),
            task: context.task(),
            worker: context.worker_id().to_owned(),
        }
    }

    /// Who archives here.
    pub(crate) fn owner(&self) -> Owner {
        Owner { cluster_id: self.cluster_id.clone(), group: self.group.clone() }
    }

    /// A name that no other file has or will have.
    pub(crate) fn object_name(&self, first_offset: i64, epoch: u32, n: u32, format: &FileFormat) -> ObjectName {
        let writer = (self.writer_id.as_u128() >> 96) as u32;
        let (epoch, n, writer) = if sabotage::is(Fault::ObjectNameTwice) { (1, 0, 0) } else { (epoch, n, writer) };
        ObjectName { first_offset, epoch, n, writer, extension: format.extension.to_owned() }
    }

    /// Which task writes, as entries name it.
    pub(super) fn writer(&self) -> Writer {
        Writer {
            id: self.writer_id.simple().to_string(),
            connector: self.connector.clone(),
            task: self.task,
            worker: self.worker.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }
}

/// Opens an epoch behind `start`'s end.
///
/// # Errors
/// `Conflict` where another writer was first, `Retriable` where the topic is another by now: begin again from the
/// chain's end.
/// `Fenced` where this writer left its own epoch and another was first. `Fatal` where records are lost and
/// `errors.on.gap=fail`: only now, when a second answer has said so. The first may have been that of a broker that lags
/// behind, and tells of a topic that was.
pub(crate) async fn open(
    shared: Arc<Shared>,
    name: TopicPartition,
    start: Start,
    topic: Option<TopicView>,
) -> Result<End> {
    let topic_id = start.source.topic_id.as_deref();
    let gone = || ConnectError::retriable(format!("{name}: the topic was deleted before its archive was opened"));
    let Some(view) = fresh_view(&shared, &name, topic_id).await? else {
        // What was read of it is published in the epoch that is open still.
        return start.end.filter(|_| start.is_own).ok_or_else(gone);
    };
    if let Some(log_start) = start.log_start().filter(|log_start| view.log_start_offset < *log_start) {
        return Err(ConnectError::retriable(format!(
            "{name} begins at offset {}, not at {log_start}, as another broker said: asked again before what lies \
             between them is left out",
            view.log_start_offset
        )));
    }
    if let Some(lost) = start.lost(&name).filter(|_| shared.settings.fail_on_gap) {
        return Err(ConnectError::fatal(format!(
            "{lost}; errors.on.gap=fail stops here: set errors.on.gap=continue to record the gap and go on"
        )));
    }
    let topic = match topic {
        Some(topic) => topic,
        None => shared.context.topic(&name.topic).await?,
    };
    check_same_topic(&name, topic_id, &topic)?;
    let entry = open_entry(&shared, &start, &view, topic.clone());
    check_laws(&entry, &before_opening(&start))?;
    match create(&shared, &name, entry).await? {
        Some(end) => {
            shared.told.tell(&name.topic, topic);
            for gap in &end.entry.gaps {
                let (offsets, reason) = (gap.range().width(), gap.reason.as_str());
                shared.context.count(&SinkEvent::Gap { partition: &name, offsets, reason });
            }
            Ok(end)
        }
        None if sabotage::is(Fault::OpenRaceIsFence) => {
            Err(ConnectError::fenced(format!("{name}: another writer won")))
        }
        // No race: somebody came after us. The group is asked whose the partition is.
        None if start.is_own => Err(ConnectError::fenced(format!("{name}: another writer opened the archive"))),
        None => Err(ConnectError::conflict(format!("{name}: another writer opened the archive at the same moment"))),
    }
}

/// What is written down of a topic is of the incarnation with `topic_id`, and not of another that has its name.
///
/// # Errors
/// `Retriable` where the broker tells of another.
pub(super) fn check_same_topic(name: &TopicPartition, topic_id: Option<&str>, topic: &TopicView) -> Result<()> {
    match topic.topic_id.as_deref() {
        Some(id) if Some(id) != topic_id => Err(ConnectError::retriable(format!(
            "{name}: one broker tells of topic id {}, another of {id}: the topic was made anew just now, or a broker \
             lags behind; asked again before anything is written down of it",
            topic_id.unwrap_or("none")
        ))),
        _ => Ok(()),
    }
}

/// Publishes `stretches`, which continue `end` in order.
///
/// # Errors
/// `Fenced` where the group gave the partition to somebody else; `Config` where another owner took over; `Retriable`
/// where the partition is still ours and must begin again from the chain's end.
pub(crate) async fn commit(
    shared: Arc<Shared>,
    name: TopicPartition,
    end: End,
    stretches: Vec<Stretch>,
) -> Result<End> {
    if let Some(faulty) = broken::commit(&shared, &name, &end, &stretches).await {
        return faulty;
    }
    let view = fresh_view(&shared, &name, end.entry.source.topic_id.as_deref()).await?;
    let without_record = reason_of_holes(&shared, &name, &stretches).await?;
    let entry = commit_entry(&shared, &end, stretches, view.as_ref(), without_record)?;
    check_laws(&entry, &Before::following(&end.entry, end.sha256, &entry))?;
    match create(&shared, &name, entry).await? {
        Some(end) => Ok(end),
        None => Err(whose_it_is(&shared, &name).await?.into_error(&name)),
    }
}

/// What the broker says now, as long as the topic is the one with this id; `None` where it is gone, said twice: what
/// was read of it may be published then. Between its deletion and its making anew there is a moment without it, and an
/// incarnation that came and went meanwhile nobody can tell.
pub(super) async fn fresh_view(
    shared: &Shared,
    name: &TopicPartition,
    topic_id: Option<&str>,
) -> Result<Option<PartitionView>> {
    let (mut attempt, mut is_gone) = (0, false);
    loop {
        match shared.context.partition(name).await {
            Ok(view) if view.topic_id.as_deref() == topic_id || sabotage::is(Fault::TopicIdFromCache) => {
                done_waiting(shared, name, attempt);
                return Ok(Some(view));
            }
            Ok(view) => {
                let id = view.topic_id.as_deref().unwrap_or("none");
                return Err(ConnectError::retriable(format!(
                    "{name} was created again (topic id {id}, archived was {}); a new lineage begins",
                    topic_id.unwrap_or("none")
                )));
            }
            Err(error) if error.kind() == Kind::NotFound && is_gone => return Ok(None),
            Err(error) if error.kind() == Kind::NotFound => {
                is_gone = true;
                shared.context.clock().sleep(backoff(0)).await;
            }
            Err(error) if error.is_retriable() => wait(shared, name, &error, &mut attempt).await,
            Err(error) => return Err(error),
        }
    }
}

/// Why offsets between records have none: the cleaner may have been at work only where the topic is compacted. Asked
/// only where `stretches` have such offsets.
async fn reason_of_holes(shared: &Shared, name: &TopicPartition, stretches: &[Stretch]) -> Result<Reason> {
    let mut attempt = 0;
    while stretches.iter().any(Stretch::has_holes) {
        match shared.context.topic(&name.topic).await {
            Ok(topic) => {
                done_waiting(shared, name, attempt);
                let compacted = topic.configs.get("cleanup.policy").is_some_and(|policy| policy.contains("compact"));
                return Ok(if compacted { Reason::CompactionOrTransaction } else { Reason::Transaction });
            }
            Err(error) if error.is_retriable() => wait(shared, name, &error, &mut attempt).await,
            Err(error) if error.kind() == Kind::NotFound => break,
            Err(error) => return Err(error),
        }
    }
    Ok(Reason::Unknown)
}

/// Sends the frozen entry until its number is settled; `None` where the number is another's.
async fn create(shared: &Shared, name: &TopicPartition, entry: Entry) -> Result<Option<End>> {
    let frozen: Bytes = wire::encode(&entry)?;
    let mut attempt = 0;
    loop {
        match shared.manifests.create(name, entry.seq, frozen.clone()).await {
            Ok(Outcome::Committed) => {
                done_waiting(shared, name, attempt);
                return Ok(Some(End { sha256: Digest::of(&frozen), entry, bytes: frozen }));
            }
            Ok(Outcome::Lost) => return Ok(None),
            Err(error) if error.is_retriable() && sabotage::is(Fault::FreedNumber) => {
                return Err(broken::free(shared, name, entry.seq, error).await);
            }
            Err(error) if error.is_retriable() => wait(shared, name, &error, &mut attempt).await,
            Err(error) => return Err(error),
        }
    }
}

fn before_opening(start: &Start) -> Before<'_> {
    let of = |lineage: u32| start.known.as_ref().filter(|entry| entry.source.lineage == lineage);
    Before {
        previous: start.end.as_ref().map(|end| (&end.entry, end.sha256)),
        lineage: of(start.source.lineage),
        continued: start.source.continues.and_then(|continues| of(continues.lineage)),
    }
}

/// The last look before an entry is frozen: one that breaks a law is our fault, and must never be written.
pub(super) fn check_laws(entry: &Entry, before: &Before<'_>) -> Result<()> {
    let broken: Vec<_> = invariants::check_entry(entry, before).iter().map(ToString::to_string).collect();
    if broken.is_empty() {
        return Ok(());
    }
    Err(ConnectError::fatal(format!(
        "{}: an entry that breaks the laws of manifests was not written; please report this: {}",
        entry.partition(),
        broken.join("; ")
    )))
}

async fn wait(shared: &Shared, name: &TopicPartition, error: &ConnectError, attempt: &mut u32) {
    tracing::warn!(partition = %name, attempt = *attempt, "trying again: {}", error.trace());
    shared.troubles.tell(name, Some(error.trace()));
    shared.context.clock().sleep(backoff(*attempt)).await;
    *attempt += 1;
}

fn done_waiting(shared: &Shared, name: &TopicPartition, attempts: u32) {
    if attempts > 0 {
        shared.troubles.tell(name, None);
    }
}

/// Asks the group once more for a partition that it refused: while it rebalances it refuses those who stay, too.
///
/// # Errors
/// `Retriable` where it is ours after all: begin again from the chain's end. `Fenced` where it is not, or nobody can
/// tell.
pub(crate) async fn reclaim(shared: Arc<Shared>, name: TopicPartition) -> Result<()> {
    match whose_it_is(&shared, &name).await {
        Ok(whose) => Err(whose.into_error(&name)),
        Err(error) if error.is_retriable() => Err(ConnectError::fenced(error.trace())),
        Err(error) => Err(error),
    }
}

/// Whose a partition is whose chain went on without us.
pub(super) enum Whose {
    /// Ours, as far as the group says, though the chain's end is of this epoch.
    Ours { epoch: u32 },
    /// Another owner's, or the group refuses us: why.
    NotOurs(ConnectError),
}

impl Whose {
    /// What ends the work on `name`: `Retriable` where it is ours and must begin again from the chain's end; `Config`
    /// where another owner took over; otherwise what the group said.
    pub(super) fn into_error(self, name: &TopicPartition) -> ConnectError {
        match self {
            Self::Ours { epoch } => ConnectError::retriable(format!(
                "{name}: fenced by epoch {epoch}, but the group does not say that the partition is another's; opening \
                 again"
            )),
            Self::NotOurs(why) => why,
        }
    }
}

/// What a lost commit means: the group is asked whose the partition is. Behind a reset there is no offset to ask with,
/// and none may be committed: then it is taken for ours, and who is not fenced by the next entry hears it there.
///
/// # Errors
/// Where the chain cannot be read: then nothing is known.
pub(super) async fn whose_it_is(shared: &Shared, name: &TopicPartition) -> Result<Whose> {
    let end = shared.manifests.end(name).await?.ok_or_else(|| {
        ConnectError::fatal(format!("{name}: the chain vanished while it was being written; nothing more is written"))
    })?;
    if end.entry.owner != shared.identity.owner() {
        return Ok(Whose::NotOurs(ConnectError::config(format!(
            "{name}: {} took over this archive with epoch {}; this connector stops writing to it",
            end.entry.owner, end.entry.epoch
        ))));
    }
    let positions: Positions = end.entry.resume_offset.map(|resume| (name.clone(), resume)).into_iter().collect();
    let mut attempt = 0;
    loop {
        match shared.context.commit(&positions).await {
            Ok(()) => {
                done_waiting(shared, name, attempt);
                return Ok(Whose::Ours { epoch: end.entry.epoch });
            }
            // Without the group's word a writer that opens again could fence the rightful owner.
            Err(error) if error.is_retriable() => wait(shared, name, &error, &mut attempt).await,
            Err(error) => return Ok(Whose::NotOurs(error)),
        }
    }
}

fn open_entry(shared: &Shared, start: &Start, view: &PartitionView, topic: TopicView) -> Entry {
    let previous = start.end.as_ref();
    Entry {
        seq: previous.map_or(0, |end| end.entry.seq + 1),
        previous_sha256: previous.map(|end| end.sha256),
        kind: EntryKind::Open,
        epoch: previous.map_or(0, |end| end.entry.epoch) + 1,
        written_at: shared.context.clock().now_ms(),
        owner: shared.identity.owner(),
        writer: shared.identity.writer(),
        source: start.source.clone(),
        topic: Some(topic.into()),
        lineages: start.lineages.clone(),
        files: Vec::new(),
        missing: Missing::new(),
        gaps: start.gaps.clone(),
        resume_offset: Some(start.resume),
        ahead: start.ahead.clone(),
        totals: start.totals.plus(&[], &Missing::new(), &start.gaps),
        log: log_state(view).marked(start.mark),
    }
}

pub(super) fn commit_entry(
    shared: &Shared,
    end: &End,
    stretches: Vec<Stretch>,
    view: Option<&PartitionView>,
    without_record: Reason,
) -> Result<Entry> {
    let previous = &end.entry;
    let mut files = Vec::new();
    let mut gaps = Vec::new();
    let mut mark = previous.log.mark();
    for stretch in stretches {
        match stretch {
            Stretch::File { contents, path, tail } => {
                mark = contents.mark();
                files.push(file_entry(shared, &contents, &path, &tail, without_record)?);
            }
            Stretch::Gap { from, to } => gaps.push(Gap { from, to, reason: without_record }),
        }
    }
    let mut ahead = previous.ahead.clone();
    let mut resume = previous.resume_offset.ok_or_else(|| {
        ConnectError::fatal(format!("{}: an epoch was opened without a resume offset", previous.partition()))
    })?;
    let mut published: Vec<_> = files.iter().filter_map(FileEntry::span).chain(gaps.iter().map(Gap::range)).collect();
    published.sort_unstable();
    for range in published {
        // What goes on at the resume offset is no set of offsets: a compacted log may have passed thousands of
        // millions.
        if range.from > resume {
            ahead.insert_range(range);
        } else {
            resume = ahead.advance(resume.max(range.to.saturating_add(1)));
        }
    }
    let resume = ahead.advance(resume);
    let mark = mark.and_then(|mark| before_a_bare_stretch(mark, &previous.ahead, resume));
    Ok(Entry {
        seq: previous.seq + 1,
        previous_sha256: Some(end.sha256),
        kind: EntryKind::Commit,
        written_at: shared.context.clock().now_ms(),
        topic: None,
        totals: previous.totals.plus(&files, &Missing::new(), &gaps),
        files,
        missing: Missing::new(),
        gaps,
        resume_offset: Some(resume),
        ahead,
        log: view.map_or(previous.log, log_state).marked(mark),
        ..previous.clone()
    })
}

fn file_entry(
    shared: &Shared,
    contents: &Contents,
    path: &Path,
    tail: &Tail,
    without_record: Reason,
) -> Result<FileEntry> {
    let width = contents.next_offset.abs_diff(contents.span_from);
    let holes = width.checked_sub(contents.records).ok_or_else(|| {
        ConnectError::fatal(format!("{path} holds {} records in a span of {width} offsets", contents.records))
    })?;
    let relative = shared.manifests.layout().relative(path);
    Ok(FileEntry {
        path: relative.ok_or_else(|| ConnectError::fatal(format!("{path} lies outside of topics.dir")))?,
        route: String::new(),
        format: shared.format.name.to_owned(),
        codec: shared.compression.codec().to_owned(),
        span_from: Some(contents.span_from),
        span_to: Some(contents.next_offset - 1),
        first_offset: contents.first_offset,
        last_offset: contents.last_offset,
        records: contents.records,
        missing: (holes > 0).then_some((without_record, holes)).into_iter().collect(),
        min_timestamp: contents.timestamps.map(|(min, _)| min),
        max_timestamp: contents.timestamps.map(|(_, max)| max),
        untimed: contents.untimed,
        stored_bytes: tail.stored_bytes,
        raw_bytes: contents.raw_bytes,
        sha256: tail.sha256.clone(),
        blocks: tail.blocks.clone(),
    })
}

fn log_state(view: &PartitionView) -> LogState {
    LogState {
        start_offset: view.log_start_offset,
        last_stable_offset: view.last_stable_offset,
        leader_epoch: None,
        leader_epoch_upto: None,
        isolation: Isolation::ReadCommitted,
    }
}
