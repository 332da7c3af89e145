//! Frames from a scripted broker: however the stream is cut, and where its lengths lie.

use std::cell::RefCell;
use std::collections::VecDeque;

use super::*;

/// Gives what a broker sends, in pieces; then the end.
struct Pieces(RefCell<VecDeque<Vec<u8>>>);

impl Pieces {
    fn new(bytes: &[u8], piece: usize) -> Self {
        Self(RefCell::new(
            bytes.chunks(piece).map(<[u8]>::to_vec).collect(),
        ))
    }
}

impl Connection for Pieces {
    async fn write_all(&self, bytes: Vec<u8>) -> (std::io::Result<()>, Vec<u8>) {
        (Ok(()), bytes)
    }

    async fn read(&self, mut buffer: Vec<u8>, from: usize) -> (std::io::Result<usize>, Vec<u8>) {
        let Some(mut piece) = self.0.borrow_mut().pop_front() else {
            return (Ok(0), buffer);
        };
        let taken = piece.len().min(buffer.len() - from);
        buffer[from..from + taken].copy_from_slice(&piece[..taken]);
        if taken < piece.len() {
            self.0.borrow_mut().push_front(piece.split_off(taken));
        }
        (Ok(taken), buffer)
    }

    async fn turn(&self) {}
}

fn frames(sizes: &[usize]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (number, size) in sizes.iter().enumerate() {
        bytes.extend_from_slice(&(*size as i32).to_be_bytes());
        bytes.extend(std::iter::repeat_n(number as u8, *size));
    }
    bytes
}

fn run<F: Future>(future: F) -> F::Output {
    crate::transport::run_epoll(future).unwrap()
}

#[test]
fn frames_come_whole_however_the_stream_is_cut() {
    let sizes = [0, 1, 15, 16, 17, 400, 3, 64];
    let bytes = frames(&sizes);
    for piece in [1, 2, 3, 7, 64, 1000] {
        run(async {
            let connection = Pieces::new(&bytes, piece);
            let mut inbox = Inbox::new(16);
            for (number, size) in sizes.iter().enumerate() {
                let frame = inbox.next(&connection).await.unwrap().unwrap();
                assert_eq!(
                    inbox.bytes(frame),
                    vec![number as u8; *size],
                    "piece {piece}"
                );
            }
            assert_eq!(inbox.next(&connection).await.unwrap(), None);
        });
    }
}

#[test]
fn a_length_that_is_none_is_refused_before_it_allocates() {
    for bytes in [&b"HTTP/1.1 400 Bad Request\r\n"[..], &[0xff; 8]] {
        run(async {
            let mut inbox = Inbox::new(16);
            let error = inbox.next(&Pieces::new(bytes, 100)).await.unwrap_err();
            assert!(matches!(error, Failure::Protocol(_)), "{error}");
        });
    }
}

#[test]
fn a_list_of_versions_is_read_and_a_count_that_is_not_there_does_not_allocate() {
    let answer = |count: i32, entries: &[i16]| {
        let mut bytes = vec![0, 0];
        bytes.extend_from_slice(&count.to_be_bytes());
        let entries = entries.iter().flat_map(|entry| entry.to_be_bytes());
        bytes.extend(entries);
        bytes
    };
    let versions = served(&answer(2, &[0, 3, 11, 18, 0, 4])).unwrap();
    assert_eq!(versions, [(0, 3, 11), (18, 0, 4)]);
    for count in [i32::MAX, -1, 1, 3] {
        let error = served(&answer(count, &[0, 3, 11, 18, 0, 4])).unwrap_err();
        assert!(error.to_string().contains("2 are there"), "{error}");
    }
    assert!(served(&[0]).is_err() && served(&[0, 0, 0]).is_err());
    let refused = served(&[0, 35, 0, 0, 0, 0]).unwrap_err();
    assert!(matches!(refused, Failure::Answer { code: 35, .. }));
}
