//! Recognises clients that speak another protocol to a Kafka listener, for a message that helps.
//!
//! Only a guess, and only for connections that are lost anyway: ask when the first frame's size is
//! out of bounds or its header or body is refused. Asked earlier it could be wrong: the first
//! packet of a ZooKeeper client is also the beginning of a possible Produce request. It needs the
//! connection's first bytes, the four of the size included; four are enough for all but
//! ZooKeeper's sessions.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

/// What the client seems to speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForeignProtocol {
    /// A request line of HTTP/1, or the preface of HTTP/2.
    Http,
    /// A TLS ClientHello.
    Tls,
    /// The connect packet of a ZooKeeper session, or a four-letter word.
    ZooKeeper,
    /// The header that a load balancer puts in front of a connection (HAProxy's PROXY protocol).
    Proxy,
}

/// Methods of RFC 9110 and 5789, and HTTP/2's preface, which is made to look like one.
const HTTP_METHODS: [&[u8]; 10] = [
    b"GET ",
    b"HEAD ",
    b"POST ",
    b"PUT ",
    b"DELETE ",
    b"CONNECT ",
    b"OPTIONS ",
    b"TRACE ",
    b"PATCH ",
    b"PRI * ",
];

/// The commands that ZooKeeper answers without a session (Administrator's Guide, "The Four Letter
/// Words").
const FOUR_LETTER_WORDS: [&[u8; 4]; 17] = [
    b"conf", b"cons", b"crst", b"dirs", b"dump", b"envi", b"gtmk", b"hash", b"isro", b"mntr",
    b"ruok", b"srst", b"srvr", b"stat", b"stmk", b"wchc", b"wchs",
];

const PROXY_V1: &[u8] = b"PROXY ";
/// Version 2 of HAProxy's `proxy-protocol.txt`.
const PROXY_V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

impl ForeignProtocol {
    /// Guesses from a connection's first bytes; `None` if they look like nothing that is known here.
    pub fn guess(first_bytes: &[u8]) -> Option<Self> {
        let begins = |pattern: &[u8]| begins(first_bytes, pattern);
        if HTTP_METHODS.into_iter().any(begins) {
            Some(Self::Http)
        } else if begins(PROXY_V1) || begins(PROXY_V2) {
            Some(Self::Proxy)
        } else if is_client_hello(first_bytes) {
            Some(Self::Tls)
        } else if is_zookeeper(first_bytes) {
            Some(Self::ZooKeeper)
        } else {
            None
        }
    }

    /// What the client did and what to do instead, for the log and for [`Self::answer`].
    pub fn hint(self) -> &'static str {
        match self {
            Self::Http => {
                "this is a Kafka listener, and the client speaks HTTP: use a Kafka client here; \
                 metrics and the console have a port of their own, named in the start banner"
            }
            Self::Tls => {
                "this listener is PLAINTEXT, and the client speaks TLS: set \
                 security.protocol=PLAINTEXT in the client, or connect it to a TLS listener"
            }
            Self::ZooKeeper => {
                "this is a Kafka listener, and the client speaks ZooKeeper: give it the port of \
                 zookeeper.connect (2181 by default), or use --bootstrap-server with this one"
            }
            Self::Proxy => {
                "this is a Kafka listener, and a load balancer in front of it sends PROXY \
                 protocol headers: switch them off for this port"
            }
        }
    }

    /// The bytes to send before the connection is closed, in the client's own protocol; empty
    /// where it has no words for this.
    pub fn answer(self) -> Vec<u8> {
        match self {
            Self::Http => {
                let hint = self.hint();
                let length = hint.len().saturating_add(1);
                format!(
                    "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\n\
                     Content-Length: {length}\r\nConnection: close\r\n\r\n{hint}\n"
                )
                .into_bytes()
            }
            // RFC 8446, 6: a record of type alert, fatal, unexpected_message: a reason to show,
            // where a bare close looks like a lost connection.
            Self::Tls => vec![0x15, 0x03, 0x03, 0x00, 0x02, 0x02, 0x0a],
            Self::ZooKeeper | Self::Proxy => Vec::new(),
        }
    }
}

/// Whether `bytes` begin with `pattern`, or, if they are shorter, may go on to: but four of them
/// must be there, as they are when the size has been read.
fn begins(bytes: &[u8], pattern: &[u8]) -> bool {
    let size = bytes.len().min(pattern.len());
    size >= 4 && bytes.get(..size) == pattern.get(..size)
}

/// A record of type handshake (22), of version 3.0 to 3.4 and at most 2^14 bytes (RFC 8446, 5.1),
/// that holds a ClientHello (1).
fn is_client_hello(bytes: &[u8]) -> bool {
    let Some([0x16, 0x03, 0x00..=0x04, length_high]) = bytes.first_chunk() else {
        return false;
    };
    *length_high <= 0x40 && bytes.get(5).is_none_or(|&handshake| handshake == 1)
}

/// A four-letter word, or the connect packet (`ConnectRequest` in zookeeper.jute):
///
/// ```text
/// offset size  field, big-endian
///  0     4     size: 44, or 45 with read_only
///  4     4     protocol_version: 0
///  8     8     last_zxid_seen
/// 16     4     time_out
/// 20     8     session_id
/// 28     4+16  passwd, with its length
/// 48     0, 1  read_only
/// ```
fn is_zookeeper(bytes: &[u8]) -> bool {
    if let Some(word) = bytes.first_chunk()
        && FOUR_LETTER_WORDS.contains(&word)
    {
        return true;
    }
    let word = |offset: usize| bytes.get(offset..).and_then(|rest| rest.first_chunk::<4>());
    matches!(word(0), Some([0, 0, 0, 44 | 45]))
        && word(4) == Some(&[0; 4])
        && word(28) == Some(&[0, 0, 0, 16])
}

#[cfg(test)]
#[expect(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test that panics has failed, as it should"
)]
mod tests {
    use super::*;

    fn guess(bytes: &[u8]) -> Option<ForeignProtocol> {
        ForeignProtocol::guess(bytes)
    }

    #[test]
    fn http_is_recognised_by_its_method_from_four_bytes_on() {
        for line in [
            "GET /metrics HTTP/1.1\r\nHost: localhost:9092\r\n\r\n",
            "POST / HTTP/1.0\r\n",
            "DELETE /topics/a HTTP/1.1\r\n",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        ] {
            for end in 4..=line.len() {
                assert_eq!(guess(&line.as_bytes()[..end]), Some(ForeignProtocol::Http));
            }
        }
        for other in ["GETTING", "GET", "POSTAL ", "get / HTTP/1.1", ""] {
            assert_eq!(guess(other.as_bytes()), None, "{other}");
        }
    }

    #[test]
    fn tls_is_recognised_by_a_client_hello() {
        // What OpenSSL and rustls begin with: a record of 3.1, a hello of 3.3.
        let hello = [0x16, 3, 1, 0x02, 0x00, 1, 0, 1, 0xfc, 3, 3];
        for end in 4..=hello.len() {
            assert_eq!(guess(&hello[..end]), Some(ForeignProtocol::Tls));
        }
        let server_hello = [0x16, 3, 3, 0x02, 0x00, 2];
        assert_eq!(guess(&server_hello), None);
        let application_data = [0x17, 3, 3, 0x02, 0x00, 1];
        assert_eq!(guess(&application_data), None);
    }

    fn connect_packet(read_only: bool) -> Vec<u8> {
        let mut packet = vec![0, 0, 0, 44 + u8::from(read_only)];
        packet.extend([0; 4]); // protocol_version
        packet.extend([0; 8]); // last_zxid_seen
        packet.extend(30_000_i32.to_be_bytes()); // time_out
        packet.extend([0; 8]); // session_id
        packet.extend(16_i32.to_be_bytes());
        packet.extend([0; 16]); // passwd
        packet.extend(read_only.then_some(0));
        packet
    }

    #[test]
    fn zookeeper_is_recognised_by_its_connect_packet_and_its_words() {
        for read_only in [false, true] {
            let packet = connect_packet(read_only);
            assert_eq!(packet.len(), 4 + usize::from(packet[3]));
            assert_eq!(guess(&packet), Some(ForeignProtocol::ZooKeeper));
            assert_eq!(guess(&packet[..20]), None);
        }
        assert_eq!(guess(b"ruok"), Some(ForeignProtocol::ZooKeeper));
        assert_eq!(guess(b"mntr\n"), Some(ForeignProtocol::ZooKeeper));
    }

    #[test]
    fn a_zookeeper_connect_packet_is_no_request_that_the_schema_accepts() {
        use crate::net::schema::{Limits, check, request_header};
        let limits = Limits::default();
        for read_only in [false, true] {
            let packet = connect_packet(read_only);
            let frame = &packet[4..];
            let header = request_header(frame, &limits).unwrap();
            assert_eq!((header.api_key, header.api_version), (0, 0));
            assert!(check(0, 0, &frame[header.body_offset..], &limits).is_err());
        }
    }

    #[test]
    fn a_load_balancer_is_recognised_by_its_proxy_header() {
        assert_eq!(
            guess(b"PROXY TCP4 10.0.0.1 10.0.0.2 5 9092\r\n"),
            Some(ForeignProtocol::Proxy)
        );
        assert_eq!(
            guess(b"\r\n\r\n\0\r\nQUIT\n\x21\x11"),
            Some(ForeignProtocol::Proxy)
        );
    }

    #[test]
    fn a_kafka_request_is_nothing_foreign() {
        // ApiVersions v3 of a Java client, and Metadata v1 of an old one.
        let api_versions = [0, 0, 0, 0x2d, 0, 18, 0, 3, 0, 0, 0, 1, 0, 10];
        let metadata = [0, 0, 0, 0x10, 0, 3, 0, 1, 0, 0, 0, 1, 0xff, 0xff];
        assert_eq!(guess(&api_versions), None);
        assert_eq!(guess(&metadata), None);
    }

    #[test]
    fn an_http_client_gets_a_whole_answer_with_the_hint() {
        let answer = String::from_utf8(ForeignProtocol::Http.answer()).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 400 Bad Request\r\n"));
        assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())));
        assert!(head.ends_with("Connection: close"));
        assert_eq!(body.trim_end(), ForeignProtocol::Http.hint());
    }
}
