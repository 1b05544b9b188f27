use lakeferry_api::Kind;

use super::*;

type Pairs = &'static [(&'static str, &'static str)];

fn read(role: Role, pairs: &[(&str, &str)]) -> Result<Settings> {
    client_config(&pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(), role)
}

fn settings(pairs: &[(&str, &str)]) -> Settings {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

/// Some file that is there.
const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");

#[test]
fn java_names_become_librdkafkas() {
    let cases: &[(Role, Pairs, Pairs)] = &[
        (Role::Admin, &[("bootstrap.servers", "a:1,b:2")], &[("bootstrap.servers", "a:1,b:2")]),
        (Role::Admin, &[("request.timeout.ms", "4000")], &[("socket.timeout.ms", "4000")]),
        (
            Role::Producer,
            &[("request.timeout.ms", "4000")],
            &[("request.timeout.ms", "4000"), ("socket.timeout.ms", "4000")],
        ),
        (Role::Consumer, &[("metadata.max.age.ms", "900")], &[("topic.metadata.refresh.interval.ms", "900")]),
        (Role::Consumer, &[("receive.buffer.bytes", "-1")], &[("socket.receive.buffer.bytes", "0")]),
        (Role::Consumer, &[("fetch.max.wait.ms", "7")], &[("fetch.wait.max.ms", "7")]),
        (Role::Consumer, &[("key.deserializer", "org.apache.kafka.X"), ("max.poll.records", "5")], &[]),
        (Role::Consumer, &[("no.such.setting", "1")], &[]),
        (
            Role::Consumer,
            &[("partition.assignment.strategy", "org.apache.kafka.clients.consumer.RangeAssignor")],
            &[("partition.assignment.strategy", "range")],
        ),
        (
            Role::Consumer,
            &[(
                "partition.assignment.strategy",
                "org.apache.kafka.clients.consumer.RangeAssignor, \
                 org.apache.kafka.clients.consumer.CooperativeStickyAssignor",
            )],
            &[("partition.assignment.strategy", "range")],
        ),
        (
            Role::Consumer,
            &[("partition.assignment.strategy", "org.apache.kafka.clients.consumer.CooperativeStickyAssignor")],
            &[("partition.assignment.strategy", "cooperative-sticky")],
        ),
        (Role::Producer, &[("buffer.memory", "33554432")], &[("queue.buffering.max.kbytes", "32768")]),
        (Role::Producer, &[("max.request.size", "2000000")], &[("message.max.bytes", "2000000")]),
        (Role::Producer, &[("delivery.timeout.ms", "5000")], &[("delivery.timeout.ms", "5000")]),
        (
            Role::Producer,
            &[("partitioner.class", "org.apache.kafka.clients.producer.RoundRobinPartitioner")],
            &[("partitioner", "random")],
        ),
        (
            Role::Admin,
            &[("ssl.endpoint.identification.algorithm", ""), ("security.protocol", "SASL_SSL")],
            &[("security.protocol", "sasl_ssl"), ("ssl.endpoint.identification.algorithm", "none")],
        ),
    ];
    for (role, java, wanted) in cases {
        assert_eq!(read(*role, java).expect("readable"), settings(wanted), "{java:?}");
    }
}

#[test]
fn a_login_line_becomes_user_and_password() {
    let line = |text: &str| {
        read(Role::Admin, &[("sasl.mechanism", "SCRAM-SHA-512"), ("sasl.jaas.config", text)]).expect("readable")
    };
    let plain = line(
        "org.apache.kafka.common.security.plain.PlainLoginModule required username=\"alice\"  password='s; \\'x=1';",
    );
    assert_eq!(plain["sasl.username"], "alice");
    assert_eq!(plain["sasl.password"], "s; 'x=1");
    let scram =
        line("org.apache.kafka.common.security.scram.ScramLoginModule required\n username=bob password=\"\\\"\";");
    assert_eq!((scram["sasl.username"].as_str(), scram["sasl.password"].as_str()), ("bob", "\""));
    assert_eq!(scram["sasl.mechanisms"], "SCRAM-SHA-512");
}

#[test]
fn stores_that_the_library_reads_are_taken() {
    let pem = [
        ("ssl.truststore.type", "PEM"),
        ("ssl.truststore.location", FILE),
        ("ssl.keystore.type", "PKCS12"),
        ("ssl.keystore.location", FILE),
        ("ssl.keystore.password", "pw"),
    ];
    let wanted = [("ssl.ca.location", FILE), ("ssl.keystore.location", FILE), ("ssl.keystore.password", "pw")];
    assert_eq!(read(Role::Admin, &pem).expect("readable"), settings(&wanted));
    let own = [("ssl.keystore.type", "PEM"), ("ssl.keystore.location", FILE)];
    let wanted = [("ssl.certificate.location", FILE), ("ssl.key.location", FILE)];
    assert_eq!(read(Role::Admin, &own).expect("readable"), settings(&wanted));
}

#[test]
fn certificates_on_one_line_get_the_lines_that_openssl_wants() {
    let (first, second) = ("A".repeat(64), "B".repeat(30));
    let block = |kind: &str, body: &str| format!("-----BEGIN {kind}-----{body}-----END {kind}-----");
    let wanted = block("CERTIFICATE", &format!("\n{first}\n{second}\n")) + "\n";
    let as_written = [format!("\n{first}\n{second}\n"), format!(" {first} {second} "), format!("{first}{second}")];
    for body in as_written {
        let given = format!("{} {}\n", block("CERTIFICATE", &body), block("CERTIFICATE", &body));
        let read = read(Role::Admin, &[("ssl.truststore.certificates", &given)]).expect("readable");
        assert_eq!(read["ssl.ca.pem"], wanted.repeat(2), "{given}");
    }
    let encrypted = block("RSA PRIVATE KEY", "\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\nAAAA\n") + "\n";
    let read = read(Role::Admin, &[("ssl.keystore.type", "PEM"), ("ssl.keystore.key", &encrypted)]).expect("readable");
    assert_eq!(read["ssl.key.pem"], encrypted);
}

#[test]
fn what_cannot_be_used_is_refused_by_name() {
    let cases: &[(Pairs, &[&str])] = &[
        (&[("ssl.truststore.location", "/x.jks")], &["ssl.truststore.location", "/x.jks", "JKS", "keytool"]),
        (
            &[("ssl.truststore.type", "PKCS12"), ("ssl.truststore.location", "/x")],
            &["ssl.truststore.location", "PKCS12"],
        ),
        // The name says what it is.
        (
            &[("ssl.truststore.location", "/no/such.pem")],
            &["ssl.truststore.location", "/no/such.pem", "cannot be read"],
        ),
        (
            &[("ssl.keystore.type", "PKCS12"), ("ssl.keystore.location", "/no/such")],
            &["ssl.keystore.location", "/no/such", "cannot be read"],
        ),
        (&[("ssl.truststore.certificates", "ca.pem")], &["ssl.truststore.certificates", "BEGIN"]),
        (&[("buffer.memory", "much")], &["buffer.memory", "much"]),
        (&[("fetch.max.wait.ms", "soon")], &["fetch.max.wait.ms", "soon"]),
        (&[("security.protocol", "TELNET")], &["security.protocol", "telnet"]),
        (
            &[
                ("sasl.mechanism", "GSSAPI"),
                ("sasl.jaas.config", "com.sun.security.auth.module.Krb5LoginModule required;"),
            ],
            &["sasl.jaas.config", "Krb5LoginModule"],
        ),
        (
            &[("sasl.mechanism", "PLAIN"), ("sasl.jaas.config", "x.PlainLoginModule required username=a;")],
            &["sasl.jaas.config", "password"],
        ),
        (&[("sasl.jaas.config", "x.PlainLoginModule required username=a password=b;")], &["sasl.mechanism is not set"]),
    ];
    for (given, words) in cases {
        let error = read(Role::Producer, given).expect_err("refused");
        assert_eq!(error.kind(), Kind::Config);
        for word in *words {
            assert!(error.message().contains(word), "{} lacks {word}", error.message());
        }
    }
}
