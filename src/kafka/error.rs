//! What librdkafka's error codes mean to a loop: one table from code to [`Kind`]. Everybody in this folder turns a
//! failure into a [`ConnectError`] here; nobody else interprets codes.

use std::fmt::Display;

use lakeferry_api::{ConnectError, Kind, TopicPartition};

use super::ffi::{Code, Failure};

/// The failure as an error that says what was tried; its kind is [`kind`]'s.
pub(super) fn explain(failure: &Failure, what: impl Display) -> ConnectError {
    let kind = kind(failure);
    let remedy = match failure.code {
        _ if failure.is_login() => "; check security.protocol, sasl.mechanism and sasl.jaas.config",
        _ if failure.is_certificate() && failure.is_alert() => REFUSED,
        _ if failure.is_certificate() && failure.text.contains("verify failed") => UNTRUSTED,
        Code::RD_KAFKA_RESP_ERR__SSL => "; check security.protocol and the ssl.* settings",
        _ if is_denied(failure.code) => "; grant this user the right that the operation needs",
        Code::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE => TOO_LARGE,
        _ => "",
    };
    ConnectError::new(kind, format!("{what}: {}{remedy}", failure.text))
}

/// `failure`, told with the brokers that were asked (`bootstrap.servers`) and with the last words about one that cannot
/// be reached, where that none of them answers is what it says.
pub(super) fn named(mut failure: Failure, servers: &str, unreached: Option<String>) -> Failure {
    use Code::*;
    let is_silence = matches!(
        failure.code,
        RD_KAFKA_RESP_ERR__TRANSPORT
            | RD_KAFKA_RESP_ERR__RESOLVE
            | RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN
            | RD_KAFKA_RESP_ERR__TIMED_OUT
    );
    if is_silence && kind(&failure) == Kind::Retriable {
        // How long and how often the client tried says nothing of why.
        let why = unreached.as_deref().and_then(|why| why.split(" (after ").next());
        let why = why.filter(|why| !failure.text.contains(why)).map(|why| format!(" ({why})"));
        failure.text = format!(
            "{}: no answer came from the brokers at bootstrap.servers={servers}{}; correct it, or see that they run and \
             that this machine reaches the addresses that they advertise",
            failure.text,
            why.unwrap_or_default()
        );
    }
    failure
}

/// As [`explain`], of something that needs `right`, "READ on topic orders" for example: where the brokers deny it, that
/// is what to grant.
pub(super) fn explain_needing(failure: &Failure, what: impl Display, right: impl Display) -> ConnectError {
    if is_denied(failure.code) {
        ConnectError::config(format!("{what}: {}; grant this user {right}", failure.text))
    } else {
        explain(failure, what)
    }
}

/// Who reads, as an error names it.
#[derive(Debug, Clone, Default)]
pub(super) struct Membership {
    pub group: String,
    /// Its `group.instance.id`, where it has one.
    pub instance: String,
    pub servers: String,
}

/// As [`explain`], of reading as such a member, perhaps one partition.
pub(super) fn explain_reading(
    failure: &Failure,
    partition: Option<&TopicPartition>,
    member: &Membership,
) -> ConnectError {
    let Membership { group, servers, .. } = member;
    // Of one that is away the client says itself which one it is.
    let all_down = failure.code == Code::RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN;
    let failure = if all_down { &named(failure.clone(), servers, None) } else { failure };
    let what = partition.map_or_else(|| "reading from Kafka".to_owned(), |partition| format!("reading {partition}"));
    if kind(failure) == Kind::NotFound {
        let text = &failure.text;
        return ConnectError::not_found(match partition {
            // The client says no more than that its metadata has no such partition, and no topic ever has fewer.
            Some(partition) => format!(
                "{what}: topic {} was deleted, the brokers know no {partition} any more ({text}); create it again, or \
                 take it out of the connector's topics",
                partition.topic
            ),
            None => format!(
                "{what}: {text}; it was deleted, or never created: create it, or take it out of the connector's topics"
            ),
        });
    }
    if let Some(error) = same_instance(failure, &what, member) {
        return error;
    }
    let right = match partition {
        _ if failure.code == Code::RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED => format!("READ on group {group}"),
        Some(partition) => format!("READ on topic {}", partition.topic),
        None => "READ on it".to_owned(),
    };
    explain_needing(failure, what, right)
}

/// The topic that the brokers do not know, where `failure` says that.
pub(super) fn missing_topic(failure: &Failure, partition: Option<&TopicPartition>) -> Option<String> {
    if kind(failure) != Kind::NotFound {
        return None;
    }
    // Of a topic as a whole the client tells in words alone.
    let named = || failure.text.strip_prefix("Subscribed topic not available: ")?.split(':').next();
    partition.map(|partition| &*partition.topic).or_else(named).map(str::to_owned)
}

/// As [`explain`], of what such a member asks of its group.
pub(super) fn explain_asking(failure: &Failure, what: impl Display, member: &Membership) -> ConnectError {
    same_instance(failure, &what, member)
        .unwrap_or_else(|| explain_needing(failure, what, format!("READ on group {} and on its topics", member.group)))
}

/// That another member has the same `group.instance.id`, where it is about that.
fn same_instance(failure: &Failure, what: &impl Display, member: &Membership) -> Option<ConnectError> {
    let which = match failure.code {
        Code::RD_KAFKA_RESP_ERR_FENCED_INSTANCE_ID => "",
        Code::RD_KAFKA_RESP_ERR_UNRELEASED_INSTANCE_ID => {
            " (one that was killed counts until the broker ends its session)"
        }
        _ => return None,
    };
    let Membership { group, instance, .. } = member;
    Some(ConnectError::new(
        kind(failure),
        format!(
            "{what}: {}; two members of group {group} have group.instance.id={instance}{which}: remove it, or see \
             that a single task has it (tasks.max=1, and the connector on one worker only); then restart the task",
            failure.text
        ),
    ))
}

/// True where an ACL is missing.
pub(super) fn is_denied(code: Code) -> bool {
    use Code::*;
    matches!(
        code,
        RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED
            | RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED
            | RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED
            | RD_KAFKA_RESP_ERR_TRANSACTIONAL_ID_AUTHORIZATION_FAILED
    )
}

/// What helps where a record is too large, or only the batch that the client made of several: it splits none.
const TOO_LARGE: &str = "; raise max.request.size or the topic's max.message.bytes, or, where each record is smaller than \
    that, set the producer's batch.size below it (producer.override.batch.size)";

/// What helps where the broker's certificate is not trusted.
const UNTRUSTED: &str = "; name the PEM file of the authority that issued the broker's certificate in \
    ssl.truststore.location (with ssl.truststore.type=PEM), and see that the certificate has the name in \
    bootstrap.servers";

/// What helps where the broker wants a certificate of ours, or another one.
const REFUSED: &str = "; name the key and the certificate that the broker trusts in ssl.keystore.location (with \
    ssl.keystore.type=PEM or PKCS12)";

/// What a loop does about this failure. What is not known to be otherwise is retriable: librdkafka itself goes on.
pub(super) fn kind(failure: &Failure) -> Kind {
    use Code::*;
    match failure.code {
        _ if failure.is_login() || failure.is_certificate() || is_denied(failure.code) => Kind::Config,
        RD_KAFKA_RESP_ERR_INVALID_GROUP_ID
        | RD_KAFKA_RESP_ERR_INVALID_SESSION_TIMEOUT
        | RD_KAFKA_RESP_ERR_INCONSISTENT_GROUP_PROTOCOL
        | RD_KAFKA_RESP_ERR_TOPIC_EXCEPTION
        | RD_KAFKA_RESP_ERR_INVALID_PARTITIONS
        | RD_KAFKA_RESP_ERR_INVALID_REPLICATION_FACTOR
        | RD_KAFKA_RESP_ERR_INVALID_REPLICA_ASSIGNMENT
        | RD_KAFKA_RESP_ERR_INVALID_CONFIG
        | RD_KAFKA_RESP_ERR_POLICY_VIOLATION
        | RD_KAFKA_RESP_ERR_UNSUPPORTED_SASL_MECHANISM
        | RD_KAFKA_RESP_ERR__INVALID_ARG
        | RD_KAFKA_RESP_ERR__UNSUPPORTED_FEATURE => Kind::Config,
        RD_KAFKA_RESP_ERR_TOPIC_ALREADY_EXISTS
        | RD_KAFKA_RESP_ERR_NON_EMPTY_GROUP
        | RD_KAFKA_RESP_ERR_GROUP_SUBSCRIBED_TO_TOPIC => Kind::Conflict,
        RD_KAFKA_RESP_ERR_ILLEGAL_GENERATION
        | RD_KAFKA_RESP_ERR_UNKNOWN_MEMBER_ID
        | RD_KAFKA_RESP_ERR_FENCED_INSTANCE_ID
        | RD_KAFKA_RESP_ERR_FENCED_MEMBER_EPOCH
        | RD_KAFKA_RESP_ERR_STALE_MEMBER_EPOCH
        | RD_KAFKA_RESP_ERR_PRODUCER_FENCED
        | RD_KAFKA_RESP_ERR_INVALID_PRODUCER_EPOCH
        | RD_KAFKA_RESP_ERR__FENCED
        | RD_KAFKA_RESP_ERR__ASSIGNMENT_LOST => Kind::Fenced,
        RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE
        | RD_KAFKA_RESP_ERR_INVALID_MSG_SIZE
        | RD_KAFKA_RESP_ERR_INVALID_RECORD
        | RD_KAFKA_RESP_ERR_INVALID_TIMESTAMP
        | RD_KAFKA_RESP_ERR_RECORD_LIST_TOO_LARGE => Kind::Data,
        RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART
        | RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_ID
        | RD_KAFKA_RESP_ERR_GROUP_ID_NOT_FOUND
        | RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC
        | RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION => Kind::NotFound,
        RD_KAFKA_RESP_ERR__FATAL => Kind::Fatal,
        _ => Kind::Retriable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_certificate_is_no_passing_trouble_and_names_the_setting() {
        let ssl = |text: &str| Failure { code: Code::RD_KAFKA_RESP_ERR__SSL, text: text.to_owned() };
        let untrusted = ssl("SSL handshake failed: error:0A000086:SSL routines::certificate verify failed");
        let explained = explain(&untrusted, "listing the topics");
        assert_eq!(explained.kind(), Kind::Config);
        assert!(explained.message().contains("ssl.truststore.location"), "{explained}");
        let alert = "Receive failed: error:0A000412:SSL routines::sslv3 alert bad certificate: SSL alert number 42";
        let transport = |text: &str| Failure { code: Code::RD_KAFKA_RESP_ERR__TRANSPORT, text: text.to_owned() };
        let ours = explain(&transport(alert), "listing the topics");
        assert_eq!(ours.kind(), Kind::Config);
        assert!(ours.message().contains("ssl.keystore.location"), "{ours}");
        assert_eq!(kind(&ssl("SSL handshake failed: Disconnected")), Kind::Retriable);
        assert_eq!(kind(&transport("Disconnected while the certificate was read")), Kind::Retriable);
    }

    #[test]
    fn a_deleted_topic_is_told_as_that() {
        use Code::*;
        let orders = TopicPartition::new("orders", 3);
        for code in [RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION, RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART] {
            let failure = Failure { code, text: "desired partition is no longer available".to_owned() };
            let error = explain_reading(&failure, Some(&orders), &Membership::default());
            assert_eq!(error.kind(), Kind::NotFound);
            for words in ["reading orders-3: topic orders was deleted", "create it again, or take it out of"] {
                assert!(error.message().contains(words), "{error}");
            }
        }
        let text = "Subscribed topic not available: orders: Broker: Unknown topic or partition".to_owned();
        let failure = Failure { code: RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART, text };
        let error = explain_reading(&failure, None, &Membership::default());
        assert!(error.message().contains("orders: Broker") && error.message().contains("it was deleted, or never"));
        assert_eq!(missing_topic(&failure, None).as_deref(), Some("orders"));
        assert_eq!(missing_topic(&failure, Some(&TopicPartition::new("t", 0))).as_deref(), Some("t"));
        let denied = Failure { code: RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED, ..failure };
        assert_eq!(missing_topic(&denied, None), None);
    }

    #[test]
    fn a_static_member_hears_which_setting_another_has_too() {
        let member = Membership { group: "g".to_owned(), instance: "me".to_owned(), servers: String::new() };
        let told = |code| {
            let failure = Failure { code, text: "Fatal consumer error".to_owned() };
            explain_reading(&failure, None, &member).message().to_owned()
        };
        let fenced = told(Code::RD_KAFKA_RESP_ERR_FENCED_INSTANCE_ID);
        let says = "Fatal consumer error; two members of group g have group.instance.id=me: remove it, or";
        assert!(fenced.contains(says) && fenced.ends_with("restart the task"), "{fenced}");
        let refused = told(Code::RD_KAFKA_RESP_ERR_UNRELEASED_INSTANCE_ID);
        assert!(refused.contains("group.instance.id=me (one that was killed counts until"), "{refused}");
    }

    #[test]
    fn brokers_that_do_not_answer_are_named_with_what_keeps_them() {
        let failure = |code, text: &str| Failure { code, text: text.to_owned() };
        let why = || Some("Connection refused (after 0ms in state CONNECT)".to_owned());
        let named = |failure| named(failure, "kafka:9092", why()).text;
        let silent = named(failure(Code::RD_KAFKA_RESP_ERR__TIMED_OUT, "Local: Timed out"));
        let says =
            "Local: Timed out: no answer came from the brokers at bootstrap.servers=kafka:9092 (Connection refused)";
        assert!(silent.starts_with(says), "{silent}");
        assert!(silent.contains("; correct it, or see that"), "{silent}");
        let unresolved = named(failure(Code::RD_KAFKA_RESP_ERR__RESOLVE, "Connection refused, or so"));
        assert!(unresolved.contains("bootstrap.servers=kafka:9092;"), "nothing is said twice: {unresolved}");
        // What a broker answers, and what has another remedy, is not about where they are.
        for told in [
            failure(Code::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART, "Unknown topic"),
            failure(Code::RD_KAFKA_RESP_ERR__TRANSPORT, "SSL alert bad certificate"),
        ] {
            assert_eq!(named(told.clone()), told.text);
        }
    }
}
