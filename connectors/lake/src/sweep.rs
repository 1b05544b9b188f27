//! What no manifest names and no live writer can still publish: found, told apart from what somebody may still need,
//! and removed. Called by `lakeferry sweep`; `inspect` asks for the same lists.
//!
//! # Why it is safe
//!
//! An object or an upload becomes real only by an entry of the epoch in its name. The folder is listed **first**, the
//! chain read **after** that. An epoch below the chain's end is over: the number that its writer would have to create
//! next was taken by the entry that ended it, and numbers are never free again. So what was listed, has such an epoch
//! and is named by no entry up to the end will never be named. An epoch that is the end's, or above what was read, may
//! be alive, whatever the object's age: it stays. A writer that opens between the two readings only raises the end,
//! and has uploaded nothing that was listed.
//!
//! A staged file goes when it is older than any lease **and**, where its name tells a data object, its epoch is over:
//! a file that fills for hours is older than any limit. That of a manifest or a probe is written in one go; its writer,
//! should it still live, reads the chain before it writes the same bytes again. The object of a probe, which nobody
//! reads but the one who wrote it a moment ago, goes by the same age.
//!
//! Names that no sink gives are never touched, nor is anything of a partition whose manifests are damaged or gone: a
//! sink opens a partition before it uploads, so where objects are and no entry is, nobody knows which of them are real.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _, stream};
use lakeferry_api::simulation::sabotage::{self, Fault};
use lakeferry_api::{ConnectError, Kind, Result, TopicPartition};
use object_store::path::Path;
use object_store::{Error as StoreError, ObjectMeta, ObjectStoreExt as _};
use serde::Serialize;

use crate::layout::ObjectName;
use crate::manifest::read::{Archive, Chain};
use crate::store::explain;
use crate::store::leftovers::{Leftovers, OpenUpload, StagedFile};

/// Staged files and probes younger than this stay, whatever the store's lease.
const MIN_AGE: Duration = Duration::from_secs(60 * 60);
/// Partitions that are read at once.
const PARALLEL_PARTITIONS: usize = 8;
/// Requests of one partition that are under way at once.
const PARALLEL_REMOVALS: usize = 16;

/// What is looked at, and what is done about it.
pub struct Sweep<'a> {
    /// The archive.
    pub archive: &'a Archive,
    /// What its store may hold besides objects.
    pub leftovers: &'a Leftovers,
    /// The time, in milliseconds since the Unix epoch.
    pub now_ms: i64,
    /// Nothing is removed.
    pub dry_run: bool,
}

/// What came of it.
#[derive(Debug, Default, Serialize)]
pub struct Swept {
    /// Partitions that were looked at.
    pub partitions: u64,
    /// What was removed, or would be.
    pub removed: Vec<Leftover>,
    /// What no manifest names and stays all the same.
    pub kept: Vec<Leftover>,
    /// Partitions whose manifests cannot be read or were removed, and why: nothing of theirs is touched.
    pub damaged: Vec<Damage>,
    /// Why unfinished uploads were not looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uploads_unseen: Option<String>,
}

/// Something that no manifest names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Leftover {
    /// What it is.
    pub kind: LeftoverKind,
    /// Where: relative to `topics.dir`; of a staged file its name.
    pub path: String,
    /// Its size; nobody says that of an unfinished upload.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Why it stays.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kept: Option<Kept>,
}

/// What a leftover is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LeftoverKind {
    /// A whole object.
    Object,
    /// An upload in parts that was never completed.
    Upload,
    /// A file that was to be renamed once it was whole.
    StagedFile,
    /// What a writer that began tried the store with.
    Probe,
}

/// Why a leftover stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kept {
    /// Its epoch is the one that writes: it may be published yet.
    LiveEpoch,
    /// No sink gives such a name here.
    ForeignName,
    /// Its writer may be at it this moment.
    Young,
}

/// A partition whose manifests cannot be read, or were removed.
#[derive(Debug, Clone, Serialize)]
pub struct Damage {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// What is wrong.
    pub problem: String,
}

/// The staging folder as it was before any chain was read: what `inspect` tells each partition's part of.
#[derive(Debug, Default)]
pub struct StagedFiles {
    files: Vec<StagedFile>,
    /// Files younger than this may be written this moment.
    limit: Duration,
    now_ms: i64,
    /// Why the store does not show them.
    unseen: Option<String>,
}

/// What stood in a partition's folder before its chain was read.
#[derive(Debug, Default)]
pub(crate) struct Found {
    objects: Vec<ObjectMeta>,
    uploads: Vec<OpenUpload>,
    /// Why the store does not show uploads.
    uploads_unseen: Option<String>,
}

/// A partition that was looked at, and what has come of it so far.
struct Tidied {
    partition: TopicPartition,
    /// The epoch of its chain's end; `None` where it is damaged.
    epoch: Option<u32>,
    swept: Swept,
    failure: Option<ConnectError>,
}

/// What the names in a staging folder can mean: folders by their marks, with the epoch of the chain's end.
#[derive(Default)]
struct Folders {
    data: BTreeMap<u64, Option<u32>>,
    chains: BTreeMap<u64, Option<u32>>,
}

impl Sweep<'_> {
    /// Sweeps `topics` of the archive; with `everything` also staged files that belong to none of them. What comes of
    /// it is added to `swept`.
    ///
    /// # Errors
    /// As [`explain`]. What was done until then is in `swept`.
    pub async fn run(&self, topics: &[String], everything: bool, swept: &mut Swept) -> Result<()> {
        // Before any chain is read, as all that is listed.
        let staged = match &self.leftovers.staging {
            Some(staging) => staging.list().await?,
            None => Vec::new(),
        };
        let probes = if everything { self.probes().await? } else { Vec::new() };
        let mut folders = Folders::default();
        for topic in topics {
            let partitions = self.archive.partitions(topic).await?;
            let mut tidied = stream::iter(partitions.into_iter().map(|partition| self.tidy(partition)))
                .buffered(PARALLEL_PARTITIONS);
            // A folder of manifests may hold none, where a file system keeps it or others have filled it.
            let (mut told, mut bare) = (BTreeSet::new(), BTreeSet::new());
            while let Some(tidied) = tidied.next().await {
                folders.add(self.archive, &tidied.partition, tidied.epoch);
                let is_told = tidied.epoch.is_some() || !tidied.swept.damaged.is_empty();
                if is_told { &mut told } else { &mut bare }.insert(tidied.partition);
                swept.add(tidied.swept);
                if let Some(failure) = tidied.failure {
                    return Err(failure);
                }
            }
            for (partition, error) in self.archive.removed(topic, &told).await? {
                folders.add(self.archive, &partition, None);
                swept.partitions += u64::from(!bare.contains(&partition));
                swept.damaged.push(Damage::of(&partition, &error));
            }
        }
        self.tidy_staging(staged, &folders, everything, swept).await?;
        self.tidy_probes(probes, swept).await
    }

    async fn tidy(&self, partition: TopicPartition) -> Tidied {
        let swept = Swept { partitions: 1, ..Swept::default() };
        let mut tidied = Tidied { partition, epoch: None, swept, failure: None };
        tidied.failure = self.tidy_into(&mut tidied).await.err();
        tidied
    }

    async fn tidy_into(&self, tidied: &mut Tidied) -> Result<()> {
        let partition = &tidied.partition;
        let mut found = Found::list(self.archive, self.leftovers, partition).await?;
        tidied.swept.uploads_unseen = found.uploads_unseen.take();
        let chain = match self.archive.chain(partition).await {
            Ok(Some(chain)) => chain,
            Ok(None) => return Ok(()),
            Err(error) if error.kind() == Kind::Fatal => {
                tidied.swept.damaged.push(Damage::of(partition, &error));
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        tidied.epoch = Some(chain.end().epoch);
        let judged = found.judge(self.archive, &chain);
        let mut removals = stream::iter(judged.into_iter().map(|(leftover, upload)| async move {
            let removed = match &leftover.kept {
                Some(_) => Ok(()),
                None => self.remove(&leftover, upload.as_ref()).await,
            };
            (leftover, removed)
        }))
        .buffered(PARALLEL_REMOVALS);
        let mut failure = None;
        while let Some((leftover, removed)) = removals.next().await {
            match removed {
                Ok(()) => tidied.swept.tell(leftover),
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        failure.map_or(Ok(()), Err)
    }

    /// Removes an object, or the upload it comes from.
    async fn remove(&self, leftover: &Leftover, upload: Option<&OpenUpload>) -> Result<()> {
        if self.dry_run {
            return Ok(());
        }
        if let (Some(upload), Some(uploads)) = (upload, &self.leftovers.uploads) {
            return uploads.abort(upload).await;
        }
        self.delete(&self.archive.manifests().layout().object(&leftover.path)?).await
    }

    async fn delete(&self, path: &Path) -> Result<()> {
        match self.archive.manifests().store().delete(path).await {
            Ok(()) | Err(StoreError::NotFound { .. }) => Ok(()),
            Err(error) => Err(explain(&format!("remove {path}"), error)),
        }
    }

    async fn probes(&self) -> Result<Vec<ObjectMeta>> {
        let layout = self.archive.manifests().layout();
        let listed = self.archive.manifests().store().list_with_delimiter(Some(layout.topics_dir())).await;
        let listed = listed.map_err(|error| explain(&format!("list {}", layout.topics_dir()), error))?;
        Ok(listed.objects.into_iter().filter(|meta| layout.is_probe(&meta.location)).collect())
    }

    async fn tidy_probes(&self, probes: Vec<ObjectMeta>, swept: &mut Swept) -> Result<()> {
        for probe in probes {
            let modified_ms = probe.last_modified.timestamp_millis();
            let kept = is_young(self.now_ms, modified_ms, MIN_AGE).then_some(Kept::Young);
            if kept.is_none() && !self.dry_run {
                self.delete(&probe.location).await?;
            }
            let path = self.archive.manifests().layout().relative(&probe.location).unwrap_or_default();
            swept.tell(Leftover { kind: LeftoverKind::Probe, path, bytes: Some(probe.size), kept });
        }
        Ok(())
    }

    async fn tidy_staging(
        &self,
        staged: Vec<StagedFile>,
        folders: &Folders,
        everything: bool,
        swept: &mut Swept,
    ) -> Result<()> {
        let Some(staging) = &self.leftovers.staging else { return Ok(()) };
        let limit = MIN_AGE.max(staging.lease());
        for file in staged {
            let Some(leftover) = folders.leftover(&file, everything, (self.now_ms, limit)) else { continue };
            if leftover.kept.is_none() && !self.dry_run {
                staging.remove(&file).await?;
            }
            swept.tell(leftover);
        }
        Ok(())
    }
}

impl StagedFiles {
    /// Lists them, at `now_ms`; to be called before any chain is read. A store that does not show them to this user
    /// hides nothing else.
    ///
    /// # Errors
    /// As [`explain`].
    pub async fn list(leftovers: &Leftovers, now_ms: i64) -> Result<Self> {
        let Some(staging) = &leftovers.staging else { return Ok(Self::default()) };
        let (files, unseen) = match staging.list().await {
            Ok(files) => (files, None),
            Err(error) if error.kind() == Kind::Config => (Vec::new(), Some(error.message().to_owned())),
            Err(error) => return Err(error),
        };
        Ok(Self { files, limit: MIN_AGE.max(staging.lease()), now_ms, unseen })
    }

    /// Why the store does not show them, where it does not.
    pub(crate) fn unseen(&self) -> Option<&str> {
        self.unseen.as_deref()
    }

    /// Those that were to become an object or a manifest of `partition`, whose chain was read after the listing and
    /// ends in `epoch`.
    pub(crate) fn of(&self, archive: &Archive, partition: &TopicPartition, epoch: u32) -> Vec<Leftover> {
        let mut folders = Folders::default();
        folders.add(archive, partition, Some(epoch));
        let age = (self.now_ms, self.limit);
        let mut found: Vec<_> = self.files.iter().filter_map(|file| folders.leftover(file, false, age)).collect();
        found.sort_by(|one, other| one.path.cmp(&other.path));
        found
    }
}

fn is_young(now_ms: i64, modified_ms: i64, limit: Duration) -> bool {
    let limit_ms = i64::try_from(limit.as_millis()).unwrap_or(i64::MAX);
    now_ms.saturating_sub(modified_ms) <= limit_ms
}

impl Damage {
    fn of(partition: &TopicPartition, error: &ConnectError) -> Self {
        let (topic, problem) = (partition.topic.to_string(), error.message().to_owned());
        Self { topic, partition: partition.partition, problem }
    }
}

impl Swept {
    fn tell(&mut self, leftover: Leftover) {
        match leftover.kept {
            Some(_) => self.kept.push(leftover),
            None => self.removed.push(leftover),
        }
    }

    fn add(&mut self, other: Self) {
        self.partitions += other.partitions;
        self.removed.extend(other.removed);
        self.kept.extend(other.kept);
        self.damaged.extend(other.damaged);
        self.uploads_unseen = self.uploads_unseen.take().or(other.uploads_unseen);
    }
}

impl Found {
    /// Lists the folder of `partition`; to be called before its chain is read. A store that does not show its uploads,
    /// to this user or to nobody, hides nothing else.
    ///
    /// # Errors
    /// As [`explain`].
    pub(crate) async fn list(archive: &Archive, leftovers: &Leftovers, partition: &TopicPartition) -> Result<Self> {
        let folder = archive.manifests().layout().data_dir(partition);
        let listed = archive.manifests().store().list(Some(&folder)).try_collect().await;
        let objects = listed.map_err(|error| explain(&format!("list {folder}"), error))?;
        let (uploads, uploads_unseen) = match &leftovers.uploads {
            Some(uploads) => match uploads.list(&folder).await {
                Ok(uploads) => (uploads, None),
                Err(error) if error.kind() == Kind::Config => (Vec::new(), Some(error.message().to_owned())),
                Err(error) => return Err(error),
            },
            None => (Vec::new(), None),
        };
        Ok(Self { objects, uploads, uploads_unseen })
    }

    /// Why the store does not show uploads, where it does not.
    pub(crate) fn uploads_unseen(&self) -> Option<&str> {
        self.uploads_unseen.as_deref()
    }

    /// What `chain`, read after the listing, says of each that it does not name; sorted.
    pub(crate) fn judge(self, archive: &Archive, chain: &Chain) -> Vec<(Leftover, Option<OpenUpload>)> {
        let layout = archive.manifests().layout();
        let files = chain.links.iter().flat_map(|link| &link.entry.files);
        let named: BTreeSet<_> = files.map(|file| file.path.as_str()).collect();
        let leftover = |kind, path: &Path, bytes| {
            let name = layout.parse_data(path).map(|(_, name)| name);
            let kept = keep(name.as_ref(), chain.end().epoch);
            Some(Leftover { kind, path: layout.relative(path)?, bytes, kept })
        };
        let objects = self.objects.iter().filter_map(|meta| {
            let object = leftover(LeftoverKind::Object, &meta.location, Some(meta.size))?;
            (!named.contains(object.path.as_str())).then_some((object, None))
        });
        let mut judged: Vec<_> = objects.collect();
        judged.extend(self.uploads.into_iter().filter_map(|upload| {
            let leftover = leftover(LeftoverKind::Upload, &upload.path, None)?;
            // One that has a name of the chain was completed since it was listed.
            (!named.contains(leftover.path.as_str())).then_some((leftover, Some(upload)))
        }));
        judged.sort_by(|(one, _), (other, _)| (one.kind, &one.path).cmp(&(other.kind, &other.path)));
        judged
    }
}

/// Why something of this name stays while `end` is the epoch of the chain's end; `None`: nobody can need it.
fn keep(name: Option<&ObjectName>, end: u32) -> Option<Kept> {
    match name {
        None => Some(Kept::ForeignName),
        Some(name) if name.epoch >= end && !sabotage::is(Fault::SweepByAge) => Some(Kept::LiveEpoch),
        Some(_) => None,
    }
}

impl Folders {
    fn add(&mut self, archive: &Archive, partition: &TopicPartition, epoch: Option<u32>) {
        use crate::store::Purpose;
        let layout = archive.manifests().layout();
        self.data.insert(Purpose::folder_mark(&layout.data_dir(partition)), epoch);
        self.chains.insert(Purpose::folder_mark(&layout.chain_dir(partition)), epoch);
    }

    /// What `file` is told as, at a time and with the age that a file must have to go; nothing where it is none of
    /// ours to judge.
    fn leftover(&self, file: &StagedFile, everything: bool, (now_ms, limit): (i64, Duration)) -> Option<Leftover> {
        let kept = self.judge(file, everything)?;
        let kept = kept.or(is_young(now_ms, file.modified_ms, limit).then_some(Kept::Young));
        Some(Leftover { kind: LeftoverKind::StagedFile, path: file.name.clone(), bytes: Some(file.bytes), kept })
    }

    /// Whether a staged file stays, its age aside; nothing where it is none of ours to judge.
    fn judge(&self, file: &StagedFile, everything: bool) -> Option<Option<Kept>> {
        let Some(purpose) = &file.purpose else { return everything.then_some(None) };
        if let Some(epoch) = self.data.get(&purpose.folder_mark) {
            let name = purpose.name.parse::<ObjectName>().ok();
            // Of a damaged partition nothing is known.
            return Some(epoch.map_or(Some(Kept::LiveEpoch), |epoch| keep(name.as_ref(), epoch)));
        }
        if self.chains.contains_key(&purpose.folder_mark) {
            return Some(None);
        }
        // Another archive's, at the same URL: only its own chains could say that a data object's epoch is over.
        let is_data = purpose.name.parse::<ObjectName>().is_ok();
        everything.then_some(is_data.then_some(Kept::ForeignName))
    }
}

#[cfg(test)]
mod tests;
