//! What the worker is told: properties files, the worker's and the connectors' settings, client overrides, config
//! providers, and the catalog of plug-ins.

pub mod catalog;
pub mod properties;
