//! Consumer groups: members that join, sync, beat, commit and leave, and a consumer that only
//! commits. Each commit carries a token in its metadata, so that what is found later tells which
//! commit it was.

use std::rc::Rc;

use bytes::Bytes;
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestTopic;
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::{
    FindCoordinatorRequest, GroupId, HeartbeatRequest, JoinGroupRequest, LeaveGroupRequest,
    OffsetCommitRequest, OffsetFetchRequest, SyncGroupRequest,
};
use ringlog_tests::call::{text, topic_name};
use ringlog_tests::random::Random;

use crate::connection::{Connection, Lost};
use crate::scene::{STABLE_TOPICS, Scene, one_in, within};

const COORDINATOR_LOAD_IN_PROGRESS: i16 = 14;
const COORDINATOR_NOT_AVAILABLE: i16 = 15;
const NOT_COORDINATOR: i16 = 16;
const ILLEGAL_GENERATION: i16 = 22;
const UNKNOWN_MEMBER_ID: i16 = 25;
const REBALANCE_IN_PROGRESS: i16 = 27;
const MEMBER_ID_REQUIRED: i16 = 79;
/// The group whose members share partitions.
const SHARED: &str = "members";
/// The group of the consumer that only commits.
const SIMPLE: &str = "simple";

/// Looks for the coordinator, which creates `__consumer_offsets`; false if it is not available.
pub(crate) async fn find_coordinator(
    scene: &Scene,
    connection: &mut Connection,
    group: &str,
) -> Result<bool, Lost> {
    let request = FindCoordinatorRequest::default().with_key(text(group));
    let answer = connection.call(1, &request).await?;
    if answer.error_code != 0 {
        scene.tolerate("FindCoordinator", answer.error_code);
    }
    Ok(answer.error_code == 0)
}

/// Whether an error says that the member must join again.
fn is_rebalance(code: i16) -> bool {
    matches!(
        code,
        ILLEGAL_GENERATION | UNKNOWN_MEMBER_ID | REBALANCE_IN_PROGRESS
    )
}

/// A member between its join and the next.
struct Membership {
    member: String,
    generation: i32,
}

/// Commits one offset; `None` is a consumer without membership. Gives the error code.
async fn commit(
    scene: &Scene,
    connection: &mut Connection,
    (group, membership): (&str, Option<&Membership>),
    (topic, partition): (&str, i32),
    offset: i64,
) -> Result<i16, Lost> {
    let token = scene
        .ledger
        .borrow_mut()
        .commit(group, topic, partition, offset);
    let wish = OffsetCommitRequestPartition::default()
        .with_partition_index(partition)
        .with_committed_offset(offset)
        .with_committed_metadata(Some(text(&format!("c{token}"))));
    let topics = OffsetCommitRequestTopic::default()
        .with_name(topic_name(topic))
        .with_partitions(vec![wish]);
    let mut request = OffsetCommitRequest::default()
        .with_group_id(GroupId(text(group)))
        .with_generation_id_or_member_epoch(-1)
        .with_topics(vec![topics]);
    if let Some(membership) = membership {
        request.generation_id_or_member_epoch = membership.generation;
        request.member_id = text(&membership.member);
    }
    let answer = connection.call(7, &request).await?;
    let code = answer.topics[0].partitions[0].error_code;
    scene.tell(&format!(
        "group {group}: commit c{token} of {offset} to {topic}-{partition}: error {code}"
    ));
    let mut ledger = scene.ledger.borrow_mut();
    match code {
        0 => ledger.committed(group, topic, partition, token),
        code if is_rebalance(code) => ledger.commit_refused(group, topic, partition, token),
        code => {
            drop(ledger);
            scene.tolerate("OffsetCommit", code);
        }
    }
    Ok(code)
}

/// What a group has committed for a partition: error code, offset, metadata.
pub(crate) async fn committed(
    connection: &mut Connection,
    group: &str,
    topic: &str,
    partition: i32,
) -> Result<(i16, i64, String), Lost> {
    let wish = OffsetFetchRequestTopic::default()
        .with_name(topic_name(topic))
        .with_partition_indexes(vec![partition]);
    let request = OffsetFetchRequest::default()
        .with_group_id(GroupId(text(group)))
        .with_topics(Some(vec![wish]));
    let answer = connection.call(5, &request).await?;
    if answer.error_code != 0 {
        return Ok((answer.error_code, -1, String::new()));
    }
    let found = &answer.topics[0].partitions[0];
    let metadata = found.metadata.as_ref().map_or("", |text| text.as_str());
    Ok((
        found.error_code,
        found.committed_offset,
        metadata.to_owned(),
    ))
}

/// A consumer that commits without being a member, and reads back what it committed.
pub(crate) async fn simple(scene: Rc<Scene>, mut random: Random) {
    let mut offset = 0;
    while scene.is_open().await {
        let Ok(mut connection) = scene.connect() else {
            scene.pause(within(&mut random, 1, 20)).await;
            continue;
        };
        let _ = simple_session(&scene, &mut connection, &mut offset, &mut random).await;
        scene.pause(within(&mut random, 0, 20)).await;
    }
}

async fn simple_session(
    scene: &Scene,
    connection: &mut Connection,
    offset: &mut i64,
    random: &mut Random,
) -> Result<(), Lost> {
    if !find_coordinator(scene, connection, SIMPLE).await? {
        return Ok(());
    }
    let (topic, _) = STABLE_TOPICS[0];
    for _ in 0..within(random, 1, 20) {
        *offset += 1;
        let code = commit(scene, connection, (SIMPLE, None), (topic, 0), *offset).await?;
        if code == 0 && one_in(random, 3) {
            let (code, found, _) = committed(connection, SIMPLE, topic, 0).await?;
            if code == 0 {
                assert_eq!(found, *offset, "the offset just committed");
            } else {
                scene.tolerate("OffsetFetch", code);
            }
        }
        if !scene.is_open().await {
            return Ok(());
        }
        scene.pause(within(random, 0, 10)).await;
    }
    Ok(())
}

/// A member of the shared group.
pub(crate) async fn member(scene: Rc<Scene>, mut random: Random) {
    let mut id = String::new();
    while scene.is_open().await {
        let Ok(mut connection) = scene.connect() else {
            scene.pause(within(&mut random, 1, 20)).await;
            continue;
        };
        let _ = session(&scene, &mut connection, &mut id, &mut random).await;
        if one_in(&mut random, 3) {
            // A new instance: the old member's session expires.
            id.clear();
        }
        scene.pause(within(&mut random, 0, 20)).await;
    }
}

async fn session(
    scene: &Scene,
    connection: &mut Connection,
    id: &mut String,
    random: &mut Random,
) -> Result<(), Lost> {
    if !find_coordinator(scene, connection, SHARED).await? {
        return Ok(());
    }
    for _ in 0..within(random, 1, 5) {
        let Some((membership, mine)) = join(scene, connection, id).await? else {
            if !scene.is_open().await {
                return Ok(());
            }
            scene.pause(within(random, 1, 10)).await;
            continue;
        };
        scene
            .ledger
            .borrow_mut()
            .count("group generations joined", 1);
        for _ in 0..within(random, 1, 20) {
            let code = beat(scene, connection, &membership, &mine, random).await?;
            if is_rebalance(code) {
                break;
            }
            if !scene.is_open().await {
                return leave(connection, &membership).await;
            }
            scene.pause(within(random, 1, 30)).await;
        }
        if one_in(random, 4) {
            id.clear();
            return leave(connection, &membership).await;
        }
    }
    Ok(())
}

/// Joins and syncs: the membership, and the numbers of the partitions assigned.
#[expect(
    clippy::too_many_lines,
    reason = "one exchange, read from top to bottom"
)]
async fn join(
    scene: &Scene,
    connection: &mut Connection,
    id: &mut String,
) -> Result<Option<(Membership, Vec<u8>)>, Lost> {
    let protocol = JoinGroupRequestProtocol::default()
        .with_name(text("range"))
        .with_metadata(Bytes::from_static(b"any"));
    let request = JoinGroupRequest::default()
        .with_group_id(GroupId(text(SHARED)))
        .with_session_timeout_ms(1000)
        .with_rebalance_timeout_ms(1000)
        .with_member_id(text(id))
        .with_protocol_type(text("consumer"))
        .with_protocols(vec![protocol]);
    let answer = connection.call(5, &request).await?;
    match answer.error_code {
        0 => {}
        MEMBER_ID_REQUIRED => {
            *id = answer.member_id.to_string();
            return Ok(None);
        }
        code if is_rebalance(code) => {
            id.clear();
            return Ok(None);
        }
        code => {
            scene.tolerate("JoinGroup", code);
            return Ok(None);
        }
    }
    *id = answer.member_id.to_string();
    let membership = Membership {
        member: id.clone(),
        generation: answer.generation_id,
    };
    scene.tell(&format!(
        "member {id} joined generation {}",
        membership.generation
    ));
    // The leader deals the partitions out; an assignment says for whom and when it was made.
    let members: Vec<String> = answer
        .members
        .iter()
        .map(|m| m.member_id.to_string())
        .collect();
    assert_eq!(
        members.is_empty(),
        answer.leader != answer.member_id,
        "{answer:?}"
    );
    let partitions = STABLE_TOPICS[0].1;
    let assignments = (0..).zip(&members).map(|(index, member)| {
        let count = i32::try_from(members.len()).expect("few");
        let dealt = (0..partitions).filter(|partition| partition % count == index);
        let dealt: String = dealt.map(|partition| format!(" {partition}")).collect();
        let assignment = format!("{} {member}{dealt}", membership.generation);
        SyncGroupRequestAssignment::default()
            .with_member_id(text(member))
            .with_assignment(Bytes::from(assignment))
    });
    let request = SyncGroupRequest::default()
        .with_group_id(GroupId(text(SHARED)))
        .with_generation_id(membership.generation)
        .with_member_id(text(id))
        .with_assignments(assignments.collect());
    let answer = connection.call(3, &request).await?;
    match answer.error_code {
        0 => {}
        UNKNOWN_MEMBER_ID => {
            id.clear();
            return Ok(None);
        }
        code if is_rebalance(code) => return Ok(None),
        code => {
            scene.tolerate("SyncGroup", code);
            return Ok(None);
        }
    }
    let assignment = String::from_utf8_lossy(&answer.assignment).into_owned();
    let mut fields = assignment.split(' ');
    let generation = membership.generation.to_string();
    assert_eq!(
        fields.next(),
        Some(generation.as_str()),
        "assignment {assignment:?}"
    );
    assert_eq!(
        fields.next(),
        Some(id.as_str()),
        "assignment {assignment:?}"
    );
    let mine = fields
        .map(|field| field.parse().expect("as dealt"))
        .collect();
    Ok(Some((membership, mine)))
}

/// A heartbeat or a commit; gives the error code.
async fn beat(
    scene: &Scene,
    connection: &mut Connection,
    membership: &Membership,
    mine: &[u8],
    random: &mut Random,
) -> Result<i16, Lost> {
    if let Some(partition) = mine.first()
        && one_in(random, 2)
    {
        let partition = i32::from(*partition);
        let (topic, _) = STABLE_TOPICS[0];
        let offset = i64::try_from(random.below(1000)).expect("small");
        let committer = (SHARED, Some(membership));
        return commit(scene, connection, committer, (topic, partition), offset).await;
    }
    let request = HeartbeatRequest::default()
        .with_group_id(GroupId(text(SHARED)))
        .with_generation_id(membership.generation)
        .with_member_id(text(&membership.member));
    let answer = connection.call(3, &request).await?;
    let code = answer.error_code;
    scene.ledger.borrow_mut().count("heartbeats", 1);
    if code != 0 && !is_rebalance(code) {
        scene.tolerate("Heartbeat", code);
    }
    Ok(code)
}

async fn leave(connection: &mut Connection, membership: &Membership) -> Result<(), Lost> {
    let request = LeaveGroupRequest::default()
        .with_group_id(GroupId(text(SHARED)))
        .with_member_id(text(&membership.member));
    connection.call(2, &request).await?;
    Ok(())
}

/// Whether an error of a group API may come while a broker starts.
pub(crate) fn is_passing(code: i16) -> bool {
    matches!(
        code,
        COORDINATOR_LOAD_IN_PROGRESS | COORDINATOR_NOT_AVAILABLE | NOT_COORDINATOR
    )
}
