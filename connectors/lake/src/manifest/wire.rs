//! The bytes of an entry: one line of compact JSON in the member order of [`model`](super::model), sealed by the
//! SHA-256 of itself. The only place that knows the JSON.
//!
//! Invariant: what [`decode`] accepts was written whole by [`encode`] or by somebody who followed
//! `docs/manifest-format.md`: one changed, missing or added byte is refused, and so is a version this code does not
//! know. No bytes make it panic, and what it allocates is bounded by their length. Members that version 1 does not
//! have are ignored: an entry is never written again, so nothing is lost by it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use chrono::{DateTime, SecondsFormat};
use lakeferry_api::{ConnectError, Result};
use roaring::RoaringBitmap;
use serde::{Deserialize, Serialize};

use super::model::{
    Digest, Entry, EntryKind, FileEntry, Gap, Lineage, LogState, Missing, OffsetRange, OffsetSet, Owner, Source,
    TopicSettings, Totals, Writer,
};

/// What every document says it is.
pub const FORMAT: &str = "lakeferry.manifest";
/// The version that this code reads and writes.
pub const VERSION: u64 = 1;
/// `ahead` may reach this far beyond `resume_offset`.
pub const MAX_AHEAD_SPAN: u64 = 8 << 20;
/// With more runs than this, `ahead` is written as a bitmap.
const MAX_AHEAD_RANGES: usize = 1000;
/// What stands before the 64 hex digits of the seal.
const SEAL: &[u8] = b",\"self_sha256\":\"";
/// What stands after them.
const SEAL_END: &[u8] = b"\"}";
/// The seal's length.
const SEAL_LEN: usize = SEAL.len() + 64 + SEAL_END.len();

#[derive(Deserialize)]
struct Header {
    format: String,
    version: u64,
}

#[derive(Serialize, Deserialize)]
struct Document {
    format: String,
    version: u64,
    seq: u64,
    previous_sha256: Option<Digest>,
    kind: EntryKind,
    epoch: u32,
    written_at: String,
    owner: Owner,
    writer: Writer,
    source: Source,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    topic: Option<TopicSettings>,
    lineages: Vec<Lineage>,
    files: Vec<FileEntry>,
    missing: Missing,
    gaps: Vec<Gap>,
    resume_offset: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ahead: Option<Vec<(i64, i64)>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ahead_bitmap: Option<String>,
    totals: Totals,
    log: LogState,
}

/// The bytes of `entry`, to be written once and never changed.
///
/// # Errors
/// `Fatal` where a member cannot be expressed: a time beyond the year 9999, an `ahead` that spans too much.
pub fn encode(entry: &Entry) -> Result<Bytes> {
    let refuse = |why: String| ConnectError::fatal(format!("entry {} cannot be written: {why}", entry.seq));
    let document = document(entry).map_err(refuse)?;
    let mut bytes = serde_json::to_vec(&document).map_err(|error| refuse(error.to_string()))?;
    let seal = Digest::of(&bytes);
    bytes.pop();
    bytes.extend_from_slice(SEAL);
    bytes.extend_from_slice(seal.to_string().as_bytes());
    bytes.extend_from_slice(SEAL_END);
    Ok(bytes.into())
}

/// Reads the entry that lies at `name`, which errors name.
///
/// # Errors
/// `Fatal` where the bytes are not one whole, unaltered document of a known version.
pub fn decode(name: &str, bytes: &[u8]) -> Result<Entry> {
    let refuse =
        |why: String, remedy: &str| ConnectError::fatal(format!("manifest {name} is refused: {why}; {remedy}"));
    const RESTORE: &str = "nothing was written; bring the object back from a copy or from the bucket's versions";
    let damaged = |why: String| refuse(why, RESTORE);

    let header: Header = serde_json::from_slice(bytes).map_err(|error| {
        damaged(format!("it is damaged or truncated ({} bytes, no JSON document of this format: {error})", bytes.len()))
    })?;
    if header.format != FORMAT {
        return Err(damaged(format!("its format is \"{}\", not \"{FORMAT}\"", header.format)));
    }
    if header.version > VERSION {
        let why = format!("it is of version {}, this program knows version {VERSION}", header.version);
        return Err(refuse(why, "use the Lakeferry that wrote it, or a newer one"));
    }
    if header.version < VERSION {
        return Err(damaged(format!("there is no version {}", header.version)));
    }
    check_seal(bytes).map_err(damaged)?;
    let document: Document =
        serde_json::from_slice(bytes).map_err(|error| damaged(format!("a member is wrong: {error}")))?;
    entry(document).map_err(damaged)
}

/// The last member of the document is the SHA-256 of the document without that member.
fn check_seal(bytes: &[u8]) -> Result<(), String> {
    let unsealed = "it is damaged: it does not end in \"self_sha256\"";
    let at = bytes.len().checked_sub(SEAL_LEN).ok_or(unsealed)?;
    let (body, seal) = bytes.split_at(at);
    let written = seal.strip_prefix(SEAL).and_then(|seal| seal.strip_suffix(SEAL_END)).ok_or(unsealed)?;
    let found = Digest::of_chunks([body, b"}"]).to_string();
    if found.as_bytes() != written {
        let written = String::from_utf8_lossy(written);
        return Err(format!("it was altered: its self_sha256 says {written}, its bytes give {found}"));
    }
    Ok(())
}

fn document(entry: &Entry) -> Result<Document, String> {
    let entry = entry.clone();
    let written_at = DateTime::from_timestamp_millis(entry.written_at)
        .filter(|at| at.timestamp() < 253_402_300_800)
        .ok_or_else(|| format!("written_at {} is not in the calendar", entry.written_at))?;
    let (ahead, ahead_bitmap) = if entry.ahead.count_ranges(MAX_AHEAD_RANGES + 1) > MAX_AHEAD_RANGES {
        (None, Some(bitmap(&entry.ahead, entry.resume_offset)?))
    } else {
        (Some(entry.ahead.ranges().map(|range| (range.from, range.to)).collect()), None)
    };
    Ok(Document {
        format: FORMAT.to_owned(),
        version: VERSION,
        seq: entry.seq,
        previous_sha256: entry.previous_sha256,
        kind: entry.kind,
        epoch: entry.epoch,
        written_at: written_at.to_rfc3339_opts(SecondsFormat::Millis, true),
        owner: entry.owner,
        writer: entry.writer,
        source: entry.source,
        topic: entry.topic,
        lineages: entry.lineages,
        files: entry.files,
        missing: entry.missing,
        gaps: entry.gaps,
        resume_offset: entry.resume_offset,
        ahead,
        ahead_bitmap,
        totals: entry.totals,
        log: entry.log,
    })
}

fn entry(document: Document) -> Result<Entry, String> {
    let written_at = DateTime::parse_from_rfc3339(&document.written_at)
        .map_err(|error| format!("written_at \"{}\" is no time: {error}", document.written_at))?
        .timestamp_millis();
    let ahead = match (document.ahead, document.ahead_bitmap) {
        (Some(ranges), None) => set_of_ranges(&ranges)?,
        (None, Some(text)) => set_of_bitmap(&text, document.resume_offset)?,
        _ => return Err("it has not exactly one of ahead and ahead_bitmap".to_owned()),
    };
    Ok(Entry {
        seq: document.seq,
        previous_sha256: document.previous_sha256,
        kind: document.kind,
        epoch: document.epoch,
        written_at,
        owner: document.owner,
        writer: document.writer,
        source: document.source,
        topic: document.topic,
        lineages: document.lineages,
        files: document.files,
        missing: document.missing,
        gaps: document.gaps,
        resume_offset: document.resume_offset,
        ahead,
        totals: document.totals,
        log: document.log,
    })
}

/// The portable form of a 32-bit bitmap of the distances from the resume offset, in base64.
fn bitmap(ahead: &OffsetSet, resume_offset: Option<i64>) -> Result<String, String> {
    let resume = resume_offset.ok_or("ahead without resume_offset")?;
    let mut bits = RoaringBitmap::new();
    for range in ahead.ranges() {
        let distance = |offset: i64| {
            let distance = u32::try_from(offset.checked_sub(resume)?).ok()?;
            (u64::from(distance) <= MAX_AHEAD_SPAN).then_some(distance)
        };
        let (Some(from), Some(to)) = (distance(range.from), distance(range.to)) else {
            return Err(format!("ahead {}..{} is too far from resume_offset {resume}", range.from, range.to));
        };
        bits.insert_range(from..=to);
    }
    bits.optimize();
    let mut bytes = Vec::with_capacity(bits.serialized_size());
    bits.serialize_into(&mut bytes).map_err(|error| error.to_string())?;
    Ok(BASE64.encode(bytes))
}

fn set_of_bitmap(text: &str, resume_offset: Option<i64>) -> Result<OffsetSet, String> {
    let resume = resume_offset.ok_or("ahead_bitmap without resume_offset")?;
    let bytes = BASE64.decode(text).map_err(|error| format!("ahead_bitmap is no base64: {error}"))?;
    let mut rest = bytes.as_slice();
    let bits =
        RoaringBitmap::deserialize_from(&mut rest).map_err(|error| format!("ahead_bitmap is no bitmap: {error}"))?;
    if !rest.is_empty() {
        return Err(format!("ahead_bitmap has {} bytes too many", rest.len()));
    }
    if bits.max().is_some_and(|max| u64::from(max) > MAX_AHEAD_SPAN) {
        return Err(format!("ahead_bitmap reaches more than {MAX_AHEAD_SPAN} offsets beyond resume_offset"));
    }
    let mut set = OffsetSet::new();
    let mut runs = bits.iter();
    while let Some(run) = runs.next_range() {
        let offset = |distance: u32| resume.checked_add(i64::from(distance));
        let (Some(from), Some(to)) = (offset(*run.start()), offset(*run.end())) else {
            return Err(format!("ahead_bitmap reaches beyond the last offset from resume_offset {resume}"));
        };
        set.insert_range(OffsetRange::new(from, to));
    }
    Ok(set)
}

fn set_of_ranges(ranges: &[(i64, i64)]) -> Result<OffsetSet, String> {
    let mut next = 0;
    for &(from, to) in ranges {
        if from < next || to < from {
            return Err(format!(
                "ahead has [{from},{to}], which is backward, negative, out of order or touches another"
            ));
        }
        // Ranges that touch would be one.
        next = to.saturating_add(2);
    }
    if let (Some(first), Some(last)) = (ranges.first(), ranges.last())
        && last.1.abs_diff(first.0) > MAX_AHEAD_SPAN
    {
        return Err(format!("ahead spans more than {MAX_AHEAD_SPAN} offsets, from {} to {}", first.0, last.1));
    }
    Ok(ranges.iter().map(|&(from, to)| OffsetRange::new(from, to)).collect())
}

#[cfg(test)]
mod tests;
