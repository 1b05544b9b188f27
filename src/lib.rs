//! The worker. (The floor plan is written here when the floors stand.)

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
