//! How far an archive has come, as its manifests say: read in the lake's own folder, so that looking costs the worker
//! nothing. The group's committed offsets say the same up to `offset.flush.interval.ms` later.

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::archive::Lake;
use crate::data::Topic;

/// So often it is looked: what a wall clock is wrong by, at the most.
const LOOK: Duration = Duration::from_millis(20);
const LIMIT: Duration = Duration::from_secs(900);

/// The manifests of a topic's partitions.
pub(crate) struct Chains {
    chains: Vec<Chain>,
    records_each: u64,
}

struct Chain {
    folder: PathBuf,
    newest: OsString,
    /// The smallest offset that is not in the lake yet.
    resume: u64,
}

impl Chains {
    pub(crate) fn of(topic: &Topic, lake: &Lake) -> Chains {
        let manifests = lake.root.join("topics").join(&topic.name).join("_manifests");
        let chain = |partition| Chain {
            folder: manifests.join(format!("partition={partition}")),
            newest: OsString::new(),
            resume: 0,
        };
        Chains { chains: (0..topic.partitions).map(chain).collect(), records_each: topic.records_each }
    }

    /// Whether every record is in the lake.
    pub(crate) fn are_whole(&mut self) -> bool {
        let whole = self.records_each;
        self.all(whole)
    }

    /// Whether each partition has a record in the lake.
    pub(crate) fn have_begun(&mut self) -> bool {
        self.all(1)
    }

    /// Returns once every record is in the lake.
    pub(crate) fn wait(&mut self) -> Result<()> {
        let begin = Instant::now();
        while !self.are_whole() {
            let behind = self.chains.iter().filter(|chain| chain.resume < self.records_each).count();
            ensure!(begin.elapsed() < LIMIT, "{behind} partitions are not in the lake as a whole within {LIMIT:?}");
            std::thread::sleep(LOOK);
        }
        Ok(())
    }

    fn all(&mut self, records: u64) -> bool {
        self.chains.iter_mut().all(|chain| chain.reaches(records))
    }
}

impl Chain {
    /// Whether the newest entry says so. One that is being written says nothing yet.
    fn reaches(&mut self, records: u64) -> bool {
        if self.resume < records
            && let Some((newest, resume)) = self.read()
        {
            (self.newest, self.resume) = (newest, resume);
        }
        self.resume >= records
    }

    /// The newest entry, where it is another than before.
    fn read(&self) -> Option<(OsString, u64)> {
        let names = fs::read_dir(&self.folder).ok()?.filter_map(|entry| Some(entry.ok()?.file_name()));
        // Names are numbers of one width.
        let newest = names.filter(|name| name.to_string_lossy().ends_with(".json")).max()?;
        if newest == self.newest {
            return None;
        }
        let entry: Value = serde_json::from_slice(&fs::read(self.folder.join(&newest)).ok()?).ok()?;
        Some((newest, entry["resume_offset"].as_u64()?))
    }
}
