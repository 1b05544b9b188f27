//! One simulated process: everything that it spawns is polled only while it lives and is not stopped, so a crash takes
//! all of it at once between two awaits, and a stopped process comes back where it stood.
//!
//! Whoever spawns passes the future through [`inherit`]; without the feature that is the future itself.

#[cfg(not(feature = "simulation"))]
pub use plain::inherit;
#[cfg(feature = "simulation")]
pub use simulated::{Host, Hosted, Leave, enter, inherit};

#[cfg(not(feature = "simulation"))]
mod plain {
    /// `future`, as it is.
    pub fn inherit<F>(future: F) -> F {
        future
    }
}

#[cfg(feature = "simulation")]
mod simulated {
    use std::cell::RefCell;
    use std::future::Future;
    use std::pin::Pin;
    use std::sync::Arc;
    use std::task::{Context, Poll, Waker};

    thread_local! {
        static PRESENT: RefCell<Option<Arc<dyn Host>>> = const { RefCell::new(None) };
    }

    /// Decides what becomes of the futures of one simulated process.
    pub trait Host: Send + Sync {
        /// True where they run now. Otherwise `waker` is to be woken when that changes.
        fn runs(&self, waker: &Waker) -> bool;
        /// True where they never run again.
        fn is_dead(&self) -> bool;
        /// One of them has run and waits at an await now. Whatever the host decides here happens at just that await.
        fn waits(&self);
    }

    /// Ends what [`enter`] began.
    pub struct Leave(Option<Arc<dyn Host>>);

    impl Drop for Leave {
        fn drop(&mut self) {
            PRESENT.with(|present| *present.borrow_mut() = self.0.take());
        }
    }

    /// What is spawned until the result is dropped belongs to `host`.
    pub fn enter(host: Arc<dyn Host>) -> Leave {
        Leave(PRESENT.with(|present| present.borrow_mut().replace(host)))
    }

    /// `future` as a part of the process that spawns it.
    pub fn inherit<F: Future>(future: F) -> Hosted<F> {
        Hosted { future: Some(Box::pin(future)), host: PRESENT.with(|present| present.borrow().clone()) }
    }

    /// A future that lives and dies with its process.
    pub struct Hosted<F> {
        future: Option<Pin<Box<F>>>,
        host: Option<Arc<dyn Host>>,
    }

    impl<F: Future> Future for Hosted<F> {
        type Output = F::Output;

        fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
            if let Some(host) = self.host.clone() {
                if host.is_dead() {
                    self.future = None;
                    return Poll::Pending;
                }
                if !host.runs(context.waker()) {
                    return Poll::Pending;
                }
                let inside = enter(Arc::clone(&host));
                let polled = self.poll_inner(context);
                drop(inside);
                if polled.is_pending() {
                    host.waits();
                }
                return polled;
            }
            self.poll_inner(context)
        }
    }

    impl<F: Future> Hosted<F> {
        fn poll_inner(&mut self, context: &mut Context<'_>) -> Poll<F::Output> {
            match &mut self.future {
                Some(future) => future.as_mut().poll(context),
                None => Poll::Pending,
            }
        }
    }
}
