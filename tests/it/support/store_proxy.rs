//! A proxy before an object store that answers as stores and networks do on bad days.
//!
//! It forwards one request a connection, so that a client opens a new one for each, and what it does to one request it does to
//! that one alone.

use std::io::{self, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use super::http::{self, Length, read_message};

/// What to do to a request, or to its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StoreFault {
    /// The store is not even asked.
    Status(u16),
    /// The connection ends before the store was asked.
    CutBefore,
    /// The store does it, and nobody hears of that.
    LoseAnswer,
    /// It takes its time.
    Slow(Duration),
    /// The answer's ETag is another one's.
    WrongEtag,
    /// The answer's body ends in its middle.
    Truncate,
    /// The same, and its announced length says so, too.
    Shorten,
    /// A bit of the answer's body is another one.
    Alter,
    /// A bit of what is sent is another one when the store gets it.
    AlterRequest,
    /// What is to be created only if it does not exist is created all the same.
    IgnoreCondition,
}

/// What to do to the next requests of a kind.
struct Rule {
    method: &'static str,
    /// Part of the path.
    path: String,
    fault: StoreFault,
    count: usize,
}

#[derive(Default)]
struct State {
    rules: Vec<Rule>,
    faults: usize,
    ended: bool,
}

/// The proxy; it ends when this is dropped.
pub(crate) struct StoreProxy {
    addr: SocketAddr,
    state: Arc<Mutex<State>>,
}

impl StoreProxy {
    /// Before the store on `port` of loopback, which keeps its buckets in `root`.
    #[track_caller]
    pub(crate) fn before(port: u16, root: PathBuf) -> StoreProxy {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let addr = listener.local_addr().expect("an address");
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for client in listener.incoming() {
                if lock(&shared).ended {
                    return;
                }
                let (Ok(client), shared, root) = (client, Arc::clone(&shared), root.clone()) else {
                    continue;
                };
                // what breaks is what was to break, or the client's own wish
                std::thread::spawn(move || drop(serve(client, port, &root, &shared)));
            }
        });
        StoreProxy { addr, state }
    }

    /// Does `fault` to the next `count` requests of `method` whose path has `path` in it.
    pub(crate) fn next(&self, count: usize, method: &'static str, path: &str, fault: StoreFault) {
        lock(&self.state).rules.push(Rule { method, path: path.to_owned(), fault, count });
    }

    /// How many requests something was done to.
    pub(crate) fn faults(&self) -> usize {
        lock(&self.state).faults
    }

    pub(crate) fn url(&self, prefix: &str) -> String {
        format!("s3://wal/{prefix}?endpoint=http://{}&region=us-east-1", self.addr)
    }
}

impl Drop for StoreProxy {
    fn drop(&mut self) {
        lock(&self.state).ended = true;
        let _ = TcpStream::connect(self.addr);
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().expect("no panic while holding the proxy's orders")
}

fn serve(mut client: TcpStream, port: u16, root: &std::path::Path, state: &Mutex<State>) -> io::Result<()> {
    client.set_nodelay(true)?;
    let Some(mut request) = read_message(&mut client, Length::OfRequest)? else { return Ok(()) };
    let head = request.head.clone();
    let mut words = head.split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let fault = {
        let mut state = lock(state);
        let rule = state.rules.iter_mut().find(|rule| rule.method == method && path.contains(&rule.path));
        let fault = rule.map(|rule| {
            rule.count -= 1;
            rule.fault
        });
        state.rules.retain(|rule| rule.count > 0);
        state.faults += usize::from(fault.is_some());
        fault
    };
    match fault {
        Some(StoreFault::Status(status)) => {
            let body = "<Error><Code>SlowDown</Code><Message>not today</Message></Error>";
            let len = body.len();
            let head =
                format!("HTTP/1.1 {status} Bad Day\r\ncontent-length: {len}\r\nconnection: close\r\n\r\n");
            return client.write_all(format!("{head}{body}").as_bytes());
        }
        Some(StoreFault::CutBefore) => return Ok(()),
        Some(StoreFault::Slow(wait)) => std::thread::sleep(wait),
        Some(StoreFault::AlterRequest) => {
            let middle = request.body.len() / 2;
            if let Some(byte) = request.body.get_mut(middle) {
                *byte ^= 0x10;
            }
        }
        Some(StoreFault::IgnoreCondition) => {
            let object = root.join(path.trim_start_matches('/').split('?').next().unwrap_or_default());
            let _ = std::fs::remove_file(object);
        }
        _ => {}
    }
    let Some(mut answer) = http::ask(port, &request)? else { return Ok(()) };
    let len = answer.body.len();
    match fault {
        Some(StoreFault::LoseAnswer) => return Ok(()),
        Some(StoreFault::WrongEtag) => {
            let lines =
                answer.head.split("\r\n").map(|line| match line.to_ascii_lowercase().starts_with("etag:") {
                    true => "etag: \"00000000000000000000000000000000\"",
                    false => line,
                });
            answer.head = lines.collect::<Vec<_>>().join("\r\n");
        }
        Some(StoreFault::Truncate) => answer.body.truncate(len / 2),
        Some(StoreFault::Shorten) => {
            answer.body.truncate(len / 2);
            let (from, to) = (format!("content-length: {len}"), format!("content-length: {}", len / 2));
            answer.head = answer.head.replace(&from, &to);
        }
        Some(StoreFault::Alter) if len > 0 => answer.body[len / 2] ^= 0x10,
        _ => {}
    }
    client.write_all(answer.head.as_bytes())?;
    client.write_all(&answer.body)
}
