//! The worker. (The floor plan is written here when the floors stand.)

pub mod cli;
pub mod config;
pub mod convert;
pub mod herder;
pub mod kafka;
pub mod logging;
pub mod plugins;
pub mod task;
