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

    /// One turn of the runtime, in which everything that is to be sent goes to the kernel and every
    /// answer that is there is seen: for a task that spins.
    fn turn(&self) -> impl Future<Output = ()>;
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

    /// tokio-uring submits only when its thread parks, which a task that yields again and again never
    /// lets happen: requests of other connections lay in the queue for up to 2 ms. A no-op needs a park.
    async fn turn(&self) {
        if tokio_uring::no_op().await.is_err() {
            tokio::task::yield_now().await;
        }
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

    async fn turn(&self) {
        tokio::task::yield_now().await;
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;
    use std::net::TcpListener;
    use std::sync::atomic::{AtomicBool, Ordering};

    /// While one task spins until its request is due, what another connection sends must leave.
    async fn sends_while_another_task_spins<T: Transport>() {
        static ARRIVED: AtomicBool = AtomicBool::new(false);
        ARRIVED.store(false, Ordering::SeqCst);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let peer = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.read_exact(&mut [0; 4]).unwrap();
            ARRIVED.store(true, Ordering::SeqCst);
        });
        let spinning = std::rc::Rc::new(T::connect(address).await.unwrap());
        let sending = std::rc::Rc::clone(&spinning);
        let sent = tokio::task::spawn_local(async move { sending.write_all(vec![1; 4]).await.0 });
        let turns = (0..1_000_000).take_while(|_| !ARRIVED.load(Ordering::SeqCst));
        for _ in turns {
            spinning.turn().await;
        }
        assert!(
            ARRIVED.load(Ordering::SeqCst),
            "{}: nothing left in a million turns",
            T::NAME
        );
        sent.await.unwrap().unwrap();
        peer.join().unwrap();
    }

    #[test]
    fn a_task_that_spins_holds_up_no_other_connection() {
        run_epoll(sends_while_another_task_spins::<Epoll>()).unwrap();
        if let Err(error) = run_uring(sends_while_another_task_spins::<Uring>()) {
            assert!(error.to_string().contains("--io epoll"), "{error}");
        }
    }
}
