//! The sink against a scripted Kafka and a faulty store: one test for each promise of the protocol.

mod alter;
mod encoding;
mod memory;
mod recovery;
mod rig;
mod settings;
mod uploads;

use lakeferry_api::connector::SinkAlteration;
use lakeferry_api::{Closing, EpochMark, Kind, Place, SinkTask};
use rig::{Fault, Rig, batch, partition};

use crate::manifest::model::{Continues, EntryKind, Gap, Reason, StartedBy};

#[tokio::test]
async fn files_are_published_in_order_and_their_spans_touch() {
    let rig = Rig::new(&[("flush.size", "10")]);
    let mut writer = rig.writer(1);
    assert_eq!(writer.open().await, 0);
    writer.put(0, 25, 0..25).await.unwrap();
    writer.tick_until(&rig, async |rig| rig.spans().await.len() == 2).await;
    writer.tick().await.unwrap();
    let durable = writer.task.flush(&[(partition(0), 25)].into()).await.unwrap();
    assert_eq!(durable[&partition(0)], 20, "what is in the open file is not durable");
    let closed = writer.task.close(&[partition(0)], Closing::Revoked).await.unwrap();
    assert_eq!(closed[&partition(0)], 25);
    assert_eq!(rig.spans().await, [(0, 9, 10), (10, 19, 10), (20, 24, 5)]);
    let chain = rig.chain().await;
    assert_eq!(chain[0].kind, EntryKind::Open);
    assert!(chain[0].topic.is_some() && chain[0].files.is_empty());
    let end = chain.last().unwrap();
    assert_eq!((end.totals.records, end.totals.files, end.resume_offset), (25, 3, Some(25)));
    for file in chain.iter().flat_map(|entry| &entry.files) {
        rig.assert_stored(file).await;
    }
}

#[tokio::test]
async fn a_stored_file_may_wait_for_the_entry_before_it() {
    let rig = Rig::new(&[("flush.size", "10")]);
    let mut writer = rig.writer(1);
    writer.open().await;
    writer.put(0, 10, 0..10).await.unwrap();
    writer.tick_until(&rig, async |rig| rig.chain().await.len() == 1).await;
    rig.store.faults.lock().unwrap().extend([("_manifests", Fault::Before); 8]);
    writer.put(10, 30, 10..30).await.unwrap();
    writer.tick_until(&rig, async |rig| rig.spans().await.len() == 3).await;
    assert_eq!(rig.spans().await, [(0, 9, 10), (10, 19, 10), (20, 29, 10)]);
}

#[tokio::test]
async fn a_crash_resumes_from_the_manifest_whatever_the_group_committed() {
    let rig = Rig::new(&[("flush.size", "10")]);
    let mut writer = rig.writer(1);
    writer.open().await;
    writer.put(0, 15, 0..15).await.unwrap();
    writer.tick_until(&rig, async |rig| rig.spans().await.len() == 1).await;
    drop(writer);
    rig.kafka.lock().unwrap().committed = Some(15);
    let mut next = rig.writer(2);
    assert_eq!(next.open().await, 10);
    next.put(10, 20, 10..20).await.unwrap();
    next.tick_until(&rig, async |rig| rig.spans().await.len() == 2).await;
    assert_eq!(rig.spans().await, [(0, 9, 10), (10, 19, 10)]);
    assert_eq!(rig.chain().await.last().unwrap().epoch, 2);
}

#[tokio::test]
async fn a_zombie_publishes_nothing_once_another_has_opened() {
    let rig = Rig::new(&[("flush.size", "10")]);
    let (mut zombie, mut owner) = (rig.writer(1), rig.writer(2));
    zombie.open().await;
    zombie.put(0, 5, 0..5).await.unwrap();
    zombie.tick_until(&rig, async |rig| rig.chain().await.len() == 1).await;
    assert_eq!(owner.open().await, 0);
    owner.put(0, 10, 0..10).await.unwrap();
    owner.tick_until(&rig, async |rig| rig.spans().await.len() == 1).await;
    rig.kafka.lock().unwrap().commit_refused = true;
    zombie.put(5, 10, 5..10).await.unwrap();
    for _ in 0..20 {
        zombie.tick().await.unwrap();
    }
    assert_eq!(rig.spans().await, [(0, 9, 10)]);
    let durable = zombie.task.flush(&[(partition(0), 10)].into()).await.unwrap();
    assert!(durable.is_empty(), "a fenced partition commits nothing");
}

#[tokio::test]
async fn losing_an_open_race_is_not_being_fenced() {
    let rig = Rig::new(&[("flush.size", "10")]);
    let (mut first, mut second) = (rig.writer(1), rig.writer(2));
    first.open().await;
    second.open().await;
    first.put(0, 5, 0..5).await.unwrap();
    second.put(0, 5, 0..5).await.unwrap();
    first.tick_until(&rig, async |rig| rig.chain().await.len() == 1).await;
    second.tick_until(&rig, async |rig| !rig.kafka.lock().unwrap().seeks.is_empty()).await;
    assert_eq!(second.seek(), Some(0));
    second.put(0, 10, 0..10).await.unwrap();
    second.tick_until(&rig, async |rig| rig.spans().await.len() == 1).await;
    assert!(rig.kafka.lock().unwrap().commits.is_empty(), "the group was not asked");
}

#[tokio::test]
async fn another_group_is_refused_and_told_who_owns_the_archive() {
    let rig = Rig::new(&[("flush.size", "10")]);
    let mut writer = rig.writer(1);
    writer.open().await;
    writer.put(0, 10, 0..10).await.unwrap();
    writer.tick_until(&rig, async |rig| rig.spans().await.len() == 1).await;
    let mut newcomer = rig.writer_of_group(2, "connect-other");
    let error = newcomer.task.open(&[partition(0)]).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Config);
    assert!(error.message().contains("cluster/connect-archive"), "{error}");
}

#[tokio::test]
async fn a_recreated_topic_never_mixes_with_the_old_one() {
    let rig = Rig::new(&[("flush.size", "10")]);
    let mut writer = rig.writer(1);
    writer.open().await;
    writer.put(0, 10, 0..10).await.unwrap();
    writer.tick_until(&rig, async |rig| rig.spans().await.len() == 1).await;
    // The client goes on fetching the new topic where the old one stood.
    rig.kafka.lock().unwrap().view.topic_id = Some("id-2".to_owned());
    writer.put(10, 20, 10..20).await.unwrap();
    writer.tick_until(&rig, async |rig| !rig.kafka.lock().unwrap().seeks.is_empty()).await;
    assert_eq!(writer.seek(), Some(0));
    writer.put(0, 10, 0..10).await.unwrap();
    writer.tick_until(&rig, async |rig| rig.spans().await.len() == 2).await;
    let chain = rig.chain().await;
    let end = chain.last().unwrap();
    assert_eq!((end.source.lineage, end.source.started_by), (2, StartedBy::Created));
    assert_eq!((end.totals.records, end.lineages.len()), (10, 2));
    assert_eq!(rig.spans().await, [(0, 9, 10), (0, 9, 10)]);
}

#[tokio::test]
async fn a_log_that_was_cut_back_is_archived_anew_from_there() {
    let rig = Rig::new(&[("flush.size", "10")]);
    let mut writer = rig.writer(1);
    assert_eq!(writer.open_at().await, 0.into());
    writer.put_in_epoch(4, 0, 20).await.unwrap();
    // What is in the open file was read of the log that was cut back.
    writer.put_in_epoch(5, 20, 25).await.unwrap();
    writer.tick_until(&rig, async |rig| rig.spans().await.len() == 2).await;
    rig.kafka.lock().unwrap().view.truncated_at = Some(13);
    writer.task.close(&[partition(0)], Closing::Lost).await.unwrap();
    let place = Place { offset: 13, mark: Some(EpochMark { leader_epoch: 4, upto: 13 }) };
    assert_eq!(writer.open_at().await, place);
    rig.kafka.lock().unwrap().view.truncated_at = None;
    let durable = writer.task.flush(&[(partition(0), 18)].into()).await.unwrap();
    assert_eq!(durable[&partition(0)], 13, "the chain's end speaks of the old log");
    writer.put_in_epoch(7, 13, 23).await.unwrap();
    writer.tick_until(&rig, async |rig| rig.spans().await.len() == 3).await;
    assert_eq!(rig.spans().await, [(0, 9, 10), (10, 19, 10), (13, 22, 10)]);
    let end = rig.chain().await.pop().unwrap();
    assert_eq!((end.source.lineage, end.source.started_by), (2, StartedBy::Truncation));
    assert_eq!(end.source.continues, Some(Continues { lineage: 1, before: 13 }));
    assert_eq!((end.resume_offset, end.totals.records), (Some(23), 10));
    assert_eq!((end.log.leader_epoch, end.log.leader_epoch_upto), (Some(7), Some(23)));
}

#[tokio::test]
async fn a_cut_above_what_is_published_begins_no_lineage() {
    let rig = Rig::new(&[("flush.size", "10")]);
    let mut writer = rig.writer(1);
    writer.open().await;
    writer.put_in_epoch(4, 0, 15).await.unwrap();
    writer.tick_until(&rig, async |rig| rig.spans().await.len() == 1).await;
    rig.kafka.lock().unwrap().view.truncated_at = Some(12);
    writer.task.close(&[partition(0)], Closing::Lost).await.unwrap();
    assert_eq!(writer.open().await, 10);
    writer.put_in_epoch(6, 10, 20).await.unwrap();
    writer.tick_until(&rig, async |rig| rig.spans().await.len() == 2).await;
    assert_eq!(rig.chain().await.pop().unwrap().source.lineage, 1);
}

#[tokio::test]
async fn the_mark_is_that_of_the_last_record_not_of_what_follows_it() {
    let rig = Rig::new(&[("rotate.age.ms", "1000")]);
    let mut writer = rig.writer(1);
    writer.open().await;
    writer.put_in_epoch(4, 0, 5).await.unwrap();
    // Markers of a transaction that a later leader may have ended, in the file's span and in a gap behind it.
    writer.put(5, 7, []).await.unwrap();
    writer.tick_until(&rig, async |rig| rig.spans().await.len() == 1).await;
    writer.put(7, 9, []).await.unwrap();
    writer.tick_until(&rig, async |rig| rig.chain().await.last().and_then(|end| end.resume_offset) == Some(9)).await;
    let end = rig.chain().await.pop().unwrap();
    assert_eq!((end.log.leader_epoch, end.log.leader_epoch_upto), (Some(4), Some(5)));
    let place = Place { offset: 9, mark: Some(EpochMark { leader_epoch: 4, upto: 5 }) };
    assert_eq!(rig.writer(2).open_at().await, place);
}

#[tokio::test]
async fn an_altered_offset_keeps_only_a_mark_that_was_read() {
    for (offset, upto) in [(Some(4), Some(4)), (Some(10), Some(10)), (Some(30), None), (None, None)] {
        let rig = Rig::new(&[("flush.size", "10")]);
        let mut writer = rig.writer(1);
        writer.open().await;
        writer.put_in_epoch(4, 0, 10).await.unwrap();
        writer.tick_until(&rig, async |rig| rig.spans().await.len() == 1).await;
        drop(writer);
        rig.kafka.lock().unwrap().live = false;
        rig.alter(offset).await.unwrap();
        let mark = rig.writer(2).open_at().await.mark;
        assert_eq!(mark.map(|mark| mark.upto), upto, "{offset:?}");
    }
}

#[tokio::test]
async fn what_was_read_of_a_deleted_topic_is_published() {
    let rig = Rig::new(&[("rotate.age.ms", "1000")]);
    let mut writer = rig.writer(1);
    writer.open().await;
    writer.put(0, 10, 0..10).await.unwrap();
    writer.tick_until(&rig, async |rig| rig.chain().await.len() == 1).await;
    rig.kafka.lock().unwrap().deleted = true;
    writer.tick_until(&rig, async |rig| rig.spans().await.len() == 1).await;
    assert_eq!(rig.spans().await, [(0, 9, 10)]);
}

#[tokio::test]
async fn offsets_without_records_are_counted_with_a_reason() {
    let rig = Rig::new(&[("flush.size", "4")]);
    let mut writer = rig.writer(1);
    writer.open().await;
    writer.put(0, 12, [1, 2, 5, 9]).await.unwrap();
    writer.tick_until(&rig, async |rig| rig.spans().await.len() == 1).await;
    assert_eq!(rig.spans().await, [(0, 11, 4)]);
    assert_eq!(rig.chain().await[1].files[0].missing, [(Reason::Transaction, 8)].into());
    rig.kafka.lock().unwrap().cleanup_policy = "compact".to_owned();
    writer.put(12, 20, [12, 13, 14, 19]).await.unwrap();
    writer.tick_until(&rig, async |rig| rig.spans().await.len() == 2).await;
    assert_eq!(rig.chain().await[2].files[0].missing, [(Reason::CompactionOrTransaction, 4)].into());
}

#[tokio::test]
async fn passed_offsets_without_a_file_become_a_gap_when_their_age_is_due() {
    let rig = Rig::new(&[("rotate.age.ms", "1000"), ("flush.size", "5")]);
    let mut writer = rig.writer(1);
    writer.open().await;
    writer.put(0, 5, 0..5).await.unwrap();
    writer.put(5, 7, []).await.unwrap();
    writer.tick_until(&rig, async |rig| rig.chain().await.last().and_then(|end| end.resume_offset) == Some(7)).await;
    let end = rig.chain().await.pop().unwrap();
    assert_eq!(end.gaps, [Gap { from: 5, to: 6, reason: Reason::Transaction }]);
    assert_eq!((end.totals.records, end.totals.gaps), (5, 2));
}

#[tokio::test]
async fn a_batch_that_does_not_continue_is_never_taken() {
    let rig = Rig::new(&[("flush.size", "10")]);
    let mut writer = rig.writer(1);
    writer.open().await;
    writer.put(0, 5, 0..5).await.unwrap();
    writer.put(8, 15, 8..15).await.unwrap();
    writer.tick_until(&rig, async |rig| !rig.kafka.lock().unwrap().seeks.is_empty()).await;
    assert_eq!(writer.seek(), Some(0));
    writer.put(0, 10, 0..10).await.unwrap();
    writer.tick_until(&rig, async |rig| rig.spans().await.len() == 1).await;
    assert_eq!(rig.spans().await, [(0, 9, 10)]);
}

#[tokio::test]
async fn cut_replies_and_refused_writes_lose_and_double_nothing() {
    for fault in [Fault::Before, Fault::After] {
        for part in ["_manifests", ".parquet"] {
            let rig = Rig::new(&[("flush.size", "10")]);
            let mut writer = rig.writer(1);
            let mut position = writer.open().await;
            rig.store.faults.lock().unwrap().extend([(part, fault); 3]);
            while rig.chain().await.last().and_then(|end| end.resume_offset) != Some(30) {
                if let Some(offset) = writer.seek() {
                    position = offset;
                }
                if position < 30 {
                    writer.put(position, position + 10, position..position + 10).await.unwrap();
                    position += 10;
                }
                writer.tick().await.unwrap();
                rig.clock.advance(100);
                assert!(rig.clock.now() < 600_000, "{part} {fault:?}: not within 10 minutes");
            }
            assert_eq!(rig.spans().await, [(0, 9, 10), (10, 19, 10), (20, 29, 10)], "{part} {fault:?}");
        }
    }
}

#[tokio::test]
async fn every_kind_of_rotation_fires_with_no_data_arriving() {
    for (key, value) in [("rotate.age.ms", "5000"), ("rotate.schedule.interval.ms", "5000")] {
        let rig = Rig::new(&[(key, value)]);
        let mut writer = rig.writer(1);
        writer.open().await;
        writer.put(0, 3, 0..3).await.unwrap();
        writer.tick_until(&rig, async |rig| rig.spans().await.len() == 1).await;
        assert!((5_000..6_000).contains(&rig.clock.now()), "{key}: published at {}", rig.clock.now());
    }
}

#[tokio::test]
async fn a_clock_that_is_set_back_keeps_no_file_open() {
    let rig = Rig::new(&[("rotate.age.ms", "5000")]);
    let mut writer = rig.writer(1);
    writer.open().await;
    writer.put(0, 3, 0..3).await.unwrap();
    rig.clock.set_back(86_400_000);
    writer.tick_until(&rig, async |rig| rig.spans().await.len() == 1).await;
    assert!((5_000..6_000).contains(&rig.clock.now()), "published at {}", rig.clock.now());
}

#[tokio::test]
async fn record_time_ends_a_file() {
    let rig = Rig::new(&[("rotate.interval.ms", "4")]);
    let mut writer = rig.writer(1);
    writer.open().await;
    writer.put(0, 10, 0..10).await.unwrap();
    writer.tick_until(&rig, async |rig| rig.spans().await.len() == 2).await;
    assert_eq!(rig.spans().await, [(0, 3, 4), (4, 7, 4)]);
}

#[tokio::test]
async fn nothing_is_written_while_idle_nor_at_a_rebalance() {
    let rig = Rig::new(&[("flush.size", "10"), ("rotate.age.ms", "1000")]);
    let mut writer = rig.writer(1);
    writer.open().await;
    writer.put(0, 10, 0..10).await.unwrap();
    writer.tick_until(&rig, async |rig| rig.spans().await.len() == 1).await;
    let before = rig.writes();
    for _ in 0..200 {
        writer.tick().await.unwrap();
        rig.clock.advance(1_000);
    }
    writer.task.close(&[partition(0)], Closing::Revoked).await.unwrap();
    let mut next = rig.writer(2);
    assert_eq!(next.open().await, 10);
    for _ in 0..200 {
        next.tick().await.unwrap();
        rig.clock.advance(1_000);
    }
    next.task.close(&[partition(0)], Closing::Revoked).await.unwrap();
    assert_eq!(rig.writes(), before);
}

#[tokio::test]
async fn lost_partitions_are_discarded() {
    let rig = Rig::new(&[("flush.size", "10")]);
    let mut writer = rig.writer(1);
    writer.open().await;
    writer.put(0, 5, 0..5).await.unwrap();
    writer.task.close(&[partition(0)], Closing::Lost).await.unwrap();
    for _ in 0..20 {
        writer.tick().await.unwrap();
    }
    assert!(rig.spans().await.is_empty());
}

#[tokio::test]
async fn a_store_that_refuses_a_file_fails_the_task() {
    let rig = Rig::new(&[("flush.size", "10")]);
    let mut writer = rig.writer(1);
    writer.open().await;
    rig.store.faults.lock().unwrap().push((".parquet", Fault::Denied));
    writer.put(0, 10, 0..10).await.unwrap();
    for _ in 0..100 {
        if let Err(error) = writer.tick().await {
            assert_eq!(error.kind(), Kind::Config, "{error}");
            return;
        }
    }
    panic!("the task went on");
}

#[tokio::test]
async fn empty_puts_before_any_record_write_nothing() {
    let rig = Rig::new(&[]);
    let mut writer = rig.writer(1);
    writer.open().await;
    writer.task.put(&[batch(0, 0, [])]).await.unwrap();
    for _ in 0..20 {
        writer.tick().await.unwrap();
    }
    assert_eq!(rig.writes(), 0);
}

#[tokio::test]
async fn altered_offsets_begin_a_lineage_that_continues_the_old_one() {
    let rig = Rig::new(&[("flush.size", "10")]);
    let mut writer = rig.writer(1);
    writer.open().await;
    writer.put(0, 20, 0..20).await.unwrap();
    writer.tick_until(&rig, async |rig| rig.spans().await.len() == 2).await;
    let error = rig.alter(Some(5)).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Conflict, "the group has members");
    drop(writer);
    rig.kafka.lock().unwrap().live = false;
    for _ in 0..2 {
        rig.alter(Some(5)).await.unwrap();
    }
    let mut writer = rig.writer(2);
    assert_eq!(writer.open().await, 5);
    writer.put(5, 15, 5..15).await.unwrap();
    writer.tick_until(&rig, async |rig| rig.spans().await.len() == 3).await;
    drop(writer);
    let end = rig.chain().await.pop().unwrap();
    assert_eq!(end.source.continues, Some(Continues { lineage: 1, before: 5 }));
    assert_eq!((end.source.lineage, end.totals.records), (2, 10));
    rig.alter(Some(30)).await.unwrap();
    let end = rig.chain().await.pop().unwrap();
    assert_eq!(end.gaps, [Gap { from: 15, to: 29, reason: Reason::Altered }]);
    rig.alter(None).await.unwrap();
    rig.kafka.lock().unwrap().view.log_start_offset = 7;
    let mut writer = rig.writer(3);
    assert_eq!(writer.open().await, 7, "a reset begins where Connect's default says");
    writer.put(7, 17, 7..17).await.unwrap();
    writer.tick_until(&rig, async |rig| rig.spans().await.len() == 4).await;
    let end = rig.chain().await.pop().unwrap();
    assert_eq!((end.source.lineage, end.source.first, end.source.continues), (4, Some(7), None));
}

#[tokio::test]
async fn an_offset_may_be_set_after_a_reset() {
    let rig = Rig::new(&[("flush.size", "10")]);
    let mut writer = rig.writer(1);
    writer.open().await;
    writer.put(0, 20, 0..20).await.unwrap();
    writer.tick_until(&rig, async |rig| rig.spans().await.len() == 2).await;
    drop(writer);
    rig.kafka.lock().unwrap().live = false;
    rig.alter(None).await.unwrap();
    rig.alter(Some(50)).await.unwrap();
    let end = rig.chain().await.pop().unwrap();
    assert_eq!((end.source.lineage, end.source.first, end.resume_offset), (3, Some(50), Some(50)));
    assert_eq!(end.gaps, [], "what lies before it nobody has jumped over");
    let mut writer = rig.writer(2);
    assert_eq!(writer.open().await, 50);
    writer.put(50, 60, 50..60).await.unwrap();
    writer.tick_until(&rig, async |rig| rig.spans().await.len() == 3).await;
    assert_eq!(rig.chain().await.pop().unwrap().totals.records, 10);
}

#[tokio::test]
async fn a_reset_of_all_needs_no_offset_of_the_group() {
    let rig = Rig::new(&[("flush.size", "10")]);
    let mut writer = rig.writer(1);
    writer.open().await;
    writer.put(0, 20, 0..20).await.unwrap();
    writer.tick_until(&rig, async |rig| rig.spans().await.len() == 2).await;
    drop(writer);
    rig.kafka.lock().unwrap().live = false;
    let length = rig.chain().await.len();
    rig.alter_as("connect-another", &SinkAlteration::ResetAll).await.unwrap();
    assert_eq!(rig.chain().await.len(), length, "another connector resets nothing of ours");
    rig.kafka.lock().unwrap().deleted = true;
    rig.alter_as("connect-archive", &SinkAlteration::ResetAll).await.unwrap();
    assert_eq!(rig.chain().await.len(), length, "of a topic that is gone there is nothing to reset");
    rig.kafka.lock().unwrap().deleted = false;
    for _ in 0..2 {
        rig.alter_as("connect-archive", &SinkAlteration::ResetAll).await.unwrap();
    }
    assert_eq!(rig.chain().await.len(), length + 1, "the same request may come again");
    assert_eq!(rig.chain().await.pop().unwrap().resume_offset, None);
    assert_eq!(rig.writer(2).open().await, 0);
}
