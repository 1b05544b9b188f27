//! The laws of what an entry is: its place in the chain, who wrote it, and which log it continues.

use super::{Case, Findings, Law};
use crate::manifest::model::{EntryKind, StartedBy};

/// See each function.
pub(super) const LAWS: &[Law] = &[
    ("numbers", numbers),
    ("the hash chain", hash_chain),
    ("epochs", epochs),
    ("ownership", ownership),
    ("one partition", one_partition),
    ("lineages", lineages),
    ("the lineage begun", lineage_begun),
    ("topic settings", topic_settings),
];

/// Entries are numbered from 0 without holes.
fn numbers(case: &Case<'_>, findings: &mut Findings) {
    let expected = case.before.previous.map_or(Some(0), |(previous, _)| previous.seq.checked_add(1));
    let seq = case.entry.seq;
    findings.expect(expected == Some(seq), "seq", || match expected {
        Some(expected) => format!("{seq}, but {expected} comes next"),
        None => format!("{seq}, but no number is left"),
    });
}

/// Every entry names the SHA-256 of the bytes of the one before it, so none can be changed without all that follow.
fn hash_chain(case: &Case<'_>, findings: &mut Findings) {
    let expected = case.before.previous.map(|(_, sha256)| sha256);
    let found = case.entry.previous_sha256;
    findings.expect(found == expected, "previous_sha256", || match (found, expected) {
        (Some(found), Some(expected)) => {
            format!("{found}, but the entry before it has {expected}: one of the two was altered or exchanged")
        }
        (None, _) => "null, but an entry comes before it".to_owned(),
        (_, None) => "not null, but no entry comes before it".to_owned(),
    });
}

/// An epoch is one writer's time on a partition: every opening and every alteration counts one up, and a commit is
/// made in the epoch, and by the writer, of the entry before it. So a fenced writer can add nothing.
fn epochs(case: &Case<'_>, findings: &mut Findings) {
    let entry = case.entry;
    let Some((previous, _)) = case.before.previous else {
        findings.expect(entry.epoch >= 1, "epoch", || "0, but epochs begin at 1".to_owned());
        findings.expect(entry.kind != EntryKind::Commit, "kind", || "commit, but a chain begins with open".to_owned());
        return;
    };
    if entry.kind == EntryKind::Commit {
        findings.expect(entry.epoch == previous.epoch, "epoch", || {
            format!("{}, but a commit belongs to the epoch before it, {}", entry.epoch, previous.epoch)
        });
        findings.expect(entry.writer.id == previous.writer.id, "writer.id", || {
            format!("{}, but this epoch was opened by {}", entry.writer.id, previous.writer.id)
        });
        findings.expect(previous.kind != EntryKind::Lineage, "kind", || {
            "commit, but nobody opened an epoch after the offsets were altered".to_owned()
        });
    } else {
        findings.expect(Some(entry.epoch) == previous.epoch.checked_add(1), "epoch", || {
            format!("{}, but the epoch before it is {} and each counts one up", entry.epoch, previous.epoch)
        });
    }
}

/// One consumer group archives here; another takes over only by opening.
fn ownership(case: &Case<'_>, findings: &mut Findings) {
    let Some((previous, _)) = case.before.previous else { return };
    let entry = case.entry;
    findings.expect(entry.owner == previous.owner || entry.kind == EntryKind::Open, "owner", || {
        format!("{}, but {} archives here and only an open entry changes that", entry.owner, previous.owner)
    });
}

/// All entries of a chain are about one partition.
fn one_partition(case: &Case<'_>, findings: &mut Findings) {
    let source = &case.entry.source;
    findings.expect(source.partition >= 0, "source.partition", || format!("{}", source.partition));
    let Some((previous, _)) = case.before.previous else { return };
    findings.expect(source.topic == previous.source.topic, "source.topic", || {
        format!("{}, but the chain is of {}", source.topic, previous.source.topic)
    });
    findings.expect(source.partition == previous.source.partition, "source.partition", || {
        format!("{}, but the chain is of {}", source.partition, previous.source.partition)
    });
}

/// The list of lineages only grows, by one at a time and never in a commit, and `source` says what the list says. The
/// one change to an older line is that a reset lineage learns where it begins.
fn lineages(case: &Case<'_>, findings: &mut Findings) {
    let (entry, source) = (case.entry, &case.entry.source);
    for (line, number) in entry.lineages.iter().zip(1u32..) {
        findings.expect(line.lineage == number, format!("lineages[{}].lineage", number - 1), || {
            format!("{}, but lineages are numbered from 1 without holes", line.lineage)
        });
    }
    let known = case.before.previous.map_or(&[][..], |(previous, _)| &previous.lineages);
    for (at, line) in known.iter().enumerate() {
        let same = entry.lineages.get(at).is_some_and(|now| {
            let resolved = line.first.is_none() && source.lineage == line.lineage;
            let (topic_id, continues) = (now.topic_id == line.topic_id, now.continues == line.continues);
            topic_id && continues && (now.first == line.first || resolved)
        });
        findings.expect(same, format!("lineages[{at}]"), || "differs from the entry before it".to_owned());
    }
    let begun = entry.lineages.len().saturating_sub(known.len());
    let allowed = match entry.kind {
        EntryKind::Open => 0..=1,
        EntryKind::Commit => 0..=0,
        EntryKind::Lineage => 1..=1,
    };
    findings.expect(allowed.contains(&begun), "lineages", || {
        format!("{begun} of them are new, but such an entry begins {} to {}", allowed.start(), allowed.end())
    });
    findings.expect(begun == 0 || source.lineage as usize == entry.lineages.len(), "source.lineage", || {
        format!("{}, but the entry begins lineage {}", source.lineage, entry.lineages.len())
    });
    let line = (source.lineage as usize).checked_sub(1).and_then(|at| entry.lineages.get(at));
    let same = line.is_some_and(|line| {
        let (topic_id, first) = (line.topic_id == source.topic_id, line.first == source.first);
        topic_id && first && line.continues == source.continues
    });
    findings.expect(same, "source", || format!("it differs from line {} of lineages", source.lineage));
    if let (EntryKind::Commit, Some((previous, _))) = (entry.kind, case.before.previous) {
        findings.expect(*source == previous.source, "source", || "a commit changed it".to_owned());
    }
}

/// A lineage begins for a reason that fits: only what was cut back or altered continues another lineage, at the border
/// where that one stops; and an id that has a lineage already never begins another from the start of its log.
fn lineage_begun(case: &Case<'_>, findings: &mut Findings) {
    if case.before.lineage.is_some() {
        return;
    }
    let source = &case.entry.source;
    let altered = matches!(source.started_by, StartedBy::Truncation | StartedBy::Altered);
    let Some(continues) = source.continues else {
        let known = &case.entry.lineages[..case.entry.lineages.len().saturating_sub(1)];
        let again = source.topic_id.is_some() && known.iter().any(|line| line.topic_id == source.topic_id);
        findings.expect(altered || !again, "source.topic_id", || {
            "this incarnation of the topic has a lineage already, which is to be gone on with".to_owned()
        });
        findings.expect(source.started_by != StartedBy::Truncation, "source.continues", || {
            "null, but what was cut back continues the lineage before it".to_owned()
        });
        return;
    };
    findings.expect(altered, "source.started_by", || "such a lineage continues no other".to_owned());
    findings.expect(continues.before >= 0, "source.continues.before", || format!("{}", continues.before));
    let Some(continued) = case.before.continued else {
        findings.add("source.continues.lineage", format!("no entry of lineage {} comes before it", continues.lineage));
        return;
    };
    let first = continued.resume_offset.map_or(continues.before, |resume| resume.min(continues.before));
    findings.expect(source.first == Some(first), "source.first", || {
        format!("{:?}, but what lineage {} leaves to it begins at {first}", source.first, continues.lineage)
    });
}

/// Openings and alterations keep the topic's settings, so that a restore can make the topic again from any of them.
fn topic_settings(case: &Case<'_>, findings: &mut Findings) {
    let expected = case.entry.kind != EntryKind::Commit;
    findings.expect(case.entry.topic.is_some() == expected, "topic", || match expected {
        true => "it is missing".to_owned(),
        false => "a commit has none".to_owned(),
    });
}
