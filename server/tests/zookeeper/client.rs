//! What the broker's own client library sees.

use std::time::Duration;

use zk::{AddWatchMode, CreateMode, EventType};
use zookeeper_client as zk;

use super::Service;
use super::wire::{Bare, word};

fn open(mode: CreateMode) -> zk::CreateOptions<'static> {
    mode.with_acls(zk::Acls::anyone_all())
}

fn block_on(body: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        tokio::time::timeout(Duration::from_secs(30), body)
            .await
            .expect("done in time");
    });
}

async fn connect(service: &Service) -> zk::Client {
    zk::Client::connect(&service.address().to_string())
        .await
        .expect("a session")
}

#[test]
fn nodes_come_change_and_go() {
    let service = Service::start();
    block_on(async {
        let client = connect(&service).await;
        let (stat, _) = client
            .create("/a", b"1", &open(CreateMode::Persistent))
            .await
            .unwrap();
        assert_eq!(client.get_data("/a").await.unwrap(), (b"1".to_vec(), stat));
        let set = client.set_data("/a", b"2", Some(0)).await.unwrap();
        assert_eq!((set.version, set.czxid), (1, stat.czxid));
        assert_eq!(
            client.set_data("/a", b"3", Some(0)).await.unwrap_err(),
            zk::Error::BadVersion
        );
        let sequential = open(CreateMode::EphemeralSequential);
        let (_, first) = client.create("/a/n-", b"", &sequential).await.unwrap();
        let (_, second) = client.create("/a/n-", b"", &sequential).await.unwrap();
        assert_eq!((first.into_i64(), second.into_i64()), (0, 1));
        let (children, stat) = client.get_children("/a").await.unwrap();
        assert_eq!((children.len(), stat.num_children), (2, 2));
        assert_eq!(client.list_ephemerals("/a").await.unwrap().len(), 2);
        assert_eq!(client.count_descendants_number("/").await.unwrap(), 6);
        assert_eq!(
            client.delete("/a", None).await.unwrap_err(),
            zk::Error::NotEmpty
        );
        client.sync("/a").await.unwrap();
        assert_eq!(client.get_config().await.unwrap().0, b"");
        let container = client
            .create("/c", b"", &open(CreateMode::Container))
            .await
            .unwrap();
        assert_eq!(container.0.ephemeral_owner, i64::MIN);
        let user = client.list_auth_users().await.unwrap();
        assert_eq!(user.len(), 1);
    });
}

#[test]
fn watches_fire_once_or_for_good() {
    let service = Service::start();
    block_on(async {
        let (client, other) = (connect(&service).await, connect(&service).await);
        let (none, created) = client.check_and_watch_stat("/w").await.unwrap();
        assert_eq!(none, None);
        let mut all = client
            .watch("/w", AddWatchMode::PersistentRecursive)
            .await
            .unwrap();
        let persistent = open(CreateMode::Persistent);
        other.create("/w", b"", &persistent).await.unwrap();
        let event = created.changed().await;
        assert_eq!(
            (event.event_type, &*event.path),
            (EventType::NodeCreated, "/w")
        );
        let (_, _, children) = client.get_and_watch_children("/w").await.unwrap();
        let (_, _, data) = client.get_and_watch_data("/w").await.unwrap();
        other.create("/w/x", b"", &persistent).await.unwrap();
        assert_eq!(
            children.changed().await.event_type,
            EventType::NodeChildrenChanged
        );
        other.set_data("/w", b"!", None).await.unwrap();
        assert_eq!(data.changed().await.event_type, EventType::NodeDataChanged);
        other.delete("/w/x", None).await.unwrap();
        let expected = [
            (EventType::NodeCreated, "/w"),
            (EventType::NodeCreated, "/w/x"),
            (EventType::NodeDataChanged, "/w"),
            (EventType::NodeDeleted, "/w/x"),
        ];
        for (kind, path) in expected {
            let event = all.changed().await;
            assert_eq!((event.event_type, &*event.path), (kind, path));
        }
    });
}

#[test]
fn transactions_are_whole() {
    let service = Service::start();
    block_on(async {
        let client = connect(&service).await;
        let persistent = open(CreateMode::Persistent);
        let mut writer = client.new_multi_writer();
        writer.add_create("/m", b"1", &persistent).unwrap();
        writer.add_set_data("/m", b"2", Some(0)).unwrap();
        writer.add_check_version("/m", 1).unwrap();
        assert_eq!(writer.commit().await.unwrap().len(), 3);
        let mut writer = client.new_multi_writer();
        writer.add_delete("/m", None).unwrap();
        writer.add_check_version("/", 99).unwrap();
        writer.commit().await.unwrap_err();
        let mut reader = client.new_multi_reader();
        reader.add_get_data("/m").unwrap();
        reader.add_get_children("/m").unwrap();
        reader.add_get_data("/none").unwrap();
        let results = reader.commit().await.unwrap();
        assert!(matches!(&results[0], zk::MultiReadResult::Data { data, .. } if data == b"2"));
        assert!(matches!(
            &results[2],
            zk::MultiReadResult::Error {
                err: zk::Error::NoNode
            }
        ));
    });
}

#[test]
fn lists_are_enforced() {
    let service = Service::start();
    block_on(async {
        let owner = zk::Client::connector().with_auth("digest", b"user:secret");
        let owner = owner.connect(&service.address().to_string()).await.unwrap();
        let stranger = connect(&service).await;
        let private = CreateMode::Persistent.with_acls(zk::Acls::creator_all());
        owner.create("/own", b"mine", &private).await.unwrap();
        assert_eq!(
            stranger.get_data("/own").await.unwrap_err(),
            zk::Error::NoAuth
        );
        assert_eq!(
            stranger.set_data("/own", b"", None).await.unwrap_err(),
            zk::Error::NoAuth
        );
        let create = stranger
            .create("/own/x", b"", &open(CreateMode::Persistent))
            .await;
        assert_eq!(create.unwrap_err(), zk::Error::NoAuth);
        // Who may not read learns of nothing, not even by a watch set before.
        let watcher = stranger.check_and_watch_stat("/later").await.unwrap().1;
        owner.create("/later", b"", &private).await.unwrap();
        let told = tokio::time::timeout(Duration::from_millis(200), watcher.changed()).await;
        assert!(told.is_err(), "{told:?}");
        stranger.auth("digest", b"user:secret").await.unwrap();
        assert_eq!(stranger.get_data("/own").await.unwrap().0, b"mine");
        assert_eq!(stranger.list_auth_users().await.unwrap().len(), 2);
    });
}

#[test]
fn sessions_ephemerals_and_watches_outlive_a_restart() {
    let mut service = Service::start();
    let mut bare = Bare::open(service.address(), 5000);
    assert_eq!(bare.create("/e", 1), 0);
    let zxid = bare
        .ask(ringlog::zookeeper::protocol::op::PING, |_| ())
        .unwrap()
        .1;
    service.restart();
    let mut again = Bare::attach(service.address(), 5000, bare.session, &bare.password).unwrap();
    assert_eq!(again.session, bare.session);
    assert_eq!(again.exists("/e"), 0);
    assert_eq!(again.create("/next", 0), 0);
    let later = again
        .ask(ringlog::zookeeper::protocol::op::PING, |_| ())
        .unwrap()
        .1;
    assert!(later > zxid, "zxid {later} came after {zxid}");
    // Nobody comes back to this one: it expires after the restart too.
    drop(again);
    service.restart();
    let mut observer = Bare::open(service.address(), 30_000);
    let mut turns = 0;
    while observer.exists("/e") == 0 {
        turns += 1;
        assert!(turns < 100, "the ephemeral outlived its session");
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(turns > 30, "it expired before its timeout");
}

#[test]
fn timeouts_are_negotiated() {
    let service = Service::with(|config| {
        config.session_timeout_ms_min = 300;
        config.session_timeout_ms_max = 700;
    });
    let timeouts =
        [1, 500, i32::MAX, -5].map(|wanted| Bare::open(service.address(), wanted).timeout_ms);
    assert_eq!(timeouts, [300, 500, 700, 300]);
}

#[test]
fn words_are_answered_if_they_are_allowed() {
    use ringlog::zookeeper::words::Word;
    let service = Service::with(|config| config.words = vec![Word::Ruok, Word::Srvr]);
    assert_eq!(word(service.address(), "ruok"), "imok");
    assert!(word(service.address(), "srvr").contains("\nMode: standalone\nNode count: 5\n"));
    for name in ["mntr", "wchp"] {
        let refusal = format!("{name} is not executed because it is not in the whitelist.\n");
        assert_eq!(word(service.address(), name), refusal);
    }
}
