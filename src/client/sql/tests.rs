use proptest::prelude::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

use super::fuzzing::{connection, until_asked};
use super::*;
use crate::pg::Lsn;

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let len = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
    [&[tag], &len[..], body].concat()
}

fn description(oids: &[u32]) -> Vec<u8> {
    let columns = oids
        .iter()
        .map(|oid| [&b"x\0"[..], &[0; 6], &oid.to_be_bytes(), &[0xFF, 0xFF], &[0xFF; 4], &[0, 1]].concat());
    let count = u16::try_from(oids.len()).unwrap();
    message(b'T', &[&count.to_be_bytes()[..], &columns.collect::<Vec<_>>().concat()].concat())
}

fn row(values: &[Option<&[u8]>]) -> Vec<u8> {
    let values = values.iter().map(|value| match value {
        Some(bytes) => [&u32::try_from(bytes.len()).unwrap().to_be_bytes()[..], bytes].concat(),
        None => vec![0xFF; 4],
    });
    let values: Vec<Vec<u8>> = values.collect();
    let count = u16::try_from(values.len()).unwrap();
    message(b'D', &[&count.to_be_bytes()[..], &values.concat()].concat())
}

/// What is said before the rows.
fn beginning(oids: &[u32]) -> Vec<u8> {
    [message(b'1', b""), message(b'2', b""), description(oids)].concat()
}

fn ending() -> Vec<u8> {
    [message(b'C', b"SELECT 1\0"), message(b'Z', b"I")].concat()
}

async fn sql(answer_timeout: Option<Duration>) -> (Sql, DuplexStream) {
    let (ours, theirs) = tokio::io::duplex(1 << 20);
    let mut connection = connection(Box::new(ours));
    connection.set_answer_timeout(answer_timeout);
    (Sql::over(connection).await.unwrap(), theirs)
}

/// What comes of a question to a server that says this, in pieces of so many bytes, and then is gone.
async fn asked(said: &[u8], piece_len: usize) -> Result<Vec<Row>, ClientError> {
    let (sql, mut theirs) = sql(None).await;
    let answer = async {
        until_asked(&mut theirs, 1).await;
        for piece in said.chunks(piece_len) {
            if theirs.write_all(piece).await.is_err() {
                return;
            }
        }
        // what was asked has to go somewhere
        theirs.shutdown().await.unwrap();
        let _ = theirs.read_to_end(&mut Vec::new()).await;
    };
    let question = async {
        let rows = sql.rows("SELECT 1", &["a"]).await;
        drop(sql);
        rows
    };
    tokio::join!(question, answer).0
}

const LSN: u32 = 3220;
const TEXT: u32 = 25;
const INT8: u32 = 20;

#[tokio::test]
async fn rows_are_read_by_their_types() {
    let said = [
        beginning(&[LSN, TEXT, INT8]),
        row(&[Some(&0x3000060u64.to_be_bytes()), Some(b"\xFF"), None]),
        ending(),
    ];
    let rows = asked(&said.concat(), usize::MAX).await.unwrap();
    assert_eq!(rows[0].get::<Lsn>(0).unwrap(), Lsn::new(0x3000060));
    assert_eq!(rows[0].get::<RawText>(1).unwrap().0.as_ref(), b"\xFF");
    assert_eq!(rows[0].get::<Option<i64>>(2).unwrap(), None);
    // what is not what it should be is an error, and no guess
    assert!(rows[0].get::<i64>(2).is_err() && rows[0].get::<String>(1).is_err());
    assert!(rows[0].get::<Option<i32>>(2).is_err() && rows[0].get::<Lsn>(3).is_err());
}

#[tokio::test]
async fn what_would_mislead_the_client_does_not_reach_it() {
    let cases: [(&str, Vec<u8>); 6] = [
        ("unexpected answer to SELECT: a row of another width", row(&[None, None])),
        ("unexpected answer to SELECT: a row of another width", row(&[])),
        ("unexpected answer to SELECT: a column of an unknown type", description(&[16_384])),
        ("lost synchronization with server", b"D\xFF\xFF\xFF\xFF".to_vec()),
        ("invalid message from server", message(b'D', b"\0\x01\0\0\0\x09x")),
        ("invalid message from server", message(b'?', b"")),
    ];
    for (expected, said) in cases {
        let error = asked(&[beginning(&[TEXT]), said].concat(), usize::MAX).await.unwrap_err();
        assert_eq!(error.to_string(), expected);
        assert_eq!(error.class(), crate::ErrorClass::Integrity);
    }
}

#[tokio::test]
async fn an_answer_is_bounded_in_bytes_and_in_rows() {
    let is_too_long =
        |result: Result<_, ClientError>| matches!(result, Err(ClientError::AnswerTooLong { .. }));
    let long = row(&[Some(&vec![b'x'; 1 << 20])]);
    let said = |row: &[u8], count| [beginning(&[TEXT]), row.repeat(count), ending()].concat();
    assert_eq!(asked(&said(&long, 15), usize::MAX).await.unwrap().len(), 15);
    assert!(is_too_long(asked(&said(&long, 17), usize::MAX).await));
    // nothing but NULL takes room too
    let nulls = row(&[None; 1600]);
    let said = |count| [beginning(&[TEXT; 1600]), nulls.repeat(count), ending()].concat();
    assert_eq!(asked(&said(10), usize::MAX).await.unwrap().len(), 10);
    assert!(is_too_long(asked(&said(1000), usize::MAX).await));
}

#[tokio::test]
async fn errors_are_the_servers_own_words() {
    let error = message(b'E', b"SERROR\0VERROR\0C42501\0Mpermission \x1b[2Jdenied\0HAsk.\0\0");
    let said = [&beginning(&[TEXT])[..], &error, &message(b'Z', b"I")].concat();
    let error = asked(&said, usize::MAX).await.unwrap_err();
    let error = error.server_error().expect("the server's").clone();
    assert_eq!((error.sqlstate.to_string().as_str(), error.is_fatal()), ("42501", false));
    assert!(!error.message.contains('\x1b') && error.hint.as_deref() == Some("Ask."), "{error:?}");
    // said before the connection ends
    let fatal = message(b'E', b"SFATAL\0VFATAL\0C57P01\0Mterminating connection\0\0");
    let error = asked(&[&beginning(&[TEXT])[..], &fatal].concat(), usize::MAX).await.unwrap_err();
    assert!(error.server_error().is_some_and(crate::wire::server_error::ServerError::is_fatal), "{error:?}");
    assert!(matches!(asked(b"", 1).await, Err(ClientError::Closed)));
}

#[tokio::test]
async fn why_an_idle_connection_ended_is_told_to_whom_asks_next() {
    let (sql, mut theirs) = sql(None).await;
    theirs.write_all(&message(b'E', b"SFATAL\0VFATAL\0C57P01\0Mterminating\0\0")).await.unwrap();
    theirs.shutdown().await.unwrap();
    tokio::time::sleep(Duration::from_millis(10)).await;
    let error = sql.rows("SELECT 1", &[]).await.unwrap_err();
    assert_eq!(error.sqlstate(), Some(crate::wire::server_error::SqlState::ADMIN_SHUTDOWN));
    assert!(matches!(sql.rows("SELECT 1", &[]).await, Err(ClientError::Closed)));
}

#[tokio::test(start_paused = true)]
async fn silence_is_bounded_and_every_byte_is_a_sign_of_life() {
    let bound = Duration::from_secs(8);
    let (sql, mut theirs) = sql(Some(bound)).await;
    let said = [beginning(&[TEXT]), row(&[Some(b"x")]), ending()].concat();
    let slowly = async {
        until_asked(&mut theirs, 1).await;
        for byte in &said {
            tokio::time::sleep(Duration::from_secs(5)).await;
            theirs.write_all(&[*byte]).await.unwrap();
        }
    };
    let (rows, ()) = tokio::join!(sql.rows("SELECT 1", &[]), slowly);
    assert_eq!(rows.unwrap()[0].get::<String>(0).unwrap(), "x");
    let started_at = tokio::time::Instant::now();
    let error = sql.rows("SELECT 1", &[]).await.unwrap_err();
    assert!(matches!(error, ClientError::Silent { after } if after == bound), "{error:?}");
    assert!(started_at.elapsed() < bound * 5 / 4, "{:?}", started_at.elapsed());
}

#[tokio::test]
async fn questions_that_are_asked_together_go_out_together() {
    let (sql, mut theirs) = sql(None).await;
    let server = async {
        // the second question is there before the first is answered
        until_asked(&mut theirs, 2).await;
        let answer = |text: &[u8]| [beginning(&[TEXT]), row(&[Some(text)]), ending()].concat();
        theirs.write_all(&[answer(b"a"), answer(b"b")].concat()).await.unwrap();
    };
    let together = async { tokio::try_join!(sql.rows("SELECT 'a'", &[]), sql.rows("SELECT 'b'", &[])) };
    let (answers, ()) = tokio::join!(together, server);
    let (first, second) = answers.unwrap();
    let text = |rows: &[Row]| rows[0].get::<String>(0).unwrap();
    assert_eq!((text(&first), text(&second)), ("a".to_owned(), "b".to_owned()));
}

proptest! {
    #[test]
    fn any_split_gives_the_same_rows(piece_len in 1usize..200, values in prop::collection::vec(".{0,40}", 0..20)) {
        let rows: Vec<Vec<u8>> = values.iter().map(|value| row(&[Some(value.as_bytes())])).collect();
        let said = [beginning(&[TEXT]), rows.concat(), ending()].concat();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let answer = runtime.block_on(asked(&said, piece_len)).unwrap();
        let read: Vec<String> = answer.iter().map(|row| row.get(0).unwrap()).collect();
        prop_assert_eq!(read, values);
    }
}
