//! Lakeferry's worker: Kafka Connect's outside, three loops and a table inside.
//!
//! The *herder* loop decides what should run here; a *sink* or *source* loop owns one task and everything that the task
//! may lose; the *table* (`plugins`) lists the plug-ins. Records travel as batches of bytes; nobody decodes what nobody
//! reads. A data object becomes real only when a manifest entry names it, and Kafka offsets are committed only from
//! what manifests say.
//!
//! # Floors
//!
//! A module imports from floors below its own, never from above or beside it; `tests/tidy.rs` holds this table.
//!
//! ```text
//!  7  main, cli, worker, plugins       assembly; may see everything
//!  6  rest                             knows herder and its entities
//!  5  herder                           knows backing and task handles
//!  4  task                             knows the contract, kafka, backing
//!  3  backing, convert                 know kafka and config; never each other
//!  2  kafka, config, logging, clock    know the contract
//!  -- crate border --
//!  1  connectors/lake, connectors/file know the contract; never each other, never the worker
//!  0  connectors/api                   the contract
//! ```
//!
//! # Follow a record
//!
//! Out: `kafka::consumer` → `task::sink` → `lakeferry_lake::sink::task` → `partition` → `writer` → `format` → `upload`
//! → `commit` → `task::positions` → Kafka's committed offset.
//! Back: `lakeferry_lake::source::plan` → `read` → `format` → `task::source` → `kafka::producer` → `task::acks` →
//! `backing`.
//!
//! # Invariants
//!
//! | | what always holds | held by |
//! |---|---|---|
//! | A1 | the herder does no I/O while deciding: `state` and `plan` are pure | `herder::state`, `herder::plan` tests; tidy |
//! | A2 | one task, one loop, one owner | `task` tests |
//! | A3 | no Kafka client type outside `kafka`, no Arrow type outside the lake's `format` | tidy |
//! | A4 | a committed offset never exceeds the durable position | `task::positions` properties; `sink::tests` |
//! | A5 | a data object that no manifest names does not exist | `it::crossing`; the simulator (to come) |
//! | A6 | manifests of a partition never overlap; a gap carries its reason | `manifest::invariants` tests; `sink::tests` |
//! | A7 | every channel is bounded, every buffer is paid from one byte budget | clippy's bans; `budget` tests |
//! | A8 | time and randomness come from seams | clippy's bans |
//! | A9 | every error that reaches a loop has a kind, and the loop acts on the kind alone | `error` and `task` tests |
//! | A10 | what is not stopped within its deadline is aborted and logged | `task` tests |
//! | A11 | a committed object is never overwritten or deleted by a writer | `it::faults`; the simulator (to come) |

pub mod backing;
pub mod cli;
pub mod clock;
pub mod config;
pub mod convert;
pub mod executor;
pub mod herder;
pub mod kafka;
pub mod logging;
pub mod plugins;
pub mod random;
pub mod rest;
pub mod spawn;
pub mod task;
pub mod worker;
