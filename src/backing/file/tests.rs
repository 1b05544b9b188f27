use lakeferry_api::measure::peak_of;
use proptest::prelude::*;
use serde_json::json;

use super::*;

/// A directory of its own, removed at the end.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("lakeferry-offsets-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self) -> PathBuf {
        self.0.join("connect.offsets")
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn partition(name: &str) -> SourcePartition {
    SourcePartition::new(json!({"filename": name}).as_object().unwrap()).unwrap()
}

fn offset(position: u64) -> SourceOffset {
    SourceOffset::new(json!({"position": position}).as_object().unwrap().clone()).unwrap()
}

#[tokio::test]
async fn offsets_outlive_the_process() {
    let directory = Directory::new("outlive");
    let log = FileOffsetLog::open(directory.file()).await.unwrap();
    log.put("a", &[(partition("x"), Some(offset(1))), (partition("y"), Some(offset(2)))]).await.unwrap();
    log.put("b", &[(partition("x"), Some(offset(9)))]).await.unwrap();
    log.put("a", &[(partition("x"), Some(offset(3))), (partition("y"), None)]).await.unwrap();
    drop(log);

    let log = FileOffsetLog::open(directory.file()).await.unwrap();
    assert_eq!(log.all("a").await.unwrap(), SourceOffsets::from([(partition("x"), offset(3))]));
    assert_eq!(log.get("b", &partition("x")).await.unwrap(), Some(offset(9)));
    assert_eq!(log.get("a", &partition("y")).await.unwrap(), None);
    log.put("a", &[(partition("x"), None)]).await.unwrap();
    assert!(log.all("a").await.unwrap().is_empty());
    let text = std::fs::read_to_string(directory.file()).unwrap();
    let expected = "{\"format\":\"lakeferry.offsets\",\"version\":1,\"offsets\":[\n\
                    [[\"b\",{\"filename\":\"x\"}],{\"position\":9}]\n]}\n";
    assert_eq!(text, expected);
}

#[tokio::test]
async fn a_missing_or_empty_file_has_no_offsets() {
    let directory = Directory::new("empty");
    std::fs::write(directory.file(), "").unwrap();
    let log = FileOffsetLog::open(directory.file()).await.unwrap();
    assert!(log.all("a").await.unwrap().is_empty());
}

#[tokio::test]
async fn what_cannot_be_read_is_refused_and_left_alone() {
    let directory = Directory::new("damaged");
    let log = FileOffsetLog::open(directory.file()).await.unwrap();
    log.put("a", &[(partition("x"), Some(offset(1))), (partition("y"), Some(offset(2)))]).await.unwrap();
    drop(log);
    let good = std::fs::read(directory.file()).unwrap();

    let mut cases: Vec<(Vec<u8>, &str)> = vec![
        (b"\xAC\xED\x00\x05sr\x00\x11java.util.HashMap".to_vec(), "Java"),
        (b"[]".to_vec(), "not ours"),
        (br#"{"format":"lakeferry.offsets","version":2,"offsets":[]}"#.to_vec(), "version 2"),
        (br#"{"format":"lakeferry.offsets","version":1}"#.to_vec(), "not a list"),
        (br#"{"format":"lakeferry.offsets","version":1,"offsets":[[["a",{}],{}],[["a",{}],{}]]}"#.to_vec(), "twice"),
        (br#"{"format":"lakeferry.offsets","version":1,"offsets":[[["a",{}]]]}"#.to_vec(), "pair"),
        (br#"{"format":"lakeferry.offsets","version":1,"offsets":[[["a",{}],{"p":[1]}]]}"#.to_vec(), "only strings"),
    ];
    // A file that was cut anywhere; the last newline alone is no content.
    cases.extend((1..good.len() - 1).map(|length| (good[..length].to_vec(), "damaged")));
    for (bytes, what) in cases {
        std::fs::write(directory.file(), &bytes).unwrap();
        let error = FileOffsetLog::open(directory.file()).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Config, "{}", String::from_utf8_lossy(&bytes));
        assert!(error.message().contains("connect.offsets"), "{error}");
        assert!(error.trace().contains(what), "{what}: {}", error.trace());
        assert_eq!(std::fs::read(directory.file()).unwrap(), bytes);
    }
}

#[tokio::test]
async fn two_workers_cannot_share_a_file() {
    let directory = Directory::new("shared");
    let first = FileOffsetLog::open(directory.file()).await.unwrap();
    let error = FileOffsetLog::open(directory.file()).await.unwrap_err();
    assert!(error.message().contains("in use by another worker"), "{error}");
    drop(first);
    FileOffsetLog::open(directory.file()).await.unwrap();
}

#[tokio::test]
async fn a_failed_write_changes_nothing_and_may_be_tried_again() {
    let directory = Directory::new("failed-write");
    let log = FileOffsetLog::open(directory.file()).await.unwrap();
    log.put("a", &[(partition("x"), Some(offset(1)))]).await.unwrap();
    // Something in the way of the temporary file: the write cannot begin.
    let obstacle = directory.0.join("connect.offsets.tmp");
    std::fs::create_dir(&obstacle).unwrap();
    let change = [(partition("x"), Some(offset(2)))];
    let error = log.put("a", &change).await.unwrap_err();
    assert!(error.is_retriable(), "{}", error.trace());
    assert_eq!(log.get("a", &partition("x")).await.unwrap(), Some(offset(1)));
    std::fs::remove_dir(&obstacle).unwrap();
    log.put("a", &change).await.unwrap();
    assert_eq!(log.get("a", &partition("x")).await.unwrap(), Some(offset(2)));
}

#[tokio::test]
async fn a_directory_that_is_missing_is_named() {
    let directory = Directory::new("no-directory");
    let error = FileOffsetLog::open(directory.0.join("missing/connect.offsets")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Config);
    assert!(error.message().contains("missing/connect.offsets.lock"), "{error}");
}

/// The entry of the file that is wrong, or the place where it ceases to be JSON.
fn names_what_is_wrong(error: &ConnectError) -> bool {
    names_what_is_wrong_in(&error.trace())
}

fn names_what_is_wrong_in(trace: &str) -> bool {
    let things = [
        "is not a pair of key and value",
        "an offset's key is [\"connector\",{partition}], not ",
        "an offset is a JSON object, not ",
        "source partitions and offsets hold only",
        "stands twice",
        "\"offsets\" is not a list",
        "expected \"lakeferry.offsets\" version 1",
    ];
    let no_json = trace.contains("not JSON") && trace.contains("line ") && trace.contains("column ");
    no_json || things.iter().any(|thing| trace.contains(thing))
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let (held, read) = peak_of(|| decode(&bytes));
        prop_assert!(held < (4 << 10) + 400 * bytes.len(), "{held} bytes of {}", bytes.len());
        if let Err(error) = read {
            prop_assert!(names_what_is_wrong(&error), "{}", error);
        }
    }

    /// As a worker reads it that starts.
    #[test]
    fn a_damaged_file_is_named_with_a_remedy(bytes in proptest::collection::vec(any::<u8>(), 1..60)) {
        prop_assume!(!bytes.starts_with(JAVA_SERIALISED));
        let directory = Directory::new("any-bytes");
        std::fs::write(directory.file(), &bytes).unwrap();
        let error = load(&directory.file()).unwrap_err();
        prop_assert_eq!(error.kind(), Kind::Config);
        let named = error.message().contains(directory.file().to_str().unwrap());
        prop_assert!(named && error.message().contains("restore the file from a copy"), "{}", error);
        prop_assert!(names_what_is_wrong_in(&error.trace()), "{}", error.trace());
    }

    /// What is read in spite of the damage can be written and is read again as the same.
    #[test]
    fn no_damage_makes_it_panic(at in any::<prop::sample::Index>(), len in 0..20usize, with in "[\\[\\]{}\",:0-9a-z.-]{0,12}") {
        let positions = [("x", 1), ("y", 2)].map(|(name, position)| (partition(name), offset(position)));
        let whole = Offsets::from([("a".to_owned(), positions.clone().into()), ("b".to_owned(), positions.into())]);
        let mut text = encode(&whole).into_bytes();
        let at = at.index(text.len());
        text.splice(at..(at + len).min(text.len()), with.bytes());
        match decode(&text) {
            Ok(read) => prop_assert_eq!(decode(encode(&read).as_bytes()).unwrap(), read),
            Err(error) => prop_assert!(names_what_is_wrong(&error), "{}", error),
        }
    }
}

/// A value takes some hundred bytes while it is read, and two in the file if it is empty; offsets are far larger there.
#[test]
fn a_file_takes_memory_by_its_length() {
    let document = |items: &str| {
        format!("{{\"format\":\"lakeferry.offsets\",\"version\":1,\"offsets\":[{}]}}", items.trim_end_matches(','))
    };
    for item in ["0,", "[],", "{},", "\"\",", "[[\"a\",{}],{}],", "[[[[[[[[[["] {
        let text = document(&item.repeat(400_000 / item.len()));
        let (held, read) = peak_of(|| decode(text.as_bytes()));
        assert_eq!(read.unwrap_err().kind(), Kind::Config);
        assert!(held < 400 * text.len(), "{item}: {held} bytes of {}", text.len());
    }
    let partitions = (0..5_000).map(|number| (partition(&format!("file-{number}")), offset(number)));
    let text = encode(&Offsets::from([("connector".to_owned(), partitions.collect())]));
    let (held, read) = peak_of(|| decode(text.as_bytes()));
    assert_eq!(read.unwrap()["connector"].len(), 5_000);
    assert!(held < 60 * text.len(), "{held} bytes of {}", text.len());
}

#[test]
fn nesting_without_end_is_refused() {
    let deep = |count| format!("{{\"format\":\"lakeferry.offsets\",\"version\":1,\"offsets\":{}", "[".repeat(count));
    for count in [1_000, 1_000_000] {
        assert_eq!(decode(deep(count).as_bytes()).unwrap_err().kind(), Kind::Config);
    }
}
