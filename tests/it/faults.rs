//! Bad input and faults, each as an operator would meet it: the real worker, a real broker, a real store.

use std::time::Duration;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::journey::{Worker, program, run, s3_settings};
use crate::kit::proxy::{HttpProxy, TcpProxy};
use crate::kit::{self, need, wait_until};
use crate::lake::{Lake, restore, sink, task_state, task_trace, wait_trace};
use crate::topic::{Record, consume, produce, records};

const SOON: Duration = Duration::from_secs(60);

#[test]
fn odd_records_come_back_byte_for_byte() {
    let kafka = need!(kit::kafka());
    let topic = "o".repeat(249);
    let any_time = ("message.timestamp.after.max.ms", "9223372036854775807");
    kafka.create_topic(&topic, 1, &[("retention.ms", "-1"), ("max.message.bytes", "20000000"), any_time]).unwrap();
    let mega = Some(vec![0x5a; 1 << 20]);
    let header = |key: &str, value: Option<&[u8]>| (key.to_owned(), value.map(<[u8]>::to_vec));
    let odd = [
        Record { timestamp: Some(1), key: None, value: None, headers: vec![] },
        Record { timestamp: Some(2), key: Some(vec![]), value: Some(vec![]), headers: vec![] },
        Record { timestamp: Some(1_700_000_000_000), key: mega.clone(), value: mega.clone(), headers: vec![] },
        Record {
            timestamp: Some(5),
            key: Some(vec![0, 255, 10]),
            value: Some(vec![0xc3, 0x28]),
            headers: vec![header("a", Some(b"1")), header("a", None), header("", Some(b"")), ("big".to_owned(), mega)],
        },
        Record { timestamp: Some(i64::MAX / 2), key: None, value: Some(vec![1; 8 << 20]), headers: vec![] },
    ];
    produce(&kafka.bootstrap(), &topic, 0, &odd);
    for format in ["archive.parquet", "archive.avro"] {
        let lake = Lake::new();
        // A name of its own for each: the group of the first holds offsets that are none of the second's.
        let target = format!("odd-{format}");
        let connector = sink(&target, &topic, &[("store.url", &lake.url()), ("format", format)]);
        let mut worker = Worker::start(&kafka.bootstrap(), &[], &[connector]);
        worker.wait_archived(&target, odd.len() as i64, SOON);
        worker.stop();
        let (code, out, err) = restore(&lake, &kafka.bootstrap(), &topic, &target);
        assert_eq!(code, 0, "{out}\n{err}");
        assert_eq!(consume(&kafka.bootstrap(), &target, 0), odd, "{format}");
    }
}

#[test]
fn a_store_that_is_away_is_waited_for_and_the_status_says_so() {
    let kafka = need!(kit::kafka());
    let mut s3 = need!(kit::S3::start(kit::S3Options::default()));
    s3.create_bucket("away").unwrap();
    let topic = "store-away";
    kafka.create_topic(topic, 1, &[("retention.ms", "-1")]).unwrap();
    produce(&kafka.bootstrap(), topic, 0, &records(10));
    let settings = s3_settings(&s3, "away");
    let settings: Vec<_> = settings.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    s3.kill();
    let worker = Worker::start(&kafka.bootstrap(), &[], &[sink("away", topic, &settings)]);
    wait_trace(&worker, "away", "away");
    assert_ne!(task_state(&worker, "away"), "FAILED");
    s3.restart().unwrap();
    worker.wait_archived("away", 10, SOON);
    s3.kill();
    produce(&kafka.bootstrap(), topic, 0, &records(10));
    wait_trace(&worker, "away", "store-away-0");
    assert_eq!(task_state(&worker, "away"), "RUNNING");
    s3.restart().unwrap();
    worker.wait_archived("away", 20, SOON);
    assert_eq!(task_trace(&worker, "away"), "");
}

/// As many parts at once as a quick store takes would all run out of the client's time on this line, and come again
/// for ever.
#[test]
fn a_slow_line_to_the_store_carries_files_one_after_the_other() {
    const PARTITIONS: usize = 10;
    let kafka = need!(kit::kafka());
    let s3 = need!(kit::S3::start(kit::S3Options::default()));
    s3.create_bucket("far").unwrap();
    let topic = "slow-line";
    kafka.create_topic(topic, PARTITIONS, &[("retention.ms", "-1")]).unwrap();
    let mut noise = 1_u64;
    for partition in 0..PARTITIONS {
        let mut value = || {
            let step = |_| {
                noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (noise >> 56) as u8
            };
            (0..900_000).map(step).collect::<Vec<u8>>()
        };
        let record = |offset| Record { timestamp: Some(offset), key: None, value: Some(value()), headers: vec![] };
        produce(&kafka.bootstrap(), topic, partition as i32, &(0..5).map(record).collect::<Vec<_>>());
    }
    let address = s3.endpoint().replace("http://", "");
    let line = TcpProxy::start_slow(address, 1_100_000).unwrap();
    let endpoint = format!("http://{}", line.address());
    let mut settings = s3_settings(&s3, "far");
    settings
        .iter_mut()
        .filter(|(key, _)| key == "store.aws_endpoint")
        .for_each(|(_, value)| value.clone_from(&endpoint));
    let mut settings: Vec<_> = settings.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    settings.extend([("rotate.bytes", "4000000"), ("rotate.age.ms", "3000")]);
    let worker = Worker::start(&kafka.bootstrap(), &[], &[sink("far", topic, &settings)]);
    worker.wait_archived("far", PARTITIONS as i64 * 5, Duration::from_secs(120));
}

/// What a process has used, in hundredths of a second.
fn cpu_ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<_> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    fields[11..13].iter().map(|ticks| ticks.parse::<u64>().unwrap()).sum()
}

#[test]
fn a_broker_that_is_away_is_waited_for() {
    let mut kafka = need!(kit::Kafka::start(kit::KafkaOptions::default()));
    let topic = "broker-away";
    kafka.create_topic(topic, 1, &[("retention.ms", "-1")]).unwrap();
    produce(&kafka.bootstrap(), topic, 0, &records(10));
    kafka.stop().unwrap();
    let lake = Lake::new();
    let patience = ("consumer.override.default.api.timeout.ms", "6000");
    let connector = sink("away", topic, &[("store.url", &lake.url()), patience]);
    let worker = Worker::start(&kafka.bootstrap(), &[], &[connector]);
    kafka.restart().unwrap();
    worker.wait_archived("away", 10, SOON);
    kafka.kill();
    wait_trace(&worker, "away", "reading from Kafka: ");
    assert_eq!(task_state(&worker, "away"), "RUNNING");
    // While it waits it leaves the machine alone.
    let used = cpu_ticks(worker.pid().unwrap());
    wait_until("the session is over", SOON * 2, || worker.log().contains("lost partitions")).unwrap();
    let used = cpu_ticks(worker.pid().unwrap()) - used;
    assert!(used < 600, "{used} hundredths of a second of CPU in a minute");
    kafka.restart().unwrap();
    produce(&kafka.bootstrap(), topic, 0, &records(10));
    worker.wait_archived("away", 20, SOON);
    wait_until("the status is well again", SOON, || task_trace(&worker, "away").is_empty()).unwrap();
    let spans = lake.data(topic, 0).len();
    assert!(spans >= 2, "{spans} files");
}

#[test]
fn wrong_credentials_and_missing_buckets_say_what_to_do() {
    let (kafka, s3) = (need!(kit::kafka()), need!(kit::s3()));
    s3.create_bucket("private").unwrap();
    let topic = "credentials";
    kafka.create_topic(topic, 1, &[]).unwrap();
    let worker = Worker::start(&kafka.bootstrap(), &[], &[]);
    let with = |bucket: &str, secret: &str| {
        let mut settings = s3_settings(s3, bucket);
        settings
            .iter_mut()
            .filter(|(key, _)| key.ends_with("secret_access_key"))
            .for_each(|pair| pair.1 = secret.into());
        settings
    };
    let cases = [
        ("secret", "private", "wrong", "store.aws_secret_access_key"),
        ("bucket", "no-such-bucket", kit::S3::SECRET_KEY, "create it"),
    ];
    for (name, bucket, secret, remedy) in cases {
        let settings = with(bucket, secret);
        let settings: Vec<_> = settings.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        worker.create(&sink(name, topic, &settings));
        wait_trace(&worker, name, bucket);
        wait_trace(&worker, name, remedy);
        // It does not pass by itself: somebody has to act on the words.
        assert_eq!(task_state(&worker, name), "FAILED");
        assert!(!task_trace(&worker, name).contains("wrong"), "no secret in a trace");
    }
}

#[test]
fn credentials_of_the_environment_hold_where_no_option_says_otherwise() {
    let s3 = need!(kit::s3());
    s3.create_bucket("environment").unwrap();
    let verify = |secret: &str| {
        let (endpoint, region, key) = (s3.endpoint(), kit::S3::REGION, kit::S3::ACCESS_KEY);
        let output = std::process::Command::new(program())
            .args(["verify", "s3://environment/lake"])
            .envs([("AWS_ENDPOINT", endpoint.as_str()), ("AWS_REGION", region), ("AWS_ACCESS_KEY_ID", key)])
            .env("AWS_SECRET_ACCESS_KEY", secret)
            .output()
            .unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, said) = verify(kit::S3::SECRET_KEY);
    assert!(code == Some(2) && said.contains("holds no archive"), "{code:?} {said}");
    let (code, said) = verify("wrong");
    assert!(code != Some(0) && !said.contains("holds no archive"), "{code:?} {said}");
}

#[test]
fn a_bad_config_is_refused_before_anything_starts() {
    let kafka = need!(kit::kafka());
    let worker = Worker::start(&kafka.bootstrap(), &[], &[]);
    for (key, value) in [
        ("flush.size", "many"),
        ("flush.size", "0"),
        ("format", "archive.zip"),
        ("codec", "brotli"),
        ("rotate.age.ms", "-5"),
        ("timezone", "Mars/Base"),
        ("store.url", "ftp://x/y"),
        ("topics.dir", "../up"),
    ] {
        let connector = sink("bad", "any", &[("store.url", "file:///tmp"), (key, value)]);
        let (status, answer) = worker.request("POST", "/connectors", &connector);
        let message = answer["message"].as_str().unwrap_or_default();
        assert!(status == 400 && message.contains(key) && message.contains(value), "{key}={value}: {status} {answer}");
    }
    let (_, names) = worker.request("GET", "/connectors", &Value::Null);
    assert_eq!(names, json!([]));
}

#[test]
fn a_topic_that_appears_later_is_archived_and_a_deleted_one_kept() {
    let kafka = need!(kit::kafka());
    let (topic, lake) = ("comes-and-goes", Lake::new());
    let connector = sink(
        "late",
        topic,
        &[
            ("store.url", &lake.url()),
            ("rotate.age.ms", "3000"),
            ("consumer.override.topic.metadata.refresh.interval.ms", "500"),
            ("consumer.override.metadata.max.age.ms", "500"),
        ],
    );
    let mut worker = Worker::start(&kafka.bootstrap(), &[], &[connector]);
    worker.wait_state("late", "RUNNING", SOON);
    kafka.create_topic(topic, 1, &[("retention.ms", "-1")]).unwrap();
    produce(&kafka.bootstrap(), topic, 0, &records(10));
    worker.wait_archived("late", 10, SOON);
    kafka.delete_topic(topic).unwrap();
    kafka.create_topic(topic, 1, &[("retention.ms", "-1")]).unwrap();
    produce(&kafka.bootstrap(), topic, 0, &records(20));
    let lineages = |lake: &Lake| {
        let end = lake.chain(topic, 0).pop()?;
        let entry: Value = serde_json::from_slice(&std::fs::read(end).unwrap()).unwrap();
        Some((entry["source"]["lineage"].as_i64()?, entry["totals"]["records"].as_i64()?))
    };
    wait_until("the new topic is archived as a new lineage", SOON * 2, || lineages(&lake) == Some((2, 20))).unwrap();
    worker.stop();
    let (code, out, err) = restore(&lake, &kafka.bootstrap(), topic, "comes-back");
    assert_eq!(code, 0, "{out}\n{err}");
    assert_eq!(consume(&kafka.bootstrap(), "comes-back", 0), records(20));
}

#[test]
fn a_topic_that_is_deleted_is_told_as_that_until_it_is_back() {
    let kafka = need!(kit::kafka());
    let (topic, lake, all) = ("deleted-and-told", Lake::new(), records(20));
    let refresh = ("consumer.override.metadata.max.age.ms", "500");
    let other = "deleted-and-told-beside";
    let connector = sink(topic, &format!("{topic},{other}"), &[("store.url", &lake.url()), refresh]);
    kafka.create_topic(topic, 1, &[("retention.ms", "-1")]).unwrap();
    kafka.create_topic(other, 1, &[("retention.ms", "-1")]).unwrap();
    produce(&kafka.bootstrap(), topic, 0, &all[..10]);
    let mut worker = Worker::start(&kafka.bootstrap(), &[], &[connector]);
    worker.wait_archived(topic, 10, SOON);
    kafka.delete_topic(topic).unwrap();
    // The client tells of the topic or of its partition, whichever it misses first.
    wait_trace(&worker, topic, "or take it out of the connector's topics");
    let trace = task_trace(&worker, topic);
    assert!(trace.contains(topic) && trace.contains("deleted") && trace.contains("create it"), "{trace}");
    assert_eq!(task_state(&worker, topic), "RUNNING");
    // What comes of another topic does not make it there.
    produce(&kafka.bootstrap(), other, 0, &all);
    let archived = || !lake.data(other, 0).is_empty();
    wait_until("the other topic is archived", SOON, archived).unwrap();
    let trace = task_trace(&worker, topic);
    assert!(trace.contains(topic) && trace.contains("deleted"), "{trace}");
    kafka.create_topic(topic, 1, &[("retention.ms", "-1")]).unwrap();
    produce(&kafka.bootstrap(), topic, 0, &all[10..]);
    wait_until("the trouble is over", SOON * 2, || task_trace(&worker, topic).is_empty()).unwrap();
    worker.stop();
}

#[test]
fn an_offset_beyond_the_end_of_its_log_is_taken_and_told() {
    let kafka = need!(kit::kafka());
    let (topic, lake) = ("beyond-the-end", Lake::new());
    kafka.create_topic(topic, 1, &[("retention.ms", "-1")]).unwrap();
    produce(&kafka.bootstrap(), topic, 0, &records(10));
    let mut worker = Worker::start(&kafka.bootstrap(), &[], &[lake.sink(topic, topic)]);
    worker.wait_archived(topic, 10, SOON);
    assert_eq!(worker.request("PUT", &format!("/connectors/{topic}/stop"), &Value::Null).0, 204);
    let set = |offset: i64| {
        let partition = json!({ "kafka_topic": topic, "kafka_partition": 0 });
        let body = json!({ "offsets": [{ "partition": partition, "offset": { "kafka_offset": offset } }] });
        let (code, answer) = worker.request("PATCH", &format!("/connectors/{topic}/offsets"), &body);
        (code == 200).then(|| answer["message"].as_str().unwrap_or_default().to_owned())
    };
    let told = format!("the offset 11 that was set for {topic}-0 lies beyond the end 10 of its log");
    wait_until("an offset within the log is set", SOON, || set(10).is_some()).unwrap();
    assert!(!worker.log().contains("lies beyond the end"), "{}", worker.log());
    // As Kafka Connect has it, word for word; the log says the rest.
    assert_eq!(set(11).as_deref(), Some("The offsets for this connector have been altered successfully"));
    wait_until("the log tells of it", SOON, || worker.log().contains(&told)).unwrap();
    worker.stop();
}

#[test]
fn a_damaged_truncated_or_newer_manifest_is_never_overwritten() {
    let kafka = need!(kit::kafka());
    type Harm = fn(Vec<u8>) -> Vec<u8>;
    let damage: [(&str, Harm); 3] = [
        ("damaged", |mut bytes| {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            bytes
        }),
        ("truncated", |bytes| bytes[..bytes.len() / 2].to_vec()),
        ("newer", |bytes| String::from_utf8(bytes).unwrap().replace("\"version\":1,", "\"version\":2,").into_bytes()),
    ];
    for (name, harm) in damage {
        let (topic, lake) = (format!("manifest-{name}"), Lake::new());
        kafka.create_topic(&topic, 1, &[("retention.ms", "-1")]).unwrap();
        produce(&kafka.bootstrap(), &topic, 0, &records(10));
        let mut worker = Worker::start(&kafka.bootstrap(), &[], &[lake.sink(name, &topic)]);
        worker.wait_archived(name, 10, SOON);
        worker.stop();
        let end = lake.chain(&topic, 0).pop().unwrap();
        let harmed = harm(std::fs::read(&end).unwrap());
        std::fs::write(&end, &harmed).unwrap();
        produce(&kafka.bootstrap(), &topic, 0, &records(5));
        worker.restart();
        wait_trace(&worker, name, end.file_name().unwrap().to_str().unwrap());
        assert_eq!(task_state(&worker, name), "FAILED");
        assert_eq!(std::fs::read(&end).unwrap(), harmed, "{name}");
        assert_eq!(lake.chain(&topic, 0).pop().unwrap(), end, "nothing was written behind it");
        let (code, out, err) = run(&["verify", &lake.url(), "--level", "manifest"]);
        assert_eq!(code, 1, "{name}: {out}\n{err}");
    }
}

#[test]
fn missing_and_altered_objects_stop_a_restore_before_a_wrong_byte() {
    let kafka = need!(kit::kafka());
    for name in ["missing", "altered"] {
        let (topic, lake) = (format!("object-{name}"), Lake::new());
        kafka.create_topic(&topic, 1, &[("retention.ms", "-1")]).unwrap();
        produce(&kafka.bootstrap(), &topic, 0, &records(50));
        let mut worker = Worker::start(&kafka.bootstrap(), &[], &[lake.sink(name, &topic)]);
        worker.wait_archived(name, 50, SOON);
        worker.stop();
        let object = lake.data(&topic, 0).remove(0);
        if name == "missing" {
            std::fs::remove_file(&object).unwrap();
        } else {
            let mut bytes = std::fs::read(&object).unwrap();
            bytes[20] ^= 1;
            std::fs::write(&object, bytes).unwrap();
        }
        let file = object.file_name().unwrap().to_str().unwrap();
        let (code, out, err) = run(&["verify", &lake.url(), "--level", "objects"]);
        assert!(code == 1 && (out.contains(file) || err.contains(file)), "{code} {out}\n{err}");
        let target = format!("target-{name}");
        let (code, out, err) = restore(&lake, &kafka.bootstrap(), &topic, &target);
        assert!(code == 1 && err.contains(file), "{code} {out}\n{err}");
        let written = kafka.topic(&target).unwrap().map(|_| consume(&kafka.bootstrap(), &target, 0));
        assert!(written.unwrap_or_default().is_empty(), "nothing of the damaged block was written");
    }
}

#[test]
fn a_manifest_that_lost_its_file_and_was_sealed_again_is_no_shorter_log() {
    let kafka = need!(kit::kafka());
    let (topic, target) = ("sealed-again", "target-sealed-again");
    let lake = Lake::of(kafka, topic, &[records(18)], &[("retention.ms", "-1")]);
    let end = lake.chain(topic, 0).pop().unwrap();
    let mut entry: Value = serde_json::from_slice(&std::fs::read(&end).unwrap()).unwrap();
    assert!(!entry["files"].as_array().unwrap().is_empty(), "{entry}");
    entry["files"] = json!([]);
    entry.as_object_mut().unwrap().shift_remove("self_sha256");
    let body = entry.to_string();
    let seal = format!("{:x}", Sha256::digest(&body));
    std::fs::write(&end, format!("{},\"self_sha256\":\"{seal}\"}}", &body[..body.len() - 1])).unwrap();

    let (code, out, err) = run(&["verify", &lake.url(), "--level", "manifest"]);
    let words = out.lines().find_map(|line| Some(line[line.find(".json: ")? + 7..].to_owned())).unwrap_or_default();
    assert!(code == 1 && words.contains("(law of "), "{code} {out}\n{err}");
    let (code, out, err) = run(&["inspect", &lake.url()]);
    assert!(code == 1 && out.contains("DAMAGED") && out.contains(&words), "{words}: {code} {out}\n{err}");
    let (code, out, err) = restore(&lake, &kafka.bootstrap(), topic, target);
    assert!(code == 1 && err.contains(&words), "{words}: {code} {out}\n{err}");
    assert!(kafka.topic(target).unwrap().is_none(), "nothing was written");
}

#[test]
fn a_second_connector_on_the_same_archive_is_refused_by_name() {
    let kafka = need!(kit::kafka());
    let (topic, lake) = ("two-owners", Lake::new());
    kafka.create_topic(topic, 1, &[("retention.ms", "-1")]).unwrap();
    produce(&kafka.bootstrap(), topic, 0, &records(10));
    let worker = Worker::start(&kafka.bootstrap(), &[], &[lake.sink("first", topic)]);
    worker.wait_archived("first", 10, SOON);
    worker.create(&lake.sink("second", topic));
    wait_trace(&worker, "second", "connect-first");
    assert_eq!(task_state(&worker, "second"), "FAILED");
    produce(&kafka.bootstrap(), topic, 0, &records(10));
    worker.wait_archived("first", 20, SOON);
}

#[test]
fn an_archive_whose_first_manifests_are_gone_is_refused() {
    let kafka = need!(kit::kafka());
    let (topic, lake) = ("lifecycle-rule", Lake::new());
    kafka.create_topic(topic, 1, &[("retention.ms", "-1")]).unwrap();
    produce(&kafka.bootstrap(), topic, 0, &records(10));
    let mut worker = Worker::start(&kafka.bootstrap(), &[], &[lake.sink("rule", topic)]);
    worker.wait_archived("rule", 10, SOON);
    worker.stop();
    let data = lake.data(topic, 0);
    for gone in lake.chain(topic, 0) {
        std::fs::remove_file(gone).unwrap();
        worker.restart();
        wait_trace(&worker, "rule", "_manifests");
        assert_eq!(task_state(&worker, "rule"), "FAILED");
        worker.stop();
    }
    assert_eq!(lake.data(topic, 0), data);
}

#[test]
#[allow(clippy::disallowed_methods, reason = "the minute is one of the outside world")]
fn nothing_is_written_while_twenty_topics_are_idle_and_a_task_comes_and_goes() {
    let (kafka, s3) = (need!(kit::kafka()), need!(kit::s3()));
    s3.create_bucket("idle").unwrap();
    let proxy = HttpProxy::start(s3.address()).unwrap();
    let topics: Vec<_> = (0..20).map(|n| format!("idle-{n}")).collect();
    for topic in &topics {
        kafka.create_topic(topic, 1, &[("retention.ms", "-1")]).unwrap();
        produce(&kafka.bootstrap(), topic, 0, &records(3));
    }
    let mut settings = s3_settings(s3, "idle");
    settings.iter_mut().filter(|(key, _)| key == "store.aws_endpoint").for_each(|pair| pair.1 = proxy.url());
    let settings: Vec<_> = settings.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    let mut connector = sink("idle", &topics.join(","), &settings);
    connector["config"]["tasks.max"] = json!("2");
    let worker = Worker::start(&kafka.bootstrap(), &[], &[connector]);
    worker.wait_archived("idle", 60, SOON);
    proxy.clear();
    let start = std::time::Instant::now();
    // The rebalance in between: one of the two tasks leaves the group and comes back.
    let (status, _) = worker.request("POST", "/connectors/idle/tasks/0/restart", &Value::Null);
    assert_eq!(status, 204);
    let minute = Duration::from_secs(60);
    wait_until("a minute passes", minute * 2, || start.elapsed() >= minute).unwrap();
    let writes: Vec<_> = proxy.requests().into_iter().filter(|request| request.is_write()).collect();
    assert!(writes.is_empty(), "{writes:?}");
    worker.wait_state("idle", "RUNNING", SOON);
}
