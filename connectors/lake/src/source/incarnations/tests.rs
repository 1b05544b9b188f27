//! What `latest` takes of topics that were created anew, and what is told of the rest.

use lakeferry_api::{Config, TopicPartition};

use super::super::choose::{ChosenTopic, choose};
use super::super::config::SourceSettings;
use super::held_elsewhere;
use crate::manifest::model::{Gap, Reason};
use crate::testing::{TestArchive, row};

/// The topic's id in what [`TestArchive::open`] begins.
const A: &str = "Qm9";
const B: &str = "B";
const C: &str = "C";

async fn chosen(archive: &TestArchive, lineage: &str) -> ChosenTopic {
    let pairs = [("store.url", "memory:///"), ("topics", "orders"), ("lineage", lineage)];
    let config: Config = pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    let mut topics = choose(&archive.archive(), &SourceSettings::parse(&config).unwrap()).await.unwrap();
    assert_eq!(topics.len(), 1);
    topics.remove(0)
}

fn id(topic: &ChosenTopic) -> &str {
    topic.topic_id.as_deref().unwrap()
}

/// What `lineage` would have to say for them, and how many records they hold.
fn others(topic: &ChosenTopic) -> Vec<(&str, u64)> {
    topic.others.iter().map(|other| (other.lineage.as_str(), other.records)).collect()
}

/// Archives `rows` records of the topic with `id`, from offset 0 on.
async fn recreate(archive: &mut TestArchive, partition: i32, id: &str, rows: i64) -> TopicPartition {
    let partition = TopicPartition::new("orders", partition);
    archive.written_at += 60_000;
    archive.recreate_as(&partition, id).await;
    publish(archive, &partition, 0, rows).await;
    partition
}

async fn publish(archive: &mut TestArchive, partition: &TopicPartition, from: i64, rows: i64) {
    if rows > 0 {
        let rows: Vec<_> = (from..from + rows).map(|offset| row(offset, 1)).collect();
        archive.publish(partition, &rows, rows[rows.len() - 1].offset).await;
    }
}

/// Three and five records of the first incarnation.
async fn of_a() -> (TestArchive, [TopicPartition; 2]) {
    let mut archive = TestArchive::new();
    let partitions = [archive.open("orders", 0, 0).await, archive.open("orders", 1, 0).await];
    publish(&mut archive, &partitions[0], 0, 3).await;
    publish(&mut archive, &partitions[1], 0, 5).await;
    (archive, partitions)
}

#[tokio::test]
async fn no_other_incarnation_is_recommended_for_a_partition_that_there_is_not() {
    let (mut archive, _) = of_a().await;
    let of_partition = async |archive: &TestArchive, partition: i32| {
        let ranges = format!("orders:{partition}:0:20");
        let pairs = [("store.url", "memory:///"), ("topics", "orders"), ("replay.offsets", &ranges)];
        let config: Config = pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        choose(&archive.archive(), &SourceSettings::parse(&config).unwrap()).await.unwrap().remove(0)
    };
    assert_eq!(others(&of_partition(&archive, 9).await), []);
    // The newest has a record of partition 0 alone.
    recreate(&mut archive, 0, B, 1).await;
    assert_eq!(others(&of_partition(&archive, 9).await), []);
    assert_eq!(others(&of_partition(&archive, 1).await), [(A, 8)]);
}

#[tokio::test]
async fn an_empty_incarnation_hides_none_that_holds_records() {
    let (mut archive, _) = of_a().await;
    let topic = chosen(&archive, "latest").await;
    assert_eq!((id(&topic), topic.remarks("lineage=")), (A, vec![]));

    archive.partitions = 3;
    for partition in 0..2 {
        recreate(&mut archive, partition, B, 0).await;
    }
    let topic = chosen(&archive, "latest").await;
    assert_eq!((id(&topic), topic.partitions, topic.logs.len()), (A, 2, 2));
    assert!(topic.logs.iter().all(|log| log.lineage == 1));
    assert_eq!(
        topic.remarks("--lineage "),
        [
            "the newest incarnation of the topic, B, came up at 2025-11-21T08:01:00.000Z and is empty: the newest one that \
          holds records was chosen, Qm9; --lineage B takes the empty one"
        ]
    );

    // Whoever asks for it gets it, and is told what that leaves out.
    let topic = chosen(&archive, B).await;
    assert_eq!((id(&topic), topic.partitions, others(&topic)), (B, 3, vec![(A, 8)]));
    assert_eq!(topic.passed_over, None);

    // The same once more: nobody has to be the last.
    recreate(&mut archive, 0, C, 0).await;
    let topic = chosen(&archive, "latest").await;
    assert_eq!((id(&topic), topic.passed_over.as_ref().unwrap().topic_id.as_deref()), (A, Some(C)));
}

#[tokio::test]
async fn one_record_is_enough_and_the_rest_is_told() {
    let (mut archive, _) = of_a().await;
    recreate(&mut archive, 0, B, 0).await;
    recreate(&mut archive, 1, B, 1).await;
    let topic = chosen(&archive, "latest").await;
    assert_eq!((id(&topic), topic.logs.len(), topic.passed_over.as_ref()), (B, 2, None));
    assert_eq!(
        topic.remarks("lineage="),
        [
            "another incarnation of the topic, Qm9, came up at 2025-11-21T08:00:00.000Z and holds 8 records: lineage=Qm9 \
          takes it instead"
        ]
    );
    for lineage in [A, "1"] {
        let topic = chosen(&archive, lineage).await;
        assert_eq!((id(&topic), others(&topic)), (A, vec![(B, 1)]), "lineage={lineage}");
    }
}

#[tokio::test]
async fn what_is_at_no_end_is_older_than_what_follows_it() {
    // The second partition is of the first incarnation only: those that came later had one.
    let (mut archive, _) = of_a().await;
    recreate(&mut archive, 0, B, 2).await;
    recreate(&mut archive, 0, C, 0).await;
    let topic = chosen(&archive, "latest").await;
    assert_eq!((id(&topic), topic.logs[0].lineage, topic.left_out.len()), (B, 2, 1));
    assert_eq!((topic.passed_over.as_ref().unwrap().topic_id.as_deref(), others(&topic)), (Some(C), vec![(A, 8)]));
}

#[tokio::test]
async fn the_order_may_be_known_from_another_partition() {
    // One that had slept wrote down the older one last; each of the first two knows one only.
    let mut archive = TestArchive::new();
    recreate(&mut archive, 0, B, 2).await;
    recreate(&mut archive, 1, A, 4).await;
    assert_eq!(id(&chosen(&archive, "latest").await), A, "all that is known is when they came up");
    recreate(&mut archive, 2, A, 0).await;
    recreate(&mut archive, 2, B, 0).await;
    let topic = chosen(&archive, "latest").await;
    assert_eq!((id(&topic), others(&topic)), (B, vec![(A, 4)]));

    // An old id that a broker told late: what comes behind it again is there now.
    let mut archive = TestArchive::new();
    recreate(&mut archive, 0, B, 2).await;
    recreate(&mut archive, 0, A, 3).await;
    assert_eq!(id(&chosen(&archive, "latest").await), A);
    archive.go_back(&TopicPartition::new("orders", 0), 1).await;
    let topic = chosen(&archive, "latest").await;
    assert_eq!((id(&topic), topic.logs[0].lineage), (B, 1));
}

#[tokio::test]
async fn chains_that_contradict_each_other_leave_it_to_the_time() {
    let (mut archive, [_, second]) = of_a().await;
    recreate(&mut archive, 0, B, 2).await;
    recreate(&mut archive, 1, B, 0).await;
    archive.written_at += 60_000;
    archive.go_back(&second, 1).await;
    publish(&mut archive, &second, 5, 1).await;
    assert_eq!(id(&chosen(&archive, "latest").await), B);

    // Three in a circle.
    let mut archive = TestArchive::new();
    for (partition, ids) in [(0, [A, B]), (1, [B, C]), (2, [C, A])] {
        recreate(&mut archive, partition, ids[0], 1).await;
        recreate(&mut archive, partition, ids[1], 1).await;
    }
    assert_eq!(id(&chosen(&archive, "latest").await), C);
}

#[tokio::test]
async fn where_nothing_holds_records_the_newest_at_an_end_is_taken() {
    let mut archive = TestArchive::new();
    archive.open("orders", 0, 0).await;
    recreate(&mut archive, 0, B, 0).await;
    let topic = chosen(&archive, "latest").await;
    assert_eq!((id(&topic), topic.remarks("lineage=")), (B, vec![]));
}

#[tokio::test]
async fn a_log_that_was_cut_back_within_a_file_tells_the_most_that_it_holds() {
    let (mut archive, [first, second]) = of_a().await;
    // Every offset of that file has a record.
    archive.truncate(&first, 2).await;
    for partition in [&first, &second] {
        recreate(&mut archive, partition.partition, B, 1).await;
    }
    let topic = chosen(&archive, "latest").await;
    assert_eq!(others(&topic), [(A, 7)]);
    assert!(topic.remarks("lineage=")[0].contains("holds 7 records"), "{:?}", topic.others);

    let (mut archive, [first, second]) = of_a().await;
    archive.publish(&first, &[row(3, 1), row(5, 1)], 5).await;
    archive.truncate(&first, 5).await;
    for partition in [&first, &second] {
        recreate(&mut archive, partition.partition, B, 1).await;
    }
    let topic = chosen(&archive, "latest").await;
    assert_eq!(others(&topic), [(A, 10)]);
    assert!(topic.remarks("lineage=")[0].contains("holds up to 10 records"), "{:?}", topic.others);
}

/// Number, records, and whether they are told exactly.
fn left_behind(topic: &ChosenTopic) -> Vec<(u32, u64, bool)> {
    topic.left_behind.iter().map(|left| (left.lineage, left.records, left.is_exact)).collect()
}

#[tokio::test]
async fn what_a_reset_left_behind_is_told_until_it_is_archived_again() {
    let (mut archive, [first, second]) = of_a().await;
    assert_eq!(left_behind(&chosen(&archive, "latest").await), []);
    archive.start_over(&first, 1).await;
    archive.start_over(&second, 2).await;
    let topic = chosen(&archive, "latest").await;
    assert_eq!(left_behind(&topic), [(1, 8, true)], "the new logs hold nothing yet");
    let remarks = topic.remarks("--lineage ");
    assert!(remarks[0].starts_with("8 records are in lineage 1 alone"), "{remarks:?}");
    assert!(remarks[0].ends_with("--lineage 1 takes that log instead"), "{remarks:?}");
    // Whoever names a lineage knows of it.
    assert_eq!(left_behind(&chosen(&archive, "1").await), []);

    // Record 0 of the first and two of the second are gone from Kafka; the rest comes again.
    publish(&mut archive, &first, 1, 2).await;
    publish(&mut archive, &second, 2, 1).await;
    assert_eq!(left_behind(&chosen(&archive, "latest").await), [(1, 5, true)], "0, and 0, 1, 3, 4");
    publish(&mut archive, &second, 3, 2).await;
    assert_eq!(left_behind(&chosen(&archive, "latest").await), [(1, 3, true)]);
}

#[tokio::test]
async fn a_gap_is_not_lost_where_another_lineage_has_its_records() {
    let (mut archive, [_, second]) = of_a().await;
    archive.start_over(&second, 3).await;
    publish(&mut archive, &second, 3, 2).await;
    let gap = |from, to| Gap { from, to, reason: Reason::LogStartMoved };
    let chain = archive.archive().chain(&second).await.unwrap().unwrap();
    let held = held_elsewhere(&chain, 2, &[gap(1, 2), gap(5, 9)]).unwrap();
    assert_eq!(held, [(1, 1)].into(), "lineage 1 has 0 to 4");
    // Another incarnation's records are others.
    recreate(&mut archive, 1, B, 1).await;
    let chain = archive.archive().chain(&second).await.unwrap().unwrap();
    assert!(held_elsewhere(&chain, chain.latest_lineage(), &[gap(1, 2)]).unwrap().is_empty());
}

#[tokio::test]
async fn what_an_offset_that_was_set_back_left_behind_is_told() {
    let (mut archive, [first, _]) = of_a().await;
    archive.publish(&first, &[row(3, 1), row(5, 1), row(8, 1)], 8).await;
    archive.truncate(&first, 2).await;
    // 2, 3, 5 and 8.
    assert_eq!(left_behind(&chosen(&archive, "latest").await), [(1, 4, true)]);
    publish(&mut archive, &first, 2, 3).await;
    assert_eq!(left_behind(&chosen(&archive, "latest").await), [(1, 3, false)], "offsets 5 to 8, a record each or not");
    publish(&mut archive, &first, 5, 4).await;
    assert_eq!(left_behind(&chosen(&archive, "latest").await), []);
}
