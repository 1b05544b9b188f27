//! The laws of one data object, as far as its manifest line can tell.

use super::{Case, Findings, Law, native_name, overlap, sum, width};
use crate::manifest::model::{Digest, FileEntry};

/// See each function.
pub(super) const LAWS: &[Law] =
    &[("names", names), ("file counts", counts), ("file spans", spans), ("timestamps", timestamps), ("blocks", blocks)];

fn each(case: &Case<'_>, mut check: impl FnMut(&FileEntry, &dyn Fn(&str) -> String)) {
    for (at, file) in case.entry.files.iter().enumerate() {
        check(file, &|member| format!("files[{at}].{member}"));
    }
}

/// A file lies in its topic's folder; where its name is a native one, it repeats the first offset, the epoch and the
/// writer of its line.
fn names(case: &Case<'_>, findings: &mut Findings) {
    let entry = case.entry;
    each(case, |file, field| {
        let inside = file.path.strip_prefix(&entry.source.topic).is_some_and(|rest| rest.starts_with('/'));
        findings.expect(inside, field("path"), || format!("{} is not in the topic's folder", file.path));
        let Some(name) = native_name(&file.path) else { return };
        findings.expect(name.first_offset == file.first_offset, field("first_offset"), || {
            format!("{}, but its name says {}", file.first_offset, name.first_offset)
        });
        findings.expect(name.epoch == entry.epoch, field("path"), || {
            format!("its name says epoch {}, but the entry is of epoch {}", name.epoch, entry.epoch)
        });
        findings.expect(entry.writer.id.starts_with(&format!("{:08x}", name.writer)), field("path"), || {
            format!("its name says writer {:08x}, but the entry is written by {}", name.writer, entry.writer.id)
        });
    });
}

/// A file holds at least one record, and no more than there are offsets from its first to its last.
fn counts(case: &Case<'_>, findings: &mut Findings) {
    each(case, |file, field| {
        findings.expect(file.first_offset >= 0, field("first_offset"), || format!("{}", file.first_offset));
        findings.expect(file.last_offset >= file.first_offset, field("last_offset"), || {
            format!("{}, but the first is {}", file.last_offset, file.first_offset)
        });
        let room = width(file.offsets());
        let fits = file.records >= 1 && i128::from(file.records) <= room;
        findings.expect(fits, field("records"), || {
            format!("{}, but {}..{} has 1 to {room}", file.records, file.first_offset, file.last_offset)
        });
        let alone = file.records == 1 && file.first_offset != file.last_offset;
        findings.expect(!alone, field("records"), || "1, but the first and the last offset differ".to_owned());
    });
}

/// A contiguous file answers for every offset of its span: each is a record, is counted in `missing`, or was archived
/// before (in `ahead`). A file without a span answers for its records only.
fn spans(case: &Case<'_>, findings: &mut Findings) {
    each(case, |file, field| {
        let missing = sum(file.missing.values());
        let Some(span) = file.span() else {
            findings.expect(file.span_from.is_none() && file.span_to.is_none(), field("span_to"), || {
                "span_from and span_to are both there or both null".to_owned()
            });
            findings.expect(file.missing.is_empty(), field("missing"), || {
                "a file without span cannot say what is missing".to_owned()
            });
            return;
        };
        findings.expect(span.from <= file.first_offset, field("span_from"), || {
            format!("{}, but the first record is at {}", span.from, file.first_offset)
        });
        findings.expect(span.to >= file.last_offset, field("span_to"), || {
            format!("{}, but the last record is at {}", span.to, file.last_offset)
        });
        let before = overlap(&case.base.ahead, span);
        let accounted = i128::from(file.records) + missing + before;
        findings.expect(accounted == width(span), field("records"), || {
            format!(
                "{} records, {missing} missing and {before} archived before do not make up the {} offsets of {}..{}",
                file.records,
                width(span),
                span.from,
                span.to
            )
        });
        findings.expect(file.missing.values().all(|count| *count > 0), field("missing"), || {
            "a reason counts nothing".to_owned()
        });
    });
}

/// The smallest and the largest timestamp are in order, and null just where no record has one.
fn timestamps(case: &Case<'_>, findings: &mut Findings) {
    each(case, |file, field| {
        let timed = file.records.checked_sub(file.untimed);
        findings.expect(timed.is_some(), field("untimed"), || {
            format!("{}, but there are {} records", file.untimed, file.records)
        });
        for (member, timestamp) in [("min_timestamp", file.min_timestamp), ("max_timestamp", file.max_timestamp)] {
            findings.expect(timestamp.is_none() == (timed == Some(0)), field(member), || {
                format!("{timestamp:?}, but {} of {} records have no timestamp", file.untimed, file.records)
            });
        }
        if let (Some(min), Some(max)) = (file.min_timestamp, file.max_timestamp) {
            findings.expect(min <= max, field("min_timestamp"), || format!("{min} is above max_timestamp {max}"));
        }
    });
}

/// Blocks touch, cover every byte from 0 to `stored_bytes`, and none is empty; hashes are hashes.
fn blocks(case: &Case<'_>, findings: &mut Findings) {
    each(case, |file, field| {
        let is_digest = |text: &str| text.parse::<Digest>().is_ok();
        findings.expect(is_digest(&file.sha256), field("sha256"), || format!("{} is no SHA-256", file.sha256));
        let mut end = Some(0);
        for (at, block) in file.blocks.iter().enumerate() {
            let here = |member: &str| field(&format!("blocks[{at}].{member}"));
            findings.expect(Some(block.at) == end, here("at"), || format!("{}, but {end:?} comes next", block.at));
            findings.expect(block.len > 0, here("len"), || "0".to_owned());
            findings.expect(is_digest(&block.sha256), here("sha256"), || format!("{} is no SHA-256", block.sha256));
            end = block.at.checked_add(block.len);
        }
        findings.expect(end == Some(file.stored_bytes), field("stored_bytes"), || {
            format!("{}, but its blocks end at {end:?}", file.stored_bytes)
        });
        if let [only] = file.blocks.as_slice() {
            findings.expect(only.sha256 == file.sha256, field("sha256"), || "differs from its only block's".to_owned());
        }
    });
}
