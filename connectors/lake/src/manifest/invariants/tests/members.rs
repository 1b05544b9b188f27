//! Members that no law guards: each is changed by itself, and a law has to find it.

use super::*;

pub(super) fn document(entry: &Entry) -> Value {
    serde_json::from_slice(&wire::encode(entry).unwrap()).unwrap()
}

type LeafPath = Vec<String>;

/// The paths of all members that are no lists and no objects.
fn leaves(value: &Value, path: &mut LeafPath, found: &mut Vec<(LeafPath, Value)>) {
    let mut deeper = |key: String, value: &Value| {
        path.push(key);
        leaves(value, path, found);
        path.pop();
    };
    match value {
        Value::Object(members) => members.iter().for_each(|(key, value)| deeper(key.clone(), value)),
        Value::Array(items) => items.iter().enumerate().for_each(|(at, value)| deeper(at.to_string(), value)),
        leaf => found.push((path.clone(), leaf.clone())),
    }
}

pub(super) fn numbers(value: &Value, path: &mut LeafPath, found: &mut Vec<LeafPath>) {
    let mut all = Vec::new();
    leaves(value, path, &mut all);
    found.extend(all.into_iter().filter(|(_, leaf)| leaf.is_number() || leaf.is_null()).map(|(path, _)| path));
}

/// The chain with one member changed and every hash made anew, so that only the other laws can tell; `None` where such
/// a document cannot even be read.
pub(super) fn with(chain: &[Link], seq: usize, path: &LeafPath, new: Value) -> Option<Vec<Link>> {
    let mut changed = chain.to_vec();
    let mut value = document(&chain[seq].entry);
    *path.iter().fold(&mut value, |value, key| match value {
        Value::Array(items) => &mut items[key.parse::<usize>().unwrap()],
        value => &mut value[key.as_str()],
    }) = new;
    let body = value.as_object_mut().unwrap();
    body.shift_remove("self_sha256");
    let body = serde_json::to_vec(&value).unwrap();
    let seal = Digest::of(&body);
    let mut bytes = body[..body.len() - 1].to_vec();
    bytes.extend_from_slice(format!(",\"self_sha256\":\"{seal}\"}}").as_bytes());
    changed[seq] = Link { entry: wire::decode("x", &bytes).ok()?, sha256: Digest::of(&bytes) };
    for at in seq + 1..changed.len() {
        let before = changed[at - 1].sha256;
        changed[at].entry.previous_sha256 = Some(before);
        changed[at].sha256 = Digest::of(&wire::encode(&changed[at].entry).unwrap());
    }
    Some(changed)
}

/// What no other member repeats (of paths the extension, of last offsets those before a hole): only the hashes of the
/// documents guard it, and the look at the files themselves.
const GUARDED_BY_HASHES_ONLY: &[&str] = &[
    "written_at",
    "owner.cluster_id",
    "owner.group",
    "writer.id",
    "writer.connector",
    "writer.task",
    "writer.worker",
    "writer.version",
    "source.started_by",
    "topic.partitions",
    "topic.replication_factor",
    "files.path",
    "files.last_offset",
    "files.route",
    "files.format",
    "files.codec",
    "files.min_timestamp",
    "files.max_timestamp",
    "files.untimed",
    "files.sha256",
    "files.blocks.sha256",
    "log.start_offset",
    "log.last_stable_offset",
    "log.leader_epoch",
    "log.leader_epoch_upto",
    "log.isolation",
];

#[test]
fn every_member_that_another_one_repeats_is_guarded_by_a_law() {
    let chain = rich().chain;
    assert_eq!(explained(&check_chain(&chain)), "");
    let mut unguarded: BTreeSet<String> = BTreeSet::new();
    let mut checked = 0;
    for seq in 0..chain.len() {
        let mut found = Vec::new();
        leaves(&document(&chain[seq].entry), &mut Vec::new(), &mut found);
        found.retain(|(path, _)| path != &["self_sha256"]);
        for (path, value) in found {
            let new: Value = match &value {
                Value::Number(number) => (number.as_i64().unwrap() + 1).into(),
                Value::String(text) if text.parse::<Digest>().is_ok() => Digest::of(text.as_bytes()).to_string().into(),
                Value::String(text) if text.contains('T') => text.replacen("20", "21", 1).into(),
                Value::String(text) => format!("{text}x").into(),
                Value::Null => 1.into(),
                other => panic!("{other}"),
            };
            checked += 1;
            if with(&chain, seq, &path, new).is_some_and(|changed| check_chain(&changed).is_empty()) {
                let named: Vec<_> =
                    path.iter().filter(|key| key.parse::<usize>().is_err()).map(String::as_str).collect();
                unguarded.insert(named.join("."));
            }
        }
    }
    assert!(checked > 500, "{checked}");
    let surprising: Vec<_> = unguarded.iter().filter(|name| !GUARDED_BY_HASHES_ONLY.contains(&name.as_str())).collect();
    assert!(surprising.is_empty(), "no law guards {surprising:?}");
}
