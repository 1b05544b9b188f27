//! The uploads in parts that were begun and have not ended, which no listing of objects shows: what the store knows of
//! them, and what a sweep is told. One that has ended is none any more, for its writer neither.
//!
//! The law that is checked here, by names and entries alone: a sweep ends no upload whose epoch may still publish it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use futures::FutureExt as _;
use lakeferry_api::ConnectError;
use lakeferry_lake::store::leftovers::{Leftovers, OpenUpload, OpenUploads};
use object_store::path::Path;
use object_store::{Error, Result};

use super::SimStore;
use super::client::Client;

#[derive(Default)]
pub(super) struct Uploads {
    open: BTreeMap<u64, Path>,
    begun: u64,
}

impl SimStore {
    /// An upload begins; its id.
    pub(super) fn begin_upload(&self, path: Path) -> u64 {
        let mut uploads = self.uploads.lock().unwrap();
        uploads.begun += 1;
        let id = uploads.begun;
        uploads.open.insert(id, path);
        id
    }

    /// An upload is completed or aborted.
    pub(super) fn end_upload(&self, id: u64) {
        self.uploads.lock().unwrap().open.remove(&id);
    }

    /// As S3 answers where there is no such upload.
    pub(super) fn check_upload(&self, id: u64, path: &Path) -> Result<()> {
        if self.uploads.lock().unwrap().open.contains_key(&id) {
            return Ok(());
        }
        Err(Error::NotFound { path: path.to_string(), source: "NoSuchUpload".into() })
    }

    /// Uploads and objects that no sweep may leave once every writer is gone: no entry names them, and their epoch is
    /// below their chain's end.
    pub(crate) async fn left_behind(&self) -> Vec<String> {
        let objects = self.snapshot().await.into_keys().filter(|path| !path.contains("/_manifests/"));
        let uploads: Vec<_> = self.uploads.lock().unwrap().open.values().map(ToString::to_string).collect();
        let books = self.books.lock().unwrap();
        let unnamed = objects.filter(|path| !books.named.contains(path)).chain(uploads);
        unnamed.filter(|path| books.is_over(path)).collect()
    }

    fn sweep_upload(&self, id: u64, path: &Path) {
        if !self.books.lock().unwrap().is_over(path.as_ref()) {
            self.diary.accuse(format!("the upload of {path} is swept away while its epoch may publish it"));
        }
        self.end_upload(id);
    }
}

impl super::Books {
    /// True where a data object's name has an epoch that its chain's end has left behind.
    fn is_over(&self, path: &str) -> bool {
        let Some((folder, name)) = path.rsplit_once('/') else { return false };
        let epoch = name.split('-').nth(1).and_then(|epoch| epoch.parse::<u64>().ok());
        let chain = folder.replace("/partition=", "/_manifests/partition=");
        epoch.zip(self.epochs.get(&chain)).is_some_and(|(epoch, end)| epoch < *end)
    }
}

/// What a sweep that asks by `client` is shown.
pub(super) fn leftovers(client: Client) -> Leftovers {
    Leftovers { uploads: Some(Arc::new(Shown(client))), staging: None }
}

struct Shown(Client);

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[async_trait]
impl OpenUploads for Shown {
    async fn list(&self, folder: &Path) -> lakeferry_api::Result<Vec<OpenUpload>> {
        let below = folder.clone();
        let listed = self.0.request(format!("lists uploads of {folder}"), None, move |store| {
            async move {
                let uploads = store.uploads.lock().unwrap();
                let of_folder = uploads.open.iter().filter(|(_, path)| path.prefix_matches(&below));
                let shown = |(id, path): (&u64, &Path)| OpenUpload {
                    path: path.clone(),
                    id: id.to_string(),
                    begun_at: String::new(),
                };
                Ok(of_folder.map(shown).collect())
            }
            .boxed()
        });
        listed.await.map_err(failed)
    }

    async fn abort(&self, upload: &OpenUpload) -> lakeferry_api::Result<()> {
        let OpenUpload { path, id, .. } = upload.clone();
        let aborted = self.0.request(format!("sweeps the upload of {path}"), None, move |store| {
            async move {
                store.sweep_upload(id.parse().unwrap_or_default(), &path);
                Ok(())
            }
            .boxed()
        });
        aborted.await.map_err(failed)
    }
}

fn failed(error: Error) -> ConnectError {
    ConnectError::retriable("the store did not answer").caused_by(error)
}
