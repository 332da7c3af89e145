//! Creates the topics, deletes and re-creates one of them, and settles the books after each start.

use std::rc::Rc;

use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::delete_records_request::{
    DeleteRecordsPartition, DeleteRecordsTopic,
};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::{
    CreateTopicsRequest, DeleteRecordsRequest, DeleteTopicsRequest, MetadataRequest,
};
use ringlog_tests::call::{text, topic_name};
use ringlog_tests::random::Random;
use uuid::Uuid;

use crate::connection::{Connection, Lost};
use crate::consumer::read_all;
use crate::group::{committed, find_coordinator, is_passing};
use crate::ledger::{Ending, Existence};
use crate::producer::{Target, round};
use crate::scene::{FLEETING_TOPIC, STABLE_TOPICS, Scene, one_in, pick, within};

const UNKNOWN_TOPIC_OR_PARTITION: i16 = 3;
const TOPIC_ALREADY_EXISTS: i16 = 36;

/// What Metadata says of a topic: its id and its number of partitions.
async fn describe(
    scene: &Scene,
    connection: &mut Connection,
    name: &str,
) -> Result<Option<(Uuid, i32)>, Lost> {
    let wish = MetadataRequestTopic::default().with_name(Some(topic_name(name)));
    let request = MetadataRequest::default()
        .with_topics(Some(vec![wish]))
        .with_allow_auto_topic_creation(false);
    let answer = connection.call(12, &request).await?;
    let topic = &answer.topics[0];
    match topic.error_code {
        0 => {
            let partitions = i32::try_from(topic.partitions.len()).expect("few");
            for partition in &topic.partitions {
                if partition.error_code != 0 {
                    scene.tolerate("Metadata", partition.error_code);
                }
            }
            Ok(Some((topic.topic_id, partitions)))
        }
        UNKNOWN_TOPIC_OR_PARTITION => Ok(None),
        code => panic!("Metadata of {name}: error {code}"),
    }
}

/// Asks for a topic; true if it exists then.
async fn create(
    scene: &Scene,
    connection: &mut Connection,
    topic: usize,
    configs: &[(&str, &str)],
) -> Result<bool, Lost> {
    let name = scene.ledger.borrow().topic(topic).name.clone();
    let configs = configs.iter().map(|(key, value)| {
        CreatableTopicConfig::default()
            .with_name(text(key))
            .with_value(Some(text(value)))
    });
    let wish = CreatableTopic::default()
        .with_name(topic_name(&name))
        .with_num_partitions(scene.ledger.borrow().partitions(topic))
        .with_replication_factor(1)
        .with_configs(configs.collect());
    let request = CreateTopicsRequest::default()
        .with_topics(vec![wish])
        .with_timeout_ms(30_000);
    let answer = connection.call(7, &request).await?;
    let code = answer.topics[0].error_code;
    scene.tell(&format!(
        "create topic {name} (number {topic}): error {code}"
    ));
    match code {
        0 => {
            let mut ledger = scene.ledger.borrow_mut();
            ledger.topic_exists(topic, answer.topics[0].topic_id);
            ledger.count("topics created", 1);
            Ok(true)
        }
        TOPIC_ALREADY_EXISTS => {
            let found = describe(scene, connection, &name).await?;
            let (id, _) = found.expect("the broker says that it exists");
            scene.ledger.borrow_mut().topic_exists(topic, id);
            Ok(true)
        }
        code => {
            scene.tolerate("CreateTopics", code);
            Ok(false)
        }
    }
}

/// Asks for a topic's deletion; true if it is gone then.
async fn delete(scene: &Scene, connection: &mut Connection, topic: usize) -> Result<bool, Lost> {
    let name = scene.ledger.borrow().topic(topic).name.clone();
    scene.ledger.borrow_mut().doubt_topic(topic);
    let request = DeleteTopicsRequest::default()
        .with_topic_names(vec![topic_name(&name)])
        .with_timeout_ms(30_000);
    let answer = connection.call(5, &request).await?;
    let code = answer.responses[0].error_code;
    scene.tell(&format!(
        "delete topic {name} (number {topic}): error {code}"
    ));
    match code {
        0 | UNKNOWN_TOPIC_OR_PARTITION => {
            let mut ledger = scene.ledger.borrow_mut();
            ledger.topic_gone(topic);
            ledger.count("topics deleted", 1);
            Ok(true)
        }
        code => {
            scene.tolerate("DeleteTopics", code);
            Ok(false)
        }
    }
}

/// Asks for the deletion of some of the records of a partition.
async fn delete_records(
    scene: &Scene,
    connection: &mut Connection,
    random: &mut Random,
) -> Result<(), Lost> {
    let topic = pick(random, &[0, 0, 1]);
    let (name, partitions) = STABLE_TOPICS[topic];
    let partition = i32::try_from(random.below(partitions.unsigned_abs().into())).expect("few");
    let (start, end) = {
        let ledger = scene.ledger.borrow();
        let start = ledger.log_start(topic, partition);
        (start, ledger.high_watermark(topic, partition))
    };
    let some = random.below((end - start).max(0).unsigned_abs() + 1);
    let offset = match random.below(6) {
        0 => -1,
        _ => start + i64::try_from(some).expect("an offset"),
    };
    let unwanted = if offset < 0 { i64::MAX } else { offset };
    scene
        .ledger
        .borrow_mut()
        .unwanted(topic, partition, unwanted);
    let wish = DeleteRecordsPartition::default()
        .with_partition_index(partition)
        .with_offset(offset);
    let wish = DeleteRecordsTopic::default()
        .with_name(topic_name(name))
        .with_partitions(vec![wish]);
    let request = DeleteRecordsRequest::default()
        .with_topics(vec![wish])
        .with_timeout_ms(30_000);
    scene.tell(&format!(
        "delete records of {name}-{partition} below {offset}"
    ));
    let answer = connection.call(2, &request).await?;
    let answer = &answer.topics[0].partitions[0];
    scene.tell(&format!(
        "deleted records of {name}-{partition} below {offset}: error {}, below {}",
        answer.error_code, answer.low_watermark
    ));
    if answer.error_code != 0 {
        scene.tolerate("DeleteRecords", answer.error_code);
        return Ok(());
    }
    let mut ledger = scene.ledger.borrow_mut();
    let least = if offset < 0 { end } else { offset };
    ledger.show_log_start(topic, partition, answer.low_watermark, least.max(start));
    ledger.count("records deleted on demand", 1);
    Ok(())
}

/// Creates the stable topics, then lets the fleeting one come and go.
pub(crate) async fn administrate(scene: Rc<Scene>, mut random: Random) {
    while scene.is_open_with(0).await {
        let Ok(mut connection) = scene.connect() else {
            scene.pause(within(&mut random, 1, 20)).await;
            continue;
        };
        let _ = session(&scene, &mut connection, &mut random).await;
        scene.pause(within(&mut random, 1, 10)).await;
    }
}

async fn session(
    scene: &Scene,
    connection: &mut Connection,
    random: &mut Random,
) -> Result<(), Lost> {
    for (number, _) in STABLE_TOPICS.iter().enumerate() {
        let existence = scene.ledger.borrow().topic(number).existence;
        let configs: &[(&str, &str)] = if scene.ledger.borrow().topic(number).is_compacted {
            &[("cleanup.policy", "compact"), ("segment.bytes", "16384")]
        } else {
            &[]
        };
        if existence != Existence::Sure && !create(scene, connection, number, configs).await? {
            return Ok(());
        }
    }
    while scene.is_open_with(0).await {
        let newest = newest_fleeting(scene);
        let existence = newest.map(|topic| scene.ledger.borrow().topic(topic).existence);
        // A successor may be wanted while the broker still clears away what was.
        if existence != Some(Existence::Gone) || one_in(random, 2) {
            scene.pause(within(random, 1, 60)).await;
        }
        if one_in(random, 6) {
            delete_records(scene, connection, random).await?;
        }
        let is_done = match (newest, existence) {
            (Some(topic), Some(Existence::Wanted)) => create(scene, connection, topic, &[]).await?,
            (Some(topic), Some(Existence::Doubtful)) => delete(scene, connection, topic).await?,
            (Some(topic), Some(Existence::Sure)) => {
                use_fleeting(scene, connection, topic, random).await?;
                one_in(random, 2) || delete(scene, connection, topic).await?
            }
            (_, Some(Existence::Gone) | None) | (None, _) => {
                let partitions = i32::try_from(within(random, 1, 4)).expect("few");
                let topic = scene
                    .ledger
                    .borrow_mut()
                    .want_topic(FLEETING_TOPIC, partitions);
                let configs: &[(&str, &str)] = pick(
                    random,
                    &[
                        &[],
                        &[("segment.bytes", "4096")],
                        &[("index.interval.bytes", "1")],
                    ],
                );
                create(scene, connection, topic, configs).await?
            }
        };
        if !is_done {
            return Ok(());
        }
    }
    Ok(())
}

fn newest_fleeting(scene: &Scene) -> Option<usize> {
    let ledger = scene.ledger.borrow();
    let is_fleeting = |topic: &usize| ledger.topic(*topic).name == FLEETING_TOPIC;
    ledger.topics().rfind(is_fleeting)
}

async fn use_fleeting(
    scene: &Scene,
    connection: &mut Connection,
    topic: usize,
    random: &mut Random,
) -> Result<(), Lost> {
    let lane = scene.new_lane();
    let partitions = scene.ledger.borrow().partitions(topic);
    let targets: Vec<Target> = (0..partitions)
        .map(|partition| (topic, partition))
        .collect();
    for _ in 0..within(random, 0, 6) {
        round(scene, connection, lane, &targets, random).await?;
    }
    Ok(())
}

/// Settles the books with a broker that has just started, then opens the gate. Ends without that
/// if the broker dies meanwhile.
pub(crate) async fn settle(scene: Rc<Scene>, ending: Ending) {
    let generation = scene.generation.get();
    while scene.generation.get() == generation {
        match settle_anew(&scene, ending).await {
            Ok(true) if scene.generation.get() == generation => {
                scene.tell("the books are settled");
                scene.gate.set(true);
                return;
            }
            Ok(_) => {}
            Err(Lost) => scene.tell("after the start: a connection was lost"),
        }
        scene.pause(5).await;
    }
}

async fn settle_anew(scene: &Scene, ending: Ending) -> Result<bool, Lost> {
    let connection = &mut scene.connect()?;
    for name in STABLE_TOPICS
        .map(|(name, _)| name)
        .into_iter()
        .chain([FLEETING_TOPIC])
    {
        let found = describe(scene, connection, name).await?;
        scene.tell(&format!("after the start: topic {name}: {found:?}"));
        let topic = scene.ledger.borrow_mut().reconcile_topic(name, found);
        let Some(topic) = topic else { continue };
        let partitions = found.map_or(0, |(_, partitions)| partitions);
        for partition in 0..partitions {
            match read_all(scene, connection, (topic, partition)).await? {
                Ok(contents) => {
                    let (start, end) = (contents.start, contents.end);
                    scene.tell(&format!(
                        "after the start: {name}-{partition} has {start} to {end}"
                    ));
                    let target = (topic, partition);
                    let mut ledger = scene.ledger.borrow_mut();
                    ledger.reconcile(target, &contents, ending);
                }
                Err(code) => {
                    scene.tolerate("fetch", code);
                    scene.tell(&format!(
                        "after the start: {name}-{partition} answers error {code}"
                    ));
                    return Ok(false);
                }
            }
        }
    }
    let keys = scene.ledger.borrow().commit_keys();
    for key in keys {
        let (group, topic, partition) = &key;
        if !find_coordinator(scene, connection, group).await? {
            scene.tell(&format!(
                "after the start: group {group} has no coordinator"
            ));
            return Ok(false);
        }
        let (code, offset, metadata) = committed(connection, group, topic, *partition).await?;
        if code != 0 {
            scene.tell(&format!(
                "after the start: group {group} answers error {code}"
            ));
            assert!(is_passing(code), "OffsetFetch: error {code}");
            return Ok(false);
        }
        let mut ledger = scene.ledger.borrow_mut();
        ledger.reconcile_commit(&key, (offset, &metadata), ending);
    }
    Ok(true)
}
