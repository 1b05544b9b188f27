//! The encode pool: a few named threads for work above 500 microseconds, so that no runtime thread is held by
//! compression or hashing. Sized by the assembly (one thread a core). A job that panics is logged and its waiter told;
//! the thread goes on.
//!
//! Whoever brings a job never waits for a place, or a runtime thread would stand still: it waits for the job's answer
//! ([`run`](lakeferry_api::executor::run)). So the queue is as long as there are files and readers that wait, and what
//! their jobs hold is paid from the byte budget (A7), in the queue as anywhere else.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use lakeferry_api::error::Context as _;
use lakeferry_api::{Executor, Kind, Result};

use crate::spawn::panic_message;

type Job = Box<dyn FnOnce() + Send>;

/// Threads that run jobs. They end when the pool is dropped and its queue is empty.
#[derive(Debug)]
pub struct Pool {
    queue: Arc<Queue>,
}

/// Jobs that wait for a thread, the oldest first.
#[derive(Default)]
struct Queue {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Default)]
struct Waiting {
    jobs: VecDeque<Job>,
    /// The pool was dropped: no job comes any more.
    closed: bool,
}

impl Pool {
    /// A pool of `threads` threads, at least one.
    ///
    /// # Errors
    /// `Fatal` where the system gives no thread.
    pub fn new(threads: usize) -> Result<Self> {
        // Where one thread cannot be started, those before it end with the pool that is dropped.
        let pool = Self { queue: Arc::default() };
        for index in 0..threads.max(1) {
            let queue = Arc::clone(&pool.queue);
            std::thread::Builder::new()
                .name(format!("encode-{index}"))
                .spawn(move || work(&queue))
                .context(Kind::Fatal, || format!("cannot start thread {index} of the encode pool"))?;
        }
        Ok(pool)
    }
}

impl Executor for Pool {
    fn execute(&self, job: Job) {
        self.queue.lock().jobs.push_back(job);
        self.queue.changed.notify_one();
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.queue.lock().closed = true;
        self.queue.changed.notify_all();
    }
}

impl Queue {
    /// The oldest job, as soon as there is one; `None` once none can come.
    fn next(&self) -> Option<Job> {
        let idle = |waiting: &mut Waiting| waiting.jobs.is_empty() && !waiting.closed;
        let waiting = self.changed.wait_while(self.lock(), idle);
        waiting.unwrap_or_else(PoisonError::into_inner).jobs.pop_front()
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue").field("jobs", &self.lock().jobs.len()).finish_non_exhaustive()
    }
}

fn work(queue: &Queue) {
    while let Some(job) = queue.next() {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(job)) {
            tracing::error!(message = panic_message(panic.as_ref()), "a job of the encode pool panicked");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
    use std::time::Duration;

    use lakeferry_api::executor::run;

    use super::*;

    /// How long a test waits for other threads before it fails.
    const DEADLINE: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn runs_jobs_and_survives_a_panic() {
        let pool = Pool::new(2).unwrap();
        let answers = futures::future::join_all((0..50).map(|number| run(&pool, move || number * 2))).await;
        assert_eq!(answers.into_iter().map(Result::unwrap).sum::<i32>(), 2450);

        let panicked = run(&pool, || assert_eq!(1, 2, "on purpose")).await.unwrap_err();
        assert_eq!(panicked.kind(), Kind::Fatal);
        assert_eq!(run(&pool, || std::thread::current().name().unwrap().to_owned()).await.unwrap().len(), 8);
    }

    #[test]
    fn whoever_brings_a_job_does_not_wait_for_a_place() {
        let (pool, ran) = (Pool::new(1).unwrap(), Arc::new(AtomicUsize::new(0)));
        let (open_gate, gate) = sync_channel::<()>(0);
        pool.execute(Box::new(move || {
            let _ = gate.recv();
        }));
        let (tell, told) = sync_channel(2);
        let (tell_end, counts) = (tell.clone(), Arc::clone(&ran));
        let bringing = std::thread::spawn(move || {
            for _ in 0..10_000 {
                let ran = Arc::clone(&counts);
                pool.execute(Box::new(move || {
                    ran.fetch_add(1, Ordering::SeqCst);
                }));
            }
            let _ = tell.send("all are brought");
            pool.execute(Box::new(move || {
                let _ = tell_end.send("all are done");
            }));
        });
        let brought = told.recv_timeout(DEADLINE);
        drop(open_gate);
        assert_eq!(brought, Ok("all are brought"), "a thread that brings jobs stands still while the pool is busy");
        bringing.join().unwrap();
        assert_eq!(told.recv_timeout(DEADLINE), Ok("all are done"), "what waits when the pool is dropped is done");
        assert_eq!(ran.load(Ordering::SeqCst), 10_000);
    }

    #[test]
    fn threads_end_with_the_pool() {
        thread_local! {
            static ALIVE: RefCell<Option<SyncSender<()>>> = const { RefCell::new(None) };
        }
        let (pool, all_at_work) = (Pool::new(3).unwrap(), Arc::new(Barrier::new(3)));
        let (alive, told) = sync_channel(1);
        for _ in 0..3 {
            let (alive, all_at_work) = (alive.clone(), Arc::clone(&all_at_work));
            pool.execute(Box::new(move || {
                ALIVE.set(Some(alive));
                all_at_work.wait();
            }));
        }
        drop((pool, alive));
        assert_eq!(told.recv_timeout(DEADLINE), Err(RecvTimeoutError::Disconnected), "a thread outlives its pool");
    }
}
