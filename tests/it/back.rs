//! The way back, exactly once: a restore and a replaying connector that are killed, hang, are overtaken, or find
//! others' records in their target. Whatever happens, a `read_committed` client finds each archived record once, in
//! order.

use std::time::Duration;

use serde_json::{Value, json};

use crate::journey::{Worker, run};
use crate::kafka::admin;
use crate::kit::{self, need, poll_until, wait_until};
use crate::lake::{Lake, task_state, wait_trace};
use crate::restore::{Restore, assert_holds, held, stored, thick, visible, wait_stored};
use crate::topic::{Record, consume, produce};

const SOON: Duration = Duration::from_secs(60);
const KILLS: usize = 20;

/// Moments that differ, the same in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// Waits for the moment of the `round`th kill: some time after the start, or as soon as the target grows, or a little
/// later; by the round, so that each kind has its share.
fn wait_for_the_moment(round: usize, dice: &mut Dice, kafka: &kit::Kafka, target: &str) {
    let pause = |ms| poll_until(Duration::from_millis(ms), || None::<()>).unwrap_or_default();
    if round.is_multiple_of(4) {
        return pause(dice.below(700));
    }
    let before = held(kafka, target);
    let grows = |by: i64| poll_until(SOON, || (held(kafka, target) >= before + by).then_some(()));
    grows(1 + dice.below(20) as i64).expect("the target grows");
    pause(if round % 4 == 1 { 0 } else { dice.below(250) });
}

#[test]
fn a_restore_that_is_killed_again_and_again_writes_each_record_once() {
    let kafka = need!(kit::kafka());
    let truth: Vec<_> = (0..4).map(|_| thick(1500, 1000, 1_700_000_000_000)).collect();
    let lake = Lake::of(kafka, "back-killed", &truth, &[("retention.ms", "-1")]);
    let (url, bootstrap, target) = (lake.url(), kafka.bootstrap(), "back-killed-target");
    let rename = format!("back-killed={target}");
    let same = ["restore", &url, "--bootstrap-server", &bootstrap, "--rename", &rename, "--yes"];
    let slow = ["--rate", "100000", "--transaction-ms", "150"];
    let mut dice = Dice(7);
    for round in 0..KILLS {
        let restore = Restore::start(&[&same[..], &slow].concat());
        wait_for_the_moment(round, &mut dice, kafka, target);
        let (code, words) = restore.end("KILL");
        assert_eq!(code, Some(128 + 9), "round {round}: it ended before it was killed: {words}");
        // What is visible is always a prefix of what is to come.
        if round % 7 == 6 {
            let found = consume(&bootstrap, target, 0);
            assert!(found == truth[0][..found.len()], "round {round}: {} records", found.len());
        }
    }
    assert!(visible(kafka, target) < 6000, "the last kill came too late");
    let (code, out, err) = run(&same);
    assert!(code == 0 && out.contains("behind what was restored before"), "{code} {out}\n{err}");
    assert_holds(kafka, target, &truth);
    let (code, out, err) = run(&["verify", &url, "--bootstrap-server", &bootstrap, "--rename", &rename]);
    assert_eq!(code, 0, "{out}\n{err}");
}

fn replay(name: &str, lake: &Lake, topic: &str, target: &str, more: &[(&str, &str)]) -> Value {
    let mut config = json!({
        "connector.class": "LakeSource",
        "tasks.max": "2",
        "store.url": lake.url(),
        "topics": topic,
        "topic.rename": format!("{topic}:{target}"),
    });
    more.iter().for_each(|(key, value)| config[*key] = json!(value));
    json!({ "name": name, "config": config })
}

/// Transactions of 150 ms.
const SHORT: [(&str, &str); 2] = [("transaction.boundary", "interval"), ("transaction.boundary.interval.ms", "150")];

#[test]
fn a_replaying_connector_that_is_killed_again_and_again_writes_each_record_once() {
    let kafka = need!(kit::kafka());
    let truth: Vec<_> = (0..2).map(|_| thick(2000, 1000, 1_700_000_000_000)).collect();
    let (topic, target, name) = ("back-worker", "back-worker-target", "back-worker-replay");
    let lake = Lake::of(kafka, topic, &truth, &[("retention.ms", "-1")]);
    let slow = [&SHORT[..], &[("replay.rate.bytes", "60000")]].concat();
    let mut worker = Worker::start(&kafka.bootstrap(), &[], &[replay(name, &lake, topic, target, &slow)]);
    let mut dice = Dice(11);
    for round in 0..KILLS {
        wait_for_the_moment(round, &mut dice, kafka, target);
        worker.kill();
        worker.restart();
    }
    assert!(visible(kafka, target) < 4000, "the last kill came too late");
    let faster = replay(name, &lake, topic, target, &[])["config"].clone();
    let (status, answer) = worker.request("PUT", &format!("/connectors/{name}/config"), &faster);
    assert_eq!(status, 200, "{answer}");
    wait_stored(&worker, name, &[1999, 1999]);
    assert_holds(kafka, target, &truth);
}

#[test]
fn a_restore_that_hangs_and_wakes_up_is_fenced() {
    let kafka = need!(kit::kafka());
    let truth: Vec<_> = (0..2).map(|_| thick(200, 1000, 1_700_000_000_000)).collect();
    let lake = Lake::of(kafka, "back-zombie", &truth, &[("retention.ms", "-1")]);
    let (url, bootstrap, target) = (lake.url(), kafka.bootstrap(), "back-zombie-target");
    let rename = format!("back-zombie={target}");
    let same = ["restore", &url, "--bootstrap-server", &bootstrap, "--rename", &rename, "--yes"];
    let mut zombie = Restore::start(&[&same[..], &["--rate", "40000"]].concat());
    zombie.wait_written(kafka, target, 30);
    zombie.process.signal("STOP");
    let (code, out, err) = run(&same);
    assert_eq!(code, 0, "{out}\n{err}");
    assert_holds(kafka, target, &truth);
    let (code, words) = zombie.end("CONT");
    assert!(code == Some(3) && words.contains("another instance has taken it over"), "{code:?} {words}");
    assert_holds(kafka, target, &truth);
}

#[test]
fn a_worker_that_hangs_and_wakes_up_is_fenced() {
    let kafka = need!(kit::kafka());
    let truth = [thick(400, 1000, 1_700_000_000_000)];
    let (topic, target, name) = ("back-hangs", "back-hangs-target", "back-hangs-replay");
    let lake = Lake::of(kafka, topic, &truth, &[("retention.ms", "-1")]);
    let slow = [&SHORT[..], &[("replay.rate.bytes", "40000"), ("tasks.max", "1")]].concat();
    let connector = replay(name, &lake, topic, target, &slow);
    let mut zombie = Worker::start(&kafka.bootstrap(), &[], std::slice::from_ref(&connector));
    wait_until("records arrive", SOON, || held(kafka, target) > 30).unwrap();
    zombie.signal("STOP");
    let worker = Worker::start(&kafka.bootstrap(), &[], &[connector]);
    let before = held(kafka, target);
    wait_until("another goes on", SOON, || held(kafka, target) > before + 30).unwrap();
    zombie.signal("CONT");
    wait_trace(&zombie, name, "another instance has taken it over");
    assert_eq!(task_state(&zombie, name), "FAILED");
    wait_until("the replay ends", SOON, || stored(&worker, name)[0] == 400).unwrap();
    assert_eq!(task_state(&worker, name), "RUNNING");
    assert_holds(kafka, target, &truth);
}

#[test]
fn a_restore_outlives_its_broker() {
    let mut kafka = need!(kit::Kafka::start(kit::KafkaOptions::default()));
    let truth: Vec<_> = (0..3).map(|_| thick(500, 1000, 1_700_000_000_000)).collect();
    let lake = Lake::of(&kafka, "back-broker", &truth, &[("retention.ms", "-1")]);
    let (url, bootstrap, target) = (lake.url(), kafka.bootstrap(), "back-broker-target");
    let rename = format!("back-broker={target}");
    let same = ["restore", &url, "--bootstrap-server", &bootstrap, "--rename", &rename, "--yes"];
    // Requests that hang are sent again: what was written already must not be written twice.
    let client = kit::instance_dir("hasty").unwrap().join("client.properties");
    std::fs::write(&client, "request.timeout.ms=1000\n").unwrap();
    let hasty = ["--command-config", &client.display().to_string(), "--rate", "200000", "--transaction-ms", "100"];
    let mut restore = Restore::start(&[&same[..], &hasty].concat());
    for more in [20, 200] {
        restore.wait_written(&kafka, target, more);
        kafka.signal_broker(0, "STOP");
        assert!(poll_until(Duration::from_secs(3), || None::<()>).is_none());
        kafka.signal_broker(0, "CONT");
        restore.wait_written(&kafka, target, more + 50);
        kafka.kill();
        kafka.restart().unwrap();
    }
    let status = restore.process.wait(SOON * 2).expect("it comes to its end");
    let (_, words) = restore.end("TERM");
    assert!(status.success(), "{words}");
    assert_holds(&kafka, target, &truth);
}

fn foreign() -> Record {
    Record::new(1_700_000_000_000, "somebody else's")
}

#[test]
fn a_restore_refuses_a_target_that_something_else_wrote_to() {
    let kafka = need!(kit::kafka());
    let truth: Vec<_> = (0..2).map(|_| thick(200, 1000, 1_700_000_000_000)).collect();
    let lake = Lake::of(kafka, "back-foreign", &truth, &[("retention.ms", "-1")]);
    let (url, bootstrap) = (lake.url(), kafka.bootstrap());
    let slow = ["--rate", "40000", "--transaction-ms", "300"];
    let begin = |target: &str| {
        let rename = format!("back-foreign={target}");
        let same = ["restore", &url, "--bootstrap-server", &bootstrap, "--rename", &rename, "--yes"];
        let same: Vec<String> = same.iter().map(|word| (*word).to_owned()).collect();
        let words: Vec<&str> = same.iter().map(String::as_str).chain(slow).collect();
        let mut restore = Restore::start(&words);
        restore.wait_written(kafka, target, 40);
        wait_until("partition 0 is written to", SOON, || kafka.offsets(target, 0).unwrap().1 > 10).unwrap();
        (restore, same)
    };
    // While nobody restores: what lies behind the last delivery is named, to the offset.
    let (restore, same) = begin("back-foreign-after");
    restore.end("TERM");
    let before = visible(kafka, "back-foreign-after");
    let (_, end) = kafka.offsets("back-foreign-after", 0).unwrap();
    produce(&bootstrap, "back-foreign-after", 0, &[foreign(), foreign()]);
    let same: Vec<&str> = same.iter().map(String::as_str).collect();
    let (code, _, err) = run(&same);
    let named = format!("something else has written to back-foreign-after-0: its offsets {end} to {}", end + 1);
    assert!(code == 2 && err.contains(&named), "{named}: {code} {err}");
    assert_eq!(visible(kafka, "back-foreign-after"), before + 2);
    // While it is written: the records that came too late for their place never show.
    let (mut restore, _) = begin("back-foreign-amid");
    produce(&bootstrap, "back-foreign-amid", 0, &[foreign()]);
    let status = restore.process.wait(SOON).expect("it ends by itself");
    let (_, words) = restore.end("TERM");
    assert!(status.code() == Some(3), "{words}");
    assert!(words.contains("something else writes to back-foreign-amid-0"), "{words}");
    let found = consume(&bootstrap, "back-foreign-amid", 0);
    let ours: Vec<_> = found.iter().filter(|record| **record != foreign()).cloned().collect();
    assert!(ours.len() + 1 == found.len() && ours == truth[0][..ours.len()], "{} records", found.len());
    assert_eq!(found.last(), Some(&foreign()), "nothing of ours behind it");
}

#[test]
fn two_restores_of_different_names_into_one_target_write_no_record_twice() {
    let kafka = need!(kit::kafka());
    let truth: Vec<_> = (0..2).map(|_| thick(200, 1000, 1_700_000_000_000)).collect();
    let lake = Lake::of(kafka, "back-two", &truth, &[("retention.ms", "-1")]);
    let (url, bootstrap, target) = (lake.url(), kafka.bootstrap(), "back-two-target");
    let rename = format!("back-two={target}");
    let same = ["restore", &url, "--bootstrap-server", &bootstrap, "--rename", &rename, "--yes"];
    let begin =
        |id: &str| Restore::start(&[&same[..], &["--id", id, "--rate", "40000", "--transaction-ms", "300"]].concat());
    let both = [begin("back-two-one"), begin("back-two-other")];
    let ended = both.map(|mut restore| {
        let status = restore.process.wait(SOON).expect("it ends by itself");
        (status.code().unwrap(), restore.end("TERM").1)
    });
    let codes = ended.each_ref().map(|(code, _)| *code);
    assert!(codes.iter().any(|code| [2, 3].contains(code)) && !codes.contains(&1), "{ended:?}");
    for (code, words) in ended.iter().filter(|(code, _)| *code != 0) {
        let is_told =
            words.contains("something else w") || words.contains("is not empty") || words.contains("is waited for");
        assert!(is_told, "{code}: {words}");
    }
    for (partition, truth) in (0..).zip(&truth) {
        let found = consume(&bootstrap, target, partition);
        assert!(found == truth[..found.len()], "partition {partition}: {} records", found.len());
        assert!(!codes.contains(&0) || found.len() == truth.len(), "{ended:?}");
    }
}

#[tokio::test]
async fn a_target_that_is_deleted_is_filled_anew_and_a_lost_group_is_no_fresh_start() {
    let kafka = need!(kit::kafka());
    let truth: Vec<_> = (0..2).map(|_| thick(100, 1000, 1_700_000_000_000)).collect();
    let lake = Lake::of(kafka, "back-deleted", &truth, &[("retention.ms", "-1")]);
    let (url, bootstrap, target) = (lake.url(), kafka.bootstrap(), "back-deleted-target");
    let rename = format!("back-deleted={target}");
    let same =
        ["restore", &url, "--bootstrap-server", &bootstrap, "--rename", &rename, "--yes", "--id", "back-deleted"];
    let mut restore = Restore::start(&[&same[..], &["--rate", "40000", "--transaction-ms", "300"]].concat());
    restore.wait_written(kafka, target, 40);
    restore.end("TERM");
    kafka.delete_topic(target).unwrap();
    let (code, out, err) = run(&same);
    assert_eq!(code, 0, "{out}\n{err}");
    assert_holds(kafka, target, &truth);

    // As brokers do with offsets that nobody commits for a week.
    let admin = admin(&bootstrap);
    let group = "lakeferry-restore-back-deleted";
    assert_eq!(admin.group_offsets(group).await.unwrap().len(), 2);
    admin.delete_group(group).await.unwrap();
    let (code, _, err) = run(&same);
    assert!(code == 2 && err.contains("is not empty") && err.contains(group), "{code} {err}");
    // The same id for something else is refused, too.
    let (code, _, err) = run(&[&same[..], &["--append"]].concat());
    assert_eq!(code, 0, "{err}");
    let (code, _, err) = run(&[&same[..], &["--until", "1700000005000"]].concat());
    assert!(code == 2 && err.contains("other arguments"), "{code} {err}");
    assert_eq!(visible(kafka, target), 400);
}

#[tokio::test]
async fn the_offsets_of_a_replaying_connector_are_those_of_its_group() {
    let kafka = need!(kit::kafka());
    let truth: Vec<_> = (0..2).map(|_| thick(50, 1000, 1_700_000_000_000)).collect();
    let (topic, target, name) = ("back-offsets", "back-offsets-target", "back-offsets-replay");
    let lake = Lake::of(kafka, topic, &truth, &[("retention.ms", "-1")]);
    let worker = Worker::start(&kafka.bootstrap(), &[], &[replay(name, &lake, topic, target, &[("tasks.max", "1")])]);
    wait_stored(&worker, name, &[49, 49]);
    let (admin, group) = (admin(&kafka.bootstrap()), format!("lakeferry-source-{name}"));
    let committed = async || admin.group_offsets(&group).await.unwrap().into_values().collect::<Vec<_>>();
    assert_eq!(committed().await, [50, 50]);

    let path = format!("/connectors/{name}");
    let call = |method: &str, tail: &str, body: &Value| worker.request(method, &format!("{path}{tail}"), body);
    let stop = || {
        assert_eq!(call("PUT", "/stop", &Value::Null).0, 204);
        wait_until("no task is left", SOON, || call("GET", "/tasks", &Value::Null).1 == json!([])).unwrap();
    };
    let resume = || assert_eq!(call("PUT", "/resume", &Value::Null).0, 202);
    stop();
    let back = json!({ "offsets": [{ "partition": { "topic": topic, "partition": 1 }, "offset": { "offset": 40 } }] });
    let (status, answer) =
        poll_until(SOON, || Some(call("PATCH", "/offsets", &back)).filter(|(status, _)| *status == 200))
            .unwrap_or_else(|| call("PATCH", "/offsets", &back));
    assert_eq!(status, 200, "{answer}");
    assert_eq!((stored(&worker, name), committed().await), (vec![50, 40], vec![50, 40]));
    resume();
    wait_until("the replay goes on", SOON, || stored(&worker, name) == [50, 50]).unwrap();
    let twice = [&truth[1][..], &truth[1][40..]].concat();
    assert_holds(kafka, target, &[truth[0].clone(), twice.clone()]);

    // What somebody else wrote is an error until somebody says where to go on.
    stop();
    let (_, end) = kafka.offsets(target, 0).unwrap();
    produce(&kafka.bootstrap(), target, 0, &[foreign()]);
    resume();
    wait_trace(&worker, name, &format!("{target}-0: its offsets {end} to {end}"));
    assert_eq!(visible(kafka, target), 111);
    stop();
    let on = json!({ "offsets": [{ "partition": { "topic": topic, "partition": 0 }, "offset": { "offset": 49 } }] });
    assert_eq!(call("PATCH", "/offsets", &on).0, 200);
    resume();
    wait_until("the replay goes on", SOON, || stored(&worker, name) == [50, 50]).unwrap();
    assert_holds(kafka, target, &[[&truth[0][..], &[foreign()], &truth[0][49..]].concat(), twice.clone()]);

    // Reset, it begins anew: behind what is there, or in a topic that was deleted.
    stop();
    assert_eq!(call("DELETE", "/offsets", &Value::Null).0, 200);
    assert_eq!(call("GET", "/offsets", &Value::Null).1, json!({ "offsets": [] }));
    resume();
    wait_stored(&worker, name, &[49, 49]);
    assert_eq!(visible(kafka, target), 112 + 100);
    stop();
    assert_eq!(call("DELETE", "/offsets", &Value::Null).0, 200);
    kafka.delete_topic(target).unwrap();
    resume();
    wait_stored(&worker, name, &[49, 49]);
    assert_holds(kafka, target, &truth);
}
