//! The archive sink and the replay source, on one layout.
//!
//! # What lies where
//!
//! ```text
//! <store.url>/<topics.dir>/
//!   orders/
//!     partition=0/00000000000000000000-0000000001-0-0b9f12ab.parquet      data: first offset, epoch, file, writer
//!     _manifests/partition=0/00000000000000000000.json                    the chain: entry 0, 1, 2, ...
//! ```
//!
//! # Why it is exactly once
//!
//! 1. **Only manifests make data real.** Objects are uploaded first, under names that are never used twice; the next
//!    entry of the partition's chain names them; then the offset goes to Kafka, as a cache for lag tools. Whatever
//!    dies in between leaves objects that nobody names, which is the same as no objects.
//! 2. **One chain, one writer.** An entry is created only if its number is free, so a chain has no holes and cannot
//!    fork. A writer opens its time on a partition with an entry of a higher epoch; whoever loses a number to a higher
//!    epoch discards what it holds, and the consumer group says whose the partition is.
//! 3. **Doubt is settled by reading.** An entry's bytes are frozen before they are first sent, and a retry sends
//!    exactly these; only byte equality means "ours", and an error never means "absent".
//! 4. **Going on needs only the end.** The last entry says where to resume and what is in files beyond; nothing else is
//!    remembered anywhere. So every failure is treated as a crash: throw away, read the end, begin again.
//! 5. **Every offset is accounted for.** It is a record in exactly one file, or counted as missing, or in a gap, each
//!    with a reason; the laws in [`manifest::invariants`] are checked before an entry is written and again by `verify`.
//! 6. **Another log is another lineage.** The topic's id is asked from the broker before every entry; offsets of a
//!    topic that was created again never mix with the old ones. Nor do those that an unclean election took back: the
//!    end says up to where the log must hold which leader epoch, and the broker confirms it before anything is read on.
//!
//! Reading order: [`manifest::model`] (the document), [`sink`] (out), [`source`] (back), [`format`] (bytes), [`store`].
//! The specification for strangers is `docs/manifest-format.md`.

pub mod config;
pub mod format;
pub mod inspect;
mod job;
pub mod layout;
pub mod manifest;
pub mod rotate;
pub mod sink;
pub mod source;
pub mod store;
pub mod sweep;
#[cfg(test)]
mod testing;
pub mod verify;

#[cfg(test)]
#[global_allocator]
static ALLOCATOR: lakeferry_api::measure::Counting = lakeferry_api::measure::Counting;
