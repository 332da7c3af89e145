//! What a ZooKeeper client may send: the first packet of a connection, and requests of every number.
//!
//! The first byte picks the operation number. Fails on a panic, and (libFuzzer's malloc limit) if a
//! count or a length makes the decoder reserve memory.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringlog::zookeeper::jute::Reader;
use ringlog::zookeeper::protocol::{ConnectRequest, Read, Request, read_acls};
use ringlog::zookeeper::{acl, path};

/// Numbers with a request behind them (ZooDefs.OpCode).
const NUMBERS: [i32; 29] = [
    1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 100, 101, 102, 103,
    104, 105, 106, 107,
];

fuzz_target!(|input: &[u8]| {
    let Some((number, record)) = input.split_first() else {
        return;
    };
    let _ = ConnectRequest::decode(record);
    if let Ok(acls) = read_acls(&mut Reader::new(record)) {
        let _ = acl::fix_up(&acls, &[]);
        let _ = acl::check(&acls, 31, &[]);
    }
    let number = NUMBERS[usize::from(*number) % NUMBERS.len()];
    match Request::decode(number, record) {
        Ok(Request::Read(Read::Data(name, _) | Read::Children(name, _)))
        | Ok(Request::Exists(name, _)) => {
            if path::validate(name).is_ok() {
                let _ = (path::parent(name), path::name(name));
            }
        }
        Ok(_) | Err(_) => {}
    }
});
