//! Offsets that are altered of a log that is not the archived one any more, and of many partitions at once.

use lakeferry_api::Kind;
use lakeferry_api::connector::SinkAlteration;

use super::rig::{Rig, partition};
use crate::manifest::Entry;
use crate::manifest::model::{StartedBy, Totals};

/// An archive of the offsets 0 to 19 of topic `id-1`, whose connector is stopped.
async fn archived() -> Rig {
    let rig = Rig::new(&[("flush.size", "10")]);
    archive(&rig, 1).await;
    rig.kafka.lock().unwrap().live = false;
    rig
}

/// Archives 20 more records from where the partition begins.
async fn archive(rig: &Rig, id: u128) -> i64 {
    let files = rig.spans().await.len();
    let mut writer = rig.writer(id);
    let first = writer.open().await;
    writer.put(first, first + 20, first..first + 20).await.unwrap();
    writer.tick_until(rig, async |rig| rig.spans().await.len() == files + 2).await;
    first
}

fn make_anew(rig: &Rig, topic_id: &str) {
    rig.kafka.lock().unwrap().view.topic_id = Some(topic_id.to_owned());
}

async fn end(rig: &Rig) -> Entry {
    rig.chain().await.pop().unwrap()
}

#[tokio::test]
async fn an_offset_is_one_of_the_topic_that_is_there_now() {
    let rig = archived().await;
    make_anew(&rig, "id-2");
    for _ in 0..2 {
        rig.alter(Some(5)).await.unwrap();
    }
    let altered = end(&rig).await;
    let source = &altered.source;
    assert_eq!((source.lineage, source.topic_id.as_deref(), source.first), (2, Some("id-2"), Some(5)));
    assert_eq!((source.started_by, source.continues), (StartedBy::Altered, None));
    assert_eq!((altered.resume_offset, altered.totals, altered.gaps), (Some(5), Totals::default(), vec![]));
    assert_eq!(altered.log.mark(), None, "the old log's epochs say nothing of the new one");
    assert_eq!(archive(&rig, 2).await, 5);
    let grown = end(&rig).await;
    assert_eq!((grown.source.lineage, grown.totals.records, grown.resume_offset), (2, 20, Some(25)));
}

#[tokio::test]
async fn the_same_offset_again_is_another_where_the_topic_was_made_anew_in_between() {
    let rig = archived().await;
    rig.alter(Some(5)).await.unwrap();
    make_anew(&rig, "id-2");
    rig.alter(Some(5)).await.unwrap();
    assert_eq!(archive(&rig, 2).await, 5);
    assert_eq!(end(&rig).await.source.topic_id.as_deref(), Some("id-2"));
}

#[tokio::test]
async fn a_reset_lets_the_reset_policy_say_where_a_topic_made_anew_begins() {
    let rig = archived().await;
    make_anew(&rig, "id-2");
    rig.kafka.lock().unwrap().committed = Some(7);
    rig.kafka.lock().unwrap().view.log_start_offset = 3;
    rig.alter(None).await.unwrap();
    let reset = end(&rig).await;
    assert_eq!((reset.source.topic_id.as_deref(), reset.resume_offset), (Some("id-2"), None));
    assert_eq!(archive(&rig, 2).await, 3, "whatever the group still holds");
    assert_eq!((end(&rig).await.source.lineage, end(&rig).await.source.first), (2, Some(3)));
}

#[tokio::test]
async fn a_broker_that_tells_of_the_topic_that_was_is_not_believed() {
    let rig = archived().await;
    make_anew(&rig, "id-2");
    archive(&rig, 2).await;
    let length = rig.chain().await.len();
    make_anew(&rig, "id-1");
    for offset in [Some(5), None] {
        let error = rig.alter(offset).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Retriable);
        assert!(error.message().contains("id-1") && error.message().contains("try again"), "{error:?}");
    }
    make_anew(&rig, "id-2");
    rig.kafka.lock().unwrap().topic_id_of_configs = Some("id-1".to_owned());
    let error = rig.alter(Some(5)).await.unwrap_err();
    assert!(error.kind() == Kind::Retriable && error.message().contains("another of id-1"), "{error:?}");
    assert_eq!(rig.chain().await.len(), length);
    rig.kafka.lock().unwrap().topic_id_of_configs = None;
    rig.alter(Some(5)).await.unwrap();
    assert_eq!(archive(&rig, 3).await, 5);
}

#[tokio::test]
async fn what_is_refused_of_one_partition_alters_no_other() {
    let rig = archived().await;
    let length = rig.chain().await.len();
    let both = |second| SinkAlteration::Some([(partition(0), Some(5)), (partition(1), second)].into());
    for second in [Some(5), None] {
        rig.kafka.lock().unwrap().leaderless = Some(1);
        let error = rig.alter_as("connect-archive", &both(second)).await.unwrap_err();
        assert_eq!((error.kind(), rig.chain().await.len()), (Kind::Retriable, length), "it has no leader");
    }
    rig.kafka.lock().unwrap().leaderless = None;
    let error = rig.alter_as("connect-another", &both(Some(5))).await.unwrap_err();
    assert_eq!((error.kind(), rig.chain().await.len()), (Kind::Config, length), "the first is another's");
    let first_is_reset = SinkAlteration::Some([(partition(0), None), (partition(9), Some(5))].into());
    rig.kafka.lock().unwrap().leaderless = Some(9);
    rig.alter_as("connect-archive", &first_is_reset).await.unwrap_err();
    assert_eq!(rig.chain().await.len(), length, "nor is anything reset");
    rig.kafka.lock().unwrap().leaderless = None;
    rig.alter_as("connect-archive", &both(Some(5))).await.unwrap();
    assert_eq!(rig.chain().await.len(), length + 1);
}

#[tokio::test]
async fn of_a_topic_that_is_gone_there_is_nothing_to_reset_and_no_offset_to_set() {
    let rig = archived().await;
    let length = rig.chain().await.len();
    rig.kafka.lock().unwrap().deleted = true;
    rig.alter(None).await.unwrap();
    assert_eq!(rig.alter(Some(5)).await.unwrap_err().kind(), Kind::NotFound);
    let new = SinkAlteration::Some([(partition(3), Some(5))].into());
    let error = rig.alter_as("connect-archive", &new).await.unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound, "nor of one that was never archived");
    assert_eq!(rig.chain().await.len(), length);
}
