//! THE table: every connector, converter and header converter of this worker, under the Java class names that configs
//! write. The only file that names a connector crate. A new plug-in is one row here and a file (or crate) of its own.
//!
//! Plug-ins that stand in for Kafka's own report the version of Kafka that they behave as.

use crate::config::catalog::Catalog;
use crate::convert;

/// The version of Apache Kafka that Kafka's own plug-ins are compatible with.
pub const KAFKA_VERSION: &str = "4.3.1";

/// Everything that this worker can run.
pub fn catalog() -> Catalog {
    Catalog::new(convert::plugins(KAFKA_VERSION))
}
