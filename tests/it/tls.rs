//! Brokers and a store whose certificates come from a private authority. With its certificate given, archive and
//! restore work as without TLS; without it, everybody says that the certificate is not trusted, and what to set.

mod authority;

use std::path::PathBuf;
use std::time::Duration;

use self::authority::Authority;
use crate::journey::{Worker, program, run, s3_settings};
use crate::kit::{self, Kafka, KafkaOptions, S3, S3Options, need};
use crate::lake::{Lake, sink, task_state, wait_trace};
use crate::topic::{consume, produce, records};

const SOON: Duration = Duration::from_secs(60);

/// A file of client properties, as a command takes it.
fn client_file(lines: &str) -> PathBuf {
    let file = kit::home::instance_dir("client").unwrap().join("client.properties");
    std::fs::write(&file, lines).unwrap();
    file
}

/// A certificate within a properties file, as Kafka's own documentation writes it: one value, lines continued.
fn continued(authority: &Authority) -> String {
    let pem = std::fs::read_to_string(&authority.certificate).unwrap();
    pem.trim_end().replace('\n', " \\\n")
}

#[test]
fn brokers_with_a_private_authority_are_trusted_where_it_is_named() {
    let authority = Authority::new();
    let options = KafkaOptions { tls: Some(authority.server.clone()), ..KafkaOptions::default() };
    let kafka = need!(Kafka::start(options));
    let (topic, target, lake) = ("tls", "tls-restored", Lake::new());
    kafka.create_topic(topic, 1, &[("retention.ms", "-1")]).unwrap();
    produce(&kafka.bootstrap(), topic, 0, &records(50));
    let tls = kafka.tls_bootstrap();

    let file = authority.certificate.to_str().unwrap();
    let trusting = [
        ("security.protocol", "SSL"),
        ("ssl.truststore.type", "PEM"),
        ("ssl.truststore.location", file),
        ("consumer.security.protocol", "SSL"),
        ("consumer.ssl.truststore.type", "PEM"),
        ("consumer.ssl.truststore.location", file),
    ];
    let mut worker = Worker::start(&tls, &trusting, &[lake.sink(topic, topic)]);
    worker.wait_archived(topic, 50, SOON);
    worker.stop();

    let rename = format!("{topic}={target}");
    let restore = |lines: &str| {
        let file = client_file(lines);
        let config = ["--command-config", file.to_str().unwrap()];
        let fixed = ["restore", &lake.url(), "--bootstrap-server", &tls, "--rename", &rename, "--yes"];
        run(&[&fixed[..], &config].concat())
    };
    let refusals = [
        (
            "security.protocol=SSL\nssl.truststore.location=/no/such.pem\n",
            ["ssl.truststore.location /no/such.pem", "cannot be read"],
        ),
        ("security.protocol=SSL\n", ["certificate verify failed", "ssl.truststore.location"]),
        ("security.protocol=SSL\nssl.truststore.location=/kafka.jks\n", ["/kafka.jks is of type JKS", "keytool"]),
    ];
    for (lines, words) in refusals {
        let (code, out, err) = restore(lines);
        assert!(code != 0 && words.iter().all(|word| err.contains(word)), "{code} {out}\n{err}");
    }
    let types = "security.protocol=SSL\nssl.truststore.type=PEM\n";
    let (code, out, err) = restore(&format!("{types}ssl.truststore.certificates={}\n", continued(&authority)));
    assert_eq!(code, 0, "{out}\n{err}");
    assert_eq!(consume(&kafka.bootstrap(), target, 0), records(50));
}

#[test]
fn brokers_that_want_a_certificate_of_ours_get_it() {
    let authority = Authority::new();
    let [file, ours] = [&authority.certificate, &authority.server].map(|file| file.to_str().unwrap());
    let options = KafkaOptions { tls: Some(authority.server.clone()), ..KafkaOptions::default() }
        .property("listener.name.tls.ssl.client.auth", "required")
        .property("listener.name.tls.ssl.truststore.type", "PEM")
        .property("listener.name.tls.ssl.truststore.location", file);
    let kafka = need!(Kafka::start(options));
    let (topic, target) = ("tls-ours", "tls-ours-restored");
    let lake = Lake::of(&kafka, topic, &[records(20)], &[("retention.ms", "-1")]);
    let (tls, rename) = (kafka.tls_bootstrap(), format!("{topic}={target}"));
    let restore = |more: &str| {
        let trusting = "security.protocol=SSL\nssl.truststore.type=PEM\nssl.truststore.location=";
        let file = client_file(&format!("{trusting}{file}\n{more}"));
        let config = ["--command-config", file.to_str().unwrap()];
        let fixed = ["restore", &lake.url(), "--bootstrap-server", &tls, "--rename", &rename, "--yes"];
        run(&[&fixed[..], &config].concat())
    };
    let (code, out, err) = restore("");
    assert!(
        code != 0 && err.contains("alert bad certificate") && err.contains("ssl.keystore.location"),
        "{out}\n{err}"
    );
    let (code, out, err) = restore(&format!("ssl.keystore.type=PEM\nssl.keystore.location={ours}\n"));
    assert_eq!(code, 0, "{out}\n{err}");
    assert_eq!(consume(&kafka.bootstrap(), target, 0), records(20));
}

#[test]
fn a_worker_says_that_nobody_vouches_for_its_brokers() {
    let authority = Authority::new();
    let options = KafkaOptions { tls: Some(authority.server), ..KafkaOptions::default() };
    let kafka = need!(Kafka::start(options));
    let (topic, lake) = ("tls-unknown", Lake::new());
    kafka.create_topic(topic, 1, &[]).unwrap();
    let protocol = [("security.protocol", "SSL"), ("consumer.security.protocol", "SSL")];
    let worker = Worker::start(&kafka.tls_bootstrap(), &protocol, &[lake.sink(topic, topic)]);
    wait_trace(&worker, topic, "certificate verify failed");
    wait_trace(&worker, topic, "ssl.truststore.location");
    // It does not pass by itself: somebody has to act on the words.
    assert_eq!(task_state(&worker, topic), "FAILED");
}

#[test]
fn a_store_with_a_private_authority_is_trusted_where_the_environment_names_it() {
    let authority = Authority::new();
    let options = S3Options { tls: Some(authority.server.clone()), ..S3Options::default() };
    let (kafka, s3) = (need!(kit::kafka()), need!(S3::start(options)));
    let topic = "tls-store";
    kafka.create_topic(topic, 1, &[("retention.ms", "-1")]).unwrap();
    produce(&kafka.bootstrap(), topic, 0, &records(20));
    s3.create_bucket(topic).unwrap();
    let settings = s3_settings(&s3, topic);
    let settings: Vec<_> = settings.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    let connector = sink(topic, topic, &settings);

    let mut worker = Worker::start(&kafka.bootstrap(), &[], std::slice::from_ref(&connector));
    wait_trace(&worker, topic, "certificate verify failed");
    wait_trace(&worker, topic, "SSL_CERT_FILE");
    worker.stop();
    let mut worker = Worker::new(&kafka.bootstrap(), &[]).unwrap().env("SSL_CERT_FILE", &authority.certificate);
    worker.restart();
    worker.create(&connector);
    worker.wait_archived(topic, 20, SOON);
    worker.stop();

    let lines = settings.iter().filter(|(key, _)| *key != "store.url").map(|(key, value)| format!("{key}={value}\n"));
    let file = client_file(&lines.collect::<String>());
    let verify = std::process::Command::new(program())
        .args(["verify", &format!("s3://{topic}/lake"), "--level", "content", "--store-config"])
        .arg(file)
        .env("SSL_CERT_FILE", &authority.certificate)
        .output()
        .unwrap();
    assert!(verify.status.success(), "{verify:?}");
}
