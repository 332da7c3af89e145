//! Random histories: requests, time, ends of appends in any order, vanishing callers, unloading and
//! loading. Each prints its seed; `RINGLOG_SEED=n` replays one.

use super::super::group_state::{Group, GroupState};
use super::*;

/// SplitMix64 (Steele, Lea, Flood 2014): enough for choosing.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).unwrap()
    }

    fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }
}

struct History {
    random: Random,
    harness: Harness,
    clients: Vec<Client>,
    /// Joins and syncs that wait, by client.
    pending: Vec<(usize, u64)>,
    generations: BTreeMap<u64, i32>,
    /// States that were seen, so that the histories prove to go somewhere.
    states: BTreeMap<&'static str, usize>,
}

impl History {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let config = GroupConfig {
            group_initial_rebalance_delay_ms: if random.one_in(2) { 0 } else { 3_000 },
            group_max_size: if random.one_in(3) { 3 } else { 100 },
            members_max: if random.one_in(4) { 4 } else { 100 },
            offsets_retention_ms: 100_000,
            offsets_retention_check_interval_ms: 30_000,
            ..GroupConfig::default()
        };
        let mut harness = Harness::with_config(config);
        harness.holds_appends = true;
        let clients = (0..6).map(|index| {
            let version = i16::try_from(random.below(10)).unwrap();
            let mut client = Client::new(version);
            // Two share an instance id, and fence each other.
            if index < 3 && version >= 5 {
                client.instance_id = Some(format!("inst-{}", index / 2));
            }
            if random.one_in(3) {
                client.protocols = vec!["sticky".into(), "range".into()];
            }
            client
        });
        let clients = clients.collect();
        Self {
            random,
            harness,
            clients,
            pending: Vec::new(),
            generations: BTreeMap::new(),
            states: BTreeMap::new(),
        }
    }

    fn step(&mut self) {
        let index = self.random.below(self.clients.len());
        match self.random.below(23) {
            0..=5 => self.join(index),
            6..=8 => self.sync(index),
            9..=12 => {
                // Mostly a client does as it is told.
                let told = self.harness.heartbeat(&self.clients[index]);
                if told == Some(ResponseError::RebalanceInProgress) && !self.random.one_in(4) {
                    self.join(index);
                }
            }
            13 => {
                self.harness.leave(&self.clients[index].clone());
            }
            14..=15 => {
                let offset = i64::try_from(self.random.below(1_000)).unwrap();
                let partition = i32::try_from(self.random.below(3)).unwrap();
                self.harness
                    .begin_commit(&self.clients[index], partition, offset);
            }
            16 => {
                let longest = if self.random.one_in(5) {
                    100_000
                } else {
                    4_000
                };
                let ms = i64::try_from(self.random.below(longest)).unwrap();
                self.harness.sleep(ms);
            }
            17..=20 => self.end_append(),
            21 => self.rare(index),
            _ => self.collect(),
        }
        self.check();
    }

    fn join(&mut self, index: usize) {
        if self.random.one_in(8) {
            self.clients[index].topics.push("more".into());
        }
        let ticket = self.harness.begin_join(&self.clients[index]);
        self.pending.push((index, ticket));
        self.collect();
    }

    fn sync(&mut self, index: usize) {
        let ids: Vec<String> = self
            .clients
            .iter()
            .map(|client| client.member_id.clone())
            .collect();
        let assignments: Vec<(&str, &'static str)> =
            ids.iter().map(|id| (id.as_str(), "part")).collect();
        let ticket = self.harness.begin_sync(&self.clients[index], &assignments);
        self.pending.push((index, ticket));
    }

    fn end_append(&mut self) {
        if self.harness.held.is_empty() {
            return;
        }
        // Mostly in order, as a log ends its appends.
        let out_of_order = self.random.one_in(10);
        let at = if out_of_order {
            self.random.below(self.harness.held.len())
        } else {
            0
        };
        let fails = self.random.one_in(10);
        let result = if fails {
            Err(ResponseError::NotEnoughReplicas)
        } else {
            Ok(())
        };
        self.harness.end_append(at, result);
    }

    fn rare(&mut self, index: usize) {
        let now_ms = self.harness.now_ms;
        let partition = partition_for_group("g", PARTITIONS);
        match self.random.below(6) {
            0 => {
                // The client restarts, without its id.
                self.clients[index].member_id.clear();
                self.clients[index].generation = -1;
            }
            1 => {
                if let Some(ticket) = self.harness.versions.keys().next().copied() {
                    self.harness.versions.remove(&ticket);
                    let actions = self.harness.coordinator.cancel(now_ms, ticket);
                    self.harness.absorb(actions);
                }
            }
            2 => {
                let names = vec![text("g").into()];
                let request = DeleteGroupsRequest::default().with_groups_names(names);
                self.harness.send(2, GroupRequest::DeleteGroups(request));
            }
            3 => {
                let actions = self.harness.coordinator.unload(now_ms, partition);
                self.harness.absorb(actions);
                let log = self.harness.log.clone();
                let (actions, report) = self.harness.coordinator.load(now_ms, partition, log);
                assert_eq!(report.records_bad, 0);
                self.harness.absorb(actions);
                // Generations that were not in the log may be used again.
                self.generations.clear();
            }
            4 => {
                self.harness.fetch_all(true);
                self.harness.describe();
            }
            _ => {
                let mut garbage = self.clients[index].clone();
                garbage.member_id = format!("nobody-{}", self.random.below(3));
                garbage.generation = i32::try_from(self.random.below(5)).unwrap() - 2;
                let ticket = self.harness.begin_join(&garbage);
                self.harness.join_reply(ticket);
                self.harness.heartbeat(&garbage);
            }
        }
    }

    /// Hands the answers that came to their clients.
    fn collect(&mut self) {
        let pending = std::mem::take(&mut self.pending);
        let mut joined = Vec::new();
        for (index, ticket) in pending {
            match self.harness.replies.remove(&ticket) {
                None if self.harness.waits(ticket) => self.pending.push((index, ticket)),
                None => {}
                Some(GroupResponse::JoinGroup(response)) => {
                    let client = &mut self.clients[index];
                    let unknown = response.error_code == ResponseError::UnknownMemberId.code();
                    if unknown {
                        client.member_id.clear();
                    } else if !response.member_id.is_empty() {
                        client.member_id = response.member_id.to_string();
                        client.generation = response.generation_id;
                        if response.error_code == 0 {
                            joined.push(index);
                        }
                    }
                }
                Some(_) => {}
            }
        }
        for index in joined {
            if !self.random.one_in(4) {
                self.sync(index);
            }
        }
    }

    fn check(&mut self) {
        let coordinator = &self.harness.coordinator;
        let mut population = 0;
        for group in coordinator.groups.values() {
            population += group.population();
            check_group(group);
            *self.states.entry(group.state.name()).or_default() += 1;
            let last = self.generations.insert(group.incarnation, group.generation);
            assert!(
                last.is_none_or(|last| last <= group.generation),
                "generations only grow"
            );
        }
        assert_eq!(coordinator.context.population, population);
        let waiting: Vec<u64> = self.harness.versions.keys().copied().collect();
        assert_eq!(
            coordinator.context.waiting_tickets(),
            waiting,
            "tickets that wait"
        );
    }

    /// With all appends ended and all time passed, nobody waits.
    fn finish(&mut self) {
        for _ in 0..200 {
            while !self.harness.held.is_empty() {
                self.harness.end_append(0, Ok(()));
            }
            self.harness.sleep(10_000);
        }
        self.check();
        assert!(
            self.harness.versions.is_empty(),
            "{:?} were not answered",
            self.harness.versions
        );
        let population = self.harness.coordinator.context.population;
        assert_eq!(population, 0, "members outlive their sessions");
        assert!(
            self.harness.coordinator.groups.is_empty(),
            "groups outlive their offsets"
        );
        assert_eq!(self.harness.coordinator.context.timers.len(), 1);
    }
}

fn check_group(group: &Group) {
    let joined = group
        .members
        .values()
        .filter(|member| member.awaiting_join.is_some())
        .count();
    assert_eq!(group.awaiting_join(), joined);
    assert_eq!(group.leader.is_some(), !group.members.is_empty());
    assert!(
        group
            .leader
            .as_ref()
            .is_none_or(|leader| group.members.contains_key(leader))
    );
    let statics = group
        .members
        .values()
        .filter(|member| member.instance_id.is_some())
        .count();
    assert_eq!(group.static_members.len(), statics);
    for (instance_id, member_id) in &group.static_members {
        assert_eq!(
            group.members[member_id].instance_id.as_ref(),
            Some(instance_id)
        );
    }
    assert!(
        group
            .pending_members
            .iter()
            .all(|id| !group.members.contains_key(id))
    );
    assert!(
        group
            .pending_sync
            .iter()
            .all(|id| group.members.contains_key(id))
    );
    for (id, member) in &group.members {
        assert_eq!(*id, member.id);
        assert!(member.awaiting_sync.is_none() || group.state == GroupState::CompletingRebalance);
    }
    match group.state {
        GroupState::Empty => assert!(group.members.is_empty()),
        GroupState::Stable | GroupState::CompletingRebalance => {
            assert!(!group.members.is_empty() && group.protocol_name.is_some());
        }
        GroupState::PreparingRebalance => {}
        GroupState::Dead => panic!("a dead group is dropped"),
    }
}

#[test]
fn random_histories_keep_the_invariants() {
    let seeds = match std::env::var("RINGLOG_SEED") {
        Ok(seed) => {
            let seed = seed.parse().expect("RINGLOG_SEED is a number");
            seed..seed + 1
        }
        Err(_) => 0..300,
    };
    let mut states: BTreeMap<&'static str, usize> = BTreeMap::new();
    let all = seeds.end - seeds.start > 1;
    for seed in seeds {
        eprintln!("seed {seed}");
        let mut history = History::new(seed);
        for _ in 0..400 {
            history.step();
        }
        history.finish();
        for (state, count) in history.states {
            *states.entry(state).or_default() += count;
        }
    }
    eprintln!("states after each step: {states:?}");
    assert!(
        !all || states.len() == 4 && states.values().all(|count| *count > 1_000),
        "{states:?}"
    );
}
