//! The laws of offsets: every one is a record in exactly one file, counted as missing, or in a gap.
//!
//! "Published" means: below `resume_offset`, or in `ahead`. What an entry adds must be just what it brings.

use super::{Case, Findings, Law, overlap, sum, width};
use crate::manifest::model::{EntryKind, OffsetRange, Reason, StartedBy};
use crate::manifest::wire::MAX_AHEAD_SPAN;

/// See each function.
pub(super) const LAWS: &[Law] = &[
    ("resets", resets),
    ("resumption", resumption),
    ("touching spans", touching_spans),
    ("the log's start", log_start),
    ("routed files", routed_files),
    ("ahead", ahead),
    ("accounting", accounting),
    ("totals", totals),
];

/// `resume_offset` is null only in the entry of a reset, which publishes nothing, and until the next opening.
fn resets(case: &Case<'_>, findings: &mut Findings) {
    let entry = case.entry;
    if entry.resume_offset.is_some() {
        findings.expect(entry.source.first.is_some(), "source.first", || {
            "null, but resume_offset says that the lineage has begun".to_owned()
        });
        return;
    }
    let reset = entry.kind == EntryKind::Lineage && entry.source.started_by == StartedBy::Altered;
    findings.expect(reset, "resume_offset", || "null, but only a reset leaves it open".to_owned());
    let empty = entry.files.is_empty() && entry.missing.is_empty() && entry.gaps.is_empty() && entry.ahead.is_empty();
    findings.expect(empty && entry.source.first.is_none(), "resume_offset", || {
        "null, but the entry publishes something".to_owned()
    });
}

/// Only commits publish files; within a lineage `resume_offset` never goes back, and it begins at `source.first`.
fn resumption(case: &Case<'_>, findings: &mut Findings) {
    let entry = case.entry;
    findings.expect(entry.kind == EntryKind::Commit || entry.files.is_empty(), "files", || {
        "only a commit publishes files".to_owned()
    });
    let (Some(resume), Some(base)) = (entry.resume_offset, case.base.resume) else { return };
    findings.expect(base >= 0, "source.first", || format!("{base}"));
    findings
        .expect(resume >= base, "resume_offset", || format!("{resume}, but it was {base} before and never goes back"));
}

/// Spans and gaps lie between the old and the new resume offset and never overlap; a gap holds nothing that is
/// archived. Where no file is routed they touch: every offset is in one of them, or was archived before.
fn touching_spans(case: &Case<'_>, findings: &mut Findings) {
    let entry = case.entry;
    let (Some(resume), Some(base)) = (entry.resume_offset, case.base.resume) else { return };
    let spans =
        entry.files.iter().enumerate().filter_map(|(at, file)| Some((file.span()?, format!("files[{at}].span"))));
    let gaps = entry.gaps.iter().enumerate().map(|(at, gap)| (gap.range(), format!("gaps[{at}]")));
    for (gap, field) in gaps.clone() {
        findings.expect(gap.from <= gap.to, &*field, || format!("{}..{} is backward", gap.from, gap.to));
        findings.expect(overlap(&case.base.ahead, gap) == 0, &*field, || {
            format!("{}..{} holds offsets that are archived already", gap.from, gap.to)
        });
    }
    let mut segments: Vec<(OffsetRange, String)> = spans.chain(gaps).collect();
    segments.sort();
    let routed = entry.files.iter().any(|file| file.span().is_none()) || !entry.missing.is_empty();
    let mut next = base;
    for (segment, field) in &segments {
        findings.expect(segment.from >= next, &**field, || {
            format!("{}..{} begins below {next}, which was answered for before", segment.from, segment.to)
        });
        if !routed {
            let reached = skip(&case.base.ahead, next, segment.from);
            findings.expect(reached >= segment.from, &**field, || {
                format!("{}..{} leaves out the offsets from {reached} on", segment.from, segment.to)
            });
        }
        next = next.max(segment.to.saturating_add(1));
    }
    findings.expect(next <= resume, "resume_offset", || format!("{resume}, but spans and gaps reach {next}"));
    if !routed {
        let reached = skip(&case.base.ahead, next, resume);
        findings.expect(reached >= resume, "resume_offset", || {
            format!("{resume}, but nothing answers for the offsets from {reached} on")
        });
    }
}

/// What is gone because the log's start moved lies below that start, as the broker told it for this very entry: a gap
/// that another broker's answer gave reason for would leave out records that are there.
fn log_start(case: &Case<'_>, findings: &mut Findings) {
    let entry = case.entry;
    let start = entry.log.start_offset;
    for (at, gap) in entry.gaps.iter().enumerate().filter(|(_, gap)| gap.reason == Reason::LogStartMoved) {
        findings.expect(gap.to < start, format!("gaps[{at}].to"), || {
            format!("{}, but the log begins at log.start_offset {start}: it has not moved past that", gap.to)
        });
    }
}

/// Follows the archived `runs` from `from` as far as they go without a hole, at most to `to`.
fn skip(runs: &[OffsetRange], from: i64, to: i64) -> i64 {
    let at = runs.partition_point(|run| run.to < from);
    match runs.get(at) {
        Some(run) if from < to && run.from <= from => run.to.saturating_add(1).min(to),
        _ => from,
    }
}

/// The first and last record of a routed file are new: not published before, and published after.
fn routed_files(case: &Case<'_>, findings: &mut Findings) {
    let (Some(resume), Some(base)) = (case.entry.resume_offset, case.base.resume) else { return };
    let now: Vec<OffsetRange> = case.entry.ahead.ranges().collect();
    for (at, file) in case.entry.files.iter().enumerate().filter(|(_, file)| file.span().is_none()) {
        for (member, offset) in [("first_offset", file.first_offset), ("last_offset", file.last_offset)] {
            let one = OffsetRange::new(offset, offset);
            findings.expect(
                offset >= base && overlap(&case.base.ahead, one) == 0,
                format!("files[{at}].{member}"),
                || format!("{offset} was published before"),
            );
            findings.expect(offset < resume || overlap(&now, one) == 1, format!("files[{at}].{member}"), || {
                format!("{offset} is neither below resume_offset {resume} nor in ahead")
            });
        }
    }
}

/// `ahead` lies beyond `resume_offset`, within the allowed span, keeps what it had, and grows only by records of routed
/// files.
fn ahead(case: &Case<'_>, findings: &mut Findings) {
    let entry = case.entry;
    let Some(resume) = entry.resume_offset else { return };
    let now: Vec<OffsetRange> = entry.ahead.ranges().collect();
    if let (Some(first), Some(last)) = (now.first(), now.last()) {
        findings.expect(first.from > resume, "ahead", || {
            format!("it begins at {}, but resume_offset {resume} is the smallest offset not published", first.from)
        });
        let span = i128::from(last.to) - i128::from(resume);
        findings.expect(span <= i128::from(MAX_AHEAD_SPAN), "ahead", || {
            format!("it reaches {span} offsets beyond resume_offset, more than {MAX_AHEAD_SPAN}")
        });
    }
    let mut kept = 0;
    for run in &case.base.ahead {
        let still = OffsetRange::new(run.from.max(resume), run.to);
        let found = overlap(&now, still);
        kept += found;
        findings.expect(found == width(still), "ahead", || {
            format!("{}..{} was in it and is archived, but is no longer there", still.from, still.to)
        });
    }
    let grown = now.iter().copied().map(width).sum::<i128>() - kept;
    let routed = sum(entry.files.iter().filter(|file| file.span().is_none()).map(|file| &file.records));
    findings.expect(grown <= routed, "ahead", || {
        format!("{grown} offsets are new in it, but the routed files hold {routed} records")
    });
}

/// What is published grew by just the records, the missing offsets and the gaps of this entry.
fn accounting(case: &Case<'_>, findings: &mut Findings) {
    let entry = case.entry;
    let (Some(resume), Some(base)) = (entry.resume_offset, case.base.resume) else { return };
    let records = sum(entry.files.iter().map(|file| &file.records));
    let missing = sum(entry.files.iter().flat_map(|file| file.missing.values()).chain(entry.missing.values()));
    let gaps: i128 = entry.gaps.iter().map(|gap| width(gap.range())).sum();
    let was: i128 = case.base.ahead.iter().copied().map(width).sum();
    let now: i128 = entry.ahead.ranges().map(width).sum();
    let grown = i128::from(resume) - i128::from(base) + now - was;
    findings.expect(records + missing + gaps == grown, "resume_offset", || {
        format!(
            "from {base} to {resume}, with ahead from {was} to {now} offsets, {grown} offsets were published, but the \
             entry brings {records} records, {missing} missing and {gaps} in gaps"
        )
    });
    findings.expect(entry.missing.values().all(|count| *count > 0), "missing", || "a reason counts nothing".to_owned());
}

/// `totals` are those of the entry before it in the lineage and what this one brings. A new lineage begins with the
/// records that it inherits in `ahead`. So the end of a chain alone says: records + missing + gaps = `resume_offset` -
/// `source.first` + the number of offsets in `ahead`.
fn totals(case: &Case<'_>, findings: &mut Findings) {
    let entry = case.entry;
    let files = &entry.files;
    let inherited: i128 = case.base.ahead.iter().copied().map(width).sum();
    let base = case.before.lineage.map(|last| last.totals);
    let from =
        |member: fn(&crate::manifest::model::Totals) -> u64| base.as_ref().map(|totals| i128::from(member(totals)));
    let missing = files.iter().flat_map(|file| file.missing.values()).chain(entry.missing.values());
    let expected = [
        ("records", from(|t| t.records).unwrap_or(inherited) + sum(files.iter().map(|file| &file.records))),
        ("missing", from(|t| t.missing).unwrap_or(0) + sum(missing)),
        ("gaps", from(|t| t.gaps).unwrap_or(0) + entry.gaps.iter().map(|gap| width(gap.range())).sum::<i128>()),
        ("files", from(|t| t.files).unwrap_or(0) + files.len() as i128),
        ("stored_bytes", from(|t| t.stored_bytes).unwrap_or(0) + sum(files.iter().map(|file| &file.stored_bytes))),
        ("raw_bytes", from(|t| t.raw_bytes).unwrap_or(0) + sum(files.iter().map(|file| &file.raw_bytes))),
    ];
    let said = entry.totals;
    let found = [said.records, said.missing, said.gaps, said.files, said.stored_bytes, said.raw_bytes];
    for ((member, expected), found) in expected.into_iter().zip(found) {
        findings.expect(i128::from(found) == expected, format!("totals.{member}"), || {
            format!("{found}, but the entries of the lineage add up to {expected}")
        });
    }
    let (Some(resume), Some(first)) = (entry.resume_offset, entry.source.first) else { return };
    let answered = i128::from(said.records) + i128::from(said.missing) + i128::from(said.gaps);
    let published = i128::from(resume) - i128::from(first) + entry.ahead.ranges().map(width).sum::<i128>();
    findings.expect(answered == published, "totals", || {
        format!("records, missing and gaps make {answered}, but {published} offsets are published from {first} on")
    });
}
