//! Reads what is in the store as a stranger would, by `docs/manifest-format.md` alone, and compares it with what the
//! simulated cluster knows was written. Shares no code with the writer.
//!
//! Laws: chains are whole and sealed; entries follow each other; every offset of a lineage is accounted for once; spans
//! and gaps touch; files are what their entries say; and the newest lineage holds every record that is in the log now,
//! once, and none that never was or was taken back.

mod altered;
pub(crate) mod rows;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use lakeferry_api::TopicPartition;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::broker::log::{Log, Rec};
use crate::broker::{Broker, Topic};

type Objects = BTreeMap<String, Bytes>;
pub(crate) type Rows = BTreeMap<i64, Rec>;
type Verdict<T = ()> = Result<T, String>;

const ROOT: &str = "topics";
const SEAL: &str = ",\"self_sha256\":\"";

/// Offsets that need not be in the archive.
type Waived = Vec<std::ops::Range<i64>>;

/// What was found in order: the rows of each partition, by topic id, and what a restore takes for the newest.
#[derive(Default)]
pub(crate) struct Archived {
    pub(crate) rows: BTreeMap<TopicPartition, BTreeMap<String, Rows>>,
    /// By topic.
    pub(crate) newest: BTreeMap<String, String>,
}

/// Checks every chain; the first broken law is the error.
pub(crate) fn check(objects: &Objects, broker: &Broker) -> Verdict<Archived> {
    let state = broker.lock();
    let mut archived = Archived::default();
    let mut ends: BTreeMap<String, Vec<(String, String)>> = BTreeMap::new();
    for (partition, chain) in chains(objects)? {
        let rows_by_lineage = check_chain(objects, &chain).map_err(|law| format!("{partition}: {law}"))?;
        let asked = state.altered.get(&partition).cloned().unwrap_or_default();
        altered::check(&chain, &asked).map_err(|law| format!("{partition}: {law}"))?;
        for (id, lineage) in lineages(&chain)? {
            let topic_of = |id: &str| {
                let live = state.topics.get(&*partition.topic).filter(|topic| topic.id == id);
                live.or_else(|| state.buried.get(id))
            };
            let log = topic_of(&id).and_then(|topic: &Topic| topic.logs.get(partition.partition as usize));
            let log = log.ok_or_else(|| format!("{partition}: lineage {lineage} is of topic {id}, which never was"))?;
            let rows = whole(&chain, &rows_by_lineage, lineage)?;
            // A later lineage of the same topic is the log as it went on.
            archived.rows.entry(partition.clone()).or_default().insert(id.clone(), rows.clone());
            check_truth(log, &rows).map_err(|law| format!("{partition}, lineage {lineage}: {law}"))?;
            let newest = chain.last().is_some_and(|end| end["source"]["lineage"] == lineage);
            let live = state.topics.get(&*partition.topic).is_some_and(|topic| topic.id == id);
            if newest && live {
                let waived = altered::waived(&chain, lineage, &asked);
                check_complete(log, &rows, &chain, &waived)
                    .map_err(|law| format!("{partition}, the newest lineage: {law}"))?;
            }
        }
        if let Some(end) = chain.last() {
            let told = (text(end, "written_at")?, text(&end["source"], "topic_id")?);
            ends.entry(partition.topic.to_string()).or_default().push(told);
        }
    }
    for (topic, ends) in ends {
        let live = state.topics.get(&topic).filter(|live| ends.iter().any(|(_, id)| *id == live.id));
        let last = ends.into_iter().max().map(|(_, id)| id);
        archived.newest.extend(live.map(|live| live.id.clone()).or(last).map(|id| (topic, id)));
    }
    for partition in state.partitions() {
        let present = state.peek(&partition).map(Log::present).unwrap_or_default();
        let is_there = objects.contains_key(&format!(
            "{ROOT}/{}/_manifests/partition={}/{:020}.json",
            partition.topic, partition.partition, 0
        ));
        let asked_from = state.altered.get(&partition).and_then(|asked| asked.last().copied().flatten()).unwrap_or(0);
        if present.range(asked_from..).next().is_some() && !is_there {
            return Err(format!("{partition} holds {} records and has no archive", present.len()));
        }
    }
    Ok(archived)
}

/// Every chain's entries in order; their bytes are sealed and follow each other.
fn chains(objects: &Objects) -> Verdict<BTreeMap<TopicPartition, Vec<Value>>> {
    let mut chains: BTreeMap<TopicPartition, Vec<Value>> = BTreeMap::new();
    let mut previous: BTreeMap<TopicPartition, String> = BTreeMap::new();
    for (path, bytes) in objects {
        let parts: Vec<&str> = path.split('/').collect();
        let [_, topic, "_manifests", folder, name] = parts[..] else { continue };
        let number = folder.strip_prefix("partition=").and_then(|number| number.parse().ok());
        let partition = TopicPartition::new(topic, number.ok_or_else(|| format!("folder {path}"))?);
        let entry = sealed(bytes).map_err(|law| format!("{path}: {law}"))?;
        let chain = chains.entry(partition.clone()).or_default();
        demand(name == format!("{:020}.json", chain.len()), || format!("{path} leaves a hole in its chain"))?;
        demand(entry["seq"] == chain.len(), || format!("{path} is entry {}", entry["seq"]))?;
        let follows = entry["previous_sha256"].as_str() == previous.get(&partition).map(String::as_str);
        demand(follows, || format!("{path} does not follow the entry before"))?;
        previous.insert(partition, hex(bytes));
        chain.push(entry);
    }
    Ok(chains)
}

fn sealed(bytes: &Bytes) -> Verdict<Value> {
    let text = std::str::from_utf8(bytes).map_err(|error| error.to_string())?;
    let (body, seal) = text.rsplit_once(SEAL).ok_or("no seal")?;
    demand(seal == format!("{}\"}}", hex(format!("{body}}}").as_bytes())), || "the seal is broken".to_owned())?;
    serde_json::from_str(text).map_err(|error| error.to_string())
}

/// The topic id of every lineage of a chain.
fn lineages(chain: &[Value]) -> Verdict<Vec<(String, u64)>> {
    let listed = chain.last().and_then(|end| end["lineages"].as_array()).ok_or("an end without lineages")?;
    let line = |line: &Value| Some((line["topic_id"].as_str()?.to_owned(), line["lineage"].as_u64()?));
    listed.iter().map(|listed| line(listed).ok_or_else(|| format!("lineage {listed}"))).collect()
}

/// What accounting knows of a lineage.
#[derive(Default, Clone)]
struct Account {
    resume: i64,
    ahead: BTreeSet<i64>,
    records: i64,
    missing: i64,
    gaps: i64,
}

/// Checks the entries of a chain and their files; the own rows of each lineage.
fn check_chain(objects: &Objects, chain: &[Value]) -> Verdict<BTreeMap<u64, Rows>> {
    let mut rows: BTreeMap<u64, Rows> = BTreeMap::new();
    let mut accounts: BTreeMap<u64, Account> = BTreeMap::new();
    let mut paths = BTreeSet::new();
    for (at, entry) in chain.iter().enumerate() {
        let say = |law: String| format!("entry {at}: {law}");
        check_epoch(entry, at.checked_sub(1).map(|before| &chain[before])).map_err(say)?;
        let lineage = entry["source"]["lineage"].as_u64().ok_or("no lineage")?;
        if altered::is_reset(entry) {
            demand(!accounts.contains_key(&lineage), || say("a reset begins no lineage".to_owned()))?;
            rows.entry(lineage).or_default();
            continue;
        }
        let inherited = || inherit(entry, &accounts);
        let mut account = match accounts.get(&lineage) {
            Some(account) => account.clone(),
            None => inherited()?,
        };
        let own = rows.entry(lineage).or_default();
        for file in list(entry, "files") {
            demand(paths.insert(text(file, "path")?), || say(format!("{} is named twice", file["path"])))?;
            account.add_file(file).map_err(say)?;
            for (offset, rec) in read_file(objects, file).map_err(say)? {
                demand(own.insert(offset, rec).is_none(), || say(format!("offset {offset} is archived twice")))?;
            }
        }
        for gap in list(entry, "gaps") {
            account.cover(number(gap, "from")?, number(gap, "to")?, false).map_err(say)?;
            account.gaps += number(gap, "to")? - number(gap, "from")? + 1;
        }
        account.check(entry).map_err(say)?;
        accounts.insert(lineage, account);
    }
    Ok(rows)
}

fn check_epoch(entry: &Value, before: Option<&Value>) -> Verdict {
    let epoch = |entry: &Value| number(entry, "epoch");
    let commits = entry["kind"] == "commit";
    let expected = match before {
        Some(before) if commits => epoch(before)?,
        Some(before) => epoch(before)? + 1,
        None => 1,
    };
    demand(epoch(entry)? == expected, || format!("epoch {} where {expected} was due", entry["epoch"]))?;
    if let (true, Some(before)) = (commits, before) {
        demand(entry["writer"]["id"] == before["writer"]["id"], || "another writer commits in this epoch".to_owned())?;
        demand(entry["source"] == before["source"], || "a commit changes its lineage".to_owned())?;
    }
    Ok(())
}

/// Where the accounting of a lineage begins.
fn inherit(entry: &Value, accounts: &BTreeMap<u64, Account>) -> Verdict<Account> {
    let first = number(&entry["source"], "first")?;
    let mut account = Account { resume: first, ..Account::default() };
    let continues = &entry["source"]["continues"];
    if let (Some(old), Some(before)) = (continues["lineage"].as_u64(), continues["before"].as_i64()) {
        // A reset that nothing was archived after has no account: nothing stands before the new lineage then.
        let Some(old) = accounts.get(&old) else { return Ok(Account { resume: before, ..account }) };
        demand(first == old.resume.min(before), || format!("it begins at {first}, not where the old one stood"))?;
        account.ahead = old.ahead.range(first..before).copied().collect();
        account.records = account.ahead.len() as i64;
    }
    Ok(account)
}

impl Account {
    fn add_file(&mut self, file: &Value) -> Verdict {
        let (from, to) = (number(file, "span_from")?, number(file, "span_to")?);
        let missing: i64 = file["missing"].as_object().map_or(0, |all| all.values().filter_map(Value::as_i64).sum());
        let ahead = self.ahead.range(from..=to).count() as i64;
        let records = number(file, "records")?;
        demand(records + missing + ahead == to - from + 1, || {
            format!("{} does not account for its span", file["path"])
        })?;
        self.records += records;
        self.missing += missing;
        self.cover(from, to, true)
    }

    /// These offsets are answered for now.
    fn cover(&mut self, from: i64, to: i64, may_pass: bool) -> Verdict {
        demand(from >= self.resume, || format!("{from}..={to} lies below resume {}", self.resume))?;
        for offset in from..=to {
            demand(self.ahead.insert(offset) || may_pass, || format!("offset {offset} is in a gap and in a file"))?;
        }
        while self.ahead.remove(&self.resume) {
            self.resume += 1;
        }
        Ok(())
    }

    /// What the entry says of itself against what its files and gaps add up to.
    fn check(&self, entry: &Value) -> Verdict {
        let totals = &entry["totals"];
        let first = number(&entry["source"], "first")?;
        let said: BTreeSet<i64> = list(entry, "ahead")
            .flat_map(|pair| pair[0].as_i64().unwrap_or(0)..=pair[1].as_i64().unwrap_or(-1))
            .collect();
        demand(entry["resume_offset"] == self.resume, || {
            format!("resume_offset {} where files and gaps reach {}", entry["resume_offset"], self.resume)
        })?;
        demand(said == self.ahead, || format!("ahead {:?} where files reach {:?}", said, self.ahead))?;
        let sums = [("records", self.records), ("missing", self.missing), ("gaps", self.gaps)];
        for (name, sum) in sums {
            demand(totals[name] == sum, || format!("totals.{name} is {}, not {sum}", totals[name]))?;
        }
        let all = self.records + self.missing + self.gaps;
        demand(all == self.resume - first + self.ahead.len() as i64, || format!("{all} offsets are accounted for"))
    }
}

/// A file is there, is what its entry says, and has the rows that the entry says.
fn read_file(objects: &Objects, file: &Value) -> Verdict<Vec<(i64, Rec)>> {
    let path = text(file, "path")?;
    let bytes = objects.get(&format!("{ROOT}/{path}")).ok_or_else(|| format!("A5: {path} is named and not there"))?;
    demand(number(file, "stored_bytes")? == bytes.len() as i64, || format!("{path} has {} bytes", bytes.len()))?;
    demand(text(file, "sha256")? == hex(bytes), || format!("{path} holds other bytes than its entry says"))?;
    let rows = rows::read(&text(file, "format")?, bytes).map_err(|error| format!("{path}: {error}"))?;
    demand(rows.len() as i64 == number(file, "records")?, || format!("{path} has {} rows", rows.len()))?;
    let ends = (rows.first().map(|row| row.0), rows.last().map(|row| row.0));
    demand(ends == (file["first_offset"].as_i64(), file["last_offset"].as_i64()), || format!("{path} spans {ends:?}"))?;
    demand(rows.is_sorted_by(|a, b| a.0 < b.0), || format!("{path} is out of order"))?;
    Ok(rows)
}

/// The rows of a lineage with those that it inherits.
fn whole(chain: &[Value], rows: &BTreeMap<u64, Rows>, lineage: u64) -> Verdict<Rows> {
    let mut all = rows.get(&lineage).cloned().unwrap_or_default();
    let listed = chain.last().and_then(|end| end["lineages"].as_array()).ok_or("an end without lineages")?;
    let line = listed.iter().find(|line| line["lineage"] == lineage).ok_or("an unlisted lineage")?;
    if let (Some(old), Some(before)) = (line["continues"]["lineage"].as_u64(), line["continues"]["before"].as_i64()) {
        for (offset, rec) in whole(chain, rows, old)?.range(..before) {
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

fn list<'a>(value: &'a Value, member: &str) -> impl Iterator<Item = &'a Value> {
    value[member].as_array().into_iter().flatten()
}

fn number(value: &Value, member: &str) -> Verdict<i64> {
    value[member].as_i64().ok_or_else(|| format!("{member} is {}", value[member]))
}

fn text(value: &Value, member: &str) -> Verdict<String> {
    value[member].as_str().map(str::to_owned).ok_or_else(|| format!("{member} is {}", value[member]))
}
