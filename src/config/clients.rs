//! The settings of Kafka's own clients, as the Java clients 4.3 declare them: what `validate` shows as the definition
//! of an overridden client setting, and which unprefixed worker keys are client settings at all.
//!
//! Pure data. What librdkafka makes of a setting is the business of the Kafka floor, not of this table.

use std::sync::LazyLock;

use lakeferry_api::config_def::{ConfigKey, ConfigType, Importance};

use super::overrides::Client;

/// The definition of `key` (without prefix) for this kind of client; `None` for a key that the client does not know.
pub fn definition(client: Client, key: &str) -> Option<&'static ConfigKey> {
    let matches = |(clients, row): &&(String, ConfigKey)| clients.contains(letter(client)) && row.name == key;
    ROWS.iter().find(matches).map(|(_, row)| row)
}

/// True where some kind of client knows `key`.
pub fn is_known(key: &str) -> bool {
    ROWS.iter().any(|(_, row)| row.name == key)
}

fn letter(client: Client) -> char {
    match client {
        Client::Producer => 'P',
        Client::Consumer => 'C',
        Client::Admin => 'A',
    }
}

static ROWS: LazyLock<Vec<(String, ConfigKey)>> = LazyLock::new(|| TABLE.lines().filter_map(row).collect());

fn row(line: &str) -> Option<(String, ConfigKey)> {
    let mut words = line.split_ascii_whitespace();
    let (clients, importance, kind, name) = (words.next()?, words.next()?, words.next()?, words.next()?);
    let kinds = [
        ConfigType::Boolean,
        ConfigType::String,
        ConfigType::Int,
        ConfigType::Short,
        ConfigType::Long,
        ConfigType::Double,
        ConfigType::List,
        ConfigType::Class,
        ConfigType::Password,
    ];
    let kind = kinds.into_iter().find(|known| known.name() == kind)?;
    let importances = [Importance::High, Importance::Medium, Importance::Low];
    let importance = importances.into_iter().find(|known| known.name() == importance)?;
    let key = ConfigKey::new(name, kind).importance(importance);
    let key = match line.split_once(" =") {
        Some((_, default)) => key.default(default),
        None if line.ends_with('!') => key,
        None => key.default_null(),
    };
    Some((clients.to_owned(), key))
}

/// A row: which clients (producer, consumer, admin), importance, type, key, and `=default` or `!` where it is required.
const TABLE: &str = "\
P-- LOW    STRING   acks =all
-C- MEDIUM BOOLEAN  allow.auto.create.topics =true
-C- LOW    INT      auto.commit.interval.ms =5000
-C- MEDIUM STRING   auto.offset.reset =latest
P-- MEDIUM INT      batch.size =16384
--A HIGH   LIST     bootstrap.controllers =
PC- HIGH   LIST     bootstrap.servers !
--A HIGH   LIST     bootstrap.servers =
P-- HIGH   LONG     buffer.memory =33554432
-C- LOW    BOOLEAN  check.crcs =true
PCA MEDIUM STRING   client.dns.lookup =use_all_dns_ips
P-A MEDIUM STRING   client.id =
-C- LOW    STRING   client.id =
-C- LOW    STRING   client.rack =
P-- MEDIUM INT      compression.gzip.level =-1
P-- MEDIUM INT      compression.lz4.level =9
P-- HIGH   STRING   compression.type =none
P-- MEDIUM INT      compression.zstd.level =3
PCA LOW    LIST     config.providers =
PC- MEDIUM LONG     connections.max.idle.ms =540000
--A MEDIUM LONG     connections.max.idle.ms =300000
-CA MEDIUM INT      default.api.timeout.ms =60000
P-- MEDIUM INT      delivery.timeout.ms =120000
-C- MEDIUM BOOLEAN  enable.auto.commit =true
P-- LOW    BOOLEAN  enable.idempotence =true
PC- LOW    BOOLEAN  enable.metrics.push =true
--A LOW    BOOLEAN  enable.metrics.push =false
-C- MEDIUM BOOLEAN  exclude.internal.topics =true
-C- MEDIUM INT      fetch.max.bytes =52428800
-C- LOW    INT      fetch.max.wait.ms =500
-C- HIGH   INT      fetch.min.bytes =1
-C- HIGH   STRING   group.id
-C- MEDIUM STRING   group.instance.id
-C- HIGH   STRING   group.protocol =classic
-C- MEDIUM STRING   group.remote.assignor
-C- HIGH   INT      heartbeat.interval.ms =3000
PC- LOW    LIST     interceptor.classes =
-C- LOW    BOOLEAN  internal.throw.on.fetch.stable.offset.unsupported =false
-C- MEDIUM STRING   isolation.level =read_uncommitted
-C- HIGH   CLASS    key.deserializer !
P-- HIGH   CLASS    key.serializer !
P-- MEDIUM LONG     linger.ms =5
P-- MEDIUM LONG     max.block.ms =60000
P-- LOW    INT      max.in.flight.requests.per.connection =5
-C- HIGH   INT      max.partition.fetch.bytes =1048576
-C- MEDIUM INT      max.poll.interval.ms =300000
-C- MEDIUM INT      max.poll.records =500
P-- MEDIUM INT      max.request.size =1048576
PCA LOW    LONG     metadata.max.age.ms =300000
P-- LOW    LONG     metadata.max.idle.ms =300000
PCA LOW    LONG     metadata.recovery.rebootstrap.trigger.ms =300000
PCA LOW    STRING   metadata.recovery.strategy =rebootstrap
PCA LOW    LIST     metric.reporters =org.apache.kafka.common.metrics.JmxReporter
PCA LOW    INT      metrics.num.samples =2
PCA LOW    STRING   metrics.recording.level =INFO
PCA LOW    LONG     metrics.sample.window.ms =30000
-C- MEDIUM LIST     partition.assignment.strategy =class org.apache.kafka.clients.consumer.RangeAssignor,class org.apache.kafka.clients.consumer.CooperativeStickyAssignor
P-- LOW    BOOLEAN  partitioner.adaptive.partitioning.enable =true
P-- LOW    LONG     partitioner.availability.timeout.ms =0
P-- MEDIUM CLASS    partitioner.class
P-- MEDIUM BOOLEAN  partitioner.ignore.keys =false
P-- MEDIUM INT      receive.buffer.bytes =32768
-CA MEDIUM INT      receive.buffer.bytes =65536
PCA LOW    LONG     reconnect.backoff.max.ms =1000
PCA LOW    LONG     reconnect.backoff.ms =50
PCA MEDIUM INT      request.timeout.ms =30000
P-- HIGH   INT      retries =2147483647
--A LOW    INT      retries =2147483647
PCA LOW    LONG     retry.backoff.max.ms =1000
PCA LOW    LONG     retry.backoff.ms =100
PCA MEDIUM CLASS    sasl.client.callback.handler.class
PCA MEDIUM PASSWORD sasl.jaas.config
PCA LOW    STRING   sasl.kerberos.kinit.cmd =/usr/bin/kinit
PCA LOW    LONG     sasl.kerberos.min.time.before.relogin =60000
PCA MEDIUM STRING   sasl.kerberos.service.name
PCA LOW    DOUBLE   sasl.kerberos.ticket.renew.jitter =0.05
PCA LOW    DOUBLE   sasl.kerberos.ticket.renew.window.factor =0.8
PCA MEDIUM CLASS    sasl.login.callback.handler.class
PCA MEDIUM CLASS    sasl.login.class
PCA LOW    INT      sasl.login.connect.timeout.ms
PCA LOW    INT      sasl.login.read.timeout.ms
PCA LOW    SHORT    sasl.login.refresh.buffer.seconds =300
PCA LOW    SHORT    sasl.login.refresh.min.period.seconds =60
PCA LOW    DOUBLE   sasl.login.refresh.window.factor =0.8
PCA LOW    DOUBLE   sasl.login.refresh.window.jitter =0.05
PCA LOW    LONG     sasl.login.retry.backoff.max.ms =10000
PCA LOW    LONG     sasl.login.retry.backoff.ms =100
PCA MEDIUM STRING   sasl.mechanism =GSSAPI
PCA MEDIUM STRING   sasl.oauthbearer.assertion.algorithm =RS256
PCA MEDIUM STRING   sasl.oauthbearer.assertion.claim.aud
PCA LOW    INT      sasl.oauthbearer.assertion.claim.exp.seconds =300
PCA MEDIUM STRING   sasl.oauthbearer.assertion.claim.iss
PCA MEDIUM BOOLEAN  sasl.oauthbearer.assertion.claim.jti.include =false
PCA LOW    INT      sasl.oauthbearer.assertion.claim.nbf.seconds =60
PCA MEDIUM STRING   sasl.oauthbearer.assertion.claim.sub
PCA MEDIUM STRING   sasl.oauthbearer.assertion.file
PCA MEDIUM STRING   sasl.oauthbearer.assertion.private.key.file
PCA MEDIUM PASSWORD sasl.oauthbearer.assertion.private.key.passphrase
PCA MEDIUM STRING   sasl.oauthbearer.assertion.template.file
PCA MEDIUM STRING   sasl.oauthbearer.client.credentials.client.id
PCA MEDIUM PASSWORD sasl.oauthbearer.client.credentials.client.secret
PCA LOW    INT      sasl.oauthbearer.clock.skew.seconds =30
PCA HIGH   LIST     sasl.oauthbearer.expected.audience =
PCA HIGH   STRING   sasl.oauthbearer.expected.issuer
PCA LOW    BOOLEAN  sasl.oauthbearer.header.urlencode =false
PCA LOW    LONG     sasl.oauthbearer.jwks.endpoint.refresh.ms =3600000
PCA LOW    LONG     sasl.oauthbearer.jwks.endpoint.retry.backoff.max.ms =10000
PCA LOW    LONG     sasl.oauthbearer.jwks.endpoint.retry.backoff.ms =100
PCA MEDIUM STRING   sasl.oauthbearer.jwks.endpoint.url
PCA MEDIUM CLASS    sasl.oauthbearer.jwt.retriever.class =org.apache.kafka.common.security.oauthbearer.DefaultJwtRetriever
PCA MEDIUM CLASS    sasl.oauthbearer.jwt.validator.class =org.apache.kafka.common.security.oauthbearer.DefaultJwtValidator
PCA MEDIUM STRING   sasl.oauthbearer.scope
PCA LOW    STRING   sasl.oauthbearer.scope.claim.name =scope
PCA LOW    STRING   sasl.oauthbearer.sub.claim.name =sub
PCA MEDIUM STRING   sasl.oauthbearer.token.endpoint.url
PCA MEDIUM STRING   security.protocol =PLAINTEXT
PCA LOW    STRING   security.providers
PCA MEDIUM INT      send.buffer.bytes =131072
-C- HIGH   INT      session.timeout.ms =45000
-C- MEDIUM STRING   share.acknowledgement.mode =implicit
-C- MEDIUM STRING   share.acquire.mode =BATCH_OPTIMIZED
PCA MEDIUM LONG     socket.connection.setup.timeout.max.ms =30000
PCA MEDIUM LONG     socket.connection.setup.timeout.ms =10000
PCA LOW    LIST     ssl.cipher.suites =
PCA MEDIUM LIST     ssl.enabled.protocols =TLSv1.2,TLSv1.3
PCA LOW    STRING   ssl.endpoint.identification.algorithm =https
PCA LOW    CLASS    ssl.engine.factory.class
PCA HIGH   PASSWORD ssl.key.password
PCA LOW    STRING   ssl.keymanager.algorithm =SunX509
PCA HIGH   PASSWORD ssl.keystore.certificate.chain
PCA HIGH   PASSWORD ssl.keystore.key
PCA HIGH   STRING   ssl.keystore.location
PCA HIGH   PASSWORD ssl.keystore.password
PCA MEDIUM STRING   ssl.keystore.type =JKS
PCA MEDIUM STRING   ssl.protocol =TLSv1.3
PCA MEDIUM STRING   ssl.provider
PCA LOW    STRING   ssl.secure.random.implementation
PCA LOW    STRING   ssl.trustmanager.algorithm =PKIX
PCA HIGH   PASSWORD ssl.truststore.certificates
PCA HIGH   STRING   ssl.truststore.location
PCA HIGH   PASSWORD ssl.truststore.password
PCA MEDIUM STRING   ssl.truststore.type =JKS
P-- LOW    INT      transaction.timeout.ms =60000
P-- LOW    BOOLEAN  transaction.two.phase.commit.enable =false
P-- LOW    STRING   transactional.id
-C- HIGH   CLASS    value.deserializer !
P-- HIGH   CLASS    value.serializer !
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_read() {
        assert_eq!(ROWS.len(), TABLE.lines().count());
        assert_eq!(ROWS.iter().filter(|(clients, _)| clients.contains('P')).count(), 113);
        assert_eq!(ROWS.iter().filter(|(clients, _)| clients.contains('C')).count(), 116);
        assert_eq!(ROWS.iter().filter(|(clients, _)| clients.contains('A')).count(), 91);
    }

    #[test]
    fn the_same_key_may_differ_by_client() {
        assert!(definition(Client::Consumer, "bootstrap.servers").unwrap().is_required());
        assert!(!definition(Client::Admin, "bootstrap.servers").unwrap().is_required());
        assert!(definition(Client::Admin, "acks").is_none() && is_known("acks") && !is_known("ack"));
    }
}
