//! Members of a group: they share, release and lose partitions.

use super::*;

/// Follows a member: answers its events as a task would, and keeps what the invariants need.
struct Follower {
    consumer: Box<dyn Consumer>,
    positions: Positions,
    seen: BTreeMap<TopicPartition, Vec<i64>>,
}

impl Follower {
    fn new(consumer: Box<dyn Consumer>) -> Self {
        Self { consumer, positions: Positions::new(), seen: BTreeMap::new() }
    }

    /// One event, with a time limit; false where none came.
    async fn step(&mut self, limit: Duration) -> bool {
        let Ok(event) = tokio::time::timeout(limit, self.consumer.next()).await else { return false };
        match event {
            Event::Assigned(partitions) => {
                let committed = self.consumer.group().committed(&partitions).await.unwrap();
                let start = |partition: TopicPartition| {
                    let offset = committed.get(&partition).copied().unwrap_or(0);
                    (partition, offset)
                };
                let starts: Positions = partitions.into_iter().map(start).collect();
                self.consumer.start_at(&starts.iter().map(|(name, offset)| (name.clone(), (*offset).into())).collect());
                self.positions.extend(starts);
            }
            Event::Batches(batches) => {
                for batch in batches {
                    let position =
                        self.positions.get_mut(batch.partition()).expect("a batch of a partition that it has");
                    assert_eq!(batch.base_offset(), *position, "{}", batch.partition());
                    *position = batch.next_offset();
                    self.seen.entry(batch.partition().clone()).or_default().extend(batch.offsets());
                }
            }
            Event::Revoked(partitions) => {
                let gone: Positions =
                    partitions.iter().map(|partition| (partition.clone(), self.positions[partition])).collect();
                self.consumer.group().commit(&gone).await.unwrap();
                self.positions.retain(|partition, _| !partitions.contains(partition));
                self.consumer.release();
            }
            Event::Lost(partitions) | Event::Deleted(partitions) => {
                self.positions.retain(|partition, _| !partitions.contains(partition))
            }
            Event::Error(error) | Event::Missing(_, error) => assert!(error.is_retriable(), "{}", error.trace()),
            event @ (Event::OutOfRange(_) | Event::Truncated(..) | Event::Unreadable(..)) => panic!("{event:?}"),
        }
        true
    }

    fn has(&self) -> BTreeSet<i32> {
        self.positions.keys().map(|partition| partition.partition).collect()
    }
}

/// Two members share what one had, then one has it all again; every record is seen exactly once.
async fn rebalance(kafka: &Kafka, topic: &str, more: &[(&str, &str)]) {
    const PARTITIONS: i32 = 6;
    create(kafka, topic, PARTITIONS as usize, &[]);
    let bootstrap = kafka.bootstrap();
    let mut first = Follower::new(member(&bootstrap, topic, topic, more));
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while first.has().len() < 6 {
        first.step(Duration::from_millis(100)).await;
        assert!(tokio::time::Instant::now() < deadline, "the first member never got all");
    }
    let mut second = Follower::new(member(&bootstrap, topic, topic, more));
    let short = Duration::from_millis(20);
    let mut produced = 0;
    while produced < 1_500 || first.has().len() != 3 || second.has().len() != 3 {
        if produced < 1_500 {
            for partition in 0..PARTITIONS {
                fill(&bootstrap, &place(topic, partition), produced..produced + 100).await;
            }
            produced += 100;
        }
        tokio::join!(first.step(short), second.step(short));
        assert!(tokio::time::Instant::now() < deadline, "{:?} and {:?}", first.has(), second.has());
    }
    assert!(first.has().is_disjoint(&second.has()));
    // The second leaves as a task does: it commits where it is, then closes.
    second.consumer.group().commit(&second.positions).await.unwrap();
    second.consumer.close().await;
    while first.positions.len() < 6 || first.positions.values().any(|position| *position < 1_500) {
        first.step(short).await;
        assert!(tokio::time::Instant::now() < deadline, "{:?}", first.positions);
    }
    first.consumer.close().await;
    for partition in 0..PARTITIONS {
        let mut all: Vec<i64> = [&first, &second]
            .iter()
            .flat_map(|follower| follower.seen.get(&place(topic, partition)).cloned().unwrap_or_default())
            .collect();
        all.sort_unstable();
        assert_eq!(all, (0..1_500).collect::<Vec<_>>(), "partition {partition}");
    }
}

#[tokio::test]
async fn two_members_share_cooperatively_and_see_every_record_once() {
    let kafka = kit::need!(kit::kafka());
    rebalance(kafka, "k-cooperative", &[]).await;
}

#[tokio::test]
async fn two_members_share_eagerly_and_see_every_record_once() {
    let kafka = kit::need!(kit::kafka());
    let range = [("partition.assignment.strategy", "org.apache.kafka.clients.consumer.RangeAssignor")];
    rebalance(kafka, "k-eager", &range).await;
}

#[tokio::test]
async fn what_is_not_released_is_lost_before_the_group_gives_up() {
    let kafka = kit::need!(kit::kafka());
    create(kafka, "k-late", 2, &[]);
    let limits = [("max.poll.interval.ms", "7000"), ("session.timeout.ms", "6000")];
    let mut first = member(&kafka.bootstrap(), "k-late", "k-late", &limits);
    assert_eq!(assigned(&mut *first).await.len(), 2);
    let mut second = member(&kafka.bootstrap(), "k-late", "k-late", &limits);
    let Event::Revoked(revoked) = news(&mut *first).await else { panic!("not revoked") };
    let Event::Lost(lost) = news(&mut *first).await else { panic!("not lost") };
    assert_eq!(revoked, lost);
    // Too late: it must not let go anything else.
    first.release();
    let got = loop {
        let partitions = assigned(&mut *second).await;
        if !partitions.is_empty() {
            break partitions;
        }
    };
    assert_eq!(got, lost);
    first.close().await;
    second.close().await;
}

#[tokio::test]
async fn a_member_that_hangs_loses_its_partitions() {
    let mut kafka = kit::need!(Kafka::start(KafkaOptions::default()));
    create(&kafka, "k-lost", 1, &[]);
    let mut consumer = member(&kafka.bootstrap(), "k-lost", "k-lost", &[("session.timeout.ms", "6000")]);
    let partitions = assigned(&mut *consumer).await;
    kafka.signal_broker(0, "STOP");
    let lost = loop {
        match next(&mut *consumer).await {
            Event::Lost(lost) => break lost,
            Event::Error(error) | Event::Missing(_, error) => assert!(error.is_retriable(), "{}", error.trace()),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(lost, partitions);
    kafka.signal_broker(0, "CONT");
    assert_eq!(assigned(&mut *consumer).await, partitions);
    consumer.close().await;
}

#[tokio::test]
async fn a_static_member_whose_place_another_took_fails_and_names_the_setting() {
    let kafka = kit::need!(kit::kafka());
    create(kafka, "k-static", 1, &[]);
    let same = [("group.instance.id", "me")];
    let mut first = member(&kafka.bootstrap(), "k-static", "k-static", &same);
    assert_eq!(assigned(&mut *first).await.len(), 1);
    let mut second = member(&kafka.bootstrap(), "k-static", "k-static", &same);
    let error = loop {
        match next(&mut *first).await {
            Event::Error(error) if !error.is_retriable() => break error,
            Event::Error(_) | Event::Lost(_) => {}
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(error.kind(), Kind::Fatal);
    for words in ["Static consumer fenced", "of group k-static have group.instance.id=me", "restart the task"] {
        assert!(error.message().contains(words), "{error}");
    }
    first.close().await;
    second.close().await;
}
