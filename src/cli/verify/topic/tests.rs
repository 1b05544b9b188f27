use lakeferry_api::BatchBuilder;
use lakeferry_lake::source::cut::{CutMode, Window};

use super::super::{Level, Report};
use super::*;

#[test]
fn a_topic_that_does_not_reach_what_is_archived_differs() {
    let mut comparisons = Comparisons::new(10);
    let (archived, topic) = ("orders".to_owned(), "copy".to_owned());
    let of = |partition, unreached_records| Compared {
        archived: archived.clone(),
        topic: topic.clone(),
        partition,
        matched_by: "offset",
        equal: 900,
        unreached_records,
        ..Compared::default()
    };
    comparisons.compared = vec![of(0, 0), of(1, 100)];
    assert!(comparisons.differ());
    assert!(comparisons.sum_up().ends_with(": topic copy does not reach 100 archived records"));
    let mut out = Vec::new();
    comparisons.write(&mut out).unwrap();
    let out = String::from_utf8(out).unwrap();
    let line = "900 records equal, 0 differences, 100 archived records that the topic does not reach\n";
    assert!(out.ends_with(line) && out.matches("reach").count() == 1, "{out}");
}

#[test]
fn only_records_of_the_cut_lie_beyond_the_end() {
    let partition = TopicPartition::new("orders", 0);
    let mut builder = BatchBuilder::new(partition, 0);
    // Offset 4 is a transaction's marker.
    for (offset, timestamp) in [(1, 10), (2, 90), (3, 20), (5, 90), (6, 30)] {
        builder.push(offset, (timestamp, None), None, None);
    }
    let batch = builder.build(9);
    let beyond = |cut: Option<Cut>, end: i64| {
        let cut = cut.map(|cut| (cut, cut.start()));
        let mut side = CutSide { records: None::<()>, cut, end, beyond: 0 };
        let kept = side.keep(batch.clone());
        (kept.offsets().to_vec(), side.beyond)
    };
    assert_eq!(beyond(None, i64::MAX), (vec![1, 2, 3, 5, 6], 0));
    assert_eq!(beyond(None, 4), (vec![1, 2, 3], 2));
    assert_eq!(beyond(None, 7), (vec![1, 2, 3, 5, 6], 0), "what ends with no record is no difference");
    let window = Window { from: None, until: Some(50) };
    assert_eq!(beyond(Some(Cut { window, mode: CutMode::Record }), 4), (vec![1, 3], 1));
    assert_eq!(beyond(Some(Cut { window, mode: CutMode::Log }), 1), (vec![], 1));
}

/// The last two lines where so many records of partitions of `copy` differ.
fn told(findings: u64, differences: &[u64], not_compared: &[&str]) -> Vec<String> {
    let mut comparisons = Comparisons::new(10);
    let topic = "copy".to_owned();
    let compared =
        |differences: &u64| Compared { topic: topic.clone(), differences: *differences, ..Compared::default() };
    comparisons.compared = differences.iter().map(compared).collect();
    comparisons.differences = differences.iter().sum();
    comparisons.not_compared = not_compared.iter().map(ToString::to_string).collect();
    let report = Report {
        url: "file:///lake",
        level: Level::Manifest,
        ok: findings == 0 && !comparisons.differ(),
        checked: lakeferry_lake::verify::Checked::default(),
        findings,
        findings_listed: Vec::new(),
        comparisons: Some(&comparisons),
        failure: None,
    };
    let mut out = Vec::new();
    report.write(&mut out).unwrap();
    let lines: Vec<_> = String::from_utf8(out).unwrap().lines().map(str::to_owned).collect();
    lines[lines.len() - 3..].to_vec()
}

#[test]
fn the_end_says_whether_archive_or_topic_is_wrong() {
    let lines = told(0, &[2, 0, 3], &[]);
    assert!(lines[0].ends_with(": no fault in the archive"), "{lines:?}");
    assert!(lines[1].ends_with(": topic copy differs in 5 records"), "{lines:?}");
    assert_eq!(lines[2], "file:///lake: DIFFERENCES FOUND");
    let lines = told(0, &[0], &["orders: the cluster has no topic orders"]);
    assert!(lines[1].ends_with(": 1 could not be compared"), "{lines:?}");
    let lines = told(4, &[0], &[]);
    assert!(lines[0].ends_with(": 4 faults in the archive"), "{lines:?}");
    assert!(lines[1].ends_with(": no difference") && lines[2].ends_with(": FAULTS FOUND"), "{lines:?}");
    assert!(told(1, &[1], &[])[2].ends_with(": FAULTS AND DIFFERENCES FOUND"));
    assert!(told(0, &[0], &[])[2].ends_with(": verified"));
    assert!(told(0, &[], &[])[1].ends_with(": nothing was compared"));
}
