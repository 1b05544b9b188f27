//! Lakeferry's worker: Kafka Connect's outside, three loops and a table inside.
//!
//! The *herder* loop decides what should run here; a *sink* or *source* loop owns one task and everything that the task
//! may lose; the *table* (`plugins`) lists the plug-ins. Records travel as batches of bytes; nobody decodes what nobody
//! reads. A data object becomes real only when a manifest entry names it, and Kafka offsets are committed only from
//! what manifests say.
//!
//! # Floors
//!
//! A module imports from floors below its own, never from above or beside it; `tests/tidy.rs` holds this very table.
//! The assembly (`main`, `cli`, `worker`, `plugins`) may know everything, the ground floor (`clock`, `executor`,
//! `logging`, `memory`, `random`, `spawn`) may be known by all, and the contract (`connectors/api`) is below them all.
//!
//! ```text
//!  rest      knows  herder, config
//!  herder    knows  task, backing, kafka, config
//!  task      knows  backing, kafka, config
//!  backing   knows  kafka, config
//!  convert   knows  config
//!  kafka     knows  config
//!  config    knows  nobody
//!  -- crate border --
//!  connectors/lake, connectors/file know the contract; never each other, never the worker
//! ```
//!
//! # Follow a record
//!
//! Out: `kafka::consumer` → `task::sink` → `lakeferry_lake::sink::task` → `partition` → `writer` → `format` → `upload`
//! → `commit` → `task::positions` → Kafka's committed offset.
//! Back: `lakeferry_lake::source::plan` → `read` → `format` → `task::source::transactional` → `task::exact` →
//! `kafka::transactions`. Back from a source that keeps no progress in the target cluster: `task::source` →
//! `kafka::producer` → `task::acks` → `backing`.
//!
//! # Invariants
//!
//! | | what always holds | held by |
//! |---|---|---|
//! | A1 | the herder does no I/O while deciding: `state` and `plan` are pure | `herder::state::tests`, `herder::plan::tests`, `tidy` |
//! | A2 | one task, one loop, one owner | `task::sink::tests`, `task::source::tests` |
//! | A3 | no Kafka client type outside `kafka`, no Arrow type outside the lake's `format` | `tidy::foreign_names_stay_where_they_belong` |
//! | A4 | a committed offset never exceeds the durable position | `task::positions::tests`, `task::sink::tests::no_commit_exceeds_what_the_task_calls_durable` |
//! | A5 | a data object that no manifest names does not exist | `lakeferry_lake::sink::tests::a_zombie_publishes_nothing_once_another_has_opened`, `lakeferry_lake::verify::tests::what_no_manifest_names_is_counted_and_no_fault` |
//! | A6 | manifests of a partition never overlap; a gap carries its reason | `lakeferry_lake::manifest::invariants::tests`, `lakeferry_lake::sink::tests` |
//! | A7 | every channel is bounded, every buffer is paid from one byte budget | clippy's bans, `lakeferry_api::budget::tests`, `kafka::tests::a_slow_loop_loses_nothing_and_the_budget_is_given_back`, `lakeferry_lake::sink::tests::memory` |
//! | A8 | time and randomness come from seams; a time-out of one request and a temporary file's name alone do not | clippy's bans, `tidy::banned_calls_are_not_made` |
//! | A9 | every error that reaches a loop has a kind, and the loop acts on the kind alone | `task::sink::tests::the_consumer_s_troubles_pass_or_fail_the_task_by_their_kind`, `task::sink::tests::a_fatal_error_discards_and_a_data_error_publishes`, `lakeferry_lake::store::error::tests` |
//! | A10 | what is not stopped within its deadline is aborted and logged | `spawn::tests::what_does_not_stop_is_aborted_within_the_deadline`, `task::sink::tests::a_task_that_hangs_is_aborted_and_says_nothing_more` |
//! | A11 | a committed object is never overwritten or deleted by a writer | `lakeferry_lake::manifest::tests::one_writer_wins_and_every_writer_learns_the_truth`, `it::faults::a_damaged_truncated_or_newer_manifest_is_never_overwritten` |

pub mod backing;
pub mod cli;
pub mod clock;
pub mod config;
pub mod convert;
pub mod executor;
pub mod herder;
pub mod kafka;
pub mod logging;
pub mod memory;
mod metrics;
pub mod plugins;
pub mod random;
pub mod rest;
pub mod spawn;
pub mod task;
pub mod worker;

#[cfg(test)]
#[global_allocator]
static ALLOCATOR: lakeferry_api::measure::Counting = lakeferry_api::measure::Counting;
