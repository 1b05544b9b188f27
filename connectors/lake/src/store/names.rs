//! Objects found by how their names begin, where a store has that (S3): a folder that others have filled need not be
//! listed to its end.
//!
//! Invariant: that no name begins in some way is believed only of a store that finds, by the same way, a name that is
//! there: one that knows no more than folders finds nothing, whatever there is.

use std::fmt::Debug;

use async_trait::async_trait;
use object_store::Result;
use object_store::aws::AmazonS3;
use object_store::list::{PaginatedListOptions, PaginatedListStore as _};
use object_store::path::Path;

/// The names of a store.
#[async_trait]
pub trait Names: Debug + Send + Sync {
    /// A page of the objects below `folder` whose path behind it begins with `start`: the first, or that which another
    /// page named as its `next`.
    ///
    /// # Errors
    /// As the store says.
    async fn page(&self, folder: &Path, start: &str, next: Option<String>) -> Result<Page>;
}

/// Some of the objects that were asked for.
#[derive(Debug, Default)]
pub struct Page {
    /// Where they lie.
    pub paths: Vec<Path>,
    /// What to ask for the rest with, where there is more.
    pub next: Option<String>,
}

/// What came of a search.
#[derive(Debug, PartialEq)]
pub(crate) enum Found {
    /// An object that is wanted.
    One(Path),
    /// There is none.
    Nothing,
    /// The store does not tell.
    Unknown,
}

/// Looks below `folder` for an object that is `wanted` and whose name begins with `start`; `known` is there.
pub(crate) async fn find(
    names: &dyn Names,
    folder: &Path,
    start: &str,
    known: &Path,
    wanted: impl Fn(&Path) -> bool,
) -> Result<Found> {
    let (mut next, mut tells) = (None, false);
    loop {
        let page = names.page(folder, start, next).await?;
        if let Some(found) = page.paths.iter().find(|path| wanted(path)) {
            return Ok(Found::One(found.clone()));
        }
        tells |= page.paths.iter().any(|path| begins(path, folder, start));
        next = page.next;
        if next.is_none() {
            break;
        }
    }
    if !tells {
        let first: String = name(known, folder).unwrap_or_default().chars().take(1).collect();
        let page = names.page(folder, &first, None).await?;
        tells = page.paths.iter().any(|path| begins(path, folder, &first));
    }
    Ok(if tells { Found::Nothing } else { Found::Unknown })
}

/// True where the path goes on behind `folder` with a name that `start` is a part of, and not the whole: that would be
/// found by its folder, too.
fn begins(path: &Path, folder: &Path, start: &str) -> bool {
    let rest = name(path, folder).and_then(|name| name.strip_prefix(start));
    !start.is_empty() && rest.is_some_and(|rest| !rest.is_empty())
}

/// What comes next behind `folder`.
fn name<'p>(path: &'p Path, folder: &Path) -> Option<&'p str> {
    path.as_ref().strip_prefix(folder.as_ref())?.strip_prefix('/')?.split('/').next()
}

/// Those of a bucket.
#[derive(Debug)]
pub(super) struct S3Names {
    store: AmazonS3,
    /// Where paths begin in the bucket.
    root: Path,
}

impl S3Names {
    pub(super) fn new(store: AmazonS3, root: Path) -> Self {
        Self { store, root }
    }
}

#[async_trait]
impl Names for S3Names {
    async fn page(&self, folder: &Path, start: &str, next: Option<String>) -> Result<Page> {
        let below: Path = self.root.parts().chain(folder.parts()).collect();
        let options = PaginatedListOptions { page_token: next, ..PaginatedListOptions::default() };
        let answer = self.store.list_paginated(Some(&format!("{below}/{start}")), options).await?;
        let relative = |path: Path| Some(path.prefix_match(&self.root)?.collect());
        let paths = answer.result.objects.into_iter().filter_map(|meta| relative(meta.location)).collect();
        Ok(Page { paths, next: answer.page_token })
    }
}
