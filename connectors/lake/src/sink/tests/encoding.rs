//! Batches that are encoded beside the put.

use std::sync::{Arc, Mutex};

use futures::FutureExt;
use lakeferry_api::{Batch, BatchBuilder, Closing, Executor, SinkTask};

use super::rig::{Rig, partition};

/// A pool whose jobs wait until they are let go, like those of one that has much to do.
#[derive(Default)]
struct Busy {
    jobs: Mutex<Vec<Box<dyn FnOnce() + Send>>>,
}

impl Busy {
    /// Does what waits; how many jobs that were.
    fn work(&self) -> usize {
        let jobs = std::mem::take(&mut *self.jobs.lock().unwrap());
        let done = jobs.len();
        jobs.into_iter().for_each(|job| job());
        done
    }

    /// Works, and lets time pass, until `what` is done.
    async fn serve<T>(&self, rig: &Rig, what: impl Future<Output = T>) -> T {
        let working = async {
            loop {
                tokio::task::yield_now().await;
                rig.clock.advance(10);
                self.work();
            }
        };
        tokio::select! {
            biased;
            done = what => done,
            () = working => unreachable!("it works for ever"),
        }
    }
}

impl Executor for Busy {
    fn execute(&self, job: Box<dyn FnOnce() + Send>) {
        self.jobs.lock().unwrap().push(job);
    }
}

/// One record, too large to be encoded where it is.
fn large(offset: i64) -> Batch {
    let mut builder = BatchBuilder::new(partition(0), offset);
    let value: Vec<u8> = (0..50_000_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    builder.push(offset, (offset, None), None, Some(&value));
    builder.build(offset + 1)
}

#[tokio::test]
async fn a_put_waits_for_the_batch_before_it_and_not_for_its_own() {
    let (mut rig, pool) = (Rig::new(&[]), Arc::new(Busy::default()));
    rig.pool = Arc::clone(&pool) as Arc<dyn Executor>;
    let mut writer = rig.writer(1);
    writer.open().await;
    let (first, second) = ([large(0)], [large(1)]);
    writer.task.put(&first).now_or_never().expect("a put waits for what it brings").unwrap();
    tokio::task::yield_now().await;
    {
        let mut put = Box::pin(writer.task.put(&second));
        assert!(put.as_mut().now_or_never().is_none(), "a file has two batches at work");
        assert_eq!(pool.work(), 1);
        put.await.unwrap();
    }
    let closed = pool.serve(&rig, writer.task.close(&[partition(0)], Closing::Revoked)).await.unwrap();
    assert_eq!(closed[&partition(0)], 2);
    assert_eq!(rig.spans().await, [(0, 1, 2)]);
}

#[tokio::test]
async fn files_end_at_the_same_records_however_long_encoding_takes() {
    let mut spans = Vec::new();
    for known_at_once in [true, false] {
        let (mut rig, pool) = (Rig::new(&[("rotate.bytes", "1048576"), ("codec", "none")]), Arc::new(Busy::default()));
        rig.pool = Arc::clone(&pool) as Arc<dyn Executor>;
        let mut writer = rig.writer(1);
        writer.open().await;
        for offset in 0..100 {
            pool.serve(&rig, writer.task.put(&[large(offset)])).await.unwrap();
            if known_at_once {
                pool.serve(&rig, async {
                    writer.tick().await.unwrap();
                    writer.tick().await.unwrap();
                })
                .await;
            }
        }
        pool.serve(&rig, writer.task.close(&[partition(0)], Closing::Revoked)).await.unwrap();
        spans.push(rig.spans().await);
    }
    assert!(spans[0].len() > 3 && spans[0] == spans[1], "{spans:?}");
}
