//! DescribeGroups, ListGroups, DeleteGroups.

use super::*;

fn list(harness: &mut Harness, version: i16, states: &[&str], types: &[&str]) -> Vec<String> {
    let request = ListGroupsRequest::default()
        .with_states_filter(states.iter().copied().map(text).collect())
        .with_types_filter(types.iter().copied().map(text).collect());
    let ticket = harness.send(version, GroupRequest::ListGroups(request));
    let GroupResponse::ListGroups(response) = harness.reply(ticket) else {
        panic!()
    };
    assert_eq!(response.error_code, 0);
    response
        .groups
        .iter()
        .map(|group| group.group_id.to_string())
        .collect()
}

fn delete(harness: &mut Harness, groups: &[&str]) -> Vec<Option<ResponseError>> {
    let names = groups.iter().map(|group| text(group).into()).collect();
    let request = DeleteGroupsRequest::default().with_groups_names(names);
    let ticket = harness.send(2, GroupRequest::DeleteGroups(request));
    let GroupResponse::DeleteGroups(response) = harness.reply(ticket) else {
        panic!()
    };
    response
        .results
        .iter()
        .map(|result| error(result.error_code))
        .collect()
}

fn commit_into(harness: &mut Harness, group: &str) {
    let partition = OffsetCommitRequestPartition::default().with_committed_offset(1);
    let topic = OffsetCommitRequestTopic::default()
        .with_name(text("orders").into())
        .with_partitions(vec![partition]);
    let request = OffsetCommitRequest::default()
        .with_group_id(text(group).into())
        .with_topics(vec![topic]);
    harness.send(8, GroupRequest::OffsetCommit(request));
}

#[test]
fn groups_are_listed_by_state_and_type() {
    let mut harness = Harness::new();
    harness.stable_group(&mut [Client::new(9)]);
    commit_into(&mut harness, "simple");
    for version in 0..=5 {
        assert_eq!(list(&mut harness, version, &[], &[]), ["g", "simple"]);
    }
    assert_eq!(list(&mut harness, 4, &["stable"], &[]), ["g"]);
    assert_eq!(list(&mut harness, 4, &["Empty", "Dead"], &[]), ["simple"]);
    assert_eq!(list(&mut harness, 5, &["Stable"], &["Classic"]), ["g"]);
    assert!(list(&mut harness, 5, &[], &["consumer"]).is_empty());
}

#[test]
fn a_stable_group_is_described_with_metadata_and_assignment() {
    let mut harness = Harness::new();
    let mut clients = vec![Client::with_instance(9, "inst")];
    harness.stable_group(&mut clients);
    let group = harness.describe();
    assert_eq!(
        (group.error_code, group.group_state.as_str()),
        (0, "Stable")
    );
    assert_eq!(
        (group.protocol_type.as_str(), group.protocol_data.as_str()),
        ("consumer", "range")
    );
    let member = &group.members[0];
    assert_eq!(member.group_instance_id, Some(text("inst")));
    assert_eq!(
        (member.client_id.as_str(), member.client_host.as_str()),
        ("cli", "/127.0.0.1")
    );
    assert_eq!(member.member_metadata, clients[0].subscription());
    assert_eq!(member.member_assignment, "a");
    // Not while it rebalances.
    harness.start(&mut Client::new(9));
    let group = harness.describe();
    assert_eq!(
        (group.group_state.as_str(), group.protocol_data.as_str()),
        ("PreparingRebalance", "")
    );
    assert!(
        group
            .members
            .iter()
            .all(|member| member.member_metadata.is_empty())
    );
}

#[test]
fn only_empty_groups_are_deleted() {
    let mut harness = Harness::new();
    let mut clients = vec![Client::new(9)];
    harness.stable_group(&mut clients);
    commit_into(&mut harness, "simple");
    harness.commit(&clients[0], 0, 1);
    use ResponseError as E;
    assert_eq!(
        delete(&mut harness, &["g", "simple", "nobody", "simple"]),
        [Some(E::NonEmptyGroup), None, Some(E::GroupIdNotFound)]
    );
    harness.leave(&clients[0]);
    assert_eq!(delete(&mut harness, &["g"]), [None]);
    assert_eq!(delete(&mut harness, &["g"]), [Some(E::GroupIdNotFound)]);
    assert!(list(&mut harness, 5, &[], &[]).is_empty());
    let mut alive = BTreeSet::new();
    for (key, value) in &harness.log {
        let _ = if value.is_some() {
            alive.insert(key)
        } else {
            alive.remove(key)
        };
    }
    assert!(alive.is_empty(), "every key has its tombstone");
}

#[test]
fn a_deletion_of_several_groups_is_answered_after_the_last_tombstone() {
    let mut harness = Harness::new();
    commit_into(&mut harness, "one");
    commit_into(&mut harness, "two");
    harness.holds_appends = true;
    let names = vec![text("one").into(), text("two").into()];
    let request = DeleteGroupsRequest::default().with_groups_names(names);
    let ticket = harness.send(2, GroupRequest::DeleteGroups(request));
    harness.end_append(0, Err(ResponseError::KafkaStorageError));
    assert!(harness.waits(ticket));
    harness.end_append(0, Ok(()));
    let GroupResponse::DeleteGroups(response) = harness.reply(ticket) else {
        panic!()
    };
    let codes: Vec<i16> = response
        .results
        .iter()
        .map(|result| result.error_code)
        .collect();
    assert_eq!(codes, [ResponseError::KafkaStorageError.code(), 0]);
}

#[test]
fn the_end_of_an_append_does_not_reach_a_group_of_the_same_name() {
    let mut harness = Harness::new();
    let mut client = Client::new(3);
    let ticket = harness.start(&mut client);
    harness.joined(&mut client, ticket);
    harness.holds_appends = true;
    let sync = harness.begin_sync(&client, &[(&client.member_id, "old")]);
    assert_eq!(harness.leave(&client), None);
    assert_eq!(harness.synced(sync), Err(ResponseError::UnknownMemberId));
    let names = vec![text("g").into()];
    let request = DeleteGroupsRequest::default().with_groups_names(names);
    harness.send(2, GroupRequest::DeleteGroups(request));
    let mut other = Client::new(3);
    let ticket = harness.start(&mut other);
    assert_eq!(harness.joined(&mut other, ticket).generation_id, 1);
    let sync = harness.begin_sync(&other, &[(&other.member_id, "new")]);
    harness.end_append(0, Ok(()));
    assert!(harness.waits(sync));
    harness.end_append(harness.held.len() - 1, Ok(()));
    assert_eq!(harness.synced(sync).as_deref(), Ok("new"));
}
