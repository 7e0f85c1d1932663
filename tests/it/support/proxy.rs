//! A TCP proxy on loopback that misbehaves on request, while connections run through it.
//!
//! Counts and limits are over all connections together. What is asked for takes effect within some 10 ms, on bytes
//! that have not been forwarded yet; a cut is exact to the byte.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::Cluster;

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    ToServer,
    ToClient,
}

/// How a connection is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Both sides read the end of the stream (FIN).
    Close,
    /// The client reads "connection reset by peer" (RST).
    Reset,
}

/// The proxy: connect to [`Proxy::addr`] instead of the server. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Proxy {
    addr: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

/// Where the proxy forwards to.
#[derive(Debug, Clone)]
enum Target {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    ended: bool,
    refusing: bool,
    connection_count: usize,
    /// Grows with every cut; a connection ends when it is not the one it was accepted under.
    generation: u64,
    ending: Option<Ending>,
    lanes: [Lane; 2],
}

/// One direction.
#[derive(Debug, Default)]
struct Lane {
    forwarded: u64,
    stalled: bool,
    stall_after: Option<u64>,
    delay: Duration,
    largest_piece: Option<usize>,
    cut: Option<(u64, Ending)>,
}

/// How often a thread looks for new orders.
const LOOK: Duration = Duration::from_millis(5);

impl Proxy {
    /// In front of a cluster's TCP port.
    pub(crate) fn to(cluster: &Cluster) -> Proxy {
        Proxy::tcp(SocketAddr::from(([127, 0, 0, 1], cluster.port())))
    }

    /// In front of any TCP server.
    pub(crate) fn tcp(target: SocketAddr) -> Proxy {
        Proxy::start(Target::Tcp(target))
    }

    /// In front of a Unix socket; clients still come over TCP.
    pub(crate) fn unix(target: impl Into<PathBuf>) -> Proxy {
        Proxy::start(Target::Unix(target.into()))
    }

    fn start(target: Target) -> Proxy {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("listen on loopback");
        let addr = listener.local_addr().expect("the proxy's own address");
        let shared = Arc::<Shared>::default();
        let for_thread = Arc::clone(&shared);
        let acceptor = thread::spawn(move || accept(listener, addr, &target, &for_thread));
        Proxy { addr, shared, acceptor: Some(acceptor) }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub(crate) fn port(&self) -> u16 {
        self.addr.port()
    }

    /// To a cluster through this proxy, as the superuser.
    pub(crate) fn conninfo(&self) -> String {
        format!("host=127.0.0.1 port={} user=postgres dbname=postgres", self.port())
    }

    // ---- orders ----

    /// Ends every connection once `count` more bytes have gone that way. Later connections live.
    pub(crate) fn cut_after(&self, direction: Direction, count: u64, ending: Ending) {
        let mut state = self.shared.lock();
        let lane = state.lane(direction);
        lane.cut = Some((lane.forwarded + count, ending));
    }

    /// Ends every connection that there is.
    pub(crate) fn cut_now(&self, ending: Ending) {
        self.shared.lock().cut(ending);
    }

    /// Forwards nothing that way, and closes nothing: a half-open connection, or a peer that hangs.
    pub(crate) fn stall(&self, direction: Direction) {
        self.shared.lock().lane(direction).stalled = true;
    }

    /// Lets so many more bytes through each connection that comes, and then no more of that connection's, that way.
    pub(crate) fn stall_after(&self, direction: Direction, count: u64) {
        self.shared.lock().lane(direction).stall_after = Some(count);
    }

    pub(crate) fn resume(&self, direction: Direction) {
        self.shared.lock().lane(direction).stalled = false;
    }

    /// Waits before each piece.
    pub(crate) fn delay(&self, direction: Direction, delay: Duration) {
        self.shared.lock().lane(direction).delay = delay;
    }

    /// Forwards at most `largest` bytes at a time, each in a packet of its own. 0 ends it.
    pub(crate) fn split(&self, direction: Direction, largest: usize) {
        self.shared.lock().lane(direction).largest_piece = (largest > 0).then_some(largest);
    }

    /// "Connection refused" for whoever comes now. Connections that there are live on.
    pub(crate) fn refuse(&self) {
        self.shared.lock().refusing = true;
        thread::sleep(4 * LOOK);
    }

    /// Listens again.
    pub(crate) fn accept(&self) {
        self.shared.lock().refusing = false;
        thread::sleep(4 * LOOK);
    }

    // ---- what happened ----

    /// How many bytes have gone that way.
    pub(crate) fn bytes(&self, direction: Direction) -> u64 {
        self.shared.lock().lane(direction).forwarded
    }

    /// How many connections were accepted.
    pub(crate) fn connection_count(&self) -> usize {
        self.shared.lock().connection_count
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        {
            let mut state = self.shared.lock();
            state.ended = true;
            state.cut(Ending::Close);
        }
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while holding the proxy's orders")
    }
}

impl State {
    fn lane(&mut self, direction: Direction) -> &mut Lane {
        &mut self.lanes[direction as usize]
    }

    fn cut(&mut self, ending: Ending) {
        self.generation += 1;
        self.ending = Some(ending);
    }
}

fn accept(listener: TcpListener, addr: SocketAddr, target: &Target, shared: &Arc<Shared>) {
    let mut listener = Some(listener);
    loop {
        thread::sleep(LOOK);
        let (ended, refusing) = {
            let state = shared.lock();
            (state.ended, state.refusing)
        };
        if ended {
            return;
        }
        if refusing {
            listener = None;
            continue;
        }
        let listening = listener.get_or_insert_with(|| TcpListener::bind(addr).expect("listen again"));
        listening.set_nonblocking(true).expect("a listener that does not block");
        while let Ok((client, _)) = listening.accept() {
            let generation = {
                let mut state = shared.lock();
                state.connection_count += 1;
                state.generation
            };
            // an unreachable server is, to the client, a connection that closes at once
            let _ = connect(client, target, generation, shared);
        }
    }
}

fn connect(client: TcpStream, target: &Target, generation: u64, shared: &Arc<Shared>) -> std::io::Result<()> {
    client.set_nonblocking(false)?;
    client.set_nodelay(true)?;
    let client = Side::Tcp(client);
    let server = match target {
        Target::Tcp(addr) => {
            let server = TcpStream::connect(addr)?;
            server.set_nodelay(true)?;
            Side::Tcp(server)
        }
        Target::Unix(path) => Side::Unix(UnixStream::connect(path)?),
    };
    for (direction, from, to) in [
        (Direction::ToServer, client.clone(), server.clone()),
        (Direction::ToClient, server.clone(), client.clone()),
    ] {
        let pump =
            Pump { direction, from: from?, to: to?, generation, shared: Arc::clone(shared), forwarded: 0 };
        thread::spawn(move || pump.run());
    }
    Ok(())
}

/// Moves the bytes of one direction of one connection.
struct Pump {
    direction: Direction,
    from: Side,
    to: Side,
    generation: u64,
    shared: Arc<Shared>,
    /// How many bytes have gone here.
    forwarded: u64,
}

/// What to do with the bytes at hand.
enum Order {
    Wait,
    Forward { count: usize, delay: Duration },
    End(Ending),
}

impl Pump {
    fn run(mut self) {
        let _ = self.from.set_read_timeout(LOOK);
        let mut buffer = vec![0; 64 * 1024];
        loop {
            match self.order(0) {
                Order::End(ending) => return self.end(ending),
                Order::Wait => {
                    thread::sleep(LOOK);
                    continue;
                }
                Order::Forward { .. } => {}
            }
            match self.from.read(&mut buffer) {
                Ok(0) => return self.to.shutdown(Shutdown::Write),
                Ok(count) => {
                    if let Err(ending) = self.forward(&buffer[..count]) {
                        return self.end(ending);
                    }
                }
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(_) => return self.end(Ending::Close),
            }
        }
    }

    fn forward(&mut self, mut bytes: &[u8]) -> Result<(), Ending> {
        while !bytes.is_empty() {
            match self.order(bytes.len()) {
                Order::Wait => thread::sleep(LOOK),
                Order::End(ending) => return Err(ending),
                Order::Forward { count, delay } => {
                    thread::sleep(delay);
                    let (piece, rest) = bytes.split_at(count);
                    self.to.write_all(piece).map_err(|_| Ending::Close)?;
                    self.forwarded += count as u64;
                    bytes = rest;
                }
            }
        }
        Ok(())
    }

    /// Takes `available` bytes into account as forwarded, as far as they may go now.
    fn order(&self, available: usize) -> Order {
        let mut state = self.shared.lock();
        if state.generation != self.generation {
            return Order::End(state.ending.unwrap_or(Ending::Close));
        }
        let lane = state.lane(self.direction);
        if let Some((at, ending)) = lane.cut
            && lane.forwarded >= at
        {
            lane.cut = None;
            state.cut(ending);
            return Order::End(ending);
        }
        if lane.stalled {
            return Order::Wait;
        }
        let before_stall = lane.stall_after.map_or(u64::MAX, |at| at.saturating_sub(self.forwarded));
        if before_stall == 0 {
            return Order::Wait;
        }
        let before_cut = lane.cut.map_or(u64::MAX, |(at, _)| at - lane.forwarded).min(before_stall);
        let count = available.min(lane.largest_piece.unwrap_or(usize::MAX));
        let count = count.min(usize::try_from(before_cut).unwrap_or(usize::MAX));
        lane.forwarded += count as u64;
        Order::Forward { count, delay: lane.delay }
    }

    fn end(&self, ending: Ending) {
        for side in [&self.from, &self.to] {
            if ending == Ending::Reset {
                side.reset_on_close();
            } else {
                side.shutdown(Shutdown::Both);
            }
        }
    }
}

/// One of the two ends of a connection.
#[derive(Debug)]
enum Side {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Side {
    fn clone(&self) -> std::io::Result<Side> {
        match self {
            Side::Tcp(stream) => stream.try_clone().map(Side::Tcp),
            Side::Unix(stream) => stream.try_clone().map(Side::Unix),
        }
    }

    fn set_read_timeout(&self, timeout: Duration) -> std::io::Result<()> {
        match self {
            Side::Tcp(stream) => stream.set_read_timeout(Some(timeout)),
            Side::Unix(stream) => stream.set_read_timeout(Some(timeout)),
        }
    }

    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Side::Tcp(stream) => stream.read(buffer),
            Side::Unix(stream) => stream.read(buffer),
        }
    }

    fn write_all(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        match self {
            Side::Tcp(stream) => stream.write_all(bytes),
            Side::Unix(stream) => stream.write_all(bytes),
        }
    }

    fn shutdown(&self, how: Shutdown) {
        let _ = match self {
            Side::Tcp(stream) => stream.shutdown(how),
            Side::Unix(stream) => stream.shutdown(how),
        };
    }

    /// Turns the close, once both directions have let go of the socket, into a reset.
    fn reset_on_close(&self) {
        if let Side::Tcp(stream) = self {
            let _ = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO));
        }
    }
}
