//! The brokers that clients see: this one, or each of its shards (`ringlog.shards.as.brokers`), with node
//! ids and ports that are counted on. It is one broker in all that is stored.

use super::problem::{Level, Problem};
use super::{BrokerConfig, EndPoint, Listener, Settings, long};

impl BrokerConfig {
    /// The brokers that clients see: one, or each shard.
    #[must_use]
    pub fn node_count(&self) -> usize {
        if self.ringlog.shards_as_brokers {
            self.ringlog.cores
        } else {
            1
        }
    }

    /// The node id that a shard's partitions and groups are told to be on.
    #[must_use]
    pub fn node_of(&self, shard: usize) -> i32 {
        let index = if self.ringlog.shards_as_brokers {
            shard
        } else {
            0
        };
        self.node_id + i32::try_from(index).unwrap_or(0)
    }

    /// Whether a node id is one of this process: all of them mean the same broker.
    #[must_use]
    pub fn is_own_node(&self, id: i32) -> bool {
        let index = id.checked_sub(self.node_id);
        let index = index.and_then(|index| usize::try_from(index).ok());
        index.is_some_and(|index| index < self.node_count())
    }
}

/// Node ids and ports of the brokers that clients see must be there, and be nobody else's.
pub(super) fn check(settings: &Settings, listeners: &[Listener], problems: &mut Vec<Problem>) {
    let name = "ringlog.shards.as.brokers";
    let cores = long(settings, "ringlog.cores");
    if !settings.boolean(name) || cores == 1 {
        return;
    }
    let mut refuse = |what: String, hint: &str| {
        problems.push(settings.problem(Level::Error, name, &what, hint));
    };
    let ports = |first: u16| i64::from(first)..i64::from(first) + cores;
    let bound = listeners.iter().map(|listener| &listener.bind);
    let bound: Vec<&EndPoint> = bound.filter(|bind| bind.port > 0).collect();
    for (index, bind) in bound.iter().enumerate() {
        let range = ports(bind.port);
        if range.end > 65536 {
            let what = format!("{cores} shards need {cores} ports from {bind} on");
            refuse(what, "ports end at 65535; begin lower");
        }
        let others = bound[index + 1..].iter();
        for other in others.filter(|other| ports(other.port).start < range.end) {
            if range.start < ports(other.port).end {
                let what = format!("{bind} and {other} need {cores} ports each, one a shard");
                refuse(what, "give them ports that are further apart");
            }
        }
    }
    for listener in listeners {
        let first = listener.advertised.port;
        if first > 0 && ports(first).end > 65536 {
            let what = format!("{cores} shards need {cores} advertised ports from {first} on");
            refuse(what, "ports end at 65535; begin lower");
        }
    }
    let node_id = settings.integer("broker.id").unwrap_or(0);
    if node_id + cores > i64::from(i32::MAX) {
        refuse(
            format!("{cores} shards need {cores} node ids from {node_id} on"),
            "give a smaller broker.id",
        );
    }
}
