//! `lakeferry sweep` and `inspect` on real stores: what dead writers left goes, what is named or may be published
//! stays.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use futures::{StreamExt, TryStreamExt, stream};
use lakeferry::clock::SystemClock;
use lakeferry_api::{Clock, TopicPartition};
use lakeferry_lake::layout::{Layout, ObjectName};
use lakeferry_lake::store::leftovers::StagedFile;
use lakeferry_lake::store::{self, Lake as Store};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use serde_json::Value;

use crate::journey::{Worker, run, s3_settings};
use crate::kit::proxy::{Fault, HttpProxy};
use crate::kit::{self, need};
use crate::lake::{Lake, sink};
use crate::topic::{produce, records};

const SOON: Duration = Duration::from_secs(60);

/// A topic of one partition with 20 records, archived by two epochs.
fn archive(kafka: &kit::Kafka, topic: &str, settings: &[(&str, &str)]) {
    kafka.create_topic(topic, 1, &[("retention.ms", "-1")]).unwrap();
    produce(&kafka.bootstrap(), topic, 0, &records(10));
    let mut worker = Worker::start(&kafka.bootstrap(), &[], &[sink(topic, topic, settings)]);
    worker.wait_archived(topic, 10, SOON);
    worker.stop();
    produce(&kafka.bootstrap(), topic, 0, &records(10));
    worker.restart();
    worker.wait_archived(topic, 20, SOON);
    worker.stop();
}

/// The data object that a writer of `epoch` might have left.
fn orphan(topic: &str, epoch: u32) -> Path {
    let name = ObjectName { first_offset: 3, epoch, n: 77, writer: 0xdead_0001, extension: "parquet".into() };
    Layout::new("topics").unwrap().data(&TopicPartition::new(topic, 0), &name)
}

async fn names(store: &dyn ObjectStore) -> Vec<String> {
    let mut names: Vec<_> = store.list(None).map_ok(|meta| meta.location.to_string()).try_collect().await.unwrap();
    names.sort();
    names
}

/// Begins an upload in parts and dies.
async fn die_uploading(store: &dyn ObjectStore, path: &Path) {
    let mut upload = store.put_multipart(path).await.unwrap();
    upload.put_part(vec![7; 5 << 20].into()).await.unwrap();
    // Who is dead does not tidy up.
    std::mem::forget(upload);
}

/// Runs a command that prints JSON; its exit code and the document.
fn json(arguments: &[&str]) -> (i32, Value) {
    let (code, out, err) = run(&[arguments, &["--json"]].concat());
    (code, serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}\n{err}")))
}

/// The paths in a list of leftovers, of a kind, sorted.
fn paths(leftovers: &Value, kind: &str) -> Vec<String> {
    let of_kind = leftovers.as_array().unwrap().iter().filter(|leftover| leftover["kind"] == kind);
    let mut paths: Vec<_> = of_kind.map(|leftover| leftover["path"].as_str().unwrap().to_owned()).collect();
    paths.sort();
    paths
}

/// `inspect` lists `staged`, two files of which the last epoch has begun one; of the other it tells `fate`.
fn assert_inspect_lists(url: &str, staged: &[StagedFile], fate: &str) {
    let mut expected: Vec<_> = staged.iter().map(|file| file.name.clone()).collect();
    expected.sort();
    let (code, found) = json(&["inspect", url]);
    assert_eq!((code, paths(&found[0]["partitions"][0]["unreferenced"], "staged_file")), (0, expected));
    let (code, out, err) = run(&["inspect", url]);
    assert_eq!(code, 0, "{out}\n{err}");
    for (epoch, fate) in [(1, fate), (2, "its epoch is the last one, whose writer may publish it yet")] {
        let name = orphan("of any topic", epoch).filename().unwrap().to_owned();
        let line = out.lines().find(|line| line.contains("no manifest names staged file") && line.contains(&name));
        assert!(line.is_some_and(|line| line.contains(fate)), "{name}: {fate}\n{out}");
    }
}

fn two_hours_ago_ms() -> u64 {
    (SystemClock::new().now_ms() - 7_200_000) as u64
}

fn relative(path: &Path) -> String {
    path.as_ref().strip_prefix("topics/").unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn s3_objects_and_uploads_of_dead_epochs_go() {
    let (kafka, s3) = (need!(kit::kafka()), need!(kit::s3()));
    let (topic, bucket) = ("sweep-s3", "sweep");
    s3.create_bucket(bucket).unwrap();
    let settings = s3_settings(s3, bucket);
    let pairs: Vec<_> = settings.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    archive(kafka, topic, &pairs);
    let options = settings.iter().filter_map(|(key, value)| Some((key.strip_prefix("store.")?.into(), value.clone())));
    let options = options.filter(|(key, _): &(String, String)| key != "url").collect();
    let url = format!("s3://{bucket}/lake");
    let Store { store, leftovers, .. } = store::open(&url, &options, None).unwrap();
    let file = kit::home::instance_dir("sweep").unwrap().join("store.properties");
    let lines: String = options.iter().map(|(key, value)| format!("{key}={value}\n")).collect();
    std::fs::write(&file, lines).unwrap();
    let config = ["--store-config", file.to_str().unwrap()];

    let whole = names(&*store).await;
    for epoch in [1, 2] {
        store.put(&orphan(topic, epoch), "left".into()).await.unwrap();
        die_uploading(&*store, &orphan(topic, epoch)).await;
    }
    // More than a page of a listing, and uploads outside of any partition's folder, which are nobody's business.
    let elsewhere = Path::from("topics/sweep-s3-too/other");
    let many: Vec<_> = (0..1_005).map(|n| elsewhere.clone().join(n.to_string())).collect();
    let many = stream::iter(many.iter().map(|path| store.put_multipart(path)));
    let many: Vec<_> = many.buffer_unordered(8).try_collect().await.unwrap();
    let littered = names(&*store).await;

    let (code, found) = json(&[&["inspect", &url], &config[..]].concat());
    assert_eq!(code, 0);
    let unreferenced = &found[0]["partitions"][0]["unreferenced"];
    let both = [relative(&orphan(topic, 1)), relative(&orphan(topic, 2))];
    assert_eq!([paths(unreferenced, "object"), paths(unreferenced, "upload")], [both.clone(), both.clone()]);
    let (code, out, _) = run(&[&["inspect", &url], &config[..]].concat());
    assert!(code == 0 && out.contains("unfinished upload of") && out.contains("`lakeferry sweep` removes it"), "{out}");

    let (code, told) = json(&[&["sweep", &url, "--dry-run"], &config[..]].concat());
    assert_eq!((code, names(&*store).await), (0, littered), "a dry run removes nothing");
    let (code, swept) = json(&[&["sweep", &url], &config[..]].concat());
    assert_eq!((code, &swept["ok"]), (0, &Value::Bool(true)));
    for list in ["removed", "kept"] {
        assert_eq!(told[list], swept[list]);
    }
    let one = [relative(&orphan(topic, 1))];
    assert_eq!([paths(&swept["removed"], "object"), paths(&swept["removed"], "upload")], [one.clone(), one.clone()]);
    assert_eq!(swept["removed_bytes"], 4);
    let mut left = whole.clone();
    left.push(orphan(topic, 2).to_string());
    left.sort();
    assert_eq!(names(&*store).await, left);
    let uploads = leftovers.uploads.as_ref().unwrap();
    let open = uploads.list(&Path::from("topics")).await.unwrap();
    let [theirs, ours]: [Vec<_>; 2] = [true, false]
        .map(|theirs| open.iter().filter(|upload| upload.path.prefix_matches(&elsewhere) == theirs).collect());
    assert_eq!((theirs.len(), ours.len(), &ours[0].path), (many.len(), 1, &orphan(topic, 2)));
    for mut upload in many {
        upload.abort().await.unwrap();
    }

    a_hidden_listing_hides_nothing_else(s3, &url, &file);
    let (code, out, err) = run(&[&["verify", &url, "--level", "content"], &config[..]].concat());
    assert_eq!(code, 0, "{out}\n{err}");
}

/// A user without the right to list uploads is told so, and served all the same.
fn a_hidden_listing_hides_nothing_else(s3: &kit::S3, url: &str, config: &std::path::Path) {
    let proxy = HttpProxy::start(s3.address()).unwrap();
    let denied = Fault::Answer(403, "<Error><Code>AccessDenied</Code></Error>".to_owned());
    let denied = proxy.fault_times(usize::MAX, denied, |request| request.path.contains("uploads="));
    let by_proxy = config.with_extension("by-proxy");
    std::fs::write(&by_proxy, std::fs::read_to_string(config).unwrap().replace(&s3.endpoint(), &proxy.url())).unwrap();
    for command in ["inspect", "sweep"] {
        let (code, out, err) = run(&[command, url, "--store-config", by_proxy.to_str().unwrap()]);
        assert!(code == 0 && out.contains("unfinished uploads were not looked at"), "{code} {out}\n{err}");
    }
    assert!(denied.count() >= 2);
}

#[test]
fn file_staged_files_and_objects_of_dead_epochs_go() {
    let kafka = need!(kit::kafka());
    let (topic, lake) = ("sweep-file", Lake::new());
    archive(kafka, topic, &[("store.url", &lake.url())]);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let Store { store, leftovers, .. } = store::open(&lake.url(), &Default::default(), None).unwrap();
    let whole = runtime.block_on(names(&*store));
    runtime.block_on(async {
        store.put(&orphan(topic, 1), "left".into()).await.unwrap();
        for epoch in [1, 2] {
            die_uploading(&*store, &orphan(topic, epoch)).await;
        }
    });
    let staging = Arc::clone(leftovers.staging.as_ref().unwrap());
    let staged = || runtime.block_on(staging.list()).unwrap();
    assert_eq!(staged().len(), 2);
    assert_inspect_lists(&lake.url(), &staged(), "its writer may be at it this moment");
    let (code, swept) = json(&["sweep", &lake.url()]);
    let one = [relative(&orphan(topic, 1))];
    assert_eq!((code, paths(&swept["removed"], "object").as_slice()), (0, one.as_slice()));
    assert_eq!((staged().len(), runtime.block_on(names(&*store))), (2, whole), "staged files are young");

    let then = UNIX_EPOCH + Duration::from_millis(two_hours_ago_ms());
    for file in staged() {
        let file = std::fs::File::options().write(true).open(lake.dir.join(".tmp").join(file.name)).unwrap();
        file.set_modified(then).unwrap();
    }
    assert_inspect_lists(&lake.url(), &staged(), "`lakeferry sweep` removes it");
    let (code, out, err) = run(&["sweep", &lake.url()]);
    assert!(
        code == 0 && out.contains("removed staged file") && out.contains("1 staged files and 0 probes of 5.0 MiB"),
        "{out}{err}"
    );
    let [alive] = &staged()[..] else { panic!("{:?}", staged()) };
    assert!(alive.name.contains(orphan(topic, 2).filename().unwrap()), "{}", alive.name);

    let end = lake.chain(topic, 0).pop().unwrap();
    std::fs::write(end, "{").unwrap();
    let (code, out, _) = run(&["sweep", &lake.url()]);
    assert!(code == 1 && out.contains("sweep-file-0: DAMAGED"), "{code} {out}");
    assert_eq!(staged().len(), 1);
    let (code, _, err) = run(&["sweep", &lake.url(), "--topic", "none"]);
    assert!(code == 2 && err.contains("sweep-file"), "{code} {err}");
}

#[test]
fn hdfs_staged_files_and_objects_of_dead_epochs_go() {
    let (kafka, hdfs) = (need!(kit::kafka()), need!(kit::hdfs()));
    let (topic, url) = ("sweep-hdfs", format!("{}/sweep", hdfs.url()));
    archive(kafka, topic, &[("store.url", &url)]);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let open = || store::open(&url, &[("dfs.replication".to_owned(), "1".to_owned())].into(), None).unwrap();
    let Store { store, leftovers, .. } = runtime.block_on(async { open() });
    let whole = runtime.block_on(names(&*store));
    runtime.block_on(async {
        store.put(&orphan(topic, 1), "left".into()).await.unwrap();
        for epoch in [1, 2] {
            die_uploading(&*store, &orphan(topic, epoch)).await;
        }
    });
    let staging = Arc::clone(leftovers.staging.as_ref().unwrap());
    let staged = || runtime.block_on(staging.list()).unwrap();
    let before = staged();
    assert!(before.len() == 2 && before.iter().all(|file| file.purpose.is_some()), "{before:?}");
    let then_ms = two_hours_ago_ms();
    for file in before {
        let path = format!("/webhdfs/v1/sweep/.tmp/{}?op=SETTIMES&modificationtime={then_ms}&user.name=kit", file.name);
        let (status, answer) = kit::http::request("PUT", &hdfs.http_address(), &path, "").unwrap();
        assert_eq!(status, 200, "{answer}");
    }
    assert_inspect_lists(&url, &staged(), "`lakeferry sweep` removes it");
    let (code, swept) = json(&["sweep", &url]);
    let one = [relative(&orphan(topic, 1))];
    assert_eq!((code, paths(&swept["removed"], "object").as_slice()), (0, one.as_slice()));
    assert_eq!(paths(&swept["removed"], "staged_file").len(), 1, "{swept:#}");
    let [alive] = &staged()[..] else { panic!("{:?}", staged()) };
    assert!(alive.name.contains(orphan(topic, 2).filename().unwrap()), "{}", alive.name);
    assert_eq!(runtime.block_on(names(&*store)), whole);
    let (code, out, err) = run(&["verify", &url, "--level", "content"]);
    assert_eq!(code, 0, "{out}\n{err}");
}
