//! A byte stream to the broker: one small trait, and the two that implement it.
//!
//! `Uring` is the generator's own (`tokio-uring`); `Epoll` (plain tokio) is its control group. Both
//! run on one thread and pass buffers by value, as io_uring needs it. No Kafka in here.

use std::future::Future;
use std::io;
use std::net::SocketAddr;

use tokio_uring::buf::BoundedBuf;

/// A connected stream; reads and writes may overlap, but not two of a kind.
pub(crate) trait Connection: 'static {
    /// Sends all of `bytes` and hands them back.
    fn write_all(&self, bytes: Vec<u8>) -> impl Future<Output = (io::Result<()>, Vec<u8>)>;

    /// Reads once into `buffer[from..]` and hands the buffer back; 0 bytes mean the end.
    fn read(
        &self,
        buffer: Vec<u8>,
        from: usize,
    ) -> impl Future<Output = (io::Result<usize>, Vec<u8>)>;
}

/// Makes connections.
pub(crate) trait Transport: 'static {
    /// What it makes.
    type Connection: Connection;

    /// Its name in reports.
    const NAME: &'static str;

    /// Connects, without Nagle's delay.
    fn connect(address: SocketAddr) -> impl Future<Output = io::Result<Self::Connection>>;
}

/// `tokio-uring`.
#[derive(Debug)]
pub(crate) struct Uring;

impl Transport for Uring {
    type Connection = tokio_uring::net::TcpStream;
    const NAME: &'static str = "uring";

    async fn connect(address: SocketAddr) -> io::Result<Self::Connection> {
        let stream = tokio_uring::net::TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

impl Connection for tokio_uring::net::TcpStream {
    async fn write_all(&self, bytes: Vec<u8>) -> (io::Result<()>, Vec<u8>) {
        self.write_all(bytes).await
    }

    async fn read(&self, buffer: Vec<u8>, from: usize) -> (io::Result<usize>, Vec<u8>) {
        let (result, slice) = self.read(buffer.slice(from..)).await;
        (result, slice.into_inner())
    }
}

/// Plain tokio.
#[derive(Debug)]
pub(crate) struct Epoll;

impl Transport for Epoll {
    type Connection = tokio::net::TcpStream;
    const NAME: &'static str = "epoll";

    async fn connect(address: SocketAddr) -> io::Result<Self::Connection> {
        let stream = tokio::net::TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

impl Connection for tokio::net::TcpStream {
    async fn write_all(&self, bytes: Vec<u8>) -> (io::Result<()>, Vec<u8>) {
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            match self.try_write(rest) {
                Ok(written) => rest = rest.get(written..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if let Err(error) = self.writable().await {
                        return (Err(error), bytes);
                    }
                }
                Err(error) => return (Err(error), bytes),
            }
        }
        (Ok(()), bytes)
    }

    async fn read(&self, mut buffer: Vec<u8>, from: usize) -> (io::Result<usize>, Vec<u8>) {
        loop {
            match self.try_read(buffer.get_mut(from..).unwrap_or_default()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if let Err(error) = self.readable().await {
                        return (Err(error), buffer);
                    }
                }
                result => return (result, buffer),
            }
        }
    }
}

/// Runs `future` on the runtime of [`Uring`].
///
/// # Errors
/// If the kernel gives no io_uring.
pub(crate) fn run_uring<F: Future>(future: F) -> io::Result<F::Output> {
    // Without COOP_TASKRUN every answer interrupts this process's CPU, and the interrupt is paid by
    // the broker that sends the answer: 3 us a request in a virtual machine.
    let mut ring = tokio_uring::uring_builder();
    ring.setup_coop_taskrun();
    let mut builder = tokio_uring::builder();
    builder.entries(1024).uring_builder(&ring);
    let runtime = tokio_uring::Runtime::new(&builder).map_err(|error| {
        let what = format!("no io_uring here ({error}); try --io epoll");
        io::Error::new(error.kind(), what)
    })?;
    let output = runtime.block_on(future);
    // Its destructor waits for every operation in flight, and a stalled broker's read never ends.
    std::mem::forget(runtime);
    Ok(output)
}

/// Runs `future` on the runtime of [`Epoll`].
///
/// # Errors
/// If the runtime cannot be made.
pub(crate) fn run_epoll<F: Future>(future: F) -> io::Result<F::Output> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let output = tokio::task::LocalSet::new().block_on(&runtime, future);
    Ok(output)
}
