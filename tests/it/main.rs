//! The one integration binary: journeys against real services, one file a topic. The services come from the kit and are
//! shared by the whole run.

#[path = "../kit/mod.rs"]
mod kit;

mod kafka;
