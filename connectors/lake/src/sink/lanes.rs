//! How many uploads of a task go on at once: as many as the line to the store carries in good time.
//!
//! A store's client gives up a request after a while (30 s unless told otherwise). Parts that share a slow line would
//! all run out of that time together, come again and run out of it again, where one after the other they arrive. So a
//! task begins with two, grows while they are quick, and shrinks when one takes long or fails.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lakeferry_api::Clock;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// With how many a task begins.
const AT_FIRST: usize = 2;
/// An upload that ends sooner leaves room for one more beside it: even half as fast it would end in time.
const QUICK: Duration = Duration::from_secs(10);
/// One that takes longer has too many beside it.
const SLOW: Duration = Duration::from_secs(20);

/// The lanes of one task.
pub(crate) struct Lanes {
    free: Arc<Semaphore>,
    most: usize,
    open: Mutex<usize>,
    clock: Arc<dyn Clock>,
}

/// A lane that an upload has to itself. Dropped without a word it is free again, and nothing is learned.
pub(crate) struct Lane {
    /// Always there: nobody closes the semaphore.
    permit: Option<OwnedSemaphorePermit>,
    lanes: Arc<Lanes>,
    since: Duration,
}

impl Lanes {
    /// Lanes that may become `most`, timed by `clock`.
    pub(crate) fn new(most: usize, clock: Arc<dyn Clock>) -> Self {
        let open = AT_FIRST.min(most);
        Self { free: Arc::new(Semaphore::new(open)), most, open: Mutex::new(open), clock }
    }

    /// Waits for a lane.
    pub(crate) async fn enter(self: &Arc<Self>) -> Lane {
        let permit = Arc::clone(&self.free).acquire_owned().await.ok();
        Lane { permit, lanes: Arc::clone(self), since: self.clock.monotonic() }
    }
}

impl Lane {
    /// The upload has ended, well or not.
    pub(crate) fn leave(self, well: bool) {
        let took = self.lanes.clock.monotonic().saturating_sub(self.since);
        let mut open = self.lanes.open.lock().unwrap_or_else(PoisonError::into_inner);
        if !well || took > SLOW {
            if *open > 1 {
                *open -= 1;
                self.permit.into_iter().for_each(OwnedSemaphorePermit::forget);
            }
        } else if took < QUICK && *open < self.lanes.most {
            *open += 1;
            self.lanes.free.add_permits(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;
    use crate::store::testing::CountingClock;

    fn enter(lanes: &Arc<Lanes>) -> Option<Lane> {
        lanes.enter().now_or_never()
    }

    /// As many uploads at once as there are lanes, each taking `seconds`, ended `well` or not.
    fn go(lanes: &Arc<Lanes>, clock: &CountingClock, seconds: u64, well: bool) -> usize {
        let under_way: Vec<_> = std::iter::from_fn(|| enter(lanes)).collect();
        let count = under_way.len();
        clock.sleep(Duration::from_secs(seconds)).now_or_never().unwrap();
        under_way.into_iter().for_each(|lane| lane.leave(well));
        count
    }

    #[test]
    fn quick_uploads_make_room_for_more_and_slow_ones_for_fewer() {
        let clock = Arc::new(CountingClock::default());
        let lanes = Arc::new(Lanes::new(8, clock.clone()));
        let counts: Vec<_> = (0..4).map(|_| go(&lanes, &clock, 1, true)).collect();
        assert_eq!(counts, [2, 4, 8, 8]);
        assert_eq!([go(&lanes, &clock, 15, true), go(&lanes, &clock, 21, true)], [8, 8], "what is neither stays");
        assert_eq!([go(&lanes, &clock, 21, true), go(&lanes, &clock, 1, false)], [1, 1], "one is always left");
        assert_eq!([go(&lanes, &clock, 9, true), go(&lanes, &clock, 1, false), go(&lanes, &clock, 1, true)], [1, 2, 1]);
    }

    #[test]
    fn an_upload_that_is_given_up_teaches_nothing() {
        let clock = Arc::new(CountingClock::default());
        let lanes = Arc::new(Lanes::new(8, clock));
        drop(enter(&lanes).unwrap());
        let both = [enter(&lanes), enter(&lanes)];
        assert!(both.iter().all(Option::is_some) && enter(&lanes).is_none());
    }
}
