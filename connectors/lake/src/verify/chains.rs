//! The manifests themselves: every entry is read as bytes, must be whole and in its place, and the chain must keep
//! every law. Data without manifests, or manifests that were removed, are found by what lies beside them.
//!
//! Invariant: a damaged or missing entry is told once and hides nothing of the others: the laws are held wherever both
//! sides of them can be read.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::{StreamExt as _, TryStreamExt as _, stream};
use lakeferry_api::{Kind, Result, TopicPartition};
use object_store::ObjectMeta;

use super::{Bench, FileCase, Verification, no_such_topic};
use crate::format;
use crate::layout::Layout;
use crate::manifest::invariants::{Before, Link, check_chain, check_entry};
use crate::manifest::model::FileEntry;
use crate::manifest::{Digest, wire};
use crate::store::explain;

/// Entries that are read at once.
const PARALLEL: usize = 16;

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

/// Checks the chains of `topic`; the result is the files that they name. A folder that holds no archive is only an
/// error where it is asked for.
pub(super) async fn check_topic(
    bench: &Bench<'_>,
    (topic, is_asked_for): (&str, bool),
    verification: &mut Verification,
) -> Result<Vec<FileCase>> {
    let objects = data_objects(bench, topic).await?;
    let mut partitions: BTreeSet<TopicPartition> = bench.archive.partitions(topic).await?.into_iter().collect();
    partitions.extend(objects.keys().cloned());
    if partitions.is_empty() && is_asked_for {
        let archived = bench.archive.topics().await?;
        return Err(no_such_topic(topic, &archived));
    }
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
    let numbers = bench.archive.numbers(partition).await?;
    if numbers.is_empty() {
        let problem = "there are data objects, but no manifest: the entries were removed (a rule of the bucket?)";
        verification.add(partition, layout.chain_dir(partition).to_string(), problem);
    }
    let mut expected = 0;
    for seq in numbers.iter().copied() {
        if seq > expected {
            let more = if seq - expected > 1 { format!(", and all up to {}", path(seq - 1)) } else { String::new() };
            verification.add(partition, path(expected), format!("it is missing{more}, but {} is there", path(seq)));
        }
        expected = seq.saturating_add(1);
    }
    let mut reads = stream::iter(numbers.into_iter().map(|seq| read(bench, partition, seq))).buffered(PARALLEL);
    // Runs of entries that follow each other and can be read.
    let mut runs: Vec<Vec<Link>> = Vec::new();
    while let Some(read) = reads.next().await {
        verification.checked.entries += 1;
        match read? {
            Ok(link) => match runs.last_mut() {
                Some(run) if run.last().is_some_and(|last| last.entry.seq + 1 == link.entry.seq) => run.push(link),
                _ => runs.push(vec![link]),
            },
            Err((seq, problem)) => verification.add(partition, path(seq), problem),
        }
    }
    for run in &runs {
        check_laws(bench, partition, run, verification);
    }
    let cases: Vec<FileCase> = runs.iter().flatten().flat_map(|link| cases(bench, partition, link)).collect();
    for case in &cases {
        for (member, problem) in wrong_members(layout, case) {
            verification.add_field(partition, case.entry.clone(), case.field(member), problem);
        }
    }
    Ok(cases)
}

/// The entry `seq`, or its number and what is wrong with it.
type Opened = std::result::Result<Link, (u64, String)>;

async fn read(bench: &Bench<'_>, partition: &TopicPartition, seq: u64) -> Result<Opened> {
    let bytes = match bench.archive.manifests().read_bytes(partition, seq).await {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return Ok(Err((seq, "it vanished while it was read".to_owned()))),
        // What cannot pass by itself is the entry's fault.
        Err(error) if error.kind() == Kind::Fatal => return Ok(Err((seq, error.message().to_owned()))),
        Err(error) => return Err(error),
    };
    let path = bench.access.layout.entry(partition, seq);
    Ok(match wire::decode(path.as_ref(), &bytes) {
        Ok(entry) if entry.seq == seq && entry.partition() == *partition => {
            Ok(Link { entry, sha256: Digest::of(&bytes) })
        }
        Ok(entry) => Err((seq, format!("it says that it is entry {} of {}", entry.seq, entry.partition()))),
        Err(error) => Err((seq, error.message().to_owned())),
    })
}

/// The laws of a run of entries. The past of one that does not begin with entry 0 is unknown: its first entry is
/// believed, and the others are judged as far as the one before them tells.
fn check_laws(bench: &Bench<'_>, partition: &TopicPartition, run: &[Link], verification: &mut Verification) {
    let violations = if run.first().is_some_and(|link| link.entry.seq == 0) {
        check_chain(run)
    } else {
        let same_lineage = |pair: &&[Link]| pair[0].entry.source.lineage == pair[1].entry.source.lineage;
        let check = |pair: &[Link]| {
            let before = Before::following(&pair[0].entry, pair[0].sha256, &pair[1].entry);
            check_entry(&pair[1].entry, &before)
        };
        run.windows(2).filter(same_lineage).flat_map(check).collect()
    };
    for violation in violations {
        let object = bench.access.layout.entry(partition, violation.seq).to_string();
        let problem = format!("{} (law of {})", violation.text, violation.law);
        verification.add_field(partition, object, Some(violation.field), problem);
    }
}

/// What the line of a file says more than once: its path tells the partition, the route and the format.
fn wrong_members(layout: &Layout, case: &FileCase) -> Vec<(&'static str, String)> {
    let FileEntry { path, route, format: named, codec, .. } = &*case.file;
    let mut wrong = Vec::new();
    let parsed = layout.object(path).ok().and_then(|path| layout.parse_data(&path));
    let routed = format!("{}/{route}/", case.partition.topic);
    match &parsed {
        Some((home, _)) if *home != case.partition => {
            wrong.push(("path", format!("{path} is not in the folder of {}", case.partition)));
        }
        Some(_) if !route.is_empty() => wrong.push(("route", format!("\"{route}\", but the path is {path}"))),
        None if !route.is_empty() && !path.starts_with(&routed) => {
            wrong.push(("route", format!("\"{route}\", but the path is {path}")));
        }
        _ => {}
    }
    let Ok(format) = format::find(named) else {
        wrong.push(("format", format!("\"{named}\" is no format that this program knows")));
        return wrong;
    };
    if let Some((_, name)) = parsed.filter(|(_, name)| name.extension != format.extension) {
        wrong.push(("format", format!("{named}, but the file is called .{}", name.extension)));
    }
    if !format.codecs.iter().any(|known| known.name == codec) {
        wrong.push(("codec", format!("\"{codec}\" is no codec of {named}")));
    }
    wrong
}

fn cases(bench: &Bench<'_>, partition: &TopicPartition, link: &Link) -> Vec<FileCase> {
    let entry = &link.entry;
    let object = bench.access.layout.entry(partition, entry.seq).to_string();
    let case = |(at, file): (usize, &FileEntry)| FileCase {
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
