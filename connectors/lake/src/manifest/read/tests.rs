use std::collections::BTreeSet;
use std::sync::Arc;

use lakeferry_api::Kind;
use object_store::{ObjectStoreExt, PutPayload};
use proptest::prelude::*;

use super::super::invariants::tests::Scribe;
use super::super::model::Reason;
use super::super::tests::entry;
use super::*;
use crate::layout::Layout;
use crate::store::testing::{CountingClock, Faulty};

struct Shelf {
    store: Arc<Faulty>,
    archive: Archive,
}

impl Shelf {
    fn new() -> Self {
        let store = Arc::new(Faulty::default());
        let layout = Layout::new("topics").unwrap();
        let manifests = ManifestStore::new(Arc::clone(&store) as _, layout, Arc::new(CountingClock::default()));
        Self { store, archive: Archive::new(manifests) }
    }

    async fn put(&self, path: &str, bytes: impl Into<PutPayload>) {
        self.store.put(&Path::parse(path).unwrap(), bytes.into()).await.unwrap();
    }

    async fn write(&self, partition: &TopicPartition, seq: u64, bytes: impl Into<PutPayload>) {
        self.put(self.archive.manifests.layout.entry(partition, seq).as_ref(), bytes).await;
    }
}

fn orders() -> TopicPartition {
    TopicPartition::new("orders", 0)
}

/// The chain of a scribe as the archive would read it.
fn chain(scribe: &Scribe) -> Chain {
    Chain { partition: orders(), links: scribe.chain.clone() }
}

#[tokio::test]
async fn topics_and_partitions_are_those_that_have_manifests() {
    let shelf = Shelf::new();
    assert_eq!(shelf.archive.topics().await.unwrap(), [""; 0]);
    for (topic, partitions) in [("orders", vec![10, 2, 0]), ("_manifests", vec![1]), ("..a.b_", vec![0])] {
        for partition in partitions {
            shelf.write(&TopicPartition::new(topic, partition), 0, wire::encode(&entry(0)).unwrap()).await;
        }
    }
    shelf.put("topics/foreign/partition=0/part-0.parquet", "").await;
    shelf.put("topics/orders/_manifests/notes/readme.txt", "").await;
    shelf.put("topics/.probe-00", "").await;
    shelf.put("elsewhere/orders/_manifests/partition=0/x.json", "").await;
    assert_eq!(shelf.archive.topics().await.unwrap(), ["..a.b_", "_manifests", "orders"]);
    assert_eq!(shelf.archive.all_topics(|_| true).await.unwrap(), ["..a.b_", "_manifests", "orders"]);
    let partitions = shelf.archive.partitions("orders").await.unwrap();
    assert_eq!(partitions, [0, 2, 10].map(|partition| TopicPartition::new("orders", partition)));
    assert!(shelf.archive.partitions("none").await.unwrap().is_empty());
    assert!(shelf.archive.chain(&TopicPartition::new("none", 0)).await.unwrap().is_none());
}

#[tokio::test]
async fn data_objects_without_manifests_are_found() {
    let shelf = Shelf::new();
    shelf.write(&orders(), 0, wire::encode(&entry(0)).unwrap()).await;
    let data = "partition=3/00000000000000000000-0000000001-0-0b9f12ab.parquet";
    for topic in ["orders", "bare"] {
        shelf.put(&format!("topics/{topic}/{data}"), "").await;
    }
    assert_eq!(shelf.archive.topics().await.unwrap(), ["orders"]);
    assert_eq!(shelf.archive.all_topics(|_| true).await.unwrap(), ["bare", "orders"]);
    let removed = shelf.archive.removed("orders", &BTreeSet::from([orders()])).await.unwrap();
    let [(partition, error)] = &removed[..] else { panic!("{removed:?}") };
    assert_eq!((partition.partition, error.kind()), (3, Kind::Fatal));
    assert!(error.message().contains(&format!("removed: topics/orders/{data} is there, entry 0 is not")), "{error}");
}

#[tokio::test]
async fn a_chain_is_read_whole_or_refused() {
    let mut scribe = Scribe::new(0);
    for width in [3, 4, 5] {
        scribe.contiguous(width, &BTreeSet::new());
    }
    let bytes: Vec<_> = scribe.chain.iter().map(|link| wire::encode(&link.entry).unwrap()).collect();
    let shelf = Shelf::new();
    for (seq, bytes) in (0u64..).zip(&bytes) {
        shelf.write(&orders(), seq, bytes.clone()).await;
    }
    shelf.put("topics/orders/_manifests/partition=0/notes.json", "{}").await;
    let chain = shelf.archive.chain(&orders()).await.unwrap().unwrap();
    assert_eq!(chain.links, scribe.chain);
    assert!(chain.check().is_empty());
    assert_eq!(chain.topic_settings(None).map(|(_, settings)| settings), scribe.chain[0].entry.topic.as_ref());

    let refused = async |shelf: &Shelf| {
        let error = shelf.archive.chain(&orders()).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Fatal, "{error}");
        error.message().to_owned()
    };
    // Another entry 1, right in itself.
    let mut other = scribe.chain[1].entry.clone();
    other.writer.worker = "elsewhere".into();
    shelf.write(&orders(), 1, wire::encode(&other).unwrap()).await;
    assert!(refused(&shelf).await.contains("00000000000000000002.json"));
    shelf.write(&orders(), 1, bytes[1].slice(..bytes[1].len() - 5)).await;
    assert!(refused(&shelf).await.contains("00000000000000000001.json is refused: it is damaged or truncated"));
    shelf.write(&orders(), 1, bytes[0].clone()).await;
    assert!(refused(&shelf).await.contains("it says that it is entry 0"));
    let path = shelf.archive.manifests.layout.entry(&orders(), 1);
    shelf.store.delete(&path).await.unwrap();
    assert!(refused(&shelf).await.contains("entry 2 is there, entry 1 is not"));
}

#[tokio::test]
async fn whole_entries_that_break_a_law_are_refused_in_the_words_of_the_law() {
    let mut scribe = Scribe::new(0);
    scribe.contiguous(3, &BTreeSet::new());
    scribe.contiguous(4, &BTreeSet::new());
    let shelf = Shelf::new();
    for link in &scribe.chain {
        shelf.write(&orders(), link.entry.seq, wire::encode(&link.entry).unwrap()).await;
    }
    assert!(shelf.archive.chain(&orders()).await.unwrap().is_some());
    let published = scribe.end().clone();
    let gap = Gap { from: 3, to: 6, reason: Reason::LogStartMoved };
    for gaps in [Vec::new(), vec![gap]] {
        let changed = Entry { files: Vec::new(), gaps, ..published.clone() };
        scribe.chain[2].entry = changed.clone();
        shelf.write(&orders(), 2, wire::encode(&changed).unwrap()).await;
        let error = shelf.archive.chain(&orders()).await.unwrap_err();
        let Violation { law, field, text, .. } = check_chain(&scribe.chain).remove(0);
        let words = format!("00000000000000000002.json is refused: {field}: {text} (law of {law})");
        assert!(error.kind() == Kind::Fatal && error.message().contains(&words), "{error}");
    }
}

#[tokio::test]
async fn entries_are_decoded_as_they_come() {
    let shelf = Shelf::new();
    shelf.write(&orders(), 0, "damaged").await;
    for seq in 1..100 {
        shelf.write(&orders(), seq, "never looked at").await;
    }
    assert!(shelf.archive.chain(&orders()).await.unwrap_err().message().contains("0.json is refused: it is damaged"));
    let reads = shelf.store.reads();
    assert!(reads <= 2 * PARALLEL as u64, "{reads} entries were held as bytes before the first was decoded");
}

fn ranges(pieces: &[Piece<'_>]) -> Vec<(u32, i64, i64)> {
    pieces.iter().map(|piece| (piece.lineage, piece.offsets.from, piece.offsets.to)).collect()
}

#[test]
fn a_lineage_is_its_own_rows_and_those_it_continues() {
    let none = BTreeSet::new();
    let mut scribe = Scribe::new(0);
    scribe.contiguous(10, &none);
    scribe.contiguous(10, &none);
    scribe.truncate(15);
    scribe.contiguous(10, &none);
    scribe.truncate(5);
    scribe.gap(2);
    scribe.contiguous(3, &none);
    scribe.recreate(100);
    scribe.contiguous(1, &none);
    let chain = chain(&scribe);
    assert!(chain.check().is_empty());
    let rows = |lineage| ranges(&chain.pieces(lineage).unwrap());
    assert_eq!(rows(1), [(1, 0, 9), (1, 10, 19)]);
    assert_eq!(rows(2), [(1, 0, 9), (1, 10, 14), (2, 15, 24)]);
    assert_eq!(rows(3), [(1, 0, 4), (3, 7, 9)]);
    assert_eq!(rows(4), [(4, 100, 100)]);
    assert_eq!(chain.latest_lineage(), 4);
    assert_eq!(chain.gaps(3).unwrap().iter().map(|gap| (gap.from, gap.to)).collect::<Vec<_>>(), [(5, 6)]);
    assert!(chain.gaps(4).unwrap().is_empty());
    let error = chain.pieces(5).unwrap_err();
    assert!(error.kind() == Kind::NotFound && error.message().contains("1 to 4"), "{error}");
}

#[test]
fn a_circle_of_lineages_is_refused() {
    let mut scribe = Scribe::new(0);
    scribe.contiguous(3, &BTreeSet::new());
    scribe.truncate(1);
    let mut chain = chain(&scribe);
    let end = chain.links.last_mut().unwrap();
    end.entry.lineages[0].continues = end.entry.lineages[1].continues;
    assert_eq!(chain.pieces(2).unwrap_err().kind(), Kind::Fatal);
}

proptest! {
    /// Contiguous files with cuts: the rows of the newest lineage are those of a log that was cut in the same places.
    #[test]
    fn the_newest_lineage_is_the_log_as_last_known(
        steps in proptest::collection::vec((1..12i64, proptest::option::weighted(0.3, 0..30i64)), 1..15),
    ) {
        let mut scribe = Scribe::new(0);
        // Which file holds an offset: the model of the log.
        let mut log: Vec<u64> = Vec::new();
        for (width, cut) in steps {
            if let Some(cut) = cut {
                scribe.truncate(cut);
                log.truncate(usize::try_from(cut).unwrap());
            }
            scribe.contiguous(width, &BTreeSet::new());
            log.extend(std::iter::repeat_n(scribe.end().seq, usize::try_from(width).unwrap()));
        }
        let chain = chain(&scribe);
        let mut found: Vec<u64> = Vec::new();
        for piece in chain.pieces(chain.latest_lineage()).unwrap() {
            prop_assert_eq!(piece.offsets.from, found.len() as i64);
            found.extend((piece.offsets.from..=piece.offsets.to).map(|_| piece.seq));
        }
        prop_assert_eq!(found, log);
    }
}

#[test]
fn whoever_reads_may_move_between_threads() {
    fn movable<T: Send>(_: T) {}
    let shelf = Shelf::new();
    let partition = orders();
    movable(shelf.archive.topics());
    movable(shelf.archive.partitions("orders"));
    movable(shelf.archive.chain(&partition));
    movable(shelf.archive.manifests().end(&partition));
    movable(shelf.archive.manifests().create(&partition, 0, bytes::Bytes::new()));
}
