//! Partitions are opened in rounds: what else there is for the loop does not wait until all of them are open.

use super::{Event, RecordForm, World, assigned, busy, partition};
use crate::task::testing::Journal;
use crate::task::testing::fake::Answer;

/// The first and the last partition of every `open`, and how many it has.
fn opens(journal: &Journal) -> Vec<(String, String, usize)> {
    let of = |line: &str| {
        let names: Vec<_> = line.strip_prefix("open ")?.split(' ').collect();
        Some((names[0].to_owned(), names[names.len() - 1].to_owned(), names.len()))
    };
    journal.take().iter().filter_map(|line| of(line)).collect()
}

fn round(first: &str, last: &str, partitions: usize) -> (String, String, usize) {
    (first.to_owned(), last.to_owned(), partitions)
}

#[tokio::test]
async fn what_is_revoked_is_handed_over_before_all_are_open() {
    let world = World::new(&[]);
    let (sink, _handle) = world.sink(RecordForm::Bytes, &[]);
    sink.begin_at(0);
    let all: Vec<_> = (0..150).collect();
    world.cluster.say(assigned(&all));
    world.cluster.say(Event::Revoked(all.iter().map(|number| partition(*number)).collect()));
    world.until("release").await;
    world.advance_ms(60_000).await;
    assert_eq!(opens(&world.journal), [round("t-0", "t-63", 64)]);
}

#[tokio::test]
async fn those_that_cannot_be_opened_wait_for_the_others() {
    let world = World::new(&[]);
    let (sink, _handle) = world.sink(RecordForm::Bytes, &[]);
    sink.on_open(Answer::Fail(busy("the store is away")));
    world.cluster.say(assigned(&(0..150).collect::<Vec<_>>()));
    world.advance_ms(60_000).await;
    let rounds =
        [round("t-0", "t-63", 64), round("t-64", "t-127", 64), round("t-128", "t-149", 22), round("t-0", "t-63", 64)];
    assert_eq!(opens(&world.journal), rounds, "and each is opened once");
}

#[tokio::test]
async fn those_that_insist_on_what_the_log_does_not_have_wait_for_the_others_too() {
    let world = World::new(&[]);
    let (sink, _handle) = world.sink(RecordForm::Bytes, &[]);
    sink.begin_at(8);
    let all: Vec<_> = (0..130).collect();
    all.iter().for_each(|number| world.cluster.set_log(*number, 0, 5));
    world.cluster.say(assigned(&all));
    for number in all {
        world.cluster.say(Event::OutOfRange(partition(number)));
        world.advance_ms(20).await;
    }
    world.journal.take();
    world.advance_ms(30_000).await;
    let opens = opens(&world.journal);
    assert!(opens.iter().any(|(_, last, _)| last == "t-129"), "every one has its turn: {opens:?}");
    assert!(opens.len() < 40, "{} rounds in half a minute", opens.len());
}

#[tokio::test]
async fn what_kept_partitions_waiting_is_forgotten_with_them() {
    let world = World::new(&[]);
    let (sink, _handle) = world.sink(RecordForm::Bytes, &[]);
    (0..150).for_each(|number| world.cluster.set_log(number, 0, 5));
    (0..3).for_each(|_| sink.on_open(Answer::Fail(busy("the store is away"))));
    world.cluster.say(assigned(&(0..150).collect::<Vec<_>>()));
    world.until("RUNNING (the store is away)").await;
    world.journal.take();
    world.clock.until(&world.journal, "the next round", || world.journal.has_prefix("start_at t-0@0")).await;
    world.cluster.say(Event::Revoked((64..150).map(partition).collect()));
    world.until("RUNNING").await;
}
