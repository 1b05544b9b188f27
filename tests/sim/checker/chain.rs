//! The entries of a chain as documents: their bytes, their members, who wrote them, and which log they continue. Called
//! by the checker before anything is counted.
//!
//! Every member that the format demands must be there, in its order, and no other: what is absent is a finding, never
//! taken for empty.

use std::collections::{BTreeMap, BTreeSet};

use lakeferry_api::TopicPartition;
use serde_json::Value;

use super::{Objects, Verdict, demand, hex, integer, list, number, text};

const SEAL: &str = ",\"self_sha256\":\"";
/// Who may archive in a run: the cluster, and the connectors, whose groups are called so.
const CLUSTER: &str = "simulated";
const CONNECTORS: &[&str] = &["sink", "heir", "third"];
/// Who may go on with whose chains: the new owner and the old.
type Leaves = BTreeSet<(String, String)>;

const ENTRY: &str = "format version seq previous_sha256 kind epoch written_at owner writer source topic lineages files \
                     missing gaps resume_offset ahead totals log self_sha256";
const FILE: &str = "path route format codec span_from span_to first_offset last_offset records missing min_timestamp \
                    max_timestamp untimed stored_bytes raw_bytes sha256 blocks";
/// Lists of objects, and objects, by the pointer to them.
const LISTS: &[(&str, &str)] =
    &[("lineages", "lineage topic_id first continues"), ("files", FILE), ("gaps", "from to reason")];
const PARTS: &[(&str, &str)] = &[
    ("owner", "cluster_id group"),
    ("writer", "id connector task worker version"),
    ("source", "topic partition topic_id lineage first started_by continues"),
    ("totals", "records missing gaps files stored_bytes raw_bytes"),
    ("log", "start_offset last_stable_offset leader_epoch leader_epoch_upto isolation"),
];
const REASONS: &[&str] = &[
    "transaction",
    "compaction",
    "compaction_or_transaction",
    "log_start_moved",
    "truncation",
    "altered",
    "skipped",
    "unknown",
];

/// Every chain's entries in order; their bytes are sealed and follow each other.
pub(super) fn read_all(objects: &Objects) -> Verdict<BTreeMap<TopicPartition, Vec<Value>>> {
    let mut chains: BTreeMap<TopicPartition, Vec<Value>> = BTreeMap::new();
    let mut previous: BTreeMap<TopicPartition, String> = BTreeMap::new();
    for (path, bytes) in objects.iter().filter(|(path, _)| path.contains("/_manifests/")) {
        let parts: Vec<&str> = path.split('/').collect();
        let [super::ROOT, topic, "_manifests", folder, name] = parts[..] else { return Err(format!("stray {path}")) };
        let number = folder.strip_prefix("partition=").and_then(|number| number.parse().ok());
        let partition = TopicPartition::new(topic, number.ok_or_else(|| format!("folder {path}"))?);
        let entry = sealed(bytes).map_err(|law| format!("{path}: {law}"))?;
        let chain = chains.entry(partition.clone()).or_default();
        demand(name == format!("{:020}.json", chain.len()), || format!("{path} leaves a hole in its chain"))?;
        demand(entry["seq"] == chain.len(), || format!("{path} is entry {}", entry["seq"]))?;
        let before = previous.insert(partition, hex(bytes)).map_or(Value::Null, Value::from);
        demand(entry["previous_sha256"] == before, || format!("{path} does not follow the entry before"))?;
        chain.push(entry);
    }
    Ok(chains)
}

fn sealed(bytes: &[u8]) -> Verdict<Value> {
    let text = std::str::from_utf8(bytes).map_err(|error| error.to_string())?;
    let (body, seal) = text.rsplit_once(SEAL).ok_or("no seal")?;
    demand(seal == format!("{}\"}}", hex(format!("{body}}}").as_bytes())), || "the seal is broken".to_owned())?;
    let entry: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let plain = entry.to_string();
    demand(plain == text, || "there is more between its tokens than there should".to_owned())?;
    Ok(entry)
}

/// Whether the documents of a chain are what the format says, and follow each other.
pub(super) fn check(partition: &TopicPartition, chain: &[Value], leaves: &Leaves) -> Verdict {
    for (at, entry) in chain.iter().enumerate() {
        let before = at.checked_sub(1).map(|before| &chain[before]);
        check_form(entry)
            .and_then(|()| check_owner(entry, before, leaves))
            .and_then(|()| check_place(entry, partition))
            .and_then(|()| check_epoch(entry, before))
            .and_then(|()| check_lineages(entry, before))
            .and_then(|()| check_log(entry))
            .map_err(|law| format!("entry {at}: {law}"))?;
        if begins(entry, before)? {
            check_beginning(entry, before).map_err(|law| format!("entry {at}: {law}"))?;
        } else {
            let same = |of: &&Value| of["source"]["lineage"] == entry["source"]["lineage"];
            let last = chain[..at].iter().rfind(same).ok_or_else(|| format!("entry {at} is of an unbegun lineage"))?;
            let why = "started_by";
            demand(last["source"][why] == entry["source"][why], || format!("entry {at}: {why} changes"))?;
        }
    }
    Ok(())
}

fn has_members(value: &Value, members: &str, what: &str) -> Verdict {
    let found: Vec<&str> = value.as_object().into_iter().flatten().map(|(name, _)| name.as_str()).collect();
    let due: Vec<&str> = members.split_whitespace().collect();
    demand(found == due, || format!("the members of {what} are {found:?}"))
}

fn check_form(entry: &Value) -> Verdict {
    let commits = entry["kind"] == "commit";
    let members = if commits { ENTRY.replace(" topic ", " ") } else { ENTRY.to_owned() };
    has_members(entry, &members, "the entry")?;
    demand(entry["format"] == "lakeferry.manifest" && entry["version"] == 1, || "not version 1".to_owned())?;
    demand(["open", "commit", "lineage"].contains(&&*text(entry, "kind")?), || format!("kind {}", entry["kind"]))?;
    let at = text(entry, "written_at")?;
    let digits = |c: char| if c.is_ascii_digit() { '0' } else { c };
    demand(at.chars().map(digits).eq("0000-00-00T00:00:00.000Z".chars()), || format!("written_at {at}"))?;
    PARTS.iter().try_for_each(|(name, members)| has_members(&entry[*name], members, name))?;
    for (name, members) in LISTS {
        list(entry, name)?.iter().try_for_each(|item| has_members(item, members, name))?;
    }
    for source in std::iter::once(&entry["source"]).chain(list(entry, "lineages")?) {
        if !source["continues"].is_null() {
            has_members(&source["continues"], "lineage before", "continues")?;
        }
    }
    for file in list(entry, "files")? {
        list(file, "blocks")?.iter().try_for_each(|block| has_members(block, "at len sha256", "a block"))?;
        check_counts(&file["missing"])?;
    }
    for gap in list(entry, "gaps")? {
        demand(REASONS.contains(&&*text(gap, "reason")?), || format!("a gap by reason of {}", gap["reason"]))?;
    }
    check_counts(&entry["missing"])?;
    if !commits {
        has_members(&entry["topic"], "partitions replication_factor configs", "topic")?;
        let known = number(&entry["topic"], "partitions")? > number(&entry["source"], "partition")?;
        demand(known && entry["topic"]["replication_factor"] == 1, || format!("topic {}", entry["topic"]))?;
        let policy = entry["topic"]["configs"]["cleanup.policy"].as_str();
        demand(policy.is_some(), || format!("topic {}", entry["topic"]))?;
    }
    Ok(())
}

/// Counts by reason.
fn check_counts(missing: &Value) -> Verdict {
    let counts = missing.as_object().ok_or_else(|| format!("missing is {missing}"))?;
    for (reason, count) in counts {
        let fine = REASONS.contains(&reason.as_str()) && count.as_i64().is_some_and(|count| count > 0);
        demand(fine, || format!("{count} are missing by reason of {reason}"))?;
    }
    Ok(())
}

/// The owner is the writer's group; only an `open` changes it, with its user's leave. Who alters offsets leaves it.
fn check_owner(entry: &Value, before: Option<&Value>, leaves: &Leaves) -> Verdict {
    let (owner, writer) = (&entry["owner"], &entry["writer"]);
    let connector = text(writer, "connector")?;
    demand(CONNECTORS.contains(&&*connector), || format!("writer {writer}"))?;
    let is_own = owner["cluster_id"] == CLUSTER && owner["group"] == format!("connect-{connector}");
    demand(is_own, || format!("owner {owner} of an entry by {writer}"))?;
    if let Some(old) = before.map(|before| &before["owner"]).filter(|old| *old != owner) {
        demand(entry["kind"] == "open", || format!("owner {owner} behind {old} in no open"))?;
        let name = |owner: &Value| Ok(format!("{}/{}", text(owner, "cluster_id")?, text(owner, "group")?));
        let leave: Verdict<_> = name(owner).and_then(|new| Ok((new, name(old)?)));
        demand(leaves.contains(&leave?), || format!("owner {owner} behind {old} without leave"))?;
    }
    let id = text(writer, "id")?;
    demand(id.len() == 32 && is_hex(&id), || format!("writer.id {id}"))?;
    number(writer, "task")?;
    text(writer, "worker")?;
    text(writer, "version").map(drop)
}

pub(super) fn is_hex(text: &str) -> bool {
    text.chars().all(|c| matches!(c, '0'..='9' | 'a'..='f'))
}

fn check_place(entry: &Value, partition: &TopicPartition) -> Verdict {
    let source = &entry["source"];
    let home = source["topic"] == *partition.topic && source["partition"] == partition.partition;
    demand(home, || format!("it says that it is of {}-{}", source["topic"], source["partition"]))?;
    text(source, "topic_id")?;
    let open = entry["resume_offset"].is_null();
    demand(integer(source, "first")?.is_none() == open, || "first is null just where resume_offset is".to_owned())
}

/// Law 2.
fn check_epoch(entry: &Value, before: Option<&Value>) -> Verdict {
    let commits = entry["kind"] == "commit";
    let expected = match before {
        Some(before) if commits => number(before, "epoch")?,
        Some(before) => number(before, "epoch")? + 1,
        None => 1,
    };
    demand(number(entry, "epoch")? == expected, || format!("epoch {} where {expected} was due", entry["epoch"]))?;
    demand(before.is_some() || !commits, || "a chain begins with a commit".to_owned())?;
    if let (true, Some(before)) = (commits, before) {
        demand(before["kind"] != "lineage", || "a commit in an epoch that nobody opened".to_owned())?;
        demand(entry["writer"]["id"] == before["writer"]["id"], || "another writer commits in this epoch".to_owned())?;
        demand(entry["source"] == before["source"], || "a commit changes its lineage".to_owned())?;
    }
    Ok(())
}

/// How many lineages the chain had before `entry`.
fn known(before: Option<&Value>) -> Verdict<&[Value]> {
    before.map_or(Ok(&[][..]), |before| list(before, "lineages").map(Vec::as_slice))
}

fn begins(entry: &Value, before: Option<&Value>) -> Verdict<bool> {
    Ok(list(entry, "lineages")?.len() > known(before)?.len())
}

/// Law 3.
fn check_lineages(entry: &Value, before: Option<&Value>) -> Verdict {
    let (lines, known, source) = (list(entry, "lineages")?, known(before)?, &entry["source"]);
    let numbered = lines.iter().zip(1..).all(|(line, number)| line["lineage"] == number);
    demand(numbered, || "its lineages are not numbered 1, 2, ...".to_owned())?;
    let range = match entry["kind"].as_str() {
        Some("commit") => 0..=0,
        Some("lineage") => 1..=1,
        _ => usize::from(known.is_empty())..=1,
    };
    let begun = lines.len().checked_sub(known.len()).ok_or("it forgets a lineage")?;
    demand(range.contains(&begun), || format!("it begins {begun} lineages"))?;
    for (line, old) in lines.iter().zip(known) {
        let mut resolved = old.clone();
        if old["first"].is_null() && old["lineage"] == source["lineage"] {
            resolved["first"] = source["first"].clone();
        }
        demand(*line == resolved, || format!("it changes line {old} of its lineages to {line}"))?;
    }
    let number = number(source, "lineage")?;
    demand(begun == 0 || number == lines.len() as i64, || "it begins one lineage and is of another".to_owned())?;
    let line = lines.iter().find(|line| line["lineage"] == number).ok_or("its lineage is not listed")?;
    let same = ["topic_id", "first", "continues"].iter().all(|member| line[member] == source[member]);
    demand(same, || format!("source is not line {line} of its lineages"))
}

/// Law 4, but for where the lineage begins.
fn check_beginning(entry: &Value, before: Option<&Value>) -> Verdict {
    let source = &entry["source"];
    let why = text(source, "started_by")?;
    let again = known(before)?.iter().any(|line| line["topic_id"] == source["topic_id"]);
    let is_first = known(before)?.is_empty();
    let (continues, fits) = match &*why {
        "earliest" | "latest" | "committed" => (false, is_first),
        "created" => (false, !is_first && !again),
        "truncation" => (true, again),
        // A reset continues nothing, and neither does a topic that was made anew.
        "altered" => (again && !source["first"].is_null(), true),
        _ => (false, false),
    };
    demand(fits, || format!("a lineage is started by {why}: {source}"))?;
    demand(continues != source["continues"].is_null(), || format!("what is started by {why} continues: {source}"))
}

fn check_log(entry: &Value) -> Verdict {
    let log = &entry["log"];
    demand(log["isolation"] == "read_committed", || format!("isolation {}", log["isolation"]))?;
    let (start, stable) = (number(log, "start_offset")?, number(log, "last_stable_offset")?);
    demand(0 <= start && start <= stable, || format!("a log of {start}..{stable}"))?;
    for gap in list(entry, "gaps")?.iter().filter(|gap| gap["reason"] == "log_start_moved") {
        demand(number(gap, "to")? < start, || format!("a log from {start} on has not moved past the gap {gap}"))?;
    }
    let mark = (integer(log, "leader_epoch")?, integer(log, "leader_epoch_upto")?);
    demand(mark.0.is_some() == mark.1.is_some(), || format!("half a mark: {mark:?}"))?;
    // Who alters offsets leaves the mark as it was: the broker can be asked about it all the same.
    let resume = integer(entry, "resume_offset")?.filter(|_| entry["kind"] != "lineage");
    let fits = mark.1.is_none_or(|upto| resume.is_none_or(|resume| upto <= resume));
    demand(fits, || format!("a mark up to {:?} where {resume:?} is resumed at", mark.1))
}
