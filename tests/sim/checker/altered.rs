//! What users asked to alter: only that is altered, and only what they passed over may be missing.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Verdict, Waived, demand, integer, list, number};

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
        let resume = integer(entry, "resume_offset")?;
        if entry["kind"] == "lineage" {
            demand(asked.contains(&resume), || say("nobody asked for this"))?;
            demand(entry["source"]["started_by"] == "altered", || say("altered, and not said so"))?;
            demand(list(entry, "ahead")?.is_empty(), || say("what was ahead still is"))?;
        } else {
            demand(resume.is_some(), || say("it does not say where it resumes"))?;
        }
        for gap in list(entry, "gaps")?.iter().filter(|gap| gap["reason"] == "altered") {
            let to = number(gap, "to")?;
            demand(resume.is_some_and(|resume| to < resume) && entry["kind"] == "lineage", || say("a gap of no user"))?;
        }
    }
    Ok(())
}

/// What a reader of `lineage` may miss: what users passed over, in it and in what it inherits; and where reading begins
/// at the end, `told` by a broker, what was there before.
pub(super) fn waived(chain: &[Value], lineage: u64, (asked, told): (&Asked, Option<i64>)) -> Verdict<Waived> {
    let own = || chain.iter().filter(|entry| entry["source"]["lineage"] == lineage);
    let mut waived = Waived::new();
    for entry in own() {
        for gap in list(entry, "gaps")?.iter().filter(|gap| gap["reason"] == "altered") {
            waived.push(number(gap, "from")?..number(gap, "to")? + 1);
        }
    }
    let Some(source) = own().next_back().map(|entry| &entry["source"]) else { return Ok(waived) };
    let continues = &source["continues"];
    if !continues.is_null() {
        let (old, before) = (number(continues, "lineage")? as u64, number(continues, "before")?);
        let inherited = self::waived(chain, old, (asked, told))?.into_iter();
        waived.extend(inherited.map(|range| range.start..range.end.min(before)));
        // Behind a reset that nothing was archived after, an offset is all that is known.
        let reset = chain.iter().filter(|entry| entry["source"]["lineage"] == old).all(is_reset);
        if reset {
            waived.push(0..before);
        }
    } else if let Some(first) = integer(source, "first")? {
        // Where reading begins at the end, at one that a broker told.
        let anew = source["started_by"] == "altered" && own().any(is_reset);
        let begins = anew || source["started_by"] == "latest" || source["started_by"] == "committed";
        if begins && told.is_some_and(|told| first <= told) {
            waived.push(0..first);
        }
        if !asked.contains(&Some(first)) {
            return Ok(waived);
        }
        // Where no archive was, the group's offset is what was altered; where one was, but of a topic that was made
        // anew since, the lineage begins at what was altered. One that was reset does not.
        if source["started_by"] == "committed" || source["started_by"] == "altered" && !own().any(is_reset) {
            waived.push(0..first);
        }
    }
    Ok(waived)
}
