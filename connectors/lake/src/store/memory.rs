//! `memory:///name`: for tests. Every opening of one URL in a process sees the same objects, so that a sink and a
//! source can meet there.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use lakeferry_api::Result;
use object_store::memory::InMemory;
use url::Url;

use super::leftovers::Leftovers;
use super::{Opened, unknown_option};

static STORES: Mutex<BTreeMap<String, Arc<InMemory>>> = Mutex::new(BTreeMap::new());

/// Opens the store called `url`, an empty one the first time.
///
/// # Errors
/// `Config` where there are options.
pub(super) fn open(url: &Url, options: &BTreeMap<String, String>) -> Result<Opened> {
    if let Some(option) = options.keys().next() {
        return Err(unknown_option("memory", option));
    }
    let mut stores = STORES.lock().unwrap_or_else(PoisonError::into_inner);
    let store = Arc::clone(stores.entry(url.as_str().trim_end_matches('/').to_owned()).or_default());
    Ok(Opened { store, leftovers: Leftovers::default() })
}
