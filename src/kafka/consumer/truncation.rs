//! What librdkafka says when a partition has no record where it is to be read: whether the log ends there, or an
//! unclean election has taken back what was read of it (KIP-320). librdkafka asks the broker for the end of the leader
//! epoch itself and tells the answer in words only, with the code of a position that is out of range.
//!
//! Invariant: an offset that comes out of here stands in the text. A text that speaks of a truncation and cannot be
//! read is an error for the caller, never a guess. Pure; `Cargo.lock` pins the library, and the tests its words.

use super::super::ffi::{Code, Failure};

/// Words of librdkafka's `rdkafka_offset.c` and `rdkafka.c`.
const DETECTED: &str = "Local: Partition log truncation detected";
const END_OFFSET: &str = "broker end offset is ";
const NO_EPOCH: &str = "No epoch found";

/// Why there is no record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// The log begins behind the position or ends before it.
    OutOfRange,
    /// The broker does not know the leader epoch of the position: it cannot tell whether the log is the same.
    EpochUnknown,
    /// The log parted from what was read of it at this offset.
    Truncated(i64),
    /// A truncation whose place the text does not tell.
    Unreadable,
}

/// Reads what a failure of the kind "nothing at this position" is about.
pub(super) fn cause(failure: &Failure) -> Cause {
    let text = failure.text.as_str();
    if failure.code != Code::RD_KAFKA_RESP_ERR__LOG_TRUNCATION && !text.contains(DETECTED) {
        return Cause::OutOfRange;
    }
    match text.split_once(END_OFFSET).and_then(|(_, rest)| leading_number(rest)) {
        _ if text.starts_with(NO_EPOCH) => Cause::EpochUnknown,
        Some(offset) => Cause::Truncated(offset),
        None => Cause::Unreadable,
    }
}

/// The whole number that `text` begins with, where a space ends it.
fn leading_number(text: &str) -> Option<i64> {
    let (digits, _) = text.split_once(' ')?;
    if digits.bytes().all(|byte| byte.is_ascii_digit()) { digits.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cause_of(text: &str) -> Cause {
        cause(&Failure { code: Code::RD_KAFKA_RESP_ERR__AUTO_OFFSET_RESET, text: text.to_owned() })
    }

    #[test]
    fn the_library_still_uses_these_words() {
        assert_eq!(crate::kafka::ffi::describe(Code::RD_KAFKA_RESP_ERR__LOG_TRUNCATION), DETECTED);
    }

    #[test]
    fn the_divergence_is_the_broker_s_end_of_the_epoch() {
        let text = "Partition log truncation detected at offset 1200 (leader epoch 3): broker end offset is 40 (offset \
                    leader epoch 2). Reset to INVALID.: Local: Partition log truncation detected (broker 1)";
        assert_eq!(cause_of(text), Cause::Truncated(40));
        assert_eq!(cause_of(&text.replace(" 40 ", " 0 ")), Cause::Truncated(0));
        assert_eq!(cause_of(&text.replace(" 40 ", " 9223372036854775807 ")), Cause::Truncated(i64::MAX));
    }

    #[test]
    fn a_broker_that_does_not_know_the_epoch_proves_nothing() {
        let text = "No epoch found less or equal to offset 12 (leader epoch 3): broker end offset is -1 (offset leader \
                    epoch -1). Reset using configured policy.: Local: Partition log truncation detected (broker 2)";
        assert_eq!(cause_of(text), Cause::EpochUnknown);
    }

    #[test]
    fn a_position_out_of_range_is_no_truncation() {
        let text = "fetch failed due to requested offset not available on the broker: Broker: Offset out of range \
                    (broker 1)";
        assert_eq!(cause_of(text), Cause::OutOfRange);
        assert_eq!(cause_of("Local: No offset to automatically reset to"), Cause::OutOfRange);
    }

    #[test]
    fn a_text_that_cannot_be_read_is_not_guessed_at() {
        for end in [
            "",
            "broker end offset is",
            "broker end offset is ",
            "broker end offset is -7 (",
            "broker end offset is 4x (",
            "broker end offset is 99999999999999999999 (",
            "broker end offset is 40",
        ] {
            let text = format!("Partition log truncation detected: {end}: Local: Partition log truncation detected");
            assert_eq!(cause_of(&text), Cause::Unreadable, "{text}");
        }
        let bare = Failure { code: Code::RD_KAFKA_RESP_ERR__LOG_TRUNCATION, text: "gone".to_owned() };
        assert_eq!(cause(&bare), Cause::Unreadable);
    }
}
