//! A producer without idempotence, as a dead letter queue has it where nobody sets anything: one request at a time, all
//! in-sync replicas, no producer id.

use super::*;

const RECORDS: i64 = 3_000;
const PLAIN: [(&str, &str); 3] =
    [("enable.idempotence", "false"), ("acks", "all"), ("max.in.flight.requests.per.connection", "1")];

/// The producers that the broker keeps sequences of.
fn known_producers(kafka: &Kafka, topic: &str) -> usize {
    let args = ["describe-producers", "--topic", topic, "--partition", "0"];
    let told = kafka.tool("org.apache.kafka.tools.TransactionsCommand", &args).unwrap();
    assert!(told.contains("ProducerId"), "{told}");
    told.lines().skip_while(|line| !line.contains("ProducerId")).skip(1).filter(|line| !line.trim().is_empty()).count()
}

#[tokio::test]
async fn a_producer_without_idempotence_keeps_the_order_over_a_broker_that_goes_and_comes() {
    let mut kafka = kit::need!(Kafka::start(KafkaOptions::default()));
    for topic in ["k-plain", "k-idempotent"] {
        create(&kafka, topic, 1, &[]);
    }
    let bootstrap = kafka.bootstrap();
    let producer = clients().producer(&properties(&bootstrap, &PLAIN)).unwrap();
    let mut builder = BatchBuilder::new(place("k-plain", 0), 0);
    (0..RECORDS).for_each(|offset| builder.push(offset, (1 + offset, None), None, Some(&[b'v'; 512])));
    let batch = builder.build(RECORDS);
    producer.send_batch(&batch.slice(0..1_000)).await.unwrap().await.unwrap();
    // What is under way when the broker goes is sent once more: it may stand there twice, but is never left out.
    let under_way = producer.send_batch(&batch.slice(1_000..2_000)).await.unwrap();
    kafka.kill();
    let behind = producer.send_batch(&batch.slice(2_000..3_000)).await.unwrap();
    kafka.restart().unwrap();
    for delivery in [under_way, behind] {
        let written = tokio::time::timeout(PATIENCE, delivery).await.expect("acknowledged in time").unwrap();
        assert!(written.is_some_and(|written| written.first < written.last), "{written:?}");
    }
    let (_, end) = kafka.offsets("k-plain", 0).unwrap();
    let all = read_all(&bootstrap, &place("k-plain", 0), (0, end)).await;
    let mut highest = 0;
    for stamp in all.iter().flat_map(|batch| batch.timestamps().to_vec()) {
        assert!(stamp <= highest + 1, "{stamp} comes before what was sent ahead of it, {highest}");
        highest = highest.max(stamp);
    }
    assert_eq!(highest, RECORDS);
    // The setting is what made it so.
    assert_eq!(known_producers(&kafka, "k-plain"), 0);
    fill(&bootstrap, &place("k-idempotent", 0), 0..1).await;
    assert_eq!(known_producers(&kafka, "k-idempotent"), 1);
}
