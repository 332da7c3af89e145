//! `ringlog serve --adopt`: a directory that another broker left is served, as a copy or in place.

use std::fs;
use std::os::unix::fs::symlink;

use ringlog_tests::broker::{Broker, Directory, Options, refused_start, serve};
use ringlog_tests::call::fetch_all;
use ringlog_tests::records::{Codec, message_set};
use ringlog_tests::wire::Client;

use crate::place::{BATCHES, RECORDS, TOPIC, contents, filled};

#[test]
fn a_directory_is_served_as_a_copy_or_in_place() {
    let Some(mut first) = filled(Options::default()) else {
        return;
    };
    first.stop();
    let logs = first.logs();
    // What a Kafka of old and one with KRaft would have, too.
    let old = logs.join("of-old-0");
    fs::create_dir(&old).expect("ours");
    let set = message_set(1, Codec::Gzip, 1000, &["a", "b", "c"]);
    fs::write(old.join("00000000000000000000.log"), set).expect("ours");
    fs::create_dir(logs.join("__cluster_metadata-0")).expect("ours");
    let properties = "version=1\nnode.id=7\ncluster.id=theirs\n";
    fs::write(logs.join("meta.properties"), properties).expect("ours");
    // A partition that was moved to another disk.
    let outside = Directory::new();
    let (linked, link) = (outside.path().join("linked-0"), logs.join("linked-0"));
    fs::create_dir(&linked).expect("ours");
    let set = message_set(1, Codec::None, 1000, &["d"]);
    fs::write(linked.join("00000000000000000000.log"), set).expect("ours");
    symlink(&linked, &link).expect("ours");
    let before = contents(&logs);
    let adopted = logs.display().to_string();
    let check = |broker: &Broker| {
        let mut client = Client::connect(broker.address());
        let count = usize::try_from(BATCHES * RECORDS).expect("small");
        assert_eq!(fetch_all(&mut client, TOPIC, 0).len(), count);
        assert_eq!(fetch_all(&mut client, "sound", 0).len(), 2);
        let texts: Vec<_> = fetch_all(&mut client, "of-old", 0)
            .iter()
            .map(|r| r.text())
            .collect();
        assert_eq!(texts, ["a", "b", "c"]);
    };
    let options = Options::default().argument("--adopt").argument(&adopted);
    let Some(copy) = Broker::own(options.clone()) else {
        return;
    };
    check(&copy);
    let mut client = Client::connect(copy.address());
    assert_eq!(fetch_all(&mut client, "linked", 0).len(), 1);
    assert!(!copy.logs().join("linked-0").is_symlink());
    assert!(!copy.logs().join("__cluster_metadata-0").exists());
    assert_eq!(contents(&logs), before, "the original is as it was");
    // A second time nothing is overwritten.
    let elsewhere = Directory::new();
    fs::create_dir_all(elsewhere.path().join("logs/x-0")).expect("ours");
    let (code, text) = refused_start(serve("127.0.0.1:0", elsewhere.path(), &options));
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("is not empty"), "{text}");
    fs::remove_dir(logs.join("__cluster_metadata-0")).expect("ours");
    fs::remove_file(link).expect("ours");
    let in_place = options.argument("--in-place").set("broker.id", 7);
    if let Some(broker) = Broker::own(in_place) {
        check(&broker);
    }
}

#[test]
fn what_cannot_be_adopted_is_refused_by_name() {
    let Some(running) = filled(Options::default()) else {
        return;
    };
    let directory = Directory::new();
    let empty = directory.path().join("empty");
    fs::create_dir(&empty).expect("ours");
    let pid = running.process_id().expect("ours").to_string();
    for (from, parts) in [
        (running.logs(), [".lock", pid.as_str()]),
        (empty, ["meta.properties", "log.dirs"]),
        (
            directory.path().join("nowhere"),
            ["nowhere", "No such file"],
        ),
    ] {
        let options = Options::default();
        let options = options
            .argument("--adopt")
            .argument(&from.display().to_string());
        let data = directory.path().join("data");
        let (code, text) = refused_start(serve("127.0.0.1:0", &data, &options));
        assert_eq!(code, Some(1), "{text}");
        for part in parts {
            assert!(text.contains(part), "no {part:?} in {text}");
        }
        assert!(!data.join("logs").exists(), "nothing was begun");
    }
}

#[test]
fn the_copy_is_never_made_over_the_original() {
    let directory = Directory::new();
    let data = directory.path().join("data");
    let original = data.join("logs.adopting");
    let inner = original.join("inner");
    fs::create_dir_all(&inner).expect("ours");
    for place in [&data, &original, &inner] {
        fs::write(place.join("meta.properties"), "version=0\n").expect("ours");
    }
    let before = contents(&data);
    let link = directory.path().join("link");
    symlink(&original, &link).expect("ours");
    for from in [data.clone(), original, inner, link] {
        let from = from.display().to_string();
        let options = Options::default().argument("--adopt").argument(&from);
        let (code, text) = refused_start(serve("127.0.0.1:0", &data, &options));
        assert_eq!(code, Some(1), "{text}");
        assert!(text.contains("not apart from it"), "{from}: {text}");
        let mut after = contents(&data);
        after.retain(|(path, _)| before.iter().any(|(known, _)| known == path));
        assert_eq!(after, before, "{from}");
    }
}
