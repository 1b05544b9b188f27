//! The data objects: every byte against its hash, every row against its manifest. A file is read once, block by block,
//! whatever the level; what its manifest says of it is counted anew from the rows.

use std::sync::Arc;

use futures::{StreamExt as _, TryStreamExt as _, stream};
use lakeferry_api::batch::NO_TIMESTAMP;
use lakeferry_api::{Batch, ConnectError, Kind, Result, executor};
use sha2::{Digest as _, Sha256};

use super::{Bench, FileCase, Level, Verification};
use crate::format::{self, FileDecoder};
use crate::manifest::Digest;
use crate::source::fetch::{Blocks, Fetches};

/// Files that are checked at once.
const PARALLEL_FILES: usize = 4;

/// What is wrong with a file: the member of its manifest line, and how.
type Faults = Vec<(Option<String>, String)>;

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

/// Reads every file of `cases`.
pub(super) async fn check(
    bench: &Bench<'_>,
    cases: Vec<FileCase>,
    level: Level,
    verification: &mut Verification,
) -> Result<()> {
    let checks = stream::iter(cases.into_iter().map(|case| async move {
        let checked = check_file(bench, &case, level).await?;
        Ok::<_, ConnectError>((case, checked))
    }));
    let mut checks = checks.buffered(PARALLEL_FILES);
    while let Some((case, (records, faults))) = checks.try_next().await? {
        verification.checked.files += 1;
        verification.checked.stored_bytes += case.file.stored_bytes;
        verification.checked.records += records;
        let object = bench.access.layout.object(&case.file.path).map(|path| path.to_string());
        let object = object.unwrap_or_else(|_| case.file.path.clone());
        for (field, problem) in faults {
            let problem = format!("{problem} (named by {})", case.entry);
            verification.add_field(&case.partition, object.clone(), field, problem);
        }
    }
    Ok(())
}

async fn check_file(bench: &Bench<'_>, case: &FileCase, level: Level) -> Result<(u64, Faults)> {
    let mut faults = Faults::new();
    match read_file(bench, case, level, &mut faults).await {
        Ok(records) => Ok((records, faults)),
        // What cannot pass by itself is the object's fault; a store that does not answer is not.
        Err(error) if matches!(error.kind(), Kind::Fatal | Kind::Data) => {
            faults.push((None, error.message().to_owned()));
            Ok((0, faults))
        }
        Err(error) => Err(error),
    }
}

async fn read_file(bench: &Bench<'_>, case: &FileCase, level: Level, faults: &mut Faults) -> Result<u64> {
    let Ok(format) = format::find(&case.file.format) else {
        faults.push((case.field("format"), format!("{} is no format this program knows", case.file.format)));
        return Ok(0);
    };
    let mut fetches = Fetches::new(bench.access.clone());
    let prelude = format.prelude(&case.file.blocks);
    let (mut blocks, bytes) = Blocks::open(&mut fetches, &case.file, prelude, std::iter::empty()).await?;
    let mut decoder = None;
    if level == Level::Content {
        let (file, partition) = (Arc::clone(&case.file), case.partition.clone());
        let open = move || format.decoder(bytes, &file.blocks, &partition);
        decoder = Some(executor::run(&*bench.access.executor, open).await??);
    }
    let (mut hasher, mut tally) = (Sha256::new(), Tally::default());
    loop {
        fetches.ahead(blocks.rest());
        let Some((index, bytes)) = blocks.next(&mut fetches).await? else { break };
        let len = bytes.len() as u64;
        let job = move || {
            hasher.update(&bytes);
            let counted = match &decoder {
                Some(decoder) => tally.block(decoder.as_ref(), index, bytes),
                None => Ok(()),
            };
            (hasher, tally, decoder, counted)
        };
        let counted;
        (hasher, tally, decoder, counted) = executor::run(&*bench.access.executor, job).await?;
        counted?;
        bench.listener.advance(len);
    }
    let sha256 = Digest::from(hasher).to_string();
    if sha256 != case.file.sha256 {
        faults.push((case.field("sha256"), format!("{}, but its bytes give {sha256}", case.file.sha256)));
    }
    if let Some(decoder) = decoder {
        tally.check(case, faults);
        check_metadata(case, decoder.as_ref(), faults);
    }
    Ok(tally.records)
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

impl Tally {
    fn block(&mut self, decoder: &dyn FileDecoder, index: usize, bytes: bytes::Bytes) -> Result<()> {
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
        if let Some(disorder) = &self.disorder {
            faults.push((None, disorder.clone()));
        }
    }
}
