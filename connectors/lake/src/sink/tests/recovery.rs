//! What passes by itself: a partition waits for it alone, says so, and says when it is over.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use lakeferry_api::{Batch, BatchBuilder, Closing, Kind, SinkTask, TopicPartition};

use super::rig::{Fault, Rig, Writer, partition};

#[tokio::test]
async fn a_partition_without_leader_keeps_no_other_from_opening() {
    let rig = Rig::new(&[]);
    rig.kafka.lock().unwrap().leaderless = Some(1);
    let mut writer = rig.writer(1);
    let opened = writer.task.open(&[partition(0), partition(1), partition(2)]).await.unwrap();
    assert_eq!(opened.places.keys().collect::<Vec<_>>(), [&partition(0), &partition(2)]);
    assert!(opened.later[&partition(1)].message().contains("no leader"));
    rig.kafka.lock().unwrap().deleted = true;
    let opened = writer.task.open(&[partition(1), partition(3)]).await.unwrap();
    assert_eq!(opened.later.len(), 2, "a topic that vanishes is waited for as well: {opened:?}");
    rig.kafka.lock().unwrap().deleted = false;
    rig.kafka.lock().unwrap().leaderless = None;
    let opened = writer.task.open(&[partition(1)]).await.unwrap();
    assert!(opened.later.is_empty() && opened.places.contains_key(&partition(1)));
}

#[tokio::test]
async fn a_store_that_is_far_away_is_asked_for_many_partitions_at_once() {
    const LATENCY_MS: i64 = 100;
    let rig = Rig::new(&[]);
    rig.store.latency.set((Arc::clone(&rig.clock), Duration::from_millis(LATENCY_MS as u64))).unwrap();
    let (mut writer, partitions) = (rig.writer(1), (0..64).map(partition).collect::<Vec<_>>());
    let moving = async {
        loop {
            tokio::task::yield_now().await;
            rig.clock.advance(1);
        }
    };
    let opened = tokio::select! {
        opened = writer.task.open(&partitions) => opened.unwrap(),
        () = moving => unreachable!(),
    };
    assert_eq!(opened.places.len(), 64);
    let (reads, took_ms) = (rig.store.reads.load(Ordering::SeqCst) as i64, rig.clock.now());
    assert!(reads >= 64 && took_ms >= LATENCY_MS, "{reads} reads in {took_ms} ms");
    assert!(took_ms < reads * LATENCY_MS / 8, "{reads} reads one by one: {took_ms} ms");
}

#[tokio::test]
async fn an_idle_partition_hears_of_what_was_written_behind_its_back() {
    let rig = Rig::new(&[("flush.size", "10")]);
    let mut writer = rig.writer(1);
    writer.open().await;
    writer.put(0, 10, 0..10).await.unwrap();
    writer.tick_until(&rig, async |rig| rig.spans().await.len() == 1).await;
    // Whoever sets an offset while nobody runs may be slow: the entry lands when the task has begun again.
    rig.kafka.lock().unwrap().live = false;
    rig.alter(Some(4)).await.unwrap();
    rig.kafka.lock().unwrap().live = true;
    writer.tick().await.unwrap();
    assert_eq!(writer.seek(), None, "not asked at every step");
    rig.clock.advance(600_000);
    writer.tick_until(&rig, async |rig| !rig.kafka.lock().unwrap().seeks.is_empty()).await;
    assert_eq!(writer.seek(), Some(4));
}

#[tokio::test]
async fn idle_partitions_do_not_all_ask_at_once() {
    let rig = Rig::new(&[("rotate.age.ms", "60000")]);
    let mut writer = rig.writer(1);
    writer.task.open(&(0..64).map(partition).collect::<Vec<_>>()).await.unwrap();
    let mut asked = Vec::new();
    for _ in 0..600 {
        let before = rig.store.reads.load(Ordering::SeqCst);
        rig.clock.advance(100);
        for _ in 0..4 {
            writer.tick().await.unwrap();
        }
        asked.push(rig.store.reads.load(Ordering::SeqCst) - before);
    }
    let (in_all, most) = (asked.iter().sum::<u64>(), asked.iter().max().unwrap());
    assert!(in_all >= 64 && *most <= 8, "{in_all} questions in a minute, {most} of them at once");
}

#[tokio::test]
async fn a_topic_made_anew_is_recorded_once_though_no_record_comes() {
    let rig = Rig::new(&[("flush.size", "10")]);
    let mut writer = rig.writer(1);
    writer.open().await;
    writer.put(0, 10, 0..10).await.unwrap();
    writer.tick_until(&rig, async |rig| rig.spans().await.len() == 1).await;
    writer.task.close(&[partition(0)], Closing::Revoked).await.unwrap();
    {
        let mut kafka = rig.kafka.lock().unwrap();
        kafka.view.topic_id = Some("id-2".to_owned());
        (kafka.view.end_offset, kafka.view.last_stable_offset) = (Some(0), 0);
    }
    let before = rig.writes();
    let mut writer = rig.writer(2);
    assert_eq!(writer.open().await, 0);
    for _ in 0..10 {
        writer.tick().await.unwrap();
        rig.clock.advance(1_000);
    }
    assert_eq!(rig.writes(), before, "an answer may be of a broker that lags behind: it is asked for twice");
    rig.clock.advance(60_000);
    writer.tick_until(&rig, async |rig| rig.chain().await.len() == 3).await;
    let end = rig.chain().await.pop().unwrap();
    assert_eq!((end.source.lineage, end.source.topic_id.as_deref(), end.resume_offset), (2, Some("id-2"), Some(0)));
    let after = rig.writes();
    for _ in 0..200 {
        writer.tick().await.unwrap();
        rig.clock.advance(1_000);
    }
    assert_eq!(rig.writes(), after, "once");
}

#[tokio::test]
async fn a_log_s_start_that_another_broker_told_is_not_believed() {
    let rig = Rig::new(&[("flush.size", "10")]);
    let mut writer = rig.writer(1);
    // The old topic had lost its oldest records; the new one has all of them.
    rig.kafka.lock().unwrap().view.log_start_offset = 5;
    assert_eq!(writer.open().await, 5);
    rig.kafka.lock().unwrap().view.log_start_offset = 0;
    writer.put(5, 15, 5..15).await.unwrap();
    writer.tick_until(&rig, async |rig| !rig.kafka.lock().unwrap().seeks.is_empty()).await;
    assert_eq!(writer.seek(), Some(0));
    writer.put(0, 10, 0..10).await.unwrap();
    writer.tick_until(&rig, async |rig| rig.spans().await.len() == 1).await;
    assert_eq!((rig.spans().await, rig.chain().await[0].source.first), (vec![(0, 9, 10)], Some(0)));
}

#[tokio::test]
async fn the_settings_of_another_incarnation_are_not_written_down() {
    let rig = Rig::new(&[("flush.size", "10")]);
    let mut writer = rig.writer(1);
    assert_eq!(writer.open().await, 0);
    rig.kafka.lock().unwrap().topic_id_of_configs = Some("id-2".to_owned());
    writer.put(0, 10, 0..10).await.unwrap();
    writer.tick_until(&rig, async |rig| !rig.kafka.lock().unwrap().seeks.is_empty()).await;
    assert!(rig.chain().await.is_empty(), "{:?}", rig.chain().await);
    let told = rig.kafka.lock().unwrap().trouble.clone();
    assert!(told.iter().flatten().any(|trouble| trouble.contains("another of id-2")), "{told:?}");
    rig.kafka.lock().unwrap().topic_id_of_configs = None;
    writer.put(0, 10, 0..10).await.unwrap();
    writer.tick_until(&rig, async |rig| rig.spans().await.len() == 1).await;
    assert_eq!(rig.chain().await[0].source.topic_id.as_deref(), Some("id-1"));
}

#[tokio::test]
async fn a_gap_fails_the_task_once_a_second_answer_tells_of_it() {
    let rig = Rig::new(&[("flush.size", "10"), ("errors.on.gap", "fail")]);
    let mut writer = rig.writer(1);
    writer.open().await;
    writer.put(0, 10, 0..10).await.unwrap();
    writer.tick_until(&rig, async |rig| rig.spans().await.len() == 1).await;
    // A broker that lags behind, or tells of another incarnation.
    rig.kafka.lock().unwrap().view.log_start_offset = 15;
    let mut writer = rig.writer(2);
    assert_eq!(writer.open().await, 15);
    rig.kafka.lock().unwrap().view.log_start_offset = 0;
    writer.tick_until(&rig, async |rig| !rig.kafka.lock().unwrap().seeks.is_empty()).await;
    assert_eq!(writer.seek(), Some(10), "nothing is lost");
    // No record has to come.
    rig.kafka.lock().unwrap().view.log_start_offset = 15;
    let mut writer = rig.writer(3);
    assert_eq!(writer.open().await, 15);
    let error = loop {
        match writer.tick().await {
            Ok(()) => tokio::task::yield_now().await,
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), Kind::Fatal);
    assert!(error.message().contains("offsets 10..=14 are gone"), "{error:?}");
    assert_eq!(rig.spans().await.len(), 1);
    assert!(rig.chain().await.iter().all(|entry| entry.gaps.is_empty()));
}

#[tokio::test]
async fn a_question_about_what_is_believed_no_more_harms_nothing() {
    let rig = Rig::new(&[("flush.size", "10"), ("rotate.age.ms", "60000")]);
    let mut writer = rig.writer(1);
    writer.open().await;
    writer.put(0, 10, 0..10).await.unwrap();
    writer.tick_until(&rig, async |rig| rig.spans().await.len() == 1).await;
    // The question is under way when the next entry is written, and finds it.
    rig.store.latency.set((Arc::clone(&rig.clock), Duration::from_millis(100))).unwrap();
    let asked = rig.store.reads.load(Ordering::SeqCst);
    rig.clock.advance(60_000);
    while rig.store.reads.load(Ordering::SeqCst) == asked {
        writer.tick().await.unwrap();
    }
    let before = rig.writes();
    writer.put(10, 20, 10..20).await.unwrap();
    while rig.writes() < before + 2 {
        writer.tick().await.unwrap();
    }
    for _ in 0..20 {
        rig.clock.advance(100);
        writer.tick().await.unwrap();
    }
    assert!(rig.kafka.lock().unwrap().seeks.is_empty(), "nothing is read again");
}

#[tokio::test]
async fn a_trouble_that_has_passed_leaves_the_status() {
    let rig = Rig::new(&[("flush.size", "10")]);
    let mut writer = rig.writer(1);
    writer.open().await;
    rig.store.faults.lock().unwrap().extend([("_manifests", Fault::Before); 8]);
    writer.put(0, 10, 0..10).await.unwrap();
    writer.tick_until(&rig, async |rig| rig.spans().await.len() == 1).await;
    let told = rig.kafka.lock().unwrap().trouble.clone();
    let [Some(trouble), None] = &told[..] else { panic!("{told:?}") };
    assert!(trouble.starts_with("orders-0: "), "{trouble}");
}

#[tokio::test]
async fn an_idle_partition_s_trouble_leaves_the_status_too() {
    let rig = Rig::new(&[("flush.size", "10"), ("rotate.age.ms", "60000")]);
    let mut writer = rig.writer(1);
    writer.open().await;
    writer.put(0, 10, 0..10).await.unwrap();
    writer.tick_until(&rig, async |rig| rig.spans().await.len() == 1).await;
    // A broker that lags behind tells of the topic that was.
    rig.kafka.lock().unwrap().view.topic_id = Some("id-0".to_owned());
    rig.clock.advance(60_000);
    writer.tick_until(&rig, async |rig| rig.kafka.lock().unwrap().trouble.len() == 1).await;
    rig.kafka.lock().unwrap().view.topic_id = Some("id-1".to_owned());
    writer.tick_until(&rig, async |rig| rig.kafka.lock().unwrap().trouble.len() == 2).await;
    assert_eq!(rig.kafka.lock().unwrap().trouble[1], None);
}

/// An epoch that is known of a record before the last one is no mark.
#[tokio::test]
async fn records_without_a_leader_epoch_leave_no_mark() {
    let rig = Rig::new(&[("flush.size", "10")]);
    let mut writer = rig.writer(1);
    writer.open().await;
    writer.put_in_epoch(4, 0, 10).await.unwrap();
    writer.put(10, 20, 10..20).await.unwrap();
    writer.put_in_epoch(5, 20, 25).await.unwrap();
    writer.put(25, 30, 25..30).await.unwrap();
    writer.tick_until(&rig, async |rig| rig.spans().await.len() == 3).await;
    let marks: Vec<_> = rig.chain().await.iter().map(|entry| entry.log.leader_epoch).collect();
    assert!(!marks.contains(&Some(5)) && marks.last() == Some(&None), "{marks:?}");
}

#[tokio::test]
async fn the_topic_s_configs_are_asked_only_where_offsets_are_without_record() {
    let rig = Rig::new(&[("flush.size", "5")]);
    let mut writer = rig.writer(1);
    writer.open().await;
    writer.put(0, 5, 0..5).await.unwrap();
    writer.tick_until(&rig, async |rig| rig.spans().await.len() == 1).await;
    assert_eq!(rig.kafka.lock().unwrap().configs_asked, 1, "by the opening entry, which keeps them");

    // A question that goes unanswered is asked again; the file that is stored stays.
    rig.kafka.lock().unwrap().configs_unanswered = 3;
    writer.put(5, 20, [5, 7, 9, 11, 19]).await.unwrap();
    writer.tick_until(&rig, async |rig| rig.spans().await.len() == 2).await;
    assert_eq!(rig.spans().await, [(0, 4, 5), (5, 19, 5)]);
    assert!(rig.kafka.lock().unwrap().seeks.is_empty(), "nothing was read again");
}

/// A writer with 5 records in hand, behind whose back another opened the archive.
async fn fenced_by_a_stray(rig: &Rig) -> Writer {
    let (mut ours, mut stray) = (rig.writer(1), rig.writer(2));
    ours.open().await;
    ours.put(0, 5, 0..5).await.unwrap();
    ours.tick_until(rig, async |rig| rig.chain().await.len() == 1).await;
    stray.open().await;
    stray.put(0, 3, 0..3).await.unwrap();
    stray.tick_until(rig, async |rig| rig.chain().await.len() == 2).await;
    ours
}

/// The writer reads everything once more and publishes it once, in an epoch behind the stray's.
async fn begins_again(rig: &Rig, mut ours: Writer) {
    ours.tick_until(rig, async |rig| !rig.kafka.lock().unwrap().seeks.is_empty()).await;
    assert_eq!(ours.seek(), Some(0));
    ours.put(0, 10, 0..10).await.unwrap();
    ours.tick_until(rig, async |rig| rig.spans().await.len() == 1).await;
    assert_eq!(rig.spans().await, [(0, 9, 10)]);
    assert_eq!(rig.chain().await.last().unwrap().epoch, 3);
}

#[tokio::test]
async fn a_fenced_writer_whom_the_group_trusts_opens_again() {
    let rig = Rig::new(&[("flush.size", "10")]);
    let mut ours = fenced_by_a_stray(&rig).await;
    ours.put(5, 10, 5..10).await.unwrap();
    begins_again(&rig, ours).await;
}

#[tokio::test]
async fn a_partition_that_the_group_refused_for_a_moment_is_not_given_up_for_good() {
    let rig = Rig::new(&[("flush.size", "10")]);
    let mut ours = fenced_by_a_stray(&rig).await;
    // The group rebalances just now, and refuses those who stay, too.
    rig.kafka.lock().unwrap().commit_refused = true;
    ours.put(5, 10, 5..10).await.unwrap();
    for _ in 0..500 {
        ours.tick().await.unwrap();
        rig.clock.advance(10);
    }
    assert!(rig.spans().await.is_empty() && ours.seek().is_none(), "nothing without the group's word");
    rig.kafka.lock().unwrap().commit_refused = false;
    begins_again(&rig, ours).await;
}

#[tokio::test]
async fn an_age_without_bound_is_no_bound() {
    let rig = Rig::new(&[("rotate.age.ms", &i64::MAX.to_string())]);
    let mut writer = rig.writer(1);
    writer.open().await;
    writer.put(0, 10, 0..10).await.unwrap();
    for _ in 0..20 {
        writer.tick().await.unwrap();
        rig.clock.advance(1_000_000);
    }
    assert!(rig.spans().await.is_empty());
}

#[tokio::test]
async fn a_reset_that_is_cut_short_begins_where_a_whole_one_does() {
    let rig = Rig::new(&[("flush.size", "10")]);
    let mut writer = rig.writer(1);
    writer.open().await;
    writer.put(0, 20, 0..20).await.unwrap();
    writer.tick_until(&rig, async |rig| rig.spans().await.len() == 2).await;
    drop(writer);
    {
        let mut kafka = rig.kafka.lock().unwrap();
        (kafka.live, kafka.committed) = (false, Some(20));
    }
    // The worker dies behind the entry: it does not come to the group's offsets.
    rig.alter(None).await.unwrap();
    assert_eq!(rig.writer(2).open().await, 0, "nothing below offset 20 would be in the new lineage");
}

#[tokio::test]
async fn what_fails_an_opening_fails_the_task_and_lets_it_end() {
    let rig = Rig::new(&[]);
    rig.kafka.lock().unwrap().configs_denied = true;
    let mut writer = rig.writer(1);
    writer.open().await;
    writer.put(0, 10, 0..10).await.unwrap();
    let mut ticks = 0;
    let error = loop {
        if let Err(error) = writer.tick().await {
            break error;
        }
        ticks += 1;
        assert!(ticks < 1000, "it never fails");
    };
    assert!(error.kind() == Kind::Config && error.message().contains("DESCRIBE_CONFIGS"), "{error}");
    // As the loop does at the end: what failed is not asked again, and nothing of it is published.
    assert_eq!(writer.task.close(&[partition(0)], Closing::Revoked).await.unwrap().get(&partition(0)), None);
    assert!(rig.chain().await.is_empty());
}

/// Gives the writer what it still needs of ten records, and 100 ms; the position behind.
async fn go_on_with_ten_records(rig: &Rig, writer: &mut Writer, position: i64) -> i64 {
    if writer.seek().unwrap_or(position) < 10 {
        writer.put(0, 10, 0..10).await.unwrap();
    }
    writer.tick().await.unwrap();
    rig.clock.advance(100);
    10
}

#[tokio::test]
async fn a_file_that_never_goes_up_makes_no_flood_of_entries() {
    let rig = Rig::new(&[("flush.size", "10")]);
    let mut writer = rig.writer(1);
    let mut position = writer.open().await;
    // A gateway that takes small bodies only, for example: entries pass, files do not.
    rig.store.faults.lock().unwrap().extend([(".parquet", Fault::Before); 10_000]);
    while rig.clock.now() < 600_000 {
        position = go_on_with_ten_records(&rig, &mut writer, position).await;
    }
    let entries = rig.chain().await.len();
    assert!((2..40).contains(&entries), "{entries} entries in ten minutes");
    rig.store.faults.lock().unwrap().clear();
    while rig.spans().await.is_empty() {
        position = go_on_with_ten_records(&rig, &mut writer, position).await;
        assert!(rig.clock.now() < 700_000, "it goes on by itself");
    }
}

#[tokio::test]
async fn a_thousand_partitions_do_not_all_write_to_the_store_at_once() {
    let rig = Rig::new(&[("flush.size", "1")]);
    let clock = (Arc::clone(&rig.clock), Duration::from_millis(20));
    rig.store.put_latency.set(clock).unwrap();
    let (mut writer, partitions) = (rig.writer(1), (0..1_000).map(partition).collect::<Vec<_>>());
    writer.task.open(&partitions).await.unwrap();
    let batches: Vec<_> = partitions.iter().map(one_record).collect();
    writer.task.put(&batches).await.unwrap();
    writer.tick_until(&rig, async |rig| rig.writes() >= 3_000).await;
    let most = rig.store.most_puts.load(Ordering::SeqCst);
    assert!((8..=32).contains(&most), "{most} puts at once");
}

/// The record at offset 0.
fn one_record(partition: &TopicPartition) -> Batch {
    let mut builder = BatchBuilder::new(partition.clone(), 0);
    builder.push(0, (0, None), None, Some(b"value"));
    builder.build(1)
}
