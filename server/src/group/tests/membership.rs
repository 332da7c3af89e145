//! Joining, rebalancing, leaving and failing.

use super::*;

#[test]
fn one_member_joins_syncs_commits_and_leaves() {
    let mut harness = Harness::new();
    let mut client = Client::new(9);
    let ticket = harness.start(&mut client);
    let joined = harness.joined(&mut client, ticket);
    assert_eq!(joined.generation_id, 1);
    assert_eq!(joined.leader, joined.member_id);
    assert_eq!(joined.protocol_type, Some(text("consumer")));
    assert_eq!(joined.protocol_name, Some(text("range")));
    assert_eq!(joined.members.len(), 1);
    assert!(
        joined.member_id.starts_with("cli-00000000-0000-4000-8000-"),
        "{}",
        joined.member_id
    );
    assert_eq!(joined.member_id.len(), "cli-".len() + 36);

    let sync = harness.begin_sync(&client, &[(&client.member_id, "all")]);
    assert_eq!(harness.synced(sync).as_deref(), Ok("all"));
    assert_eq!(harness.heartbeat(&client), None);
    assert_eq!(harness.commit(&client, 0, 17), None);
    assert_eq!(harness.offsets(), [(0, 17)]);
    assert_eq!(harness.leave(&client), None);
    assert_eq!(
        harness.heartbeat(&client),
        Some(ResponseError::UnknownMemberId)
    );
    assert_eq!(harness.state(), "Empty");
    assert_eq!(harness.offsets(), [(0, 17)]);
}

#[test]
fn two_and_three_members_share_a_generation() {
    for count in [2, 3] {
        let mut harness = Harness::new();
        let mut clients = vec![Client::new(7); count];
        harness.stable_group(&mut clients);
        let generations: BTreeSet<i32> = clients.iter().map(|client| client.generation).collect();
        assert_eq!(generations.len(), 1);
        assert_eq!(harness.describe().members.len(), count);
        for client in &clients {
            assert_eq!(harness.heartbeat(client), None);
        }
    }
}

#[test]
fn a_client_of_version_0_joins_at_once() {
    let mut harness = Harness::new();
    let mut client = Client::new(0);
    let ticket = harness.start(&mut client);
    let joined = harness.joined(&mut client, ticket);
    assert_eq!(joined.protocol_name, Some(text("range")));
    let sync = harness.begin_sync(&client, &[(&client.member_id, "all")]);
    assert_eq!(harness.synced(sync).as_deref(), Ok("all"));
    assert_eq!(harness.heartbeat(&client), None);
    assert_eq!(harness.leave(&client), None);
}

#[test]
fn a_new_member_rebalances_the_others() {
    let mut harness = Harness::new();
    let mut clients = vec![Client::new(9)];
    harness.stable_group(&mut clients);
    let mut second = Client::new(9);
    let second_join = harness.start(&mut second);
    assert!(harness.waits(second_join));
    assert_eq!(
        harness.heartbeat(&clients[0]),
        Some(ResponseError::RebalanceInProgress)
    );
    let sync = harness.begin_sync(&clients[0], &[]);
    assert_eq!(
        harness.synced(sync),
        Err(ResponseError::RebalanceInProgress)
    );
    // Offsets of the old generation are still welcome.
    assert_eq!(harness.commit(&clients[0], 0, 5), None);

    let first_join = harness.begin_join(&clients[0]);
    let old = clients[0].clone();
    let leader = harness.joined(&mut clients[0], first_join);
    let follower = harness.joined(&mut second, second_join);
    assert_eq!((leader.generation_id, follower.generation_id), (2, 2));
    assert_eq!(leader.members.len(), 2);
    assert!(follower.members.is_empty());
    assert_eq!(leader.leader, follower.leader);
    assert_eq!(
        harness.heartbeat(&old),
        Some(ResponseError::IllegalGeneration)
    );
    assert_eq!(
        harness.commit(&old, 0, 6),
        Some(ResponseError::IllegalGeneration)
    );
    // In the new generation, commits wait for the assignment.
    assert_eq!(
        harness.commit(&second, 0, 6),
        Some(ResponseError::RebalanceInProgress)
    );

    let second_sync = harness.begin_sync(&second, &[]);
    assert!(harness.waits(second_sync));
    let first_sync = harness.begin_sync(&clients[0], &[(&second.member_id, "two")]);
    assert_eq!(harness.synced(second_sync).as_deref(), Ok("two"));
    assert_eq!(harness.synced(first_sync).as_deref(), Ok(""));
}

#[test]
fn sync_waits_until_the_assignment_is_in_the_log() {
    let mut harness = Harness::new();
    let mut client = Client::new(5);
    let ticket = harness.start(&mut client);
    harness.joined(&mut client, ticket);
    harness.holds_appends = true;
    let sync = harness.begin_sync(&client, &[(&client.member_id, "all")]);
    assert!(harness.waits(sync));
    // A second one takes the place of the first, without a second append.
    let again = harness.begin_sync(&client, &[(&client.member_id, "other")]);
    assert_eq!(
        harness.synced(sync),
        Err(ResponseError::RebalanceInProgress)
    );
    assert_eq!(harness.held.len(), 1);
    harness.end_append(0, Ok(()));
    assert_eq!(harness.synced(again).as_deref(), Ok("all"));
}

#[test]
fn an_assignment_that_cannot_be_stored_rebalances() {
    let mut harness = Harness::new();
    let mut client = Client::new(5);
    let ticket = harness.start(&mut client);
    harness.joined(&mut client, ticket);
    harness.holds_appends = true;
    let sync = harness.begin_sync(&client, &[(&client.member_id, "all")]);
    harness.end_append(0, Err(ResponseError::KafkaStorageError));
    assert_eq!(harness.synced(sync), Err(ResponseError::NotCoordinator));
    assert_eq!(harness.state(), "PreparingRebalance");
}

#[test]
fn a_silent_member_is_dropped_after_its_session() {
    let mut harness = Harness::new();
    let mut clients = vec![Client::new(9), Client::new(9)];
    harness.stable_group(&mut clients);
    for _ in 0..3 {
        harness.sleep(i64::from(SESSION_MS) - 1);
        assert_eq!(harness.heartbeat(&clients[0]), None);
        assert_eq!(harness.heartbeat(&clients[1]), None);
    }
    harness.sleep(i64::from(SESSION_MS) - 1);
    assert_eq!(harness.heartbeat(&clients[1]), None);
    harness.sleep(1);
    assert_eq!(
        harness.heartbeat(&clients[0]),
        Some(ResponseError::UnknownMemberId)
    );
    assert_eq!(
        harness.heartbeat(&clients[1]),
        Some(ResponseError::RebalanceInProgress)
    );
    let ticket = harness.begin_join(&clients[1]);
    let joined = harness.joined(&mut clients[1], ticket);
    assert_eq!(joined.leader, joined.member_id);
}

#[test]
fn who_does_not_rejoin_in_time_is_dropped() {
    let mut harness = Harness::new();
    let mut clients = vec![Client::new(9), Client::new(9)];
    harness.stable_group(&mut clients);
    let ticket = harness.begin_join(&clients[0]);
    for _ in 0..11 {
        harness.sleep(5_000);
        assert!(harness.waits(ticket));
        // It heartbeats, so its session holds, but it does not join.
        assert_eq!(
            harness.heartbeat(&clients[1]),
            Some(ResponseError::RebalanceInProgress)
        );
    }
    harness.sleep(5_000);
    assert_eq!(harness.joined(&mut clients[0], ticket).members.len(), 1);
    assert_eq!(
        harness.heartbeat(&clients[1]),
        Some(ResponseError::UnknownMemberId)
    );
}

#[test]
fn who_does_not_sync_in_time_is_dropped() {
    let mut harness = Harness::new();
    let mut clients = vec![Client::new(9), Client::new(9)];
    harness.stable_group(&mut clients);
    let tickets = [
        harness.begin_join(&clients[0]),
        harness.begin_join(&clients[1]),
    ];
    for (client, ticket) in clients.iter_mut().zip(tickets) {
        harness.joined(client, ticket);
    }
    let sync = harness.begin_sync(&clients[0], &[]);
    assert!(harness.synced(sync).is_ok());
    for _ in 0..12 {
        assert_eq!(harness.heartbeat(&clients[0]), None);
        assert_eq!(harness.heartbeat(&clients[1]), None);
        harness.sleep(5_000);
    }
    assert_eq!(
        harness.heartbeat(&clients[0]),
        Some(ResponseError::RebalanceInProgress)
    );
    assert_eq!(
        harness.heartbeat(&clients[1]),
        Some(ResponseError::UnknownMemberId)
    );
}

#[test]
fn an_id_that_nobody_joins_with_holds_up_a_rebalance_for_a_session() {
    let mut harness = Harness::new();
    let mut clients = vec![Client::new(9)];
    harness.stable_group(&mut clients);
    let lost = harness.begin_join(&Client::new(9));
    let response = harness.join_reply(lost);
    assert_eq!(response.error_code, ResponseError::MemberIdRequired.code());
    let ticket = harness.begin_join(&clients[0]);
    assert!(harness.waits(ticket));
    harness.sleep(i64::from(SESSION_MS));
    harness.joined(&mut clients[0], ticket);
    // The id is worth nothing any more.
    let late = Client {
        member_id: response.member_id.to_string(),
        ..Client::new(9)
    };
    let ticket = harness.begin_join(&late);
    assert_eq!(
        harness.join_reply(ticket).error_code,
        ResponseError::UnknownMemberId.code()
    );
}

#[test]
fn a_pending_member_may_leave() {
    let mut harness = Harness::new();
    let mut client = Client::new(9);
    let ticket = harness.begin_join(&client);
    client.member_id = harness.join_reply(ticket).member_id.to_string();
    assert_eq!(harness.leave(&client), None);
    assert_eq!(harness.state(), "Dead");
    assert_eq!(harness.coordinator.context.population, 0);
}

#[test]
fn the_initial_delay_gathers_members() {
    let config = GroupConfig {
        group_initial_rebalance_delay_ms: 3_000,
        ..GroupConfig::default()
    };
    let mut harness = Harness::with_config(config);
    let mut first = Client::new(3);
    let mut second = Client::new(3);
    let first_join = harness.start(&mut first);
    harness.sleep(2_000);
    let second_join = harness.start(&mut second);
    // The second one prolongs the delay by another round.
    harness.sleep(1_500);
    assert!(harness.waits(first_join));
    harness.sleep(2_500);
    assert_eq!(harness.joined(&mut first, first_join).members.len(), 2);
    assert_eq!(harness.joined(&mut second, second_join).generation_id, 1);
}

#[test]
fn rejoining_unchanged_gets_the_generation_again() {
    let mut harness = Harness::new();
    let mut clients = vec![Client::new(9), Client::new(9)];
    harness.stable_group(&mut clients);
    let generation = clients[1].generation;
    let ticket = harness.begin_join(&clients[1]);
    assert_eq!(
        harness.joined(&mut clients[1], ticket).generation_id,
        generation
    );
    assert_eq!(harness.state(), "Stable");
    // New topics of a follower rebalance, and so does the leader without any change.
    clients[1].topics.push("payments".into());
    let changed = harness.begin_join(&clients[1]);
    assert!(harness.waits(changed));
    let leader = harness.begin_join(&clients[0]);
    assert_eq!(
        harness.joined(&mut clients[0], leader).generation_id,
        generation + 1
    );
    assert_eq!(
        harness.joined(&mut clients[1], changed).generation_id,
        generation + 1
    );
    // Before the sync, both just get it again, the leader with the members.
    let leader = harness.begin_join(&clients[0]);
    let reply = harness.joined(&mut clients[0], leader);
    assert_eq!(
        (reply.generation_id, reply.members.len()),
        (generation + 1, 2)
    );
}

#[test]
fn the_protocol_with_the_most_votes_wins() {
    let mut harness = Harness::new();
    let mut clients = [Client::new(9), Client::new(9), Client::new(9)];
    clients[0].protocols = vec!["range".into(), "sticky".into()];
    clients[1].protocols = vec!["sticky".into(), "range".into()];
    clients[2].protocols = vec!["roundrobin".into(), "sticky".into(), "range".into()];
    let mut tickets: Vec<u64> = Vec::new();
    tickets.push(harness.start(&mut clients[0]));
    harness.joined(&mut clients[0], tickets[0]);
    for client in &mut clients[1..] {
        tickets.push(harness.start(client));
    }
    tickets[0] = harness.begin_join(&clients[0]);
    for (client, ticket) in clients.iter_mut().zip(tickets) {
        assert_eq!(
            harness.joined(client, ticket).protocol_name,
            Some(text("sticky"))
        );
    }
    // A member that shares nothing with the others is refused.
    let stranger = Client {
        protocols: vec!["custom".into()],
        ..Client::new(3)
    };
    let ticket = harness.begin_join(&stranger);
    let code = ResponseError::InconsistentGroupProtocol.code();
    assert_eq!(harness.join_reply(ticket).error_code, code);
}

#[test]
fn a_protocol_named_twice_counts_once() {
    let mut harness = Harness::new();
    let mut client = Client {
        protocols: vec!["range".into(); 2],
        ..Client::new(9)
    };
    let ticket = harness.start(&mut client);
    assert_eq!(
        harness.joined(&mut client, ticket).protocol_name,
        Some(text("range"))
    );
}

#[test]
fn impossible_joins_are_refused_and_leave_nothing_behind() {
    let mut harness = Harness::new();
    let code_of = |harness: &mut Harness, change: &dyn Fn(JoinGroupRequest) -> JoinGroupRequest| {
        let GroupRequest::JoinGroup(request) = Client::new(3).join_request() else {
            panic!()
        };
        let ticket = harness.send(3, GroupRequest::JoinGroup(change(request)));
        error(harness.join_reply(ticket).error_code)
    };
    use ResponseError as E;
    let no_group = code_of(&mut harness, &|request| {
        request.with_group_id(GroupId::default())
    });
    assert_eq!(no_group, Some(E::InvalidGroupId));
    let short = code_of(&mut harness, &|request| {
        request.with_session_timeout_ms(5_999)
    });
    assert_eq!(short, Some(E::InvalidSessionTimeout));
    let long = code_of(&mut harness, &|request| {
        request.with_session_timeout_ms(1_800_001)
    });
    assert_eq!(long, Some(E::InvalidSessionTimeout));
    let no_protocols = code_of(&mut harness, &|request| request.with_protocols(Vec::new()));
    assert_eq!(no_protocols, Some(E::InconsistentGroupProtocol));
    let unknown = code_of(&mut harness, &|request| {
        request.with_member_id(text("nobody"))
    });
    assert_eq!(unknown, Some(E::UnknownMemberId));
    assert_eq!(harness.state(), "Dead");
    assert_eq!(
        harness.coordinator.context.timers.len(),
        1,
        "only the look for expired offsets"
    );
}

#[test]
fn group_max_size_turns_away_the_last() {
    let config = GroupConfig {
        group_max_size: 2,
        ..GroupConfig::default()
    };
    let mut harness = Harness::with_config(config);
    let mut clients = vec![Client::new(3), Client::new(3)];
    harness.stable_group(&mut clients);
    let ticket = harness.begin_join(&Client::new(3));
    let code = ResponseError::GroupMaxSizeReached.code();
    assert_eq!(harness.join_reply(ticket).error_code, code);
    assert_eq!(harness.state(), "Stable");
}

#[test]
fn members_and_groups_are_bounded_over_all_groups() {
    let config = GroupConfig {
        members_max: 2,
        groups_max: 1,
        ..GroupConfig::default()
    };
    let mut harness = Harness::with_config(config);
    for expected in [
        ResponseError::MemberIdRequired,
        ResponseError::MemberIdRequired,
    ] {
        let ticket = harness.begin_join(&Client::new(9));
        assert_eq!(harness.join_reply(ticket).error_code, expected.code());
    }
    let ticket = harness.begin_join(&Client::new(9));
    let code = ResponseError::GroupMaxSizeReached.code();
    assert_eq!(harness.join_reply(ticket).error_code, code);
    let GroupRequest::JoinGroup(request) = Client::new(9).join_request() else {
        panic!()
    };
    let other = request.with_group_id(text("other").into());
    let ticket = harness.send(9, GroupRequest::JoinGroup(other));
    let code = ResponseError::CoordinatorNotAvailable.code();
    assert_eq!(harness.join_reply(ticket).error_code, code);
    // The ids run out, and there is room again.
    harness.sleep(i64::from(SESSION_MS));
    assert_eq!(harness.coordinator.context.population, 0);
    let ticket = harness.begin_join(&Client::new(9));
    let code = ResponseError::MemberIdRequired.code();
    assert_eq!(harness.join_reply(ticket).error_code, code);
}

#[test]
fn a_cancelled_join_is_not_answered() {
    let mut harness = Harness::new();
    let mut clients = vec![Client::new(9)];
    harness.stable_group(&mut clients);
    // Its client never learnt its id: the member goes with the connection.
    let ticket = harness.begin_join(&Client::new(1));
    assert!(harness.waits(ticket));
    harness.versions.remove(&ticket);
    let actions = harness.coordinator.cancel(harness.now_ms, ticket);
    harness.absorb(actions);
    let rejoin = harness.begin_join(&clients[0]);
    assert_eq!(harness.joined(&mut clients[0], rejoin).members.len(), 1);

    // This one knows its id: it counts as joined, and gets its answer by joining again.
    let mut second = Client::new(9);
    let ticket = harness.start(&mut second);
    harness.versions.remove(&ticket);
    let actions = harness.coordinator.cancel(harness.now_ms, ticket);
    harness.absorb(actions);
    let rejoin = harness.begin_join(&clients[0]);
    assert_eq!(harness.joined(&mut clients[0], rejoin).members.len(), 2);
    let again = harness.begin_join(&second);
    harness.joined(&mut second, again);
}

#[test]
fn sync_of_version_5_must_name_the_protocol() {
    let mut harness = Harness::new();
    let mut client = Client::new(9);
    let ticket = harness.start(&mut client);
    harness.joined(&mut client, ticket);
    let request = SyncGroupRequest::default()
        .with_group_id(text("g").into())
        .with_generation_id(1)
        .with_member_id(text(&client.member_id));
    let unnamed = harness.send(5, GroupRequest::SyncGroup(request.clone()));
    assert_eq!(
        harness.synced(unnamed),
        Err(ResponseError::InconsistentGroupProtocol)
    );
    let wrong = request
        .clone()
        .with_protocol_type(Some(text("connect")))
        .with_protocol_name(Some(text("range")));
    let wrong = harness.send(5, GroupRequest::SyncGroup(wrong));
    assert_eq!(
        harness.synced(wrong),
        Err(ResponseError::InconsistentGroupProtocol)
    );
    let old = harness.send(4, GroupRequest::SyncGroup(request));
    assert_eq!(harness.synced(old).as_deref(), Ok(""));
}

#[test]
fn a_batch_of_members_leaves() {
    let mut harness = Harness::new();
    let mut clients = vec![
        Client::new(9),
        Client::with_instance(9, "inst"),
        Client::new(9),
    ];
    harness.stable_group(&mut clients);
    let by_id = |client: &Client| {
        MemberIdentity::default()
            .with_member_id(text(&client.member_id))
            .with_group_instance_id(None)
    };
    let by_instance = |instance_id: &str| {
        MemberIdentity::default().with_group_instance_id(Some(text(instance_id)))
    };
    let members = vec![
        by_id(&clients[0]),
        by_instance("inst"),
        by_instance("other"),
        by_id(&clients[0]),
    ];
    let request = LeaveGroupRequest::default()
        .with_group_id(text("g").into())
        .with_members(members);
    let ticket = harness.send(3, GroupRequest::LeaveGroup(request));
    let GroupResponse::LeaveGroup(response) = harness.reply(ticket) else {
        panic!()
    };
    let unknown = ResponseError::UnknownMemberId.code();
    let codes: Vec<i16> = response
        .members
        .iter()
        .map(|member| member.error_code)
        .collect();
    assert_eq!(codes, [0, 0, unknown, unknown]);
    assert_eq!(harness.describe().members.len(), 1);
}

#[test]
fn a_first_join_that_waits_five_minutes_is_dropped() {
    let mut harness = Harness::new();
    let mut clients = vec![Client {
        rebalance_ms: 1_000_000,
        ..Client::new(9)
    }];
    harness.stable_group(&mut clients);
    let waiting = harness.begin_join(&Client::new(2));
    for _ in 0..30 {
        assert!(harness.waits(waiting));
        assert_eq!(
            harness.heartbeat(&clients[0]),
            Some(ResponseError::RebalanceInProgress)
        );
        harness.sleep(9_999);
    }
    assert_eq!(
        harness.heartbeat(&clients[0]),
        Some(ResponseError::RebalanceInProgress)
    );
    harness.sleep(30);
    let response = harness.join_reply(waiting);
    assert_eq!(response.error_code, ResponseError::UnknownMemberId.code());
    assert!(response.member_id.is_empty());
}
