//! A topic's settings change while it is archived: the archive tells of it, once, and nothing is read again for that.

use lakeferry_api::{Closing, SinkTask as _};

use super::rig::{Rig, Writer, partition};
use crate::manifest::model::EntryKind::{Commit, Open};
use crate::manifest::model::OffsetRange;
use crate::manifest::{Digest, wire};

/// Archives ten records in one file, and changes the topic then.
async fn changed(rig: &Rig) -> Writer {
    let mut writer = rig.writer(1);
    writer.open().await;
    writer.put(0, 10, 0..10).await.unwrap();
    writer.tick_until(rig, async |rig| rig.spans().await.len() == 1).await;
    rig.kafka.lock().unwrap().cleanup_policy = "compact".to_owned();
    writer
}

/// What each entry does, its epoch, and what it tells of the topic.
async fn told(rig: &Rig) -> Vec<(crate::manifest::model::EntryKind, u32, Option<String>)> {
    let policy = |entry: &crate::manifest::Entry| Some(entry.topic.as_ref()?.configs["cleanup.policy"].clone());
    rig.chain().await.iter().map(|entry| (entry.kind, entry.epoch, policy(entry))).collect()
}

fn policy(policy: &str) -> Option<String> {
    Some(policy.to_owned())
}

#[tokio::test]
async fn a_change_is_told_once_by_an_idle_writer() {
    let rig = Rig::new(&[("flush.size", "10"), ("rotate.age.ms", "60000")]);
    let mut writer = changed(&rig).await;
    rig.clock.advance(60_000);
    writer.tick_until(&rig, async |rig| rig.chain().await.len() == 3).await;
    let all = [(Open, 1, policy("delete")), (Commit, 1, None), (Open, 2, policy("compact"))];
    assert_eq!(told(&rig).await, all);
    let before = rig.writes();
    for _ in 0..600 {
        writer.tick().await.unwrap();
        rig.clock.advance(1_000);
    }
    assert_eq!(rig.writes(), before, "once");
    assert!(rig.kafka.lock().unwrap().seeks.is_empty(), "nothing is read again");
    writer.put(10, 20, 10..20).await.unwrap();
    writer.tick_until(&rig, async |rig| rig.spans().await.len() == 2).await;
    assert_eq!((rig.spans().await[1], told(&rig).await[3].1), ((10, 19, 10), 2));
}

/// Files that follow each other without a pause: there is always one on its way.
#[tokio::test]
async fn a_writer_at_work_keeps_what_it_has_open() {
    let rig = Rig::new(&[("flush.size", "10"), ("rotate.age.ms", "60000")]);
    let mut writer = changed(&rig).await;
    let mut next = 10;
    writer.put(next, next + 5, next..next + 5).await.unwrap();
    next += 5;
    rig.clock.advance(45_000);
    while told(&rig).await.len() < 3 || told(&rig).await.last().unwrap().1 < 2 {
        assert!(next < 2_000, "{:?}", told(&rig).await);
        writer.put(next, next + 5, next..next + 5).await.unwrap();
        next += 5;
        writer.tick().await.unwrap();
        rig.clock.advance(200);
    }
    writer.put(next, next + 5, next..next + 5).await.unwrap();
    writer.tick_until(&rig, async |rig| rig.chain().await.last().unwrap().kind == Commit).await;
    let spans = rig.spans().await;
    assert!(spans.windows(2).all(|pair| pair[0].1 + 1 == pair[1].0), "{spans:?}");
    assert!(rig.kafka.lock().unwrap().seeks.is_empty(), "nothing is read again");
    let told = told(&rig).await;
    let opens: Vec<_> = told.iter().filter(|(kind, ..)| *kind == Open).collect();
    assert_eq!(opens, [&(Open, 1, policy("delete")), &(Open, 2, policy("compact"))], "{told:?}");
    for file in rig.chain().await.iter().flat_map(|entry| &entry.files) {
        rig.assert_stored(file).await;
    }
}

#[tokio::test]
async fn of_all_partitions_of_a_topic_one_looks_and_one_tells() {
    let rig = Rig::new(&[("rotate.age.ms", "60000"), ("flush.size", "10")]);
    let mut writer = changed(&rig).await;
    let others: Vec<_> = (1..64).map(partition).collect();
    writer.task.open(&others).await.unwrap();
    let (asked, before) = (rig.kafka.lock().unwrap().configs_asked, rig.writes());
    for _ in 0..1_200 {
        writer.tick().await.unwrap();
        rig.clock.advance(100);
    }
    let asked = rig.kafka.lock().unwrap().configs_asked - asked;
    assert!((1..=5).contains(&asked), "{asked} questions about the topic's settings in two minutes");
    assert_eq!(rig.writes() - before, 1, "one entry of one chain; nothing is owed to partitions without records");
}

#[tokio::test]
async fn a_task_that_began_idle_tells_what_changes_from_then_on() {
    let rig = Rig::new(&[("flush.size", "10"), ("rotate.age.ms", "60000")]);
    let mut first = changed(&rig).await;
    first.task.close(&[partition(0)], Closing::Revoked).await.unwrap();
    let mut writer = rig.writer(2);
    writer.open().await;
    rig.clock.advance(60_000);
    for _ in 0..10 {
        writer.tick().await.unwrap();
    }
    assert_eq!(rig.chain().await.len(), 2, "what it sees first is taken for what was told");
    rig.kafka.lock().unwrap().cleanup_policy = "compact,delete".to_owned();
    rig.clock.advance(60_000);
    writer.tick_until(&rig, async |rig| rig.chain().await.len() == 3).await;
    assert_eq!(told(&rig).await[2], (Open, 2, policy("compact,delete")));
}

/// A writer that slept must not take the partition back for that.
#[tokio::test]
async fn a_zombie_that_has_settings_to_tell_is_fenced() {
    let rig = Rig::new(&[("flush.size", "10"), ("rotate.age.ms", "60000")]);
    let mut zombie = changed(&rig).await;
    zombie.put(10, 15, 10..15).await.unwrap();
    let mut owner = rig.writer(2);
    owner.open().await;
    owner.put(10, 20, 10..20).await.unwrap();
    owner.tick_until(&rig, async |rig| rig.spans().await.len() == 2).await;
    rig.kafka.lock().unwrap().commit_refused = true;
    let asked = rig.kafka.lock().unwrap().configs_asked;
    rig.clock.advance(59_000);
    while rig.kafka.lock().unwrap().configs_asked == asked {
        zombie.tick().await.unwrap();
        rig.clock.advance(10);
    }
    for _ in 0..50 {
        zombie.tick().await.unwrap();
    }
    assert_eq!(rig.chain().await.len(), 4);
    assert!(zombie.task.flush(&[(partition(0), 15)].into()).await.unwrap().is_empty(), "given up");
    assert!(rig.kafka.lock().unwrap().seeks.is_empty());
}

/// What was read of it is published, as it is where nothing changed.
#[tokio::test]
async fn a_topic_that_is_deleted_before_its_settings_are_told_loses_nothing() {
    let rig = Rig::new(&[("flush.size", "10"), ("rotate.age.ms", "60000")]);
    let mut writer = changed(&rig).await;
    let asked = rig.kafka.lock().unwrap().configs_asked;
    rig.clock.advance(30_000);
    writer.put(10, 15, 10..15).await.unwrap();
    while rig.kafka.lock().unwrap().configs_asked == asked {
        writer.tick().await.unwrap();
        rig.clock.advance(10);
    }
    rig.kafka.lock().unwrap().deleted = true;
    writer.tick_until(&rig, async |rig| rig.spans().await.len() == 2).await;
    assert_eq!(rig.spans().await[1], (10, 14, 5));
    assert_eq!(told(&rig).await.len(), 3, "no epoch was opened");
}

/// What is ahead is known until it is passed; an epoch that is left amid it would not tell where it goes on.
#[tokio::test]
async fn an_epoch_is_not_left_amid_what_is_archived_ahead() {
    let rig = Rig::new(&[("flush.size", "10"), ("rotate.age.ms", "60000")]);
    drop(changed(&rig).await);
    ahead(&rig, 20, 29).await;
    let mut writer = rig.writer(2);
    assert_eq!(writer.open().await, 10);
    writer.put(10, 25, 10..25).await.unwrap();
    writer.tick_until(&rig, async |rig| rig.chain().await.last().unwrap().resume_offset == Some(30)).await;
    rig.kafka.lock().unwrap().cleanup_policy = "compact,delete".to_owned();
    rig.clock.advance(60_000);
    for _ in 0..20 {
        writer.tick().await.unwrap();
    }
    assert_eq!(rig.chain().await.last().unwrap().epoch, 2);
    writer.put(25, 40, 25..40).await.unwrap();
    writer.tick_until(&rig, async |rig| rig.chain().await.last().unwrap().resume_offset == Some(40)).await;
    assert_eq!(rig.spans().await.last(), Some(&(30, 39, 10)));
    assert_eq!(rig.chain().await.last().unwrap().epoch, 3, "{:?}", told(&rig).await);
}

/// Another writer's file of `from` to `to`, ahead of where the chain stands.
async fn ahead(rig: &Rig, from: i64, to: i64) {
    let (end, bytes) = rig.manifests().read(&partition(0), 1).await.unwrap().unwrap();
    let mut file = end.files[0].clone();
    (file.span_from, file.span_to, file.first_offset, file.last_offset) = (Some(from), Some(to), from, to);
    file.path.push_str(".ahead");
    let mut entry = crate::manifest::Entry {
        seq: end.seq + 1,
        previous_sha256: Some(Digest::of(&bytes)),
        ahead: [OffsetRange::new(from, to)].into_iter().collect(),
        files: vec![file],
        ..end
    };
    entry.totals.records *= 2;
    entry.totals.files *= 2;
    entry.totals.stored_bytes *= 2;
    entry.totals.raw_bytes *= 2;
    let bytes = wire::encode(&entry).unwrap();
    rig.manifests().create(&partition(0), entry.seq, bytes).await.unwrap();
}
