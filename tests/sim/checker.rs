//! Reads what is in the store as a stranger would, by `docs/manifest-format.md` alone, and compares it with what the
//! simulated cluster knows was written. Shares no code with the writer.
//!
//! The laws of `docs/manifest-format.md` section 5 and where each is checked; `docs/reliability.md` has the whole
//! table: 1 to 4 in [`chain`] (4's `first` in [`account`]), 5 and 6 in [`files`] (spans, and that a path is
//! named once, in [`account`]), 7 to 12 in
//! [`account`]; what users altered in [`altered`]. Here: the newest lineage holds every record that is in the log now,
//! once, and none that never was or was taken back; and what is said to be missing never was a record, or is gone.

mod account;
mod altered;
mod chain;
mod files;
pub(crate) mod rows;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use lakeferry_api::TopicPartition;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use self::account::{Absent, Lineage};
use crate::broker::log::{Log, Rec};
use crate::broker::{Broker, State, Topic};
use crate::rare::Reset;

pub(crate) type Objects = BTreeMap<String, Bytes>;
pub(crate) type Rows = BTreeMap<i64, Rec>;
type Verdict<T = ()> = Result<T, String>;

const ROOT: &str = "topics";

/// Offsets that need not be in the archive.
type Waived = Vec<std::ops::Range<i64>>;

/// What was found in order: the rows of each partition, by topic id, and what a restore has to take for the newest.
#[derive(Default)]
pub(crate) struct Archived {
    pub(crate) rows: BTreeMap<TopicPartition, BTreeMap<String, Rows>>,
    /// By topic, the id of the incarnation that was made last of those that files are archived of.
    pub(crate) newest: BTreeMap<String, String>,
}

/// Checks every chain; the first broken law is the error.
pub(crate) fn check(objects: &Objects, broker: &Broker) -> Verdict<Archived> {
    let state = broker.lock();
    let mut archived = Archived::default();
    let chains = chain::read_all(objects)?;
    for (partition, chain) in &chains {
        let rows = check_chain(objects, &state, partition, chain).map_err(|law| format!("{partition}: {law}"))?;
        archived.rows.insert(partition.clone(), rows);
    }
    archived.newest = newest(&state, &chains)?;
    for ((partition, id), offsets) in &state.owed {
        let kept = archived.rows.get(partition).and_then(|by_id| by_id.get(id));
        check_kept(kept, offsets).map_err(|law| format!("{partition}: {law} of {id}, which was deleted"))?;
    }
    for partition in state.partitions() {
        check_reached(&state, &partition, chains.get(&partition).map(Vec::as_slice))?;
    }
    Ok(archived)
}

/// See [`Archived::newest`]. The cluster knows what was made last; where nothing has files, that is all there is to it.
fn newest(state: &State, chains: &BTreeMap<TopicPartition, Vec<Value>>) -> Verdict<BTreeMap<String, String>> {
    let mut newest: BTreeMap<String, (bool, u64, String)> = BTreeMap::new();
    for (partition, chain) in chains {
        for entry in chain {
            let id = text(&entry["source"], "topic_id")?;
            let topic = state.incarnation(&partition.topic, &id).ok_or("an entry of a topic that never was")?;
            let found = (!list(entry, "files")?.is_empty(), topic.number, id);
            let known = newest.entry(partition.topic.to_string()).or_default();
            *known = found.max(std::mem::take(known));
        }
    }
    Ok(newest.into_iter().map(|(topic, (_, _, id))| (topic, id)).collect())
}

/// Checks one chain; the rows by the topic's id.
fn check_chain(
    objects: &Objects,
    state: &State,
    partition: &TopicPartition,
    chain: &[Value],
) -> Verdict<BTreeMap<String, Rows>> {
    chain::check(partition, chain, &state.takeovers)?;
    let asked = state.altered.get(partition).cloned().unwrap_or_default();
    altered::check(chain, &asked)?;
    check_shape(state, partition, chain)?;
    let lineages = account::check(objects, partition, chain)?;
    let end = chain.last().ok_or("a chain without an end")?;
    let mut rows_by_id = BTreeMap::new();
    for line in list(end, "lineages")? {
        let (id, number) = (text(line, "topic_id")?, number(line, "lineage")? as u64);
        let live = state.topics.get(&*partition.topic).filter(|topic| topic.id == id);
        let topic = state.incarnation(&partition.topic, &id);
        let log = topic.and_then(|topic: &Topic| topic.logs.get(partition.partition as usize));
        let Some(log) = log else {
            return Err(format!("lineage {number} is of topic {id}, which never was"));
        };
        let rows = whole(chain, &lineages, number)?;
        let say = |law: String| format!("lineage {number}: {law}");
        check_truth(log, &rows).map_err(say)?;
        for absent in lineages.get(&number).into_iter().flat_map(|lineage| &lineage.absent) {
            check_absent(log, absent).map_err(say)?;
        }
        if end["source"]["lineage"] == number && live.is_some() {
            let (told, begun) = beginning(state, partition, &id);
            let mut waived = altered::waived(chain, number, (&asked, told))?;
            check_begun(line, told.and(begun))?;
            if let (true, Some(committed)) = (altered::is_reset(end), state.committed().get(partition)) {
                // Nothing came since, so the group's offset is all there is.
                waived.extend(told.filter(|told| committed <= told).map(|_| 0..*committed));
            }
            check_complete(log, &rows, chain, &waived).map_err(|law| format!("the newest lineage: {law}"))?;
        }
        // A later lineage of the same topic is the log as it went on.
        rows_by_id.insert(id, rows);
    }
    Ok(rows_by_id)
}

/// Where reading begins at the end: the greatest end of the log that anybody was told, and where the group was told
/// that reading begins, before there was an archive.
fn beginning(state: &State, partition: &TopicPartition, id: &str) -> (Option<i64>, Option<i64>) {
    if state.reset != Reset::Latest {
        return (None, None);
    }
    (state.told_end(partition, Some(id)), state.begun.get(&(partition.clone(), id.to_owned())).copied())
}

/// From where reading began, before there was a chain, everything is archived, even if a worker dies before the first
/// entry. A lineage that is not the chain's first begins where the log did, or where a user said.
fn check_begun(line: &Value, begun: Option<i64>) -> Verdict {
    let (Some(begun), Some(first), true) = (begun, line["first"].as_i64(), line["lineage"] == 1) else {
        return Ok(());
    };
    demand(first <= begun, || format!("reading began at {begun}, the archive begins at {first}"))
}

/// What an entry says of its topic is of that incarnation: one that was there before or came after may have had more
/// partitions.
fn check_shape(state: &State, partition: &TopicPartition, chain: &[Value]) -> Verdict {
    for (at, entry) in chain.iter().enumerate().filter(|(_, entry)| entry["kind"] != "commit") {
        let id = text(&entry["source"], "topic_id")?;
        let topic = state.incarnation(&partition.topic, &id).ok_or("an entry of a topic that never was")?;
        let (said, most) = (number(&entry["topic"], "partitions")?, topic.logs.len() as i64);
        demand(said <= most, || {
            format!("entry {at}: topic {id} has {said} partitions, but never had more than {most}")
        })?;
    }
    Ok(())
}

/// A partition that holds records is archived, under the id that its topic has now. Exempt is what a user had passed
/// over before there was a chain: where the group's offset was set, and nothing archived, that offset is all there is.
fn check_reached(state: &State, partition: &TopicPartition, chain: Option<&[Value]>) -> Verdict {
    let (Some(log), Some(topic)) = (state.peek(partition), state.topics.get(&*partition.topic)) else { return Ok(()) };
    let present = log.present();
    let Some(end) = chain.and_then(<[Value]>::last) else {
        let asked = state.altered.get(partition);
        let told = beginning(state, partition, &topic.id).0;
        let is_begun = |at: &&i64| told.is_some_and(|told| **at <= told);
        let is_asked = |at: &&i64| asked.is_some_and(|all| all.contains(&Some(**at)));
        let committed = state.committed().get(partition).filter(|at| is_asked(at) || is_begun(at));
        let due = present.range(committed.copied().unwrap_or(0)..).count();
        return demand(due == 0, || format!("{partition} holds {due} records and has no archive"));
    };
    demand(end["source"]["topic_id"] == *topic.id || present.is_empty(), || {
        format!("{partition}: {} records of {} wait behind {}", present.len(), topic.id, end["source"])
    })
}

/// What was read of a topic that was deleted is archived: nobody can read it again.
fn check_kept(kept: Option<&Rows>, owed: &BTreeSet<i64>) -> Verdict {
    let lost: Vec<_> = owed.iter().filter(|offset| kept.is_none_or(|rows| !rows.contains_key(offset))).collect();
    demand(lost.is_empty(), || format!("the archive lacks {} records from offset {} on", lost.len(), lost[0]))
}

/// The rows of a lineage with those that it inherits.
fn whole(chain: &[Value], lineages: &BTreeMap<u64, Lineage>, lineage: u64) -> Verdict<Rows> {
    let mut all = lineages.get(&lineage).map(|lineage| lineage.rows.clone()).unwrap_or_default();
    let end = chain.last().ok_or("a chain without an end")?;
    let line = list(end, "lineages")?.iter().find(|line| line["lineage"] == lineage).ok_or("an unlisted lineage")?;
    let continues = &line["continues"];
    if !continues.is_null() {
        let (old, before) = (number(continues, "lineage")?, number(continues, "before")?);
        for (offset, rec) in whole(chain, lineages, old as u64)?.range(..before) {
            demand(all.insert(*offset, rec.clone()).is_none(), || {
                format!("offset {offset} is archived in two lineages")
            })?;
        }
    }
    Ok(all)
}

/// Nothing is archived that never was.
fn check_truth(log: &Log, rows: &Rows) -> Verdict {
    for (offset, rec) in rows {
        let known = log.ever.get(offset).is_some_and(|ever| ever.iter().any(|known| **known == *rec));
        demand(known, || format!("offset {offset} holds a record that was never there: {rec:?}"))?;
    }
    Ok(())
}

/// What is said to have no record had none, or none that anybody can read any more. Of a record that was removed it is
/// not known when.
fn check_absent(log: &Log, absent: &Absent) -> Verdict {
    let count = |reason| absent.count_by_reason.get(reason).copied().unwrap_or(0);
    let (moved, altered) = (count("log_start_moved"), count("altered"));
    let gone = absent.offsets.iter().filter(|offset| **offset < log.start()).count() as i64;
    demand(moved <= gone, || format!("the log begins at {}, which is not behind {absent:?}", log.start()))?;
    let is_held = |offset: &&i64| log.ever.contains_key(offset) && !log.has_removed(**offset);
    let held = absent.offsets.iter().filter(is_held).count() as i64;
    demand(held <= moved + altered, || format!("{held} records are among {absent:?}"))
}

/// Every record of the log is archived, and none that was taken back.
fn check_complete(log: &Log, rows: &Rows, chain: &[Value], waived: &Waived) -> Verdict {
    let present = log.present();
    for (offset, rec) in &present {
        let Some(row) = rows.get(offset) else {
            if waived.iter().any(|range| range.contains(offset)) {
                continue;
            }
            let starts = chain.last().map(|end| end["source"].to_string()).unwrap_or_default();
            return Err(format!("offset {offset} is lost (log {}..{}, {starts})", log.start(), log.stable()));
        };
        demand(*row == **rec, || format!("offset {offset} holds another record than the log"))?;
    }
    // Of what lies before the log's start nobody can tell any more whether it was taken back.
    for (offset, rec) in rows.range(log.start()..) {
        let last = log.ever.get(offset).and_then(|ever: &Vec<Arc<Rec>>| ever.last());
        let stands = *offset < log.end() && last.is_some_and(|last| **last == *rec);
        demand(stands, || format!("offset {offset} was taken back and is archived"))?;
    }
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn demand(holds: bool, law: impl FnOnce() -> String) -> Verdict {
    if holds { Ok(()) } else { Err(law()) }
}

/// A list that must be there.
fn list<'a>(value: &'a Value, member: &str) -> Verdict<&'a Vec<Value>> {
    value[member].as_array().ok_or_else(|| format!("{member} is {}", value[member]))
}

fn number(value: &Value, member: &str) -> Verdict<i64> {
    value[member].as_i64().ok_or_else(|| format!("{member} is {}", value[member]))
}

/// A number that must be there, as null if it may.
fn integer(value: &Value, member: &str) -> Verdict<Option<i64>> {
    match value.get(member) {
        Some(Value::Null) => Ok(None),
        _ => number(value, member).map(Some),
    }
}

fn text(value: &Value, member: &str) -> Verdict<String> {
    value[member].as_str().map(str::to_owned).ok_or_else(|| format!("{member} is {}", value[member]))
}
