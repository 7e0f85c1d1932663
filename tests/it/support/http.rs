//! As much of HTTP as stands between a client and a store: one request a connection.

use std::io::{self, Read, Write as _};
use std::net::TcpStream;

/// A request or an answer: all up to the empty line, and the rest.
pub(crate) struct Message {
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Message {
    /// The value of a header, given in lower case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().skip(1).filter_map(|line| line.split_once(':'));
        let mut named = lines.filter(|(found, _)| found.eq_ignore_ascii_case(name));
        named.next().map(|(_, value)| value.trim())
    }
}

/// Sends a request to the server on `port` of loopback, which closes the connection behind its answer. `None`: it closed it instead.
pub(crate) fn ask(port: u16, request: &Message) -> io::Result<Option<Message>> {
    let mut server = TcpStream::connect(("127.0.0.1", port))?;
    server.set_nodelay(true)?;
    // behind the first line: it is none of those that are signed
    let (first, rest) = request.head.split_once("\r\n").unwrap_or((&request.head, ""));
    server.write_all(format!("{first}\r\nconnection: close\r\n{rest}").as_bytes())?;
    server.write_all(&request.body)?;
    read_message(&mut server, Length::ToTheEnd)
}

/// Where a message ends.
#[derive(Clone, Copy)]
pub(crate) enum Length {
    OfRequest,
    ToTheEnd,
}

/// `None`: the other side has closed before it said anything.
pub(crate) fn read_message(stream: &mut TcpStream, length: Length) -> io::Result<Option<Message>> {
    let mut bytes = Vec::new();
    let mut piece = [0; 64 << 10];
    let head_len = loop {
        if let Some(at) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
        match stream.read(&mut piece)? {
            0 => return Ok(None),
            len => bytes.extend_from_slice(&piece[..len]),
        }
    };
    let body = bytes.split_off(head_len);
    let mut message = Message { head: String::from_utf8_lossy(&bytes).into_owned(), body };
    match length {
        Length::ToTheEnd => {
            stream.read_to_end(&mut message.body)?;
        }
        Length::OfRequest => {
            let len = message.header("content-length").and_then(|value| value.parse().ok()).unwrap_or(0);
            while message.body.len() < len {
                match stream.read(&mut piece)? {
                    0 => return Ok(None),
                    len => message.body.extend_from_slice(&piece[..len]),
                }
            }
        }
    }
    Ok(Some(message))
}
