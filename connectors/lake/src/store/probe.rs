//! Asks a store, once at the start of a task, whether it is there and keeps the one promise that archives stand on: a
//! name that was created cannot be created again.
//!
//! The object it writes is called so that lake engines skip it, and is removed. Nothing is written while a task runs.

use std::sync::Arc;

use futures::TryStreamExt;
use lakeferry_api::{ConnectError, Result};
use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt, PutMode};

use super::error::explain;
use crate::layout::Layout;

/// How often a store that gave a wrong answer has to give the right one.
const ASKED_AGAIN: u128 = 5;

/// Writes, writes again, reads and removes `<topics.dir>/.probe-<id>`; `id` must never have been used. Where the store
/// seems not to keep the promise it is asked some more times, under other names, and has to keep it each time: one odd
/// answer (of a store that restarts, say) must not end a task for good, and one of two gateways that ignores the
/// condition is found.
///
/// # Errors
/// `Config` where the bucket, the rights or the promise are missing; `Retriable` where the store does not answer.
pub async fn probe(store: &Arc<dyn ObjectStore>, layout: &Layout, id: u128) -> Result<()> {
    let path = layout.probe(id);
    let Some(what) = ask(&**store, &path).await? else { return Ok(()) };
    tracing::warn!(%path, what, "the store does not create objects conditionally, so it seems; it is asked again");
    for nth in 0..ASKED_AGAIN {
        let path = layout.probe(!id ^ nth);
        if let Some(what) = ask(&**store, &path).await? {
            return Err(unconditional(&path, what));
        }
    }
    Ok(())
}

/// How the store broke the promise with the object at `path`, if it did. It is removed whatever came of it.
async fn ask(store: &dyn ObjectStore, path: &Path) -> Result<Option<&'static str>> {
    let promise = check(store, path).await;
    match store.delete(path).await {
        Ok(()) | Err(Error::NotFound { .. }) => {}
        Err(error) if matches!(promise, Ok(None)) => return Err(explain(&format!("delete {path}"), error)),
        Err(error) => tracing::debug!(%path, %error, "the probe was not removed"),
    }
    promise
}

async fn check(store: &dyn ObjectStore, path: &Path) -> Result<Option<&'static str>> {
    let (first, second) = ("first", "second");
    match store.put_opts(path, first.into(), PutMode::Create.into()).await {
        // Ours: nobody else knows the name. A reply was lost and the request sent again.
        Ok(_) | Err(Error::AlreadyExists { .. }) => {}
        Err(error) => return Err(explain(&format!("write {path}"), error)),
    }
    match store.put_opts(path, second.into(), PutMode::Create.into()).await {
        Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => {}
        Ok(_) => return Ok(Some("it created one object twice")),
        Err(error) => return Err(explain(&format!("write {path}"), error)),
    }
    let doing = || format!("read {path}");
    let found = store.get(path).await.map_err(|error| explain(&doing(), error))?;
    let found = found.bytes().await.map_err(|error| explain(&doing(), error))?;
    if found != first {
        return Ok(Some("it overwrote an object that was to be created only if absent"));
    }
    // A listing is needed later; without the right to it, better to learn of it now.
    let listed = store.list(Some(path)).try_next().await;
    listed.map_err(|error| explain(&format!("list {path}"), error))?;
    Ok(None)
}

fn unconditional(path: &Path, what: &str) -> ConnectError {
    ConnectError::config(format!(
        "the store at store.url does not create objects conditionally, and more than once: {what} ({path}). Two writers could \
         overwrite each other's manifests there. Use a store, or a version of it, that honours If-None-Match on PUT"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing::{Fault, Faulty};

    async fn probed(fault: Option<Fault>) -> (Result<()>, Vec<String>) {
        let faulty = Arc::new(Faulty::default());
        faulty.always(fault);
        probed_at(faulty).await
    }

    async fn probed_at(faulty: Arc<Faulty>) -> (Result<()>, Vec<String>) {
        let store: Arc<dyn ObjectStore> = Arc::clone(&faulty) as _;
        let result = probe(&store, &Layout::new("topics").unwrap(), 7).await;
        (result, faulty.names().await)
    }

    #[tokio::test]
    async fn a_store_that_keeps_its_promise_passes_and_stays_clean() {
        let (result, left) = probed(None).await;
        result.unwrap();
        assert!(left.is_empty(), "{left:?}");
    }

    #[tokio::test]
    async fn a_store_that_ignores_conditions_is_refused_and_stays_clean() {
        let (result, left) = probed(Some(Fault::IgnoresConditions)).await;
        let error = result.unwrap_err();
        assert_eq!(error.kind(), lakeferry_api::Kind::Config);
        assert!(error.message().contains("topics/.probe-"), "{error}");
        assert!(left.is_empty(), "{left:?}");
    }

    #[tokio::test]
    async fn a_store_that_lies_once_is_asked_again_and_one_that_lies_again_is_refused() {
        let lies = |lies: [bool; 4]| {
            let faulty = Arc::new(Faulty::default());
            faulty.next(lies.map(|lie| lie.then_some(Fault::IgnoresConditions)));
            probed_at(faulty)
        };
        let (result, left) = lies([false, true, false, false]).await;
        result.unwrap();
        assert!(left.is_empty(), "{left:?}");
        let (result, left) = lies([false, true, false, true]).await;
        assert_eq!(result.unwrap_err().kind(), lakeferry_api::Kind::Config);
        assert!(left.is_empty(), "{left:?}");
    }

    #[tokio::test]
    async fn a_store_that_answers_late_passes() {
        let (result, left) = probed(Some(Fault::SendsTwice)).await;
        result.unwrap();
        assert!(left.is_empty(), "{left:?}");
    }

    #[tokio::test]
    async fn a_store_that_does_not_answer_is_retriable() {
        let (result, _) = probed(Some(Fault::Refuses)).await;
        assert!(result.unwrap_err().is_retriable());
    }
}
