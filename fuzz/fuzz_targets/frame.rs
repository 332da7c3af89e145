//! A request frame as a client may send it: header, schema check, decode.
//!
//! Fails if `check` accepts what the message crate does not decode to the few bytes that may be left, if
//! anything panics, or (libFuzzer's malloc limit) if a frame makes the decoder reserve memory by a count.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use ringlog::net::schema::{Limits, TRAILING_BYTES_MAX, check, request_header};

#[expect(dead_code, reason = "the tests look at what is encoded again, too")]
#[path = "../../server/tests/schema_allocation/decoders.rs"]
mod decoders;

fuzz_target!(|frame: &[u8]| {
    let limits = Limits::default();
    let Ok(header) = request_header(frame, &limits) else {
        return;
    };
    let body = &frame[header.body_offset..];
    if check(header.api_key, header.api_version, body, &limits).is_err() {
        return;
    }
    let body = Bytes::copy_from_slice(body);
    let decoded = decoders::decode(header.api_key, header.api_version, body, false);
    let left = decoded.map(|decoded| decoded.left);
    assert!(left.is_some_and(|left| left <= TRAILING_BYTES_MAX), "{left:?} {header:?}");
});
