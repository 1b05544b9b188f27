//! An archive is sound, then one thing of it is changed: the change must be found and named.

mod hostile;

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use lakeferry_api::Budget;
use lakeferry_api::batch::NO_TIMESTAMP;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStoreExt as _, PutPayload};
use serde_json::Value;

use super::*;
use crate::manifest::Digest;
use crate::store::testing::Faulty;
use crate::testing::{TestArchive, row};

#[derive(Default)]
struct Count {
    expected: AtomicU64,
    advanced: AtomicU64,
}

impl Listener for Count {
    fn expect(&self, bytes: u64) {
        self.expected.fetch_add(bytes, Ordering::SeqCst);
    }

    fn advance(&self, bytes: u64) {
        self.advanced.fetch_add(bytes, Ordering::SeqCst);
    }
}

struct Bench {
    archive: TestArchive,
    partition: TopicPartition,
    files: Vec<FileEntry>,
}

impl Bench {
    /// Two partitions; the first with two lineages, missing offsets, and a record without timestamp.
    async fn new(format: &'static str) -> Self {
        let mut archive = TestArchive::of(Arc::new(InMemory::new()), format);
        let partition = archive.open("orders", 0, 3).await;
        let first: Vec<_> = (3..15).filter(|offset| offset % 4 != 0).map(|offset| row(offset, 100 + offset)).collect();
        let mut second: Vec<_> = (16..30).map(|offset| row(offset, 400 - offset)).collect();
        second[5].timestamp = NO_TIMESTAMP;
        let mut files =
            vec![archive.publish(&partition, &first, 15).await, archive.publish(&partition, &second, 31).await];
        archive.truncate(&partition, 28).await;
        files.push(archive.publish(&partition, &[row(28, 500), row(29, 501)], 29).await);
        let other = archive.open("orders", 1, 0).await;
        files.push(
            archive.publish(&other, &first.iter().map(|old| row(old.offset - 3, 7)).collect::<Vec<_>>(), 11).await,
        );
        Self { archive, partition, files }
    }

    async fn verify(&self, level: Level) -> Verification {
        self.verify_topics(&[], level, &Count::default()).await.unwrap()
    }

    async fn verify_topics(&self, topics: &[&str], level: Level, count: &Count) -> Result<Verification> {
        let access = self.archive.access(&Budget::new(64 << 20));
        let topics: Vec<String> = topics.iter().map(|topic| (*topic).to_owned()).collect();
        let mut verification = Verification::default();
        verify(&access, &self.archive.archive(), (&topics, level), count, &mut verification).await?;
        Ok(verification)
    }

    fn entry(&self, seq: u64) -> Path {
        self.archive.layout.entry(&self.partition, seq)
    }

    fn object(&self, file: usize) -> Path {
        self.archive.layout.object(&self.files[file].path).unwrap()
    }

    async fn get(&self, path: &Path) -> Bytes {
        self.archive.store.get(path).await.unwrap().bytes().await.unwrap()
    }

    async fn put(&self, path: &Path, bytes: impl Into<PutPayload>) {
        self.archive.store.put(path, bytes.into()).await.unwrap();
    }

    async fn names(&self, level: Level) -> Vec<String> {
        self.verify(level).await.findings.iter().map(ToString::to_string).collect()
    }
}

/// Every member of a document, as the path to it.
fn members(value: &Value, path: &mut Vec<String>, found: &mut Vec<Vec<String>>) {
    let mut step = |name: String, value: &Value| {
        path.push(name);
        members(value, path, found);
        path.pop();
    };
    match value {
        Value::Object(map) if !map.is_empty() => map.iter().for_each(|(name, value)| step(name.clone(), value)),
        Value::Array(items) if !items.is_empty() => {
            items.iter().enumerate().for_each(|(at, value)| step(at.to_string(), value));
        }
        _ => found.push(path.clone()),
    }
}

fn member<'a>(value: &'a mut Value, path: &[String]) -> &'a mut Value {
    path.iter().fold(value, |value, name| match value {
        Value::Array(items) => &mut items[name.parse::<usize>().unwrap()],
        other => &mut other[name.as_str()],
    })
}

/// The smallest change that leaves the member what it is.
fn changed(path: &[String], value: &Value) -> Value {
    match value {
        Value::Number(number) => Value::from(number.as_i64().unwrap() + 1),
        Value::String(text) if path[path.len() - 1] == "written_at" => Value::from(text.replace(".000Z", ".001Z")),
        Value::String(text) if text == "commit" => Value::from("open"),
        Value::String(text) if text == "open" => Value::from("commit"),
        Value::String(text) if text == "earliest" => Value::from("latest"),
        Value::String(text) if text == "truncation" => Value::from("altered"),
        Value::String(text) if text == "read_committed" => Value::from("read_uncommitted"),
        Value::String(text) if text.len() == 64 => Value::from(Digest::of(text.as_bytes()).to_string()),
        Value::String(text) => Value::from(format!("{text}x")),
        Value::Null => Value::from(1),
        Value::Array(_) => serde_json::json!([[1, 2]]),
        Value::Object(_) => serde_json::json!({ "unknown": 1 }),
        Value::Bool(value) => Value::from(!value),
    }
}

fn sealed(mut document: Value) -> Vec<u8> {
    document.as_object_mut().unwrap().shift_remove("self_sha256");
    let body = serde_json::to_string(&document).unwrap();
    let seal = Digest::of(body.as_bytes());
    format!("{},\"self_sha256\":\"{seal}\"}}", &body[..body.len() - 1]).into_bytes()
}

#[tokio::test]
async fn a_sound_archive_has_no_findings() {
    for format in ["archive.parquet", "archive.avro"] {
        let bench = Bench::new(format).await;
        let count = Count::default();
        let found = bench.verify_topics(&[], Level::Content, &count).await.unwrap();
        assert_eq!(found.findings, [], "{format}");
        let stored_bytes = bench.files.iter().map(|file| file.stored_bytes).sum();
        let records = bench.files.iter().map(|file| file.records).sum();
        assert_eq!(
            found.checked,
            Checked { partitions: 2, entries: 7, files: 4, stored_bytes, records, ..Checked::default() }
        );
        assert_eq!(count.expected.into_inner(), stored_bytes);
        assert_eq!(count.advanced.into_inner(), stored_bytes);
    }
}

#[tokio::test]
async fn topics_are_chosen_and_unknown_ones_told() {
    let mut bench = Bench::new("archive.parquet").await;
    bench.archive.open("clicks", 0, 0).await;
    let count = Count::default();
    let some = bench.verify_topics(&["clicks"], Level::Content, &count).await.unwrap();
    assert_eq!((some.checked.partitions, some.checked.entries), (1, 1));
    let error = bench.verify_topics(&["clocks"], Level::Manifest, &count).await.unwrap_err();
    assert!(error.message().contains("clocks") && error.message().contains("clicks, orders"), "{error}");
}

#[tokio::test]
async fn every_changed_member_of_a_manifest_is_found() {
    let bench = Bench::new("archive.parquet").await;
    for seq in 0..5 {
        let path = bench.entry(seq);
        let bytes = bench.get(&path).await;
        let document: Value = serde_json::from_slice(&bytes).unwrap();
        let mut paths = Vec::new();
        members(&document, &mut Vec::new(), &mut paths);
        assert!(paths.len() > 30, "{paths:?}");
        for member_path in paths {
            let mut altered = document.clone();
            let value = member(&mut altered, &member_path);
            *value = changed(&member_path, value);
            assert_ne!(altered, document, "{member_path:?}");
            bench.put(&path, serde_json::to_vec(&altered).unwrap()).await;
            let found = bench.names(Level::Manifest).await;
            assert!(found.iter().any(|line| line.contains(path.as_ref())), "{seq} {member_path:?}: {found:?}");
        }
        bench.put(&path, bytes).await;
    }
    assert_eq!(bench.names(Level::Manifest).await, [""; 0]);
}

/// Whoever can seal a document anew can change any entry but must then change all that follow; of the last one, what
/// only the broker or the writer knew cannot be checked against anything.
#[tokio::test]
async fn a_changed_member_is_found_under_a_new_seal_too() {
    let bench = Bench::new("archive.parquet").await;
    let mut unprovable = Vec::new();
    for seq in 0..5 {
        let path = bench.entry(seq);
        let bytes = bench.get(&path).await;
        let document: Value = serde_json::from_slice(&bytes).unwrap();
        let mut paths = Vec::new();
        members(&document, &mut Vec::new(), &mut paths);
        for member_path in paths.into_iter().filter(|path| path[0] != "self_sha256") {
            let mut altered = document.clone();
            let value = member(&mut altered, &member_path);
            *value = changed(&member_path, value);
            bench.put(&path, sealed(altered)).await;
            let found = bench.names(Level::Content).await;
            let (own, next) = (path.to_string(), bench.entry(seq + 1).to_string());
            let named = found.iter().any(|line| line.contains(&own) || line.contains(&next));
            if !named && seq == 4 {
                unprovable.push(member_path.join("."));
            } else {
                assert!(named, "{seq} {member_path:?}: {found:?}");
            }
        }
        bench.put(&path, bytes).await;
    }
    assert_eq!(
        unprovable,
        [
            "written_at",
            "writer.connector",
            "writer.task",
            "writer.worker",
            "writer.version",
            "log.start_offset",
            "log.last_stable_offset",
            "log.leader_epoch",
            "log.leader_epoch_upto",
            "log.isolation",
        ]
    );
}

#[tokio::test]
async fn every_counted_member_of_the_last_entry_is_named() {
    let bench = Bench::new("archive.parquet").await;
    let path = bench.entry(4);
    let document: Value = serde_json::from_slice(&bench.get(&path).await).unwrap();
    for member_name in
        ["records", "first_offset", "last_offset", "min_timestamp", "max_timestamp", "untimed", "raw_bytes", "sha256"]
    {
        let mut altered = document.clone();
        let value = member(&mut altered, &["files".into(), "0".into(), member_name.into()]);
        *value = changed(&[member_name.into()], value);
        bench.put(&path, sealed(altered)).await;
        let found = bench.verify(Level::Content).await.findings;
        let field = format!("files[0].{member_name}");
        assert!(found.iter().any(|finding| finding.field.as_deref() == Some(&field)), "{member_name}: {found:?}");
    }
}

#[tokio::test]
async fn removed_exchanged_and_damaged_manifests_are_found() {
    let bench = Bench::new("archive.parquet").await;
    let mut kept = Vec::new();
    for seq in 0..5 {
        kept.push((bench.entry(seq), bench.get(&bench.entry(seq)).await));
    }
    let expect = async |what: &str, named: &Path| {
        let found = bench.names(Level::Manifest).await;
        assert!(found.iter().any(|line| line.contains(named.as_ref())), "{what}: {found:?}");
        for (path, bytes) in &kept {
            bench.put(path, bytes.clone()).await;
        }
    };
    for (path, bytes) in &kept[..4] {
        bench.archive.store.delete(path).await.unwrap();
        expect("removed", path).await;
        bench.put(path, bytes.slice(..bytes.len() / 2)).await;
        expect("truncated", path).await;
        bench.put(path, Bytes::new()).await;
        expect("emptied", path).await;
        bench.put(path, kept[4].1.clone()).await;
        expect("replaced by another", path).await;
    }
    let newer = String::from_utf8(kept[4].1.to_vec()).unwrap().replace("\"version\":1,", "\"version\":2,");
    bench.put(&kept[4].0, newer.into_bytes()).await;
    expect("newer", &kept[4].0).await;
    for (path, _) in &kept {
        bench.archive.store.delete(path).await.unwrap();
    }
    expect("all removed", &bench.archive.layout.chain_dir(&bench.partition)).await;
    assert_eq!(bench.names(Level::Manifest).await, [""; 0]);
}

#[tokio::test]
async fn every_class_of_damage_to_a_file_is_found() {
    for format in ["archive.parquet", "archive.avro"] {
        let bench = Bench::new(format).await;
        let (path, other) = (bench.object(0), bench.object(1));
        let (bytes, others) = (bench.get(&path).await, bench.get(&other).await);
        let expect = async |what: &str, level: Level, named: &[&Path]| {
            let found = bench.names(level).await;
            for path in named {
                assert!(found.iter().any(|line| line.contains(path.as_ref())), "{format}, {what}: {found:?}");
            }
            bench.put(&path, bytes.clone()).await;
            bench.put(&other, others.clone()).await;
        };
        let len = bytes.len();
        for level in [Level::Objects, Level::Content] {
            for (what, at) in
                [("header", 1), ("page", len / 3), ("index", len * 3 / 4), ("footer", len - 3), ("end", len - 1)]
            {
                let mut damaged = bytes.to_vec();
                damaged[at] ^= 1;
                bench.put(&path, damaged).await;
                expect(what, level, &[&path]).await;
            }
            for keep in [0, 1, len / 2, len - 1] {
                bench.put(&path, bytes.slice(..keep)).await;
                expect("truncation", level, &[&path]).await;
            }
            bench.put(&path, [&bytes[..], b"more"].concat()).await;
            expect("longer", level, &[&path]).await;
            bench.put(&path, others.clone()).await;
            bench.put(&other, bytes.clone()).await;
            expect("swap", level, &[&path, &other]).await;
            bench.archive.store.delete(&path).await.unwrap();
            expect("missing", level, &[&path]).await;
        }
        assert_eq!(bench.names(Level::Content).await, [""; 0]);
    }
}

#[tokio::test]
async fn what_no_manifest_names_is_counted_and_no_fault() {
    let bench = Bench::new("archive.parquet").await;
    let path = bench
        .archive
        .layout
        .data(&bench.partition, &"00000000000000000007-0000000009-0-0b9f12ab.parquet".parse().unwrap());
    bench.put(&path, Bytes::from_static(b"left by a writer that died")).await;
    bench.put(&bench.archive.layout.topic_dir("orders").join("README"), Bytes::from_static(b"not ours")).await;
    let found = bench.verify(Level::Objects).await;
    assert_eq!(found.findings, []);
    assert_eq!((found.checked.unnamed_objects, found.checked.unnamed_bytes), (1, 26));
}

#[tokio::test]
async fn one_damaged_block_hides_no_other() {
    let bench = Bench::new("archive.parquet").await;
    let path = bench.object(0);
    let mut damaged = bench.get(&path).await.to_vec();
    for block in &bench.files[0].blocks[..2] {
        damaged[block.at as usize + 5] ^= 1;
    }
    bench.put(&path, damaged).await;
    for level in [Level::Objects, Level::Content] {
        let found = bench.verify(level).await.findings;
        assert!(found.iter().all(|finding| finding.object == path.as_ref()), "{found:?}");
        let fields: Vec<_> = found.iter().filter_map(|finding| finding.field.as_deref()).collect();
        assert_eq!(fields, ["files[0].blocks[0].sha256", "files[0].blocks[1].sha256", "files[0].sha256"]);
    }
}

#[tokio::test]
async fn a_missing_entry_hides_no_broken_law_behind_it() {
    let bench = Bench::new("archive.parquet").await;
    bench.archive.store.delete(&bench.entry(1)).await.unwrap();
    let last = bench.entry(4);
    let mut document: Value = serde_json::from_slice(&bench.get(&last).await).unwrap();
    document["totals"]["raw_bytes"] = Value::from(1);
    bench.put(&last, sealed(document)).await;
    let found = bench.verify(Level::Manifest).await.findings;
    let named: Vec<_> = found.iter().map(|finding| (finding.object.as_str(), finding.field.as_deref())).collect();
    assert_eq!(named, [(bench.entry(1).as_ref(), None), (last.as_ref(), Some("totals.raw_bytes"))]);
}

#[tokio::test]
async fn blocks_that_lie_are_no_panic() {
    let bench = Bench::new("archive.parquet").await;
    let last = bench.entry(4);
    let document: Value = serde_json::from_slice(&bench.get(&last).await).unwrap();
    for (at, len) in [(u64::MAX, 5), (0, u64::MAX), (7, 0), (1 << 40, 1 << 40)] {
        for block in 0..2 {
            let mut altered = document.clone();
            altered["files"][0]["blocks"][block]["at"] = Value::from(at);
            altered["files"][0]["blocks"][block]["len"] = Value::from(len);
            bench.put(&last, sealed(altered)).await;
            let found = bench.names(Level::Content).await;
            assert!(found.iter().any(|line| line.contains(last.as_ref())), "{at} {len}: {found:?}");
        }
    }
}

/// Fails every read once the manifests were read.
struct Failing(Arc<Faulty>);

impl Listener for Failing {
    fn expect(&self, _: u64) {
        self.0.refuse_reads(u64::MAX);
    }

    fn advance(&self, _: u64) {}
}

#[tokio::test]
async fn a_store_that_fails_is_no_finding_and_takes_none_away() {
    let store = Arc::new(Faulty::default());
    let mut archive = TestArchive::of(Arc::clone(&store) as _, "archive.avro");
    let partition = archive.open("orders", 0, 0).await;
    archive.publish(&partition, &[row(0, 1), row(1, 2)], 1).await;
    let removed = archive.layout.entry(&partition, 0);
    archive.store.delete(&removed).await.unwrap();
    let access = archive.access(&Budget::new(64 << 20));
    let mut verification = Verification::default();
    let asked: (&[String], Level) = (&[], Level::Objects);
    let result = verify(&access, &archive.archive(), asked, &Failing(store), &mut verification).await;
    assert!(result.unwrap_err().is_retriable());
    let named: Vec<_> = verification.findings.iter().map(|finding| finding.object.as_str()).collect();
    assert_eq!(named, [removed.as_ref()]);
}

#[tokio::test]
async fn a_folder_that_is_no_archive_is_only_passed_over_unasked() {
    let bench = Bench::new("archive.parquet").await;
    bench.put(&bench.archive.layout.topic_dir("notes").join("readme.txt"), Bytes::from_static(b"x")).await;
    assert_eq!(bench.names(Level::Manifest).await, [""; 0]);
    let error = bench.verify_topics(&["notes"], Level::Manifest, &Count::default()).await.unwrap_err();
    assert_eq!(error.kind(), lakeferry_api::Kind::Config);
    assert!(error.message().contains("notes") && error.message().contains("orders"), "{error}");
}
