//! What no client sends, as frames: absurd lengths, unknown APIs, other protocols, random bytes.
//!
//! Each is sent while a healthy client goes on; the bad one gets Kafka's error or is closed, nothing is
//! appended, and the broker's memory grows by less than 64 MiB.

use ringlog_tests::broker::{Broker, Options};
use ringlog_tests::call::produce_request;
use ringlog_tests::random::Random;
use ringlog_tests::records::Batch;
use ringlog_tests::wire;

use crate::scene::{CLOSE_PATIENCE, Scene};

#[test]
fn absurd_lengths_close_the_connection() {
    let mut scene = Scene::new("lengths");
    for length in [-1, i32::MIN, i32::MAX, 0, 1, 7, 104_857_601] {
        let mut stranger = scene.stranger();
        stranger.write(&length.to_be_bytes()).unwrap();
        stranger.write(&[0; 32]).ok(); // the connection may be closed already
        if length > 0 && length <= 104_857_600 {
            stranger.end_of_requests();
        }
        assert!(stranger.is_closed_within(CLOSE_PATIENCE), "length {length}");
        scene.check(&format!("length {length}"));
    }
}

#[test]
fn large_announced_frames_take_no_memory_before_their_bytes_come() {
    // Apache Kafka allocates what is announced and runs out of heap: only asked of Ringlog.
    let Some(broker) = Broker::own(Options::default()) else {
        return;
    };
    let mut scene = Scene::of(broker, "announced");
    let mut waiting = Vec::new();
    for number in 0..100 {
        let mut stranger = scene.stranger();
        stranger.write(&104_857_600_i32.to_be_bytes()).unwrap();
        stranger.write(&wire::header(0, 9, number, 2)).unwrap();
        waiting.push(stranger);
    }
    scene.check("100 announced frames of 100 MiB");
    drop(waiting);
    scene.check("the end of 100 announced frames");
}

#[test]
fn requests_cut_at_every_byte_are_errors_or_closed_never_more() {
    let mut scene = Scene::new("cut");
    let request = produce_request(&scene.topic, 0, -1, Batch::of(&["cut"]).encode());
    for version in [0, 3, 9] {
        let whole = wire::frame(1, version, &request);
        for end in 4..whole.len() {
            let mut stranger = scene.stranger();
            // The size is right for what is sent: the body ends before its fields do.
            stranger.write(&wire::sized(&whole[4..end])).unwrap();
            stranger.end_of_requests();
            assert!(
                stranger.is_closed_within(CLOSE_PATIENCE),
                "v{version} cut at {end}"
            );
        }
        for end in [1, 3, 4, 10, whole.len() - 1] {
            let mut stranger = scene.stranger();
            stranger.write(&whole[..end]).unwrap();
            stranger.end_of_requests();
            assert!(
                stranger.is_closed_within(CLOSE_PATIENCE),
                "v{version} ended at {end}"
            );
        }
        scene.check("cut requests");
    }
}

#[test]
fn unknown_api_keys_and_versions_close_the_connection() {
    let mut scene = Scene::new("unknown");
    let unknown = [
        (-1, 0),
        (9999, 0),
        (i16::MAX, i16::MAX),
        (i16::MIN, 0),
        (0, 99),
        (0, -1),
        (1, 99),
        (3, 99),
        (3, -1),
        (11, 99),
        (19, i16::MIN),
    ];
    for (key, version) in unknown {
        let mut stranger = scene.stranger();
        let mut frame = wire::header(key, version, 1, 1).to_vec();
        frame.extend_from_slice(&[0; 16]);
        stranger.write(&wire::sized(&frame)).unwrap();
        assert!(
            stranger.is_closed_within(CLOSE_PATIENCE),
            "key {key} version {version}"
        );
        scene.check(&format!("key {key} version {version}"));
    }
}

#[test]
fn http_and_tls_on_the_port_are_turned_away() {
    let mut scene = Scene::new("protocols");
    // The first bytes of a TLS 1.2 ClientHello record.
    let hello = [
        0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3, 0x20, 0x41, 0x42, 0x43, 0x44,
    ];
    let requests: [&[u8]; 4] = [
        b"GET / HTTP/1.1\r\nHost: localhost:9092\r\n\r\n",
        b"POST /topics HTTP/1.0\r\nContent-Length: 0\r\n\r\n",
        &hello,
        b"SSH-2.0-OpenSSH_9.2\r\n",
    ];
    for request in requests {
        let mut stranger = scene.stranger();
        stranger.write(request).unwrap();
        let said = stranger.read_to_end_within(CLOSE_PATIENCE);
        let said = String::from_utf8_lossy(&said).into_owned();
        // Better than Kafka, which closes without a word: HTTP may get a 400 with a hint, TLS an
        // alert.
        assert!(
            said.is_empty() || said.starts_with("HTTP/1.1 400") || said.starts_with("\u{15}\u{3}"),
            "{request:?}: {said:?}"
        );
        scene.check("another protocol");
    }
}

#[test]
fn random_bytes_never_disturb_the_others() {
    let mut scene = Scene::new("random");
    let mut random = Random::seeded("random_bytes_never_disturb_the_others");
    for _ in 0..300 {
        let length = usize::try_from(random.below(200)).expect("small");
        let bytes = random.bytes(length);
        let mut stranger = scene.stranger();
        let key = i16::try_from(random.below(70)).expect("small");
        let version = i16::try_from(random.below(13)).expect("small");
        let header_version = if random.below(2) == 0 { 1 } else { 2 };
        // No acks, no wait: random fields of these could hold the connection for long.
        let mut frame = wire::header(key, version, 7, header_version).to_vec();
        frame.extend_from_slice(&bytes);
        stranger.write(&wire::sized(&frame)).unwrap();
    }
    scene.check("random bytes");
}

#[test]
fn a_thousand_connections_that_say_nothing_cost_little() {
    let mut scene = Scene::new("silent");
    let silent: Vec<_> = (0..1000).map(|_| scene.stranger()).collect();
    scene.check("1000 silent connections");
    drop(silent);
    scene.check("the end of 1000 silent connections");
}
