//! Targets of which the brokers deleted the first records that were restored: whoever restores is told, with the
//! offsets, and not only by who compares afterwards.

use std::collections::BTreeMap;
use std::time::Duration;

use super::targets::lake_of_two;
use super::{Restore, assert_holds, documents, thick, visible};
use crate::journey::run;
use crate::kafka::admin;
use crate::kit::{self, Kafka, need, wait_until};
use crate::lake::Lake;
use crate::topic::Record;

const SOON: Duration = Duration::from_secs(60);
const SLOW: [&str; 4] = ["--rate", "40000", "--transaction-ms", "300"];

fn truth() -> Vec<Vec<Record>> {
    (0..2).map(|_| thick(100, 1000, 1_700_000_000_000)).collect()
}

/// The command, without what it is to do in the end.
fn command(kafka: &Kafka, lake: &Lake, rename: &str) -> Vec<String> {
    let (url, bootstrap) = (lake.url(), kafka.bootstrap());
    ["restore", &url, "--bootstrap-server", &bootstrap, "--rename", rename].map(str::to_owned).to_vec()
}

fn with<'a>(command: &'a [String], more: &[&'a str]) -> Vec<&'a str> {
    command.iter().map(String::as_str).chain(more.iter().copied()).collect()
}

/// A restore on its way, of which partition 0 holds more than ten offsets.
fn begin(kafka: &Kafka, command: &[String], target: &str) -> Restore {
    let mut restore = Restore::start(&with(command, &[&["--yes"][..], &SLOW].concat()));
    restore.wait_written(kafka, target, 20);
    wait_until("partition 0 is written to", SOON, || kafka.offsets(target, 0).unwrap().1 > 10).unwrap();
    restore
}

#[tokio::test]
async fn a_target_that_lost_its_first_records_between_two_runs_is_refused_unless_retention_explains_it() {
    let kafka = need!(kit::kafka());
    let lake = Lake::of(kafka, "lost-between", &truth(), &[("retention.ms", "-1")]);
    let target = "lost-between-back";
    let command = command(kafka, &lake, "lost-between=lost-between-back");
    begin(kafka, &command, target).end("TERM");
    kafka.delete_records(target, 0, 5).unwrap();
    let before = visible(kafka, target);
    for ending in ["--dry-run", "--yes"] {
        let (code, out, err) = run(&with(&command, &[ending]));
        let words = "offsets 0 to 4 of lost-between-back-0 were restored, and the brokers have deleted them, though";
        assert!(code == 1 && err.contains(words) && out.contains(words), "{ending}: {code} {out}\n{err}");
        assert!(err.contains("delete lost-between-back, and the same command"), "{err}");
    }
    assert_eq!(visible(kafka, target), before, "nothing was written");

    // Whoever insists has all the rest.
    let (code, out, err) = run(&with(&command, &["--yes", "--force", "--json"]));
    let account = documents(&out).pop().unwrap();
    assert!(code == 0 && account["lost"][0]["log_start"] == 5, "{code} {out}\n{err}");
    assert_eq!(visible(kafka, target), 195);
    // It would be told so again and again, unless the topic is one whose records go.
    let retention = BTreeMap::from([("retention.ms".to_owned(), Some(i64::MAX.to_string()))]);
    admin(&kafka.bootstrap()).alter_topic_configs(target, &retention).await.unwrap();
    let (code, out, err) = run(&with(&command, &["--yes"]));
    let words = format!("deleted them, as its retention.ms={} lets them", i64::MAX);
    assert!(code == 0 && out.contains(&words), "{code} {out}\n{err}");
}

#[test]
fn a_target_that_is_made_anew_when_it_is_done_is_told_at_the_end() {
    let kafka = need!(kit::kafka());
    let lake = lake_of_two(kafka, "replaced");
    let (url, bootstrap) = (lake.url(), kafka.bootstrap());
    let renames = ["--rename", "replaced-early=replaced-early-back", "--rename", "replaced-late=replaced-late-back"];
    let slow = ["--yes", "--order", "time", "--rate", "40", "--transaction-ms", "100"];
    let mut restore =
        Restore::start(&[&["restore", &url, "--bootstrap-server", &bootstrap], &renames[..], &slow].concat());
    restore.wait_written(kafka, "replaced-late-back", 1);
    kafka.delete_topic("replaced-early-back").unwrap();
    kafka.create_topic("replaced-early-back", 1, &[("retention.ms", "-1")]).unwrap();
    assert!(visible(kafka, "replaced-late-back") < 20, "it is over already");
    let status = restore.process.wait(SOON).expect("it ends by itself");
    let (_, words) = restore.end("TERM");
    assert!(status.code() == Some(3), "{words}");
    assert!(words.contains("topic replaced-early-back was deleted meanwhile, and what was restored to it"), "{words}");
    assert_eq!(visible(kafka, "replaced-late-back"), 20, "{words}");
}

#[test]
fn a_target_that_loses_its_first_records_while_it_is_written_is_told_at_the_end() {
    let kafka = need!(kit::kafka());
    let truth = truth();
    let lake = Lake::of(kafka, "lost-amid", &truth, &[("retention.ms", "-1")]);
    let target = "lost-amid-back";
    let command = command(kafka, &lake, "lost-amid=lost-amid-back");
    let mut restore = begin(kafka, &command, target);
    kafka.delete_records(target, 0, 5).unwrap();
    let status = restore.process.wait(SOON).expect("it ends by itself");
    let (_, words) = restore.end("TERM");
    assert!(status.code() == Some(1), "{words}");
    assert!(words.contains("offsets 0 to 4 of lost-amid-back-0 were restored, and the brokers"), "{words}");
    assert_eq!(visible(kafka, target), 195);
    // The way out that is told.
    kafka.delete_topic(target).unwrap();
    let (code, out, err) = run(&with(&command, &["--yes"]));
    assert_eq!(code, 0, "{out}\n{err}");
    assert_holds(kafka, target, &truth);
}
