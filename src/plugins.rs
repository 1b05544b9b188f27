//! THE table: every connector, converter and header converter of this worker, under the Java class names that configs
//! write. The only file that names a connector crate. A new plug-in is one row here and a file (or crate) of its own.
//!
//! Plug-ins that stand in for Kafka's own report the version of Kafka that they behave as.

use lakeferry_api::{Connector, connector::ConnectorType};
use lakeferry_file::{FileStreamSink, FileStreamSource};
use lakeferry_lake::sink::LakeSinkConnector;

use crate::config::catalog::{Catalog, Make, Plugin, PluginKind};
use crate::convert;

/// The version of Apache Kafka that Kafka's own plug-ins are compatible with.
pub const KAFKA_VERSION: &str = lakeferry_file::VERSION;

/// Everything that this worker can run.
pub fn catalog() -> Catalog {
    let mut rows = convert::plugins(KAFKA_VERSION);
    rows.extend([
        connector(lakeferry_lake::sink::CLASS, || Box::new(LakeSinkConnector::default())),
        connector("org.apache.kafka.connect.file.FileStreamSinkConnector", || Box::new(FileStreamSink::default())),
        connector("org.apache.kafka.connect.file.FileStreamSourceConnector", || Box::new(FileStreamSource::default())),
    ]);
    Catalog::new(rows)
}

fn connector(class: &'static str, make: fn() -> Box<dyn Connector>) -> Plugin {
    let connector = make();
    let kind = match connector.connector_type() {
        ConnectorType::Sink => PluginKind::Sink,
        ConnectorType::Source => PluginKind::Source,
    };
    Plugin { class, kind, version: Some(connector.version()), make: Make::Connector(make) }
}
