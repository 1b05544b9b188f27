//! .

pub mod format;
