//! The whole source, from its config to its batches, on archives in memory.

use std::collections::BTreeMap;

use lakeferry_api::batch::NO_TIMESTAMP;
use lakeferry_api::{Config, ConnectError, Kind, SourceContext, SourceOffset, SourceTask};
use object_store::ObjectStoreExt as _;
use proptest::prelude::*;

use super::super::LakeSourceTask;
use super::super::choose::choose;
use super::*;
use crate::testing::{TestArchive, TestContext, TestRow, row, rows_of};

mod begun;
mod follow;

type Rows = BTreeMap<TopicPartition, Vec<TestRow>>;

fn archive(name: &str) -> (TestArchive, Config) {
    let url = format!("memory:///replay-{name}");
    let store = crate::store::open(&url, &BTreeMap::new(), None).unwrap().store;
    (TestArchive::of(store, "archive.parquet"), config(&[("store.url", &url), ("topics.regex", ".*")]))
}

fn config(pairs: &[(&str, &str)]) -> Config {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn with(config: &Config, pairs: &[(&str, &str)]) -> Config {
    let mut config = config.clone();
    config.extend(self::config(pairs));
    config
}

async fn start(context: &Arc<TestContext>, config: &Config) -> Result<LakeSourceTask> {
    let mut task = LakeSourceTask::default();
    task.start(Arc::clone(context) as Arc<dyn SourceContext>, config).await?;
    Ok(task)
}

fn stored(lineage: u32, offset: i64, topic_id: Option<&str>) -> SourceOffset {
    Stored { lineage: Some(lineage), offset, topic_id: topic_id.map(str::to_owned) }.write().unwrap()
}

/// Polls until nothing comes, and returns what came by target partition.
async fn drain(context: &TestContext, task: &mut LakeSourceTask) -> Result<Rows> {
    let mut rows = Rows::new();
    for batch in drain_batches(context, task).await? {
        let SourceRecords::Bytes(records) = batch.records else { panic!("bytes") };
        rows.entry(records.partition().clone()).or_default().extend(rows_of(&records));
    }
    Ok(rows)
}

async fn drain_batches(context: &TestContext, task: &mut LakeSourceTask) -> Result<Vec<SourceBatch>> {
    let mut all = Vec::new();
    loop {
        let batches = task.poll().await?;
        if batches.is_empty() {
            return Ok(all);
        }
        context.store(&batches);
        all.extend(batches);
    }
}

/// The offsets of the other topics are no concern of the remedy.
fn assert_tells_of_one_topic_only(error: &ConnectError, topic: &str) {
    let patch = format!(
        "PATCH /connectors/NAME/offsets with {{\"offsets\": [{{\"partition\": {{\"topic\": \"{topic}\", \"partition\": 0}}, \
         \"offset\": null}}]}}, one entry for each partition of {topic}"
    );
    for words in [patch.as_str(), "do not reset the offsets of all"] {
        assert!(error.message().contains(words), "{error}");
    }
}

/// Two topics, five partitions, several files each, times out of order; what lies in each partition.
async fn crossing(archive: &mut TestArchive) -> Rows {
    let mut rows = Rows::new();
    for (topic, partition) in [("orders", 0), ("orders", 1), ("orders", 2), ("clicks", 0), ("clicks", 1)] {
        let partition = archive.open(topic, partition, 0).await;
        let seed = i64::from(partition.partition) * 13 + topic.len() as i64;
        let log: Vec<_> = (0..60).map(|offset| row(offset, 1_000 + offset * 3 + (offset * seed) % 40)).collect();
        for file in log.chunks(17) {
            archive.publish(&partition, file, file[file.len() - 1].offset).await;
        }
        rows.insert(partition, log);
    }
    rows
}

#[tokio::test]
async fn everything_comes_back_where_it_was() {
    let (mut archive, config) = archive("everything");
    let rows = crossing(&mut archive).await;
    let context = TestContext::new();
    let mut task = start(&context, &with(&config, &[("topic.rename", "orders:orders-copy")])).await.unwrap();
    let renamed: Rows = rows
        .into_iter()
        .map(|(partition, rows)| match &*partition.topic {
            "orders" => (TopicPartition::new("orders-copy", partition.partition), rows),
            _ => (partition, rows),
        })
        .collect();
    assert_eq!(drain(&context, &mut task).await.unwrap(), renamed);
    assert!(task.poll().await.unwrap().is_empty(), "a finished task goes on running");

    let targets = context.targets.lock().unwrap();
    assert_eq!(targets.keys().collect::<Vec<_>>(), ["clicks", "orders-copy"]);
    assert_eq!(targets["orders-copy"].partitions, 3, "more than the archived setting of 2 says");
    assert_eq!(targets["orders-copy"].configs["retention.ms"], "-1");
    let key = source_partition(&TopicPartition::new("orders", 2)).unwrap();
    assert_eq!(key.as_str(), r#"{"partition":2,"topic":"orders"}"#);
    assert_eq!(context.offsets.lock().unwrap()[&key], stored(1, 60, Some("Qm9")));
}

#[tokio::test]
async fn a_task_goes_on_from_stored_offsets() {
    let (mut archive, config) = archive("resume");
    let rows = crossing(&mut archive).await;
    // Small pieces, so that there are many places to stop at.
    let config = with(&config, &[("replay.rate.bytes", "1600")]);
    for polls in [1, 2, 5, 9, 30] {
        let context = TestContext::new();
        let mut got = Rows::new();
        loop {
            let mut task = start(&context, &config).await.unwrap();
            let mut last = false;
            for _ in 0..polls {
                let batches = task.poll().await.unwrap();
                last = batches.is_empty();
                for batch in &batches {
                    let SourceRecords::Bytes(records) = &batch.records else { panic!("bytes") };
                    got.entry(records.partition().clone()).or_default().extend(rows_of(records));
                }
                context.store(&batches);
                if last {
                    break;
                }
            }
            task.stop().await;
            if last {
                break;
            }
        }
        assert_eq!(got, rows, "stopped every {polls} polls");
    }
}

#[tokio::test]
async fn partitions_are_shared_among_tasks() {
    let (mut archive, config) = archive("share");
    let rows = crossing(&mut archive).await;
    let context = TestContext::new();
    let mut got = Rows::new();
    for index in 0..3 {
        let share = [("lakeferry.task.index", index.to_string()), ("lakeferry.task.count", "3".to_owned())];
        let share: Vec<_> = share.iter().map(|(key, value)| (*key, value.as_str())).collect();
        let mut task = start(&context, &with(&config, &share)).await.unwrap();
        for (partition, rows) in drain(&context, &mut task).await.unwrap() {
            assert!(got.insert(partition, rows).is_none(), "a partition is one task's");
        }
    }
    assert_eq!(got, rows);
}

#[tokio::test]
async fn time_order_is_the_order_of_timestamps() {
    let (mut archive, config) = archive("time");
    let rows = crossing(&mut archive).await;
    let context = TestContext::new();
    let mut task = start(&context, &with(&config, &[("replay.order", "time")])).await.unwrap();
    let mut reached: BTreeMap<TopicPartition, i64> = BTreeMap::new();
    let (mut got, mut last) = (Rows::new(), i64::MIN);
    for batch in drain_batches(&context, &mut task).await.unwrap() {
        let SourceRecords::Bytes(records) = batch.records else { panic!("bytes") };
        for row in rows_of(&records) {
            // A partition out of order cannot go back in time: its records count as late as its latest one.
            let reached = reached.entry(records.partition().clone()).or_insert(i64::MIN);
            *reached = (*reached).max(row.timestamp);
            assert!(last <= *reached, "{} at {}", row.timestamp, row.offset);
            last = *reached;
            got.entry(records.partition().clone()).or_default().push(row);
        }
    }
    assert_eq!(got, rows);
}

#[tokio::test]
async fn a_rate_is_kept() {
    let (mut archive, config) = archive("rate");
    let rows = crossing(&mut archive).await;
    let context = TestContext::new();
    let rate = 400.0;
    let mut task = start(&context, &with(&config, &[("replay.rate.bytes", "400")])).await.unwrap();
    let (mut got, mut bytes) = (0, 0);
    loop {
        let batches = task.poll().await.unwrap();
        if batches.is_empty() {
            break;
        }
        let seconds = context.clock.monotonic().as_secs_f64();
        // What was written before now was paid for in time.
        assert!(bytes as f64 <= seconds * rate + 1.0, "{bytes} bytes in {seconds} s");
        for batch in batches {
            let SourceRecords::Bytes(records) = batch.records else { panic!("bytes") };
            bytes += records.raw_bytes();
            got += records.len();
        }
    }
    assert_eq!(got, rows.values().map(Vec::len).sum::<usize>());
    let seconds = context.clock.monotonic().as_secs_f64();
    assert!(bytes as f64 >= (seconds - 2.0) * rate, "{bytes} bytes took {seconds} s: it is not slower than asked");
}

#[tokio::test]
async fn a_dropped_poll_loses_nothing() {
    for order in ["partition", "time"] {
        let (mut archive, config) = archive(&format!("dropped-{order}"));
        let rows = crossing(&mut archive).await;
        let context = TestContext::new();
        let mut task = start(&context, &with(&config, &[("replay.order", order)])).await.unwrap();
        let mut got = Rows::new();
        loop {
            match task.poll().now_or_never() {
                None => tokio::task::yield_now().await,
                Some(batches) => {
                    let batches = batches.unwrap();
                    if batches.is_empty() {
                        break;
                    }
                    for batch in batches {
                        let SourceRecords::Bytes(records) = batch.records else { panic!("bytes") };
                        got.entry(records.partition().clone()).or_default().extend(rows_of(&records));
                    }
                }
            }
        }
        assert_eq!(got, rows, "{order}");
    }
}

#[tokio::test]
async fn times_and_offsets_cut_to_the_record() {
    let (mut archive, config) = archive("cut");
    let rows = crossing(&mut archive).await;
    let replay = async |pairs: &[(&str, &str)]| {
        let context = TestContext::new();
        let mut task = start(&context, &with(&config, pairs)).await.unwrap();
        drain(&context, &mut task).await.unwrap()
    };
    let filtered = |keep: &dyn Fn(&TopicPartition, &TestRow) -> bool| -> Rows {
        let of = |(partition, log): (&TopicPartition, &Vec<TestRow>)| {
            let kept: Vec<_> = log.iter().filter(|row| keep(partition, row)).cloned().collect();
            (!kept.is_empty()).then(|| (partition.clone(), kept))
        };
        rows.iter().filter_map(of).collect()
    };
    assert_eq!(
        replay(&[("replay.from", "1050"), ("replay.until", "1970-01-01T00:00:01.100Z")]).await,
        filtered(&|_, row| (1_050..=1_100).contains(&row.timestamp))
    );
    let prefix = |partition: &TopicPartition, row: &TestRow| {
        let end = rows[partition].iter().find(|row| row.timestamp > 1_100).map_or(i64::MAX, |row| row.offset);
        row.offset < end
    };
    assert_eq!(replay(&[("replay.cut", "log"), ("replay.until", "1100")]).await, filtered(&prefix));
    let ranges = "orders:1:5:20,clicks:0:58:99,orders:1:40:40";
    assert_eq!(
        replay(&[("replay.offsets", ranges)]).await,
        filtered(&|partition, row| match (&*partition.topic, partition.partition) {
            ("orders", 1) => (5..=20).contains(&row.offset) || row.offset == 40,
            ("clicks", 0) => row.offset >= 58,
            _ => false,
        })
    );
}

#[tokio::test]
async fn untimed_records_are_counted_and_refused_before_anything_is_written() {
    let (mut archive, config) = archive("untimed");
    let partition = archive.open("orders", 1, 0).await;
    let log = [row(0, 5), row(1, NO_TIMESTAMP), row(2, 0), row(3, 9), row(4, 7)];
    archive.publish(&partition, &log, 4).await;
    let context = TestContext::new();
    let error = start(&context, &config).await.err().unwrap();
    assert!(error.kind() == Kind::Config && error.message().contains("2 in orders-1"), "{error}");
    assert!(context.targets.lock().unwrap().is_empty());

    // The window leaves them out: the one without timestamp takes its predecessor's side.
    let mut task = start(&context, &with(&config, &[("replay.from", "7")])).await.unwrap();
    assert_eq!(drain(&context, &mut task).await.unwrap()[&partition], log[3..]);

    let context = TestContext::new();
    let mut task = start(&context, &with(&config, &[("replay.untimed", "now")])).await.unwrap();
    let now = context.clock.now_ms();
    let stamps: Vec<_> =
        drain(&context, &mut task).await.unwrap()[&partition].iter().map(|row| row.timestamp).collect();
    assert_eq!(stamps, [5, now, now, 9, 7]);
}

#[tokio::test]
async fn a_target_that_eats_records_is_refused_unless_forced() {
    let (mut archive, config) = archive("unfit");
    let rows = crossing(&mut archive).await;
    let context = TestContext::new();
    let unfit = |policy: &str, partitions: u32| lakeferry_api::source::TargetTopic {
        partitions,
        configs: BTreeMap::from([("cleanup.policy".to_owned(), policy.to_owned())]),
        offsets: vec![(0, 0); 3],
    };
    context.targets.lock().unwrap().insert("orders".into(), unfit("compact", 3));
    let error = start(&context, &config).await.err().unwrap();
    assert!(error.message().contains("cleanup.policy=compact") && error.message().contains("orders"), "{error}");
    assert!(!context.targets.lock().unwrap().contains_key("clicks"), "nothing was made");
    let mut task = start(&context, &with(&config, &[("replay.force", "true")])).await.unwrap();
    assert_eq!(drain(&context, &mut task).await.unwrap(), rows);

    context.targets.lock().unwrap().insert("orders".into(), unfit("delete", 1));
    let error = start(&context, &with(&config, &[("replay.force", "true")])).await.err().unwrap();
    let remedy = "add partitions to it (kafka-topics --alter --topic orders --partitions 3), or choose another target";
    assert!(error.message().contains("partitions=1") && error.message().ends_with(remedy), "{error}");
    // One of its own makes as many as that.
    context.targets.lock().unwrap().insert("orders".into(), unfit("delete", 3));
    start(&context, &config).await.unwrap();
}

#[tokio::test]
async fn a_target_has_as_many_partitions_as_the_chosen_incarnation_had() {
    let (mut archive, config) = archive("fewer");
    archive.partitions = 3;
    let old = [archive.open("orders", 0, 0).await, archive.open("orders", 2, 0).await];
    for partition in &old {
        archive.publish(partition, &[row(0, 1)], 0).await;
    }
    archive.written_at += 1_000;
    archive.partitions = 1;
    archive.recreate(&old[0]).await;
    archive.publish(&old[0], &[row(0, 11)], 0).await;
    for (lineage, partitions) in [("latest", 1), ("Qm9", 3), ("1", 3)] {
        let context = TestContext::new();
        let mut task = start(&context, &with(&config, &[("lineage", lineage)])).await.unwrap();
        drain(&context, &mut task).await.unwrap();
        assert_eq!(context.targets.lock().unwrap()["orders"].partitions, partitions, "lineage={lineage}");
    }
}

#[tokio::test]
async fn a_target_that_is_made_has_room_for_damaged_partitions_and_one_that_is_there_needs_none() {
    let (mut archive, config) = archive("damaged");
    let whole = archive.open("orders", 0, 0).await;
    // Of a topic that grew: what tells how many partitions it has may stand in a damaged one alone.
    let [altered, bare] = [archive.open("orders", 4, 0).await, archive.open("orders", 5, 0).await];
    for partition in [&whole, &altered, &bare] {
        archive.publish(partition, &[row(0, 1)], 0).await;
    }
    let config = with(&config, &[("replay.offsets", "orders:0:0:9")]);
    let replay = async |archive: &TestArchive, context: &Arc<TestContext>| {
        let mut task = start(context, &config).await.unwrap();
        assert_eq!(drain(context, &mut task).await.unwrap()[&whole].len(), 1);
        let settings = SourceSettings::parse(&config).unwrap();
        let chosen = choose(&archive.archive(), &settings).await.unwrap().remove(0);
        let told = chosen.remarks("").iter().filter(|told| told.contains("gets this partition all the same")).count();
        (context.targets.lock().unwrap()["orders"].partitions, told)
    };
    assert_eq!(replay(&archive, &TestContext::new()).await, (6, 0));
    for seq in 0..2 {
        archive.store.delete(&archive.layout.entry(&bare, seq)).await.unwrap();
    }
    assert_eq!(replay(&archive, &TestContext::new()).await, (6, 1));
    archive.reseal(&altered, |entry| entry.files.clear()).await;
    assert_eq!(replay(&archive, &TestContext::new()).await, (6, 2));

    // Nobody asks for them: a target that lacks them takes the rest.
    let context = TestContext::new();
    let small = super::super::target::new_topic("orders", 2, None);
    context.create_topic(&small).await.unwrap();
    assert_eq!(replay(&archive, &context).await, (2, 2));
}

#[tokio::test]
async fn a_target_that_is_made_has_no_room_for_damaged_partitions_of_other_incarnations() {
    let (mut archive, config) = archive("damaged-old");
    archive.partitions = 6;
    let [whole, unread, known] =
        [archive.open("orders", 0, 0).await, archive.open("orders", 4, 0).await, archive.open("orders", 5, 0).await];
    for partition in [&whole, &unread, &known] {
        archive.publish(partition, &[row(0, 1)], 0).await;
    }
    archive.written_at += 1_000;
    archive.partitions = 1;
    archive.recreate(&whole).await;
    archive.publish(&whole, &[row(0, 11)], 0).await;
    archive.store.delete(&archive.layout.entry(&known, 0)).await.unwrap();
    let made = async |archive: &TestArchive, lineage: &str| {
        let config = with(&config, &[("replay.offsets", "orders:0:0:9"), ("lineage", lineage)]);
        let chosen = choose(&archive.archive(), &SourceSettings::parse(&config).unwrap()).await.unwrap().remove(0);
        let told = chosen.remarks("");
        let left_out = told.iter().filter(|told| told.contains("of other incarnations only, so that")).count();
        (chosen.new_partitions(), left_out)
    };
    assert_eq!(made(&archive, "latest").await, (1, 1), "its last entry tells of which incarnations it is");
    assert_eq!(made(&archive, "Qm9").await, (6, 0));
    // What nobody can read may be of the one that is chosen.
    let end = archive.layout.entry(&unread, 1);
    archive.store.put(&end, "{".into()).await.unwrap();
    assert_eq!(made(&archive, "latest").await, (5, 1));
}

#[tokio::test]
async fn a_topic_created_anew_is_not_mixed_with_the_old_one() {
    let (mut archive, config) = archive("anew");
    let [first, second] = [archive.open("orders", 0, 0).await, archive.open("orders", 1, 0).await];
    for partition in [&first, &second] {
        archive.publish(partition, &[row(0, 1), row(1, 2)], 1).await;
    }
    archive.written_at += 1_000;
    archive.recreate(&first).await;
    archive.publish(&first, &[row(0, 11)], 0).await;
    // A writer that slept goes on with the old incarnation where it meets no entry of the new one.
    archive.written_at += 1_000;
    archive.publish(&second, &[row(2, 3)], 2).await;
    let replay = async |pairs: &[(&str, &str)]| {
        let context = TestContext::new();
        let mut task = start(&context, &with(&config, pairs)).await?;
        drain(&context, &mut task).await
    };
    // The second partition got nothing since.
    assert_eq!(replay(&[]).await.unwrap(), Rows::from([(first.clone(), vec![row(0, 11)])]));
    let of_second = vec![row(0, 1), row(1, 2), row(2, 3)];
    let old = Rows::from([(first.clone(), vec![row(0, 1), row(1, 2)]), (second.clone(), of_second)]);
    assert_eq!(replay(&[("lineage", "1")]).await.unwrap(), old);
    assert_eq!(replay(&[("lineage", "Qm9")]).await.unwrap(), old);
    let error = replay(&[("lineage", "2")]).await.unwrap_err();
    assert!(error.message().contains("orders-1") && error.kind() == Kind::Config, "{error}");
    let error = replay(&[("lineage", "nothing")]).await.unwrap_err();
    assert!(error.message().contains("nothing"), "{error}");

    // One task has no partition of the new topic, and both judge alike.
    let id = archive.archive().chain(&first).await.unwrap().unwrap().end().source.topic_id.clone().unwrap();
    for (index, due) in [("0", Rows::from([(first.clone(), vec![row(0, 11)])])), ("1", Rows::new())] {
        let share = [("lakeferry.task.index", index), ("lakeferry.task.count", "2")];
        assert_eq!(replay(&[&share[..], &[("lineage", &id)]].concat()).await.unwrap(), due);
        let error = replay(&[&share[..], &[("lineage", "nothing")]].concat()).await.unwrap_err();
        assert!(error.message().contains("nothing"), "{error}");
    }

    // A stored offset of the old topic is no offset of the new one: whoever has one goes on with the old.
    let context = TestContext::new();
    context.offsets.lock().unwrap().insert(source_partition(&first).unwrap(), stored(1, 2, None));
    let mut task = start(&context, &config).await.unwrap();
    let rest = Rows::from([(second.clone(), old[&second].clone())]);
    assert_eq!(drain(&context, &mut task).await.unwrap(), rest);
}

#[tokio::test]
async fn what_is_not_archived_is_told() {
    let (mut archive, config) = archive("absent");
    crossing(&mut archive).await;
    let mut named = with(&config, &[("topics", "orders,payments")]);
    named.remove("topics.regex");
    let error = start(&TestContext::new(), &named).await.err().unwrap();
    assert!(error.message().contains("payments") && error.message().contains("clicks, orders"), "{error}");
    let error = start(&TestContext::new(), &with(&config, &[("topics.regex", "pay.*")])).await.err().unwrap();
    assert!(error.message().contains("topics.regex"), "{error}");
}

proptest! {
    #[test]
    fn pieces_hold_every_row_and_no_more_than_asked(sizes in proptest::collection::vec(0..50usize, 0..20), limit in 1..90u64) {
        let mut builder = lakeferry_api::BatchBuilder::new(TopicPartition::new("t", 0), 0);
        for (offset, size) in (0..).zip(&sizes) {
            builder.push(offset, (1, None), None, Some(&vec![7; *size]));
        }
        let batch = builder.build(sizes.len() as i64);
        let pieces = split(&batch, limit);
        let offsets: Vec<i64> = pieces.iter().flat_map(|piece| piece.offsets().to_vec()).collect();
        prop_assert_eq!(offsets, batch.offsets());
        for piece in &pieces {
            prop_assert!(piece.len() == 1 || piece.raw_bytes() as u64 <= limit);
        }
        prop_assert_eq!(pieces.last().map_or(batch.next_offset(), Batch::next_offset), batch.next_offset());
    }
}
