//! Memory that runs short: what open files hold goes to disk, and only where there is no room do files end early.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use lakeferry_api::{BatchBuilder, Budget, Closing, SinkTask};

use super::rig::{Rig, partition};
use crate::manifest::model::FileEntry;

const RECORDS: i64 = 100;
const RECORD_BYTES: u64 = 64 << 10;
const BUDGET_BYTES: u64 = 1 << 20;

/// A folder for one test, under a name that no other has: a folder's spill file is shared.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("lakeferry-memory-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Bytes that no codec makes smaller.
fn noise(seed: i64) -> Vec<u8> {
    let mut state = seed as u64 + 1;
    let mut step = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..RECORD_BYTES).map(|_| step()).collect()
}

/// What 6.4 MiB become with 1 MiB of memory.
struct Archived {
    files: Vec<FileEntry>,
    /// The most memory that was held.
    most_bytes: u64,
    /// How many files were counted as ended early.
    ended_early: usize,
}

/// Archives with this room on disk.
async fn archive(format: &str, spill: Option<(PathBuf, u64)>) -> Archived {
    let mut rig = Rig::new(&[("format", format)]);
    rig.budget = Budget::new(BUDGET_BYTES);
    rig.spill = spill;
    let mut writer = rig.writer(1);
    writer.open().await;
    let mut most_bytes = 0;
    for offset in 0..RECORDS {
        let mut builder = BatchBuilder::new(partition(0), offset);
        builder.push(offset, (offset, None), None, Some(&noise(offset)));
        writer.task.put(&[builder.build(offset + 1)]).await.unwrap();
        most_bytes = most_bytes.max(rig.budget.used());
        writer.tick().await.unwrap();
    }
    let ended_early = rig.kafka.lock().unwrap().ended_early;
    let leaving = [partition(0)];
    let moving = async {
        loop {
            tokio::task::yield_now().await;
            rig.clock.advance(10);
        }
    };
    tokio::select! {
        closed = writer.task.close(&leaving, Closing::Revoked) => drop(closed.unwrap()),
        () = moving => {}
    }
    let files: Vec<_> = rig.chain().await.into_iter().flat_map(|entry| entry.files).collect();
    for file in &files {
        rig.assert_stored(file).await;
    }
    assert_eq!(files.iter().map(|file| file.records).sum::<u64>(), RECORDS as u64);
    drop(writer);
    assert_eq!(rig.budget.used(), 0, "everything is given back");
    Archived { files, most_bytes, ended_early }
}

#[tokio::test]
async fn open_files_wait_on_disk_instead_of_ending() {
    for format in ["archive.parquet", "archive.avro"] {
        let folder = Folder::new(format);
        let Archived { files, most_bytes, ended_early } = archive(format, Some((folder.0.clone(), 64 << 20))).await;
        assert_eq!((files.len(), ended_early), (1, 0), "{format}");
        assert!(files[0].stored_bytes > RECORDS as u64 * RECORD_BYTES, "{format}");
        assert!(most_bytes <= BUDGET_BYTES, "{format}: {most_bytes}");
    }
}

#[tokio::test]
async fn files_end_early_where_there_is_no_room() {
    let folder = Folder::new("small");
    let without = archive("archive.avro", None).await;
    let with_little = archive("archive.avro", Some((folder.0.clone(), 1 << 20))).await;
    let with_none = archive("archive.avro", Some((folder.0.join("absent"), 1 << 20))).await;
    assert!(without.files.len() > 5, "{}", without.files.len());
    assert!(
        with_little.files.len() < without.files.len() && with_little.files.len() > 1,
        "{}",
        with_little.files.len()
    );
    assert_eq!(with_none.files.len(), without.files.len());
    for archived in [without, with_little, with_none] {
        // All of them; of what was begun last the partition's leaving may make a file more.
        let (early, files) = (archived.ended_early, archived.files.len());
        assert!(early == files || early + 1 == files, "{early} of {files} files");
    }
}

#[tokio::test]
async fn a_slow_store_makes_no_crumbs_of_files() {
    const PARTITIONS: usize = 16;
    let mut rig = Rig::new(&[("codec", "none")]);
    rig.budget = Budget::new(BUDGET_BYTES);
    rig.store.put_latency.set((Arc::clone(&rig.clock), Duration::from_millis(500))).unwrap();
    let (mut writer, partitions) = (rig.writer(1), (0..PARTITIONS as i32).map(partition).collect::<Vec<_>>());
    writer.task.open(&partitions).await.unwrap();
    let (value, mut put) = (noise(1), 0);
    while put < 1_000 {
        // The consumer pauses where nothing is left.
        if !rig.budget.is_exhausted() {
            let (name, offset) = (&partitions[put % PARTITIONS], (put / PARTITIONS) as i64);
            let mut builder = BatchBuilder::new(name.clone(), offset);
            builder.push(offset, (offset, None), None, Some(&value[..4 << 10]));
            writer.task.put(&[builder.build(offset + 1)]).await.unwrap();
            put += 1;
        }
        writer.tick().await.unwrap();
        rig.clock.advance(5);
    }
    let early = rig.kafka.lock().unwrap().ended_early;
    assert!(early * 8 < put, "{early} files of {put} records ended early");
}

#[tokio::test]
async fn as_many_files_end_at_once_as_memory_is_short_of() {
    let mut rig = Rig::new(&[("format", "archive.avro")]);
    rig.budget = Budget::new(BUDGET_BYTES);
    let mut writer = rig.writer(1);
    let partitions: Vec<_> = (0..32).map(partition).collect();
    writer.task.open(&partitions).await.unwrap();
    let twice_the_budget: Vec<_> = partitions
        .iter()
        .map(|name| {
            let mut builder = BatchBuilder::new(name.clone(), 0);
            builder.push(0, (0, None), None, Some(&noise(name.partition.into())));
            builder.build(1)
        })
        .collect();
    writer.task.put(&twice_the_budget).await.unwrap();
    let ended = async |rig: &Rig| rig.kafka.lock().unwrap().ended_early > 0;
    writer.tick_until(&rig, ended).await;
    let early = rig.kafka.lock().unwrap().ended_early;
    assert!((20..32).contains(&early), "{early}");
}

#[tokio::test]
async fn clients_that_hold_most_of_the_budget_make_no_crumbs_of_files() {
    let mut rig = Rig::new(&[]);
    rig.budget = Budget::new(BUDGET_BYTES);
    let _clients = rig.budget.take_standing(BUDGET_BYTES / 5 * 4);
    let mut writer = rig.writer(1);
    writer.open().await;
    for offset in 0..20 {
        writer.put(offset, offset + 1, [offset]).await.unwrap();
        writer.tick().await.unwrap();
    }
    assert_eq!(rig.kafka.lock().unwrap().ended_early, 0);
}

/// What a set of these offsets would need, no machine has.
const FAR: i64 = 1 << 52;

#[tokio::test]
async fn a_stretch_without_records_costs_nothing_however_wide_it_is() {
    let rig = Rig::new(&[("flush.size", "5"), ("rotate.age.ms", "1000")]);
    let mut writer = rig.writer(1);
    writer.open().await;
    // The log cleaner left this of a topic that had lived long.
    writer.put(0, FAR, 0..3).await.unwrap();
    writer.tick_until(&rig, async |rig| rig.spans().await.len() == 1).await;
    writer.put(FAR, 2 * FAR, []).await.unwrap();
    let end = async || rig.chain().await.pop().unwrap();
    writer.tick_until(&rig, async |_| end().await.resume_offset == Some(2 * FAR)).await;
    drop(writer);
    rig.kafka.lock().unwrap().live = false;
    // Somebody sets the offset far away, and back.
    for (offset, width) in [(3 * FAR, FAR), (i64::MAX, i64::MAX - 3 * FAR)] {
        rig.alter(Some(offset)).await.unwrap();
        assert_eq!(end().await.totals.gaps, width as u64);
    }
    rig.alter(Some(1)).await.unwrap();
    assert_eq!(end().await.resume_offset, Some(1));
}
