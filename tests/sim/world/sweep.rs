//! Somebody sweeps while the others live on: beside a file whose entry is late, behind a worker that died with a file
//! half stored, and once more when everybody is gone. What a sweep may take is judged at the store, while it takes it;
//! what it must take is looked for in the end.

use std::sync::Arc;

use lakeferry_api::Clock as _;
use lakeferry_lake::layout::Layout;
use lakeferry_lake::manifest::ManifestStore;
use lakeferry_lake::manifest::read::Archive;
use lakeferry_lake::sweep::{Sweep, Swept};

use super::{LARGE_BYTES, World};
use crate::awaits::{Blow, Stretch, Trap};
use crate::clock;
use crate::plan::Step;
use crate::store::{Accident, Point, spawn};

/// The records of a file that is stored in parts.
const OF_LARGE_FILE: u64 = 7;
/// By then a dead process is out of the group, and another one has begun.
const TAKEN_OVER_MS: u64 = 30_000;
/// By then everything that was on its way has landed.
const LANDED_MS: u64 = 70_000;

impl World {
    pub(super) async fn sweep_beside(&mut self, partition: u64) {
        if partition.is_multiple_of(2) {
            self.abandon_upload(partition).await;
        } else {
            self.delay_entry(partition).await;
        }
        let sweep = self.sweep();
        spawn(sweep);
    }

    /// A file is stored and its entry is not yet.
    async fn delay_entry(&mut self, partition: u64) {
        let Some((partition, owner)) = self.owned(partition) else { return };
        self.store.arrange(&owner, Point::BeforeManifest, Accident::Late { for_ms: 8_000 });
        self.produce(&partition, self.plan.settings.flush_size + 1);
        self.pass(3_000).await;
    }

    /// A worker dies with an upload half done, and the partition goes on under the next epoch.
    async fn abandon_upload(&mut self, partition: u64) {
        let Some((partition, owner)) = self.owned(partition) else { return };
        let Some(worker) = self.workers.iter().find(|worker| worker.name == owner) else { return };
        worker.process.set_trap(Trap::new(Stretch::Asks("puts a part of data"), 2, Blow::Crash));
        let records = (0..OF_LARGE_FILE).map(|_| self.record(&partition, LARGE_BYTES)).collect();
        self.broker.produce(&partition, records, None);
        self.pass(TAKEN_OVER_MS).await;
        self.produce(&partition, self.plan.settings.flush_size + 1);
        self.pass(3_000).await;
    }

    /// When everybody is gone, a sweep leaves nothing that nobody can publish any more. In the runs that sweep at all:
    /// what a restore finds beside an archive is to be there in the others.
    pub(super) async fn tidy_up(&mut self) {
        let sweeps = self.plan.steps.iter().any(|(_, step)| matches!(step, Step::Sweep { .. }));
        if !sweeps || self.diary.broken().is_some() {
            return;
        }
        self.clock.wait(LANDED_MS).await;
        self.sweep().await;
        for path in self.store.left_behind().await {
            self.diary.accuse(format!("the sweep leaves {path}, which nobody can publish any more"));
        }
    }

    /// Somebody removes what dead writers left.
    fn sweep(&self) -> impl Future<Output = ()> + Send + use<> {
        let process = Arc::default();
        let (store, leftovers) = (self.store.client("sweeper", &process), self.store.leftovers("sweeper", &process));
        let clock = Arc::new(clock::Shared(Arc::clone(&self.clock)));
        let archive = Archive::new(ManifestStore::new(store, Layout::new("topics").unwrap(), clock.clone()));
        let diary = self.diary.clone();
        async move {
            let mut swept = Swept::default();
            let outcome = match archive.topics().await {
                Ok(topics) => {
                    let sweep =
                        Sweep { archive: &archive, leftovers: &leftovers, now_ms: clock.now_ms(), dry_run: false };
                    sweep.run(&topics, true, &mut swept).await
                }
                Err(error) => Err(error),
            };
            let gone = swept.removed.len();
            diary.note(format!("the sweep removed {gone}: {:?}", outcome.map_err(|error| error.trace())));
        }
    }
}
