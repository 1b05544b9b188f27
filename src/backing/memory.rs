//! Connect's memory without persistence: for tests, the simulator and embedded workers.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use lakeferry_api::{Result, SourceOffset, SourcePartition};

use super::{OffsetLog, SourceOffsets};

/// Source offsets that are gone with the process.
#[derive(Debug, Default)]
pub struct MemoryOffsetLog {
    offsets_by_connector: Mutex<BTreeMap<String, SourceOffsets>>,
}

impl MemoryOffsetLog {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, SourceOffsets>> {
        self.offsets_by_connector.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl OffsetLog for MemoryOffsetLog {
    async fn get(&self, connector: &str, partition: &SourcePartition) -> Result<Option<SourceOffset>> {
        Ok(self.lock().get(connector).and_then(|offsets| offsets.get(partition)).cloned())
    }

    async fn all(&self, connector: &str) -> Result<SourceOffsets> {
        Ok(self.lock().get(connector).cloned().unwrap_or_default())
    }

    async fn put(&self, connector: &str, offsets: &[(SourcePartition, Option<SourceOffset>)]) -> Result<()> {
        let mut all = self.lock();
        let of_connector = all.entry(connector.to_owned()).or_default();
        for (partition, offset) in offsets {
            match offset {
                Some(offset) => of_connector.insert(partition.clone(), offset.clone()),
                None => of_connector.remove(partition),
            };
        }
        Ok(())
    }
}
