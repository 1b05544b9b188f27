//! Which partitions a failed offset commit is about. Where the brokers refuse one, the client says the same of all that
//! were committed with it: what the group holds then tells those that were taken.

use std::time::Duration;

use lakeferry_api::TopicPartition;

use super::super::ffi::{Code, Entry, Failure};

/// How long the group is asked what it holds: that only names partitions.
pub(super) const LOOK_WITHIN: Duration = Duration::from_secs(5);
/// No error names more.
const NAMED: usize = 3;

/// True where the brokers say it of single partitions, and so where others of `entries` may be well.
pub(super) fn may_be_of_some(entries: &[Entry]) -> bool {
    use Code::*;
    let is_of_one = |failure: &Failure| {
        matches!(
            failure.code,
            RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART
                | RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_ID
                | RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED
                | RD_KAFKA_RESP_ERR_OFFSET_METADATA_TOO_LARGE
                | RD_KAFKA_RESP_ERR_INVALID_COMMIT_OFFSET_SIZE
        )
    };
    entries.len() > 1 && entries.iter().any(|entry| entry.failure.as_ref().is_some_and(is_of_one))
}

/// The failure of `entries`, which were committed, and the names of the partitions that have it; `held` is what the
/// group holds of them now, as far as that is known. `None` where all is well.
pub(super) fn failure(entries: &[Entry], held: &[Entry]) -> Option<(Failure, String)> {
    let is_held = |entry: &Entry| {
        let mut known = held.iter().filter(|held| held.partition == entry.partition && held.failure.is_none());
        known.any(|held| held.offset.is_some() && held.offset == entry.offset)
    };
    let failed: Vec<_> = entries.iter().filter_map(|entry| Some((entry, entry.failure.as_ref()?))).collect();
    let refused: Vec<_> = failed.iter().filter(|(entry, _)| !is_held(entry)).copied().collect();
    let told = if refused.is_empty() { failed } else { refused };
    let (_, failure) = told.first()?;
    let partitions: Vec<&TopicPartition> = told.iter().map(|(entry, _)| &entry.partition).collect();
    Some(((*failure).clone(), names(&partitions)))
}

fn names(partitions: &[&TopicPartition]) -> String {
    let named: Vec<_> = partitions.iter().take(NAMED).map(ToString::to_string).collect();
    let more = match partitions.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("{}{more}", named.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(topic: &str, offset: Option<i64>, code: Option<Code>) -> Entry {
        let failure = code.map(|code| Failure { code, text: "refused".to_owned() });
        Entry { partition: TopicPartition::new(topic, 0), offset, metadata: String::new(), failure }
    }

    #[test]
    fn only_partitions_that_the_group_does_not_hold_are_named() {
        let gone = Some(Code::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART);
        let entries = [entry("a", Some(5), gone), entry("b", Some(7), gone), entry("c", Some(9), gone)];
        assert!(may_be_of_some(&entries));
        let told = |held: &[Entry]| failure(&entries, held).unwrap().1;
        assert_eq!(told(&[entry("a", Some(5), None), entry("b", Some(7), None), entry("c", None, None)]), "c-0");
        assert_eq!(told(&[entry("a", Some(5), None), entry("b", Some(6), None)]), "b-0, c-0");
        // Nothing is known.
        assert_eq!(told(&[]), "a-0, b-0, c-0");
        let all: Vec<_> = entries.iter().map(|entry| Entry { failure: None, ..entry.clone() }).collect();
        assert_eq!(told(&all), "a-0, b-0, c-0");
        assert_eq!(failure(&all, &[]), None);
    }

    #[test]
    fn the_group_is_asked_only_where_it_can_tell() {
        let denied = Some(Code::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED);
        let fenced = Some(Code::RD_KAFKA_RESP_ERR_ILLEGAL_GENERATION);
        assert!(!may_be_of_some(&[entry("a", Some(5), denied)]));
        assert!(!may_be_of_some(&[entry("a", Some(5), fenced), entry("b", Some(5), fenced)]));
        assert!(!may_be_of_some(&[entry("a", Some(5), None), entry("b", Some(5), None)]));
        let many: Vec<_> = ["a", "b", "c", "d", "e"].map(|topic| entry(topic, Some(1), fenced)).into();
        assert_eq!(failure(&many, &[]).unwrap().1, "a-0, b-0, c-0 and 2 more");
    }
}
