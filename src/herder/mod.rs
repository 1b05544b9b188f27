//! The herder: folds the config log into what should run here and makes it so.

pub mod validate;
