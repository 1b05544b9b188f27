//! The archive sink and the replay source. (The exactly-once argument is written here when both stand.)

pub mod format;
pub mod layout;
pub mod manifest;
pub mod source;
pub mod store;
