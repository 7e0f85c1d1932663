//! A link with a delay: a TCP proxy on loopback that forwards each piece a fixed time after it came, however many are
//! under way. It takes time of the same two cores as everybody else.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

/// How much is read at once.
const PIECE_LEN: usize = 256 << 10;

pub(crate) struct Link {
    port: u16,
    open: Arc<Mutex<Vec<TcpStream>>>,
    ended: Arc<AtomicBool>,
}

impl Link {
    /// To a server's TCP port on loopback; each way takes `delay`.
    pub(crate) fn to(server_port: u16, delay: Duration) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("listen on loopback");
        let port = listener.local_addr().expect("an address of one's own").port();
        let (open, ended) = (Arc::<Mutex<Vec<TcpStream>>>::default(), Arc::<AtomicBool>::default());
        let (kept, told) = (Arc::clone(&open), Arc::clone(&ended));
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if told.load(Ordering::Relaxed) {
                    return;
                }
                let server = TcpStream::connect(("127.0.0.1", server_port)).expect("reach the server");
                let mut kept = kept.lock().expect("nobody panics with this");
                for (from, to) in [(&client, &server), (&server, &client)] {
                    let clone = |stream: &TcpStream| stream.try_clone().expect("another handle");
                    to.set_nodelay(true).expect("send at once");
                    forward(clone(from), clone(to), delay);
                }
                kept.extend([client, server]);
            }
        });
        Link { port, open, ended }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Closes what is left of connections whose ends are gone.
    pub(crate) fn forget(&self) {
        for stream in self.open.lock().expect("nobody panics with this").drain(..) {
            // it may be closed already
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        self.forget();
        // wakes the listener
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

/// One way: a thread that reads, and one that sends when it is time.
fn forward(mut from: TcpStream, mut to: TcpStream, delay: Duration) {
    let (sender, pieces) = mpsc::channel::<(Instant, Vec<u8>)>();
    thread::spawn(move || {
        let mut buffer = vec![0; PIECE_LEN];
        while let Ok(len @ 1..) = from.read(&mut buffer) {
            if sender.send((Instant::now() + delay, buffer[..len].to_vec())).is_err() {
                return;
            }
        }
    });
    thread::spawn(move || {
        for (due, piece) in pieces {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            if to.write_all(&piece).is_err() {
                return;
            }
        }
        // the other end is told once all has been sent; it may know already
        let _ = to.shutdown(Shutdown::Write);
    });
}
