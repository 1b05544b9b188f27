//! Whether the data objects that a replay is going to read are there, as far as listings tell. Called by `restore`
//! before it writes anything; what the bytes are is seen when they are read.
//!
//! Invariant: no object is called missing on the word of a listing alone: one that it lacks is asked for by its name.
//! The size that a listing tells of an object is believed.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::{StreamExt as _, TryStreamExt as _, stream};
use lakeferry_api::{ConnectError, Kind, Result};
use object_store::ObjectStoreExt as _;
use object_store::path::Path;

use super::read::Access;
use crate::manifest::model::FileEntry;
use crate::store::explain;

/// Folders that are listed at once.
const PARALLEL_FOLDERS: usize = 8;
/// Objects of a folder that are asked for and named; those behind them are counted.
const MOST_NAMED: usize = 10;

/// What is wrong with the objects of a folder.
#[derive(Debug, Default)]
struct Faults {
    named: Vec<String>,
    /// Those that are not named.
    more: usize,
}

/// Refuses `files` of which an object is missing or has another size than its manifest says. One listing for each
/// folder.
///
/// # Errors
/// `Fatal` with the objects; otherwise as [`explain`].
pub(super) async fn check(access: &Access, files: impl IntoIterator<Item = Arc<FileEntry>>) -> Result<()> {
    let mut folders: BTreeMap<Path, BTreeMap<Path, Arc<FileEntry>>> = BTreeMap::new();
    for file in files {
        let path = access.layout.object(&file.path)?;
        let mut parts: Vec<_> = path.parts().collect();
        parts.pop();
        folders.entry(parts.into_iter().collect()).or_default().insert(path, file);
    }
    let checks = folders.into_iter().map(|(folder, files)| check_folder(access, folder, files));
    let mut checks = stream::iter(checks).buffered(PARALLEL_FOLDERS);
    let mut faults = Faults::default();
    while let Some(found) = checks.try_next().await? {
        found.named.into_iter().for_each(|fault| faults.add(|| fault));
        faults.more += found.more;
    }
    faults.refuse()
}

async fn check_folder(access: &Access, folder: Path, mut files: BTreeMap<Path, Arc<FileEntry>>) -> Result<Faults> {
    let mut faults = Faults::default();
    let mut listed = access.store.list(Some(&folder));
    loop {
        match listed.try_next().await {
            Ok(Some(meta)) => {
                if let Some(file) = files.remove(&meta.location) {
                    faults.check_size(&file, meta.size);
                }
            }
            Ok(None) => break,
            Err(error) => match explain(&format!("list {folder}"), error) {
                // No folder, no objects.
                error if error.kind() == Kind::NotFound => break,
                error => return Err(error),
            },
        }
    }
    for (path, file) in files {
        if faults.is_full() {
            faults.more += 1;
            continue;
        }
        match access.store.head(&path).await {
            Ok(meta) => faults.check_size(&file, meta.size),
            Err(error) => match explain(&format!("look at data object {path}"), error) {
                error if error.kind() == Kind::NotFound => faults.add(|| format!("{} is missing", name(&file))),
                error => return Err(error),
            },
        }
    }
    Ok(faults)
}

impl Faults {
    fn is_full(&self) -> bool {
        self.named.len() >= MOST_NAMED
    }

    fn add(&mut self, fault: impl FnOnce() -> String) {
        if self.is_full() {
            self.more += 1;
        } else {
            self.named.push(fault());
        }
    }

    fn check_size(&mut self, file: &FileEntry, size: u64) {
        let said = file.stored_bytes;
        if size != said {
            self.add(|| format!("{} has {size} bytes, its manifest says {said}", name(file)));
        }
    }

    fn refuse(self) -> Result<()> {
        if self.named.is_empty() {
            return Ok(());
        }
        let more = if self.more > 0 { format!("; {} more", self.more) } else { String::new() };
        Err(ConnectError::fatal(format!(
            "data objects that are to be read are not there as they were archived: {}{more}; nothing was written; run \
             lakeferry verify, and bring them back from a copy or from the bucket's versions, or leave out with \
             replay.offsets what is lost",
            self.named.join("; ")
        )))
    }
}

fn name(file: &FileEntry) -> String {
    format!("{} (offsets {} to {})", file.path, file.first_offset, file.last_offset)
}

#[cfg(test)]
mod tests {
    use lakeferry_api::Budget;
    use object_store::PutPayload;

    use super::*;
    use crate::testing::{TestArchive, row};

    async fn checked(archive: &TestArchive, files: &[FileEntry]) -> Result<()> {
        check(&archive.access(&Budget::new(1 << 20)), files.iter().cloned().map(Arc::new)).await
    }

    #[tokio::test]
    async fn what_is_missing_or_of_another_size_is_named_and_nothing_else_is_asked_for() {
        let mut archive = TestArchive::new();
        let partition = archive.open("orders", 0, 0).await;
        let mut files = Vec::new();
        for file in 0..30 {
            let rows: Vec<_> = (file * 10..file * 10 + 10).map(|offset| row(offset, 1000 + offset)).collect();
            files.push(archive.publish(&partition, &rows, file * 10 + 9).await);
        }
        checked(&archive, &files).await.unwrap();

        let path = |at: usize| archive.layout.object(&files[at].path).unwrap();
        archive.store.delete(&path(1)).await.unwrap();
        archive.store.put(&path(2), PutPayload::from_static(b"short")).await.unwrap();
        let error = checked(&archive, &files).await.unwrap_err();
        let said = files[2].stored_bytes;
        let missing = format!("{} (offsets 10 to 19) is missing", files[1].path);
        let altered = format!("{} (offsets 20 to 29) has 5 bytes, its manifest says {said}", files[2].path);
        assert!(error.message().contains(&missing) && error.message().contains(&altered), "{error}");
        assert!(error.kind() == Kind::Fatal && !error.message().contains("more"), "{error}");
        assert!(!error.message().contains(&files[0].path) && !error.message().contains(&files[3].path), "{error}");
        // Who does not read them does not miss them.
        checked(&archive, &[files[0].clone(), files[3].clone()]).await.unwrap();

        for at in 3..30 {
            archive.store.delete(&path(at)).await.unwrap();
        }
        let error = checked(&archive, &files).await.unwrap_err();
        assert!(error.message().contains("; 19 more; nothing was written"), "{error}");
    }
}
