use std::path::PathBuf;

use futures::TryStreamExt;
use object_store::local::LocalFileSystem;

use super::*;

/// A folder of its own under the system's temporary one, removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("lakeferry-staged-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn store(&self) -> Staged<LocalFileSystem> {
        Staged::new(LocalFileSystem::new_with_prefix(&self.0).unwrap().with_fsync(true))
    }

    fn staged_files(&self) -> usize {
        std::fs::read_dir(self.0.join(STAGING)).map_or(0, Iterator::count)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

async fn text(store: &impl ObjectStore, path: &Path) -> String {
    String::from_utf8(store.get(path).await.unwrap().bytes().await.unwrap().to_vec()).unwrap()
}

#[tokio::test]
async fn one_of_many_creators_wins_and_nothing_is_left_behind() {
    let folder = Folder::new("race");
    let stores = Arc::new([folder.store(), folder.store()]);
    for round in 0..30 {
        let path = Path::from(format!("topics/t/_manifests/partition=0/{round:020}.json"));
        let writers = (0..8).map(|writer| {
            let (stores, path) = (Arc::clone(&stores), path.clone());
            async move {
                let payload = format!("writer {writer} of round {round}");
                let result = stores[writer % 2].put_opts(&path, payload.clone().into(), PutMode::Create.into()).await;
                (payload, result)
            }
        });
        let results = futures::future::join_all(writers).await;
        let winners: Vec<_> = results.iter().filter(|(_, result)| result.is_ok()).map(|(payload, _)| payload).collect();
        assert_eq!(winners.len(), 1, "{results:?}");
        assert_eq!(&text(&stores[0], &path).await, winners[0]);
        let losers = results.iter().filter(|(_, result)| matches!(result, Err(Error::AlreadyExists { .. })));
        assert_eq!(losers.count(), 7, "{results:?}");
    }
    assert_eq!(folder.staged_files(), 0);
}

#[tokio::test]
async fn an_upload_is_there_whole_or_not_at_all() {
    let folder = Folder::new("upload");
    let store = folder.store();
    let path = Path::from("topics/t/partition=0/x.parquet");
    let listed = async |store: &Staged<LocalFileSystem>| {
        store.list(None).map_ok(|meta| meta.location.to_string()).try_collect::<Vec<_>>().await.unwrap()
    };

    let mut upload = store.put_multipart(&path).await.unwrap();
    upload.put_part("first ".into()).await.unwrap();
    assert_eq!(folder.staged_files(), 1);
    assert_eq!(listed(&store).await, [""; 0], "what is being written is in no listing");
    assert!(store.list_with_delimiter(None).await.unwrap().common_prefixes.is_empty());
    upload.put_part("second".into()).await.unwrap();
    upload.complete().await.unwrap();
    assert_eq!(text(&store, &path).await, "first second");
    assert_eq!(listed(&store).await, [path.as_ref()]);

    // The name is taken: nothing is overwritten.
    let mut again = store.put_multipart(&path).await.unwrap();
    again.put_part("other".into()).await.unwrap();
    assert!(matches!(again.complete().await, Err(Error::AlreadyExists { .. })));
    assert_eq!(text(&store, &path).await, "first second");

    let mut aborted = store.put_multipart(&Path::from("topics/t/partition=0/y.parquet")).await.unwrap();
    aborted.put_part("never".into()).await.unwrap();
    aborted.abort().await.unwrap();
    assert_eq!(listed(&store).await, [path.as_ref()]);
    assert_eq!(folder.staged_files(), 0);
}

#[tokio::test]
async fn what_a_dead_writer_left_disturbs_nobody() {
    let folder = Folder::new("litter");
    let store = folder.store();
    let path = Path::from("topics/t/_manifests/partition=0/00000000000000000000.json");
    let upload = store.put_multipart(&path).await.unwrap();
    std::mem::forget(upload);
    assert_eq!(folder.staged_files(), 1);
    store.put_opts(&path, "ours".into(), PutMode::Create.into()).await.unwrap();
    assert_eq!(text(&store, &path).await, "ours");
    assert_eq!(store.list(None).try_collect::<Vec<_>>().await.unwrap().len(), 1);
    let staged = store.list(Some(&Path::from(STAGING)));
    assert_eq!(staged.try_collect::<Vec<_>>().await.unwrap().len(), 0, "the local store hides its own");
}

#[test]
fn no_two_instances_share_a_name() {
    let (one, other) = (Names::new(), Names::new());
    let path = Path::from("topics/orders/partition=0/x.parquet");
    let names: std::collections::BTreeSet<_> =
        (0..1000).flat_map(|_| [one.next(&path), other.next(&path)]).map(String::from).collect();
    assert_eq!(names.len(), 2000);
    assert!(names.iter().all(|name| name.starts_with(".tmp/") && name.len() < 96));
}

#[test]
fn a_staged_name_tells_what_it_is_to_become() {
    let names = Names::new();
    let folder = Path::parse("topics/orders/partition=0").unwrap();
    let name = "00000000000000000000-0000000001-0-0b9f12ab.parquet";
    let staged = names.next(&folder.clone().join(name));
    let staged = staged.filename().unwrap();
    let purpose = Purpose { folder_mark: Purpose::folder_mark(&folder), name: name.to_owned() };
    for decorated in [staged.to_owned(), format!("{staged}#1"), format!(".{staged}.tmp.12")] {
        assert_eq!(Purpose::of(&decorated), Some(purpose.clone()), "{decorated}");
    }
    assert_ne!(purpose.folder_mark, Purpose::folder_mark(&Path::from("topics/orders/partition=1")));
    // What is too long is left out; names of others tell nothing.
    let staged = names.next(&folder.clone().join("n".repeat(255)));
    assert!(staged.filename().unwrap().len() < 128);
    assert_eq!(Purpose::of(staged.filename().unwrap()), None);
    for foreign in ["", "x-y-z-w", ".hidden", "0-0-0-0", "a#1"] {
        assert_eq!(Purpose::of(foreign), None);
    }
}

/// A local disk whose staging folder somebody sweeps just before the first rename, and which notes what it is asked.
#[derive(Debug)]
struct Swept {
    disk: LocalFileSystem,
    asked: std::sync::Mutex<Vec<String>>,
}

impl Swept {
    fn note(&self, what: &str, path: &Path) {
        self.asked.lock().unwrap().push(format!("{what} {path}"));
    }
}

impl fmt::Display for Swept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Swept")
    }
}

#[async_trait]
impl ObjectStore for Swept {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        self.note("put", location);
        self.disk.put_opts(location, payload, opts).await
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.disk.put_multipart_opts(location, opts).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.note("get", location);
        self.disk.get_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.disk.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.disk.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.disk.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.disk.copy_opts(from, to, options).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        let first = !self.asked.lock().unwrap().iter().any(|asked| asked.starts_with("rename"));
        self.note("rename", from);
        if first {
            self.disk.delete(from).await?;
        }
        self.disk.rename_opts(from, to, options).await
    }
}

#[tokio::test]
async fn a_writer_whose_staged_entry_was_swept_reads_before_it_writes_again() {
    use crate::layout::Layout;
    use crate::manifest::{ManifestStore, Outcome};
    use crate::store::testing::CountingClock;
    let folder = Folder::new("swept");
    let disk = LocalFileSystem::new_with_prefix(&folder.0).unwrap();
    let staged = Staged::new(Swept { disk, asked: std::sync::Mutex::default() });
    let swept = staged.inner();
    let layout = Layout::new("topics").unwrap();
    let partition = lakeferry_api::TopicPartition::new("orders", 0);
    let entry = layout.entry(&partition, 0);
    let chains = ManifestStore::new(Arc::new(staged), layout, Arc::new(CountingClock::default()));
    let outcome = chains.create(&partition, 0, "frozen".into()).await.unwrap();
    assert_eq!((outcome, text(&*swept, &entry).await.as_str()), (Outcome::Committed, "frozen"));

    let asked = swept.asked.lock().unwrap().clone();
    let [put, renamed, read, put_again, renamed_again, ..] = &asked[..] else { panic!("{asked:?}") };
    assert!(put.starts_with("put .tmp/") && put.replace("put", "rename") == *renamed, "{asked:?}");
    assert_eq!(*read, format!("get {entry}"), "the number first");
    assert!(put_again.starts_with("put .tmp/") && put_again != put, "under a name of its own: {asked:?}");
    assert_eq!(put_again.replace("put", "rename"), *renamed_again);
    assert_eq!(folder.staged_files(), 0);
}
