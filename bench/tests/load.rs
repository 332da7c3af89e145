//! Every kind of load on a real broker, small: it goes through, and all that was sent is verified.
#![forbid(unsafe_code)]

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;

use support::{Broker, Directory, bench, ringlog};

#[test]
fn every_form_of_batches_is_produced_and_verified() {
    let broker = Broker::start();
    let lines = broker.directory.join("lines");
    fs::write(&lines, "one\ntwo\nthree and more\n\nfour\n").unwrap();
    let payload = format!("--payload-file {} --batch-bytes 100", lines.display());
    let mut forms = vec![
        "--idempotent".to_owned(),
        "--idempotent --build each --in-flight 5".to_owned(),
        "--produce-version 0".to_owned(),
        "--produce-version 2 --build each --compression gzip".to_owned(),
        "--produce-version 2 --compression snappy --acks 1".to_owned(),
        "--produce-version 3 --acks 0".to_owned(),
        "--produce-version 2 --acks 0 --partitions 3".to_owned(),
        "--keys none --record-bytes 1 --batch-bytes 1".to_owned(),
        "--keys random:3 --record-bytes 1..300".to_owned(),
        "--keys seq --build each --acks 1".to_owned(),
        payload,
    ];
    for codec in ["gzip", "snappy", "lz4", "zstd"] {
        forms.push(format!("--compression {codec}"));
        forms.push(format!("--compression {codec} --build each --idempotent"));
    }
    let bootstrap = broker.bootstrap();
    for (number, form) in forms.iter().enumerate() {
        let mut words = format!(
            "produce --bootstrap {bootstrap} --topic form-{number} --warm-up 0s --messages 600 \
             --connections 3 --in-flight 2"
        );
        let besides = [
            ("--partitions", "--partitions 2"),
            ("--batch-bytes", "--batch-bytes 700"),
            ("--payload-file", "--record-bytes 50"),
        ];
        for (flag, default) in besides {
            let named = form.contains(flag)
                || form.contains("--record-bytes") && default.contains("--record-bytes");
            if !named {
                words = format!("{words} {default}");
            }
        }
        let done = bench(&format!("{words} {form}"));
        assert_eq!(done.code, Some(0), "{form}\n{}", done.text);
        done.says(&["verified     6"]); // 600 or a few more: whole batches
    }
}

#[test]
fn groups_read_all_that_is_written_while_it_is_written() {
    let broker = Broker::start();
    let (bootstrap, folder) = (broker.bootstrap(), broker.directory.join("result"));
    let done = bench(&format!(
        "run --bootstrap {bootstrap} --warm-up 100ms --messages 900 --duration 20s --rate 3k --arrival poisson \
         --record-bytes 60 --batch-bytes 1 --connections 3 --partitions 4 --groups 2 --consumers 3 --in-flight 9 \
         -o {}",
        folder.display()
    ));
    assert!(done.is_through(), "{}", done.text);
    done.says(&["consumed     1800 records", "2 groups of 3", "end to end"]);
    let text = fs::read_to_string(folder.join("result.json")).unwrap();
    for part in ["\"end_to_end\"", "\"groups\": 2", "\"stamped\": true"] {
        assert!(text.contains(part), "no {part} in {text}");
    }
    let done = bench(&format!(
        "run --bootstrap {bootstrap} --topic each --warm-up 0s --messages 300 --rate 3k --batch-bytes 1 \
         --record-bytes 60 --compression lz4 --build each --idempotent --consumers 2"
    ));
    assert!(done.is_through(), "{}", done.text);
    done.says(&["consumed     300 records", "verified     300 records"]);
}

#[test]
fn a_group_catches_up_from_the_page_cache_and_from_the_device() {
    let words = "--no-pin --fill 2MiB --partitions 2 --consumers 2 --durability page-cache";
    let started = format!("--ringlog {}", ringlog().display());
    let hot = bench(&format!("run --catch-up hot {words} --groups 2 {started}"));
    // Of a binary that has just been built the broker may read pages of its own, which count, too.
    let is_told = hot.code == Some(0) || hot.text.contains("INVALID: not hot");
    assert!(is_told, "{}", hot.text);
    hot.says(&["caught up    2", "2 groups of 2"]);
    let cold = bench(&format!("run --catch-up cold {words} {started}"));
    // In a temporary directory in memory nothing is cold, and that is said.
    let is_told = cold.code == Some(0) || cold.text.contains("INVALID: not cold");
    assert!(is_told, "{}", cold.text);
    cold.says(&["of the log's bytes were read from it"]);
    let broker = Broker::start();
    let foreign = format!(
        "run --catch-up cold --bootstrap {} --fill 1MiB",
        broker.bootstrap()
    );
    let refused = bench(&foreign);
    assert_eq!(refused.code, Some(2), "{}", refused.text);
    refused.says(&["--catch-up cold needs a broker whose log files are found here"]);
}

#[test]
fn the_tutorial_has_a_row_for_each_scale_and_target() {
    let broker = Broker::start();
    let (bootstrap, folder) = (broker.bootstrap(), broker.directory.join("result"));
    let done = bench(&format!(
        "run --preset tutorial --messages 50 --scale 1,2 --target ringlog={},{bootstrap} --no-pin -o {}",
        ringlog().display(),
        folder.display()
    ));
    assert_eq!(done.code, Some(0), "{}", done.text);
    let rows: Vec<_> = done
        .text
        .lines()
        .filter(|line| line.starts_with('x'))
        .collect();
    assert_eq!(rows.len(), 4, "{}", done.text);
    assert!(
        rows[0].starts_with("x1     50") && rows[3].starts_with("x2     100"),
        "{rows:?}"
    );
    let text = fs::read_to_string(folder.join("result.json")).unwrap();
    for part in [
        "\"first_loop_s\"",
        "\"end_to_end\"",
        "native, Produce v2",
        "\"status\": \"valid\"",
    ] {
        assert!(text.contains(part), "no {part} in {text}");
    }
    let readme = fs::read_to_string(folder.join("README.md")).unwrap();
    assert!(readme.contains("| x2 | 100 |"), "{readme}");
}

#[test]
fn a_client_that_cannot_run_is_one_line_and_no_number() {
    let directory = Directory::new();
    let script = |name: &str, text: &str| {
        let path = directory.join(name);
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path.display().to_string()
    };
    let missing = script(
        "missing",
        "echo 'java is not installed (apt-get ..)' >&2; exit 1",
    );
    let dying = script(
        "dying",
        "echo '{\"client\": \"dead 1.0\", \"command\": [\"/bin/false\"]}'",
    );
    let broker = Broker::start();
    let words = format!(
        "tutorial --messages 20 --target {} --no-pin",
        broker.bootstrap()
    );
    let done = bench(&format!(
        "{words} --driver native,java --driver-script {missing}"
    ));
    assert_eq!(done.code, Some(1), "{}", done.text);
    done.says(&[
        "FAILED: java cannot run here: java is not installed (apt-get ..)",
        "not measured",
    ]);
    let native = done.text.lines().find(|line| line.contains(" native "));
    assert!(
        native.is_some_and(|row| !row.contains("FAILED")),
        "{}",
        done.text
    );
    let done = bench(&format!(
        "{words} --driver kafka-python --driver-script {dying}"
    ));
    assert_eq!(done.code, Some(1), "{}", done.text);
    done.says(&["FAILED: dead 1.0 (produce): it failed"]);
}

#[test]
fn a_sweep_and_a_search_keep_their_points() {
    let broker = Broker::start();
    let (bootstrap, folder) = (broker.bootstrap(), broker.directory.join("sweep"));
    let load = "--warm-up 0s --duration 200ms --record-bytes 60 --batch-bytes 1 --in-flight 500";
    let done = bench(&format!(
        "sweep --rate 100..400:x2 --bootstrap {bootstrap} {load} -o {}",
        folder.display()
    ));
    assert!(done.is_through(), "{}", done.text);
    done.says(&["100 requests/s", "200 requests/s", "400 requests/s"]);
    let text = fs::read_to_string(folder.join("result.json")).unwrap();
    assert!(text.contains("requests/s asked for"), "{text}");
    let done = bench(&format!(
        "max --slo p99<10us --from 100 --confirmations 1 --bootstrap {bootstrap} {load} --topic never"
    ));
    assert_eq!(done.code, Some(1), "{}", done.text);
    let none_does = done.text.contains("no rate down to");
    assert!(
        none_does || done.text.contains("generator lagged"),
        "{}",
        done.text
    );
    let done = bench(&format!(
        "max --slo p100<60s --from 20M --precision 50% --confirmations 1 --bootstrap {bootstrap} --warm-up 0s \
         --messages 50 --record-bytes 60 --batch-bytes 1 --in-flight 500 --topic most"
    ));
    assert_eq!(done.code, Some(1), "{}", done.text);
    done.says(&["INVALID: a point at 20000000 requests/s lasts"]);
    let done = bench(&format!(
        "max --slo p50<10ms --from 50 --precision 50% --confirmations 1 --bootstrap {bootstrap} {load} --acks 0"
    ));
    assert_eq!(done.code, Some(2), "{}", done.text);
    done.says(&["no --acks 0"]);
}

#[test]
fn a_sweep_deletes_no_topic_that_was_there_before() {
    let broker = Broker::start();
    let bootstrap = broker.bootstrap();
    let kept = "--warm-up 0s --messages 50 --record-bytes 60 --batch-bytes 1 --topic kept-0";
    let done = bench(&format!("produce --bootstrap {bootstrap} {kept}"));
    assert_eq!(done.code, Some(0), "{}", done.text);
    broker.wait_for_log("kept-0", 50 * 60);
    let done = bench(&format!(
        "sweep --rate 500 --bootstrap {bootstrap} --warm-up 0s --duration 100ms --record-bytes 60 \
         --batch-bytes 1 --in-flight 500 --topic kept"
    ));
    assert!(done.is_through(), "{}", done.text);
    let log = broker.directory.join("data/logs/kept-0-0");
    assert!(log.exists(), "no {}", log.display());
}

#[test]
fn limits_of_requests_fetches_and_tails_are_told() {
    let scratch = Directory::new();
    let place = scratch.join(".");
    let place = place.display();
    let done = bench(&format!(
        "limits --only requests,fetch,tails --repetitions 1 --connections 40 --duration 1s --ringlog {} \
         --work-dir {place} --results {place} --machine here",
        ringlog().display()
    ));
    assert!(done.is_through(), "{}", done.text);
    done.says(&[
        "CPU per request, 40 connections / 16",
        "CPU per request, 20 connections: 20 partitions / 16",
        "CPU of a hot fetch, broker / bare sendfile loop",
        "p99.9 of produce beside compaction / nothing",
        "beside 4 cold readers: produce read from the device",
    ]);
}
