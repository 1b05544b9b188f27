//! One answer of the brokers for all who ask the same at once: a thousand partitions that open ask about one topic.
//!
//! Invariant: an answer is given to those alone who asked before its question was sent. A refusal is an answer: who
//! waits for brokers that are away waits as long as if it were alone, and once more at most.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use lakeferry_api::Result;

/// Questions by name. Of each one is on its way at a time.
pub(super) struct Together<A> {
    questions: Mutex<HashMap<String, Arc<Question<A>>>>,
}

struct Question<A> {
    /// How many have asked.
    asked: AtomicU64,
    last: tokio::sync::Mutex<Last<A>>,
}

struct Last<A> {
    /// So many had asked when it was sent.
    asked: u64,
    answer: Option<Arc<A>>,
}

impl<A> Default for Together<A> {
    fn default() -> Self {
        Self { questions: Mutex::default() }
    }
}

impl<A> Together<A> {
    /// The answer to `ask`, or to that of another who sends the same question after this call has begun.
    pub(super) async fn ask(&self, name: &str, ask: impl AsyncFnOnce() -> Result<A>) -> Result<Arc<A>> {
        let question = self.question(name);
        let mine = question.asked.fetch_add(1, Ordering::SeqCst) + 1;
        let mut last = question.last.lock().await;
        if let Some(answer) = last.answer.as_ref().filter(|_| last.asked >= mine) {
            return Ok(Arc::clone(answer));
        }
        let asked = question.asked.load(Ordering::SeqCst);
        let answer = Arc::new(ask().await?);
        *last = Last { asked, answer: Some(Arc::clone(&answer)) };
        Ok(answer)
    }

    /// Those that nobody asks any more are forgotten.
    fn question(&self, name: &str) -> Arc<Question<A>> {
        let mut questions = self.questions.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(question) = questions.get(name) {
            return Arc::clone(question);
        }
        questions.retain(|_, question| Arc::strong_count(question) > 1);
        let last = tokio::sync::Mutex::new(Last { asked: 0, answer: None });
        let question = Arc::new(Question { asked: AtomicU64::new(0), last });
        questions.insert(name.to_owned(), Arc::clone(&question));
        question
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use lakeferry_api::ConnectError;
    use tokio::sync::Semaphore;

    use super::*;
    use crate::spawn::spawn;

    /// Brokers that answer with the number of the question, when they may.
    struct Brokers {
        together: Together<usize>,
        sent: AtomicUsize,
        may_answer: Semaphore,
    }

    impl Brokers {
        fn new() -> Arc<Self> {
            let (sent, may_answer) = (AtomicUsize::new(0), Semaphore::new(0));
            Arc::new(Self { together: Together::default(), sent, may_answer })
        }

        async fn answer(&self) -> usize {
            let number = self.sent.fetch_add(1, Ordering::SeqCst) + 1;
            self.may_answer.acquire().await.unwrap().forget();
            number
        }

        async fn ask(self: Arc<Self>) -> usize {
            *self.together.ask("orders", async || Ok(self.answer().await)).await.unwrap()
        }

        async fn until(&self, is: impl Fn(&Self) -> bool) {
            while !is(self) {
                tokio::task::yield_now().await;
            }
        }

        fn asked(&self) -> u64 {
            let questions = self.together.questions.lock().unwrap();
            questions.get("orders").map_or(0, |question| question.asked.load(Ordering::SeqCst))
        }
    }

    #[tokio::test]
    async fn a_thousand_who_ask_at_once_take_two_answers_and_none_that_was_asked_for_before_them() {
        let brokers = Brokers::new();
        let mut first = spawn("asks", Arc::clone(&brokers).ask());
        brokers.until(|brokers| brokers.sent.load(Ordering::SeqCst) == 1).await;
        let others: Vec<_> = (0..1_000).map(|_| spawn("asks", Arc::clone(&brokers).ask())).collect();
        brokers.until(|brokers| brokers.asked() == 1_001).await;
        brokers.may_answer.add_permits(2);
        assert_eq!(first.join().await.unwrap(), 1);
        for mut other in others {
            assert_eq!(other.join().await.unwrap(), 2, "the first question was on its way already");
        }
        assert_eq!(brokers.sent.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn who_asks_later_asks_anew() {
        let brokers = Brokers::new();
        brokers.may_answer.add_permits(2);
        assert_eq!((Arc::clone(&brokers).ask().await, Arc::clone(&brokers).ask().await), (1, 2));
    }

    #[tokio::test]
    async fn one_that_is_given_up_or_cut_off_leaves_the_question_to_the_next() {
        let brokers = Brokers::new();
        let gone = spawn("asks", Arc::clone(&brokers).ask());
        brokers.until(|brokers| brokers.sent.load(Ordering::SeqCst) == 1).await;
        let mut next = spawn("asks", Arc::clone(&brokers).ask());
        brokers.until(|brokers| brokers.asked() == 2).await;
        drop(gone);
        brokers.may_answer.add_permits(1);
        assert_eq!(next.join().await.unwrap(), 2);
        let cut_off = brokers.together.ask("orders", async || Err(ConnectError::fatal("cut off"))).await;
        assert_eq!(cut_off.unwrap_err().message(), "cut off");
        brokers.may_answer.add_permits(1);
        assert_eq!(Arc::clone(&brokers).ask().await, 3);
    }

    #[tokio::test]
    async fn questions_that_nobody_asks_are_forgotten() {
        let together = Together::default();
        for topic in ["a", "b", "c"] {
            together.ask(topic, async || Ok(())).await.unwrap();
        }
        assert_eq!(together.questions.lock().unwrap().len(), 1);
    }
}
