//! The data objects: every byte against its hash, every row against its manifest. An object is read once, from its
//! first byte to its last, whatever the level; what its manifest says of it is counted anew from the rows.
//!
//! Called by [`verify`](super::verify) with the files that the chains name. Invariant: a block whose hash is wrong is
//! told and never decoded, and the blocks behind it are looked at all the same. The replay's reader, which stops at the
//! first damage, is not used here.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use lakeferry_api::batch::NO_TIMESTAMP;
use lakeferry_api::{Batch, ConnectError, Kind, Result, executor};
use object_store::path::Path;
use object_store::{GetResult, ObjectStoreExt as _};
use sha2::{Digest as _, Sha256};

use super::{Bench, FileCase, Level, Verification};
use crate::format::{self, Block, FileDecoder};
use crate::manifest::Digest;
use crate::store::explain;

/// Files that are checked at once.
const PARALLEL_FILES: usize = 4;

/// What is wrong with a file: the member of its manifest line, and how.
type Faults = Vec<(Option<String>, String)>;

/// Reads every file of `cases`.
pub(super) async fn check(
    bench: &Bench<'_>,
    cases: Vec<FileCase>,
    level: Level,
    verification: &mut Verification,
) -> Result<()> {
    let checks = stream::iter(cases.into_iter().map(|case| async move {
        let mut faults = Faults::new();
        let read = check_file(bench, &case, level, &mut faults).await;
        (case, faults, read)
    }));
    let mut checks = checks.buffered(PARALLEL_FILES);
    while let Some((case, faults, read)) = checks.next().await {
        let object = bench.access.layout.object(&case.file.path).map(|path| path.to_string());
        let object = object.unwrap_or_else(|_| case.file.path.clone());
        for (field, problem) in faults {
            let problem = format!("{problem} (named by {})", case.entry);
            verification.add_field(&case.partition, object.clone(), field, problem);
        }
        verification.checked.files += 1;
        verification.checked.stored_bytes += case.file.stored_bytes;
        verification.checked.records += read?;
    }
    Ok(())
}

/// How many rows were decoded; what is wrong goes to `faults`, and an error is the store's.
async fn check_file(bench: &Bench<'_>, case: &FileCase, level: Level, faults: &mut Faults) -> Result<u64> {
    let path = match bench.access.layout.object(&case.file.path) {
        Ok(path) => path,
        Err(error) => {
            faults.push((case.field("path"), error.message().to_owned()));
            return Ok(0);
        }
    };
    let reading = Reading { bench, case, path };
    let Some(found) = reading.open(faults).await? else { return Ok(0) };
    let blocks = if case.file.has_whole_blocks() { case.file.blocks.clone() } else { Vec::new() };
    let decoder = match level {
        Level::Content if !blocks.is_empty() => reading.decoder(faults).await?,
        _ => None,
    };
    let rows = decoder.map(|decoder| (decoder, Tally::default()));
    let scan = Scan { blocks, next: 0, is_whole: true, hasher: Sha256::new(), rows, faults: Vec::new() };
    let scan = reading.scan(found, scan).await?;
    Ok(scan.end(case, faults))
}

/// An object that is being read.
struct Reading<'a> {
    bench: &'a Bench<'a>,
    case: &'a FileCase,
    path: Path,
}

impl Reading<'_> {
    /// The object; `None` where it is missing or has another size.
    async fn open(&self, faults: &mut Faults) -> Result<Option<GetResult>> {
        let found = match self.bench.access.store.get(&self.path).await {
            Ok(found) => found,
            Err(error) => {
                let error = self.failed(error);
                if error.kind() != Kind::NotFound {
                    return Err(error);
                }
                faults.push((self.case.field("path"), "it is missing".to_owned()));
                return Ok(None);
            }
        };
        let (size, said) = (found.meta.size, self.case.file.stored_bytes);
        if size != said {
            faults.push((self.case.field("stored_bytes"), format!("{said}, but it has {size} bytes")));
            return Ok(None);
        }
        Ok(Some(found))
    }

    /// The decoder; `None` where there is none, for a reason that is told here or elsewhere.
    async fn decoder(&self, faults: &mut Faults) -> Result<Option<Box<dyn FileDecoder>>> {
        let file = Arc::clone(&self.case.file);
        // An unknown format is told with the chain.
        let Ok(format) = format::find(&file.format) else { return Ok(None) };
        let Some(block) = file.blocks.get(format.prelude(&file.blocks)).cloned() else { return Ok(None) };
        let bytes = self.bench.access.store.get_range(&self.path, block.at..block.at + block.len).await;
        let bytes = bytes.map_err(|error| self.failed(error))?;
        let partition = self.case.partition.clone();
        let open = move || {
            // A damaged one is told in its turn.
            block.check(&bytes).ok().map(|()| format.decoder(bytes, &file.blocks, &partition, file.content()))
        };
        match executor::run(&*self.bench.access.executor, open).await?.transpose() {
            Ok(decoder) => Ok(decoder),
            Err(error) => {
                faults.push((None, format!("it cannot be decoded: {}", error.message())));
                Ok(None)
            }
        }
    }

    /// Sends every byte through `scan`, block by block.
    async fn scan(&self, found: GetResult, mut scan: Scan) -> Result<Scan> {
        let mut chunks = found.into_stream();
        let mut waiting = BytesMut::new();
        while let Some(chunk) = chunks.try_next().await.map_err(|error| self.failed(error))? {
            self.bench.listener.advance(chunk.len() as u64);
            waiting.extend_from_slice(&chunk);
            while let Some(len) = scan.wants(waiting.len()) {
                let bytes = waiting.split_to(len).freeze();
                let permit = self.bench.access.budget.take(len as u64);
                let job = move || {
                    scan.take(bytes);
                    (scan, permit)
                };
                (scan, _) = executor::run(&*self.bench.access.executor, job).await?;
            }
        }
        Ok(scan)
    }

    fn failed(&self, error: object_store::Error) -> ConnectError {
        explain(&format!("read data object {}", self.path), error)
    }
}

/// What the bytes of an object come to.
struct Scan {
    /// Empty where they say nothing: then only the whole is checked.
    blocks: Vec<Block>,
    next: usize,
    /// Every block was what it should be, so that the rows are all that there are.
    is_whole: bool,
    hasher: Sha256,
    rows: Option<(Box<dyn FileDecoder>, Tally)>,
    /// As [`Faults`], the member without its place.
    faults: Vec<(Option<String>, String)>,
}

impl Scan {
    /// How many of `waiting` bytes it takes now; `None` where it needs more.
    fn wants(&self, waiting: usize) -> Option<usize> {
        if self.blocks.is_empty() {
            return Some(waiting).filter(|waiting| *waiting > 0);
        }
        let len = usize::try_from(self.blocks.get(self.next)?.len).ok()?;
        (len <= waiting).then_some(len)
    }

    fn take(&mut self, bytes: Bytes) {
        self.hasher.update(&bytes);
        let index = self.next;
        self.next += 1;
        let Some(block) = self.blocks.get(index) else { return };
        if let Err(error) = block.check(&bytes) {
            self.is_whole = false;
            self.faults.push((Some(format!("blocks[{index}].sha256")), error.message().to_owned()));
            return;
        }
        let Some((decoder, tally)) = &mut self.rows else { return };
        if let Err(error) = tally.block(decoder.as_ref(), index, bytes) {
            self.is_whole = false;
            self.faults.push((None, format!("block {index} cannot be decoded: {}", error.message())));
        }
    }

    fn end(self, case: &FileCase, faults: &mut Faults) -> u64 {
        faults
            .extend(self.faults.into_iter().map(|(member, how)| (member.and_then(|member| case.field(&member)), how)));
        let sha256 = Digest::from(self.hasher).to_string();
        if sha256 != case.file.sha256 {
            faults.push((case.field("sha256"), format!("{}, but its bytes give {sha256}", case.file.sha256)));
        }
        let Some((decoder, tally)) = self.rows else { return 0 };
        check_metadata(case, decoder.as_ref(), faults);
        if let Some(disorder) = &tally.disorder {
            faults.push((None, disorder.clone()));
        }
        if self.is_whole {
            tally.check(case, faults);
        }
        tally.records
    }
}

fn check_metadata(case: &FileCase, decoder: &dyn FileDecoder, faults: &mut Faults) {
    let metadata = decoder.metadata();
    let mut expect = |member: &str, said: Option<String>, expected: Option<String>| {
        if said != expected {
            let show = |value: Option<String>| value.unwrap_or_else(|| "nothing".to_owned());
            faults.push((
                None,
                format!("its metadata gives {} as {member}, its manifest {}", show(said), show(expected)),
            ));
        }
    };
    expect("cluster id", metadata.cluster_id.clone(), Some(case.cluster_id.clone()));
    expect("topic id", metadata.topic_id.clone(), case.topic_id.clone());
    let shown = |offset: Option<i64>| offset.map(|offset| offset.to_string());
    if metadata.first_offset.is_some() {
        expect("first offset", shown(metadata.first_offset), shown(Some(case.file.first_offset)));
    }
    if metadata.last_offset.is_some() {
        expect("last offset", shown(metadata.last_offset), shown(Some(case.file.last_offset)));
    }
}

/// What the rows of a file come to.
#[derive(Debug, Default)]
struct Tally {
    records: u64,
    raw_bytes: u64,
    untimed: u64,
    first: Option<i64>,
    last: Option<i64>,
    min: Option<i64>,
    max: Option<i64>,
    disorder: Option<String>,
}

impl Tally {
    fn block(&mut self, decoder: &dyn FileDecoder, index: usize, bytes: Bytes) -> Result<()> {
        for batch in decoder.decode(index, bytes)? {
            self.add(&batch?);
        }
        Ok(())
    }

    fn add(&mut self, batch: &Batch) {
        for (at, offset) in batch.offsets().iter().enumerate() {
            if let Some(last) = self.last.filter(|last| last >= offset) {
                self.disorder.get_or_insert_with(|| format!("offset {offset} comes behind {last}"));
            }
            let (timestamp, kind) = (batch.timestamps()[at], batch.timestamp_types()[at]);
            if timestamp == NO_TIMESTAMP {
                self.untimed += 1;
            } else {
                self.min = Some(self.min.map_or(timestamp, |min| min.min(timestamp)));
                self.max = Some(self.max.map_or(timestamp, |max| max.max(timestamp)));
            }
            if (timestamp == NO_TIMESTAMP) != kind.is_none() {
                self.disorder
                    .get_or_insert_with(|| format!("the timestamp type of offset {offset} does not fit its timestamp"));
            }
            self.first.get_or_insert(*offset);
            self.last = Some(*offset);
        }
        self.records += batch.len() as u64;
        self.raw_bytes += batch.raw_bytes() as u64;
    }

    fn check(&self, case: &FileCase, faults: &mut Faults) {
        let file = &case.file;
        let show = |value: Option<i64>| value.map_or_else(|| "null".to_owned(), |value| value.to_string());
        let mut expect = |member: &str, said: String, counted: String| {
            if said != counted {
                faults.push((case.field(member), format!("{said}, but its rows give {counted}")));
            }
        };
        expect("records", file.records.to_string(), self.records.to_string());
        expect("first_offset", file.first_offset.to_string(), show(self.first));
        expect("last_offset", file.last_offset.to_string(), show(self.last));
        expect("min_timestamp", show(file.min_timestamp), show(self.min));
        expect("max_timestamp", show(file.max_timestamp), show(self.max));
        expect("untimed", file.untimed.to_string(), self.untimed.to_string());
        expect("raw_bytes", file.raw_bytes.to_string(), self.raw_bytes.to_string());
    }
}
