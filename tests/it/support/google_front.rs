//! What fake-gcs-server lacks of Google's protocol to be spoken to by `object_store`: a front before it.
//!
//! Google Cloud Storage has two protocols, and `object_store` takes the one with XML. fake-gcs-server knows of that how to read, look
//! for, list and remove objects. It answers a `PUT` with 400, and in the JSON protocol's plain upload it ignores the
//! condition `ifGenerationMatch`; its multipart upload honours it. So here
//!
//! ```text
//! PUT /BUCKET/OBJECT                       POST /upload/storage/v1/b/BUCKET/o?uploadType=multipart
//! x-goog-if-generation-match: N     ─▶       &ifGenerationMatch=N
//! ```
//!
//! and the answer's `etag` and `generation` become the headers that the XML protocol has them in; 412 stays 412. All else passes
//! through. fake-gcs-server ignores `start-after` in a listing, too, and lists from the beginning.
//!
//! So a test over it proves what pgwake makes of conditions, listings, reading and removal by Google's rules as far as the server
//! keeps them; that Google's own `PUT` takes what `object_store` sends, it does not.

use std::io::{self, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};

use super::http::{self, Length, Message, read_message};

/// Listens on a port of its own, in threads that end with the process, before the server on `port` of loopback. That server knows
/// itself by the front's address, or it takes no request for an object.
pub(crate) fn front(port: u16) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let front = listener.local_addr().expect("a bound socket").port();
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            // what breaks, the client sees
            std::thread::spawn(move || drop(serve(client, port)));
        }
    });
    front
}

fn serve(mut client: TcpStream, port: u16) -> io::Result<()> {
    client.set_nodelay(true)?;
    let Some(request) = read_message(&mut client, Length::OfRequest)? else { return Ok(()) };
    let answer = match upload(&request) {
        Some(upload) => http::ask(port, &upload)?.map(uploaded),
        None => http::ask(port, &request)?,
    };
    let Some(answer) = answer else { return Ok(()) };
    client.write_all(answer.head.as_bytes())?;
    client.write_all(&answer.body)
}

/// The upload that a request is in the XML protocol, in the JSON protocol; `None`: it is none.
fn upload(request: &Message) -> Option<Message> {
    let path = request.head.strip_prefix("PUT /")?.split(' ').next()?;
    let (bucket, name) = path.split_once('/')?;
    let name = percent_encoding::percent_decode_str(name).decode_utf8_lossy();
    let condition = request.header("x-goog-if-generation-match");
    let condition =
        condition.map(|generation| format!("&ifGenerationMatch={generation}")).unwrap_or_default();
    // in no object, or next to
    let boundary = format!("{:032x}", fastrand::u128(..));
    let about = serde_json::json!({ "name": name });
    let mut body = format!(
        "--{boundary}\r\nContent-Type: application/json\r\n\r\n{about}\r\n\
         --{boundary}\r\nContent-Type: application/octet-stream\r\n\r\n"
    )
    .into_bytes();
    body.extend_from_slice(&request.body);
    body.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
    let len = body.len();
    let head = format!(
        "POST /upload/storage/v1/b/{bucket}/o?uploadType=multipart{condition} HTTP/1.1\r\nHost: 127.0.0.1\r\n\
         Content-Type: multipart/related; boundary={boundary}\r\nContent-Length: {len}\r\n\r\n"
    );
    Some(Message { head, body })
}

/// What came of it, as the XML protocol says it.
fn uploaded(answer: Message) -> Message {
    let object: serde_json::Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let (Some(etag), Some(generation)) = (object["etag"].as_str(), object["generation"].as_str()) else {
        return answer;
    };
    let head = format!(
        "HTTP/1.1 200 OK\r\nETag: \"{etag}\"\r\nx-goog-generation: {generation}\r\nContent-Length: 0\r\n\
         Connection: close\r\n\r\n"
    );
    Message { head, body: Vec::new() }
}
