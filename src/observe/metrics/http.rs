//! The thread that answers `/metrics`, `/healthz` and `/readyz`.
//!
//! On a thread and a runtime of its own, so that nobody who asks, however slowly or often, is served by the thread that
//! receives. Whoever asks is a stranger: heads are bounded in bytes, fields and time, a connection serves one request and
//! is bounded in time, and connections are bounded in number. Nothing that was asked for has any effect.

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Semaphore, oneshot};

use super::{Health, ReceiverMetrics};

/// How many are served at a time; the others wait to be accepted.
const MAX_CONNECTIONS: usize = 32;
/// How long the head of a request may take.
const HEAD_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a connection may last.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);
/// How much of a request is kept in memory, and how many header fields it may have.
const MAX_HEAD_LEN: usize = 16 << 10;
const MAX_HEADERS: usize = 64;
/// How long to wait when no connection can be accepted, for want of descriptors mostly.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Where to listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenAddr {
    /// A host, which is looked up, and a port; 0 for any that is free.
    Tcp {
        /// A name, or an address without brackets.
        host: String,
        /// The port.
        port: u16,
    },
    /// The path of a Unix socket.
    Unix(PathBuf),
}

/// That is no place to listen at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("neither HOST:PORT, such as 127.0.0.1:9187 or [::1]:9187, nor the absolute path of a Unix socket")]
pub struct ParseListenAddrError;

impl FromStr for ListenAddr {
    type Err = ParseListenAddrError;

    fn from_str(text: &str) -> Result<Self, ParseListenAddrError> {
        if text.starts_with('/') {
            return Ok(ListenAddr::Unix(text.into()));
        }
        let (host, port) = text.rsplit_once(':').ok_or(ParseListenAddrError)?;
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        // a port without a host means all interfaces elsewhere, which nobody shall ask for without a word
        if host.is_empty() || (bare.is_none() && host.contains([':', '[', ']'])) {
            return Err(ParseListenAddrError);
        }
        let port = port.parse().map_err(|_| ParseListenAddrError)?;
        Ok(ListenAddr::Tcp { host: bare.unwrap_or(host).to_owned(), port })
    }
}

impl fmt::Display for ListenAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ListenAddr::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            ListenAddr::Tcp { host, port } => write!(f, "{host}:{port}"),
            ListenAddr::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

/// Why nobody can be answered.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The place is taken, is not ours, or does not exist.
    #[error("could not listen on \"{addr}\" for those who ask for metrics")]
    Listen {
        /// The place.
        addr: ListenAddr,
        /// Why.
        source: io::Error,
    },
    /// No thread, or nothing for it to run on.
    #[error("could not start the thread that answers for metrics")]
    Start(#[source] io::Error),
}

/// Answers until it is dropped.
#[derive(Debug)]
pub struct MetricsServer {
    place: Place,
    _stop: oneshot::Sender<Infallible>,
}

/// Where it does listen.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl Drop for MetricsServer {
    fn drop(&mut self) {
        if let Place::Unix(path) = &self.place {
            // who finds the name later tries to connect, and takes it over
            let _ = std::fs::remove_file(path);
        }
    }
}

impl MetricsServer {
    /// Listens from now on, and answers on a thread of its own, which does `beside` in between.
    pub fn start<F: Future<Output = Infallible>>(
        addr: &ListenAddr,
        metrics: Arc<ReceiverMetrics>,
        beside: impl FnOnce(Arc<ReceiverMetrics>) -> F + Send + 'static,
    ) -> Result<Self, ListenError> {
        let listen_failed = |source| ListenError::Listen { addr: addr.clone(), source };
        let (listener, place) = Listener::bind(addr).map_err(listen_failed)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(ListenError::Start)?;
        let (stop, stopped) = oneshot::channel::<Infallible>();
        let answer = move || {
            runtime.block_on(async {
                tokio::select! {
                    _ = stopped => {}
                    never = beside(Arc::clone(&metrics)) => match never {},
                    // a listener that the runtime does not take answers nobody
                    _ = listener.serve(metrics) => {}
                }
            });
            // somebody may still be looked up
            runtime.shutdown_background();
        };
        std::thread::Builder::new().name("metrics".into()).spawn(answer).map_err(ListenError::Start)?;
        Ok(MetricsServer { place, _stop: stop })
    }

    /// Where, for people.
    pub fn url(&self) -> String {
        match &self.place {
            Place::Tcp(addr) => format!("http://{addr}/metrics"),
            Place::Unix(path) => format!("{}, path /metrics", path.display()),
        }
    }

    /// Whether only this machine reaches it.
    pub fn is_local(&self) -> bool {
        match &self.place {
            Place::Tcp(addr) => addr.ip().is_loopback(),
            Place::Unix(_) => true,
        }
    }
}

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    fn bind(addr: &ListenAddr) -> io::Result<(Listener, Place)> {
        match addr {
            ListenAddr::Tcp { host, port } => {
                let addrs: Vec<_> = (host.as_str(), *port).to_socket_addrs()?.collect();
                let listener = TcpListener::bind(&*addrs)?;
                listener.set_nonblocking(true)?;
                let place = Place::Tcp(listener.local_addr()?);
                Ok((Listener::Tcp(listener), place))
            }
            ListenAddr::Unix(path) => {
                remove_abandoned(path)?;
                let listener = UnixListener::bind(path)?;
                listener.set_nonblocking(true)?;
                Ok((Listener::Unix(listener), Place::Unix(path.clone())))
            }
        }
    }

    async fn serve(self, metrics: Arc<ReceiverMetrics>) -> io::Result<Infallible> {
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        match self {
            Listener::Tcp(listener) => {
                let listener = tokio::net::TcpListener::from_std(listener)?;
                accept(&places, &metrics, async || Ok(listener.accept().await?.0)).await
            }
            Listener::Unix(listener) => {
                let listener = tokio::net::UnixListener::from_std(listener)?;
                accept(&places, &metrics, async || Ok(listener.accept().await?.0)).await
            }
        }
    }
}

/// A socket that a killed process has left; one that somebody listens on stays.
fn remove_abandoned(path: &Path) -> io::Result<()> {
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path),
        _ => Ok(()),
    }
}

async fn accept<S>(
    places: &Arc<Semaphore>,
    metrics: &Arc<ReceiverMetrics>,
    next: impl AsyncFn() -> io::Result<S>,
) -> io::Result<Infallible>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    loop {
        // the semaphore is never closed
        let place = Arc::clone(places).acquire_owned().await.map_err(io::Error::other)?;
        match next().await {
            Ok(stream) => {
                let metrics = Arc::clone(metrics);
                tokio::spawn(async move {
                    // whatever a stranger did wrong is of no interest to anybody
                    let _ = tokio::time::timeout(CONNECTION_TIMEOUT, serve_one(stream, metrics)).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::debug!(%error, "could not accept a connection for metrics");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve_one<S>(stream: S, metrics: Arc<ReceiverMetrics>) -> hyper::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let answer = service_fn(move |request| {
        let response = respond(&request, &metrics);
        async { Ok::<_, Infallible>(response) }
    });
    hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD_LEN)
        .max_headers(MAX_HEADERS)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), answer)
        .await
}

fn respond<B>(request: &Request<B>, metrics: &ReceiverMetrics) -> Response<Full<Bytes>> {
    if ![Method::GET, Method::HEAD].contains(request.method()) {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are answered\n".into());
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match request.uri().path() {
        "/metrics" => {
            let mut response = plain(StatusCode::OK, metrics.exposition());
            let format = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
            response.headers_mut().insert(CONTENT_TYPE, format);
            response
        }
        "/healthz" => match metrics.health() {
            Health::Well(text) => plain(StatusCode::OK, text + "\n"),
            Health::Ill(text) => plain(StatusCode::SERVICE_UNAVAILABLE, text + "\n"),
        },
        "/readyz" if metrics.is_streaming() => plain(StatusCode::OK, "streaming\n".into()),
        "/readyz" => plain(StatusCode::SERVICE_UNAVAILABLE, "no server streams\n".into()),
        "/" => plain(StatusCode::OK, "pgwake: /metrics /healthz /readyz\n".into()),
        _ => plain(StatusCode::NOT_FOUND, "only /metrics, /healthz and /readyz are here\n".into()),
    }
}

fn plain(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let format = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, format);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_said_as_one_is_used_to_and_never_all_interfaces_by_accident() {
        for text in ["127.0.0.1:9187", "[::1]:9187", "localhost:0", "/run/pgwake/metrics.sock"] {
            assert_eq!(text.parse::<ListenAddr>().unwrap().to_string(), text);
        }
        for text in ["", "9187", ":9187", "::1:9187", "[::1]", "host:", "host:70000", "run/socket", "[]x:1"] {
            assert_eq!(text.parse::<ListenAddr>(), Err(ParseListenAddrError), "{text}");
        }
    }
}
