//! How far a source got, and what its targets hold: read from the group of the source when it asks, kept while its
//! transactions move on.
//!
//! Invariant: no offset is given out before the transactional id is taken over and the target was compared with it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _, stream};
use lakeferry_api::{
    Clock, ConnectError, Kind, PartitionView, Result, Routes, SourceOffset, SourcePartition, TopicPartition,
};
use tokio::sync::OnceCell;

use super::mark::{Mark, Tail};
use crate::kafka::{Admin, Commits, Pending, Producer, Stretches};

/// Target partitions that are looked at together.
const PARALLEL_LOOKS: usize = 16;
/// Brokers forget the offsets of a group that nobody commits, after a week as they come: they are committed again
/// while the source lives.
const REFRESH: Duration = Duration::from_secs(6 * 3600);

/// What a ledger is made of.
#[derive(Clone)]
pub(crate) struct LedgerParts {
    /// The group whose offsets tell how far the source got.
    pub(crate) group: String,
    /// What is written where.
    pub(crate) routes: Arc<dyn Routes>,
    /// A producer with a transactional id.
    pub(crate) producer: Arc<dyn Producer>,
    /// Asks the target cluster.
    pub(crate) admin: Arc<dyn Admin>,
    /// Time.
    pub(crate) clock: Arc<dyn Clock>,
    /// What is restored, where only the same may go on.
    pub(crate) what: Option<String>,
    /// What a target may hold.
    pub(crate) tolerated: Tolerated,
    /// False for one that only looks: it fences nobody, and what others have under way does not count yet.
    pub(crate) takes_over: bool,
    /// What a user can do where a target holds other records.
    pub(crate) remedy: &'static str,
}

/// What a target may hold that has no offset in the group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tolerated {
    /// No visible record.
    Nothing,
    /// Anything: it is written behind that.
    Records,
}

/// See the module.
pub(crate) struct Ledger {
    parts: LedgerParts,
    taken_over: OnceCell<()>,
    pages: Mutex<Pages>,
}

struct Pages {
    page_by_target: BTreeMap<TopicPartition, Page>,
    refreshed: Duration,
}

/// What is known of a target partition.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Page {
    pub(super) stored: Option<SourceOffset>,
    pub(super) tail: Tail,
    /// The first offset that was delivered, where that is known: nothing from there to the tail may be gone.
    pub(super) first: Option<i64>,
    pub(super) topic_id: Option<String>,
}

/// What a target partition must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Holding {
    /// The first offset that was delivered, where that is known.
    pub(crate) first: Option<i64>,
    /// The last that was.
    pub(crate) last: i64,
    /// The topic's id, where the broker tells.
    pub(crate) topic_id: Option<String>,
}

/// A page that holds if nothing is visible in a stretch of the target.
#[derive(Debug, PartialEq)]
struct Judged {
    page: Page,
    look: Option<(i64, i64)>,
    /// The last offset that was delivered, where any was.
    delivered: Option<i64>,
}

impl Ledger {
    /// A ledger that has asked nobody yet.
    pub(crate) fn new(parts: LedgerParts) -> Self {
        let pages = Pages { page_by_target: BTreeMap::new(), refreshed: parts.clock.monotonic() };
        Self { parts, taken_over: OnceCell::new(), pages: Mutex::new(pages) }
    }

    /// How far each of `sources` got, once nothing else can change that.
    ///
    /// # Errors
    /// `Config` where a target holds what is none of this source's; `Fenced` where another instance has taken over;
    /// `Retriable` while no broker answers, or somebody else's transaction is open in a target.
    pub(crate) async fn offsets(&self, sources: &[SourcePartition]) -> Result<Vec<Option<SourceOffset>>> {
        let pending = if self.parts.takes_over {
            self.taken_over.get_or_try_init(|| self.parts.producer.init_transactions()).await?;
            Pending::Awaited
        } else {
            Pending::Ignored
        };
        let targets = sources.iter().map(|source| self.parts.routes.target(source)).collect::<Result<Vec<_>>>()?;
        let commits = self.parts.admin.group_commits(&self.parts.group, pending).await?;
        let looks: Vec<_> = targets.iter().map(|target| self.view(target)).collect();
        let views: Vec<Option<PartitionView>> = stream::iter(looks).buffered(PARALLEL_LOOKS).try_collect().await?;
        let mut judged = BTreeMap::new();
        for (target, view) in targets.iter().zip(views) {
            let mark = commits.get(target).map(|commit| Mark::read(&self.parts.group, target, commit)).transpose()?;
            judged.insert(target.clone(), self.judge(target, mark, view.as_ref())?);
        }
        self.refuse_visible(&judged).await?;
        let mut pages = self.pages();
        pages.page_by_target.extend(judged.into_iter().map(|(target, judged)| (target, judged.page)));
        Ok(targets.iter().map(|target| pages.page_by_target.get(target)?.stored.clone()).collect())
    }

    /// Forgets what it knows: a transaction was taken back, and the offsets are asked for again.
    pub(crate) fn forget(&self) {
        self.pages().page_by_target.clear();
    }

    /// What the targets must hold, where anything was delivered to them.
    pub(crate) fn holdings(&self) -> BTreeMap<TopicPartition, Holding> {
        let pages = self.pages();
        let held = pages.page_by_target.iter().filter(|(_, page)| page.stored.is_some());
        let holding =
            |page: &Page| Holding { first: page.first, last: page.tail.last, topic_id: page.topic_id.clone() };
        held.map(|(target, page)| (target.clone(), holding(page))).collect()
    }

    pub(super) fn parts(&self) -> &LedgerParts {
        &self.parts
    }

    /// What is known of `target`, which the source has asked for.
    pub(super) fn page(&self, target: &TopicPartition) -> Result<Page> {
        self.pages().page_by_target.get(target).cloned().ok_or_else(|| {
            ConnectError::fatal(format!("the source writes to {target} and has not asked how far it got there"))
        })
    }

    /// The commits of these pages.
    pub(super) fn commits<'p>(
        &self,
        pages: impl IntoIterator<Item = (&'p TopicPartition, &'p Page)>,
    ) -> Result<Commits> {
        let commit = |(target, page): (&TopicPartition, &Page)| {
            let (stored, topic_id) = (page.stored.clone(), page.topic_id.clone());
            let what = self.parts.what.clone();
            let mark = Mark { stored, tail: Some(page.tail), first: page.first, topic_id, what };
            Ok((target.clone(), mark.commit()?))
        };
        pages.into_iter().map(commit).collect()
    }

    /// These pages are committed.
    pub(super) fn committed(&self, turned: BTreeMap<TopicPartition, Page>) {
        self.pages().page_by_target.extend(turned);
    }

    /// When everything is committed once more.
    pub(super) fn refresh_at(&self) -> Duration {
        self.pages().refreshed + REFRESH
    }

    /// All pages that are to be committed once more, now.
    pub(super) fn to_refresh(&self) -> BTreeMap<TopicPartition, Page> {
        let mut pages = self.pages();
        pages.refreshed = self.parts.clock.monotonic();
        let kept = pages.page_by_target.iter().filter(|(_, page)| page.stored.is_some());
        kept.map(|(target, page)| (target.clone(), page.clone())).collect()
    }

    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `None` where it does not exist.
    async fn view(&self, target: &TopicPartition) -> Result<Option<PartitionView>> {
        match self.parts.admin.partition(target).await {
            Ok(view) => Ok(Some(view)),
            Err(error) if error.kind() == Kind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What `mark` and `view` say of `target`; without I/O.
    fn judge(&self, target: &TopicPartition, mark: Option<Mark>, view: Option<&PartitionView>) -> Result<Judged> {
        let Some(view) = view else {
            let page = Page { stored: None, tail: Tail::before(0), first: None, topic_id: None };
            return Ok(Judged { page, look: None, delivered: None });
        };
        // An id that is another means a topic that is another: what was delivered went with the old one.
        let same_topic =
            |mark: &Mark| mark.topic_id.is_none() || view.topic_id.is_none() || mark.topic_id == view.topic_id;
        let mark = mark.filter(same_topic);
        if let Some(mark) = &mark {
            self.refuse_other(target, mark)?;
        }
        let log_end = view.end_offset.unwrap_or(view.last_stable_offset);
        let end = if self.parts.takes_over { log_end } else { view.last_stable_offset };
        let last = mark.as_ref().and_then(|mark| mark.tail).map(|tail| tail.last);
        // First: what a cut leaves of a transaction looks like one that is open, and nobody will ever end it.
        if let Some(last) = last.filter(|last| log_end <= *last) {
            return Err(ConnectError::config(format!(
                "{target} ends at offset {log_end}, but offset {last} was delivered to it: records were taken away; {}",
                self.parts.remedy
            )));
        }
        if view.last_stable_offset < end || last.is_some_and(|last| end <= last) {
            return Err(ConnectError::retriable(format!(
                "somebody else has a transaction open in {target}, from offset {} on: it is waited for",
                view.last_stable_offset
            )));
        }
        let start = view.log_start_offset;
        let first = mark.as_ref().and_then(|mark| mark.first);
        let page = |stored| Page { stored, tail: Tail::before(end), first, topic_id: view.topic_id.clone() };
        let Some(mark) = mark else {
            let look = (start < end && self.parts.tolerated == Tolerated::Nothing).then_some((start, end));
            return Ok(Judged { page: page(None), look, delivered: None });
        };
        let Some(tail) = mark.tail else {
            tracing::warn!(%target, group = self.parts.group, "the offset was set by other means: what the target holds is taken as it is");
            return Ok(Judged { page: page(mark.stored), look: None, delivered: None });
        };
        if start > tail.next() {
            return Err(self.foreign(target, tail.last, (tail.next(), start)));
        }
        // As many offsets as there are markers: they are markers.
        let look = (end > tail.next()).then_some(((tail.last + 1).max(start), end));
        Ok(Judged { page: page(mark.stored), look, delivered: Some(tail.last) })
    }

    fn refuse_other(&self, target: &TopicPartition, mark: &Mark) -> Result<()> {
        match (&self.parts.what, &mark.what) {
            (Some(ours), Some(theirs)) if ours != theirs => Err(ConnectError::config(format!(
                "what {target} holds was restored with other arguments under the same id ({theirs}, now {ours}); give the \
                 same arguments, or another --id"
            ))),
            _ => Ok(()),
        }
    }

    async fn refuse_visible(&self, judged: &BTreeMap<TopicPartition, Judged>) -> Result<()> {
        let stretches: Stretches =
            judged.iter().filter_map(|(target, judged)| Some((target.clone(), judged.look?))).collect();
        if stretches.is_empty() {
            return Ok(());
        }
        let found = match self.parts.admin.first_visible(&stretches).await {
            Err(error) if error.kind() == Kind::NotFound => {
                return Err(ConnectError::retriable("a target changed while it was looked at").caused_by(error));
            }
            found => found?,
        };
        let Some((target, offset)) = found else { return Ok(()) };
        let end = stretches.get(&target).map_or(offset + 1, |(_, end)| *end);
        match judged.get(&target).and_then(|judged| judged.delivered) {
            Some(last) => Err(self.foreign(&target, last, (offset, end))),
            None => Err(ConnectError::config(format!(
                "topic {} is not empty (partition {}: {offset} to {end}), and group {} has no offset of it: {}",
                target.topic, target.partition, self.parts.group, self.parts.remedy
            ))),
        }
    }

    fn foreign(&self, target: &TopicPartition, last: i64, (from, end): (i64, i64)) -> ConnectError {
        ConnectError::config(format!(
            "something else has written to {target}: its offsets {from} to {} lie behind offset {last}, the last that was \
             delivered; {}",
            end - 1,
            self.parts.remedy
        ))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::task::testing::{Cluster, Journal, ManualClock};

    struct Nowhere;

    impl Routes for Nowhere {
        fn target(&self, source: &SourcePartition) -> Result<TopicPartition> {
            Err(ConnectError::config(source.as_str()))
        }

        fn source(&self, _: &TopicPartition) -> Option<SourcePartition> {
            None
        }
    }

    fn ledger(tolerated: Tolerated) -> Ledger {
        let cluster = Arc::new(Cluster::new(Journal::default()));
        Ledger::new(LedgerParts {
            group: "g".to_owned(),
            routes: Arc::new(Nowhere),
            producer: cluster.clone(),
            admin: cluster,
            clock: ManualClock::new(),
            what: Some("this".to_owned()),
            tolerated,
            takes_over: true,
            remedy: "do something",
        })
    }

    fn view(start: i64, stable: i64, end: i64) -> PartitionView {
        PartitionView {
            topic_id: Some("id".to_owned()),
            log_start_offset: start,
            last_stable_offset: stable,
            end_offset: Some(end),
            ..PartitionView::default()
        }
    }

    fn mark(last: i64) -> Mark {
        let stored = SourceOffset::new(json!({ "offset": 7 }).as_object().unwrap().clone()).unwrap();
        let tail = Some(Tail { last, marker: true });
        Mark { stored: Some(stored), tail, first: Some(4), topic_id: Some("id".to_owned()), what: None }
    }

    #[test]
    fn what_is_behind_the_last_delivery_is_looked_at() {
        let ledger = ledger(Tolerated::Nothing);
        let target = TopicPartition::new("t", 0);
        let judge = |mark: Option<Mark>, view: &PartitionView| ledger.judge(&target, mark, Some(view));
        let look = |mark, view: &PartitionView| judge(mark, view).unwrap().look;
        assert_eq!(look(Some(mark(9)), &view(0, 11, 11)), None, "only the marker");
        assert_eq!(look(Some(mark(9)), &view(0, 12, 12)), Some((10, 12)));
        assert_eq!(look(None, &view(3, 3, 3)), None);
        assert_eq!(look(None, &view(3, 5, 5)), Some((3, 5)));
        let other = Mark { topic_id: Some("old".to_owned()), ..mark(9) };
        let of_new = judge(Some(other), &view(0, 4, 4)).unwrap();
        assert_eq!((of_new.look, of_new.page.stored), (Some((0, 4)), None), "the offset is of a topic that is gone");
        assert_eq!(of_new.page.first, None);
        assert_eq!(judge(Some(mark(9)), &view(6, 11, 11)).unwrap().page.first, Some(4), "also where that is gone");
        let by_hand = judge(Some(Mark { tail: None, ..mark(9) }), &view(0, 40, 40)).unwrap();
        assert_eq!((by_hand.look, by_hand.page.tail), (None, Tail::before(40)));
        assert_eq!(ledger.judge(&target, Some(mark(9)), None).unwrap().page.tail, Tail::before(0), "no topic");
    }

    #[test]
    fn a_target_that_cannot_be_ours_is_refused() {
        let ledger = ledger(Tolerated::Records);
        let target = TopicPartition::new("t", 0);
        let judge = |mark, view: PartitionView| ledger.judge(&target, mark, Some(&view));
        assert_eq!(judge(None, view(3, 5, 5)).unwrap().look, None, "they are allowed for");
        assert!(judge(Some(mark(9)), view(0, 10, 11)).unwrap_err().is_retriable(), "an open transaction");
        let refusals = [
            (mark(9), view(0, 8, 8), "t-0 ends at offset 8, but offset 9 was delivered to it: records were taken away"),
            (mark(9), view(0, 3, 8), "t-0 ends at offset 8, but offset 9 was delivered to it: records were taken away"),
            (mark(9), view(14, 20, 20), "its offsets 11 to 13"),
            (Mark { what: Some("that".to_owned()), ..mark(9) }, view(0, 11, 11), "other arguments"),
        ];
        for (mark, view, words) in refusals {
            let error = judge(Some(mark), view).unwrap_err();
            assert!(error.kind() == Kind::Config && error.message().contains(words), "{error}");
        }
    }

    #[test]
    fn one_that_only_looks_takes_no_open_transaction_for_records_that_are_gone() {
        let mut ledger = ledger(Tolerated::Nothing);
        ledger.parts.takes_over = false;
        let target = TopicPartition::new("t", 0);
        let judge = |view: PartitionView| ledger.judge(&target, Some(mark(9)), Some(&view));
        assert_eq!(judge(view(0, 11, 20)).unwrap().look, None, "what others have under way does not count yet");
        assert!(judge(view(0, 4, 11)).unwrap_err().is_retriable(), "its marker is on its way");
        let error = judge(view(0, 4, 8)).unwrap_err();
        assert!(error.message().contains("t-0 ends at offset 8, but offset 9 was delivered"), "{error}");
    }
}
