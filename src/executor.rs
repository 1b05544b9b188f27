//! The encode pool: a few named threads for work above 500 microseconds, so that no runtime thread is held by
//! compression or hashing. Sized by the assembly (one thread a core). A job that panics is logged and its waiter told;
//! the thread goes on. The queue is bounded (A7): where it is full, whoever brings a job waits.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use lakeferry_api::error::Context as _;
use lakeferry_api::{Executor, Kind, Result};

use crate::spawn::panic_message;

type Job = Box<dyn FnOnce() + Send>;

/// Jobs that may wait for a thread.
const QUEUE: usize = 1024;

/// Threads that run jobs. They end when the pool is dropped and its queue is empty.
#[derive(Debug)]
pub struct Pool {
    jobs: SyncSender<Job>,
}

impl Pool {
    /// A pool of `threads` threads, at least one.
    ///
    /// # Errors
    /// `Fatal` where the system gives no thread.
    pub fn new(threads: usize) -> Result<Self> {
        let (jobs, queue) = sync_channel(QUEUE);
        let queue = Arc::new(Mutex::new(queue));
        for index in 0..threads.max(1) {
            let queue = Arc::clone(&queue);
            std::thread::Builder::new()
                .name(format!("encode-{index}"))
                .spawn(move || work(&queue))
                .context(Kind::Fatal, || format!("cannot start thread {index} of the encode pool"))?;
        }
        Ok(Self { jobs })
    }
}

impl Executor for Pool {
    fn execute(&self, job: Job) {
        if self.jobs.send(job).is_err() {
            tracing::error!("the encode pool has no thread left; a job is dropped");
        }
    }
}

fn work(queue: &Mutex<Receiver<Job>>) {
    loop {
        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = next else { return };
        if let Err(panic) = catch_unwind(AssertUnwindSafe(job)) {
            tracing::error!(message = panic_message(panic.as_ref()), "a job of the encode pool panicked");
        }
    }
}

#[cfg(test)]
mod tests {
    use lakeferry_api::executor::run;

    use super::*;

    #[tokio::test]
    async fn runs_jobs_and_survives_a_panic() {
        let pool = Pool::new(2).unwrap();
        let answers = futures::future::join_all((0..50).map(|number| run(&pool, move || number * 2))).await;
        assert_eq!(answers.into_iter().map(Result::unwrap).sum::<i32>(), 2450);

        let panicked = run(&pool, || assert_eq!(1, 2, "on purpose")).await.unwrap_err();
        assert_eq!(panicked.kind(), Kind::Fatal);
        assert_eq!(run(&pool, || std::thread::current().name().unwrap().to_owned()).await.unwrap().len(), 8);
    }
}
