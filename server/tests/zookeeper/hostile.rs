//! Bad input: each costs only its own connection, and memory stays bounded.

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::time::Duration;

use ringlog::zookeeper::protocol::op;

use super::Service;
use super::wire::{Bare, create, dial, path_and_watch, word};

/// The connection ends without an answer.
fn is_closed_after(address: SocketAddr, bytes: &[u8]) -> bool {
    let mut stream = dial(address);
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    // A reset is a close too.
    let _ = stream.read_to_end(&mut answer);
    answer.is_empty()
}

#[test]
fn garbage_ends_only_its_own_connection() {
    let service = Service::start();
    let address = service.address();
    let mut bystander = Bare::open(address, 30_000);
    assert_eq!(bystander.create("/there", 0), 0);
    let tls = [0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];
    for bytes in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        &tls,
        &[0xff; 64],
        &[0x7f, 0xff, 0xff, 0xff],
        &[0; 64],
        &[0, 0, 0, 3, 1, 2, 3],
        &[0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0],
    ] {
        assert!(is_closed_after(address, bytes), "{bytes:?}");
    }
    assert_eq!(bystander.exists("/there"), 0);
}

#[test]
fn oversized_packets_end_the_connection_and_not_the_session() {
    let service = Service::start();
    let mut client = Bare::open(service.address(), 30_000);
    assert_eq!(client.create("/e", 1), 0);
    client
        .stream
        .write_all(&0x10_0000_u32.to_be_bytes())
        .unwrap();
    assert_eq!(client.stream.read(&mut [0; 16]).unwrap_or(0), 0);
    let mut again =
        Bare::attach(service.address(), 30_000, client.session, &client.password).unwrap();
    assert_eq!(again.session, client.session);
    let limit = vec![1; 0xf_ffff - 70];
    assert_eq!(
        again.ask(op::CREATE, create("/big", &limit, 0)).unwrap().2,
        0
    );
    let (_, _, error, record) = again
        .ask(op::GET_DATA, path_and_watch("/big", false))
        .unwrap();
    assert_eq!((error, &record[4..4 + limit.len()]), (0, &limit[..]));
}

#[test]
fn malformed_records_and_absurd_paths_get_zookeepers_errors() {
    let service = Service::start();
    let mut client = Bare::open(service.address(), 30_000);
    let mut error = |number: i32, bytes: &[u8]| {
        let bytes = bytes.to_vec();
        client
            .ask(number, move |writer| {
                bytes.iter().for_each(|byte| writer.bool(*byte != 0));
            })
            .unwrap()
            .2
    };
    assert_eq!(error(op::CREATE, &[]), -5);
    assert_eq!(error(op::SET_WATCHES, &[1; 12]), -5);
    assert_eq!(error(op::MULTI, &[0; 9]), -5);
    for path in [
        "",
        "a",
        "/..",
        "/.",
        "//",
        "/\u{1}",
        &"/x".repeat(300),
        &format!("/{}", "y".repeat(9000)),
    ] {
        assert_eq!(client.create(path, 0), -8, "{path:.40}");
    }
    assert_eq!(client.create("/ok", 9), -8);
    assert_eq!(client.create("/ok", 0), 0);
}

#[test]
fn connections_are_limited_per_address() {
    let service = Service::with(|config| config.connections_per_address_max = 3);
    let address = service.address();
    let clients: Vec<_> = (0..3).map(|_| Bare::open(address, 30_000)).collect();
    assert!(is_closed_after(address, b"ruok"));
    drop(clients);
    // They are let go as soon as their ends are seen.
    for _ in 0..100 {
        if !is_closed_after(address, b"ruok") {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("the places of closed connections were not freed");
}

#[test]
fn a_slow_reader_is_not_read_and_then_cut_off() {
    let service = Service::start();
    let address = service.address();
    let mut bystander = Bare::open(address, 30_000);
    let big = vec![7; 1_000_000];
    bystander.ask(op::CREATE, create("/big", &big, 0)).unwrap();
    // Asks for gigabytes and reads nothing.
    let mut slow = Bare::open(address, 1000);
    slow.stream
        .set_write_timeout(Some(Duration::from_millis(500)))
        .unwrap();
    for xid in 1..5000 {
        if slow
            .send(xid, op::GET_DATA, path_and_watch("/big", false))
            .is_err()
        {
            break;
        }
    }
    assert_eq!(bystander.exists("/big"), 0);
    let queued = word(address, "mntr");
    assert!(queued.contains("zk_num_alive_connections"), "{queued}");
    // Its pings are not read either, so its session ends and with it the connection.
    for _ in 0..100 {
        if word(address, "cons").matches("sid=").count() == 1 {
            assert_eq!(bystander.exists("/big"), 0);
            return;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    panic!("the slow reader stayed: {}", word(address, "cons"));
}

#[test]
fn many_half_packets_take_little_memory() {
    let service = Service::with(|config| config.connections_per_address_max = 0);
    let address = service.address();
    let mut clients: Vec<_> = (0..200).map(|_| Bare::open(address, 30_000)).collect();
    let before = resident_bytes();
    for client in &mut clients {
        client
            .stream
            .write_all(&[0, 0xf, 0xff, 0xff, 0, 0, 0, 1])
            .unwrap();
    }
    std::thread::sleep(Duration::from_millis(300));
    let grown = resident_bytes().saturating_sub(before);
    assert!(
        grown < 100 << 20,
        "200 told lengths of 1 MiB took {grown} bytes"
    );
    assert_eq!(word(address, "ruok"), "imok");
}

fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux has it");
    let pages: usize = statm
        .split(' ')
        .nth(1)
        .and_then(|pages| pages.parse().ok())
        .expect("a number");
    pages * 4096
}
