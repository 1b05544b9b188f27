use std::collections::BTreeMap;

use async_trait::async_trait;
use lakeferry_api::Kind;
use proptest::prelude::*;

use super::model::*;
use super::*;
use crate::store::testing::{CountingClock, Fault, Faulty};

/// An entry that is right in itself.
pub(crate) fn entry(seq: u64) -> Entry {
    let lineage = Lineage { lineage: 1, topic_id: Some("Qm9".into()), first: Some(0), continues: None };
    Entry {
        seq,
        previous_sha256: (seq > 0).then(|| Digest::of(b"previous")),
        kind: EntryKind::Open,
        epoch: 1,
        written_at: 1_763_712_000_123,
        owner: Owner { cluster_id: "c".into(), group: "connect-archive".into() },
        writer: Writer {
            id: "0b9f12ab00000000000000000000cafe".into(),
            connector: "archive".into(),
            task: 0,
            worker: "10.0.0.5:8083".into(),
            version: "0.1.0".into(),
        },
        source: Source {
            topic: "orders".into(),
            partition: 0,
            topic_id: Some("Qm9".into()),
            lineage: 1,
            first: Some(0),
            started_by: StartedBy::Earliest,
            continues: None,
        },
        topic: Some(TopicSettings { partitions: 6, replication_factor: 1, configs: BTreeMap::new() }),
        lineages: vec![lineage],
        files: Vec::new(),
        missing: Missing::new(),
        gaps: Vec::new(),
        resume_offset: Some(0),
        ahead: OffsetSet::new(),
        totals: Totals::default(),
        log: LogState {
            start_offset: 0,
            last_stable_offset: 1003,
            leader_epoch: None,
            leader_epoch_upto: None,
            isolation: Isolation::ReadCommitted,
        },
    }
}

fn orders() -> TopicPartition {
    TopicPartition::new("orders", 0)
}

struct Bench {
    faulty: Arc<Faulty>,
    manifests: ManifestStore,
}

impl Bench {
    fn new() -> Self {
        let faulty = Arc::new(Faulty::default());
        let clock = Arc::new(CountingClock::default());
        let manifests = ManifestStore::new(Arc::clone(&faulty) as _, Layout::new("topics").unwrap(), clock);
        Self { faulty, manifests }
    }

    async fn write(&self, seq: u64) {
        self.put(self.manifests.layout().entry(&orders(), seq), wire::encode(&entry(seq)).unwrap()).await;
    }

    async fn put(&self, path: Path, bytes: impl Into<PutPayload>) {
        self.faulty.put_opts(&path, bytes.into(), PutMode::Overwrite.into()).await.unwrap();
    }

    async fn end(&self) -> Result<Option<u64>> {
        Ok(self.manifests.end(&orders()).await?.map(|end| end.entry.seq))
    }
}

#[tokio::test]
async fn the_end_is_found_whatever_the_length() {
    let bench = Bench::new();
    assert_eq!(bench.end().await.unwrap(), None);
    for seq in 0..70 {
        bench.write(seq).await;
        assert_eq!(bench.end().await.unwrap(), Some(seq));
    }
    let end = bench.manifests.end(&orders()).await.unwrap().unwrap();
    assert_eq!(end.sha256, Digest::of(&end.bytes));
    assert_eq!(end.entry, entry(69));
    assert_eq!(bench.manifests.end(&TopicPartition::new("orders", 1)).await.unwrap().map(|end| end.entry), None);
}

#[tokio::test]
async fn a_chain_that_lost_entries_is_refused() {
    for (present, evidence) in [(vec![3, 4], "entry 0 is not"), (vec![0, 1, 4], "entries 1 and 4 are there, 2 is not")]
    {
        let bench = Bench::new();
        for seq in present {
            bench.write(seq).await;
        }
        let error = bench.end().await.unwrap_err();
        assert_eq!(error.kind(), Kind::Fatal);
        assert!(error.message().contains(evidence), "{error}");
        assert!(error.message().contains("lifecycle"), "{error}");
        // Whoever writes and whoever restores reads the same words.
        assert!(error.message().contains("none of it is restored, and whoever writes behind it stops"), "{error}");
    }
}

#[tokio::test]
async fn data_without_any_entry_is_refused_and_foreign_files_are_not() {
    let bench = Bench::new();
    let folder = bench.manifests.layout().data_dir(&orders());
    bench.put(Path::parse(format!("{folder}/_SUCCESS")).unwrap(), "").await;
    bench.put(Path::parse(format!("{folder}/part-0000.parquet")).unwrap(), "").await;
    assert_eq!(bench.end().await.unwrap(), None);
    let data = format!("{folder}/00000000000000000000-0000000001-0-0b9f12ab.parquet");
    bench.put(Path::parse(&data).unwrap(), "").await;
    let error = bench.end().await.unwrap_err();
    assert!(error.kind() == Kind::Fatal && error.message().contains(&data), "{error}");
    bench.write(0).await;
    assert_eq!(bench.end().await.unwrap(), Some(0));
}

/// The names of a store that are found by how they begin, well or badly, in pages of 400.
#[derive(Debug)]
struct Beginnings {
    faulty: Arc<Faulty>,
    /// What is behind the folder counts for nothing but a folder.
    knows_folders_only: bool,
    fails: bool,
}

#[async_trait]
impl Names for Beginnings {
    async fn page(&self, folder: &Path, start: &str, next: Option<String>) -> object_store::Result<names::Page> {
        if self.fails {
            return Err(StoreError::NotImplemented { operation: "this".into(), implementer: "it".into() });
        }
        let start = format!("{folder}/{start}{}", if self.knows_folders_only { "/" } else { "" });
        let names = self.faulty.names().await.into_iter().filter(|name| name.starts_with(&start));
        let mut behind: Vec<_> = names.filter(|name| next.as_ref().is_none_or(|next| name > next)).collect();
        let more = behind.len() > 400;
        behind.truncate(400);
        let next = behind.last().filter(|_| more).cloned();
        Ok(names::Page { paths: behind.into_iter().map(Path::from).collect(), next })
    }
}

#[tokio::test]
async fn the_objects_of_others_are_listed_no_further_than_it_must_be() {
    // What others call their objects: before ours and behind them in a listing, some like ours, and in folders. A name
    // of one character tells nothing: a store that knows folders only finds it, too.
    type Named = (fn(usize) -> String, bool);
    let others: [Named; 6] = [
        (|n| format!("+orders+0+{n:010}.avro"), true),
        (|n| format!("orders+0+{n:010}.avro"), true),
        (|n| format!("{n:020}.avro"), true),
        (|n| format!("year=2026/{n}.avro"), true),
        (|n| format!("+/{n}.avro"), false),
        (|n| format!("0/{n}.avro"), false),
    ];
    let ways = [(false, false), (true, false), (false, true)];
    for ((knows_folders_only, fails), (other, tells)) in
        ways.into_iter().flat_map(|way| others.map(|other| (way, other)))
    {
        let tells = tells && !knows_folders_only && !fails;
        let bench = Bench::new();
        let names = Beginnings { faulty: Arc::clone(&bench.faulty), knows_folders_only, fails };
        let bench = Bench { manifests: bench.manifests.finding(Some(Arc::new(names))), ..bench };
        let folder = bench.manifests.layout().data_dir(&orders());
        let put = async |name: String| bench.put(Path::parse(format!("{folder}/{name}")).unwrap(), "").await;
        for n in 0..MANY_OTHERS + 500 {
            put(other(n)).await;
        }
        assert_eq!(bench.end().await.unwrap(), None, "{}", other(0));
        let listed = bench.faulty.objects_listed();
        assert_eq!(listed == MANY_OTHERS as u64, tells, "{listed} of {}", other(0));

        let ours = "00000000000000000007-0000000001-0-0b9f12ab.parquet";
        put(ours.to_owned()).await;
        let error = bench.end().await.unwrap_err();
        assert!(error.kind() == Kind::Fatal && error.message().contains(ours), "{error}");
    }
}

#[tokio::test]
async fn an_error_is_never_absent() {
    let bench = Bench::new();
    bench.write(0).await;
    for refused in 1..=3 {
        bench.faulty.refuse_reads(refused);
        let error = bench.end().await.unwrap_err();
        assert!(error.is_retriable(), "{error}");
        bench.faulty.refuse_reads(0);
    }
    bench.faulty.refuse_reads(1);
    assert!(bench.manifests.read(&orders(), 0).await.unwrap_err().is_retriable());
    assert!(bench.manifests.read(&orders(), 0).await.unwrap().is_some());
    assert!(bench.manifests.read(&orders(), 1).await.unwrap().is_none());
}

#[tokio::test]
async fn an_entry_in_another_s_place_is_refused() {
    let bench = Bench::new();
    let bytes = wire::encode(&entry(0)).unwrap();
    bench.put(bench.manifests.layout().entry(&orders(), 1), bytes.clone()).await;
    let other = TopicPartition::new("orders", 7);
    bench.put(bench.manifests.layout().entry(&other, 0), bytes).await;
    for (partition, seq) in [(orders(), 1), (other, 0)] {
        let error = bench.manifests.read(&partition, seq).await.unwrap_err();
        assert!(error.kind() == Kind::Fatal && error.message().contains("entry 0 of orders-0"), "{error}");
    }
}

#[tokio::test]
async fn a_doubt_is_settled_by_reading() {
    use Fault::*;
    let cases = [
        (vec![], Outcome::Committed, 1),
        (vec![Some(LosesReply)], Outcome::Committed, 1),
        (vec![Some(SendsTwice)], Outcome::Committed, 1),
        (vec![Some(Refuses)], Outcome::Committed, 2),
        (vec![Some(Late)], Outcome::Committed, 2),
        (vec![Some(Refuses), Some(LosesReply)], Outcome::Committed, 2),
        (vec![Some(Late), Some(Refuses)], Outcome::Committed, 2),
    ];
    for (faults, outcome, puts) in cases {
        let bench = Bench::new();
        bench.faulty.next(faults.clone());
        let bytes = Bytes::from_static(b"frozen");
        let result = bench.manifests.create(&orders(), 0, bytes.clone()).await;
        assert_eq!(result.unwrap(), outcome, "{faults:?}");
        assert_eq!(bench.faulty.puts(), puts, "{faults:?}");
        assert_eq!(bench.manifests.read_bytes(&orders(), 0).await.unwrap(), Some(bytes));

        bench.faulty.next(faults.clone());
        let lost = bench.manifests.create(&orders(), 0, Bytes::from_static(b"other")).await;
        assert_eq!(lost.unwrap(), Outcome::Lost, "{faults:?}");
    }
}

#[tokio::test]
async fn what_cannot_be_settled_is_retriable_and_the_same_bytes_settle_it_later() {
    for faults in [
        vec![Some(Fault::Refuses); 3],
        vec![Some(Fault::RefusesReadsToo)],
        vec![Some(Fault::Refuses), Some(Fault::Refuses), Some(Fault::Late)],
    ] {
        let bench = Bench::new();
        bench.faulty.next(faults.clone());
        let frozen = Bytes::from_static(b"frozen");
        let error = bench.manifests.create(&orders(), 0, frozen.clone()).await.unwrap_err();
        assert!(error.is_retriable(), "{error}");
        assert!(error.trace().contains("00000000000000000000.json"), "{}", error.trace());
        assert_eq!(bench.manifests.create(&orders(), 0, frozen).await.unwrap(), Outcome::Committed, "{faults:?}");
    }
}

fn fault() -> impl Strategy<Value = Option<Fault>> {
    prop_oneof![
        3 => Just(None),
        1 => Just(Some(Fault::Refuses)),
        2 => Just(Some(Fault::LosesReply)),
        2 => Just(Some(Fault::SendsTwice)),
        2 => Just(Some(Fault::Late)),
        1 => Just(Some(Fault::RefusesReadsToo)),
    ]
}

proptest! {
    /// Writers in turn try for one number, each until it knows; faults come in any order.
    #[test]
    fn one_writer_wins_and_every_writer_learns_the_truth(
        faults in proptest::collection::vec(fault(), 0..12),
        turns in proptest::collection::vec(0..3usize, 1..9),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let bench = Bench::new();
            bench.faulty.next(faults);
            let bytes = |writer: usize| Bytes::from(format!("writer {writer}"));
            let mut outcomes: BTreeMap<usize, Outcome> = BTreeMap::new();
            for writer in turns.into_iter().chain([0, 1, 2].repeat(8)) {
                if let Ok(outcome) = bench.manifests.create(&orders(), 0, bytes(writer)).await {
                    prop_assert_eq!(*outcomes.entry(writer).or_insert(outcome), outcome);
                }
            }
            prop_assert_eq!(outcomes.len(), 3);
            let found = bench.manifests.read_bytes(&orders(), 0).await.unwrap().unwrap();
            for (writer, outcome) in outcomes {
                prop_assert_eq!(outcome == Outcome::Committed, found == bytes(writer));
            }
            Ok(())
        })?;
    }
}
