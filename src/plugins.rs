//! THE table: every connector, converter and header converter of this worker, under the Java class names that configs
//! write. The only file that names a connector crate. A new plug-in is one row here and a file (or crate) of its own.
//!
//! Plug-ins that stand in for Kafka's own report the version of Kafka that they behave as.

use lakeferry_api::{Connector, connector::ConnectorType};
use lakeferry_file::{FileStreamSink, FileStreamSource};
use lakeferry_lake::sink::LakeSinkConnector;
use lakeferry_lake::source::LakeSourceConnector;

use crate::config::catalog::{Catalog, Make, Plugin, PluginKind};
use crate::convert;

/// The version of Apache Kafka that Kafka's own plug-ins are compatible with.
pub const KAFKA_VERSION: &str = lakeferry_file::VERSION;

/// Everything that this worker can run.
pub fn catalog() -> Catalog {
    let mut rows = convert::plugins(KAFKA_VERSION);
    rows.extend([
        connector(lakeferry_lake::sink::CLASS, || Box::new(LakeSinkConnector::default())),
        connector(lakeferry_lake::source::CLASS, || Box::new(LakeSourceConnector::default())),
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

#[cfg(test)]
mod reference;

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::config::{WorkerConfig, properties};
    use crate::herder::validate::validate;

    fn samples() -> Vec<(String, lakeferry_api::Config)> {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("config");
        let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let sample = |path: PathBuf| {
            let name = path.file_name().unwrap().display().to_string();
            (name, properties::parse(&std::fs::read(path).unwrap()).unwrap())
        };
        files.filter(|path| path.extension().is_some_and(|end| end == "properties")).map(sample).collect()
    }

    fn worker() -> WorkerConfig {
        let samples = samples();
        let (_, config) = samples.iter().find(|(name, _)| name == "connect-standalone.properties").unwrap();
        WorkerConfig::standalone(config).unwrap()
    }

    #[test]
    fn the_sample_worker_is_right_and_knows_every_key() {
        assert_eq!(worker().warnings, [""; 0]);
    }

    #[test]
    fn converters_of_the_worker_must_exist_and_take_their_options() {
        assert!(worker().check_converters(&catalog()).is_ok());
        let (_, sample) = samples().into_iter().find(|(name, _)| name == "connect-standalone.properties").unwrap();
        let cases = [
            ("key.converter", "com.example.None", "Class com.example.None could not be found. Choose one of org."),
            ("value.converter", "SimpleHeaderConverter", "Class SimpleHeaderConverter could not be found."),
            ("value.converter.schemas.enable", "perhaps", "Expected value to be either true or false"),
            ("header.converter", "x", "Class x could not be found."),
        ];
        for (key, value, message) in cases {
            let mut config = sample.clone();
            config.insert(key.to_owned(), value.to_owned());
            let refused = WorkerConfig::standalone(&config).unwrap().check_converters(&catalog()).unwrap_err();
            assert!(refused.message().contains(message), "{key}={value}: {refused}");
        }
    }

    #[test]
    fn every_sample_connector_is_valid_and_knows_every_key() {
        let (catalog, worker) = (catalog(), worker());
        let samples: Vec<_> =
            samples().into_iter().filter(|(_, config)| config.contains_key("connector.class")).collect();
        assert!(samples.len() >= 6, "samples of every connector");
        for (name, config) in samples {
            let validation = validate(&catalog, &worker, &config).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(validation.refusal(), None, "{name}");
            let known: Vec<_> = validation.configs.iter().filter_map(|(key, _)| Some(&key.as_ref()?.name)).collect();
            let unknown = config.keys().find(|key| !known.contains(key) && !key.starts_with("store."));
            assert_eq!(unknown, None, "{name}: nobody knows this key");
        }
    }

    #[test]
    fn connectors_go_by_their_short_names_too() {
        let catalog = catalog();
        for (alias, class) in [
            ("LakeSink", "io.lakeferry.LakeSinkConnector"),
            ("LakeSinkConnector", "io.lakeferry.LakeSinkConnector"),
            ("FileStreamSource", "org.apache.kafka.connect.file.FileStreamSourceConnector"),
        ] {
            assert_eq!(catalog.find(alias).unwrap().class, class);
        }
        assert_eq!(catalog.find("String").unwrap().class, "org.apache.kafka.connect.storage.StringConverter");
        assert!(
            catalog.header_converter("StringConverter").is_ok() && catalog.converter("SimpleHeaderConverter").is_err()
        );
    }
}
