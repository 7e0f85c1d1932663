//! The body of the fuzz target.

use std::collections::BTreeMap;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

use super::Sql;
use crate::client::Connection;
use crate::client::conninfo::{HostAddress, HostSpec};
use crate::wire::frame::FrameDecoder;

/// A server that says anything at all to a question, in pieces: no input panics, and the question ends.
pub fn fuzz_sql_answer(data: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let runtime = runtime.expect("a runtime can be made");
    runtime.block_on(async {
        let (ours, mut theirs) = tokio::io::duplex(1 << 10);
        let (len, bytes) = data.split_first().map_or((&0, data), |(len, bytes)| (len, bytes));
        let answer = async {
            until_asked(&mut theirs, 1).await;
            for piece in bytes.chunks(usize::from(*len).max(1)) {
                if theirs.write_all(piece).await.is_err() {
                    break;
                }
            }
            drop(theirs);
        };
        let sql = Sql::over(connection(Box::new(ours))).await.expect("the greeting is ours");
        let question = async {
            if let Ok(rows) = sql.rows("SELECT $1::text", &["x"]).await {
                for row in rows {
                    let _ =
                        (row.get::<Option<i64>>(0), row.get::<String>(1), row.get::<Option<Vec<String>>>(2));
                }
            }
            sql.close().await;
        };
        tokio::join!(answer, question);
    });
}

/// Answers the session's set-up, and reads up to so many questions. What is said before would have nobody to hear it.
pub(super) async fn until_asked(server: &mut DuplexStream, count: usize) {
    until(server, b"SET ", 1).await;
    let _ = server.write_all(b"C\0\0\0\x08SET\0Z\0\0\0\x05I").await;
    until(server, b"SELECT", count).await;
}

async fn until(server: &mut DuplexStream, word: &[u8], count: usize) {
    let (mut asked, mut len) = (vec![0; 4 << 10], 0);
    while asked[..len].windows(word.len()).filter(|part| *part == word).count() < count {
        match server.read(&mut asked[len..]).await {
            Ok(read @ 1..) => len += read,
            _ => return,
        }
    }
}

/// A connection that has been let in.
pub(super) fn connection(transport: Box<dyn crate::client::Transport>) -> Connection {
    let parameters = BTreeMap::from([("server_version".to_owned(), "17.0".to_owned())]);
    let host = HostSpec { name: None, address: HostAddress::DefaultSocketDir, port: 5432 };
    Connection::new(transport, FrameDecoder::new(), parameters, host).expect("a version that can be read")
}
