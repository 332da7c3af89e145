//! group.instance.id (KIP-345) and skip assignment (KIP-814).

use super::*;

fn stable(harness: &mut Harness, version: i16) -> Vec<Client> {
    let mut clients = vec![
        Client::with_instance(version, "one"),
        Client::with_instance(version, "two"),
    ];
    harness.stable_group(&mut clients);
    clients
}

#[test]
fn a_restarted_static_member_takes_its_place_without_rebalance() {
    for version in [7, 9] {
        let mut harness = Harness::new();
        let clients = stable(&mut harness, version);
        let mut again = Client::with_instance(version, "two");
        let ticket = harness.begin_join(&again);
        let joined = harness.joined(&mut again, ticket);
        assert_eq!(joined.generation_id, clients[1].generation);
        assert_ne!(again.member_id, clients[1].member_id);
        assert!(again.member_id.starts_with("two-"));
        assert!(!joined.skip_assignment && joined.members.is_empty());
        assert_eq!(harness.state(), "Stable");
        let sync = harness.begin_sync(&again, &[]);
        assert_eq!(harness.synced(sync).as_deref(), Ok("b"));
        // The one before is fenced, whatever it does.
        assert_eq!(
            harness.heartbeat(&clients[1]),
            Some(ResponseError::FencedInstanceId)
        );
        assert_eq!(
            harness.commit(&clients[1], 0, 1),
            Some(ResponseError::FencedInstanceId)
        );
        assert_eq!(harness.heartbeat(&clients[0]), None);
        assert_eq!(harness.commit(&again, 0, 1), None);
    }
}

#[test]
fn a_restarted_static_leader_skips_the_assignment_from_version_9_on() {
    for version in [8, 9] {
        let mut harness = Harness::new();
        let clients = stable(&mut harness, version);
        let mut again = Client::with_instance(version, "one");
        let ticket = harness.begin_join(&again);
        let joined = harness.joined(&mut again, ticket);
        if version >= 9 {
            assert!(joined.skip_assignment);
            assert_eq!(joined.leader, joined.member_id);
            assert_eq!(joined.members.len(), 2);
        } else {
            assert_eq!(joined.leader.as_str(), clients[0].member_id);
            assert!(joined.members.is_empty());
        }
        assert_eq!(harness.describe().members.len(), 2);
    }
}

#[test]
fn a_replacement_that_cannot_be_stored_is_undone() {
    let mut harness = Harness::new();
    let clients = stable(&mut harness, 9);
    harness.holds_appends = true;
    let ticket = harness.begin_join(&Client::with_instance(9, "one"));
    assert!(harness.waits(ticket));
    harness.end_append(0, Err(ResponseError::NotEnoughReplicas));
    let reply = harness.join_reply(ticket);
    assert_eq!(
        reply.error_code,
        ResponseError::CoordinatorNotAvailable.code()
    );
    assert_eq!(harness.heartbeat(&clients[0]), None);
    assert_eq!(harness.state(), "Stable");
}

#[test]
fn a_replacement_during_the_sync_starts_over() {
    let mut harness = Harness::new();
    let mut clients = stable(&mut harness, 9);
    let tickets = [
        harness.begin_join(&clients[0]),
        harness.begin_join(&clients[1]),
    ];
    for (client, ticket) in clients.iter_mut().zip(tickets) {
        if harness.replies.contains_key(&ticket) {
            harness.joined(client, ticket);
        }
    }
    let waiting = harness.begin_sync(&clients[1], &[]);
    let mut again = Client::with_instance(9, "two");
    let rejoin = harness.begin_join(&again);
    assert_eq!(
        harness.synced(waiting),
        Err(ResponseError::FencedInstanceId)
    );
    assert_eq!(harness.state(), "PreparingRebalance");
    let leader = harness.begin_join(&clients[0]);
    let generation = harness.joined(&mut clients[0], leader).generation_id;
    assert_eq!(harness.joined(&mut again, rejoin).generation_id, generation);
}

#[test]
fn a_silent_static_member_stays_until_its_session_ends() {
    let config = GroupConfig::default();
    let mut harness = Harness::with_config(config);
    let mut clients = stable(&mut harness, 9);
    // A third one comes; the second is down but within its session.
    let mut third = Client::with_instance(9, "three");
    let third_join = harness.begin_join(&third);
    let first_join = harness.begin_join(&clients[0]);
    assert!(harness.waits(first_join));
    harness.sleep(i64::from(SESSION_MS));
    assert_eq!(harness.joined(&mut clients[0], first_join).members.len(), 2);
    harness.joined(&mut third, third_join);
    assert_eq!(
        harness.heartbeat(&clients[1]),
        Some(ResponseError::UnknownMemberId)
    );
}

#[test]
fn a_wrong_pair_of_ids_is_told_so() {
    let mut harness = Harness::new();
    let clients = stable(&mut harness, 9);
    let mixed = Client {
        member_id: clients[0].member_id.clone(),
        ..clients[1].clone()
    };
    assert_eq!(
        harness.heartbeat(&mixed),
        Some(ResponseError::FencedInstanceId)
    );
    let unknown = Client {
        instance_id: Some("nobody".into()),
        ..clients[0].clone()
    };
    assert_eq!(
        harness.heartbeat(&unknown),
        Some(ResponseError::UnknownMemberId)
    );
    assert_eq!(harness.leave(&mixed), Some(ResponseError::FencedInstanceId));
}

#[test]
fn a_rebalance_goes_on_without_a_silent_static_member_but_keeps_it() {
    let mut harness = Harness::new();
    let client = |name: &str| Client {
        rebalance_ms: 2_000,
        ..Client::with_instance(9, name)
    };
    let mut clients = vec![client("one"), client("two")];
    harness.stable_group(&mut clients);
    let first_join = harness.begin_join(&clients[0]);
    harness.sleep(2_000);
    assert_eq!(harness.joined(&mut clients[0], first_join).members.len(), 2);
    // If nobody joins, the group waits for the end of the sessions.
    let silent = Client {
        rebalance_ms: 0,
        ..client("three")
    };
    let ticket = harness.begin_join(&silent);
    harness.leave(&silent);
    assert_eq!(
        harness.join_reply(ticket).error_code,
        ResponseError::UnknownMemberId.code()
    );
    assert_eq!(harness.state(), "PreparingRebalance");
    harness.sleep(20_000);
    assert_eq!(harness.state(), "Empty");
}
