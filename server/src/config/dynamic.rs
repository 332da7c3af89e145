//! Broker keys that may change while the broker runs (KIP-226): which they are, for whom they may
//! be set, and the checks of a change, in Kafka's words.
//!
//! Source: Kafka 3.9 `DynamicBrokerConfig.AllDynamicConfigs`. What Kafka changes while it runs but
//! Ringlog only at a start (listeners and their security) is refused, never stored to no effect.

use super::keys;
use super::topic::{self, InvalidConfig, Overrides};

/// For whom a dynamic key may be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// For all brokers or for one.
    Cluster,
    /// For one broker only; these are refused here.
    Broker,
}

/// Dynamic keys that do not back a topic key.
const CLUSTER_WIDE: &[&str] = &[
    "background.threads",
    "log.cleaner.backoff.ms",
    "log.cleaner.dedupe.buffer.size",
    "log.cleaner.io.buffer.load.factor",
    "log.cleaner.io.buffer.size",
    "log.cleaner.io.max.bytes.per.second",
    "log.cleaner.threads",
    "max.connection.creation.rate",
    "max.connections",
    "max.connections.per.ip",
    "max.connections.per.ip.overrides",
    "metric.reporters",
    "num.io.threads",
    "num.network.threads",
    "num.recovery.threads.per.data.dir",
    "num.replica.fetchers",
    "producer.id.expiration.ms",
    "remote.fetch.max.wait.ms",
    "remote.log.index.file.cache.total.size.bytes",
    "remote.log.manager.copy.max.bytes.per.second",
    "remote.log.manager.fetch.max.bytes.per.second",
    "transaction.partition.verification.enable",
];

/// Kafka's security keys that it takes with a listener's prefix only.
const SECURITY: &[&str] = &[
    "ssl.key.password",
    "ssl.keystore.certificate.chain",
    "ssl.keystore.key",
    "ssl.keystore.location",
    "ssl.keystore.password",
    "ssl.keystore.type",
    "ssl.truststore.certificates",
    "ssl.truststore.location",
    "ssl.truststore.password",
    "ssl.truststore.type",
];

/// The other keys that Kafka changes for one broker.
const PER_BROKER: &[&str] = &[
    "advertised.listeners",
    "listener.security.protocol.map",
    "listeners",
    "principal.builder.class",
    "sasl.enabled.mechanisms",
    "sasl.jaas.config",
    "sasl.kerberos.kinit.cmd",
    "sasl.kerberos.min.time.before.relogin",
    "sasl.kerberos.principal.to.local.rules",
    "sasl.kerberos.service.name",
    "sasl.kerberos.ticket.renew.jitter",
    "sasl.kerberos.ticket.renew.window.factor",
    "sasl.login.refresh.buffer.seconds",
    "sasl.login.refresh.min.period.seconds",
    "sasl.login.refresh.window.factor",
    "sasl.login.refresh.window.jitter",
    "sasl.mechanism.inter.broker.protocol",
    "ssl.cipher.suites",
    "ssl.client.auth",
    "ssl.enabled.protocols",
    "ssl.endpoint.identification.algorithm",
    "ssl.engine.factory.class",
    "ssl.keymanager.algorithm",
    "ssl.protocol",
    "ssl.provider",
    "ssl.secure.random.implementation",
    "ssl.trustmanager.algorithm",
];

/// How a key may change while the broker runs; `None` if it may not.
#[must_use]
pub fn scope(name: &str) -> Option<Scope> {
    // Of the broker keys that back a topic key, Kafka changes the first.
    let backs_topic_key = || {
        let first = |key: &topic::TopicKey| key.synonyms.first().map(|(synonym, _)| *synonym);
        let mut keys = topic::KEYS.iter();
        keys.any(|key| key.name != "message.format.version" && first(key) == Some(name))
    };
    if CLUSTER_WIDE.contains(&name) || backs_topic_key() {
        Some(Scope::Cluster)
    } else if PER_BROKER.contains(&name) || SECURITY.contains(&name) {
        Some(Scope::Broker)
    } else {
        None
    }
}

/// Checks all dynamic settings of one broker (or of all, if not `is_one_broker`).
///
/// # Errors
/// Kafka's message for what is wrong.
pub fn validate(overrides: &Overrides, is_one_broker: bool) -> Result<(), InvalidConfig> {
    let names = || overrides.keys().map(String::as_str);
    let refuse_any = |found: Vec<&str>, what: &str| {
        if found.is_empty() {
            return Ok(());
        }
        Err(InvalidConfig(format!("{what}: Set({})", found.join(", "))))
    };
    if let Some(name) = names().find(|name| keys::is_listener_key(name)) {
        return Err(InvalidConfig(format!(
            "Cannot update {name}: this release speaks PLAINTEXT without authentication on every \
             listener"
        )));
    }
    if let Some(name) = names().find(|name| keys::find(name).is_none()) {
        return Err(InvalidConfig(match keys::nearest(name) {
            Some(nearest) => {
                format!("Unknown broker config name: {name} (did you mean {nearest}?)")
            }
            None => format!("Unknown broker config name: {name}"),
        }));
    }
    let fixed = names().filter(|name| scope(name).is_none()).collect();
    refuse_any(fixed, "Cannot update these configs dynamically")?;
    let security = names().filter(|name| SECURITY.contains(name)).collect();
    refuse_any(
        security,
        "These security configs can be dynamically updated only per-listener using the listener \
         prefix",
    )?;
    for (name, text) in overrides {
        let key = keys::find(name).expect("unknown names were refused above");
        if let Err(malformed) = key.parse(text) {
            let (text, reason) = (text.trim(), malformed.kafka_reason);
            return Err(InvalidConfig(format!(
                "Invalid value {text} for configuration {name}: {reason}"
            )));
        }
    }
    let of_one_broker: Vec<&str> = names()
        .filter(|name| scope(name) == Some(Scope::Broker))
        .collect();
    if !is_one_broker {
        refuse_any(
            of_one_broker.clone(),
            "Cannot update these configs at default cluster level, broker id must be specified",
        )?;
    }
    refuse_any(
        of_one_broker,
        "These configs change at a restart only, set them in server.properties",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(name: &str, text: &str, is_one_broker: bool) -> String {
        let overrides = Overrides::from([(name.to_owned(), text.to_owned())]);
        match validate(&overrides, is_one_broker) {
            Ok(()) => String::new(),
            Err(error) => error.0,
        }
    }

    #[test]
    fn every_dynamic_key_is_known() {
        for name in CLUSTER_WIDE.iter().chain(SECURITY).chain(PER_BROKER) {
            assert!(keys::find(name).is_some(), "{name}");
        }
    }

    #[test]
    fn a_change_is_taken_or_refused_with_kafkas_words() {
        assert_eq!(message("message.max.bytes", "5", false), "");
        assert_eq!(message("log.retention.ms", "5", true), "");
        assert_eq!(message("log.cleaner.threads", "2", false), "");
        assert_eq!(
            message("log.retention.hours", "5", true),
            "Cannot update these configs dynamically: Set(log.retention.hours)"
        );
        assert_eq!(
            message("message.max.bytes", "x", true),
            "Invalid value x for configuration message.max.bytes: Not a number of type INT"
        );
        assert_eq!(
            message("listeners", "PLAINTEXT://:1", false),
            "Cannot update these configs at default cluster level, broker id must be specified: \
             Set(listeners)"
        );
        assert!(message("listeners", "PLAINTEXT://:1", true).contains("restart"));
        assert!(message("ssl.keystore.type", "PEM", true).contains("listener prefix"));
        assert!(message("listener.name.x.ssl.keystore.type", "PEM", true).contains("PLAINTEXT"));
        assert!(message("mesage.max.bytes", "5", true).contains("message.max.bytes"));
    }
}
