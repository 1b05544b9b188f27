//! The numbered chain of manifest entries of each partition: what is real in an archive, and who may go on writing.
//!
//! The sink finds a chain's end and creates the next entry; the source and the tools read. Invariant: an entry is
//! created only if its number is free, and a doubt about that is settled by reading the number, never by guessing
//! (only equal bytes are "ours", an error is never "absent"). Nothing here changes or deletes an entry.

pub mod digest;
pub mod invariants;
pub mod model;
pub mod offsets;
pub mod read;
pub mod wire;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt;
use lakeferry_api::simulation::sabotage::{self, Fault};
use lakeferry_api::{Clock, ConnectError, Kind, Result, TopicPartition};
use object_store::path::Path;
use object_store::{Error as StoreError, ObjectStore, ObjectStoreExt, PutMode, PutPayload};

pub use self::digest::Digest;
pub use self::model::Entry;
use crate::layout::{Layout, ObjectName};
use crate::store::names::{self, Found};
use crate::store::{Names, explain, words};

/// An entry beyond this size is refused unread: nothing that writes one comes near it.
const MAX_ENTRY_BYTES: u64 = 64 << 20;
/// How often one call of [`ManifestStore::create`] sends the bytes.
const CREATE_TRIES: u32 = 3;
/// How long it waits before the second time; twice as long before each further one.
const CREATE_BACKOFF: Duration = Duration::from_millis(200);
/// So many objects of others in a partition's folder, as many as a page of S3 has, and those that cannot be ours are
/// not listed any further.
const MANY_OTHERS: usize = 1_000;

/// The chains of one archive.
#[derive(Clone)]
pub struct ManifestStore {
    store: Arc<dyn ObjectStore>,
    layout: Layout,
    clock: Arc<dyn Clock>,
    names: Option<Arc<dyn Names>>,
}

/// The last entry of a chain.
#[derive(Debug, Clone)]
pub struct End {
    /// What it says.
    pub entry: Entry,
    /// Its bytes.
    pub bytes: Bytes,
    /// Their SHA-256, which the next entry names.
    pub sha256: Digest,
}

/// Whose a number is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The entry stands at its number, byte for byte.
    Committed,
    /// Another entry stands there.
    Lost,
}

impl ManifestStore {
    /// The chains below `layout` in `store`.
    pub fn new(store: Arc<dyn ObjectStore>, layout: Layout, clock: Arc<dyn Clock>) -> Self {
        Self { store, layout, clock, names: None }
    }

    /// The same; it finds objects among many others by `names`, where there are.
    pub fn finding(self, names: Option<Arc<dyn Names>>) -> Self {
        Self { names, ..self }
    }

    /// The names of the archive.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The store the chains lie in.
    pub fn store(&self) -> &Arc<dyn ObjectStore> {
        &self.store
    }

    /// The last entry of the chain of `partition`; `None` where nothing was ever archived.
    ///
    /// # Errors
    /// `Fatal` where entries were removed from the chain, or the last one is damaged or of a newer version;
    /// otherwise as [`explain`].
    pub async fn end(&self, partition: &TopicPartition) -> Result<Option<End>> {
        let mut known = 0;
        loop {
            if known == 0 && !self.exists(partition, 0).await? {
                if self.is_untouched(partition).await? {
                    return Ok(None);
                }
                continue;
            }
            let last = self.last_from(partition, known).await?;
            match self.first_after(partition, last).await? {
                None => {
                    let found = self.read(partition, last).await?;
                    let (entry, bytes) = found.ok_or_else(|| removed(partition, format!("entry {last} vanished")))?;
                    return Ok(Some(End { sha256: Digest::of(&bytes), entry, bytes }));
                }
                // Written meanwhile.
                Some(next) if next == last + 1 || self.exists(partition, last + 1).await? => known = last + 1,
                Some(next) => {
                    return Err(removed(
                        partition,
                        format!("entries {last} and {next} are there, {} is not", last + 1),
                    ));
                }
            }
        }
    }

    /// The entry `seq` of the chain of `partition`; `None` where there is none (yet).
    ///
    /// # Errors
    /// `Fatal` where it is damaged, of a newer version or belongs elsewhere; otherwise as [`explain`].
    pub async fn read(&self, partition: &TopicPartition, seq: u64) -> Result<Option<(Entry, Bytes)>> {
        let path = self.layout.entry(partition, seq);
        let Some(bytes) = self.fetch(&path).await? else { return Ok(None) };
        let entry = wire::decode(path.as_ref(), &bytes)?;
        if entry.seq != seq || entry.partition() != *partition {
            return Err(misplaced(&path, &entry));
        }
        Ok(Some((entry, bytes)))
    }

    /// The bytes at the number `seq` of the chain of `partition`, whatever they are.
    ///
    /// # Errors
    /// As [`explain`]; `Fatal` where they are too many to be an entry.
    pub async fn read_bytes(&self, partition: &TopicPartition, seq: u64) -> Result<Option<Bytes>> {
        self.fetch(&self.layout.entry(partition, seq)).await
    }

    /// Creates the entry `seq`, whose bytes are `frozen`, if the number is free.
    ///
    /// # Errors
    /// Any error leaves the number unsettled: these bytes may still come to stand there. The caller sends exactly the
    /// same bytes again, or reads the number, before it says anything else of this partition.
    pub async fn create(&self, partition: &TopicPartition, seq: u64, frozen: Bytes) -> Result<Outcome> {
        let path = self.layout.entry(partition, seq);
        let mut backoff = CREATE_BACKOFF;
        let mut tries = 1;
        loop {
            let payload = PutPayload::from(frozen.clone());
            let blind = sabotage::is(Fault::CreateWithoutCondition);
            let mode = if blind { PutMode::Overwrite } else { PutMode::Create };
            let error = match self.store.put_opts(&path, payload, mode.into()).await {
                Ok(_) => return Ok(Outcome::Committed),
                Err(error) => error,
            };
            match self.fetch(&path).await {
                Ok(Some(found)) if found == frozen || taken_for_ours(&found, &frozen) => return Ok(Outcome::Committed),
                Ok(Some(_)) => return Ok(Outcome::Lost),
                Ok(None) => {}
                Err(unread) => {
                    let why = format!("whether {path} was written is not known yet: {}", words(&error));
                    return Err(unread.context(why));
                }
            }
            let error = match error {
                // The number was taken a moment ago and is free now: somebody writes there this very moment.
                error @ StoreError::AlreadyExists { .. } => {
                    ConnectError::retriable(format!("cannot create {path}: {}", words(&error)))
                }
                error => explain(&format!("create {path}"), error),
            };
            if tries == CREATE_TRIES || !error.is_retriable() {
                let why = format!("{path} was not written in {tries} tries: {}", error.message());
                return Err(error.context(why));
            }
            tracing::warn!(%path, tries, %error, "a manifest was not written; trying again");
            self.clock.sleep(backoff).await;
            backoff *= 2;
            tries += 1;
        }
    }

    async fn fetch(&self, path: &Path) -> Result<Option<Bytes>> {
        let doing = || format!("read {path}");
        let Some(found) = present(self.store.get(path).await, doing)? else { return Ok(None) };
        if found.meta.size > MAX_ENTRY_BYTES {
            let size = found.meta.size;
            return Err(ConnectError::fatal(format!("manifest {path} is refused: {size} bytes are no manifest entry")));
        }
        found.bytes().await.map(Some).map_err(|error| explain(&doing(), error))
    }

    async fn exists(&self, partition: &TopicPartition, seq: u64) -> Result<bool> {
        let path = self.layout.entry(partition, seq);
        Ok(present(self.store.head(&path).await, || format!("look for {path}"))?.is_some())
    }

    /// The last entry of the run that holds `known`: a galloping search, then a binary one.
    async fn last_from(&self, partition: &TopicPartition, known: u64) -> Result<u64> {
        let (mut present, mut step) = (known, 1);
        while self.exists(partition, present + step).await? {
            present += step;
            step *= 2;
        }
        let mut absent = present + step;
        while absent - present > 1 {
            let middle = present + (absent - present) / 2;
            if self.exists(partition, middle).await? {
                present = middle;
            } else {
                absent = middle;
            }
        }
        Ok(present)
    }

    /// The smallest number above `last` that has an entry, by a listing.
    async fn first_after(&self, partition: &TopicPartition, last: u64) -> Result<Option<u64>> {
        let dir = self.layout.chain_dir(partition);
        let mut listed = self.store.list_with_offset(Some(&dir), &self.layout.entry(partition, last));
        let mut smallest: Option<u64> = None;
        while let Some(meta) = listed.try_next().await.map_err(|error| explain(&format!("list {dir}"), error))? {
            if let Some((_, seq)) = self.layout.parse_entry(&meta.location)
                && seq > last
            {
                smallest = Some(smallest.map_or(seq, |smallest| smallest.min(seq)));
            }
        }
        Ok(smallest)
    }

    /// True where neither an entry nor a data object of `partition` is there; false where entry 0 appeared meanwhile.
    ///
    /// # Errors
    /// `Fatal` where something of it is there without entry 0; otherwise as [`explain`].
    pub(super) async fn is_untouched(&self, partition: &TopicPartition) -> Result<bool> {
        let evidence = match self.an_entry(partition).await? {
            Some(entry) => Some(entry),
            // Others may have filled this folder, too: it is listed only where the other one tells nothing.
            None => self.a_data_object(partition).await?,
        };
        let Some(evidence) = evidence else { return Ok(true) };
        if self.exists(partition, 0).await? {
            return Ok(false);
        }
        Err(removed(partition, format!("{evidence} is there, entry 0 is not")))
    }

    /// An entry of `partition`, whichever.
    async fn an_entry(&self, partition: &TopicPartition) -> Result<Option<Path>> {
        let dir = self.layout.chain_dir(partition);
        let mut listed = self.store.list(Some(&dir));
        while let Some(meta) = listed.try_next().await.map_err(|error| explain(&format!("list {dir}"), error))? {
            if self.layout.parse_entry(&meta.location).is_some() {
                return Ok(Some(meta.location));
            }
        }
        Ok(None)
    }

    /// A data object of `partition`, whichever. Where the folder holds [`MANY_OTHERS`] and the store finds names by how
    /// they begin, the rest of them is not listed; where there is any doubt, it is.
    async fn a_data_object(&self, partition: &TopicPartition) -> Result<Option<Path>> {
        let dir = self.layout.data_dir(partition);
        let is_ours = |path: &Path| self.layout.parse_data(path).is_some();
        let mut listed = self.store.list(Some(&dir));
        let mut others = 0;
        while let Some(meta) = listed.try_next().await.map_err(|error| explain(&format!("list {dir}"), error))? {
            if is_ours(&meta.location) {
                return Ok(Some(meta.location));
            }
            others += 1;
            let Some(names) = self.names.as_deref().filter(|_| others == MANY_OTHERS) else { continue };
            let found = Box::pin(names::find(names, &dir, ObjectName::START, &meta.location, is_ours));
            match found.await {
                Ok(Found::One(ours)) => return Ok(Some(ours)),
                Ok(Found::Nothing) => return Ok(None),
                Ok(Found::Unknown) => {}
                Err(error) => tracing::debug!(%dir, %error, "names are not found by how they begin: all are listed"),
            }
        }
        Ok(None)
    }
}

/// What was found, or nothing where there is none; a bucket that is gone is an error and not "none".
fn present<T>(found: Result<T, StoreError>, doing: impl Fn() -> String) -> Result<Option<T>> {
    match found.map_err(|error| explain(&doing(), error)) {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == Kind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Only equal bytes are ours: this is the fault of those who look at the writer alone.
fn taken_for_ours(found: &Bytes, frozen: &Bytes) -> bool {
    let faulty = sabotage::is(Fault::WriterIdIsEquality) || sabotage::is(Fault::RetryWithOtherBytes);
    let writer = |bytes: &Bytes| wire::decode("", bytes).ok().map(|entry| entry.writer.id);
    faulty && writer(found) == writer(frozen)
}

fn misplaced(path: &Path, entry: &Entry) -> ConnectError {
    ConnectError::fatal(format!(
        "manifest {path} is refused: it says that it is entry {} of {}; bring back the one that belongs there",
        entry.seq,
        entry.partition()
    ))
}

fn removed(partition: &TopicPartition, evidence: String) -> ConnectError {
    ConnectError::fatal(format!(
        "manifest entries of {partition} were removed: {evidence}. What is archived there is not known without them: none \
         of it is restored, and whoever writes behind it stops as soon as it is noticed. Bring them back from a copy \
         or from the bucket's versions, and exclude _manifests/ from the bucket's lifecycle rules; a sink that cannot \
         wait for that archives to another store.url"
    ))
}

#[cfg(test)]
pub(crate) mod tests;
