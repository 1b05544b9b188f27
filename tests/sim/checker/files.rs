//! One data object against its line in an entry: where it lies, its bytes, its blocks, and everything that is said of
//! its rows.

use lakeferry_api::TopicPartition;
use serde_json::Value;

use super::rows::{self, Contents};
use super::{Objects, ROOT, Verdict, demand, hex, integer, list, number, text};
use crate::broker::log::Rec;

/// The rows of a file that is there and is what its line says (laws 5 and 6).
pub(super) fn read(
    objects: &Objects,
    partition: &TopicPartition,
    (entry, file): (&Value, &Value),
) -> Verdict<Vec<(i64, Rec)>> {
    let path = text(file, "path")?;
    let say = |law: String| format!("{path}: {law}");
    let bytes = objects.get(&format!("{ROOT}/{path}")).ok_or_else(|| format!("A5: {path} is named and not there"))?;
    demand(number(file, "stored_bytes")? == bytes.len() as i64, || format!("{path} has {} bytes", bytes.len()))?;
    demand(text(file, "sha256")? == hex(bytes), || format!("{path} holds other bytes than its entry says"))?;
    let contents = rows::read(&text(file, "format")?, bytes, partition).map_err(say)?;
    check_name(partition, entry, file).map_err(say)?;
    check_blocks(file, bytes, &contents.borders).map_err(say)?;
    check_rows(file, &contents.rows).map_err(say)?;
    check_metadata(entry, file, &contents).map_err(say)?;
    Ok(contents.rows)
}

/// Law 5: the name is a native one, in the folder of its partition.
fn check_name(partition: &TopicPartition, entry: &Value, file: &Value) -> Verdict {
    let (path, writer) = (text(file, "path")?, text(&entry["writer"], "id")?);
    demand(text(file, "route")?.is_empty(), || format!("route {} where nothing is routed", file["route"]))?;
    let folder = format!("{}/partition={}/", partition.topic, partition.partition);
    let name = path.strip_prefix(&folder).ok_or_else(|| format!("it does not lie in {folder}"))?;
    let (first, epoch) = (number(file, "first_offset")?, number(entry, "epoch")?);
    let extension = text(file, "format")?.replace("archive.", "");
    let n = name.split('-').nth(2).and_then(|n| n.parse::<u32>().ok()).ok_or("its name counts nothing")?;
    let due = format!("{first:020}-{epoch:010}-{n}-{}.{extension}", writer.get(..8).unwrap_or_default());
    demand(name == due, || format!("its name is not {due}"))
}

/// Law 6: blocks touch, cover every byte, are what their hashes say, and end where the format's own do.
fn check_blocks(file: &Value, bytes: &[u8], borders: &[i64]) -> Verdict {
    let mut end = 0;
    for block in list(file, "blocks")? {
        let (at, len) = (number(block, "at")?, number(block, "len")?);
        demand(at == end && len > 0, || format!("block {block} where byte {end} comes next"))?;
        let part = bytes.get(at as usize..(at + len) as usize).ok_or_else(|| format!("block {block} is outside"))?;
        demand(text(block, "sha256")? == hex(part), || format!("block {block} has another hash"))?;
        end = at + len;
        demand(borders.contains(&end), || format!("block {block} does not end where one of {borders:?} does"))?;
    }
    demand(end == bytes.len() as i64, || format!("its blocks end at {end}"))?;
    let all = file["format"] != "archive.parquet" || list(file, "blocks")?.len() == borders.len() - 1;
    demand(all, || format!("its blocks are not those of {borders:?}"))
}

fn check_metadata(entry: &Value, file: &Value, contents: &Contents) -> Verdict {
    let codec = text(file, "codec")?;
    demand(codec == contents.codec, || format!("codec {codec} is {}", contents.codec))?;
    let mut due = vec![
        ("lakeferry.version", text(&entry["writer"], "version")?),
        ("lakeferry.cluster_id", text(&entry["owner"], "cluster_id")?),
        ("lakeferry.topic_id", text(&entry["source"], "topic_id")?),
        ("lakeferry.first_offset", number(file, "first_offset")?.to_string()),
    ];
    if file["format"] == "archive.parquet" {
        due.push(("lakeferry.last_offset", number(file, "last_offset")?.to_string()));
    }
    for (key, value) in due {
        let found = contents.metadata.get(key);
        demand(found == Some(&value), || format!("it says {found:?} of its {key}, not {value}"))?;
    }
    Ok(())
}

/// Law 6: what is said of the rows is true of them.
fn check_rows(file: &Value, rows: &[(i64, Rec)]) -> Verdict {
    let times = || rows.iter().filter_map(|(_, rec)| rec.timestamp);
    let raw_bytes: usize = rows.iter().map(|(_, rec)| rec.bytes()).sum();
    let untimed = rows.len() - times().count();
    let told = [
        ("records", Some(rows.len() as i64)),
        ("first_offset", rows.first().map(|row| row.0)),
        ("last_offset", rows.last().map(|row| row.0)),
        ("min_timestamp", times().min()),
        ("max_timestamp", times().max()),
        ("untimed", Some(untimed as i64)),
        ("raw_bytes", Some(raw_bytes as i64)),
    ];
    for (member, found) in told {
        demand(integer(file, member)? == found, || format!("{member} is {}, found {found:?}", file[member]))?;
    }
    demand(!rows.is_empty(), || "a file without a record".to_owned())?;
    demand(rows.is_sorted_by(|one, other| one.0 < other.0), || "its rows are out of order".to_owned())
}
