//! The simulated object store: one truth, and a client for each process whose requests are delayed, refused before they
//! take effect, answered with an error after they did, or land long after their sender gave up.
//!
//! It keeps the books for two laws: nothing that a manifest names is ever overwritten or deleted (A11), and a number of
//! a chain is written once.

mod client;
mod uploads;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::TryStreamExt as _;
use lakeferry_api::TopicPartition;
use lakeferry_lake::store::leftovers::Leftovers;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt as _, PutMode};

use self::client::Client;
use self::uploads::Uploads;
use crate::chance::{Diary, Dice};
use crate::clock::SimClock;
use crate::process::Process;
use crate::world::takeover::{self, Owners};

/// How old a worker's knowledge of a chain's end may be.
const LATELY_MS: u64 = 10_000;

/// Where in a request something happens to its sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Point {
    BeforeData,
    AfterData,
    BeforeManifest,
    AfterManifest,
    BeforeRead,
}

/// What happens to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Accident {
    Crash,
    Stop {
        for_ms: u64,
    },
    /// The request lands after this time; its sender is told at once that it failed.
    Late {
        for_ms: u64,
    },
    /// The request is refused.
    Refuse,
}

/// The truth.
pub(crate) struct SimStore {
    pub(crate) objects: InMemory,
    clock: Arc<SimClock>,
    dice: Arc<Dice>,
    pub(crate) diary: Diary,
    books: Mutex<Books>,
    /// Per mille of requests that go wrong.
    faults: AtomicU64,
    away: AtomicBool,
    /// Uploads in parts that were begun and have not ended.
    uploads: Mutex<Uploads>,
    judge: Mutex<Option<Judge>>,
}

/// Looks at an entry when it is sent: its sender and the entry.
pub(crate) type Judge = Arc<dyn Fn(&str, &serde_json::Value) + Send + Sync>;

/// A topic id, and offsets.
type Lost = (Option<String>, RangeInclusive<i64>);

#[derive(Default)]
struct Books {
    /// Every path that an entry names.
    named: BTreeSet<String>,
    /// The last entry's topic id and resume offset, by chain folder.
    ends: BTreeMap<String, (Option<String>, Option<i64>)>,
    /// The last entry's epoch, by chain folder.
    epochs: BTreeMap<String, u64>,
    /// Since when each resume offset stood at a chain's end, by chain folder.
    resumes: BTreeMap<String, Vec<(u64, i64)>>,
    /// What of which topic id is said to be lost, by chain folder.
    lost: BTreeMap<String, Vec<Lost>>,
    /// Who wrote each entry, by chain folder.
    owners: BTreeMap<String, Owners>,
    /// Who sent the last entry, and when, by chain folder.
    senders: BTreeMap<String, (Arc<Process>, u64)>,
    /// The chains whose last entry knows no leader epoch of what is published last.
    unmarked: BTreeSet<String>,
    accidents: BTreeMap<(String, Point), Accident>,
}

impl SimStore {
    pub(crate) fn new(clock: Arc<SimClock>, dice: Arc<Dice>, diary: Diary) -> Arc<Self> {
        Arc::new(Self {
            objects: InMemory::new(),
            clock,
            dice,
            diary,
            books: Mutex::default(),
            faults: AtomicU64::new(0),
            away: AtomicBool::new(false),
            uploads: Mutex::default(),
            judge: Mutex::default(),
        })
    }

    /// Of 1,000 requests so many go wrong from now on.
    pub(crate) fn set_faults(&self, per_mille: u64) {
        self.faults.store(per_mille, Ordering::Relaxed);
    }

    /// While away it refuses everything.
    pub(crate) fn set_away(&self, away: bool) {
        self.away.store(away, Ordering::Relaxed);
    }

    pub(crate) fn set_judge(&self, judge: Judge) {
        *self.judge.lock().unwrap() = Some(judge);
    }

    pub(crate) fn dismiss_judge(&self) {
        *self.judge.lock().unwrap() = None;
    }

    /// The next request of this kind by `worker` meets with `accident`.
    pub(crate) fn arrange(&self, worker: &str, point: Point, accident: Accident) {
        self.books.lock().unwrap().accidents.insert((worker.to_owned(), point), accident);
    }

    pub(crate) fn cancel_accidents(&self) {
        self.books.lock().unwrap().accidents.clear();
    }

    /// The store as `process` sees it.
    pub(crate) fn client(self: &Arc<Self>, worker: &str, process: &Arc<Process>) -> Arc<dyn ObjectStore> {
        Arc::new(self.client_of(worker, process))
    }

    /// What no listing shows, as `process` is told of it.
    pub(crate) fn leftovers(self: &Arc<Self>, worker: &str, process: &Arc<Process>) -> Leftovers {
        uploads::leftovers(self.client_of(worker, process))
    }

    fn client_of(self: &Arc<Self>, worker: &str, process: &Arc<Process>) -> Client {
        Client { store: Arc::clone(self), worker: worker.to_owned(), process: Arc::clone(process) }
    }

    /// Every object by its path.
    pub(crate) async fn snapshot(&self) -> BTreeMap<String, Bytes> {
        let metas: Vec<ObjectMeta> = self.objects.list(None).try_collect().await.unwrap();
        let mut objects = BTreeMap::new();
        for meta in metas {
            let bytes = self.objects.get(&meta.location).await.unwrap().bytes().await.unwrap();
            objects.insert(meta.location.to_string(), bytes);
        }
        objects
    }

    /// The topic id and resume offset of the chain's end.
    pub(crate) fn end(&self, partition: &TopicPartition) -> Option<(Option<String>, Option<i64>)> {
        self.books.lock().unwrap().ends.get(&chain_of(partition)).cloned()
    }

    /// True where the chain ends with an entry of the topic with `id` that `process` has sent since.
    pub(crate) fn is_open_by(
        &self,
        partition: &TopicPartition,
        process: &Arc<Process>,
        (id, since_ms): (&str, u64),
    ) -> bool {
        let books = self.books.lock().unwrap();
        let chain = chain_of(partition);
        let is_of_it = books.ends.get(&chain).is_some_and(|(of, _)| of.as_deref() == Some(id));
        let is_ours = |(sender, at): &(Arc<Process>, u64)| Arc::ptr_eq(sender, process) && *at >= since_ms;
        is_of_it && books.senders.get(&chain).is_some_and(is_ours)
    }

    /// True where the chain's end has files ahead of where it resumes, or no mark.
    pub(crate) fn is_unmarked(&self, partition: &TopicPartition) -> bool {
        self.books.lock().unwrap().unmarked.contains(&chain_of(partition))
    }

    /// The largest resume offset that stood at the chain's end lately: a worker may not have seen yet that another one
    /// has told of a cut.
    pub(crate) fn resume_lately(&self, partition: &TopicPartition) -> Option<i64> {
        let books = self.books.lock().unwrap();
        let resumes = books.resumes.get(&chain_of(partition))?;
        let since = self.clock.ms().saturating_sub(LATELY_MS);
        let replaced = |at: usize| resumes.get(at + 1).map_or(u64::MAX, |(ms, _)| *ms);
        resumes.iter().enumerate().filter(|(at, _)| replaced(*at) >= since).map(|(_, (_, resume))| *resume).max()
    }

    /// Every resume offset that ever stood at the chain's end.
    pub(crate) fn resumes(&self, partition: &TopicPartition) -> Vec<i64> {
        let books = self.books.lock().unwrap();
        books.resumes.get(&chain_of(partition)).into_iter().flatten().map(|(_, resume)| *resume).collect()
    }

    /// True where the chain says that `offset` of the topic with `id` was lost before it was archived.
    pub(crate) fn says_lost(&self, partition: &TopicPartition, id: &str, offset: i64) -> bool {
        let books = self.books.lock().unwrap();
        let mut lost = books.lost.get(&chain_of(partition)).into_iter().flatten();
        lost.any(|(of, range)| of.as_deref() == Some(id) && range.contains(&offset))
    }

    /// Who wrote the entry before `seq`.
    pub(crate) fn owner_before(&self, partition: &TopicPartition, seq: u64) -> Option<String> {
        self.books.lock().unwrap().owners.get(&chain_of(partition))?.before(seq)
    }

    /// Who wrote the chain's end.
    pub(crate) fn owner(&self, partition: &TopicPartition) -> Option<String> {
        self.books.lock().unwrap().owners.get(&chain_of(partition))?.last().map(str::to_owned)
    }

    /// True where an entry of `owner` stood at the chain's end lately.
    pub(crate) fn was_lately_of(&self, partition: &TopicPartition, owner: &str) -> bool {
        let books = self.books.lock().unwrap();
        books.owners.get(&chain_of(partition)).is_some_and(|owners| owners.was_lately(&self.clock, owner))
    }

    /// The resume offset of the chain's end.
    pub(crate) fn resume(&self, partition: &TopicPartition) -> Option<i64> {
        self.end(partition)?.1
    }

    fn check_write(&self, path: &Path, mode: &PutMode) {
        if is_manifest(path) && *mode != PutMode::Create {
            self.diary.accuse(format!("{path} is written without a condition"));
        }
        if self.books.lock().unwrap().named.contains(path.as_ref()) {
            self.diary.accuse(format!("A11: {path} is written again after an entry named it"));
        }
    }

    fn check_delete(&self, path: &Path) {
        if is_manifest(path) || self.books.lock().unwrap().named.contains(path.as_ref()) {
            self.diary.accuse(format!("A11: {path} is deleted though it is part of the archive"));
        }
    }

    /// These files are no part of the archive any more.
    pub(crate) fn forget_named(&self, entry: &serde_json::Value) {
        let gone: Vec<String> = entry["files"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|file| format!("topics/{}", file["path"].as_str().unwrap_or_default()))
            .collect();
        self.books.lock().unwrap().named.retain(|path| !gone.contains(path));
    }

    /// `process` has sent the entry at `path`, which is the chain's end now, at this time.
    fn note_sender(&self, path: &Path, process: Arc<Process>, sent_ms: u64) {
        let chain = path.as_ref().rsplit_once('/').map_or("", |(chain, _)| chain).to_owned();
        self.books.lock().unwrap().senders.insert(chain, (process, sent_ms));
    }

    pub(crate) fn note_entry(&self, path: &Path, bytes: &Bytes) {
        let Ok(entry) = serde_json::from_slice::<serde_json::Value>(bytes) else {
            return self.diary.accuse(format!("{path} is no JSON"));
        };
        let root = path.as_ref().split('/').next().unwrap_or_default();
        let files = entry["files"].as_array().cloned().unwrap_or_default();
        let mut books = self.books.lock().unwrap();
        let chain = path.as_ref().rsplit_once('/').map_or("", |(chain, _)| chain).to_owned();
        let topic_id = entry["source"]["topic_id"].as_str().map(str::to_owned);
        let marked = entry["ahead"].as_array().is_some_and(Vec::is_empty) && entry["log"]["leader_epoch"].is_i64();
        match marked {
            true => books.unmarked.remove(&chain),
            false => books.unmarked.insert(chain.clone()),
        };
        if let Some(resume) = entry["resume_offset"].as_i64() {
            books.resumes.entry(chain.clone()).or_default().push((self.clock.ms(), resume));
        }
        let gaps = entry["gaps"].as_array().into_iter().flatten().filter(|gap| gap["reason"] == "log_start_moved");
        let ranges = gaps.filter_map(|gap| Some((topic_id.clone(), gap["from"].as_i64()?..=gap["to"].as_i64()?)));
        books.lost.entry(chain.clone()).or_default().extend(ranges);
        let seq = entry["seq"].as_u64().unwrap_or_default();
        books.owners.entry(chain.clone()).or_default().note(&self.clock, seq, takeover::owner(&entry));
        books.epochs.insert(chain.clone(), entry["epoch"].as_u64().unwrap_or_default());
        books.ends.insert(chain, (topic_id, entry["resume_offset"].as_i64()));
        books.named.extend(files.iter().map(|file| format!("{root}/{}", file["path"].as_str().unwrap_or_default())));
    }
}

/// The folder of a partition's chain.
pub(crate) fn chain_of(partition: &TopicPartition) -> String {
    format!("topics/{}/_manifests/partition={}", partition.topic, partition.partition)
}

pub(crate) fn is_manifest(path: &Path) -> bool {
    path.as_ref().contains("/_manifests/")
}

/// What goes on outside of every simulated process.
#[allow(clippy::disallowed_methods, reason = "the world is no task of the worker")]
pub(crate) fn spawn(future: impl Future<Output = ()> + Send + 'static) {
    tokio::spawn(future);
}
