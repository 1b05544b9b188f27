//! What Java's clients take and librdkafka does not: values beyond its bounds, and pairs that it refuses together. Each
//! becomes the nearest that it takes, with a warning: they are sizes and times, and bounds rather than demands.

use super::super::ffi::Role;
use super::Settings;

/// Java names of whole numbers that librdkafka bounds more narrowly: the least and the most that it takes.
const NARROWER: &[(&str, i64, i64)] = &[
    ("batch.size", 1, 2_147_483_647),
    ("connections.max.idle.ms", 0, 2_147_483_647),
    ("fetch.max.bytes", 0, 2_147_483_135),
    ("fetch.max.wait.ms", 0, 300_000),
    ("fetch.min.bytes", 1, 100_000_000),
    ("linger.ms", 0, 900_000),
    ("max.partition.fetch.bytes", 1, 1_000_000_000),
    ("max.poll.interval.ms", 1, 86_400_000),
    ("max.request.size", 1_000, 1_000_000_000),
    ("metadata.max.age.ms", 0, 3_600_000),
    ("receive.buffer.bytes", 0, 100_000_000),
    ("reconnect.backoff.max.ms", 0, 3_600_000),
    ("reconnect.backoff.ms", 0, 3_600_000),
    ("request.timeout.ms", 10, 300_000),
    ("retry.backoff.max.ms", 1, 300_000),
    ("retry.backoff.ms", 1, 300_000),
    ("send.buffer.bytes", 0, 100_000_000),
    ("session.timeout.ms", 1, 3_600_000),
    ("socket.connection.setup.timeout.ms", 1_000, 2_147_483_647),
];

/// `value` of the Java setting `key`, brought within librdkafka's bounds. What is no number, or negative, stays as it
/// is: Java refuses it, too.
pub(super) fn bounded(key: &str, value: &str) -> String {
    let narrower = NARROWER.iter().find(|(narrower, ..)| *narrower == key);
    let Some(((_, least, most), given)) = narrower.zip(value.trim().parse::<i64>().ok()) else {
        return value.to_owned();
    };
    // Never, in Java's words.
    if key == "connections.max.idle.ms" && given == -1 {
        return "0".to_owned();
    }
    let taken = given.clamp(*least, *most);
    if given < 0 || taken == given {
        return value.to_owned();
    }
    tracing::warn!("the client property {key}={value} is taken as {taken}: the client library takes {least} to {most}");
    taken.to_string()
}

/// Makes values fit each other that are well by themselves. Defaults are librdkafka's.
pub(super) fn reconcile(settings: &mut Settings, role: Role) {
    raise(settings, ("reconnect.backoff.ms", 100), ("reconnect.backoff.max.ms", 10_000));
    if role != Role::Consumer {
        return;
    }
    // A batch that is larger comes all the same, in Java, too.
    raise(settings, ("message.max.bytes", 1_000_000), ("fetch.max.bytes", 52_428_800));
    if settings.get("group.protocol").is_none_or(|protocol| protocol.eq_ignore_ascii_case("classic")) {
        // A thread of its own polls the client: the interval only bounds how long a rebalance waits for the task.
        raise(settings, ("session.timeout.ms", 45_000), ("max.poll.interval.ms", 300_000));
    }
}

/// Raises `high` to `low` where it is below; a setting that is not there has its default.
fn raise(settings: &mut Settings, (low, low_default): (&str, i64), (high, high_default): (&str, i64)) {
    let value = |key: &str, default| settings.get(key).map_or(Some(default), |text| text.trim().parse::<i64>().ok());
    let (Some(least), Some(given)) = (value(low, low_default), value(high, high_default)) else { return };
    // Two defaults fit, whoever sets them.
    let is_given = settings.contains_key(low) || settings.contains_key(high);
    if is_given && given < least {
        tracing::warn!("the client property {high}={given} is taken as {least}: it cannot be below {low}");
        settings.insert(high.to_owned(), least.to_string());
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::ffi::{self, Setting};
    use super::super::RENAMED;
    use super::*;

    type Pairs = &'static [(&'static str, &'static str)];

    #[test]
    fn the_bounds_are_the_library_s() {
        for (key, least, most) in NARROWER {
            let renamed = RENAMED.iter().find(|(java, ..)| java == key).map(|(_, name, _)| *name);
            let name = if *key == "request.timeout.ms" { "socket.timeout.ms" } else { renamed.unwrap_or(key) };
            for value in [least, most] {
                let setting = ffi::check_setting(name, &value.to_string());
                assert!(matches!(setting, Setting::Good), "{key}={value}");
            }
            for (beyond, nearest) in [(least - 1, least), (most + 1, most)] {
                if beyond < 0 {
                    continue;
                }
                let setting = ffi::check_setting(name, &beyond.to_string());
                assert!(matches!(setting, Setting::Invalid(_)), "{key}={beyond} would do");
                assert_eq!(bounded(key, &beyond.to_string()), nearest.to_string(), "{key}");
            }
        }
    }

    #[test]
    fn what_java_refuses_is_left_to_be_refused() {
        for (key, value) in
            [("fetch.min.bytes", "-1"), ("max.poll.interval.ms", "soon"), ("receive.buffer.bytes", "-1")]
        {
            assert_eq!(bounded(key, value), value);
        }
        assert_eq!(bounded("connections.max.idle.ms", "-1"), "0");
    }

    #[test]
    fn values_that_do_not_fit_each_other_are_made_to() {
        let cases: &[(Role, Pairs, Pairs)] = &[
            (Role::Consumer, &[("fetch.max.bytes", "50000")], &[("fetch.max.bytes", "1000000")]),
            (Role::Consumer, &[("fetch.max.bytes", "2000000")], &[("fetch.max.bytes", "2000000")]),
            (Role::Consumer, &[("max.poll.interval.ms", "30000")], &[("max.poll.interval.ms", "45000")]),
            (
                Role::Consumer,
                &[("max.poll.interval.ms", "30000"), ("session.timeout.ms", "10000")],
                &[("max.poll.interval.ms", "30000"), ("session.timeout.ms", "10000")],
            ),
            (
                Role::Consumer,
                &[("session.timeout.ms", "600000")],
                &[("max.poll.interval.ms", "600000"), ("session.timeout.ms", "600000")],
            ),
            (
                Role::Consumer,
                &[("group.protocol", "consumer"), ("max.poll.interval.ms", "30000")],
                &[("group.protocol", "consumer"), ("max.poll.interval.ms", "30000")],
            ),
            (
                Role::Admin,
                &[("reconnect.backoff.ms", "20000")],
                &[("reconnect.backoff.max.ms", "20000"), ("reconnect.backoff.ms", "20000")],
            ),
            (Role::Producer, &[("message.max.bytes", "90000000")], &[("message.max.bytes", "90000000")]),
        ];
        for (role, given, wanted) in cases {
            let of = |pairs: Pairs| {
                pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect::<Settings>()
            };
            let mut settings = of(given);
            reconcile(&mut settings, *role);
            assert_eq!(settings, of(wanted), "{given:?}");
        }
    }

    #[test]
    fn a_client_opens_with_what_java_takes() {
        let cases: &[(Role, Pairs)] = &[
            (Role::Consumer, &[("fetch.max.bytes", "50000"), ("max.partition.fetch.bytes", "2147483647")]),
            (Role::Consumer, &[("fetch.max.bytes", "2147483647"), ("fetch.min.bytes", "0")]),
            (Role::Consumer, &[("max.poll.interval.ms", "2147483647")]),
            (Role::Consumer, &[("max.poll.interval.ms", "30000")]),
            (Role::Consumer, &[("session.timeout.ms", "1800000")]),
            (Role::Producer, &[("reconnect.backoff.ms", "60000"), ("request.timeout.ms", "600000")]),
        ];
        for (role, given) in cases {
            let common = [("bootstrap.servers", "127.0.0.1:1"), ("group.id", "g")];
            let common = common.iter().filter(|(key, _)| *role == Role::Consumer || *key != "group.id");
            let all = common.chain(*given).map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
            let settings =
                super::super::client_config(&all, *role).unwrap_or_else(|error| panic!("{error}: {given:?}"));
            if let Err(failure) = ffi::Handle::open(*role, &settings) {
                panic!("{}: {given:?}", failure.text);
            }
        }
    }
}
