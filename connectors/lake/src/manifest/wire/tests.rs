use lakeferry_api::Kind;
use lakeferry_api::measure::peak_of;
use proptest::prelude::*;

use super::super::invariants::{Link, check_chain};
use super::super::model::*;
use super::super::tests::entry as opening;
use super::*;

fn full() -> Entry {
    let block = |at, len| Block { at, len, sha256: Digest::of(b"block").to_string() };
    let file = FileEntry {
        path: "orders/partition=0/00000000000000000000-0000000001-0-0b9f12ab.parquet".into(),
        route: String::new(),
        format: "archive.parquet".into(),
        codec: "zstd".into(),
        span_from: Some(0),
        span_to: Some(999),
        first_offset: 0,
        last_offset: 998,
        records: 990,
        missing: Missing::from([(Reason::Transaction, 10)]),
        min_timestamp: Some(1_763_712_000_000),
        max_timestamp: None,
        untimed: 990,
        stored_bytes: 51_200,
        raw_bytes: 204_800,
        sha256: Digest::of(b"file").to_string(),
        blocks: vec![block(0, 50_100), block(50_100, 1100)],
    };
    let mut entry = opening(1);
    entry.kind = EntryKind::Commit;
    entry.topic = None;
    entry.source.continues = Some(Continues { lineage: 1, before: 7 });
    entry.files = vec![file];
    entry.missing = Missing::from([(Reason::CompactionOrTransaction, 2), (Reason::Unknown, 1)]);
    entry.gaps = vec![Gap { from: 1000, to: 1001, reason: Reason::LogStartMoved }];
    entry.resume_offset = Some(1002);
    entry.ahead = [OffsetRange::new(1005, 1007), OffsetRange::new(1010, 1010)].into_iter().collect();
    entry.totals = Totals { records: 990, missing: 10, gaps: 2, files: 1, stored_bytes: 51_200, raw_bytes: 204_800 };
    (entry.log.leader_epoch, entry.log.leader_epoch_upto) = (Some(4), Some(999));
    entry
}

fn refusal(bytes: &[u8]) -> String {
    let error = decode("topics/orders/7.json", bytes).unwrap_err();
    assert_eq!(error.kind(), Kind::Fatal);
    let message = error.message().to_owned();
    assert!(message.contains("topics/orders/7.json"), "{message}");
    message
}

/// The document with another text in it, sealed again.
fn resealed(entry: &Entry, from: &str, to: &str) -> Vec<u8> {
    let text = String::from_utf8(encode(entry).unwrap().to_vec()).unwrap();
    let body = &text[..text.len() - SEAL_LEN];
    assert!(body.contains(from), "{body}");
    let body = body.replacen(from, to, 1);
    let seal = Digest::of(format!("{body}}}").as_bytes());
    format!("{body},\"self_sha256\":\"{seal}\"}}").into_bytes()
}

#[test]
fn the_bytes_are_those_of_the_specification() {
    let text = String::from_utf8(encode(&full()).unwrap().to_vec()).unwrap();
    let previous = Digest::of(b"previous");
    let (file, block) = (Digest::of(b"file"), Digest::of(b"block"));
    let body = format!(
        "{{\"format\":\"lakeferry.manifest\",\"version\":1,\"seq\":1,\"previous_sha256\":\"{previous}\",\
         \"kind\":\"commit\",\"epoch\":1,\"written_at\":\"2025-11-21T08:00:00.123Z\",\
         \"owner\":{{\"cluster_id\":\"c\",\"group\":\"connect-archive\"}},\
         \"writer\":{{\"id\":\"0b9f12ab00000000000000000000cafe\",\"connector\":\"archive\",\"task\":0,\
         \"worker\":\"10.0.0.5:8083\",\"version\":\"0.1.0\"}},\
         \"source\":{{\"topic\":\"orders\",\"partition\":0,\"topic_id\":\"Qm9\",\"lineage\":1,\"first\":0,\
         \"started_by\":\"earliest\",\"continues\":{{\"lineage\":1,\"before\":7}}}},\
         \"lineages\":[{{\"lineage\":1,\"topic_id\":\"Qm9\",\"first\":0,\"continues\":null}}],\
         \"files\":[{{\"path\":\"orders/partition=0/00000000000000000000-0000000001-0-0b9f12ab.parquet\",\"route\":\"\",\
         \"format\":\"archive.parquet\",\"codec\":\"zstd\",\"span_from\":0,\"span_to\":999,\"first_offset\":0,\
         \"last_offset\":998,\"records\":990,\"missing\":{{\"transaction\":10}},\"min_timestamp\":1763712000000,\
         \"max_timestamp\":null,\"untimed\":990,\"stored_bytes\":51200,\"raw_bytes\":204800,\"sha256\":\"{file}\",\
         \"blocks\":[{{\"at\":0,\"len\":50100,\"sha256\":\"{block}\"}},{{\"at\":50100,\"len\":1100,\"sha256\":\"{block}\"}}]}}],\
         \"missing\":{{\"compaction_or_transaction\":2,\"unknown\":1}},\
         \"gaps\":[{{\"from\":1000,\"to\":1001,\"reason\":\"log_start_moved\"}}],\"resume_offset\":1002,\
         \"ahead\":[[1005,1007],[1010,1010]],\
         \"totals\":{{\"records\":990,\"missing\":10,\"gaps\":2,\"files\":1,\"stored_bytes\":51200,\"raw_bytes\":204800}},\
         \"log\":{{\"start_offset\":0,\"last_stable_offset\":1003,\"leader_epoch\":4,\"leader_epoch_upto\":999,\"isolation\":\"read_committed\"}}"
    );
    let seal = Digest::of(format!("{body}}}").as_bytes());
    assert_eq!(text, format!("{body},\"self_sha256\":\"{seal}\"}}"));
    assert!(
        encode(&opening(0))
            .unwrap()
            .starts_with(b"{\"format\":\"lakeferry.manifest\",\"version\":1,\"seq\":0,\"previous_sha256\":null,")
    );
}

#[test]
fn an_entry_comes_back_as_it_went() {
    let mut reset = opening(3);
    reset.kind = EntryKind::Lineage;
    (reset.resume_offset, reset.source.first, reset.lineages[0].first) = (None, None, None);
    for entry in [opening(0), full(), reset] {
        let bytes = encode(&entry).unwrap();
        assert_eq!(decode("x", &bytes).unwrap(), entry);
        assert_eq!(encode(&entry).unwrap(), bytes, "the same entry, the same bytes");
    }
}

#[test]
fn every_changed_byte_is_refused() {
    let bytes = encode(&full()).unwrap();
    for at in 0..bytes.len() {
        let mut changed = bytes.to_vec();
        changed[at] ^= 1;
        refusal(&changed);
        refusal(&bytes[..at]);
    }
    let mut longer = bytes.to_vec();
    longer.push(b'\n');
    refusal(&longer);
}

#[test]
fn a_newer_version_is_refused_as_such_and_damage_as_damage() {
    let newer = refusal(br#"{"format":"lakeferry.manifest","version":2,"chain":{"what":"ever"}}"#);
    assert!(newer.contains("version 2") && newer.contains("newer"), "{newer}");
    assert!(refusal(b"").contains("damaged or truncated (0 bytes"), "{}", refusal(b""));
    assert!(refusal(br#"{"format":"iceberg","version":1}"#).contains("iceberg"));
    assert!(refusal(br#"{"format":"lakeferry.manifest","version":0}"#).contains("no version 0"));
    let unsealed = refusal(br#"{"format":"lakeferry.manifest","version":1,"seq":0}"#);
    assert!(unsealed.contains("self_sha256"), "{unsealed}");
    let altered = String::from_utf8(encode(&full()).unwrap().to_vec()).unwrap().replace("\"orders\"", "\"ardors\"");
    assert!(refusal(altered.as_bytes()).contains("altered"));
}

#[test]
fn a_sealed_document_with_a_wrong_member_is_refused_by_name() {
    let cases = [
        ("\"kind\":\"commit\"", "\"kind\":\"merge\"", "merge"),
        ("\"epoch\":1,", "", "epoch"),
        ("\"epoch\":1", "\"epoch\":-1", "-1"),
        ("2025-11-21T", "2025-11-31T", "written_at"),
        ("\"unknown\":1", "\"boredom\":1", "boredom"),
        ("[1005,1007]", "[1007,1005]", "ahead"),
        ("[1005,1007]", "[1005,1009]", "touches"),
        ("[1005,1007]", "[1005,90001005]", "ahead"),
        ("\"ahead\":[[1005,1007],[1010,1010]]", "\"ahead\":[[0,0],[9000000,9000000]]", "spans"),
        ("\"ahead\":[[1005,1007],[1010,1010]],", "", "exactly one"),
        ("\"ahead\":[", "\"ahead_bitmap\":\"\",\"ahead\":[", "exactly one"),
        ("\"ahead\":[[1005,1007],[1010,1010]]", "\"ahead_bitmap\":\"*\"", "base64"),
        ("\"ahead\":[[1005,1007],[1010,1010]]", "\"ahead_bitmap\":\"AAAA\"", "no bitmap"),
    ];
    for (from, to, expected) in cases {
        let message = refusal(&resealed(&full(), from, to));
        assert!(message.contains(expected), "{message}");
    }
    let ignored = resealed(&full(), "\"gaps\"", "\"colour\":{\"of\":[1,{}]},\"gaps\"");
    assert_eq!(decode("x", &ignored).unwrap(), full(), "members that version 1 does not have are ignored");
}

#[test]
fn many_runs_become_a_bitmap_that_others_can_read() {
    let mut entry = full();
    let ranges = |count: i64| (0..count).map(|n| OffsetRange::new(1004 + 3 * n, 1005 + 3 * n)).collect::<OffsetSet>();
    entry.ahead = ranges(1000);
    let text = |entry: &Entry| String::from_utf8(encode(entry).unwrap().to_vec()).unwrap();
    assert!(text(&entry).contains("\"ahead\":[[1004,1005],"));
    entry.ahead = ranges(1001);
    let document: serde_json::Value = serde_json::from_str(&text(&entry)).unwrap();
    assert!(document.get("ahead").is_none());
    let bytes = BASE64.decode(document["ahead_bitmap"].as_str().unwrap()).unwrap();
    let bitmap = RoaringBitmap::deserialize_from(bytes.as_slice()).unwrap();
    let distances: Vec<u32> = bitmap.iter().collect();
    let expected: Vec<u32> = (0..1001).flat_map(|n| [2 + 3 * n, 3 + 3 * n]).collect();
    assert_eq!(distances, expected, "distances from resume_offset");
    assert_eq!(decode("x", text(&entry).as_bytes()).unwrap(), entry);

    entry.ahead.insert_range(OffsetRange::new(1002 + (9 << 20), 1002 + (9 << 20)));
    assert!(encode(&entry).unwrap_err().message().contains("too far"));
    entry.ahead = ranges(1001);
    entry.resume_offset = None;
    assert!(encode(&entry).is_err());
}

#[test]
fn a_bitmap_too_long_or_too_far_is_refused() {
    let mut far = RoaringBitmap::new();
    far.insert(u32::MAX);
    let mut bytes = Vec::new();
    far.serialize_into(&mut bytes).unwrap();
    assert!(set_of_bitmap(&BASE64.encode(&bytes), Some(0)).unwrap_err().contains("beyond"));
    let mut near = Vec::new();
    RoaringBitmap::from([5]).serialize_into(&mut near).unwrap();
    assert_eq!(set_of_bitmap(&BASE64.encode(&near), Some(10)).unwrap().first(), Some(15));
    assert!(set_of_bitmap(&BASE64.encode(&near), Some(i64::MAX)).is_err());
    near.push(0);
    assert!(set_of_bitmap(&BASE64.encode(&near), Some(10)).unwrap_err().contains("too many"));
}

#[test]
fn a_time_beyond_the_calendar_is_not_written() {
    let mut entry = opening(0);
    entry.written_at = i64::MAX;
    assert!(encode(&entry).is_err());
}

fn seal(mut body: Vec<u8>) -> Vec<u8> {
    body.pop();
    let digest = Digest::of_chunks([body.as_slice(), b"}"]);
    body.extend_from_slice(format!(",\"self_sha256\":\"{digest}\"}}").as_bytes());
    body
}

const NAME: &str = "topics/_manifests/orders/0/00000000000000000007.json";

/// Which manifest, what is wrong with it, and what helps.
fn names_the_manifest(error: &ConnectError) -> bool {
    let rest = error.message().strip_prefix(&format!("manifest {NAME} is refused: "));
    let why = rest.and_then(|rest| rest.rsplit_once("; ")).is_some_and(|(why, _)| why.len() > 10);
    let helps = ["bring the object back from a copy", "use the Lakeferry that wrote it"];
    error.kind() == Kind::Fatal && why && helps.iter().any(|help| error.message().contains(help))
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        for bytes in [bytes.clone(), seal(bytes.clone())] {
            let (held, read) = held(&bytes);
            prop_assert!(held < (4 << 10) + 8 * bytes.len(), "{} bytes", held);
            if let Err(error) = read {
                prop_assert!(names_the_manifest(&error), "{}", error);
            }
        }
        if let Err(why) = set_of_bitmap(&BASE64.encode(&bytes), Some(3)) {
            prop_assert!(why.starts_with("ahead_bitmap "), "{}", why);
        }
    }

    #[test]
    fn no_damage_to_a_sealed_document_makes_it_panic(
        at in any::<prop::sample::Index>(), len in 0..40usize, with in "[\\[\\]{}\":,0-9a-z.-]{0,20}",
    ) {
        let whole = encode(&full()).unwrap();
        let mut body = whole[..whole.len() - SEAL_LEN].to_vec();
        body.push(b'}');
        let at = at.index(body.len());
        body.splice(at..(at + len).min(whole.len() - SEAL_LEN), with.bytes());
        if let Err(error) = decode(NAME, &seal(body)) {
            prop_assert!(names_the_manifest(&error), "{}", error);
        }
    }

    #[test]
    fn any_ahead_comes_back(
        offsets in proptest::collection::btree_set(1003..9000i64, 0..3000), resume in 0..=1002i64,
    ) {
        let mut entry = full();
        entry.resume_offset = Some(resume);
        entry.ahead = offsets.iter().copied().collect();
        prop_assert_eq!(decode("x", &encode(&entry).unwrap()).unwrap().ahead, entry.ahead);
    }
}

/// What `decode` holds of `bytes` at its peak.
fn held(bytes: &[u8]) -> (usize, Result<Entry>) {
    peak_of(|| decode(NAME, bytes))
}

/// A document may ask for its own length several times, and for the bitmap of its `ahead`.
#[test]
fn a_document_takes_memory_by_its_length_and_its_ahead_by_its_span() {
    const AHEAD: usize = 4 << 20;
    let whole = String::from_utf8(encode(&full()).unwrap().to_vec()).unwrap();
    let body = &whole[..whole.len() - SEAL_LEN];
    let sealed = |body: String| seal((body + "}").into_bytes());
    for (item, place) in [
        ("0,", "\"more\":["),
        ("[],", "\"more\":["),
        ("{},", "\"more\":["),
        ("\"\",", "\"more\":["),
        ("[[[[[[[[[[[[[[[[[[[[", "\"more\":["),
        ("[0,0],", "\"ahead\":["),
        ("{\"from\":0,\"to\":0,\"reason\":\"unknown\"},", "\"gaps\":["),
        ("{\"lineage\":1,\"topic_id\":null,\"first\":0,\"continues\":null},", "\"lineages\":["),
    ] {
        let items = item.repeat(600_000 / item.len());
        let list = format!("{place}{}]", items.trim_end_matches(','));
        let text = body.replacen('{', &format!("{{{list},"), 1);
        // A list that is there already would stand twice.
        let text = if place.contains("more") { text } else { text.replacen(&format!(",{place}"), ",\"other\":[", 1) };
        let bytes = sealed(text);
        let (held, read) = held(&bytes);
        assert!(held < 8 * bytes.len() + AHEAD, "{item}: {held} bytes of {}: {:?}", bytes.len(), read.err());
    }
    for step in [1, 2, 5, 64] {
        let mut entry = full();
        entry.ahead = (1005..1000 + MAX_AHEAD_SPAN as i64).step_by(step).collect();
        let bytes = encode(&entry).unwrap();
        let (held, read) = held(&bytes);
        read.unwrap();
        assert!(held < 8 * bytes.len() + AHEAD, "every {step}: {held} bytes of {}", bytes.len());
    }
    // Of a bitmap that claims much, nothing comes.
    for claim in [&b"\x3b\x30\xff\xff"[..], b"\x3a\x30\x00\x00\xff\xff\xff\xff", b"\x3a\x30\x00\x00\x00\x00\x01\x00"] {
        let (held, read) = peak_of(|| set_of_bitmap(&BASE64.encode(claim), Some(0)));
        read.unwrap_err();
        assert!(held < AHEAD, "{held} bytes");
    }
}

/// The chain that the specification shows.
fn shown() -> [Entry; 2] {
    let mut open = opening(0);
    open.written_at = 1_795_255_200_000;
    open.owner.cluster_id = "AAAAAAAAQACAAAAAAAAAAQ".into();
    let configs = [("cleanup.policy", "delete"), ("retention.ms", "604800000")];
    let configs = configs.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    open.topic = Some(TopicSettings { partitions: 6, replication_factor: 1, configs });
    let mut commit = open.clone();
    (commit.seq, commit.kind, commit.topic) = (1, EntryKind::Commit, None);
    commit.previous_sha256 = Some(Digest::of(&encode(&open).unwrap()));
    commit.written_at += 60_000;
    commit.files = full().files;
    commit.files[0].max_timestamp = Some(1_763_712_060_000);
    commit.files[0].untimed = 0;
    commit.resume_offset = Some(1000);
    commit.totals = commit.totals.plus(&commit.files, &commit.missing, &commit.gaps);
    (commit.log.leader_epoch, commit.log.leader_epoch_upto) = (Some(4), Some(999));
    [open, commit]
}

#[test]
fn the_specification_shows_real_entries() {
    let shown = shown();
    let text = shown.each_ref().map(|entry| String::from_utf8(encode(entry).unwrap().to_vec()).unwrap());
    let specification = include_str!("../../../../../docs/manifest-format.md");
    let examples: Vec<&str> = specification.lines().filter(|line| line.starts_with("{\"format\":")).collect();
    assert_eq!(examples, text);
    let links = shown.map(|entry| Link { sha256: Digest::of(&encode(&entry).unwrap()), entry });
    assert_eq!(check_chain(&links), []);
}
