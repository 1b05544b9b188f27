//! Bytes of data objects, fetched ahead of who decodes them and checked before anybody sees them.
//!
//! Called by the reader of a log and by `verify`. Invariant: a block is given out only after its length and SHA-256
//! were found equal to its manifest's; whatever is missing or altered is an error that names the object, and no byte of
//! it goes on. Everything fetched is paid from the worker's byte budget. What the bytes mean is the format's affair.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use lakeferry_api::{Budget, ConnectError, Executor, Kind, Permit, Result, executor};
use object_store::{GetOptions, ObjectStore, ObjectStoreExt as _};
use tokio::sync::Notify;

use crate::format::Block;
use crate::job::Job;
use crate::layout::Layout;
use crate::manifest::model::FileEntry;
use crate::store::explain;

/// Adjacent blocks are fetched in one request up to this size; in tests small files too are fetched in several.
const REQUEST_BYTES: u64 = if cfg!(test) { 1 << 10 } else { 8 << 20 };
/// Requests of one reader under way or waiting to be used.
const MAX_REQUESTS: usize = 8;

/// How to reach the objects of an archive, and what reading them may cost.
#[derive(Clone)]
pub struct Access {
    /// The store.
    pub store: Arc<dyn ObjectStore>,
    /// The names in it.
    pub layout: Layout,
    /// Where hashing and decoding run.
    pub executor: Arc<dyn Executor>,
    /// What pays for the bytes.
    pub budget: Budget,
}

/// Adjacent blocks of one file.
#[derive(Debug, Clone)]
pub(crate) struct Stretch {
    /// The file.
    pub(crate) file: Arc<FileEntry>,
    /// Which of its blocks.
    pub(crate) blocks: Range<usize>,
}

/// The checked bytes of a [`Stretch`].
#[derive(Debug)]
struct Fetched {
    first: usize,
    blocks: Vec<Bytes>,
    _permit: Permit,
}

/// The requests of one reader, in the order in which their bytes will be wanted.
pub(crate) struct Fetches {
    access: Access,
    pending: VecDeque<(Stretch, Job<Fetched>)>,
    limit_bytes: u64,
}

/// The blocks of one file, in order.
pub(crate) struct Blocks {
    file: Arc<FileEntry>,
    stretches: std::vec::IntoIter<Stretch>,
    first: Fetched,
    current: Option<Fetched>,
    next: usize,
}

impl Stretch {
    /// The stretches of `file` in the order in which a reader wants them: the one with block `prelude` first. None
    /// where its blocks do not tell where its bytes are.
    pub(crate) fn all_of(file: &Arc<FileEntry>, prelude: usize) -> Vec<Self> {
        let stretch = |blocks: Range<usize>| Self { file: Arc::clone(file), blocks };
        if !file.has_whole_blocks() {
            return Vec::new();
        }
        let count = file.blocks.len();
        if file.stored_bytes <= REQUEST_BYTES {
            return vec![stretch(0..count)];
        }
        let mut stretches = vec![stretch(prelude..prelude + 1)];
        let mut blocks = 0..0;
        let mut bytes = 0;
        for (at, block) in file.blocks.iter().enumerate() {
            if at == prelude || !blocks.is_empty() && bytes + block.len > REQUEST_BYTES {
                stretches.extend((!blocks.is_empty()).then(|| stretch(blocks.clone())));
                (blocks, bytes) = (at..at, 0);
            }
            if at == prelude {
                blocks = at + 1..at + 1;
            } else {
                blocks.end = at + 1;
                bytes += block.len;
            }
        }
        stretches.extend((!blocks.is_empty()).then(|| stretch(blocks)));
        stretches
    }

    fn blocks(&self) -> &[Block] {
        &self.file.blocks[self.blocks.clone()]
    }

    fn bytes(&self) -> Range<u64> {
        let blocks = self.blocks();
        let start = blocks.first().map_or(0, |block| block.at);
        start..blocks.last().map_or(start, |block| block.at + block.len)
    }

    fn len(&self) -> u64 {
        let bytes = self.bytes();
        bytes.end - bytes.start
    }

    fn is(&self, other: &Self) -> bool {
        self.file.path == other.file.path && self.blocks == other.blocks
    }
}

impl Fetched {
    /// The bytes of block `index`, where this stretch has it.
    fn block(&self, index: usize) -> Option<Bytes> {
        self.blocks.get(index.checked_sub(self.first)?).cloned()
    }
}

impl Fetches {
    /// No requests yet.
    pub(crate) fn new(access: Access) -> Self {
        // A few readers side by side leave most of the budget to those who decode and send: one large request ahead of
        // the one that is read is enough.
        let limit_bytes = (access.budget.limit() / 32).clamp(1 << 20, 16 << 20);
        Self { access, pending: VecDeque::new(), limit_bytes }
    }

    /// Starts to fetch those of `wanted` that follow what is under way: one at least, unless the budget is exhausted.
    pub(crate) fn ahead(&mut self, wanted: impl Iterator<Item = Stretch>) {
        let pending = self.pending.iter().map(|(stretch, _)| stretch.len());
        let mut bytes = pending.fold(0, u64::saturating_add);
        let mut wanted = wanted.peekable();
        // The requests under way are a beginning of what is wanted, unless a file among them was passed over since.
        for (stretch, _) in &self.pending {
            if wanted.next_if(|next| next.is(stretch)).is_none() {
                return;
            }
        }
        for stretch in wanted {
            bytes = bytes.saturating_add(stretch.len());
            let full = bytes > self.limit_bytes && !self.pending.is_empty() || self.access.budget.is_exhausted();
            if full || self.pending.len() >= MAX_REQUESTS {
                return;
            }
            self.start(stretch);
        }
    }

    /// The bytes of `stretch`. Requests before it were in vain and are dropped.
    ///
    /// # Errors
    /// `Fatal` where the object is missing or is not what its manifest says; otherwise as [`explain`].
    async fn take(&mut self, stretch: &Stretch) -> Result<Fetched> {
        while self.pending.front().is_some_and(|(pending, _)| !pending.is(stretch)) {
            self.pending.pop_front();
        }
        if self.pending.is_empty() {
            self.start(stretch.clone());
        }
        match self.pending.pop_front() {
            Some((_, mut job)) => job.wait().await,
            None => Err(ConnectError::fatal(format!("{}: nothing was requested", stretch.file.path))),
        }
    }

    fn start(&mut self, stretch: Stretch) {
        let work = fetch(self.access.clone(), stretch.clone());
        self.pending.push_back((stretch, Job::start(&Arc::new(Notify::new()), work)));
    }
}

impl Blocks {
    /// Begins to read `file`, whose block `prelude` is wanted first; what `later` names is fetched ahead.
    ///
    /// # Errors
    /// As [`Fetches::take`].
    pub(crate) async fn open(
        fetches: &mut Fetches,
        file: &Arc<FileEntry>,
        prelude: usize,
        later: impl Iterator<Item = Stretch>,
    ) -> Result<(Self, Bytes)> {
        let stretches = Stretch::all_of(file, prelude);
        fetches.ahead(stretches.iter().cloned().chain(later));
        let mut stretches = stretches.into_iter();
        let first = match stretches.next() {
            Some(stretch) => fetches.take(&stretch).await?,
            None => return Err(unreadable(file)),
        };
        let bytes = first.block(prelude).ok_or_else(|| altered(file, "lacks the block that a reader begins with"))?;
        Ok((Self { file: Arc::clone(file), stretches, first, current: None, next: 0 }, bytes))
    }

    /// The next block and its number; `None` at the end. Cancelling it ends the file.
    ///
    /// # Errors
    /// As [`Fetches::take`].
    pub(crate) async fn next(&mut self, fetches: &mut Fetches) -> Result<Option<(usize, Bytes)>> {
        let index = self.next;
        if index == self.file.blocks.len() {
            return Ok(None);
        }
        self.next += 1;
        if let Some(bytes) = self.fetched(index) {
            return Ok(Some((index, bytes)));
        }
        let stretch = self.stretches.next().ok_or_else(|| altered(&self.file, "ends too early"))?;
        self.current = Some(fetches.take(&stretch).await?);
        let bytes = self.fetched(index).ok_or_else(|| altered(&self.file, "has blocks out of order"))?;
        Ok(Some((index, bytes)))
    }

    /// What is still to be fetched.
    pub(crate) fn rest(&self) -> impl Iterator<Item = Stretch> + '_ {
        self.stretches.as_slice().iter().cloned()
    }

    fn fetched(&self, index: usize) -> Option<Bytes> {
        self.first.block(index).or_else(|| self.current.as_ref()?.block(index))
    }
}

async fn fetch(access: Access, stretch: Stretch) -> Result<Fetched> {
    let permit = access.budget.take(stretch.len());
    let bytes = get(&access, &stretch).await?;
    let first = stretch.blocks.start;
    let checked = executor::run(&*access.executor, move || check(&stretch, bytes)).await?;
    Ok(Fetched { first, blocks: checked?, _permit: permit })
}

async fn get(access: &Access, stretch: &Stretch) -> Result<Bytes> {
    let path = access.layout.object(&stretch.file.path)?;
    let options = GetOptions { range: Some(stretch.bytes().into()), ..GetOptions::default() };
    let answer = match access.store.get_opts(&path, options).await {
        Ok(result) => {
            check_size(&stretch.file, result.meta.size)?;
            result.bytes().await
        }
        Err(error) => Err(error),
    };
    let error = match answer {
        Ok(bytes) => return Ok(bytes),
        Err(error) => explain(&format!("read data object {path}"), error),
    };
    // A range beyond the end of a truncated object is refused in many ways: its size tells.
    if error.kind() == Kind::Retriable
        && let Ok(meta) = access.store.head(&path).await
    {
        check_size(&stretch.file, meta.size)?;
    }
    if error.kind() == Kind::NotFound {
        return Err(altered(&stretch.file, "is missing"));
    }
    Err(error)
}

fn check_size(file: &FileEntry, size: u64) -> Result<()> {
    if size == file.stored_bytes {
        return Ok(());
    }
    Err(altered(file, &format!("has {size} bytes, its manifest says {}", file.stored_bytes)))
}

fn check(stretch: &Stretch, bytes: Bytes) -> Result<Vec<Bytes>> {
    let range = stretch.bytes();
    if bytes.len() as u64 != range.end - range.start {
        return Err(altered(&stretch.file, &format!("gave {} bytes for {range:?}", bytes.len())));
    }
    let of_block = |block: &Block| {
        let at = (block.at - range.start) as usize;
        let part = bytes.slice(at..at + block.len as usize);
        block.check(&part).map_err(|error| altered(&stretch.file, &format!("was altered: {error}")))?;
        Ok(part)
    };
    stretch.blocks().iter().map(of_block).collect()
}

/// The error of a manifest whose blocks do not tell where the bytes of `file` are.
fn unreadable(file: &FileEntry) -> ConnectError {
    ConnectError::fatal(format!(
        "the manifest that names data object {} gives blocks that do not touch, or do not cover its {} bytes; nothing of \
         it was read; run lakeferry verify, which names the entry, and bring that back from a copy or from the bucket's \
         versions",
        file.path, file.stored_bytes
    ))
}

/// What a reader that stands within `file` holds, near enough: what it fetched last, and one block of that decoded.
pub(crate) fn held_bytes(file: &FileEntry) -> u64 {
    let largest = file.blocks.iter().map(|block| block.len).max().unwrap_or(file.stored_bytes).min(file.stored_bytes);
    let fetched = file.stored_bytes.min(largest.max(REQUEST_BYTES));
    let share = u128::from(file.raw_bytes) * u128::from(largest) / u128::from(file.stored_bytes.max(1));
    fetched.saturating_add(u64::try_from(share).unwrap_or(u64::MAX))
}

/// The error of an object that is not what its manifest says.
pub(crate) fn altered(file: &FileEntry, how: &str) -> ConnectError {
    ConnectError::fatal(format!(
        "data object {} {how}; nothing of it was used; run lakeferry verify, and bring the object back from a copy or \
         from the bucket's versions",
        file.path
    ))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::file_entry;

    #[test]
    fn a_reader_holds_a_request_and_a_block_of_it_decoded() {
        let block = |at, len| Block { at, len, sha256: String::new() };
        let small = FileEntry { stored_bytes: 100, raw_bytes: 400, ..file_entry() };
        assert_eq!(held_bytes(&FileEntry { blocks: vec![block(0, 75), block(75, 25)], ..small.clone() }), 100 + 300);
        assert_eq!(held_bytes(&small), 100 + 400);
        let large = FileEntry { stored_bytes: 10 * REQUEST_BYTES, raw_bytes: u64::MAX, ..file_entry() };
        let blocks = (0..10).map(|at| block(at * REQUEST_BYTES, REQUEST_BYTES)).collect();
        assert_eq!(held_bytes(&FileEntry { blocks, ..large.clone() }), REQUEST_BYTES + u64::MAX / 10);
        assert_eq!(held_bytes(&large), u64::MAX);
        assert_eq!(held_bytes(&FileEntry { stored_bytes: 0, raw_bytes: 0, ..small }), 0);
    }

    proptest! {
        #[test]
        fn stretches_hold_every_block_once_and_the_prelude_first(
            lens in proptest::collection::vec(1..900u64, 1..12), last in any::<bool>(),
        ) {
            let mut at = 0;
            let mut file = file_entry();
            file.blocks = lens.iter().map(|len| {
                let block = Block { at, len: *len, sha256: String::new() };
                at += len;
                block
            }).collect();
            file.stored_bytes = at;
            let prelude = if last { lens.len() - 1 } else { 0 };
            let stretches = Stretch::all_of(&Arc::new(file), prelude);
            prop_assert!(stretches[0].blocks.contains(&prelude));
            let mut blocks: Vec<usize> = stretches.iter().flat_map(|stretch| stretch.blocks.clone()).collect();
            let others: Vec<usize> = stretches[1..].iter().flat_map(|stretch| stretch.blocks.clone()).collect();
            prop_assert!(others.is_sorted());
            blocks.sort_unstable();
            prop_assert_eq!(blocks, (0..lens.len()).collect::<Vec<_>>());
            for stretch in &stretches {
                prop_assert!(!stretch.blocks.is_empty());
                prop_assert!(stretch.len() <= REQUEST_BYTES || stretch.blocks.len() == 1);
            }
        }
    }
}
