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
