//! Brokers with an authorizer: with the rights that README and `docs/restore.md` name, archive, restore and replay work
//! as without; where one of them is missing, the task or the command ends and says which, of what.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use self::Operation::*;
use self::Thing::{Group, Topic, TransactionalId};
use crate::journey::{Worker, run};
use crate::kit::kafka::{Operation, Permission, Thing};
use crate::kit::{self, Kafka, KafkaOptions, need, wait_until};
use crate::lake::{Lake, task_state, wait_trace};
use crate::restore::{Restore, assert_holds, held, visible, wait_stored};
use crate::topic::{produce, records};

const SOON: Duration = Duration::from_secs(60);
/// Users that no rule knows yet.
const GUESTS: usize = 40;

type Rule<'a> = (Thing<'a>, Operation);

/// A broker where nobody but the tests may do anything that no rule allows.
fn guarded() -> kit::Result<&'static Kafka> {
    static SHARED: OnceLock<kit::Result<Kafka>> = OnceLock::new();
    let start = || {
        let users: String = (0..GUESTS).map(|n| format!(" user_guest{n}=\"secret{n}\"")).collect();
        let jaas = format!("org.apache.kafka.common.security.plain.PlainLoginModule required{users};");
        let options = KafkaOptions { sasl: true, ..KafkaOptions::default() }
            .property("listener.name.sasl.plain.sasl.jaas.config", &jaas)
            .property("authorizer.class.name", "org.apache.kafka.metadata.authorizer.StandardAuthorizer")
            .property("super.users", "User:ANONYMOUS");
        Kafka::start(options)
    };
    SHARED.get_or_init(start).as_ref().map_err(kit::Error::clone)
}

/// A user with the rights that it was given, and no others.
struct Guest(usize);

impl Guest {
    fn with(kafka: &Kafka, rules: &[Rule<'_>]) -> Guest {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let guest = Guest(NEXT.fetch_add(1, Ordering::Relaxed));
        assert!(guest.0 < GUESTS, "more guests than users");
        guest.rule(kafka, Permission::Allow, rules);
        guest
    }

    fn rule(&self, kafka: &Kafka, permission: Permission, rules: &[Rule<'_>]) {
        kafka.rule(&format!("guest{}", self.0), permission, rules).unwrap();
    }

    /// Client properties, as Java's clients take them.
    fn login(&self) -> [(&'static str, String); 3] {
        let Guest(number) = self;
        let module = "org.apache.kafka.common.security.plain.PlainLoginModule required";
        [
            ("security.protocol", "SASL_PLAINTEXT".to_owned()),
            ("sasl.mechanism", "PLAIN".to_owned()),
            ("sasl.jaas.config", format!("{module} username=\"guest{number}\" password=\"secret{number}\";")),
        ]
    }

    /// The same, as a command takes it.
    fn client_file(&self) -> String {
        let file = kit::instance_dir("client").unwrap().join("client.properties");
        std::fs::write(&file, self.login().map(|(key, value)| format!("{key}={value}\n")).concat()).unwrap();
        file.display().to_string()
    }

    /// The connector, whose clients are this user.
    fn own(&self, kafka: &Kafka, mut connector: Value) -> Value {
        for client in ["consumer", "producer", "admin"] {
            connector["config"][format!("{client}.override.bootstrap.servers")] = json!(kafka.sasl_bootstrap());
            for (key, value) in self.login() {
                connector["config"][format!("{client}.override.{key}")] = json!(value);
            }
        }
        connector
    }

    /// Restores `topic` of `lake` as `target`; the exit code, and all that was said.
    fn restore(&self, kafka: &Kafka, lake: &Lake, (topic, target): (&str, &str), more: &[&str]) -> (i32, String) {
        let (url, servers, file) = (lake.url(), kafka.sasl_bootstrap(), self.client_file());
        let rename = format!("{topic}={target}");
        let same = ["restore", &url, "--bootstrap-server", &servers, "--command-config", &file, "--rename", &rename];
        let mut restore = Restore::start(&[&same[..], &["--yes", "--id", target], more].concat());
        restore.process.wait(SOON).expect("it ends by itself");
        let (code, words) = restore.end("TERM");
        (code.unwrap_or(-1), words)
    }
}

/// All of `rules` but those at `missing`.
fn without<'a>(rules: &[Rule<'a>], missing: &[usize]) -> Vec<Rule<'a>> {
    let kept = |(at, rule): (usize, &Rule<'a>)| (!missing.contains(&at)).then_some(*rule);
    rules.iter().enumerate().filter_map(kept).collect()
}

/// What a sink's user needs, as README has it.
fn sink_rules<'a>(topic: &'a str, group: &'a str) -> [Rule<'a>; 3] {
    [(Topic(topic), Read), (Topic(topic), DescribeConfigs), (Group(group), Read)]
}

/// What a restore's user needs, as `docs/restore.md` has it; the last where the target is to be made.
fn restore_rules<'a>(target: &'a str, group: &'a str, id: &'a str) -> [Rule<'a>; 6] {
    [
        (Topic(target), Read),
        (Topic(target), Write),
        (Topic(target), DescribeConfigs),
        (Group(group), Read),
        (TransactionalId(id), Write),
        (Topic(target), Create),
    ]
}

fn filled(kafka: &Kafka, topic: &str) {
    kafka.create_topic(topic, 1, &[("retention.ms", "-1")]).unwrap();
    produce(&kafka.bootstrap(), topic, 0, &records(20));
}

/// A topic that a restore may write to.
fn make_target(kafka: &Kafka, target: &str) {
    let any_time = ["message.timestamp.before.max.ms", "message.timestamp.after.max.ms"];
    let configs = any_time.map(|config| (config, "9223372036854775807"));
    kafka.create_topic(target, 2, &[&configs[..], &[("retention.ms", "-1")]].concat()).unwrap();
}

fn wait_failed(worker: &Worker, connector: &str, words: &str) {
    wait_trace(worker, connector, words);
    let failed = || task_state(worker, connector) == "FAILED";
    wait_until(&format!("{connector} is FAILED"), SOON, failed).unwrap();
}

#[test]
fn a_sink_with_its_rights_archives_everything_once_and_is_reset_by_who_may_delete_its_group() {
    let kafka = need!(guarded());
    let (topic, group, lake) = ("acl-sink", "connect-acl-sink", Lake::new());
    filled(kafka, topic);
    let guest = Guest::with(kafka, &sink_rules(topic, group));
    let worker = Worker::start(&kafka.bootstrap(), &[], &[guest.own(kafka, lake.sink(topic, topic))]);
    worker.wait_archived(topic, 20, SOON);
    // Whoever compares needs no right on any group.
    let judge = Guest::with(kafka, &[(Topic(topic), Read), (Topic(topic), DescribeConfigs)]);
    let (url, servers, file) = (lake.url(), kafka.sasl_bootstrap(), judge.client_file());
    let verify = ["verify", &url, "--level", "content", "--bootstrap-server", &servers, "--command-config", &file];
    let (code, out, err) = run(&verify);
    assert!(code == 0 && out.contains("20 records: no fault"), "{out}\n{err}");
    // Nor does who looks; what the group has committed is left out then.
    let inspect = ["inspect", &url, "--bootstrap-server", &servers, "--command-config", &file];
    let (code, out, err) = run(&inspect);
    let is_silent = !out.contains("committed in group");
    assert!(code == 0 && out.contains("all of it is archived") && is_silent, "{out}\n{err}");
    let group_offset = || {
        let (_, out, _) = run(&[&inspect[..], &["--json"]].concat());
        let told: Value = serde_json::from_str(&out).unwrap();
        told[0]["partitions"][0]["now"].get("group_offset").cloned()
    };
    assert_eq!(group_offset(), None);
    judge.rule(kafka, Permission::Allow, &[(Group(group), Describe)]);
    assert_eq!(group_offset(), Some(json!(20)));

    let call = |method: &str, tail: &str| worker.request(method, &format!("/connectors/{topic}{tail}"), &Value::Null);
    assert_eq!(call("PUT", "/stop").0, 204);
    wait_until("no task is left", SOON, || call("GET", "/tasks").1 == json!([])).unwrap();
    let (status, answer) = call("DELETE", "/offsets");
    assert!(
        status == 500 && answer.to_string().contains("grant this user DELETE on group connect-acl-sink"),
        "{answer}"
    );
    guest.rule(kafka, Permission::Allow, &[(Group(group), Delete)]);
    let (status, answer) = call("DELETE", "/offsets");
    assert_eq!((status, call("GET", "/offsets").1), (200, json!({ "offsets": [] })), "{answer}");
}

#[test]
fn a_sink_that_lacks_a_right_fails_says_which_and_goes_on_once_it_is_given() {
    let kafka = need!(guarded());
    let cases = [
        ("acl-no-topic", &[0, 1][..], "not available: acl-no-topic: Broker: Topic authorization failed; grant"),
        ("acl-no-read", &[0], "grant this user READ on topic acl-no-read"),
        ("acl-no-configs", &[1], "grant this user DESCRIBE_CONFIGS on topic acl-no-configs"),
        ("acl-no-group", &[2], "grant this user READ on group connect-acl-no-group"),
    ];
    let worker = Worker::start(&kafka.bootstrap(), &[], &[]);
    let lacking = cases.map(|(topic, missing, words)| {
        filled(kafka, topic);
        let (group, lake) = (format!("connect-{topic}"), Lake::new());
        let rules = sink_rules(topic, &group);
        let guest = Guest::with(kafka, &without(&rules, missing));
        if topic == "acl-no-read" {
            guest.rule(kafka, Permission::Allow, &[(Topic(topic), Describe)]);
        }
        worker.create(&guest.own(kafka, lake.sink(topic, topic)));
        (topic, words, guest, lake)
    });
    for (topic, words, guest, lake) in lacking {
        wait_failed(&worker, topic, words);
        assert_eq!(lake.chain(topic, 0), Vec::<std::path::PathBuf>::new());
        let group = format!("connect-{topic}");
        guest.rule(kafka, Permission::Allow, &sink_rules(topic, &group));
        let restart = format!("/connectors/{topic}/tasks/0/restart");
        assert_eq!(worker.request("POST", &restart, &Value::Null).0, 204);
        wait_until("its task runs again", SOON, || task_state(&worker, topic) != "FAILED").unwrap();
        worker.wait_archived(topic, 20, SOON);
        let (code, out, err) =
            run(&["verify", &lake.url(), "--level", "content", "--bootstrap-server", &kafka.bootstrap()]);
        assert!(code == 0 && out.contains("20 records: no fault"), "{out}\n{err}");
    }
}

#[test]
fn a_sink_whose_right_is_taken_away_fails_and_says_which() {
    let kafka = need!(guarded());
    let cases = [
        ("acl-less-read", 0, "grant this user READ on topic acl-less-read"),
        ("acl-less-group", 2, "READ on group connect-acl-less-group"),
    ];
    let worker = Worker::start(&kafka.bootstrap(), &[], &[]);
    for (topic, taken, words) in cases {
        filled(kafka, topic);
        let (group, lake) = (format!("connect-{topic}"), Lake::new());
        let rules = sink_rules(topic, &group);
        let guest = Guest::with(kafka, &rules);
        worker.create(&guest.own(kafka, lake.sink(topic, topic)));
        worker.wait_archived(topic, 20, SOON);
        guest.rule(kafka, Permission::Deny, &[rules[taken]]);
        produce(&kafka.bootstrap(), topic, 0, &records(20));
        wait_failed(&worker, topic, words);
    }
}

#[test]
fn a_restore_with_its_rights_brings_every_record_back_once() {
    let kafka = need!(guarded());
    let truth = [records(20), records(30)];
    let lake = Lake::of(kafka, "acl-back", &truth, &[("retention.ms", "-1")]);
    for (target, rights) in [("acl-back-new", 6), ("acl-back-there", 5)] {
        if rights == 5 {
            make_target(kafka, target);
        }
        let id = format!("lakeferry-restore-{target}");
        let guest = Guest::with(kafka, &restore_rules(target, &id, &id)[..rights]);
        let restore = |more: &[&str]| guest.restore(kafka, &lake, ("acl-back", target), more);
        let (code, words) = restore(&[]);
        assert_eq!(code, 0, "{words}");
        assert_holds(kafka, target, &truth);
        let (code, words) = restore(&[]);
        assert!(code == 0 && words.contains("all 50 records that are asked for were restored before"), "{words}");
        // The archived configs are applied by who may.
        let (code, words) = restore(&["--apply-configs"]);
        assert!(code != 0 && words.contains(&format!("grant this user ALTER_CONFIGS on topic {target}")), "{words}");
        guest.rule(kafka, Permission::Allow, &[(Topic(target), AlterConfigs)]);
        let (code, words) = restore(&["--apply-configs"]);
        assert_eq!(code, 0, "{words}");
        assert_holds(kafka, target, &truth);
    }
}

#[test]
fn a_restore_that_lacks_a_right_ends_and_says_which() {
    let kafka = need!(guarded());
    let lake = Lake::of(kafka, "acl-refused", &[records(20), records(30)], &[("retention.ms", "-1")]);
    let cases = [
        ("acl-r-none", &[0, 1, 2, 3, 4, 5][..], "DESCRIBE on topic acl-r-none"),
        ("acl-r-read", &[0, 5], "READ on topic acl-r-read"),
        ("acl-r-write", &[1, 5], "WRITE on the topics that it writes to: "),
        ("acl-r-configs", &[2, 5], "DESCRIBE_CONFIGS on topic acl-r-configs"),
        ("acl-r-group", &[3, 5], "READ on group lakeferry-restore-acl-r-group"),
        ("acl-r-known", &[3, 5], "READ on group lakeferry-restore-acl-r-known"),
        ("acl-r-id", &[4, 5], "WRITE on transactional id lakeferry-restore-acl-r-id"),
        ("acl-r-create", &[5], "CREATE on topic acl-r-create"),
    ];
    for (target, missing, words) in cases {
        if target != "acl-r-create" {
            make_target(kafka, target);
        }
        let id = format!("lakeferry-restore-{target}");
        let guest = Guest::with(kafka, &without(&restore_rules(target, &id, &id), missing));
        if target == "acl-r-known" {
            guest.rule(kafka, Permission::Allow, &[(Group(&id), Describe)]);
        }
        let (code, said) = guest.restore(kafka, &lake, ("acl-refused", target), &[]);
        assert!(code == 2 && said.contains(&format!("grant this user {words}")), "{target}: {code} {said}");
        // What is refused only when offsets are to be stored beside the records is never visible.
        let late = ["acl-r-read", "acl-r-known"].contains(&target);
        assert_eq!(if late { visible(kafka, target) as i64 } else { held(kafka, target) }, 0, "{target}: {said}");
    }
}

#[test]
fn a_replaying_connector_needs_the_rights_of_a_restore() {
    let kafka = need!(guarded());
    let truth = [records(20), records(30)];
    let topic = "acl-source";
    let lake = Lake::of(kafka, topic, &truth, &[("retention.ms", "-1")]);
    let worker = Worker::start(&kafka.bootstrap(), &[], &[]);
    let replay = |name: &str| {
        json!({ "name": name, "config": {
            "connector.class": "LakeSource",
            "store.url": lake.url(),
            "topics": topic,
            "topic.rename": format!("{topic}:{name}"),
        }})
    };
    let cases: [(&str, &[usize], &str); 3] = [
        ("acl-replay", &[], ""),
        // Below it stands which: of the record that was not written, or that was not taken any more.
        ("acl-replay-write", &[1], "grant this user WRITE on the topics that it writes to\nCaused by: "),
        ("acl-replay-id", &[4], "grant this user WRITE on transactional id lakeferry-source-acl-replay-id-0"),
    ];
    for (name, missing, words) in cases {
        let (group, id) = (format!("lakeferry-source-{name}"), format!("lakeferry-source-{name}-0"));
        let guest = Guest::with(kafka, &without(&restore_rules(name, &group, &id), missing));
        worker.create(&guest.own(kafka, replay(name)));
        if missing.is_empty() {
            wait_stored(&worker, name, &[19, 29]);
            assert_holds(kafka, name, &truth);
        } else {
            wait_failed(&worker, name, words);
            assert_eq!(held(kafka, name), 0);
        }
    }
}
