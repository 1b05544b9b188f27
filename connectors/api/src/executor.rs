//! Where work above 500 microseconds runs (encoding, hashing, decoding): a pool of threads in the worker, inline in
//! the simulator. Of what has to stay in order (the batches of a file, say) a job awaits the one before.

use futures_channel::oneshot;

use crate::error::{ConnectError, Result};

/// Runs a job somewhere that may block.
pub trait Executor: Send + Sync {
    /// Starts `job`; it is run exactly once, unless the process is going down. Never waits: a runtime thread calls it.
    fn execute(&self, job: Box<dyn FnOnce() + Send>);
}

/// Runs `job` on `executor` and waits for what it returns.
///
/// # Errors
/// `Fatal` where the job panicked or the pool is gone.
pub async fn run<T: Send + 'static>(executor: &dyn Executor, job: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    let (done, result) = oneshot::channel();
    executor.execute(Box::new(move || {
        // The receiver is gone only where the task was aborted: nobody wants the result any more.
        let _ = done.send(job());
    }));
    result.await.map_err(|_| ConnectError::fatal("a job of the encode pool panicked; the log has its message"))
}

/// Runs every job at once on the caller's thread: for tests and the simulator.
pub struct Inline;

impl Executor for Inline {
    fn execute(&self, job: Box<dyn FnOnce() + Send>) {
        job();
    }
}
