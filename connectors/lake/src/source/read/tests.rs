use std::sync::Arc;

use lakeferry_api::Budget;
use lakeferry_api::batch::NO_TIMESTAMP;
use object_store::{ObjectStoreExt as _, PutPayload};

use super::super::cut::{Cut, CutMode, Window};
use super::*;
use crate::testing::{TestArchive, TestRow, row, rows_of};

const LIMIT: u64 = 64 << 20;

async fn plan(archive: &TestArchive, partition: &TopicPartition, selection: Selection) -> LogPlan {
    let chain = archive.archive().chain(partition).await.unwrap().unwrap();
    let lineage = chain.latest_lineage();
    LogPlan::of(&chain, lineage, selection).unwrap()
}

async fn drain(reader: &mut LogReader) -> Result<Vec<TestRow>> {
    let mut rows = Vec::new();
    while let Some(batch) = reader.next().await? {
        rows.extend(rows_of(&batch));
    }
    Ok(rows)
}

/// Two files with some offsets missing, timestamps out of order.
async fn small(format: &'static str) -> (TestArchive, TopicPartition, Vec<TestRow>) {
    let mut archive = TestArchive::of(Arc::new(object_store::memory::InMemory::new()), format);
    let partition = archive.open("orders", 1, 0).await;
    let first: Vec<_> =
        (0..20).filter(|offset| offset % 6 != 5).map(|offset| row(offset, 1_000 + offset * 7 % 50)).collect();
    let second: Vec<_> = (20..33).map(|offset| row(offset, 1_040 - offset)).collect();
    archive.publish(&partition, &first, 19).await;
    archive.publish(&partition, &second, 35).await;
    (archive, partition, [first, second].concat())
}

#[tokio::test]
async fn a_log_comes_back_as_it_was_archived() {
    for format in ["archive.parquet", "archive.avro"] {
        let (archive, partition, rows) = small(format).await;
        let budget = Budget::new(LIMIT);
        let mut reader =
            LogReader::new(archive.access(&budget), plan(&archive, &partition, Selection::default()).await);
        assert_eq!(drain(&mut reader).await.unwrap(), rows, "{format}");
        assert_eq!(reader.next().await.unwrap().map(|batch| batch.len()), None);
        assert_eq!(reader.position(), 33);
        drop(reader);
        assert_eq!(budget.used(), 0, "everything that was read is paid back");
    }
}

#[tokio::test]
async fn reading_goes_on_from_every_position() {
    let (archive, partition, rows) = small("archive.parquet").await;
    for position in 0..37 {
        let mut plan = plan(&archive, &partition, Selection::default()).await;
        plan.position = position;
        let mut reader = LogReader::new(archive.access(&Budget::new(LIMIT)), plan);
        let expected: Vec<_> = rows.iter().filter(|row| row.offset >= position).cloned().collect();
        assert_eq!(drain(&mut reader).await.unwrap(), expected, "{position}");
    }
}

#[tokio::test]
async fn a_survey_counts_what_a_reader_gives() {
    let mut archive = TestArchive::new();
    let partition = archive.open("orders", 0, 0).await;
    let stamps = [5, NO_TIMESTAMP, 9, 0, 3, 7, 7, 8, 12, 1, NO_TIMESTAMP, 4, 6, 6, 6];
    for (at, chunk) in stamps.chunks(3).enumerate() {
        let rows: Vec<_> = chunk.iter().zip(at as i64 * 3..).map(|(stamp, offset)| row(offset, *stamp)).collect();
        archive.publish(&partition, &rows, at as i64 * 3 + 2).await;
    }
    let mut all_were_read = true;
    for mode in [CutMode::Record, CutMode::Log] {
        for (from, until) in [(None, None), (None, Some(7)), (Some(4), None), (Some(4), Some(8)), (Some(6), Some(6))] {
            let selection = Selection { cut: Cut { window: Window { from, until }, mode }, offsets: None };
            let plan = plan(&archive, &partition, selection).await;
            let access = archive.access(&Budget::new(LIMIT));
            let counted = survey(&access, &plan).await.unwrap();
            // The files that it does not name are not missed.
            let mut aside = Vec::new();
            for segment in plan.segments.iter().filter(|segment| !counted.files.contains(&segment.file)) {
                let path = archive.layout.object(&segment.file.path).unwrap();
                aside.push((path.clone(), archive.store.get(&path).await.unwrap().bytes().await.unwrap()));
                archive.store.delete(&path).await.unwrap();
            }
            let mut reader = LogReader::new(access, plan);
            let mut expected = Survey { files: counted.files.clone(), ..Survey::default() };
            while let Some(batch) = reader.next().await.unwrap() {
                expected.records += batch.len() as u64;
                expected.raw_bytes += batch.raw_bytes() as u64;
                expected.untimed += batch.timestamps().iter().filter(|stamp| is_untimed(**stamp)).count() as u64;
            }
            assert_eq!(counted, expected, "{mode:?} {from:?} {until:?}");
            all_were_read &= aside.is_empty();
            for (path, bytes) in aside {
                archive.store.put(&path, PutPayload::from(bytes)).await.unwrap();
            }
        }
    }
    assert!(!all_were_read);
}

#[tokio::test]
async fn a_damaged_object_is_named_and_none_of_its_block_is_given_out() {
    for format in ["archive.parquet", "archive.avro"] {
        let (archive, partition, rows) = small(format).await;
        let plan = plan(&archive, &partition, Selection::default()).await;
        let file = Arc::clone(&plan.segments[1].file);
        let path = archive.layout.object(&file.path).unwrap();
        let whole = archive.store.get(&path).await.unwrap().bytes().await.unwrap();
        let ends = (0..40).chain(whole.len() - 40..whole.len());
        for at in ends.chain((40..whole.len() - 40).step_by(whole.len() / 40)) {
            let mut damaged = whole.to_vec();
            damaged[at] ^= 0x10;
            archive.store.put(&path, PutPayload::from(damaged)).await.unwrap();
            let mut reader = LogReader::new(archive.access(&Budget::new(LIMIT)), plan.clone());
            let mut given = Vec::new();
            let error = loop {
                match reader.next().await {
                    Ok(Some(batch)) => given.extend(rows_of(&batch)),
                    Ok(None) => panic!("{format}: byte {at} was altered and nobody saw it"),
                    Err(error) => break error,
                }
            };
            assert_eq!(error.kind(), Kind::Fatal);
            assert!(error.message().contains(&file.path), "{error}");
            assert!(rows.starts_with(&given), "{format}: byte {at}");
        }
    }
}

#[tokio::test]
async fn a_manifest_whose_blocks_do_not_tell_where_the_bytes_are_is_an_error() {
    let (archive, partition, rows) = small("archive.parquet").await;
    let plan = plan(&archive, &partition, Selection::default()).await;
    let hostile: [fn(&mut FileEntry); 7] = [
        |file| file.blocks.clear(),
        |file| file.blocks[0].at = u64::MAX,
        |file| file.blocks[0].len = u64::MAX,
        |file| file.blocks.last_mut().unwrap().at = 0,
        |file| file.blocks.last_mut().unwrap().len += 1,
        |file| file.blocks.reverse(),
        |file| file.stored_bytes = u64::MAX,
    ];
    for (at, spoil) in hostile.iter().enumerate() {
        let mut plan = plan.clone();
        spoil(Arc::make_mut(&mut plan.segments[1].file));
        let path = plan.segments[1].file.path.clone();
        let mut reader = LogReader::new(archive.access(&Budget::new(LIMIT)), plan);
        let mut given = Vec::new();
        let error = loop {
            match reader.next().await {
                Ok(Some(batch)) => given.extend(rows_of(&batch)),
                Ok(None) => panic!("{at}: read to its end"),
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), Kind::Fatal, "{at}: {error}");
        assert!(error.message().contains(&path) && error.message().contains("the manifest"), "{at}: {error}");
        assert!(!error.message().contains("panic"), "{at}: {error}");
        assert!(rows.starts_with(&given) && given.len() < rows.len(), "{at}");
    }
}

#[tokio::test]
async fn a_missing_or_truncated_object_is_named() {
    let (archive, partition, _) = small("archive.parquet").await;
    let plan = plan(&archive, &partition, Selection::default()).await;
    let file = Arc::clone(&plan.segments[0].file);
    let path = archive.layout.object(&file.path).unwrap();
    let whole = archive.store.get(&path).await.unwrap().bytes().await.unwrap();
    for len in [0, 1, whole.len() / 2, whole.len() - 1] {
        archive.store.put(&path, PutPayload::from(whole.slice(..len))).await.unwrap();
        let error = drain(&mut LogReader::new(archive.access(&Budget::new(LIMIT)), plan.clone())).await.unwrap_err();
        assert!(
            error.message().contains(&file.path) && error.message().contains(&format!("has {len} bytes")),
            "{error}"
        );
        assert_eq!(error.kind(), Kind::Fatal);
    }
    archive.store.delete(&path).await.unwrap();
    let error = drain(&mut LogReader::new(archive.access(&Budget::new(LIMIT)), plan)).await.unwrap_err();
    assert!(error.message().contains(&file.path) && error.message().contains("missing"), "{error}");
    assert_eq!(error.kind(), Kind::Fatal);
}

#[tokio::test]
async fn a_continued_lineage_is_one_log() {
    let mut archive = TestArchive::new();
    let partition = archive.open("orders", 0, 0).await;
    let lost: Vec<_> = (0..10).map(|offset| row(offset, 100 + offset)).collect();
    archive.publish(&partition, &lost, 9).await;
    archive.truncate(&partition, 6).await;
    let new: Vec<_> = (6..12).map(|offset| row(offset, 900 + offset)).collect();
    archive.publish(&partition, &new, 11).await;

    let plan = plan(&archive, &partition, Selection::default()).await;
    let rows = drain(&mut LogReader::new(archive.access(&Budget::new(LIMIT)), plan.clone())).await.unwrap();
    assert_eq!(rows, [&lost[..6], &new[..]].concat());

    // Whoever stops behind a batch and begins there again passes nothing, wherever the cut is.
    let (mut rows, mut plan) = (Vec::new(), plan);
    loop {
        let mut reader = LogReader::new(archive.access(&Budget::new(LIMIT)), plan.clone());
        let Some(batch) = reader.next().await.unwrap() else { break };
        rows.extend(rows_of(&batch));
        plan.position = batch.next_offset();
    }
    assert_eq!(rows, [&lost[..6], &new[..]].concat());

    let chain = archive.archive().chain(&partition).await.unwrap().unwrap();
    let old = LogPlan::of(&chain, 1, Selection::default()).unwrap();
    let rows = drain(&mut LogReader::new(archive.access(&Budget::new(LIMIT)), old)).await.unwrap();
    assert_eq!(rows, lost);
}

#[tokio::test]
async fn files_that_appear_later_are_read_too() {
    let (mut archive, partition, rows) = small("archive.parquet").await;
    let mut reader =
        LogReader::new(archive.access(&Budget::new(LIMIT)), plan(&archive, &partition, Selection::default()).await);
    assert_eq!(drain(&mut reader).await.unwrap(), rows);
    let more: Vec<_> = (36..40).map(|offset| row(offset, offset)).collect();
    archive.publish(&partition, &more, 39).await;
    assert!(reader.segments().is_empty(), "what was read is held no longer");
    reader.extend(plan(&archive, &partition, Selection::default()).await.segments.split_off(2));
    assert_eq!(drain(&mut reader).await.unwrap(), more);
}

#[tokio::test]
async fn a_file_that_appears_before_one_that_is_being_read_is_not_passed_over() {
    let (mut archive, partition, rows) = small("archive.parquet").await;
    let more: Vec<_> = (36..40).map(|offset| row(offset, offset)).collect();
    archive.publish(&partition, &more, 39).await;
    let mut known = plan(&archive, &partition, Selection::default()).await;
    let later = known.segments.remove(1);
    let mut reader = LogReader::new(archive.access(&Budget::new(LIMIT)), known);
    let mut given = rows_of(&reader.next().await.unwrap().unwrap());
    assert!(reader.position() <= later.rows.from);
    reader.extend([later]);
    given.extend(drain(&mut reader).await.unwrap());
    assert_eq!(given, [rows, more].concat());
}

#[tokio::test]
async fn files_that_appear_while_others_are_read_have_their_turn() {
    let (mut archive, partition, rows) = small("archive.parquet").await;
    let known = plan(&archive, &partition, Selection::default()).await;
    let mut reader = LogReader::new(archive.access(&Budget::new(LIMIT)), known.clone());
    let mut given = rows_of(&reader.next().await.unwrap().unwrap());
    let more: Vec<_> = (36..40).map(|offset| row(offset, offset)).collect();
    archive.publish(&partition, &more, 39).await;
    let grown = plan(&archive, &partition, Selection::default()).await;
    reader.extend(grown.segments[known.segments.len()..].to_vec());
    given.extend(drain(&mut reader).await.unwrap());
    assert_eq!(given, [rows, more].concat());
    assert_eq!(reader.position(), 40);
}

#[tokio::test]
async fn a_dropped_call_loses_nothing() {
    let (archive, partition, rows) = small("archive.parquet").await;
    let mut reader =
        LogReader::new(archive.access(&Budget::new(LIMIT)), plan(&archive, &partition, Selection::default()).await);
    let mut given = Vec::new();
    loop {
        // Polled once and dropped, again and again, with the feeding job making progress in between.
        let once = futures::FutureExt::now_or_never(reader.next());
        match once {
            None => tokio::task::yield_now().await,
            Some(Ok(Some(batch))) => given.extend(rows_of(&batch)),
            Some(Ok(None)) => break,
            Some(Err(error)) => panic!("{error}"),
        }
    }
    assert_eq!(given, rows);
}
