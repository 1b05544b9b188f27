//! Each rule of where a partition begins, by itself.

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::manifest::Digest;
use crate::manifest::model::{EntryKind, Isolation, LogState, Missing, Writer};

fn name() -> TopicPartition {
    TopicPartition::new("orders", 3)
}

fn view(topic_id: &str, log_start_offset: i64, end: i64) -> PartitionView {
    PartitionView {
        topic_id: Some(topic_id.to_owned()),
        log_start_offset,
        last_stable_offset: end,
        end_offset: Some(end),
        ..PartitionView::default()
    }
}

fn lineage(number: u32, topic_id: &str, first: i64) -> Lineage {
    Lineage { lineage: number, topic_id: Some(topic_id.to_owned()), first: Some(first), continues: None }
}

fn entry(topic_id: &str, number: u32, resume: Option<i64>, ahead: &[(i64, i64)]) -> Entry {
    Entry {
        seq: 7,
        previous_sha256: None,
        kind: EntryKind::Commit,
        epoch: 4,
        written_at: 0,
        owner: Owner { cluster_id: "c".to_owned(), group: "connect-a".to_owned() },
        writer: Writer {
            id: "0".repeat(32),
            connector: "a".to_owned(),
            task: 0,
            worker: "w".to_owned(),
            version: "0".to_owned(),
        },
        source: Source {
            topic: "orders".to_owned(),
            partition: 3,
            topic_id: Some(topic_id.to_owned()),
            lineage: number,
            first: Some(0),
            started_by: StartedBy::Earliest,
            continues: None,
        },
        topic: None,
        lineages: vec![lineage(number, topic_id, 0)],
        files: Vec::new(),
        missing: Missing::new(),
        gaps: Vec::new(),
        resume_offset: resume,
        ahead: ahead.iter().map(|(from, to)| OffsetRange::new(*from, *to)).collect(),
        totals: Totals { records: 100, ..Totals::default() },
        log: LogState {
            start_offset: 0,
            last_stable_offset: 100,
            leader_epoch: Some(9),
            leader_epoch_upto: Some(38),
            isolation: Isolation::ReadCommitted,
        },
    }
}

fn start(known: Option<&Entry>, view: &PartitionView, committed: Option<i64>, reset: OffsetReset) -> Result<Start> {
    let lineages = known.map(|entry| entry.lineages.clone()).unwrap_or_default();
    decide(&Evidence { name: &name(), known, lineages: &lineages, view, committed, reset })
}

#[test]
fn without_an_archive_the_group_decides_and_else_connects_default() {
    let view = view("id-1", 5, 50);
    let begins = |committed, reset| {
        let start = start(None, &view, committed, reset).unwrap();
        (start.resume, start.source.started_by, start.gaps.len())
    };
    assert_eq!(begins(Some(20), OffsetReset::Earliest), (20, StartedBy::Committed, 0));
    assert_eq!(begins(None, OffsetReset::Earliest), (5, StartedBy::Earliest, 0));
    assert_eq!(begins(None, OffsetReset::Latest), (50, StartedBy::Latest, 0));
    // A committed offset that the log has not reached belongs to another log.
    assert_eq!(begins(Some(51), OffsetReset::Earliest), (5, StartedBy::Earliest, 0));
    assert_eq!(begins(Some(51), OffsetReset::Latest), (50, StartedBy::Latest, 0));
    // Or the broker lags behind: without a policy the log is asked for it.
    assert_eq!(begins(Some(51), OffsetReset::None), (51, StartedBy::Committed, 0));
    let error = start(None, &view, None, OffsetReset::None).unwrap_err();
    assert!(error.message().contains("auto.offset.reset"), "{error}");
}

#[test]
fn what_retention_took_before_the_first_read_is_a_gap() {
    let start = start(None, &view("id-1", 30, 50), Some(20), OffsetReset::Earliest).unwrap();
    assert_eq!(start.resume, 30);
    assert_eq!(start.source.first, Some(20));
    assert_eq!(start.gaps, [Gap { from: 20, to: 29, reason: Reason::LogStartMoved }]);
}

#[test]
fn the_same_topic_goes_on_from_the_manifest_not_from_the_group() {
    let known = entry("id-1", 1, Some(40), &[(45, 47)]);
    let start = start(Some(&known), &view("id-1", 0, 100), Some(99), OffsetReset::Latest).unwrap();
    assert_eq!(start.resume, 40);
    assert!(start.ahead.contains(46) && start.gaps.is_empty());
    assert_eq!((start.totals.records, start.mark), (100, Some(EpochMark { leader_epoch: 9, upto: 38 })));
}

#[test]
fn a_gap_leaves_out_what_is_ahead_in_files() {
    let known = entry("id-1", 1, Some(40), &[(45, 47), (60, 65)]);
    let start = start(Some(&known), &view("id-1", 60, 100), None, OffsetReset::Earliest).unwrap();
    let gap = |from, to| Gap { from, to, reason: Reason::LogStartMoved };
    assert_eq!(start.gaps, [gap(40, 44), gap(48, 59)]);
    assert_eq!(start.resume, 66);
    assert!(start.ahead.is_empty());
    assert_eq!(start.mark, None, "the epoch of the last record below it nobody remembers");
}

#[test]
fn a_new_topic_id_is_a_new_lineage_from_its_earliest_offset() {
    let old = entry("id-1", 1, Some(40), &[(45, 47)]);
    let lineages = old.lineages.clone();
    let view = view("id-2", 3, 10);
    let evidence = Evidence {
        name: &name(),
        known: None,
        lineages: &lineages,
        view: &view,
        committed: Some(8),
        reset: OffsetReset::Latest,
    };
    let start = decide(&evidence).unwrap();
    assert_eq!((start.resume, start.source.lineage, start.source.started_by), (3, 2, StartedBy::Created));
    assert!(start.ahead.is_empty());
    assert_eq!(start.totals, Totals::default());
    assert_eq!(start.lineages, [lineage(1, "id-1", 0), lineage(2, "id-2", 3)]);
}

#[test]
fn a_log_that_ends_below_what_was_read_was_cut_back() {
    let known = entry("id-1", 1, Some(40), &[(45, 47)]);
    let cut = start(Some(&known), &view("id-1", 0, 35), None, OffsetReset::Earliest).unwrap();
    let continues = Some(Continues { lineage: 1, before: 35 });
    assert_eq!((cut.resume, cut.source.lineage, cut.source.continues), (35, 2, continues));
    assert_eq!(cut.source.started_by, StartedBy::Truncation);
    assert!(cut.ahead.is_empty());
    // An open transaction holds back the stable offset, not the end: nothing was cut.
    let stalled = PartitionView { last_stable_offset: 35, ..view("id-1", 0, 60) };
    let start = start(Some(&known), &stalled, None, OffsetReset::Earliest).unwrap();
    assert_eq!((start.resume, start.source.lineage), (40, 1));
}

#[test]
fn a_broker_that_knows_where_the_log_parted_begins_a_lineage_there_however_long_the_log_is() {
    let known = entry("id-1", 1, Some(40), &[(45, 47)]);
    let parted = |at| PartitionView { truncated_at: Some(at), ..view("id-1", 0, 100) };
    let cut = start(Some(&known), &parted(35), None, OffsetReset::Earliest).unwrap();
    let continues = Some(Continues { lineage: 1, before: 35 });
    assert_eq!((cut.resume, cut.source.first, cut.source.continues), (35, Some(35), continues));
    assert_eq!((cut.source.lineage, cut.source.started_by), (2, StartedBy::Truncation));
    assert_eq!(cut.lineages.last().unwrap().continues, continues);
    assert!(cut.ahead.is_empty());
    // The old epoch ends at the divergence now: a check that still holds, and finds the next truncation.
    assert_eq!(cut.mark, Some(EpochMark { leader_epoch: 9, upto: 35 }));
    // Nothing that is published was taken back.
    for at in [48, 60] {
        let start = start(Some(&known), &parted(at), None, OffsetReset::Earliest).unwrap();
        assert_eq!((start.resume, start.source.lineage, start.ahead.len()), (40, 1, 3));
    }
}

#[test]
fn what_is_ahead_is_cut_at_the_divergence_and_the_rest_of_it_is_inherited() {
    let known = entry("id-1", 1, Some(40), &[(45, 47), (50, 51)]);
    let parted = PartitionView { truncated_at: Some(47), ..view("id-1", 0, 100) };
    let cut = start(Some(&known), &parted, None, OffsetReset::Earliest).unwrap();
    assert_eq!((cut.resume, cut.source.first), (40, Some(40)));
    assert_eq!(cut.source.continues, Some(Continues { lineage: 1, before: 47 }));
    assert_eq!(cut.ahead.ranges().collect::<Vec<_>>(), [OffsetRange::new(45, 46)]);
    assert_eq!((cut.totals.records, cut.gaps.len()), (2, 0));
}

#[test]
fn of_two_divergences_the_smaller_one_counts() {
    let known = entry("id-1", 1, Some(40), &[]);
    for (parted, end) in [(30, 35), (35, 30)] {
        let view = PartitionView { truncated_at: Some(parted), ..view("id-1", 0, end) };
        let cut = start(Some(&known), &view, None, OffsetReset::Earliest).unwrap();
        assert_eq!((cut.resume, cut.source.continues.unwrap().before), (30, 30));
    }
}

#[test]
fn a_log_that_was_cut_back_and_has_lost_its_beginning_leaves_a_gap() {
    let known = entry("id-1", 1, Some(40), &[]);
    let parted = PartitionView { truncated_at: Some(30), ..view("id-1", 33, 100) };
    let cut = start(Some(&known), &parted, None, OffsetReset::Earliest).unwrap();
    assert_eq!((cut.resume, cut.source.first), (33, Some(30)));
    assert_eq!(cut.gaps, [Gap { from: 30, to: 32, reason: Reason::LogStartMoved }]);
    assert_eq!(cut.mark.unwrap().upto, 33);
}

#[test]
fn the_mark_lies_where_the_broker_can_be_asked_for_it() {
    let mut known = entry("id-1", 1, Some(40), &[]);
    let mark = |known: &Entry, log_start| {
        start(Some(known), &view("id-1", log_start, 100), None, OffsetReset::Earliest).unwrap().mark
    };
    let at = |upto| Some(EpochMark { leader_epoch: 9, upto });
    assert_eq!(mark(&known, 0), at(38));
    assert_eq!(mark(&known, 39), at(39));
    assert_eq!(mark(&known, 60), at(60));
    // Somebody altered the offset to one below what was read.
    known.log.leader_epoch_upto = Some(70);
    assert_eq!(mark(&known, 0), at(40));
    // An entry that was written before marks had an offset.
    known.log.leader_epoch_upto = None;
    assert_eq!(mark(&known, 0), None);
}

#[test]
fn files_that_were_ahead_leave_no_mark_behind_which_they_lie() {
    let mark = EpochMark { leader_epoch: 9, upto: 38 };
    let ahead = |from, to| OffsetSet::from_iter([OffsetRange::new(from, to)]);
    assert_eq!(before_a_bare_stretch(mark, &OffsetSet::new(), 60), Some(mark));
    assert_eq!(before_a_bare_stretch(mark, &ahead(20, 37), 60), Some(mark));
    assert_eq!(before_a_bare_stretch(mark, &ahead(60, 70), 60), Some(mark));
    assert_eq!(before_a_bare_stretch(mark, &ahead(59, 59), 60), None);
    assert_eq!(before_a_bare_stretch(mark, &ahead(30, 38), 60), None);
    assert_eq!(before_a_bare_stretch(mark, &ahead(38, 38), 38), Some(mark));
}

#[test]
fn a_reset_is_resolved_by_the_policy_and_never_skips_what_the_group_has_behind_it() {
    let mut known = entry("id-1", 2, None, &[]);
    known.source.first = None;
    known.lineages[0].first = None;
    let begun = |committed, reset| start(Some(&known), &view("id-1", 5, 50), committed, reset);
    for committed in [None, Some(20)] {
        let start = begun(committed, OffsetReset::Earliest).unwrap();
        assert_eq!((start.resume, start.source.first, start.lineages[0].first), (5, Some(5), Some(5)));
        assert_eq!(start.mark, None, "what was read before says nothing of where it goes on");
        assert!(begun(committed, OffsetReset::None).is_err());
    }
    let ends = [None, Some(20)].map(|committed| begun(committed, OffsetReset::Latest).unwrap().resume);
    assert_eq!(ends, [50, 20]);
}

#[test]
fn another_owner_is_refused_by_name_unless_taken_over() {
    let owner = |group: &str| Owner { cluster_id: "c".to_owned(), group: group.to_owned() };
    let (theirs, ours) = (owner("connect-old"), owner("connect-new"));
    let error = check_owner(&theirs, &ours, &[], &name()).unwrap_err();
    assert_eq!(error.kind(), lakeferry_api::Kind::Config);
    assert!(error.message().contains("c/connect-old") && error.message().contains("archive.takeover"), "{error}");
    let leave = |owners: &[&str]| owners.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert!(check_owner(&theirs, &ours, &leave(&["c/connect-old"]), &name()).is_ok());
    assert!(check_owner(&ours, &ours, &[], &name()).is_ok());
    let error = check_owner(&theirs, &ours, &leave(&["c/connect-other"]), &name()).unwrap_err();
    assert!(error.message().contains("archive.takeover=c/connect-other,c/connect-old once"), "{error}");
}

proptest! {
    /// Numbers of any size: from a manifest that lies, or a broker that does.
    #[test]
    fn no_number_brings_it_down(
        numbers in proptest::collection::vec(any_number(), 8),
        ahead in proptest::collection::vec(0..64i64, 0..4),
        resolved in any::<bool>(),
        reset in prop_oneof![Just(OffsetReset::Earliest), Just(OffsetReset::Latest), Just(OffsetReset::None)],
    ) {
        let far = numbers[0].saturating_sub(64).max(0);
        let ahead: Vec<_> = ahead.iter().map(|from| (far + from, far + from)).collect();
        let mut known = entry("id-1", 1, resolved.then_some(numbers[1]), &ahead);
        known.source.first = Some(numbers[2]);
        known.log.leader_epoch_upto = Some(numbers[3]);
        let view = PartitionView {
            last_stable_offset: numbers[5],
            end_offset: Some(numbers[6]),
            truncated_at: Some(numbers[7]),
            ..view("id-1", numbers[4], 0)
        };
        for committed in [None, Some(numbers[1])] {
            let _ = start(Some(&known), &view, committed, reset);
            let _ = start(None, &view, committed, reset);
        }
    }
}

fn any_number() -> impl Strategy<Value = i64> {
    prop_oneof![Just(i64::MAX), Just(i64::MAX - 1), Just(i64::MIN), Just(-1), Just(0), 0..100i64, any::<i64>()]
}

#[test]
fn what_the_chain_does_not_tell_waits_for_a_record_but_not_for_ever() {
    let (age, minute) = (Duration::from_secs(600), Duration::from_secs(60));
    let known = entry("id-1", 1, Some(40), &[]);
    let end = |entry: &Entry| End { entry: entry.clone(), bytes: Bytes::new(), sha256: Digest::of(b"") };
    let wait = |known: Option<&Entry>, end_entry: Option<&Entry>, view: &PartitionView| {
        let decided = start(known, view, Some(3), OffsetReset::Earliest).unwrap();
        Start { end: end_entry.map(end), known: known.cloned(), ..decided }.news_after(age)
    };
    let later = entry("id-2", 2, Some(0), &[]);
    assert_eq!(wait(None, None, &view("id-1", 3, 9)), None, "a topic without an archive");
    assert_eq!(wait(None, None, &view("id-1", 5, 9)), Some(age), "one that lost what the group had not read");
    assert_eq!(wait(Some(&known), Some(&known), &view("id-1", 40, 90)), None, "the log goes on");
    assert_eq!(wait(None, Some(&known), &view("id-2", 0, 0)), Some(minute), "a new topic that is empty");
    assert_eq!(wait(Some(&known), Some(&known), &view("id-1", 41, 90)), Some(age), "offsets are lost");
    assert_eq!(wait(Some(&known), Some(&known), &view("id-1", 0, 30)), Some(age), "records were taken back");
    assert_eq!(wait(Some(&known), Some(&later), &view("id-1", 0, 90)), Some(age), "an incarnation that is back");
}

#[test]
fn a_log_that_ends_among_files_ahead_was_cut_there() {
    let known = entry("id-1", 1, Some(40), &[(50, 59)]);
    let start = start(Some(&known), &view("id-1", 0, 55), None, OffsetReset::None).unwrap();
    assert_eq!(
        (start.source.started_by, start.source.continues),
        (StartedBy::Truncation, Some(Continues { lineage: 1, before: 55 }),)
    );
    assert_eq!((start.resume, start.ahead.ranges().collect::<Vec<_>>()), (40, vec![OffsetRange::new(50, 54)]));
}
