//! What users asked to alter: only that is altered, and only what they passed over may be missing.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Verdict, Waived, demand, list, number};

/// What a user asked for: offsets, and `None` for resets.
type Asked = BTreeSet<Option<i64>>;

/// True where the entry resets a partition: nothing is known of the new lineage yet.
pub(super) fn is_reset(entry: &Value) -> bool {
    entry["kind"] == "lineage" && entry["resume_offset"].is_null()
}

/// Every alteration was asked for, and says what was asked.
pub(super) fn check(chain: &[Value], asked: &Asked) -> Verdict {
    for (at, entry) in chain.iter().enumerate() {
        let say = |law: &str| format!("entry {at}: {law}: {entry}");
        let resume = entry["resume_offset"].as_i64();
        if entry["kind"] == "lineage" {
            demand(asked.contains(&resume), || say("nobody asked for this"))?;
            demand(entry["source"]["started_by"] == "altered", || say("altered, and not said so"))?;
            demand(list(entry, "ahead").next().is_none(), || say("what was ahead still is"))?;
        } else {
            demand(resume.is_some(), || say("it does not say where it resumes"))?;
        }
        for gap in list(entry, "gaps").filter(|gap| gap["reason"] == "altered") {
            let to = number(gap, "to")?;
            demand(resume.is_some_and(|resume| to < resume) && entry["kind"] == "lineage", || say("a gap of no user"))?;
        }
    }
    Ok(())
}

/// What a reader of `lineage` may miss: what users passed over, in it and in what it inherits.
pub(super) fn waived(chain: &[Value], lineage: u64, asked: &Asked) -> Waived {
    let own = || chain.iter().filter(|entry| entry["source"]["lineage"] == lineage);
    let gaps = own().flat_map(|entry| list(entry, "gaps")).filter(|gap| gap["reason"] == "altered");
    let range = |gap: &Value| Some(gap["from"].as_i64()?..gap["to"].as_i64()? + 1);
    let mut waived: Waived = gaps.filter_map(range).collect();
    let Some(source) = own().next_back().map(|entry| &entry["source"]) else { return waived };
    if let (Some(old), Some(before)) = (source["continues"]["lineage"].as_u64(), source["continues"]["before"].as_i64())
    {
        let inherited = self::waived(chain, old, asked).into_iter();
        waived.extend(inherited.map(|range| range.start..range.end.min(before)));
        // Behind a reset that nothing was archived after, an offset is all that is known.
        let reset = chain.iter().filter(|entry| entry["source"]["lineage"] == old).all(is_reset);
        if reset {
            waived.push(0..before);
        }
    } else if let Some(first) = source["first"].as_i64().filter(|first| asked.contains(&Some(*first))) {
        // Where no archive was, the group's offset is what was altered; where one was, but of a topic that was made
        // anew since, the lineage begins at what was altered.
        if source["started_by"] == "committed" || source["started_by"] == "altered" {
            waived.push(0..first);
        }
    }
    waived
}
