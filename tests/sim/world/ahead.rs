//! Makes a chain as a writer leaves it that routes its records to several files, and whose files end out of order: the
//! last entry's files are published, those of the entry before are not. Builds the entry from the bytes in the store,
//! by `docs/manifest-format.md`, while no worker runs.

use bytes::Bytes;
use lakeferry_api::TopicPartition;
use object_store::ObjectStoreExt as _;
use object_store::path::Path;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use crate::checker::rows;
use crate::store::SimStore;

/// Takes the files of the last entry but one back, where the last three entries of `partition` allow it. The offset
/// that the chain resumes at then.
pub(super) async fn publish_ahead(store: &SimStore, partition: &TopicPartition) -> Option<i64> {
    let folder = format!("topics/{}/_manifests/partition={}", partition.topic, partition.partition);
    let name = |seq: u64| Path::from(format!("{folder}/{seq:020}.json"));
    let mut chain: Vec<(Value, Bytes)> = Vec::new();
    while let Ok(found) = store.objects.get(&name(chain.len() as u64)).await {
        let bytes = found.bytes().await.ok()?;
        chain.push((serde_json::from_slice(&bytes).ok()?, bytes));
    }
    let [.., (before, before_bytes), (taken, _), (last, _)] = &chain[..] else { return None };
    let plain = |entry: &Value| {
        let is_empty = |member: &str| entry[member].as_array().is_some_and(Vec::is_empty);
        is_empty("ahead") && is_empty("gaps") && entry["missing"].as_object().is_some_and(Map::is_empty)
    };
    let fits = taken["kind"] == "commit" && last["kind"] == "commit" && plain(before) && plain(taken) && plain(last);
    let same =
        ["epoch", "source"].iter().all(|member| before[member] == taken[member] && taken[member] == last[member]);
    if !fits || !same {
        return None;
    }
    let is_routed = |file: &Value| file["span_from"].is_null();
    let named = |entry: &'_ Value| entry["files"].as_array().cloned().unwrap_or_default();
    if named(taken).is_empty() || named(last).is_empty() || named(taken).iter().chain(&named(last)).any(is_routed) {
        return None;
    }
    let mut entry = last.clone();
    let seq = taken["seq"].as_u64()?;
    entry["seq"] = json!(seq);
    entry["previous_sha256"] = json!(hex(before_bytes));
    entry["resume_offset"] = before["resume_offset"].clone();
    let mut ahead: Vec<[i64; 2]> = Vec::new();
    for file in entry["files"].as_array_mut()? {
        for offset in offsets(store, partition, file).await? {
            match ahead.last_mut() {
                Some([_, to]) if *to + 1 == offset => *to = offset,
                _ => ahead.push([offset, offset]),
            }
        }
        // Where records are distributed over files none answers for what lies between them.
        (file["span_from"], file["span_to"], file["missing"]) = (Value::Null, Value::Null, json!({}));
    }
    entry["ahead"] = json!(ahead);
    for member in ["leader_epoch", "leader_epoch_upto"] {
        entry["log"][member] = before["log"][member].clone();
    }
    for total in ["records", "missing", "gaps", "files", "stored_bytes", "raw_bytes"] {
        let without =
            last["totals"][total].as_i64()? - taken["totals"][total].as_i64()? + before["totals"][total].as_i64()?;
        entry["totals"][total] = json!(without);
    }
    entry["totals"]["missing"] = before["totals"]["missing"].clone();
    let sealed = seal(entry)?;
    for file in taken["files"].as_array()? {
        store.objects.delete(&Path::from(format!("topics/{}", file["path"].as_str()?))).await.ok()?;
    }
    store.objects.delete(&name(last["seq"].as_u64()?)).await.ok()?;
    store.objects.put(&name(seq), sealed.clone().into()).await.ok()?;
    store.forget_named(taken);
    store.note_entry(&name(seq), &sealed);
    before["resume_offset"].as_i64()
}

/// The offsets of a file's records.
async fn offsets(store: &SimStore, partition: &TopicPartition, file: &Value) -> Option<Vec<i64>> {
    let found = store.objects.get(&Path::from(format!("topics/{}", file["path"].as_str()?))).await.ok()?;
    let contents = rows::read(file["format"].as_str()?, &found.bytes().await.ok()?, partition).ok()?;
    Some(contents.rows.into_iter().map(|(offset, _)| offset).collect())
}

fn seal(mut entry: Value) -> Option<Bytes> {
    // Removing the last member keeps the order of the others.
    entry.as_object_mut()?.shift_remove("self_sha256");
    let body = serde_json::to_string(&entry).ok()?;
    let digest = hex(body.as_bytes());
    Some(Bytes::from(format!("{},\"self_sha256\":\"{digest}\"}}", &body[..body.len() - 1])))
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
