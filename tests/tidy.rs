//! The house rules that no compiler holds: who may know whom, how long things may be, what is called nowhere, and what
//! is written nowhere. Reads the sources as text and links nothing but std, so it runs in no time.
//!
//! A rule that the house must break for a while stands in [`DEBTS`], where a debt that was paid is an error too.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The floors, top to bottom: a module of the worker and those it may name. Whoever stands on the ground floor may be
/// named by all; the assembly may name everything.
const FLOORS: &[(&str, &[&str])] = &[
    ("rest", &["herder", "config"]),
    ("herder", &["task", "backing", "kafka", "config"]),
    ("task", &["backing", "kafka", "config"]),
    ("backing", &["kafka", "config"]),
    ("convert", &["config"]),
    ("kafka", &["config"]),
    ("config", &[]),
];
const GROUND: &[&str] = &["clock", "executor", "logging", "memory", "metrics", "random", "spawn"];
const ASSEMBLY: &[&str] = &["main", "lib", "cli", "worker", "plugins"];

/// The crates of the workspace and those of them that each may depend on.
const CRATES: &[(&str, &[&str])] =
    &[("connectors/api", &[]), ("connectors/file", &["lakeferry-api"]), ("connectors/lake", &["lakeferry-api"])];

/// Foreign names and the only places that may use them.
const OWNED: &[(&str, &[&str])] = &[
    ("rdkafka::", &["src/kafka"]),
    ("rdkafka_sys", &["src/kafka"]),
    ("arrow_array", &["connectors/lake/src/format"]),
    ("arrow_schema", &["connectors/lake/src/format"]),
    ("arrow_buffer", &["connectors/lake/src/format"]),
    ("parquet::", &["connectors/lake/src/format"]),
    ("lakeferry_file::", &["src/plugins.rs", "connectors/file"]),
    ("unsafe ", &["src/kafka/ffi", "src/memory.rs", "connectors/api/src/measure.rs"]),
];

/// What is called nowhere (tests aside), and where it is all the same.
const BANNED: &[(&str, &[&str])] = &[
    ("todo!(", &[]),
    ("unimplemented!(", &[]),
    ("dbg!(", &[]),
    ("unbounded_channel", &[]),
    ("println!(", &["src/cli", "src/main.rs"]),
    ("eprintln!(", &["src/cli", "src/main.rs"]),
    ("print!(", &["src/cli", "src/main.rs"]),
    ("SystemTime::now", &["src/clock.rs"]),
    ("Instant::now", &["src/clock.rs"]),
    ("thread::sleep", &[]),
    ("tokio::time::sleep", &["src/clock.rs"]),
    ("tokio::spawn", &["src/spawn.rs", "connectors/lake/src/job.rs"]),
    (".unwrap()", &[]),
];

const MAX_FILE: usize = 500;
/// As in `rustfmt.toml`: the formatter sees to code, and leaves comments as they are.
const MAX_COMMENT: usize = 120;
const MAX_FUNCTION: usize = 70;
const MAX_INLINE_TESTS: usize = 200;

/// Rules that a file breaks for now: (rule, file). Pay them back.
const DEBTS: &[(&str, &str)] = &[];

/// Paths of machines and hosts of registries. Put together, so that this file does not hold what it looks for.
const UNSPEAKABLE: &[&str] = &[
    concat!("/wo", "rk/"),
    concat!("/ro", "ot/"),
    concat!("/home", "/"),
    concat!("crates", ".io"),
    concat!("pypi", ".org"),
    concat!("npmjs", ".org"),
    concat!("repo.maven", ".apache"),
    concat!("repo1", ".maven"),
    concat!("proxy.golang", ".org"),
];

struct Source {
    path: String,
    text: String,
}

impl Source {
    fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text.lines().enumerate().map(|(at, line)| (at + 1, line))
    }

    /// The lines before the tests, comments and literals of documentation blanked.
    fn production(&self) -> impl Iterator<Item = (usize, &str)> {
        let end = self.tests_begin();
        self.lines().take_while(move |(at, _)| *at < end).map(|(at, line)| match line.trim_start() {
            comment if comment.starts_with("//") => (at, ""),
            _ => (at, line),
        })
    }

    /// The line of the inline tests' attribute; one past the end where there are none.
    fn tests_begin(&self) -> usize {
        let lines: Vec<_> = self.text.lines().collect();
        let is_inline = |at: &usize| lines.get(at + 1).is_some_and(|next| next.contains("mod ") && next.ends_with('{'));
        let attribute = |at: &usize| lines[*at] == "#[cfg(test)]";
        (0..lines.len()).filter(attribute).find(is_inline).map_or(lines.len() + 1, |at| at + 1)
    }

    fn is_test(&self) -> bool {
        let name = self.path.rsplit('/').next().unwrap_or_default();
        let inside = ["tests", "testing", "benches", "examples"]
            .iter()
            .any(|folder| self.path.split('/').any(|part| part == *folder));
        inside || matches!(name, "tests.rs" | "testing.rs" | "reference.rs" | "fake.rs")
    }

    fn is_in(&self, places: &[&str]) -> bool {
        places.iter().any(|place| self.path.starts_with(place))
    }
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every text of the tree, build output and version control aside.
fn texts() -> Vec<Source> {
    let mut found = Vec::new();
    walk(&root(), &mut found);
    let relative = |path: &Path| path.strip_prefix(root()).unwrap_or(path).display().to_string();
    let text = |path: PathBuf| Some(Source { path: relative(&path), text: std::fs::read_to_string(&path).ok()? });
    found.into_iter().filter_map(text).collect()
}

fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("a folder of the tree").flatten() {
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        match path.is_dir() {
            _ if matches!(name.as_str(), "target" | ".git") => {}
            true => walk(&path, found),
            false => found.push(path),
        }
    }
}

fn sources() -> Vec<Source> {
    let sources: Vec<_> = texts().into_iter().filter(|text| text.path.ends_with(".rs")).collect();
    assert!(sources.len() > 30, "the sources were not found");
    sources
}

/// Fails with every offence of a rule that is no debt, and with every debt of it that was paid.
fn judge(rule: &str, offences: Vec<(String, String)>) {
    let owed: BTreeSet<_> = DEBTS.iter().filter(|(of, _)| *of == rule).map(|(_, file)| (*file).to_owned()).collect();
    let broken: BTreeMap<_, _> = offences.into_iter().collect();
    let new: Vec<_> =
        broken.iter().filter(|(file, _)| !owed.contains(*file)).map(|(file, why)| format!("{file}: {why}")).collect();
    let paid: Vec<_> = owed.iter().filter(|file| !broken.contains_key(*file)).collect();
    assert!(new.is_empty(), "{rule}:\n  {}", new.join("\n  "));
    assert!(paid.is_empty(), "{rule}: paid back, so take it off the list: {paid:?}");
}

#[test]
fn every_file_opens_with_what_it_is() {
    // A file of tests is told by the file that it tests.
    let offends = |source: &Source| !source.text.starts_with("//!") && !source.path.ends_with("/tests.rs");
    let offences = sources().into_iter().filter(offends).map(|source| (source.path, "opens without //!".to_owned()));
    judge("header", offences.collect());
}

#[test]
fn modules_know_only_those_below() {
    let mut offences = Vec::new();
    for source in sources().iter().filter(|source| source.path.starts_with("src/") && !source.is_test()) {
        let module = module_of(&source.path);
        if ASSEMBLY.contains(&module) {
            continue;
        }
        let below: &[&str] = match FLOORS.iter().find(|(floor, _)| *floor == module) {
            Some((_, below)) => below,
            None if GROUND.contains(&module) => &[],
            None => {
                offences.push((source.path.clone(), format!("the module {module} has no floor")));
                continue;
            }
        };
        for name in named_modules(source) {
            if name != module && !below.contains(&name.as_str()) && !GROUND.contains(&name.as_str()) {
                offences.push((source.path.clone(), format!("{module} may not know {name}")));
            }
        }
    }
    judge("floors", offences);
}

#[test]
fn the_floor_plan_shows_these_floors() {
    let plan = std::fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let plan: Vec<_> = plan.lines().filter(|line| line.starts_with("//!  ") && line.contains(" knows ")).collect();
    let below = |below: &[&str]| if below.is_empty() { "nobody".to_owned() } else { below.join(", ") };
    let floors = FLOORS.iter().map(|(floor, known)| format!("//!  {floor:<9} knows  {}", below(known)));
    assert_eq!(plan, floors.collect::<Vec<_>>());
}

/// The last column of the table of invariants: a module of tests, or a test, by its path.
#[test]
fn what_is_said_to_hold_an_invariant_exists() {
    let plan = std::fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let rows: Vec<_> = plan.lines().filter(|line| line.starts_with("//! | A")).collect();
    assert_eq!(rows.len(), 11);
    for row in rows {
        let held_by = row.split(" | ").nth(3).unwrap_or_default();
        let paths: Vec<_> = held_by.split('`').skip(1).step_by(2).collect();
        assert!(!paths.is_empty(), "nobody holds {row}");
        for path in paths {
            assert!(is_test_or_tests(path), "{path} does not exist, but is said to hold an invariant");
        }
    }
}

/// Others' failures, and what hostile input may take, each with the tests that hold ours.
#[test]
fn what_is_said_to_hold_a_failure_or_an_attack_exists() {
    let page = std::fs::read_to_string(root().join("docs/reliability.md")).unwrap();
    let sources = sources();
    for (section, least_rows) in [("## Failures of others", 30), ("## Hostile input", 8)] {
        let (_, table) = page.split_once(section).unwrap();
        let table = table.split("\n## ").next().unwrap();
        let rows: Vec<_> = table.lines().filter_map(|line| line.strip_prefix("| ")?.splitn(3, " | ").nth(2)).collect();
        assert!(rows.len() > least_rows, "the table below {section} was not found");
        for held_by in rows.into_iter().skip(1) {
            let tests: Vec<_> = held_by.split('`').skip(1).step_by(2).collect();
            assert!(!tests.is_empty(), "nobody holds: {held_by}");
            for test in tests {
                let exists = sources.iter().any(|source| source.text.contains(&format!("fn {test}(")));
                assert!(exists, "{test} does not exist, but is said to hold what stands below {section}");
            }
        }
    }
}

fn is_test_or_tests(path: &str) -> bool {
    let mut parts: Vec<_> = path.split("::").collect();
    match parts[0] {
        "lakeferry_api" => parts[0] = "connectors/api/src",
        "lakeferry_lake" => parts[0] = "connectors/lake/src",
        "it" => parts[0] = "tests/it",
        "tidy" => parts[0] = "tests/tidy",
        _ => parts.insert(0, "src"),
    }
    let text = |up: usize| {
        let module = parts[..parts.len().saturating_sub(up)].join("/");
        let files = [format!("{module}.rs"), format!("{module}/mod.rs")];
        files.iter().find_map(|file| std::fs::read_to_string(root().join(file)).ok())
    };
    // A file of its own, or a test or inline tests in the file of the module, or a test in inline tests.
    let (test, tests) = (format!("fn {}(", parts[parts.len() - 1]), format!("mod {} {{", parts[parts.len() - 1]));
    text(0).is_some() || [text(1), text(2)].iter().flatten().any(|text| text.contains(&test) || text.contains(&tests))
}

fn module_of(path: &str) -> &str {
    let name = path.strip_prefix("src/").unwrap_or(path).split('/').next().unwrap_or_default();
    name.strip_suffix(".rs").unwrap_or(name)
}

/// The modules of the worker that a file names, by themselves or in braces.
fn named_modules(source: &Source) -> BTreeSet<String> {
    let text: String = source.production().map(|(_, line)| format!("{line}\n")).collect();
    let mut names = BTreeSet::new();
    for (at, _) in text.match_indices("crate::") {
        let rest = &text[at + "crate::".len()..];
        let is_own = !text[..at].ends_with(|letter: char| letter.is_alphanumeric() || letter == '_');
        match rest.strip_prefix('{') {
            _ if !is_own => {}
            Some(group) => names.extend(top_names(group)),
            None => names.extend(first_name(rest)),
        }
    }
    names.retain(|name| name.starts_with(|letter: char| letter.is_ascii_lowercase()));
    names
}

/// The first name of each item of a group in braces that has just been opened.
fn top_names(group: &str) -> Vec<String> {
    let (mut depth, mut names, mut begins) = (1, Vec::new(), true);
    for (at, letter) in group.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 1 => begins = true,
            _ if begins && letter.is_alphabetic() => {
                names.extend(first_name(&group[at..]));
                begins = false;
            }
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    names
}

fn first_name(text: &str) -> Option<String> {
    let name: String = text.chars().take_while(|letter| letter.is_alphanumeric() || *letter == '_').collect();
    (!name.is_empty()).then_some(name)
}

#[test]
fn crates_depend_only_on_those_below() {
    let mut offences = Vec::new();
    for (folder, below) in CRATES {
        let path = format!("{folder}/Cargo.toml");
        let manifest = std::fs::read_to_string(root().join(&path)).expect("a crate of the table");
        let dependencies = manifest.split("[dependencies]").nth(1).unwrap_or_default();
        let own =
            dependencies.lines().take_while(|line| !line.starts_with('[')).filter(|line| line.starts_with("lakeferry"));
        let names = own.filter_map(|line| line.split(['.', ' ', '=']).next());
        offences.extend(
            names.filter(|name| !below.contains(name)).map(|name| (path.clone(), format!("may not know {name}"))),
        );
    }
    judge("crates", offences);
}

#[test]
fn foreign_names_stay_where_they_belong() {
    let mut offences = Vec::new();
    for source in sources().iter().filter(|source| !source.is_test()) {
        for (name, places) in OWNED {
            let used = source.production().find(|(_, line)| line.contains(name) && !line.contains("unsafe_code"));
            if let Some((at, _)) = used.filter(|_| !source.is_in(places)) {
                offences.push((source.path.clone(), format!("line {at}: {name} belongs in {places:?}")));
            }
        }
    }
    judge("owned", offences);
}

#[test]
fn banned_calls_are_not_made() {
    let mut offences = Vec::new();
    for source in sources().iter().filter(|source| !source.is_test()) {
        let lines: Vec<_> = source.production().collect();
        for (at, line) in &lines {
            // What the compiler was told to expect, with a reason, is no offence.
            let expected =
                lines[at.saturating_sub(6)..*at].iter().any(|(_, before)| before.contains("#[expect(clippy::"));
            for (call, places) in BANNED {
                if line.contains(call) && !expected && !source.is_in(places) {
                    offences.push((source.path.clone(), format!("line {at}: {call}")));
                }
            }
        }
    }
    judge("banned", offences);
}

#[test]
fn files_and_functions_are_short() {
    let mut offences = Vec::new();
    for source in &sources() {
        let production = source.tests_begin() - 1;
        let tests = source.text.lines().count() - production;
        if production > MAX_FILE && !source.is_test() {
            offences.push((source.path.clone(), format!("{production} lines of production, at most {MAX_FILE}")));
        }
        if tests > MAX_INLINE_TESTS {
            offences.push((source.path.clone(), format!("{tests} lines of inline tests: move them to a sibling file")));
        }
        if let Some((at, len)) = functions(source).into_iter().find(|(_, len)| *len > MAX_FUNCTION) {
            offences
                .push((source.path.clone(), format!("line {at}: a function of {len} lines, at most {MAX_FUNCTION}")));
        }
    }
    judge("size", offences);
}

/// Where each function begins and how long it is. The formatter closes a function where it opened it.
fn functions(source: &Source) -> Vec<(usize, usize)> {
    let lines: Vec<_> = source.lines().collect();
    let indent = |line: &str| line.len() - line.trim_start().len();
    let is_function = |line: &str| {
        let words = line.trim_start().split(['(', '<']).next().unwrap_or_default();
        let known = ["pub", "pub(crate)", "pub(super)", "async", "const", "unsafe", "extern", "\"C\"", "fn"];
        let mut words = words.split(' ').peekable();
        words.peek().is_some_and(|first| first.starts_with("pub") || known.contains(first))
            && words.any(|word| word == "fn")
    };
    let begins = lines.iter().filter(|(_, line)| is_function(line));
    let spans = begins.filter_map(|(at, line)| {
        let body = lines[at - 1..]
            .iter()
            .position(|(_, line)| line.ends_with('{') || line.ends_with('}') || line.ends_with(';'))?;
        if !lines[at - 1 + body].1.ends_with('{') {
            return None;
        }
        let end = lines[at + body..].iter().find(|(_, end)| end.trim() == "}" && indent(end) == indent(line))?;
        Some((*at, end.0 - at + 1))
    });
    spans.collect()
}

/// Rows of tables aside: nobody can break those.
#[test]
fn comments_fit_the_page() {
    let mut offences = Vec::new();
    for source in &sources() {
        let is_comment = |line: &str| line.starts_with("//") && !line.starts_with("//! | ");
        let mut lines = source.lines().filter(|(_, line)| is_comment(line.trim_start()));
        if let Some((at, line)) = lines.find(|(_, line)| line.chars().count() > MAX_COMMENT) {
            let len = line.chars().count();
            offences
                .push((source.path.clone(), format!("line {at}: a comment of {len} columns, at most {MAX_COMMENT}")));
        }
    }
    judge("comments", offences);
}

#[test]
fn names_say_what_things_are() {
    let mut offences = Vec::new();
    for source in &sources() {
        for (at, line) in source.production() {
            let names = ["struct ", "enum ", "trait ", "mod "].iter().filter_map(|kind| line.split(kind).nth(1));
            let vague = |name: &str| ["Manager", "Helper", "Util"].iter().any(|vague| name.ends_with(vague));
            for name in names.filter_map(first_name).filter(|name| vague(name)) {
                offences.push((source.path.clone(), format!("line {at}: {name} says nothing")));
            }
        }
    }
    judge("names", offences);
}

#[test]
fn the_tree_speaks_of_itself_only() {
    let mut offences = Vec::new();
    for text in texts().iter().filter(|text| text.path != "Cargo.lock") {
        for (at, line) in text.lines() {
            for word in UNSPEAKABLE.iter().filter(|word| line.contains(**word)) {
                offences.push((text.path.clone(), format!("line {at}: {word}")));
            }
        }
    }
    judge("unspeakable", offences);
}

/// The readers themselves, on a file that breaks rules.
#[test]
fn the_readers_see_what_they_look_for() {
    let body = "    call();\n".repeat(80);
    let text = format!(
        "//! Head.\nuse crate::{{\n    kafka::{{Client, admin}},\n    rest,\n}};\n// use crate::herder;\nfn long() {{\n{body}}}\n\
         trait T {{\n    fn declared(&self);\n}}\n#[cfg(test)]\nmod tests {{\n    use crate::task;\n}}\n"
    );
    let source = Source { path: "src/convert/x.rs".to_owned(), text };
    assert_eq!(module_of(&source.path), "convert");
    assert_eq!(named_modules(&source), BTreeSet::from(["kafka".to_owned(), "rest".to_owned()]));
    assert_eq!(functions(&source), [(7, 82)]);
    assert!(!source.is_test() && source.production().all(|(_, line)| !line.contains("task")));
    assert!(Source { path: "src/convert/tests.rs".to_owned(), text: String::new() }.is_test());
}
