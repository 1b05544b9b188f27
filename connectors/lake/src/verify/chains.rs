//! The manifests themselves: every entry is read as bytes, must be whole and in its place, and the chain must keep every
//! law. Data without manifests, or manifests that were removed, are found by what lies beside them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::TryStreamExt as _;
use lakeferry_api::{Result, TopicPartition};
use object_store::ObjectMeta;

use super::{Bench, FileCase, Verification, no_such_topic};
use crate::manifest::invariants::{Link, check_chain};
use crate::manifest::{Digest, wire};
use crate::store::explain;

/// The topics to check: those asked for, or whatever has a folder with manifests or data objects.
pub(super) async fn topics(bench: &Bench<'_>, wanted: &[String]) -> Result<Vec<String>> {
    let layout = &bench.access.layout;
    let dir = layout.topics_dir();
    let listed = bench.access.store.list_with_delimiter(Some(dir)).await;
    let listed = listed.map_err(|error| explain(&format!("list {dir}"), error))?;
    let mut found: Vec<String> = listed.common_prefixes.iter().filter_map(|folder| layout.relative(folder)).collect();
    found.sort();
    match wanted.iter().find(|topic| !found.contains(topic)) {
        Some(missing) => Err(no_such_topic(missing, &found)),
        None if wanted.is_empty() => Ok(found),
        None => Ok(found.into_iter().filter(|topic| wanted.contains(topic)).collect()),
    }
}

/// Checks the chains of `topic`; the result is the files that they name.
pub(super) async fn check_topic(
    bench: &Bench<'_>,
    topic: &str,
    verification: &mut Verification,
) -> Result<Vec<FileCase>> {
    let objects = data_objects(bench, topic).await?;
    let mut partitions: BTreeSet<TopicPartition> = bench.archive.partitions(topic).await?.into_iter().collect();
    partitions.extend(objects.keys().cloned());
    let mut cases = Vec::new();
    for partition in partitions {
        let of_partition = check_partition(bench, &partition, verification).await?;
        count_unnamed(bench, objects.get(&partition), &of_partition, verification);
        cases.extend(of_partition);
    }
    cases.sort_by(|one, other| (&one.partition, &one.file.path).cmp(&(&other.partition, &other.file.path)));
    Ok(cases)
}

/// Objects whose names a sink can have given, by partition.
async fn data_objects(bench: &Bench<'_>, topic: &str) -> Result<BTreeMap<TopicPartition, Vec<ObjectMeta>>> {
    let dir = bench.access.layout.topic_dir(topic);
    let listed: Vec<ObjectMeta> = bench
        .access
        .store
        .list(Some(&dir))
        .try_collect()
        .await
        .map_err(|error| explain(&format!("list {dir}"), error))?;
    let mut objects: BTreeMap<TopicPartition, Vec<ObjectMeta>> = BTreeMap::new();
    for meta in listed {
        if let Some((partition, _)) = bench.access.layout.parse_data(&meta.location) {
            objects.entry(partition).or_default().push(meta);
        }
    }
    Ok(objects)
}

async fn check_partition(
    bench: &Bench<'_>,
    partition: &TopicPartition,
    verification: &mut Verification,
) -> Result<Vec<FileCase>> {
    let layout = &bench.access.layout;
    let path = |seq: u64| layout.entry(partition, seq).to_string();
    verification.checked.partitions += 1;
    let entries = bench.archive.entries(partition).await?;
    if entries.is_empty() {
        let problem = "there are data objects, but no manifest: the entries were removed (a rule of the bucket?)";
        verification.add(partition, layout.chain_dir(partition).to_string(), problem);
    }
    let mut links = Vec::new();
    let mut whole = true;
    for ((seq, bytes), expected) in entries.into_iter().zip(0..) {
        verification.checked.entries += 1;
        if whole && seq != expected {
            verification.add(partition, path(expected), format!("it is missing, but {} is there", path(seq)));
            whole = false;
        }
        match wire::decode(&path(seq), &bytes) {
            Ok(entry) if entry.seq == seq && entry.partition() == *partition => {
                links.push(Link { entry, sha256: Digest::of(&bytes) });
            }
            Ok(entry) => {
                let problem = format!("it says that it is entry {} of {}", entry.seq, entry.partition());
                verification.add(partition, path(seq), problem);
                whole = false;
            }
            Err(error) => {
                verification.add(partition, path(seq), error.message());
                whole = false;
            }
        }
    }
    if whole {
        check_laws(bench, partition, &links, verification);
    }
    Ok(links.iter().flat_map(|link| cases(bench, partition, link)).collect())
}

fn check_laws(bench: &Bench<'_>, partition: &TopicPartition, links: &[Link], verification: &mut Verification) {
    for violation in check_chain(links) {
        let object = bench.access.layout.entry(partition, violation.seq).to_string();
        let problem = format!("{} (law of {})", violation.text, violation.law);
        verification.add_field(partition, object, Some(violation.field), problem);
    }
}

fn cases(bench: &Bench<'_>, partition: &TopicPartition, link: &Link) -> Vec<FileCase> {
    let entry = &link.entry;
    let object = bench.access.layout.entry(partition, entry.seq).to_string();
    let case = |(at, file): (usize, &crate::manifest::model::FileEntry)| FileCase {
        partition: partition.clone(),
        entry: object.clone(),
        at,
        file: Arc::new(file.clone()),
        cluster_id: entry.owner.cluster_id.clone(),
        topic_id: entry.source.topic_id.clone(),
    };
    entry.files.iter().enumerate().map(case).collect()
}

fn count_unnamed(
    bench: &Bench<'_>,
    objects: Option<&Vec<ObjectMeta>>,
    cases: &[FileCase],
    verification: &mut Verification,
) {
    let named: BTreeSet<&str> = cases.iter().map(|case| case.file.path.as_str()).collect();
    for meta in objects.into_iter().flatten() {
        let path = bench.access.layout.relative(&meta.location);
        if !path.is_some_and(|path| named.contains(path.as_str())) {
            verification.checked.unnamed_objects += 1;
            verification.checked.unnamed_bytes += meta.size;
        }
    }
}
