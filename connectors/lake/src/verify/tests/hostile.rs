//! Archives whose manifests lie, sealed and chained as they should be, through everything that reads an archive:
//! `inspect`, `verify` at every level, and a replay to its end. Whatever a manifest says, nothing panics, nothing is
//! allocated because a number is large, and an error names what it is about.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures::FutureExt as _;
use lakeferry_api::batch::NO_TIMESTAMP;
use lakeferry_api::{Config, ConnectError, Kind, Result, SourceContext, SourceTask as _};
use object_store::path::Path;
use object_store::{ObjectStoreExt as _, PutPayload};
use serde_json::{Value, json};

use crate::inspect::inspect;
use crate::manifest::Digest;
use crate::source::LakeSourceTask;
use crate::store::leftovers::Leftovers;
use crate::sweep::StagedFiles;
use crate::testing::{Dice, TestArchive, TestContext, row};
use crate::verify::{Level, Listener, Verification, verify};

const URL: &str = "memory:///hostile";
const LIES: u64 = 120;
const PASSWD: &str = "../../../etc/passwd";
const LONG: &str = "long-name-";

struct Deaf;

impl Listener for Deaf {
    fn expect(&self, _: u64) {}
    fn advance(&self, _: u64) {}
}

/// A sound archive of one partition with two lineages, and the documents of its chain.
struct Sound {
    archive: TestArchive,
    chain: Vec<(Path, Value)>,
    config: Config,
}

impl Sound {
    async fn new(format: &'static str) -> Self {
        let url = format!("{URL}-{format}");
        let store = crate::store::open(&url, &Default::default(), None).unwrap().store;
        let mut archive = TestArchive::of(store, format);
        let partition = archive.open("orders", 0, 3).await;
        let mut rows: Vec<_> =
            (3..40).filter(|offset| offset % 4 != 0).map(|offset| row(offset, 100 + offset)).collect();
        rows[7].timestamp = NO_TIMESTAMP;
        archive.publish(&partition, &rows[..10], 15).await;
        archive.publish(&partition, &rows[10..], 40).await;
        archive.truncate(&partition, 28).await;
        archive.publish(&partition, &[row(28, 500), row(29, 501)], 29).await;
        let mut chain = Vec::new();
        for seq in 0..5 {
            let path = archive.layout.entry(&partition, seq);
            let bytes = archive.store.get(&path).await.unwrap().bytes().await.unwrap();
            chain.push((path, serde_json::from_slice(&bytes).unwrap()));
        }
        let config = [("store.url", url.as_str()), ("topics.regex", ".*"), ("replay.untimed", "now")];
        let config = config.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        Self { archive, chain, config }
    }

    /// Puts the chain with some lies in it, each entry sealed and naming the one before it.
    async fn lie(&self, dice: &mut Dice) -> String {
        let mut documents: Vec<Value> = self.chain.iter().map(|(_, document)| document.clone()).collect();
        let mut said = String::new();
        for _ in 0..=dice.below(3) {
            let at = dice.below(documents.len() as u64) as usize;
            let mut members = Vec::new();
            pointers(&documents[at], String::new(), &mut members);
            members.retain(|member| !matches!(member.as_str(), "/self_sha256" | "/previous_sha256"));
            let member = &members[dice.below(members.len() as u64) as usize];
            let lie = lie(dice);
            said.push_str(&format!("entry {at}: {member} = {:.80}; ", lie.to_string()));
            *documents[at].pointer_mut(member).unwrap() = lie;
        }
        let mut previous = Value::Null;
        for ((path, _), mut document) in self.chain.iter().zip(documents) {
            document["previous_sha256"] = previous;
            let bytes = sealed(document);
            previous = json!(Digest::of(&bytes).to_string());
            self.archive.store.put(path, PutPayload::from(bytes)).await.unwrap();
        }
        said
    }

    /// Hands the archive to everything that reads one. The errors that come are the result.
    async fn read(&self) -> Vec<ConnectError> {
        let archive = self.archive.archive();
        let mut errors = Vec::new();
        errors.extend(inspect(&archive, &Leftovers::default(), &StagedFiles::default(), "orders").await.err());
        let context = TestContext::new();
        for level in [Level::Manifest, Level::Objects, Level::Content] {
            let access = self.archive.access(&context.budget);
            let mut verification = Verification::default();
            errors.extend(verify(&access, &archive, (&[], level), &Deaf, &mut verification).await.err());
            assert!(verification.findings.iter().all(|finding| finding.topic == "orders"), "{verification:?}");
        }
        errors.extend(self.replay(&context).await.err());
        errors
    }

    async fn replay(&self, context: &Arc<TestContext>) -> Result<()> {
        let mut task = LakeSourceTask::default();
        task.start(Arc::clone(context) as Arc<dyn SourceContext>, &self.config).await?;
        while !task.poll().await?.is_empty() {}
        Ok(())
    }
}

/// Every member of a document, and every part of one.
fn pointers(value: &Value, at: String, found: &mut Vec<String>) {
    match value {
        Value::Object(map) => map.iter().for_each(|(key, value)| pointers(value, format!("{at}/{key}"), found)),
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(index, value)| pointers(value, format!("{at}/{index}"), found));
        }
        _ => {}
    }
    if !at.is_empty() {
        found.push(at);
    }
}

fn lie(dice: &mut Dice) -> Value {
    let numbers = [i64::MAX, i64::MIN, i64::MAX - 1, -1, 0, 1, 2, 28, 29, 30, 1 << 31, 1 << 32, 1 << 53, 100_000];
    match dice.below(24) {
        at @ 0..14 => json!(numbers[at as usize]),
        14 => json!(u64::MAX),
        15 => json!(u32::MAX),
        16 => serde_json::from_str("1e999").unwrap(),
        17 => Value::Null,
        18 => json!(PASSWD),
        19 => json!(LONG.repeat(10_000)),
        20 => json!([[0, i64::MAX]]),
        21 => json!({}),
        22 => json!([]),
        _ => json!("orders/partition=0/00000000000000000003-0000000001-0-0b9f12ab.parquet"),
    }
}

fn sealed(mut document: Value) -> Vec<u8> {
    document.as_object_mut().unwrap().shift_remove("self_sha256");
    let body = serde_json::to_string(&document).unwrap();
    let seal = Digest::of(body.as_bytes());
    format!("{},\"self_sha256\":\"{seal}\"}}", &body[..body.len() - 1]).into_bytes()
}

async fn survive_lies(format: &'static str) {
    let sound = Sound::new(format).await;
    assert!(sound.read().await.is_empty(), "a sound archive");
    let mut refused = 0;
    for seed in 0..LIES {
        let said = sound.lie(&mut Dice::new(seed)).await;
        let errors = AssertUnwindSafe(sound.read()).catch_unwind().await;
        let errors = errors.unwrap_or_else(|_| panic!("seed {seed} of {format}: {said}: panicked"));
        refused += u64::from(!errors.is_empty());
        for error in errors {
            let trace = error.trace();
            assert!(
                matches!(error.kind(), Kind::Fatal | Kind::Config),
                "seed {seed}: {said}: {:?} {trace}",
                error.kind()
            );
            // A file is named by its path, and that may be the lie.
            let named = ["orders", PASSWD, LONG].iter().any(|name| trace.contains(name));
            assert!(named, "seed {seed}: {said}: who knows what is meant by '{trace}'?");
        }
    }
    assert!(refused > LIES / 2, "{refused} lies were refused");
}

#[tokio::test]
async fn no_lie_in_a_manifest_brings_a_reader_of_parquet_down() {
    survive_lies("archive.parquet").await;
}

#[tokio::test]
async fn no_lie_in_a_manifest_brings_a_reader_of_avro_down() {
    survive_lies("archive.avro").await;
}
