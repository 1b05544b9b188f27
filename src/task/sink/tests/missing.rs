//! Topics that are not there.

use super::*;
use lakeferry_api::TopicPartition;

fn is_missing(topic: &str) -> Event {
    Event::Missing(topic.to_owned(), busy(&format!("no topic {topic}")))
}

#[tokio::test]
async fn a_missing_topic_is_told_until_it_is_there() {
    let (world, _sink, mut handle) = reading().await;
    world.cluster.say(is_missing("late"));
    world.cluster.say(is_missing("gone"));
    world.until("RUNNING (no topic gone\nno topic late)").await;
    // What comes of another topic says nothing of it, nor do commits that work.
    world.cluster.say(Event::Batches(vec![batch(0, 10, 11)]));
    world.until("commit t-0@11").await;
    world.advance_ms(60_000).await;
    assert!(!world.journal.has("RUNNING"), "{:?}", world.journal.take());
    world.cluster.add_log(&TopicPartition::new("late", 0));
    world.until("RUNNING (no topic gone)").await;
    world.cluster.add_log(&TopicPartition::new("gone", 0));
    world.until("RUNNING").await;
    world.stop(&mut handle).await;
}

#[tokio::test]
async fn of_many_missing_topics_some_are_named_and_the_others_counted() {
    let (world, _sink, _handle) = reading().await;
    (0..13).for_each(|topic| world.cluster.say(is_missing(&format!("t{topic:02}"))));
    let named = (0..10).map(|topic| format!("no topic t{topic:02}")).collect::<Vec<_>>().join("\n");
    world.until(&format!("RUNNING ({named}\n3 more topics are not there)")).await;
}
