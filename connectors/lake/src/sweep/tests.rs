use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use object_store::PutPayload;

use super::*;
use crate::inspect::{TopicSummary, inspect};
use crate::store::leftovers::{OpenUploads, Staging};
use crate::store::{Purpose, open};
use crate::testing::{TestArchive, row};

const HOUR_MS: i64 = 3_600_000;
const NOW_MS: i64 = 100 * HOUR_MS;

/// Uploads and staged files, as a test puts them there.
#[derive(Debug, Default)]
struct Litter {
    uploads: Mutex<Vec<OpenUpload>>,
    staged: Mutex<Vec<StagedFile>>,
    lease: Duration,
    /// The store shows neither.
    hides_uploads: bool,
}

#[async_trait]
impl OpenUploads for Litter {
    async fn list(&self, folder: &Path) -> Result<Vec<OpenUpload>> {
        if self.hides_uploads {
            return Err(ConnectError::config("not shown to you"));
        }
        let below = |upload: &OpenUpload| upload.path.prefix_matches(folder);
        Ok(self.uploads.lock().unwrap().iter().filter(|upload| below(upload)).cloned().collect())
    }

    async fn abort(&self, upload: &OpenUpload) -> Result<()> {
        self.uploads.lock().unwrap().retain(|known| known != upload);
        Ok(())
    }
}

#[async_trait]
impl Staging for Litter {
    async fn list(&self) -> Result<Vec<StagedFile>> {
        if self.hides_uploads {
            return Err(ConnectError::config("not shown to you"));
        }
        Ok(self.staged.lock().unwrap().clone())
    }

    async fn remove(&self, file: &StagedFile) -> Result<()> {
        self.staged.lock().unwrap().retain(|known| known != file);
        Ok(())
    }

    fn lease(&self) -> Duration {
        self.lease
    }
}

/// An archive of one partition whose epochs 1 and 2 are over and whose epoch 3 writes.
struct Bench {
    archive: TestArchive,
    partition: TopicPartition,
    litter: Arc<Litter>,
}

impl Bench {
    async fn new() -> Self {
        let mut archive = TestArchive::new();
        let partition = archive.open("orders", 0, 0).await;
        archive.publish(&partition, &[row(0, 1), row(1, 2)], 1).await;
        archive.recreate(&partition).await;
        archive.publish(&partition, &[row(0, 1)], 0).await;
        archive.recreate(&partition).await;
        archive.publish(&partition, &[row(0, 1)], 0).await;
        Self { archive, partition, litter: Arc::default() }
    }

    fn name(epoch: u32) -> ObjectName {
        ObjectName { first_offset: 7, epoch, n: 9, writer: 0x0b9f_12ab, extension: "parquet".into() }
    }

    fn data(&self, epoch: u32) -> Path {
        self.archive.layout.data(&self.partition, &Self::name(epoch))
    }

    async fn put(&self, path: &Path) {
        self.archive.store.put(path, PutPayload::from_static(b"orphan")).await.unwrap();
    }

    fn upload(&self, path: Path, id: &str) {
        let upload = OpenUpload { path, id: id.into(), begun_at: String::new() };
        self.litter.uploads.lock().unwrap().push(upload);
    }

    fn stage(&self, name: &str, purpose: Option<Purpose>, age_ms: i64) {
        let file = StagedFile { name: name.into(), purpose, bytes: 5, modified_ms: NOW_MS - age_ms };
        self.litter.staged.lock().unwrap().push(file);
    }

    fn leftovers(&self) -> Leftovers {
        Leftovers { uploads: Some(Arc::clone(&self.litter) as _), staging: Some(Arc::clone(&self.litter) as _) }
    }

    async fn sweep(&self, dry_run: bool, everything: bool) -> Swept {
        self.sweep_with(self.leftovers(), (dry_run, everything)).await
    }

    async fn sweep_with(&self, leftovers: Leftovers, (dry_run, everything): (bool, bool)) -> Swept {
        let archive = self.archive.archive();
        let mut swept = Swept::default();
        let sweep = Sweep { archive: &archive, leftovers: &leftovers, now_ms: NOW_MS, dry_run };
        sweep.run(&["orders".to_owned()], everything, &mut swept).await.unwrap();
        swept
    }

    async fn inspect(&self, leftovers: &Leftovers) -> TopicSummary {
        let staged = StagedFiles::list(leftovers, NOW_MS).await.unwrap();
        inspect(&self.archive.archive(), leftovers, &staged, "orders").await.unwrap()
    }

    /// Every object, relative to `topics`.
    async fn objects(&self) -> Vec<String> {
        let listed: Vec<_> = self.archive.store.list(None).try_collect().await.unwrap();
        let mut paths: Vec<_> = listed.iter().map(|meta| meta.location.to_string()).collect();
        paths.sort();
        paths
    }

    fn uploads(&self) -> Vec<String> {
        self.litter.uploads.lock().unwrap().iter().map(|upload| upload.id.clone()).collect()
    }

    fn staged(&self) -> Vec<String> {
        self.litter.staged.lock().unwrap().iter().map(|file| file.name.clone()).collect()
    }
}

fn paths(leftovers: &[Leftover]) -> Vec<(LeftoverKind, &str, Option<Kept>)> {
    leftovers.iter().map(|leftover| (leftover.kind, leftover.path.as_str(), leftover.kept)).collect()
}

#[tokio::test]
async fn only_what_an_epoch_that_is_over_left_goes() {
    let bench = Bench::new().await;
    let whole = bench.objects().await;
    for epoch in [1, 2, 3, 4] {
        bench.put(&bench.data(epoch)).await;
        bench.upload(bench.data(epoch), &epoch.to_string());
    }
    let folder = bench.archive.layout.data_dir(&bench.partition);
    let foreign = [folder.clone().join("_SUCCESS"), folder.clone().join("deeper").join(Bench::name(1).to_string())];
    for path in &foreign {
        bench.put(path).await;
    }
    // Nobody's business: another topic, without manifests.
    let other = Path::parse(format!("topics/other/partition=0/{}", Bench::name(1))).unwrap();
    bench.put(&other).await;
    let before = bench.objects().await;

    let told = bench.sweep(true, true).await;
    assert_eq!((bench.objects().await, bench.uploads().len()), (before, 4), "a dry run removes nothing");
    let swept = bench.sweep(false, true).await;
    assert_eq!((paths(&told.removed), paths(&told.kept)), (paths(&swept.removed), paths(&swept.kept)));

    let relative = |path: &Path| bench.archive.layout.relative(path).unwrap();
    let [one, two, three, four] = [1, 2, 3, 4].map(|epoch| relative(&bench.data(epoch)));
    let gone =
        [LeftoverKind::Object, LeftoverKind::Upload].map(|kind| [(kind, one.as_str(), None), (kind, &two, None)]);
    assert_eq!(paths(&swept.removed), gone.concat());
    assert_eq!(swept.removed.iter().filter_map(|leftover| leftover.bytes).sum::<u64>(), 12);
    let alive = Some(Kept::LiveEpoch);
    let kept =
        [LeftoverKind::Object, LeftoverKind::Upload].map(|kind| [(kind, three.as_str(), alive), (kind, &four, alive)]);
    let strange: Vec<_> = foreign.iter().map(relative).collect();
    let strange = strange.iter().map(|path| (LeftoverKind::Object, path.as_str(), Some(Kept::ForeignName)));
    let mut expected: Vec<_> = kept.concat().into_iter().chain(strange).collect();
    expected.sort_by_key(|(kind, path, _)| (*kind, path.to_owned()));
    assert_eq!(paths(&swept.kept), expected);

    let mut left = whole;
    left.extend([3, 4].map(|epoch| bench.data(epoch).to_string()));
    left.extend(foreign.iter().chain([&other]).map(ToString::to_string));
    left.sort();
    assert_eq!((bench.objects().await, bench.uploads()), (left, vec!["3".to_owned(), "4".to_owned()]));
    assert!(bench.sweep(false, true).await.removed.is_empty(), "nothing is left to do");
}

#[tokio::test]
async fn a_writer_that_opens_or_publishes_meanwhile_loses_nothing() {
    // The listing is old by the time the chain is read: what was published in between is named there.
    let mut bench = Bench::new().await;
    let before = bench.archive.publish(&bench.partition, &[row(1, 5)], 1).await;
    let found = Found::list(&bench.archive.archive(), &Leftovers::default(), &bench.partition).await.unwrap();
    bench.put(&bench.data(3)).await;
    bench.archive.recreate(&bench.partition).await;
    let after = bench.archive.publish(&bench.partition, &[row(0, 5)], 0).await;
    let archive = bench.archive.archive();
    let chain = archive.chain(&bench.partition).await.unwrap().unwrap();
    let judged = found.judge(&archive, &chain);
    assert!(judged.is_empty(), "{judged:?}: {} and {} are named", before.path, after.path);
    // And what an epoch left that was ended in between goes with the next look.
    let swept = bench.sweep(false, true).await;
    assert_eq!(swept.removed.len(), 1);
}

#[tokio::test]
async fn an_upload_that_was_completed_since_it_was_listed_is_left_alone() {
    let mut bench = Bench::new().await;
    let file = bench.archive.publish(&bench.partition, &[row(1, 5)], 1).await;
    bench.upload(bench.archive.layout.object(&file.path).unwrap(), "done");
    bench.archive.recreate(&bench.partition).await;
    let swept = bench.sweep(false, true).await;
    assert!(swept.removed.is_empty() && bench.uploads() == ["done"], "{swept:?}");
}

#[tokio::test]
async fn nothing_of_a_damaged_partition_is_touched_and_the_others_are_swept() {
    let mut bench = Bench::new().await;
    let bad = bench.archive.open("orders", 1, 0).await;
    bench.archive.recreate(&bad).await;
    let orphans = [bench.data(1), bench.archive.layout.data(&bad, &Bench::name(1))];
    for orphan in &orphans {
        bench.put(orphan).await;
    }
    let mark = Purpose::folder_mark(&bench.archive.layout.data_dir(&bad));
    let purpose = Purpose { folder_mark: mark, name: Bench::name(1).to_string() };
    bench.stage("of the damaged", Some(purpose), 50 * HOUR_MS);
    bench.archive.store.put(&bench.archive.layout.entry(&bad, 1), PutPayload::from_static(b"{")).await.unwrap();
    let swept = bench.sweep(false, true).await;
    assert_eq!((swept.partitions, swept.removed.len(), swept.damaged.len()), (2, 1, 1));
    assert_eq!((swept.damaged[0].topic.as_str(), swept.damaged[0].partition), ("orders", 1));
    let objects = bench.objects().await;
    assert!(!objects.contains(&orphans[0].to_string()) && objects.contains(&orphans[1].to_string()));
    assert_eq!(bench.staged(), ["of the damaged"]);
}

#[tokio::test]
async fn nothing_of_a_partition_whose_manifests_are_gone_is_touched() {
    let mut bench = Bench::new().await;
    let bare = bench.archive.open("orders", 1, 0).await;
    bench.archive.publish(&bare, &[row(0, 1)], 0).await;
    for seq in 0..2 {
        bench.archive.store.delete(&bench.archive.layout.entry(&bare, seq)).await.unwrap();
    }
    let orphans = [bench.data(1), bench.archive.layout.data(&bare, &Bench::name(1))];
    for orphan in &orphans {
        bench.put(orphan).await;
    }
    let mark = Purpose::folder_mark(&bench.archive.layout.data_dir(&bare));
    bench.stage("of it", Some(Purpose { folder_mark: mark, name: Bench::name(1).to_string() }), 50 * HOUR_MS);
    let swept = bench.sweep(false, true).await;
    assert_eq!((swept.partitions, swept.removed.len(), swept.damaged.len()), (2, 1, 1));
    assert_eq!((swept.damaged[0].topic.as_str(), swept.damaged[0].partition), ("orders", 1));
    let problem = &swept.damaged[0].problem;
    assert!(problem.starts_with("manifest entries of orders-1 were removed: topics/orders/partition=1/"), "{problem}");
    assert!(bench.objects().await.contains(&orphans[1].to_string()));
    assert_eq!(bench.staged(), ["of it"]);
    let kept: Vec<_> = swept.kept.iter().map(|leftover| (leftover.path.as_str(), leftover.kept)).collect();
    assert_eq!(kept, [("of it", Some(Kept::LiveEpoch))]);
}

#[tokio::test]
async fn a_partition_that_left_a_folder_without_manifests_is_counted_once() {
    let mut bench = Bench::new().await;
    let bare = bench.archive.open("orders", 1, 0).await;
    bench.archive.publish(&bare, &[row(0, 1)], 0).await;
    for seq in 0..2 {
        bench.archive.store.delete(&bench.archive.layout.entry(&bare, seq)).await.unwrap();
    }
    // A file system would show the folder without it.
    bench.put(&bench.archive.layout.chain_dir(&bare).join("notes.txt")).await;
    let swept = bench.sweep(false, true).await;
    assert_eq!((swept.partitions, swept.damaged.len()), (2, 1), "{:?}", swept.damaged);
    assert_eq!(swept.damaged[0].partition, 1);
}

#[tokio::test]
async fn a_staged_file_goes_by_its_age_and_that_of_data_by_its_epoch_too() {
    let mut bench = Bench::new().await;
    let layout = &bench.archive.layout;
    let of_data = |epoch| Purpose {
        folder_mark: Purpose::folder_mark(&layout.data_dir(&bench.partition)),
        name: Bench::name(epoch).to_string(),
    };
    let of_entry = Purpose { folder_mark: Purpose::folder_mark(&layout.chain_dir(&bench.partition)), name: "5".into() };
    let elsewhere = Purpose { folder_mark: 1, name: Bench::name(1).to_string() };
    let probe = Purpose { folder_mark: 1, name: ".probe-0".to_owned() };
    let old = 2 * HOUR_MS + 1;
    bench.stage("entry", Some(of_entry.clone()), old);
    bench.stage("young entry", Some(of_entry), 2 * HOUR_MS);
    bench.stage("over", Some(of_data(2)), old);
    bench.stage("young and over", Some(of_data(2)), 2 * HOUR_MS);
    bench.stage("alive", Some(of_data(3)), 99 * HOUR_MS);
    bench.stage("another archive's", Some(elsewhere), 99 * HOUR_MS);
    bench.stage("probe", Some(probe), old);
    bench.stage("of old times", None, old);
    let staged = Mutex::new(bench.litter.staged.lock().unwrap().clone());
    bench.litter = Arc::new(Litter { staged, lease: Duration::from_secs(7_200), ..Litter::default() });

    let leftovers = Leftovers { uploads: None, staging: Some(Arc::clone(&bench.litter) as _) };
    let seen = bench.inspect(&leftovers).await.partitions.remove(0).log.unwrap();
    let kind = LeftoverKind::StagedFile;
    let told = [
        ("alive", Some(Kept::LiveEpoch)),
        ("entry", None),
        ("over", None),
        ("young and over", Some(Kept::Young)),
        ("young entry", Some(Kept::Young)),
    ];
    assert_eq!(paths(&seen.unreferenced), told.map(|(path, kept)| (kind, path, kept)), "of that partition alone");

    let one_topic = bench.sweep(true, false).await;
    assert_eq!(paths(&one_topic.removed), [(kind, "entry", None), (kind, "over", None)], "of that topic alone");
    let swept = bench.sweep(false, true).await;
    let removed: Vec<_> = swept.removed.iter().map(|leftover| leftover.path.as_str()).collect();
    assert_eq!(removed, ["entry", "over", "probe", "of old times"]);
    assert_eq!(bench.staged(), ["young entry", "young and over", "alive", "another archive's"]);
    let kept: Vec<_> = swept.kept.iter().map(|leftover| leftover.kept.unwrap()).collect();
    assert_eq!(kept, [Kept::Young, Kept::Young, Kept::LiveEpoch, Kept::ForeignName]);
}

#[tokio::test]
async fn a_probe_goes_by_its_age() {
    let bench = Bench::new().await;
    let probe = bench.archive.layout.probe(7);
    bench.put(&probe).await;
    let written_ms = bench.archive.store.head(&probe).await.unwrap().last_modified.timestamp_millis();
    let archive = bench.archive.archive();
    let sweep = async |now_ms, everything| {
        let mut swept = Swept::default();
        let sweep = Sweep { archive: &archive, leftovers: &Leftovers::default(), now_ms, dry_run: false };
        sweep.run(&["orders".to_owned()], everything, &mut swept).await.unwrap();
        swept
    };
    let path = bench.archive.layout.relative(&probe).unwrap();
    let swept = sweep(written_ms + HOUR_MS, true).await;
    assert_eq!(paths(&swept.kept), [(LeftoverKind::Probe, path.as_str(), Some(Kept::Young))]);
    let swept = sweep(written_ms + 2 * HOUR_MS, false).await;
    assert!(swept.removed.is_empty() && swept.kept.is_empty(), "it belongs to no topic");
    let swept = sweep(written_ms + HOUR_MS + 1, true).await;
    assert_eq!(paths(&swept.removed), [(LeftoverKind::Probe, path.as_str(), None)]);
    assert!(!bench.objects().await.contains(&probe.to_string()));
}

#[tokio::test]
async fn a_store_that_does_not_show_its_uploads_is_swept_all_the_same() {
    let mut bench = Bench::new().await;
    bench.litter = Arc::new(Litter { hides_uploads: true, ..Litter::default() });
    bench.put(&bench.data(1)).await;
    let swept = bench.sweep_with(Leftovers { staging: None, ..bench.leftovers() }, (false, true)).await;
    assert_eq!((swept.removed.len(), swept.uploads_unseen.as_deref()), (1, Some("not shown to you")));
    let leftovers = Leftovers { uploads: Some(Arc::clone(&bench.litter) as _), staging: None };
    let seen = bench.inspect(&leftovers).await;
    assert_eq!(seen.partitions[0].log.as_ref().unwrap().uploads_unseen.as_deref(), Some("not shown to you"));
    let leftovers = Leftovers { uploads: None, staging: Some(Arc::clone(&bench.litter) as _) };
    let log = bench.inspect(&leftovers).await.partitions.remove(0).log.unwrap();
    assert_eq!((log.records, log.uploads_unseen.as_deref()), (1, Some("not shown to you")));
}

#[tokio::test]
async fn what_a_dead_writer_leaves_on_a_disk_is_found_there() {
    let dir = std::env::temp_dir().join(format!("lakeferry-sweep-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let lake = open(&format!("file://{}", dir.display()), &BTreeMap::new(), None).unwrap();
    let layout = crate::layout::Layout::new("topics").unwrap();
    let path = layout.data(&TopicPartition::new("orders", 0), &Bench::name(1));
    let mut upload = lake.store.put_multipart(&path).await.unwrap();
    upload.put_part(vec![1; 100].into()).await.unwrap();
    let staging = lake.leftovers.staging.as_ref().unwrap();
    let staged = staging.list().await.unwrap();
    let [file] = &staged[..] else { panic!("{staged:?}") };
    let mark = Purpose::folder_mark(&layout.data_dir(&TopicPartition::new("orders", 0)));
    assert_eq!(file.purpose, Some(Purpose { folder_mark: mark, name: Bench::name(1).to_string() }));
    assert_eq!((file.bytes, lake.leftovers.uploads.is_none()), (100, true));

    // Its writer, alive after all, learns of it and does not publish half a file.
    staging.remove(file).await.unwrap();
    assert!(staging.list().await.unwrap().is_empty());
    staging.remove(file).await.unwrap();
    upload.put_part(vec![2; 100].into()).await.unwrap();
    upload.complete().await.unwrap_err();
    assert!(lake.store.head(&path).await.is_err());
    std::fs::remove_dir_all(&dir).unwrap();
}
