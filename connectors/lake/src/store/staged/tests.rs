use std::path::PathBuf;

use futures::TryStreamExt;
use object_store::Error;
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
    let names: std::collections::BTreeSet<_> =
        (0..1000).flat_map(|_| [one.next(), other.next()]).map(String::from).collect();
    assert_eq!(names.len(), 2000);
    assert!(names.iter().all(|name| name.starts_with(".tmp/") && name.len() < 64));
}
