//! A disk that is slow: answers that need it wait, all others come at once, and nothing is lost.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::{
    ApiVersionsRequest, CreateTopicsRequest, ListOffsetsRequest, MetadataRequest, ProduceRequest,
};
use ringlog::config::{BrokerConfig, Layers};
use ringlog::metadata::ensemble::SimulatedTree;
use ringlog_engine::io::sim::World;
use ringlog_tests::call::{produce_request, topic_name};
use ringlog_tests::records::Batch;

use crate::connection::Connection;
use crate::crowd::Crowd;
use crate::node::{LISTENER, Node, Phase};

/// How long the disk stands still.
const STALL: Duration = Duration::from_secs(20);
/// What needs no disk is answered within this simulated time: network and turns.
const AT_ONCE: Duration = Duration::from_millis(100);
const PATIENCE: Duration = Duration::from_secs(60);
const TOPIC: &str = "alpha";

#[test]
fn a_slow_disk_delays_answers_that_need_it_and_no_others() {
    for shards in [1, 2] {
        let world = World::new(shards);
        let overrides = [
            format!("ringlog.cores={shards}"),
            "log.dirs=/data/a".to_owned(),
            "ringlog.data.dir=/data/ringlog".to_owned(),
        ];
        let layers = Layers {
            overrides: overrides.to_vec(),
            ..Layers::default()
        };
        let loaded = BrokerConfig::load(&layers).unwrap_or_else(|error| panic!("{error}"));
        let zookeeper = Rc::new(RefCell::new(SimulatedTree::new(1)));
        let node = Node::start(&world, &loaded.config, &zookeeper, 1);
        let is_serving = || node.phase() == Phase::Serving;
        assert!(
            world.run(node.ios(), PATIENCE, is_serving),
            "{:?}",
            node.phase()
        );
        let crowd = Crowd::new(&world);
        let answered = Rc::new(Cell::new(0));
        crowd.spawn(clients(crowd.clone(), answered.clone()));
        let end = world.now() + 2 * PATIENCE;
        while !crowd.is_empty() {
            assert!(world.now() < end, "the clients do not end");
            world.run(node.ios(), Duration::from_millis(1), || {
                crowd.poll();
                crowd.is_empty()
            });
        }
        assert_eq!(answered.get(), 6, "{shards} shards");
        node.kill();
    }
}

async fn clients(crowd: Crowd, answered: Rc<Cell<u32>>) {
    let connect = || Connection::open(&crowd, LISTENER, PATIENCE).expect("it listens");
    let (mut producer, mut other) = (connect(), connect());
    let wish = CreatableTopic::default()
        .with_name(topic_name(TOPIC))
        .with_num_partitions(2)
        .with_replication_factor(1);
    let create = CreateTopicsRequest::default()
        .with_topics(vec![wish])
        .with_timeout_ms(30_000);
    let made = producer.call(7, &create).await.expect("an answer");
    assert_eq!(made.topics[0].error_code, 0);
    let produced = producer.call(9, &produce(0)).await.expect("an answer");
    assert_eq!(code(&produced), 0);
    answered.set(answered.get() + 1);

    crowd.world().stall_disk(STALL);
    let began = crowd.now();
    let tickets = [0, 1].map(|partition| producer.send(9, &produce(partition)));
    // Whoever needs no disk does not notice, on whatever shard the connection is.
    for _ in 0..3 {
        let before = crowd.now();
        let metadata = other.call(12, &all_topics()).await;
        assert_eq!(metadata.expect("an answer").topics[0].error_code, 0);
        let versions = other.call(2, &ApiVersionsRequest::default()).await;
        assert_eq!(versions.expect("an answer").error_code, 0);
        let latest = other.call(5, &latest()).await.expect("an answer");
        assert_eq!(latest.topics[0].partitions[0].error_code, 0);
        let took = crowd.now().since(before);
        assert!(took < AT_ONCE, "metadata took {took:?}");
        crowd.sleep(STALL / 5).await;
        answered.set(answered.get() + 1);
    }
    for ticket in tickets {
        let produced = producer.receive::<ProduceRequest>(ticket).await;
        assert_eq!(code(&produced.expect("an answer")), 0);
        let took = crowd.now().since(began);
        assert!(
            took >= STALL,
            "acknowledged after {took:?}, before the disk had it"
        );
        answered.set(answered.get() + 1);
    }
}

fn produce(partition: i32) -> ProduceRequest {
    let batch = Batch::of(&["a record"]);
    produce_request(TOPIC, partition, -1, batch.encode())
}

fn code(answer: &kafka_protocol::messages::ProduceResponse) -> i16 {
    answer.responses[0].partition_responses[0].error_code
}

fn latest() -> ListOffsetsRequest {
    let partition = ListOffsetsPartition::default()
        .with_partition_index(0)
        .with_timestamp(-1);
    let topic = ListOffsetsTopic::default()
        .with_name(topic_name(TOPIC))
        .with_partitions(vec![partition]);
    ListOffsetsRequest::default().with_topics(vec![topic])
}

fn all_topics() -> MetadataRequest {
    MetadataRequest::default().with_topics(None)
}
