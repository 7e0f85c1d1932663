//! Whoever asks for metrics is a stranger: nobody can make the receiver wait, grow or end.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::harness::{directory, exchange, measured, primary, streaming};
use crate::require_server;

#[test]
fn strangers_are_answered_within_bounds_and_the_stream_does_not_notice() {
    require_server!();
    let primary = primary().setting("synchronous_standby_names", "pgwake").start();
    let received = directory(&primary, "received");
    let mut measured = streaming(&measured(&primary.conninfo(), &received));
    let port = measured.port;

    // what is no request, or one for something else
    let endless = format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "a".repeat(100_000));
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(1000));
    for (request, status) in [
        ("POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello", "405"),
        ("GET /../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n", "404"),
        ("GET /metrics?x=1 HTTP/1.1\r\nHost: x\r\n\r\n", "200"),
        ("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\nGET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", "200"),
        ("HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n", "200"),
        ("nonsense\r\n\r\n", "400"),
        ("\0\u{1}\u{2}\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", "400"),
        (&endless, "431"),
        (&many, "431"),
    ] {
        let answer = match exchange(port, request.as_bytes()) {
            Ok(answer) => answer,
            // it was told to go away before it had said all
            Err(error) => format!("{error}"),
        };
        let line = answer.lines().next().unwrap_or_default();
        let shown: String = request.chars().take(40).collect();
        let refused = request.len() > 16 << 10 && line.contains("reset");
        assert!(line.contains(status) || refused, "{shown:?}: {line}");
        assert!(answer.len() < 64 << 10 && answer.matches("HTTP/1.1 ").count() <= 1, "{shown:?}");
    }

    // who says nothing, or never ends, is let go of; more than can be served wait their turn
    let memory = memory(measured.running.pid());
    let mut idle: Vec<TcpStream> = (0..70)
        .map(|number| {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("connect");
            if number % 2 == 0 {
                stream.write_all(b"GET /metrics HTTP/1.1\r\nX: ").expect("begin a request");
            }
            stream
        })
        .collect();
    let asked_at = Instant::now();
    primary.psql("SELECT pg_logical_emit_message(true, 'while', 'strangers ask')");
    assert!(asked_at.elapsed() < Duration::from_secs(2), "a commit waited for strangers");
    assert_eq!(measured.ask("/healthz").0, 200);
    assert!(asked_at.elapsed() < Duration::from_secs(25), "{:?}", asked_at.elapsed());
    let first = &mut idle[0];
    first.set_read_timeout(Some(Duration::from_secs(5))).expect("set a timeout");
    let mut rest = Vec::new();
    let _ = first.read_to_end(&mut rest);
    assert!(rest.len() < 1024, "{}", String::from_utf8_lossy(&rest));
    drop(idle);
    let grown = self::memory(measured.running.pid()).saturating_sub(memory);
    assert!(grown < 16 << 20, "grew by {grown} bytes");
    assert!(measured.running.is_running());
    measured.end();
}

/// What a process has in memory, in bytes.
fn memory(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("read its status");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("its memory");
    line.split_whitespace().nth(1).and_then(|number| number.parse::<u64>().ok()).expect("a number") << 10
}
