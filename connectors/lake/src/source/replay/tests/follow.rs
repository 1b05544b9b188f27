//! Following an archive that grows, in more files, partitions, topics and incarnations of them.

use object_store::ObjectStoreExt as _;

use super::super::super::follow::look;
use super::super::super::prepare::Prepared;
use super::*;
use crate::manifest::Entry;

#[tokio::test]
async fn a_growing_archive_is_followed() {
    let (mut archive, config) = archive("follow");
    let config = with(&config, &[("replay.end", "follow")]);
    let context = TestContext::new();
    let first = archive.open("orders", 0, 0).await;
    archive.publish(&first, &[row(0, 1), row(1, 2)], 1).await;
    let mut task = start(&context, &config).await.unwrap();
    let mut got = drain(&context, &mut task).await.unwrap();
    assert_eq!(got, Rows::from([(first.clone(), vec![row(0, 1), row(1, 2)])]));

    let mut poll = async |context: &TestContext, task: &mut LakeSourceTask| -> Result<Rows> {
        // What waits for the next look comes with one of the next polls: time passes while they wait.
        for _ in 0..4 {
            for (partition, rows) in drain(context, task).await? {
                got.entry(partition).or_default().extend(rows);
            }
        }
        Ok(got.clone())
    };
    archive.publish(&first, &[row(2, 3)], 5).await;
    let second = archive.open("orders", 1, 7).await;
    archive.publish(&second, &[row(7, 3)], 7).await;
    let third = archive.open("clicks", 0, 0).await;
    archive.publish(&third, &[row(0, 3)], 0).await;
    let mut expected = Rows::from([
        (first.clone(), vec![row(0, 1), row(1, 2), row(2, 3)]),
        (second.clone(), vec![row(7, 3)]),
        (third.clone(), vec![row(0, 3)]),
    ]);
    assert_eq!(poll(&context, &mut task).await.unwrap(), expected);
    assert!(context.targets.lock().unwrap().contains_key("clicks"));

    // Cut back behind what was replayed: the log goes on in another lineage.
    archive.truncate(&first, 6).await;
    archive.publish(&first, &[row(6, 8)], 6).await;
    expected.get_mut(&first).unwrap().push(row(6, 8));
    assert_eq!(poll(&context, &mut task).await.unwrap(), expected);

    archive.recreate(&second).await;
    archive.publish(&second, &[row(0, 9)], 0).await;
    let error = poll(&context, &mut task).await.unwrap_err();
    assert!(error.kind() == Kind::Config && error.message().contains("orders-1"), "{error}");
    assert_tells_of_one_topic_only(&error, "orders");
}

/// A follower of `orders`, and what it got so far.
struct Follower {
    context: Arc<TestContext>,
    task: LakeSourceTask,
    got: Rows,
}

impl Follower {
    async fn start(config: &Config, pairs: &[(&str, &str)]) -> Self {
        let context = TestContext::new();
        let config = with(&with(config, &[("replay.end", "follow")]), pairs);
        let task = start(&context, &config).await.unwrap();
        Self { context, task, got: Rows::new() }
    }

    /// What waits for the next look comes with one of the next polls: time passes while they wait.
    async fn poll(&mut self) -> Result<Rows> {
        for _ in 0..4 {
            for (partition, rows) in drain(&self.context, &mut self.task).await? {
                self.got.entry(partition).or_default().extend(rows);
            }
        }
        Ok(self.got.clone())
    }
}

#[tokio::test]
async fn a_follower_takes_no_new_partition_of_another_incarnation() {
    let (mut archive, config) = archive("follow-mixed");
    let first = archive.open("orders", 0, 0).await;
    archive.publish(&first, &[row(0, 1), row(1, 2)], 1).await;
    let due = Rows::from([(first.clone(), vec![row(0, 1), row(1, 2)])]);
    let share = [("lakeferry.task.index", "1"), ("lakeferry.task.count", "2")];
    let mut both = Follower::start(&config, &[]).await;
    let mut pinned = Follower::start(&config, &[("lineage", "Qm9")]).await;
    // Another task has all that is known of the topic.
    let mut other_share = Follower::start(&config, &share).await;
    assert_eq!(both.poll().await.unwrap(), due);

    // More partitions than before: the new one has an entry of no old incarnation.
    archive.written_at += 1_000;
    let second = TopicPartition::new("orders", 1);
    archive.recreate_as(&second, "B").await;
    for follower in [&mut both, &mut pinned] {
        assert_eq!(follower.poll().await.unwrap(), due, "it is empty");
    }
    assert_eq!(other_share.poll().await.unwrap(), Rows::new());
    archive.publish(&second, &[row(0, 11)], 0).await;
    for follower in [&mut both, &mut other_share] {
        let error = follower.poll().await.unwrap_err();
        assert_eq!(error.kind(), Kind::Config);
        assert!(
            error.message().contains("orders was created anew: orders-1") && error.message().contains('B'),
            "{error}"
        );
        assert!(error.message().contains("set lineage=Qm9, where orders is all"), "{error}");
        assert_tells_of_one_topic_only(&error, "orders");
    }
    assert_eq!(both.got, due);
    assert_eq!(pinned.poll().await.unwrap(), due, "it asked for the old one");
    assert_eq!(both.context.targets.lock().unwrap()["orders"].partitions, 2);
}

#[tokio::test]
async fn a_follower_goes_on_in_the_lineage_that_it_asked_for() {
    let (mut archive, config) = archive("follow-pinned");
    let first = archive.open("orders", 0, 0).await;
    archive.publish(&first, &[row(0, 1), row(1, 2)], 1).await;
    let mut due = Rows::from([(first.clone(), vec![row(0, 1), row(1, 2)])]);
    let (mut latest, mut by_id, mut by_number) = (
        Follower::start(&config, &[]).await,
        Follower::start(&config, &[("lineage", "Qm9")]).await,
        Follower::start(&config, &[("lineage", "1")]).await,
    );
    // An election cut it back: what continues it is the same topic, and another lineage.
    archive.truncate(&first, 2).await;
    archive.publish(&first, &[row(2, 7)], 2).await;
    assert_eq!(by_number.poll().await.unwrap(), due);
    due.get_mut(&first).unwrap().push(row(2, 7));
    for follower in [&mut latest, &mut by_id] {
        assert_eq!(follower.poll().await.unwrap(), due);
    }
    // It is made anew, and nothing is in it yet; then a broker that lags behind tells the old one once more.
    archive.recreate(&first).await;
    for follower in [&mut latest, &mut by_id] {
        assert_eq!(follower.poll().await.unwrap(), due);
    }
    archive.go_back(&first, 2).await;
    archive.publish(&first, &[row(3, 8)], 3).await;
    due.get_mut(&first).unwrap().push(row(3, 8));
    for follower in [&mut latest, &mut by_id] {
        assert_eq!(follower.poll().await.unwrap(), due);
    }
    archive.go_back(&first, 3).await;
    assert_eq!(latest.poll().await.unwrap(), due);
    archive.publish(&first, &[row(0, 9)], 0).await;
    let error = latest.poll().await.unwrap_err();
    assert!(error.kind() == Kind::Config && error.message().contains("created anew"), "{error}");
    // Whoever named the incarnation has nothing to do with that, and may begin again.
    assert_eq!(by_id.poll().await.unwrap(), due);
    by_id.task.rewind().await.unwrap();
    archive.go_back(&first, 2).await;
    archive.publish(&first, &[row(4, 10)], 4).await;
    due.get_mut(&first).unwrap().push(row(4, 10));
    assert_eq!(by_id.poll().await.unwrap(), due);
    assert_eq!(by_number.poll().await.unwrap()[&first], [row(0, 1), row(1, 2)]);
}

#[tokio::test]
async fn a_later_entry_that_breaks_a_law_ends_the_following() {
    type Change = fn(&mut Entry);
    let changes: [(&str, Change); 4] = [
        ("a-lost-file", |entry| entry.files.clear()),
        ("b-epoch", |entry| entry.epoch += 1),
        ("c-span", |entry| entry.files[0].span_from = Some(2)),
        ("d-hash", |entry| entry.previous_sha256 = Some(crate::manifest::Digest::of(b"another"))),
    ];
    for (name, change) in changes {
        let (mut archive, config) = archive(&format!("follow-law-{name}"));
        let partition = archive.open("orders", 0, 0).await;
        archive.publish(&partition, &[row(0, 1), row(1, 2)], 1).await;
        let mut follower = Follower::start(&config, &[]).await;
        follower.poll().await.unwrap();
        // What is right is taken, and what breaks a law behind it is not.
        archive.publish(&partition, &[row(2, 3)], 2).await;
        assert_eq!(follower.poll().await.unwrap()[&partition].len(), 3, "{name}");
        archive.publish(&partition, &[row(3, 3), row(4, 4)], 4).await;
        archive.reseal(&partition, change).await;
        let error = follower.poll().await.expect_err(name);
        let path = archive.layout.entry(&partition, 3);
        assert!(error.kind() == Kind::Fatal && error.message().contains(path.as_ref()), "{name}: {error}");
        assert!(error.message().contains(" (law of "), "{name}: {error}");
        assert_eq!(follower.got[&partition].len(), 3, "{name}");
    }
}

#[tokio::test]
async fn entries_that_are_missing_before_others_end_the_following() {
    let (mut archive, config) = archive("follow-hole");
    let partition = archive.open("orders", 0, 0).await;
    archive.publish(&partition, &[row(0, 1)], 0).await;
    let mut follower = Follower::start(&config, &[]).await;
    follower.poll().await.unwrap();
    for offset in 1..4 {
        archive.publish(&partition, &[row(offset, 3)], offset).await;
    }
    for seq in [2, 3] {
        archive.store.delete(&archive.layout.entry(&partition, seq)).await.unwrap();
    }
    let mut polls = 0;
    let error = loop {
        match follower.poll().await {
            Ok(got) => assert_eq!(got[&partition].len(), 1),
            Err(error) => break error,
        }
        polls += 1;
        assert!(polls < 40, "nobody misses them");
    };
    let words = "manifest entries of orders-0 were removed: entry 4 is there, entry 2 is not";
    assert!(error.kind() == Kind::Fatal && error.message().starts_with(words), "{error}");
}

#[tokio::test]
async fn following_for_long_holds_and_looks_through_no_more_than_what_is_new() {
    let (mut archive, config) = archive("follow-long");
    let partition = archive.open("orders", 0, 0).await;
    for offset in 0..5 {
        archive.publish(&partition, &[row(offset, 1)], offset).await;
    }
    let context = TestContext::new();
    let settings = SourceSettings::parse(&with(&config, &[("replay.end", "follow")])).unwrap();
    let mut replay = Prepared::new(&*context, settings).await.unwrap().replay(&*context).unwrap();
    for offset in 4..60 {
        let mut polls = 0;
        while !replay.lanes[0].ended || replay.lanes[0].reader.position() <= offset {
            replay.next().await.unwrap();
            polls += 1;
            assert!(polls < 40, "offset {offset} does not come");
        }
        let lane = &replay.lanes[0];
        assert!(lane.reader.segments().is_empty() && lane.log.plan.segments.is_empty(), "at {offset}");
        archive.publish(&partition, &[row(offset + 1, 1)], offset + 1).await;
        assert!(look(&mut replay).await.unwrap().is_empty());
        // What the next walk sorts, checks and walks along.
        assert_eq!(replay.lanes[0].reader.segments().len(), 1, "at {offset}");
    }
}

#[tokio::test]
async fn who_pinned_an_incarnation_does_not_read_the_whole_chain_for_every_entry_of_another() {
    let (mut archive, config) = archive("follow-pinned-cost");
    let partition = archive.open("orders", 0, 0).await;
    archive.publish(&partition, &[row(0, 1)], 0).await;
    archive.recreate(&partition).await;
    for (pinned, first) in [("1", 0), ("Qm9", 3)] {
        let context = TestContext::new();
        let pairs = [("replay.end", "follow"), ("lineage", pinned)];
        let settings = SourceSettings::parse(&with(&config, &pairs)).unwrap();
        let mut replay = Prepared::new(&*context, settings).await.unwrap().replay(&*context).unwrap();
        // Whoever reads the whole chain misses it.
        let entry = archive.layout.entry(&partition, 1);
        let kept = archive.store.get(&entry).await.unwrap().bytes().await.unwrap();
        archive.store.delete(&entry).await.unwrap();
        let next = replay.lanes[0].log.next_seq;
        for offset in first..first + 3 {
            archive.publish(&partition, &[row(offset, 5)], offset).await;
            assert!(look(&mut replay).await.unwrap().is_empty());
        }
        assert_eq!(replay.lanes[0].log.next_seq, next + 3);
        archive.store.put(&entry, kept.into()).await.unwrap();
    }
}
