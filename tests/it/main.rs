//! The journeys: Lakeferry against real services, one binary so that they are started once.
//!
//! Each module is an area. Services come from the kit (`kit::need!` skips a test by name where a toolchain for one is
//! missing; `LAKEFERRY_KIT=require` makes that a failure).

#![allow(clippy::unwrap_used, reason = "what cannot go on fails its test")]

#[path = "../support/journey.rs"]
mod journey;

#[path = "../kit/mod.rs"]
mod kit;
#[path = "../support/lake.rs"]
mod lake;
#[path = "../support/topic.rs"]
mod topic;

mod acl;
mod back;
mod crashes;
mod crossing;
mod faults;
mod formats;
mod hostile;
mod http;
mod kafka;
mod life;
mod odd;
mod peers;
mod read_only;
mod rest;
mod restore;
mod standalone;
mod store;
mod sweep;
mod tls;
mod truncation;
mod verify;
