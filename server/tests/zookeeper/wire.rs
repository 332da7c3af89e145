//! Bare packets, so that tests can say what no client library would.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use ringlog::zookeeper::acl::Acl;
use ringlog::zookeeper::jute::{Reader, Writer};
use ringlog::zookeeper::protocol::{op, write_acls};

/// A session over a plain socket. It pings only when told.
pub(crate) struct Bare {
    pub(crate) stream: TcpStream,
    pub(crate) session: i64,
    pub(crate) password: Vec<u8>,
    pub(crate) timeout_ms: i32,
}

/// A reply: xid, zxid, error, record.
pub(crate) type Reply = (i32, i64, i32, Vec<u8>);

pub(crate) fn dial(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("it accepts");
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .expect("a timeout can be set");
    stream
}

/// Sends four letters and reads to the end.
pub(crate) fn word(address: SocketAddr, name: &str) -> String {
    let mut stream = dial(address);
    stream.write_all(name.as_bytes()).expect("it is sent");
    let _ = stream.shutdown(Shutdown::Write);
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("an answer in text");
    text
}

pub(crate) fn read_packet(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut head = [0; 4];
    stream.read_exact(&mut head)?;
    let mut packet = vec![0; u32::from_be_bytes(head) as usize];
    stream.read_exact(&mut packet)?;
    Ok(packet)
}

impl Bare {
    pub(crate) fn open(address: SocketAddr, timeout_ms: i32) -> Self {
        Self::attach(address, timeout_ms, 0, &[0; 16]).expect("a new session")
    }

    /// Attaches a session; an expired one comes back with id 0.
    pub(crate) fn attach(
        address: SocketAddr,
        timeout_ms: i32,
        session: i64,
        password: &[u8],
    ) -> io::Result<Self> {
        let mut stream = dial(address);
        let mut writer = Writer::packet();
        writer.i32(0);
        writer.i64(0);
        writer.i32(timeout_ms);
        writer.i64(session);
        writer.buffer(Some(password));
        writer.bool(false);
        stream.write_all(&writer.into_packet())?;
        let packet = read_packet(&mut stream)?;
        let mut reader = Reader::new(&packet);
        reader.i32().expect("protocol version");
        let timeout_ms = reader.i32().expect("timeout");
        let session = reader.i64().expect("session");
        let password = reader
            .buffer()
            .expect("password")
            .unwrap_or_default()
            .to_vec();
        Ok(Self {
            stream,
            session,
            password,
            timeout_ms,
        })
    }

    pub(crate) fn send(
        &mut self,
        xid: i32,
        number: i32,
        record: impl FnOnce(&mut Writer),
    ) -> io::Result<()> {
        let mut writer = Writer::packet();
        writer.i32(xid);
        writer.i32(number);
        record(&mut writer);
        self.stream.write_all(&writer.into_packet())
    }

    pub(crate) fn receive(&mut self) -> io::Result<Reply> {
        let packet = read_packet(&mut self.stream)?;
        let mut reader = Reader::new(&packet);
        let header = (reader.i32(), reader.i64(), reader.i32());
        let (Ok(xid), Ok(zxid), Ok(error)) = header else {
            return Err(io::Error::other("a reply without a header"));
        };
        Ok((xid, zxid, error, packet[16..].to_vec()))
    }

    pub(crate) fn ask(
        &mut self,
        number: i32,
        record: impl FnOnce(&mut Writer),
    ) -> io::Result<Reply> {
        self.send(7, number, record)?;
        self.receive()
    }

    pub(crate) fn create(&mut self, path: &str, flags: i32) -> i32 {
        self.ask(op::CREATE, create(path, b"x", flags))
            .expect("a reply")
            .2
    }

    pub(crate) fn exists(&mut self, path: &str) -> i32 {
        self.ask(op::EXISTS, path_and_watch(path, false))
            .expect("a reply")
            .2
    }
}

pub(crate) fn create<'a>(
    path: &'a str,
    data: &'a [u8],
    flags: i32,
) -> impl FnOnce(&mut Writer) + 'a {
    move |writer| {
        writer.text(path);
        writer.buffer(Some(data));
        write_acls(writer, &Acl::anyone(31));
        writer.i32(flags);
    }
}

pub(crate) fn path_and_watch(path: &str, is_watched: bool) -> impl FnOnce(&mut Writer) + '_ {
    move |writer| {
        writer.text(path);
        writer.bool(is_watched);
    }
}
