//! A container whose root file system is read-only: worker and commands write nowhere but where they are told to, and
//! what they cannot do without is named before anything else happens.
//!
//! The programs run in a mount namespace where nothing can be written (`support/confined.sh`, which makes sure of it).
//! Where the machine lets nobody have one, the test says so and is skipped.

use std::path::Path;
use std::time::Duration;

use crate::journey::{Worker, program, s3_settings};
use crate::kit::process::Launch;
use crate::kit::{self, home, need};
use crate::lake::sink;
use crate::topic::{consume, produce, records};

const SOON: Duration = Duration::from_secs(60);

/// The words that start a program that can write nowhere but below `folder`; `None` where this machine does not let us.
fn confined(folder: &Path) -> Option<Vec<String>> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/confined.sh");
    let words = |options: &[&str]| {
        let words = [&["unshare", "--mount"], options, &["sh", script.to_str()?, folder.to_str()?]].concat();
        Some(words.into_iter().map(str::to_owned).collect::<Vec<_>>())
    };
    // An unprivileged user needs a user namespace, too.
    let ways = [words(&[])?, words(&["--map-root-user"])?];
    ways.into_iter().find(|words| Launch::new("true", folder.join("probe.log")).by(words).run(SOON).is_ok())
}

#[test]
fn a_read_only_root_file_system_is_enough() {
    let (kafka, s3) = (need!(kit::kafka()), need!(kit::s3()));
    let (name, target, written) = ("read-only", "read-only-back", home::instance_dir("written").unwrap());
    let Some(words) = confined(&written) else {
        return home::say("test read_only ... skipped: nobody may make a mount namespace here (unshare --mount)");
    };
    kafka.create_topic(name, 2, &[("retention.ms", "-1")]).unwrap();
    (0..2).for_each(|partition| produce(&kafka.bootstrap(), name, partition, &records(20)));
    s3.create_bucket(name).unwrap();
    let store = s3_settings(s3, name);
    let settings: Vec<_> = store.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    let bytes = "org.apache.kafka.connect.converters.ByteArrayConverter";
    let worker = |properties: &[(&str, &str)]| {
        let all = [&[("key.converter", bytes), ("value.converter", bytes)], properties].concat();
        Worker::new(&kafka.bootstrap(), &all).unwrap().by(&words)
    };

    // The offsets of sources are the one thing that a worker keeps on disk: it says so, and does not begin.
    let mut refused = worker(&[]);
    refused.run(&[]).unwrap();
    assert!(!refused.wait().success(), "{}", refused.log());
    let why = "offset.storage.file.filename must name a file in a directory that exists and that the worker may write";
    assert!(refused.log().contains(why), "{}", refused.log());

    // Given that, everything goes on. Without a place to spill files may end early: that is told, with the remedy.
    let offsets = written.join("offsets").display().to_string();
    let connector = written.join("connector.json");
    std::fs::write(&connector, sink(name, name, &settings).to_string()).unwrap();
    let unspilled = "files end early where memory runs short: lakeferry.spill.dir=";
    let remedy = "name a folder that can be written to, or leave it empty";
    let mut archiving = worker(&[("offset.storage.file.filename", &offsets)]);
    archiving.run(&[&connector]).unwrap();
    archiving.wait_ready().unwrap();
    archiving.wait_archived(name, 40, SOON);
    assert!(archiving.log().contains(unspilled) && archiving.log().contains(remedy), "{}", archiving.log());
    archiving.stop();

    let spill = written.display().to_string();
    let mut spilling = worker(&[("offset.storage.file.filename", &offsets), ("lakeferry.spill.dir", &spill)]);
    (0..2).for_each(|partition| produce(&kafka.bootstrap(), name, partition, &records(30)[20..]));
    spilling.run(&[&connector]).unwrap();
    spilling.wait_ready().unwrap();
    spilling.wait_archived(name, 60, SOON);
    assert!(!spilling.log().contains(unspilled), "{}", spilling.log());
    spilling.stop();

    // Commands need no disk at all.
    let config = written.join("store.properties");
    let lines = store.iter().filter(|(key, _)| key != "store.url").map(|(key, value)| format!("{key}={value}\n"));
    std::fs::write(&config, lines.collect::<String>()).unwrap();
    let empty = home::instance_dir("written").unwrap();
    let words = confined(&empty).unwrap();
    let (url, bootstrap, rename) = (&store[0].1, kafka.bootstrap(), format!("{name}={target}"));
    let command = |arguments: &[&str]| {
        let all = [arguments, &["--store-config", config.to_str().unwrap()]].concat();
        let log = home::instance_dir("command").unwrap().join("log");
        Launch::new(program(), log).args(all).by(&words).run(SOON).unwrap()
    };
    assert!(command(&["inspect", url]).contains("2 partitions"));
    command(&["restore", url, "--bootstrap-server", &bootstrap, "--rename", &rename, "--yes"]);
    command(&["verify", url, "--bootstrap-server", &bootstrap, "--rename", &rename]);
    command(&["sweep", url]);
    for partition in 0..2 {
        assert_eq!(consume(&bootstrap, target, partition), records(30));
    }
    assert_eq!(left_in(&empty), ["probe.log"]);
}

fn left_in(folder: &Path) -> Vec<String> {
    let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
    names.map(|name| name.to_string_lossy().into_owned()).collect()
}
