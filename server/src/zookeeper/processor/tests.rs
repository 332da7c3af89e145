//! Tests of the processor.

use super::*;
use crate::zookeeper::acl::Acl;

const PASSWORD: Password = [3; 16];

fn processor() -> Processor {
    let limits = Limits {
        timeout_ms_min: 4000,
        timeout_ms_max: 40_000,
        sessions_max: 3,
        multi_read_bytes_max: 1000,
        watches: WatchLimits {
            connection_bytes_max: 1000,
            bytes_max: 10_000,
        },
    };
    Processor::new(Tree::new(1 << 20), Sessions::new(2000, 1), 0, limits)
}

fn at(monotonic_ms: u64) -> Now {
    Now {
        monotonic_ms,
        wall_ms: 5,
    }
}

fn connect(
    processor: &mut Processor,
    connection: ConnectionId,
    session: i64,
    password: &[u8],
) -> Writer {
    let mut record = Writer::new();
    record.i32(0);
    record.i64(0);
    record.i32(6000);
    record.i64(session);
    record.buffer(Some(password));
    record.bool(false);
    let address = IpAddr::from([127, 0, 0, 1]);
    let bytes = record.into_bytes();
    processor
        .connect(connection, address, &bytes, PASSWORD, at(0))
        .unwrap();
    Writer::new()
}

fn ask(
    processor: &mut Processor,
    connection: ConnectionId,
    number: i32,
    record: impl FnOnce(&mut Writer),
) {
    let mut packet = Writer::new();
    packet.i32(77);
    packet.i32(number);
    record(&mut packet);
    processor.request(connection, &packet.into_bytes(), at(1));
}

fn path(path: &'static str, flag: bool) -> impl FnOnce(&mut Writer) {
    move |writer| {
        writer.text(path);
        writer.bool(flag);
    }
}

fn create(path: &'static str) -> impl FnOnce(&mut Writer) {
    move |writer| {
        writer.text(path);
        writer.buffer(Some(b"x"));
        protocol::write_acls(writer, &Acl::anyone(31));
        writer.i32(1);
    }
}

fn set(path: &'static str) -> impl FnOnce(&mut Writer) {
    move |writer| {
        writer.text(path);
        writer.buffer(Some(b"y"));
        writer.i32(-1);
    }
}

/// Each packet as connection, xid and error, or `None` for a close.
fn seen(processor: &mut Processor) -> Vec<(ConnectionId, Option<(i32, i32)>)> {
    let show = |output: Output| match output {
        Output::Reply(connection, packet) | Output::Event(connection, packet) => {
            let mut reader = Reader::new(&packet[4..]);
            let xid = reader.i32().unwrap();
            reader.i64().unwrap();
            (connection, Some((xid, reader.i32().unwrap())))
        }
        Output::Close(connection) => (connection, None),
    };
    processor.take_outputs().into_iter().map(show).collect()
}

#[test]
fn an_event_comes_before_every_reply_that_shows_the_change() {
    let mut processor = processor();
    connect(&mut processor, 1, 0, &[0; 16]);
    connect(&mut processor, 2, 0, &[0; 16]);
    ask(&mut processor, 1, op::EXISTS, path("/a", true));
    processor.take_outputs();
    ask(&mut processor, 2, op::CREATE, create("/a"));
    ask(&mut processor, 1, op::GET_DATA, path("/a", true));
    ask(&mut processor, 1, op::SET_DATA, set("/a"));
    let expected = [
        (1, Some((-1, 0))),
        (2, Some((77, 0))),
        (1, Some((77, 0))),
        (1, Some((-1, 0))),
        (1, Some((77, 0))),
    ];
    assert_eq!(seen(&mut processor), expected);
}

#[test]
fn a_session_moves_and_its_old_connection_is_closed() {
    let mut processor = processor();
    connect(&mut processor, 1, 0, &[0; 16]);
    let session = processor.session_of(1).unwrap();
    ask(&mut processor, 1, op::CREATE, create("/e"));
    processor.take_outputs();
    connect(&mut processor, 2, session, &PASSWORD);
    assert!(matches!(
        processor.take_outputs()[..],
        [Output::Close(1), Output::Reply(2, _)]
    ));
    assert_eq!(
        (processor.session_of(1), processor.session_of(2)),
        (None, Some(session))
    );
    processor.disconnect(1);
    // A wrong password, or a session that is gone, is told as expired, and hurts nobody.
    for (wrong, password) in [(session, [4; 16]), (session + 9, PASSWORD)] {
        connect(&mut processor, 3, wrong, &password);
        let outputs = processor.take_outputs();
        assert!(
            matches!(&outputs[..], [Output::Reply(3, packet), Output::Close(3)]
            if packet[4..20] == [0; 16]),
            "{outputs:?}"
        );
    }
    assert_eq!(processor.session_of(2), Some(session));
    assert!(processor.tree().get("/e").is_some());
}

#[test]
fn an_expired_session_takes_its_ephemerals_and_its_connection_along() {
    let mut processor = processor();
    connect(&mut processor, 1, 0, &[0; 16]);
    connect(&mut processor, 2, 0, &[0; 16]);
    ask(&mut processor, 1, op::CREATE, create("/e"));
    ask(&mut processor, 2, op::GET_DATA, path("/e", true));
    processor.request(2, &[0xff, 0xff, 0xff, 0xfe, 0, 0, 0, 11], at(7000));
    processor.take_outputs();
    assert_eq!(processor.expire(at(5000)), []);
    assert_eq!(processor.expire(at(8000)).len(), 1);
    assert_eq!(seen(&mut processor), [(2, Some((-1, 0))), (1, None)]);
    assert!(processor.tree().get("/e").is_none());
    assert_eq!(processor.request(1, &[0; 8], at(8000)), None);
}

#[test]
fn zxids_belong_to_changes() {
    let mut processor = processor();
    connect(&mut processor, 1, 0, &[0; 16]);
    assert_eq!(processor.last_zxid(), 1);
    ask(&mut processor, 1, op::SET_DATA, set("/none"));
    ask(&mut processor, 1, op::GET_DATA, path("/", false));
    assert_eq!(processor.last_zxid(), 1);
    ask(&mut processor, 1, op::CREATE, create("/a"));
    assert_eq!(
        (
            processor.last_zxid(),
            processor.tree().get("/a").unwrap().stat.czxid
        ),
        (2, 2)
    );
    let ahead = [&[0; 4][..], &9_i64.to_be_bytes(), &[0; 16], &[0; 4]].concat();
    let error = processor
        .connect(2, IpAddr::from([127, 0, 0, 1]), &ahead, PASSWORD, at(0))
        .unwrap_err();
    assert_eq!(error, ConnectError::Ahead { seen: 9, last: 2 });
}

#[test]
fn limits_are_answered() {
    let mut processor = processor();
    connect(&mut processor, 1, 0, &[0; 16]);
    processor.take_outputs();
    for name in ["/1", "/2", "/3", "/4", "/5", "/6", "/7", "/8", "/9", "/10"] {
        ask(&mut processor, 1, op::EXISTS, path(name, true));
    }
    ask(&mut processor, 1, op::EXISTS, path("/11", true));
    let answers = seen(&mut processor);
    assert_eq!(answers[9], (1, Some((77, ErrorCode::NoNode as i32))));
    assert_eq!(answers[10], (1, Some((77, ErrorCode::ThrottledOp as i32))));
    ask(&mut processor, 1, op::MULTI_READ, |writer| {
        for _ in 0..100 {
            protocol::write_multi_header(writer, op::GET_DATA, -1);
            writer.text("/");
            writer.bool(false);
        }
        protocol::write_multi_end(writer);
    });
    assert_eq!(
        seen(&mut processor),
        [(1, Some((77, ErrorCode::ThrottledOp as i32)))]
    );
    connect(&mut processor, 2, 0, &[0; 16]);
    connect(&mut processor, 3, 0, &[0; 16]);
    let record = [0; 4 + 8 + 4 + 8 + 4];
    let error = processor
        .connect(4, IpAddr::from([127, 0, 0, 1]), &record, PASSWORD, at(0))
        .unwrap_err();
    assert_eq!(error, ConnectError::TooMany(3));
}

#[test]
fn malformed_and_unknown_requests_are_answered_with_zookeepers_errors() {
    let mut processor = processor();
    connect(&mut processor, 1, 0, &[0; 16]);
    processor.take_outputs();
    ask(&mut processor, 1, op::CREATE, |writer| writer.i32(1 << 30));
    ask(&mut processor, 1, op::MULTI, |writer| {
        writer.i32(op::CREATE);
    });
    ask(&mut processor, 1, op::CREATE_TTL, create("/ttl"));
    ask(&mut processor, 1, op::RECONFIG, |_| ());
    let codes: Vec<_> = seen(&mut processor)
        .into_iter()
        .filter_map(|(_, answer)| Some(answer?.1))
        .collect();
    assert_eq!(codes, [-5, -5, -6, -123]);
    ask(&mut processor, 1, 4711, |_| ());
    assert_eq!(seen(&mut processor), [(1, Some((77, -6))), (1, None)]);
}

#[test]
fn random_bytes_never_panic() {
    let seed = std::env::var("SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or_else(|| fastrand::u64(..));
    eprintln!("SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut processor = processor();
    for connection in 1..20_000 {
        if processor.session_of(connection - 1).is_none() {
            processor.expire(at(connection * 100_000));
            connect(&mut processor, connection, 0, &[0; 16]);
        } else {
            processor.disconnect(connection - 1);
            continue;
        }
        let number = random.i32(-12..108);
        let bytes: Vec<u8> = (0..random.usize(0..60))
            .map(|_| if random.bool() { 0 } else { random.u8(..) })
            .collect();
        let packet = [&[0, 0, 0, 1][..], &number.to_be_bytes(), &bytes].concat();
        processor.request(connection, &packet, at(connection * 100_000));
        processor.take_outputs();
    }
}
