use std::collections::BTreeSet;

use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::layout::ObjectName;
use crate::manifest::model::*;
use crate::manifest::tests::entry as opening;
use crate::manifest::wire;

use self::members::{document, numbers, with};

mod members;

/// A writer that follows the rules, with accounting of the simplest kind: one set of published offsets a lineage.
pub(crate) struct Scribe {
    pub(crate) chain: Vec<Link>,
    published: BTreeMap<u32, BTreeSet<i64>>,
    files: u32,
}

/// What one lineage lacks is in front of its resume offset.
fn resume_of(published: &BTreeSet<i64>, first: i64) -> i64 {
    (first..).find(|offset| !published.contains(offset)).unwrap()
}

fn runs(offsets: impl IntoIterator<Item = i64>) -> Vec<OffsetRange> {
    offsets.into_iter().collect::<OffsetSet>().ranges().collect()
}

impl Scribe {
    pub(crate) fn new(first: i64) -> Self {
        let mut entry = opening(0);
        entry.source.first = Some(first);
        entry.lineages[0].first = Some(first);
        entry.resume_offset = Some(first);
        let mut scribe = Self { chain: Vec::new(), published: BTreeMap::from([(1, BTreeSet::new())]), files: 0 };
        scribe.push(entry);
        scribe
    }

    fn push(&mut self, entry: Entry) {
        let bytes = wire::encode(&entry).unwrap();
        assert_eq!(wire::decode("x", &bytes).unwrap(), entry);
        self.chain.push(Link { entry, sha256: Digest::of(&bytes) });
    }

    pub(crate) fn end(&self) -> &Entry {
        &self.chain.last().unwrap().entry
    }

    fn published(&self) -> &BTreeSet<i64> {
        &self.published[&self.end().source.lineage]
    }

    pub(crate) fn resume(&self) -> i64 {
        self.end().resume_offset.unwrap()
    }

    /// The next entry of `kind`, as empty as can be.
    fn next(&self, kind: EntryKind) -> Entry {
        let last = self.chain.last().unwrap();
        let mut entry = last.entry.clone();
        entry.seq += 1;
        entry.previous_sha256 = Some(last.sha256);
        entry.kind = kind;
        entry.epoch += u32::from(kind != EntryKind::Commit);
        if kind != EntryKind::Commit {
            entry.writer.id = format!("{:08x}000000000000000000000000", entry.seq);
        }
        entry.topic = (kind != EntryKind::Commit).then(|| opening(0).topic.unwrap());
        (entry.files, entry.missing, entry.gaps) = (Vec::new(), Missing::new(), Vec::new());
        entry
    }

    pub(crate) fn open(&mut self) {
        let mut entry = self.next(EntryKind::Open);
        if entry.resume_offset.is_none() {
            let first = Some(40);
            (entry.resume_offset, entry.source.first) = (first, first);
            entry.lineages.last_mut().unwrap().first = first;
        }
        self.push(entry);
    }

    fn file(&mut self, entry: &Entry, offsets: &[i64]) -> FileEntry {
        self.files += 1;
        let (first, last) = (offsets[0], offsets[offsets.len() - 1]);
        let name = ObjectName {
            first_offset: first,
            epoch: entry.epoch,
            n: self.files,
            writer: u32::from_str_radix(&entry.writer.id[..8], 16).unwrap(),
            extension: "parquet".into(),
        };
        let block = |at, len, text: &[u8]| Block { at, len, sha256: Digest::of(text).to_string() };
        FileEntry {
            path: format!("orders/partition=0/{name}"),
            route: String::new(),
            format: "archive.parquet".into(),
            codec: "zstd".into(),
            span_from: None,
            span_to: None,
            first_offset: first,
            last_offset: last,
            records: offsets.len() as u64,
            missing: Missing::new(),
            min_timestamp: Some(1000 + first),
            max_timestamp: Some(1000 + last),
            untimed: 0,
            stored_bytes: 300,
            raw_bytes: 1000,
            sha256: Digest::of(b"file").to_string(),
            blocks: vec![block(0, 200, b"one"), block(200, 100, b"two")],
        }
    }

    /// Publishes `entry`'s files, its missing offsets and gaps: `new` is what they answer for.
    fn commit(&mut self, mut entry: Entry, new: impl IntoIterator<Item = i64>) {
        let lineage = entry.source.lineage;
        let published = self.published.get_mut(&lineage).unwrap();
        for offset in new {
            assert!(published.insert(offset), "{offset} twice");
        }
        let resume = resume_of(published, entry.source.first.unwrap());
        entry.resume_offset = Some(resume);
        entry.ahead = published.range(resume..).copied().collect();
        entry.totals = entry.totals.plus(&entry.files, &entry.missing, &entry.gaps);
        self.push(entry);
    }

    /// A contiguous file of `width` offsets; those in `holes` (counted from its start) have no record.
    pub(crate) fn contiguous(&mut self, width: i64, holes: &BTreeSet<i64>) {
        let (from, to) = (self.resume(), self.resume() + width - 1);
        let unpublished: Vec<i64> = (from..=to).filter(|offset| !self.published().contains(offset)).collect();
        let (missing, records): (Vec<i64>, Vec<i64>) =
            unpublished.iter().copied().partition(|offset| holes.contains(&(offset - from)));
        if records.is_empty() {
            return;
        }
        let mut entry = self.next(EntryKind::Commit);
        let mut file = self.file(&entry, &records);
        (file.span_from, file.span_to) = (Some(from), Some(to));
        if !missing.is_empty() {
            file.missing.insert(Reason::Transaction, missing.len() as u64);
        }
        entry.files.push(file);
        self.commit(entry, unpublished);
    }

    /// A routed file of the offsets in `picked` (counted from the resume offset) that are not published; those in
    /// `holes` have no record, which is counted when the resume offset passes them.
    pub(crate) fn routed(&mut self, picked: &BTreeSet<i64>, holes: &BTreeSet<i64>) {
        let resume = self.resume();
        let fresh = |offset: &i64| !self.published().contains(offset);
        let records: Vec<i64> = picked.iter().map(|at| resume + at).filter(fresh).collect();
        let holes: Vec<i64> =
            holes.iter().map(|at| resume + at).filter(fresh).filter(|offset| !records.contains(offset)).collect();
        if records.is_empty() {
            return;
        }
        let mut reached: BTreeSet<i64> = self.published().clone();
        reached.extend(records.iter().chain(&holes));
        let reached = resume_of(&reached, resume);
        let passed: Vec<i64> = holes.into_iter().filter(|offset| *offset < reached).collect();

        let mut entry = self.next(EntryKind::Commit);
        let mut file = self.file(&entry, &records);
        file.route = "day=1".into();
        file.path = file.path.replace("/partition=0", "/day=1");
        entry.files.push(file);
        if !passed.is_empty() {
            entry.missing.insert(Reason::Compaction, passed.len() as u64);
        }
        self.commit(entry, records.into_iter().chain(passed));
    }

    /// A gap of up to `width` offsets from the resume offset on.
    pub(crate) fn gap(&mut self, width: i64) {
        let resume = self.resume();
        let lost: Vec<i64> = (resume..resume + width).filter(|offset| !self.published().contains(offset)).collect();
        let mut entry = self.next(EntryKind::Commit);
        entry.gaps = gaps(&lost, Reason::LogStartMoved);
        entry.log.start_offset = resume + width;
        self.commit(entry, lost);
    }

    /// Begins a lineage in `entry` that continues the present one before `before`, or nothing.
    fn begin(&mut self, mut entry: Entry, before: Option<i64>, started_by: StartedBy, resume: Option<i64>) {
        let old = entry.source.lineage;
        let first = before.map_or(resume, |before| Some(before.min(self.resume())));
        let lineage = entry.lineages.len() as u32 + 1;
        let continues = before.map(|before| Continues { lineage: old, before });
        let topic_id = entry.source.topic_id.clone();
        entry.lineages.push(Lineage { lineage, topic_id, first, continues });
        (entry.source.lineage, entry.source.first) = (lineage, first);
        (entry.source.started_by, entry.source.continues) = (started_by, continues);
        let inherited: BTreeSet<i64> = match (before, first) {
            (Some(before), Some(first)) => self.published[&old].range(first..before).copied().collect(),
            _ => BTreeSet::new(),
        };
        entry.totals = Totals { records: inherited.len() as u64, ..Totals::default() };
        self.published.insert(lineage, inherited);
        match (resume, first) {
            (Some(resume), Some(first)) => {
                let jumped: Vec<i64> = (first..resume).filter(|at| !self.published[&lineage].contains(at)).collect();
                entry.gaps = gaps(&jumped, Reason::Altered);
                self.commit(entry, jumped);
            }
            _ => {
                (entry.resume_offset, entry.ahead) = (None, OffsetSet::new());
                self.push(entry);
            }
        }
    }

    /// The log is cut back at `before`.
    pub(crate) fn truncate(&mut self, before: i64) {
        let entry = self.next(EntryKind::Open);
        let resume = before.min(self.resume());
        self.begin(entry, Some(before), StartedBy::Truncation, Some(resume));
    }

    /// The topic is made anew.
    pub(crate) fn recreate(&mut self, first: i64) {
        let mut entry = self.next(EntryKind::Open);
        entry.source.topic_id = Some(format!("id{}", entry.seq));
        self.begin(entry, None, StartedBy::Created, Some(first));
    }

    /// Somebody sets the offset to `to`, or resets it.
    pub(crate) fn alter(&mut self, to: Option<i64>) {
        let entry = self.next(EntryKind::Lineage);
        self.begin(entry, to, StartedBy::Altered, to);
        self.open();
    }
}

fn gaps(offsets: &[i64], reason: Reason) -> Vec<Gap> {
    runs(offsets.iter().copied()).into_iter().map(|run| Gap { from: run.from, to: run.to, reason }).collect()
}

#[derive(Debug, Clone)]
pub(crate) enum Step {
    Open,
    Contiguous(i64, BTreeSet<i64>),
    Routed(BTreeSet<i64>, BTreeSet<i64>),
    Gap(i64),
    Truncate(i64),
    Recreate(i64),
    Alter(Option<i64>),
}

fn step() -> impl Strategy<Value = Step> {
    let few = || proptest::collection::btree_set(0..25i64, 0..9);
    prop_oneof![
        2 => Just(Step::Open),
        5 => (1..20i64, few()).prop_map(|(width, holes)| Step::Contiguous(width, holes)),
        5 => (few(), few()).prop_map(|(picked, holes)| Step::Routed(picked, holes)),
        2 => (1..20i64).prop_map(Step::Gap),
        1 => (-15..15i64).prop_map(Step::Truncate),
        1 => (0..50i64).prop_map(Step::Recreate),
        1 => proptest::option::weighted(0.8, -15..25i64).prop_map(Step::Alter),
    ]
}

pub(crate) fn written(steps: Vec<Step>) -> Scribe {
    let mut scribe = Scribe::new(20);
    for step in steps {
        let near = |by: i64| (scribe.resume() + by).max(0);
        match step {
            Step::Open => scribe.open(),
            Step::Contiguous(width, holes) => scribe.contiguous(width, &holes),
            Step::Routed(picked, holes) => scribe.routed(&picked, &holes),
            Step::Gap(width) => scribe.gap(width),
            Step::Truncate(by) => scribe.truncate(near(by)),
            Step::Recreate(first) => scribe.recreate(first),
            Step::Alter(by) => scribe.alter(by.map(near)),
        }
    }
    scribe
}

/// A chain with a bit of everything.
fn rich() -> Scribe {
    let set = |offsets: &[i64]| offsets.iter().copied().collect::<BTreeSet<i64>>();
    written(vec![
        Step::Contiguous(10, set(&[3, 9])),
        Step::Gap(5),
        Step::Open,
        Step::Routed(set(&[2, 3, 7]), set(&[])),
        Step::Routed(set(&[0, 12]), set(&[1])),
        Step::Truncate(6),
        Step::Contiguous(6, set(&[0])),
        Step::Recreate(3),
        Step::Contiguous(8, set(&[])),
        Step::Alter(Some(6)),
        Step::Contiguous(4, set(&[1, 2])),
        Step::Alter(None),
        Step::Routed(set(&[0, 1]), set(&[])),
    ])
}

fn explained(violations: &[Violation]) -> String {
    violations.iter().map(|violation| format!("{violation}\n")).collect()
}

proptest! {
    #[test]
    fn what_follows_the_rules_breaks_no_law(steps in proptest::collection::vec(step(), 0..25)) {
        let chain = written(steps).chain;
        let violations = check_chain(&chain);
        prop_assert!(violations.is_empty(), "{}", explained(&violations));
        // Where nobody goes back to an older lineage, the entry before is all that a writer needs.
        for pair in chain.windows(2) {
            let [before, now] = pair else { unreachable!() };
            let before = Before::following(&before.entry, before.sha256, &now.entry);
            let violations = check_entry(&now.entry, &before);
            prop_assert!(violations.is_empty(), "{}", explained(&violations));
        }
    }

    #[test]
    fn no_document_makes_a_law_panic(
        at in any::<prop::sample::Index>(), number in prop_oneof![any::<i64>(), Just(i64::MIN), Just(i64::MAX), -3..3i64],
        which in any::<prop::sample::Index>(),
    ) {
        let chain = rich().chain;
        let seq = at.index(chain.len());
        let mut leaves = Vec::new();
        numbers(&document(&chain[seq].entry), &mut Vec::new(), &mut leaves);
        let path = &leaves[which.index(leaves.len())];
        if let Some(changed) = with(&chain, seq, path, number.into()) {
            check_in_parts(&changed, seq);
            for violation in check_chain(&changed) {
                prop_assert!(!violation.field.is_empty() && !violation.text.is_empty(), "{:?}", violation);
            }
        }
    }
}

#[test]
fn what_is_gone_lies_below_the_start_of_the_log() {
    let mut scribe = Scribe::new(0);
    scribe.contiguous(10, &BTreeSet::new());
    scribe.gap(5);
    assert_eq!(explained(&check_chain(&scribe.chain)), "");
    let mut chain = scribe.chain;
    chain[2].entry.log.start_offset = 14;
    let text = explained(&check_chain(&chain));
    assert!(text.contains("entry 2, gaps[0].to: 14, but the log begins at log.start_offset 14"), "{text}");
    assert!(text.ends_with("(law of the log's start)\n") && text.lines().count() == 1, "{text}");
    // What is gone for another reason may be anywhere.
    chain[2].entry.gaps[0].reason = Reason::Transaction;
    assert_eq!(explained(&check_chain(&chain)), "");
}

#[test]
fn a_lineage_that_was_left_is_gone_on_with() {
    let mut scribe = Scribe::new(0);
    scribe.contiguous(10, &BTreeSet::new());
    let old = scribe.end().clone();
    scribe.recreate(0);
    let mut back = scribe.next(EntryKind::Open);
    (back.source, back.resume_offset, back.totals) = (old.source.clone(), old.resume_offset, old.totals);
    scribe.push(back);
    scribe.contiguous(5, &BTreeSet::new());
    assert_eq!(explained(&check_chain(&scribe.chain)), "");

    let mut again = scribe.next(EntryKind::Open);
    again.source.topic_id = scribe.chain[0].entry.source.topic_id.clone();
    scribe.begin(again, None, StartedBy::Created, Some(0));
    let broken = check_chain(&scribe.chain);
    assert_eq!(broken.len(), 1, "{}", explained(&broken));
    assert_eq!((broken[0].law, broken[0].field.as_str()), ("the lineage begun", "source.topic_id"));
}

#[test]
fn the_end_alone_says_the_sums_of_its_lineage() {
    let scribe = rich();
    let mut files: BTreeMap<u32, u64> = BTreeMap::new();
    for link in &scribe.chain {
        let count = files.entry(link.entry.source.lineage).or_default();
        *count += link.entry.files.len() as u64;
        assert_eq!(link.entry.totals.files, *count);
    }
    assert!(files.len() >= 4, "{files:?}");
}

#[test]
fn a_violation_names_entry_member_and_law() {
    let mut chain = rich().chain;
    chain[1].entry.files[0].records += 1;
    let violations = check_chain(&chain);
    let text = explained(&violations);
    assert!(text.contains("entry 1, files[0].records: 9 records, 2 missing and 0 archived before"), "{text}");
    assert!(text.contains("entry 1, totals.records: 8, but the entries of the lineage add up to 9"), "{text}");
    assert!(text.contains("(law of file spans)"), "{text}");

    let mut swapped = rich().chain;
    swapped.swap(3, 4);
    let text = explained(&check_chain(&swapped));
    assert!(text.contains("entry 4, seq: 4, but 3 comes next"), "{text}");
    assert!(text.contains("entry 4, previous_sha256:"), "{text}");

    let mut doubled = rich().chain;
    let path = doubled[1].entry.files[0].path.clone();
    doubled[4].entry.files[0].path = path;
    let text = explained(&check_chain(&doubled));
    assert!(text.contains("named a second time"), "{text}");
    for at in 0..doubled.len() {
        check_in_parts(&doubled, at);
    }
}

/// Who reads a chain in two parts refuses what is refused in the whole. A name that comes a second time need not be
/// told as such.
fn check_in_parts(chain: &[Link], at: usize) {
    let (head, rest) = chain.split_at(at);
    let in_parts: Vec<_> = check_chain(head).into_iter().chain(ChainSoFar::of(head).check(rest)).collect();
    let whole = check_chain(chain);
    assert_eq!(in_parts.is_empty(), whole.is_empty(), "read up to {at}");
    let is_told = |found: &Violation| found.law != "unique names" || in_parts.contains(found);
    assert_eq!(in_parts, whole.into_iter().filter(is_told).collect::<Vec<_>>(), "read up to {at}");
}

proptest! {
    /// Whatever else is made to fit it: an entry that brings a name a second time is refused, wherever the reader began
    /// to follow.
    #[test]
    fn a_name_that_comes_again_is_refused_by_who_follows(
        steps in proptest::collection::vec(step(), 2..25), which in any::<prop::sample::Index>(), foreign in any::<bool>(),
    ) {
        let mut chain = written(steps).chain;
        for (at, link) in chain.iter_mut().enumerate().filter(|_| foreign) {
            link.entry.files.iter_mut().for_each(|file| file.path = format!("orders/file-{at}"));
        }
        let named: Vec<usize> = (0..chain.len()).filter(|at| !chain[*at].entry.files.is_empty()).collect();
        let pairs: Vec<_> = named.iter().flat_map(|one| named.iter().map(move |two| (*one, *two))).collect();
        let pairs: Vec<_> = pairs.into_iter().filter(|(one, two)| one < two).collect();
        prop_assume!(!pairs.is_empty());
        let (one, two) = pairs[which.index(pairs.len())];
        let first = chain[one].entry.files[0].clone();
        let again = &mut chain[two].entry.files[0];
        (again.path, again.first_offset) = (first.path, first.first_offset);
        for at in one + 1..=two {
            let so_far = ChainSoFar::of(&chain[..at]);
            let found = so_far.check(&chain[at..=two]);
            prop_assert!(found.iter().any(|found| found.seq == two as u64), "followed from {} on: {} {}", at, one, two);
        }
        check_in_parts(&chain[..=two], two);
    }
}

#[test]
fn who_follows_holds_no_more_with_every_entry() {
    let set = |offsets: &[i64]| offsets.iter().copied().collect::<BTreeSet<i64>>();
    let mut scribe = Scribe::new(0);
    let mut so_far = ChainSoFar::of(&scribe.chain);
    for round in 0..200 {
        let known = scribe.chain.len();
        // The second file lies ahead, until the third comes up to it.
        scribe.contiguous(5, &set(&[]));
        scribe.routed(&set(&[3, 4]), &set(&[]));
        scribe.routed(&set(&[0, 1, 2]), &set(&[]));
        if round % 50 == 49 {
            scribe.open();
        }
        for link in &scribe.chain[known..] {
            assert_eq!(so_far.check(std::slice::from_ref(link)), []);
            so_far.extend(std::slice::from_ref(link));
            let names = so_far.native.len() + so_far.others.len();
            assert!(names <= 1 && so_far.last_by_lineage.len() == 1, "{names} names are held");
            assert!(so_far.last_by_lineage.values().all(|entry| entry.files.is_empty()));
        }
    }
}
