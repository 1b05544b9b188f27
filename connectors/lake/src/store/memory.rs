//! `memory:///name`: for tests. Every opening of one URL in a process sees the same objects, so that a sink and a
//! source can meet there; a simulator may put a store of its own in that place.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use lakeferry_api::Result;
use object_store::ObjectStore;
use object_store::memory::InMemory;
use url::Url;

use super::leftovers::Leftovers;
use super::{Opened, Refusal, no_options};

static STORES: Mutex<BTreeMap<String, Arc<dyn ObjectStore>>> = Mutex::new(BTreeMap::new());

/// Opens the store called `url`, an empty one the first time.
///
/// # Errors
/// `Config` where there are options.
pub(super) fn open(url: &Url, options: &BTreeMap<String, String>) -> Result<Opened> {
    no_options("memory", options).map_err(Refusal::into_error)?;
    let mut stores = STORES.lock().unwrap_or_else(PoisonError::into_inner);
    let store = stores.entry(name(url.as_str())).or_insert_with(|| Arc::new(InMemory::new()));
    Ok(Opened { store: Arc::clone(store), leftovers: Leftovers::default(), names: None })
}

/// From now on `url` (`memory:///name`) opens `store`; `None`: an empty one again.
pub fn place(url: &str, store: Option<Arc<dyn ObjectStore>>) {
    let mut stores = STORES.lock().unwrap_or_else(PoisonError::into_inner);
    match store {
        Some(store) => drop(stores.insert(name(url), store)),
        None => drop(stores.remove(&name(url))),
    }
}

fn name(url: &str) -> String {
    url.trim_end_matches('/').to_owned()
}
