//! The first crossing, end to end: a year of flights goes to S3 as Parquet and to HDFS as Avro at once, the topic is
//! lost, and half of the year comes back. The page `docs/crossing.md` tells the same story for readers.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::journey::{Worker, run, s3_settings};
use crate::kit::{self, need};

const FLIGHTS: i64 = 336_776;
const HALF_YEAR: &str = "2013-06-30T23:59:59.999Z";
const HALF_YEAR_MS: &str = "1372636799999";
const LIMIT: Duration = Duration::from_secs(300);

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/crossing").join(name)
}

/// A sink connector of `topic`, in the form that connector files and POST take.
fn sink(name: &str, topic: &str, settings: &[(String, String)]) -> Value {
    let mut config = Map::new();
    let fixed =
        [("connector.class", "LakeSink"), ("tasks.max", "2"), ("rotate.age.ms", "2000"), ("flush.size", "40000")];
    config.extend(fixed.map(|(key, value)| (key.to_owned(), json!(value))));
    config.insert("topics".to_owned(), json!(topic));
    config.extend(settings.iter().map(|(key, value)| (key.clone(), json!(value))));
    json!({ "name": name, "config": config })
}

/// The paths of all files that the manifests below `topic_dir` name, relative to `topics.dir`.
fn manifest_files(manifests: impl IntoIterator<Item = String>) -> Vec<String> {
    let entries = manifests.into_iter().map(|text| serde_json::from_str::<Value>(&text).unwrap());
    let files = |entry: &Value| entry["files"].as_array().cloned().unwrap_or_default();
    let paths = entries.flat_map(|entry| files(&entry)).map(|file| file["path"].as_str().unwrap().to_owned());
    paths.collect()
}

fn texts_below(folder: &Path) -> Vec<String> {
    let mut texts = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        if entry.path().is_dir() {
            texts.extend(texts_below(&entry.path()));
        } else {
            texts.push(std::fs::read_to_string(entry.path()).unwrap());
        }
    }
    texts
}

#[test]
fn flights_cross_to_s3_and_hdfs_and_half_of_them_come_back() {
    let (kafka, s3) = (need!(kit::kafka()), need!(kit::s3()));
    let (hdfs, python) = (need!(kit::hdfs()), need!(kit::python()));
    let (topic, bootstrap) = ("crossing-flights", kafka.bootstrap());
    let scratch = kit::home::instance_dir("crossing").unwrap();
    let truth = scratch.join("truth").display().to_string();
    kafka.create_topic(topic, 6, &[("retention.ms", "-1")]).unwrap();
    let produced = python.run(&script("produce.py"), &[&bootstrap, topic, &truth], LIMIT).unwrap();
    assert_eq!(produced.trim(), FLIGHTS.to_string());

    let bucket = s3.create_bucket("crossing").unwrap();
    let on_hdfs = [
        ("store.url".to_owned(), format!("{}/crossing", hdfs.url())),
        ("format".to_owned(), "archive.avro".to_owned()),
    ];
    let connectors = [sink("to-s3", topic, &s3_settings(s3, "crossing")), sink("to-hdfs", topic, &on_hdfs)];
    let mut worker = Worker::start(&bootstrap, &[], &connectors);
    worker.wait_archived("to-s3", 1, LIMIT);
    worker.kill();
    worker.restart();
    worker.wait_archived("to-s3", FLIGHTS / 3, LIMIT);
    worker.stop();
    worker.restart();
    for connector in ["to-s3", "to-hdfs"] {
        worker.wait_archived(connector, FLIGHTS, LIMIT);
    }
    worker.stop();

    let topics_dir = bucket.join("lake/topics");
    let parquet = manifest_files(texts_below(&topics_dir.join(topic).join("_manifests")));
    let parquet: Vec<_> = parquet.iter().map(|path| topics_dir.join(path).display().to_string()).collect();
    assert_eq!(count(python, "parquet", &truth, &parquet), FLIGHTS);
    let avro = fetch_from_hdfs(hdfs, topic, &scratch);
    assert_eq!(count(python, "avro", &truth, &avro), FLIGHTS);

    kafka.delete_topic(topic).unwrap();
    let store = scratch.join("store.properties");
    let settings = s3_settings(s3, "crossing");
    let lines = settings.iter().filter_map(|(key, value)| Some(format!("{}={value}", key.strip_prefix("store.")?)));
    std::fs::write(&store, lines.filter(|line| !line.starts_with("url=")).collect::<Vec<_>>().join("\n")).unwrap();
    let rename = format!("{topic}=restored-flights");
    let (code, out, err) = run(&[
        "restore",
        "s3://crossing/lake",
        "--bootstrap-server",
        &bootstrap,
        "--store-config",
        &store.display().to_string(),
        "--topic",
        topic,
        "--rename",
        &rename,
        "--until",
        HALF_YEAR,
        "--yes",
    ]);
    assert_eq!(code, 0, "{out}\n{err}");
    let arguments = [bootstrap.as_str(), "restored-flights", &truth, HALF_YEAR_MS];
    let found = python.run(&script("consume.py"), &arguments, LIMIT).unwrap();
    assert_eq!(found.trim(), "166054", "flights up to the end of June");
}

fn count(python: &kit::Python, form: &str, truth: &str, files: &[String]) -> i64 {
    let arguments: Vec<_> = [form.to_owned(), truth.to_owned()].into_iter().chain(files.iter().cloned()).collect();
    python.run(&script("count.py"), &arguments, LIMIT).unwrap().trim().parse().unwrap()
}

/// Copies every archived file of `topic` that a manifest names out of HDFS.
fn fetch_from_hdfs(hdfs: &kit::Hdfs, topic: &str, scratch: &Path) -> Vec<String> {
    let python = kit::python().unwrap();
    let arguments = [hdfs.webhdfs(), "/crossing/topics".to_owned(), topic.to_owned(), scratch.display().to_string()];
    let listed = python.run(&script("fetch.py"), &arguments, LIMIT).unwrap();
    listed.lines().map(str::to_owned).collect()
}
