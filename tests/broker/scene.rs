//! The scene of the bad-input tests: a broker, a healthy client that must not notice anything, strangers.

use std::time::Duration;

use ringlog_tests::broker::{Broker, unique};
use ringlog_tests::call::{create_topic, produce_values};
use ringlog_tests::wire::Client;

pub(crate) const CLOSE_PATIENCE: Duration = Duration::from_secs(10);
const GROWTH_MAX: u64 = 64 << 20;

/// A broker, a client that must not notice anything, and the memory before.
pub(crate) struct Scene {
    pub(crate) broker: Broker,
    pub(crate) healthy: Client,
    pub(crate) topic: String,
    produced: i64,
    resident_before: Option<u64>,
}

impl Scene {
    pub(crate) fn new(topic: &str) -> Self {
        Self::of(Broker::start(), topic)
    }

    pub(crate) fn of(broker: Broker, topic: &str) -> Self {
        let mut healthy = Client::connect(broker.address());
        let topic = unique(topic);
        create_topic(&mut healthy, &topic, 1, &[]);
        produce_values(&mut healthy, &topic, &["warm-up"]);
        // A foreign broker is a JVM: its resident memory says nothing.
        let resident_before = if broker.is_own() {
            broker.resident_bytes()
        } else {
            None
        };
        Self {
            broker,
            healthy,
            topic,
            produced: 1,
            resident_before,
        }
    }

    pub(crate) fn stranger(&self) -> Client {
        Client::connect(self.broker.address())
    }

    /// The healthy client produces: its offset shows that nothing else was appended.
    pub(crate) fn check(&mut self, after: &str) {
        let base = produce_values(&mut self.healthy, &self.topic, &[after]);
        assert_eq!(base, self.produced, "{after}: something was appended");
        self.produced += 1;
        let (Some(before), Some(now)) = (self.resident_before, self.broker.resident_bytes()) else {
            return;
        };
        assert!(
            now < before + GROWTH_MAX,
            "{after}: resident bytes grew from {before} to {now}"
        );
    }
}
