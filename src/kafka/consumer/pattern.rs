//! Subscribing: to topics by name, or to every topic that a pattern matches. Patterns are Java's and match whole names,
//! which librdkafka's own (POSIX) cannot promise, so a small thread asks for the topics now and then and subscribes to
//! those that match.

use std::sync::{Arc, Weak};
use std::time::Duration;

use fancy_regex::Regex;
use lakeferry_api::{ConnectError, Result};

use super::super::Subscription;
use super::super::error::explain;
use super::super::ffi::Handle;

/// Ends the watching thread when dropped.
pub(super) struct Watch(Option<std::thread::Thread>);

/// Subscribes; the result must live as long as the consumer reads.
///
/// # Errors
/// `Config` for a pattern that is none.
pub(super) fn subscribe(handle: &Arc<Handle>, subscription: &Subscription, refresh: Duration) -> Result<Watch> {
    match subscription {
        Subscription::Topics(topics) => {
            let refused = |failure| explain(&failure, format!("topics {}", topics.join(",")));
            handle.subscribe(topics).map_err(refused)?;
            Ok(Watch(None))
        }
        Subscription::Pattern(pattern) => {
            let regex = whole(pattern)?;
            let handle = Arc::downgrade(handle);
            let thread = std::thread::Builder::new()
                .name("consumer topics".to_owned())
                .spawn(move || watch(&handle, &regex, refresh))
                .map_err(|error| ConnectError::retriable("cannot start a consumer thread").caused_by(error))?;
            Ok(Watch(Some(thread.thread().clone())))
        }
    }
}

/// The pattern as one that matches whole names.
fn whole(pattern: &str) -> Result<Regex> {
    Regex::new(&format!(r"\A(?:{pattern})\z")).map_err(|error| {
        ConnectError::config(format!("Invalid value {pattern} for configuration topics.regex: {error}"))
    })
}

fn watch(handle: &Weak<Handle>, regex: &Regex, refresh: Duration) {
    let mut subscribed = Vec::new();
    loop {
        let Some(client) = handle.upgrade() else {
            return;
        };
        let wait = match client.all_topics(ANSWER_WITHIN) {
            Ok(all) => {
                let topics = matching(all.into_iter().map(|(name, _)| name), regex);
                if !topics.is_empty() && topics != subscribed {
                    tracing::info!("subscribing to {}", topics.join(","));
                    match client.subscribe(&topics) {
                        Ok(()) => subscribed = topics,
                        Err(failure) => tracing::warn!("cannot subscribe: {}", failure.text),
                    }
                }
                refresh
            }
            Err(failure) => {
                tracing::warn!("cannot list the topics: {}", failure.text);
                RETRY_AFTER.min(refresh)
            }
        };
        drop(client);
        std::thread::park_timeout(wait);
    }
}

const ANSWER_WITHIN: Duration = Duration::from_secs(5);
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The names that match, sorted. Kafka's own topics never do, as in Java.
fn matching(names: impl Iterator<Item = String>, regex: &Regex) -> Vec<String> {
    let internal = |name: &str| matches!(name, "__consumer_offsets" | "__transaction_state" | "__share_group_state");
    let fits = |name: &String| !internal(name) && regex.is_match(name).unwrap_or(false);
    let mut topics: Vec<String> = names.filter(fits).collect();
    topics.sort_unstable();
    topics
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(thread) = &self.0 {
            thread.unpark();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_whole_names_as_java_does() {
        let names = ["orders", "orders-1", "reorders", "orders-12", "clicks", "__consumer_offsets"];
        let cases: &[(&str, &[&str])] = &[
            ("orders", &["orders"]),
            (r"orders-\d+", &["orders-1", "orders-12"]),
            ("orders|clicks", &["clicks", "orders"]),
            ("(?!re).*ord.*", &["orders", "orders-1", "orders-12"]),
            (".*", &["clicks", "orders", "orders-1", "orders-12", "reorders"]),
            ("nothing", &[]),
        ];
        for (pattern, wanted) in cases {
            let regex = whole(pattern).expect("a pattern");
            assert_eq!(matching(names.map(str::to_owned).into_iter(), &regex), *wanted, "{pattern}");
        }
        assert!(whole("(").expect_err("refused").message().contains("topics.regex"));
    }
}
