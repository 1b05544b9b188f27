//! The one integration binary: journeys against real services, one file a topic. The services come from the kit and are
//! shared by the whole run.

#![allow(clippy::unwrap_used, reason = "all of it is tests, also what stands outside a test function")]

#[path = "../kit/mod.rs"]
mod kit;

mod formats;
mod http;
mod kafka;
mod rest;
mod standalone;
mod worker;
