//! `--shards-as-brokers`: clients find each partition and each group at the shard that has it, so that
//! no request takes a hop; and everything is there as well when they do not, or when the next start has
//! other shards.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use kafka_protocol::messages::create_topics_request::{CreatableReplicaAssignment, CreatableTopic};
use kafka_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_protocol::messages::{
    BrokerId, CreateTopicsRequest, DescribeClusterRequest, DescribeLogDirsRequest,
    FindCoordinatorRequest, ListGroupsRequest, MetadataRequest, MetadataResponse,
};
use ringlog_tests::broker::{Broker, Options, binary, wait_for};
use ringlog_tests::call::{
    create_topic, fetch_all, list_offset, produce, text, topic_id, topic_name,
};
use ringlog_tests::records::Batch;
use ringlog_tests::wire::Client;

use crate::groups::{commit, committed};
use crate::metrics::{ask, value};

const TOPIC: &str = "spread";
const PARTITIONS: i32 = 8;
const PATIENCE: Duration = Duration::from_secs(30);

fn options(cores: usize, is_on: bool) -> Options {
    let options = Options::default()
        .argument("--cores")
        .argument(&cores.to_string())
        .argument("--http")
        .argument("127.0.0.1:0");
    if is_on {
        options.argument("--shards-as-brokers")
    } else {
        options
    }
}

/// What clients know: the nodes, and who leads each partition.
#[derive(Debug, PartialEq, Eq)]
struct Known {
    nodes: BTreeMap<i32, SocketAddr>,
    leaders: Vec<i32>,
}

impl Known {
    fn ask(address: SocketAddr) -> Known {
        let response: MetadataResponse =
            Client::connect(address).call(9, &MetadataRequest::default().with_topics(None));
        assert_eq!(response.controller_id, BrokerId(0), "{response:?}");
        let rack = &response.brokers[0].rack;
        let is_there = |node: &MetadataResponseBroker| node.rack == *rack;
        assert!(response.brokers.iter().all(is_there), "{response:?}");
        let node = |node: &MetadataResponseBroker| {
            let address = format!("{}:{}", node.host, node.port);
            (node.node_id.0, address.parse().expect("an address"))
        };
        let nodes = response.brokers.iter().map(node).collect();
        let is_ours = |topic: &&MetadataResponseTopic| {
            topic
                .name
                .as_ref()
                .is_some_and(|name| name.as_str() == TOPIC)
        };
        let topic = response.topics.iter().find(is_ours).expect("the topic");
        let leader = |partition: &MetadataResponsePartition| {
            let leader = partition.leader_id;
            assert_eq!(partition.replica_nodes, [leader], "{response:?}");
            assert_eq!(partition.isr_nodes, [leader], "{response:?}");
            leader.0
        };
        let leaders = topic.partitions.iter().map(leader).collect();
        Known { nodes, leaders }
    }

    fn leader(&self, partition: i32) -> Client {
        let leader = self.leaders[usize::try_from(partition).expect("a number")];
        Client::connect(self.nodes[&leader])
    }
}

fn hops(broker: &Broker) -> f64 {
    let text = ask(broker.http(), "GET /metrics");
    let shards = text.matches("ringlog_shard_hops_total{").count();
    let of_shard = |shard| {
        value(
            &text,
            &format!("ringlog_shard_hops_total{{shard=\"{shard}\"}}"),
        )
    };
    (0..shards).map(of_shard).sum()
}

/// The paths of `/brokers/ids`, by ZooKeeper's word `dump`.
fn registered(broker: &Broker) -> BTreeSet<String> {
    let mut stream = TcpStream::connect(broker.zookeeper()).expect("it listens");
    stream.write_all(b"dump").expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers");
    let ids = answer.lines().map(str::trim);
    ids.filter_map(|line| line.strip_prefix("/brokers/ids/"))
        .map(str::to_owned)
        .collect()
}

fn send(client: &mut Client, partition: i32, value: &str) {
    let batch = Batch::of(&[value]).encode();
    let answer = produce(client, 9, TOPIC, partition, batch);
    assert_eq!(answer.error_code, 0, "{answer:?}");
}

#[test]
fn clients_that_ask_who_leads_need_no_hop_and_the_others_are_served_too() {
    let Some(mut broker) = Broker::own(options(2, true)) else {
        return;
    };
    let mut first = Client::connect(broker.address());
    create_topic(&mut first, TOPIC, PARTITIONS, &[]);
    let known = Known::ask(broker.address());
    assert_eq!(known.nodes.keys().copied().collect::<Vec<_>>(), [0, 1]);
    assert_eq!(known.nodes[&0], broker.address());
    let leading: BTreeSet<i32> = known.leaders.iter().copied().collect();
    assert_eq!(leading, BTreeSet::from([0, 1]), "each leads some of them");
    assert_eq!(
        Known::ask(known.nodes[&1]),
        known,
        "as the other node tells it"
    );
    let cluster = Client::connect(known.nodes[&1]).call(0, &DescribeClusterRequest::default());
    let ids: Vec<i32> = cluster
        .brokers
        .iter()
        .map(|node| node.broker_id.0)
        .collect();
    assert_eq!((ids, cluster.controller_id), (vec![0, 1], BrokerId(0)));
    assert_eq!(
        registered(&broker),
        BTreeSet::from(["0", "1"].map(str::to_owned))
    );
    let before = hops(&broker);
    let coordinators = go_where_the_answers_say(&mut first, &known);
    assert_eq!(hops(&broker) - before, 0.0, "hops");
    each_node_tells_of_what_it_has(&known, &coordinators);
    for partition in 0..PARTITIONS {
        send(&mut first, partition, "by anyone");
        assert_eq!(fetch_all(&mut first, TOPIC, partition).len(), 2);
    }
    assert!(hops(&broker) - before > 0.0, "nothing has counted the hops");
    assert_eq!(assigned_to(&mut first, "on-one", 1), 0);
    let refused = crate::error::INVALID_REPLICA_ASSIGNMENT;
    assert_eq!(assigned_to(&mut first, "on-two", 2), refused);
    // ZooKeeper's tool spreads partitions over all that is registered.
    let create = "--create --topic old --partitions 3 --replication-factor 1";
    topics(&broker, create);
    wait_for("the topic", PATIENCE, || topic_id(&mut first, "old"));
    topics(&broker, "--alter --topic old --partitions 5");
    wait_for("more partitions", PATIENCE, || {
        (list_offset(&mut first, 1, "old", 4, -1).0 == 0).then_some(())
    });

    // The next starts have other shards, or do not show them.
    for (cores, is_on, nodes) in [
        (1, true, vec![0]),
        (2, false, vec![0]),
        (2, true, vec![0, 1]),
    ] {
        broker.kill();
        broker.restart_with(options(cores, is_on));
        everything_is_there(&broker, &nodes, coordinators.keys());
    }
}

/// Produces, fetches and commits by the nodes that are told; gives each group's.
fn go_where_the_answers_say(first: &mut Client, known: &Known) -> BTreeMap<String, i32> {
    for partition in 0..PARTITIONS {
        let mut leader = known.leader(partition);
        send(&mut leader, partition, "by its leader");
        assert_eq!(fetch_all(&mut leader, TOPIC, partition).len(), 1);
    }
    let mut coordinators = BTreeMap::new();
    for group in ["a", "b", "c", "d", "e", "f", "g", "h"] {
        let request = FindCoordinatorRequest::default().with_key(text(group));
        let found = first.call(2, &request);
        assert_eq!(found.error_code, 0, "{found:?}");
        let address = known.nodes[&found.node_id.0];
        assert_eq!(i32::from(address.port()), found.port);
        let mut coordinator = Client::connect(address);
        assert_eq!(commit(&mut coordinator, 2, group, TOPIC, 7, (-1, "")), 0);
        assert_eq!(committed(&mut coordinator, 3, group, TOPIC).0, 7);
        coordinators.insert(group.to_owned(), found.node_id.0);
    }
    coordinators
}

fn each_node_tells_of_what_it_has(known: &Known, coordinators: &BTreeMap<String, i32>) {
    for (id, address) in &known.nodes {
        let mut node = Client::connect(*address);
        let listed = node.call(0, &ListGroupsRequest::default()).groups;
        let listed: BTreeSet<String> = listed.iter().map(|g| g.group_id.0.to_string()).collect();
        let own = coordinators.iter().filter(|(_, node)| *node == id);
        let own: BTreeSet<String> = own.map(|(group, _)| group.clone()).collect();
        assert_eq!(listed, own);
        let sizes = node.call(1, &DescribeLogDirsRequest::default().with_topics(None));
        let topics = sizes.results.iter().flat_map(|result| &result.topics);
        let ours = topics.filter(|topic| topic.name.as_str() == TOPIC);
        let partitions: Vec<i32> = ours
            .flat_map(|topic| &topic.partitions)
            .map(|partition| partition.partition_index)
            .collect();
        let led = (0..PARTITIONS)
            .zip(&known.leaders)
            .filter(|(_, l)| *l == id);
        assert_eq!(partitions, led.map(|(index, _)| index).collect::<Vec<_>>());
    }
}

fn everything_is_there<'a>(
    broker: &Broker,
    nodes: &[i32],
    groups: impl Iterator<Item = &'a String>,
) {
    let known = Known::ask(broker.address());
    assert_eq!(known.nodes.keys().copied().collect::<Vec<_>>(), *nodes);
    assert!(
        known.leaders.iter().all(|leader| nodes.contains(leader)),
        "{known:?}"
    );
    let ids: BTreeSet<String> = nodes.iter().map(i32::to_string).collect();
    assert_eq!(registered(broker), ids);
    for partition in 0..PARTITIONS {
        assert_eq!(
            fetch_all(&mut known.leader(partition), TOPIC, partition).len(),
            2
        );
    }
    for partition in 0..5 {
        let mut client = Client::connect(broker.address());
        assert_eq!(list_offset(&mut client, 1, "old", partition, -1).0, 0);
    }
    for group in groups {
        let mut client = Client::connect(broker.address());
        assert_eq!(
            committed(&mut client, 3, group, TOPIC).0,
            7,
            "group {group}"
        );
    }
    assert_eq!(
        fetch_all(&mut Client::connect(broker.address()), "on-one", 0).len(),
        0
    );
}

/// Kafka's tool of the time when it spoke to ZooKeeper.
fn topics(broker: &Broker, arguments: &str) {
    let zookeeper = broker.zookeeper().to_string();
    let output = Command::new(binary())
        .args(["kafka-topics", "--zookeeper", &zookeeper])
        .args(arguments.split(' '))
        .stdin(Stdio::null())
        .output()
        .expect("the binary is there");
    assert!(output.status.success(), "{arguments:?}: {output:?}");
}

/// Creates a topic whose partition a client puts on a node; gives the error code.
fn assigned_to(client: &mut Client, name: &str, node: i32) -> i16 {
    let assignment = CreatableReplicaAssignment::default()
        .with_partition_index(0)
        .with_broker_ids(vec![BrokerId(node)]);
    let topic = CreatableTopic::default()
        .with_name(topic_name(name))
        .with_num_partitions(-1)
        .with_replication_factor(-1)
        .with_assignments(vec![assignment]);
    let request = CreateTopicsRequest::default()
        .with_topics(vec![topic])
        .with_timeout_ms(30_000);
    client.call(5, &request).topics[0].error_code
}
