//! What cannot be measured is said: one clear line, an exit code that is not 0, and what there is of the
//! result marked as a part.
#![forbid(unsafe_code)]

mod support;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::Command;

use support::{Broker, Directory, bench, end, ringlog, start_bench};

/// Small, and long enough to be interrupted.
const LOAD: &str = "--warm-up 0s --duration 60s --record-bytes 100 --batch-bytes 1";

#[test]
fn nobody_there_is_told_by_every_command() {
    let free = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap(); // closed again
    for command in [
        format!("produce --bootstrap {free}"),
        format!("run --bootstrap {free}"),
        format!("fetch --bootstrap {free}"),
        format!("sweep --rate 1k --bootstrap {free}"),
        format!("max --slo p99<5ms --bootstrap {free}"),
        format!("tutorial --target {free}"),
    ] {
        let done = bench(&command);
        assert_eq!(done.code, Some(1), "{command}\n{}", done.text);
        done.says(&[&format!("connecting to {free}"), "refused"]);
    }
}

/// Answers each connection with `answer`, if it has one, and keeps it open.
fn serve(answer: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    let address = listener.local_addr().expect("it is bound").to_string();
    std::thread::spawn(move || {
        let mut kept = Vec::new();
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            // Whoever asks sends at least this much; what goes wrong is the other side's to tell.
            if stream.read_exact(&mut [0; 8]).is_ok() && stream.write_all(answer).is_ok() {
                kept.push(stream);
            }
        }
    });
    address
}

#[test]
fn what_is_no_broker_is_recognised() {
    let http = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n";
    let broker = Broker::start();
    for (what, address) in [
        ("an HTTP server that refuses", serve(http)),
        ("a server that waits for more", serve(b"")),
        ("ZooKeeper", broker.port("ZOOKEEPER")),
    ] {
        let done = bench(&format!("produce --bootstrap {address}"));
        assert_eq!(done.code, Some(1), "{what}\n{}", done.text);
        done.says(&["is this a Kafka broker?"]);
    }
}

/// The result is kept, as a part of a run that failed.
fn assert_partial(folder: &std::path::Path, part: &str) {
    let text = std::fs::read_to_string(folder.join("result.json")).expect("a result was kept");
    assert!(text.contains("\"status\": \"failed\""), "{text}");
    assert!(text.contains(part), "no {part:?} in {text}");
    let result: serde_json::Value = serde_json::from_str(&text).expect("it is JSON");
    let requests = result["measurements"][0]["summary"]["requests"].as_u64();
    assert!(requests.is_some_and(|requests| requests > 0), "{text}");
}

#[test]
fn a_broker_that_dies_leaves_a_partial_result() {
    for command in ["produce", "run --groups 2", "sweep --rate 2k"] {
        let mut broker = Broker::start();
        let folder = broker.directory.join("result");
        let (bootstrap, output) = (broker.bootstrap(), folder.display());
        let load = format!("{command} --bootstrap {bootstrap} {LOAD} -o {output}");
        let load = start_bench(&load);
        // A point of a sweep has a topic of its own.
        let topic = match command.starts_with("sweep") {
            true => format!("bench-{}-0", load.id()),
            false => "bench".to_owned(),
        };
        broker.wait_for_log(&topic, 20_000);
        broker.kill();
        let done = end(load);
        assert_eq!(done.code, Some(1), "{}", done.text);
        done.says(&["PARTIAL", "ringlog-bench: "]);
        assert_partial(&folder, "\"reasons\"");
    }
}

#[test]
fn a_topic_that_vanishes_is_named() {
    for command in ["produce", "run --groups 1"] {
        let broker = Broker::start();
        let folder = broker.directory.join("result");
        let (bootstrap, output) = (broker.bootstrap(), folder.display());
        let load = format!("{command} --bootstrap {bootstrap} {LOAD} -o {output}");
        let load = start_bench(&load);
        broker.wait_for_log("bench", 20_000);
        let mut delete = Command::new(ringlog());
        delete.args(["kafka-topics", "--bootstrap-server", &bootstrap]);
        let deleted = delete
            .args(["--delete", "--topic", "bench"])
            .output()
            .unwrap();
        assert!(deleted.status.success(), "{deleted:?}");
        let done = end(load);
        assert_eq!(done.code, Some(1), "{}", done.text);
        done.says(&["UnknownTopicOrPartition (3)", "no longer"]);
        let text = std::fs::read_to_string(folder.join("result.json")).unwrap();
        assert!(text.contains("\"status\": \"failed\""), "{text}");
    }
}

#[test]
fn a_full_disk_ends_the_load() {
    // A mount of its own, so that nobody else's disk is full; larger than the broker's reserve.
    let mut isolated = Command::new("unshare");
    isolated.args(["-rm", "sh", "-c"]);
    let directory = Directory::new();
    let small = directory.join("small");
    std::fs::create_dir(&small).unwrap();
    let mount = format!("mount -t tmpfs -o size=256m tmpfs {}", small.display());
    let works = Command::new("unshare")
        .args(["-rm", "sh", "-c", &mount])
        .output();
    if !works.is_ok_and(|output| output.status.success()) {
        return eprintln!("SKIP: this machine gives no mount namespace (unshare -rm)");
    }
    isolated
        .arg(format!("{mount} && exec \"$0\" \"$@\""))
        .arg(ringlog());
    let data = small.join("data").display().to_string();
    let broker = Broker::start_by(directory, isolated, &data);
    let folder = broker.directory.join("result");
    let (bootstrap, output) = (broker.bootstrap(), folder.display());
    let load = "--warm-up 0s --messages 100k --record-bytes 16KiB --batch-bytes 64KiB --acks 1";
    let done = bench(&format!(
        "produce --bootstrap {bootstrap} {load} -o {output}"
    ));
    assert_eq!(done.code, Some(1), "{}", done.text);
    done.says(&["KafkaStorageError (56)", "full", "PARTIAL"]);
    assert_partial(&folder, "KafkaStorageError");
}

#[test]
fn a_result_that_cannot_be_kept_is_refused_before_the_load() {
    let done = bench("produce --bootstrap 127.0.0.1:1 -o /proc/nowhere");
    assert!(matches!(done.code, Some(1 | 2)), "{}", done.text);
    done.says(&["/proc"]);
}

#[test]
fn flags_that_cannot_be_meant_are_refused_before_a_broker_starts() {
    for (words, part) in [
        ("produce --connections 0", "--connections must be 1 to"),
        ("produce --record-bytes 9..7", "least to the most"),
        ("produce --record-bytes 100MiB", "more than the"),
        ("produce --rate -5", "-5"),
        ("produce --keys some", "random[:HOW-MANY]"),
        (
            "produce --compression brotli",
            "none, gzip, snappy, lz4 or zstd",
        ),
        (
            "produce --produce-version 9",
            "--produce-version must be 0 to 8",
        ),
        (
            "produce --produce-version 2 --idempotent",
            "neither sequences nor headers",
        ),
        (
            "produce --idempotent --acks 1",
            "--idempotent needs --acks all",
        ),
        ("produce --compression zstd --produce-version 3", "KIP-110"),
        ("produce --compression gzip --idempotent", "--build each"),
        ("produce --payload-file /no/such/file", "/no/such/file"),
        ("produce --payload-file /dev/null", "no line with a value"),
        ("run --groups 0", "--groups must be 1 to"),
        ("run --produce-version 2", "neither sequences nor headers"),
        ("run --fill 1MiB", "--catch-up"),
        ("run --preset nothing", "fan-out"),
        ("sweep", "--rate"),
        ("sweep --rate 1k..9k", "needs a step"),
        ("max --slo p99", "p99<5ms"),
        ("max --slo p99<5ms --precision 90%", "50%"),
        ("tutorial --scale 0", "--scale must be"),
        ("tutorial --target redpanda", "HOST:PORT[@PID]"),
        ("run --catch-up cold --bootstrap 127.0.0.1:1 --pid", "--pid"),
    ] {
        let done = bench(words);
        let usage = done.code == Some(2) || words.contains("/no/such/file");
        assert!(
            usage && done.code != Some(0),
            "{words}: {:?}\n{}",
            done.code,
            done.text
        );
        done.says(&[part]);
        assert!(
            !done.text.contains(" INFO "),
            "a broker was started\n{}",
            done.text
        );
    }
}
