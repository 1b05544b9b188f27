//! The peer: a JVM Connect worker as its distribution starts it (heap of 256 MB to 2 GB, G1), with the Iceberg sink,
//! which writes zstd Parquet to S3. It stores values alone, without keys, so it does less than the worker does.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::archive;
use crate::data::Topic;
use crate::kit::{self, ConnectOptions, ConnectWorker, Kafka, S3};
use crate::lines::{self, Line};
use crate::measure;

const POM: &str = include_str!("iceberg.pom.xml");

/// One run, until the last offset is committed. It commits each five seconds, so its wall clock tells no speed.
pub(crate) fn run(kafka: &Kafka, s3: &S3, topic: &Topic, round: usize) -> Result<Line> {
    let libs = kit::provision::jars("iceberg-sink-1.12.0", POM)?;
    let plugins = libs.parent().unwrap_or(&libs).display().to_string();
    let name = format!("iceberg-{}-{round}", topic.name);
    let (bucket, control) = (s3.create_bucket(&name)?, format!("control-{name}"));
    kafka.create_topic(&control, 1, &[])?;
    let options = ConnectOptions::new(kafka.bootstrap())
        .property("plugin.path", &plugins)
        .property("plugin.discovery", "hybrid_warn")
        .property("offset.flush.interval.ms", "5000")
        .shipped_options();
    let worker = ConnectWorker::start(options)?;
    let pid = worker.pid().unwrap_or_default();
    let catalog = worker.dir().join("catalog.db").display().to_string();
    let before_s = measure::cpu_s(pid)?;
    let connector = json!({ "name": name, "config": config(s3, topic, &name, (&control, &catalog)) });
    let (status, answer) = kit::http::request("POST", &worker.address(), "/connectors", &connector.to_string())?;
    ensure!(status == 201, "{answer}");
    archive::wait_committed(kafka, &format!("connect-{name}"), topic, || {
        let (_, status) = kit::http::get(&worker.address(), &format!("/connectors/{name}/status"))?;
        ensure!(!status.contains("FAILED"), "{status}");
        Ok(())
    })?;
    let cpu_s = measure::cpu_s(pid)? - before_s;
    let (files, stored_bytes) = archive::data_below(&bucket)?;
    let peak_rss_mb = measure::peak_rss_mb(pid);
    drop(worker);
    std::fs::remove_dir_all(bucket)?;
    kafka.delete_topic(&control)?;
    Ok(Line { cpu_s, peak_rss_mb, files, stored_bytes, ..Line::new(lines::PEER, topic) })
}

fn config(s3: &S3, topic: &Topic, name: &str, (control, catalog): (&str, &str)) -> Value {
    let bytes = "org.apache.kafka.connect.converters.ByteArrayConverter";
    json!({
        "connector.class": "org.apache.iceberg.connect.IcebergSinkConnector",
        "tasks.max": "2",
        "topics": topic.name,
        "key.converter": bytes,
        "value.converter": bytes,
        "transforms": "hoist,meta",
        "transforms.hoist.type": "org.apache.kafka.connect.transforms.HoistField$Value",
        "transforms.hoist.field": "value",
        "transforms.meta.type": "org.apache.iceberg.connect.transforms.KafkaMetadataTransform",
        "iceberg.tables": "bench.t",
        "iceberg.tables.auto-create-enabled": "true",
        "iceberg.control.topic": control,
        "iceberg.control.commit.interval-ms": "5000",
        "iceberg.catalog.type": "jdbc",
        "iceberg.catalog.uri": format!("jdbc:sqlite:{catalog}"),
        "iceberg.catalog.warehouse": format!("s3://{name}/lake"),
        "iceberg.catalog.io-impl": "org.apache.iceberg.aws.s3.S3FileIO",
        "iceberg.catalog.s3.endpoint": s3.endpoint(),
        "iceberg.catalog.s3.path-style-access": "true",
        "iceberg.catalog.s3.access-key-id": S3::ACCESS_KEY,
        "iceberg.catalog.s3.secret-access-key": S3::SECRET_KEY,
        "iceberg.catalog.http-client.type": "urlconnection",
        "iceberg.catalog.client.region": S3::REGION,
    })
}
