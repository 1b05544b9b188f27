//! Every way in which an archive is damaged, and what the checker says of it.

use super::*;

fn add(value: &mut Value, difference: i64) -> Option<()> {
    *value = json!(value.as_i64()? + difference);
    Some(())
}

fn set(value: &mut Value, to: Value) -> Option<()> {
    *value = to;
    Some(())
}

/// Another connector wrote it.
fn be_of_heir(entry: &mut Value) -> Option<()> {
    set(&mut entry["writer"]["connector"], json!("heir"))?;
    set(&mut entry["owner"]["group"], json!("connect-heir"))
}

/// Of what was published last nobody remembers the leader epoch.
fn unmark(entry: &mut Value) -> Option<()> {
    set(&mut entry["log"]["leader_epoch"], Value::Null)?;
    set(&mut entry["log"]["leader_epoch_upto"], Value::Null)
}

fn remove(value: &mut Value, member: &str) -> Option<()> {
    value.as_object_mut()?.shift_remove(member).map(drop)
}

fn is_not_empty(value: &Value) -> bool {
    value.as_array().is_some_and(|all| !all.is_empty()) || value.as_object().is_some_and(|all| !all.is_empty())
}

fn tears(text: &str) -> Value {
    json!(text.chars().map(|c| if c == '0' { '1' } else { '0' }).collect::<String>())
}

/// What is damaged, and what the checker says.
pub(super) const DAMAGES: &[(&str, &str, Damage)] = &[
    // Documents.
    ("no files", "the members of the entry", |all| remove(all.commit()?, "files")),
    ("no gaps", "the members of the entry", |all| remove(all.commit()?, "gaps")),
    ("no ahead", "the members of the entry", |all| remove(all.commit()?, "ahead")),
    ("no missing", "the members of the entry", |all| remove(all.commit()?, "missing")),
    ("no topic", "the members of the entry", |all| remove(all.entry(|entry| entry["kind"] == "open")?, "topic")),
    ("a topic too much", "the members of the entry", |all| {
        let open = all.entry(|entry| entry["kind"] == "open")?["topic"].clone();
        set(&mut all.commit()?["topic"], open)
    }),
    ("no continues", "the members of source", |all| remove(&mut all.commit()?["source"], "continues")),
    ("no mark", "the members of log", |all| remove(&mut all.commit()?["log"], "leader_epoch")),
    ("no total", "the members of totals", |all| remove(&mut all.commit()?["totals"], "raw_bytes")),
    ("no untimed", "the members of files", |all| remove(all.file(|_| true)?, "untimed")),
    ("no file's missing", "the members of files", |all| remove(all.file(|_| true)?, "missing")),
    ("no blocks", "the members of files", |all| remove(all.file(|_| true)?, "blocks")),
    ("no block's hash", "the members of a block", |all| remove(&mut all.file(|_| true)?["blocks"][0], "sha256")),
    ("files are null", "files is null", |all| set(&mut all.commit()?["files"], Value::Null)),
    ("another format", "not version 1", |all| set(&mut all.commit()?["version"], json!(2))),
    ("another kind", "kind \"wish\"", |all| {
        set(&mut all.entry(|entry| entry["kind"] == "open")?["kind"], json!("wish"))
    }),
    ("a time without zone", "written_at", |all| {
        set(&mut all.commit()?["written_at"], json!("2026-11-21T10:00:00.000"))
    }),
    ("a reason of its own", "by reason of", |all| set(&mut all.commit()?["missing"], json!({"lost": 1}))),
    ("nothing is missing", "are missing by reason of", |all| set(&mut all.commit()?["missing"], json!({"unknown": 0}))),
    ("a gap without a reason", "a gap by reason of", |all| {
        set(&mut all.entry(|entry| is_not_empty(&entry["gaps"]))?["gaps"][0]["reason"], json!("lost"))
    }),
    ("another isolation", "isolation", |all| set(&mut all.commit()?["log"]["isolation"], json!("read_uncommitted"))),
    ("a log upside down", "a log of", |all| set(&mut all.commit()?["log"]["start_offset"], json!(FAR))),
    ("half a mark", "half a mark", |all| {
        let marked = |entry: &Value| !entry["log"]["leader_epoch"].is_null();
        set(&mut all.entry(marked)?["log"]["leader_epoch"], Value::Null)
    }),
    ("a mark beyond", "a mark up to", |all| {
        let marked = |entry: &Value| entry["kind"] == "commit" && !entry["log"]["leader_epoch"].is_null();
        set(&mut all.entry(marked)?["log"]["leader_epoch_upto"], json!(FAR))
    }),
    ("a mark below", "its mark reaches to", |all| {
        let marked = |entry: &Value| is_not_empty(&entry["files"]) && entry["log"]["leader_epoch_upto"] != 0;
        let entry = all.entry(|entry| marked(entry) && !entry["log"]["leader_epoch"].is_null())?;
        set(&mut entry["log"]["leader_epoch_upto"], json!(0))
    }),
    // Laws 1 to 4.
    ("a number again", "is entry", |all| add(&mut all.commit()?["seq"], 1)),
    ("another owner", "owner", |all| set(&mut all.commit()?["owner"]["group"], json!("connect-other"))),
    ("another owner in the middle", "in no open", |all| be_of_heir(all.commit()?)),
    ("another owner without leave", "without leave", |all| {
        be_of_heir(
            all.entry(|entry| {
                entry["kind"] == "open" && entry["seq"] != 0 && entry["owner"]["group"] == "connect-sink"
            })?,
        )
    }),
    ("another writer's owner", "of an entry by", |all| set(&mut all.commit()?["writer"]["connector"], json!("heir"))),
    ("a short writer", "writer.id", |all| set(&mut all.commit()?["writer"]["id"], json!("00ff"))),
    ("another topic", "it says that it is of", |all| set(&mut all.commit()?["source"]["topic"], json!("t9"))),
    ("another partition", "it says that it is of", |all| add(&mut all.commit()?["source"]["partition"], 1)),
    ("another epoch", "was due", |all| add(&mut all.commit()?["epoch"], 1)),
    ("another writer", "another writer commits", |all| {
        let id = &mut all.commit()?["writer"]["id"];
        let other = tears(id.as_str()?);
        set(id, other)
    }),
    ("a lineage in a commit", "a commit changes its lineage", |all| add(&mut all.commit()?["source"]["first"], 1)),
    ("an unlisted lineage", "a commit changes its lineage", |all| add(&mut all.commit()?["source"]["lineage"], 1)),
    ("lineages from 2", "are not numbered", |all| add(&mut all.commit()?["lineages"][0]["lineage"], 1)),
    ("a changed line", "it changes line", |all| set(&mut all.commit()?["lineages"][0]["topic_id"], json!("id-x"))),
    ("a forgotten lineage", "it forgets a lineage", |all| {
        let second = |entry: &Value| entry["lineages"].as_array().is_some_and(|lines| lines.len() == 2);
        all.entry(|entry| second(entry) && entry["kind"] == "commit")?["lineages"].as_array_mut()?.pop().map(drop)
    }),
    ("an altered lineage from nowhere", "a lineage is started by", |all| {
        let created = |entry: &Value| entry["kind"] == "open" && entry["source"]["started_by"] == "created";
        set(&mut all.entry(created)?["source"]["started_by"], json!("truncation"))
    }),
    ("earliest once more", "a lineage is started by", |all| {
        let created = |entry: &Value| entry["kind"] == "open" && entry["source"]["started_by"] == "created";
        set(&mut all.entry(created)?["source"]["started_by"], json!("earliest"))
    }),
    ("what is new continues", "what is started by", |all| {
        let chain = all.chains.values_mut().next()?;
        for entry in chain {
            for continues in ["/source/continues", "/lineages/0/continues"] {
                *entry.pointer_mut(continues)? = json!({"lineage": 1, "before": 0});
            }
        }
        Some(())
    }),
    ("an alteration that continues nothing", "what is started by altered", |all| {
        let altered = |entry: &Value| entry["kind"] == "lineage" && entry["source"]["continues"].is_object();
        let entry = all.entry(altered)?;
        let at = entry["lineages"].as_array()?.len() - 1;
        set(&mut entry["source"]["continues"], Value::Null)?;
        set(&mut entry["lineages"][at]["continues"], Value::Null)
    }),
    ("it begins elsewhere", "not where the old one stood", |all| {
        let chain = all.chains.values_mut().find(|chain| {
            chain.last().is_some_and(|end| end["source"]["continues"].is_object() && end["source"]["first"] != 0)
        })?;
        let lineage = chain.last()?["source"]["lineage"].clone();
        for entry in chain {
            let lines = entry["lineages"].as_array_mut()?;
            lines
                .iter_mut()
                .filter(|line| line["lineage"] == lineage)
                .try_for_each(|line| add(&mut line["first"], -1))?;
            if entry["source"]["lineage"] == lineage {
                add(&mut entry["source"]["first"], -1)?;
            }
        }
        Some(())
    }),
    // Laws 5 and 6.
    ("another folder", "it does not lie in", |all| {
        let file = all.file(|_| true)?;
        let path = file["path"].as_str()?.to_owned();
        file["path"] = json!(path.replace("/partition=", "/partition=1"));
        let bytes = all.objects.get(&format!("{ROOT}/{path}"))?.clone();
        all.objects
            .insert(format!("{ROOT}/{}", path.replace("/partition=", "/partition=1")), bytes)
            .is_none()
            .then_some(())
    }),
    ("a route", "route", |all| set(&mut all.file(|_| true)?["route"], json!("day=1"))),
    ("a name of another epoch", "its name is not", |all| {
        let file = all.file(|_| true)?;
        let path = file["path"].as_str()?.to_owned();
        let other = path.replacen("-0", "-9", 1);
        file["path"] = json!(other);
        let bytes = all.objects.get(&format!("{ROOT}/{path}"))?.clone();
        all.objects.insert(format!("{ROOT}/{other}"), bytes).is_none().then_some(())
    }),
    ("a path twice", "is named twice", |all| {
        let entry = all.commit()?;
        let file = entry["files"][0].clone();
        entry["files"].as_array_mut()?.push(file);
        Some(())
    }),
    ("nothing there", "named and not there", |all| {
        let path = format!("{ROOT}/{}", all.file(|_| true)?["path"].as_str()?);
        all.objects.remove(&path).map(drop)
    }),
    ("another size", "has", |all| add(&mut all.file(|_| true)?["stored_bytes"], 1)),
    ("another hash", "holds other bytes", |all| {
        let hash = &mut all.file(|_| true)?["sha256"];
        let other = tears(hash.as_str()?);
        set(hash, other)
    }),
    ("a block's hash", "has another hash", |all| {
        let hash = &mut all.file(|_| true)?["blocks"][0]["sha256"];
        let other = tears(hash.as_str()?);
        set(hash, other)
    }),
    ("a hole between blocks", "comes next", |all| add(&mut all.file(|_| true)?["blocks"][0]["at"], 1)),
    ("no last block", "its blocks end at", |all| all.file(|_| true)?["blocks"].as_array_mut()?.pop().map(drop)),
    ("one block for all", "are not those of", |all| {
        let file = all.file(|file| file["format"] == "archive.parquet")?;
        let whole = json!({"at": 0, "len": file["stored_bytes"], "sha256": file["sha256"]});
        set(&mut file["blocks"], json!([whole]))
    }),
    ("a border anywhere", "does not end where", |all| {
        let file = all.file(|_| true)?;
        let path = format!("{ROOT}/{}", file["path"].as_str()?);
        let len = file["stored_bytes"].as_u64()? as usize;
        file["blocks"] = Value::Null;
        let bytes = all.objects.get(&path)?.clone();
        let blocks = json!([
            {"at": 0, "len": 7, "sha256": hex(&bytes[..7])},
            {"at": 7, "len": len - 7, "sha256": hex(&bytes[7..])},
        ]);
        set(&mut all.file(|file| file["blocks"].is_null())?["blocks"], blocks)
    }),
    ("another codec", "codec", |all| set(&mut all.file(|_| true)?["codec"], json!("gzip"))),
    ("more records", "records is", |all| add(&mut all.file(|_| true)?["records"], 1)),
    ("an earlier last", "last_offset is", |all| add(&mut all.file(|_| true)?["last_offset"], -1)),
    ("an earlier time", "min_timestamp is", |all| {
        add(&mut all.file(|file| file["min_timestamp"].is_i64())?["min_timestamp"], -1)
    }),
    ("a later time", "max_timestamp is", |all| {
        add(&mut all.file(|file| file["max_timestamp"].is_i64())?["max_timestamp"], 1)
    }),
    ("a time for none", "max_timestamp is", |all| {
        let untimed = |file: &Value| file["max_timestamp"].is_null();
        set(&mut all.file(untimed)?["max_timestamp"], json!(0))
    }),
    ("none is untimed", "untimed is", |all| set(&mut all.file(|file| file["untimed"] != 0)?["untimed"], json!(0))),
    ("raw bytes", "raw_bytes is", |all| add(&mut all.file(|_| true)?["raw_bytes"], 1)),
    // What stands in the files.
    ("rows of another topic", "says that it is of", |all| {
        all.rewrite(|_, header| header.partition = TopicPartition::new("t9", header.partition.partition))
    }),
    ("rows of another partition", "says that it is of", |all| all.rewrite(|_, header| header.partition.partition += 1)),
    ("a file of another incarnation", "lakeferry.topic_id", |all| {
        all.rewrite(|_, header| header.topic_id = Some("id-x".to_owned()))
    }),
    ("a file of another cluster", "lakeferry.cluster_id", |all| all.rewrite(|_, header| header.cluster_id = None)),
    ("another value", "a record that was never there", |all| {
        all.rewrite(|rows, _| {
            // As long, or the totals would tell.
            let value = rows.values_mut().find_map(|rec| rec.value.as_mut());
            value.into_iter().for_each(|value| *value = vec![b'x'; value.len()].into());
        })
    }),
    ("a stamp that nobody gave", "a record that was never there", |all| {
        all.rewrite(|rows, _| rows.values_mut().for_each(|rec| rec.stamp = None))
    }),
    // Laws 7 to 12.
    ("an entry that goes back", "resume_offset goes back", |all| {
        let moved = |chain: &&mut Vec<Value>| chain.iter().any(|entry| is_not_empty(&entry["files"]));
        let chain = all.chains.values_mut().find(moved)?;
        let end = chain.last_mut()?;
        unmark(end)?;
        set(&mut end["resume_offset"], json!(0))
    }),
    ("further than it reaches", "nothing answers for", |all| add(&mut all.commit()?["resume_offset"], 1)),
    ("a shorter span", "not newly published", |all| {
        let entry = all.commit()?;
        unmark(entry)?;
        add(&mut entry["resume_offset"], -1)
    }),
    ("half a span", "a span of", |all| set(&mut all.file(|file| file["span_to"].is_i64())?["span_to"], Value::Null)),
    ("a span too long", "is not between", |all| {
        set(&mut all.file(|file| file["span_to"].is_i64())?["span_to"], json!(FAR))
    }),
    ("a span too short", "outside of its span", |all| {
        let fits = |file: &Value| file["span_to"].is_i64() && file["span_to"] == file["last_offset"];
        add(&mut all.file(fits)?["span_to"], -1)
    }),
    ("what is missing is not said", "does not account for its span", |all| {
        set(&mut all.file(|file| is_not_empty(&file["missing"]))?["missing"], json!({}))
    }),
    ("what is there is missing", "does not account for its span", |all| {
        let file = all.file(|file| file["span_to"].is_i64() && !is_not_empty(&file["missing"]))?;
        set(&mut file["missing"], json!({"unknown": 1}))
    }),
    ("missing, and nothing lacks", "nothing answers for", |all| {
        set(&mut all.commit()?["missing"], json!({"unknown": 1}))
    }),
    ("a gap where records are", "is published otherwise", |all| {
        let entry = all.commit()?;
        let (from, to) = (entry["files"][0]["first_offset"].clone(), entry["files"][0]["first_offset"].clone());
        set(&mut entry["gaps"], json!([{"from": from, "to": to, "reason": "unknown"}]))
    }),
    ("a gap that the log's start is not behind", "has not moved past the gap", |all| {
        let is_lost = |gap: &Value| gap["reason"] == "log_start_moved";
        let entry = all.entry(|entry| entry["gaps"].as_array().is_some_and(|gaps| gaps.iter().any(is_lost)))?;
        let last = entry["gaps"].as_array()?.iter().rfind(|gap| is_lost(gap))?["to"].clone();
        set(&mut entry["log"]["start_offset"], last)
    }),
    ("a gap in the future", "lies beyond", |all| {
        set(&mut all.commit()?["gaps"], json!([{"from": FAR, "to": FAR, "reason": "unknown"}]))
    }),
    ("ahead is forgotten", "was ahead and is not any more", |all| {
        let chain = all.chains.values_mut().find(|chain| {
            chain.windows(2).any(|pair| is_not_empty(&pair[0]["ahead"]) && is_not_empty(&pair[1]["ahead"]))
        })?;
        let at =
            chain.windows(2).position(|pair| is_not_empty(&pair[0]["ahead"]) && is_not_empty(&pair[1]["ahead"]))?;
        set(&mut chain[at + 1]["ahead"], json!([]))
    }),
    ("ahead of nothing", "nothing answers for", |all| {
        let entry = all.commit()?;
        let far = entry["resume_offset"].as_i64()? + 100;
        set(&mut entry["ahead"], json!([[far, far]]))
    }),
    ("ahead too far", "ahead reaches", |all| {
        let entry = all.commit()?;
        let far = entry["resume_offset"].as_i64()? + MAX_AHEAD_SPAN + 1;
        set(&mut entry["ahead"], json!([[far, far]]))
    }),
    ("ahead touches", "in ahead", |all| {
        let entry = all.commit()?;
        let resume = entry["resume_offset"].clone();
        set(&mut entry["ahead"], json!([[resume, resume]]))
    }),
    ("a total of records", "totals are", |all| add(&mut all.commit()?["totals"]["records"], 1)),
    ("a total of missing", "totals are", |all| add(&mut all.commit()?["totals"]["missing"], 1)),
    ("a total of gaps", "totals are", |all| add(&mut all.commit()?["totals"]["gaps"], 1)),
    ("a total of files", "totals are", |all| add(&mut all.commit()?["totals"]["files"], 1)),
    ("a total of stored bytes", "totals are", |all| add(&mut all.commit()?["totals"]["stored_bytes"], 1)),
    ("a total of raw bytes", "totals are", |all| add(&mut all.commit()?["totals"]["raw_bytes"], 1)),
    ("more partitions than there were", "never had more than", |all| {
        add(&mut all.entry(|entry| entry["kind"] == "open")?["topic"]["partitions"], 9)
    }),
    ("files in an opening", "files in an entry that is no commit", |all| {
        let commits = |entry: &Value| entry["kind"] == "commit" && is_not_empty(&entry["files"]);
        let fits = |pair: &[Value]| pair[0]["kind"] == "open" && commits(&pair[1]);
        let chain = all.chains.values_mut().find(|chain| chain.windows(2).any(fits))?;
        let at = chain.windows(2).position(fits)?;
        let files = std::mem::replace(&mut chain[at + 1]["files"], json!([]));
        set(&mut chain[at]["files"], files)
    }),
    // Completeness.
    ("nothing is archived", "and has no archive", |all| {
        let state = all.broker.lock();
        let full = |partition: &TopicPartition| state.peek(partition).is_some_and(|log| !log.present().is_empty());
        let partition =
            all.chains.keys().find(|partition| full(partition) && !state.altered.contains_key(partition))?;
        let partition = partition.clone();
        drop(state);
        all.chains.remove(&partition).map(drop)
    }),
    ("the end is not archived", "is lost", |all| {
        let state = all.broker.lock();
        let (partition, chain) = all.chains.iter_mut().find(|(partition, chain)| {
            let ends = |entry: &Value| entry["kind"] == "commit" && is_not_empty(&entry["files"]);
            let open = |entry: &Value| entry["kind"] == "commit" || entry["kind"] == "open";
            let [.., before, end] = &chain[..] else { return false };
            let last = end["files"][0]["first_offset"].as_i64();
            let live = state.topics.get(&*partition.topic).is_some_and(|topic| end["source"]["topic_id"] == topic.id);
            let due =
                last.is_some_and(|last| state.peek(partition).is_some_and(|log| log.present().contains_key(&last)));
            ends(end) && open(before) && live && due
        })?;
        let _ = partition;
        chain.pop().map(drop)
    }),
    ("the topic that is now is not archived", "wait behind", |all| {
        let state = all.broker.lock();
        let (_, chain) = all.chains.iter_mut().find(|(partition, chain)| {
            let present = state.peek(partition).is_some_and(|log| !log.present().is_empty());
            let [first, .., end] = &chain[..] else { return false };
            present
                && end["source"]["started_by"] == "created"
                && first["source"]["topic_id"] != end["source"]["topic_id"]
        })?;
        let last = chain.last()?["source"]["topic_id"].clone();
        chain.retain(|entry| entry["source"]["topic_id"] != last);
        Some(())
    }),
    ("a record that is said to be none", "records are among", |all| {
        // The last file, whose last record nobody removed, loses its records, which are said to be markers.
        let state = all.broker.lock();
        let (_, chain) = all.chains.iter_mut().find(|(partition, chain)| {
            let stands = state.topics.get(&*partition.topic).is_some_and(|topic| {
                let log = topic.logs.get(partition.partition as usize);
                let last = chain.get(1).and_then(|entry| entry["files"].as_array()?.last()?["last_offset"].as_i64());
                log.zip(last).is_some_and(|(log, last)| !log.has_removed(last))
                    && chain.iter().all(|entry| entry["source"]["topic_id"] == topic.id)
            });
            stands && chain.len() == 2 && chain[1]["gaps"] == json!([])
        })?;
        let end = chain.get_mut(1)?;
        let file = end["files"].as_array_mut()?.pop()?;
        let offsets = file["span_to"].as_i64()? - file["span_from"].as_i64()? + 1;
        let missing = file["missing"].as_object()?.values().filter_map(Value::as_i64).sum::<i64>();
        end["missing"] = json!({"transaction": offsets});
        unmark(end)?;
        add(&mut end["totals"]["missing"], offsets - missing)?;
        add(&mut end["totals"]["records"], -file["records"].as_i64()?)?;
        add(&mut end["totals"]["files"], -1)?;
        add(&mut end["totals"]["stored_bytes"], -file["stored_bytes"].as_i64()?)?;
        add(&mut end["totals"]["raw_bytes"], -file["raw_bytes"].as_i64()?)
    }),
    ("a log that did not move", "which is not behind", |all| {
        let state = all.broker.lock();
        let (partition, chain) = all.chains.iter_mut().find(|(partition, chain)| {
            let unmoved = state.peek(partition).is_some_and(|log| log.start() == 0);
            let file = |entry: &Value| {
                entry["files"].as_array().is_some_and(|files| files.iter().any(|file| is_not_empty(&file["missing"])))
            };
            unmoved
                && chain.iter().any(file)
                && state.topics.get(&*partition.topic).is_some_and(|topic| chain[0]["source"]["topic_id"] == topic.id)
        })?;
        let _ = partition;
        let file = chain.iter_mut().flat_map(|entry| entry["files"].as_array_mut().unwrap());
        let file = file.into_iter().find(|file| is_not_empty(&file["missing"]))?;
        let count = file["missing"].as_object()?.values().filter_map(Value::as_i64).sum::<i64>();
        set(&mut file["missing"], json!({"log_start_moved": count}))
    }),
    // Alterations.
    ("nobody asked", "nobody asked for this", |all| {
        let altered = |entry: &Value| entry["kind"] == "lineage" && entry["resume_offset"].is_i64();
        add(&mut all.entry(altered)?["resume_offset"], FAR)
    }),
];

const MAX_AHEAD_SPAN: i64 = 8 << 20;
/// An offset where nothing is.
const FAR: i64 = 1 << 40;
