use lakeferry_api::Kind;
use object_store::path::Path;
use object_store::{ObjectStoreExt, PutMode};

use super::*;

fn options(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn refused(url: &str, pairs: &[(&str, &str)], conf: Option<&str>) -> String {
    let error = open(url, &options(pairs), conf).unwrap_err();
    assert_eq!(error.kind(), Kind::Config, "{error}");
    error.message().to_owned()
}

#[tokio::test]
async fn wrong_settings_are_named_with_the_remedy() {
    let missing = std::env::temp_dir().join("lakeferry-no-such-folder");
    let missing = format!("file://{}", missing.display());
    let spaced = "file:///lakeferry-no%20such%20folder%20of%20'mine'";
    type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], Option<&'a str>, &'a [&'a str]);
    let cases: [Case; 18] = [
        ("", &[], None, &["store.url=", "empty", "s3://bucket/prefix"]),
        ("ftp://host/dir", &[], None, &["ftp://", "file, s3"]),
        ("gs://bucket/prefix", &[], None, &["not built in yet"]),
        ("abfss://c@a.dfs.core.windows.net/d", &[], None, &["user name"]),
        ("s3://key:secret@bucket/prefix", &[], None, &["store.<option>"]),
        ("s3:///prefix", &[], None, &["s3:///prefix"]),
        ("s3://bucket", &[("aws_colour", "blue")], None, &["store.aws_colour", "s3://"]),
        ("s3://bucket", &[("aws_skip_signature", "perhaps")], None, &["store.aws_skip_signature", "perhaps"]),
        ("s3://b", &[("aws_endpoint", "127.0.0.1:9000")], None, &["store.aws_endpoint=127.0.0.1:9000", "http://127"]),
        (
            "s3://b",
            &[("aws_endpoint_url_s3", "s3:9000")],
            None,
            &["store.aws_endpoint_url_s3=s3:9000", "https://s3:9000"],
        ),
        ("s3://b", &[("aws_endpoint", "http://")], None, &["store.aws_endpoint=http://", "is no URL"]),
        ("s3://b", &[("aws_endpoint", "http://h:1 ")], None, &["store.aws_endpoint", "write it as http://h:1/"]),
        ("file:///tmp", &[("aws_region", "eu")], None, &["store.aws_region"]),
        ("file://tmp/dir", &[], None, &["file:///dir"]),
        (&missing, &[], None, &["no such folder", "(mkdir -p /"]),
        (spaced, &[], None, &[r"(mkdir -p '/lakeferry-no such folder of '\''mine'\''')"]),
        ("hdfs://nowhere/dir", &[], None, &["hdfs://nowhere/dir", "hadoop.conf.dir"]),
        ("hdfs://localhost:1/dir", &[], Some("/no/such/conf"), &["hadoop.conf.dir=/no/such/conf"]),
    ];
    for (url, pairs, conf, expected) in cases {
        let message = refused(url, pairs, conf);
        for part in expected {
            assert!(message.contains(part), "{message}");
        }
        assert!(!message.contains("secret"), "{message}");
    }
}

#[tokio::test]
async fn every_scheme_opens() {
    let s3 = [("aws_endpoint", "http://127.0.0.1:1"), ("aws_access_key_id", "a"), ("aws_secret_access_key", "b")];
    open("s3://bucket/pre/fix", &options(&s3), None).unwrap();
    let hdfs = [("user", "alice"), ("dfs.replication", "1")];
    open("hdfs://127.0.0.1:1/lake", &options(&hdfs), None).unwrap();
    open("memory:///x", &options(&[]), None).unwrap();
    open(&format!("file://{}", std::env::temp_dir().display()), &options(&[]), None).unwrap();
    open(&std::env::temp_dir().to_string_lossy(), &options(&[]), None).unwrap();
}

#[tokio::test]
async fn a_memory_store_is_one_for_each_url() {
    let store = |url| open(url, &options(&[]), None).unwrap().store;
    let path = Path::from("a");
    store("memory:///one").put_opts(&path, "x".into(), PutMode::Create.into()).await.unwrap();
    store("memory:///one/").get(&path).await.unwrap();
    assert!(store("memory:///other").get(&path).await.is_err());
}
