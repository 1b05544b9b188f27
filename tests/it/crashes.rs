//! Real crashes: a producer writes numbered records all the time while the worker is killed or stopped, the broker dies
//! and the stores go away. At the end a reader that knows nothing but `docs/manifest-format.md` finds every number in
//! the archive exactly once (`crashes/audit.py`).
//!
//! `LAKEFERRY_CRASH_ROUNDS` sets the number of kills (20), `LAKEFERRY_CRASH_SEED` repeats the choices of a run; what
//! the machine makes of them differs from run to run.

mod brokers;
mod numbers;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use lakeferry::clock::SystemClock;
use lakeferry_api::Clock;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use serde_json::Value;

pub(crate) use self::numbers::Numbers;
use crate::journey::{Worker, run, s3_settings};
use crate::kit::proxy::{Cut, Fault, HttpProxy, HttpRequest, Strike, TcpProxy};
use crate::kit::{self, need, poll_until, wait_until};
use crate::lake::{Lake, sink, task_state, task_trace};

const SOON: Duration = Duration::from_secs(120);
const LONG: Duration = Duration::from_secs(600);

/// Choices that a seed repeats (SplitMix64).
struct Dice(u64);

impl Dice {
    /// From the environment, else from the time.
    fn thrown() -> (Self, u64) {
        let given = std::env::var("LAKEFERRY_CRASH_SEED").ok().map(|seed| seed.parse().expect("a number"));
        let seed = given.unwrap_or_else(|| SystemClock::new().now_ms() as u64);
        (Self(seed), seed)
    }

    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % bound as u64) as usize
    }

    fn shuffle<T>(&mut self, list: &mut [T]) {
        (1..list.len()).rev().for_each(|at| list.swap(at, self.below(at + 1)));
    }
}

/// A lake, how to reach it with our commands, and where the independent reader finds it.
struct Place {
    url: String,
    config: PathBuf,
    /// What `audit.py` is told.
    folder: String,
}

impl Place {
    fn on_s3(s3: &kit::S3, bucket: &str, folder: &Path) -> Self {
        Self::new(&s3_settings(s3, bucket), folder.join("lake/topics").display().to_string())
    }

    fn on_hdfs(hdfs: &kit::Hdfs, folder: &str) -> Self {
        let topics = format!("{}/{folder}/topics", hdfs.webhdfs());
        Self::new(&hdfs_settings(&hdfs.rpc_address(), folder), topics)
    }

    fn new(settings: &[(String, String)], folder: String) -> Self {
        let config = kit::home::instance_dir("place").unwrap().join("store.properties");
        let lines =
            settings.iter().filter(|(key, _)| key != "store.url").map(|(key, value)| format!("{key}={value}\n"));
        std::fs::write(&config, lines.collect::<String>()).unwrap();
        let url = settings.iter().find(|(key, _)| key == "store.url").unwrap().1.clone();
        Self { url, config, folder }
    }

    /// Runs one of our commands, which must end well.
    fn run(&self, command: &[&str]) -> String {
        let config = ["--store-config", self.config.to_str().unwrap()];
        let (code, out, err) = run(&[&command[..1], &[&self.url], &command[1..], &config].concat());
        assert_eq!(code, 0, "{command:?} of {}: {out}\n{err}", self.url);
        out
    }

    fn sweep(&self) -> Value {
        serde_json::from_str(&self.run(&["sweep", "--json"])).unwrap()
    }

    /// Every number once, says who shares no code with us; we say so too, and still do after a sweep.
    fn audit(&self, python: &kit::Python, topics: &[(&str, u64)]) -> Vec<Value> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/crashes/audit.py");
        let read = |(topic, count): &(&str, u64)| {
            let arguments = [self.folder.clone(), (*topic).to_owned(), count.to_string()];
            serde_json::from_str(&python.run(&script, &arguments, LONG).unwrap()).unwrap()
        };
        topics.iter().for_each(|pair| drop::<Value>(read(pair)));
        self.sweep();
        self.run(&["verify", "--level", "content"]);
        topics.iter().map(read).collect()
    }
}

fn with_endpoint(mut settings: Vec<(String, String)>, endpoint: &str) -> Vec<(String, String)> {
    settings.iter_mut().filter(|(key, _)| key == "store.aws_endpoint").for_each(|pair| pair.1 = endpoint.to_owned());
    settings
}

fn hdfs_settings(address: &str, folder: &str) -> Vec<(String, String)> {
    vec![("store.url".to_owned(), format!("hdfs://{address}/{folder}"))]
}

/// A sink with small files, and whose group takes a dead member for dead before long.
fn small_sink(name: &str, topics: &str, tasks: &str, settings: &[(String, String)]) -> Value {
    let small = [
        ("tasks.max", tasks),
        ("flush.size", "100"),
        ("rotate.age.ms", "3000"),
        ("lakeferry.part.bytes", "5242880"),
        ("consumer.override.session.timeout.ms", "6000"),
        ("consumer.override.heartbeat.interval.ms", "1000"),
    ];
    let pairs = settings.iter().map(|(key, value)| (key.as_str(), value.as_str()));
    sink(name, topics, &small.into_iter().chain(pairs).collect::<Vec<_>>())
}

fn is_manifest_put(request: &HttpRequest) -> bool {
    request.method == "PUT" && request.path.contains("/_manifests/")
}

/// A whole object or a part of one.
fn is_data_put(request: &HttpRequest) -> bool {
    request.method == "PUT" && request.path.contains(".parquet")
}

/// The beginning or the end of an upload in parts.
fn is_upload_post(request: &HttpRequest) -> bool {
    request.method == "POST" && request.path.contains(".parquet?upload")
}

/// What a kill waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Moment {
    /// Any, down to the start of the process.
    Random,
    /// Of a whole object or of a part.
    DataPut,
    DataPutReply,
    ManifestPut,
    ManifestPutReply,
    /// Of the beginning or the end of an upload in parts.
    UploadPost,
    UploadPostReply,
    /// HDFS: of a rename, which ends the writing of a file or gives it its name. The path tells which kind of file.
    DataRenameReply,
    ManifestRenameReply,
    /// HDFS: of the end of a file's bytes.
    DataCompleteReply,
    ManifestCompleteReply,
}

impl Moment {
    /// The put of a data object or of a manifest, or its reply; on HDFS the steps that a put is made of.
    fn is_put(self) -> bool {
        !matches!(self, Self::Random | Self::UploadPost | Self::UploadPostReply)
    }
}

/// A deck of moments: two of three are puts, so that however it is shuffled and wherever a run ends, at least half of
/// ten and more are.
const DECK: [Moment; 15] = [
    Moment::Random,
    Moment::Random,
    Moment::Random,
    Moment::UploadPost,
    Moment::UploadPostReply,
    Moment::DataPut,
    Moment::DataPutReply,
    Moment::ManifestPut,
    Moment::ManifestPut,
    Moment::ManifestPutReply,
    Moment::ManifestPutReply,
    Moment::DataRenameReply,
    Moment::ManifestRenameReply,
    Moment::DataCompleteReply,
    Moment::ManifestCompleteReply,
];

/// The stores with a proxy before each.
struct Fronts {
    s3: HttpProxy,
    hdfs: TcpProxy,
}

/// A moment that is waited for.
enum Armed {
    After(Duration),
    Request(Strike),
    Reply(Cut),
}

impl Fronts {
    /// Waits for the `nth` such request from now, 0 being the next.
    fn arm(&self, moment: Moment, nth: usize) -> Armed {
        let hold = |fault: Fault, such: fn(&HttpRequest) -> bool| {
            let seen = AtomicUsize::new(0);
            let matches = move |request: &HttpRequest| such(request) && seen.fetch_add(1, Ordering::SeqCst) == nth;
            Armed::Request(self.s3.fault_next(fault, matches))
        };
        let cut = |method: &str, name: &str| Armed::Reply(self.hdfs.cut_reply_about(method, name, nth + 1));
        match moment {
            Moment::Random => Armed::After(Duration::from_millis(700 * nth as u64 + 37)),
            Moment::DataPut => hold(Fault::Hold, is_data_put),
            Moment::DataPutReply => hold(Fault::HoldReply, is_data_put),
            Moment::ManifestPut => hold(Fault::Hold, is_manifest_put),
            Moment::ManifestPutReply => hold(Fault::HoldReply, is_manifest_put),
            Moment::UploadPost => hold(Fault::Hold, is_upload_post),
            Moment::UploadPostReply => hold(Fault::HoldReply, is_upload_post),
            Moment::DataRenameReply => cut("rename2", ".parquet"),
            Moment::ManifestRenameReply => cut("rename2", ".json"),
            Moment::DataCompleteReply => cut("complete", ".parquet"),
            Moment::ManifestCompleteReply => cut("complete", ".json"),
        }
    }
}

impl Armed {
    /// Returns at the moment; nothing has happened to a held request by then.
    fn wait(&self, moment: Moment, worker: &Worker) {
        let struck = match self {
            Self::After(pause) => {
                let _ = poll_until(*pause, || None::<()>);
                return;
            }
            Self::Request(strike) => strike.wait_struck(SOON / 2),
            Self::Reply(cut) => cut.wait_struck(SOON / 2),
        };
        struck.unwrap_or_else(|error| panic!("{moment:?}: {error}\n{}", worker.log()));
    }

    /// What was held goes on to the server, after its client's death.
    fn release(self) {
        if let Self::Request(strike) = self {
            strike.release();
        }
    }
}

/// Who kills, and what became of it.
struct Killer<'a> {
    dice: Dice,
    fronts: Fronts,
    kafka: &'a kit::Kafka,
    places: &'a [Place],
    kills: BTreeMap<Moment, usize>,
    /// What was swept while the worker was at work.
    swept: usize,
}

impl Killer<'_> {
    /// Kills the worker so often, and starts it again.
    fn kill(&mut self, worker: &mut Worker, rounds: usize) {
        let (mut deck, mut late) = (Vec::new(), Vec::new());
        for round in 0..rounds {
            if deck.is_empty() {
                deck = DECK.to_vec();
                self.dice.shuffle(&mut deck);
            }
            let moment = deck.pop().unwrap();
            let armed = self.fronts.arm(moment, self.dice.below(4));
            // Beside a writer that is alive, and another that the group has forgotten.
            if round % 5 == 4 {
                self.swept +=
                    self.places.iter().map(|place| place.sweep()["removed"].as_array().unwrap().len()).sum::<usize>();
            }
            armed.wait(moment, worker);
            worker.kill();
            *self.kills.entry(moment).or_default() += 1;
            late.push(armed);
            // A dead man's request lands before the next worker comes, or while it is at work.
            if self.dice.below(2) == 0 {
                late.drain(..).for_each(Armed::release);
            }
            ["connect-crash-s3", "connect-crash-hdfs"].iter().for_each(|group| self.kafka.evict(group).unwrap());
            worker.run(&[]).unwrap();
            if self.dice.below(2) == 0 {
                late.drain(..).for_each(Armed::release);
            }
        }
        late.drain(..).for_each(Armed::release);
    }
}

#[test]
fn a_worker_that_is_killed_again_and_again_archives_every_record_once() {
    let (kafka, s3) = (need!(kit::kafka()), need!(kit::s3()));
    let (hdfs, python) = (need!(kit::hdfs()), need!(kit::python()));
    let rounds = std::env::var("LAKEFERRY_CRASH_ROUNDS").map_or(20, |rounds| rounds.parse().expect("a number"));
    let (dice, seed) = Dice::thrown();
    kit::home::say(&format!("crashes: {rounds} kills, LAKEFERRY_CRASH_SEED={seed}"));
    let (small, large) = ("crash-small", "crash-large");
    kafka.create_topic(small, 3, &[("retention.ms", "-1")]).unwrap();
    kafka.create_topic(large, 1, &[("retention.ms", "-1")]).unwrap();
    let bucket = s3.create_bucket("crash").unwrap();
    let fronts =
        Fronts { s3: HttpProxy::start(s3.address()).unwrap(), hdfs: TcpProxy::start(hdfs.rpc_address()).unwrap() };
    let on_s3 = with_endpoint(s3_settings(s3, "crash"), &fronts.s3.url());
    let places = [Place::on_s3(s3, "crash", &bucket), Place::on_hdfs(hdfs, "crash")];
    let connectors = [
        small_sink("crash-s3", &format!("{small},{large}"), "2", &on_s3),
        small_sink("crash-hdfs", small, "1", &hdfs_settings(&fronts.hdfs.address(), "crash")),
    ];
    let numbers =
        [Numbers::start(&kafka.bootstrap(), small, 3, 200, 8), Numbers::start(&kafka.bootstrap(), large, 1, 90_000, 1)];
    let mut worker = Worker::start(&kafka.bootstrap(), &[], &connectors);
    ["crash-s3", "crash-hdfs"].iter().for_each(|name| worker.wait_archived(name, 1, SOON));

    let mut killer = Killer { dice, fronts, kafka, places: &places, kills: BTreeMap::new(), swept: 0 };
    killer.kill(&mut worker, rounds);
    killer.fronts.s3.disarm();
    let [small_count, large_count] = numbers.map(Numbers::stop);
    worker.wait_ready().unwrap();
    worker.wait_archived("crash-s3", (small_count + large_count) as i64, LONG);
    worker.wait_archived("crash-hdfs", small_count as i64, LONG);
    worker.stop();

    let kills = &killer.kills;
    let at = |such: fn(&Moment) -> bool| -> usize {
        kills.iter().filter(|(moment, _)| such(moment)).map(|(_, count)| count).sum()
    };
    let (puts, by_proxy) = (at(|moment| moment.is_put()), at(|moment| *moment != Moment::Random));
    let [s3, hdfs] = &places;
    let seen =
        [s3.audit(python, &[(small, small_count), (large, large_count)]), hdfs.audit(python, &[(small, small_count)])];
    kit::home::say(&format!(
        "crashes: {rounds} kills, {by_proxy} of them at a request or its reply, {puts} at a put or its: {kills:?}; \
         {small_count} and {large_count} records, each exactly once on S3 and the first on HDFS; \
         {} leftovers swept meanwhile; seen: {seen:?}",
        killer.swept
    ));
    assert_eq!(kills.values().sum::<usize>(), rounds, "{kills:?}");
    assert!(puts * 2 >= rounds || rounds < 10, "{puts} of {rounds}: {kills:?}");
}

/// The requests of `front` to create this entry, in the order of their arrival.
fn creations(front: &HttpProxy, path: &str) -> Vec<HttpRequest> {
    front.requests().into_iter().filter(|request| is_manifest_put(request) && request.path == path).collect()
}

fn entry_in(file: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()
}

/// How often the log of `worker` tells an operator that `connector` has lost `partition`, in whatever words: the group
/// told it, or an entry was refused. A sleeper that wakes hears of both, in either order, and warns once.
fn times_warned(worker: &Worker, connector: &str, partition: &str) -> usize {
    let words = ["lost partitions", "given up", "fenced", "taken away", "session timed out", "another writer"];
    let topic = partition.rsplit_once('-').unwrap().0;
    let warns = |line: &&str| {
        let is_loud = [" WARN ", " ERROR "].iter().any(|level| line.contains(level));
        // Behind the span, which has the task's name: that looks like a partition's.
        let (span, said) = line.rsplit_once("}: ").unwrap_or(("", line));
        let is_its = span.is_empty() || span.contains(&format!("\"task {connector}-0\""));
        let is_about = said.contains(partition) || !said.contains(&format!("{topic}-"));
        is_loud && is_its && is_about && words.iter().any(|word| said.contains(word))
    };
    worker.log().lines().filter(warns).count()
}

/// Waits until each connector's group has one member, which has everything: nothing is on its way from one to another.
fn wait_settled(bootstrap: &str, connectors: &[&str]) {
    let client: BaseConsumer = ClientConfig::new().set("bootstrap.servers", bootstrap).create().unwrap();
    for connector in connectors {
        wait_until(&format!("{connector} is at rest"), SOON, || {
            let list = client.fetch_group_list(Some(&format!("connect-{connector}")), SOON);
            // While its coordinator is loading nothing is told.
            list.iter()
                .flat_map(|list| list.groups())
                .any(|group| group.state() == "Stable" && group.members().len() == 1)
        })
        .unwrap();
    }
}

/// A manifest of the first partition.
fn is_first_manifest_put(request: &HttpRequest) -> bool {
    is_manifest_put(request) && request.path.contains("/partition%3D0/")
}

/// The group takes the sleeper for dead, and `other` opens with the very entry that the sleeper put: its request.
fn wait_taken_over(front: &HttpProxy, path: &str, lake: &Lake, topic: &str, other: &Worker) -> HttpRequest {
    let opened = || creations(front, path).into_iter().find(|request| request.status == Some(200));
    let opened = poll_until(SOON, opened).unwrap_or_else(|| panic!("nobody opens\n{}", other.log()));
    let seq = Path::new(path).file_name().unwrap();
    let open = lake.chain(topic, 0).into_iter().find(|file| file.file_name() == Some(seq)).unwrap();
    let open = entry_in(&open);
    assert_eq!((&open["kind"], &open["writer"]["worker"]), (&"open".into(), &other.address().into()), "{open:#}");
    let publishes = || front.count(|request| is_manifest_put(request) && request.sent > opened.answered);
    wait_until("the new owner publishes", SOON, || publishes() > 0).unwrap();
    opened
}

#[test]
fn a_worker_that_sleeps_while_another_takes_over_is_fenced() {
    let (kafka, s3) = (need!(kit::kafka()), need!(kit::s3()));
    let (hdfs, python) = (need!(kit::hdfs()), need!(kit::python()));
    let (name, names) = ("crash-zombie", ["crash-zombie", "crash-zombie-hdfs"]);
    kafka.create_topic(name, 2, &[("retention.ms", "-1")]).unwrap();
    let bucket = s3.create_bucket(name).unwrap();
    let front = HttpProxy::start(s3.address()).unwrap();
    let connectors = [
        small_sink(names[0], name, "1", &with_endpoint(s3_settings(s3, name), &front.url())),
        small_sink(names[1], name, "1", &hdfs_settings(&hdfs.rpc_address(), name)),
    ];
    let numbers = Numbers::start(&kafka.bootstrap(), name, 2, 200, 4);
    let mut other = Worker::start(&kafka.bootstrap(), &[], &connectors);
    let mut sleeper = Worker::start(&kafka.bootstrap(), &[], &connectors);
    other.stop();
    let lake = Lake { dir: bucket.join("lake") };
    for _ in 0..3 {
        wait_settled(&kafka.bootstrap(), &names);
        let archived = sleeper.archived(names[1]);
        sleeper.wait_archived(names[1], archived + 1, SOON);
        wait_until("the sleeper publishes", SOON, || {
            let end = lake.chain(name, 0).pop().map(|end| entry_in(&end));
            end.is_some_and(|end| end["kind"] == "commit" && end["writer"]["worker"] == sleeper.address())
        })
        .unwrap();
        // It falls asleep while an entry of it is on its way.
        let held = front.fault_next(Fault::Hold, is_first_manifest_put);
        held.wait_struck(SOON).unwrap();
        sleeper.signal("STOP");
        let standing = |request: &HttpRequest| is_first_manifest_put(request) && request.sent.is_none();
        let path = front.requests().into_iter().rfind(standing).unwrap().path;
        let warned = |sleeper: &Worker| names.map(|connector| times_warned(sleeper, connector, "crash-zombie-0"));
        let before = warned(&sleeper);
        other.restart();
        // Before that it may not know its connectors, and tells of no offsets.
        names.iter().for_each(|name| drop(other.wait_state(name, "RUNNING", SOON)));
        let archived = other.archived(names[1]);
        let opened = wait_taken_over(&front, &path, &lake, name, &other);
        other.wait_archived(names[1], archived + 1, SOON);

        // What stood in the proxy reaches the store after that, and is refused.
        held.release();
        let refused = || creations(&front, &path).into_iter().next().filter(|request| request.status == Some(412));
        let refused = poll_until(SOON, refused).unwrap_or_else(|| panic!("{:?}", creations(&front, &path)));
        assert!(refused.sent >= opened.answered, "{refused:?} reached the store before {opened:?}");
        sleeper.signal("CONT");
        let noticed = || (0..names.len()).all(|at| warned(&sleeper)[at] > before[at]).then_some(());
        assert!(poll_until(SOON, noticed).is_some(), "the sleeper does not notice\n{}", sleeper.log());
        names.iter().for_each(|name| drop(sleeper.wait_state(name, "RUNNING", SOON)));
        sleeper.stop();
        assert_eq!(warned(&sleeper), before.map(|times| times + 1), "a warning each\n{}", sleeper.log());
        std::mem::swap(&mut sleeper, &mut other);
    }
    let count = numbers.stop();
    names.iter().for_each(|name| sleeper.wait_archived(name, count as i64, LONG));
    sleeper.stop();
    for place in [Place::on_s3(s3, name, &bucket), Place::on_hdfs(hdfs, name)] {
        kit::home::say(&format!("a sleeping worker, three times: {:?}", place.audit(python, &[(name, count)])));
    }
}

/// Everything arrives, in the process that was there from the beginning, whose task never failed.
fn assert_untouched(worker: &Worker, connector: &str, pid: Option<u32>) {
    assert_eq!((worker.pid(), task_state(worker, connector).as_str()), (pid, "RUNNING"), "{connector}");
    wait_until("the status is well again", SOON, || task_trace(worker, connector).is_empty()).unwrap();
}

#[test]
fn a_broker_that_is_killed_costs_nothing() {
    let (mut kafka, s3) = (need!(kit::Kafka::start(kit::KafkaOptions::default())), need!(kit::s3()));
    let (hdfs, python) = (need!(kit::hdfs()), need!(kit::python()));
    let (name, names) = ("crash-broker", ["crash-broker", "crash-broker-hdfs"]);
    kafka.create_topic(name, 2, &[("retention.ms", "-1")]).unwrap();
    let bucket = s3.create_bucket(name).unwrap();
    let connectors = [
        small_sink(names[0], name, "2", &s3_settings(s3, name)),
        small_sink(names[1], name, "1", &hdfs_settings(&hdfs.rpc_address(), name)),
    ];
    let numbers = Numbers::start(&kafka.bootstrap(), name, 2, 200, 4);
    let mut worker = Worker::start(&kafka.bootstrap(), &[], &connectors);
    let pid = worker.pid();
    for round in 1..=3 {
        names.iter().for_each(|name| worker.wait_archived(name, 100 * round, SOON));
        kafka.kill();
        kafka.restart().unwrap();
    }
    let count = numbers.stop();
    for name in names {
        worker.wait_archived(name, count as i64, LONG);
        assert_untouched(&worker, name, pid);
    }
    worker.stop();
    for place in [Place::on_s3(s3, name, &bucket), Place::on_hdfs(hdfs, name)] {
        kit::home::say(&format!("a broker killed three times: {:?}", place.audit(python, &[(name, count)])));
    }
}

#[test]
fn stores_that_are_away_for_a_minute_cost_nothing() {
    let (kafka, s3) = (need!(kit::kafka()), need!(kit::s3()));
    let (hdfs, python) = (need!(kit::hdfs()), need!(kit::python()));
    let topic = "crash-away";
    kafka.create_topic(topic, 2, &[("retention.ms", "-1")]).unwrap();
    let [refusing, hanging] = [(); 2].map(|()| HttpProxy::start(s3.address()).unwrap());
    let refusing_hdfs = TcpProxy::start(hdfs.rpc_address()).unwrap();
    let buckets = ["crash-refused", "crash-hung"].map(|bucket| (bucket, s3.create_bucket(bucket).unwrap()));
    let names = ["crash-refused", "crash-hung", "crash-refused-hdfs"];
    let reached = [
        with_endpoint(s3_settings(s3, names[0]), &refusing.url()),
        with_endpoint(s3_settings(s3, names[1]), &hanging.url()),
        hdfs_settings(&refusing_hdfs.address(), "crash-away"),
    ];
    let connectors: Vec<_> =
        names.iter().zip(&reached).map(|(name, settings)| small_sink(name, topic, "1", settings)).collect();
    let numbers = Numbers::start(&kafka.bootstrap(), topic, 2, 200, 4);
    let mut worker = Worker::start(&kafka.bootstrap(), &[], &connectors);
    let pid = worker.pid();
    names.iter().for_each(|name| worker.wait_archived(name, 100, SOON));

    refusing.refuse();
    refusing_hdfs.refuse();
    let hung = hanging.fault_times(usize::MAX, Fault::Hold, |_| true);
    let archived = || names.map(|name| worker.archived(name));
    let _minute = poll_until(Duration::from_secs(60), || None::<()>);
    let before = archived();
    refusing.accept().unwrap();
    refusing_hdfs.accept().unwrap();
    hung.release();
    hanging.disarm();
    let count = numbers.stop();
    assert!(hung.count() > 0 && before.iter().all(|archived| *archived < count as i64), "{before:?} of {count}");
    for name in names {
        worker.wait_archived(name, count as i64, LONG);
        assert_untouched(&worker, name, pid);
    }
    worker.stop();
    let on_s3 = buckets.iter().map(|(bucket, folder)| Place::on_s3(s3, bucket, folder));
    for place in on_s3.chain([Place::on_hdfs(hdfs, "crash-away")]) {
        kit::home::say(&format!("a store away for a minute: {:?}", place.audit(python, &[(topic, count)])));
    }
}
