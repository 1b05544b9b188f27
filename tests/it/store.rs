//! The stores for real: one creator of a name wins, a doubt is settled by reading, what is wrong is said with the
//! remedy.
//!
//! Replies are cut and held by proxies between the client and the server, so a fault strikes exactly where a test says.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt;
use lakeferry::clock::SystemClock;
use lakeferry_api::{Kind, TopicPartition};
use lakeferry_lake::layout::Layout;
use lakeferry_lake::manifest::{ManifestStore, Outcome};
use lakeferry_lake::store::{self, Lake};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

use crate::kit::proxy::{Fault, HttpProxy, HttpRequest, TcpProxy};
use crate::kit::{self, Hdfs, HdfsOptions, S3, need};

fn layout() -> Layout {
    Layout::new("topics").unwrap()
}

fn orders() -> TopicPartition {
    TopicPartition::new("orders", 0)
}

fn manifests(lake: &Lake) -> ManifestStore {
    ManifestStore::new(Arc::clone(&lake.store), layout(), Arc::new(SystemClock::new())).finding(lake.names.clone())
}

/// An id that no other probe of this process has.
fn probe_id() -> u128 {
    static USED: AtomicU64 = AtomicU64::new(0);
    u128::from(USED.fetch_add(1, Ordering::SeqCst))
}

async fn names(store: &dyn ObjectStore) -> Vec<String> {
    let objects: Vec<_> = store.list(None).try_collect().await.unwrap();
    let mut names: Vec<String> = objects.into_iter().map(|meta| meta.location.to_string()).collect();
    names.sort();
    names
}

fn options(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

/// The folder `prefix` of a bucket at `endpoint`, with further options.
fn open_s3(endpoint: &str, bucket: &str, more: &[(&str, &str)]) -> Lake {
    let mut options = options(&[
        ("aws_endpoint", endpoint),
        ("aws_region", S3::REGION),
        ("aws_access_key_id", S3::ACCESS_KEY),
        ("aws_secret_access_key", S3::SECRET_KEY),
    ]);
    options.extend(more.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
    store::open(&format!("s3://{bucket}/pre/fix"), &options, None).unwrap()
}

fn open_hdfs(address: &str, folder: &str) -> Lake {
    store::open(&format!("hdfs://{address}/{folder}"), &options(&[("dfs.replication", "1")]), None).unwrap()
}

/// Both lakes are one place, opened twice. For each number all writers race; one wins, and everybody learns the truth.
async fn race(lakes: [Lake; 2], numbers: u64, writers: usize) {
    let stores = lakes.each_ref().map(manifests);
    for seq in 0..numbers {
        let bytes = |writer: usize| Bytes::from(format!("writer {writer} of number {seq}").repeat(100));
        let tries = (0..writers).map(|writer| {
            let store = stores[writer % 2].clone();
            async move { store.create(&orders(), seq, bytes(writer)).await.unwrap() }
        });
        let outcomes = futures::future::join_all(tries).await;
        let winners: Vec<usize> = (0..writers).filter(|writer| outcomes[*writer] == Outcome::Committed).collect();
        assert_eq!(winners.len(), 1, "{outcomes:?}");
        let found = stores[1].read_bytes(&orders(), seq).await.unwrap();
        assert_eq!(found, Some(bytes(winners[0])));
    }
    let expected: Vec<String> = (0..numbers).map(|seq| layout().entry(&orders(), seq).to_string()).collect();
    assert_eq!(names(&*lakes[0].store).await, expected, "and nothing else is left");
}

/// An object of several parts is invisible until it is complete, then whole; one that is given up leaves nothing.
async fn upload(lake: &Lake) {
    let path = Path::parse("topics/orders/partition=0/0-1-0-0b9f12ab.parquet").unwrap();
    let part = 5 << 20;
    let mut upload = lake.store.put_multipart(&path).await.unwrap();
    for byte in [1u8, 2] {
        upload.put_part(vec![byte; part].into()).await.unwrap();
    }
    upload.put_part(vec![3u8; 10].into()).await.unwrap();
    assert!(names(&*lake.store).await.is_empty(), "an upload under way is in no listing");
    upload.complete().await.unwrap();
    let found = lake.store.get(&path).await.unwrap().bytes().await.unwrap();
    assert!(found.len() == 2 * part + 10 && found[part - 1..=part] == [1, 2] && found.ends_with(&[3; 10]));
    assert_eq!(names(&*lake.store).await, [path.as_ref()]);

    let mut aborted = lake.store.put_multipart(&Path::from("topics/orders/other")).await.unwrap();
    aborted.put_part(vec![0u8; part].into()).await.unwrap();
    aborted.abort().await.unwrap();
    assert_eq!(names(&*lake.store).await, [path.as_ref()]);
    lake.store.delete(&path).await.unwrap();
}

#[tokio::test]
async fn s3_keeps_the_contract() {
    let s3 = need!(kit::s3());
    s3.create_bucket("store-contract").unwrap();
    let lakes = [(); 2].map(|()| open_s3(&s3.endpoint(), "store-contract", &[]));
    store::probe(&lakes[0].store, &layout(), probe_id()).await.unwrap();
    assert!(names(&*lakes[0].store).await.is_empty(), "the probe is removed");
    upload(&lakes[0]).await;
    race(lakes, 20, 8).await;
}

#[tokio::test]
async fn hdfs_keeps_the_contract() {
    let hdfs = need!(kit::hdfs());
    let lakes = [(); 2].map(|()| open_hdfs(&hdfs.rpc_address(), "store-contract/deep"));
    store::probe(&lakes[0].store, &layout(), probe_id()).await.unwrap();
    assert!(names(&*lakes[0].store).await.is_empty(), "the probe is removed");
    upload(&lakes[0]).await;
    race(lakes, 6, 4).await;
    assert!(!hdfs.list("/store-contract/deep/.tmp").unwrap().contains("pathSuffix"), "losers clean up");
}

fn is_manifest_put(request: &HttpRequest) -> bool {
    request.method == "PUT" && request.path.contains("/_manifests/")
}

#[tokio::test]
async fn s3_a_lost_reply_is_settled_by_reading() {
    let s3 = need!(kit::s3());
    s3.create_bucket("store-doubt").unwrap();
    let proxy = HttpProxy::start(s3.address()).unwrap();
    let ours = manifests(&open_s3(&proxy.url(), "store-doubt", &[]));
    let theirs = manifests(&open_s3(&s3.endpoint(), "store-doubt", &[]));
    let faults =
        [Fault::CutReply, Fault::CutRequest, Fault::Answer(503, String::new()), Fault::Answer(409, String::new())];
    for (seq, fault) in (0u64..).zip(faults) {
        let strike = proxy.fault_next(fault.clone(), is_manifest_put);
        let bytes = Bytes::from(format!("ours {seq}"));
        assert_eq!(ours.create(&orders(), seq, bytes.clone()).await.unwrap(), Outcome::Committed, "{fault:?}");
        assert_eq!(strike.count(), 1, "{fault:?}");
        assert_eq!(theirs.read_bytes(&orders(), seq).await.unwrap(), Some(bytes));

        // The same fault where another was first.
        let (seq, bytes) = (100 + seq, Bytes::from_static(b"theirs"));
        assert_eq!(theirs.create(&orders(), seq, bytes.clone()).await.unwrap(), Outcome::Committed);
        let strike = proxy.fault_next(fault.clone(), is_manifest_put);
        assert_eq!(ours.create(&orders(), seq, "ours".into()).await.unwrap(), Outcome::Lost, "{fault:?}");
        assert_eq!(strike.count(), 1, "{fault:?}");
        assert_eq!(theirs.read_bytes(&orders(), seq).await.unwrap(), Some(bytes));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn s3_a_put_that_lands_late_does_no_harm() {
    let s3 = need!(kit::s3());
    s3.create_bucket("store-late").unwrap();
    let proxy = HttpProxy::start(s3.address()).unwrap();
    let ours = manifests(&open_s3(&proxy.url(), "store-late", &[("timeout", "1 second")]));
    let theirs = manifests(&open_s3(&s3.endpoint(), "store-late", &[]));
    let landed = |held: kit::proxy::Strike, puts: usize| {
        held.release();
        let answered = |request: &HttpRequest| is_manifest_put(request) && request.status.is_some();
        kit::wait_until("the held put lands", Duration::from_secs(20), || proxy.count(answered) == puts).unwrap();
        proxy.clear();
    };

    let held = proxy.fault_next(Fault::Hold, is_manifest_put);
    assert_eq!(ours.create(&orders(), 0, "ours".into()).await.unwrap(), Outcome::Committed);
    landed(held, 2);
    assert_eq!(theirs.read_bytes(&orders(), 0).await.unwrap(), Some("ours".into()));

    // While ours is on its way another takes the number: ours is refused when it lands, and we know it before.
    let held = proxy.fault_next(Fault::Hold, is_manifest_put);
    let waiting = async {
        held.clone().wait_struck(Duration::from_secs(20)).unwrap();
        theirs.create(&orders(), 1, "theirs".into()).await.unwrap()
    };
    let (lost, won) = {
        let ours = ours.clone();
        let ours = tokio::task::spawn_blocking(move || {
            tokio::runtime::Handle::current().block_on(ours.create(&orders(), 1, "ours".into()))
        });
        let won = waiting.await;
        (ours.await.unwrap().unwrap(), won)
    };
    assert_eq!((lost, won), (Outcome::Lost, Outcome::Committed));
    landed(held, 1);
    assert_eq!(theirs.read_bytes(&orders(), 1).await.unwrap(), Some("theirs".into()));
}

#[tokio::test]
async fn s3_reading_an_archive_writes_nothing() {
    let s3 = need!(kit::s3());
    s3.create_bucket("store-reader").unwrap();
    let proxy = HttpProxy::start(s3.address()).unwrap();
    let manifests = manifests(&open_s3(&proxy.url(), "store-reader", &[]));
    assert!(manifests.end(&orders()).await.unwrap().is_none());
    let archive = lakeferry_lake::manifest::read::Archive::new(manifests);
    assert!(archive.topics().await.unwrap().is_empty());
    assert!(archive.chain(&orders()).await.unwrap().is_none());
    assert!(proxy.count(|_| true) > 0);
    assert_eq!(proxy.count(HttpRequest::is_write), 0, "{:?}", proxy.requests());
}

#[tokio::test]
async fn s3_lists_the_objects_of_others_no_further_than_it_must() {
    let s3 = need!(kit::s3());
    let bucket = s3.create_bucket("store-others").unwrap();
    let folder = bucket.join("pre/fix/topics/orders/partition=0");
    std::fs::create_dir_all(&folder).unwrap();
    // Before and behind names of ours, as a listing sorts them.
    let others = (0..3_500).flat_map(|n| [format!("+orders+0+{n:010}.avro"), format!("orders+0+{n:010}.avro")]);
    for name in others {
        std::fs::write(folder.join(name), "").unwrap();
    }
    let proxy = HttpProxy::start(s3.address()).unwrap();
    let manifests = manifests(&open_s3(&proxy.url(), "store-others", &[]));
    let listings = || proxy.count(|request| request.path.contains("list-type=2"));
    assert!(manifests.end(&orders()).await.unwrap().is_none());
    assert!(listings() <= 4, "{:?}", proxy.requests());

    let ours = "00000000000000000000-0000000001-0-0b9f12ab.parquet";
    std::fs::write(folder.join(ours), "").unwrap();
    proxy.clear();
    let error = manifests.end(&orders()).await.unwrap_err();
    assert!(error.kind() == Kind::Fatal && error.message().contains(ours), "{error}");
    assert!(listings() <= 3, "{:?}", proxy.requests());
}

#[tokio::test]
async fn s3_says_what_is_wrong_and_the_remedy() {
    let s3 = need!(kit::s3());
    s3.create_bucket("store-wrong").unwrap();
    let cases = [
        ("store-wrong", [("aws_secret_access_key", "wrong")], "SignatureDoesNotMatch: ", "store.aws_secret_access_key"),
        ("store-wrong", [("aws_access_key_id", "nobody")], "UserNotFound: ", "store.aws_access_key_id"),
        (
            "store-none",
            [("aws_region", "us-east-1")],
            "NoSuchBucket: ",
            "create it, or correct the bucket in store.url",
        ),
    ];
    let is_xml = |text: &str| ["<?xml", "<Error", "<Code"].iter().any(|tag| text.contains(tag));
    for (bucket, wrong, code, remedy) in cases {
        let lake = open_s3(&s3.endpoint(), bucket, &wrong);
        let error = store::probe(&lake.store, &layout(), probe_id()).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Config, "{error}");
        // The one line says all, and nobody is shown XML.
        let request = format!("(PUT {}/{bucket}/pre/fix/topics/.probe-", s3.endpoint());
        for part in ["cannot write topics/.probe-", code, &request, remedy] {
            assert!(error.message().contains(part), "{part}: {error}");
        }
        assert!(!is_xml(&error.trace()) && error.message().len() < 600, "{}", error.trace());
        // Whoever meets it later is told the same.
        let error = manifests(&lake).end(&orders()).await.unwrap_err();
        assert!(error.kind() == Kind::Config && !is_xml(&error.trace()), "{}", error.trace());
    }
}

#[tokio::test]
async fn a_store_that_is_away_is_retriable_in_bounded_time() {
    let s3 = need!(kit::s3());
    let proxy = HttpProxy::start(s3.address()).unwrap();
    proxy.refuse();
    let lakes = [open_s3(&proxy.url(), "any", &[]), open_hdfs(&proxy.address(), "any")];
    let probes = lakes.map(|lake| async move {
        let error = store::probe(&lake.store, &layout(), probe_id()).await.unwrap_err();
        assert!(error.is_retriable(), "{}", error.trace());
        assert!(error.message().contains("topics/.probe-"), "{error}");
    });
    let bounded = tokio::time::timeout(Duration::from_secs(120), futures::future::join_all(probes));
    bounded.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn hdfs_a_lost_reply_is_settled_by_reading() {
    let hdfs = need!(kit::hdfs());
    let proxy = TcpProxy::start(hdfs.rpc_address()).unwrap();
    let ours = manifests(&open_hdfs(&proxy.address(), "store-doubt"));
    let theirs = manifests(&open_hdfs(&hdfs.rpc_address(), "store-doubt"));
    // The first rename ends the staging of the bytes, the second gives them their number.
    let faults = [("rename2", 1), ("rename2", 2), ("mkdirs", 1), ("complete", 1), ("addBlock", 1)];
    for (seq, (method, nth)) in (0u64..).zip(faults) {
        let cut = proxy.cut_reply(method, nth);
        let bytes = Bytes::from(format!("ours {seq}"));
        assert_eq!(ours.create(&orders(), seq, bytes.clone()).await.unwrap(), Outcome::Committed, "{method} {nth}");
        assert!(cut.has_struck(), "{method} {nth}");
        assert_eq!(theirs.read_bytes(&orders(), seq).await.unwrap(), Some(bytes));
    }
    let taken = faults.len() as u64;
    assert_eq!(theirs.create(&orders(), taken, "theirs".into()).await.unwrap(), Outcome::Committed);
    let cut = proxy.cut_reply("rename2", 2);
    assert_eq!(ours.create(&orders(), taken, "ours".into()).await.unwrap(), Outcome::Lost);
    assert!(cut.has_struck());
    assert_eq!(theirs.read_bytes(&orders(), taken).await.unwrap(), Some("theirs".into()));
}

/// Takes numbers from 0 on, one after the other, until `numbers` are taken; the result is those it got.
async fn append(store: ManifestStore, writer: usize, numbers: u64, progress: Arc<AtomicU64>) -> Vec<u64> {
    let mut won = Vec::new();
    for seq in 0..numbers {
        let frozen = Bytes::from(format!("writer {writer} of number {seq}").repeat(50));
        let outcome = loop {
            match store.create(&orders(), seq, frozen.clone()).await {
                Ok(outcome) => break outcome,
                Err(error) => assert!(error.is_retriable(), "{}", error.trace()),
            }
        };
        if outcome == Outcome::Committed {
            won.push(seq);
        }
        progress.fetch_max(seq, Ordering::SeqCst);
    }
    won
}

#[tokio::test(flavor = "multi_thread")]
async fn hdfs_a_name_node_that_dies_in_the_middle_loses_nothing() {
    const NUMBERS: u64 = 18;
    let mut hdfs = need!(Hdfs::start(HdfsOptions::default()));
    let progress = Arc::new(AtomicU64::new(0));
    let lakes: Vec<Lake> = (0..3).map(|_| open_hdfs(&hdfs.rpc_address(), "lake")).collect();
    let writers: Vec<_> = lakes
        .iter()
        .enumerate()
        .map(|(writer, lake)| append(manifests(lake), writer, NUMBERS, Arc::clone(&progress)))
        .map(|writer| {
            let runtime = tokio::runtime::Handle::current();
            tokio::task::spawn_blocking(move || runtime.block_on(writer))
        })
        .collect();
    for reached in [3, 9] {
        let passed = || progress.load(Ordering::SeqCst) >= reached;
        kit::wait_until("the writers go on", Duration::from_secs(120), passed).unwrap();
        hdfs.kill_name_node();
        hdfs.restart().unwrap();
    }
    let won: Vec<Vec<u64>> = futures::future::join_all(writers).await.into_iter().map(Result::unwrap).collect();

    let mut all: Vec<u64> = won.iter().flatten().copied().collect();
    all.sort_unstable();
    assert_eq!(all, (0..NUMBERS).collect::<Vec<_>>(), "every number has one winner who knows it");
    let store = manifests(&lakes[0]);
    for (writer, won) in won.iter().enumerate() {
        for seq in won {
            let expected = Bytes::from(format!("writer {writer} of number {seq}").repeat(50));
            assert_eq!(store.read_bytes(&orders(), *seq).await.unwrap(), Some(expected));
        }
    }
    let expected: Vec<String> = (0..NUMBERS).map(|seq| layout().entry(&orders(), seq).to_string()).collect();
    assert_eq!(names(&*lakes[0].store).await, expected, "no half-written file is in a listing");
}

#[tokio::test]
async fn hadoop_s_configuration_names_the_name_node() {
    let hdfs = need!(kit::hdfs());
    let conf = hdfs.conf_dir();
    let conf = conf.to_str().unwrap();
    let lake = store::open("hdfs:///store-conf", &options(&[]), Some(conf)).unwrap();
    store::probe(&lake.store, &layout(), probe_id()).await.unwrap();

    // A name service of two NameNodes, the first of them dead.
    let (address, dead) = (hdfs.rpc_address(), TcpProxy::start(hdfs.rpc_address()).unwrap());
    dead.refuse();
    let service = options(&[
        ("dfs.ha.namenodes.lake", "nn1,nn2"),
        ("dfs.namenode.rpc-address.lake.nn1", &dead.address()),
        ("dfs.namenode.rpc-address.lake.nn2", &address),
    ]);
    let lake = store::open("hdfs://lake/store-conf", &service, None).unwrap();
    store::probe(&lake.store, &layout(), probe_id()).await.unwrap();
    assert!(names(&*lake.store).await.is_empty());
}

#[expect(clippy::print_stderr, reason = "says why nothing was tested")]
fn say_skipped(why: &str) {
    eprintln!("skipped: {why}");
}

/// A mount of 512 KiB, in a mount namespace of its own, so that no rights are needed and nothing is left behind.
#[test]
fn a_full_disk_is_named_and_outlived() {
    let unshare = |arguments: &[&str]| {
        Command::new("unshare").args(["--user", "--map-root-user", "--mount"]).args(arguments).output()
    };
    if !unshare(&["true"]).is_ok_and(|output| output.status.success()) {
        // Not the kit's to mend: a container may forbid it.
        say_skipped("this system lets nobody mount a small file system");
        return;
    }
    let folder = kit::home::instance_dir("small-disk").unwrap();
    let mount_and_test =
        "mount -t tmpfs -o size=512k none \"$0\" && exec \"$1\" --exact store::on_a_small_disk --ignored";
    let program = std::env::current_exe().unwrap();
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", mount_and_test])
        .args([folder.as_os_str(), program.as_os_str()])
        .env("LAKEFERRY_SMALL_DISK", &folder)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
#[ignore = "a_full_disk_is_named_and_outlived runs it on a small disk"]
async fn on_a_small_disk() {
    // The other half of the test above: alone it has nothing to stand on.
    let Some(folder) = std::env::var_os("LAKEFERRY_SMALL_DISK").map(std::path::PathBuf::from) else { return };
    let lake = store::open(&format!("file://{}", folder.display()), &options(&[]), None).unwrap();
    let store = manifests(&lake);
    store::probe(&lake.store, &layout(), probe_id()).await.unwrap();
    assert_eq!(store.create(&orders(), 0, "first".into()).await.unwrap(), Outcome::Committed);

    let ballast = folder.join("ballast");
    let filled = std::fs::write(&ballast, vec![0u8; 1 << 20]);
    assert_eq!(filled.unwrap_err().kind(), std::io::ErrorKind::StorageFull);
    let error = store.create(&orders(), 1, vec![1u8; 50_000].into()).await.unwrap_err();
    assert!(error.is_retriable(), "{}", error.trace());
    for said in ["00000000000000000001.json", "the disk is full: free space there"] {
        assert!(error.trace().contains(said), "{}", error.trace());
    }
    let mut upload = lake.store.put_multipart(&Path::from("topics/orders/data")).await.unwrap();
    let part = upload.put_part(vec![2u8; 50_000].into()).await;
    let error = store::explain("write topics/orders/data", part.unwrap_err());
    assert!(error.is_retriable() && error.message().contains("the disk is full"), "{error}");
    drop(upload);

    std::fs::remove_file(ballast).unwrap();
    assert_eq!(store.create(&orders(), 1, vec![1u8; 50_000].into()).await.unwrap(), Outcome::Committed);
    assert_eq!(names(&*lake.store).await.len(), 2, "of what failed nothing is there");
    let is_empty = || std::fs::read_dir(folder.join(".tmp")).unwrap().next().is_none();
    kit::wait_until("what failed is cleaned up", Duration::from_secs(10), is_empty).unwrap();
}
