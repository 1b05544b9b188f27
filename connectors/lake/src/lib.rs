//! The archive sink and the replay source. (The exactly-once argument is written here when both stand.)

pub mod config;
pub mod format;
mod job;
pub mod layout;
pub mod manifest;
pub mod rotate;
pub mod sink;
pub mod source;
pub mod store;
#[cfg(test)]
mod testing;
